"""Deployed files as they run on devices: LiteRT and ONNX Runtime as black boxes, images in, logits out.

Engines answer otherwise on other CPUs, as their kernels follow the instructions that there are; `facts` says which.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.registry.entry import ModelEntry

PACKAGES = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime"}
_DELEGATES = {"litert": "XNNPACK", "onnxruntime": "CPUExecutionProvider"}
_TELLING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
"""Instructions that the engines' integer kernels are chosen by, as Linux calls them."""
_INTEGERS = {np.dtype(np.uint8): 0, np.dtype(np.int8): 128}
"""What is taken from a byte to make an input code."""


class Session(Protocol):
    """An opened file: the type and shape of its input, and how it is run."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """(N, C, H, W) or (N, H, W, C); the first is not a limit."""
    classes: int

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the outputs (N, classes), dequantised, of inputs as the file wants them."""


class BlackBox(nn.Module):
    """A deployed network: prepared images (N, C, H, W) to logits (N, K), on one thread, without gradients.

    The file is opened at the first call. Images come as `zoo.loading.load.InputWrapper` prepares them, and the answer lies on
    their device.
    """

    def __init__(self, entry: ModelEntry, path: Path) -> None:
        super().__init__()
        assert entry.engine is not None
        self.entry, self.engine, self.path = entry, entry.engine, path
        self._session: Session | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Raises:
            UserError: a gradient is asked for, the engine is not installed, or the file is not what the entry says.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise UserError(black_box_sentence(self.entry))
        session = self.session()
        images = x.detach().cpu()
        if self.engine.channels == "bgr":
            images = images.flip(1)
        if _channels_last(session.shape, images.shape[1]):
            images = images.permute(0, 2, 3, 1)
        if tuple(images.shape[1:]) != session.shape[1:]:
            raise UserError(
                f"{self.entry.name}: {self.path} takes images of {_times(session.shape[1:])}, and {_times(images.shape[1:])} "
                "came; state their side as input.resize, and input.channels"
            )
        logits = torch.from_numpy(session.run(_codes(images, session.dtype)))
        if self.engine.order is not None:
            offset = self.entry.label_offset
            logits = torch.cat((logits[:, :offset], logits[:, offset:][:, list(self.engine.order)]), 1)
        return logits.to(x.device)

    def session(self) -> Session:
        """Return the opened file, after checking it against the entry."""
        if self._session is None:
            session = _OPENERS[self.engine.name](self.entry, self.path)
            expected = self.entry.classes + self.entry.label_offset
            if session.classes != expected:
                raise UserError(
                    f"{self.entry.name}: {self.path} has {session.classes} outputs and the entry states {expected} "
                    "(classes + label_offset); files of TensorFlow's ImageNet networks have 1001, with label_offset: 1"
                )
            if session.dtype in _INTEGERS and (set(self.entry.input.mean) != {0.0} or set(self.entry.input.std) != {1.0}):
                raise UserError(
                    f"{self.entry.name}: {self.path} takes bytes, which are not normalised; state mean 0 and std 1 per channel"
                )
            self._session = session
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        """Leave the opened file behind; a copy opens it again."""
        return {**self.__dict__, "_session": None}


def black_box_sentence(entry: ModelEntry) -> str:
    """Say why nothing can be crafted on an entry that an engine runs."""
    assert entry.engine is not None
    return (
        f"{entry.name} is run by {entry.engine.name} as it is deployed and has no gradient: it can be a target, not a "
        "substitute; for an integer TFLite file, zoo import makes a substitute of the same integers"
    )


def facts(entry: ModelEntry) -> str | None:
    """Return what decides the last bits of a deployed entry's answers here: engine, version, delegate and instructions.

    None for an entry without an engine.
    """
    if entry.engine is None:
        return None
    name = entry.engine.name
    return f"{name} {_version(name)}, {_DELEGATES[name]}, {instructions()}"


@cache
def instructions() -> str:
    """Return the vector instructions of this machine's CPU by which engines choose integer kernels, as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return " ".join([platform.machine(), *(name for name in _TELLING if name in flags)])


def _version(name: str) -> str:
    try:
        return metadata.version(PACKAGES[name])
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"networks that {name} runs need the package {PACKAGES[name]}: pip install 'qnn-transfer-zoo[engines]'"
        ) from error


def _channels_last(shape: tuple[int, ...], channels: int) -> bool:
    return len(shape) == 4 and shape[1] != channels and shape[3] == channels


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _codes(images: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return images as the file wants them: floats as they are, or the bytes of pixels in [0, 1]."""
    if dtype not in _INTEGERS:
        return np.ascontiguousarray(images.numpy().astype(dtype, copy=False))
    codes = (images * 255).round().clamp(0, 255) - _INTEGERS[dtype]
    return np.ascontiguousarray(codes.numpy().astype(dtype))


class _LiteRT:
    """A .tflite file in LiteRT's interpreter; batches where its graph allows another batch than its own, else one by one."""

    def __init__(self, entry: ModelEntry, path: Path) -> None:
        _version("litert")
        from ai_edge_litert.interpreter import Interpreter

        self.entry, self.path = entry, path
        try:
            with _silent():
                self.interpreter = Interpreter(str(path), num_threads=1)
                self.interpreter.allocate_tensors()
            inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise UserError(_unreadable(entry, path, error)) from error
        if len(inputs) != 1 or len(outputs) != 1:
            raise UserError(_many(entry, path, len(inputs), len(outputs)))
        kinds = {np.dtype(tensor["dtype"]) for tensor in self.interpreter.get_tensor_details()}
        _check_integers(entry, path, bool(kinds & {np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.int16)}))
        self.input, self.output = inputs[0], outputs[0]
        self.dtype, self.shape = np.dtype(self.input["dtype"]), tuple(int(n) for n in self.input["shape"])
        self.classes = int(self.output["shape"][-1])
        self._batch, self._batches = self.shape[0], True

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the outputs (N, classes)."""
        if self._batches and len(x) > 1:
            self._batches = self._resize(len(x))
        if self._batches:
            self._resize(len(x))
            return self._invoke(x)
        self._resize(1)
        return np.concatenate([self._invoke(one[None]) for one in x])

    def _resize(self, batch: int) -> bool:
        """Take inputs of another batch, and say whether the outputs follow."""
        if batch == self._batch:
            return True
        try:
            with _silent():
                self.interpreter.resize_tensor_input(self.input["index"], [batch, *self.shape[1:]], strict=False)
                self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError):
            self._batch = 0
            return False
        self._batch = batch
        shape: Any = self.interpreter.get_output_details()[0]["shape"]
        return int(np.prod(shape)) == batch * self.classes

    def _invoke(self, x: NDArray[Any]) -> NDArray[np.float32]:
        try:
            self.interpreter.set_tensor(self.input["index"], x)
            self.interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise UserError(_unreadable(self.entry, self.path, error)) from error
        found: NDArray[Any] = self.interpreter.get_tensor(self.output["index"]).reshape(len(x), self.classes)
        scale, zero = self.output["quantization"]
        if found.dtype.kind in "iu" and scale:
            return ((found.astype(np.int32) - int(zero)) * np.float32(scale)).astype(np.float32)
        return found.astype(np.float32)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep off the terminal what an engine's C++ says of itself; its errors come as exceptions."""
    sys.stderr.flush()
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # there is no terminal
        yield
        return
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _OnnxRuntime:
    """An .onnx file in ONNX Runtime, on the CPU and one thread."""

    def __init__(self, entry: ModelEntry, path: Path) -> None:
        _version("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.entry, self.path = entry, path
        try:
            self.engine = onnxruntime.InferenceSession(str(path), options, providers=[_DELEGATES["onnxruntime"]])
        except Exception as error:  # its errors share no base class
            raise UserError(_unreadable(entry, path, error)) from error
        inputs, outputs = self.engine.get_inputs(), self.engine.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise UserError(_many(entry, path, len(inputs), len(outputs)))
        self.input = inputs[0]
        kinds = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(float16)": np.float16}
        if self.input.type not in kinds:
            raise UserError(f"{entry.name}: {path} takes {self.input.type}; images come as floats or bytes")
        self.dtype = np.dtype(kinds[self.input.type])
        self.fixed = self.input.shape[0] if isinstance(self.input.shape[0], int) else None
        self.shape = (self.fixed or 1, *(n if isinstance(n, int) else -1 for n in self.input.shape[1:]))
        if min(self.shape[1:]) < 1:
            self.shape = (self.shape[0], entry.input.channels, *[entry.input.resize or entry.input.size] * 2)
        classes = outputs[0].shape[-1]
        self.classes = classes if isinstance(classes, int) else self._count()
        if entry.quant is not None and entry.quant.method == "integer":
            _check_integers(entry, path, _has_integers(path))

    def _count(self) -> int:
        return int(self._invoke(np.zeros((self.fixed or 1, *self.shape[1:]), self.dtype)).shape[-1])

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the outputs (N, classes)."""
        if self.fixed is None or self.fixed == len(x):
            return self._invoke(x).reshape(len(x), self.classes)
        out = []
        for start in range(0, len(x), self.fixed):
            part = x[start : start + self.fixed]
            padded = np.concatenate((part, np.repeat(part[-1:], self.fixed - len(part), 0)))
            out.append(self._invoke(padded).reshape(len(padded), self.classes)[: len(part)])
        return np.concatenate(out)

    def _invoke(self, x: NDArray[Any]) -> NDArray[np.float32]:
        try:
            found = self.engine.run(None, {self.input.name: x})[0]
        except Exception as error:  # its errors share no base class
            raise UserError(_unreadable(self.entry, self.path, error)) from error
        return np.asarray(found, dtype=np.float32)


_OPENERS: dict[str, Callable[[ModelEntry, Path], Session]] = {"litert": _LiteRT, "onnxruntime": _OnnxRuntime}


def _many(entry: ModelEntry, path: Path, inputs: int, outputs: int) -> str:
    return f"{entry.name}: {path} has {inputs} inputs and {outputs} outputs; a classifier has one each"


def _unreadable(entry: ModelEntry, path: Path, error: Exception) -> str:
    assert entry.engine is not None
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{entry.name}: {entry.engine.name} cannot run {path} ({first[:200]}); the file is damaged, or has operators that this "
        f"version lacks: zoo verify {entry.name} tells which, and a newer {PACKAGES[entry.engine.name]} may have them"
    )


def _check_integers(entry: ModelEntry, path: Path, found: bool) -> None:
    """Refuse a float file where the entry says that it is integer."""
    if entry.quant is not None and entry.quant.method == "integer" and not found:
        raise UserError(
            f"{entry.name}: {path} holds no integer tensor: it is a float network, and the entry states quant.method integer; "
            "state family: standard without quant, or name the quantised file"
        )


def _has_integers(path: Path) -> bool:
    """Say whether an ONNX file quantises anything, by the names of its operators, which stand in the file as text."""
    data = path.read_bytes()
    return any(name in data for name in (b"QuantizeLinear", b"QLinear", b"ConvInteger", b"MatMulInteger"))
