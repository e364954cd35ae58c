"""The end of every search with a latent: poses in one frame for all states."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from cryoatlas.imaging.volume import Volume
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.poses.gauge import STATES, remove_drift, representatives
from cryoatlas.poses.registration import Ball, Motion
from cryoatlas.poses.turns import BAND, find_turns, turned_back
from cryoatlas.recipes import run as runs
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.subspace.model import Subspace
from cryoatlas.training.pose_table import PoseTable

logger = logging.getLogger(__name__)

TURN_STATES, TURN_IMAGES = 10, 20
"""Groups of images of each half set that are tried in all rotations, at most; images to each, at least."""
DRIFT_IMAGES = 8
"""Images to each group whose map tells the drift, at least."""


def take_out_drift(
    volume: Volume,
    z: Float[Tensor, "particle latent"],
    table: PoseTable,
    index: Int[Tensor, "particle"],
    folder: Path,
    symmetry: Float[Tensor, "element 3 3"] | None = None,
) -> float:
    """Move the poses of some particles to the frame in which most of V(z) stands still.

    What follows is trained with these poses, so that its volumes stand still too.

    Args:
        index: the particles that z is of.
        folder: of the search; what was taken out goes to its log.
        symmetry: see `remove_drift`.

    Returns:
        By how much images were turned, root mean square, degrees.
    """
    states = min(STATES, max(2, len(index) // DRIFT_IMAGES))
    pose, drift = remove_drift(volume, z, table.of(index, z.device), states=states, symmetry=symmetry)
    pose = pose.to("cpu")
    table.rotation[index], table.shift[index] = pose.rotation, pose.shift
    runs.append_log(
        folder, {"event": "drift", "images": len(index), "rms_deg": drift.rms_deg, "rms": drift.rms_offset}
    )
    return drift.rms_deg


def turn_back(
    halves: Sequence[Subspace],
    weights: Float[Tensor, "particle map"],
    table: PoseTable,
    members: Sequence[Int[Tensor, "some"]],
    folder: Path,
    *,
    mirrors: bool,
) -> bool:
    """Bring states that are shown turned as a whole, or mirrored, to the frame that most images have.

    States of both half sets are compared together, lest the halves come to be in different frames.

    Args:
        halves: maps of each half set.
        weights: of each particle, with which the maps of its half add up to its volume.
        members: the particles of each half set.
        mirrors: see `find_turns`.

    Returns:
        Whether any image was turned.
    """
    count, groups = weights.shape[1], min(TURN_STATES, min(map(len, members)) // TURN_IMAGES)
    if groups < 1:
        return False
    # An image of one half set has no weight for the other's maps, and is far from the other's states.
    padded = weights.new_zeros(len(weights), len(halves) * count)
    states, shares, bodies = [], [], list[VoxelVolume]()
    for number, (half, mine) in enumerate(zip(halves, members, strict=True)):
        own = slice(number * count, (number + 1) * count)
        padded[mine, own] = weights[mine]
        centres, share = representatives(padded[mine], groups, 0)
        states.append(centres.to(weights))
        shares.append(share.to(weights) * len(mine) / len(weights))
        bodies += _bodies(half, states[-1][:, own])
    centres = torch.cat(states)
    motion = find_turns(bodies, torch.cat(shares), mirrors=mirrors)
    pose, moved = turned_back(table.pose, padded, centres, motion)
    pose = pose.to("cpu")
    share = float(moved.double().mean())
    runs.append_log(folder, {"event": "turns", "share": share})
    if not share:
        return False
    logger.info("%.0f %% of the images were turned back to the frame of the others", 100 * share)
    table.rotation[:], table.shift[:] = pose.rotation, pose.shift
    return True


def _bodies(half: Subspace, weights: Float[Tensor, "state map"]) -> list[VoxelVolume]:
    """Weighted sums of maps, each a volume of its own on a grid that holds no more than is compared."""
    ball, still = Ball.of(half.basis, BAND, weights), Motion.none(len(weights), weights.device)
    small = ball.maps(ball.spectra(half.basis, weights, still.rotation, still.offset)).to(weights)
    grids = small.unflatten(-1, (ball.side, ball.side, ball.side))
    return [VoxelVolume.from_map(each, ball.extent / ball.side) for each in grids]
