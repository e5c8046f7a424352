"""Gaps between lab and device, against figures counted by hand; boards without such pairs stay as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.board import Board
from harness.board.deployment import Gap, share
from harness.records.pinned import Deployment, Model, PinnedSuite
from harness.suites.suite import load as load_suite
from tests.harness.synthetic import Deployed, Suite, World, clean_of, row
from zoo.intervals import wilson

#               image: 0  1  2  3  4  5  6  7  8  9
LABELS = [0] * 10
CLEAN = {
    "fp":             [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    "fake":           [0, 0, 0, 0, 0, 0, 1, 1, 1, 0],
    "device":         [0, 0, 0, 0, 0, 2, 1, 0, 1, 0],
}  # fmt: skip
ADV = {
    "fp":             [0, 0, 0, 0, 1, 1, 1, 1, 1, 1],
    "fake":           [0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
    "device":         [0, 1, 1, 0, 0, 1, 1, 1, 1, 2],
}  # fmt: skip
SUITE = Suite(
    families={"Lab": ["fp", "fake"], "Device": ["device"]},
    bits={"fp": 32, "fake": 8, "device": 8},
    pairs=(),
    deployed={"device": Deployed("fp", "fake")},
)


def board(suite: Suite = SUITE, adversarial: list[dict[str, list[int]]] | None = None, **changes: object) -> Board:
    rows = [
        row({n: (CLEAN[n], adv[n]) for n in CLEAN}, substitute="other", seed=seed, **changes)
        for seed, adv in enumerate(adversarial or [ADV])
    ]
    return Board(suite, rows, clean_of(CLEAN, LABELS))


def figure(made: Board, kind: str, clean: bool) -> Gap:
    (found,) = [gap for gap in made.gaps if gap.kind == kind and (gap.line is None) == clean]
    return found


def test_figures_are_those_counted_by_hand() -> None:
    made = board()
    # clean: fp is right on 0..7, of which the device is wrong on 5 and 6; adversarial: on 0..3, and the device wrong on 1 and 2
    for clean, (hits, n) in ((True, (2, 8)), (False, (2, 4))):
        rate = figure(made, "gap", clean).rate
        assert rate is not None and (rate.n, rate.value) == (n, hits / n)
        assert (rate.low, rate.high) == pytest.approx(wilson(hits, n))
    # flips: clean on 5 and 7; adversarial on 1, 3, 4 and 9, where both are wrong
    for clean, hits in ((True, 2), (False, 4)):
        rate = figure(made, "flips", clean).rate
        assert rate is not None and (rate.n, rate.value) == (10, hits / 10)
        assert (rate.low, rate.high) == pytest.approx(wilson(hits, 10))


def test_the_board_shows_them_in_markdown_and_json() -> None:
    made = board()
    text = made.to_markdown()
    assert "## Right in the lab, wrong on the device" in text and " device of fp |" in text
    assert "## Flips between the engine and fake quantisation" in text and " device of fake |" in text
    low, high = (100 * bound for bound in wilson(2, 8))
    assert f"| clean images |              | 25.0 ±{(high - low) / 2:.1f} |".replace(" ", "") in text.replace(" ", "")
    told = made.to_json()["deployment"]
    assert len(told) == 4
    assert told[0] == {
        "kind": "gap", "target": "device", "of": "fp", "substitute": None, "attack": None, "evidence": None, "whitebox": False,
        "rate": {"value": 25.0, "low": round(low, 4), "high": round(high, 4), "n": 8},
    }  # fmt: skip
    json.dumps(told, allow_nan=False)


def test_boards_without_such_pairs_say_nothing_of_them() -> None:
    made = board(replace(SUITE, deployed={}))
    assert made.gaps == [] and "deployment" not in made.to_json()
    assert "device of" not in made.to_markdown()


def test_seeds_are_gathered_with_images_as_the_sampling_unit() -> None:
    made = board(adversarial=[ADV, ADV])
    one, two = figure(board(), "gap", False).rate, figure(made, "gap", False).rate
    assert one == two, "a seed that repeats another adds no information"
    hit, counted = [[1, 0, 0, 1], [0, 0, 0, 1]], [[1, 1, 0, 1], [1, 0, 1, 1]]
    rate = share(hit, counted)
    assert rate is not None and rate.n == 4 and rate.value == pytest.approx(3 / 6)
    x, c = [0.5, 0, 0, 1], [1, 0.5, 0.5, 1]
    variance = sum((a - 0.5 * b) ** 2 for a, b in zip(x, c, strict=True)) / 9
    size = 0.25 / variance
    assert (rate.low, rate.high) == pytest.approx(wilson(size / 2, size))
    assert share([[0, 0]], [[0, 0]]) is None


def test_a_limited_row_counts_its_own_images_and_a_target_that_failed_leaves_a_gap_unknown() -> None:
    short = {name: values[:5] for name, values in ADV.items()}
    rows = [row({n: (CLEAN[n][:5], short[n]) for n in CLEAN}, substitute="other", limit=5)]
    rate = figure(Board(SUITE, rows, clean_of(CLEAN, LABELS)), "gap", False).rate
    assert rate is not None and (rate.n, rate.value) == (4, 0.5)
    rows = [
        row({n: (CLEAN[n], ADV[n]) for n in ("fp", "device")}, substitute="other", failures={"fake": "no such engine"})
    ]
    made = Board(SUITE, rows, clean_of(CLEAN, LABELS))
    assert figure(made, "flips", False).rate is None and figure(made, "gap", False).rate is not None
    assert "| mim" in made.to_markdown()


def test_pairs_of_a_white_box_substitute_are_marked() -> None:
    rows = [row({n: (CLEAN[n], ADV[n]) for n in CLEAN}, substitute="fp")]
    made = Board(SUITE, rows, clean_of(CLEAN, LABELS))
    assert figure(made, "gap", False).whitebox and not figure(made, "gap", True).whitebox
    assert not figure(made, "flips", False).whitebox
    section = made.to_markdown().split("## Right in the lab")[1].split("##")[0]
    assert [line.rstrip(" |")[-1] for line in section.splitlines() if "50.0 ±" in line] == ["*"]


def test_a_pinned_suite_keeps_the_pairs_and_older_ones_are_written_as_they_were(tmp_path: Path) -> None:
    suite = load_suite("digits-qnn")
    facts = {n: Model(arch="zoo:x", w_bits=8, a_bits=8, sha256=None, identity=None) for n in suite.model_names}
    pinned = PinnedSuite(digest="d" * 64, images=1, data_sha256="e" * 64, models=facts, suite=suite)
    pinned.write(tmp_path)
    assert "deployed" not in (tmp_path / "suite.yaml").read_text() and pinned.deployed == {}
    first, second = suite.target_names[:2]
    facts[first] = facts[first].model_copy(update={"deployed": Deployment(precise=second)})
    pinned.model_copy(update={"models": facts}).write(tmp_path)
    assert PinnedSuite.read(tmp_path).deployed == {first: Deployment(precise=second)}


def test_a_random_world_gives_rates_between_zero_and_one() -> None:
    world = World(replace(Suite(), deployed={"a-2bit": Deployed("a-fp", "b-4bit")}, pairs=()))
    made = Board(world.suite, [world.row("b-2bit"), world.row("b-2bit", seed=1)], world.clean)
    assert len(made.gaps) == 4
    for gap in made.gaps:
        assert gap.rate is not None and 0 <= gap.rate.low <= gap.rate.value <= gap.rate.high <= 1
