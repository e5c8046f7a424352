"""The published attacks, as compositions of parts.

Common to all: one label per image, cross-entropy and alpha = eps / T unless said otherwise, T from the suite. The authors'
codes of Admix and of variance tuning attack the label that the substitute predicts; these attack the true one. Where a
published setting is shared by a whole batch (a DI size, a mask, a shuffle), each image draws its own here, by its own seed.

The `-released` presets reproduce what the released code of QAA does where that differs. Two of its traits are no part of an
attack: its schedule moves with each forward pass (a substitute with `every: forward` and states [wa, w]), and its images
were stored as JPEG (a suite with transport jpeg75).
"""

from __future__ import annotations

from harness.attacks.attack import Attack
from harness.attacks.features import FeatureImportance, IntermediateLevel, NeuronAttribution, RandomPatch
from harness.attacks.filters import TranslationInvariant
from harness.attacks.gradients import EnhancedMomentum, PenalizedGradientNorm, Variance
from harness.attacks.losses import Logit
from harness.attacks.parts import Category
from harness.attacks.registry import preset
from harness.attacks.skip import SkipGradient
from harness.attacks.spectrum import Spectrum
from harness.attacks.tiles import BlockShuffle, StructureInvariant
from harness.attacks.transforms import Admix, DiverseInput, ScaleInvariant

GRADIENT: Category = "gradient stabilisation"
INPUT: Category = "input augmentation"
FEATURE: Category = "feature disruption"
REFINE: Category = "substitute refinement"
RELEASED = "released code of QAA"


@preset("fgsm", category=GRADIENT, source="Goodfellow et al., ICLR 2015, Sec. 4")
def fgsm() -> Attack:
    """One step of size eps along the sign of the gradient."""
    return Attack(steps=1, step_size=1.0)


@preset("i-fgsm", category=GRADIENT, source="Kurakin et al., ICLR 2017 workshop, Sec. 2.2", aliases=("bim",))
def i_fgsm() -> Attack:
    """T steps of size eps / T. Kurakin et al. take steps of 1/255 and choose T from eps; the suite's T is used instead."""
    return Attack()


@preset("pgd", category=GRADIENT, source="Madry et al., ICLR 2018, Sec. 2.1")
def pgd() -> Attack:
    """Random start in the ball, steps of eps / 4 (2/255 at 8/255, the published CIFAR-10 setting), no momentum."""
    return Attack(step_size=0.25, random_start=True)


@preset("pgd-released", category=GRADIENT, source=RELEASED)
def pgd_released() -> Attack:
    """PGD with 20 steps of eps / 4 (2/255 at 8/255), as run on CIFAR-10; the paper says 10 iterations."""
    return Attack(steps=20, step_size=0.25, random_start=True)


@preset("mim", category=GRADIENT, source="Dong et al., CVPR 2018, Alg. 1", aliases=("mi-fgsm",))
def mim() -> Attack:
    """Decay 1.0."""
    return Attack(decay=1.0)


@preset("ni", category=GRADIENT, source="Lin et al., ICLR 2020, Eqs. 6-7", aliases=("ni-fgsm",))
def ni() -> Attack:
    """Decay 1.0, gradient at x + alpha * decay * m; m has mean absolute value 1 per step, as in the authors' code."""
    return Attack(decay=1.0, lookahead=1.0)


@preset("vmi", category=GRADIENT, source="Wang and He, CVPR 2021, Alg. 1", aliases=("vmi-fgsm",))
def vmi() -> Attack:
    """Decay 1.0, 20 samples within 1.5 eps."""
    return Attack(decay=1.0, variance=Variance())


@preset("vni", category=GRADIENT, source="Wang and He, CVPR 2021, Sec. 3.3", aliases=("vni-fgsm",))
def vni() -> Attack:
    """VMI with Nesterov's lookahead; neighbours are drawn around x itself, as in the authors' code."""
    return Attack(decay=1.0, lookahead=1.0, variance=Variance())


@preset("emi", category=GRADIENT, source="Wang et al., BMVC 2021, Alg. 1", aliases=("emi-fgsm",))
def emi() -> Attack:
    """Decay 1.0, 11 points evenly spaced within 7 steps along the previous gradient."""
    return Attack(decay=1.0, gradient=EnhancedMomentum())


@preset("pgn", category=GRADIENT, source="Ge et al., NeurIPS 2023, Alg. 1")
def pgn() -> Attack:
    """Decay 1.0, 20 samples within 3 eps, balance 0.5."""
    return Attack(decay=1.0, gradient=PenalizedGradientNorm())


@preset("mim-targeted", category=GRADIENT, source="Dong et al., CVPR 2018, Sec. 3.3")
def mim_targeted() -> Attack:
    """MIM towards a random other label, drawn per image, unless the caller gives one."""
    return Attack(decay=1.0, target="random")


@preset("ll-fgsm", category=GRADIENT, source="Kurakin et al., ICLR 2017 workshop, Sec. 2.3")
def ll_fgsm() -> Attack:
    """I-FGSM towards the class that the substitute finds least likely on the clean image."""
    return Attack(target="least-likely")


@preset("logit", category=GRADIENT, source="Zhao et al., NeurIPS 2021, Sec. 3.2")
def logit() -> Attack:
    """MIM on the logit instead of the cross-entropy, untargeted: a deviation, the loss is published for targeted attacks."""
    return Attack(loss=Logit(), decay=1.0)


@preset("logit-targeted", category=GRADIENT, source="Zhao et al., NeurIPS 2021, Sec. 4.1")
def logit_targeted() -> Attack:
    """Logit loss with DI (probability 0.7, 299 to 329 of 299), TI (5 x 5) and decay 1.0, 300 steps of eps / 8 (2/255).

    Towards a random other label, unless the caller gives one. As in the authors' code, DI resizes by nearest neighbour and
    the momentum adds up gradients as they are, without dividing each by its L1 norm. The canvas is resized back to the
    image, where the authors feed it at 330.
    """
    diverse = DiverseInput(high=330 / 299, prob=0.7)
    return Attack(
        loss=Logit(),
        transforms=(diverse,),
        filters=(TranslationInvariant(size=5),),
        decay=1.0,
        normalise=False,
        steps=300,
        step_size=0.125,
        target="random",
    )


@preset("di", category=INPUT, source="Xie et al., CVPR 2019, Alg. 1 (M-DI2-FGSM)", aliases=("dim",))
def di() -> Attack:
    """MIM with sizes 299 to 330 of 299, padded to 331, probability 0.5, nearest neighbour.

    The canvas is resized back to the image's size, as Wang and He (CVPR 2021) and QAA do; Xie et al. feed it larger.
    """
    return Attack(transforms=(DiverseInput(),), decay=1.0)


@preset("ti", category=INPUT, source="Dong et al., CVPR 2019, Sec. 3.3 (TI-MI-FGSM)", aliases=("tim",))
def ti() -> Attack:
    """MIM with a 15 x 15 Gaussian kernel."""
    return Attack(filters=(TranslationInvariant(),), decay=1.0)


@preset("si", category=INPUT, source="Lin et al., ICLR 2020, Sec. 3.3", aliases=("sim",))
def si() -> Attack:
    """MIM over 5 scales."""
    return Attack(transforms=(ScaleInvariant(),), decay=1.0)


@preset("sini", category=INPUT, source="Lin et al., ICLR 2020, Alg. 1", aliases=("si-ni-fgsm",))
def sini() -> Attack:
    """NI over 5 scales."""
    return Attack(transforms=(ScaleInvariant(),), decay=1.0, lookahead=1.0)


@preset("cim", category=INPUT, source="Wang and He, CVPR 2021, Sec. 4.3 (CT-MI-FGSM)", aliases=("ct-mi-fgsm",))
def cim() -> Attack:
    """TI (7 x 7) + DI + SI (5 scales) + MIM; each scale draws its own DI, as in the authors' code."""
    return Attack(transforms=(ScaleInvariant(), DiverseInput()), filters=(TranslationInvariant(size=7),), decay=1.0)


@preset("cim-released", category=INPUT, source=RELEASED)
def cim_released() -> Attack:
    """CIM with one DI draw for all scales. Its L1 norm over the whole batch is not reproduced: it ties images together."""
    return Attack(transforms=(DiverseInput(), ScaleInvariant()), filters=(TranslationInvariant(size=7),), decay=1.0)


@preset("admix", category=INPUT, source="Wang et al., ICCV 2021, Alg. 1")
def admix() -> Attack:
    """MIM over 3 mixtures (portion 0.2) at 5 scales. Mixing images have other labels and come from the whole suite."""
    return Attack(transforms=(Admix(), ScaleInvariant()), decay=1.0)


@preset("admix-released", category=INPUT, source=RELEASED)
def admix_released() -> Attack:
    """5 mixtures, no scales, 50 steps of eps / 8 (2/255), gradients added up as running sums (5, 4, 3, 2, 1).

    Not reproduced: mixing images from the batch, and the gradient through them, which tie images together.
    """
    mixtures = Admix(copies=5, weights=(5.0, 4.0, 3.0, 2.0, 1.0))
    return Attack(transforms=(mixtures,), decay=1.0, steps=50, step_size=0.125)


@preset("ssa", category=INPUT, source="Long et al., ECCV 2022, Alg. 1 (S2I-MI-FGSM)", aliases=("ssm",))
def ssa() -> Attack:
    """MIM over 20 spectra, rho 0.5, sigma = eps; gradients at the transformed images, as in the authors' code."""
    return Attack(transforms=(Spectrum(),), decay=1.0)


@preset("s2i-fgsm", category=INPUT, source="Long et al., ECCV 2022, Alg. 1 (S2I-FGSM)")
def s2i_fgsm() -> Attack:
    """SSA without momentum, sigma = eps: the authors' default, and what the tables of QAA compare."""
    return Attack(transforms=(Spectrum(),))


@preset("ssa-released", category=INPUT, source=RELEASED)
def ssa_released() -> Attack:
    """SSA without momentum (S2I-FGSM) and with sigma 16/255 whatever eps is."""
    return Attack(transforms=(Spectrum(sigma=16 / 255),))


@preset("bsr", category=INPUT, source="Wang et al., CVPR 2024, Sec. 3.3")
def bsr() -> Attack:
    """MIM over 20 shuffles of 2 x 2 blocks, each rotated by up to 24 degrees."""
    return Attack(transforms=(BlockShuffle(),), decay=1.0)


@preset("sia", category=INPUT, source="Wang et al., ICCV 2023, Sec. 3.3")
def sia() -> Attack:
    """MIM over 20 copies of 3 x 3 blocks, each transformed in one of ten ways."""
    return Attack(transforms=(StructureInvariant(),), decay=1.0)


@preset("fia", category=FEATURE, source="Wang et al., ICCV 2021, Alg. 1")
def fia() -> Attack:
    """MIM on features, 30 masks that keep 0.7, the published setting for undefended targets; the substitute names the layer."""
    return Attack(loss=FeatureImportance(), decay=1.0)


@preset("fia-released", category=FEATURE, source=RELEASED)
def fia_released() -> Attack:
    """FIA with keep 0.9 for every target, which FIA's authors use against defences."""
    return Attack(loss=FeatureImportance(keep=0.9), decay=1.0)


@preset("rpa", category=FEATURE, source="Zhang et al., IJCAI 2022, Alg. 1")
def rpa() -> Attack:
    """MIM on features, 60 masks that keep 0.7, 15 of each patch side 1, 3, 5 and 7, two masks of each in turn."""
    return Attack(loss=RandomPatch(), decay=1.0)


@preset("rpa-released", category=FEATURE, source=RELEASED)
def rpa_released() -> Attack:
    """RPA on single pixels only: the released code never reaches its larger patches."""
    return Attack(loss=RandomPatch(patches=(1,)), decay=1.0)


@preset("naa", category=FEATURE, source="Zhang et al., CVPR 2022, Alg. 1")
def naa() -> Attack:
    """MIM on features, 30 points on the path from black, gamma 1; without the noise that the authors' code adds."""
    return Attack(loss=NeuronAttribution(), decay=1.0)


@preset("ila", category=FEATURE, source="Huang et al., ICCV 2019, Alg. 1 (ILAP)")
def ila() -> Attack:
    """T steps without momentum from the clean image, along the feature direction that T steps of MIM found.

    The authors guide by I-FGSM, among others; MIM is the stronger of their choices and is what later collections use.
    """
    return Attack(loss=IntermediateLevel())


@preset("sgm", category=REFINE, source="Wu et al., ICLR 2020, Sec. 3.2")
def sgm() -> Attack:
    """Steps of eps / 8 (2/255 at 16/255) without momentum, the gradient of residual branches decayed by 0.2 (ResNets)."""
    return Attack(refine=SkipGradient(), step_size=0.125)
