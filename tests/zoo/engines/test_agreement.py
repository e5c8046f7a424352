"""Both forms of a network beside each other: counted by hand, found by the registry, and the ones that ship agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import zoo
from tests.zoo.engines import small
from zoo import registry
from zoo.cli import main
from zoo.data import load as load_data
from zoo.engines.agreement import compare, read_images, twin
from zoo.errors import UserError
from zoo.intervals import wilson
from zoo.registry.entry import ModelEntry

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert.interpreter")
IMAGES = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
REGISTRY = registry.load()
EXPORTS = [e for e in REGISTRY.values() if e.recipe is not None and e.recipe.kind == "export"]
IMPORTED = [e for e in REGISTRY.values() if e.name.endswith("-imported")]


def fixed(*rows: list[float]):  # type: ignore[no-untyped-def]
    """A network that answers the same whatever it sees."""
    return lambda x: torch.tensor(rows)


def test_shares_errors_and_ties_are_those_counted_by_hand() -> None:
    ours = fixed([3.0, -1.0], [0.0, 1.0], [2.0, 0.0], [5.0, 1.0])
    engine = fixed([2.0, -1.0], [1.5, 1.0], [1.0, 1.0], [1.0, 1.0])
    made = compare(ours, engine, IMAGES, torch.tensor([0, 1, 1, 0]))
    assert (made.images, made.equal, made.differing, made.ties) == (4, 3, (1,), 0)
    assert (made.low, made.high) == wilson(3, 4)
    assert made.mean_error == pytest.approx((1 + 0 + 1.5 + 0 + 1 + 1 + 4 + 0) / 8) and made.max_error == 4
    assert made.right == (3, 2) and made.outputs == "logits"
    made = compare(fixed([0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]), engine, IMAGES)
    assert (
        made.differing == (0, 1, 3) and made.ties == 1 and made.right is None
    )  # on the last the engine's two are the same


def test_an_engine_that_answers_with_probabilities_is_compared_in_probabilities() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    made = compare(lambda x: logits, lambda x: (logits.softmax(1) * 256).round() / 256, IMAGES)
    assert made.outputs == "probabilities" and made.max_error <= 0.5 / 256 + 1e-6


def test_networks_of_other_classes_and_no_images_are_refused() -> None:
    with pytest.raises(UserError, match="have 2 and 3 classes"):
        compare(lambda x: torch.zeros(4, 2), lambda x: torch.zeros(4, 3), IMAGES)
    with pytest.raises(UserError, match="no images"):
        compare(lambda x: x, lambda x: x, IMAGES[:0])


def test_the_registry_knows_the_other_form_of_exports_imports_and_engines() -> None:
    def name(of: str) -> str | None:
        found = twin(REGISTRY[of], REGISTRY)
        return found and found.name

    assert name("digits-vgg-8bit-onnx") == "digits-vgg-8bit"
    assert name("mobilenet-v2-imported") == "mobilenet-v2-uint8"
    assert name("mobilenet-v2-uint8") == "mobilenet-v2-imported"
    assert name("digits-vgg-8bit") is None  # exported on the way
    with pytest.raises(UserError, match="zoo import"):
        name("mobilenet-v1-0.5-160-uint8")


@pytest.mark.parametrize("entry", [e for e in EXPORTS if e.data == "digits"], ids=lambda e: e.name)
def test_each_export_that_ships_agrees_with_its_network_on_500_digits(entry: ModelEntry) -> None:
    assert entry.recipe is not None and entry.recipe.start is not None and entry.clean_accuracy is not None
    data = load_data("digits", "test").head(500)
    made = compare(zoo.load(entry.recipe.start), zoo.load(entry.name), data.images, data.labels)
    assert made.images == 500 and made.share >= 0.99
    assert made.right is not None and made.right[1] / 5 == pytest.approx(entry.clean_accuracy.top1, abs=0.41)


@pytest.mark.parametrize("entry", IMPORTED, ids=lambda e: e.name)
def test_each_imported_network_has_the_top_class_of_its_engine_on_noise(entry: ModelEntry) -> None:
    engine = twin(entry, REGISTRY)
    assert engine is not None and entry.weights is not None and engine.weights is not None
    assert entry.weights.sha256 == engine.weights.sha256 and entry.arch == engine.arch
    size = entry.input.size
    noise = torch.randint(
        0, 256, (4, 3, size // 8, size // 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    images = torch.nn.functional.interpolate(noise.float(), size=(size, size), mode="bilinear").round().to(torch.uint8)
    made = compare(zoo.load(entry.name), zoo.load(engine.name), images)
    assert made.equal + made.ties == 4
    assert made.outputs == "probabilities" and made.max_error < 1.01 / 256  # the engine's softmax has steps of 1/256


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_the_command_compares_clean_and_other_images(tmp_path: Path) -> None:
    images = load_data("digits", "test").images[:40]
    save_file({"images": 255 - images}, tmp_path / "other.safetensors")
    arguments = ["agree", "digits-nin-8bit-onnx", "--limit", "60", "--images", str(tmp_path / "other.safetensors")]
    status, out, _ = run(*arguments, "--json")
    clean, other = json.loads(out)
    assert status == 0 and clean["torch"] == "digits-nin-8bit" and clean["engine"] == "digits-nin-8bit-onnx"
    assert (clean["set"], clean["images"], other["images"]) == ("clean", 60, 40)
    assert other["right"][0] < clean["right"][0]
    status, out, _ = run(*arguments)
    assert status == 0 and "same top class on 100.00 % (94.0 to 100.0)" in out.splitlines()[0]


@pytest.mark.slow
def test_a_network_without_another_form_is_exported_on_the_way() -> None:
    status, out, _ = run("agree", "digits-mobilenet-5bit", "--limit", "100", "--json")
    (row,) = json.loads(out)
    assert status == 0 and row["engine"] == "digits-mobilenet-5bit in ONNX Runtime" and row["equal"] == 100
    assert row["max_error"] < 0.1 * row["spread"] and row["mean_error"] < 1e-3 * row["spread"]  # a value on an edge may tip


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    like = load_data("digits", "test").images
    for name, tensors, words in (
        ("float", {"images": torch.zeros(3, 1, 16, 16)}, "torch.float32"),
        ("size", {"images": torch.zeros(3, 3, 16, 16, dtype=torch.uint8)}, "images here are uint8"),
        ("two", {"a": torch.zeros(1), "b": torch.zeros(1)}, "holds 2 tensors"),
        ("many", {"images": torch.zeros(len(like) + 1, 1, 16, 16, dtype=torch.uint8)}, f"the data set {len(like)}"),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=words):
            read_images(tmp_path / f"{name}.safetensors", like)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_images(tmp_path / "absent.safetensors", like)
    status, _, err = run("agree", "digits-nin-8bit-onnx", "--with", "digits-vgg-8bit-onnx")
    assert status == 2 and "both run in engines" in err


def test_import_prints_an_entry_that_loads_and_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small.write(tmp_path / "net.tflite", "int8")
    overlay = tmp_path / "mine.yaml"
    status, out, err = run("import", str(path), "--name", "my-net", "--data", "mine", "--out", str(overlay))
    assert status == 0 and str(overlay) in out and "10 x 10 pixels, 5 classes; 1 ADD" in err
    entry = registry.load([overlay])["my-net"]
    assert entry.w_bits == entry.a_bits == 8 and entry.arch == "file:my-net" and entry.engine is None
    model = zoo.load("my-net", registry=[overlay])
    x = torch.rand(2, 3, 10, 10, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    assert model(x).shape == (2, 5) and bool(gradient.any())
    status, out, _ = run("import", str(path), "--name", "my-net", "--data", "mine", "--json")
    assert status == 0 and json.loads(out)["my-net"]["weights"]["keymap"] == "tflite"


def test_mistakes_at_an_import_write_nothing(tmp_path: Path) -> None:
    path = small.write(tmp_path / "net.tflite")
    overlay = tmp_path / "mine.yaml"
    for arguments, words in (
        ((str(tmp_path / "absent.tflite"), "--name", "a"), "there is no file"),
        ((str(path), "--name", "No Name", "--out", str(overlay)), "name"),
        ((str(path), "--name", "a", "--arch", "nothing", "--out", str(overlay)), "arch"),
    ):
        status, out, err = run("import", *arguments)
        assert status == 2 and words in err and out == "" and not overlay.exists()
    overlay.write_text("mine\n")
    status, _, err = run("import", str(path), "--name", "a", "--out", str(overlay))
    assert status == 2 and "is there already" in err and overlay.read_text() == "mine\n"
