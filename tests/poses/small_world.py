"""A small body, images of it at known poses, and the views that pose search wants."""

import numpy as np
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import random_rotations
from cryoatlas.imaging.body import Body, Bond, MovingBody
from cryoatlas.imaging.ctf import CTFParameters, contrast_transfer
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import plane_frequencies, predict
from cryoatlas.imaging.volume import GaussianBody, Volume
from cryoatlas.poses.view import View

BOX, PIXEL = 24, 3.0
DISC = Disc(BOX)


def body(seed: int = 0) -> GaussianBody:
    """Twelve Gaussians without symmetry inside a ball of 18 Å."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(12, 3, generator=generator), dim=1)
    centres = 18 * torch.rand(12, 1, generator=generator) ** (1 / 3) * direction
    return GaussianBody(
        centres - centres.mean(0), 20 + 40 * torch.rand(12, generator=generator), 3.0, BOX, PIXEL
    )


def swinging_body(seed: int = 0) -> MovingBody:
    """The body with a third of it, up to 18 Å from the origin, turning about an axis by z radians."""
    atoms = body(seed)
    bond = Bond(torch.zeros(3), torch.tensor([0.6, 0.0, 0.8]), torch.arange(12) < 4)
    return MovingBody(Body(atoms.centres, atoms.weights, (bond,)), atoms.sigma, BOX, PIXEL)


def random_poses(count: int, seed: int, largest_shift: float = 4.0) -> Pose:
    generator = np.random.default_rng(seed)
    shift = torch.from_numpy(generator.uniform(-largest_shift, largest_shift, (count, 2)))
    return Pose(random_rotations(count, generator), shift)


def contrast(count: int, seed: int) -> torch.Tensor:
    """CTFs of different defocus, with astigmatism."""
    generator = torch.Generator().manual_seed(seed)
    defocus = 3000 + 4000 * torch.rand(count, generator=generator, dtype=torch.float64)
    parameters = CTFParameters.build(
        count,
        defocus_u=defocus,
        defocus_v=defocus - 300,
        defocus_angle=0.4,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    plane = plane_frequencies(DISC, torch.full((1,), PIXEL, dtype=torch.float64))
    return contrast_transfer(plane, parameters).float()


def make_view(
    volume: Volume,
    pose: Pose,
    *,
    sigma: float = 0.0,
    ctf: torch.Tensor | None = None,
    tilt: torch.Tensor | None = None,
    seed: int = 0,
    z: torch.Tensor | None = None,
) -> View:
    """Images of the body at these poses, and these z; σ = 0 is whitened as if it were 1."""
    plane = plane_frequencies(DISC, torch.full((1,), PIXEL))
    turned = pose if tilt is None else Pose(tilt.double() @ pose.rotation, pose.shift)
    images = predict(volume, plane, turned.to(torch.float32), ctf, z)
    if sigma:
        generator = torch.Generator().manual_seed(seed)
        images = images + sigma * torch.randn(images.shape, generator=generator)
    return View.of(images, ctf, DISC, NoiseModel.white(sigma or 1.0, BOX), PIXEL, tilt)
