"""Each augmentation and filter on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from scipy.ndimage import convolve, rotate
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F

from harness.attacks import (
    Admix,
    BlockShuffle,
    DiverseInput,
    Images,
    Rng,
    ScaleInvariant,
    Spectrum,
    StructureInvariant,
    TranslationInvariant,
)
from harness.attacks.parts import Batch, Transform
from tests.harness.attacks.nets import EPS, images, pool
from zoo.errors import UserError


class Scripted(Rng):
    """Returns prepared values instead of draws."""

    def __init__(self, *values: object) -> None:
        super().__init__(0, [0])
        self.values = list(values)

    def uniform(self, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.tensor(self.values.pop(0), dtype=torch.float64).reshape(1, *shape) * (high - low) + low

    def integers(self, shape: Sequence[int], low: int, high: int) -> Tensor:
        value = torch.tensor(self.values.pop(0)).reshape(1, *shape)
        assert low <= int(value.min()) and int(value.max()) < high
        return value


def batch_of(x: Tensor, rng: Rng, y: Tensor | None = None) -> Batch:
    labels = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    return Batch(None, x, labels, None, EPS, 1, rng, pool(), len(x))  # type: ignore[arg-type]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    ("low", "high", "side"), [(1.0, 331 / 299, 17), (1.0, 1.5, 20), (0.5, 1.0, 11), (0.9, 1.2, 14)]
)
def test_di_equals_resize_pad_resize(interpolation: str, low: float, high: float, side: int) -> None:
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    canvas = round(16 * high)
    mode = {"mode": interpolation} | ({"align_corners": False} if interpolation == "bilinear" else {})
    for fraction in (0.0, 0.4, 0.99):
        part = DiverseInput(low, high, 1.0, interpolation)  # type: ignore[arg-type]
        low_side = round(16 * low)
        size = (side - low_side + 0.5) / (canvas - low_side)
        made = part(x, 0, batch_of(x, Scripted((size, fraction, 0.3, 0.0))))
        top, left = int(fraction * (canvas - side)), int(0.3 * (canvas - side))
        resized = F.interpolate(x, (side, side), **mode)
        padded = F.pad(resized, (left, canvas - side - left, top, canvas - side - top))
        assert torch.allclose(made, F.interpolate(padded, (16, 16), **mode), atol=1e-12)


def test_di_leaves_the_image_with_the_rest_of_the_probability() -> None:
    x = torch.rand(400, 1, 16, 16)
    made = DiverseInput(prob=0.3)(x, 0, batch_of(x, Rng(0, range(400))))
    unmoved = (made == x).flatten(1).all(1).float().mean().item()
    assert 0.62 < unmoved < 0.82  # 0.7, and a few that moved onto themselves
    assert len({float(value) for value in made[:, 0, 0, 0]}) > 50, "each image draws its own"


def test_di_takes_images_that_are_not_square() -> None:
    x = torch.rand(2, 3, 12, 20)
    assert DiverseInput(prob=1.0)(x, 0, batch_of(x, Rng(0, [0, 1]))).shape == x.shape


@pytest.mark.parametrize("size", [1, 5, 7, 15])
def test_ti_equals_a_dense_gaussian(size: int) -> None:
    points = [0.0] if size == 1 else [-3 + 6 * i / (size - 1) for i in range(size)]
    density = norm.pdf(points)
    kernel = density[:, None] * density[None, :]
    x = torch.randn(2, 3, 16, 11, dtype=torch.float64)
    made = TranslationInvariant(size)(x)
    for n in range(2):
        for c in range(3):
            expected = convolve(x[n, c].numpy(), kernel / kernel.sum(), mode="constant")
            assert torch.allclose(made[n, c], torch.from_numpy(expected), atol=1e-12)


def test_si_halves() -> None:
    x, _ = images()
    for i in range(5):
        assert torch.equal(ScaleInvariant()(x, i, batch_of(x, Rng(0, range(3)))), x / 2**i)


def test_bsr_without_rotation_permutes_blocks() -> None:
    """Rows of 6 and 10 swap, columns of 12 and 4 stay."""
    x = torch.arange(256.0).reshape(1, 1, 16, 16).double()
    draws = Scripted(((0.3, 0.5), (0.6, 0.2)), ((0.9, 0.1), (0.1, 0.9)), ((0.5, 0.5), (0.5, 0.5)))
    made = BlockShuffle(degrees=0.0)(x, 0, batch_of(x, draws))
    assert torch.equal(made, torch.cat([x[:, :, 6:], x[:, :, :6]], 2))
    made = BlockShuffle(blocks=3, degrees=0.0)(x, 0, batch_of(x, Rng(1, [0])))
    assert torch.equal(made.flatten().sort().values, x.flatten())


@pytest.mark.parametrize("degrees", [24.0, -10.0, 90.0])
def test_bsr_rotates_about_the_centre_of_the_block(degrees: float) -> None:
    x = torch.rand(1, 2, 15, 15, dtype=torch.float64)
    draws = Scripted(((1.0,), (1.0,)), ((0.0,), (0.0,)), ((1.0,),))
    made = BlockShuffle(blocks=1, degrees=degrees)(x, 0, batch_of(x, draws))
    # bilinear with zeros outside, as SciPy's grid-constant mode of order 1
    expected = rotate(x[0, 0].numpy(), degrees, reshape=False, order=1, mode="grid-constant", cval=0.0)
    other = rotate(x[0, 0].numpy(), -degrees, reshape=False, order=1, mode="grid-constant", cval=0.0)
    close = [torch.allclose(made[0, 0], torch.from_numpy(each), atol=1e-9) for each in (expected, other)]
    assert any(close)


def test_bsr_gradient_is_that_of_a_linear_map() -> None:
    x = torch.rand(1, 1, 9, 9, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: BlockShuffle()(z, 0, batch_of(z, Rng(3, [0]))), x)


def test_sia_applies_each_of_its_operations() -> None:
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64) * 0.8 + 0.1
    made = []
    for operation in range(10):
        scores = [i / 100 for i in range(15)]
        draws = Scripted(
            scores, scores, [[operation]], [[0.25]], torch.rand(3, 16, 16).tolist(), torch.rand(1, 1, 3).tolist()
        )
        made.append(StructureInvariant(blocks=1)(x, 0, batch_of(x, draws)))
    resized, down, right, upside, mirrored, turned, scaled, noisy, smooth, dropped = made
    small = F.interpolate(x, (13, 13), mode="bilinear")
    assert torch.allclose(resized, F.interpolate(small, (16, 16), mode="bilinear"))
    assert torch.equal(down, x.roll(4, 2)) and torch.equal(right, x.roll(4, 3))
    assert (
        torch.equal(upside, x.flip(2)) and torch.equal(mirrored, x.flip(3)) and torch.equal(turned, x.rot90(2, (2, 3)))
    )
    assert torch.allclose(scaled, x * 0.25)
    assert 0 < (noisy - x).abs().max() <= 16 / 255
    assert torch.allclose(smooth.mean((2, 3)), x.mean((2, 3))) and smooth.var() < x.var()
    ratio = dropped / x
    assert torch.all((ratio == 0) | ((ratio - 1 / 0.9).abs() < 1e-12))


def test_sia_blocks_tile_the_image() -> None:
    x = torch.rand(4, 3, 16, 13)
    made = StructureInvariant()(x, 0, batch_of(x, Rng(0, range(4))))
    assert made.shape == x.shape and torch.isfinite(made).all()
    with pytest.raises(UserError, match="at least that many pixels"):
        StructureInvariant(blocks=20)(x, 0, batch_of(x, Rng(0, range(4))))


def test_ssa_passes_the_gradient_at_the_transformed_image_by_default() -> None:
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64).requires_grad_()
    weight = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    at = torch.autograd.grad((Spectrum()(x, 0, batch_of(x, Rng(0, [0]))) * weight).sum(), x)[0]
    assert torch.equal(at, weight)
    through = torch.autograd.grad((Spectrum(through=True)(x, 0, batch_of(x, Rng(0, [0]))) * weight).sum(), x)[0]
    assert not torch.allclose(through, weight)
    assert torch.allclose(Spectrum(rho=0.0, sigma=0.0)(x, 0, batch_of(x, Rng(0, [0]))), x)


def test_admix_draws_other_labels_uniformly_and_detached() -> None:
    images_, labels = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1) * 40, torch.tensor([0, 0, 1, 1, 2, 2])
    y = torch.tensor([0, 1, 2]).repeat(200)
    drawn = (Images(images_, labels).draw(Rng(0, range(600)), y).flatten() * 255 / 40).round().long()
    assert not bool((labels[drawn] == y).any())
    for label in range(3):
        counts = torch.bincount(drawn[y == label], minlength=6)[labels != label]
        assert counts.min() > 25, "each image of another label is drawn about 50 times of 200"


def test_admix_misuse() -> None:
    x, y = images()
    with pytest.raises(UserError, match="pass pool="):
        Admix()(x, 0, Batch(None, x, y, None, EPS, 1, Rng(0, range(3)), None, 3))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="run this attack on more images"):
        Images(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)).draw(
            Rng(0, [0]), torch.zeros(1, dtype=torch.int64)
        )
    with pytest.raises(UserError, match="uint8 images"):
        Images(torch.zeros(1, 3, 16, 16), torch.zeros(1, dtype=torch.int64))
    small = Batch(None, x[:, :, :8], y, None, EPS, 1, Rng(0, range(3)), pool(), 3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the pool's images are"):
        Admix()(x[:, :, :8], 0, small)


PARTS: list[Transform] = [DiverseInput(), ScaleInvariant(), Admix(), Spectrum(), BlockShuffle(), StructureInvariant()]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_transforms_treat_each_image_alone(part: Transform) -> None:
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3])
    whole = part(x, 0, batch_of(x, Rng(0, range(4)), y))
    for n in range(4):
        alone = part(x[n : n + 1], 0, batch_of(x[n : n + 1], Rng(0, [n]), y[n : n + 1]))
        assert torch.allclose(alone, whole[n : n + 1], atol=1e-12)


def test_angles_are_in_degrees() -> None:
    assert math.isclose(math.radians(BlockShuffle().degrees), 0.4188, abs_tol=1e-4)
