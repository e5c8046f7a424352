"""Bytes of adversarial images are pinned: red when projection, rounding, alternation or seeding change."""

from __future__ import annotations

import json

import pytest

from tests.harness.attacks.goldens import CASES, FILE, made

GOLDEN: dict[str, str] = json.loads(FILE.read_text())


@pytest.mark.parametrize("case", CASES)
def test_bytes_are_pinned(case: str) -> None:
    assert made(case) == GOLDEN[case], (
        "if the change is meant: python -m tests.harness.attacks.goldens, and a suite's version"
    )


def test_goldens_tell_cases_apart() -> None:
    assert set(GOLDEN) == set(CASES) and len(set(GOLDEN.values())) == len(CASES)
