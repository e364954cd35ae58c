"""Heterogeneous reconstruction with known poses (M7), from particles to a run folder."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from cryoatlas.fourier.shells import shell_grid, shell_mean
from cryoatlas.fourier.transform import hartley_volume
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import central_slices
from cryoatlas.io.mrc import write_volume
from cryoatlas.io.output import new_directory
from cryoatlas.models.vae import VAE, Shape, build_vae
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import ParticleLoader, random_order
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.progress import Progress, silent
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.backprojection import Reconstruction, backproject
from cryoatlas.recipes.device import choose_device
from cryoatlas.shapes import Float, Tensor
from cryoatlas.training import checkpoint
from cryoatlas.training.checkpoint import Position
from cryoatlas.training.config import TrainConfig
from cryoatlas.training.loop import Stopped, Trainer, infer
from cryoatlas.training.objective import centre_images

logger = logging.getLogger(__name__)

NOISE_IMAGES = 1000
"""Images whose residuals against the consensus map give the noise spectrum."""
INFERENCE_BATCH = 128


def train(
    particles: ParticleSet,
    config: TrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: Progress = silent,
    stop_requested: Callable[[], bool] = lambda: False,
) -> runs.Run:
    """Train encoder and decoder on images with poses and write a run folder.

    Args:
        particles: with poses.
        config: see `recipes.presets` for ready ones.
        out: the run folder.
        resume: continue the run in `out`, started with the same options; on a CPU the result is the
            same bit for bit as that of an uninterrupted run.
        overwrite: replace what `out` holds.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        stop_requested: asked after each step; when it says yes a checkpoint is written.

    Raises:
        MetadataError: the particles have no poses.
        OutputError: `out` is not empty and neither `resume` nor `overwrite` is set.
        ConfigError: `resume` with other options, or an unknown device.
        Stopped: `stop_requested` said yes; a checkpoint was written first.
        DivergedError: the objective stopped being finite.
    """
    particles.require_pose()
    place = choose_device(device)
    preprocessor, folder, trainer, position = _prepare(
        particles, config, Path(out), resume, overwrite, place, progress
    )
    loader = ParticleLoader(particles, preprocessor, trainer.vae.disc, config.batch_size, device=place)
    runs.append_log(
        folder, {"event": "start", "epoch": position.epoch, "step": position.step, "device": str(place)}
    )
    started = time.perf_counter()
    for epoch in range(position.epoch, config.epochs):
        start = position if epoch == position.epoch else Position(epoch, 0)
        _one_epoch(trainer, loader, folder, start, len(particles), progress, stop_requested)
    _finish(trainer.vae, loader, particles, folder, progress)
    runs.append_log(folder, {"event": "end", "seconds": time.perf_counter() - started})
    return runs.open_run(folder)


def _prepare(
    particles: ParticleSet,
    config: TrainConfig,
    out: Path,
    resume: bool,
    overwrite: bool,
    device: torch.device,
    progress: Progress,
) -> tuple[Preprocessor, Path, Trainer, Position]:
    """The trainer where it starts: a new one, or that of the newest checkpoint."""
    steps = math.ceil(len(particles) / config.batch_size)
    if resume and out.exists():
        run = runs.open_run(out)
        runs.check_same(run, config, particles)
        preprocessor = runs.stored_preprocessor(run)
        newest = checkpoint.newest(out / runs.CHECKPOINTS)
        if newest is not None:
            vae, position, moments = checkpoint.load(newest, device)
            trainer = Trainer(vae, config, steps)
            checkpoint.restore_optimizer(trainer.optimizer, moments)
            logger.info("continuing %s from epoch %d, step %d", out, position.epoch, position.step)
            return preprocessor, out, trainer, position
    else:
        out = new_directory(out, overwrite=overwrite)
        preprocessor = Preprocessor.fit(particles)
        runs.write_config(out, "train", config, particles, preprocessor)
    vae = initial_vae(particles, preprocessor, config, out, device, progress)
    return preprocessor, out, Trainer(vae, config, steps), Position(0, 0)


def initial_vae(
    particles: ParticleSet,
    preprocessor: Preprocessor,
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> VAE:
    """Networks with fresh weights, the consensus map and the noise spectrum."""
    shape = Shape(
        box_size=particles.box_size,
        pixel_size=float(particles.pixel_size.median()),
        latent=config.latent,
        encoder=config.encoder,
        decoder=config.decoder,
        seed=config.seed,
    )
    vae = build_vae(shape).to(device)
    loader = ParticleLoader(particles, preprocessor, vae.disc, INFERENCE_BATCH, device=device)
    count = len(particles)
    consensus = backproject(
        loader.batches(range(count)),
        vae.disc,
        shape.pixel_size,
        count,
        support=preprocessor.support,
        half_sets=particles.half_sets(),
        progress=lambda done, total, note="": progress(done, total, "consensus map"),
    )
    (folder / runs.VOLUMES).mkdir(exist_ok=True)
    write_volume(folder / runs.CONSENSUS, (consensus.map * preprocessor.std).cpu().numpy(), shape.pixel_size)
    runs.append_log(folder, {"event": "consensus", "fsc": consensus.fsc.tolist()})
    if config.decoder.consensus:
        vae.decoder.start_from(shell_amplitude(consensus.map), consensus.map)
    if config.noise == "shells":
        vae.noise_variance.copy_(_noise(vae, loader, consensus, count).variance)
    return vae


def shell_amplitude(volume: Float[Tensor, "box box box"]) -> Float[Tensor, "shell"]:
    """Root-mean-square Hartley coefficient of a map by shell, 0 … box // 2."""
    box = volume.shape[-1]
    power = hartley_volume(volume).square()
    return shell_mean(power, shell_grid(box, 3).to(volume.device), box // 2 + 1).sqrt()


@torch.no_grad()
def _noise(vae: VAE, loader: ParticleLoader, consensus: Reconstruction, count: int) -> NoiseModel:
    """Per-shell variance of what the consensus map leaves unexplained in evenly spaced images."""
    volume = VoxelVolume.from_map(consensus.map, vae.shape.pixel_size)
    power = []
    for batch in loader.batches(range(0, count, max(1, count // NOISE_IMAGES))):
        centred = centre_images(batch, vae.disc)
        residual = centred.images - centred.ctf * central_slices(volume, centred.plane, centred.rotation)
        power.append(residual.square().sum(0))
    images = len(range(0, count, max(1, count // NOISE_IMAGES)))
    return NoiseModel.from_residuals((torch.stack(power).sum(0) / images).sqrt()[None], vae.disc)


def _one_epoch(
    trainer: Trainer,
    loader: ParticleLoader,
    folder: Path,
    position: Position,
    count: int,
    progress: Progress,
    stop_requested: Callable[[], bool],
) -> None:
    config, epoch = trainer.config, position.epoch
    order = random_order(count, config.seed, epoch)
    done = epoch * count + position.step * config.batch_size
    total = config.epochs * count

    def on_batch(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total, f"epoch {epoch + 1} of {config.epochs}")

    def batches(_: int, step: int):
        return loader.batches(order[step * config.batch_size :])

    try:
        summary = trainer.run_epoch(batches, position, on_batch, stop_requested)
    except Stopped as stopped:
        checkpoint.save(folder / runs.CHECKPOINTS, trainer.vae, trainer.optimizer, stopped.position)
        raise
    checkpoint.save(folder / runs.CHECKPOINTS, trainer.vae, trainer.optimizer, Position(epoch + 1, 0))
    runs.append_log(folder, {"event": "epoch", **asdict(summary)})


def _finish(
    vae: VAE, loader: ParticleLoader, particles: ParticleSet, folder: Path, progress: Progress
) -> None:
    """Latents of all images, written beside the input's rows."""
    count, done = len(particles), 0

    def on_batch(images: int) -> None:
        nonlocal done
        done += images
        progress(done, count, "latents")

    inferred = infer(vae, loader.batches(range(count)), count, on_batch)
    runs.write_latents(folder, inferred)
    runs.write_run_particles(folder, particles, inferred["z"])
