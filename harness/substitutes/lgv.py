"""LGV: one network and the many weights that were collected along a training, one of them for each iteration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from harness.attacks.model import PlainModel
from harness.substitutes.network import running_at_speed
from zoo.errors import UserError
from zoo.quant import frozen

SNAPSHOT_BYTES = 2 * 10**9
"""Snapshots of one network that are kept at hand; what is beyond is read again at each turn."""


class LGV(PlainModel):
    """One network, many weights; each iteration loads the next of a seeded order without replacement.

    Gubri et al., "LGV: Boosting Adversarial Example Transferability from Large Geometric Vicinity", ECCV 2022, Alg. 1.
    The authors shuffle anew for each batch; here each session has an order, and the harness opens one for each of a suite's
    blocks, whose images are always the same. An attack with more iterations than snapshots goes round again. `weights` are
    state dicts of `part`, the network inside `module` (by default `module` itself); they may be read as they are asked for,
    and stay at hand up to SNAPSHOT_BYTES.
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
            stack.enter_context(running_at_speed(self))
            self.begin_batch()
            yield

    def _restore(self, before: dict[str, Tensor], modes: list[tuple[nn.Module, bool]]) -> None:
        self.part.load_state_dict(before)
        self._loaded = None
        for part, training in modes:
            part.training = training
