r"""Charts: where among the components the states of a run's z lie.

A motion in one coordinate that is large fills a curve in the space of components, and its first principal
axis alone confuses states where the curve turns. A chart is a smooth map from u, the z of the run, to the
weights y of the components:

.. math:: z = y(u) + e, \qquad y(u) = a + B u + \sum_j c_j \exp(-|u - u_j|^2 / 2w^2), \qquad
          u \sim N(0, I),\; e \sim N(0, S).

It is fitted by expectation–maximisation over a grid of u (a generative topographic mapping), with what each
image says of its z as a Gaussian likelihood, and e, what moves besides, integrated out. Without the terms c_j
and with y the first axes it is what principal components give; from three dimensions of u on it always is.
"""

from dataclasses import dataclass

import torch

from cryoatlas.shapes import Float, Tensor
from cryoatlas.subspace.expectation import Known

NODES = {1: 48, 2: 16}
"""Points along each axis of u, by its dimension: quantiles of N(0, 1)."""
BUMPS = {1: 6, 2: 5}
"""Terms c_j along each axis."""
REACH = 2.0
"""They lie within ± this."""
OVERLAP = 1.5
"""Their width, in parts of their spacing."""
STIFFNESS = 10.0
"""1/variance of the c_j: how much a curve is believed to be straight."""
PASSES = 30
ALONE = 5
"""First passes, in which S stays as it was."""
BESIDE, ALONG = 0.3, 0.1
"""Variance of e at first, across the chart's axes and along them."""
FITTED_TO = 20_000
"""Evenly spaced images that a chart is fitted to."""
AT_ONCE = 4096
"""Images whose posteriors are computed together."""
FREE = 1e-6


@dataclass(frozen=True)
class Chart:
    """y(u), and the spread of states about it."""

    coefficients: Float[Tensor, "feature component"]
    """a, B and the c_j, a row each."""
    bumps: Float[Tensor, "bump latent"]
    """The u_j; none for principal axes."""
    width: float
    """w."""
    spread: Float[Tensor, "component component"]
    """S; not used where there are no bumps."""

    @classmethod
    def of_axes(cls, latent: int, components: int) -> "Chart":
        """The first principal axes."""
        rows = torch.zeros(1 + latent, components)
        rows[1:, :latent] = torch.eye(latent)
        return cls(rows, torch.zeros(0, latent), 1.0, torch.eye(components))

    @property
    def latent_size(self) -> int:
        """Dimension of u."""
        return self.bumps.shape[1]

    def weights(self, u: Float[Tensor, "state latent"]) -> Float[Tensor, "state component"]:
        """y(u)."""
        return self._features(u) @ self.coefficients

    def read(
        self, known: Known
    ) -> tuple[Float[Tensor, "image latent"], Float[Tensor, "image latent latent"]]:
        """Mean and covariance of u of images."""
        n = self.latent_size
        if not len(self.bumps):
            return known.mean[:, :n], known.covariance[:, :n, :n]
        nodes = _nodes(n).to(known.mean)
        means, covariances = [], []
        for mean, covariance in zip(known.mean.split(AT_ONCE), known.covariance.split(AT_ONCE), strict=True):
            told = _Told.of(mean, covariance, self.spread)
            share = torch.softmax(told.log_likelihood(self.weights(nodes)), 1)
            means.append(share @ nodes)
            squares = (nodes[:, :, None] * nodes[:, None]).flatten(1)
            square = (share @ squares).unflatten(1, (n, n))
            covariances.append(square - means[-1][:, :, None] * means[-1][:, None])
        return torch.cat(means), torch.cat(covariances)

    def _features(self, u: Float[Tensor, "state latent"]) -> Float[Tensor, "state feature"]:
        distance = (u[:, None] - self.bumps.to(u)).square().sum(-1)
        near = torch.exp(-0.5 * distance / self.width**2)
        return torch.cat([u.new_ones(len(u), 1), u, near], 1)


@torch.no_grad()
def fit_chart(known: Known, latent: int) -> Chart:
    """The chart of a latent of 1 or 2 dimensions that images are most likely on.

    Args:
        known: posteriors under z ~ N(0, I), components being principal axes.
    """
    some = slice(None, None, max(1, -(-len(known.mean) // FITTED_TO)))
    # float64: posteriors of sharp images leave little of the prior.
    mean, covariance = known.mean[some].cpu().double(), known.covariance[some].cpu().double()
    chart = _straight(latent, mean.shape[1])
    nodes = _nodes(latent)
    features = chart._features(nodes)
    for number in range(PASSES):
        told = _Told.of(mean, covariance, chart.spread)
        share = torch.softmax(told.log_likelihood(features @ chart.coefficients), 1)
        coefficients = _solved(told, share, features, latent)
        chart = Chart(coefficients, chart.bumps, chart.width, chart.spread)
        if number >= ALONE:
            spread = _spread(mean, covariance, chart, share, features @ coefficients)
            chart = Chart(coefficients, chart.bumps, chart.width, spread)
    kept = known.mean
    return Chart(chart.coefficients.to(kept), chart.bumps.to(kept), chart.width, chart.spread.to(kept))


@dataclass(frozen=True)
class _Told:
    """What images say of y: log p = bᵀy − ½ yᵀHy + c, with e integrated out."""

    pull: Float[Tensor, "image component"]
    overlap: Float[Tensor, "image component component"]
    constant: Float[Tensor, "image"]

    @classmethod
    def of(
        cls,
        mean: Float[Tensor, "image component"],
        covariance: Float[Tensor, "image component component"],
        spread: Float[Tensor, "component component"],
    ) -> "_Told":
        """From posteriors under z ~ N(0, I), whose prior is taken out again."""
        pull, overlap = _likelihood(mean, covariance)
        one = torch.eye(mean.shape[1]).to(mean)
        damped = torch.linalg.inv(one + overlap @ spread)
        softer = (damped @ pull[..., None])[..., 0]
        constant = 0.5 * ((pull @ spread) * softer).sum(1) + 0.5 * torch.logdet(damped)
        return cls(softer, damped @ overlap, constant)

    def log_likelihood(self, y: Float[Tensor, "node component"]) -> Float[Tensor, "image node"]:
        """Of every image at every y."""
        squares = (y[:, :, None] * y[:, None]).flatten(1)
        return self.pull @ y.T - 0.5 * self.overlap.flatten(1) @ squares.T + self.constant[:, None]


def _likelihood(
    mean: Float[Tensor, "image component"], covariance: Float[Tensor, "image component component"]
) -> tuple[Float[Tensor, "image component"], Float[Tensor, "image component component"]]:
    """b and H of images' z, from z ~ N(M⁻¹b, M⁻¹) with M = I + H."""
    precision = torch.linalg.inv(covariance)
    return (precision @ mean[..., None])[..., 0], precision - torch.eye(mean.shape[1]).to(mean)


def _straight(latent: int, components: int) -> Chart:
    axes = Chart.of_axes(latent, components)
    per_axis = BUMPS[latent]
    line = torch.linspace(-REACH, REACH, per_axis, dtype=torch.float64)
    bumps = torch.cartesian_prod(*[line] * latent).reshape(-1, latent)
    rows = torch.cat([axes.coefficients.double(), torch.zeros(len(bumps), components).double()])
    spread = torch.full((components,), BESIDE, dtype=torch.float64)
    spread[:latent] = ALONG
    return Chart(rows, bumps, OVERLAP * 2 * REACH / (per_axis - 1), torch.diag(spread))


def _nodes(latent: int) -> Float[Tensor, "node latent"]:
    """Places of equal probability under N(0, I), float64."""
    count = NODES[latent]
    line = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    return torch.cartesian_prod(*[line] * latent).reshape(-1, latent)


def _solved(
    told: _Told, share: Float[Tensor, "image node"], features: Float[Tensor, "node feature"], latent: int
) -> Float[Tensor, "feature component"]:
    """The most probable coefficients."""
    components = told.pull.shape[1]
    pull = share.T @ told.pull
    overlap = (share.T @ told.overlap.flatten(1)).unflatten(1, (components, components))
    stiffness = torch.full((features.shape[1],), STIFFNESS, dtype=features.dtype)
    stiffness[: 1 + latent] = FREE
    matrix = torch.einsum("gp,gq,gkl->pkql", features, features, overlap)
    size = features.shape[1] * components
    matrix = matrix.reshape(size, size) + torch.diag(stiffness.repeat_interleave(components))
    return torch.linalg.solve(matrix, (features.T @ pull).flatten()).unflatten(0, (-1, components))


def _spread(
    mean: Float[Tensor, "image component"],
    covariance: Float[Tensor, "image component component"],
    chart: Chart,
    share: Float[Tensor, "image node"],
    y: Float[Tensor, "node component"],
) -> Float[Tensor, "component component"]:
    """S, the mean of ⟨e eᵀ⟩: with u given, e ~ N(A(b − H y), A) with A = (S⁻¹ + H)⁻¹."""
    components = mean.shape[1]
    pull, overlap = _likelihood(mean, covariance)
    one = torch.eye(components).to(mean)
    among = chart.spread @ torch.linalg.inv(one + overlap @ chart.spread)
    middle = share @ y
    square = (share @ (y[:, :, None] * y[:, None]).flatten(1)).unflatten(1, (components, components))
    scatter = square - middle[:, :, None] * middle[:, None]
    off = pull - (overlap @ middle[..., None])[..., 0]
    inner = off[:, :, None] * off[:, None] + overlap @ scatter @ overlap
    spread = (among @ inner @ among.mT + among).mean(0)
    return (spread + spread.T) / 2
