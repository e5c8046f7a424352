"""Post-training quantisation of an entry's start by QDrop, and QAA on it (Alg. 2), which trains nothing.

The latter is a copy of a QDrop net with its full-precision weights: its entry's alternation switches weights and activations
together, states ("fp", "wa").
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from zoo import quant
from zoo.data import Training
from zoo.loading.load import InputWrapper, create
from zoo.recipes.augment import augment
from zoo.recipes.checkpoint import Checkpoint
from zoo.recipes.plan import Plan, PtqOptions
from zoo.recipes.seeds import stream
from zoo.recipes.start import take_over
from zoo.registry.entry import ModelEntry
from zoo.registry.qdrop import ReconstructionSettings


class Reconstruction:
    """One entry's post-training quantisation, resumable after each block.

    Attributes:
        blocks: Name and final mean squared error of each reconstructed block.
    """

    def __init__(
        self,
        entry: ModelEntry,
        settings: Plan,
        data: Training,
        checkpoint: Checkpoint | None,
        *,
        label: str,
        writes: bool,
    ) -> None:
        self.entry, self.settings, self.data = entry, settings, data
        self.checkpoint, self.label, self.writes = checkpoint, label, writes
        self.blocks: list[list[str | float]] = []

    def run(self, start: nn.Module, device: torch.device) -> InputWrapper:
        """Return the quantised network in its input wrapper."""
        copy = InputWrapper(create(self.entry), self.entry.input, self.entry.label_offset).to(device)
        if quant.is_quantized(start):
            take_over(self.entry, start, copy)
            return copy.eval()
        plain = self.entry.model_copy(update={"quant": None})
        model = InputWrapper(create(plain), self.entry.input, self.entry.label_offset).to(device)
        take_over(self.entry, start, model)
        assert self.entry.quant is not None
        with self._bar() as bar:

            def done(name: str, number: int, total: int, error: float) -> None:
                self.blocks.append([name, error])
                bar.total = total
                bar.update(number - bar.n)
                if self.checkpoint is not None and self.writes:
                    self.checkpoint.write({"blocks": self.blocks, "model": model.net.state_dict()})

            quant.qdrop(
                model.net,
                self.entry.quant,
                self._images(model, device),
                self._qdrop(),
                progress=done,
                resume=self._resume(),
            )
        return model.eval()

    def _images(self, model: InputWrapper, device: torch.device) -> torch.Tensor:
        options = self._options()
        chosen = torch.randperm(len(self.data), generator=stream(self.settings.seed, "calibration"))[: options.images]
        generator = stream(self.settings.seed, "augment")
        x = augment(self.data.batch(chosen), self.settings.augment, generator, self.entry.input.size)
        return torch.cat([model.prepare(part) for part in torch.split(x.to(device), 64)])

    def _options(self) -> PtqOptions:
        assert isinstance(self.settings.options, PtqOptions)
        return self.settings.options

    def _qdrop(self) -> quant.QDrop:
        options = self._options()
        shared = {field.name: getattr(options, field.name) for field in fields(ReconstructionSettings)}
        return quant.QDrop(
            **shared,
            batch_size=self.settings.batch_size,
            calibration=options.calibration_images,
            seed=self.settings.seed,
        )

    def _resume(self) -> tuple[int, dict[str, torch.Tensor]] | None:
        saved = self.checkpoint.read() if self.checkpoint else None
        if saved is None:
            return None
        self.blocks = saved["blocks"]
        return len(self.blocks), saved["model"]

    def _bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(desc=self.label, unit="block", disable=not self.label, leave=False, file=sys.stderr)
