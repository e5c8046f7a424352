"""What a worker process needs at hand: the images, the substitutes, the attacks and the targets of one suite."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.records.pinned import Deployment, PinnedSuite
from harness.records.pinned import Model as ModelFacts
from harness.runs.sources import CRAFTING, SCORING, code_digest
from harness.substitutes.speed import compile_network
from harness.suites.suite import SubstituteSpec, Suite
from zoo import registry as registries
from zoo.data import Dataset
from zoo.data import load as load_data
from zoo.errors import UserError
from zoo.hub.store import cache_root
from zoo.kernels import Precision, fixed, hardware
from zoo.loading.engines import black_box_sentence
from zoo.loading.engines import facts as engine_facts
from zoo.loading.load import identity, load_entry, weights_path, weights_sha256
from zoo.loading.snapshots import Snapshots
from zoo.registry import Registry
from zoo.registry.entry import ModelEntry

if TYPE_CHECKING:
    from harness.attacks import AttackLike
    from harness.substitutes import Crafter

RESIDENT_BYTES = 2 * 10**9
"""Targets kept loaded in one process, at the least; `resident_bytes` says how many a device has room for."""


@dataclass(frozen=True)
class Context:
    """Everything that a worker is told: small, picklable, and enough to do any task of a run."""

    suite: Suite
    overlays: tuple[str, ...] = ()
    device: str = "cpu"
    limit: int | None = None
    cache: str | None = None
    precision: Precision = "exact"
    compiled: bool = False

    @property
    def how(self) -> str | None:
        """How it is computed where that is not exact, as rows and folders say it: tf32, bf16-compiled."""
        parts = [self.precision] * (self.precision != "exact") + ["compiled"] * self.compiled
        return "-".join(parts) or None

    @property
    def cache_folder(self) -> Path:
        """Where crafted images and predictions are kept between runs."""
        return Path(self.cache) if self.cache else cache_root() / "harness"


def declared(how: str | None) -> dict[str, Any]:
    """Return the settings of a context that computes as a row says it was computed."""
    precision, _, compiled = (how or "exact").partition("-")
    return {"precision": "exact" if precision == "compiled" else precision, "compiled": "compiled" in (precision, compiled)}


class Workspace:
    """Loads what tasks ask for and keeps it; one in each process."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.suite = context.suite
        self._targets: OrderedDict[str, nn.Module] = OrderedDict()
        self._substitutes: dict[tuple[str, ...], Crafter] = {}
        self._identities: dict[str, str] = {}
        self._session = ExitStack()

    @cached_property
    def registry(self) -> Registry:
        """The registry with the overlays of the run, as its files were at its start."""
        return registries.load(self.context.overlays)

    @cached_property
    def full(self) -> Dataset:
        """All images of the suite."""
        spec = self.suite.data
        return load_data(spec.name, spec.split).head(spec.limit)

    @cached_property
    def data(self) -> Dataset:
        """The images of this run: the suite's, or the first `limit` of them."""
        return self.full.head(self.context.limit)

    @cached_property
    def digest(self) -> str:
        """Digest of the images of this run."""
        return self.data.digest

    @cached_property
    def full_digest(self) -> str:
        """Digest of all images of the suite, which mixing attacks draw from."""
        return self.full.digest

    def sha256(self, model: str) -> str:
        """Return the sha256 of a model's weights on this machine."""
        return weights_sha256(self.registry[model])

    def identity(self, model: str) -> str:
        """Return the digest of all that decides what a model answers on this machine, found once: it takes hashing a file."""
        if model not in self._identities:
            self._identities[model] = identity(self.registry[model])
        return self._identities[model]

    def target(self, name: str) -> nn.Module:
        """Return a target, loaded and on the device of the run."""
        key = self.identity(name)
        if key in self._targets:
            self._targets.move_to_end(key)
            return self._targets[key]
        model = self._load(self.registry[name])
        self._targets[key] = model
        while len(self._targets) > 1 and sum(map(_bytes, self._targets.values())) > resident_bytes(self.context.device):
            # the newest but this one: targets are asked for in a circle, where the oldest is the next to be asked for
            del self._targets[list(self._targets)[-2]]
        return model

    def _load(self, entry: ModelEntry) -> nn.Module:
        model = load_entry(entry).to(self.context.device)
        return compile_network(model) if self.context.compiled and entry.engine is None else model

    def substitute(self, name: str) -> Crafter:
        """Return a substitute with its schedule of states; one at a time stays loaded."""
        spec = self.suite.substitute(name)
        key = (name, *map(self.identity, spec.models))
        if key not in self._substitutes:
            self._session.close()
            self._substitutes.clear()
            entries = [self.registry[model] for model in spec.models]
            nets = [self._load(entry) for entry in entries]
            collections = {e.name: Snapshots(weights_path(e)) for e in entries if is_collection(e)}
            made = assemble(spec, entries, nets, collections)
            with fixed(self.context.device, self.context.precision):
                self._session.enter_context(made.session())  # its weights are prepared once, not for each block
            self._substitutes[key] = made
        return self._substitutes[key]

    def attack(self, name: str) -> AttackLike:
        """Return an attack as the suite composes it."""
        from harness.attacks import get
        from harness.attacks.budget import confined

        budget = self.suite.budget
        try:
            return confined(get(self.suite.attack(name)), self.suite.steps, budget.passes, budget.patch)
        except UserError as error:
            raise UserError(f"attack {name} of suite {self.suite.name}: {error}") from None

    def job_key(self, substitute: str, attack: str, seed: int) -> str:
        """Return the digest of what a job asks for: substitute, attack, data, budget and seed, whatever code answers it."""
        spec = self.suite.substitute(substitute)
        schedules = [self.registry[m].alternation for m in spec.models]
        content: dict[str, Any] = {
            "format": 3,
            "attack": repr(self.attack(attack)),
            "substitute": spec.model_dump(mode="json", exclude={"name", "models"}),
            "models": [self.identity(m) for m in spec.models],
            "alternation": [schedule.model_dump(mode="json") if schedule else None for schedule in schedules],
            "feature_layer": [self.registry[m].feature_layer for m in spec.models],
            "data": self.full_digest,
            "budget": self.suite.budget.model_dump(mode="json"),
            "steps": self.suite.steps,
            "block": self.suite.block,
            "seed": seed,
        }
        return _digest(content)

    def craft_key(self, substitute: str, attack: str, seed: int) -> str:
        """Return the content address of one job's images: the job, and the code and the kind of device that make them."""
        return _digest([self.job_key(substitute, attack, seed), code_digest(*CRAFTING), *self.made_by])

    def score_key(self, target: str) -> str:
        """Return the content address of a target's answers to given bytes: the target, the transport, the code, the device."""
        own = engine_facts(self.registry[target])
        made_by = [code_digest(*SCORING), *self.made_by]
        return _digest([self.identity(target), self.suite.transport, made_by, *([] if own is None else [own])])

    def engines(self, targets: Iterable[str]) -> dict[str, str]:
        """Return what decides the last bits of the answers of those targets that an engine runs."""
        found = {target: engine_facts(self.registry[target]) for target in targets}
        return {target: words for target, words in found.items() if words is not None}

    @cached_property
    def hardware(self) -> str:
        """What decides the last bits of arithmetic where tasks are done: this machine's device, or a cluster's."""
        return hardware(self.context.device)

    @cached_property
    def made_by(self) -> list[str]:
        """What can move the last bits of a result beside what is asked for and the code."""
        packages = (metadata.version(package) for package in ("torch", "timm", "pillow"))
        return [self.hardware, self.context.how or "exact", *packages]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def assemble(
    spec: SubstituteSpec,
    entries: Sequence[ModelEntry],
    nets: Sequence[nn.Module],
    snapshots: Mapping[str, Sequence[dict[str, Tensor]]] | None = None,
) -> Crafter:
    """Build the substitute that a suite describes: a network with its schedule, an ensemble, or two networks in turn.

    Args:
        spec: what the suite says.
        entries: its models.
        nets: their networks, loaded.
        snapshots: the weights that a model made by LGV walks through, by its name.

    Raises:
        UserError: LGV's snapshots are not at hand, or cannot have states.
    """
    from harness.substitutes import LGV, Softened, Substitute, ensemble, mixture

    parts: list[Crafter] = []
    for entry in entries:
        if entry.engine is not None:
            raise UserError(black_box_sentence(entry))
    for entry, net in zip(entries, nets, strict=True):
        own = entry.alternation
        every = spec.every or (own.every if own else "iteration")
        layer = None if entry.feature_layer is None else f"net.{entry.feature_layer}"
        if not is_collection(entry):
            states = spec.states or (own.states if own else None)
            parts.append(Substitute(net, states=states, every=every, feature_layer=layer))
        elif spec.states is not None:
            raise UserError(f"{spec.name}: states are of quantised networks; {entry.name} is a collection of plain weights")
        elif entry.name not in (snapshots or {}):
            raise UserError(f"{entry.name} is a collection of weights, which this run has not at hand; take another substitute")
        else:
            parts.append(LGV(net, (snapshots or {})[entry.name], layer, part=net.get_submodule("net")))
    if spec.mixture is not None:
        return mixture(parts[0], parts[1], spec.mixture)
    whole = parts[0] if spec.ensemble is None else ensemble(parts, spec.ensemble)
    return whole if spec.temperature is None else Softened(whole, spec.temperature)


def is_collection(entry: ModelEntry) -> bool:
    """Return whether an entry's file holds many weights of its network, which LGV collects."""
    return entry.recipe is not None and entry.recipe.kind == "lgv"


def resident_bytes(device: str) -> int:
    """Return how much memory targets may take in one process: half of a GPU's, a quarter of a core's share of the machine's."""
    if torch.device(device).type == "cuda":
        return max(RESIDENT_BYTES, torch.cuda.get_device_properties(device).total_memory // 2)
    if not hasattr(os, "sysconf"):
        return RESIDENT_BYTES
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(RESIDENT_BYTES, machine // 4 // (os.cpu_count() or 1))


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


_current: tuple[Context, Workspace] | None = None


def forget() -> None:
    """Let the next task of this process start from the registry and the weights as they are then."""
    global _current
    _current = None


def workspace_of(context: Context) -> Workspace:
    """Return this process's workspace for a context, made anew when the context changes."""
    global _current
    if _current is None or _current[0] != context:
        _current = (context, Workspace(context))
    return _current[1]


def open_workspace(
    suite: Suite,
    limit: int | None,
    device: str,
    overlays: Sequence[str],
    precision: Precision = "exact",
    compiled: bool = False,
) -> Workspace:
    """Return the workspace of a suite over its first `limit` images; a limit beyond its images is none."""
    context = Context(suite, tuple(overlays), device, precision=precision, compiled=compiled)
    workspace = workspace_of(context)
    if limit is None or limit >= len(workspace.full):
        return workspace
    return workspace_of(replace(context, limit=limit))


def deployment(name: str, entries: Mapping[str, ModelEntry], targets: Sequence[str]) -> Deployment | None:
    """Return which targets an integer network in an engine was made of, by the registry's parents; None of other networks.

    An imported network, which emulates the engine, has it as its parent.
    """
    if name not in targets or entries[name].engine is None:
        return None
    above: list[ModelEntry] = []
    parent = entries[name].parent
    while parent is not None:
        above.append(entries[parent])
        parent = above[-1].parent
    below = [entries[t] for t in targets if entries[t].parent == name]
    kin = [e for e in (*above, *below) if e.name in targets and e.engine is None]
    precise = next((e.name for e in kin if e.quant is None), None)
    emulated = next((e.name for e in kin if e.quant is not None), None)
    return Deployment(precise=precise, emulated=emulated) if precise or emulated else None


def describe(workspace: Workspace, absent: Mapping[str, str]) -> PinnedSuite:
    """Describe a suite as it is about to run; the weights of absent models are null."""
    suite, entries = workspace.suite, workspace.registry
    models = {
        name: ModelFacts(
            arch=entries[name].arch,
            w_bits=entries[name].w_bits,
            a_bits=entries[name].a_bits,
            sha256=None if name in absent else workspace.sha256(name),
            identity=None if name in absent else workspace.identity(name),
            deployed=deployment(name, entries, suite.target_names),
        )
        for name in suite.model_names
    }
    data_sha = workspace.digest
    digest = suite.digest({t: models[t].identity for t in suite.target_names}, data_sha)
    return PinnedSuite(digest=digest, images=len(workspace.data), data_sha256=data_sha, models=models, suite=suite)
