"""Lines that do not differ share a group, and only those."""

from __future__ import annotations

import numpy as np
import pytest

from harness.board import Board
from harness.board.groups import EXACT_LINES, LEVEL, _quick, cliques, differing, groups, letters
from harness.board.plots.cost import front
from harness.board.statistics import holm, sign_flip
from tests.harness.synthetic import Suite, World


def test_two_lines_share_a_group_exactly_when_their_paired_difference_is_not_significant() -> None:
    names = [f"s{place}" for place in range(8)]
    world = World(Suite(pairs=()), images=300)
    board = Board(world.suite, [world.row(name, share=0.3 + 0.03 * place) for place, name in enumerate(names)], world.clean)
    weights = board.lines[0].common_weights
    found = groups(board.lines, weights)
    scores = []
    for line in board.lines:
        counts = line.correct.sum(axis=1)
        scores.append(((weights / weights.sum()) / counts) @ (line.share * line.correct))
    pairs = [(i, j) for i in range(8) for j in range(i)]
    adjusted = holm([sign_flip(scores[i] - scores[j]) for i, j in pairs])
    assert found.compared == len(pairs) == 28
    assert 0 < sum(p < LEVEL for p in adjusted) < len(pairs)
    for (i, j), p in zip(pairs, adjusted, strict=True):
        assert bool(set(found.members[i]) & set(found.members[j])) == (p >= LEVEL)


def test_groups_are_not_transitive() -> None:
    same = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=bool)
    assert [group.tolist() for group in cliques(same)] == [[True, True, False], [False, True, True]]


@pytest.mark.parametrize("seed", range(5))
def test_groups_cover_any_relation_exactly(seed: int) -> None:
    random = np.random.default_rng(seed)
    upper = np.triu(random.random((15, 15)) < 0.5, 1)
    same = upper | upper.T
    found = cliques(same)
    for i in range(15):
        assert any(group[i] for group in found)
        for j in range(i):
            assert any(group[i] and group[j] for group in found) == same[i, j]


def test_lines_that_miss_a_target_stand_in_no_group() -> None:
    world = World(Suite(pairs=()))
    whole, other = world.row("one"), world.row("two")
    part = world.row("three")
    lost = part.model_copy(
        update={"outcomes": {t: o for t, o in part.outcomes.items() if t != "b-2bit"}, "failures": {"b-2bit": "-"}}
    )
    board = Board(world.suite, [whole, other, lost], world.clean)
    found = groups(board.lines, board.lines[0].common_weights)
    assert [bool(members) for members in found.members] == [line.substitute != "three" for line in board.lines]


def test_labels_are_letters_with_runs_shortened() -> None:
    assert [letters(n) for n in (0, 25, 26, 27, 701, 702)] == ["a", "z", "aa", "ab", "zz", "aaa"]
    from harness.board.groups import Groups

    assert Groups(((0, 1, 2, 5),), 1).label(0) == "a–c f"


def test_many_lines_are_tested_as_few_are() -> None:
    random = np.random.default_rng(1)
    base = random.random((1, 400)) < 0.5
    flips = random.random((EXACT_LINES + 4, 400)) < np.linspace(0, 0.3, EXACT_LINES + 4)[:, None]
    scores = (base | flips) * random.choice([0.5, 1.0], (1, 400))
    first, second = np.triu_indices(len(scores), 1)
    exact = np.array([sign_flip(scores[i] - scores[j]) for i, j in zip(first, second, strict=True)])
    assert np.allclose(_quick(scores, first, second), exact, atol=1e-12)
    assert differing(scores).any() and not differing(scores).all()


def test_front_holds_what_nothing_beats() -> None:
    points = [(10, 50.0), (10, 60.0), (20, 55.0), (20, 70.0), (5, 60.0), (40, 70.0), (20, 70.0)]
    assert front(points) == [4, 3, 6]
