"""Writing a TFLite file operator by operator, by the schema that comes with `ai-edge-litert`.

Tensors are NHWC; quantised ones hold value = (integer - zero) * scale. See the TFLite 8-bit quantization specification for what
each operator asks of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.hub.whole import replacing
from zoo.loading.tflite import schema

_TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int8": 9}
VERSION = 3


class TfliteFile:
    """A graph of one subgraph, in the making; tensors are named by the numbers that `tensor` returns."""

    def __init__(self, description: str = "qnn-transfer-zoo") -> None:
        self._schema = schema()
        self._codes: list[tuple[int, int]] = []
        self._model = self._schema.ModelT()
        self._model.version = VERSION
        self._model.description = description
        self._graph = self._schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._model.buffers = [self._schema.BufferT()]  # the first is the empty one, by convention

    def tensor(
        self,
        shape: Sequence[int],
        kind: str,
        scale: ArrayLike | None = None,
        zero: ArrayLike | None = None,
        values: NDArray[Any] | None = None,
        axis: int = 0,
        name: str = "",
    ) -> int:
        """Add a tensor and return its number.

        Args:
            shape: NHWC.
            kind: float32, int32, uint8 or int8.
            scale: One number or one for each place along `axis`; null for plain integers.
            zero: Zero points likewise.
            values: What a constant holds.
            axis: The axis that several scales belong to.
            name: Shown by viewers.
        """
        made = self._schema.TensorT()
        made.shape, made.type = [int(n) for n in shape], _TYPES[kind]
        made.name = name or f"t{len(self._graph.tensors)}"
        made.buffer = 0
        if values is not None:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values, dtype=kind).tobytes(), dtype=np.uint8)
            made.buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
        if scale is not None:
            q = self._schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, dtype=np.float32))
            q.zeroPoint = np.broadcast_to(np.asarray(0 if zero is None else zero, dtype=np.int64), q.scale.shape).copy()
            q.quantizedDimension = axis
            made.quantization = q
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def add(
        self, operator: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any
    ) -> None:
        """Add an operator by its name in the schema, such as CONV_2D, with the options of its table."""
        number = getattr(self._schema.BuiltinOperator, operator)
        if (number, version) not in self._codes:
            self._codes.append((number, version))
        made = self._schema.OperatorT()
        made.opcodeIndex = self._codes.index((number, version))
        made.inputs, made.outputs = list(inputs), list(outputs)
        table = _TABLES.get(operator)
        if table is not None:
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, table)
            made.builtinOptions = getattr(self._schema, f"{table}T")()
            for key, value in options.items():
                if not hasattr(made.builtinOptions, key):
                    raise TypeError(f"{table} has no option {key}")
                setattr(made.builtinOptions, key, value)
        self._graph.operators.append(made)

    def content(self, source: int, result: int) -> bytes:
        """Return the file with the given input and output."""
        import flatbuffers

        self._graph.inputs, self._graph.outputs = [source], [result]
        self._model.subgraphs = [self._graph]
        self._model.operatorCodes = []
        for number, version in self._codes:
            code = self._schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
            self._model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def write(self, path: Path, source: int, result: int) -> None:
        """Write the file, whole or not at all."""
        with replacing(path) as file:
            file.write(self.content(source, result))


_TABLES = {
    "ADD": "AddOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "RESHAPE": "ReshapeOptions",
    "SOFTMAX": "SoftmaxOptions",
}
"""The table of options of each operator that has one."""
