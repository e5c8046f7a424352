"""How many verifications a forgery passes: a committed row with invented success, held against what is made again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.records.pinned import PinnedSuite
from harness.records.rows import read_clean, read_row
from harness.submit.measure import agree
from harness.submit.verify import sample

BOARD = Path(__file__).parents[3] / "leaderboards" / "digits-qnn" / "v2"
ROW = "digits-vgg-2bit-qaa--mim--s0.json"
DRAWS = 40
FRACTION = 0.1
"""What `harness verify` makes again when it is not told otherwise."""
NOISE = 0.0005
"""Share of predictions that another processor tips, either way."""


def draws() -> list[list[int]]:
    """Return the images of each of the draws that `harness verify` would make."""
    pinned = PinnedSuite.read(BOARD)
    here: Any = SimpleNamespace(data=range(pinned.images), suite=pinned.suite)
    return [[i for start, stop in sample(here, FRACTION, seed) for i in range(start, stop)] for seed in range(DRAWS)]


def passed(points: float) -> tuple[int, float]:
    """Return how many draws a row passes whose success was raised by so many points, and by how many it truly was."""
    labels = read_clean(BOARD).labels.array
    row, rng = read_row(BOARD / "rows" / ROW), np.random.default_rng(0)
    truth = {target: outcome.adv.array for target, outcome in row.outcomes.items()}
    told, raised = {}, []
    for target, adv in truth.items():
        right = np.flatnonzero((adv == labels) & (row.outcomes[target].clean.array == labels))
        n = int((row.outcomes[target].clean.array == labels).sum())
        chosen = rng.choice(right, min(len(right), round(points / 100 * n)), replace=False)
        told[target] = adv.copy()
        told[target][chosen] = (labels[chosen] + 1) % 10
        raised.append(100 * len(chosen) / n)
    held = 0
    for index in draws():
        found = {target: adv[index].copy() for target, adv in truth.items()}
        for each in found.values():
            tipped = rng.random(len(index)) < NOISE
            each[tipped] = (each[tipped] + 1) % 10
        held += agree({target: adv[index] for target, adv in told.items()}, found, labels[index]).consistent
    return held, float(np.mean(raised))


@pytest.mark.parametrize("points", [8.7, 5.0, 3.0])
def test_invented_success_passes_no_verification_of_forty(points: float) -> None:
    held, raised = passed(points)
    assert raised == pytest.approx(points, abs=1.0)
    assert held == 0


def test_an_honest_row_passes_on_another_processor() -> None:
    held, raised = passed(0)
    assert raised == 0
    assert held >= DRAWS - 2
