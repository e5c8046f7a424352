"""One entry's recipe from its start to a file of weights."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import quant
from zoo.archs.mixed import MixedPrecision
from zoo.build import InputWrapper
from zoo.data import Dataset
from zoo.entry import ModelEntry, State
from zoo.evaluate import predictions
from zoo.recipes.adversarial import Adversary
from zoo.recipes.checkpoint import Checkpoint
from zoo.recipes.lgv import Collector
from zoo.recipes.order import needs
from zoo.recipes.plan import AdversarialOptions, LgvOptions, Plan, PtqOptions, plan
from zoo.recipes.ptq import Reconstruction
from zoo.recipes.runtime import Runtime, runtime
from zoo.recipes.seeds import reproducible
from zoo.recipes.start import begin
from zoo.recipes.train import Fit

Resolve = Callable[[str], nn.Module]


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    accuracies: top-1 in percent on the test images by state of the network ("fp" when it is not quantised); `top1` is that
    of the state it is evaluated in. log: what was done, as stored in the file's metadata; `seconds` is kept out of it so
    that building again gives the same bytes.
    """

    name: str
    path: Path
    sha256: str
    size: int
    top1: float
    accuracies: dict[str, float]
    seconds: float
    log: dict[str, Any]


def build(
    entry: ModelEntry,
    *,
    resolve: Resolve,
    data_train: Dataset,
    data_test: Dataset,
    out: Path,
    checkpoint: Path | None = None,
    progress: bool = False,
    device: str = "cpu",
) -> BuildReport:
    """Make an entry's weights by its recipe and write them to `out`, whole or not at all.

    The same entry, start and data give the same bytes on the same machine, with or without an interruption (with
    `options.threads` set, or the same number of threads).

    Args:
        entry: What to build.
        resolve: Returns the loaded network of an entry by name, for the start and for ensembles.
        data_train: Images to train on.
        data_test: Images for the accuracies of the report.
        out: The safetensors file; a log with timings goes beside it as `<name>.json`.
        checkpoint: File to write after each epoch and to resume from; removed at the end.
        progress: Show a bar on stderr.
        device: Where to train, such as cuda:0; ignored under `accelerate launch`, which assigns devices.

    Raises:
        UserError: the recipe is incomplete, does not fit its start or data, or diverges.
    """
    settings = plan(entry)
    place = runtime(device)
    began = time.perf_counter()
    with reproducible(settings.seed, place.device, settings.options.threads):
        work = _prepare(entry, settings, resolve, data_train, place, out, checkpoint, progress)
        try:
            work.fit.run()
            accuracies = _accuracies(work.fit.model, data_test, place.device, settings.states)
            log = _log(entry, work, data_train, data_test, accuracies)
            seconds = round(time.perf_counter() - began, 1)
            if place.main:
                _store(entry, work, out, log)
                _write_sidecar(out, {"seconds": seconds, "device": str(place.device), "processes": place.world, **log})
        finally:
            if work.collector is not None and checkpoint is None:
                work.collector.discard()
    place.wait()
    with out.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    top1 = accuracies["wa" if "wa" in accuracies else "fp"]
    return BuildReport(entry.name, out, sha256, out.stat().st_size, top1, accuracies, seconds, log)


@dataclass
class _Work:
    """The parts of one build."""

    fit: Fit
    checkpoint: Checkpoint | None
    collector: Collector | None = None
    blocks: list[list[str | float]] | None = None


def _prepare(
    entry: ModelEntry,
    settings: Plan,
    resolve: Resolve,
    data: Dataset,
    place: Runtime,
    out: Path,
    checkpoint: Path | None,
    progress: bool,
) -> _Work:
    """Put together the network at its start, and what happens around its training."""
    others = {name: resolve(name).to(place.device) for name in needs(entry)}
    start = others[entry.recipe.start] if entry.recipe and entry.recipe.start else None
    saved = Checkpoint(checkpoint, _key(entry, data, others.values())) if checkpoint is not None else None
    label = entry.name if progress else ""
    options = settings.options
    if isinstance(options, PtqOptions):
        assert start is not None
        ptq = Reconstruction(entry, settings, data, saved, label=label if place.main else "", writes=place.main)
        model = ptq.run(start, place.device)
        return _Work(Fit(model, settings, data, entry.input.size, place), saved, blocks=ptq.blocks)
    model = begin(entry, settings, start, data, place.device)
    fit = Fit(model, settings, data, entry.input.size, place, checkpoint=saved, label=label)
    work = _Work(fit, saved)
    if isinstance(options, AdversarialOptions):
        sources = [others[name].eval() for name in options.ensemble]
        fit.perturb = Adversary(model, options, settings.seed, sources)
    if isinstance(options, LgvOptions):
        work.collector = Collector(fit, options, out, checkpoint)
        fit.after_step = work.collector.after_step
    return work


def _store(entry: ModelEntry, work: _Work, out: Path, log: dict[str, Any]) -> None:
    """Write the weights, and remove what an unfinished build kept."""
    extra = {"log": json.dumps(log, sort_keys=True)}
    net = work.fit.model.net
    if work.collector is not None:
        work.collector.finish(out, extra)
    else:
        # Packed files hold no full-precision weights, which some schedules (Alg. 2: "fp", "wa") return to.
        returns = entry.alternation is not None and not {"fp", "a"}.isdisjoint(entry.alternation.states)
        packed = quant.is_quantized(net) and not work.fit.plan.options.latent and not returns
        quant.save(net, out, packed=packed, extra=extra)
    if work.checkpoint is not None:
        work.checkpoint.remove()


def _key(entry: ModelEntry, data: Dataset, models: Iterable[nn.Module]) -> str:
    """Digest everything that decides a build: the entry, the images, and every weight that it reads."""
    fields = {"arch", "arch_args", "classes", "label_offset", "input", "quant", "recipe"}
    content = entry.model_dump(mode="json", include=fields)
    content["recipe"].pop("cost")
    sha = hashlib.sha256(json.dumps([content, data.digest, torch.__version__], sort_keys=True).encode())
    for model in models:
        for key, value in model.state_dict().items():
            sha.update(key.encode())
            sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _accuracies(
    model: InputWrapper, data: Dataset, device: torch.device, trained: tuple[State, ...]
) -> dict[str, float]:
    """Measure the top-1 accuracy in the states that the network was trained in and those it is used in."""
    found: dict[str, float] = {}
    states: tuple[State, ...] = ("fp",)
    if quant.is_quantized(model.net):
        used = {"wa"} if isinstance(model.net, MixedPrecision) else {"w", "wa", *trained}
        states = tuple(state for state in quant.STATES if state in used)
    for state in states:
        if quant.is_quantized(model.net):
            quant.set_state(model.net, state)
        hits = predictions(model, data.images, device=str(device)) == data.labels
        found[state] = round(100 * float(hits.double().mean()), 4)
    if quant.is_quantized(model.net):
        quant.set_state(model.net, "wa")
    return found


def _log(entry: ModelEntry, work: _Work, train: Dataset, test: Dataset, accuracies: dict[str, float]) -> dict[str, Any]:
    """Say what was done, without times and paths: the log is part of the file's bytes."""
    assert entry.recipe is not None
    fit = work.fit
    steps = fit.steps_per_epoch * fit.plan.epochs
    states: tuple[State, ...] = ("wa",) if isinstance(fit.model.net, MixedPrecision) else fit.plan.states
    counts = {
        s: sum(len(range(i, steps, len(states))) for i, t in enumerate(states) if t == s) for s in sorted(set(states))
    }
    return {
        "name": entry.name,
        "recipe": entry.recipe.model_dump(mode="json", exclude={"cost"}, exclude_none=True),
        "train": {"data": f"{train.name}/{train.split}", "digest": train.digest, "images": len(train)},
        "test": {"data": f"{test.name}/{test.split}", "digest": test.digest, "images": len(test)},
        "steps": steps,
        "steps_in_state": counts,
        "epochs": fit.history,
        **({} if work.blocks is None else {"blocks": work.blocks}),
        "test_top1": accuracies,
        "torch": torch.__version__,
    }


def _write_sidecar(out: Path, content: dict[str, Any]) -> None:
    temporary = out.with_name(f".{out.stem}.json.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out.with_suffix(".json"))
