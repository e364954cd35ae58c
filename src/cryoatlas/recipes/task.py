"""A run with known poses that has begun: what its engine is told."""

from dataclasses import dataclass
from pathlib import Path

import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.particles.batch import Loader
from cryoatlas.particles.pairs import TiltedImages, make_loader
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.progress import Progress, StopRequested
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.device import images_at_once


@dataclass(frozen=True)
class Task:
    """Images with poses, the folder that the run goes to, and who is told of the work."""

    particles: ParticleSet
    second: TiltedImages | None
    """A second image of each particle, if there is one."""
    folder: Path
    preprocessor: Preprocessor
    going_on: bool
    """Whether the folder was there before, of the same options and particles."""
    device: torch.device
    progress: Progress
    stop_requested: StopRequested

    def at_once(self, chunk: int) -> int:
        """Images worked on together, if it is so many on a CPU."""
        return images_at_once(chunk, self.particles.box_size, self.device)

    def loader(self, batch_size: int, disc: Disc | None = None) -> Loader:
        """Batches of the images, normalised.

        Args:
            disc: of the images; default a new one.
        """
        disc = disc or Disc(self.particles.box_size)
        return make_loader(self.particles, self.preprocessor, disc, batch_size, self.device, self.second)

    def log_start(self, epoch: int, **more: int) -> None:
        """Log that work begins, or goes on, with this epoch."""
        runs.append_log(self.folder, {"event": "start", "epoch": epoch, **more, "device": str(self.device)})
