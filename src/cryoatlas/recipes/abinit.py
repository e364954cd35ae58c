"""Ab initio reconstruction (M6, M8): poses from nothing, then what training with known poses does.

::

    run/  search/    the search for poses: config.toml, log.jsonl, checkpoints, particles.star with the poses
          …          everything a training with known poses writes, made with these poses
"""

import logging
import time
from dataclasses import asdict
from pathlib import Path

import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.io.output import new_directory
from cryoatlas.particles.pairs import TiltedImages, make_loader, pair
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.particles.sources import read_poses
from cryoatlas.particles.write import write_particles
from cryoatlas.progress import Progress, StopRequested, never, silent
from cryoatlas.recipes import networks
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.abinit_config import AbinitConfig, NetworkConfig, SubspaceConfig
from cryoatlas.recipes.device import choose_device, images_at_once
from cryoatlas.recipes.first_maps import first_subspace
from cryoatlas.recipes.noise import spectra
from cryoatlas.recipes.one_grid import require_one_grid
from cryoatlas.recipes.pose_rounds import States, pose_rounds
from cryoatlas.recipes.pose_search import find_all_poses
from cryoatlas.recipes.presets import Recipe
from cryoatlas.recipes.train import train
from cryoatlas.training.config import TrainConfig
from cryoatlas.training.pose_table import PoseTable

logger = logging.getLogger(__name__)

SEARCH = "search"
UNSETTLED_DEG = 20.0
"""If the last search turns the middle image by more, poses have not settled."""


def abinit(
    particles: ParticleSet,
    config: AbinitConfig,
    final: Recipe,
    out: Path | str,
    *,
    tilted: ParticleSet | None = None,
    tilt_angle_deg: float = 45.0,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: Progress = silent,
    stop_requested: StopRequested = never,
) -> runs.Run:
    """Find the poses of images and reconstruct; poses that the particles have are not looked at.

    Args:
        particles: the images.
        config: how poses are found; see `recipes.abinit_config` for ready options.
        final: what follows with the poses found, a training, or states or classes of the subspace engine: its
            `latent` is the run's.
        out: the run folder.
        tilted: a second image of each particle, in the same order, after a tilt of the specimen. A pair has
            one pose and one latent, and the run one row for it.
        tilt_angle_deg: that tilt, about the images' x axis.
        resume: continue the run in `out`.
        overwrite: replace what `out` holds.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        stop_requested: asked between chunks of images; when it says yes a checkpoint is written.

    Raises:
        OutputError: `out` is not empty and neither `resume` nor `overwrite` is set.
        ConfigError: `resume` with other options, an unknown device, or networks for a symmetric molecule.
        MetadataError: the images have several pixel sizes, or `tilted` does not belong to them.
        Stopped: `stop_requested` said yes; a checkpoint was written first.
        DivergedError: the objective stopped being finite.
    """
    require_one_grid(particles)
    if isinstance(config, NetworkConfig) or isinstance(final, TrainConfig):
        networks.check(particles)
    second = None if tilted is None else pair(particles, tilted, tilt_angle_deg)
    if particles.aberrations is not None and particles.aberrations.is_anisotropic:
        logger.warning(
            "the search for poses takes magnification to be alike in all directions, which it is not in %s "
            "(rlnMagMat); the training that follows models it",
            particles.path,
        )
    place = choose_device(device)
    out = start_folder(Path(out), resume=resume, overwrite=overwrite)
    unposed = particles.with_pose(None)
    posed = search_poses(unposed, config, out / SEARCH, place, progress, stop_requested, tilted=second)
    return train(
        posed,
        final,
        out,
        tilted=tilted,
        tilt_angle_deg=tilt_angle_deg,
        resume=resume,
        device=device,
        progress=progress,
        stop_requested=stop_requested,
        folder_is_ready=True,
    )


def search_poses(
    particles: ParticleSet,
    config: AbinitConfig,
    folder: Path,
    device: torch.device,
    progress: Progress = silent,
    stop_requested: StopRequested = never,
    *,
    tilted: TiltedImages | None = None,
) -> ParticleSet:
    """The particles with the poses that a search in `folder` finds, goes on to find, or has found.

    Raises:
        ConfigError: the search in `folder` was started with other options or particles.
        Stopped, DivergedError: as `abinit`.
    """
    finished = folder / runs.PARTICLES
    options = asdict(config)
    network = config.train if isinstance(config, NetworkConfig) else None
    options.pop("train", None)
    if (folder / runs.CONFIG).exists():
        run = runs.open_run(folder)
        runs.check_same(run, network, particles, others=options, tilted=tilted)
        preprocessor = runs.stored_preprocessor(run)
    else:
        folder.mkdir()
        preprocessor = Preprocessor.fit(particles)
        runs.write_config(folder, SEARCH, network, particles, preprocessor, others=options, tilted=tilted)
    if not finished.exists():
        started, spread = time.perf_counter(), {}
        if isinstance(config, NetworkConfig):
            _, table = find_all_poses(
                particles, preprocessor, config, folder, device, progress, stop_requested, tilted
            )
        else:
            states = _subspace_poses(
                particles, preprocessor, config, folder, device, progress, stop_requested, tilted
            )
            table, spread = states.table, runs.spread_columns(states.spread)
        settled = _say_whether_settled(table)
        seconds = time.perf_counter() - started
        runs.append_log(folder, {"event": "end", **settled, "seconds": seconds})
        write_particles(finished, particles, pose=table.pose, extra_columns=spread)
    # Read back, so that a run that is resumed here goes on with the very same numbers.
    return runs.with_spread(particles.with_pose(read_poses(finished)), finished)


def _subspace_poses(
    particles: ParticleSet,
    preprocessor: Preprocessor,
    config: SubspaceConfig,
    folder: Path,
    device: torch.device,
    progress: Progress,
    stop_requested: StopRequested,
    tilted: TiltedImages | None,
) -> States:
    """First maps from several starts, then rounds."""
    disc = Disc(particles.box_size)
    chunk = images_at_once(config.chunk, particles.box_size, device)
    loader = make_loader(particles, preprocessor, disc, chunk, device, tilted)
    known = spectra(loader)
    first = first_subspace(loader, known, config, folder, progress, stop_requested)
    return pose_rounds(loader, first, known.noise, config, folder, progress, stop_requested)


def _say_whether_settled(table: PoseTable) -> dict[str, object]:
    """Warn of poses that still turn."""
    turn = float(torch.rad2deg(table.turned).median())
    settled = turn < UNSETTLED_DEG
    if not settled:
        logger.warning(
            "poses have not settled: the last pass over the images turned the middle one by %.0f°. Try "
            "another --seed, or look whether the images hold enough signal.",
            turn,
        )
    return {"settled": settled, "last_turn_deg": turn}


def start_folder(out: Path, *, resume: bool, overwrite: bool) -> Path:
    """The run folder, made unless a search in it is to be continued.

    Raises:
        OutputError: it is not empty and neither `resume` nor `overwrite` is set.
    """
    if resume and (out / SEARCH / runs.CONFIG).exists():
        return out
    return new_directory(out, overwrite=overwrite)
