r"""What lies between a specimen and its stored image, undone or made part of the model.

- *Odd phase errors* (beam tilt, coma, trefoil) are undone on the image. That multiplies its transform by
  numbers of modulus 1 and leaves white and coloured noise what they were.
- *Even phase errors* and *magnification* enter the CTF, which is evaluated at the specimen's frequencies.
- *Phase-flipped images* are modelled with |ĝ| in place of ĝ.
- *Premultiplied images* y' = ĝ y hold noise of standard deviation σ|ĝ|, not σ. They are divided by a
  positive number, and their CTF becomes ĝ²/c:

  .. math:: y' / c \approx (\hat g^2 / c)\, S(t) A(R) \hat V + \varepsilon, \qquad
            c(k) = \max\bigl(|\hat g(k)|,\, \epsilon E(k)\bigr),

  E being the envelope that ĝ swings between (scale and B-factor). Where |ĝ| > εE this is y sign(ĝ) beside
  |ĝ| S A V: the likelihood of the image before it was multiplied. Nearer to its zeros the CTF carries
  little, and the noise there is no longer ĝ times white noise, because images are windowed, and often
  cut out, after they were multiplied: division by less would amplify what leaks in from beside.
"""

import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.imaging.aberrations import even_phase, odd_phase
from cryoatlas.imaging.ctf import contrast_transfer, envelope
from cryoatlas.imaging.projection import plane_frequencies
from cryoatlas.imaging.shift import turn_phase_hartley
from cryoatlas.particles.microscope import AppliedCTF
from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.shapes import Float, Int, Tensor

SMALLEST_SHARE = 0.4
"""ε. Of 0.05, 0.2 and 0.4 the one with which premultiplied images, windowed and cut out, have the noise of
those that were not multiplied; 1 % of their information is given up (benchmarks/LOG.md)."""
SMALLEST_ENVELOPE = 0.05
"""E is taken to be no less: where it is, there is nothing to be seen, and nothing must grow."""


class Transfer:
    """Undoes phase errors of images and evaluates their CTF, for the images of a set.

    Images of one pixel size and one kind of aberrations share a *setting*; frequencies and phases are
    computed once for every setting in a batch.

    Args:
        particles: the set.
        disc: the coefficients kept.
        device: where to compute.
    """

    def __init__(self, particles: ParticleSet, disc: Disc, device: torch.device) -> None:
        self.particles = particles
        self.disc = disc
        self.device = device
        sizes, size = particles.pixel_size.unique(return_inverse=True)
        aberrations = particles.aberrations
        kind = torch.zeros_like(size) if aberrations is None else aberrations.kind
        found, self._setting = (kind * len(sizes) + size).unique(return_inverse=True)
        self._kind, self._pixel_size = found // len(sizes), sizes[found % len(sizes)]
        applied = particles.applied_ctf
        self._premultiplied = applied is not None and bool((applied == AppliedCTF.ALL).any())
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
        place = place.to(self.device)
        images = self._without_odd_phase(images, present, plane, place)
        if self.particles.ctf is None:
            return images, None
        return self._as_stored(index, images, *self._contrast(index, present, plane, place))

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
        return turn_phase_hartley(images, -phase[place])

    def _contrast(
        self,
        index: Int[Tensor, "image"],
        present: Int[Tensor, "setting"],
        plane: Float[Tensor, "setting pixel 2"],
        place: Int[Tensor, "image"],
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"] | None]:
        """ĝ with the scale of the signal; and E, where images are premultiplied."""
        particles, aberrations = self.particles, self.particles.aberrations
        assert particles.ctf is not None
        # The CTF is even and a disc's list is closed under k → −k, so half of it is enough.
        half = (len(self.disc) + 1) // 2
        plane, phase = plane[:, :half], None
        if aberrations is not None and aberrations.even.any():
            phase = even_phase(plane, aberrations.even[self._kind[present]].to(self.device))
        if len(present) > 1:
            plane, phase = plane[place], None if phase is None else phase[place]
        parameters = particles.ctf[index].to(self.device)
        scale = particles.ctf_scale[index].to(self.device)[:, None]

        def whole(values: Float[Tensor, "image half"]) -> Float[Tensor, "image pixel"]:
            scaled = (scale * values).float()
            return torch.cat([scaled, scaled[:, : len(self.disc) - half].flip(-1)], -1)

        # In float64: the phase of the CTF runs to hundreds of radians.
        contrast = whole(contrast_transfer(plane, parameters, phase))
        return contrast, whole(envelope(plane, parameters)) if self._premultiplied else None

    def _as_stored(
        self,
        index: Int[Tensor, "image"],
        images: Float[Tensor, "image pixel"],
        ctf: Float[Tensor, "image pixel"],
        envelope: Float[Tensor, "image pixel"] | None,
    ) -> tuple[Float[Tensor, "image pixel"], Float[Tensor, "image pixel"]]:
        """Account for what images were multiplied by before they were stored."""
        if self.particles.applied_ctf is None:
            return images, ctf
        applied = self.particles.applied_ctf[index].to(self.device)[:, None]
        ctf = torch.where(applied == AppliedCTF.SIGN, ctf.abs(), ctf)
        if envelope is None:
            return images, ctf
        least = SMALLEST_SHARE * envelope.clamp(min=SMALLEST_ENVELOPE)
        divisor = torch.where(applied == AppliedCTF.ALL, torch.maximum(ctf.abs(), least), 1)
        return images / divisor, torch.where(applied == AppliedCTF.ALL, ctf.square() / divisor, ctf)
