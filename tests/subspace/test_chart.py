"""Charts: a curve among components is found, straight ones are principal axes."""

import pytest
import torch

from cryoatlas.analysis.latent import spearman
from cryoatlas.subspace.chart import Chart, fit_chart
from cryoatlas.subspace.expectation import Known

COUNT = 1500


def on_an_arc(noise: float) -> tuple[torch.Tensor, Known]:
    """Angles of a half circle, and posteriors of z ~ N(0, I) at z = its place, normalised, with noise."""
    generator = torch.Generator().manual_seed(2)
    angle = torch.pi * torch.rand(COUNT, generator=generator)
    place = torch.stack([angle.cos(), angle.sin(), torch.zeros(COUNT)], 1)
    place = (place - place.mean(0)) / torch.tensor([place[:, 0].std(), place[:, 1].std(), 1.0])
    seen = place + noise * torch.randn(COUNT, 3, generator=generator)
    covariance = torch.eye(3) / (1 + 1 / noise**2)
    return angle, Known(seen / (1 + noise**2), covariance.expand(COUNT, 3, 3).clone(), torch.zeros(COUNT))


def test_a_curve_orders_what_its_first_axis_confuses():
    angle, known = on_an_arc(0.3)
    chart = fit_chart(known, 1)
    mean, covariance = chart.read(known)
    along_axis = abs(spearman(known.mean[:, 0].numpy(), angle.numpy()))
    along_curve = abs(spearman(mean[:, 0].numpy(), angle.numpy()))
    # The arc's ends run along the second axis, where the first says little.
    assert along_curve > along_axis + 0.005
    assert (covariance[:, 0, 0] > 0).all()


def test_z_on_a_chart_has_about_the_spread_of_its_prior():
    """Not exactly, since a stiff curve cannot spread images that crowd at its ends."""
    _, known = on_an_arc(0.2)
    mean, covariance = fit_chart(known, 1).read(known)
    assert float(mean.mean()) == pytest.approx(0, abs=0.1)
    assert float(mean.var() + covariance.mean()) == pytest.approx(1, abs=0.3)


def test_what_moves_beside_the_curve_is_not_followed_by_it():
    """The third component is 0 in all images; its part of S is the noise's, and y stays near 0 there."""
    _, known = on_an_arc(0.2)
    chart = fit_chart(known, 1)
    y = chart.weights(torch.linspace(-1.5, 1.5, 9)[:, None])
    assert float(y[:, 2].abs().max()) < 0.15
    assert float(y[:, 1].max() - y[:, 1].min()) > 1


def test_a_sheet_reads_two_flat_dimensions_as_axes_do():
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(COUNT, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.1])
    covariance = (0.05 * torch.eye(3)).expand(COUNT, 3, 3).clone()
    known = Known(z, covariance, torch.zeros(COUNT))
    mean, _ = fit_chart(known, 2).read(known)
    for axis in range(2):
        assert abs(spearman(mean[:, axis].numpy(), z[:, axis].numpy())) > 0.98


def test_principal_axes_take_the_first_and_leave_the_rest():
    _, known = on_an_arc(0.3)
    chart = Chart.of_axes(2, 3)
    mean, covariance = chart.read(known)
    assert torch.equal(mean, known.mean[:, :2])
    assert torch.equal(covariance, known.covariance[:, :2, :2])
    torch.testing.assert_close(chart.weights(torch.tensor([[0.5, -1.0]])), torch.tensor([[0.5, -1.0, 0.0]]))
