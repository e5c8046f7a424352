"""Success against clean margin: are the images that are fooled those that the target was least sure of anyway?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from harness.analyze.study import Row, Study
from harness.board.statistics import proportion
from harness.runs.score import score
from harness.runs.workspace import Context
from harness.suites.selection import Job
from harness.suites.suite import SubstituteSpec

PARTS = 5
"""Images are parted by the target's margin into so many groups of equal size."""


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the true class's logit minus the largest other one, (N,): logits (N, classes), y (N,); above 0 is right."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return true - others


@torch.no_grad()
def margins(study: Study, name: str) -> Tensor:
    """Return a model's margin at each clean image, (N,)."""
    net = study.net(name)
    return torch.cat([margin(net(x.float() / 255), y).cpu() for x, y in study.batches(study.pixels, study.labels)])


def parted(fooled: np.ndarray, clean: np.ndarray, groups: int = PARTS) -> list[Row]:
    """Return the share of images fooled (N,) in each group of equal size by clean margin (N,), smallest margin first.

    Images that are wrong when clean (margin at most 0) are left out. The rank correlation of the two is in each row.
    """
    from scipy.stats import spearmanr

    right = clean > 0
    order = np.argsort(clean[right], kind="stable")
    hit, size = fooled[right][order], clean[right][order]
    varied = len(set(hit.tolist())) > 1 and len(set(size.tolist())) > 1
    rank = float(spearmanr(size, hit).statistic) if varied else None
    made = []
    for place, part in enumerate(np.array_split(np.arange(len(hit)), groups), start=1):
        rate = proportion(int(hit[part].sum()), len(part))
        if rate is not None:
            said = {"asr": 100 * rate.value, "low": 100 * rate.low, "high": 100 * rate.high, "n": rate.n}
            made.append({"part": place, "margin": float(size[part].mean()), **said, "rank_correlation": rank})
    return made


def analyze(study: Study, substitutes: Sequence[str], targets: Sequence[str], attack: str = "mim") -> list[Row]:
    """Return, for each substitute and target, the success rate by the target's clean margin; predictions are a run's."""
    known = {spec.name for spec in study.suite.substitutes}
    extra = tuple(SubstituteSpec(name=name, models=(name,)) for name in substitutes if name not in known)
    suite = study.suite.model_copy(update={"substitutes": (*study.suite.substitutes, *extra)})
    context = Context(suite, study.overlays, study.device, study.context.limit, study.cache)
    labels = study.labels.numpy()
    made = []
    for target in targets:
        clean = study.remember_tensor("margins", {"model": target}, partial(margins, study, target))
        for substitute in substitutes:
            study.adversarial(substitute, attack)
            answers = score(context, Job(substitute, attack, study.seed), target).numpy()
            rows = parted(answers != labels, clean.numpy())
            made += [{"substitute": substitute, "target": target, "attack": attack, **row} for row in rows]
    return made
