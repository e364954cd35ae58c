"""Discrete classes of particles with poses (`cryoatlas classify`), the traditional way; into a run folder.

The consensus map first; then a few components (`subspace.known_poses`), whose weights fall into clusters that
the first classes are; then passes of expectation–maximisation of K maps (`subspace.classes`), in which poses
may be improved in the frame of each map, and sought anew. A single class is refinement.

::

    run/  volumes/class_001.mrc …        the maps, the largest class first, each with its half maps
                                         (class_001_half_1.mrc …), unfiltered
          particles.star                 with rlnClassNumber and the probability of each class
          latents.npz                    z: the probabilities of the classes
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cryoatlas.geometry.pose import Pose
from cryoatlas.io.mrc import write_volume
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.poses.view import View
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.classes_file import KeptClasses, of_mixture
from cryoatlas.recipes.one_grid import require_one_grid, views_on_grid
from cryoatlas.recipes.passes import (
    Ground,
    Passes,
    ground,
    misfits,
    solve_components,
    tell_components,
    warn_of_magnification,
)
from cryoatlas.recipes.pose_rounds import best_of_grid, refined, search_grid
from cryoatlas.recipes.task import Task
from cryoatlas.shapes import Float, Int, Tensor
from cryoatlas.subspace.classes import Mixture, MixturePass, Told
from cryoatlas.subspace.config import ClassesConfig
from cryoatlas.subspace.expectation import Hypotheses
from cryoatlas.subspace.known_poses import HalfSets
from cryoatlas.subspace.maximization import known_band
from cryoatlas.subspace.model import Subspace

logger = logging.getLogger(__name__)

CLASS_NUMBER = "rlnClassNumber"
CLUSTERINGS = 10
"""Beginnings of k-means, of which the best is kept."""
MERGED = 0.05
"""Classes with less than this part of an even share have all but vanished."""


def check(particles: ParticleSet, config: ClassesConfig) -> None:
    """Refuse images of several pixel sizes and more classes than images; see `recipes.train`."""
    require_one_grid(particles)
    config.require_images(len(particles))
    warn_of_magnification(particles, "classes", "`cryoatlas train --recipe network`")


def reconstruct(task: Task, config: ClassesConfig) -> None:
    """Find the classes of images with poses and a map of each; see `recipes.train`."""
    work = _Work(
        task.loader(task.at_once(config.chunk)), task.folder, task.progress, task.stop_requested, config
    )
    kept = KeptClasses.load(task.folder / runs.CHECKPOINTS)
    kept = _first_classes(work) if kept is None else kept.to(task.device)
    task.log_start(int(kept.epoch))
    for epoch in range(int(kept.epoch), config.epochs):
        kept = _pass(work, kept, epoch)
        kept.save(task.folder / runs.CHECKPOINTS)
    _finish(work, kept)


@dataclass(frozen=True)
class _Work(Passes):
    """What every step needs."""

    config: ClassesConfig

    @property
    def folds(self) -> Int[Tensor, "every_particle"]:
        """Number of each particle's fold; the even ones are the first half set."""
        half = self.loader.particles.half_sets()
        place = torch.zeros_like(half)
        for number in range(2):
            mine = (half == number).nonzero().squeeze(-1)
            place[mine] = torch.arange(len(mine)) % (self.config.folds // 2)
        return 2 * place + half


@torch.no_grad()
def _first_classes(work: _Work) -> KeptClasses:
    """The consensus map, and maps of the clusters that the weights of a few components fall into."""
    known, config = ground(work), work.config
    fsc, pose = known.fsc, work.loader.particles.require_pose()
    one = Mixture.of_one(Subspace(known.consensus[None], known.pixel_size), config.classes, config.folds, fsc)
    kept = KeptClasses(
        **of_mixture(one),
        noise=known.noise.variance,
        known=torch.tensor(known.band, dtype=torch.float64),
        epoch=torch.tensor(0),
        rotation=pose.rotation.cpu().double(),
        shift=pose.shift.cpu().double(),
    )
    if config.classes == 1:
        return kept
    labels = _clusters(work, known)
    first, reach = config.band(0, known.band), config.band(1, known.band)
    sums = MixturePass(one, first, reach, work.loader.disc.box_size, work.pixel_size)
    certain = torch.nn.functional.one_hot(labels, config.classes).to(sums.now.prior)
    folds = work.folds
    for batch in work.batches(0, work.count, "first maps"):
        index = batch.particles.cpu()
        views = views_on_grid(batch, work.loader, known.noise, reach)
        poses = [_poses(kept, index, work.loader.device)] * config.classes
        mine = certain[index.to(certain.device)]
        sums.put(views, poses, folds[index].to(mine.device), Told(mine, mine.new_zeros(len(mine))))
    return replace(kept, **of_mixture(sums.solve(config.even)))


def _clusters(work: _Work, known: Ground) -> Int[Tensor, "every_particle"]:
    """Which cluster of the components' weights each particle is in."""
    from sklearn.cluster import KMeans

    config, first = work.config, work.config.first
    random = torch.Generator().manual_seed(config.seed)
    mean = Subspace(known.consensus[None], known.pixel_size)
    maps = HalfSets.both(mean.with_random_components(first.components, first.component_start, random))
    for epoch in range(first.epochs):
        maps = solve_components(work, maps, known.noise, known.signal, known.band, first, epoch)
    told, _ = tell_components(work, maps, known.noise, first.band(first.epochs, known.band))
    # The stub of scikit-learn knows n_init only by its default, the word "auto".
    clusters = KMeans(config.classes, n_init=CLUSTERINGS, random_state=config.seed)  # pyright: ignore[reportArgumentType]
    return torch.from_numpy(clusters.fit_predict(told.mean.numpy())).long()


@torch.no_grad()
def _pass(work: _Work, kept: KeptClasses, epoch: int) -> KeptClasses:
    """One pass of expectation–maximisation."""
    loader, config, started = work.loader, work.config, time.perf_counter()
    full = loader.disc.box_size / 2
    known, last = float(kept.known), epoch == config.epochs - 1
    band = config.band(epoch, known)
    # The next pass compares further than this one; with better poses half maps may agree further than before.
    reach = full if last or config.aligned(epoch + 1) else config.band(epoch + 1, known)
    aligner = _Aligner.of(work, kept, epoch, band) if config.aligned(epoch) else None
    sums = MixturePass(kept.mixture, band, reach, loader.disc.box_size, work.pixel_size)
    folds, rotation, shift = work.folds, kept.rotation.cpu().clone(), kept.shift.cpu().clone()
    note = f"classes, pass {epoch + 1} of {config.epochs}"
    for batch in work.batches(epoch * work.count, config.epochs * work.count, note):
        index = batch.particles.cpu()
        views = views_on_grid(batch, loader, kept.noise_model, max(band, reach))
        current, fold = _poses(kept, index, loader.device), folds[index].to(loader.device)
        if aligner is None:
            sums.add(views, [current] * config.classes, fold)
            continue
        poses = aligner.poses(views, current, fold % 2)
        best = sums.add(views, poses, fold).posterior.argmax(1)
        found = _chosen(poses, best)
        rotation[index], shift[index] = found.rotation.cpu().double(), found.shift.cpu().double()
    solved = sums.solve(config.even)
    if last:
        _write_maps(work, sums, solved)
    kept = replace(kept, **of_mixture(solved), rotation=rotation, shift=shift, epoch=torch.tensor(epoch + 1))
    if reach == full:
        kept = replace(kept, known=torch.tensor(solved.known, dtype=torch.float64))
    entry = {"epoch": epoch, "band_px": band, "mean_evidence": sums.evidence / work.count}
    entry |= {"classes": solved.prior.tolist(), "seconds": time.perf_counter() - started}
    runs.append_log(work.folder, {"event": "epoch", **entry})
    return kept


def _poses(kept: KeptClasses, index: Int[Tensor, "image"], device: torch.device) -> Pose:
    return Pose(kept.rotation[index], kept.shift[index]).to(device, torch.float32)


def _chosen(poses: Sequence[Pose], best: Int[Tensor, "image"]) -> Pose:
    """Each image's pose in the frame of one class."""
    image = torch.arange(len(best), device=best.device)
    rotation, shift = (torch.stack([getattr(each, name) for each in poses]) for name in ("rotation", "shift"))
    return Pose(rotation[best, image], shift[best, image])


@dataclass(frozen=True)
class _Aligner:
    """Takes images to the maps of every class, each to those of its half set."""

    maps: Sequence[tuple[Subspace, Subspace]]
    band: float
    grid: Hypotheses | None
    """Where to search; None to go on from the pose of the moment alone."""

    @classmethod
    def of(cls, work: _Work, kept: KeptClasses, epoch: int, band: float) -> "_Aligner":
        config, grid = work.config, None
        if config.searched(epoch):
            seed = (config.seed, epoch)
            grid = search_grid(work.loader, config.shift_extent_px, config.shift_points, seed)
        return cls([each.halves for each in kept.mixture.classes], band, grid)

    def poses(self, views: Sequence[View], current: Pose, half: Int[Tensor, "image"]) -> list[Pose]:
        """The poses of images in the frame of each class."""
        found = []
        for maps in self.maps:
            rotation, shift = current.rotation.clone(), current.shift.clone()
            for number, subspace in enumerate(maps):
                mine = (half == number).nonzero().squeeze(-1)
                if not len(mine):
                    continue
                some, pose = [view[mine] for view in views], current[mine]
                if self.grid is not None:
                    pose = best_of_grid(subspace, some, self.grid, self.band, pose)
                pose, _ = refined(subspace, some, pose, self.band)
                rotation[mine], shift[mine] = pose.rotation, pose.shift
            found.append(Pose(rotation, shift))
        return found


def _write_maps(work: _Work, sums: MixturePass, solved: Mixture) -> None:
    """volumes/class_001.mrc … with half maps, the most frequent first."""
    folder, scale = work.folder / runs.VOLUMES, work.loader.preprocessor.std
    folder.mkdir(exist_ok=True)
    support = work.loader.preprocessor.support
    for place, number in enumerate(solved.prior.argsort(descending=True).tolist(), 1):
        named = {"": solved.classes[number].whole.maps[0]}
        named |= {f"_half_{half}": map_ for half, map_ in enumerate(sums.half_maps(number), 1)}
        for suffix, map_ in named.items():
            inside = (map_ * support.to(map_) * scale).cpu().numpy()
            write_volume(folder / f"class_{place:03d}{suffix}.mrc", inside, work.pixel_size)


@torch.no_grad()
def _finish(work: _Work, kept: KeptClasses) -> None:
    """The classes of all images by the last maps, and what is written of them."""
    config, loader, mixture = work.config, work.loader, kept.mixture.by_size()
    kept = replace(kept, **of_mixture(mixture))
    band, noise, folds = config.band(config.epochs, float(kept.known)), kept.noise_model, work.folds
    posterior, misfit = torch.zeros(work.count, config.classes), torch.zeros(work.count)
    for batch in work.batches(0, work.count, "telling classes"):
        index = batch.particles.cpu()
        views = views_on_grid(batch, loader, noise, band)
        poses = [_poses(kept, index, loader.device)] * config.classes
        told = mixture.tell(views, poses, folds[index].to(loader.device), band)
        posterior[index] = told.posterior.cpu()
        misfit[index] = misfits(views, told.evidence, loader.disc, noise, band).cpu()
    kept.save(work.folder / runs.CHECKPOINTS)
    _report(work, mixture, posterior)
    posterior_of_z = posterior[:, : config.latent]
    inferred = {
        "z": posterior_of_z,
        "z_std": (posterior_of_z * (1 - posterior_of_z)).clamp(min=0).sqrt(),
        "misfit": misfit,
        "contrast": torch.ones(work.count),
    }
    found = loader.particles.with_pose(Pose(kept.rotation.cpu(), kept.shift.cpu()))
    numbers = {CLASS_NUMBER: posterior.argmax(1) + 1}
    runs.write_results(work.folder, found, inferred, columns=numbers)


def _report(work: _Work, mixture: Mixture, posterior: Float[Tensor, "image class"]) -> None:
    """Log the classes, and say where they are not to be trusted."""
    certain, sizes = (
        float(posterior.amax(1).mean()),
        torch.bincount(posterior.argmax(1), minlength=len(mixture)),
    )
    known = [work.loader.disc.box_size / known_band(each.fsc) for each in mixture.classes]
    entry = {"sizes": sizes.tolist(), "mean_probability": certain, "known_px": known}
    runs.append_log(work.folder, {"event": "classes", **entry})
    for number, (size, period) in enumerate(zip(sizes.tolist(), known, strict=True), 1):
        logger.info("class %d: %d images, half maps agree to %.1f Å", number, size, period * work.pixel_size)
    vanished = int((sizes < MERGED * work.count / len(mixture)).sum())
    if vanished:
        logger.warning(
            "%d of %d classes all but vanished: their images went to others. The data may hold fewer classes "
            "(give fewer --classes), or another --seed may part them.",
            vanished,
            len(mixture),
        )
