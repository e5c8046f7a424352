"""Attacks from mappings, files and installed packages: strict, and refused in one paragraph."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.attacks import (
    PARTS,
    Attack,
    CrossEntropy,
    DiverseInput,
    EnhancedMomentum,
    FeatureImportance,
    Foreign,
    IntermediateLevel,
    Rng,
    ScaleInvariant,
    SkipGradient,
    TranslationInvariant,
    Variance,
    get,
    info,
    names,
    part,
    plugins,
)
from tests.harness.attacks.nets import EPS, images, net, substitute
from zoo.errors import UserError


def test_a_mapping_composes_parts() -> None:
    spec = yaml.safe_load("""
        name: fia-ti-si
        base: fia
        loss: {fia: {keep: 0.9, masks: 10}}
        transforms: [si, {di: {prob: 1, interpolation: bilinear}}]
        filters: ti
        steps: 4
    """)
    attack = get(spec)
    assert attack == Attack(
        loss=FeatureImportance(masks=10, keep=0.9),
        transforms=(ScaleInvariant(), DiverseInput(prob=1.0, interpolation="bilinear")),
        filters=(TranslationInvariant(),),
        decay=1.0,
        steps=4,
    )
    assert attack.category == "feature disruption"
    x, y = images()
    crafter = substitute("qaa")
    with crafter.session():
        adv = attack(crafter, x, y, eps=EPS, steps=10, rng=Rng(0, range(3)))
    assert 0 < (adv - x).abs().max() <= EPS + 1e-12
    cost = attack.cost(10)
    assert cost is not None and tuple(cost) == (10 + 4 * 5, 10 + 4 * 5)


def test_every_slot_can_be_filled() -> None:
    attack = get(
        {
            "gradient": {"emi": {"samples": 3}},
            "variance": "vt",
            "refine": {"sgm": {"gamma": 0.5, "branches": ["a", "b"]}},
            "decay": 1,
            "random_start": True,
            "target": "random",
            "category": "input augmentation",
        }
    )
    assert attack == Attack(
        gradient=EnhancedMomentum(samples=3),
        variance=Variance(),
        refine=SkipGradient(0.5, ("a", "b")),
        decay=1.0,
        random_start=True,
        target="random",
    )
    assert attack.category == "input augmentation" and get({}).category == "unclassified"
    assert get({"base": "vmi", "variance": None}) == get("mim")
    assert get({"loss": {"ila": {"guide": "pgd"}}}) == Attack(loss=IntermediateLevel(guide=get("pgd")))  # type: ignore[arg-type]
    assert get({"base": {"base": "mim", "steps": 7}, "loss": "cross-entropy"}) == Attack(
        loss=CrossEntropy(), decay=1.0, steps=7
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"transform": ["si"]}, "unknown key 'transform'; did you mean 'transforms'"),
        ({"name": "mine", "losss": "fia"}, "attack mine: unknown key 'losss'"),
        ({"name": "ssa", "base": "ssa", "decay": 0}, "attack ssa: a preset has that name"),
        ({"name": "mi-fgsm", "base": "mim"}, "such as mi-fgsm-mine"),
        ({"name": "pgd", "use": "torchattacks:PGD"}, "a preset has that name"),
        ({"base": "mimm"}, "did you mean 'mim'"),
        ({"base": "torchattacks-pgd"}, "unknown attack"),
        ({"transforms": ["ti"]}, r"transforms\[0\]: unknown part 'ti'"),
        (
            {"transforms": ["si", {"di": {"probb": 0.5}}]},
            r"transforms\[1\].di: unknown setting 'probb'; did you mean 'prob'",
        ),
        ({"transforms": [{"di": {"prob": "half"}}]}, r"transforms\[0\].di.prob: expected a valid number, not 'half'"),
        ({"transforms": [{"di": {"prob": 1.5}}]}, r"transforms\[0\].di: prob of di is a probability, not 1.5"),
        ({"transforms": [{"di": {"interpolation": "cubic"}}]}, "expected 'nearest' or 'bilinear', not 'cubic'"),
        ({"transforms": [{"si": {"copies": True}}]}, "expected a valid integer, not True"),
        ({"transforms": [{"si": {}, "di": {}}]}, "one id with settings"),
        ({"transforms": [7]}, "expected the id of a part"),
        ({"transforms": [{"di": [0.5]}]}, "expected settings as a mapping"),
        ({"loss": {"rpa": {"patches": 3}}}, "patches: expected a list"),
        ({"loss": {"rpa": {"patches": [1, "3"]}}}, r"patches\[1\]: expected a valid integer, not '3'"),
        ({"loss": None}, "expected the id of a part"),
        ({"loss": {"cross-entropy": {"weight": 1}}}, "it has none"),
        ({"filters": [{"ti": {"size": 4}}]}, "odd side"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 2.5}, "steps: expected a valid integer, not 2.5"),
        ({"decay": "1"}, "decay: expected a valid number, not '1'"),
        ({"random_start": 1}, "random_start: expected a valid boolean, not 1"),
        ({"target": "nearest"}, "expected 'least-likely' or 'random', not 'nearest'"),
        ({"category": "sorcery"}, "expected 'gradient stabilisation', "),
        ({"use": "mim", "options": {"decay": 0.5}}, "replace them by `base: mim`"),
        ({"use": "mim", "decay": 0.5}, "takes only name and options"),
        ({"use": "torchattacks:PGD", "options": [1]}, "options being a mapping"),
        (["mim"], "is given by its name, by a mapping"),
        (None, "is given by its name, by a mapping"),
    ],
)
def test_misuse_names_the_path(spec: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        get(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Attack(transforms=ScaleInvariant()), "must be a tuple"),  # type: ignore[arg-type]
        (lambda: Attack(step_size=0.0), "positive fraction"),
        (lambda: Attack(decay=-1.0), "must not be negative"),
        (lambda: Attack(target="next"), "least-likely"),  # type: ignore[arg-type]
        (lambda: FeatureImportance(masks=0), "at least 1"),
        (lambda: SkipGradient(gamma=2.0), r"\[0, 1\]"),
    ],
)
def test_parts_check_their_ranges(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_targets_that_an_attack_cannot_take() -> None:
    x, y = images()
    for name in ("fia", "rpa", "naa", "ila"):
        with pytest.raises(UserError, match="untargeted"):
            get(name)(substitute("plain"), x, y, eps=EPS, steps=1, rng=Rng(0, range(3)), target=(y + 1) % 5)


def test_substitutes_that_an_attack_cannot_take() -> None:
    x, y = images()
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 5)).double().eval()
    with pytest.raises(UserError, match="sgm needs skip connections"):
        get("sgm")(plain, x, y, eps=EPS, steps=1, rng=Rng(0, range(3)))
    with pytest.raises(UserError, match="no module 'x'"):
        get({"refine": {"sgm": {"branches": ["x"]}}})(plain, x, y, eps=EPS, steps=1, rng=Rng(0, range(3)))
    with pytest.raises(UserError, match="names no feature layer"):
        get("fia")(plain, x, y, eps=EPS, steps=1, rng=Rng(0, range(3)))


def test_a_chosen_target_is_another_label() -> None:
    model, (x, y) = net(), images()
    least = get("ll-fgsm")(model, x, y, eps=EPS, steps=3, rng=Rng(0, range(3)))
    logits = model(x).scatter(1, y[:, None], float("inf"))
    given = Attack()(model, x, y, eps=EPS, steps=3, rng=Rng(0, range(3)), target=logits.argmin(1))
    assert torch.equal(least, given)


ATTACK_FILE = """
import torch

class MyAttack:
    '''Signed gradient of the largest logit.'''
    category = "gradient stabilisation"
    source = "nobody, nowhere"

    def __init__(self, scale=1.0):
        self.scale = scale

    def cost(self, steps):
        return steps, steps

    def __call__(self, model, x, y, *, eps, steps):
        adv = x
        for t in range(steps):
            model.begin_iteration(t)
            adv = adv.detach().requires_grad_()
            g = torch.autograd.grad(model(adv).max(1).values.sum(), adv)[0]
            adv = adv - self.scale * eps * g.sign()
        return adv

class Returns:
    def __init__(self, what="shape"):
        self.what = what
    def __call__(self, model, x, y, *, eps, steps, **others):
        return {"shape": x[:1], "nan": x * float("nan"), "list": [x], "bytes": x.byte()}[self.what]

def function(model, x, y, *, eps, steps, rng):
    return x + eps * rng.uniform(x.shape[1:], -2, 2)

class NoBudget:
    def __call__(self, model, x, y):
        return x

number = 7
preset = None
"""


@pytest.fixture
def attack_file(tmp_path: Path) -> str:
    path = tmp_path / "attack.py"
    path.write_text(ATTACK_FILE)
    return str(path)


def test_an_attack_from_a_file_is_checked_and_projected(attack_file: str) -> None:
    x, y = images()
    attack = get({"name": "mine", "use": f"{attack_file}:MyAttack", "options": {"scale": 9.0}})
    assert (
        isinstance(attack, Foreign)
        and attack.category == "gradient stabilisation"
        and attack.source == "nobody, nowhere"
    )
    assert attack.cost(7) == (7, 7) and "sha256" in repr(attack) and "('scale', 9.0)" in repr(attack)
    adv = attack(net(), x, y, eps=EPS, steps=2, rng=Rng(0, range(3)))
    assert adv.dtype == x.dtype and 0 < (adv - x).abs().max() <= EPS + 1e-12 and adv.min() >= 0 and adv.max() <= 1
    function = get(f"{attack_file}:function")
    assert function.category == "unclassified" and function.cost(3) is None
    first = function(net(), x, y, eps=EPS, steps=2, rng=Rng(0, range(3)))
    assert torch.equal(function(net(), x[1:], y[1:], eps=EPS, steps=2, rng=Rng(0, [1, 2])), first[1:])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("MyAttak", {}, "did you mean 'MyAttack'"),
        ("MyAttack", {"sale": 1}, "does not accept these options"),
        ("function", {"scale": 1}, "takes no options"),
        ("NoBudget", {}, "lacks the parameter 'eps'"),
        ("number", {}, "must be callable"),
    ],
)
def test_files_without_an_attack(attack_file: str, name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        get({"use": f"{attack_file}:{name}", "options": options})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no attack file"):
        get(f"{tmp_path}/missing.py:MyAttack")
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:")
    with pytest.raises(UserError, match="cannot be loaded"):
        get(f"{broken}:f")


@pytest.mark.parametrize(
    ("what", "words"),
    [("shape", "one per input"), ("nan", "not finite"), ("list", "not list"), ("bytes", "float images")],
)
def test_what_an_attack_returns_is_not_trusted(attack_file: str, what: str, words: str) -> None:
    x, y = images()
    with pytest.raises(UserError, match=words):
        get({"use": f"{attack_file}:Returns", "options": {"what": what}})(
            net(), x, y, eps=EPS, steps=1, rng=Rng(0, range(3))
        )


PARTS_FILE = """
from dataclasses import dataclass
from harness.attacks import Attack, Cost, CrossEntropy

@dataclass(frozen=True)
class Mine(CrossEntropy):
    def prepare(self, batch):
        return lambda model, z, rows: SIGN * model(z).max(1).values

attack = Attack(loss=Mine(), decay=1.0)

class Sub(Attack):
    pass
"""


def test_a_composed_attack_of_a_file_is_another_one_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "parts.py"
    found: dict[str, list[str]] = {"attack": [], "Sub": [], "based": []}
    for sign in ("1", "-1"):
        path.write_text(PARTS_FILE.replace("SIGN", sign))
        made = {name: get(f"{path}:{name}") for name in ("attack", "Sub")}
        assert isinstance(made["attack"], Attack) and isinstance(made["Sub"], Foreign)
        made["based"] = get({"base": f"{path}:attack", "transforms": ["si"]})
        for name, attack in made.items():
            assert "sha256" in repr(attack), f"{name} is told apart from what else the file may hold"
            found[name].append(repr(attack))
    assert all(first != second for first, second in found.values())
    assert "origin" not in repr(get("mim")), "an attack of this package is its parts"
    with pytest.raises(UserError, match="unknown key 'origin'"):
        get({"base": "mim", "origin": "elsewhere"})


def test_attacks_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("theirs", "harness.attacks.transforms:ScaleInvariant", "harness.attacks"),
        EntryPoint("gone", "harness.attacks.nowhere:X", "harness.attacks"),
        EntryPoint("composed", "tests.harness.attacks.test_compose:COMPOSED", "harness.attacks"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "harness.attacks" else [])
    assert {"theirs", "gone", "composed"} <= set(names())
    composed = get("composed")
    assert isinstance(composed, Attack) and composed == COMPOSED.but(origin="composed unknown")
    assert composed.category == info("composed").category == "input augmentation"
    with pytest.raises(UserError, match="cannot be loaded"):
        get("gone")
    with pytest.raises(UserError, match="lacks the parameter"):
        get("theirs")
    with pytest.raises(UserError, match="did you mean 'composed'"):
        get("compose")


COMPOSED = Attack(transforms=(ScaleInvariant(copies=2),), category="input augmentation")


def test_a_part_registers_itself_and_can_be_composed_at_once() -> None:
    """One decorated class is all there is to add: tables, exports and composing read what it fills."""

    @part("filters", "mirror-test")
    @dataclass(frozen=True)
    class Mirror:
        share: float = 0.5

        def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
            return gradient + self.share * gradient.flip(-1)

    try:
        assert get({"filters": [{"mirror-test": {"share": 1}}]}) == Attack(filters=(Mirror(1.0),))
        with pytest.raises(ValueError, match="registered twice"):
            part("filters", "mirror-test")(type("Other", (), {}))
        with pytest.raises(ValueError, match="registered twice"):
            part("loss", "ti")(TranslationInvariant)
    finally:
        del PARTS["filters"]["mirror-test"]


def test_every_part_is_exported_and_rebuilds_an_attack_from_its_repr() -> None:
    import harness.attacks as exported

    names_of = {name: getattr(exported, name) for name in exported.__all__}
    for kinds in PARTS.values():
        assert {kind.__name__ for kind in kinds.values()} <= set(names_of)
    for name in names():
        assert eval(repr(get(name)), dict(names_of)) == get(name)


def test_an_attack_file_is_executed_once_for_each_content(tmp_path: Path) -> None:
    counter, file = tmp_path / "count", tmp_path / "mine.py"
    code = f"open({str(counter)!r}, 'a').write('x')\ndef attack(model, x, y, *, eps, steps, rng):\n    return x\n"
    file.write_text(code)
    first, *_ = [get(f"{file}:attack") for _ in range(3)]
    assert counter.read_text() == "x"
    file.write_text(code.replace("return x", "return x + 0"))
    assert get(f"{file}:attack") != first and counter.read_text() == "xx"
