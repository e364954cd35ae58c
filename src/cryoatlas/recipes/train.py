"""Heterogeneous reconstruction with known poses (M7), from particles to a run folder."""

import logging
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch

from cryoatlas.fourier.shells import shell_grid, shell_mean
from cryoatlas.fourier.transform import hartley_volume
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.io.mrc import write_volume
from cryoatlas.models.vae import VAE, Shape, build_vae
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.order import shuffled_order, storage_order
from cryoatlas.particles.pairs import TiltedImages, make_loader, pair
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.progress import Progress, StopRequested, never, silent
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.backprojection import Reconstruction, backproject
from cryoatlas.recipes.device import choose_device
from cryoatlas.recipes.noise import corner_noise, residual_noise
from cryoatlas.shapes import Float, Tensor
from cryoatlas.training import checkpoint
from cryoatlas.training.checkpoint import Position
from cryoatlas.training.config import TrainConfig
from cryoatlas.training.loop import CONTRAST_SPREAD, LEAST_NOISE, Stopped, Trainer, infer

logger = logging.getLogger(__name__)

INFERENCE_BATCH = 128


def train(
    particles: ParticleSet,
    config: TrainConfig,
    out: Path | str,
    *,
    tilted: ParticleSet | None = None,
    tilt_angle_deg: float = 45.0,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: Progress = silent,
    stop_requested: StopRequested = never,
    folder_is_ready: bool = False,
) -> runs.Run:
    """Train encoder and decoder on images with poses and write a run folder.

    Args:
        particles: with poses.
        config: see `recipes.presets` for ready ones.
        out: the run folder.
        tilted: a second image of each particle, in the same order, after a tilt of the specimen; its own
            poses are not looked at. A pair has one latent, and the run one row for it.
        tilt_angle_deg: that tilt, about the images' x axis.
        resume: continue the run in `out`, started with the same options; on a CPU the result is the
            same bit for bit as that of an uninterrupted run.
        overwrite: replace what `out` holds.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        stop_requested: asked after each step; when it says yes a checkpoint is written.
        folder_is_ready: `out` was made by the caller, who may have put something into it.

    Raises:
        MetadataError: the particles have no poses, or `tilted` does not belong to them.
        OutputError: `out` is not empty and neither `resume` nor `overwrite` is set.
        ConfigError: `resume` with other options, or an unknown device.
        Stopped: `stop_requested` said yes; a checkpoint was written first.
        DivergedError: the objective stopped being finite.
    """
    particles.require_pose()
    second = None if tilted is None else pair(particles, tilted, tilt_angle_deg)
    place = choose_device(device)
    begun = runs.begin(
        Path(out),
        config,
        particles,
        second,
        resume=resume,
        overwrite=overwrite,
        folder_is_ready=folder_is_ready,
    )
    folder, preprocessor = begun.folder, begun.preprocessor
    trainer, position = _prepare(particles, second, config, begun, place, progress)
    loader = make_loader(particles, preprocessor, trainer.vae.disc, config.batch_size, place, second)
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
    tilted: TiltedImages | None,
    config: TrainConfig,
    begun: runs.Begun,
    device: torch.device,
    progress: Progress,
) -> tuple[Trainer, Position]:
    """The trainer where it starts: a new one, or that of the newest checkpoint."""
    steps, folder = math.ceil(len(particles) / config.batch_size), begun.folder
    newest = checkpoint.newest(folder / runs.CHECKPOINTS) if begun.going_on else None
    if newest is not None:
        vae, position, tensors = checkpoint.load(newest, device)
        trainer = Trainer(vae, config, steps)
        checkpoint.restore_optimizer(trainer.optimizer, tensors)
        checkpoint.restore_statistics(trainer.statistics, tensors)
        logger.info("continuing %s from epoch %d, step %d", folder, position.epoch, position.step)
        return trainer, position
    vae = initial_vae(particles, begun.preprocessor, config, folder, device, progress, tilted)
    return Trainer(vae, config, steps), Position(0, 0)


def initial_vae(
    particles: ParticleSet,
    preprocessor: Preprocessor,
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    progress: Progress,
    tilted: TiltedImages | None = None,
) -> VAE:
    """Networks with fresh weights, the consensus map and the noise spectrum."""
    shape = Shape(
        box_size=particles.box_size,
        pixel_size=float(particles.pixel_size.median()),
        latent=config.latent,
        encoder=config.encoder,
        decoder=config.decoder,
        seed=config.seed,
        views=1 if tilted is None else len(tilted.tilts),
    )
    vae = build_vae(shape).to(device)
    loader = make_loader(particles, preprocessor, vae.disc, INFERENCE_BATCH, device, tilted)
    corners = None if config.noise == "white" else corner_noise(loader)
    consensus = consensus_map(loader, shape.pixel_size, corners, folder, progress).map
    if config.decoder.consensus:
        vae.decoder.start_from(shell_amplitude(consensus), consensus)
    if config.noise != "white":
        noise = residual_noise(loader, VoxelVolume.from_map(consensus, shape.pixel_size))
        vae.noise_variance.copy_(noise.variance)
    vae.least_noise.copy_(LEAST_NOISE * vae.noise_variance)
    vae.contrast_variance.fill_(CONTRAST_SPREAD**2 if config.contrast else 0)
    return vae


def consensus_map(
    loader: Loader, pixel_size: float, noise: NoiseModel | None, folder: Path, progress: Progress
) -> Reconstruction:
    """The map of all images, written and logged."""
    particles, preprocessor = loader.particles, loader.preprocessor
    count = len(particles)
    result = backproject(
        loader.batches(storage_order(particles)),
        loader.disc,
        pixel_size,
        count,
        support=preprocessor.support,
        half_sets=particles.half_sets(),
        noise=noise,
        progress=lambda done, total, note="": progress(done, total, "consensus map"),
    )
    (folder / runs.VOLUMES).mkdir(exist_ok=True)
    write_volume(folder / runs.CONSENSUS, (result.map * preprocessor.std).cpu().numpy(), pixel_size)
    entry = {"event": "consensus", "fsc": result.fsc.tolist()}
    entry["corner_noise"] = None if noise is None else noise.variance.tolist()
    runs.append_log(folder, entry)
    return result


def shell_amplitude(volume: Float[Tensor, "box box box"]) -> Float[Tensor, "shell"]:
    """Root-mean-square Hartley coefficient of a map by shell, 0 … box // 2."""
    box = volume.shape[-1]
    power = hartley_volume(volume).square()
    return shell_mean(power, shell_grid(box, 3).to(volume.device), box // 2 + 1).sqrt()


def _one_epoch(
    trainer: Trainer,
    loader: Loader,
    folder: Path,
    position: Position,
    count: int,
    progress: Progress,
    stop_requested: StopRequested,
) -> None:
    config, epoch = trainer.config, position.epoch
    order = shuffled_order(loader.particles, config.seed, epoch)
    done = epoch * count + position.step * config.batch_size
    total = config.epochs * count

    def on_batch(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total, f"epoch {epoch + 1} of {config.epochs}")

    def batches(_: int, step: int):
        return loader.batches(order.after(step * config.batch_size))

    try:
        summary = trainer.run_epoch(batches, position, on_batch, stop_requested)
    except Stopped as stopped:
        _save(trainer, folder, stopped.position)
        raise
    _save(trainer, folder, Position(epoch + 1, 0))
    runs.append_log(folder, {"event": "epoch", **asdict(summary)})


def _save(trainer: Trainer, folder: Path, position: Position) -> None:
    checkpoint.save(folder / runs.CHECKPOINTS, trainer.vae, trainer.optimizer, position, trainer.statistics)


def _finish(vae: VAE, loader: Loader, particles: ParticleSet, folder: Path, progress: Progress) -> None:
    """Latents of all particles, written beside the input's rows."""
    count, done = len(particles), 0

    def on_batch(images: int) -> None:
        nonlocal done
        done += images
        progress(done, count, "latents")

    inferred = infer(vae, loader.batches(storage_order(particles)), count, on_batch)
    runs.write_latents(folder, inferred)
    runs.write_run_particles(folder, particles, inferred)
