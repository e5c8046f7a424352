"""Rates, gains and tests: every figure with its interval, images as the sampling unit.

Notation: `wrong` is (targets, images) in [0, 1], the share of seeds for which a target is wrong on the adversarial image;
`counted` is (targets, images), true where the image counts for that target: where its clean prediction is right (attack
success rate), or everywhere (error rate). All rates and gains are fractions; only the board turns them into percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.intervals import Z95, wilson

ENUMERATED = 16
"""Up to so many differing images the sign-flip test counts all 2^n sign patterns; beyond, it is normal."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate with its 95 % interval; `n` images are counted by at least one target."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Gain:
    """A paired difference of two rates with its 95 % interval and p-value; `n` images are counted."""

    value: float
    low: float
    high: float
    p: float
    n: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, sample standard deviation and range of one figure over seeds."""

    mean: float
    sd: float
    low: float
    high: float
    seeds: int


def asr(clean: ArrayLike, adv: ArrayLike, labels: ArrayLike) -> Rate | None:
    """Attack success rate: of the images that the target classifies correctly when clean, the share it then gets wrong.

    Wilson's interval. None ("no data") when the target classifies no clean image correctly.
    """
    clean, adv, labels = _same_length(clean, adv, labels)
    correct = clean == labels
    return proportion(int(np.sum(correct & (adv != labels))), int(np.sum(correct)))


def error_rate(adv: ArrayLike, labels: ArrayLike) -> Rate | None:
    """Return the share of all images that the target gets wrong, with Wilson's interval; None without images."""
    adv, labels = _same_length(adv, labels)
    return proportion(int(np.sum(adv != labels)), labels.size)


def _same_length(*arrays: ArrayLike) -> list[NDArray[np.int64]]:
    made = [np.asarray(array, dtype=np.int64) for array in arrays]
    if len({array.shape for array in made}) != 1 or made[0].ndim != 1:
        raise ValueError(f"predictions and labels differ in shape: {[array.shape for array in made]}")
    return made


def proportion(successes: int, n: int) -> Rate | None:
    """Return a plain proportion with Wilson's interval; None when n is 0."""
    if n == 0:
        return None
    return Rate(successes / n, *wilson(successes, n), n)


class Rates:
    """The rates of several targets on the same images, and their means.

    A mean over targets is not a proportion of independent trials: cells of one image are correlated, so the images are
    the sampling unit. With r_t = (sum_i c_ti x_ti) / n_t the weighted mean is a sum of ratio estimators, whose linearised
    variance is v = sum_i (sum_t w_t c_ti (x_ti - r_t) / n_t)^2. The interval is Wilson's with the effective sample size
    n* = r (1 - r) / v, as surveys with clusters use it (Korn and Graubard 1998; Dean and Pagano 2015). It stays within
    [0, 1], and for a single target on one seed it is exactly Wilson's interval of that cell. n* never exceeds the number
    of counted cells; at r = 0 or 1, where v says nothing, n* is that of the target with the fewest images.
    """

    def __init__(self, wrong: ArrayLike, counted: ArrayLike) -> None:
        self.counted: Bools = np.asarray(counted, dtype=bool)
        values: Floats = np.asarray(wrong, dtype=np.float64)
        if values.shape != self.counted.shape or values.ndim != 2:
            raise ValueError(f"wrong {values.shape} and counted {self.counted.shape} must be (targets, images)")
        self.n: NDArray[np.int64] = self.counted.sum(axis=1)
        divisor = np.maximum(self.n, 1)[:, None]
        rates = (values * self.counted).sum(axis=1) / divisor[:, 0]
        residual = (values - rates[:, None]) * self.counted / divisor
        self.covariance: Floats = residual @ residual.T
        self.value: Floats = np.where(self.n > 0, rates, np.nan)
        self._means: dict[bytes, Rate] = {}

    def mean(self, weights: ArrayLike | None = None) -> Rate | None:
        """Return the weighted mean over the targets that have data, equal weights by default; None when none has."""
        w = _weights(weights, self.n)
        if w is None:
            return None
        key = w.tobytes()
        if key not in self._means:
            self._means[key] = self._mean(w)
        return self._means[key]

    def single(self, target: int) -> Rate | None:
        """Return one target's rate, what `mean` says when that target alone has weight; None when it has no data."""
        n = int(self.n[target])
        return _rate(float(self.value[target]), float(self.covariance[target, target]), n, n, n) if n else None

    def _mean(self, w: Floats) -> Rate:
        used = w > 0
        value = float(w[used] @ self.value[used])
        variance = float(w @ self.covariance @ w)
        fewest, cells = int(self.n[used].min()), int(self.n[used].sum())
        return _rate(value, variance, fewest, cells, images_counted(self.counted, used))


def _rate(value: float, variance: float, fewest: int, cells: int, images: int) -> Rate:
    """Return a rate with the interval that `Rates` describes."""
    spread = value * (1 - value)
    if spread <= 1e-12 or variance <= 0:
        value = min(1.0, max(0.0, round(value, 12)))
        size = float(fewest if spread <= 1e-12 else cells)
    else:
        size = min(spread / variance, float(cells))
    return Rate(value, *wilson(value * size, size), images)


class Pairing:
    """The gain of A over B on the same targets and images.

    gain = sum_t w_t (sum_i c_ti (a_ti - b_ti)) / n_t. The interval is Bonett and Price's (2012) adjusted Wald interval for
    paired proportions, carried over to several targets: with d_i the image's weighted difference, two further images, one
    for A and one for B, are added before the normal interval is taken. For a single target it is exactly theirs, it covers
    well down to small samples, and it has a width even when no image differs. Images, not cells, are the sampling unit.

    p is that of the two-sided sign-flip test on d_i: were A and B alike, each image's difference could as well have had
    the other sign. For one target on one seed that is McNemar's exact test.
    """

    def __init__(self, a: ArrayLike, b: ArrayLike, counted: ArrayLike) -> None:
        self.counted: Bools = np.asarray(counted, dtype=bool)
        first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
        if not first.shape == second.shape == self.counted.shape or first.ndim != 2:
            raise ValueError(f"a {first.shape}, b {second.shape}, counted {self.counted.shape}: not (targets, images)")
        self.n: NDArray[np.int64] = self.counted.sum(axis=1)
        divisor = np.maximum(self.n, 1)[:, None]
        self.difference: Floats = (first - second) * self.counted / divisor
        self.value: Floats = self.difference.sum(axis=1)
        residual = self.difference - self.value[:, None] * self.counted / divisor
        self.covariance: Floats = residual @ residual.T

    def gain(self, weights: ArrayLike | None = None) -> Gain | None:
        """Return the weighted mean gain over the targets that have data, equal weights by default; None when none has.

        The interval is Bonett and Price's for paired proportions, with a mean over targets in the place of a proportion. Its
        correction counts two images more, one each way, as a whole success where the mean over many targets varies far less:
        so it is too wide for few images and many targets. On simulated rows it covered the truth in 99.7 % of the cases at
        30 images and in 95.5 % at 1,000.
        """
        w = _weights(weights, self.n)
        if w is None:
            return None
        value = float(w @ self.value)
        n = images_counted(self.counted, w > 0)
        square = n**2 * float(w @ self.covariance @ w) + n * value**2
        centre = n * value / (n + 2)
        half = Z95 * math.sqrt(max(0.0, (square + 2) / (n + 2) - centre**2) / (n + 2))
        p = sign_flip(w @ self.difference)
        return Gain(value, max(-1.0, centre - half), min(1.0, centre + half), p, n)


def images_counted(counted: Bools, used: Bools) -> int:
    """Return how many images at least one of the used targets counts."""
    return int(counted[used].any(axis=0).sum())


def _weights(weights: ArrayLike | None, n: NDArray[np.int64]) -> Floats | None:
    """Return the weights of the targets with data, summing to 1; None when there are none."""
    given: Floats = np.ones(n.size) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != n.shape or (given.size and given.min() < 0):
        raise ValueError(f"{given.shape} weights for {n.size} targets; they must be one each, none negative")
    given = np.where(n > 0, given, 0.0)
    total = float(given.sum())
    return given / total if total > 0 else None


def difference_of_rates(a: Rate, b: Rate) -> tuple[float, float, float]:
    """Return a - b and Newcombe's (1998) 95 % hybrid score interval for rates measured on different images."""
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return value, low, high


def mcnemar(only_a: int, only_b: int) -> float:
    """Return McNemar's exact two-sided p for the images on which only A, and only B, succeeds; 1 when there are none.

    Twice the lower tail of the binomial distribution with a fair coin, in whole numbers and so without rounding.
    """
    discordant = only_a + only_b
    term = tail = 1
    for successes in range(min(only_a, only_b)):
        term = term * (discordant - successes) // (successes + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << discordant))


def sign_flip(differences: ArrayLike) -> float:
    """Return the two-sided p of the sum of paired differences when each sign is a fair coin.

    Exact where all differences have one size (it is then McNemar's test) and for at most `ENUMERATED` differing images;
    otherwise from z = sum d / sqrt(sum d^2), which is McNemar's chi-square without correction carried over.
    """
    d: Floats = np.asarray(differences, dtype=np.float64)
    size = np.abs(d)
    largest = float(size.max(initial=0.0))
    differs = size > 1e-9 * largest
    d, size = d[differs], size[differs]
    if not d.size:
        return 1.0
    if float(size.min()) > largest * (1 - 1e-9):
        return mcnemar(int(np.sum(d > 0)), int(np.sum(d < 0)))
    observed = abs(float(d.sum()))
    if d.size <= ENUMERATED:
        sums: Floats = np.zeros(1)
        for step in size:
            sums = np.concatenate([sums + step, sums - step])
        return float(np.mean(np.abs(sums) >= observed - 1e-9 * largest))
    return math.erfc(observed / math.sqrt(2 * float(d @ d)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given; they hold the family-wise error rate."""
    adjusted: list[float] = holm_array(np.asarray(p_values, dtype=np.float64)).tolist()
    return adjusted


def holm_array(p_values: Floats) -> Floats:
    """Return what `holm` returns, for an array of very many p-values (tests,)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.minimum(1.0, np.arange(len(p_values), 0, -1) * p_values[order])
    adjusted: Floats = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(steps) if len(steps) else steps
    return adjusted


def spread(values: Sequence[float]) -> Spread | None:
    """Return how one figure varies over seeds; None for fewer than two seeds, which show no spread."""
    if len(values) < 2:
        return None
    return Spread(fmean(values), stdev(values), min(values), max(values), len(values))
