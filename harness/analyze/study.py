"""What an analysis looks at: a suite's images and models, adversarial images of any entry, and what was computed before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.runs.craft import craft
from harness.runs.sources import CRAFTING, code_digest
from harness.runs.workspace import Context, Workspace, workspace_of
from harness.storage import shards
from harness.storage.files import atomic_write
from harness.suites.selection import Job
from harness.suites.suite import SubstituteSpec, Suite
from zoo.errors import UserError
from zoo.kernels import fixed
from zoo.loading.load import load_entry
from zoo.quant import set_state, states
from zoo.registry.entry import State

BATCH = 50
"""Images in one pass; fixed, as float kernels differ in their last bits between batch sizes."""

Row = dict[str, Any]

_SHOWING = ("pictures", "report")
"""Modules that show what was found, and so decide nothing that is remembered."""
_OWN = tuple(f"{__package__}.{path.stem}" for path in sorted(Path(__file__).parent.glob("*.py")) if path.stem not in _SHOWING)


@dataclass(frozen=True)
class Study:
    """A suite as an analysis uses it: its first `images` images, on one device, under one seed."""

    suite: Suite
    images: int = 200
    device: str = "cpu"
    seed: int = 0
    overlays: tuple[str, ...] = ()
    cache: str | None = None
    again: bool = False
    """Compute anew what is remembered."""

    @cached_property
    def context(self) -> Context:
        """What a worker is told, over the images of the study."""
        whole = Context(self.suite, self.overlays, self.device, None, self.cache)
        count = len(workspace_of(whole).full)
        return whole if self.images >= count else Context(self.suite, self.overlays, self.device, self.images, self.cache)

    @property
    def workspace(self) -> Workspace:
        """What a worker has at hand."""
        return workspace_of(self.context)

    @property
    def pixels(self) -> Tensor:
        """The clean images, (N, C, H, W) uint8."""
        return self.workspace.data.images

    @property
    def labels(self) -> Tensor:
        """Their classes, (N,)."""
        return self.workspace.data.labels

    def net(self, name: str) -> nn.Module:
        """Return an entry's network anew, in evaluation mode: [0, 1] pixels -> logits.

        Raises:
            UserError: no such entry, or its weights cannot be had.
        """
        return load_entry(self.workspace.registry[name]).to(self.device).eval()

    def schedule(self, name: str, net: nn.Module) -> tuple[State | None, ...]:
        """Return the states that an entry's network is looked at in: those of its alternation, or the one it is in."""
        alternation = self.workspace.registry[name].alternation
        if alternation is None:
            return (None,)
        return tuple(dict.fromkeys(state for state in alternation.states if state in states(net))) or (None,)

    def batches(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Hand over parts of `BATCH` images on the device; the last one is as long as what is left."""
        for start in range(0, len(tensors[0]), BATCH):
            yield tuple(tensor[start : start + BATCH].to(self.device) for tensor in tensors)

    def adversarial(self, name: str, attack: str) -> Tensor:
        """Return adversarial images (N, C, H, W) uint8 crafted on a substitute of the suite, or on any entry; cached."""
        known = [spec.name for spec in self.suite.substitutes]
        if name in known:
            return craft(self.context, Job(name, attack, self.seed)).images
        own = SubstituteSpec(name=name, models=(name,))
        suite = self.suite.model_copy(update={"substitutes": (*self.suite.substitutes, own)})
        context = Context(suite, self.overlays, self.device, self.context.limit, self.cache)
        return craft(context, Job(name, attack, self.seed)).images

    def remember(self, kind: str, content: Row, make: Callable[[], Row]) -> Row:
        """Return what `make` finds for these settings, from the cache where it is known: an analysis that stopped goes on.

        The key holds the settings, the images, the models' identities and the code, so that nothing old is served.
        """
        path = self._place(kind, content).with_suffix(".json")
        if path.is_file() and not self.again:
            known: Row = json.loads(path.read_bytes())
            return known
        with fixed(self.device):
            found = make()
        atomic_write(path, json.dumps(found))
        return found

    def remember_tensor(self, kind: str, content: Row, make: Callable[[], Tensor]) -> Tensor:
        """Do the same for a tensor."""
        path = self._place(kind, content).with_suffix(".safetensors")
        known = None if self.again else shards.read(path)
        if known is not None:
            return known[0]
        with fixed(self.device):
            found = make().contiguous()
        shards.write(path, found)
        return found

    def _place(self, kind: str, content: Row) -> Path:
        """Return the cache file of something, without a suffix."""
        named = [content[key] for key in ("model", "substitute", "target") if key in content]
        models = {m: self.workspace.identity(m) for name in named for m in self._models(name)}
        key: Row = {"kind": kind, "data": self.workspace.digest, "made_by": self.workspace.made_by, "models": models}
        key |= {"content": content, "seed": self.seed, "code": code_digest(*CRAFTING, *_OWN), "suite": self.suite.canonical()}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.context.cache_folder / "analyses" / digest[:2] / digest

    def _models(self, name: str) -> tuple[str, ...]:
        return next((spec.models for spec in self.suite.substitutes if spec.name == name), (name,))

    def single(self, names: Sequence[str]) -> list[str]:
        """Return the entries that the names stand for: of a substitute its only model.

        Raises:
            UserError: a substitute is made of several models, which have no gradient or weights of their own.
        """
        found = []
        for name in names:
            models = self._models(name)
            if len(models) > 1:
                raise UserError(f"{name} is composed of {', '.join(models)}; name one of these with --model")
            found.append(models[0])
        return list(dict.fromkeys(found))


def in_state(net: nn.Module, state: State | None) -> nn.Module:
    """Put a network into a state, when one is given, and return it."""
    if state is not None:
        set_state(net, state)
    return net


def losses(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each image, (N,): x (N, C, H, W) in [0, 1], y (N,)."""
    return F.cross_entropy(net(x), y, reduction="none")


def input_gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of each image's cross-entropy by its pixels, (N, C, H, W)."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(losses(net, x, y).sum(), x)
    return gradient.detach()


def mean_interval(values: Tensor) -> Row:
    """Return mean, standard deviation and a normal 95 % interval of the mean over images (N,); n counts the images."""
    values = values.double()
    n = len(values)
    mean = float(values.mean()) if n else float("nan")
    sd = float(values.std()) if n > 1 else 0.0
    half = 1.959963984540054 * sd / n**0.5 if n else 0.0
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}
