"""From options to an `Experiment`: the molecule, its scale, and what is drawn for each image."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from cryoatlas.errors import ConfigError
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.body import Body, radius
from cryoatlas.imaging.ctf import CTFParameters
from cryoatlas.imaging.default_body import default_body
from cryoatlas.imaging.draws import (
    random_contrasts,
    random_ctfs,
    random_poses,
    random_shifts,
    rows_at_random,
    rows_in_order,
)
from cryoatlas.imaging.experiment import Experiment
from cryoatlas.imaging.motion import body_of_atoms
from cryoatlas.imaging.scenes import Scene, balanced_states
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.atoms import read_atoms

BOX_LENGTH = 192.0
"""Side of the box around the built-in molecule, Å: the same molecule at every box size in pixels."""
LARGEST_RADIUS = 0.4
"""A molecule reaches at most this fraction of the box from its centre, in every state."""
CHOSEN_RADIUS = 0.375
"""The fraction it reaches where the pixel size is left to us; leaves room for the shifts of real tables."""
SMALLEST_SIGMA = 1.0
"""Å: a B-factor of 79 Å², an atom in a good cryo-EM map."""

PoseReader = Callable[[int, float], Pose]
"""Poses of every row of a table, for images of the given box (px) and pixel size (Å)."""


@dataclass(frozen=True)
class MeasuredTables:
    """Real distributions to draw from."""

    poses: PoseReader | None = None
    keep_shifts: bool = True
    """Take shifts from the table too, rather than drawing them at random."""
    ctf: CTFParameters | None = None
    sources: Mapping[str, str] | None = None
    """Where they come from, for the record."""


@dataclass(frozen=True)
class RandomStreams:
    """Independent random numbers for each purpose, so that one option does not change the others' draws."""

    scene: np.random.Generator
    states: np.random.Generator
    poses: np.random.Generator
    shifts: np.random.Generator
    ctf: np.random.Generator
    sample: np.random.Generator
    noises: tuple[np.random.Generator, np.random.Generator]
    contrasts: np.random.Generator

    @classmethod
    def of(cls, seed: int) -> "RandomStreams":
        """The streams of a seed."""
        scene, states, poses, shifts, ctf, sample, *noises, contrasts = map(
            np.random.default_rng, np.random.SeedSequence(seed).spawn(9)
        )
        return cls(scene, states, poses, shifts, ctf, sample, (noises[0], noises[1]), contrasts)


def plan_experiment(
    config: SimulationConfig, scene: Scene, tables: MeasuredTables, random: RandomStreams
) -> Experiment:
    """Everything that is drawn or read before the first image is made.

    Raises:
        ConfigError, InputError: as `simulate`.
    """
    body = _body(config)
    angles = torch.zeros(len(scene), len(body.bonds), dtype=torch.float64)
    angles[:, : scene.angles_deg.shape[1]] = torch.from_numpy(np.radians(scene.angles_deg))
    largest = max(radius(body.turned(state)) for state in angles)
    pixel_size = _pixel_size(config, largest)
    pose = _poses(config, tables, pixel_size, random)
    _check_shifts(pose, largest, config.box * pixel_size)
    return Experiment(
        body=body,
        angles=angles,
        state=torch.from_numpy(balanced_states(config.images, len(scene), random.states)),
        pose=pose,
        ctf=_ctfs(config, tables, random),
        box_size=config.box,
        pixel_size=pixel_size,
        sigma=config.sigma or max(pixel_size / 2, SMALLEST_SIGMA),
        contrast=random_contrasts(config.images, config.contrast_spread, random.contrasts),
    )


def _body(config: SimulationConfig) -> Body:
    if config.atoms is None:
        return default_body()
    return body_of_atoms(read_atoms(config.atoms), config.rotate, config.hinge, config.axes)


def _pixel_size(config: SimulationConfig, largest: float) -> float:
    """The pixel size asked for or chosen, Å, with the molecule inside the box."""
    if config.pixel_size is None and config.atoms is not None:
        return _rounded_up(largest / (CHOSEN_RADIUS * config.box))
    pixel_size = BOX_LENGTH / config.box if config.pixel_size is None else config.pixel_size
    allowed = LARGEST_RADIUS * config.box * pixel_size
    if largest > allowed:
        raise ConfigError(
            f"the molecule reaches {largest:.1f} Å from its centre, but in a box of {config.box} px of "
            f"{pixel_size:g} Å it may reach {allowed:.1f} Å, {LARGEST_RADIUS:.0%} of the box: give "
            f"--pixel-size {_rounded_up(pixel_size * largest / allowed)} or more, or --box "
            f"{math.ceil(config.box * largest / allowed)} or more."
        )
    return pixel_size


def _rounded_up(value: float) -> float:
    """To three significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return round(math.ceil(value / unit) * unit, 12)


def _poses(
    config: SimulationConfig, tables: MeasuredTables, pixel_size: float, random: RandomStreams
) -> Pose:
    count, largest = config.images, config.largest_shift_px * pixel_size
    if tables.poses is None:
        return random_poses(count, largest, random.poses)
    if tables.keep_shifts and config.shift_px is not None:
        raise ConfigError(
            "--shift-px asks for random shifts, but shifts come from --poses-from: leave it out, or add "
            "--ignore-shifts."
        )
    table = tables.poses(config.box, pixel_size).to(torch.float64)
    pose = table[rows_in_order(count, len(table), random.poses)]
    return pose if tables.keep_shifts else Pose(pose.rotation, random_shifts(count, largest, random.shifts))


def _check_shifts(pose: Pose, largest: float, box: float) -> None:
    """Refuse shifts that push the molecule across the edge of its image (lengths in Å)."""
    shift = float(pose.shift.abs().max())
    if largest + shift > box / 2:
        raise ConfigError(
            f"the largest shift is {shift:.1f} Å and the molecule reaches {largest:.1f} Å from its centre, "
            f"together more than half the box of {box:.1f} Å: give smaller shifts (--shift-px, or "
            "--ignore-shifts with --poses-from), a larger --box or a larger --pixel-size."
        )


def _ctfs(config: SimulationConfig, tables: MeasuredTables, random: RandomStreams) -> CTFParameters | None:
    if tables.ctf is not None:
        return tables.ctf.to(torch.float64)[rows_at_random(config.images, len(tables.ctf), random.ctf)]
    return random_ctfs(config.images, random.ctf) if config.ctf else None
