"""The same holds on a GPU: tensors follow the images, and deterministic kernels suffice."""

from __future__ import annotations

import pytest
import torch

from harness.attacks import Images, Rng
from harness.attacks.registry import PRESETS
from tests.harness.attacks.nets import EPS, images, pool, substitute
from tests.harness.attacks.test_conformance import same, short


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["plain", "qaa"])
@pytest.mark.parametrize("name", PRESETS)
def test_attack_conforms_on_cuda(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    x, y = (tensor.cuda() for tensor in images())
    crafter, mates = substitute(kind), pool()
    for network in crafter.networks():
        network.cuda()
    torch.use_deterministic_algorithms(True)
    try:
        with crafter.session():
            made = [
                short(name)(
                    crafter,
                    x[rows],
                    y[rows],
                    eps=EPS,
                    steps=2,
                    rng=Rng(0, rows, "cuda"),
                    pool=Images(mates.images.cuda(), mates.labels.cuda()),
                )
                for rows in ([0, 1, 2], [0, 1, 2], [2, 0])
            ]
    finally:
        torch.use_deterministic_algorithms(False)
    adv, again, other = made
    assert adv.is_cuda and torch.equal(adv, again) and same(other, adv[[2, 0]])
    assert 0 < (adv - x).abs().max().item() <= EPS + 1e-9
