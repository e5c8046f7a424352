"""Randomness that belongs to an image, not to the batch it travels in, nor to the device that computes it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_AHEAD = 64
"""Draws whose seeds are computed together."""
_OCTAVE = 8
"""Binary logarithm of the table's entries in each octave of the probability."""
_FRACTION = 52 - _OCTAVE
"""Bits of a float64's mantissa that lie between two entries of the table."""


def _seed_of(*parts: object) -> int:
    """Return 63 bits that depend on every part; unlike `hash`, the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _signed(number: int) -> int:
    """Return the int64 that has the same 64 bits."""
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number


def _right(z: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mixed(z: Tensor) -> Tensor:
    """Return SplitMix64's output at the state z (int64, whose products wrap); overwrites z."""
    z.bitwise_xor_(_right(z, 30)).mul_(_signed(_MULTIPLIERS[0]))
    z.bitwise_xor_(_right(z, 27)).mul_(_signed(_MULTIPLIERS[1]))
    return z.bitwise_xor_(_right(z, 31))


class Rng:
    """Draws for each image of a batch by its seed and index, all images of a batch in one call.

    What an image draws depends on its index in the suite and on how many draws were made before, never on its batch-mates,
    the batch size or global state, and is the same on every device: the generator counts instead of holding a state, and
    consists of integer operations, and of products and sums of floats that are rounded one by one. Every method returns
    (N, *shape) float32 (or int64) on `device`.

    Draw d of an image is SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014)
    seeded by output d of SplitMix64 seeded by the image's own number. Each output gives two values of 32 bits: the high
    halves come first.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu", stream: str = "") -> None:
        self.seed = seed
        self.indices = tuple(int(index) for index in indices)
        self.device = torch.device(device)
        self.stream = stream
        self._keys = torch.tensor(self.seeds, dtype=torch.int64, device=self.device)[:, None]
        self._draws = 0
        self._ahead = self._keys[:, :0]
        self._positions: dict[int, Tensor] = {}

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed per image, for code that can only be seeded by a number."""
        return tuple(_seed_of(self.seed, index, self.stream) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def each(self) -> list[Rng]:
        """Return a generator for each image by itself, set at its beginning."""
        return [Rng(self.seed, [index], self.device, self.stream) for index in self.indices]

    def shared(self, stream: str, rows: int = 1) -> Rng:
        """Return a generator of so many rows that is the same for all images: what is drawn belongs to the seed alone."""
        return Rng(self.seed, range(-rows, 0), self.device, stream)

    def fresh(self, stream: str = "") -> Rng:
        """Return a generator set at its beginning; another `stream` gives independent draws."""
        return Rng(self.seed, self.indices, self.device, self.stream + stream)

    def _next_keys(self) -> Tensor:
        """Return the seed of each image's next draw, (N, 1); they are computed many draws at a time."""
        column = self._draws % _AHEAD
        if column == 0:
            steps = torch.arange(self._draws + 1, self._draws + 1 + _AHEAD, device=self.device)
            self._ahead = _mixed(self._keys + steps.mul_(_signed(_GOLDEN)))
        self._draws += 1
        return self._ahead[:, column, None]

    def _words(self, shape: Sequence[int], bits: int) -> Tensor:
        """Return uniform integers of so many bits, at most 32, int64 (N, *shape)."""
        count = math.prod(shape)
        half = (count + 1) // 2
        if half not in self._positions:
            positions = torch.arange(1, half + 1, device=self.device)
            self._positions[half] = positions.mul_(_signed(_GOLDEN))
        z = _mixed(self._next_keys() + self._positions[half])
        mask = (1 << bits) - 1
        words = torch.cat([(z >> (64 - bits)).bitwise_and_(mask), (z >> (32 - bits)).bitwise_and_(mask)], dim=1)
        return words[:, :count].reshape(len(self), *shape)

    def uniform(self, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform on [low, high), 2^24 values; `high` itself only where float32 rounds to it."""
        return self._words(shape, 24).to(torch.float32).mul_((high - low) * 2.0**-24).add_(low)

    def normal(self, shape: Sequence[int], std: float = 1.0) -> Tensor:
        """Gaussian of mean 0: the quantile of 32 random bits, read off a table between whose entries it is linear.

        The table is as dense for small probabilities as for large ones; quantiles are right to 1e-6, and end at 6.3.
        """
        words = self._words(shape, 32)
        # the probability of the tail, in (0, 1/2): exact in float64, whose exponent and first bits number the entry
        tail = (words & (2**31 - 1)).to(torch.float64).add_(0.5).mul_(2.0**-32).view(torch.int64)
        entry = (tail >> _FRACTION).sub_(_first_entry())
        within = tail.bitwise_and_((1 << _FRACTION) - 1).to(torch.float64).mul_(2.0**-_FRACTION)
        values, steps = _quantiles(self.device)
        sizes = within.mul_(steps[entry]).add_(values[entry]).to(torch.float32)
        return torch.where(words >= 2**31, sizes, -sizes).mul_(std)

    def bernoulli(self, shape: Sequence[int], p: float) -> Tensor:
        """1 with probability p, else 0, as float."""
        return (self.uniform(shape) < p).float()

    def integers(self, shape: Sequence[int], low: int, high: int) -> Tensor:
        """Uniform integers of [low, high), of at most 2^31 values; unequal by less than one part in 2^32 of their number."""
        return self._words(shape, 32).mul_(high - low).bitwise_right_shift_(32).add_(low)


def _first_entry() -> int:
    """Return the number of the smallest probability's entry, 2^-33."""
    return (1023 - 33) << _OCTAVE


@cache
def _quantiles(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the normal distribution's upper quantiles at the table's probabilities, and the steps to the next (float64).

    They are rounded to 2^-24, so that mathematical libraries that differ in a last bit give the same table.
    """
    per_octave = 1 << _OCTAVE
    inverse = NormalDist().inv_cdf
    exact = [-inverse(2.0**e * (1 + i / per_octave)) for e in range(-33, -1) for i in range(per_octave)]
    table = torch.tensor([round(value * 2**24) * 2.0**-24 for value in (*exact, 0.0)], dtype=torch.float64)
    return table[:-1].to(device), table.diff().to(device)
