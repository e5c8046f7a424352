"""`zoo export`: a quantised network as an ONNX file that holds its integers, for ONNX Runtime.

torch's exporter writes the graph; quantisers become QuantizeLinear and DequantizeLinear, which ONNX Runtime fuses into its
integer kernels. The file takes pixels in [0, 1] as floats (N, C, H, W) of the entry's size and returns logits, with
normalisation, dropped classes and all inside.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.engines.export_parts import define_operators, take_apart
from zoo.errors import UserError
from zoo.hub.whole import replacing
from zoo.loading.load import InputWrapper, load_entry, weights_path
from zoo.registry.entry import ModelEntry

OPSET = 21
"""The first opset with 4-bit integers."""
INPUT, OUTPUT = "pixels", "logits"


@dataclass(frozen=True)
class Export:
    """A file that was written, and what in it is integer."""

    name: str
    path: Path
    sha256: str
    size: int
    notes: tuple[str, ...]


def export_onnx(entry: ModelEntry, out: Path, path: Path | None = None) -> Export:
    """Write an entry's network to an ONNX file, whole or not at all; the same weights give the same bytes.

    Args:
        entry: A quantised one.
        out: The file to write.
        path: Its weights, where they are not the registry's.

    Raises:
        UserError: the entry is not quantised, has no weights here, or its network cannot be traced.
    """
    if entry.quant is None:
        raise UserError(
            f"{entry.name} is a full-precision network: zoo export writes integers, so name a quantised entry "
            "(zoo list --family quantized)"
        )
    _require()
    define_operators()
    model = load_entry(entry, path)
    path = path or weights_path(entry)
    size = entry.input.resize or entry.input.size
    x = torch.rand(2, entry.input.channels, size, size, generator=torch.Generator().manual_seed(0))
    parts = take_apart(model.net, path, model.prepare(x))
    model.net = parts.net
    proto = traced(model, x, entry.name)
    notes = parts.notes()
    _describe(proto, entry, path, notes)
    data = proto.SerializeToString(deterministic=True)
    with replacing(out) as file:
        file.write(data)
    return Export(entry.name, out, hashlib.sha256(data).hexdigest(), len(data), tuple(notes))


def _require() -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"writing ONNX files needs the package {error.name}: pip install 'qnn-transfer-zoo[engines]'"
        ) from error
    del onnx


def traced(model: InputWrapper, x: Tensor, name: str) -> Any:
    """Return the graph that torch's exporter writes of a prepared network."""
    table: dict[Any, Callable[..., Any]] = {
        torch.ops.zoo.dequantize.default: _dequantize,
        torch.ops.zoo.quantize_dequantize.default: _quantize_dequantize,
    }
    batch = torch.export.Dim("batch")
    with _silence(), torch.no_grad():
        try:
            program = torch.onnx.export(
                model.eval(),
                (x,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: batch},),
                custom_translation_table=table,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"{name}: torch cannot trace its network for ONNX ({first})") from error
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    _narrow(proto)
    return proto


def _dequantize(stored: Any, scale: Any, zero: Any, bits: int) -> Any:
    from onnxscript import opset21 as op

    if bits == 4:
        stored, zero = _four_bits(stored), _four_bits(zero)
    return op.DequantizeLinear(stored, scale, zero, axis=0)


def _quantize_dequantize(x: Any, scale: Any, zero: Any) -> Any:
    from onnxscript import opset21 as op

    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero), scale, zero)


def _four_bits(value: Any) -> Any:
    """Return bytes as 4-bit integers, which torch has no tensors of; `_narrow` makes a constant of it."""
    from onnx import TensorProto
    from onnxscript import opset21 as op

    return op.Cast(value, to=TensorProto.UINT4)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's progress and its advice to developers off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _strip(proto: Any) -> None:
    """Remove what says where and by which lines of code the graph was traced; types inside it are inferred again."""
    graph = proto.graph
    del graph.value_info[:]
    del proto.metadata_props[:]
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    if len(proto.functions):
        raise RuntimeError("the exporter left functions in the graph")


def _narrow(proto: Any) -> None:
    """Turn constants that are cast to 4 bits into constants of 4 bits."""
    from ml_dtypes import uint4
    from onnx import TensorProto, numpy_helper

    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    casts = [
        node
        for node in graph.node
        if node.op_type == "Cast"
        and node.input[0] in constants
        and ("to", TensorProto.UINT4) in [(a.name, a.i) for a in node.attribute]
    ]
    for node in casts:
        tensor = constants[node.input[0]]
        graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(uint4), node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _describe(proto: Any, entry: ModelEntry, path: Path, notes: list[str]) -> None:
    """Write into the file what it was made of."""
    from onnx import checker, helper

    from zoo.hub.cache import sha256_of

    proto.producer_name, proto.producer_version = "qnn-transfer-zoo", ""
    proto.graph.name = entry.name
    facts = {"model": entry.name, "weights_sha256": sha256_of(path), "notes": "; ".join(notes)}
    helper.set_model_props(proto, facts)
    checker.check_model(proto)
