"""What a device computes with: kernels that give the same bits each time, in recipes, evaluation, crafting and scoring alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch.backends import cudnn
from torch.utils import deterministic

filling: Any = deterministic


Precision = Literal["exact", "tf32", "bf16"]
"""float32 with deterministic kernels; or, declared and never mixed with that, what is faster and differs in more than a bit."""


@contextmanager
def fixed(device: str | torch.device, precision: Precision = "exact", *, repeatable: bool | None = None) -> Iterator[None]:
    """Use full float32 and, on a GPU, deterministic kernels where there are any; all is as before on exit.

    A kernel that has no deterministic form runs with torch's warning instead of ending a run: its last bits may differ
    from one run to the next. A CPU's kernels are deterministic as they are. "tf32" lets a GPU round the factors of products
    to 10 bits and choose the fastest kernels; "bf16" also computes convolutions and products in bfloat16, on a CPU too.

    Args:
        device: where the computation runs.
        precision: exact, or what is allowed instead.
        repeatable: whether kernels must be deterministic; None demands it of "exact" alone. Training demands it always.
    """
    kind, exact = torch.device(device).type, precision == "exact"
    strictly = exact if repeatable is None else repeatable
    matmul, filled = torch.get_float32_matmul_precision(), filling.fill_uninitialized_memory
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with cudnn.flags(enabled=True, benchmark=not strictly, deterministic=strictly, allow_tf32=not exact):
        torch.set_float32_matmul_precision("highest" if exact else "high")
        if kind == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
            torch.use_deterministic_algorithms(strictly, warn_only=True)
            filling.fill_uninitialized_memory = False  # a kernel's output is written, not read, first
        try:
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
                yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            filling.fill_uninitialized_memory = filled
            torch.set_float32_matmul_precision(matmul)


def hardware(device: str) -> str:
    """Return what decides the last bits of a device's arithmetic, besides torch itself.

    Of a GPU its name and the versions of CUDA and cuDNN; of a CPU the instructions that torch's kernels use.
    """
    if torch.device(device).type != "cuda":
        return f"{torch.device(device).type} {torch.backends.cpu.get_cpu_capability()}"
    libraries = f"CUDA {torch.version.cuda}, cuDNN {cudnn.version()}"  # type: ignore[no-untyped-call]
    return f"cuda {torch.cuda.get_device_name(device)}, {libraries}"
