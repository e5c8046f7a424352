"""The kinds of parts that an attack is composed of, and what they are handed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, get_args

import torch
from torch import Tensor

from harness.attacks.model import Model
from harness.attacks.pool import Pool
from harness.attacks.rng import Rng
from zoo.errors import UserError

Category = Literal[
    "gradient stabilisation",
    "input augmentation",
    "feature disruption",
    "substitute refinement",
    "ensemble",
    "universal",
    "unclassified",
]

Slot = Literal["loss", "gradient", "transforms", "variance", "filters", "refine", "update", "region"]
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


class Run:
    """What changes while one batch is attacked, for parts that need to know, or to remember from iteration to iteration.

    `t` is the iteration; `rows` (n,) the positions in the batch of the images that pass through the model at the moment;
    `losses` the losses (N,) of each copy at the last gradient; `objective` the prepared loss; `memory` belongs to the parts,
    each under its own key.
    """

    def __init__(self) -> None:
        self.t = 0
        self.rows = torch.zeros(0, dtype=torch.int64)
        self.losses: list[Tensor] = []
        self.objective: Objective | None = None
        self.memory: dict[str, Any] = {}


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
    run: Run = field(default_factory=Run)

    def chunks(self) -> Iterator[slice]:
        """Yield the rows that pass through the model together, and say so in `run.rows`."""
        for start in range(0, len(self.x), self.chunk):
            rows = slice(start, start + self.chunk)
            self.run.rows = torch.arange(len(self.x), device=self.x.device)[rows]
            yield rows


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


class Gradient(Protocol):
    """The gradient of the loss over all copies."""

    def __call__(
        self,
        x: Tensor,
        *,
        via: Callable[[Tensor], Tensor] | None = None,
        model: Model | None = None,
        objective: Objective | None = None,
    ) -> Tensor:
        """Return the gradient at x (N, C, H, W), of the loss at via(x), of one member of an ensemble, or of another loss."""


@dataclass(frozen=True)
class Step:
    """What a gradient rule, or an update, may use in one iteration.

    `gradient(x)` is the gradient of the loss over all copies; `point` is where it is wanted; `adv` the current image
    (they differ under Nesterov's lookahead); `alpha` the step; `previous` the last normalised direction (0 at first);
    `low` and `high` bound the image.
    """

    gradient: Gradient
    adv: Tensor
    point: Tensor
    previous: Tensor
    alpha: float
    batch: Batch
    low: Tensor
    high: Tensor


class GradientRule(Protocol):
    """How the gradient of an iteration is estimated from gradients at one or more points."""

    def __call__(self, step: Step) -> Tensor:
        """Return the gradient (N, C, H, W)."""

    def evaluations(self) -> int:
        """Return how many gradients one call takes. A rule whose calls differ offers `cost(steps)` for all of them instead."""


class Update(Protocol):
    """How the next image follows from the momentum."""

    def __call__(self, step: Step, m: Tensor, last: Tensor) -> Tensor:
        """Return the next image, before it is projected; m and last are the momentum and that of the iteration before."""

    def slope(self, step: Step) -> Tensor | None:
        """Return d image / d parameter, for updates of another parameter than the image; None is 1."""


class Region(Protocol):
    """Which pixels may change."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return 1 where a pixel may change, else 0, (N, 1, H, W)."""


class Refinement:
    """A change of the substitute for the time of an attack: of its backward pass, its activations, or its weights."""

    alone: ClassVar[bool] = False
    """Whether each image is attacked by itself, since the change depends on the images."""

    def around(self, batch: Batch) -> AbstractContextManager[None]:
        """Return the context within which the change holds; nothing of it is left afterwards."""
        raise NotImplementedError

    def begin(self, batch: Batch, adv: Tensor) -> None:
        """Do what is done at the beginning of each iteration."""

    def cost(self, steps: int) -> Cost:
        """Return the passes that `begin` makes in all iterations."""
        return Cost(0, 0)


def per_image_mean_abs(tensor: Tensor) -> Tensor:
    """Return mean |t| of each image, (N, 1, 1, 1), never 0: the L1 norm up to the constant C*H*W."""
    size = tensor.abs().flatten(1).mean(1).clamp_min(torch.finfo(tensor.dtype).tiny)
    return size.reshape(-1, *[1] * (tensor.ndim - 1))


def require(condition: bool, rule: str, value: object) -> None:
    """Raise UserError, naming the rule and the value, unless the condition holds."""
    if not condition:
        raise UserError(f"{rule}, not {value!r}")
