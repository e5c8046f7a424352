"""How the next image follows from the momentum."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.attacks.parts import Step, part


@part("update", "sign")
@dataclass(frozen=True)
class SignStep:
    """x = x_t + alpha * sign(m), as all attacks under the L-infinity norm but those that say otherwise."""

    def __call__(self, step: Step, m: Tensor, last: Tensor) -> Tensor:
        """Return the moved image."""
        return step.adv + step.alpha * m.sign()

    def slope(self, step: Step) -> Tensor | None:
        """Return None: the parameter is the image."""
        return None
