"""Post-training quantisation as a recipe, and QAA on it (Alg. 2), which trains nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo.recipes.conftest import Builder, make_entry
from zoo.errors import UserError
from zoo.quant import set_state, states
from zoo.recipes.checkpoint import Checkpoint
from zoo.registry.entry import Alternation, ModelEntry, QuantSpec

QDROP = QuantSpec(method="qdrop", w_bits=4, a_bits=4)
QUICK = {"iterations": 20, "images": 32, "calibration_images": 32, "rounding_lr": 0.02, "step_lr": 0.0004, "threads": 1}


def ptq(name: str = "q", start: str = "fp", **changes: Any) -> ModelEntry:
    options = {**QUICK, **changes}
    return make_entry(name, QDROP, kind="ptq", start=start, epochs=None, lr=None, batch_size=None, options=options)


def test_a_net_is_quantised_after_training(fp_builder: Builder) -> None:
    report = fp_builder(ptq())
    assert len(report.log["blocks"]) >= 3 and report.log["epochs"] == [] and report.log["steps"] == 0
    assert states(fp_builder.load("q")) == ("w", "wa"), "a target is stored packed"
    again = fp_builder(ptq(), out=fp_builder.folder / "again.safetensors")
    assert again.sha256 == report.sha256


def test_alternating_between_both_needs_no_training_and_keeps_full_precision(fp_builder: Builder) -> None:
    fp_builder(ptq(latent=True))
    qaa = ptq("qaa", start="q").model_copy(update={"alternation": Alternation(states=("fp", "wa"))})
    report = fp_builder(qaa)
    assert report.log["blocks"] == []
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    fp, start, copy = (fp_builder.load(name) for name in ("fp", "q", "qaa"))
    with torch.no_grad():
        assert torch.equal(start(x), copy(x))
        set_state(copy, "fp")
        assert torch.allclose(copy(x), fp(x), atol=1e-4), "the weights that Alg. 2 returns to, with norms folded in"


def test_a_resumed_reconstruction_ends_in_the_same_bytes(
    fp_builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = fp_builder(ptq(), out=tmp_path / "undisturbed.safetensors")
    checkpoint = tmp_path / "state" / "q.pt"
    write = Checkpoint.write

    def interrupted(saved: Checkpoint, content: dict[str, Any]) -> None:
        write(saved, content)
        if len(content["blocks"]) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as killing, pytest.raises(KeyboardInterrupt):
        killing.setattr(Checkpoint, "write", interrupted)
        fp_builder(ptq(), checkpoint=checkpoint)
    assert checkpoint.is_file() and not fp_builder.path("q").exists()
    resumed = fp_builder(ptq(), checkpoint=checkpoint)
    assert resumed.path.read_bytes() == undisturbed.path.read_bytes() and not checkpoint.exists()


def test_what_cannot_be_quantised_so_is_refused(fp_builder: Builder) -> None:
    with pytest.raises(UserError, match="'ptq' quantises by QDrop"):
        fp_builder(ptq().model_copy(update={"quant": QuantSpec(method="apot", w_bits=4, a_bits=4)}))
    with pytest.raises(UserError, match=r"options\.optimizer: kind 'ptq' has no such option"):
        fp_builder(ptq(optimizer="adam"))
    bare = ptq()
    assert bare.recipe is not None
    with pytest.raises(UserError, match=r"start: missing; kind 'ptq'"):
        fp_builder(bare.model_copy(update={"recipe": bare.recipe.model_copy(update={"start": None})}))
