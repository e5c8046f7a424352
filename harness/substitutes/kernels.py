"""What a device computes with while images are crafted and scored: kernels that give the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.backends import cudnn

from zoo.quant import folded


@contextmanager
def fixed(device: str) -> Iterator[None]:
    """Use full float32 and, on a GPU, deterministic kernels where there are any; all is as before on exit.

    A kernel that has no deterministic form runs with torch's warning instead of ending a run: its last bits may differ
    from one run to the next. A CPU's kernels are deterministic as they are.
    """
    kind = torch.device(device).type
    matmul = torch.get_float32_matmul_precision()
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        torch.set_float32_matmul_precision("highest")
        if kind == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
            torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            torch.set_float32_matmul_precision(matmul)


@contextmanager
def at_speed(network: nn.Module, keep: Collection[str] = ()) -> Iterator[torch.memory_format]:
    """Run a frozen network in the form that its device computes fastest, and yield the layout that its images should have.

    Normalisation is folded into the convolutions before it, except those that `keep` names as their own output is wanted. A
    CPU's convolutions prefer channels last; a GPU's in full precision do not.
    """
    on_cpu = next((p.device.type for p in network.parameters()), "") == "cpu"
    with folded(network, keep, channels_last=on_cpu):
        yield torch.channels_last if on_cpu else torch.preserve_format


def hardware(device: str) -> str:
    """Return what decides the last bits of a device's arithmetic, besides torch itself.

    Of a GPU its name and the versions of CUDA and cuDNN; of a CPU the instructions that torch's kernels use.
    """
    if torch.device(device).type != "cuda":
        return f"{torch.device(device).type} {torch.backends.cpu.get_cpu_capability()}"
    libraries = f"CUDA {torch.version.cuda}, cuDNN {cudnn.version()}"  # type: ignore[no-untyped-call]
    return f"cuda {torch.cuda.get_device_name(device)}, {libraries}"
