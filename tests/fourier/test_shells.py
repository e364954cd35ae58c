"""Sums and means over rings and spherical shells."""

import pytest
import torch

from cryoatlas.fourier.shells import shell_grid, shell_mean, shell_sum


def random_array(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("box", "dimensions"), [(8, 2), (9, 2), (8, 3), (9, 3)])
def test_the_centre_is_shell_zero_and_its_neighbours_shell_one(box, dimensions):
    shells = shell_grid(box, dimensions)
    centre = (box // 2,) * dimensions
    assert shells[centre] == 0
    assert (shells == 0).sum() == 1
    for axis in range(dimensions):
        beside = list(centre)
        beside[axis] -= 1
        assert shells[tuple(beside)] == 1


def test_shell_populations_are_those_counted_by_hand():
    # Radii of a 5 × 5 grid: 0; 1 (4×) and √2 (4×) round to 1; 2 (4×) and √5 (8×) to 2; √8 (4×) to 3.
    shells = shell_grid(5, 2)
    assert shell_sum(torch.ones(5, 5), shells, 4).tolist() == [1, 8, 12, 4]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_sums_over_all_shells_add_up_to_the_total(dimensions):
    values = random_array(*[9] * dimensions)
    shells = shell_grid(9, dimensions)
    total = shell_sum(values, shells, int(shells.max()) + 1).sum()
    torch.testing.assert_close(total, values.sum(), atol=1e-12, rtol=0.0)  # another order of summation


def test_entries_beyond_the_last_shell_are_left_out():
    shells = shell_grid(8, 3)
    values = random_array(8, 8, 8)
    expected = torch.stack([values[shells == number].sum() for number in range(3)])
    torch.testing.assert_close(shell_sum(values, shells, 3), expected, atol=1e-13, rtol=0.0)


def test_the_mean_of_a_radial_function_is_its_value_on_each_shell():
    shells = shell_grid(10, 3)
    expected = torch.arange(6, dtype=torch.float64) ** 2
    torch.testing.assert_close(shell_mean(shells.double() ** 2, shells, 6), expected, atol=1e-12, rtol=0.0)


def test_an_empty_shell_has_mean_zero():
    shells = torch.tensor([[0, 2], [2, 2]])
    assert shell_mean(torch.ones(2, 2), shells, 4).tolist() == [1, 0, 1, 0]
