r"""The contrast transfer function, with RELION's constants and sign.

.. math::
    \gamma(k, \alpha) &= \pi\lambda\,\Delta f(\alpha)\,k^2 - \tfrac{\pi}{2} C_s\lambda^3 k^4
                         + \varphi + \arcsin w \\
    \mathrm{CTF}(k, \alpha) &= \sin\gamma \; e^{-B k^2/4}

with defocus Δf(α) = ½(u + v) + ½(u − v) cos 2(α − α₀), positive for underfocus, amplitude contrast w
and phase shift φ. Near k = 0 it is +w and grows with underfocus: bright particles, positive density
(convention C7).
"""

from dataclasses import dataclass, fields

import torch

from cryoatlas.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class CTFParameters:
    """Microscope parameters of each image; every field a float64 tensor of shape (image,)."""

    defocus_u: Float[Tensor, "image"]
    """Defocus along the astigmatism axis, Å, positive for underfocus."""
    defocus_v: Float[Tensor, "image"]
    """Defocus across that axis, Å."""
    defocus_angle: Float[Tensor, "image"]
    """Direction of the axis, radians from x towards y."""
    voltage_kv: Float[Tensor, "image"]
    spherical_aberration_mm: Float[Tensor, "image"]
    amplitude_contrast: Float[Tensor, "image"]
    """Fraction w, 0 … 1."""
    phase_shift: Float[Tensor, "image"]
    """Of a phase plate, radians."""
    b_factor: Float[Tensor, "image"]
    """Envelope exp(−B k²/4), Å²; 0 for none."""
    exposure: Float[Tensor, "image"]
    """Electrons per Å² that the specimen has taken, for its `radiation_damage`; 0 for none."""

    @classmethod
    def build(cls, count: int, **values: float | Tensor) -> "CTFParameters":
        """Parameters of `count` images, scalars or tensors; phase shift, B-factor, exposure default to 0."""
        given = {"phase_shift": 0.0, "b_factor": 0.0, "exposure": 0.0, **values}
        return cls(
            **{f.name: torch.as_tensor(given[f.name], dtype=torch.float64).expand(count) for f in fields(cls)}
        )

    def __len__(self) -> int:
        return len(self.defocus_u)

    def __getitem__(self, index: Int[Tensor, "some"] | slice) -> "CTFParameters":
        return self._map(lambda value: value[index])

    def to(self, *args: object, **kwargs: object) -> "CTFParameters":
        """Move or convert every field, as `Tensor.to`."""
        return self._map(lambda value: value.to(*args, **kwargs))

    def _map(self, function) -> "CTFParameters":
        return CTFParameters(**{f.name: function(getattr(self, f.name)) for f in fields(self)})


def electron_wavelength(voltage_kv: Float[Tensor, "*image"]) -> Float[Tensor, "*image"]:
    """Relativistic wavelength in Å, with the constants RELION uses."""
    volts = 1000 * voltage_kv
    return 12.2643247 / torch.sqrt(volts * (1 + volts * 0.978466e-6))


def contrast_transfer(
    freqs: Float[Tensor, "#image pixel 2"],
    parameters: CTFParameters,
    even_phase: Float[Tensor, "#image pixel"] | None = None,
) -> Float[Tensor, "image pixel"]:
    """The CTF of every image at its frequencies.

    Args:
        freqs: (kx, ky), Å⁻¹; one list for all images, or one for each.
        parameters: in the dtype that the result is wanted in.
        even_phase: of the higher aberrations, subtracted from γ, radians (`aberrations.even_phase`).
    """
    p = {f.name: getattr(parameters, f.name)[:, None] for f in fields(parameters)}
    wavelength = electron_wavelength(p["voltage_kv"])
    spherical_aberration = 1e7 * p["spherical_aberration_mm"]
    kx, ky = freqs.unbind(-1)
    k2 = kx.square() + ky.square()
    # k² cos 2(α − α₀) without the angle: no arctangent, and no special case at k = 0.
    cos2, sin2 = torch.cos(2 * p["defocus_angle"]), torch.sin(2 * p["defocus_angle"])
    astigmatic = (kx.square() - ky.square()) * cos2 + 2 * kx * ky * sin2
    defocus_k2 = 0.5 * (
        (p["defocus_u"] + p["defocus_v"]) * k2 + (p["defocus_u"] - p["defocus_v"]) * astigmatic
    )
    gamma = (
        torch.pi * wavelength * defocus_k2
        - 0.5 * torch.pi * spherical_aberration * wavelength**3 * k2.square()
        + p["phase_shift"]
        + torch.asin(p["amplitude_contrast"])
    )
    if even_phase is not None:
        gamma = gamma - even_phase
    return torch.sin(gamma) * envelope(freqs, parameters)


def envelope(
    freqs: Float[Tensor, "#image pixel 2"], parameters: CTFParameters
) -> Float[Tensor, "image pixel"]:
    """exp(−B k²/4) and `radiation_damage`: what the CTF swings between, with either sign.

    Arguments as `contrast_transfer`.
    """
    k2 = freqs.square().sum(-1)
    decay = torch.exp(-parameters.b_factor[:, None] * k2 / 4)
    return decay * radiation_damage(k2, parameters.exposure) if parameters.exposure.any() else decay


def radiation_damage(
    k2: Float[Tensor, "#image pixel"], exposure: Float[Tensor, "image"]
) -> Float[Tensor, "image pixel"]:
    r"""exp(−N / 2Nₑ(k)) with the critical exposure Nₑ = 0.245 k^−1.665 + 2.81 e/Å².

    Grant and Grigorieff, eLife 2015, at 300 kV; as RELION does, for all voltages and all exposures.

    Args:
        k2: squared frequency, Å⁻².
        exposure: N, e/Å².
    """
    # Multiplied by k^1.665 above and below, so that nothing is divided by zero at k = 0.
    power = k2.pow(1.665 / 2)
    return torch.exp(-0.5 * exposure[:, None] * power / (0.245 + 2.81 * power))
