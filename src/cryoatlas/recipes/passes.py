"""Passes over the images of a run of the subspace engine, and what is known before the first."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cryoatlas.fourier.correlation import signal_to_noise
from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.particles.batch import Batch, Loader
from cryoatlas.particles.order import storage_order
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.poses.view import View
from cryoatlas.progress import Interrupted, Progress, StopRequested
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.consensus import consensus_map
from cryoatlas.recipes.noise import spectra
from cryoatlas.recipes.one_grid import views_on_grid
from cryoatlas.recipes.volumes import posed
from cryoatlas.shapes import Float, Tensor
from cryoatlas.subspace.config import StatesConfig
from cryoatlas.subspace.expectation import Known
from cryoatlas.subspace.known_poses import HalfSets, Pass
from cryoatlas.subspace.maximization import known_band
from cryoatlas.subspace.model import mean_square

logger = logging.getLogger(__name__)

LEAST_PASSED = 0.05
"""Signal of a shell is told by what the consensus' Wiener filter passed, and not from less than this part."""


@dataclass(frozen=True)
class Passes:
    """The images, and who is told of the work on them."""

    loader: Loader
    folder: Path
    """Of the run."""
    progress: Progress
    stop_requested: StopRequested

    @property
    def count(self) -> int:
        """Of particles."""
        return len(self.loader.particles)

    @property
    def pixel_size(self) -> float:
        """Of the images, Å."""
        return float(self.loader.particles.pixel_size.median())

    def batches(self, done: int, total: int, note: str) -> Iterator[Batch]:
        """All batches, with progress told after each.

        Args:
            done, total: images before this pass and in all of its phase.

        Raises:
            Interrupted: `stop_requested` said yes.
        """
        for batch in self.loader.batches(storage_order(self.loader.particles)):
            yield batch
            done += len(batch)
            self.progress(done, total, note)
            if self.stop_requested():
                raise Interrupted(f"stopped in {note}; going on begins that pass again")


@dataclass(frozen=True)
class Ground:
    """What images with poses say before any of them is told from another."""

    consensus: Float[Tensor, "box box box"]
    """One map of all of them, Wiener filtered."""
    pixel_size: float
    """Å."""
    noise: NoiseModel
    signal: Float[Tensor, "shell"]
    """Variance of the map's coefficients by shell, the filter undone."""
    fsc: Float[Tensor, "shell"]
    """Of the half maps."""

    @property
    def band(self) -> float:
        """Radius up to which half maps agree, cycles per box."""
        return known_band(self.fsc)


def ground(passes: Passes) -> Ground:
    """Make the consensus map and see what it says of signal and noise."""
    noise = spectra(passes.loader).noise
    found = consensus_map(passes.loader, passes.pixel_size, noise, passes.folder, passes.progress)
    fsc = found.fsc.to(found.map)
    ratio = signal_to_noise(fsc)
    signal = mean_square(found.map) / (ratio / (1 + ratio)).clamp(min=LEAST_PASSED)
    signal = signal.clamp(min=1e-6 * float(signal.max()))
    return Ground(found.map, passes.pixel_size, noise, signal, fsc)


@torch.no_grad()
def solve_components(
    passes: Passes,
    maps: HalfSets,
    noise: NoiseModel,
    signal: Float[Tensor, "shell"],
    known: float,
    config: StatesConfig,
    epoch: int,
) -> HalfSets:
    """One pass of expectation–maximisation at the particles' poses.

    Args:
        signal, known: of the consensus (`Ground`).
        epoch: number of the pass, from 0.
    """
    loader, started, band = passes.loader, time.perf_counter(), config.band(epoch, known)
    sums, halves = Pass(maps, band, loader.disc.box_size, passes.pixel_size), loader.particles.half_sets()
    note = f"components, pass {epoch + 1} of {config.epochs}"
    for batch in passes.batches(epoch * passes.count, config.epochs * passes.count, note):
        index = batch.particles.cpu()
        views = views_on_grid(batch, loader, noise, band)
        sums.add(views, posed(loader, index), halves[index].to(loader.device))
    solved = sums.solve(signal, config.component_share, epoch >= config.epochs - config.settled)
    entry = {"epoch": epoch, "band_px": band, "mean_evidence": sums.evidence / passes.count}
    runs.append_log(passes.folder, {"event": "epoch", **entry, "seconds": time.perf_counter() - started})
    return solved


@torch.no_grad()
def tell_components(
    passes: Passes, maps: HalfSets, noise: NoiseModel, band: float
) -> tuple[Known, Float[Tensor, "every_particle"]]:
    """Weights of the components of every image, and −log p(X), z integrated out, over the band."""
    loader, components = passes.loader, maps.whole.components
    halves, count = loader.particles.half_sets(), passes.count
    known = Known(
        torch.zeros(count, components), torch.zeros(count, components, components), torch.zeros(count)
    )
    misfit = torch.zeros(count)
    for batch in passes.batches(0, count, "latents"):
        index = batch.particles.cpu()
        views = views_on_grid(batch, loader, noise, band)
        told = maps.known(views, posed(loader, index), halves[index].to(loader.device), band)
        for name in Known.__dataclass_fields__:
            getattr(known, name)[index] = getattr(told, name).cpu()
        misfit[index] = misfits(views, told.evidence, loader.disc, noise, band).cpu()
    return known, misfit


def misfits(
    views: Sequence[View], evidence: Float[Tensor, "image"], disc: Disc, noise: NoiseModel, band: float
) -> Float[Tensor, "image"]:
    """−log p(X) over a band (cycles per box), without k = 0.

    Args:
        evidence: log p(X) − log p(X | empty volume).
    """
    length = torch.linalg.vector_norm(disc.frequencies, dim=-1)
    variance = noise.on(disc).cpu()[(length < band) & (length > 0)]
    normaliser = float(0.5 * torch.log(2 * math.pi * variance).sum())
    empty = 0.5 * torch.stack([view.power() for view in views]).sum(0)
    return empty - evidence + len(views) * normaliser


def warn_of_magnification(particles: ParticleSet, what: str, instead: str) -> None:
    """Say so where slices of one map do not fit images that are magnified more in one direction.

    Args:
        what: takes no notice of that.
        instead: what does.
    """
    if particles.aberrations is not None and particles.aberrations.is_anisotropic:
        logger.warning(
            "%s take magnification to be alike in all directions, which it is not in %s (rlnMagMat); %s "
            "models it",
            what,
            particles.path,
            instead,
        )
