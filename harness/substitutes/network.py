"""One network to craft on, with every piece of its state: its schedule of quantisation states, and its modes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from harness.attacks.model import Model, PlainModel
from harness.substitutes.graphs import Graphs
from harness.substitutes.speed import at_speed
from zoo.errors import UserError
from zoo.quant import activation_quantizers, frozen, is_quantized, set_state, weight_quantizers
from zoo.quant import states as possible_states
from zoo.registry.entry import State

Every = Literal["iteration", "forward"]


@runtime_checkable
class Crafter(Model, Protocol):
    """A model that can be attacked for the length of a session."""

    def session(self, seed: int | None = None) -> AbstractContextManager[None]:
        """Prepare for crafting; whatever is changed is as before when the context ends.

        `seed` decides what the substitute itself draws, such as the order of LGV's snapshots; None is the one it was made with.
        """


def block_seed(seed: int, first: int) -> int:
    """Return the seed of what a substitute draws for one block of images, named by its first: LGV's order, sampled members.

    Every block has draws of its own, as in LGV's code every batch has: rates over images then average over orders, where a
    single order for all images of a seed would leave intervals over images too narrow.
    """
    digest = hashlib.sha256(f"block {seed} {first}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextmanager
def running_at_speed(model: PlainModel) -> Iterator[None]:
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
        self._graphs = Graphs(module)
        self._replaying = False
        self._sessions = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits."""
        if self._replaying:
            return self._graphs.run(self._state(), x.to(memory_format=self.layout))
        return super().__call__(x)

    @contextmanager
    def once(self, x: Tensor) -> Iterator[bool]:
        """Replay the pass from a CUDA graph where that helps: inside a session, on a GPU, for small images."""
        self._replaying = self._sessions > 0 and self._graphs.suits(x)
        try:
            yield self._replaying
        finally:
            self._replaying = False

    def _state(self) -> object:
        """What decides, beside its input, which kernels the network runs."""
        return self._current

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
        """Evaluate, freeze parameters and quantise each weight once; on exit modes, flags and states are as before.

        A session within another costs nothing: weights stay as the outer one has prepared them.
        """
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
            stack.enter_context(running_at_speed(self))
            stack.callback(self._leave)
            self._sessions += 1
            self.begin_batch()
            yield

    def _leave(self) -> None:
        self._sessions -= 1
        if not self._sessions:  # what graphs compute with is let go
            self._graphs.clear()

    def _restore(self, modes: list[tuple[nn.Module, bool]], enabled: list[tuple[nn.Module, bool]]) -> None:
        for part, training in modes:
            part.training = training
        for quantizer, on in enabled:
            quantizer.enabled = on  # type: ignore[assignment]
        self._current = None


def substitute(
    module: nn.Module,
    states: Sequence[State] | None = None,
    every: Every = "iteration",
    feature_layer: str | None = None,
) -> Substitute:
    """Return the network as a substitute; see `Substitute`."""
    return Substitute(module, states, every, feature_layer)
