"""Data sets of the user's own: `folder:PATH` with a CSV file or class folders, and `parquet:PATH` as the Hub stores them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from zoo.data import Dataset
from zoo.data.images import assemble, from_folder, from_parquet
from zoo.errors import UserError


@lru_cache(maxsize=2)
def load(name: str, split: str, known_as: str | None = None) -> Dataset:
    """Return a data set of local files; as a copy of the set `known_as` its images have the ids of that set.

    `folder:PATH` takes PATH/SPLIT where that folder exists, else PATH. `parquet:PATH` takes a file, or those below a folder
    whose names begin with the split.
    """
    scheme, _, place = name.partition(":")
    path = Path(place).expanduser()
    if scheme == "folder":
        return assemble(name, split, from_folder(path / split if (path / split).is_dir() else path))
    files = [path] if path.is_file() else sorted(path.rglob(f"{split}*.parquet"))
    if not files:
        raise UserError(f"{name}: no parquet file {path} and none called {split}*.parquet below it")
    return assemble(name, split, from_parquet(files, split if known_as is None else f"{known_as}-{split}"))
