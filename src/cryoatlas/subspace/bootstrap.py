r"""First maps from nothing: stochastic expectation-maximisation at low frequencies, from several starts.

Each start begins with images inserted at random orientations, a blurred ball, and takes small batches. The
sums of the M-step fade from step to step, so that early, wrong ones are forgotten; the grid of hypotheses
is turned at random in each step, so that its directions leave no mark; the band grows. Which start is right
the images tell that no start has learned from: a quarter goes on after the first steps, at the lowest
frequencies and cheap, and in the end the one that explains them best. It may then be given components, so
that what moves need not fit into one map.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cryoatlas.geometry.grids import ShiftGrid, grid_rotations, rotation_count
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.geometry.symmetry import asymmetric_unit
from cryoatlas.poses.view import View
from cryoatlas.shapes import Float, Tensor
from cryoatlas.subspace.config import BootstrapConfig
from cryoatlas.subspace.expectation import Hypotheses, accumulate, expect
from cryoatlas.subspace.maximization import NormalEquations
from cryoatlas.subspace.model import Subspace

Step = Callable[[int], None]
"""Told how many steps of all are done; may raise to stop."""


@dataclass(frozen=True)
class Images:
    """Images at low frequencies, with what the search for a first map has to know of them."""

    views: Sequence[View]
    """Inside the widest band; several views of the same particles share pose and latent."""
    signal: Float[Tensor, "shell"]
    """Mean square of the particles' Hartley coefficients by shell, before CTF and noise."""
    pixel_size: float
    """Å."""
    shift_extent: float
    """Particles sit within ± this along x and y, Å."""

    def __len__(self) -> int:
        return len(self.views[0])

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return replace(self, views=[view[index] for view in self.views])

    @property
    def box_size(self) -> int:
        """Of the whole images, px."""
        return self.views[0].half.box_size


@dataclass(frozen=True)
class Start:
    """A map grown from one random beginning."""

    subspace: Subspace
    evidence: float
    """Mean evidence of held-out images under its maps, nats."""
    features: float
    """By how much that exceeds their evidence under the mean map averaged over all directions: what a ball
    of the same profile does not explain."""


def bootstrap(images: Images, config: BootstrapConfig, seed: int, step: Step) -> list[Start]:
    """The starts that went on, best first; if there are to be components, the best `contenders` with theirs.

    One mean map of a molecule that moves is a poor judge of starts: with components even a start whose poses
    are wrong may come to the right maps.

    Args:
        images: enough for a few batches; a share is held out.
        step: called after each step, with the number of steps done of `config.all_steps`.
    """
    learned, held_out = split_held_out(images, config)
    steps = itertools.count(1)

    def tell(_: int) -> None:
        step(next(steps))

    growths = [Growth(learned, config, (seed, number)) for number in range(config.starts)]
    early = [judge(each.to(config.first_steps, tell), held_out, config, seed, each.band) for each in growths]
    going_on = sorted(range(config.starts), key=lambda number: -early[number])[: config.survivors]
    grown = [growths[number].to(config.steps, tell) for number in going_on]
    starts = _ranked([_judged(mean, held_out, config, seed) for mean in grown])
    if not config.components:
        return starts
    richer = [
        add_components(start.subspace, learned, config, seed, tell) for start in starts[: config.contenders]
    ]
    return _ranked([_judged(subspace, held_out, config, seed) for subspace in richer])


def split_held_out(images: Images, config: BootstrapConfig) -> tuple[Images, Images]:
    """Images to learn from, and evenly spaced ones to judge by."""
    count = len(images)
    spacing = max(10, -(-count // config.held_out))
    held = torch.zeros(count, dtype=torch.bool)
    held[::spacing] = True
    return images[(~held).nonzero().squeeze(-1)], images[held.nonzero().squeeze(-1)]


def grow(images: Images, config: BootstrapConfig, seed: tuple[int, ...], step: Step) -> Subspace:
    """One start: a mean map and no components."""
    return Growth(images, config, seed).to(config.steps, step)


class Growth:
    """A mean map on its way from a random beginning."""

    def __init__(self, images: Images, config: BootstrapConfig, seed: tuple[int, ...]) -> None:
        self.images, self.config = images, config
        self.generator = np.random.default_rng(seed)
        self.equations = _empty_equations(images, config)
        self.batches = _Batches(images, config.batch_size, self.generator)
        self.steps = 0
        self.band = 0.0
        """Of the last step, cycles per box."""
        self.subspace: Subspace | None = None

    def to(self, steps: int, step: Step) -> Subspace:
        """The map after so many steps, at least one; `step` is told the number of each."""
        config = self.config
        for number in range(self.steps, max(1, steps)):
            self.band = config.band(number, self.images.box_size)
            some = self.batches.next()
            self.equations.fade(config.memory)
            if self.subspace is None:
                _insert_at_random(self.equations, some, self.band, self.generator)
            else:
                level = 1 if self.band < config.fine_band else 2
                temper = config.temper(number)
                _learn(self.equations, self.subspace, some, self.band, level, config, temper, self.generator)
            self.subspace = _solve(self.equations, self.images, self.band, config)
            self.steps = number + 1
            step(self.steps)
        assert self.subspace is not None
        return self.subspace


def add_components(
    mean: Subspace, images: Images, config: BootstrapConfig, seed: int, step: Step
) -> Subspace:
    """Go on from a mean map with components that begin small and random."""
    generator = np.random.default_rng((seed, config.components))
    band = config.band(config.steps, images.box_size)
    random = torch.Generator().manual_seed(seed)
    subspace = mean.with_random_components(config.components, config.component_start, random)
    equations = _empty_equations(images, config, config.components)
    batches = _Batches(images, config.batch_size, generator)
    for number in range(config.component_steps):
        equations.fade(config.memory)
        _learn(equations, subspace, batches.next(), band, 2, config, 1.0, generator)
        subspace = _solve(equations, images, band, config)
        step(number + 1)
    return subspace


def _ranked(starts: list[Start]) -> list[Start]:
    return sorted(starts, key=lambda start: -start.evidence)


def _judged(subspace: Subspace, held_out: Images, config: BootstrapConfig, seed: int) -> Start:
    evidence = judge(subspace, held_out, config, seed)
    ball = judge(subspace.averaged_over_directions(), held_out, config, seed)
    return Start(subspace, evidence, evidence - ball)


def judge(
    subspace: Subspace, held_out: Images, config: BootstrapConfig, seed: int, band: float | None = None
) -> float:
    """Mean evidence of images that were not learned from, on one grid for all starts of a seed.

    Args:
        band: radius of the frequencies compared, cycles per box; default that of the last step.
    """
    generator = np.random.default_rng(seed)
    view = held_out.views[0]
    grid = hypotheses(held_out.shift_extent, 2, config.shift_points, generator, view.transfer, view.symmetry)
    if band is None:
        band = config.band(config.steps, held_out.box_size)
    return float(expect(subspace, held_out.views, grid, band).evidence.mean())


def hypotheses(
    shift_extent: float,
    level: int,
    shift_points: int,
    generator: np.random.Generator,
    like: Tensor,
    symmetry: Float[Tensor, "element 3 3"] | None = None,
) -> Hypotheses:
    """The grid of a level, turned and moved at random.

    Args:
        shift_extent: shifts within ± this, Å; 0 for centred particles.
        like: a tensor with the device to be on.
        symmetry: of the molecule; rotations that it makes alike are tried once.
    """
    turn = random_rotations(1, generator)[0]
    rotation = grid_rotations(level, torch.arange(rotation_count(level))) @ turn
    if symmetry is not None:
        rotation = rotation[asymmetric_unit(rotation, symmetry.cpu())]
    grid = ShiftGrid(shift_extent, shift_points if shift_extent else 1)
    offset = torch.from_numpy(generator.uniform(-0.5, 0.5, 2)) * grid.step(0)
    return Hypotheses(rotation.to(like), (grid.base() + offset).to(like))


class _Batches:
    """Batches of images in random order, again and again."""

    def __init__(self, images: Images, size: int, generator: np.random.Generator) -> None:
        self.images, self.size, self.generator = images, min(size, len(images)), generator
        self.order = generator.permutation(len(images))
        self.place = 0

    def next(self) -> Images:
        if self.place + self.size > len(self.order):
            self.order, self.place = self.generator.permutation(len(self.images)), 0
        some = self.order[self.place : self.place + self.size]
        self.place += self.size
        return self.images[torch.from_numpy(some)]


def _empty_equations(images: Images, config: BootstrapConfig, components: int = 0) -> NormalEquations:
    band, like = config.band(config.steps, images.box_size), images.views[0].transfer
    return NormalEquations.up_to(band, images.box_size, images.pixel_size, components, like=like)


def _insert_at_random(
    equations: NormalEquations, images: Images, band: float, generator: np.random.Generator
) -> None:
    rotation = random_rotations(len(images), generator)
    for view in images.views:
        count = view.half.count(band)
        source = view.transfer[:, :count] * view.spectrum[:, :count]
        weights = view.transfer[:, :count].square()
        for turned in view.rotations(rotation):
            equations.insert(source[None], weights[None], turned, view.half.plane[:count])


def _learn(
    equations: NormalEquations,
    subspace: Subspace,
    images: Images,
    band: float,
    level: int,
    config: BootstrapConfig,
    temper: float,
    generator: np.random.Generator,
) -> None:
    view = images.views[0]
    grid = hypotheses(
        images.shift_extent, level, config.shift_points, generator, view.transfer, view.symmetry
    )
    expected = expect(subspace, images.views, grid, band, temper)
    accumulate(equations, images.views, grid, expected, band)


def _solve(equations: NormalEquations, images: Images, band: float, config: BootstrapConfig) -> Subspace:
    signal = images.signal[: int(band) + 1]
    shares = [1.0] + [config.component_share] * (equations.maps - 1)
    maps = equations.solve(torch.stack([share * signal for share in shares]))
    return Subspace(maps, equations.pixel_size).in_support()
