"""Small integer networks, written operator by operator: strides, depthwise, a sum, a pool, a fused ReLU6."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.zoo.engines.tflite_file import TfliteFile

SIDE, CLASSES = 10, 5


class Writer:
    """Adds layers with random weights to a file of uint8 tensors with one scale, or int8 with a scale for each channel."""

    def __init__(self, kind: str, seed: int) -> None:
        self.file, self.kind = TfliteFile(), kind
        self.random = np.random.default_rng(seed)
        self.zero = 128 if kind == "uint8" else 0

    def activation(self, shape: tuple[int, ...], scale: float, zero: int | None = None) -> tuple[int, float]:
        zero = self.zero if zero is None else zero
        return self.file.tensor(shape, self.kind, scale, zero), scale

    def weight(self, shape: tuple[int, ...], axis: int, given: float) -> tuple[int, int]:
        """A weight and its bias, for inputs of a scale."""
        if self.kind == "uint8":
            scale, zero = np.float32(0.006), 121
            values = self.random.integers(0, 256, shape)
        else:
            scale, zero = self.random.uniform(0.003, 0.008, shape[axis]).astype(np.float32), 0
            values = self.random.integers(-127, 128, shape)
        weight = self.file.tensor(shape, self.kind, scale, zero, values, axis if self.kind == "int8" else 0)
        bias = self.random.integers(-200, 200, shape[axis])
        return weight, self.file.tensor((shape[axis],), "int32", scale * np.float32(given), 0, bias)

    def finish(
        self,
        operator: str,
        source: tuple[int, float],
        axis: int,
        shape: tuple[int, ...],
        out: tuple[int, float],
        **options: Any,
    ) -> None:
        weight, bias = self.weight(shape, axis, source[1])
        self.file.add(operator, [source[0], weight, bias], [out[0]], 3 if self.kind == "int8" else 1, **options)


def write(path: Path, kind: str = "uint8", seed: int = 0, softmax: bool = True) -> Path:
    """Write a classifier of 10 x 10 RGB images into 5 classes and return its path."""
    w = Writer(kind, seed)
    relu6 = -128 if kind == "int8" else 0
    x = w.activation((1, SIDE, SIDE, 3), 1 / 128)
    a = w.activation((1, 5, 5, 8), 6 / 255, relu6)
    w.finish(
        "CONV_2D",
        x,
        0,
        (8, 3, 3, 3),
        a,
        padding=0,
        strideW=2,
        strideH=2,
        fusedActivationFunction=3,
        dilationWFactor=1,
        dilationHFactor=1,
    )
    b = w.activation((1, 5, 5, 8), 0.04)
    w.finish(
        "DEPTHWISE_CONV_2D", a, 3, (1, 3, 3, 8), b,
        padding=0, strideW=1, strideH=1, depthMultiplier=1, fusedActivationFunction=0, dilationWFactor=1, dilationHFactor=1,
    )  # fmt: skip
    c = w.activation((1, 5, 5, 8), 0.03)
    w.finish(
        "CONV_2D",
        b,
        0,
        (8, 1, 1, 8),
        c,
        padding=1,
        strideW=1,
        strideH=1,
        fusedActivationFunction=0,
        dilationWFactor=1,
        dilationHFactor=1,
    )
    s = w.activation((1, 5, 5, 8), 0.04)  # its ReLU is a clip at the zero point
    w.file.add("ADD", [c[0], b[0]], [s[0]], 2 if kind == "int8" else 1, fusedActivationFunction=1, potScaleInt16=True)
    p = w.activation((1, 2, 2, 8), 0.04)
    w.file.add(
        "AVERAGE_POOL_2D", [s[0]], [p[0]], 2 if kind == "int8" else 1,
        padding=1, strideW=2, strideH=2, filterWidth=2, filterHeight=2, fusedActivationFunction=0,
    )  # fmt: skip
    shape = w.file.tensor((2,), "int32", values=np.array([1, 32]))
    flat = w.activation((1, 32), 0.04)
    w.file.add("RESHAPE", [p[0], shape], [flat[0]], newShape=[1, 32])
    logits = w.activation((1, CLASSES), 0.05)
    w.finish("FULLY_CONNECTED", flat, 0, (CLASSES, 32), logits, fusedActivationFunction=0, weightsFormat=0)
    result = logits[0]
    if softmax:
        result = w.file.tensor((1, CLASSES), kind, 1 / 256, -128 if kind == "int8" else 0)
        w.file.add("SOFTMAX", [logits[0]], [result], 2 if kind == "int8" else 1, beta=1.0)
    w.file.write(path, x[0], result)
    return path
