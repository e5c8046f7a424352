"""Pictures of boards: every kind in every format, the same bytes each time, and nothing told apart by colour alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.board import Board
from harness.board.plots import PLOTS, plot
from harness.board.plots.style import COLOURS, DASHES, MARKERS, Choice, canvas, ink, inline_svg, look, open_style, shade
from harness.commands.pictures import KINDS
from tests.harness.synthetic import Suite, World
from zoo.errors import UserError


@pytest.fixture(scope="module")
def board() -> Board:
    world = World()
    names = ("a-fp", "a-2bit", "a-2bit-ft", "a-2bit-qaa")
    made = [world.row(n, attack, share=0.4 + 0.1 * i) for i, n in enumerate(names) for attack in ("mim", "pgd")]
    return Board(world.suite, made, world.clean)


@pytest.mark.parametrize("kind", PLOTS)
def test_a_picture_is_the_same_bytes_each_time(board: Board, kind: str, tmp_path: Path) -> None:
    for suffix, start in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        twice = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
        for path in twice:
            plot(board, kind, path, Choice())
        assert twice[0].read_bytes() == twice[1].read_bytes() and twice[0].read_bytes().startswith(start)


def test_a_choice_shows_a_part_and_an_empty_one_is_refused(board: Board, tmp_path: Path) -> None:
    assert {line.attack for line in Choice(attacks=("mim",)).lines(board)} == {"mim"}
    with pytest.raises(UserError, match="no rows of nobody"):
        plot(board, "bits", tmp_path / "x.svg", Choice(substitutes=("nobody",)))
    with pytest.raises(UserError, match=r"\.svg, \.png, \.pdf"):
        plot(board, "bits", tmp_path / "x.gif", Choice())
    bare = World(Suite(pairs=()))
    with pytest.raises(UserError, match="no pair"):
        plot(Board(bare.suite, [bare.row("a-fp")], bare.clean), "bits", tmp_path / "x.svg", Choice())
    assert not list(tmp_path.iterdir())


def test_no_two_things_differ_by_colour_alone() -> None:
    for first in range(16):
        for second in range(first):
            a, b = look(first), look(second)
            assert a["marker"] != b["marker"] or a["ls"] != b["ls"], (first, second)
    assert len(set(COLOURS)) == len(COLOURS) and len(MARKERS) >= len(COLOURS) - 1 and len(DASHES) > 4


def test_shades_get_lighter_and_their_text_is_read() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    found = [luminance(shade(place / 100)) for place in range(101)]
    assert found == sorted(found)
    for place, value in enumerate(found):
        ratio = 1.05 / (value + 0.05) if ink(place / 100) == "light" else (value + 0.05) / 0.05
        assert ratio >= 4.5, place


def test_the_command_offers_every_kind() -> None:
    assert tuple(PLOTS) == KINDS


def test_long_names_are_laid_out_as_wide_as_they_are_drawn() -> None:
    from matplotlib.textpath import TextPath

    name = "cifar10-resnet20-2bit-qaa: full-precision activations alone (w)"
    with open_style("long"):
        figure, axes = canvas(10.5, 2)
        axes[0][0].barh([0], [1])
        axes[0][0].set_yticks([0], [name], fontsize=7.5)
        inline_svg(figure, "long")
        room = axes[0][0].get_position().x0 * 72 * 10.5
        assert room > TextPath((0, 0), name, size=7.5).get_extents().width + 7  # a tick and its pad
