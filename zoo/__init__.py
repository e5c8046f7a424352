"""Model zoo for transfer-based attacks on quantised networks: names in, callables from [0, 1] pixels to logits out.

    >>> import zoo
    >>> zoo.list_models("digits-resnet14*")
    >>> model = zoo.load("digits-resnet14-2bit")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from zoo.registry.entry import ModelEntry

__all__ = ["UserError", "entry", "list_models", "load", "pull", "save"]


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


def save(model: nn.Module, path: str | Path) -> Path:
    """Write the weights of a model, one that `load` returned or any network, as safetensors, whole or not at all.

    The file holds weights alone, under the names of the network without the care of its input: name it in a registry file of
    your own as `weights: {file: PATH}`, beside an `arch` that makes the network, and pin it with `zoo lock`.

    Raises:
        UserError: a value is not finite, the model came from a packed file (copy that), or the file cannot be written.
    """
    from zoo.loading.load import save_network

    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights are written as safetensors; end the name in .safetensors")
    try:
        return save_network(model, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
