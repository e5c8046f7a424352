"""Integer TFLite files as networks of torch: the file's integers and ranges, gradients straight through.

What is read is the file's graph, so the network's shape needs no registry. The flatbuffer's schema comes with `ai-edge-litert`.
Source: the TFLite 8-bit quantization specification, and for uint8 files Jacob et al., CVPR 2018.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.archs.integer import Codes, IntegerNet, Kind, Step
from zoo.errors import UserError

_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8}
_LIMITS = {3: (0, 255), 9: (-128, 127)}
_ACTIVATIONS = {0: None, 1: (0.0, np.inf), 3: (0.0, 6.0)}
"""Fused activations by number: none, ReLU, ReLU6; the range of values that each leaves."""


@dataclass(frozen=True)
class Imported:
    """An integer network and what its file says of the images that it takes."""

    net: IntegerNet
    side: int
    channels: int
    classes: int
    operators: tuple[str, ...]


class _File:
    """The main graph of a file, its numbers resolved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        tables = schema()
        data = path.read_bytes()
        if data[4:8] != b"TFL3":
            raise UserError(
                f"{path} is no TFLite file: its bytes 4 to 8 are not TFL3; check the path, or fetch it again"
            )
        try:
            model = tables.ModelT.InitFromPackedBuf(data, 0)
            self.graph = model.subgraphs[0]
            codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
            self.kinds = [codes[o.opcodeIndex] for o in self.graph.operators]
            self.names = {v: k for k, v in vars(tables.BuiltinOperator).items() if isinstance(v, int)}
            self.buffers = [b.data for b in model.buffers]
            self.graph.tensors[self.graph.inputs[0]], self.graph.tensors[self.graph.outputs[0]]
        except (struct.error, IndexError, TypeError, ValueError, AttributeError, OverflowError, MemoryError) as error:
            raise UserError(f"{path} is damaged: its graph cannot be read ({error}); fetch it again") from error
        if len(self.graph.inputs) != 1 or len(self.graph.outputs) != 1:
            count = f"{len(self.graph.inputs)} inputs and {len(self.graph.outputs)} outputs"
            raise UserError(f"{path} has {count}; a classifier has one each")

    def shape(self, number: int) -> tuple[int, ...]:
        """Return a tensor's shape, NHWC."""
        return tuple(int(n) for n in self.graph.tensors[number].shape)

    def values(self, number: int) -> NDArray[Any]:
        """Return a constant tensor as it is stored."""
        tensor = self.graph.tensors[number]
        raw = self.buffers[tensor.buffer]
        if raw is None or tensor.type not in _DTYPES:
            raise UserError(
                f"{self.path}: tensor {number} should be a constant, and the file holds none that can be read"
            )
        found = np.asarray(raw, dtype=np.uint8).tobytes()
        return np.frombuffer(found, dtype=_DTYPES[tensor.type]).reshape(self.shape(number))

    def scales(self, number: int, axis: int, dims: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return a tensor's scales and zeros, shaped to be broadcast along an axis of `dims` dimensions."""
        q = self.graph.tensors[number].quantization
        if q is None or q.scale is None or not len(q.scale):
            kind = "float" if self.graph.tensors[number].type in (0, 1) else "without a scale"
            raise UserError(
                f"{self.path}: tensor {number} is {kind}: only networks that are integer throughout (uint8 or int8) are read; "
                "run a float network by an entry with engine: litert, or load its weights into torch and quantise them here"
            )
        scale = np.asarray(q.scale, dtype=np.float64)
        zero = np.zeros(len(scale)) if q.zeroPoint is None else np.asarray(q.zeroPoint, dtype=np.float64)
        if len(scale) == 1:
            return scale.reshape(()), zero.reshape(())
        where = [-1 if place == axis else 1 for place in range(dims)]
        return scale.reshape(where), zero.reshape(where)

    def codes(self, number: int, activation: int = 0) -> Codes:
        """Return how an activation tensor is held, narrowed to what a fused activation leaves."""
        scale, zero = self.scales(number, 0, 0)
        kind = self.graph.tensors[number].type
        if kind not in _LIMITS or scale.ndim:
            raise UserError(
                f"{self.path}: tensor {number} is neither uint8 nor int8 with one scale; only such are read"
            )
        if activation not in _ACTIVATIONS:
            raise UserError(f"{self.path}: fused activation {activation} is not read; only ReLU (1) and ReLU6 (3) are")
        low, high = _LIMITS[kind]
        bounds = _ACTIVATIONS[activation]
        if bounds is not None:
            low = max(low, int(zero))
            high = high if np.isinf(bounds[1]) else min(high, int(zero) + round(bounds[1] / float(scale)))
        return Codes(float(scale), int(zero), low, high)


def schema() -> Any:
    """Return the generated classes of the TFLite schema.

    Raises:
        UserError: the package that brings them is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise UserError(
            "reading a TFLite file needs the package ai-edge-litert: pip install 'qnn-transfer-zoo[engines]'"
        ) from error
    return schema_py_generated


def read_network(path: Path) -> Imported:
    """Read an integer TFLite classifier of images into a network of torch.

    Args:
        path: A uint8 or int8 file, input (1, H, W, C).

    Raises:
        UserError: the file is damaged, a float network, or has an operator that is not read; the message names it.
    """
    file = _File(path)
    source, result = int(file.graph.inputs[0]), int(file.graph.outputs[0])
    shape = file.shape(source)
    if len(shape) != 4 or shape[1] != shape[2]:
        raise UserError(
            f"{path} takes an input of shape {shape}; a classifier of square images takes (1, side, side, channels)"
        )
    fed = file.codes(source)
    names = [file.names.get(kind, str(kind)) for kind in file.kinds]
    steps: list[Step] = []
    for place, (operator, name) in enumerate(zip(file.graph.operators, names, strict=True)):
        if name in ("SOFTMAX", "DEQUANTIZE") and int(operator.outputs[0]) == result:
            result = int(
                operator.inputs[0]
            )  # neither changes the order of the classes; logits have the better gradient
            file.graph.operators = file.graph.operators[:place]
            break
        if name not in _READERS:
            raise UserError(
                f"{path}: operator {place} is {name}, which is not read; known are {', '.join(sorted(_READERS))}, and SOFTMAX "
                "or DEQUANTIZE at the end. The network can still be a target, by an entry with engine: litert"
            )
        steps.append(_READERS[name](file, operator))
    if not any(step.weight is not None for step in steps):
        raise UserError(f"{path} has no convolution or linear layer")
    net = IntegerNet(steps, source, fed, result, file.codes(result).scale, shape[1])
    return Imported(net.eval(), shape[1], shape[3], file.shape(result)[-1], tuple(names))


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the pads before and after that TFLite's padding SAME adds: the smaller one first."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _window(file: _File, operator: Any, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Return stride, dilation and pad of an operator that moves a window."""
    options = operator.builtinOptions
    stride = (int(options.strideH), int(options.strideW))
    _, height, width, _ = file.shape(int(operator.inputs[0]))
    top = left = (0, 0)
    if options.padding == 0:  # SAME
        top = _same(height, kernel[0], stride[0], dilation[0])
        left = _same(width, kernel[1], stride[1], dilation[1])
    return {"stride": stride, "dilation": dilation, "pad": (*left, *top)}


def _weights(file: _File, operator: Any, axis: int) -> dict[str, Any]:
    """Return integer weights less their zero, integer biases, and the factor from their sums to codes of the output."""
    source, number, output = int(operator.inputs[0]), int(operator.inputs[1]), int(operator.outputs[0])
    stored = file.values(number)
    scale, zero = file.scales(number, axis, stored.ndim)
    # in float32 and in this order, as the engine does: round scales make ties, which the last bit decides
    product = scale.astype(np.float32) * np.float32(file.codes(source).scale)
    factor = torch.from_numpy(
        np.asarray(product / np.float32(file.codes(output).scale)).reshape(-1 if scale.ndim else ())
    )
    weight = torch.from_numpy((stored.astype(np.float64) - zero).astype(np.float32))
    bias = None
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        bias = torch.from_numpy(file.values(int(operator.inputs[2])).astype(np.float32))
    return {"weight": weight, "bias": bias, "factors": (factor,)}


def _convolution(file: _File, operator: Any, *, depthwise: bool) -> Step:
    options = operator.builtinOptions
    parts = _weights(file, operator, 3 if depthwise else 0)
    # (out, h, w, in) of a convolution, (1, h, w, out) of a depthwise one
    weight = parts["weight"].permute((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)).contiguous()
    channels = file.shape(int(operator.inputs[0]))[3]
    dilation = (int(options.dilationHFactor), int(options.dilationWFactor))
    return Step(
        "conv",
        (int(operator.inputs[0]),),
        int(operator.outputs[0]),
        file.codes(int(operator.outputs[0]), options.fusedActivationFunction),
        groups=channels if depthwise else channels // weight.shape[1],
        rectified=options.fusedActivationFunction != 0,
        **(parts | {"weight": weight}),
        **_window(file, operator, (weight.shape[2], weight.shape[3]), dilation),
    )


def _linear(file: _File, operator: Any) -> Step:
    activation = operator.builtinOptions.fusedActivationFunction
    codes = file.codes(int(operator.outputs[0]), activation)
    parts = _weights(file, operator, 0)
    return Step(
        "linear", (int(operator.inputs[0]),), int(operator.outputs[0]), codes, rectified=activation != 0, **parts
    )


def _rescaled(file: _File, operator: Any) -> tuple[Tensor]:
    """Return the factor from codes of the input to codes of the output."""
    return (torch.tensor(file.codes(int(operator.inputs[0])).scale / file.codes(int(operator.outputs[0])).scale),)


def _pool(file: _File, operator: Any, kind: Kind) -> Step:
    options = operator.builtinOptions
    kernel = (int(options.filterHeight), int(options.filterWidth))
    codes = file.codes(int(operator.outputs[0]), options.fusedActivationFunction)
    factors, window = _rescaled(file, operator), _window(file, operator, kernel)
    step = Step(kind, (int(operator.inputs[0]),), int(operator.outputs[0]), codes, factors, kernel=kernel, **window)
    left, right, top, bottom = step.pad
    if (left, top) != (right, bottom):
        raise UserError(
            f"{file.path}: a pool with one-sided padding {step.pad} is not read; use the network as a target"
        )
    return step


def _mean(file: _File, operator: Any) -> Step:
    axes = sorted(int(a) % 4 for a in file.values(int(operator.inputs[1])).flatten())
    if axes != [1, 2]:
        raise UserError(f"{file.path}: a mean over axes {axes} is not read; only over height and width")
    codes = file.codes(int(operator.outputs[0]))
    return Step("mean", (int(operator.inputs[0]),), int(operator.outputs[0]), codes, _rescaled(file, operator))


def _add(file: _File, operator: Any) -> Step:
    first, second = (int(n) for n in operator.inputs)
    if file.shape(first) != file.shape(second):
        raise UserError(f"{file.path}: an addition of shapes {file.shape(first)} and {file.shape(second)} is not read")
    activation = operator.builtinOptions.fusedActivationFunction
    codes = file.codes(int(operator.outputs[0]), activation)
    scales = [float(np.float32(file.codes(n).scale) / np.float32(codes.scale)) for n in (first, second)]
    shift = 20 - (math.frexp(max(scales))[1] - 1)  # XNNPACK's factors have 21 bits
    factors = tuple(torch.tensor(round(math.ldexp(s, shift)) * 2.0**-shift, dtype=torch.float64) for s in scales)
    return Step("add", (first, second), int(operator.outputs[0]), codes, factors, rectified=activation != 0)


def _pad(file: _File, operator: Any) -> Step:
    pads = file.values(int(operator.inputs[1])).tolist()
    if pads[0] != [0, 0] or pads[3] != [0, 0]:
        raise UserError(f"{file.path}: padding of channels or batches is not read")
    return Step("pad", (int(operator.inputs[0]),), int(operator.outputs[0]), pad=(*pads[2], *pads[1]))


def _reshape(file: _File, operator: Any) -> Step:
    source, result = int(operator.inputs[0]), int(operator.outputs[0])
    if len(file.shape(result)) != 2:
        raise UserError(f"{file.path}: a reshape to {file.shape(result)} is not read; only to (1, classes)")
    return Step("flatten", (source,), result)


def _requantize(file: _File, operator: Any) -> Step:
    codes = file.codes(int(operator.outputs[0]))
    return Step("same", (int(operator.inputs[0]),), int(operator.outputs[0]), codes, _rescaled(file, operator))


_READERS: dict[str, Callable[[_File, Any], Step]] = {
    "ADD": _add,
    "AVERAGE_POOL_2D": lambda file, operator: _pool(file, operator, "average"),
    "CONV_2D": lambda file, operator: _convolution(file, operator, depthwise=False),
    "DEPTHWISE_CONV_2D": lambda file, operator: _convolution(file, operator, depthwise=True),
    "FULLY_CONNECTED": _linear,
    "MAX_POOL_2D": lambda file, operator: _pool(file, operator, "max"),
    "MEAN": _mean,
    "PAD": _pad,
    "QUANTIZE": _requantize,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
}
"""What turns an operator of TFLite into a step."""


def read_for(path: Path, name: str, classes: int) -> IntegerNet:
    """Return the network of a file, which must have a number of classes, the background included.

    Raises:
        UserError: it has another number.
    """
    imported = read_network(path)
    if imported.classes != classes:
        raise UserError(
            f"{name}: {path} has {imported.classes} classes and the entry states {classes} (classes + label_offset); "
            "files of TensorFlow's ImageNet networks have 1001, with label_offset: 1"
        )
    return imported.net
