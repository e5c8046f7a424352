"""Files of bare numbers, whose layout is known by their architecture alone: OpenVINO, Deep Compression, Darknet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.archs.compact import DARKNET, FIRES
from zoo.errors import UserError
from zoo.hub.weights import bundled_file

StateDict = dict[str, Tensor]
Shape = tuple[int, ...]


class _Bytes:
    """The numbers of a file, one run after another."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), start

    def take(self, kind: str, count: int) -> NDArray[np.generic]:
        """Return the next `count` numbers of a numpy type."""
        dtype = np.dtype(kind)
        end = self.at + count * dtype.itemsize
        if end > len(self.data):
            raise UserError(f"{self.path} ends after {len(self.data)} bytes where its network has more; fetch it again")
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at = end
        return found

    def tensor(self, kind: str, shape: Shape) -> Tensor:
        """Return the next numbers as a float32 tensor."""
        return torch.from_numpy(self.take(kind, int(np.prod(shape))).astype(np.float32).reshape(shape))

    def finish(self, rest: int = 0) -> None:
        """Refuse a file that goes on."""
        if len(self.data) != self.at + rest:
            raise UserError(f"{self.path} has {len(self.data)} bytes and its network {self.at + rest}: it is of another network")


def _squeezenet(stem: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    """Yield the layers of a SqueezeNet with the shapes of their weights, in order."""
    yield "conv1", (stem, 3, kernel, kernel)
    width = stem
    for place, (squeeze, expand) in enumerate(FIRES):
        yield f"fires.{place}.squeeze", (squeeze, width, 1, 1)
        yield f"fires.{place}.expand1x1", (expand, squeeze, 1, 1)
        yield f"fires.{place}.expand3x3", (expand, squeeze, 3, 3)
        width = 2 * expand
    yield "conv10", (1000, width, 1, 1)


def _from_bgr(state: StateDict) -> StateDict:
    """Let a first layer that reads blue first read red first."""
    return {**state, "conv1.weight": state["conv1.weight"].flip(1)}


def openvino_squeezenet(path: Path) -> StateDict:
    """The `.bin` of OpenVINO's SqueezeNet 1.1 in float16: the means, then each layer's weight and bias, then three integers."""
    file, state = _Bytes(path), {}
    means = file.tensor("<f2", (3,))
    if means.tolist() != [-104.0, -117.0, -123.0]:
        raise UserError(f"{path} does not begin with the means of SqueezeNet 1.1; check that keymap and file belong together")
    for name, shape in _squeezenet(64, 3):
        state[f"{name}.weight"], state[f"{name}.bias"] = file.tensor("<f2", shape), file.tensor("<f2", shape[:1])
    file.finish(rest=24)
    return _from_bgr(state)


def deep_compression_squeezenet(path: Path) -> StateDict:
    """SqueezeNet 1.0 by Deep Compression (Han et al., ICLR 2016): pruned, each weight one of 256 of its layer.

    First the number of weights left in each of the 26 layers; then for each layer its 256 values, its biases, the index of each
    weight's value, and the gaps before the weights, two in a byte.
    """
    file, state = _Bytes(path), {}
    left = file.take("<u4", 26).astype(np.int64).tolist()
    for (name, shape), count in zip(_squeezenet(96, 7), left, strict=True):
        values, bias = file.take("<f4", 256), file.tensor("<f4", shape[:1])
        codes, pairs = file.take("u1", count), file.take("u1", (count + 1) // 2)
        gaps = np.stack((pairs & 15, pairs >> 4), 1).reshape(-1)[:count].astype(np.int64)  # type: ignore[operator]
        places = np.cumsum(gaps + 1) - 1
        if count and places[-1] >= np.prod(shape):
            raise UserError(f"{path}: layer {name} has weights beyond its end; it is of another network, or damaged")
        weight = np.zeros(int(np.prod(shape)), np.float32)
        weight[places] = values[codes]
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.from_numpy(weight.reshape(shape)), bias
    file.finish()
    return _from_bgr(state)


def tiny_darknet(path: Path) -> StateDict:
    """Darknet's weights of Tiny Darknet: a header, then for each layer biases, the norm's gains, means, variances, and weights.

    Darknet divides by sqrt(var) + 1e-6, so that variances are given what makes this of sqrt(var + eps). Its classes come in
    an order of their own; here they stand in that of their WordNet ids, as everywhere.
    """
    file, state = _Bytes(path, start=16), {}
    width, place = 3, 0
    for channels in DARKNET:
        if channels == 0:
            place += 1
            continue
        out, kernel = abs(channels), 3 if channels > 0 else 1
        norm = f"features.{place + 1}"
        state[f"{norm}.bias"], state[f"{norm}.weight"] = file.tensor("<f4", (out,)), file.tensor("<f4", (out,))
        state[f"{norm}.running_mean"] = file.tensor("<f4", (out,))
        spread = file.tensor("<f4", (out,)).double().sqrt() + 1e-6
        state[f"{norm}.running_var"] = (spread.square() - 1e-5).float()
        state[f"{norm}.num_batches_tracked"] = torch.tensor(0)
        state[f"features.{place}.weight"] = file.tensor("<f4", (out, width, kernel, kernel))
        width, place = out, place + 3
    bias, weight = file.tensor("<f4", (1000,)), file.tensor("<f4", (1000, width, 1, 1))
    file.finish()
    names = bundled_file("tiny-darknet-classes.txt").read_text(encoding="ascii").split()
    order = torch.tensor(sorted(range(1000), key=names.__getitem__))
    return {**state, "last.bias": bias[order], "last.weight": weight[order]}


READERS: dict[str, Callable[[Path], StateDict]] = {
    "deep-compression-squeezenet": deep_compression_squeezenet,
    "openvino-squeezenet": openvino_squeezenet,
    "tiny-darknet": tiny_darknet,
}
"""Readers by the name that `weights.keymap` in the registry gives."""
