"""LGV's snapshots as a substitute, alone and in turn with QAA."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from harness import substitutes
from harness.attacks import Rng, get
from harness.runs.craft import craft, to_bytes
from harness.runs.workspace import Context, workspace_of
from harness.suites.selection import Job
from harness.suites.suite import load
from tests.harness.tiny import SUITE, make
from zoo import archs
from zoo.errors import UserError
from zoo.loading.load import InputWrapper, load_entry
from zoo.loading.snapshots import join
from zoo.quant.save import save
from zoo.registry import load as load_registry

MIXED = SUITE.replace(
    "substitutes: [tiny-resnet, tiny-resnet-2bit]",
    "substitutes: [tiny-resnet, tiny-resnet-2bit, tiny-lgv, "
    "{name: drawn, models: [tiny-resnet, tiny-resnet-2bit], ensemble: sampling}, "
    "{name: one, models: [tiny-resnet-2bit, tiny-lgv], mixture: [1, 1]}, "
    "{name: two, models: [tiny-resnet-2bit, tiny-lgv], mixture: [1, 2]}]",
).replace("limit: 25", "limit: 10")


def snapshots(folder: Path, count: int = 3) -> list[dict[str, Tensor]]:
    """Write a collection of random weights, and its registry entry beside the tiny ones."""
    found, parts = [], []
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for index in range(count):
            net = archs.create("resnet8-16px", 10).eval()
            parts.append(folder / f"part{index}.safetensors")
            save(net, parts[-1], packed=False)
            found.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
    path = folder / "tiny-lgv.safetensors"
    join(parts, path, {})
    registry = folder / "tiny-models.yaml"
    models = yaml.safe_load(registry.read_text(encoding="utf-8"))
    models["models"]["tiny-lgv"] = {
        "parent": "tiny-resnet",
        "recipe": {"kind": "lgv", "start": "tiny-resnet"},
        "weights": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
    }
    registry.write_text(yaml.safe_dump(models), encoding="utf-8")
    return found


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path, MIXED)
    snapshots(tmp_path)
    return Context(suite, (str(registry),))


def by_hand(context: Context, model: Any) -> Tensor:
    """Block by block, each with draws of its own."""
    data, size = workspace_of(context).data, context.suite.block
    made = []
    for start in range(0, len(data), size):
        x, y = data.images[start : start + size].float() / 255, data.labels[start : start + size]
        with model.session(substitutes.block_seed(0, start)):
            made.append(get("mim")(model, x, y, eps=32 / 255, steps=3, rng=Rng(0, range(start, start + len(x)))))
    return to_bytes(torch.cat(made), data.images, 32)


@pytest.mark.parametrize("at_hand", [0, 10**9])
def test_mixtures_and_snapshots_of_a_suite_are_what_is_built_by_hand(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_hand: int
) -> None:
    monkeypatch.setattr(substitutes, "SNAPSHOT_BYTES", at_hand)
    entries = load_registry(context.overlays)
    weights = [{f"net.{k}": v for k, v in snapshot.items()} for snapshot in snapshots(tmp_path)]

    def qaa() -> substitutes.Substitute:
        return substitutes.Substitute(load_entry(entries["tiny-resnet-2bit"]), ("w", "wa"))

    def lgv() -> substitutes.LGV:
        net = InputWrapper(archs.create("resnet8-16px", 10), entries["tiny-lgv"].input).eval()
        return substitutes.LGV(net, weights)

    expected = {
        "tiny-lgv": lgv(),
        "one": substitutes.mixture(qaa(), lgv(), (1, 1)),
        "two": substitutes.mixture(qaa(), lgv(), (1, 2)),
    }
    found = {name: craft(context, Job(name, "mim", 0)).images for name in expected}
    for name, model in expected.items():
        assert torch.equal(found[name], by_hand(context, model)), name
    assert not torch.equal(found["one"], found["two"]) and not torch.equal(found["one"], found["tiny-lgv"])


def test_the_seed_of_a_job_decides_what_its_substitute_draws(context: Context) -> None:
    by_seed = {name: [craft(context, Job(name, "mim", seed)).images for seed in range(4)] for name in ("tiny-lgv", "drawn")}
    for name, found in by_seed.items():
        assert len({images.numpy().tobytes() for images in found}) > 1, name
    assert torch.equal(craft(context, Job("tiny-resnet", "mim", 0)).images, craft(context, Job("tiny-resnet", "mim", 1)).images)
    assert torch.equal(by_hand(context, workspace_of(context).substitute("tiny-lgv")), by_seed["tiny-lgv"][0])


def test_every_block_has_draws_of_its_own(context: Context) -> None:
    """One order for all images of a seed would make them dependent, and intervals over images too narrow."""
    workspace = workspace_of(context)
    size = context.suite.block
    lgv, drawn = workspace.substitute("tiny-lgv"), substitutes.Sampled([workspace.substitute("tiny-resnet")] * 2)
    orders = set()
    for start in range(0, 40 * size, size):
        with lgv.session(substitutes.block_seed(0, start)), drawn.session(substitutes.block_seed(0, start)):
            orders.add((tuple(lgv._order), tuple(drawn._turn(t)[0] for t in range(10))))
    assert len({order for order, _ in orders}) > 1 and len({members for _, members in orders}) > 20


def test_the_key_of_an_image_follows_the_mixture_and_every_schedule_in_it(context: Context, tmp_path: Path) -> None:
    workspace = workspace_of(context)
    keys = {name: workspace.craft_key(name, "mim", 0) for name in ("tiny-lgv", "one", "two")}
    assert len(set(keys.values())) == 3
    path = tmp_path / "swapped.yaml"
    text = MIXED.replace("[tiny-resnet-2bit, tiny-lgv], mixture", "[tiny-lgv, tiny-resnet-2bit], mixture")
    path.write_text(text, encoding="utf-8")
    registry = Path(context.overlays[0])
    swapped = Context(load(str(path)), context.overlays)
    before = workspace_of(swapped).craft_key("one", "mim", 0)
    other = tmp_path / "other-schedule.yaml"
    other.write_text(registry.read_text(encoding="utf-8").replace("- w\n      - wa", "- wa\n      - w"), encoding="utf-8")
    assert other.read_text(encoding="utf-8") != registry.read_text(encoding="utf-8")
    assert workspace_of(Context(swapped.suite, (str(other),))).craft_key("one", "mim", 0) != before


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("{name: one, models: [tiny-lgv], mixture: [1, 1]}", "several models need"),
        ("{name: one, models: [tiny-resnet, tiny-lgv], mixture: [0, 1]}", "at least one iteration of each"),
        ("{name: one, models: [tiny-resnet, tiny-lgv], mixture: [1, 1], ensemble: logits}", "not by both"),
    ],
)
def test_a_mixture_is_of_two_models_in_turn(tmp_path: Path, wrong: str, words: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(SUITE.replace("substitutes: [tiny-resnet,", f"substitutes: [{wrong}, tiny-resnet,"), encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load(str(path))
