"""Substitutes: networks to craft on, with every piece of their state - schedules of quantisation, ensembles, snapshots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks.model import Model, PlainModel
from harness.kernels import at_speed
from zoo.entry import State
from zoo.errors import UserError
from zoo.quant import activation_quantizers, frozen, is_quantized, set_state, weight_quantizers
from zoo.quant import states as possible_states

Every = Literal["iteration", "forward"]
Combination = Literal["logits", "softmax", "sampling", "logits-sum", "double-softmax"]
SNAPSHOT_BYTES = 2 * 10**9
"""Snapshots of one network that are kept at hand; what is beyond is read again at each turn."""


@runtime_checkable
class Crafter(Model, Protocol):
    """A model that can be attacked for the length of a session."""

    def session(self, seed: int | None = None) -> AbstractContextManager[None]:
        """Prepare for crafting; whatever is changed is as before when the context ends.

        `seed` decides what the substitute itself draws, such as the order of LGV's snapshots; None is the one it was made with.
        """


@contextmanager
def _at_speed(model: PlainModel) -> Iterator[None]:
    """Run a frozen network in the form that its device computes fastest."""
    before = model.layout
    keep = () if model.feature_layer is None else (model.feature_layer,)
    with at_speed(model.module, keep) as model.layout:
        try:
            yield
        finally:
            model.layout = before


class Substitute(PlainModel):
    """A network with a schedule of quantisation states.

    `states` lists the states in turn, as QAA alternates them: paper (Alg. 1) ("w", "wa") with `every="iteration"`, full
    precision of the activations first; iteration t runs in states[t % len(states)]. The schedule starts anew with each
    batch. `every="forward"` moves it with each forward pass of the published algorithm instead, as the released code does
    (which also starts with "wa", and lets the order run on from batch to batch; ours does not). None leaves the network
    in the state it is in. `feature_layer` names the module whose output feature attacks disrupt.
    """

    def __init__(
        self,
        module: nn.Module,
        states: Sequence[State] | None = None,
        every: Every = "iteration",
        feature_layer: str | None = None,
    ) -> None:
        super().__init__(module, feature_layer)
        if every not in ("iteration", "forward"):
            raise UserError(f"every is 'iteration' or 'forward', not {every!r}")
        if states is not None and not len(states):
            raise UserError("states must list at least one state; leave it out for a substitute without a schedule")
        absent = [state for state in states or () if state not in possible_states(module)]
        if absent:
            raise UserError(
                f"the substitute has no state {absent[0]!r}, only {', '.join(possible_states(module))}: a plain network is "
                "always 'fp', and low-bit files hold no full-precision weights"
            )
        self.states = None if states is None else tuple(states)
        self.every = every
        self.per_forward = every == "forward" and self.states is not None and len(self.states) > 1
        self._forwards = 0
        self._current: State | None = None

    def begin_batch(self) -> None:
        """Restart the schedule at its first state."""
        self._forwards = 0
        self._current = None
        self._enter(0)

    def begin_iteration(self, t: int) -> None:
        """Take the state of iteration t."""
        if self.every == "iteration":
            self._enter(t)

    def begin_forward(self) -> None:
        """Take the state of the next forward pass, when the schedule moves by forwards."""
        if self.every == "forward":
            self._enter(self._forwards)
            self._forwards += 1

    def _enter(self, position: int) -> None:
        if self.states is None or not is_quantized(self.module):
            return
        state = self.states[position % len(self.states)]
        if state != self._current:
            set_state(self.module, state)
            self._current = state

    @contextmanager
    def session(self, seed: int | None = None) -> Iterator[None]:
        """Evaluate, freeze parameters and quantise each weight once; on exit modes, flags and states are as before."""
        modes = [(part, part.training) for part in self.module.modules()]
        quantizers: list[nn.Module] = [
            *weight_quantizers(self.module).values(),
            *activation_quantizers(self.module).values(),
        ]
        enabled = [(quantizer, bool(quantizer.enabled)) for quantizer in quantizers]
        with ExitStack() as stack:
            stack.callback(self._restore, modes, enabled)
            self.module.eval()
            stack.enter_context(frozen(self.module))
            stack.enter_context(_at_speed(self))
            self.begin_batch()
            yield

    def _restore(self, modes: list[tuple[nn.Module, bool]], enabled: list[tuple[nn.Module, bool]]) -> None:
        for part, training in modes:
            part.training = training
        for quantizer, on in enabled:
            quantizer.enabled = on  # type: ignore[assignment]
        self._current = None


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


class Rotation(_Group):
    """One member per iteration. `turn(t)` says which one, and its own iteration number.

    The order is the same for every batch: an image would otherwise depend on the batch it travels in.
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


class LGV(PlainModel):
    """One network, many weights; each iteration loads the next of a seeded order without replacement.

    Gubri et al., "LGV: Boosting Adversarial Example Transferability from Large Geometric Vicinity", ECCV 2022, Alg. 1.
    The authors shuffle anew for each batch; here every batch gets the same order, so that an image does not depend on the
    batch it travels in. An attack with more iterations than snapshots goes round again. `weights` are state dicts of
    `part`, the network inside `module` (by default `module` itself); they may be read as they are asked for, and stay at
    hand up to SNAPSHOT_BYTES.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: Sequence[dict[str, Tensor]],
        feature_layer: str | None = None,
        seed: int = 0,
        part: nn.Module | None = None,
    ) -> None:
        super().__init__(module, feature_layer)
        if not len(weights):
            raise UserError("LGV needs at least one snapshot of weights; its recipe collects 40")
        self.part = module if part is None else part
        self.weights = weights
        self._held: dict[int, dict[str, Tensor]] = {}
        self.seed = seed
        self._order = self._shuffled(seed)
        self._loaded: int | None = None

    def _shuffled(self, seed: int) -> list[int]:
        order: list[int] = torch.randperm(len(self.weights), generator=torch.Generator().manual_seed(seed)).tolist()
        return order

    def begin_batch(self) -> None:
        """Load the first snapshot of the order."""
        self.begin_iteration(0)

    def begin_iteration(self, t: int) -> None:
        """Load the snapshot of iteration t."""
        wanted = self._order[t % len(self._order)]
        if wanted != self._loaded:
            self.part.load_state_dict(self._snapshot(wanted))
            self._loaded = wanted

    def _snapshot(self, index: int) -> dict[str, Tensor]:
        if index in self._held:
            return self._held[index]
        device = next(self.part.parameters()).device
        found = {name: tensor.to(device) for name, tensor in self.weights[index].items()}
        if (len(self._held) + 1) * sum(tensor.nbytes for tensor in found.values()) <= SNAPSHOT_BYTES:
            self._held[index] = found
        return found

    @contextmanager
    def session(self, seed: int | None = None) -> Iterator[None]:
        """Evaluate, freeze parameters and shuffle the snapshots; on exit weights, modes and flags are as before."""
        self._order = self._shuffled(self.seed if seed is None else seed)
        before = {name: tensor.clone() for name, tensor in self.part.state_dict().items()}
        modes = [(part, part.training) for part in self.module.modules()]
        with ExitStack() as stack:
            stack.callback(self._restore, before, modes)
            self.module.eval()
            stack.enter_context(frozen(self.module))
            stack.enter_context(_at_speed(self))
            self.begin_batch()
            yield

    def _restore(self, before: dict[str, Tensor], modes: list[tuple[nn.Module, bool]]) -> None:
        self.part.load_state_dict(before)
        self._loaded = None
        for part, training in modes:
            part.training = training


def substitute(
    module: nn.Module,
    states: Sequence[State] | None = None,
    every: Every = "iteration",
    feature_layer: str | None = None,
) -> Substitute:
    """Return the network as a substitute; see `Substitute`."""
    return Substitute(module, states, every, feature_layer)


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
