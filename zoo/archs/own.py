"""A network made by code of the user's own, which a registry file of the user's names: `arch: mynet.py:Net`."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from torch import nn

from zoo.archs import Arg
from zoo.errors import UserError, did_you_mean
from zoo.registry.owncode import digest


def create(place: str, arch: str, **args: Arg) -> nn.Module:
    """Run a file, make its class with `args`, and return the network. Name only files that you trust.

    Args:
        place: path/to/mynet.py:Net.
        arch: what the registry says of it, which ends in the digits of the file's sha256.
        args: of the constructor.

    Raises:
        UserError: the file changed since the registry was read, does not run, or makes no network.
    """
    source, _, name = place.rpartition(":")
    path = Path(source)
    if not path.is_file() or not arch.endswith(f"-{digest(path)}"):
        raise UserError(f"{path}: the file was changed or removed since the registry was read; start again")
    module = _executed(path, arch)
    kind = getattr(module, name, None)
    if not callable(kind):
        public = [each for each in vars(module) if not each.startswith("_")]
        raise UserError(f"{path} has no class {name!r}{did_you_mean(name, public)}")
    try:
        net = kind(**args)
    except Exception as error:
        raise UserError(f"{place}: arch_args {args}: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise UserError(f"{place} makes a {type(net).__name__}, not an nn.Module")
    return net


@cache
def _executed(path: Path, arch: str) -> ModuleType:
    """Run a file as a module, once in a process for each content of it."""
    spec = importlib.util.spec_from_file_location(f"zoo_own_{arch.rpartition('-')[2]}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
