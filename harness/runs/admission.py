"""The stage that admits models: their files are at hand, they predict, and they are as accurate as the registry claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.records.predictions import Predictions
from harness.records.rows import Clean, read_clean, write_clean
from harness.runs.score import score_images
from harness.runs.stage import Stage
from harness.runs.workspace import Workspace, workspace_of
from zoo.errors import UserError
from zoo.intervals import wilson


def absent_models(workspace: Workspace, models: Iterable[str]) -> dict[str, str]:
    """Return the models whose weights cannot be had, with the reason."""
    blocked = {}
    for name in dict.fromkeys(models):
        try:
            workspace.sha256(name)
        except UserError as error:
            blocked[name] = str(error)
    return blocked


def admit(stage: Stage, targets: list[str], substitutes: Iterable[str] = ()) -> tuple[Clean, dict[str, str]]:
    """Have models predict the clean images, and write clean.json; return it, and why some models cannot take part.

    A model takes part when its file fits and it is as accurate as the registry claims. A substitute without a claim is not
    asked for predictions, as only targets need them.
    """
    workspace = workspace_of(stage.context)
    clean, failed = predict_clean(stage, targets)
    claimed = [m for m in substitutes if m not in clean.predictions and workspace.registry[m].clean_accuracy is not None]
    others, unfit = score_images(stage, "clean images", None, workspace.data.images, [m for m in claimed if m not in failed])
    known = {m: clean.predictions[m] for m in (*targets, *substitutes) if m in clean.predictions}
    return clean, failed | unfit | gate(workspace, known | others)


def predict_clean(stage: Stage, targets: list[str]) -> tuple[Clean, dict[str, str]]:
    """Predict the clean images with every target, keep what an earlier run found in the same way, and write clean.json.

    What another code, version or device predicted is kept only of targets that are not asked for now. Returns the record, and
    the targets that could not predict, with the reason.
    """
    workspace = workspace_of(stage.context)
    data = workspace.data
    pinned, folder = stage.pinned, stage.report.folder
    known: dict[str, Predictions] = {}
    made_by: dict[str, str] = {}
    if (folder / "clean.json").is_file():
        before = read_clean(folder)
        if before.suite_digest == pinned.digest:
            known, made_by = dict(before.predictions), dict(before.made_by)
    keys = {target: workspace.score_key(target) for target in targets}
    same = {t for t in targets if t in known and made_by.get(t) == keys[t]}
    found, failed = score_images(stage, "clean images", None, data.images, [t for t in targets if t not in same])
    known.update(found)
    made_by.update({target: keys[target] for target in found})
    clean = Clean(
        suite=pinned.suite.name,
        suite_version=pinned.suite.version,
        suite_digest=pinned.digest,
        labels=Predictions(data.labels.numpy()),
        ids=data.ids,
        predictions={t: known[t] for t in pinned.suite.target_names if t in known},
        made_by={t: made_by[t] for t in pinned.suite.target_names if t in known and t in made_by},
    )
    write_clean(folder, clean)
    return clean, failed


def gate(workspace: Workspace, clean: Mapping[str, Predictions]) -> dict[str, str]:
    """Return the models whose clean accuracy falls short of the registry's claim: a wrong file, offset or normalisation."""
    blocked = {}
    labels = workspace.data.labels.numpy()
    for name, predicted in clean.items():
        claim = workspace.registry[name].clean_accuracy
        n = len(labels)
        correct = int((predicted.array == labels).sum())
        high = 100 * wilson(correct, n)[1]
        if claim is not None and claim.top1 > high and claim.top1 - 100 * correct / n > workspace.suite.tolerance:
            found = f"{100 * correct / n:.1f} % of the clean images, {claim.top1:.1f} % claimed"
            blocked[name] = f"{name} classifies {found}; see zoo eval {name}"
    return blocked
