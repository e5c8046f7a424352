"""The generator of draws: against the published algorithm, and the same for an image wherever it is drawn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.attacks import Rng
from harness.attacks.rng import _mixed, _quantiles

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> Iterator[int]:
    """SplitMix64 on Python's integers."""
    while True:
        state = (state + GOLDEN) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def outputs(state: int, skip: int, count: int) -> list[int]:
    generator = splitmix64(state)
    return [next(generator) for _ in range(skip + count)][skip:]


def test_mixing_equals_the_published_outputs() -> None:
    """The first outputs of the reference implementation for the seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert outputs(1234567, 0, 4) == published
    states = torch.tensor([(1234567 + i * GOLDEN + 2**63) % 2**64 - 2**63 for i in range(1, 5)])
    assert [value & MASK for value in _mixed(states).tolist()] == published


@pytest.mark.parametrize("draw", [0, 1, 63, 64, 130])
def test_draws_equal_the_algorithm_on_whole_numbers(draw: int) -> None:
    rng = Rng(3, [7, 11])
    for _ in range(draw):
        rng.uniform(())
    drawn = rng.uniform((7,))
    for row, seed in zip(drawn, rng.seeds, strict=True):
        words = outputs(outputs(seed, draw, 1)[0], 0, 4)
        halves = [word >> 32 for word in words] + [word & (2**32 - 1) for word in words]
        assert row.tolist() == [(half >> 8) * 2.0**-24 for half in halves[:7]]


def test_integers_and_bounds_follow_from_the_same_bits() -> None:
    assert Rng(0, [5]).integers((999,), -3, 40).tolist()[0] == [
        int(u * 2**32) * 43 // 2**32 - 3 for u in Rng(0, [5])._words((999,), 32).double().mul(2.0**-32).tolist()[0]
    ]
    drawn = Rng(0, range(9)).uniform((400,), -0.25, 0.5)
    assert -0.25 <= drawn.min() < -0.249 and 0.499 < drawn.max() < 0.5
    assert torch.equal(drawn, Rng(0, range(9)).uniform((400,)) * 0.75 - 0.25)


def test_each_draw_position_and_image_is_new() -> None:
    rng = Rng(0, range(50))
    first, second = rng.uniform((3, 100)), rng.uniform((3, 100))
    for drawn in (first, second):
        assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    everything = torch.stack([first, second]).flatten(2).double()
    between = torch.corrcoef(everything.flatten(0, 1))
    assert (between - torch.eye(100)).abs().max() < 0.3  # 100 series of 300: a deviation of 0.06
    along = torch.corrcoef(everything.flatten(0, 1).T)
    assert (along - torch.eye(300)).abs().max() < 0.5  # 300 series of 100: a deviation of 0.1


def test_normal_follows_its_distribution() -> None:
    drawn = Rng(1, range(4)).normal((100_000,), std=2.0).double()
    assert stats.kstest((drawn / 2).flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(float(drawn.mean())) < 0.02 and abs(float(drawn.std()) - 2) < 0.02


def test_normal_is_the_quantile_of_its_bits() -> None:
    words = Rng(2, [3])._words((50_000,), 32).double()[0]
    tail = (words % 2**31 + 0.5) / 2**32
    expected = torch.from_numpy(stats.norm.isf(tail.numpy())) * torch.where(words >= 2**31, 1.0, -1.0)
    assert (Rng(2, [3]).normal((50_000,))[0].double() - expected).abs().max() < 2e-6


def test_the_table_of_quantiles_reaches_every_probability() -> None:
    values, steps = _quantiles(torch.device("cpu"))
    assert len(values) == len(steps) == 32 * 256
    assert abs(float(values[0]) - float(stats.norm.isf(2.0**-33))) < 1e-6
    assert abs(float(values[-1] + steps[-1])) < 1e-9, "it ends at the median"
    assert bool((steps < 0).all())


@pytest.mark.parametrize("kind", ["uniform", "normal", "integers", "bernoulli"])
def test_an_image_draws_the_same_in_any_company(kind: str) -> None:
    arguments: dict[str, tuple[object, ...]] = {
        "uniform": ((2, 5),),
        "normal": ((2, 5),),
        "integers": ((2, 5), 0, 9),
        "bernoulli": ((2, 5), 0.5),
    }
    whole, alone = Rng(0, range(20)), Rng(0, [13])
    for _ in range(3):
        together, single = getattr(whole, kind)(*arguments[kind]), getattr(alone, kind)(*arguments[kind])
        assert torch.equal(together[13], single[0])


class Counting(TorchDispatchMode):
    """Counts the operations of torch, each of which is a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_a_draw_is_as_many_operations_for_one_image_as_for_many() -> None:
    counts = []
    for images in (1, 64):
        rng = Rng(0, range(images))
        rng.normal((3, 8, 8))
        with Counting() as counting:
            rng.normal((3, 8, 8))
        counts.append(counting.count)
    assert counts[0] == counts[1] < 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_bits() -> None:
    def draws(device: str) -> list[Tensor]:
        rng = Rng(4, range(7), device)
        return [
            rng.uniform((3, 33), -8 / 255, 8 / 255),
            rng.normal((3, 1000), 0.1),
            rng.integers((999,), 0, 37),
            rng.bernoulli((99,), 0.3),
        ]

    for there, here in zip(draws("cuda"), draws("cpu"), strict=True):
        assert there.is_cuda and torch.equal(there.cpu(), here)
