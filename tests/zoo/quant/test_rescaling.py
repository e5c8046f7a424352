"""Ranges set by calibration are those of the network as it runs once its batch statistics are estimated again."""

import pytest
import torch

from tests.zoo.quant.nets import images, spec
from zoo import quant
from zoo.quant.clip import best_scale
from zoo.quant.convert import activation_quantizers


def _normed(seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts: list[torch.nn.Module] = []
        for width in (3, 8, 8, 8):
            parts += [torch.nn.Conv2d(width, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
        net = torch.nn.Sequential(*parts, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5))
        net.first_conv, net.classifier = "0", "14"
        net.train()
        for _ in range(60):
            net(torch.randn(64, 3, 8, 8))
        return net.eval()


METHODS = ["apot-2", "pact-2", "pact-4", "uniform-4", "uniform-8", "dorefa-2", "qdrop-4", "qdrop-8"]


@pytest.mark.parametrize(("method", "bits"), [(m.split("-")[0], int(m.split("-")[1])) for m in METHODS])
def test_thresholds_stay_when_calibrated_again_after_new_statistics(method: str, bits: int):
    net = quant.quantize(_normed(), spec(method, bits, bits))
    x = images(64)
    quant.calibrate(net, x)
    before = {name: float(q.scale()) for name, q in activation_quantizers(net).items()}
    quant.reestimate_batchnorm(net, [x])
    ideal: dict[str, float] = {}
    for name, quantizer in activation_quantizers(net).items():
        quantizer.register_forward_pre_hook(
            lambda part, args, name=name: ideal.update({name: float(best_scale(args[0], part.grid(part.flags()[1])))})
        )
    with torch.no_grad():
        net(x)
    quant.calibrate(net, x)
    for name, quantizer in activation_quantizers(net).items():
        assert before[name] == pytest.approx(float(quantizer.scale()), rel=0.05), name
        if method in ("apot", "pact", "uniform"):  # DoReFa's is 1 by definition, QDrop minimises another power of the error
            assert before[name] == pytest.approx(ideal[name], rel=0.05), name
