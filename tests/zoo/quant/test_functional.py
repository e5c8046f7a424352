import math

import pytest
import torch
from torch.overrides import TorchFunctionMode

from zoo.errors import UserError
from zoo.quant import functional as F

T = torch.tensor


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_levels(bits: int) -> list[float]:
    """APoT levels transcribed from the paper's tables of base terms, independently of `zoo.quant.grids`."""
    tables = {
        2: [[0, 1 / 2, 1 / 4, 1 / 8]],
        3: [[0, 1 / 2, 1 / 4, 1 / 16], [0, 1 / 8]],
        4: [[0, 1 / 2, 1 / 8, 1 / 32], [0, 1 / 4, 1 / 16, 1 / 64]],
        5: [[0, 1 / 2, 1 / 8, 1 / 64], [0, 1 / 4, 1 / 16, 1 / 128], [0, 1 / 32]],
        6: [[0, 1 / 2, 1 / 16, 1 / 128], [0, 1 / 4, 1 / 32, 1 / 256], [0, 1 / 8, 1 / 64, 1 / 512]],
    }
    sums = [0.0]
    for table in tables[bits]:
        sums = [s + t for s in sums for t in table]
    return sorted({s / max(sums) for s in sums})


def slow_quantizer(x: torch.Tensor, alpha: torch.Tensor, levels: list[float]) -> torch.Tensor:
    """alpha * nearest(clip(x / alpha)) by an argmin over distances, with the gradients that autograd then gives."""
    scaled = x / alpha
    clipped = scaled.clamp(levels[0], levels[-1])
    grid = torch.tensor(levels, dtype=x.dtype)
    nearest = grid[(clipped.detach()[..., None] - grid).abs().argmin(-1)]
    return (clipped + (nearest - clipped).detach()) * alpha


def test_goldens_of_the_levels():
    assert F.apot_levels(2).tolist() == [0, 0.25, 0.5, 1]
    torch.testing.assert_close(F.apot_levels(3), T([0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1]))
    assert F.apot_levels(2, signed=True).tolist() == [-1, 0, 1]
    assert F.apot_levels(3, signed=True).tolist() == [-1, -0.5, -0.25, 0, 0.25, 0.5, 1]
    assert [len(F.apot_levels(b)) for b in F_BITS] == [4, 8, 16, 32, 64]
    assert [len(F.apot_levels(b, signed=True)) for b in F_BITS] == [3, 7, 15, 31, 63]


F_BITS = (2, 3, 4, 5, 6)


@pytest.mark.parametrize("bits", F_BITS)
def test_levels_equal_the_papers_tables(bits):
    torch.testing.assert_close(F.apot_levels(bits), T(slow_levels(bits)), atol=1e-7, rtol=0)


@pytest.mark.parametrize("bits", [1, 7, 8])
def test_apot_names_its_choices_where_it_has_no_levels(bits):
    with pytest.raises(UserError, match=r"2, 3, 4, 5, 6"):
        F.apot_levels(bits)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", F_BITS)
def test_activations_and_gradients_equal_a_slow_transcription(bits, signed):
    x = rand(4, 3, 17, 9) if signed else rand(4, 3, 17, 9).relu()
    levels = slow_levels(bits - 1) if signed and bits > 2 else [0.0, 1.0] if signed else slow_levels(bits)
    levels = [*(-level for level in reversed(levels[1:])), *levels] if signed else levels
    results = []
    for function in (lambda x, a: F.apot_activation(x, a, bits, signed), lambda x, a: slow_quantizer(x, a, levels)):
        wide = x.double() if function is not None else x
        xs, alpha = wide.clone().requires_grad_(), torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        q = function(xs, alpha)
        (q * rand(*x.shape, seed=3).double()).sum().backward()
        results.append((q.detach(), xs.grad, alpha.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("bits", F_BITS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fast_projection_equals_the_exact_one(bits, layout):
    x = rand(2, 6, 8, 8).contiguous(memory_format=layout)
    for signed in (False, True):
        q = F.apot_activation(x, T(1.7), bits, signed)
        exact = 1.7 * F.project((x / 1.7).clamp(-1 if signed else 0, 1), F.apot_levels(bits, signed))
        torch.testing.assert_close(q, exact)
        assert q.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("bits", F_BITS)
def test_halfway_goes_to_the_lower_level(bits):
    grid = F.apot_grid(bits, signed=True)
    # A clip threshold of D / 2^k keeps the midpoints exact in binary.
    alpha = T(grid.denominator / 64)
    levels = torch.tensor(grid.numerators) / 64
    middles = (levels[1:] + levels[:-1]) / 2
    torch.testing.assert_close(F.apot_activation(middles, alpha, bits, signed=True), levels[:-1])


def test_gradients_by_hand():
    x = T([-0.5, 0.1, 0.9, 1.5, 4.0], requires_grad=True)
    alpha = T(2.0, requires_grad=True)
    q = F.apot_activation(x, alpha, 2)  # levels 0, 0.5, 1, 2
    assert q.tolist() == [0, 0, 1, 1, 2]
    q.backward(torch.ones(5))
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    # inside q/alpha - x/alpha, above 1, below 0
    assert alpha.grad.item() == pytest.approx(0 + (0 - 0.05) + (0.5 - 0.45) + (0.5 - 0.75) + 1)


def test_signed_gradients_by_hand():
    x = T([-3.0, -0.8, 0.2], requires_grad=True)
    alpha = T(1.0, requires_grad=True)
    q = F.apot_activation(x, alpha, 2, signed=True)
    assert q.tolist() == [-1, -1, 0]
    q.backward(torch.ones(3))
    assert x.grad.tolist() == [0, 1, 1]
    assert alpha.grad.item() == pytest.approx(-1 + (-1 + 0.8) + (0 - 0.2))


def test_two_bit_weight_gradient_is_not_clipped_and_three_bit_is():
    w_hat = T([-2.0, -0.3, 0.4, 3.0])
    grads = {}
    for bits in (2, 3):
        w = w_hat.clone().requires_grad_()
        options = F.GradientRule(clip_gradient=bits != 2)
        F.quantize_ste(w, T(1.0), F.apot_grid(bits, signed=True), options).backward(torch.ones(4))
        grads[bits] = w.grad.tolist()
    assert grads == {2: [1, 1, 1, 1], 3: [0, 1, 1, 0]}


@pytest.mark.parametrize("bits", F_BITS)
def test_weights_equal_a_slow_transcription(bits):
    levels = [0.0, 1.0] if bits == 2 else slow_levels(bits - 1)
    levels = [*(-level for level in reversed(levels[1:])), *levels]
    w, alpha = rand(8, 4, 3, 3).double(), torch.tensor(1.9, dtype=torch.float64)
    mine, other = w.clone().requires_grad_(), w.clone().requires_grad_()
    a1, a2 = alpha.clone().requires_grad_(), alpha.clone().requires_grad_()
    upstream = rand(8, 4, 3, 3, seed=5).double()
    q1 = F.apot_weight(mine, a1, bits)
    normed = (other - other.mean()) / other.std()
    q2 = slow_quantizer(normed, a2, levels)
    (q1 * upstream).sum().backward()
    torch.testing.assert_close(q1.detach(), q2.detach(), atol=1e-6, rtol=0)
    (q2 * upstream).sum().backward()
    torch.testing.assert_close(a1.grad, a2.grad, atol=1e-6, rtol=1e-6)
    if bits == 2:  # calibrated: the gradient of w_hat passes unclipped, then through mean and std
        other.grad = None
        ((other - other.mean()) / other.std() * upstream).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-6)


def test_weights_are_standardised_then_ternary():
    w = rand(6, 5) * 0.01 + 7
    q = F.apot_weight(w, T(0.8), 2)
    assert set(q.unique().tolist()) == {T(-0.8).item(), 0.0, T(0.8).item()}
    normed = (w - w.mean()) / w.std()
    assert torch.equal(q != 0, normed.abs() > 0.4)


def test_constant_and_single_weights_stay_finite():
    assert torch.isfinite(F.apot_weight(torch.ones(3, 3), T(3.0), 2)).all()
    assert torch.isfinite(F.apot_weight(torch.ones(1), T(3.0), 2)).all()


def test_uniform_step_gradient_by_hand():
    x = T([-1.0, 0.6, 2.2, 9.0], requires_grad=True)
    step = T(1.0, requires_grad=True)
    grid = F.uniform_grid(2, signed=False)
    q = F.quantize_ste(x, step, grid, F.GradientRule(gradient_factor=0.5))
    assert q.tolist() == [0, 1, 2, 3]
    q.backward(torch.ones(4))
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert step.grad.item() == pytest.approx(0.5 * (0 + 0.4 - 0.2 + 3))


def test_lsq_factor_counts_one_image():
    x, step = rand(7, 2, 3, 3).relu(), T(0.1, requires_grad=True)
    F.uniform_activation(x, step, 4).sum().backward()
    plain = T(0.1, requires_grad=True)
    F.quantize_ste(x, plain, F.uniform_grid(4, signed=False)).sum().backward()
    assert step.grad.item() == pytest.approx(plain.grad.item() / math.sqrt(18 * 15), rel=1e-5)


def test_uniform_weight_range_is_twos_complement():
    q = F.uniform_weight(T([-9.0, -0.4, 0.4, 9.0]), T(0.5), 3)
    assert q.tolist() == [-2.0, -0.5, 0.5, 1.5]


def test_edge_weights_use_the_largest_magnitude_or_as_released_the_largest_value():
    w = T([-2.0, 0.3, 1.0])
    torch.testing.assert_close(F.edge_weight(w), T([-2.0, round(0.3 * 63.5) / 63.5, 64 / 63.5]), atol=1e-6, rtol=0)
    released = F.edge_weight(w, largest_positive=True)
    torch.testing.assert_close(released, T([-2.0, 38 / 127, 1.0]), atol=1e-6, rtol=0)


def test_edge_weight_gradient_passes_straight_through():
    w = rand(4, 4).requires_grad_()
    F.edge_weight(w).backward(torch.full((4, 4), 2.0))
    assert torch.equal(w.grad, torch.full((4, 4), 2.0))


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_frozen_constants_change_neither_values_nor_gradients(bits, signed):
    x = torch.cat((rand(500), T([-1.37, 0.0, 1.37])))
    upstream = rand(503, seed=2)
    for grid in (F.apot_grid(bits, signed), F.uniform_grid(bits, signed)):
        scale = T(1.37)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        plain = F.quantize_ste(a, scale, grid)
        constants, options = F.frozen_constants(grid, scale)
        fast = F.quantize_ste(b, scale, grid, options, constants)
        assert torch.equal(plain, fast)
        plain.backward(upstream)
        fast.backward(upstream)
        assert torch.equal(a.grad, b.grad)


def test_learned_scale_below_the_floor_cannot_flip_the_sign():
    q = F.apot_activation(T([0.5, 1.0]), T(-0.2), 2)
    assert (q >= 0).all() and torch.isfinite(q).all()


@pytest.mark.parametrize("bits", [2, 3])
def test_nan_does_not_crash_the_table(bits):
    F.apot_activation(T([float("nan"), float("inf"), 1.0]), T(1.0), bits)


class ReciprocalDivision(TorchFunctionMode):
    """Divides by a float as CUDA's kernels do: by multiplying with its reciprocal."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ == "div" and isinstance(args[1], float):
            return args[0].mul(torch.tensor(1 / args[1], dtype=args[0].dtype))
        return function(*args, **(kwargs or {}))


def codes(device="cpu"):
    grid, scale = F.uniform_grid(8, signed=True), torch.tensor(0.0234567)
    near = ((torch.arange(-120, 120) + 0.5) * scale)[:, None]  # halfway between codes, where a last bit decides
    x = (near * (1 + torch.arange(-4, 5) * 2**-23)).flatten().to(device)
    scale = scale.to(device)
    constants, options = F.frozen_constants(grid, scale)
    return F.quantize_ste(x, scale, grid, options, constants), F.quantize_ste(x, scale, grid)


def test_frozen_and_unfrozen_agree_where_division_by_a_float_is_no_division():
    with ReciprocalDivision():
        frozen, plain = codes()
    assert torch.equal(frozen, plain)


@pytest.mark.gpu
def test_frozen_and_unfrozen_agree_on_a_gpu():
    frozen, plain = codes("cuda")
    assert torch.equal(frozen, plain)
