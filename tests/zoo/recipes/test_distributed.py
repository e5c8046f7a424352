"""Several processes train one net: the same state in the same step everywhere, one file, near the one-process result."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.zoo.recipes.conftest import TWO_BITS, Builder, make_entry

pytest.importorskip("accelerate")

WORKER = """
import json, os, sys
from pathlib import Path
from tests.zoo.recipes.conftest import TWO_BITS, Builder, make_entry
from zoo.quant import activation_quantizers
from zoo.recipes.train import Fit
folder, rank = Path(sys.argv[1]), os.environ["RANK"]
builder, seen = Builder(folder), []
builder.entries["fp"] = make_entry("fp", epochs=2)
run = Fit.run
def spied(fit):
    def record(module, args):
        if module.training:
            seen.append([next(iter(activation_quantizers(module).values())).enabled, len(args[0])])
    fit.model.register_forward_pre_hook(record)
    run(fit)
Fit.run = spied
report = builder(make_entry("qaa", TWO_BITS, start="fp", states=("w", "wa"), epochs=3))
(folder / f"seen-{rank}.json").write_text(json.dumps([seen, report.sha256, report.log["epochs"]]))
"""


def test_every_process_alternates_alike_and_one_writes(fp_builder: Builder, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            env={**os.environ, **shared, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2))
    assert first == second, "states, batch shares, file and losses agree"
    assert first[0] == [[bool(step % 2), 8] for step in range(15)], "by the step, never by the rank"
    alone = fp_builder(make_entry("qaa", TWO_BITS, start="fp", states=("w", "wa"), epochs=3))
    assert first[2][0]["loss"] == pytest.approx(alone.log["epochs"][0]["loss"], rel=0.3)
