"""What counts as an answer of a target."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.records.rows import Predictions, read_clean, read_row, write_clean
from harness.runs import score
from harness.runs.workspace import Context, workspace_of
from tests.harness import tiny
from zoo.errors import MachineError, UserError


class _Breaks(nn.Module):
    """Answers images whose first pixel is white with what is given, others with a class."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.eye(3)[torch.full((len(x),), 2)]
        return torch.where((x[:, 0, 0, 0] == 1)[:, None], torch.tensor(self.value), logits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_no_prediction(value: float) -> None:
    images = torch.zeros(60, 1, 4, 4, dtype=torch.uint8)
    assert score.predict(_Breaks(value).eval(), images, "cpu").tolist() == [2] * 60
    images[57, 0, 0, 0] = 255  # the second batch, which is padded with its last image
    with pytest.raises(UserError, match="answers 1 of 10 images, first 57, with NaN or infinite logits"):
        score.predict(_Breaks(value).eval(), images, "cpu")


def test_a_target_that_answers_with_nan_is_missing_and_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, overlay = tiny.make(tmp_path)
    file = tmp_path / "tiny-vgg.safetensors"
    with safe_open(file, "pt") as whole:
        meta = whole.metadata()
    state = load_file(file)
    last = next(name for name in state if name.endswith("head.weight"))
    save_file({**state, last: torch.full_like(state[last], 3e38)}, file, meta)
    text = overlay.read_text()
    for line in re.findall(r"file: tiny-vgg.safetensors\n +sha256: (\w+)", text):
        text = text.replace(line, hashlib.sha256(file.read_bytes()).hexdigest())
    overlay.write_text(text)
    report = tiny.run(suite, tmp_path / "out", overlays=(str(overlay),), workers=1)
    row = read_row(report.folder / "rows" / "tiny-resnet--mim--s0.json")
    assert "tiny-vgg" not in row.outcomes and "NaN or infinite logits" in row.failures["tiny-vgg"]
    assert {"tiny-resnet", "tiny-vgg-2bit"} == set(row.outcomes)


def test_a_worker_whose_code_or_device_is_another_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, overlay = tiny.make(tmp_path)
    context = Context(suite, (str(overlay),), limit=5)
    room = workspace_of(context)
    key = room.score_key("tiny-vgg")
    assert score.predictions(context, None, None, ("tiny-vgg", key)).shape == (5,)
    monkeypatch.setattr(room, "made_by", ["cpu of another kind"])
    with pytest.raises(MachineError, match="would answer otherwise as tiny-vgg than this machine"):
        score.predictions(context, None, None, ("tiny-vgg", key))


def test_clean_answers_of_another_code_or_device_are_found_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, overlay = tiny.make(tmp_path)
    folder = tiny.run(suite, tmp_path / "out", overlays=(str(overlay),), workers=1).folder
    whole = read_clean(folder)
    assert whole.made_by.keys() == set(suite.target_names)
    wrong = Predictions((whole.predictions["tiny-vgg"].array + 1) % 10)
    changed = {**whole.predictions, "tiny-vgg": wrong}

    write_clean(folder, whole.model_copy(update={"predictions": changed}))
    tiny.run(suite, tmp_path / "out", overlays=(str(overlay),), workers=1)
    assert read_clean(folder).predictions["tiny-vgg"] == wrong, "what was made in the same way is not asked for again"

    write_clean(folder, whole.model_copy(update={"predictions": changed, "made_by": {**whole.made_by, "tiny-vgg": "0" * 64}}))
    tiny.run(suite, tmp_path / "out", overlays=(str(overlay),), workers=1)
    assert read_clean(folder) == whole
