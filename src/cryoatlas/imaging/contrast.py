r"""How strongly each image shows its particle: X̂ = a p + ε, p = ĝ S A V̂, with a ~ N(1, τ²).

Ice thickness, dose and neighbours scale the signal of an image against its noise. Given the prediction p
and Gaussian noise, the factor's posterior is Gaussian and its integral over a has a closed form. With the
inner product ⟨x, y⟩ = Σ w x y/σ² over the coefficients compared,

.. math::
    \bar a = \frac{1 + \tau^2 \langle X, p\rangle}{1 + \tau^2 \langle p, p\rangle}, \qquad
    \mathrm{var}(a) = \frac{\tau^2}{1 + \tau^2 \langle p, p\rangle}, \qquad
    -\log\!\int\! p(X|a)\,p(a)\,da = \tfrac12\langle r, r\rangle
        - \frac{\tau^2 \langle r, p\rangle^2}{2(1 + \tau^2\langle p, p\rangle)}
        + \tfrac12\log(1 + \tau^2\langle p, p\rangle) + \mathrm{const}

where r = X − p. For τ = 0 the factor is 1 and the misfit ½⟨r, r⟩.
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
        precision: w/σ² of each coefficient.
        prior_variance: τ².
    """
    agreement = (observed * predicted * precision).sum(-1)
    narrowed = 1 + prior_variance * (predicted.square() * precision).sum(-1)
    return Contrast((1 + prior_variance * agreement) / narrowed, prior_variance / narrowed)


def misfit_over_contrasts(
    observed: Float[Tensor, "image pixel"],
    predicted: Float[Tensor, "image pixel"],
    precision: Float[Tensor, "pixel"],
    prior_variance: Float[Tensor, ""],
) -> Float[Tensor, "image"]:
    """−log ∫ p(X|a) p(a) da without the noise's normalisation ½ Σ log 2πσ².

    Args:
        precision: w/σ² of each coefficient.
        prior_variance: τ².
    """
    residual = observed - predicted
    squares = (residual.square() * precision).sum(-1)
    overlap = (residual * predicted * precision).sum(-1)
    narrowed = 1 + prior_variance * (predicted.square() * precision).sum(-1)
    return 0.5 * (squares - prior_variance * overlap.square() / narrowed + torch.log(narrowed))
