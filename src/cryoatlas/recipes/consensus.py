"""One map of all images at their poses: where every reconstruction with known poses begins."""

from pathlib import Path

from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.io.mrc import write_volume
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.order import storage_order
from cryoatlas.progress import Progress
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.backprojection import Reconstruction, backproject


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
