import time
from pathlib import Path

import numpy as np
import pytest

from harness.board import Board, load, write_files
from harness.records.rows import Outcome, Predictions, write_clean
from tests.harness.synthetic import Pair, Suite, World


def big_world() -> tuple[World, list[str]]:
    families = {
        "Standard": [f"t{i}" for i in range(4)],
        "Adversarial": ["t4", "t5"],
        "QNN": [f"t{i}" for i in range(6, 12)],
    }
    bits = {f"t{i}": (32, 32, 32, 32, 32, 32, 8, 8, 4, 4, 2, 2)[i] for i in range(12)}
    substitutes = [f"s{i}" for i in range(250)]
    pairs = [Pair(substitutes[i], substitutes[i - 1], (substitutes[i - 2],)) for i in range(2, 250, 3)]
    return World(Suite(families=families, bits=bits, pairs=pairs), images=1000), substitutes


@pytest.mark.slow
def test_board_of_5000_rows_renders_in_10_seconds(tmp_path: Path) -> None:
    world, substitutes = big_world()
    write_clean(tmp_path, world.clean)
    (tmp_path / "rows").mkdir()
    for attack in range(20):
        for substitute in substitutes:
            made = world.row(substitute, f"attack{attack}", share=0.2 + 0.02 * attack)
            (tmp_path / "rows" / made.filename).write_text(made.model_dump_json())
    started = time.perf_counter()
    board = load(tmp_path, world.suite)
    write_files(board, tmp_path)
    seconds = time.perf_counter() - started
    assert len(board.lines) == 5000 and len((tmp_path / "board.csv").read_text().splitlines()) == 60_001
    assert seconds < 10


def test_work_grows_with_the_rows_and_not_faster() -> None:
    world = World(images=50)
    made = world.row("a-2bit")
    rows = [made.model_copy(update={"substitute": f"s{i}"}) for i in range(400)]
    times = []
    for count in (100, 400):
        started = time.perf_counter()
        Board(world.suite, rows[:count], world.clean).files()
        times.append(time.perf_counter() - started)
    assert times[1] < 16 * times[0]


def test_clean_predictions_are_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = Predictions.from_raw
    monkeypatch.setattr(Predictions, "from_raw", classmethod(lambda cls, raw: calls.append(1) or original(raw)))
    random = np.random.default_rng(123)
    clean = Predictions(random.integers(0, 10, 77)).encode()
    for _ in range(10):
        adv = Predictions(random.integers(0, 10, 77)).encode()
        Outcome.model_validate_json(f'{{"clean": "{clean}", "adv": "{adv}"}}')
    assert len(calls) == 11
