"""An integer file read into torch computes what LiteRT computes, to the code, and has gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.zoo.engines import small
from zoo.errors import UserError
from zoo.loading.tflite import read_for, read_network
from zoo.quant import frozen, is_quantized, set_state, states

interpreters = pytest.importorskip("ai_edge_litert.interpreter")


def litert(path: Path, images: torch.Tensor) -> np.ndarray[Any, Any]:
    """Codes that LiteRT answers bytes (N, C, H, W) with."""
    machine = interpreters.Interpreter(str(path), num_threads=1)
    machine.allocate_tensors()
    given, answer = machine.get_input_details()[0], machine.get_output_details()[0]
    low = -128 if given["dtype"] == np.int8 else 0
    made = []
    for image in images.permute(0, 2, 3, 1).numpy().astype(np.int32) + low:
        machine.set_tensor(given["index"], image[None].astype(given["dtype"]))
        machine.invoke()
        made.append(machine.get_tensor(answer["index"])[0].astype(np.int32) - answer["quantization"][1])
    return np.stack(made)


def some_bytes(n: int = 24) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, small.SIDE, small.SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logits_are_those_of_litert_to_the_code(tmp_path: Path, kind: str, seed: int) -> None:
    path = small.write(tmp_path / "net.tflite", kind, seed, softmax=False)
    net, images = read_network(path).net, some_bytes()
    with torch.no_grad():
        codes = (net(images.float() / 255) / net.scale).round().numpy()
    expected = litert(path, images)
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(codes, expected)


def test_a_softmax_at_the_end_is_left_out_and_the_order_of_classes_kept(tmp_path: Path) -> None:
    path = small.write(tmp_path / "net.tflite")
    images = some_bytes()
    logits, shares = read_network(path).net(images.float() / 255), torch.from_numpy(litert(path, images))
    assert read_network(path).classes == small.CLASSES and float(logits.min()) < -1
    top = shares.gather(1, logits.argmax(1, keepdim=True))[:, 0]
    assert torch.equal(top, shares.amax(1))


def test_gradients_flow_through_every_step_and_agree_with_differences_of_the_unrounded_network(tmp_path: Path) -> None:
    net = read_network(small.write(tmp_path / "net.tflite")).net
    x = (some_bytes(4).float() / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[:, 0].sum(), x)
    assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).flatten(1).any(1).all())
    set_state(net, "w")  # clipped, not rounded: differentiable nearly everywhere
    x = x.detach().double().clamp(0.01, 0.99).requires_grad_()  # a byte of 0 or 255 is at the end of the range
    net = net.double()
    (gradient,) = torch.autograd.grad(net(x)[:, 0].sum(), x)
    along = torch.sign(gradient) * 1e-9
    with torch.no_grad():
        rise = (net(x + along)[:, 0] - net(x - along)[:, 0]).sum() / 2
    assert float(rise) == pytest.approx(float((gradient * along).sum()), rel=1e-3)


def test_an_imported_network_is_a_quantised_one_with_fixed_weights(tmp_path: Path) -> None:
    net = read_network(small.write(tmp_path / "net.tflite")).net
    assert is_quantized(net) and states(net) == ("w", "wa")
    x = some_bytes(2).float() / 255
    with frozen(net):
        inside = net(x)
    assert torch.equal(inside, net(x))
    for name in (net.first_conv, net.classifier, net.feature_layer):
        net.get_submodule(name)


def test_without_rounding_activations_are_still_clipped_to_their_ranges(tmp_path: Path) -> None:
    net = read_network(small.write(tmp_path / "net.tflite")).net
    x, seen = some_bytes().float() / 255, []
    net.steps["op0"].output.register_forward_hook(lambda module, args, out: seen.append(out))
    rounded = net(x)
    set_state(net, "w")
    clipped = net(x)
    for codes in seen:
        assert float(codes.min()) == 0 and float(codes.max()) <= 255  # a ReLU6, whose range is all codes
    assert torch.equal(seen[0], seen[0].round()) and not torch.equal(seen[1], seen[1].round())
    assert float((rounded - clipped).abs().max()) < 0.1 * float(rounded.std())


def test_images_are_rounded_to_bytes_as_the_engine_is_fed(tmp_path: Path) -> None:
    net = read_network(small.write(tmp_path / "net.tflite")).net
    x = some_bytes(2).float()
    assert torch.equal(net((x + 0.4) / 255), net(x / 255))
    assert not torch.equal(net((x + 30).clamp(0, 255) / 255), net(x / 255))


def test_mistakes_are_told_in_one_paragraph(tmp_path: Path) -> None:
    path = small.write(tmp_path / "net.tflite")
    with pytest.raises(UserError, match="has 5 classes and the entry states 1001"):
        read_for(path, "mine", 1001)
    whole = path.read_bytes()
    (tmp_path / "text.tflite").write_bytes(b"no network at all")
    with pytest.raises(UserError, match="is no TFLite file"):
        read_network(tmp_path / "text.tflite")
    for share in (0.1, 0.5, 0.8):
        (tmp_path / "cut.tflite").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match="damaged"):
            read_network(tmp_path / "cut.tflite")


def test_float_networks_and_unknown_operators_are_refused_by_name(tmp_path: Path) -> None:
    floats = small.Writer("uint8", 0)
    source = floats.file.tensor((1, 4, 4, 3), "float32")
    floats.file.write(tmp_path / "float.tflite", source, source)
    with pytest.raises(UserError, match=r"is float.*engine: litert"):
        read_network(tmp_path / "float.tflite")
    strange = small.Writer("uint8", 0)
    x, y = strange.activation((1, 4, 4, 3), 0.1), strange.activation((1, 4, 4, 3), 0.1)
    strange.file.add("TANH", [x[0]], [y[0]])
    strange.file.add("ADD", [y[0], y[0]], [x[0]], fusedActivationFunction=0)
    strange.file.write(tmp_path / "tanh.tflite", x[0], x[0])
    with pytest.raises(UserError, match="operator 0 is TANH, which is not read"):
        read_network(tmp_path / "tanh.tflite")
