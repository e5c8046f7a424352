"""The training loop, one for all recipes: full precision, adversarial, quantisation-aware, QAA, LGV.

QAA fine-tuning (Alg. 1 of the paper) is quantisation-aware training whose state changes from step to step: states ("w", "wa")
train with full-precision and with quantised activations in turn, weights being quantised in both. The state follows from the
global step alone, so that every process of a distributed run is in the same one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.archs.mixed import MixedPrecision
from zoo.data import Training
from zoo.errors import UserError
from zoo.loading.load import InputWrapper
from zoo.quant import activation_quantizers, is_quantized, set_state, weight_quantizers
from zoo.quant.convert import latent_weight, layers
from zoo.recipes.augment import augment
from zoo.recipes.captured import Captured, capture
from zoo.recipes.checkpoint import Checkpoint
from zoo.recipes.plan import Plan
from zoo.recipes.runtime import Runtime
from zoo.recipes.seeds import rng_state, set_rng_state, stream
from zoo.recipes.smoothing import smoothed_loss
from zoo.registry.entry import State


class Perturb(Protocol):
    """Turns a training batch into an adversarial one."""

    def __call__(self, x: Tensor, y: Tensor, *, step: int, runtime: Runtime) -> Tensor:
        """Return the images to train on; `x` is this process's share of the batch of a global step."""


@dataclass
class Fit:
    """One training: everything the loop needs, and what it did so far.

    Attributes:
        model: The network in its input wrapper, on the runtime's device; trained in place.
        plan: The settings.
        data: Training images; anything that can be indexed by a tensor, such as a memory-mapped one, does for `images`.
        checkpoint: Where to resume from and to write after each epoch.
        perturb: Makes adversarial examples of each batch.
        after_step: Called with the number of steps done.
        label: Names the progress bar; empty for none.
        history: One record for each finished epoch.
    """

    model: InputWrapper
    plan: Plan
    data: Training
    size: int
    runtime: Runtime
    checkpoint: Checkpoint | None = None
    perturb: Perturb | None = None
    after_step: Callable[[int], None] | None = None
    label: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    scales: list[nn.Parameter] = field(default_factory=list, init=False)
    captured: Captured | None = field(default=None, init=False)

    @property
    def batch_size(self) -> int:
        """Images in a step over all processes."""
        return min(self.plan.batch_size, len(self.data))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the few images left over differ from epoch to epoch."""
        return len(self.data) // self.batch_size

    def run(self) -> None:
        """Train to the end, from the checkpoint if there is one; the model ends in evaluation mode."""
        from tqdm import tqdm

        if self.batch_size % self.runtime.world:
            raise UserError(
                f"batch_size {self.batch_size} cannot be shared by {self.runtime.world} processes: choose another number of them"
            )
        if self.plan.training.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(self.model, self.plan, fused=self.runtime.device.type == "cuda")
        self.scales = [scale for kind in learned_scales(self.model) for scale in kind]
        done = self._resume(optimizer)
        trained, optimizer = self.runtime.prepare(self.model, optimizer)
        self.captured = capture(self, trained, optimizer)
        hidden = not self.label or not self.runtime.main
        total, start = self.plan.epochs * self.steps_per_epoch, done * self.steps_per_epoch
        with tqdm(
            total=total, initial=start, desc=self.label, unit="step", disable=hidden, leave=False, file=sys.stderr
        ) as bar:
            for epoch in range(done, self.plan.epochs):
                self.history.append(self._epoch(trained, optimizer, epoch, bar))
                self._save(optimizer, epoch + 1)
        if is_quantized(self.model):
            set_state(self.model, "wa")
        self.model.eval()

    def _epoch(self, trained: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, bar: Any) -> dict[str, float]:
        order = torch.randperm(len(self.data), generator=stream(self.plan.seed, "order", epoch))
        sums = torch.zeros(2, device=self.runtime.device)
        if self.captured is not None:
            self.captured.begin_epoch(epoch, order)
        for index in range(self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + index
            if self.captured is not None:
                self.captured.step(step, index)
            else:
                sums += self._step(trained, optimizer, step, order[index * self.batch_size : (index + 1) * self.batch_size])
            bar.update(1)
            if self.after_step is not None:
                self.after_step(step + 1)
        mean = self.runtime.mean((sums if self.captured is None else self.captured.sums) / self.steps_per_epoch)
        bar.set_postfix(loss=f"{float(mean[0]):.3f}")
        return {"loss": round(float(mean[0]), 6), "train_top1": round(100 * float(mean[1]), 3)}

    def _step(self, trained: nn.Module, optimizer: torch.optim.Optimizer, step: int, chosen: Tensor) -> Tensor:
        """Take one step; return its mean loss and the share of its images that were classified correctly."""
        rng, device = stream(self.plan.seed, "augment", step), self.runtime.device
        x = augment(self.data.batch(chosen), self.plan.augment, rng, self.size, device)
        x, y = self.runtime.part(x), self.runtime.part(self.data.labels[chosen].to(self.runtime.device))
        self.enter(step)
        if self.perturb is not None:
            with self.precisely():
                x = self.perturb(x, y, step=step, runtime=self.runtime)
        factor = self.plan.lr_factor(step, self.steps_per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        return self.learn(trained, optimizer, x, y)

    def enter(self, step: int) -> State | None:
        """Take the state of quantisation of a global step, and return it."""
        if isinstance(self.model.net, MixedPrecision):
            self.model.net.begin_step(step, stream(self.plan.seed, "member", step))
        elif is_quantized(self.model):
            state = self.plan.states[step % len(self.plan.states)]
            set_state(self.model, state)
            return state
        return None

    def precisely(self) -> AbstractContextManager[Any]:
        """Return the context that computes as the recipe's precision says."""
        if self.plan.training.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.runtime.device.type, torch.bfloat16, cache_enabled=False)

    def learn(self, trained: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
        """Learn from a batch with the optimiser's rates as they are; return (2,) mean loss and share of correct images."""
        trained.train()
        if self.plan.training.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        smooth = self.plan.training.smooth
        if smooth:
            x = x.detach().requires_grad_(True)
        with self.precisely():
            logits = trained(x)
            loss = smoothed_loss(logits, x, y, smooth) if smooth else F.cross_entropy(logits, y)
        optimizer.zero_grad(set_to_none=True)
        self.runtime.backward(loss)
        if self.plan.training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.training.max_grad_norm)
        with limited_scales(self.scales):
            optimizer.step()
        after_step(self.model)
        return torch.stack([loss.detach(), (logits.detach().argmax(1) == y).float().mean()])

    def _resume(self, optimizer: torch.optim.Optimizer) -> int:
        saved = self.checkpoint.read() if self.checkpoint else None
        if saved is None:
            return 0
        self.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        self.history[:] = saved["history"]
        if self.runtime.world == 1:
            set_rng_state(saved["rng"], self.runtime.device)
        return int(saved["epochs"])

    def _save(self, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        numbers = [torch.tensor(self.history[-1]["loss"]), *self.model.state_dict().values()]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in numbers):
            raise UserError(
                f"training diverged: the loss or a weight is no longer a number after epoch {epochs}; "
                f"lower recipe.lr ({self.plan.lr})"
            )
        if self.checkpoint is None or not self.runtime.main:
            return
        self.checkpoint.write(
            {
                "epochs": epochs,
                "model": self.model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": self.history,
                "rng": rng_state(self.runtime.device),
            }
        )


def learned_scales(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the learned clip thresholds and steps of the weights, and those of the activations."""
    weights = [p for q in weight_quantizers(model).values() for p in q.parameters()]
    return weights, [p for q in activation_quantizers(model).values() for p in q.parameters()]


def after_step(model: nn.Module) -> None:
    """Let quantisers bring the weights that they belong to back into their range."""
    named = layers(model)
    for name, quantizer in weight_quantizers(model).items():
        quantizer.after_step(latent_weight(named[name]))


@contextmanager
def limited_scales(scales: list[nn.Parameter]) -> Iterator[None]:
    """Let each scale at most halve in the optimiser's step.

    One step too far makes a scale negative, its layer's weights vanish and the next gradients explode; depthwise
    convolutions at 2 bits get there within a few steps.
    """
    if not scales:
        yield
        return
    with torch.no_grad():
        own: list[Tensor] = list(scales)
        floors = torch._foreach_div(own, 2.0)
        yield
        torch._foreach_maximum_(own, list(floors))


def make_optimizer(model: nn.Module, plan: Plan, *, fused: bool = False) -> torch.optim.Optimizer:
    """Return the optimiser; learned clip thresholds get learning rates of their own where the recipe says so.

    `fused` updates all parameters in one kernel, whose learning rates may be tensors.
    """
    weight_scales, input_scales = learned_scales(model)
    scales = {id(p) for p in (*weight_scales, *input_scales)}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in scales], "base_lr": plan.lr},
        {"params": weight_scales, "base_lr": plan.training.weight_scale_lr or plan.lr},
        {"params": input_scales, "base_lr": plan.training.activation_scale_lr or plan.lr},
    ]
    groups = [group for group in groups if group["params"]]
    if plan.training.optimizer == "adam":
        return torch.optim.Adam(groups, lr=plan.lr, betas=(plan.momentum, 0.999), weight_decay=plan.weight_decay, fused=fused)
    return torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay, fused=fused)
