"""Training steps as CUDA graphs: a small net's step is thousands of small kernels, and launching them is what takes the time.

The images lie on the device. What a step depends on - which images, how they are cropped, the learning rates, the noise of an
adversary - is drawn on the CPU as in a plain step, for a whole epoch at once, and copied into fixed places that the graph reads.
There is one graph for each state of quantisation. The first steps in a state run plainly: they count, and they make what a graph
must find ready.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo.data.rectangles import Photographs
from zoo.recipes.adversarial import Adversary
from zoo.recipes.augment import Draws, draw, view
from zoo.recipes.seeds import stream

if TYPE_CHECKING:
    from zoo.recipes.train import Fit

PLAIN_STEPS = 3
"""Steps in each state before it is captured."""
MEMORY_SHARE = 0.25
"""Part of a device's free memory that the images may take."""


def capture(fit: Fit, trained: nn.Module, optimizer: torch.optim.Optimizer) -> Captured | None:
    """Return what takes captured steps, or None where steps are plain; on a GPU a warning says why."""
    if fit.runtime.device.type != "cuda":
        return None
    reason = _hindrance(fit)
    if reason:
        warnings.warn(f"{fit.label or 'this training'} launches every kernel by itself: {reason}", RuntimeWarning, stacklevel=2)
        return None
    return Captured(fit, trained, optimizer)


def _hindrance(fit: Fit) -> str:
    from zoo.archs.mixed import MixedPrecision

    if fit.runtime.world > 1:
        return "several processes share the batch"
    if isinstance(fit.model.net, MixedPrecision):
        return "the member that learns is drawn in each step"
    if fit.perturb is not None and not (isinstance(fit.perturb, Adversary) and not fit.perturb.sources):
        return "the net that is attacked is drawn in each step"
    if isinstance(fit.data, Photographs):
        return "the images differ in shape"
    free, _ = torch.cuda.mem_get_info(fit.runtime.device)
    if fit.data.images.nbytes > MEMORY_SHARE * free:
        return "the images do not fit on the device"
    return ""


class Captured:
    """The steps of one training on a GPU.

    Attributes:
        sums: (2,) sums of mean loss and share of correct images over the steps of the epoch so far.
    """

    def __init__(self, fit: Fit, trained: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.fit, self.trained, self.optimizer = fit, trained, optimizer
        self.device = fit.runtime.device
        assert not isinstance(fit.data, Photographs), "they are a hindrance"
        self.images, self.labels = fit.data.images.to(self.device), fit.data.labels.to(self.device)
        self.sums = torch.zeros(2, device=self.device)
        self._drawn = torch.zeros(4, fit.batch_size, dtype=torch.int64, device=self.device)
        self._rates = torch.zeros(len(optimizer.param_groups), device=self.device)
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        self._noise: Tensor | None = None
        self._epoch_drawn = self._epoch_rates = self._drawn
        self._graphs: dict[str | None, torch.cuda.CUDAGraph] = {}
        self._plain: dict[str | None, int] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def begin_epoch(self, epoch: int, order: Tensor) -> None:
        """Draw what the steps of an epoch depend on, and bring it to the device in one piece."""
        fit = self.fit
        rows, rates = [], []
        for index in range(fit.steps_per_epoch):
            step = epoch * fit.steps_per_epoch + index
            chosen = order[index * fit.batch_size : (index + 1) * fit.batch_size]
            rng = stream(fit.plan.seed, "augment", step)
            draws = draw(len(chosen), self.images.shape[-2:], fit.plan.augment, rng, fit.size)
            rows.append(torch.stack([chosen, *(torch.zeros_like(chosen) if d is None else d.to(torch.int64) for d in draws)]))
            factor = fit.plan.lr_factor(step, fit.steps_per_epoch)
            rates.append([group["base_lr"] * factor for group in self.optimizer.param_groups])
        self._epoch_drawn = torch.stack(rows).to(self.device)
        self._epoch_rates = torch.tensor(rates).to(self.device)
        self.sums.zero_()

    def step(self, step: int, index: int) -> None:
        """Take a global step, the one at `index` of the epoch that began last."""
        state = self.fit.enter(step)
        self._drawn.copy_(self._epoch_drawn[index])
        self._rates.copy_(self._epoch_rates[index])
        if isinstance(self.fit.perturb, Adversary):
            _, noise = self.fit.perturb.draw(step, (self.fit.batch_size, *self._shape()))
            if noise is not None:
                self._noise = noise.to(self.device) if self._noise is None else self._noise.copy_(noise)
        if state in self._graphs:
            self._graphs[state].replay()
        elif self._plain.get(state, 0) < PLAIN_STEPS:
            self._plain[state] = self._plain.get(state, 0) + 1
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._stream):
                self._learn()
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        else:
            self._capture(state).replay()

    def _shape(self) -> tuple[int, ...]:
        sides = self.images.shape[-2:] if self.fit.plan.augment != "resize-crop-flip" else (self.fit.size, self.fit.size)
        return self.images.shape[1], *sides

    def _capture(self, state: str | None) -> torch.cuda.CUDAGraph:
        self.optimizer.zero_grad(set_to_none=True)  # gradients are made anew where the graph keeps them
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._learn()
        self._graphs[state] = graph
        return graph

    def _learn(self) -> None:
        """What a graph holds: view, perturb, learn, count."""
        fit = self.fit
        chosen, top, left, mirrored = self._drawn
        draws = Draws(top, left, None if fit.plan.augment == "shift1" else mirrored.bool())
        x, y = view(self.images[chosen], fit.plan.augment, draws, fit.size), self.labels[chosen]
        if isinstance(fit.perturb, Adversary):
            with fit.precisely():
                x = fit.perturb.perturbed(fit.perturb.model, x, y, self._noise)
        self.sums += fit.learn(self.trained, self.optimizer, x, y)
