"""What `zoo export` writes holds the network's own integers, and ONNX Runtime answers with it as torch does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import zoo
from tests.zoo.quant import nets
from zoo import quant
from zoo.cli import main
from zoo.data import load as load_data
from zoo.engines.export_onnx import INPUT, export_onnx, traced
from zoo.engines.export_parts import (
    FloatActivation,
    IntegerTensor,
    define_operators,
    exported_activation,
    integers,
    take_apart,
    with_room,
)
from zoo.loading.load import InputWrapper
from zoo.quant import functional as F
from zoo.quant import modules as Q
from zoo.quant.modules import Codes
from zoo.quant.pack import read_codes
from zoo.quant.save import read_packed
from zoo.registry.entry import Input

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NAME = "digits-resnet14-8bit"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(zoo.entry(NAME), path)
    return path


def session(path: Path, optimised: Path | None = None) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return runtime.InferenceSession(str(path), options)


def constants(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


@torch.no_grad()
def test_onnx_runtime_agrees_with_the_fake_quantised_network_on_500_digits(exported: Path) -> None:
    x = load_data("digits", "test").head(500).images.float() / 255
    ours = zoo.load(NAME)(x).numpy()
    theirs = session(exported).run(None, {INPUT: x.numpy()})[0]
    assert len(x) == 500 and theirs.shape == (500, 10)
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.99
    # each integer kernel may round to the neighbouring step of its output; the logits then differ by a few per cent
    assert np.abs(ours - theirs).max() < 0.05 * ours.std()


def test_the_engine_multiplies_integers(exported: Path, tmp_path: Path) -> None:
    session(exported, tmp_path / "optimised.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 6  # the first convolution of each block, whose output is quantised at once


def test_the_integers_in_the_file_are_the_packed_ones_and_no_float_weight_is_left(exported: Path) -> None:
    packed = read_codes(*read_packed(zoo.pull(NAME)))
    stored = constants(exported)
    reads = {node.input[0]: node.input for node in onnx.load(exported).graph.node if node.op_type == "DequantizeLinear"}
    assert len(packed) == 14
    for name, (index, codes) in packed.items():
        numbers = torch.tensor(codes.numerators)[index.long()].numpy()
        weight, scale, zero = (
            onnx.numpy_helper.to_array(stored[part]) for part in reads[f"net.{name}.parametrizations.weight.original"]
        )
        assert weight.dtype == zero.dtype == np.uint8
        around = (-1, *[1] * (numbers.ndim - 1))
        signed = weight.astype(int) - zero.astype(int).reshape(around if zero.ndim else ())
        sign = np.ones(len(numbers), dtype=int)
        if zero.ndim:  # a channel whose norm has a negative factor is turned round
            sign = np.where(zero == 128, 1, -1)
            assert set(zero.tolist()) <= {127, 128}
        np.testing.assert_array_equal(signed, numbers * sign.reshape(around))
        assert scale.min() > 0
    large = [t for t in stored.values() if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 64]
    assert large == []


def test_the_file_says_what_it_is_and_nothing_of_where_it_was_made(exported: Path) -> None:
    model = onnx.load(exported)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert facts["model"] == NAME and facts["weights_sha256"] == zoo.entry(NAME).weights.sha256  # type: ignore[union-attr]
    assert model.opset_import[0].version == 21
    assert str(Path(zoo.__file__).parent).encode() not in exported.read_bytes()


@pytest.mark.slow
def test_exporting_again_gives_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    again = export_onnx(zoo.entry(NAME), tmp_path / "again.onnx")
    assert again.path.read_bytes() == exported.read_bytes()


class Normed(nn.Module):
    """Two convolutions with norms whose factors have both signs, the second's input quantised."""

    first_conv, classifier = "first", "last"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32)
        self.middle, self.norm2 = nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32)
        self.last = nn.Linear(32, 4)
        for norm in (self.norm1, self.norm2):
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.first(x)).relu()
        return self.last(self.norm2(self.middle(x)).relu().mean((2, 3)))


def normed(method: str, bits: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Normed().eval()
    quant.quantize(net, nets.spec(method, bits, bits))
    quant.set_state(net, "fp")
    quant.calibrate(net, nets.images())
    quant.set_state(net, "wa")
    return net


@pytest.mark.parametrize(
    ("method", "bits"),
    [("uniform", 8), ("uniform", 4), ("uniform", 3), ("qdrop", 8), ("qdrop", 4), ("apot", 4), ("apot", 2)],
)
@torch.no_grad()
def test_a_network_taken_apart_computes_what_it_did(method: str, bits: int, tmp_path: Path) -> None:
    define_operators()
    net, x = normed(method, bits), nets.images()
    before = net(x)
    parts = take_apart(net, tmp_path / "unused", x)
    assert parts.folded == (0 if method == "qdrop" else 2)  # QDrop has folded them before
    assert not any(isinstance(module, nn.BatchNorm2d) for module in parts.net.modules())
    assert set(parts.weights) == {"first", "middle", "last"}
    whole = method != "apot"
    assert ("middle" in parts.activations) == whole and ("middle.input" in parts.floats) == (not whole)
    # folding rounds, and a bias moves by at most half a unit of the sum; neither may move an activation by a step
    torch.testing.assert_close(parts.net(x), before, rtol=1e-3, atol=2e-3 if bits == 8 else 1e-4)


@torch.no_grad()
def test_four_bit_weights_take_four_bits_in_the_file_and_give_the_same_answers(tmp_path: Path) -> None:
    define_operators()
    net, x = normed("qdrop", 4), nets.images()
    model = InputWrapper(net, Input(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)).eval()
    before = model(x).numpy()
    take_apart(net, tmp_path / "unused", x)
    proto = traced(model, x, "tiny")
    (weight,) = [tensor for tensor in proto.graph.initializer if list(tensor.dims) == [32, 32, 3, 3]]
    assert weight.data_type == onnx.TensorProto.UINT4 and len(weight.raw_data) == 32 * 32 * 9 // 2
    assert not [node for node in proto.graph.node if node.op_type == "Cast"]
    (tmp_path / "tiny.onnx").write_bytes(proto.SerializeToString())
    np.testing.assert_allclose(session(tmp_path / "tiny.onnx").run(None, {INPUT: x.numpy()})[0], before, atol=1e-4)


def test_a_channel_that_a_norm_turns_round_keeps_its_value_even_at_the_lowest_code() -> None:
    codes = Codes(tuple(range(-128, 128)), torch.tensor(0.5))
    index = torch.tensor([[0, 128, 255], [0, 128, 255]])
    made = integers(index, codes, torch.tensor([2.0, -2.0]))
    assert made is not None
    assert made.stored.tolist() == [[0, 128, 255], [255, 127, 0]] and made.zero.tolist() == [128, 127]
    assert made.scale.tolist() == [1.0, 1.0]
    values = (made.stored.long() - made.zero.long()[:, None]) * made.scale[:, None]
    assert values.tolist() == [[-128.0, 0.0, 127.0], [128.0, 0.0, -127.0]]
    assert integers(index, Codes(tuple(range(-200, 200)), torch.tensor(1.0)), None) is None


def test_a_dead_channel_gets_a_scale_in_which_its_bias_fits_and_the_others_stay() -> None:
    stored = torch.tensor([[0, 128, 255], [0, 128, 255], [7, 9, 200]], dtype=torch.uint8)
    zero = torch.tensor([128, 128, 9], dtype=torch.uint8)
    made = IntegerTensor(stored, torch.tensor([0.01, 1e-12, 3e-10]), zero, 8)
    bias, step = torch.tensor([0.5, -2.0, 0.02]), torch.tensor(0.02)
    roomy, changed = with_room(made, bias, step)
    assert changed == 2 and torch.equal(roomy.stored[0], stored[0]) and roomy.scale[0] == made.scale[0]
    codes = bias.double() / (roomy.scale.double() * 0.02)
    assert float(codes.abs().max()) <= 2**30 and float(codes[1:].abs().min()) > 2**30 * 0.999
    values = [(t.stored.double() - t.zero.double()[:, None]) * t.scale.double()[:, None] for t in (made, roomy)]
    assert float((values[0] - values[1]).abs().max()) <= 1e-9 and roomy.stored[1].tolist() == [128, 128, 128]
    assert with_room(made, torch.zeros(3), step) == (made, 0)


@pytest.mark.parametrize("quantizer", [Q.ApotActivation(2), Q.ApotActivation(4), Q.ApotActivation(5)])
def test_activations_that_stay_in_float_are_rounded_to_the_same_bits(quantizer: Q.ActivationQuantizer) -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 3 - 0.2
    quantizer.calibrate(x.abs(), None)
    exported = exported_activation(quantizer)
    assert isinstance(exported, FloatActivation)
    assert torch.equal(exported(x), quantizer(x))
    grid, scale = F.apot_grid(4, signed=True), torch.tensor(0.7)
    assert torch.equal(FloatActivation(grid, scale)(x), grid.quantize(x, grid.constants(scale)))


def test_the_command_writes_the_file_and_says_what_is_integer(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    done = CliRunner().invoke(main, ["export", "digits-nin-4bit", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["size"] == out.stat().st_size
    assert told["notes"][-1] == "7 x activations are rounded in float: additive powers of two are no even grid"
    x = load_data("digits", "test").head(50).images.float() / 255
    with torch.no_grad():
        ours = zoo.load("digits-nin-4bit")(x).numpy()
    np.testing.assert_allclose(session(out).run(None, {INPUT: x.numpy()})[0], ours, atol=1e-4)


def test_what_cannot_be_exported_is_told_in_one_paragraph(tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(main, ["export", "digits-resnet14", "--out", str(tmp_path / "net.onnx")])
    assert done.exit_code == 2 and "is a full-precision network" in done.stderr
    done = run(main, ["export", NAME, "--to", "tflite", "--out", str(tmp_path / "net.tflite")])
    assert done.exit_code == 2 and "--to onnx" in done.stderr
    assert list(tmp_path.iterdir()) == []
