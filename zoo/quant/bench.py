"""What a low-bit attack step costs beside a full-precision one."""

from __future__ import annotations

import copy
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.quant.calibration import calibrate, reestimate_batchnorm
from zoo.quant.convert import frozen, quantize, set_state
from zoo.registry.entry import QuantSpec, State


class StepCost(NamedTuple):
    """Seconds of one forward pass and input gradient, the median of interleaved rounds, and the ratio of the two."""

    full: float
    quantized: float
    ratio: float


def step_cost(model: nn.Module, spec: QuantSpec, x: Tensor, *, state: State = "wa", rounds: int = 7) -> StepCost:
    """Time a step (forward and gradient of the input, weights frozen) of a network and of its quantised copy.

    Rounds alternate between the two, and the ratio is the median over rounds, so that other load on the machine cancels.
    Nothing is timed of quantising the weights, which a session does once. The number of threads is the caller's to set.
    """
    full, low = model.eval(), quantize(copy.deepcopy(model), spec).eval()
    calibrate(low, x)
    reestimate_batchnorm(low, [x])
    set_state(low, state)
    plain, quantized = [], []
    required = [p.requires_grad for p in full.parameters()]
    try:
        for parameter in full.parameters():
            parameter.requires_grad_(False)
        with frozen(low):
            _step(full, x), _step(low, x)
            for _ in range(rounds):
                plain.append(_step(full, x))
                quantized.append(_step(low, x))
    finally:
        for parameter, flag in zip(full.parameters(), required, strict=True):
            parameter.requires_grad_(flag)
    ratio = statistics.median(low / full for low, full in zip(quantized, plain, strict=True))
    return StepCost(statistics.median(plain), statistics.median(quantized), ratio)


def _step(model: nn.Module, x: Tensor) -> float:
    image = x.clone().requires_grad_()
    _synchronize(x)
    start = time.perf_counter()
    loss = model(image).logsumexp(1).sum()
    torch.autograd.grad(loss, image)
    _synchronize(x)
    return time.perf_counter() - start


def _synchronize(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
