"""Networks that learn from images with poses (M7), into a run folder."""

import logging
import math
from dataclasses import asdict
from pathlib import Path

import torch

from cryoatlas.errors import ConfigError
from cryoatlas.fourier.shells import shell_grid, shell_mean
from cryoatlas.fourier.transform import hartley_volume
from cryoatlas.geometry.symmetry import NO_SYMMETRY
from cryoatlas.models.vae import VAE, Shape, build_vae
from cryoatlas.models.voxel import VoxelVolume
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.order import shuffled_order, storage_order
from cryoatlas.particles.pairs import TiltedImages, make_loader
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.progress import Progress, StopRequested
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.consensus import consensus_map
from cryoatlas.recipes.noise import corner_noise, residual_noise
from cryoatlas.recipes.task import Task
from cryoatlas.shapes import Float, Tensor
from cryoatlas.training import checkpoint
from cryoatlas.training.checkpoint import Position
from cryoatlas.training.config import TrainConfig
from cryoatlas.training.loop import CONTRAST_SPREAD, LEAST_NOISE, Stopped, Trainer, infer

logger = logging.getLogger(__name__)

INFERENCE_BATCH = 128


def reconstruct(task: Task, config: TrainConfig) -> None:
    """Train encoder and decoder on images with poses; see `recipes.train`."""
    particles, folder = task.particles, task.folder
    trainer, position = _prepare(task, config)
    loader = task.loader(config.batch_size, trainer.vae.disc)
    task.log_start(position.epoch, step=position.step)
    for epoch in range(position.epoch, config.epochs):
        start = position if epoch == position.epoch else Position(epoch, 0)
        _one_epoch(trainer, loader, folder, start, len(particles), task.progress, task.stop_requested)
    _finish(trainer.vae, loader, particles, folder, task.progress)


def _prepare(task: Task, config: TrainConfig) -> tuple[Trainer, Position]:
    """The trainer where it starts: a new one, or that of the newest checkpoint."""
    particles, folder = task.particles, task.folder
    steps = math.ceil(len(particles) / config.batch_size)
    newest = checkpoint.newest(folder / runs.CHECKPOINTS) if task.going_on else None
    if newest is not None:
        vae, position, tensors = checkpoint.load(newest, task.device)
        trainer = Trainer(vae, config, steps)
        checkpoint.restore_optimizer(trainer.optimizer, tensors)
        checkpoint.restore_statistics(trainer.statistics, tensors)
        logger.info("continuing %s from epoch %d, step %d", folder, position.epoch, position.step)
        return trainer, position
    vae = initial_vae(particles, task.preprocessor, config, folder, task.device, task.progress, task.second)
    return Trainer(vae, config, steps), Position(0, 0)


def check(particles: ParticleSet, config: object = None) -> None:
    """Refuse a symmetry, which networks know nothing of.

    Raises:
        ConfigError: the particles have one.
    """
    if particles.symmetry != NO_SYMMETRY:
        raise ConfigError(
            f"networks cannot be told of symmetry {particles.symmetry}: leave --symmetry out, or use the "
            "default recipe, or `cryoatlas classify`."
        )


def shape_for(particles: ParticleSet, config: TrainConfig, tilted: TiltedImages | None) -> Shape:
    """Of networks for these images."""
    return Shape(
        box_size=particles.box_size,
        pixel_size=float(particles.pixel_size.median()),
        latent=config.latent,
        encoder=config.encoder,
        decoder=config.decoder,
        seed=config.seed,
        views=1 if tilted is None else len(tilted.tilts),
    )


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
    shape = shape_for(particles, config, tilted)
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


def shell_amplitude(volume: Float[Tensor, "box box box"]) -> Float[Tensor, "shell"]:
    """Root-mean-square Hartley coefficient of a map by shell, 0 … box // 2."""
    box = volume.shape[-1]
    power = hartley_volume(volume).square()
    return shell_mean(power, shell_grid(box, 3, volume.device), box // 2 + 1).sqrt()


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
    runs.write_results(folder, particles, inferred)
