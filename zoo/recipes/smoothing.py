"""A loss that also asks for small input gradients, which makes a smoother substitute."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def smoothed_loss(logits: Tensor, x: Tensor, y: Tensor, weight: float) -> Tensor:
    """Return mean CE + weight * mean_n ||d log p(y_n | x_n) / d x_n||_2^2; x (N, C, H, W) must be part of the graph.

    In the manner of DRA (Zhu et al., "Towards Understanding and Boosting Adversarial Transferability from a Distribution
    Perspective", TIP 2022), whose score matching has this term, with a factor, and one on the trace of the Hessian, which is
    left out: its cost is a pass for each random direction. The authors' weights could not be found.
    """
    losses = F.cross_entropy(logits, y, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    return losses.mean() + weight * slope.square().flatten(1).sum(1).mean()
