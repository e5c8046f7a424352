"""LGV: snapshots at even intervals of a training, in one file that is read one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.zoo.recipes.conftest import Builder, make_entry
from tests.zoo.recipes.test_resume import Killed, interrupt
from zoo.errors import UserError
from zoo.loading.snapshots import Snapshots
from zoo.quant import read_metadata
from zoo.recipes.train import Fit
from zoo.registry.entry import ModelEntry


def lgv(epochs: int = 2, per_epoch: int = 2) -> ModelEntry:
    options = {"snapshots_per_epoch": per_epoch, "threads": 1}
    return make_entry("lgv", kind="lgv", start="fp", epochs=epochs, schedule="constant", options=options)


def test_snapshots_are_the_weights_at_even_intervals(fp_builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[dict[str, torch.Tensor]] = []
    original = Fit._step

    def step(fit: Fit, *args: object) -> object:
        result = original(fit, *args)  # type: ignore[arg-type]
        passed.append({key: value.clone() for key, value in fit.model.net.state_dict().items()})
        return result

    monkeypatch.setattr(Fit, "_step", step)
    report = fp_builder(lgv())
    snapshots = Snapshots(report.path)
    assert len(snapshots) == 4 and len(passed) == 10
    for snapshot, steps in zip(snapshots, [2, 5, 7, 10], strict=True):
        assert snapshot.keys() == passed[steps - 1].keys()
        assert all(torch.equal(snapshot[key], value) for key, value in passed[steps - 1].items())
    loaded = fp_builder.load("lgv").net.state_dict()  # type: ignore[union-attr, operator]
    assert all(torch.equal(loaded[key], value) for key, value in snapshots[-1].items())
    assert [entry["loss"] for entry in report.log["epochs"]] and read_metadata(report.path)["snapshots"] == "4"
    assert {path.suffix for path in fp_builder.folder.iterdir()} == {".safetensors", ".json"}, "no part is left over"


def test_a_resumed_collection_ends_in_the_same_bytes(
    fp_builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = fp_builder(lgv(epochs=3), out=tmp_path / "undisturbed.safetensors")
    checkpoint = tmp_path / "state" / "lgv.pt"
    with monkeypatch.context() as killing, pytest.raises(Killed):
        interrupt(killing, at_step=9)
        fp_builder(lgv(epochs=3), checkpoint=checkpoint)
    resumed = fp_builder(lgv(epochs=3), checkpoint=checkpoint)
    assert resumed.path.read_bytes() == undisturbed.path.read_bytes()
    assert not list(checkpoint.parent.iterdir())


def test_a_failed_collection_without_checkpoint_leaves_nothing(
    fp_builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(fp_builder.folder.iterdir())
    interrupt(monkeypatch, at_step=7)
    with pytest.raises(Killed):
        fp_builder(lgv())
    assert sorted(fp_builder.folder.iterdir()) == before


def test_more_snapshots_than_steps_are_refused(fp_builder: Builder) -> None:
    with pytest.raises(UserError, match="6 snapshots do not fit in an epoch of 5 steps"):
        fp_builder(lgv(per_epoch=6))


def test_a_file_of_one_set_of_weights_is_no_collection(fp_builder: Builder) -> None:
    with pytest.raises(UserError, match="holds one set of weights"):
        Snapshots(fp_builder.path("fp"))


def test_snapshots_are_a_sequence(fp_builder: Builder) -> None:
    snapshots = Snapshots(fp_builder(lgv()).path)
    assert torch.equal(snapshots[1:3][0]["fc.bias"], snapshots[1]["fc.bias"])
    with pytest.raises(IndexError):
        snapshots[4]
