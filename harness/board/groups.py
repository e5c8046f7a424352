"""Which lines of a board do not differ: paired tests between all of them, Holm-adjusted, as groups that share a letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.board.lines import Line
from harness.board.statistics import Bools, Floats, holm_array, sign_flip

LEVEL = 0.05
"""Family-wise error rate of the tests of one comparison of lines."""
EXACT_LINES = 120
"""Up to so many lines every pair gets `sign_flip`; beyond, pairs with more than 16 differing images get its normal form."""


@dataclass(frozen=True)
class Groups:
    """Groups of lines, in the order of the lines given."""

    members: tuple[tuple[int, ...], ...]
    """Per line, the numbers of its groups, counted from 0: two lines share one exactly when they do not differ."""
    compared: int
    """Number of pairs tested."""

    def label(self, line: int) -> str:
        """Return a line's groups in letters, runs shortened: `a`, `a-c`, `b f`; empty for a line that was not compared."""
        parts: list[list[int]] = []
        for number in self.members[line]:
            if parts and number == parts[-1][1] + 1:
                parts[-1][1] = number
            else:
                parts.append([number, number])
        return " ".join(letters(a) if a == b else f"{letters(a)}–{letters(b)}" for a, b in parts)


def letters(number: int) -> str:
    """Return 0, 1, ... as a, b, ..., z, aa, ab, ..."""
    head, tail = divmod(number, 26)
    return (letters(head - 1) if head else "") + chr(ord("a") + tail)


def groups(lines: Sequence[Line], weights: Floats, error: bool = False) -> Groups:
    """Group lines whose paired difference is not significant.

    Lines are compared on the same images and targets: those with weight, all of which a line must have measured on as many
    images as the others; a line that has not stands in no group. Each pair's p is the sign-flip test's over images
    (`harness.board.statistics.sign_flip`), corrected by Holm over all pairs.

    Args:
        lines: the lines.
        weights: per target, its weight in the rate that is compared.
        error: compare error rates over all images, rather than success rates where a target is right when clean.
    """
    used = weights > 0
    most = max((line.images for line in lines), default=0)
    full = [i for i, line in enumerate(lines) if used.any() and line.images == most and bool(line.usable[used].all())]
    members: list[tuple[int, ...]] = [()] * len(lines)
    if len(full) < 2:
        return Groups(tuple((0,) if i in full else () for i in range(len(lines))), 0)
    scores = np.stack([_score(lines[i], weights, error) for i in full])
    differ = differing(scores)
    rank = np.argsort(-scores.sum(axis=1), kind="stable")
    cover = cliques(~differ[np.ix_(rank, rank)])
    for place, chosen in enumerate(rank):
        members[full[chosen]] = tuple(number for number, clique in enumerate(cover) if clique[place])
    return Groups(tuple(members), len(full) * (len(full) - 1) // 2)


def _score(line: Line, weights: Floats, error: bool) -> Floats:
    """Return (images,): what each image adds to the weighted rate of a line."""
    counted = np.ones_like(line.correct) if error else line.correct
    n = np.maximum(counted.sum(axis=1), 1)
    share = (weights * (counted.sum(axis=1) > 0)) / n
    score: Floats = share @ (line.share * counted)
    return score


def differing(scores: Floats) -> Bools:
    """Return (lines, lines), symmetric: whether two lines differ at `LEVEL` after Holm's correction over all pairs.

    scores: (lines, images), what each image adds to a line's rate.
    """
    count = len(scores)
    first, second = np.triu_indices(count, 1)
    p = np.empty(len(first))
    if count <= EXACT_LINES:
        for k, (i, j) in enumerate(zip(first, second, strict=True)):
            p[k] = sign_flip(scores[i] - scores[j])
    else:
        p = _quick(scores, first, second)
    found = np.zeros((count, count), dtype=bool)
    found[first, second] = holm_array(p) < LEVEL
    symmetric: Bools = found | found.T
    return symmetric


def _quick(scores: Floats, first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats:
    """Return p of every pair: normal in one go by the Gram matrix, and by `sign_flip` where few images differ."""
    from scipy.special import erfc

    gram = scores @ scores.T
    power, total = np.diag(gram), scores.sum(axis=1)
    square = np.maximum(power[first] + power[second] - 2 * gram[first, second], 0)
    difference = np.abs(total[first] - total[second])
    with np.errstate(divide="ignore", invalid="ignore"):
        p: Floats = np.where(square > 0, erfc(difference / np.sqrt(2 * square)), 1.0)
    # no difference exceeds `span`: where at most 16 images differ, square <= 16 span^2, so that only such pairs are looked at
    span = float(np.abs(scores).max(initial=0.0))
    for k in np.flatnonzero(square <= 16 * span**2):
        differs = scores[first[k]] - scores[second[k]]
        if np.count_nonzero(differs) <= 16:
            p[k] = sign_flip(differs)
    return p


def cliques(same: Bools) -> list[Bools]:
    """Return groups of members such that two share a group exactly when `same` says so, greedily few.

    same: (n, n), symmetric. The widest pairs in the order given come first, so that groups are runs of that order where the
    relation allows it. A member that is like no other is a group of its own.
    """
    n = len(same)
    same = same | np.eye(n, dtype=bool)
    covered = np.eye(n, dtype=bool)
    found: list[Bools] = []
    for i in range(n):
        for j in range(n - 1, i, -1):
            if not same[i, j] or covered[i, j]:
                continue
            clique = np.zeros(n, dtype=bool)
            clique[[i, j]] = True
            fits = same[i] & same[j]
            for k in [*range(i + 1, j), *range(j + 1, n), *range(i)]:
                if fits[k] and not clique[k]:
                    clique[k] = True
                    fits = fits & same[k]
            found.append(clique)
            covered |= np.outer(clique, clique)
    for i in range(n):
        if not any(clique[i] for clique in found):
            alone = np.zeros(n, dtype=bool)
            alone[i] = True
            found.append(alone)
    return sorted(found, key=lambda clique: (int(np.argmax(clique)), -int(clique.sum())))
