"""A network that was read from an integer file: every step computes with the file's integers, held in floats.

Activations are codes less their zero point, weights are integers, and a sum is brought to the codes of the output by one factor:
q = clip(round(sum * M), low, high) with M = scale_in * scale_weight / scale_out, as the engines do it (Jacob et al., CVPR 2018,
Sec. 2.2; halves to even, as XNNPACK's kernels round). Sums below 2^24 are exact in float32. Rounding passes the gradient straight
through, inside the range and not outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.archs.base import ZooNet
from zoo.quant.grids import Constants, Grid
from zoo.quant.modules import ActivationQuantizer, FixedWeight

Kind = Literal["conv", "linear", "average", "max", "mean", "add", "pad", "flatten", "same"]
_SLACK = 1e-4


@dataclass(frozen=True)
class Codes:
    """How a tensor is held: value = (code - zero) * scale, for codes from low to high, a fused ReLU or ReLU6 included."""

    scale: float
    zero: int
    low: int
    high: int


@dataclass(frozen=True)
class Step:
    """One operator: reads tensors by number, writes one. Pads are (left, right, top, bottom), of zeros in real values."""

    kind: Kind
    inputs: tuple[int, ...]
    output: int
    codes: Codes | None = None
    """Null where the output keeps the codes of the input."""
    factors: tuple[Tensor, ...] = (torch.tensor(1.0),)
    """What brings each input's sum to codes of the output: one number, or one for each output channel.

    The two of an addition are float64, which holds the product of a code and the 21 bits of an engine's factor; float32 does not.
    """
    weight: Tensor | None = None
    """Integers: (out, in / groups, height, width) of a convolution, (out, in) of a linear layer."""
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    rectified: bool = False
    """Whether a ReLU or ReLU6 is fused."""


@dataclass(frozen=True)
class SumGrid(Grid):
    """Codes to which sums of two tensors are rounded: halves go up, by an arithmetic shift."""

    def quantize(self, x: Tensor, constants: Constants) -> Tensor:
        """Return the codes."""
        (unit,) = constants
        return x.div(unit).add_(0.5).floor_().clamp_(self.numerators[0], self.numerators[-1]).mul_(unit)


@dataclass(frozen=True)
class MeanGrid(Grid):
    """Codes to which means of codes are rounded: halves go away from the integer 0, by (sum +- count / 2) / count.

    Halves are common in means of a few codes; `_SLACK` keeps float means from falling just below them.
    """

    zero: int = 0

    def quantize(self, x: Tensor, constants: Constants) -> Tensor:
        """Return the codes less their zero."""
        (unit,) = constants
        stored = x.div(unit).add_(self.zero)
        sign = stored.sign()
        rounded = stored.abs_().add_(0.5 + _SLACK).floor_().mul_(sign).sub_(self.zero)
        return rounded.clamp_(self.numerators[0], self.numerators[-1]).mul_(unit)


class Requantize(ActivationQuantizer):
    """Rounds to codes; switched off it still clips to their range, which a fused ReLU6 is part of."""

    unit: Tensor

    def __init__(self, codes: Codes, name: str, kind: Kind = "same") -> None:
        super().__init__((codes.high - codes.low).bit_length())
        numbers = tuple(range(codes.low - codes.zero, codes.high - codes.zero + 1))
        if kind == "add":
            self._grid: Grid = SumGrid(numbers, 1, uniform=True)
        elif kind in ("average", "mean"):
            self._grid = MeanGrid(numbers, 1, uniform=True, zero=codes.zero)
        else:
            self._grid = Grid(numbers, 1, uniform=True)
        self.layer = name
        self.register_buffer("unit", torch.tensor(1.0))
        self.calibrated.fill_(True)
        self.signed.fill_(codes.low < codes.zero)

    def grid(self, signed: bool) -> Grid:
        """Return the codes around the zero."""
        return self._grid

    def scale(self) -> Tensor:
        """Return 1: what comes in is in units of codes."""
        return self.unit

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes, or the clipped values."""
        return super().forward(x) if self.enabled else x.clamp(self._grid.low, self._grid.high)


class Operator(nn.Module):
    """One step: pad, compute, rescale, round. `layer` is its convolution or linear layer, `output` its quantiser, if any."""

    def __init__(self, step: Step, name: str) -> None:
        super().__init__()
        self.reads, self.writes = step.inputs, step.output
        left, right, top, bottom = step.pad
        even = left == right and top == bottom and step.kind in ("conv", "average", "max")
        inside = (top, left) if even else (0, 0)
        self.pad = (0, 0, 0, 0) if even else step.pad
        self.compute = _function(step, inside)
        self.layer = _layer(step, inside)
        self._factors = len(step.factors)
        for place, factor in enumerate(step.factors):
            shaped = factor.view(-1, 1, 1) if factor.dim() and step.kind == "conv" else factor
            self.register_buffer(f"factor{place}", shaped)
        self.output: nn.Module = nn.Identity()
        if step.codes is not None:
            self.output = Requantize(step.codes, name, step.kind)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the codes of the step's output, (N, C, H, W) or (N, C)."""
        dtype = inputs[0].dtype
        if any(self.pad):
            inputs = (F.pad(inputs[0], self.pad), *inputs[1:])
        if self._factors > 1:
            inputs = tuple(x.double() * self.get_buffer(f"factor{place}") for place, x in enumerate(inputs))
        y: Tensor = self.compute(*inputs) if self.layer is None else self.layer(*inputs)
        if self._factors == 1:
            y = y * self.get_buffer("factor0")
        out: Tensor = self.output(y).to(dtype)
        return out


def _layer(step: Step, inside: tuple[int, int]) -> nn.Module | None:
    """Return the layer of a convolution or of a linear step, its weight fixed."""
    if step.weight is None:
        return None
    layer: nn.Conv2d | nn.Linear
    out, into = step.weight.shape[:2]
    if step.kind == "conv":
        kernel = (step.weight.shape[2], step.weight.shape[3])
        layer = nn.Conv2d(into * step.groups, out, kernel, step.stride, inside, step.dilation, step.groups)
    else:
        layer = nn.Linear(into, out)
    layer.weight = nn.Parameter(step.weight, requires_grad=False)
    layer.bias = nn.Parameter(step.bias if step.bias is not None else torch.zeros(out), requires_grad=False)
    parametrize.register_parametrization(layer, "weight", FixedWeight(8))
    return layer


def _function(step: Step, inside: tuple[int, int]) -> Callable[..., Tensor]:
    """Return what a step without weights computes; a padded average counts true values only, as TFLite's does."""
    kernel, stride = step.kernel, step.stride
    table: dict[Kind, Callable[..., Tensor]] = {
        "average": lambda x: F.avg_pool2d(x, kernel, stride, inside, count_include_pad=False),
        "max": lambda x: F.max_pool2d(x, kernel, stride, inside),
        "mean": lambda x: x.mean((2, 3), keepdim=True),
        "add": lambda x, y: x + y,
        "flatten": lambda x: x.permute(0, 2, 3, 1).flatten(1) if x.dim() == 4 else x,
    }
    return table.get(step.kind, lambda x: x)


class IntegerNet(ZooNet):
    """Runs steps in their order on pixels in [0, 1], (N, C, H, W) of `side` pixels; returns logits (N, classes).

    Pixels are rounded to bytes first, as the engine is fed. Weights are fixed: the states are "wa", and "w", in which activations
    are clipped to their ranges but not rounded.
    """

    def __init__(self, steps: Sequence[Step], source: int, fed: Codes, result: int, scale: float, side: int) -> None:
        super().__init__()
        self.source, self.result, self.scale, self.side = source, result, scale, side
        self.fed = Requantize(Codes(1.0, 0, 0, fed.high - fed.low), "input")
        self.first = float(fed.low - fed.zero)
        self.steps = nn.ModuleDict({f"op{place}": Operator(step, f"op{place}") for place, step in enumerate(steps)})
        self.first_conv, self.classifier, self.feature_layer = _named(steps)
        last = {number: place for place, step in enumerate(steps) for number in step.inputs}
        self._ends = [tuple(n for n in set(step.inputs) if last[n] == place) for place, step in enumerate(steps)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: codes of the last layer times their scale."""
        values = {self.source: self.fed(x * 255) + self.first}
        for operator, ends in zip(self.steps.values(), self._ends, strict=True):
            assert isinstance(operator, Operator)
            values[operator.writes] = operator(*(values[number] for number in operator.reads))
            for number in ends:
                if number != self.result:
                    values.pop(number, None)
        logits: Tensor = values[self.result].flatten(1) * self.scale
        return logits


def _named(steps: Sequence[Step]) -> tuple[str, str, str]:
    """Return the first layer, the last one, and of the rectified convolutions the middle one's output."""
    layers = [place for place, step in enumerate(steps) if step.weight is not None]
    rectified = [place for place in layers if steps[place].rectified] or layers
    return (
        f"steps.op{layers[0]}.layer",
        f"steps.op{layers[-1]}.layer",
        f"steps.op{rectified[len(rectified) // 2]}.output",
    )
