"""Frozen networks in the form that their device computes fastest."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.backends import cudnn

from zoo.quant import folded


@contextmanager
def at_speed(network: nn.Module, keep: Collection[str] = ()) -> Iterator[torch.memory_format]:
    """Run a frozen network in the form that its device computes fastest, and yield the layout that its images should have.

    Normalisation is folded into the convolutions before it, except those that `keep` names as their own output is wanted. A
    CPU's convolutions prefer channels last, and a GPU's in reduced precision; in full precision a GPU's do not.
    """
    kind = next((p.device.type for p in network.parameters()), "cpu")
    last = kind == "cpu" or cudnn.allow_tf32
    with folded(network, keep, channels_last=last):
        yield torch.channels_last if last else torch.preserve_format


def compile_network(network: nn.Module) -> nn.Module:
    """Have a network compiled at its next pass; what cannot be compiled runs as it is, with torch's warning."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.skip_nnmodule_hook_guards = False  # feature attacks hook the network after it was compiled
    network.compile()
    return network
