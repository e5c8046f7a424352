"""Classes in the style of TransferAttack run on a substitute of ours. The stand-in here has its constructors and calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.attacks import Rng, get
from harness.attacks.plugins import Foreign
from tests.harness.attacks.nets import EPS, images, net, substitute
from zoo.errors import UserError

LIBRARY = """
import torch
from torch import nn

class Base:
    def __init__(self, attack, model_name, epsilon, targeted, random_start, norm, loss, device=None):
        self.model = self.load_model(model_name)
        self.epsilon, self.targeted, self.random_start, self.device = epsilon, targeted, random_start, device

    def load_model(self, model_name):
        raise AssertionError("the library would fetch a network here")

    def __call__(self, data, label):
        self.model.eval()
        return self.forward(data, label)

class MI(Base):
    def __init__(self, model_name, epsilon=16/255, alpha=1.6/255, epoch=10, decay=1., targeted=False, random_start=False,
                 norm="linfty", loss="crossentropy", device=None, attack="MI", **kwargs):
        super().__init__(attack, model_name, epsilon, targeted, random_start, norm, loss, device)
        self.alpha, self.epoch, self.decay = alpha, epoch, decay

    def forward(self, data, label):
        sign = 1
        if self.targeted:
            label, sign = label[1], -1
        delta = torch.zeros_like(data, requires_grad=True)
        if self.random_start:
            delta.data.uniform_(-self.epsilon, self.epsilon)
        m = 0
        for _ in range(self.epoch):
            loss = sign * nn.functional.cross_entropy(self.model(data + delta), label)
            g = torch.autograd.grad(loss, delta)[0]
            m = m * self.decay + g / g.abs().mean((1, 2, 3), keepdim=True)
            moved = (delta + self.alpha * m.sign()).clamp(-self.epsilon, self.epsilon)
            delta = ((data + moved).clamp(0, 1) - data).detach().requires_grad_()
        return delta.detach()

class Fixed(MI):
    def __init__(self, **kwargs):
        kwargs["epoch"] = 2
        super().__init__(**kwargs)
"""


@pytest.fixture(params=["classes", "places"])
def library(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import sys

    folder = tmp_path / "transferattack"
    folder.mkdir()
    (folder / "mi.py").write_text(LIBRARY)
    listed = "('.mi', 'MI'), 'fixed': ('.mi', 'Fixed')" if request.param == "places" else "mi.MI, 'fixed': mi.Fixed"
    (folder / "__init__.py").write_text(f"from . import mi\nattack_zoo = {{'mifgsm': {listed}}}\n__version__ = '9.9'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "transferattack"]:
        del sys.modules[name]


@pytest.mark.usefixtures("library")
def test_a_class_of_the_library_is_ours_where_both_exist() -> None:
    x, y = images()
    attack = get("transferattack:mifgsm")
    assert isinstance(attack, Foreign) and attack.version == "TransferAttack 9.9" and attack.source.endswith("mifgsm")
    for kind in ("plain", "qaa"):
        crafter = substitute(kind)
        with crafter.session():
            made = attack(crafter, x, y, eps=EPS, steps=3, rng=Rng(0, range(3)))
            assert torch.allclose(made, get("mim")(crafter, x, y, eps=EPS, steps=3, rng=Rng(0, range(3))), atol=1e-9)
    target = (y + 1) % 5
    ours = get("mim")(net(), x, y, eps=EPS, steps=3, rng=Rng(0, range(3)), target=target)
    assert torch.allclose(attack(net(), x, y, eps=EPS, steps=3, rng=Rng(0, range(3)), target=target), ours, atol=1e-9)


@pytest.mark.usefixtures("library")
def test_options_and_seeds_reach_the_class() -> None:
    x, y = images()
    slow = get({"use": "transferattack:mifgsm", "options": {"decay": 0.5, "random_start": True}})
    first = slow(net(), x, y, eps=EPS, steps=2, rng=Rng(0, range(3)))
    assert torch.equal(slow(net(), x[1:], y[1:], eps=EPS, steps=2, rng=Rng(0, [1, 2])), first[1:])
    assert not torch.equal(slow(net(), x, y, eps=EPS, steps=2, rng=Rng(1, range(3))), first)
    fixed = get("transferattack:fixed")(net(), x, y, eps=EPS, steps=2, rng=Rng(0, range(3)))
    assert torch.allclose(fixed, get("mim")(net(), x, y, eps=EPS, steps=2, rng=Rng(0, range(3))), atol=1e-9)
    for name, options, words in (
        ("mifgm", {}, "did you mean 'mifgsm'"),
        ("mifgsm", {"decya": 1}, "did you mean 'decay'"),
        ("mifgsm", {"forwards": 0}, "at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            get({"use": f"transferattack:{name}", "options": options})(
                net(), x, y, eps=EPS, steps=1, rng=Rng(0, range(3))
            )


def test_without_the_library_the_message_says_where_it_is() -> None:
    with pytest.raises(UserError, match="PYTHONPATH"):
        get("transferattack:mifgsm")
