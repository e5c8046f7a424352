"""A small network's pass as one launch: CUDA graphs of its forward and backward kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

SMALL_PIXELS = 64 * 64
"""Images of at most so many pixels leave a GPU waiting for launches; for larger ones a launch is a small part of its kernel."""
KEPT = 8
"""Graphs of one network: one for each state and shape, the oldest go first."""


class Graphs:
    """Replays a frozen network's forward and backward kernels for each state and shape of images it has met.

    The same kernels run as without a graph, so results are the same bits. Logits and gradients lie in memory that the next
    replay overwrites: whoever asks takes the gradient, and copies it, before asking again. Where a network cannot be captured
    (it reads from the device, say), it runs as it is, with a warning that says why.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.failed: str | None = None
        self._made: dict[tuple[Any, ...], Callable[[Tensor], Tensor]] = {}

    def suits(self, x: Tensor) -> bool:
        """Say whether a pass over x gains from a graph, and can be one."""
        small = x.is_cuda and x.shape[-1] * x.shape[-2] <= SMALL_PIXELS
        return small and self.failed is None and torch.is_grad_enabled() and not torch.is_autocast_enabled("cuda")

    def run(self, state: object, x: Tensor) -> Tensor:
        """Return the logits of x in the network's present state, by which graphs are told apart."""
        key = (state, x.shape, x.stride(), x.dtype, torch.backends.cudnn.allow_tf32)
        if key not in self._made:
            self._made[key] = self._captured(x)
            while len(self._made) > KEPT:
                self._made.pop(next(iter(self._made)))
        return self._made[key](x)

    def clear(self) -> None:
        """Forget all graphs: the weights that they compute with are gone."""
        self._made.clear()

    def _captured(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        sample = x.detach().clone().requires_grad_()
        try:
            made = cast(Callable[[Tensor], Tensor], torch.cuda.make_graphed_callables(lambda z: self.module(z), (sample,)))
        except RuntimeError as error:
            self.failed = str(error).split("\n")[0]
            warnings.warn(f"{type(self.module).__name__} runs without a CUDA graph: {self.failed}", stacklevel=2)
            return self.module
        return made
