"""DeCowA: copies warped by a thin-plate spline whose control point is moved against the attack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from harness.attacks.attack import Attack
from harness.attacks.inputs.geometry import read
from harness.attacks.parts import Batch, Cost, part, require
from harness.attacks.registry import preset


@cache
def _bumps(height: int, width: int, mesh: int) -> Tensor:
    """Return how far each pixel follows each inner control point of a mesh x mesh grid, (points, height, width).

    A thin-plate spline maps the grid on [-1, 1]^2 onto itself but for its inner points, whose displacements it spreads
    linearly: solving [K P; P' 0] once for unit displacements gives the factors. K = d^2 log d^2.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a[:, None] - b[None, :]).square().sum(-1)
        return squared * torch.log(squared + 1e-9)

    def grid(h: int, w: int) -> Tensor:
        rows, columns = (torch.linspace(-1, 1, size, dtype=torch.float64) for size in (h, w))
        return torch.cartesian_prod(rows, columns)

    points, pixels = grid(mesh, mesh), grid(height, width)
    count = len(points)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    affine = torch.cat([torch.ones(count, 1, dtype=torch.float64), points], 1)
    system[:count, :count], system[:count, count:], system[count:, :count] = kernel(points, points), affine, affine.T
    rows = torch.cat([kernel(pixels, points), torch.ones(len(pixels), 1, dtype=torch.float64), pixels], 1)
    factors = torch.linalg.solve(system, torch.eye(count + 3, dtype=torch.float64))[:, :count]
    inner = [i for i in range(count) if 0 < i // mesh < mesh - 1 and 0 < i % mesh < mesh - 1]
    bumps: Tensor = (rows @ factors)[:, inner].T.reshape(len(inner), height, width)
    return bumps


@part("transforms", "decowa")
@dataclass(frozen=True)
class ConstrainedWarp:
    """Copies warped by moving the inner points of a `mesh` x `mesh` grid: by U(-1, 1) * reach, then by -rho * dL / d(move).

    Coordinates run from -1 to 1 over the image. The second move makes the warp the harder for the attack. Lin et al.,
    "Boosting Adversarial Transferability across Model Genus by Deformation-Constrained Warping", AAAI 2024, Alg. 1 (20
    copies, mesh 3, reach 1, rho 0.01). Unmoved points leave the image as it is, where the code's grid, which reaches from
    the centres of the outer pixels to their outer edges, magnifies it slightly. L is the loss of each image by itself,
    where the code's is the mean over its batch.
    """

    copies: int = 20
    mesh: int = 3
    reach: float = 1.0
    rho: float = 0.01
    joint: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.copies >= 1 and self.mesh >= 3, "copies of decowa is at least 1, mesh 3", (self.copies, self.mesh))

    def __call__(self, x: Tensor, copy: int, batch: Batch) -> Tensor:
        """Return the warped images."""
        count = (self.mesh - 2) ** 2
        move = batch.rng.uniform((count, 2), -self.reach, self.reach).double()
        return self._warp(x, move - self.rho * self._slope(x.detach(), move, batch))

    def _slope(self, x: Tensor, move: Tensor, batch: Batch) -> Tensor:
        """Return dL / d(move), one forward and one backward pass."""
        move = move.requires_grad_()
        assert batch.run.objective is not None
        slopes = []
        batch.model.begin_forward()
        for rows in batch.chunks():
            with torch.enable_grad():
                warped = self._warp(x[rows], move[rows])
                loss = batch.run.objective(batch.model, warped, batch.run.rows).sum()
            slopes.append(torch.autograd.grad(loss, move)[0][rows])
        return torch.cat(slopes)

    def _warp(self, x: Tensor, move: Tensor) -> Tensor:
        h, w = x.shape[2:]
        bumps = _bumps(h, w, self.mesh).to(x.device)
        moved = torch.einsum("nkd,khw->ndhw", move, bumps)
        rows = torch.arange(h, device=x.device, dtype=torch.float64)[None, :, None] + moved[:, 0] * (h - 1) / 2
        columns = torch.arange(w, device=x.device, dtype=torch.float64)[None, None, :] + moved[:, 1] * (w - 1) / 2
        return read(x, (rows, columns))

    def cost(self, steps: int) -> Cost:
        """Return the passes that move the control points."""
        return Cost(steps * self.copies, steps * self.copies)


@preset("decowa", category="input augmentation", source="Lin et al., AAAI 2024, Alg. 1")
def decowa() -> Attack:
    """MIM over 20 warps of one control point; each costs a pass to choose and a pass to use."""
    return Attack(transforms=(ConstrainedWarp(),), decay=1.0)
