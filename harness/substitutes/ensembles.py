"""Several substitutes as one: run together and combined into logits, or in turn, an iteration each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.substitutes.network import Crafter
from zoo.errors import UserError

Combination = Literal["logits", "softmax", "sampling", "logits-sum", "double-softmax"]


class _Group:
    """What ensembles share: members, their sessions and networks."""

    def __init__(self, members: Sequence[Crafter]) -> None:
        if not members:
            raise UserError("an ensemble needs at least one member")
        self.members = tuple(members)
        self.per_forward = any(member.per_forward for member in members)

    @contextmanager
    def session(self, seed: int | None = None) -> Iterator[None]:
        """Open the members' sessions."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.session(seed))
            yield

    def begin_batch(self) -> None:
        """Restart every member."""
        for member in self.members:
            member.begin_batch()

    def networks(self) -> tuple[nn.Module, ...]:
        """Return the networks of all members."""
        return tuple(network for member in self.members for network in member.networks())


class Ensemble(_Group):
    """Members run together and their outputs combined into logits (Dong et al., CVPR 2018, Sec. 3.4).

    "logits" is the mean of the logits; "softmax" the log of the mean probability, so that cross-entropy is taken of the
    mean probability. "logits-sum" and "double-softmax" (the sum of probabilities, used as if they were logits) are what
    the released code of QAA computes. Features are those of every member.
    """

    def __init__(
        self, members: Sequence[Crafter], how: Literal["logits", "softmax", "logits-sum", "double-softmax"]
    ) -> None:
        super().__init__(members)
        self.together = self.members
        self.how = how

    def __call__(self, x: Tensor) -> Tensor:
        """Return the combined logits."""
        return self._combine([member(x) for member in self.members])

    def features(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the combined logits and all members' features."""
        pairs = [member.features(x) for member in self.members]
        return self._combine([logits for logits, _ in pairs]), tuple(f for _, features in pairs for f in features)

    def _combine(self, logits: list[Tensor]) -> Tensor:
        stacked = torch.stack(logits)
        if self.how == "logits":
            return stacked.mean(0)
        if self.how == "logits-sum":
            return stacked.sum(0)
        if self.how == "double-softmax":
            return stacked.softmax(-1).sum(0)
        return torch.logsumexp(F.log_softmax(stacked, -1), 0) - math.log(len(logits))

    def begin_iteration(self, t: int) -> None:
        """Take every member to iteration t."""
        for member in self.members:
            member.begin_iteration(t)

    def begin_forward(self) -> None:
        """Announce a forward pass to every member."""
        for member in self.members:
            member.begin_forward()


class Softened(Ensemble):
    """One substitute whose logits are divided by a temperature: a control for gradients that vanish in low-bit nets.

    Gupta and Ajanthan, "Improved Gradient-Based Adversarial Attacks for Quantized Networks", AAAI 2022.
    """

    def __init__(self, member: Crafter, temperature: float) -> None:
        super().__init__([member], "logits")
        self.temperature = temperature

    def _combine(self, logits: list[Tensor]) -> Tensor:
        return super()._combine(logits) / self.temperature


class Rotation(_Group):
    """One member per iteration. `turn(t)` says which one, and its own iteration number.

    The order is that of the session: the harness opens one for each of a suite's blocks, whose images are always the same.
    """

    def __init__(self, members: Sequence[Crafter], turn: Callable[[int], tuple[int, int]]) -> None:
        super().__init__(members)
        self._turn = turn
        self._active = self.members[0]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of the member whose turn it is."""
        return self._active(x)

    def features(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits and features of the member whose turn it is."""
        return self._active.features(x)

    def begin_batch(self) -> None:
        """Restart every member and the order of turns."""
        super().begin_batch()
        self.begin_iteration(0)

    def begin_iteration(self, t: int) -> None:
        """Give the turn to the member of iteration t."""
        member, own = self._turn(t)
        self._active = self.members[member]
        self._active.begin_iteration(own)

    def begin_forward(self) -> None:
        """Announce a forward pass to the member whose turn it is."""
        self._active.begin_forward()


class Sampled(Rotation):
    """A member drawn for each iteration, with replacement and by a seed."""

    def __init__(self, members: Sequence[Crafter], seed: int = 0) -> None:
        super().__init__(members, _sampled(len(members), seed))
        self.seed = seed

    @contextmanager
    def session(self, seed: int | None = None) -> Iterator[None]:
        """Draw the sequence of members and open their sessions."""
        self._turn = _sampled(len(self.members), self.seed if seed is None else seed)
        with super().session(seed):
            yield


def ensemble(members: Sequence[Crafter], how: Combination, seed: int = 0) -> Crafter:
    """Combine substitutes: by mean logits, mean probability, or by sampling one member per iteration with `seed`.

    Raises:
        UserError: no members, or no such combination.
    """
    if how == "sampling":
        return Sampled(members, seed)
    if how not in ("logits", "softmax", "logits-sum", "double-softmax"):
        raise UserError(f"members are combined by logits, softmax or sampling, not by {how!r}")
    return Ensemble(members, how)


def mixture(first: Crafter, second: Crafter, ratio: tuple[int, int] = (1, 1)) -> Crafter:
    """Return a substitute that takes `first` and `second` in turn, `ratio` iterations of each per round.

    LGV+QAA (paper, Sec. IV-E) is mixture(qaa, lgv) with ratio 1:1. Each counts its own iterations, so that QAA alternates
    its states and LGV walks through its snapshots as they would alone. Turns are spread evenly: 1:3 is q l l l q l l l.

    Raises:
        UserError: a negative ratio, or 0:0.
    """
    a, b = ratio
    if a < 0 or b < 0 or a + b == 0:
        raise UserError(f"ratio counts the iterations of each substitute per round, such as 1:1 or 1:3, not {a}:{b}")
    round_ = [0 if i * a // (a + b) != (i - 1) * a // (a + b) else 1 for i in range(a + b)]

    def turn(t: int) -> tuple[int, int]:
        rounds, i = divmod(t, a + b)
        member = round_[i]
        return member, rounds * (a, b)[member] + round_[:i].count(member)

    return Rotation((first, second), turn)


def _sampled(count: int, seed: int) -> Callable[[int], tuple[int, int]]:
    """Return a sequence of members drawn with replacement; every member is told the iteration it takes part in."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = []

    def turn(t: int) -> tuple[int, int]:
        while len(drawn) <= t:
            drawn.append(int(torch.randint(count, (), generator=generator)))
        return drawn[t], drawn[:t].count(drawn[t])

    return turn
