"""Where models that were built here lie; imports no torch."""

from __future__ import annotations

from pathlib import Path

from zoo.hub.cache import default_folder as cache_root

__all__ = ["built_path", "cache_root", "place_for"]


def place_for(name: str) -> Path:
    """Return the file that `zoo build` writes for a model."""
    return cache_root() / "built" / f"{name}.safetensors"


def built_path(name: str) -> Path | None:
    """Return the file that `zoo build` made for a model, or None."""
    path = place_for(name)
    return path if path.is_file() else None
