"""Networks that timm does not have: CIFAR-size, digits-size and 1-bit ones; `zoo:NAME` in the registry names one of these.

It may import `quant` (the 1-bit and mixed-precision nets are made of its quantisers) and knows neither files nor data. Begin
with the table below; `base` is what all of them share, `stems` turns timm's ImageNet nets into nets for 32 pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


Arg = int | float | str | bool | tuple[int | float | str, ...]
"""What `arch_args` may hold."""


class NamedLayers(NamedTuple):
    """Module names inside a network: its first convolutions, its classifier, and the layer that feature attacks read."""

    first_conv: tuple[str, ...]
    classifier: str
    feature: str | None


def create(name: str, classes: int, **args: Arg) -> nn.Module:
    """Return a freshly initialised network; `args` go to its constructor.

    Raises:
        UserError: the name or an argument is unknown.
    """
    makers = _makers()
    if name not in makers:
        raise UserError(
            f"unknown architecture 'zoo:{name}'{did_you_mean(name, makers)}; known: {', '.join(sorted(makers))}"
        )
    try:
        return makers[name](classes, **args)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise UserError(f"architecture 'zoo:{name}': arch_args {args}: {error}") from error


def names() -> list[str]:
    """Return the names that `create` knows, sorted."""
    return sorted(_makers())


def named_layers(net: nn.Module) -> NamedLayers:
    """Return the named layers of a network of this package or of timm.

    timm says them in `pretrained_cfg` and `feature_info`, of which the middle entry is taken (`layer2` of a ResNet).
    """
    from zoo.archs.base import ZooNet

    if isinstance(net, ZooNet):
        return NamedLayers((net.first_conv,), net.classifier, net.feature_layer)
    config = getattr(net, "pretrained_cfg", None)
    if config is None:
        raise TypeError(f"{type(net).__name__} is neither a network of zoo.archs nor of timm")
    first, last = config["first_conv"], config["classifier"]
    stages = [stage["module"] for stage in getattr(net, "feature_info", None) or []]
    return NamedLayers(
        (first,) if isinstance(first, str) else tuple(first),
        last if isinstance(last, str) else last[0],
        stages[len(stages) // 2] if stages else None,
    )


def _makers() -> dict[str, Callable[..., nn.Module]]:
    from zoo.archs import alexnet, clip, compact, densenet, inception, mixed, mobilenet, nin, resnet, stems, vgg

    return {
        "squeezenet": compact.SqueezeNet,
        "tiny-darknet": compact.TinyDarknet,
        "resnet20": resnet.maker(20),
        "resnet32": resnet.maker(32),
        "resnet44": resnet.maker(44),
        "resnet56": resnet.maker(56),
        "resnet8-16px": resnet.maker(8, width=12, in_chans=1),
        "resnet14-16px": resnet.maker(14, width=8, in_chans=1),
        "vgg19-bn-32px": vgg.vgg19_bn,
        "vgg-16px": vgg.small,
        "nin": nin.Nin,
        "nin-xnor": nin.XnorNin,
        "nin-16px": nin.small,
        "alexnet-32px": alexnet.AlexNet,
        "alexnet-bnn-32px": alexnet.BnnAlexNet,
        "mobilenet-16px": mobilenet.SmallMobileNet,
        "densenet-16px": densenet.SmallDenseNet,
        "clip-vit-b32": clip.vit_b32,
        "inception-v3-tf": inception.inception_v3_tf,
        "empir": mixed.Empir,
        "random-precision": mixed.RandomPrecision,
        "resnet18-32px": stems.resnet18,
        "resnet50-32px": stems.resnet50,
        "densenet121-32px": stems.densenet121,
        "mobilenetv2-32px": stems.mobilenetv2,
    }
