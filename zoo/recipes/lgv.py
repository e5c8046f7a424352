"""LGV (Gubri et al., ECCV 2022): weights gathered along SGD at a high constant rate from a trained network.

The paper's settings are 10 epochs at a constant learning rate of 0.05, four snapshots in each: 40 in all.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from zoo import quant
from zoo.errors import UserError
from zoo.loading.snapshots import join
from zoo.recipes.plan import LgvOptions
from zoo.recipes.train import Fit


class Collector:
    """Saves the network at even intervals of a training; each snapshot is a file until all are there.

    The files lie beside the checkpoint, so that a resumed training finds those of the epochs it has behind it.
    """

    def __init__(self, fit: Fit, options: LgvOptions, out: Path, checkpoint: Path | None) -> None:
        self.fit = fit
        per_epoch = options.snapshots_per_epoch
        if per_epoch > fit.steps_per_epoch:
            raise UserError(
                f"recipe.options.snapshots_per_epoch: {per_epoch} snapshots do not fit in an epoch of {fit.steps_per_epoch} steps"
            )
        count = per_epoch * fit.plan.epochs
        self.steps = [(i + 1) * fit.steps_per_epoch // per_epoch for i in range(count)]
        if checkpoint is None:
            out.parent.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
        else:
            self.folder = checkpoint.with_name(checkpoint.name + ".snapshots")

    def after_step(self, done: int) -> None:
        """Save a snapshot if one is due after `done` steps."""
        for index, step in enumerate(self.steps):
            if step == done and self.fit.runtime.main:
                quant.save(self.fit.model.net, self._part(index), packed=False)

    def finish(self, out: Path, extra: dict[str, str]) -> None:
        """Join the snapshots into one file."""
        join([self._part(index) for index in range(len(self.steps))], out, extra)

    def discard(self) -> None:
        """Remove the files of the snapshots."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _part(self, index: int) -> Path:
        return self.folder / f"{index:03d}.safetensors"
