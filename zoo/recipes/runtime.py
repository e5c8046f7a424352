"""Where training runs: in this process alone, or in as many as `accelerate launch` started.

One process needs no accelerate: it would add nothing, and the bytes of a build would depend on whether it is installed.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import UserError


class Runtime:
    """Training in one process on one device."""

    rank, world = 0, 1

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return what the loop calls in their place; the model stays the one that holds the weights."""
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients, averaged over all processes."""
        loss.backward()  # type: ignore[no-untyped-call]

    def mean(self, value: Tensor) -> Tensor:
        """Return the average over all processes."""
        return value

    def wait(self) -> None:
        """Return when every process has come here."""

    def part(self, batch: Tensor) -> Tensor:
        """Return this process's share of a batch that all processes drew alike."""
        return batch[self.rank :: self.world]


class Distributed(Runtime):
    """Training in several processes, through accelerate."""

    def __init__(self) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs
        except ImportError as error:
            raise UserError(
                "training in several processes needs accelerate: pip install 'qnn-transfer-zoo[train]', "
                "or start the command without a launcher to train in one process"
            ) from error
        # In some states of a quantised model its clip thresholds take no part and get no gradient.
        self.accelerator: Any = Accelerator(
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
        )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap both for several processes."""
        prepared: tuple[nn.Module, torch.optim.Optimizer] = self.accelerator.prepare(model, optimizer)
        return prepared

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients, averaged over all processes."""
        self.accelerator.backward(loss)

    def mean(self, value: Tensor) -> Tensor:
        """Return the average over all processes."""
        averaged: Tensor = self.accelerator.reduce(value, reduction="mean")
        return averaged

    def wait(self) -> None:
        """Return when every process has come here."""
        self.accelerator.wait_for_everyone()


def runtime(device: str) -> Runtime:
    """Return the runtime of this process: distributed when a launcher such as `accelerate launch` started several."""
    return Distributed() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Runtime(device)
