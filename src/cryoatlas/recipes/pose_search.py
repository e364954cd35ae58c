"""Finding poses with a growing network (M6): random poses first, then a search in every epoch.

The folder of the search is a run folder of its own, inside that of the ab initio run.
"""

import logging
import math
import time
from dataclasses import asdict, fields
from pathlib import Path

import torch

from cryoatlas.io.mrc import write_volume
from cryoatlas.models.vae import VAE, build_vae
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.order import shuffled_order, storage_order
from cryoatlas.particles.pairs import TiltedImages, make_loader
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.poses.branch_and_bound import Effort
from cryoatlas.progress import Progress, StopRequested
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.abinit_config import NetworkConfig
from cryoatlas.recipes.drift import take_out_drift
from cryoatlas.recipes.networks import shape_for
from cryoatlas.recipes.noise import spectra
from cryoatlas.shapes import Float, Tensor
from cryoatlas.training import checkpoint
from cryoatlas.training.checkpoint import Position
from cryoatlas.training.loop import Stopped, Trainer
from cryoatlas.training.pose_table import (
    PoseTable,
    latents_of,
    search_at_band,
    search_chunk,
    with_found_poses,
    with_table_poses,
)

logger = logging.getLogger(__name__)


def find_all_poses(
    particles: ParticleSet,
    preprocessor: Preprocessor,
    config: NetworkConfig,
    folder: Path,
    device: torch.device,
    progress: Progress,
    stop_requested: StopRequested,
    tilted: TiltedImages | None = None,
) -> tuple[VAE, PoseTable]:
    """The network and the poses of all particles, from a run folder's newest checkpoint on if it has one.

    Raises:
        Stopped: `stop_requested` said yes; a checkpoint was written first.
        DivergedError: the objective stopped being finite.
    """
    steps = math.ceil(len(particles) / config.train.batch_size)
    newest = checkpoint.newest(folder / runs.CHECKPOINTS)
    if newest is None:
        vae = first_network(particles, preprocessor, config, device, tilted)
        trainer, position = Trainer(vae, config.train, steps), Position(0, 0)
        table = PoseTable.random(len(particles), config.train.seed)
    else:
        vae, position, tensors = checkpoint.load(newest, device)
        trainer, table = Trainer(vae, config.train, steps), checkpoint.restore_poses(tensors)
        checkpoint.restore_optimizer(trainer.optimizer, tensors)
        checkpoint.restore_statistics(trainer.statistics, tensors)
    loader = make_loader(particles, preprocessor, vae.disc, config.chunk, device, tilted)
    for epoch in range(position.epoch, config.train.epochs):
        start = position if epoch == position.epoch else Position(epoch, 0)
        _one_epoch(trainer, table, loader, config, folder, start, progress, stop_requested)
    _last_search(vae, table, loader, config, progress)
    z = _latents(vae, table, loader)
    if z is not None:
        take_out_drift(vae.decoder, z, table, torch.arange(len(particles)), folder)
    middle = None if z is None else z.mean(0)
    final = vae.decoder.map(middle).detach() * preprocessor.std
    (folder / runs.VOLUMES).mkdir(exist_ok=True)
    write_volume(folder / runs.VOLUMES / "network.mrc", final.cpu().numpy(), vae.shape.pixel_size)
    return vae, table


@torch.no_grad()
def _latents(vae: VAE, table: PoseTable, loader: Loader) -> Float[Tensor, "particle latent"] | None:
    """Posterior mean of z of all particles, None for a single volume."""
    if vae.encoder is None:
        return None
    z = torch.zeros(len(loader.particles), vae.shape.latent, device=loader.device)
    for batch in loader.batches(storage_order(loader.particles)):
        posterior = latents_of(batch, table, vae)
        assert posterior is not None
        z[batch.particles] = posterior.mean
    return z


def first_network(
    particles: ParticleSet,
    preprocessor: Preprocessor,
    config: NetworkConfig,
    device: torch.device,
    tilted: TiltedImages | None = None,
) -> VAE:
    """A network that knows nothing but how strong signal and noise are in the images, shell by shell."""
    train = config.train
    vae = build_vae(shape_for(particles, train, tilted)).to(device)
    loader = make_loader(particles, preprocessor, vae.disc, config.chunk, device, tilted)
    known = spectra(loader)
    noise = known.noise.variance
    if train.noise == "white":
        noise = torch.full_like(noise, float(noise[1:].mean()))
    vae.noise_variance.copy_(noise)
    vae.least_noise.copy_(1e-2 * noise)
    if train.decoder.friedel:
        vae.decoder.expect(known.signal.sqrt())
    return vae


def _one_epoch(
    trainer: Trainer,
    table: PoseTable,
    loader: Loader,
    config: NetworkConfig,
    folder: Path,
    position: Position,
    progress: Progress,
    stop_requested: StopRequested,
) -> None:
    train, epoch, count = config.train, position.epoch, len(loader.particles)
    order = shuffled_order(loader.particles, train.seed, epoch)
    done = epoch * count + position.step * train.batch_size
    searching, band = epoch >= config.random_epochs, config.band(epoch, loader.disc.box_size)
    steps = config.chunk // train.batch_size

    def on_batch(images: int) -> None:
        nonlocal done
        done += images
        what = "searching poses" if searching else "random poses"
        progress(done, train.epochs * count, f"{what}, epoch {epoch + 1} of {train.epochs}")

    def batches(_: int, step: int):
        chunks = loader.batches(order.after(step * train.batch_size))
        if not searching:
            return with_table_poses(chunks, table, train.batch_size)
        now = search_at_band(config.search, band)
        seed = (train.seed, epoch)
        return with_found_poses(chunks, table, trainer.vae, now, train.batch_size, seed, efforts.append)

    taken, efforts = position.step, list[Effort]()

    def stop_between_chunks() -> bool:
        # Inside a chunk the poses would be found again, against another map, when the run goes on.
        nonlocal taken
        taken += 1
        return taken % steps == 0 and stop_requested()

    try:
        summary = trainer.run_epoch(batches, position, on_batch, stop_between_chunks, band)
    except Stopped as stopped:
        _save(trainer, table, folder, stopped.position)
        raise
    _save(trainer, table, folder, Position(epoch + 1, 0))
    runs.append_log(folder, {"event": "epoch", **asdict(summary), **_progress_of_poses(table, efforts)})


def _save(trainer: Trainer, table: PoseTable, folder: Path, position: Position) -> None:
    checkpoint.save(
        folder / runs.CHECKPOINTS, trainer.vae, trainer.optimizer, position, trainer.statistics, table
    )


def _progress_of_poses(table: PoseTable, efforts: list[Effort]) -> dict[str, float]:
    """How far the epoch turned the images, which falls to a few degrees when the poses settle, and what the
    search did for it: means over chunks."""
    if not efforts:
        return {}
    turned = torch.rad2deg(table.turned)
    names = [field.name for field in fields(Effort)]
    done = {
        f"search_{name}": sum(getattr(effort, name) for effort in efforts) / len(efforts) for name in names
    }
    median = float(turned.median())
    logger.info(
        "the search turned the middle image by %.1f°; its bound let %.0f %% of poses through, the cap "
        "decided for %.0f %% of images, and volumes were evaluated at %.0f frequencies for each",
        median,
        100 * done["search_let_through"],
        100 * done["search_capped"],
        done["search_evaluations"],
    )
    return {
        "median_turn_deg": median,
        "turned_over_20_deg": float((turned > 20).double().mean()),
        **done,
    }


def _last_search(
    vae: VAE, table: PoseTable, loader: Loader, config: NetworkConfig, progress: Progress
) -> None:
    """All poses against the finished network, over all frequencies it was trained on."""
    count, done = len(loader.particles), 0
    now = search_at_band(config.search, config.band(config.train.epochs, vae.disc.box_size))
    seed = (config.train.seed, config.train.epochs)
    started = time.perf_counter()
    for chunk in loader.batches(storage_order(loader.particles)):
        search_chunk(chunk, table, vae, now, seed)
        done += len(chunk)
        progress(done, count, "last search")
    logger.info("last search: %.1f images/s", count / (time.perf_counter() - started))
