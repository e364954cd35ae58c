"""The first maps of an ab initio run: images at low frequencies, several starts, the best one kept."""

import logging
import time
from pathlib import Path

import numpy as np
import torch

from cryoatlas.io.mrc import read_volume, write_volume
from cryoatlas.particles.batch import Loader
from cryoatlas.poses.view import View
from cryoatlas.progress import Interrupted, Progress, StopRequested
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.abinit_config import SubspaceConfig
from cryoatlas.recipes.noise import Spectra
from cryoatlas.recipes.one_grid import views_on_grid
from cryoatlas.subspace.bootstrap import Images, Start, bootstrap
from cryoatlas.subspace.model import Subspace

logger = logging.getLogger(__name__)

FIRST = "first"
"""Maps of the search folder's volumes/ by this name and their number: the mean is number 0."""
DOUBT = 1.0
"""Nats per held-out image: less does not tell two maps apart."""


def first_subspace(
    loader: Loader,
    spectra: Spectra,
    config: SubspaceConfig,
    folder: Path,
    progress: Progress,
    stop_requested: StopRequested,
) -> Subspace:
    """Grown, written, and read back; or read if it is there from a run that was interrupted.

    Args:
        folder: of the search; maps go to its volumes/, the starts' evidence to its log.

    Raises:
        Interrupted: `stop_requested` said yes; nothing of the starts is kept.
    """
    if not _written(folder):
        images = low_images(loader, spectra, config)
        how = config.bootstrap

        def step(done: int) -> None:
            progress(done * how.batch_size, how.all_steps * how.batch_size, "first maps")
            if stop_requested():
                raise Interrupted("stopped while first maps were made; going on makes them again")

        started = time.perf_counter()
        starts = bootstrap(images, how, config.seed, step)
        _report(folder, starts, time.perf_counter() - started)
        _write(folder, starts[0].subspace)
    return _read(folder, loader.device)


def low_images(loader: Loader, spectra: Spectra, config: SubspaceConfig) -> Images:
    """As many images as the starts look at, spread over the set, held in memory at low frequencies."""
    count, how = len(loader.particles), config.bootstrap
    wanted = 2 * how.steps * how.batch_size + how.held_out
    chosen = np.arange(count)
    if count > wanted:
        chosen = np.sort(np.random.default_rng((config.seed, count)).choice(count, wanted, replace=False))
    box, pixel_size = loader.disc.box_size, float(loader.particles.pixel_size.median())
    band = how.band(how.steps, box)
    parts = [views_on_grid(batch, loader, spectra.noise, band) for batch in loader.batches(chosen)]
    views = [View.joined(same) for same in zip(*parts, strict=True)]
    return Images(views, spectra.signal, pixel_size, config.shift_extent_px * pixel_size)


def _report(folder: Path, starts: list[Start], seconds: float) -> None:
    """Log what the choice was made from, and say where it is not to be trusted."""
    evidence, features = [start.evidence for start in starts], starts[0].features
    runs.append_log(
        folder, {"event": "starts", "evidence": evidence, "features": features, "seconds": seconds}
    )
    listed = ", ".join(f"{value:.1f}" for value in evidence)
    logger.info("first maps: evidence of held-out images, nats, best start first: %s", listed)
    if features < DOUBT:
        logger.warning(
            "the first map is featureless: held-out images fit it no better than a ball (%.1f nats each). Do "
            "not trust what follows; look whether the images hold particles and whether CTF and sign are "
            "right, or try another --seed.",
            features,
        )
    elif len(evidence) > 1 and evidence[0] - evidence[1] > DOUBT:
        # One is enough; where it is not, this says what to try.
        logger.info(
            "only one of %d grown starts came to the best map (the next explains held-out images worse by "
            "%.1f nats each): if maps look wrong, give more --starts",
            len(evidence),
            evidence[0] - evidence[1],
        )


def _written(folder: Path) -> bool:
    return any(entry.get("event") == "first maps" for entry in runs.read_log(folder))


def _write(folder: Path, subspace: Subspace) -> None:
    volumes = folder / runs.VOLUMES
    volumes.mkdir(exist_ok=True)
    for number, map_ in enumerate(subspace.maps):
        write_volume(volumes / f"{FIRST}_{number:03d}.mrc", map_.cpu().numpy(), subspace.pixel_size)
    runs.append_log(folder, {"event": "first maps", "maps": len(subspace.maps)})


def _read(folder: Path, device: torch.device) -> Subspace:
    (count,) = [entry["maps"] for entry in runs.read_log(folder) if entry["event"] == "first maps"]
    files = [read_volume(folder / runs.VOLUMES / f"{FIRST}_{number:03d}.mrc") for number in range(count)]
    maps = torch.stack([torch.from_numpy(np.array(file.array)) for file in files])
    return Subspace(maps.to(device), files[0].pixel_size)
