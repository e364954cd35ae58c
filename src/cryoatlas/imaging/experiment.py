"""An imagined experiment: a body in its states, seen in many poses through a microscope."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch

from cryoatlas.fourier.lattice import frequency_grid
from cryoatlas.fourier.transform import inverse_fourier
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_x
from cryoatlas.imaging.body import Body
from cryoatlas.imaging.ctf import CTFParameters, contrast_transfer
from cryoatlas.imaging.exact import Projector, sum_directly
from cryoatlas.imaging.volume import GaussianBody
from cryoatlas.shapes import Array, Float, Int, Tensor

PIXELS_AT_A_TIME = 2**19
"""Images are made in pieces of about this many pixels (128 of 64²), which bounds the memory."""
REMEMBERED_BYTES = 2**28
"""Memory for the atoms' positions in the states."""


@dataclass(frozen=True)
class Experiment:
    """Everything about a set of images but the noise."""

    body: Body
    angles: Float[Tensor, "state bond"]
    """Of every bond of the body in each state, radians."""
    state: Int[Tensor, "image"]
    """Which state each image shows."""
    pose: Pose
    """One for each image, float64."""
    ctf: CTFParameters | None
    """One row for each image; None for none."""
    box_size: int
    pixel_size: float
    sigma: float
    """Standard deviation of the atoms, Å."""
    contrast: Float[Tensor, "image"] | None = None
    """What the signal of each image is multiplied by; None for 1."""

    def __len__(self) -> int:
        return len(self.state)

    def volume(self, state: int) -> GaussianBody:
        """The body in a state."""
        return self.body.gaussians(self.angles[state], self.sigma, self.box_size, self.pixel_size)

    def tilted(self, angle: float) -> "Experiment":
        """The same particles after turning the specimen by `angle` radians about the image's x axis.

        Shifts and CTF stay as they are, as in the paper's tilt pairs.
        """
        return replace(self, pose=Pose(about_x(angle) @ self.pose.rotation, self.pose.shift))

    def projector(self) -> Projector:
        """What `clean_images` projects with; one for each thread."""
        return Projector(self.body.weights, self.sigma, self.box_size, self.pixel_size)

    def clean_images(
        self, indices: Int[Tensor, "some"], projector: Projector | None, device: torch.device | None = None
    ) -> Float[Tensor, "some box box"]:
        """Images without noise, a ĝ S(t) A(R) V̂ of eq. 2 in real space, float32; a is the contrast.

        Args:
            projector: None to sum over atoms directly.
            device: where to compute; images come back to the CPU.
        """
        if projector is None:
            spectra = self._summed_directly(indices, device)
        else:
            spectra = torch.stack([self._spectrum(int(i), projector) for i in indices])
        if self.ctf is not None:
            freqs = frequency_grid(self.box_size, 2).flatten(0, 1) / (self.box_size * self.pixel_size)
            transfer = contrast_transfer(freqs[None].to(spectra.device), self.ctf[indices].to(spectra.device))
            spectra *= transfer.unflatten(-1, (self.box_size, self.box_size))
        if self.contrast is not None:
            spectra *= self.contrast[indices, None, None].to(spectra.device)
        return inverse_fourier(spectra).real.float().cpu()

    def _summed_directly(self, indices: Int[Tensor, "some"], device: torch.device | None) -> Tensor:
        states, place = self.state[indices].unique(return_inverse=True)
        centres = torch.stack([self._centres(int(state)) for state in states]).to(device)[place.to(device)]
        pose, weights = self.pose[indices].to(device), self.body.weights.to(device)
        return sum_directly(centres, weights, pose, self.sigma, self.box_size, self.pixel_size)

    def _spectrum(self, image: int, projector: Projector) -> Tensor:
        centres = self._centres(int(self.state[image]))
        return projector(centres, self.pose.rotation[image], self.pose.shift[image])

    @cached_property
    def _centres(self) -> Callable[[int], Tensor]:
        """Positions of the atoms in a state, remembered for as many states as fit."""
        kept = max(1, REMEMBERED_BYTES // self.body.centres.nbytes)
        return lru_cache(kept)(lambda state: self.body.turned(self.angles[state]))


def stream_clean_images(
    experiment: Experiment,
    indices: Int[Tensor, "some"],
    workers: int | None = None,
    device: torch.device | None = None,
) -> Iterator[Float[Tensor, "piece box box"]]:
    """Images without noise, in the order asked for, piece by piece.

    Pieces are made by a few threads, each image by one of them, so that the values do not depend on
    how many there are; or on another device, one after the other, and then to rounding as there.

    Args:
        workers: number of threads; None for one per available core.
        device: None for the CPU.
    """
    pieces = deque(indices.split(max(1, PIXELS_AT_A_TIME // experiment.box_size**2)))
    if device is not None and device.type != "cpu":
        yield from (experiment.clean_images(piece, None, device) for piece in pieces)
        return
    workers = workers or available_cores()
    own = threading.local()

    def make(piece: Int[Tensor, "piece"]) -> Float[Tensor, "piece box box"]:
        if not hasattr(own, "projector"):
            own.projector = experiment.projector()
        return experiment.clean_images(piece, own.projector)

    with ThreadPoolExecutor(workers) as pool:
        coming = deque(pool.submit(make, pieces.popleft()) for _ in range(min(workers + 1, len(pieces))))
        try:
            while coming:
                images = coming.popleft().result()
                if pieces:
                    coming.append(pool.submit(make, pieces.popleft()))
                yield images
        finally:
            pool.shutdown(cancel_futures=True)


def signal_variance(
    experiment: Experiment,
    count: int,
    generator: np.random.Generator,
    device: torch.device | None = None,
) -> float:
    """Variance of the signal over the whole frame (C8), the mean over `count` images drawn at random."""
    count = min(count, len(experiment))
    chosen = torch.from_numpy(np.sort(generator.choice(len(experiment), count, replace=False)))
    total = sum(
        float(images.double().var((-2, -1), correction=0).sum())
        for images in stream_clean_images(experiment, chosen, device=device)
    )
    return total / count


def white_noise(
    shape: tuple[int, ...], deviation: float, generator: np.random.Generator
) -> Float[Array, "..."]:
    """Gaussian noise, float32; the same whether it is drawn at once or in pieces."""
    return np.float32(deviation) * generator.standard_normal(shape, dtype=np.float32)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
