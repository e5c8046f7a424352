"""Tensors in the cache: written whole, read back only when their bytes are what was written."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from harness.storage.files import atomic_write, remove


def digest(tensor: Tensor) -> str:
    """sha256 over dtype, shape and bytes of a tensor."""
    sha = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    sha.update(tensor.detach().cpu().contiguous().numpy().reshape(-1).data.cast("B") if tensor.numel() else b"")
    return sha.hexdigest()


def write(path: Path, tensor: Tensor, **facts: str) -> None:
    """Write one tensor and a few facts about it, atomically."""
    metadata = {**facts, "sha256": digest(tensor)}
    atomic_write(path, save({"data": tensor.detach().cpu().contiguous()}, metadata), choice="$ZOO_CACHE")


def read(path: Path) -> tuple[Tensor, dict[str, str]] | None:
    """Return the tensor and its facts; None when the file is absent, cannot be read now, or is damaged and so removed."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), "pt") as file:
            facts = dict(file.metadata() or {})
            tensor: Tensor = file.get_tensor("data")
    except OSError:  # a share that is away, too many open files: the file itself may be good
        return None
    except (SafetensorError, KeyError):
        facts, tensor = {}, torch.zeros(0)
    if facts.get("sha256") == digest(tensor):
        return tensor, facts
    remove(path)
    return None
