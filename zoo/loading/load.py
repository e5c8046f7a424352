"""A registry entry to a network: create the architecture, quantise it, load strictly, take care of the input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.hub.cache import sha256_of
from zoo.hub.store import built_path, cache_root, verified_path
from zoo.registry.entry import Input, ModelEntry


class InputWrapper(nn.Module):
    """Maps [0, 1] pixels (N, C, H, W) to logits (N, classes): resizes if the entry says so, normalises, drops offset logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: Input, label_offset: int = 0) -> None:
        super().__init__()
        self.net = net
        self.resize = spec.resize
        self.interpolation = spec.interpolation
        self.label_offset = label_offset
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)

    def prepare(self, x: Tensor) -> Tensor:
        """Return what the network receives: the images resized and normalised."""
        if self.resize is not None and x.shape[-2:] != (self.resize, self.resize):
            exact = None if self.interpolation == "nearest" else False
            x = F.interpolate(x, size=(self.resize, self.resize), mode=self.interpolation, align_corners=exact)
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.net(self.prepare(x))
        return logits[:, self.label_offset :] if self.label_offset else logits


def create(entry: ModelEntry) -> nn.Module:
    """Return the entry's network with its quantisers, its weights not loaded.

    Raises:
        UserError: the architecture is unknown, or its arguments do not fit, or the entry's file is the network.
    """
    source, name = entry.arch.split(":", 1)
    if entry.engine is not None or source == "file":
        raise UserError(f"{entry.name}: its file holds its graph, so there is no network without it; zoo pull {entry.name}")
    classes = entry.classes + entry.label_offset
    if source == "zoo":
        from zoo import archs

        net = archs.create(name, classes, **entry.arch_args)
    elif source == "own":
        from zoo.archs import own

        assert entry.arch_file is not None
        net = own.create(entry.arch_file, entry.arch, **entry.arch_args)
    else:
        from zoo._compat import ensure_torchvision

        ensure_torchvision()
        import timm

        try:
            net = timm.create_model(name, pretrained=False, num_classes=classes, **entry.arch_args)
        except (RuntimeError, TypeError) as error:
            raise UserError(f"{entry.name}: timm cannot make {name!r} ({error}); mend arch or arch_args") from error
    if entry.quant is not None and entry.quant.method != "codebook":
        from zoo import quant

        quant.quantize(net, entry.quant)
    return net.eval()


def load_entry(entry: ModelEntry, path: Path | None = None) -> InputWrapper:
    """Return the entry's network with verified weights, in evaluation mode, mapping [0, 1] pixels to logits.

    Args:
        entry: What the registry says of the model.
        path: A file to load instead of the registry's, such as one that was just built.

    Raises:
        UserError: the weights cannot be had, or do not fit the architecture to the last key.
    """
    net = network(entry, path or weights_path(entry), entry.weights.keymap if entry.weights and path is None else None)
    return InputWrapper(net, entry.input, entry.label_offset).eval()


def network(entry: ModelEntry, path: Path, keymap: str | None = None) -> nn.Module:
    """Return the entry's network with the weights of a file, in evaluation mode, without care of its input.

    An entry with an engine is a black box. The key map "tflite" reads an integer file, whose graph is the network; otherwise
    the entry's architecture is made.

    Raises:
        UserError: the file does not fit the entry.
    """
    if entry.engine is not None:
        from zoo.loading.engines import BlackBox

        return BlackBox(entry, path).eval()
    if keymap == "tflite":
        from zoo.loading.tflite import read_for

        return read_for(path, entry.name, entry.classes + entry.label_offset)
    net = create(entry)
    load_weights(net, path, keymap)
    return net.eval()


def check_runs(entry: ModelEntry, path: Path) -> None:
    """Refuse a file that the entry's network does not load and run.

    Raises:
        UserError: it does not load, or a grey image gets no finite logits.
    """
    size = entry.input.size
    with torch.no_grad():
        logits = load_entry(entry, path)(torch.full((1, entry.input.channels, size, size), 0.5))
    if logits.shape != (1, entry.classes) or not torch.isfinite(logits).all():
        raise UserError(
            f"{entry.name}: {path} gives no finite logits of {entry.classes} classes for a grey image; it is not published"
        )


def load_weights(net: nn.Module, path: Path, keymap: str | None = None) -> Mapping[str, str]:
    """Load a file of ours, a plain safetensors file, or a foreign one through its key map; return its metadata.

    Of a file of snapshots the last one is loaded; `zoo.loading.snapshots.Snapshots` gives them all.
    """
    from zoo.quant.save import load_into, read_metadata

    if keymap is not None:
        from zoo.loading.checkpoints import read_foreign

        load_strictly(net, read_foreign(path, keymap), path)
        return {}
    if _is_ours(path):
        meta = read_metadata(path)
        if "snapshots" in meta:
            from zoo.loading.snapshots import Snapshots

            load_strictly(net, Snapshots(path)[-1], path)
            return meta
        return load_into(net, path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        load_strictly(net, _unwrapped(load_file(path), net), path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); zoo pull it again") from error
    return {}


def _unwrapped(state: Mapping[str, Tensor], net: nn.Module) -> Mapping[str, Tensor]:
    """Return the state dict of a network out of that of its `InputWrapper`, as zoo.load returns it; others as they are."""
    prefix = "net."
    wrapped = all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in net.state_dict())
    return {key.removeprefix(prefix): value for key, value in state.items()} if wrapped else state


def save_network(model: nn.Module, path: Path) -> Path:
    """Write the weights of a network, in its `InputWrapper` or bare, as a safetensors file that an entry may name.

    Raises:
        UserError: the weights came from a packed file, whose codes the network does not hold, or a value is not finite.
    """
    from zoo.quant.modules import FixedWeight
    from zoo.quant.save import save

    net = model.net if isinstance(model, InputWrapper) else model
    if any(isinstance(part, FixedWeight) for part in net.modules()):
        raise UserError(f"{path}: this model came from a file of low-bit codes; copy that, whose path zoo.pull(NAME) returns")
    save(net, path, packed=False)
    return path


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict that must fit to the last key and shape."""
    own = net.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or shapes:
        kinds = ((missing, "lacks"), (extra, "has too many:"), (shapes, "differs in shape at"))
        first = next(f"{words} {keys[0]!r}" for keys, words in kinds if keys)
        count = len(missing) + len(extra) + len(shapes)
        raise UserError(f"{path}: does not fit the architecture: it {first} ({count} keys differ); check arch and keymap")
    net.load_state_dict(dict(state), strict=True)


def _is_ours(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return "format" in (file.metadata() or {}) and str(file.metadata()["format"]).startswith("qnn-transfer-zoo")
    except (SafetensorError, OSError):
        return False


def weights_path(entry: ModelEntry) -> Path:
    """Return a verified file with the entry's weights: bundled, built here, or fetched.

    Raises:
        UserError: there is none; the message names the command that makes or pins it.
    """
    if entry.weights is not None and (entry.weights.sha256 or built_path(entry.name) is None):
        from zoo.hub import fetch

        return fetch(entry.name, entry.weights, cache=cache_root())
    built = verified_path(entry.name)
    if built is not None:
        return built
    raise UserError(missing_message(entry))


def missing_message(entry: ModelEntry) -> str:
    """Say why an entry has no weights and what the user can do."""
    if entry.recipe is None:
        return f"{entry.name}: no weights are published and no recipe makes them; {entry.notes or 'see zoo show ' + entry.name}"
    cost = f"; cost: {entry.recipe.cost}" if entry.recipe.cost else ""
    start = f", starting from {entry.recipe.start}" if entry.recipe.start else ""
    return (
        f"{entry.name}: its weights are not published yet. Make them with: zoo build {entry.name} "
        f"(trains on {entry.data}{start}{cost})"
    )


def weights_sha256(entry: ModelEntry) -> str:
    """Return the sha256 of the entry's weights on this machine, verified when the registry states it."""
    path = weights_path(entry)
    if entry.weights is not None and entry.weights.sha256 is not None:
        return entry.weights.sha256
    state = path.stat()
    return _sha256(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _sha256(path: Path, modified: int, size: int) -> str:
    return sha256_of(path)


def identity(entry: ModelEntry) -> str:
    """Return a digest of all that decides what a model answers: its weights, and everything the registry says of its network."""
    fields = {"arch", "arch_args", "classes", "label_offset", "input", "quant"}
    content = entry.model_dump(mode="json", include=fields)
    content["weights"] = weights_sha256(entry)
    content["keymap"] = entry.weights.keymap if entry.weights else None
    if entry.engine is not None:
        content["engine"] = entry.engine.model_dump(mode="json")
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
