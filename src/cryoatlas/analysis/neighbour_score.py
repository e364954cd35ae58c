"""What lies near in z against what lies near in the true state, in orientation and in CTF (CryoBench)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cryoatlas.analysis.leakage import Imaging
from cryoatlas.analysis.neighbourhoods import (
    IMAGES,
    Imbalance,
    SharedNeighbours,
    Space,
    alike,
    imbalance,
    on_circle,
    shared_neighbours,
)
from cryoatlas.analysis.truth import Truth
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.shapes import Array, Float, Int

SHARED = (0.01, 0.05, 0.2)
"""Shares of the images that are asked for as neighbours: within what CryoBench asks for, 200 to 4,000 of
20,000."""
NEAREST = (1, 30)
"""Neighbours whose ranks the information imbalance takes."""


@dataclass(frozen=True)
class NeighbourScore:
    """Whether images that are near in z are near in truth, in view and in CTF."""

    images: int
    """How many images were compared with each other."""
    shared: list[SharedNeighbours]
    """Neighbours in z that are also near in the true state; empty if there is only one."""
    imbalances: dict[str, list[Imbalance]]
    """Δ(z → …) by name: ``state``, ``orientation`` and ``ctf``, where they are known and differ."""


def neighbour_score(latents: Float[Array, "image latent"], truth: Truth, imaging: Imaging) -> NeighbourScore:
    """Compare the order of distances in z with that in each known space.

    z is taken as it is: a column that varies little counts little. All true coordinates together make
    the true state, each with the same variance, angles that fill the circle on it; where there are no
    coordinates, states are only equal or not.
    """
    rows = imaging.sample(len(latents), IMAGES)
    z, count = Space.of(latents[rows]), len(rows)
    shared, imbalances = [], {}
    for name, columns in _known_spaces(truth, imaging.ctf, rows):
        space = Space.of(columns)
        imbalances[name] = [imbalance(z, space, k) for k in NEAREST if k < count]
        if name == "state":
            asked = sorted({max(2, round(share * count)) for share in SHARED})
            shared = [shared_neighbours(z, space, k) for k in asked if _tells_neighbours(space, k)]
    return NeighbourScore(count, shared, imbalances)


def _tells_neighbours(space: Space, neighbours: int) -> bool:
    """Whether k neighbours of an image are some of the images: a state of fewer images than k, of states
    that are only equal or not, would have all."""
    return neighbours < len(space) and not space.within(neighbours).all(1).any()


def _known_spaces(
    truth: Truth, ctf: CTFParameters | None, rows: Int[Array, "some"]
) -> Iterator[tuple[str, Float[Array, "some column"]]]:
    """What z is compared with, by name; nothing that is the same for all images."""
    state = alike(
        on_circle(np.radians(values[rows])) if truth.is_periodic(name) else values[rows][:, None]
        for name, values in truth.coordinates.items()
    )
    kinds, kind = np.unique(truth.states[rows], return_inverse=True)
    if state is not None:
        yield "state", state
    elif len(kinds) > 1:
        yield "state", np.eye(len(kinds))[kind]
    if truth.pose is not None:
        # Distances of the nine numbers are chords of the angle between two orientations.
        yield "orientation", truth.pose.rotation.double().numpy()[rows].reshape(len(rows), 9)
    columns = None if ctf is None else alike(part[rows] for part in _ctf_parts(ctf))
    if columns is not None:
        yield "ctf", columns


def _ctf_parts(ctf: CTFParameters) -> Iterator[Float[Array, "image part"]]:
    """Defocus as the symmetric matrix that it is, mean and deviator, so that the direction of a weak
    astigmatism says little (CryoBench takes each parameter's z-score); the phase shift."""
    mean, half = (ctf.defocus_u + ctf.defocus_v) / 2, (ctf.defocus_u - ctf.defocus_v) / 2
    twice = 2 * ctf.defocus_angle
    yield torch.stack([mean, half * twice.cos(), half * twice.sin()], 1).double().numpy()
    yield ctf.phase_shift.double().numpy()[:, None]
