"""Model zoo for transfer-based attacks on quantised networks: names in, callables from [0, 1] pixels to logits out.

    >>> import zoo
    >>> zoo.list_models("digits-resnet14*")
    >>> model = zoo.load("digits-resnet14-2bit")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import nn

    from zoo.registry.entry import ModelEntry

__all__ = ["UserError", "entry", "list_models", "load", "pull"]


def list_models(*patterns: str, registry: Iterable[str | Path] = ()) -> list[str]:
    """Return the names of the models that match any of the patterns (shell wildcards), all of them without a pattern."""
    from zoo.registry import load as load_registry

    known = load_registry(registry)
    return [e.name for e in known.match(patterns)] if patterns else list(known)


def entry(name: str, registry: Iterable[str | Path] = ()) -> ModelEntry:
    """Return what the registry says of one model."""
    from zoo.registry import load as load_registry

    return load_registry(registry)[name]


def pull(name: str, registry: Iterable[str | Path] = ()) -> Path:
    """Make one model's weights present and verified on this machine and return their path."""
    from zoo.loading.load import weights_path
    from zoo.registry import load as load_registry

    return weights_path(load_registry(registry)[name])


def load(name: str, device: str = "cpu", registry: Iterable[str | Path] = ()) -> nn.Module:
    """Return one model as a module in evaluation mode that maps (N, C, H, W) pixels in [0, 1] to (N, classes) logits."""
    from zoo.loading.load import load_entry
    from zoo.registry import load as load_registry

    return load_entry(load_registry(registry)[name]).to(device)
