"""Checkpoints of an unfinished training: written whole or not at all, and read only by the recipe that wrote them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from zoo.errors import UserError
from zoo.hub.whole import replacing

FORMAT = 1


class Checkpoint:
    """One file. `key` is a digest of everything that decides the training, so that no other training goes on from it."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def read(self) -> dict[str, Any] | None:
        """Return what was last written, or None when there is no file.

        Raises:
            UserError: the file is damaged, or of another recipe, start or data set.
        """
        if not self.path.is_file():
            return None
        try:
            content: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise UserError(
                f"{self.path}: not a whole checkpoint ({type(error).__name__}); delete it to begin anew"
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("key") != self.key:
            raise UserError(
                f"{self.path}: was written by another recipe, start, data set or version; delete it to begin anew"
            )
        return content

    def write(self, content: dict[str, Any]) -> None:
        """Replace the file."""
        with replacing(self.path) as file:
            torch.save({"format": FORMAT, "key": self.key, **content}, file)

    def remove(self) -> None:
        """Delete the file; the training is finished."""
        self.path.unlink(missing_ok=True)
