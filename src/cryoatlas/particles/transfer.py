r"""What lies between a specimen and its stored image, undone or made part of the model.

- *Odd phase errors* (beam tilt, coma, trefoil) are undone on the image. That multiplies its transform by
  numbers of modulus 1 and leaves white and coloured noise what they were.
- *Even phase errors* and *magnification* enter the CTF, which is evaluated at the specimen's frequencies.
- *Phase-flipped images* are modelled with |ĝ| in place of ĝ.
- *Premultiplied images* y' = ĝ y hold noise of standard deviation σ|ĝ|, not σ. They are divided by a
  positive number c(k), and their CTF becomes ĝ²/c, with

  .. math:: c^2(k) = \max\Bigl(\sum_{k'} \hat g^2(k')\, a(k - k'), \epsilon^2\Bigr), \qquad
            a(k) = |\hat w(k)|^2 / \sum_{k'} |\hat w(k')|^2 .

  The sum is the variance that the noise of y' has after the window w (`Preprocessor`), in units of that
  of y, so that premultiplied images have the same noise as all others, near the CTF's zeros too. Where
  ĝ changes little over a few coefficients c is |ĝ|, and what the model compares is y sign(ĝ) with
  |ĝ| S A V: the likelihood of the image before it was multiplied.
"""

import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.aberrations import even_phase, odd_phase
from cryoatlas.imaging.ctf import contrast_transfer
from cryoatlas.imaging.projection import plane_frequencies
from cryoatlas.imaging.shift import turn_phase_hartley
from cryoatlas.particles.microscope import AppliedCTF
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.shapes import Float, Int, Tensor

SMALLEST_DIVISOR = 0.05
"""ε: premultiplied images are divided by no less, so that what is no signal there cannot grow."""


class Transfer:
    """Undoes phase errors of images and evaluates their CTF, for the images of a set.

    Images of one pixel size and one kind of aberrations share a *setting*; frequencies and phases are
    computed once for every setting in a batch.

    Args:
        particles: the set.
        preprocessor: of its images, for the window.
        disc: the coefficients kept.
        device: where to compute.
    """

    def __init__(
        self, particles: ParticleSet, preprocessor: Preprocessor, disc: Disc, device: torch.device
    ) -> None:
        self.particles = particles
        self.disc = disc
        self.device = device
        sizes, size = particles.pixel_size.unique(return_inverse=True)
        aberrations = particles.aberrations
        kind = torch.zeros_like(size) if aberrations is None else aberrations.kind
        found, self._setting = (kind * len(sizes) + size).unique(return_inverse=True)
        self._kind, self._pixel_size = found // len(sizes), sizes[found % len(sizes)]
        applied = particles.applied_ctf
        premultiplied = applied is not None and bool((applied == AppliedCTF.ALL).any())
        self._noise = WindowedNoise(preprocessor.window.double(), disc, device) if premultiplied else None
        self._magnified = aberrations is not None and aberrations.is_anisotropic

    def __call__(
        self, index: Int[Tensor, "image"], images: Float[Tensor, "image pixel"]
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"] | None]:
        """Images to compare with ĝ S(t) A(R) V̂, and ĝ; None for images without CTF.

        Args:
            index: positions of the images in the set.
            images: their coefficients.
        """
        present, place = self._setting[index].unique(return_inverse=True)
        plane = plane_frequencies(
            self.disc, self._pixel_size[present].to(self.device), self._magnification(present)
        )
        images = self._without_odd_phase(images, present, plane, place)
        if self.particles.ctf is None:
            return images, None
        return self._as_stored(index, images, self._contrast(index, present, plane, place))

    def magnification(self, index: Int[Tensor, "image"]) -> Float[Tensor, "image 2 2"] | None:
        """M of each image, float32; None where it is 1 for the whole set."""
        found = self._magnification(self._setting[index])
        return None if found is None else found.float()

    def _magnification(self, settings: Int[Tensor, "some"]) -> Float[Tensor, "some 2 2"] | None:
        aberrations = self.particles.aberrations
        if aberrations is None or not self._magnified:
            return None
        return aberrations.magnification[self._kind[settings]].to(self.device)

    def _without_odd_phase(
        self,
        images: Float[Tensor, "image pixel"],
        present: Int[Tensor, "setting"],
        plane: Float[Tensor, "setting pixel 2"],
        place: Int[Tensor, "image"],
    ) -> Float[Tensor, "image pixel"]:
        aberrations = self.particles.aberrations
        if aberrations is None or not aberrations.odd.any():
            return images
        phase = odd_phase(plane, aberrations.odd[self._kind[present]].to(self.device)).float()
        return turn_phase_hartley(images, -phase[place.to(self.device)])

    def _contrast(
        self,
        index: Int[Tensor, "image"],
        present: Int[Tensor, "setting"],
        plane: Float[Tensor, "setting pixel 2"],
        place: Int[Tensor, "image"],
    ) -> Float[Tensor, "image pixel"]:
        """ĝ with the scale of the signal."""
        particles, aberrations = self.particles, self.particles.aberrations
        assert particles.ctf is not None
        # The CTF is even and a disc's list is closed under k → −k, so half of it is enough.
        half = (len(self.disc) + 1) // 2
        plane, phase = plane[:, :half], None
        if aberrations is not None and aberrations.even.any():
            phase = even_phase(plane, aberrations.even[self._kind[present]].to(self.device))
        if len(present) > 1:
            place = place.to(self.device)
            plane, phase = plane[place], None if phase is None else phase[place]
        # In float64: the phase of the CTF runs to hundreds of radians.
        contrast = contrast_transfer(plane, particles.ctf[index].to(self.device), phase)
        scaled = (particles.ctf_scale[index].to(self.device)[:, None] * contrast).float()
        return torch.cat([scaled, scaled[:, : len(self.disc) - half].flip(-1)], -1)

    def _as_stored(
        self,
        index: Int[Tensor, "image"],
        images: Float[Tensor, "image pixel"],
        ctf: Float[Tensor, "image pixel"],
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """Account for what images were multiplied by before they were stored."""
        if self.particles.applied_ctf is None:
            return images, ctf
        applied = self.particles.applied_ctf[index].to(self.device)[:, None]
        ctf = torch.where(applied == AppliedCTF.SIGN, ctf.abs(), ctf)
        if self._noise is None:
            return images, ctf
        divisor = self._noise(ctf.square()).sqrt().clamp(min=SMALLEST_DIVISOR)
        whole = applied == AppliedCTF.ALL
        return (
            torch.where(whole, images / divisor, images),
            torch.where(whole, ctf.square() / divisor, ctf),
        )


class WindowedNoise:
    """Variance of the coefficients of noise whose spectrum is given, after a window.

    Args:
        window: what images are multiplied by.
        disc: the coefficients; the spectrum beyond it counts as what it is near its edge.
        device: where to compute.
    """

    def __init__(self, window: Float[Tensor, "box box"], disc: Disc, device: torch.device) -> None:
        self._disc = disc
        box = disc.box_size
        # |ŵ|² in frequency is the window's autocorrelation in real space, which reaches over two boxes.
        spectrum = torch.fft.rfft2(window, s=(2 * box, 2 * box)).abs().square()
        lags = torch.fft.irfft2(spectrum, s=(2 * box, 2 * box))
        near = torch.fft.fftfreq(box, 1 / box).long()
        self._lags = (lags[near][:, near] / lags[0, 0]).float().to(device)
        self._inside = self._smooth(torch.ones(1, len(disc), device=device))

    def __call__(self, spectrum: Float[Tensor, "image pixel"]) -> Float[Tensor, "image pixel"]:
        """Variances after the window, divided by the mean of its square, for variances before."""
        return (self._smooth(spectrum) / self._inside).clamp(min=0)

    def _smooth(self, spectrum: Float[Tensor, "image pixel"]) -> Float[Tensor, "image pixel"]:
        lagged = torch.fft.fft2(torch.fft.ifftshift(self._disc.scatter(spectrum), dim=(-2, -1))) * self._lags
        return self._disc.gather(torch.fft.fftshift(torch.fft.ifft2(lagged).real, dim=(-2, -1)))
