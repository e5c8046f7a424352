"""The analyses on the embedded suite: the same bytes each time, resumed, on any entry, with the paper's figures beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from harness.analyze import alignment, batchnorm, margins, sharpness, shift, states
from harness.analyze.report import write
from harness.analyze.study import Study
from harness.cli import main
from harness.suites.suite import Pair, load
from zoo.errors import UserError

NETS = ("digits-vgg", "digits-vgg-2bit-qaa")


def study(cache: Path, **changes: object) -> Study:
    suite = load("digits-qnn").model_copy(update={"targets": {"QNN": ("digits-nin-2bit",), "Standard": ("digits-resnet8",)}})
    values: dict[str, object] = {"images": 12, "cache": str(cache), **changes}
    return Study(suite, **values)  # type: ignore[arg-type]


def test_repeats_under_one_seed_give_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for place in ("one", "two"):
        s = study(tmp_path / place)
        tables = {
            "shift": {"shift": shift.analyze(s, NETS[:1], ["digits-nin-2bit"])},
            "alignment": alignment.analyze(s, NETS, ["digits-nin-2bit", "digits-resnet8"]),
            "batchnorm": batchnorm.analyze(s, ["digits-resnet14-2bit-qaa"]),
            "sharpness": sharpness.analyze(s, NETS[1:], widths=(1e-3,)),
            "margins": {"margins": margins.analyze(s, NETS[1:], ["digits-nin-2bit"])},
        }
        paths = [path for kind, found in tables.items() for path in write(tmp_path / f"out-{place}", kind, s, {}, found)]
        made.append({path.name: path.read_bytes() for path in paths})
    assert made[0] == made[1] and len(made[0]) >= 10


def test_the_rows_say_what_was_looked_at(tmp_path: Path) -> None:
    s = study(tmp_path)
    rows = shift.analyze(s, NETS[:1], ["digits-nin-2bit"])
    assert {row["substitute"] for row in rows} == {"digits-vgg", "white-box"}
    last = {row["substitute"]: row["mean"] for row in rows}
    assert last["white-box"] > last["digits-vgg"] > 0, "an image crafted on the target moves its features most"
    found = sharpness.analyze(s, NETS, widths=(5e-4,))
    spaces = {(row["model"], row["space"]) for row in found["sharpness"]}
    assert spaces == {(n, space) for n in NETS for space in ("effective", "feature")}
    assert {row["model"] for row in found["refused"]} == set(NETS), "neither a plain net nor low-bit codes have latent weights"
    qaa = next(row for row in found["sharpness"] if row["model"] == NETS[1])
    assert set(qaa["states"]) == {"w", "wa"} and qaa["sharpness"] == pytest.approx(sum(qaa["states"].values()) / 2)
    assert all(row["sharpness"] >= 0 for row in found["sharpness"])


def test_the_gradient_of_an_alternating_net_is_the_mean_of_its_states(tmp_path: Path) -> None:
    s = study(tmp_path)
    both = [alignment.gradients(s, NETS[1], state) for state in ("w", "wa")]
    assert torch.allclose(alignment.gradients(s, NETS[1]), (both[0] + both[1]) / 2)
    assert not torch.allclose(both[0], both[1])


def test_batch_statistics_are_those_of_all_images_at_once(tmp_path: Path) -> None:
    s = study(tmp_path, images=70)
    net = s.net("digits-resnet14")
    found = batchnorm.measured(s, net)
    name, norm = next(iter(batchnorm.norms_of(net).items()))
    seen: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].double()))
    with torch.no_grad():
        net(s.pixels.float() / 255)
    handle.remove()
    x = seen[0].transpose(0, 1).flatten(1)
    assert torch.allclose(found[name][0], x.mean(1), atol=1e-6)
    assert torch.allclose(found[name][1], x.var(1, unbiased=False), rtol=1e-4)


def test_what_is_remembered_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = study(tmp_path)
    first = sharpness.analyze(s, NETS[:1], ("effective",), (1e-3,))
    monkeypatch.setattr(sharpness, "weight_sharpness", lambda *a: pytest.fail("computed again"))
    assert sharpness.analyze(s, NETS[:1], ("effective",), (1e-3,)) == first
    with pytest.raises(pytest.fail.Exception):
        sharpness.analyze(study(tmp_path, seed=1), NETS[:1], ("effective",), (1e-3,))


def test_held_states_are_paired_with_their_alternation(tmp_path: Path) -> None:
    suite, words = states.held(study(tmp_path), ["digits-vgg-2bit-qaa"])
    assert words["digits-vgg-2bit-qaa"] == "alternating"
    assert {s.name: s.states for s in suite.substitutes if "." in s.name} == {
        "digits-vgg-2bit-qaa.w": ("w",),
        "digits-vgg-2bit-qaa.wa": ("wa",),
    }
    (pair,) = suite.pairs
    assert isinstance(pair, Pair) and pair.baseline == "digits-vgg"
    assert {"digits-vgg-2bit-qaa.w", "digits-vgg-2bit-qaa.wa"} <= set(pair.controls)
    with pytest.raises(UserError, match="alternates"):
        states.held(study(tmp_path), ["digits-vgg"])


def test_the_papers_sharpness_stands_beside_ours() -> None:
    assert sharpness.REPORTED["resnet34-2bit-qaa", "weight"] == (25.3686, 51.9040)
    assert alignment.REPORTED["resnet34-2bit-qaa"] == 0.1250
    from zoo.registry import load as registry

    assert {name for name, _ in sharpness.REPORTED} | set(alignment.REPORTED) <= set(registry())


def test_the_command_writes_beside_the_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    command = ["analyze", "states", "--suite", "digits-qnn", "--model", "digits-vgg-2bit-qaa", "--images", "6"]
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    version = load("digits-qnn").version
    data = json.loads((tmp_path / f"digits-qnn/v{version}/analysis/states.json").read_text())
    assert (data["schema_version"], data["analysis"], data["images"]) == (1, "states", 6)
    assert {row["state"].split(" ")[0] for row in data["rates"]} >= {"alternating", "full-precision", "low-bit", "baseline"}
    assert {row["against"] for row in data["gains"]} >= {"digits-vgg-2bit-qaa.w", "digits-vgg-2bit-qaa.wa"}
    assert (tmp_path / f"digits-qnn/v{version}/analysis/states.svg").read_text().startswith("<?xml")
