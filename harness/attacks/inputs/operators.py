"""OPS and L2T: copies by compositions of many operators, drawn evenly or by what has been learnt of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.attacks.attack import Attack
from harness.attacks.inputs import geometry
from harness.attacks.inputs.masks import block_mask
from harness.attacks.parts import Batch, part, require
from harness.attacks.registry import preset
from harness.attacks.rng import Rng
from harness.attacks.spectrum import dct2, idct2
from zoo.errors import UserError


@dataclass(frozen=True)
class Draw:
    """What the images (n,) that go through one operator have drawn: u (n, 6), uniform; `rows` are their places in the batch.

    `rng()` gives more, for the whole batch, independent of what others of the batch draw.
    """

    u: Tensor
    rows: Tensor
    batch: Batch
    key: str

    def rng(self) -> Rng:
        """Return the generator of this operator at this place."""
        return self.batch.rng.fresh(self.key)


Operator = Callable[[Tensor, Draw], Tensor]


def _still(x: Tensor, draw: Draw) -> Tensor:
    return x


def _scaled(factor: float) -> Operator:
    return lambda x, draw: x / factor


def _flipped(axis: int) -> Operator:
    return lambda x, draw: x.flip(axis)


def _rolled(axis: int) -> Operator:
    def roll(x: Tensor, draw: Draw) -> Tensor:
        by = (draw.u[:, 0].double() * x.shape[axis]).floor()
        down, right = (by, torch.zeros_like(by)) if axis == 2 else (torch.zeros_like(by), by)
        return geometry.read(x, geometry.rolled(geometry.identity(x), (x.shape[2], x.shape[3]), down, right))

    return roll


def _rotated(degrees: float) -> Operator:
    def rotate(x: Tensor, draw: Draw) -> Tensor:
        angle = torch.full((len(x),), math.radians(degrees), device=x.device)
        return geometry.read(x, geometry.rotated(geometry.identity(x), (x.shape[2], x.shape[3]), angle))

    return rotate


def _padded(rate: float) -> Operator:
    def pad(x: Tensor, draw: Draw) -> Tensor:
        canvas = torch.full((len(x),), rate, device=x.device)
        side = 1 + draw.u[:, 0] * (rate - 1)
        return geometry.read(
            x, geometry.zoomed(geometry.identity(x), (x.shape[2], x.shape[3]), canvas, side, draw.u[:, 1:3])
        )

    return pad


OPS: tuple[Operator, ...] = (
    _still,
    _flipped(2),
    _flipped(3),
    _rolled(2),
    _rolled(3),
    *(_rotated(a) for a in (5, -5, 15, -15, 45, -45, 90, -90, 180)),
    *(_scaled(float(k)) for k in range(2, 9)),
    *(_padded(rate) for rate in (1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3, 2.5, 2.7, 2.9)),
)
"""The 31 basic operators of OPS."""


def apply(x: Tensor, chosen: Tensor, operators: tuple[Operator, ...], u: Tensor, batch: Batch, place: str) -> Tensor:
    """Return each image moved by the operator that it has drawn; chosen (N,), u (N, 6). `place` is unlike any other's."""
    moved = x
    for number in sorted(set(chosen.tolist())):
        rows = (chosen == number).nonzero()[:, 0]
        moved = moved.index_copy(0, rows, operators[number](x[rows], Draw(u[rows], rows, batch, f"{place} {number}")))
    return moved


@part("transforms", "ops")
@dataclass(frozen=True)
class OperatorPerturbation:
    """The image, and T(x + r) for `neighbours` perturbations r and `operators` compositions T for each of them.

    r ~ U(-a, a), a drawn from beta * eps * {0.25, 0.5, ... 1.5}; T is 2, 3 or 4 of 31 basic operators in turn: flips,
    shifts, rotations, division by 2 to 8, resizing into a canvas of up to 2.9 times the image. Guo et al., "Boosting
    Adversarial Transferability through Augmentation in Hypothesis Space", CVPR 2025, Sec. 4. Public copies differ: 10 x 20
    (here), and 30 x 30, which is 901 gradients for each step; the paper's own numbers could not be looked up. Perturbations
    are drawn anew for each iteration, not chosen from a list that is drawn once; rotations and canvases are read
    bilinearly, once.
    """

    neighbours: int = 10
    operators: int = 20
    beta: float = 2.0
    joint: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.neighbours >= 1 and self.operators >= 1,
            "neighbours and operators of ops are at least 1",
            (self.neighbours, self.operators),
        )

    @property
    def copies(self) -> int:
        """The image itself, and every operator at every neighbour."""
        return 1 + self.neighbours * self.operators

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return one moved neighbour of each image."""
        if copy == 0:
            return x
        rng, memory = batch.rng, batch.run.memory
        if (copy - 1) % self.operators == 0:
            radius = (rng.uniform((1, 1, 1)) * 6).floor() / 4 + 0.25
            memory["ops"] = (rng.uniform(x.shape[1:], -1, 1) * radius * self.beta * batch.eps).to(x)
        nearby: Tensor = memory["ops"]
        levels = (rng.uniform(()) * 3).long() + 2
        draws = rng.uniform((4, 7))
        z = x + nearby
        for level in range(4):
            chosen = (draws[:, level, 0] * len(OPS)).long().clamp(max=len(OPS) - 1)
            z = apply(z, torch.where(levels > level, chosen, 0), OPS, draws[:, level, 1:], batch, "")
        return z


def _shuffled(blocks: int) -> Operator:
    def shuffle(x: Tensor, draw: Draw) -> Tensor:
        orders = draw.rng().uniform((2, blocks)).argsort(dim=2, stable=True)[draw.rows].tolist()
        shuffled = []
        for image, order in zip(x, orders, strict=True):
            for axis in (1, 2):
                parts = torch.tensor_split(image, blocks, dim=axis)
                image = torch.cat([parts[i] for i in order[axis - 1]], axis)
            shuffled.append(image)
        return torch.stack(shuffled)

    return shuffle


def _mixed(strength: float) -> Operator:
    def mix(x: Tensor, draw: Draw) -> Tensor:
        if draw.batch.pool is None:
            raise UserError("l2t mixes in other images of the suite: pass pool=Images(images, labels)")
        return x + strength * draw.batch.pool.draw(draw.rng(), draw.batch.y).to(x)[draw.rows]

    return mix


def _dropped(share: float) -> Operator:
    def drop(x: Tensor, draw: Draw) -> Tensor:
        return x * draw.rng().bernoulli(x.shape[1:], 1 - share).to(x)[draw.rows]

    return drop


def _masked(blocks: int) -> Operator:
    def mask(x: Tensor, draw: Draw) -> Tensor:
        return x * (1 - block_mask(x, blocks, (draw.u[:, 0].double() * blocks**2).long()))

    return mask


def _spectral(rho: float) -> Operator:
    def spectrum(x: Tensor, draw: Draw) -> Tensor:
        rng, shape = draw.rng(), x.shape[1:]
        noise = rng.normal(shape, draw.batch.eps).to(x)[draw.rows]
        return idct2(dct2(x + noise) * rng.uniform(shape, 1 - rho, 1 + rho).to(x)[draw.rows])

    return spectrum


def _cropped(ratio: float) -> Operator:
    def crop(image: Tensor, u: float) -> Tensor:
        share = ratio + (1 - ratio) * (int(u * 5) + 1) / 5
        h, w = max(1, int(image.shape[2] * share)), max(1, int(image.shape[3] * share))
        top, left = (image.shape[2] - h) // 2, (image.shape[3] - w) // 2
        inner = image[:, :, top : top + h, left : left + w]
        return F.interpolate(inner, image.shape[2:], mode="bilinear", align_corners=False)

    return lambda x, draw: torch.cat([crop(x[i : i + 1], u) for i, u in enumerate(draw.u[:, 0].tolist())])


def _turned(degrees: float) -> Operator:
    def turn(x: Tensor, draw: Draw) -> Tensor:
        angle = math.radians(degrees) / 2 ** (draw.u[:, 0] * 5).floor()
        return geometry.read(x, geometry.rotated(geometry.identity(x), (x.shape[2], x.shape[3]), angle))

    return turn


def _darkened(scales: int) -> Operator:
    def darken(x: Tensor, draw: Draw) -> Tensor:
        halvings: Tensor = (draw.u[:, 0] * scales).floor().to(x)[:, None, None, None]
        darker: Tensor = x * torch.exp2(-halvings)
        return darker

    return darken


def _moved(offset: float) -> Operator:
    def move(x: Tensor, draw: Draw) -> Tensor:
        by = (offset * ((draw.u[:, 0] * 5).floor() + 1) / 5).double()[:, None, None]
        y, z = geometry.identity(x)
        return geometry.read(x, (y - by, z - by))

    return move


L2T: tuple[Operator, ...] = (
    _still,
    *(_turned(float(a)) for a in range(30, 330, 30)),
    *(_darkened(k) for k in range(1, 11)),
    *(_padded(1.1 + 0.05 * k) for k in range(10)),
    *(_shuffled(k) for k in range(3, 13)),
    *(_mixed(strength) for strength in (0.2, 0.4) for _ in range(5)),
    *(_dropped(share) for share in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.325, 0.3, 0.275, 0.25)),
    *(_masked(k) for k in (2, 4, 6, 8, 10, 3, 5, 7, 9, 11)),
    *(_spectral(rho / 10) for rho in (2, 4, 5, 6, 8, 1, 3, 7, 9)),
    *(_cropped(ratio / 10) for ratio in range(1, 10)),
    *(_moved(offset / 100) for offset in range(50, 95, 5)),
)
"""The operators of L2T: ten kinds at about ten strengths each."""


@part("transforms", "l2t")
@dataclass(frozen=True)
class LearnedTransform:
    """Copies by `depth` operators drawn from softmax(theta); theta += rate * d mean_k(p_k * L_k) / d theta, each iteration.

    p_k is the probability of what copy k has drawn, L_k its loss; theta is 0 at first, and each image has its own. Zhu et
    al., "Learning to Transform Dynamically for Better Adversarial Transferability", CVPR 2024, Sec. 4 (depth 2, rate 0.01).
    In public code an operator returns several copies of each image (such as the five halves of an angle) and 3 compositions
    make 3 to some 300 copies, by chance; here it returns one of them at random, and `copies` is 30: a cost that is known.
    Strengths of its lists (dropping shares) are taken at their means.
    """

    copies: int = 30
    depth: int = 2
    rate: float = 0.01
    joint: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.copies >= 1 and self.depth >= 1, "copies and depth of l2t are at least 1", (self.copies, self.depth)
        )

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the transformed images."""
        memory = batch.run.memory
        if copy == 0:
            self._learn(x, batch)
        shares = memory["l2t"].softmax(1)
        bounds = shares.cumsum(1).contiguous()
        draws = batch.rng.uniform((self.depth, 7)).double()
        chosen = torch.searchsorted(bounds, draws[:, :, 0].contiguous(), right=True).clamp(max=len(L2T) - 1)
        memory["l2t-chosen"].append(chosen)
        z = x
        for level in range(self.depth):
            place = f"l2t {batch.run.t} {copy} {level}"
            z = apply(z, chosen[:, level], L2T, draws[:, level, 1:], batch, place)
        return z

    def _learn(self, x: Tensor, batch: Batch) -> None:
        """Move theta by the losses of the last gradient; the first has none."""
        memory = batch.run.memory
        drawn, memory["l2t-chosen"] = memory.get("l2t-chosen", []), []
        theta: Tensor = memory.get("l2t", torch.zeros(len(x), len(L2T), dtype=torch.float64, device=x.device))
        if drawn:
            losses = torch.stack(memory["l2t-losses"]).reshape(len(drawn), -1, len(x)).mean(1).double()
            with torch.enable_grad():
                free = theta.detach().requires_grad_()
                shares = free.softmax(1)
                gains = [shares.gather(1, c).prod(1) * loss for c, loss in zip(drawn, losses, strict=True)]
                theta = theta + self.rate * torch.autograd.grad(torch.stack(gains).mean(0).sum(), free)[0]
        memory["l2t"] = theta
        memory["l2t-losses"] = batch.run.losses


@preset("ops", category="input augmentation", source="Guo et al., CVPR 2025, Alg. 1")
def ops() -> Attack:
    """MIM over the image and 20 compositions of operators at each of 10 neighbours within 3 eps: 2,010 passes at T = 10."""
    return Attack(transforms=(OperatorPerturbation(),), decay=1.0)


@preset("l2t", category="input augmentation", source="Zhu et al., CVPR 2024, Alg. 1")
def l2t() -> Attack:
    """MIM over 30 compositions of two operators, drawn by probabilities that learn which of them the attack finds hard."""
    return Attack(transforms=(LearnedTransform(),), decay=1.0)
