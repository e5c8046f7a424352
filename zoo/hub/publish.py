"""Puts a model into a Hub repository: safetensors, configuration, and a card with its accuracy and bitwidths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UserError
from zoo.hub.cache import sha256_of
from zoo.hub.lock import model_info
from zoo.hub.pins import Scalar
from zoo.hub.servers import asking_hub
from zoo.hub.transfer import is_safetensors
from zoo.registry.entry import ClaimedAccuracy, HubFile, ModelEntry, Weights

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

WEIGHTS = "model.safetensors"
CONFIG_FIELDS = ("name", "family", "data", "arch", "arch_args", "classes", "label_offset", "input", "quant", "alternation")


def push(
    entry: ModelEntry,
    path: Path,
    repo: str,
    check: Callable[[ModelEntry, Path], None],
    *,
    license: str | None = None,
    private: bool = False,
) -> Weights:
    """Upload a model to a repository, creating it where needed, and return the pin of what is there now.

    Nothing is written to the registry; `pins_of` and `zoo.hub.pins.write_pins` do that.

    Args:
        entry: the model.
        path: its file.
        repo: the repository, as ORG/NAME.
        check: raises a UserError when the file is not of this model; `zoo.loading.load.check_runs` loads and runs it, as
            those who pull it will.
        license: the terms of the weights; None takes the registry's.
        private: create the repository as a private one.

    Raises:
        UserError: the file is no safetensors file or not of this model, no licence is known, or the Hub refuses.
    """
    if not path.is_file():
        raise UserError(f"{entry.name}: there is no file {path}")
    if not is_safetensors(path):
        raise UserError(f"{entry.name}: {path} is no safetensors file; only those are published")
    terms = license or (entry.weights.license if entry.weights else None)
    if terms is None:
        raise UserError(f"{entry.name}: no licence is known; name one with --license, such as --license apache-2.0")
    check(entry, path)
    digest, size = sha256_of(path), path.stat().st_size
    config = json.dumps(entry.model_dump(mode="json", include=set(CONFIG_FIELDS)), indent=2) + "\n"
    content = {"config.json": config.encode(), "README.md": str(card(entry, terms)).encode()}
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(name, data) for name, data in content.items()]
    operations.append(CommitOperationAdd(WEIGHTS, str(path)))
    with asking_hub(entry.name, repo, write=True) as api:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.create_commit(repo, operations, commit_message=f"Publish {entry.name}")
    _check_arrived(entry.name, repo, commit.oid, digest)
    return Weights(hub=HubFile(repo=repo, revision=commit.oid, file=WEIGHTS), sha256=digest, size=size, license=terms)


def pins_of(weights: Weights, before: Weights | None = None) -> dict[str, Scalar | None]:
    """Return the values that `zoo.hub.pins.write_pins` puts into an entry for weights that were published.

    Args:
        weights: What `push` returned.
        before: What the entry said until now. What it said of another file, its key map and address, becomes null.
    """
    assert weights.hub is not None
    stale: dict[str, Scalar | None] = {}
    if before is not None:
        stale = {key: None for key in ("url", "keymap") if getattr(before, key) is not None}
        if before.hub is not None and before.hub.file != weights.hub.file:
            stale["hub.file"] = weights.hub.file
    found = {
        "hub.repo": weights.hub.repo,
        "hub.revision": weights.hub.revision,
        "sha256": weights.sha256,
        "size": weights.size,
        "license": weights.license,
    }
    return {key: value for key, value in found.items() if value is not None} | stale


def _check_arrived(name: str, repo: str, revision: str, digest: str) -> None:
    info = model_info(name, repo, revision)
    stated = {s.rfilename: s.lfs.sha256 if s.lfs else None for s in info.siblings or []}
    if stated.get(WEIGHTS) != digest:
        raise UserError(f"{name}: {repo} holds sha256 {stated.get(WEIGHTS)} after the upload of {digest}; push again")


def card(entry: ModelEntry, license: str) -> ModelCard:
    """Return the model card: metadata that the Hub reads (licence, accuracy, bitwidths) and how to use the model."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    claim = entry.clean_accuracy
    bits = {"w_bits": entry.w_bits, "a_bits": entry.a_bits}
    results = claim and [
        EvalResult(
            task_type="image-classification",
            dataset_type=claim.data,
            dataset_name=claim.data,
            dataset_split="test",
            metric_type="accuracy",
            metric_name="top-1 as claimed in the registry",
            metric_value=claim.top1,
            metric_args=bits,
        )
    ]
    quantised = f"{entry.quant.method}, {entry.w_bits}-bit weights, {entry.a_bits}-bit activations" if entry.quant else "none"
    tags = ["image-classification", "adversarial-robustness", *(["quantization"] if entry.quant else [])]
    data = ModelCardData(
        license=license, library_name="qnn-transfer-zoo", model_name=entry.name, tags=tags, eval_results=results or None
    )
    lines = [
        f"# {entry.name}",
        f"A model of {entry.data} for benchmarks of transfer attacks. Architecture `{entry.arch}`; quantisation: {quantised}.",
        f"```python\nimport zoo\n\nmodel = zoo.load({entry.name!r})  # maps (N, C, H, W) pixels in [0, 1] to logits\n```",
        *([_claimed(claim, entry.name)] if claim else []),
        *([f"Reference: {entry.cite}"] if entry.cite else []),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n")


def _claimed(claim: ClaimedAccuracy, name: str) -> str:
    return (
        f"The registry claims a top-1 accuracy of {claim.top1} % on {claim.data} ({claim.source}); publishing did not measure it "
        f"again. `zoo eval {name}` does."
    )
