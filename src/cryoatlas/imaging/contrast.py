r"""How strongly each image shows its particle: X̂ = a p + ε, p = ĝ S A V̂, with a ~ N(1, τ²).

Ice thickness, dose and neighbours scale the signal of an image against its noise. Given the prediction p
and Gaussian noise, the posterior of the factor is Gaussian in closed form. With ⟨x, y⟩ = Σ x y/σ²,

.. math::
    q(a) = N\!\left(\bar a = \frac{1 + \tau^2 \langle X, p\rangle}{1 + \tau^2 \langle p, p\rangle},\;
    v = \frac{\tau^2}{1 + \tau^2 \langle p, p\rangle}\right)

and −log p(X) is, for this q, and bounded by, for any other,

.. math::
    \tfrac12\langle X - \bar a p, X - \bar a p\rangle + \tfrac12 v \langle p, p\rangle
    + \mathrm{KL}(q \,\|\, N(1, \tau^2)) + \mathrm{const}

For τ = 0 the factor is 1 and the misfit ½⟨X − p, X − p⟩.

How much contrasts vary is seen in s = ⟨X − p, p⟩, which has the variance I + τ²I² with I = ⟨p, p⟩: so the
sum over images of s² − I has the mean τ² Σ I², without iteration and whatever was assumed of τ before.
"""

from dataclasses import dataclass

import torch

from cryoatlas.shapes import Float, Tensor


@dataclass(frozen=True)
class Contrast:
    """Posterior of the contrast factor of each image, a Gaussian."""

    mean: Float[Tensor, "image"]
    variance: Float[Tensor, "image"]


def fit_contrast(
    observed: Float[Tensor, "image pixel"],
    predicted: Float[Tensor, "image pixel"],
    precision: Float[Tensor, "pixel"],
    prior_variance: Float[Tensor, ""],
) -> Contrast:
    """The factors a with which predictions explain images best, near 1 as far as the prior holds them.

    Args:
        precision: 1/σ² of each coefficient.
        prior_variance: τ².
    """
    agreement = (observed * predicted * precision).sum(-1)
    narrowed = 1 + prior_variance * (predicted.square() * precision).sum(-1)
    return Contrast((1 + prior_variance * agreement) / narrowed, prior_variance / narrowed)


def misfit_over_contrasts(
    observed: Float[Tensor, "image pixel"],
    predicted: Float[Tensor, "image pixel"],
    precision: Float[Tensor, "pixel"],
    contrast: Contrast,
    prior_variance: Float[Tensor, ""],
) -> Float[Tensor, "image"]:
    """The bound on −log p(X) above, without the noise's normalisation ½ Σ log 2πσ².

    Args:
        precision: w/σ² of each coefficient. Weights w may make a draw of coefficients stand for all; the
            factors are fitted without, since a draw knows them no better than its own noise allows.
        contrast: q(a).
        prior_variance: τ².
    """
    residual = observed - contrast.mean[:, None] * predicted
    squares = residual.square() + contrast.variance[:, None] * predicted.square()
    # Where τ is 0 so are the variances and departures divided by it.
    width = prior_variance.clamp(min=torch.finfo(observed.dtype).tiny)
    narrowed = torch.where(prior_variance > 0, contrast.variance / width, 1.0)
    departure = torch.where(prior_variance > 0, (contrast.mean - 1).square() / width, 0.0)
    divergence = narrowed - 1 - torch.log(narrowed) + departure
    return 0.5 * ((squares * precision).sum(-1) + divergence)


def contrast_moments(
    observed: Float[Tensor, "image pixel"],
    predicted: Float[Tensor, "image pixel"],
    precision: Float[Tensor, "pixel"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Σ (s² − I) and Σ I² over images; the first over the second estimates τ².

    Args:
        precision: 1/σ² of each coefficient.
    """
    overlap = ((observed - predicted) * predicted * precision).sum(-1).double()
    information = (predicted.square() * precision).sum(-1).double()
    return (overlap.square() - information).sum(), information.square().sum()
