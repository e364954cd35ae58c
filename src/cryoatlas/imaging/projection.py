r"""The forward model, X̂ = ĝ · S(t) · A(R) V̂ (eq. 2), on the coefficients of a disc."""

import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.shift import shift_hartley
from cryoatlas.imaging.volume import Volume
from cryoatlas.shapes import Float, Tensor


def plane_frequencies(
    disc: Disc,
    pixel_size: Float[Tensor, "image"],
    magnification: Float[Tensor, "image 2 2"] | None = None,
) -> Float[Tensor, "image pixel 2"]:
    """(kx, ky) in Å⁻¹ of a disc's coefficients, for images of the given pixel sizes (Å).

    With magnifications M that depend on direction these are M k, frequencies of the specimen, at which
    slices, CTF and aberrations are evaluated; shifts are in the image and go with k (convention C12).
    """
    cycles = disc.frequencies.to(pixel_size)
    plane = cycles / (disc.box_size * pixel_size[:, None, None])
    return plane if magnification is None else plane @ magnification.mT


def slice_frequencies(
    plane: Float[Tensor, "#image pixel 2"], rotation: Float[Tensor, "image 3 3"]
) -> Float[Tensor, "image pixel 3"]:
    """Where the image plane lies in the volume: Rᵀ(kx, ky, 0), written for row vectors (C3)."""
    return plane @ rotation[:, :2, :]


def central_slices(
    volume: Volume,
    plane: Float[Tensor, "#image pixel 2"],
    rotation: Float[Tensor, "image 3 3"],
    z: Float[Tensor, "image latent"] | None = None,
) -> Float[Tensor, "image pixel"]:
    """A(R) V̂: Hartley coefficients of the projections along the image's z axis.

    Args:
        plane: from `plane_frequencies`, or any part of it that is closed under k → −k and keeps
            k = 0 in the middle: reversing the list must negate every frequency.
    """
    half = plane.shape[-2] // 2 + 1
    freqs = slice_frequencies(plane[..., :half, :], rotation)
    forward, backward = volume.hartley_pair(freqs, z)
    return torch.cat([forward, backward[..., :-1].flip(-1)], -1)


def predict(
    volume: Volume,
    plane: Float[Tensor, "#image pixel 2"],
    pose: Pose,
    ctf: Float[Tensor, "image pixel"] | None = None,
    z: Float[Tensor, "image latent"] | None = None,
) -> Float[Tensor, "image pixel"]:
    """The noise-free image that eq. 2 predicts: slice, shift, CTF."""
    shifted = shift_hartley(central_slices(volume, plane, pose.rotation, z), plane, pose.shift)
    return shifted if ctf is None else ctf * shifted


def correlation(
    first: Float[Tensor, "*batch pixel"], second: Float[Tensor, "*batch pixel"]
) -> Float[Tensor, "*batch"]:
    """Pearson correlation of two images over real space, from their coefficients without k = 0.

    Dropping the zero frequency is subtracting the mean; the transform being orthonormal does the rest.
    """
    centre = first.shape[-1] // 2
    keep = torch.arange(first.shape[-1], device=first.device) != centre
    a, b = first[..., keep], second[..., keep]
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
