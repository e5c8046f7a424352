"""The kinds of parts that an attack is composed of, and what they are handed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar, get_args

import torch
from torch import Tensor

from harness.attacks.model import Model
from harness.attacks.pool import Pool
from harness.attacks.rng import Rng
from zoo.errors import UserError

Category = Literal[
    "gradient stabilisation", "input augmentation", "feature disruption", "substitute refinement", "unclassified"
]

Slot = Literal["loss", "gradient", "transforms", "variance", "filters", "refine"]
"""A place in an attack that a part can take; `transforms` and `filters` take any number, in order."""

PARTS: dict[Slot, dict[str, type]] = {slot: {} for slot in get_args(Slot)}
"""Slot of an attack -> id of a part -> its class, filled by `part`."""

K = TypeVar("K", bound=type)


def part(slot: Slot, name: str) -> Callable[[K], K]:
    """Register the decorated frozen dataclass as the part `name` of a slot.

    What composes, exports, documents and tests parts reads this table, so there is nothing else to add.

    Raises:
        ValueError: the name is taken in that slot, or the class's name by another part.
    """

    def register(kind: K) -> K:
        if name in PARTS[slot] or any(
            kind.__name__ == other.__name__ for kinds in PARTS.values() for other in kinds.values()
        ):
            raise ValueError(f"part {name!r} of {slot}, or a class {kind.__name__}, is registered twice")
        PARTS[slot][name] = kind
        return kind

    return register


def describe(kind: type) -> dict[str, str]:
    """Return a part's settings with their defaults, and its docstring, in one line each."""
    fields = [each for each in dataclasses.fields(kind) if each.init]
    settings = ", ".join(f"{each.name}={each.default!r}" for each in fields)
    return {"settings": settings, "doc": " ".join((kind.__doc__ or "").split())}


Objective = Callable[[Model, Tensor, Tensor], Tensor]
"""(model, z, rows) -> loss of each image of z (n,), to be maximised; rows (n,) are the images' positions in the batch."""


class Cost(NamedTuple):
    """Passes through the substitute, per image."""

    forwards: int
    backwards: int

    def __add__(self, other: object) -> Cost:
        """Return the sum of two costs."""
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(self.forwards + other.forwards, self.backwards + other.backwards)


@dataclass(frozen=True)
class Batch:
    """What is fixed while one batch is attacked: images x in [0, 1] (N, C, H, W), labels y (N,), budget and randomness."""

    model: Model
    x: Tensor
    y: Tensor
    target: Tensor | None
    eps: float
    steps: int
    rng: Rng
    pool: Pool | None
    chunk: int


class Loss(Protocol):
    """What the attack maximises."""

    def prepare(self, batch: Batch) -> Objective:
        """Do the work that is done once per batch and return the loss."""

    def cost(self, steps: int) -> Cost:
        """Return the passes that `prepare` makes."""


class Transform(Protocol):
    """Turns a batch into `copies` transformed batches, one at a time so that memory stays bounded."""

    @property
    def copies(self) -> int:
        """How many transformed versions of each image."""

    @property
    def joint(self) -> bool:
        """Whether the published algorithm passes all copies through the model in one forward pass."""

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return copy number `copy` of x (N, C, H, W), differentiably; called in the order 0, 1, ... copies - 1."""


class Filter(Protocol):
    """Linear filter of the gradient, such as TI's smoothing."""

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the filtered gradient (N, C, H, W)."""


@dataclass(frozen=True)
class Step:
    """What a gradient rule may use in one iteration.

    `gradient(x)` is the gradient of the loss over all copies; `point` is where it is wanted; `adv` the current image
    (they differ under Nesterov's lookahead); `alpha` the step; `previous` the last normalised direction (0 at first).
    """

    gradient: Callable[[Tensor], Tensor]
    adv: Tensor
    point: Tensor
    previous: Tensor
    alpha: float
    batch: Batch


class GradientRule(Protocol):
    """How the gradient of an iteration is estimated from gradients at one or more points."""

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient (N, C, H, W)."""

    def evaluations(self) -> int:
        """Return how many gradients one call takes."""


def per_image_mean_abs(tensor: Tensor) -> Tensor:
    """Return mean |t| of each image, (N, 1, 1, 1), never 0: the L1 norm up to the constant C*H*W."""
    size = tensor.abs().flatten(1).mean(1).clamp_min(torch.finfo(tensor.dtype).tiny)
    return size.reshape(-1, *[1] * (tensor.ndim - 1))


def require(condition: bool, rule: str, value: object) -> None:
    """Raise UserError, naming the rule and the value, unless the condition holds."""
    if not condition:
        raise UserError(f"{rule}, not {value!r}")
