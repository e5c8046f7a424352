"""Deployed files as black boxes: bytes in, the engine's own answers out, and one clear sentence where that cannot be."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.zoo.engines import small
from zoo import registry
from zoo.errors import UserError
from zoo.loading import engines
from zoo.loading.load import create, identity, load_entry
from zoo.registry.entry import ModelEntry

interpreters = pytest.importorskip("ai_edge_litert.interpreter")
REAL = ("mobilenet-v1-0.25-128-uint8", "cifar10-resnet8-int8", "cifar10-resnet8-float")


def entry_of(path: Path, **other: Any) -> ModelEntry:
    fields: dict[str, Any] = {
        "name": "mine",
        "family": "quantized",
        "data": "mine",
        "arch": "file:small",
        "classes": small.CLASSES,
        "input": {"size": small.SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3},
        "quant": {"method": "integer", "w_bits": 8, "a_bits": 8},
        "engine": {"name": "litert"},
        "weights": {"file": str(path), "sha256": "0" * 64},
    }
    return ModelEntry.model_validate({**fields, **other})


def pixels(count: int, side: int) -> Tensor:
    return (
        torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).float()
        / 255
    )


def by_hand(path: Path, images: Tensor) -> Tensor:
    """What an interpreter of its own answers each image's bytes with, dequantised, one by one."""
    machine = interpreters.Interpreter(str(path), num_threads=1)
    machine.allocate_tensors()
    given, answer = machine.get_input_details()[0], machine.get_output_details()[0]
    out = []
    for image in (images * 255).round().permute(0, 2, 3, 1).numpy():
        code = image - 128 if given["dtype"] == np.int8 else image
        machine.set_tensor(given["index"], code[None].astype(given["dtype"]))
        machine.invoke()
        raw = machine.get_tensor(answer["index"])[0].astype(np.float32)
        scale, zero = answer["quantization"]
        out.append((raw - zero) * np.float32(scale) if scale else raw)
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize("name", REAL)
def test_batches_of_any_size_get_the_answers_of_single_images_twice(name: str) -> None:
    entry = registry.load()[name]
    model = load_entry(entry)
    x = pixels(9, entry.input.resize or entry.input.size)
    with torch.no_grad():
        whole = model(x)
        assert torch.equal(whole, model(x)) and whole.shape == (9, entry.classes)
        for size in (1, 4, 7):
            assert torch.equal(torch.cat([model(part) for part in torch.split(x, size)]), whole)
    single = by_hand(Path(load_entry(entry).net.path), x)[:, entry.label_offset :]  # type: ignore[arg-type]
    assert torch.equal(whole, single) if entry.quant else torch.allclose(whole, single, atol=1e-6)


def test_another_process_gives_the_same_answers() -> None:
    code = (
        "import torch, zoo; from tests.zoo.loading.test_engines import pixels;"
        "print(zoo.load('cifar10-resnet8-int8')(pixels(3, 32)).tolist())"
    )
    root = Path(__file__).parents[3]
    runs = [subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120) for _ in "ab"]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout) > 50
    assert all(run.returncode == 0 and run.stderr == "" for run in runs), "no noise, and an end"


def test_bytes_reach_an_integer_file_as_they_are_in_its_own_order(tmp_path: Path) -> None:
    path = small.write(tmp_path / "net.tflite")
    x = pixels(4, small.SIDE)
    with torch.no_grad():
        plain = load_entry(entry_of(path), path)(x)
        assert torch.equal(plain, by_hand(path, x))
        swapped = load_entry(entry_of(path, engine={"name": "litert", "channels": "bgr"}), path)(x.flip(1))
        order = (4, 2, 0, 1, 3)
        ordered = load_entry(entry_of(path, engine={"name": "litert", "order": order}), path)(x)
    assert torch.equal(swapped, plain) and torch.equal(ordered, plain[:, list(order)])


def test_a_black_box_has_no_gradient_and_no_network_to_make(tmp_path: Path) -> None:
    path = small.write(tmp_path / "net.tflite")
    model = load_entry(entry_of(path), path)
    with pytest.raises(UserError, match=r"mine is run by litert .* not a substitute"):
        model(pixels(1, small.SIDE).requires_grad_())
    with pytest.raises(UserError, match="holds its graph"):
        create(entry_of(path))
    with torch.no_grad():
        first = model(pixels(2, small.SIDE))
        assert torch.equal(copy.deepcopy(model)(pixels(2, small.SIDE)), first)


def test_the_engine_is_part_of_what_a_model_is() -> None:
    entry = registry.load()["cifar10-resnet8-int8"]
    assert entry.engine is not None
    other = entry.model_copy(update={"engine": entry.engine.model_copy(update={"channels": "bgr"})})
    assert identity(entry) != identity(other)
    words = engines.facts(entry)
    assert words is not None and words.startswith("litert ") and "XNNPACK" in words and engines.instructions() in words
    assert engines.facts(registry.load()["cifar10-resnet20"]) is None


def refused(entry: ModelEntry, path: Path, words: str, x: Tensor | None = None) -> None:
    with pytest.raises(UserError, match=words) as caught, torch.no_grad():
        load_entry(entry, path)(pixels(1, small.SIDE) if x is None else x)
    assert "\n" not in str(caught.value)


def test_what_cannot_run_is_said_in_one_paragraph(tmp_path: Path) -> None:
    path = small.write(tmp_path / "net.tflite")
    refused(entry_of(path, classes=9), path, r"has 5 outputs and the entry states 9 .* label_offset: 1")
    refused(entry_of(path), path, r"takes images of 10 x 10 x 3, and 12 x 12 x 3 came; .* input.resize", pixels(1, 12))
    normal = {"size": small.SIDE, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    refused(entry_of(path, input=normal), path, "takes bytes, which are not normalised; state mean 0 and std 1")
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(entry_of(broken), broken, "litert cannot run .*broken.tflite .* zoo verify mine")
    floats = Path(registry.load()["cifar10-resnet8-float"].weights.bundled or "")  # type: ignore[union-attr]
    ten = entry_of(floats, classes=10, input={"size": 32, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    refused(ten, Path(engines.__file__).parents[1] / "bundled" / floats, "it is a float network", pixels(1, 32))


def test_an_operator_that_the_engine_lacks_is_named(tmp_path: Path) -> None:
    path = small.write(tmp_path / "net.tflite")
    data = path.read_bytes()
    unknown = tmp_path / "unknown.tflite"
    onnx = pytest.importorskip("onnx")
    x = onnx.helper.make_tensor_value_info("x", 1, ["n", 3, small.SIDE, small.SIDE])
    y = onnx.helper.make_tensor_value_info("y", 1, ["n", small.CLASSES])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Sparkle", ["x"], ["y"], domain="nobody")], "g", [x], [y])
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("nobody", 1)]
    unknown.write_bytes(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())
    plain = {"engine": {"name": "onnxruntime"}, "quant": None, "family": "standard"}
    refused(entry_of(unknown, **plain), unknown, "onnxruntime cannot run .*Sparkle")
    unknown.write_bytes(data)
    refused(entry_of(unknown, **plain), unknown, "onnxruntime cannot run")


def test_a_missing_engine_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small.write(tmp_path / "net.tflite")
    monkeypatch.setitem(engines.PACKAGES, "litert", "no-such-package")
    refused(entry_of(path), path, r"need the package no-such-package: pip install 'qnn-transfer-zoo\[engines\]'")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"engine": None}, "only entries with an engine"),
        ({"engine": None, "arch": "zoo:resnet20"}, "integer is for entries with an engine"),
        ({"alternation": {"states": ("w", "wa")}}, "which has no states"),
        ({"engine": {"name": "litert", "order": (0, 1, 2, 3, 3)}}, "each of 0 to 4 once"),
    ],
)
def test_entries_that_contradict_themselves_are_refused(other: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        entry_of(Path("net.tflite"), **other)
