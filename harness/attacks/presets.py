"""The published attacks, as compositions of parts."""

from __future__ import annotations

from harness.attacks.attack import Attack
from harness.attacks.registry import preset


@preset("fgsm", category="gradient stabilisation", source="Goodfellow et al., ICLR 2015, Sec. 4")
def fgsm() -> Attack:
    """One step of size eps along the sign of the gradient."""
    return Attack(steps=1, step_size=1.0)


@preset(
    "i-fgsm", category="gradient stabilisation", source="Kurakin et al., ICLR 2017 workshop, Sec. 2.2", aliases=("bim",)
)
def i_fgsm() -> Attack:
    """T steps of size eps / T. Kurakin et al. take steps of 1/255 and choose T from eps; the suite's T is used instead."""
    return Attack()


@preset("pgd", category="gradient stabilisation", source="Madry et al., ICLR 2018, Sec. 2.1")
def pgd() -> Attack:
    """Random start in the ball, steps of eps / 4 (2/255 at 8/255, as in the published CIFAR-10 setting), no momentum."""
    return Attack(step_size=0.25, random_start=True)


@preset("mim", category="gradient stabilisation", source="Dong et al., CVPR 2018, Alg. 1", aliases=("mi-fgsm",))
def mim() -> Attack:
    """decay 1.0, alpha = eps / T."""
    return Attack(decay=1.0)
