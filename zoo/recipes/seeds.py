"""Independent random streams from one seed, and settings of torch that end with the block they are made for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator

from zoo.kernels import fixed


def stream(seed: int, *use: int | str) -> Generator:
    """Return a CPU generator of its own for each use of a seed, such as stream(0, "order", epoch)."""
    digest = hashlib.sha256(repr((seed, *use)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextmanager
def reproducible(seed: int, device: torch.device, threads: int, precision: str = "exact") -> Iterator[None]:
    """Seed torch's own generators (initialisation, dropout), fix kernels and threads; all is as before on exit.

    With a `precision` other than "exact" a GPU may multiply in TF32; its kernels are deterministic all the same.
    """
    before = torch.get_num_threads()
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda), fixed(device, "exact" if precision == "exact" else "tf32", repeatable=True):
        torch.manual_seed(seed)
        if threads:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of torch's own generators, for a checkpoint."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore what `rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
