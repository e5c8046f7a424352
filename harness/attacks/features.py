"""Feature disruption: attacks on the output of a middle layer instead of the logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from harness.attacks.model import Model
from harness.attacks.parts import Batch, Cost, Objective, part, require
from zoo.errors import UserError

if TYPE_CHECKING:
    from harness.attacks.attack import Attack


def untargeted(batch: Batch, name: str) -> None:
    """Refuse a target for an attack that has none."""
    if batch.target is not None:
        raise UserError(f"{name} is published as an untargeted attack only; leave the target out, or use another loss")


def feature_gradient(batch: Batch, inputs: Iterable[Tensor], of: Literal["logit", "probability"]) -> Tensor:
    """Return sum_n d F_y(z_n) / d f(z_n) over the inputs, per image, flattened: (N, D).

    F_y is the logit or the softmax probability of the true label, f the feature layer. Input n runs as iteration n of the
    model's schedule, so that a substitute which alternates gives each of its states an equal share.
    """
    total: Tensor | None = None
    for n, z in enumerate(inputs):
        batch.model.begin_iteration(n)
        batch.model.begin_forward()
        parts = []
        for rows in batch.chunks():
            with torch.enable_grad():
                logits, features = batch.model.features(z[rows])
                score = logits if of == "logit" else logits.softmax(1)
                parts.append(joined(torch.autograd.grad(score.gather(1, batch.y[rows, None]).sum(), features)))
        gradient = torch.cat(parts)
        if total is not None and total.shape != gradient.shape:
            raise UserError(
                f"the substitute's members have {total.shape[1]} and {gradient.shape[1]} feature values, "
                "which cannot be averaged; feature attacks need members of one architecture, or an ensemble by logits"
            )
        total = gradient if total is None else total + gradient
    assert total is not None
    return total


def features_of(batch: Batch, z: Tensor) -> Tensor:
    """Return the features of z (N, D) without a graph."""
    batch.model.begin_forward()
    with torch.no_grad():
        return torch.cat([joined(batch.model.features(z[rows])[1]) for rows in batch.chunks()])


def joined(features: tuple[Tensor, ...]) -> Tensor:
    """Flatten and join the features of all networks in use, (N, D)."""
    return torch.cat([feature.flatten(1) for feature in features], dim=1)


def unit(weights: Tensor) -> Tensor:
    """Divide each image's weights by their L2 norm."""
    return weights / weights.square().sum(1, keepdim=True).sqrt().clamp_min(torch.finfo(weights.dtype).tiny)


def projection(direction: Tensor) -> Objective:
    """Return the loss sum(direction * f(z)) per image."""

    def objective(model: Model, z: Tensor, rows: Tensor) -> Tensor:
        return (direction[rows] * joined(model.features(z)[1])).sum(1)

    return objective


@part("loss", "fia")
@dataclass(frozen=True)
class FeatureImportance:
    """FIA: L = -sum(W * f(z)), W the unit-norm sum over masked images of d logit_y / d f.

    Masks keep each pixel of each channel with probability `keep` and black out the rest. Wang et al., "Feature
    Importance-aware Transferable Adversarial Attacks", ICCV 2021, Eqs. 3-5 (30 masks; drop 0.3, or 0.1 against defences).
    """

    masks: int = 30
    keep: float = 0.7

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.masks >= 1, "masks of fia is at least 1", self.masks)
        require(0 < self.keep <= 1, "keep of fia is a probability above 0", self.keep)

    def prepare(self, batch: Batch) -> Objective:
        """Aggregate the gradients and return the loss."""
        untargeted(batch, "fia")
        masked = (batch.x * batch.rng.bernoulli(batch.x.shape[1:], self.keep).to(batch.x) for _ in range(self.masks))
        return projection(-unit(feature_gradient(batch, masked, "logit")))

    def cost(self, steps: int) -> Cost:
        """Return one pass per mask."""
        return Cost(self.masks, self.masks)


@part("loss", "rpa")
@dataclass(frozen=True)
class RandomPatch:
    """RPA: as FIA, but with patches multiplied by U(0, 1) noise instead of single pixels turned black.

    Masks work on patches of each side in turn, `repeat` masks at a time; those that fill no whole turn, one at a time (60
    masks are 15 of each of four sides). Side 1 multiplies each pixel of each channel with
    probability 1 - keep; larger sides multiply the share 1 - keep of all (patch, channel) pairs, chosen without
    replacement; a border too narrow for a patch stays. Zhang et al., "Enhancing the Transferability of Adversarial
    Examples with Random Patch", IJCAI 2022, Sec. 3.2 (60 masks, keep 0.7, sides 1, 3, 5, 7). The side changes with each
    pair of masks and not with each mask (`repeat` 1), a deliberate deviation: a substitute that alternates two states would
    otherwise see sides 1 and 5 in one of them only, and 3 and 7 in the other. The authors' code reaches side 1 only, by a
    mistaken modulus, and chooses the same patches for the whole batch.
    """

    masks: int = 60
    keep: float = 0.7
    patches: tuple[int, ...] = (1, 3, 5, 7)
    repeat: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.masks >= 1, "masks of rpa is at least 1", self.masks)
        require(0 < self.keep <= 1, "keep of rpa is a probability above 0", self.keep)
        require(len(self.patches) > 0 and min(self.patches) >= 1, "patches of rpa are sides of 1 or more", self.patches)
        require(self.repeat >= 1, "repeat of rpa is at least 1", self.repeat)

    def prepare(self, batch: Batch) -> Objective:
        """Aggregate the gradients and return the loss."""
        untargeted(batch, "rpa")
        masked = (batch.x * self.mask(batch, side) for side in self.sides())
        return projection(-unit(feature_gradient(batch, masked, "logit")))

    def sides(self) -> list[int]:
        """Return the patch side of each mask."""
        turn = [side for side in self.patches for _ in range(self.repeat)]
        turns, rest = divmod(self.masks, len(turn))
        if rest % len(self.patches) == 0:
            return turn * turns + list(self.patches) * (rest // len(self.patches))
        return turn * turns + turn[:rest]

    def mask(self, batch: Batch, side: int) -> Tensor:
        """Return factors in [0, 1], of the images' shape."""
        _, c, h, w = batch.x.shape
        down, across = h // side, w // side
        scores = batch.rng.uniform((c, down, across))
        if side == 1:
            chosen = scores >= self.keep
        else:
            count = int(c * down * across * (1 - self.keep))
            chosen = (scores.flatten(1).argsort(dim=1, stable=True).argsort(1) < count).reshape(scores.shape)
        noise = batch.rng.uniform((c, h, w)).to(batch.x)
        chosen = chosen.repeat_interleave(side, 2).repeat_interleave(side, 3)
        chosen = torch.nn.functional.pad(chosen, (0, w - across * side, 0, h - down * side))
        return torch.where(chosen, noise, torch.ones_like(noise))

    def cost(self, steps: int) -> Cost:
        """Return one pass per mask."""
        return Cost(self.masks, self.masks)


@part("loss", "naa")
@dataclass(frozen=True)
class NeuronAttribution:
    """NAA: L = -(sum of A over A >= 0) - gamma * (sum of A over A < 0), A = (f(z) - f(black)) * IA.

    IA is the unit-norm sum over n = 1 ... points of d p_y / d f at the image (n / points) * x, p the softmax: the path
    integral from black to the image. Zhang et al., "Improving Adversarial Transferability via Neuron Attribution-Based
    Attacks", CVPR 2022, Eqs. 8-10 (30 points, linear transformation, gamma 1). With gamma 1 the loss is linear in f and
    f(black) drops out, so it is not computed. `noise` is the deviation of Gaussian noise on the path's images: the
    authors' code adds 0.2 on [-1, 1], that is 0.1 here, which the paper does not mention.
    """

    points: int = 30
    gamma: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.points >= 1, "points of naa is at least 1", self.points)
        require(self.gamma >= 0, "gamma of naa is not negative", self.gamma)
        require(self.noise >= 0, "noise of naa is not negative", self.noise)

    def prepare(self, batch: Batch) -> Objective:
        """Integrate the gradients and return the loss."""
        untargeted(batch, "naa")
        weights = unit(feature_gradient(batch, self._path(batch), "probability"))
        if self.gamma == 1:
            return projection(-weights)
        batch.model.begin_iteration(0)
        black = features_of(batch, torch.zeros_like(batch.x))

        def objective(model: Model, z: Tensor, rows: Tensor) -> Tensor:
            attribution = (joined(model.features(z)[1]) - black[rows]) * weights[rows]
            positive, negative = attribution.clamp(min=0), attribution.clamp(max=0)
            return -(positive + self.gamma * negative).sum(1)

        return objective

    def _path(self, batch: Batch) -> Iterator[Tensor]:
        for n in range(1, self.points + 1):
            x = batch.x
            if self.noise:
                x = x + batch.rng.normal(x.shape[1:], self.noise).to(x)
            yield x * (n / self.points)

    def cost(self, steps: int) -> Cost:
        """Return one pass per point, and one for the black image when it is needed."""
        return Cost(self.points + (self.gamma != 1), self.points)


@part("loss", "ila")
@dataclass(frozen=True)
class IntermediateLevel:
    """ILA: L = <f(z) - f(x), f(x') - f(x)>, per image, with x' the result of the attack `guide`.

    Huang et al., "Enhancing Adversarial Example Transferability with an Intermediate Level Attack", ICCV 2019, Sec. 4.1
    (projection loss). f(x) within the first difference is constant and left out. `guide` None is MI-FGSM. The reference
    features are those of the first state of an alternating substitute.
    """

    guide: Attack | None = None

    def prepare(self, batch: Batch) -> Objective:
        """Run the guide and return the loss."""
        untargeted(batch, "ila")
        guided = self._guide()(
            batch.model,
            batch.x,
            batch.y,
            eps=batch.eps,
            steps=batch.steps,
            rng=batch.rng.fresh("guide"),
            pool=batch.pool,
            chunk=batch.chunk,
        )
        batch.model.begin_batch()
        batch.model.begin_iteration(0)
        return projection(features_of(batch, guided) - features_of(batch, batch.x))

    def cost(self, steps: int) -> Cost:
        """Return the guide's passes and those of the two references."""
        return self._guide().cost(steps) + Cost(2, 0)

    def _guide(self) -> Attack:
        from harness.attacks.attack import Attack

        return self.guide or Attack(decay=1.0)
