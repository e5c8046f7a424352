"""Where files lie on this machine; imports no torch."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return the folder of everything that can be fetched or made again: $ZOO_CACHE, or `zoo` in the user's cache folder."""
    explicit = os.environ.get("ZOO_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"


def built_path(name: str) -> Path | None:
    """Return the file that `zoo build` made for a model, or None."""
    path = cache_root() / "built" / f"{name}.safetensors"
    return path if path.is_file() else None
