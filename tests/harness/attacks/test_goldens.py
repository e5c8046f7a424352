"""Bytes of adversarial images are pinned: red when projection, rounding, alternation or seeding change."""

from __future__ import annotations

import json

import pytest

from harness.attacks import get
from tests.harness.attacks.goldens import CASES, FILE, made

GOLDEN: dict[str, str] = json.loads(FILE.read_text())


def parameter(case: str) -> object:
    """Cases of many passes are slow."""
    cost = get(CASES[case][0]).cost(4)
    return pytest.param(case, marks=pytest.mark.slow if cost is None or cost.backwards > 350 else ())


@pytest.mark.parametrize("case", [parameter(case) for case in CASES])
def test_bytes_are_pinned(case: str) -> None:
    assert made(case) == GOLDEN[case], (
        "if the change is meant: python -m tests.harness.attacks.goldens, and a suite's version"
    )


def test_goldens_tell_cases_apart() -> None:
    assert set(GOLDEN) == set(CASES) and len(set(GOLDEN.values())) == len(CASES)
