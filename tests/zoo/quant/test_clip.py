import torch

from zoo.quant.clip import best_scale
from zoo.quant.functional import apot_grid, uniform_grid


def error(x, grid, scale):
    return (grid.quantize(x, grid.constants(scale)) - x).square().mean()


def test_best_scale_is_within_a_percent_of_a_brute_force_optimum():
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    for values, grid in (
        (x.relu(), apot_grid(2, False)),
        (x, apot_grid(4, True)),
        (x, uniform_grid(3, True)),
        (x.relu(), uniform_grid(8, False)),
    ):
        found = error(values, grid, best_scale(values, grid))
        extent = max(abs(grid.low), grid.high)
        brute = min(error(values, grid, values.abs().max() * k / 400 / extent) for k in range(1, 401))
        assert found <= brute * 1.01


def test_best_scale_of_zeros_is_one():
    assert best_scale(torch.zeros(5), apot_grid(2, False)) == 1


def test_large_tensors_are_sampled_the_same_way_each_time():
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).relu()
    grid = apot_grid(2, False)
    assert best_scale(x, grid) == best_scale(x.clone(), grid)
    torch.testing.assert_close(best_scale(x, grid), best_scale(x[:30_000], grid), rtol=0.05, atol=0)
