from dataclasses import replace

import numpy as np
import pytest

from harness.board import Board
from harness.board import statistics as stats
from harness.board.compare import (
    MEAN,
    compare_boards,
    compare_lines,
    compare_reported,
    comparison_table,
    reported_table,
)
from harness.board.table import p_value
from harness.records.rows import Row
from tests.harness.synthetic import Reported, Suite, World, clean_of
from zoo.errors import UserError


def reporting(world: World, rows: list[Row], *figures: Reported) -> Board:
    return Board(replace(world.suite, reported=figures), rows, world.clean)


def test_reported_is_compared_with_the_error_rate_over_all_images() -> None:
    world = World()
    made = world.row("a-2bit")
    error = stats.error_rate(made.outcomes["b-fp"].adv.array, world.labels)
    assert error is not None
    shown = [100 * (error.low + error.value) / 2, 100 * error.high + 1, 100 * error.low - 1]
    board = reporting(world, [made], *[Reported("a-2bit", "mim", "b-fp", figure) for figure in shown])
    first, second, third = compare_reported(board.frame, board.lines)
    assert first.error is not None and first.error.value == pytest.approx(error.value)
    assert (first.covered, second.covered, third.covered) == (True, False, False)
    assert second.difference == pytest.approx(error.value - error.high - 0.01)
    assert "Measured 3 of 3, covered 1." in board.to_markdown()
    assert [entry["covered"] for entry in board.to_json()["reported"]] == [True, False, False]


def test_reported_without_a_cell_says_why_and_moves_no_mean() -> None:
    world = World()
    made = world.row("a-2bit")
    figures = [
        Reported("a-2bit", "mim", "z", 5.0),
        Reported("x", "mim", "b-fp", 5.0),
        Reported("a-2bit", "mim", "b-fp", 9),
    ]
    board = reporting(world, [made], *figures)
    found = compare_reported(board.frame, board.lines)
    assert [entry.reason for entry in found] == ["no target of the suite", "no row", ""]
    assert found[0].covered is None and found[0].difference is None
    text = reported_table(found).to_text()
    assert "no row" in text and "no row" not in reported_table(found, measured_only=True).to_text()
    assert board.to_json()["rows"] == Board(world.suite, [made], world.clean).to_json()["rows"]


def test_two_rows_are_compared_pairwise_target_by_target() -> None:
    world = World()
    board = Board(world.suite, [world.row("a-fp", share=0.6), world.row("a-2bit", share=0.4)], world.clean)
    a, b = board.line("a-fp", "mim"), board.line("a-2bit", "mim")
    rows = {row.target: row for row in compare_lines(a, b)}
    right = world.predicted["b-2bit"] == world.labels
    place = a.frame.targets.index("b-2bit")
    expected = stats.Pairing(a.wrong[:, place], b.wrong[:, place], right[None]).gain()
    found = rows["b-2bit"]
    assert expected is not None
    assert (found.difference, found.low, found.high, found.p) == (
        pytest.approx(expected.value),
        pytest.approx(expected.low),
        pytest.approx(expected.high),
        pytest.approx(expected.p),
    )
    assert rows[MEAN].difference is not None and list(rows)[-1] == MEAN
    assert [row.p_holm for row in rows.values()] == stats.holm([row.p or 0 for row in rows.values()])
    text = comparison_table(a, b, list(rows.values())).to_text()
    assert "paired over images" in text and "a-fp x mim, seed 0, regenerated, made-up v1" in text


def test_mean_of_a_comparison_leaves_out_white_box_cells() -> None:
    world = World()
    board = Board(world.suite, [world.row("a-fp", share=0.6), world.row("a-2bit", share=0.4)], world.clean)
    rows = {row.target: row for row in compare_lines(board.line("a-fp", "mim"), board.line("a-2bit", "mim"))}
    full, quantised = rows["b-fp"].difference, [rows[t].difference or 0 for t in ("b-2bit", "b-4bit")]
    assert full is not None
    assert rows[MEAN].difference == pytest.approx((full + np.mean(quantised)) / 2)


def test_other_images_are_compared_without_pairing() -> None:
    here, there = World(), World(seed=1)
    there_clean = clean_of(there.predicted, there.labels.tolist(), ids=tuple(f"other-{i}" for i in range(200)))
    a = Board(here.suite, [here.row("a-2bit")], here.clean).line("a-2bit", "mim")
    b = Board(there.suite, [there.row("a-2bit", share=0.6)], there_clean).line("a-2bit", "mim")
    rows = compare_lines(a, b)
    assert all(row.p is None and row.difference is not None for row in rows)
    first, second = a.asr.mean([1, 0, 0, 0, 0]), b.asr.mean([1, 0, 0, 0, 0])
    assert first and second
    expected = stats.difference_of_rates(first, second)
    assert (rows[0].difference, rows[0].low, rows[0].high) == pytest.approx(expected)
    assert "not paired" in comparison_table(a, b, rows).intro


def test_missing_target_has_no_difference_but_a_reason() -> None:
    world = World()
    outcomes = dict(world.row("a-fp").outcomes)
    del outcomes["b-4bit"]
    short = world.row("a-fp", outcomes=outcomes, failures={"b-4bit": "no weights"})
    board = Board(world.suite, [short, world.row("a-2bit")], world.clean)
    a, b = board.line("a-fp", "mim"), board.line("a-2bit", "mim")
    row = next(row for row in compare_lines(a, b) if row.target == "b-4bit")
    assert row.difference is None and row.reason == "no weights" and row.a is None and row.b is not None
    assert "no weights" in comparison_table(a, b, [row]).to_markdown()


def test_suites_share_only_some_targets() -> None:
    world = World()
    other = Suite(families={"Few": ["b-4bit", "b-fp"]}, bits={"b-4bit": 4, "b-fp": 32}, name="other")
    made = world.row("a-2bit")
    a = Board(world.suite, [made], world.clean).line("a-2bit", "mim")
    b = Board(other, [made.model_copy(update={"suite": "other"})], world.clean).line("a-2bit", "mim")
    rows = {row.target: row.difference for row in compare_lines(a, b)}
    assert rows == {"b-fp": 0.0, "b-4bit": 0.0, MEAN: 0.0}


def test_boards_are_compared_on_the_lines_that_both_have() -> None:
    world = World()
    a = Board(world.suite, [world.row("a-fp"), world.row("a-2bit")], world.clean)
    b = Board(world.suite, [world.row("a-2bit"), world.row("a-2bit", "pgd")], world.clean)
    table = compare_boards(a.lines, b.lines)
    assert [row[:3] for row in table.rows] == [["a-2bit", "mim", "regenerated"]]
    assert compare_boards(a.lines, []).rows == [] and "share no line" in compare_boards(a.lines, []).to_text()


def test_unknown_line_is_the_users_to_mend() -> None:
    world = World()
    board = Board(world.suite, [world.row("a-2bit")], world.clean)
    with pytest.raises(UserError, match="did you mean 'a-2bit x mim'"):
        board.line("a-2bits", "mim")


def test_boards_are_compared_with_holm_over_their_lines() -> None:
    world = World()
    names = ("a-fp", "a-2bit", "b-2bit")
    before = Board(world.suite, [world.row(name, share=0.4) for name in names], world.clean)
    after = Board(world.suite, [world.row(name, share=0.4 + 0.04 * i) for i, name in enumerate(names)], world.clean)
    both = [compare_lines(before.line(name, "mim"), after.line(name, "mim")) for name in sorted(names)]
    raw = [row.p for rows in both for row in rows if row.target == MEAN]
    table = compare_boards(before.lines, after.lines)
    assert list(table.headers[-2:]) == ["p", "p (Holm)"] and "adjusted over these 3 lines" in table.intro
    expected = stats.holm([p for p in raw if p is not None])
    assert [line[-1] for line in table.rows] == [p_value(p) for p in expected] and expected != raw
