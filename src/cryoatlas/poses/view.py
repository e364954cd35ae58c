r"""Images as pose search sees them: whitened complex coefficients on half a disc, ordered by |k|.

A Hartley transform holds k and −k apart; half of the disc in complex numbers holds the same and makes
a shift one multiplication. Whitening by σ turns −log p(X | V, φ) of eq. 3 into ½ ‖x − c S(t) h(R)‖²
with x = X̂/σ, c = ĝ/σ and h = A(R) V̂. Coefficients come in order of |k|, so that a band is a prefix.
The zero frequency, which no pose changes, is left out.

Wherever volumes depend on z, it is given as one vector for all images or as a row for each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.projection import slice_frequencies
from cryoatlas.imaging.shift import phase_ramp
from cryoatlas.imaging.volume import Volume
from cryoatlas.portions import Portion
from cryoatlas.shapes import Complex, Float, Int, Tensor

POINTS_AT_ONCE = Portion(2**19, 2**21)
"""Frequencies, with their opposites, that a volume is asked for at a time; bounds the memory of networks."""

Latent = Float[Tensor, "latent"] | Float[Tensor, "#image latent"]
"""z of the images: one for all, as a vector or as the only row, or a row for each."""


@dataclass(frozen=True)
class HalfDisc:
    """One of each pair k, −k of a disc's coefficients, by increasing |k|, without k = 0."""

    box_size: int
    order: Int[Tensor, "half"]
    """Positions in the disc's list; those of the opposite frequencies count from the list's end."""
    plane: Float[Tensor, "half 2"]
    """(kx, ky), Å⁻¹."""
    radius: Float[Tensor, "half"]
    """|k|, cycles per box."""

    @classmethod
    def of(cls, disc: Disc, pixel_size: float, *, like: Tensor | None = None) -> "HalfDisc":
        """The half of a disc of images with this pixel size (Å), on the device and in the dtype of `like`."""
        like = torch.empty(0) if like is None else like
        length = torch.linalg.vector_norm(disc.frequencies, dim=-1)
        order = torch.argsort(length[: len(disc) // 2], stable=True)
        plane = disc.frequencies[order] / (disc.box_size * pixel_size)
        return cls(disc.box_size, order.to(like.device), plane.to(like), length[order].to(like))

    def count(self, radius: float) -> int:
        """How many coefficients lie within a band; they are the first."""
        return int((self.radius < radius).sum())

    def spectrum(self, hartley: Float[Tensor, "*batch pixel"]) -> Complex[Tensor, "*batch half"]:
        """√2 F(k) from the disc's Hartley coefficients: the sum of squares stays what it was."""
        return to_spectrum(hartley[..., self.order], hartley.flip(-1)[..., self.order])


@dataclass(frozen=True)
class View:
    """Images of some particles, all taken in one direction relative to the particles' poses."""

    half: HalfDisc
    spectrum: Complex[Tensor, "image half"]
    """x = √2 F/σ."""
    transfer: Float[Tensor, "image half"]
    """c = ĝ/σ."""
    tilt: Float[Tensor, "3 3"]
    """The image's rotation is tilt · R for a particle of rotation R; the identity for untilted images."""
    symmetry: Float[Tensor, "element 3 3"] | None = None
    """g of the molecule's point group; None where it has none."""

    def __len__(self) -> int:
        return len(self.spectrum)

    def __getitem__(self, index: Int[Tensor, "some"] | slice) -> "View":
        return replace(self, spectrum=self.spectrum[index], transfer=self.transfer[index])

    @classmethod
    def joined(cls, parts: Sequence["View"]) -> "View":
        """The images of several views of one kind."""
        return replace(
            parts[0],
            spectrum=torch.cat([part.spectrum for part in parts]),
            transfer=torch.cat([part.transfer for part in parts]),
        )

    def inside(self, radius: float) -> "View":
        """The coefficients within a band (cycles per box) alone."""
        kept = slice(self.half.count(radius))
        half = replace(
            self.half, order=self.half.order[kept], plane=self.half.plane[kept], radius=self.half.radius[kept]
        )
        return replace(self, half=half, spectrum=self.spectrum[:, kept], transfer=self.transfer[:, kept])

    @classmethod
    def of(
        cls,
        images: Float[Tensor, "image pixel"],
        ctf: Float[Tensor, "image pixel"] | None,
        disc: Disc,
        noise: NoiseModel,
        pixel_size: float,
        tilt: Float[Tensor, "3 3"] | None = None,
        symmetry: Float[Tensor, "element 3 3"] | None = None,
    ) -> "View":
        """From Hartley coefficients in a disc.

        Args:
            images: X̂.
            ctf: ĝ; None for images without.
            noise: σ² by shell.
            pixel_size: of all these images, Å.
            tilt: see `View.tilt`; default none.
            symmetry: see `View.symmetry`.
        """
        half = HalfDisc.of(disc, pixel_size, like=images)
        deviation = noise.on(disc).to(images).sqrt()[half.order]
        contrast = torch.ones_like(images) if ctf is None else ctf
        turn = torch.eye(3) if tilt is None else tilt
        return cls(
            half,
            half.spectrum(images) / deviation,
            contrast[:, half.order] / deviation,
            turn.to(images),
            None if symmetry is None else symmetry.to(images),
        )

    def rotations(self, rotation: Float[Tensor, "pose 3 3"]) -> list[Float[Tensor, "pose 3 3"]]:
        """tilt · R g for each g of the molecule's symmetry: where all that an image shows of it belongs."""
        turned = self.tilt @ rotation.to(self.tilt)
        return [turned] if self.symmetry is None else [turned @ element for element in self.symmetry]

    def slices(
        self,
        volume: Volume,
        rotation: Float[Tensor, "pose 3 3"],
        z: Float[Tensor, "latent"] | Float[Tensor, "#pose latent"] | None = None,
        count: int | None = None,
    ) -> Complex[Tensor, "pose kept"]:
        """h = A(tilt · R) V̂(z) for any rotations, the first `count` coefficients of each."""
        freqs = self._slice_frequencies(rotation, count)
        latent = as_rows(z)
        if latent is not None and len(latent) > 1:
            return spectrum_at(volume, freqs, latent)
        return spectrum_at(volume, freqs.flatten(0, 1)[None], latent).reshape(freqs.shape[:2])

    def slices_of_each(
        self,
        volume: Volume,
        rotation: Float[Tensor, "pose 3 3"],
        z: Float[Tensor, "image latent"],
        count: int | None = None,
    ) -> Complex[Tensor, "image pose kept"]:
        """The same slices of every image's own volume."""
        freqs = self._slice_frequencies(rotation, count)
        return spectrum_at(volume, freqs.flatten(0, 1)[None], z).unflatten(1, freqs.shape[:2])

    def _slice_frequencies(
        self, rotation: Float[Tensor, "pose 3 3"], count: int | None
    ) -> Float[Tensor, "pose kept 3"]:
        plane = self.half.plane[:count]
        return slice_frequencies(plane[None], self.tilt @ rotation.to(plane))

    def moved_back(
        self, shift: Float[Tensor, "image 2"], count: int | None = None
    ) -> Complex[Tensor, "image kept"]:
        """c S(−t) x, one shift (Å) for each image: what correlates with unshifted slices."""
        ramp = phase_ramp(self.half.plane[None, :count], -shift.to(self.half.plane))
        return self.transfer[:, :count] * self.spectrum[:, :count] * ramp

    def power(self, count: int | None = None) -> Float[Tensor, "image"]:
        """‖x‖²."""
        return as_real(self.spectrum[:, :count]).square().sum(-1)


def as_rows(z: Latent | None) -> Float[Tensor, "#image latent"] | None:
    """z as rows: a single one if all images share it."""
    return z[None] if z is not None and z.dim() == 1 else z


def spectrum_at(
    volume: Volume, freqs: Float[Tensor, "#row point 3"], z: Float[Tensor, "row latent"] | None
) -> Complex[Tensor, "row point"]:
    """√2 F(k) of V(z) at the points of each row; one row of points serves all z."""
    rows = len(freqs) if z is None else max(len(freqs), len(z))
    some = freqs.split(POINTS_AT_ONCE.rows(rows, freqs.device), 1)
    parts = [to_spectrum(*volume.hartley_pair(part, z)) for part in some]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def to_spectrum(
    forward: Float[Tensor, "*batch half"], backward: Float[Tensor, "*batch half"]
) -> Complex[Tensor, "*batch half"]:
    """√2 F(k) from H(k) = Re − Im and H(−k) = Re + Im."""
    return torch.complex(forward + backward, backward - forward) / math.sqrt(2)


def as_real(spectrum: Complex[Tensor, "*batch half"]) -> Float[Tensor, "*batch two_half"]:
    """Real and imaginary parts side by side: Re⟨a, b⟩ of two spectra is the product of these."""
    return torch.view_as_real(spectrum).flatten(-2)
