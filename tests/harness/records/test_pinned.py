"""Which cells are no transfer: the target shares the substitute's architecture, whatever weights it has."""

from __future__ import annotations

import pytest

from harness.records.pinned import Model, PinnedSuite
from harness.suites.suite import Suite
from zoo.errors import UserError

SUITE = Suite.model_validate(
    {
        "name": "some",
        "version": 1,
        "title": "Some",
        "description": "",
        "data": {"name": "digits", "split": "test"},
        "budget": {"norm": "linf", "levels": 8},
        "steps": 2,
        "block": 5,
        "seeds": (0,),
        "attacks": ("mim",),
        "substitutes": ({"name": "plain", "models": ("plain",)},),
        "targets": {"Others": ("robust", "v4", "zoo-net")},
    }
)


def pinned() -> PinnedSuite:
    archs = {
        "plain": "timm:inception_v3",
        "robust": "timm:inception_v3.tf_adv_in1k",
        "v4": "timm:inception_v4.tf_in1k",
        "zoo-net": "zoo:net-v1.0",
    }
    models = {n: Model(arch=a, w_bits=32, a_bits=32, sha256=None, identity=None) for n, a in archs.items()}
    return PinnedSuite(digest="0", images=1, data_sha256="0", models=models, suite=SUITE)


def test_weights_of_another_tag_are_of_the_same_architecture() -> None:
    known = pinned()
    assert known.whitebox("plain", "robust") and known.whitebox("robust", "plain")
    assert not known.whitebox("plain", "v4") and not known.whitebox("plain", "zoo-net")
    assert known.whitebox("zoo-net", "zoo-net")


def test_a_substitute_that_nobody_knows_is_an_error_and_not_black_box_everywhere() -> None:
    with pytest.raises(UserError, match="knows no model 'stranger'"):
        pinned().whitebox("stranger", "v4")
