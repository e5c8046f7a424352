"""Weights as safetensors files that say what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.hub.whole import replacing
from zoo.quant.pack import check_keys, pack, unpack

FORMAT = "qnn-transfer-zoo/1"
"""Format id in the metadata of every file; the number rises when old readers would misread new files."""


def save(model: nn.Module, path: Path | str, *, packed: bool, extra: Mapping[str, str] | None = None) -> None:
    """Write the model's tensors to `path`, whole or not at all.

    Args:
        model: Quantised or not.
        path: The safetensors file; its folder is made if need be.
        packed: Store quantised weights as integer codes (targets) instead of latent floats (models to train further).
        extra: Metadata to store beside, such as the log of a recipe.
    """
    from safetensors.torch import save as serialize

    if packed:
        tensors, meta = pack(model)
    else:
        tensors, meta = {key: value.detach().clone() for key, value in model.state_dict().items()}, {}
        check_keys(tensors, tensors)
    clash = {"format", *meta} & (extra or {}).keys()
    if clash:
        raise ValueError(f"reserved metadata keys: {', '.join(sorted(clash))}")
    metadata = {"format": FORMAT, **meta, **(extra or {})}
    data = _canonical(serialize({key: value.contiguous().cpu() for key, value in tensors.items()}, metadata))
    with replacing(Path(path)) as file:
        file.write(data)


def _canonical(data: bytes) -> bytes:
    """Sort the metadata in the header of a safetensors file, which the library writes in a random order."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_metadata(path: Path | str) -> dict[str, str]:
    """Return the metadata of a file written by `save`.

    Raises:
        UserError: No such file, not safetensors, or not of this format.
    """
    return _read(Path(path), tensors=False)[1]


def read_packed(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a packed file, for `zoo.quant.pack.read_codes`.

    Raises:
        UserError: No such file, damaged, of another format, or not packed.
    """
    tensors, meta = _read(Path(path), tensors=True)
    if "packed" not in meta:
        raise UserError(f"{path} holds float weights, not packed codes")
    return tensors, meta


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            meta: dict[str, str] = file.metadata() or {}
            loaded = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): fetch or build it again") from error
    if meta.get("format") != FORMAT:
        found = json.dumps(meta.get("format"))
        raise UserError(
            f"{path} has format {found}, not {FORMAT}: it needs a key map, or another version of this package"
        )
    return loaded, meta


@torch.no_grad()
def load_into(model: nn.Module, path: Path | str) -> dict[str, str]:
    """Load a file written by `save` into a model of the same architecture and quantisation, and return its metadata.

    Every key must fit. A packed file fixes the weights: see `zoo.quant.unpack`.

    Raises:
        UserError: The file is missing, damaged, of another format, or does not fit; the model is then unchanged.
    """
    tensors, meta = _read(Path(path), tensors=True)
    if "packed" in meta:
        unpack(model, tensors, meta)
    else:
        check_keys(model.state_dict(), tensors)
        model.load_state_dict(tensors, strict=True)
    return meta
