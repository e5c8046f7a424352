"""One entry's recipe from its start to a file of weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import quant
from zoo.archs.mixed import MixedPrecision
from zoo.data import Dataset, Training
from zoo.evaluate import predictions
from zoo.hub.cache import sha256_of
from zoo.loading.load import InputWrapper
from zoo.recipes.adversarial import Adversary
from zoo.recipes.checkpoint import Checkpoint
from zoo.recipes.lgv import Collector
from zoo.recipes.order import needs
from zoo.recipes.plan import AdversarialOptions, LgvOptions, Plan, PtqOptions, plan
from zoo.recipes.ptq import Reconstruction
from zoo.recipes.report import BuildReport, file_key, finished, in_use, training_key, write_log
from zoo.recipes.runtime import Runtime, runtime
from zoo.recipes.seeds import reproducible
from zoo.recipes.start import begin
from zoo.recipes.train import Fit
from zoo.registry.entry import ModelEntry, State

Resolve = Callable[[str], nn.Module]


def build(
    entry: ModelEntry,
    *,
    resolve: Resolve,
    data_train: Training,
    data_test: Dataset,
    out: Path,
    checkpoint: Path | None = None,
    progress: bool = False,
    device: str = "cpu",
    keep: bool = False,
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
        keep: Leave `out` as it is when the same recipe made it from the same images and weights.

    Raises:
        UserError: the recipe is incomplete, does not fit its start or data, or diverges.
    """
    settings = plan(entry)
    place = runtime(device)
    began = time.perf_counter()
    with reproducible(settings.seed, place.device, settings.options.threads, settings.training.precision):
        others = {name: resolve(name).to(place.device) for name in needs(entry)}
        training = training_key(entry, data_train, others.values())
        key = file_key(entry, training, data_test)
        found = finished(entry, out, key) if keep else None
        place.wait()  # until every process has looked, before any may write
        if found is not None:
            return found
        saved = Checkpoint(checkpoint, training) if checkpoint is not None else None
        work = _prepare(entry, settings, others, data_train, place, out, saved, progress)
        try:
            work.fit.run()
            accuracies = _accuracies(work.fit.model, data_test, place.device, settings.states)
            log = _log(entry, work, data_train, data_test, accuracies)
            seconds = round(time.perf_counter() - began, 1)
            if place.main:
                _store(entry, work, out, log)
            place.wait()
            sha256, size = sha256_of(out), out.stat().st_size
            report = BuildReport(entry.name, out, sha256, size, in_use(accuracies), accuracies, seconds, log)
            if place.main:
                write_log(report, key=key, device=str(place.device), processes=place.world)
                if saved is not None:
                    saved.remove()
                if work.collector is not None:
                    work.collector.discard()
        finally:
            if work.collector is not None and checkpoint is None:
                work.collector.discard()
    place.wait()
    return report


@dataclass
class _Work:
    """The parts of one build."""

    fit: Fit
    collector: Collector | None = None
    blocks: list[list[str | float]] | None = None


def _prepare(
    entry: ModelEntry,
    settings: Plan,
    others: Mapping[str, nn.Module],
    data: Training,
    place: Runtime,
    out: Path,
    saved: Checkpoint | None,
    progress: bool,
) -> _Work:
    """Put together the network at its start, and what happens around its training."""
    start = others[entry.recipe.start] if entry.recipe and entry.recipe.start else None
    label = entry.name if progress else ""
    options = settings.options
    if isinstance(options, PtqOptions):
        assert start is not None
        ptq = Reconstruction(entry, settings, data, saved, label=label if place.main else "", writes=place.main)
        model = ptq.run(start, place.device)
        return _Work(Fit(model, settings, data, entry.input.size, place), blocks=ptq.blocks)
    model = begin(entry, settings, start, data, place.device)
    fit = Fit(model, settings, data, entry.input.size, place, checkpoint=saved, label=label)
    work = _Work(fit)
    if isinstance(options, AdversarialOptions):
        sources = [others[name].eval() for name in options.ensemble]
        fit.perturb = Adversary(model, options, settings.seed, sources)
    if isinstance(options, LgvOptions):
        work.collector = Collector(fit, options, out, saved.path if saved else None)
        fit.after_step = work.collector.after_step
    return work


def _store(entry: ModelEntry, work: _Work, out: Path, log: dict[str, Any]) -> None:
    """Write the weights."""
    extra = {"log": json.dumps(log, sort_keys=True)}
    net = work.fit.model.net
    if work.collector is not None:
        work.collector.finish(out, extra)
    else:
        # Packed files hold no full-precision weights, which some schedules (Alg. 2: "fp", "wa") return to.
        returns = entry.alternation is not None and not {"fp", "a"}.isdisjoint(entry.alternation.states)
        packed = quant.is_quantized(net) and not work.fit.plan.options.latent and not returns
        quant.save(net, out, packed=packed, extra=extra)


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


def _log(entry: ModelEntry, work: _Work, train: Training, test: Dataset, accuracies: dict[str, float]) -> dict[str, Any]:
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
