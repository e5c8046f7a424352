"""Words from outside are only words, wherever a board shows them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.board import load
from harness.board.escape import csv_text, markdown, plain
from harness.board.export import to_csv
from harness.board.render import to_markdown, to_text

BOARD = Path(__file__).parents[3] / "leaderboards" / "digits-qnn" / "v1"
EVIL = "=cmd|' /C x'!A0 <script>alert(1)</script> [x](javascript:alert(1)) \x1b[2J \u202e\u05d0 | a*b_c \n# head"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r@x"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert csv_text(text).startswith("'")


def test_words_of_ours_stay_as_they_are() -> None:
    text = "digits-vgg x mim, seed 0: left out, it has 50 images and others 500 (run `harness run` again)"
    assert markdown(text) == plain(text) == csv_text(text) == text


def test_markdown_shows_text_as_text() -> None:
    shown = markdown(EVIL)
    assert not re.search(r"(?<!\\)[<>|*\[\]]", shown)
    assert "\n" not in shown and "\x1b" not in shown


def test_a_terminal_is_not_steered() -> None:
    assert not {"\x1b", "\u202e", "\u05d0", "\n"} & set(plain(EVIL))
    assert plain("e\u0301\u0335x") == "ex"


def test_a_board_shows_hostile_reasons_and_remarks_as_text() -> None:
    board = load(BOARD)
    line = board.lines[0]
    target = line.frame.targets[0]
    lost = replace(line, missing={target: EVIL}, seed_missing=({target: EVIL},))
    board.lines, board.remarks, board.refused = [lost, *board.lines[1:]], [EVIL], [EVIL]
    for text in (to_markdown(board), to_text(board)):
        assert not {"\x1b", "\u202e", "\u05d0"} & set(text)
        assert "\n# head" not in text
    assert "<script>" not in to_markdown(board).replace("\\<script\\>", "")
    cells = [cell for row in csv.reader(io.StringIO(to_csv(board))) for cell in row]
    assert any("cmd" in cell for cell in cells)
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
