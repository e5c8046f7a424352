"""Many weights of one network in one file: every tensor stacked along a new first axis (LGV's snapshots).

The file is plain safetensors of our format with the number of snapshots in its metadata. It may be larger than memory:
it is written and read one snapshot at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from zoo.errors import UserError
from zoo.hub.whole import replacing
from zoo.quant.save import FORMAT, read_metadata


class Snapshots(Sequence[dict[str, Tensor]]):
    """The snapshots of one file, each a state dict, read when it is asked for.

    Raises:
        UserError: the file is missing, damaged, or holds one set of weights only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        count = read_metadata(path).get("snapshots")
        if count is None:
            raise UserError(f"{path}: holds one set of weights, not snapshots; build it by a recipe of kind lgv")
        self._count = int(count)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> dict[str, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Tensor]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path} holds {len(self)} snapshots; there is no number {index}")
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            return {key: file.get_slice(key)[index % len(self)] for key in file.keys()}  # noqa: SIM118


def join(parts: Sequence[Path], path: Path, extra: Mapping[str, str]) -> None:
    """Write one file of snapshots from files of one set of weights each, whole or not at all.

    Args:
        parts: Files written by `zoo.quant.save` from one network, in order.
        path: The file to write.
        extra: Metadata to store beside.
    """
    header, order = _stacked_header(parts[0], len(parts), extra)
    with replacing(path) as file:
        file.write(header)
        for key in order:
            for part in parts:
                file.write(_read_raw(part, key))


def _stacked_header(part: Path, count: int, extra: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """Return the header of the joined file and the names of its tensors in the order of their bytes."""
    layout, _ = _layout(part)
    order = sorted(layout, key=lambda key: layout[key]["data_offsets"][0])
    header: dict[str, object] = {
        "__metadata__": dict(sorted({"format": FORMAT, "snapshots": str(count), **extra}.items()))
    }
    for key in order:
        start, end = (offset * count for offset in layout[key]["data_offsets"])
        header[key] = {**layout[key], "shape": [count, *layout[key]["shape"]], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _layout(path: Path) -> tuple[dict[str, Any], int]:
    """Return dtype, shape and offsets of each tensor of a safetensors file, and where its tensors begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _read_raw(path: Path, key: str) -> bytes:
    layout, begin = _layout(path)
    start, end = layout[key]["data_offsets"]
    with path.open("rb") as file:
        file.seek(begin + start)
        return file.read(end - start)
