r"""Poses, latents and maps improved in turn: rounds of the subspace engine over all images.

A round solves μ and the components for each half set from the poses and latents of the moment, and then
takes every image to the maps of *its* half: poses by a few Gauss–Newton steps towards the image's own volume
Σ_k φ_k W_k, up to the resolution at which the half maps agree; latents in closed form. What one half reads
into its noise the other does not confirm. Some rounds search all poses again, so that an image in a wrong
basin can leave it; the pose it had stays where it explains the image better.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from cryoatlas.fourier.correlation import fourier_shell_correlation
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.symmetry import NO_SYMMETRY, point_group
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.io.mrc import write_volume
from cryoatlas.io.output import atomic_path
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.order import storage_order
from cryoatlas.poses.refinement import drawn_poses, pose_covariance, refine, spread_of
from cryoatlas.poses.view import View
from cryoatlas.progress import Interrupted, Progress, StopRequested
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.abinit_config import SubspaceConfig
from cryoatlas.recipes.drift import take_out_drift, turn_back
from cryoatlas.recipes.one_grid import views_on_grid
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.subspace.bootstrap import hypotheses
from cryoatlas.subspace.expectation import Hypotheses, Known, accumulate_known, expect, latents_at
from cryoatlas.subspace.maximization import NormalEquations, known_band
from cryoatlas.subspace.model import Subspace
from cryoatlas.training.pose_table import PoseTable

logger = logging.getLogger(__name__)

STEPS = 3
"""Gauss–Newton steps in each round."""
CANDIDATES = 4
"""Poses of the grid that a search refines before it chooses."""
SEARCH_LEVEL = 2
"""Grid of rotations of a search, 15° apart; Gauss–Newton goes on from there."""
SEARCH_BAND = 10.0
"""Cycles per box; on more a grid that coarse finds less."""
STEADYINGS = 5
"""The drift is taken out at most so often: components solved without most of it show the rest better."""
STEADY_DEG = 4.0
"""No more is taken out once a time turned images by less than this, root mean square: with noise later times
turn them by 2° to and fro."""
STATE = "rounds.safetensors"


@dataclass
class States:
    """Pose and latent of every particle, by its position in the set; on the CPU."""

    table: PoseTable
    latent: Float[Tensor, "every_image component"]
    covariance: Float[Tensor, "every_image component component"]
    doubt: Float[Tensor, "every_image 5 5"]
    """Covariance of each pose as the last maps tell it, float64: `poses.refinement.pose_covariance`."""

    @classmethod
    def unknown(cls, count: int, components: int, seed: int) -> "States":
        """Before the first search."""
        table = PoseTable.random(count, seed)
        covariance = torch.zeros(count, components, components)
        doubt = torch.zeros(count, 5, 5, dtype=torch.float64)
        return cls(table, torch.zeros(count, components), covariance, doubt)

    @property
    def spread(self) -> Float[Tensor, "every_image 2"]:
        """Of each pose: `poses.refinement.spread_of`."""
        return spread_of(self.doubt)

    def put(self, index: Int[Tensor, "image"], pose: Pose, known: Known) -> None:
        """Remember what was found."""
        self.table.put(index, pose, -known.evidence)
        self.latent[index.cpu()] = known.mean.cpu()
        self.covariance[index.cpu()] = known.covariance.cpu()

    def known(self, index: Int[Tensor, "image"], device: torch.device) -> Known:
        """The latents of some particles."""
        where = index.cpu()
        mean, covariance = self.latent[where].to(device), self.covariance[where].to(device)
        return Known(mean, covariance, -self.table.loss[where].to(device, torch.float32))

    def save(self, folder: Path, finished: int) -> None:
        """Keep everything, as after so many rounds."""
        tensors = {f"poses.{name}": value for name, value in self.table.state().items()}
        tensors |= {"latent": self.latent, "covariance": self.covariance, "doubt": self.doubt}
        tensors["finished"] = torch.tensor(finished)
        (folder / runs.CHECKPOINTS).mkdir(exist_ok=True)
        with atomic_path(folder / runs.CHECKPOINTS / STATE) as temporary:
            temporary.write_bytes(to_bytes(tensors))

    @classmethod
    def load(cls, folder: Path) -> tuple["States", int] | None:
        """What was kept, and after how many rounds; None if nothing was."""
        path = folder / runs.CHECKPOINTS / STATE
        if not path.exists():
            return None
        tensors = load_file(path)
        poses = {k.removeprefix("poses."): v for k, v in tensors.items() if k.startswith("poses.")}
        others = {name: tensors[name].clone() for name in ("latent", "covariance", "doubt")}
        states = cls(PoseTable.restore(poses), **others)
        return states, int(tensors["finished"])


@dataclass(frozen=True)
class Round:
    """What one round works with."""

    number: int
    halves: Sequence[Subspace]
    """The maps that each half set is taken to."""
    band: float
    """Cycles per box."""
    grid: Hypotheses | None
    """Where to search; None for steps from the pose of the moment alone."""


def pose_rounds(
    loader: Loader,
    first: Subspace,
    noise: NoiseModel,
    config: SubspaceConfig,
    folder: Path,
    progress: Progress,
    stop_requested: StopRequested,
) -> States:
    """All rounds, from the first search against the first maps; or those that are left to do.

    Args:
        folder: of the search, whose checkpoints/ keep the state after each round.

    Raises:
        Interrupted: `stop_requested` said yes; the round under way is done again when the run goes on.
    """
    count = len(loader.particles)
    kept = States.load(folder)
    states, done = kept or (States.unknown(count, first.components, config.seed), 0)
    for number in range(done, config.rounds + 1):
        if number == 0:
            now = Round(0, [first, first], config.bootstrap.band_end, _grid(loader, config, 0))
        else:
            now = _next_round(loader, states, noise, config, number, folder, progress)
        if number == config.rounds > 0 and _turned_back(now, loader, states, folder):
            settling = replace(now, grid=None)
            _run(settling, loader, states, noise, config, progress, stop_requested)
            now = _next_round(loader, states, noise, config, number, folder, progress)
        _run(now, loader, states, noise, config, progress, stop_requested)
        states.save(folder, number + 1)
        _report(now, states, folder)
    if first.components:
        for _ in range(STEADYINGS):
            if _steady(loader, states, noise, config, folder, progress) < STEADY_DEG:
                break
    return states


def _report(now: Round, states: States, folder: Path) -> None:
    """What a round worked with and how far it turned the images."""
    turned = torch.rad2deg(states.table.turned)
    median = float(turned.median())
    logger.info(
        "round %d: frequencies to %.0f cycles per box; the middle image turned by %.1f°",
        now.number,
        now.band,
        median,
    )
    runs.append_log(
        folder,
        {
            "event": "round",
            "round": now.number,
            "searched": now.grid is not None,
            "band_px": now.band,
            "median_turn_deg": median,
            "turned_over_20_deg": float((turned > 20).double().mean()),
            "mean_evidence": -float(states.table.loss.mean()),
        },
    )


def _turned_back(now: Round, loader: Loader, states: States, folder: Path) -> bool:
    """Whether states were found turned as a whole, and their images were turned back.

    Their latents told turned states from others: they are to be found anew before maps are solved.
    """
    symmetric = loader.particles.symmetry != NO_SYMMETRY
    if symmetric or not states.latent.shape[1]:  # the axes say which way is up
        return False
    everyone = torch.arange(len(loader.particles))
    weights, members = (
        states.known(everyone, loader.device).weights,
        _members(everyone, loader.particles.half_sets()),
    )
    return turn_back(now.halves, weights, states.table, members, folder, mirrors=loader.views == 1)


def _steady(
    loader: Loader,
    states: States,
    noise: NoiseModel,
    config: SubspaceConfig,
    folder: Path,
    progress: Progress,
) -> float:
    """Take the drift of V(z) with z out of the poses, half set by half set; how far that turned images at
    most, root mean square, degrees."""
    last = _next_round(loader, states, noise, config, config.rounds + 1, folder, progress)
    group = point_group(loader.particles.symmetry)
    everyone, halves, turned = torch.arange(len(loader.particles)), loader.particles.half_sets(), []
    for half, mine in zip(last.halves, _members(everyone, halves), strict=True):
        weights = states.known(mine, loader.device).weights
        turned.append(take_out_drift(half.basis, weights, states.table, mine, folder, group))
    return max(turned)


def _grid(loader: Loader, config: SubspaceConfig, number: int) -> Hypotheses | None:
    """Where a round searches; none in rounds that only refine."""
    if number % config.search_every:
        return None
    return search_grid(loader, config.shift_extent_px, config.bootstrap.shift_points, (config.seed, number))


def search_grid(loader: Loader, extent_px: float, shift_points: int, seed: tuple[int, ...]) -> Hypotheses:
    """A grid of poses turned at random.

    Args:
        extent_px: shifts within ± this.
        shift_points: steps along each axis of the grid of shifts.
        seed: of the turn.
    """
    extent = extent_px * float(loader.particles.pixel_size.median())
    like = torch.empty(0, device=loader.device)
    group = point_group(loader.particles.symmetry)
    return hypotheses(extent, SEARCH_LEVEL, shift_points, np.random.default_rng(seed), like, group)


def _next_round(
    loader: Loader,
    states: States,
    noise: NoiseModel,
    config: SubspaceConfig,
    number: int,
    folder: Path,
    progress: Progress,
) -> Round:
    """Solve the maps of both half sets."""
    halves = loader.particles.half_sets()
    box, pixel_size = loader.disc.box_size, float(loader.particles.pixel_size.median())
    components = states.latent.shape[1]
    like, done = torch.empty(0, device=loader.device), 0
    equations = [NormalEquations(box, pixel_size, components, like=like) for _ in range(2)]
    for batch in loader.batches(storage_order(loader.particles)):
        views, index = views_on_grid(batch, loader, noise), batch.particles
        known = states.known(index, loader.device)
        poses = _poses(states, index, config, number, loader.device)
        for half, mine in enumerate(_members(index, halves)):
            some, share = [v[mine] for v in views], torch.full_like(known.evidence[mine], 1 / len(poses))
            for pose in poses:
                accumulate_known(equations[half], some, pose[mine], known[mine], box / 2, share)
        done += len(batch)
        progress(done, len(halves), "solving maps of both half sets")
    fsc = fourier_shell_correlation(*[each.mean_alone() for each in equations])
    band = known_band(fsc)
    runs.append_log(folder, {"event": "half maps", "round": number, "fsc": fsc.tolist(), "band_px": band})
    support = loader.preprocessor.support.to(loader.device)
    solved = []
    for half, each in enumerate(equations):
        signal = each.signal(fsc)
        shares = [1.0] + [config.bootstrap.component_share] * components
        maps = each.solve(torch.stack([share * signal for share in shares])) * support
        solved.append(Subspace(maps, pixel_size))
        name = folder / runs.VOLUMES / f"half_{half + 1}.mrc"
        write_volume(name, (maps[0] * loader.preprocessor.std).cpu().numpy(), pixel_size)
    return Round(number, solved, band, _grid(loader, config, number))


def _poses(
    states: States, index: Int[Tensor, "image"], config: SubspaceConfig, number: int, device: torch.device
) -> list[Pose]:
    """Where images go into the maps of a round.

    At one pose each, the noise of an image lies where the image does, and holds it there when it meets the
    map. Expectation–maximisation puts it wherever its likelihood says it may be.
    """
    pose = states.table.of(index, device)
    if not config.draws:
        return [pose]
    seed = int(np.random.default_rng((config.seed, number, int(index[0]))).integers(2**62))
    covariance = config.loosened(number) * states.doubt[index.cpu()].to(device)
    drawn = drawn_poses(pose, covariance, config.draws // 2, torch.Generator().manual_seed(seed))
    return [each.to(pose.shift) for each in drawn]


def _members(index: Int[Tensor, "image"], halves: Int[Tensor, "every_image"]) -> list[Int[Tensor, "some"]]:
    """Which of some particles belong to either half set."""
    half = halves[index.cpu()].to(index.device)
    return [(half == number).nonzero().squeeze(-1) for number in range(2)]


@torch.no_grad()
def _run(
    now: Round,
    loader: Loader,
    states: States,
    noise: NoiseModel,
    config: SubspaceConfig,
    progress: Progress,
    stop_requested: StopRequested,
) -> None:
    """Take every image to the maps of its half."""
    halves, count, done = loader.particles.half_sets(), len(loader.particles), 0
    what = "searching" if now.grid is not None else "refining"
    for batch in loader.batches(storage_order(loader.particles)):
        views, index = views_on_grid(batch, loader, noise), batch.particles
        for half, mine in enumerate(_members(index, halves)):
            if not len(mine):
                continue
            some = [view[mine] for view in views]
            start = states.table.of(index[mine], loader.device)
            subspace = now.halves[half]
            if now.grid is not None:
                start = best_of_grid(subspace, some, now.grid, now.band, start if now.number else None)
            pose, known = refined(subspace, some, start, now.band)
            states.put(index[mine], pose, known)
            if config.draws or now.number == config.rounds:
                doubt = pose_covariance(subspace.basis, some, pose, z=known.weights, band=now.band)
                states.doubt[index[mine].cpu()] = doubt.cpu()
        done += len(index)
        progress(done, count, f"{what} poses, round {now.number} of {config.rounds}")
        if stop_requested():
            raise Interrupted(f"stopped in round {now.number}; going on begins that round again")


def best_of_grid(
    subspace: Subspace,
    views: Sequence[View],
    grid: Hypotheses,
    band: float,
    current: Pose | None,
) -> Pose:
    """The best of a few poses of the grid, each refined, and of the pose of the moment.

    Args:
        band: radius of the frequencies that are known, cycles per box.
    """
    band = min(band, SEARCH_BAND)
    expected = expect(subspace, views, grid, band)
    count = min(CANDIDATES, expected.weight.shape[1])
    best: Pose | None = current
    evidence = None
    if current is not None:
        evidence = latents_at(subspace, views, current, band).evidence
    for number in range(count):
        pose = expected.pose(grid, number)
        pose, known = refined(subspace, views, pose, band)
        if best is None or evidence is None:
            best, evidence = pose, known.evidence
            continue
        better = known.evidence > evidence
        best = Pose(
            torch.where(better[:, None, None], pose.rotation, best.rotation),
            torch.where(better[:, None], pose.shift, best.shift),
        )
        evidence = torch.where(better, known.evidence, evidence)
    assert best is not None
    return best


def refined(subspace: Subspace, views: Sequence[View], pose: Pose, band: float) -> tuple[Pose, Known]:
    """Gauss–Newton steps towards each image's own volume, and its latent there."""
    known = latents_at(subspace, views, pose, band)
    pose, _ = refine(subspace.basis, views, pose, STEPS, z=known.weights, band=band)
    pose = pose.to(views[0].transfer)
    return pose, latents_at(subspace, views, pose, band)
