r"""What an epoch's comparisons say about noise and contrast: an M-step beside the gradient steps.

The variance of the noise in a shell that maximises the likelihood is the mean square of its residuals over
the posterior of the contrast; the variance of contrasts follows from moments (`imaging.contrast`). Sums
run while the networks learn; `Trainer` puts the new variances in place at the end of each epoch.
"""

import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.fourier.shells import shell_sum
from cryoatlas.imaging.contrast import contrast_moments
from cryoatlas.models.vae import VAE
from cryoatlas.shapes import Float, Tensor
from cryoatlas.training.objective import Compared


class ResidualStatistics:
    """Sums of squared residuals by shell, and those that tell the variance of contrasts; float64."""

    def __init__(self, disc: Disc, device: torch.device | str = "cpu") -> None:
        self.disc = disc
        self._shells = disc.box_size // 2 + 1
        self._power = torch.zeros(self._shells, dtype=torch.float64, device=device)
        self._weight = torch.zeros_like(self._power)
        self._spread = torch.zeros((), dtype=torch.float64, device=device)
        self._information = torch.zeros_like(self._spread)

    @torch.no_grad()
    def add(self, compared: Compared, vae: VAE) -> None:
        """Take in images beside their predictions."""
        observed, predicted, contrast = compared.observed, compared.predicted, compared.contrast(vae)
        factor, doubt = contrast.mean[:, None], contrast.variance[:, None]
        # The mean over the posterior of a of |X − a p|².
        squares = (observed - factor * predicted).square() + doubt * predicted.square()
        shells = self.disc.shells.to(observed.device)[compared.draw.keep]
        weight = compared.draw.weight.double()
        self._power += shell_sum(squares.sum(0).double() * weight, shells, self._shells)
        self._weight += len(observed) * shell_sum(weight, shells, self._shells)
        precision = 1 / vae.noise.on(self.disc)[compared.draw.keep]
        spread, information = contrast_moments(observed, predicted, precision)
        self._spread += spread
        self._information += information

    def noise_variance(self, fallback: Float[Tensor, "shell"]) -> Float[Tensor, "shell"]:
        """Of each shell; that of `fallback` in shells in which nothing was compared."""
        measured = (self._power / self._weight.clamp(min=1e-300)).to(fallback)
        return torch.where(self._weight > 0, measured, fallback)

    def contrast_variance(self) -> Float[Tensor, ""]:
        """τ² of the images seen; 0 if they vary less than noise alone would make them."""
        return (self._spread / self._information.clamp(min=1e-300)).clamp(min=0).float()

    def state(self) -> dict[str, Tensor]:
        """The sums, for a checkpoint."""
        return {
            "power": self._power,
            "weight": self._weight,
            "spread": self._spread,
            "information": self._information,
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the sums of a checkpoint."""
        for name, value in self.state().items():
            value.copy_(state[name])
