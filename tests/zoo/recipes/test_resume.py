"""A training that is killed goes on where it was, and ends in the bytes of one that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.zoo.recipes.conftest import TWO_BITS, Builder, make_entry
from zoo.errors import UserError
from zoo.recipes.train import Fit


class Killed(BaseException):
    """Stands for a signal that ends the process."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at_step: int) -> None:
    original = Fit._step

    def step(fit: Fit, trained: object, optimizer: object, number: int, chosen: object) -> object:
        if number == at_step:
            raise Killed
        return original(fit, trained, optimizer, number, chosen)  # type: ignore[arg-type]

    monkeypatch.setattr(Fit, "_step", step)


@pytest.mark.parametrize("kind", ["qaa", "dropout"])
def test_a_resumed_build_ends_in_the_same_bytes(
    fp_builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    entry = make_entry(
        "q", TWO_BITS, start="fp", states=("w", "wa"), epochs=3, augment="shift1", options={"threads": 1}
    )
    if kind == "dropout":
        entry = make_entry("q", epochs=3).model_copy(update={"arch": "zoo:nin-xnor", "arch_args": {"in_chans": 1}})
        monkeypatch.setattr("zoo.archs.nin.XnorNin.__init__", _small_xnor)
    checkpoint = tmp_path / "state" / "q.pt"
    undisturbed = fp_builder(entry, out=tmp_path / "undisturbed.safetensors")
    with monkeypatch.context() as killing, pytest.raises(Killed):
        interrupt(killing, at_step=12)  # in the third epoch
        fp_builder(entry, checkpoint=checkpoint)
    assert checkpoint.is_file() and not fp_builder.path("q").exists()
    resumed = fp_builder(entry, checkpoint=checkpoint)
    assert resumed.path.read_bytes() == undisturbed.path.read_bytes()
    assert not checkpoint.exists()


def _small_xnor(self: torch.nn.Module, classes: int, in_chans: int = 1) -> None:
    from zoo.archs.nin import Nin, XnorNin

    Nin.__init__(self, classes, in_chans, ((4, 4, 4), (4, 4, 4), (4, 4)))  # type: ignore[arg-type]
    assert isinstance(self, XnorNin) and self.stage2[0].conv.drop == 0.5  # type: ignore[union-attr]


def test_a_checkpoint_of_another_recipe_is_refused(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "tiny.pt"
    with monkeypatch.context() as killing, pytest.raises(Killed):
        interrupt(killing, at_step=7)
        builder(make_entry(epochs=2), checkpoint=checkpoint)
    with pytest.raises(UserError, match=r"another recipe.*delete it"):
        builder(make_entry(epochs=2, lr=0.01), checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"not a whole checkpoint.*delete it"):
        builder(make_entry(epochs=2), checkpoint=checkpoint)


SCRIPT = """
import sys
from pathlib import Path
from tests.zoo.recipes.conftest import Builder, make_entry
folder = Path(sys.argv[1])
Builder(folder)(make_entry("long", epochs=int(sys.argv[2]), options={"threads": 1}), checkpoint=folder / "long.pt")
"""


def test_sigkill_leaves_a_checkpoint_and_no_model(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "100000"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not (tmp_path / "long.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "long.pt").exists() and not (tmp_path / "long.safetensors").exists()
    assert torch.load(tmp_path / "long.pt", weights_only=True)["epochs"] >= 1
