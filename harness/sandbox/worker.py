"""Inside the sandbox: what is loaded before the fork, and the fork that locks itself in and runs submitted code."""

from __future__ import annotations

import fcntl
import importlib
import inspect
import io
import json
import mmap
import os
import random
import resource
import sys
import tokenize
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.sandbox import frames, seccomp

if TYPE_CHECKING:
    from harness.substitutes import Crafter

FOLDER = "submission"
LOADED = ("harness.attacks", "harness.sandbox.oracle", "harness.runs.workspace", "zoo.loading.load", "zoo.quant.save")
"""Modules that every fork needs, imported once before."""
HIGH = 16
"""Descriptors from here on are out of the way of those that a fork is given."""
_PAGE = 4096


class RuleError(Exception):
    """The submitted code broke a rule that is checked right here, to tell its author early."""


class Shop:
    """Images and substitute, loaded once; each fork inherits them."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        for name in LOADED:
            importlib.import_module(name)
        self.images = torch.zeros(0)
        self.labels = torch.zeros(0)
        self.substitute: Crafter | None = None
        self.per_forward = False

    def receive(self, head: dict[str, Any], body: bytes) -> None:
        """Load what a request brings: the suite's images, or a substitute."""
        from safetensors.torch import load

        if head["do"] == "data":
            tensors = load(body)
            self.images, self.labels = tensors["images"], tensors["labels"]
        else:
            raise ValueError(f"unknown request {head['do']!r}")

    def hold(self, model: Crafter) -> Shop:
        """Return a shop whose forks see the substitute."""
        other = Shop.__new__(Shop)
        other.images, other.labels, other.substitute, other.per_forward = self.images, self.labels, model, model.per_forward
        return other

    def work(self, head: dict[str, Any], result: int, log: int, scratch: Path, line: tuple[int, int] | None) -> None:
        """Craft one block and write one message to `result`. Runs in a fork and never returns to the server's loop.

        `line` are the pipes to ask the substitute by; None when this process has it.
        """
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, HIGH) for descriptor in (log, log, result, *(line or ()))]
        for place, descriptor in enumerate(high, 1):
            os.dup2(descriptor, place)
        os.closerange(1 + len(high), 4096)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0, closefd=False), "utf-8", "replace", write_through=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0, closefd=False), "utf-8", "replace", write_through=True)
        try:
            message = self._craft(head, scratch, line is not None)
        except MemoryError:
            message = frames.encode({"error": f"it asked for more memory than {head['limits']['memory'] // 2**20} MB"})
        except RuleError as error:
            message = frames.encode({"error": str(error)})
        except BaseException as error:  # whatever it raised is its answer, SystemExit included
            message = frames.encode({"error": _describe(error, head["limits"]["memory"])})
        view = memoryview(message)
        while view:
            view = view[os.write(3, view) :]

    def _craft(self, head: dict[str, Any], scratch: Path, sealed: bool) -> bytes:
        from safetensors.torch import save

        from harness.attacks import Images, Rng
        from harness.sandbox.oracle import Remote

        folder = scratch / FOLDER
        folder.mkdir()
        for name, text in head["files"].items():
            (folder / name).write_text(text, encoding="utf-8")
        os.chdir(scratch)
        lock(head["limits"])
        seed_everything(head["seed"], head["indices"][0])
        sys.path.insert(0, str(folder))
        attack = getattr(importlib.import_module("attack"), "attack", None)
        if not callable(attack):
            raise RuleError("attack.py defines no function `attack`")
        index = torch.tensor(head["indices"])
        x, y = self.images[index].float() / 255, self.labels[index]
        rng = Rng(head["seed"], head["indices"], "cpu")
        offered = {"eps": head["eps"], "steps": head["steps"], "rng": rng, "pool": Images(self.images, self.labels)}
        given = wanted(attack, offered)
        if sealed:
            remote = Remote(4, 5, self.per_forward, 2**40)
            adv = attack(remote, x.clone(), y.clone(), **given, **head["settings"])
        else:
            model = self.substitute
            if model is None:
                raise ValueError("no substitute was sent")
            from harness.substitutes import block_seed

            with model.session(block_seed(head["seed"], head["indices"][0])), audited(model):
                adv = attack(model, x.clone(), y.clone(), **given, **head["settings"])
        if not isinstance(adv, Tensor):
            raise RuleError(f"attack() returned {type(adv).__name__}, not a tensor of images")
        images = adv.detach().contiguous()
        return frames.encode({}, save({"images": images}))


def wanted(attack: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Return what an attack takes of what is offered; one without `rng` or `pool` does without."""
    taken = inspect.signature(attack).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        return offered
    return {name: value for name, value in offered.items() if name in taken or name in ("eps", "steps")}


def lock(limits: dict[str, Any]) -> None:
    """Limit this process and put it under the filter of system calls; nothing of it can be undone."""
    limit(limits)
    if limits["seccomp"]:
        seccomp.install()


def limit(limits: dict[str, Any]) -> None:
    """Limit this process for good."""
    memory = address_space() + limits["memory"]
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(limits["seconds"]) + 1),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(kind)[1]  # a lower one may have been inherited, and cannot be raised
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def address_space() -> int:
    """Return the size of this process's address space in bytes, found by trying limits: there is no /proc to ask."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    low, high = 0, 1 << 46 if hard == resource.RLIM_INFINITY else hard
    while high - low > 2**20:
        middle = (low + high) // 2
        try:
            resource.setrlimit(resource.RLIMIT_AS, (middle, hard))
            mmap.mmap(-1, _PAGE).close()
            high = middle
        except (OSError, ValueError, MemoryError):
            low = middle
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return high


def seed_everything(seed: int, index: int) -> None:
    """Seed the global generators, for attacks that draw from them, by the suite's seed and the block's first image."""
    value = (seed * 1_000_003 + index) % 2**32
    torch.manual_seed(value)
    random.seed(value)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(value)


def build(head: dict[str, Any], body: bytes, images: Tensor, labels: Tensor) -> Crafter:
    """Rebuild a substitute from what the suite and the registry say of it and the bytes of its weights; change it if told to."""
    from harness.runs.workspace import assemble
    from harness.sandbox.changes import Change, apply
    from harness.suites.suite import SubstituteSpec
    from zoo.loading.load import InputWrapper, network
    from zoo.registry.entry import ModelEntry

    entries, nets = [], []
    for text, suffix, size in zip(head["entries"], head["suffixes"], head["sizes"], strict=True):
        data, body = body[:size], body[size:]
        entry = ModelEntry.model_validate_json(json.dumps(text))
        file = Path(f"weights{suffix}")
        file.write_bytes(data)
        try:
            net = network(entry, file, entry.weights.keymap if entry.weights else None)
        finally:
            file.unlink()
        entries.append(entry)
        nets.append(InputWrapper(net, entry.input, entry.label_offset).eval())
        if head["change"] is not None:
            apply(nets[-1], Change(**head["change"]), images, labels)
    return assemble(SubstituteSpec.model_validate_json(json.dumps(head["spec"])), entries, nets)


@contextmanager
def audited(model: Crafter) -> Iterator[None]:
    """Find what an attack that works inside the networks left behind in them."""
    networks = model.networks()
    weights = [{key: tensor.detach().clone() for key, tensor in n.state_dict().items()} for n in networks]
    hooks = _hooks(networks)
    yield
    for network in networks:
        if any(part.training for part in network.modules()):
            raise RuleError("attack() left the substitute in training mode; call eval() again, or do not switch")
    if _hooks(networks) != hooks:
        raise RuleError("attack() left hooks on the substitute; remove them (handle.remove()) before it returns")
    if any(_altered(before, network.state_dict()) for before, network in zip(weights, networks, strict=True)):
        raise RuleError("attack() altered the substitute's weights or buffers; work on a copy, or restore them")


def _altered(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    """Whether a tensor was changed; quantised weights that the session keeps come in addition."""
    return any(key not in after or not torch.equal(tensor, after[key]) for key, tensor in before.items())


def _hooks(networks: tuple[nn.Module, ...]) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(part, kind)) for network in networks for part in network.modules() for kind in kinds]


def _describe(error: BaseException, memory: int) -> str:
    """Say what a submitted attack raised, and on which line of which of its files."""
    text = " ".join(str(error).split())[:300]
    if "allocate memory" in text:
        return f"it asked for more memory than {memory // 2**20} MB ({text})"
    frames_ = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames_ if f"/{FOLDER}/" in f.filename]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError | tokenize.TokenError):
        where = f" ({Path(str(getattr(error, 'filename', ''))).name}, line {getattr(error, 'lineno', '?')})"
    return f"it raised {type(error).__name__}: {text}{where}"
