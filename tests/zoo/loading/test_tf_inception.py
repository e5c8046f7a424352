import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from zoo.errors import UserError
from zoo.loading.checkpoints import read_foreign
from zoo.loading.load import create
from zoo.loading.tf_inception import _place, _target, convert
from zoo.registry import load as load_registry

# Slim's name of a layer, timm's name of the same one: written out from both definitions, apart from the order rule.
PAIRS = {
    "inception_v3": {
        "Conv2d_1a_3x3": "Conv2d_1a_3x3",
        "Conv2d_3b_1x1": "Conv2d_3b_1x1",
        "Mixed_5b/Branch_1/Conv2d_0b_5x5": "Mixed_5b.branch5x5_2",
        "Mixed_5c/Branch_1/Conv2d_0b_1x1": "Mixed_5c.branch5x5_1",
        "Mixed_5c/Branch_1/Conv_1_0c_5x5": "Mixed_5c.branch5x5_2",
        "Mixed_5c/Branch_3/Conv2d_0b_1x1": "Mixed_5c.branch_pool",
        "Mixed_6a/Branch_0/Conv2d_1a_1x1": "Mixed_6a.branch3x3",
        "Mixed_6b/Branch_2/Conv2d_0e_1x7": "Mixed_6b.branch7x7dbl_5",
        "Mixed_7a/Branch_1/Conv2d_1a_3x3": "Mixed_7a.branch7x7x3_4",
        "Mixed_7b/Branch_1/Conv2d_0b_3x1": "Mixed_7b.branch3x3_2b",
        "Mixed_7c/Branch_2/Conv2d_0d_3x1": "Mixed_7c.branch3x3dbl_3b",
    },
    "inception_resnet_v2": {
        "Conv2d_2b_3x3": "conv2d_2b",
        "Mixed_5b/Branch_2/Conv2d_0c_3x3": "mixed_5b.branch2.2",
        "Repeat/block35_10/Branch_2/Conv2d_0b_3x3": "repeat.9.branch2.1",
        "Repeat/block35_2/Conv2d_1x1": "repeat.1.conv2d",
        "Repeat_1/block17_20/Branch_1/Conv2d_0c_7x1": "repeat_1.19.branch1.2",
        "Mixed_7a/Branch_2/Conv2d_1a_3x3": "mixed_7a.branch2.2",
        "Repeat_2/block8_9/Conv2d_1x1": "repeat_2.8.conv2d",
        "Block8/Branch_0/Conv2d_1x1": "block8.branch0",
        "Block8/Conv2d_1x1": "block8.conv2d",
        "Conv2d_7b_1x1": "conv2d_7b",
    },
}


def positions(parts: list[str]) -> list[str]:
    return [f"Conv2d_{part}" for part in parts]


def slim_v3() -> list[str]:
    """Every convolution of Slim's Inception-v3, in scrambled order."""
    a = {0: ["0a_1x1"], 1: ["0a_1x1", "0b_5x5"], 2: ["0a_1x1", "0b_3x3", "0c_3x3"], 3: ["0b_1x1"]}
    c = {
        0: ["0a_1x1"],
        1: ["0a_1x1", "0b_1x7", "0c_7x1"],
        2: ["0a_1x1", "0b_7x1", "0c_1x7", "0d_7x1", "0e_1x7"],
        3: ["0b_1x1"],
    }
    e = {0: ["0a_1x1"], 1: ["0a_1x1", "0b_1x3", "0c_3x1"], 2: ["0a_1x1", "0b_3x3", "0c_1x3", "0d_3x1"], 3: ["0b_1x1"]}
    mixed = {f"5{x}": a for x in "bcd"} | {f"6{x}": c for x in "bcde"} | {"7c": e}
    mixed["6a"] = {0: ["1a_1x1"], 1: ["0a_1x1", "0b_3x3", "1a_1x1"]}
    mixed["7a"] = {0: ["0a_1x1", "1a_3x3"], 1: ["0a_1x1", "0b_1x7", "0c_7x1", "1a_3x3"]}
    mixed["7b"] = e | {1: ["0a_1x1", "0b_1x3", "0b_3x1"]}
    names = positions(["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"])
    for stage, branches in mixed.items():
        names += [f"Mixed_{stage}/Branch_{n}/{p}" for n, parts in branches.items() for p in positions(parts)]
    quirks = {"Mixed_5c/Branch_1/Conv2d_0a_1x1": "Conv2d_0b_1x1", "Mixed_5c/Branch_1/Conv2d_0b_5x5": "Conv_1_0c_5x5"}
    names = [f"{name.rpartition('/')[0]}/{quirks[name]}" if name in quirks else name for name in names]
    return sorted(names, key=lambda name: name[::-1])


def slim_state(scope: str, names: list[str], arch: str, pairs: dict[str, str]) -> tuple[dict, dict]:
    """A converted file whose weights are numbered, and the numbers by Slim's names."""
    shapes = _target(arch)
    ordered = [key for key, shape in shapes.items() if key.endswith(".weight") and len(shape) == 4]
    state, number = {}, {}
    by_place = dict(zip(sorted(names, key=lambda n: _place(f"{scope}/{scope}/{n}/Conv2D")), ordered, strict=True))
    for index, name in enumerate(names):
        base, norm = f"{scope}/{scope}/{name}", by_place[name].replace("conv.weight", "bn.weight")
        shape = shapes[by_place[name]]
        number[name] = index
        state[f"{base}/Conv2D/weights"] = torch.full(shape, float(index))
        if norm in shapes and norm != by_place[name]:
            for part in ("bias", "mean", "var"):
                state[f"{base}/BatchNorm/FusedBatchNorm/{part}"] = torch.full(shapes[norm], float(index))
        else:
            state[f"{base}/Conv2D/bias"] = torch.full((shape[0],), float(index))
    return state, number


def test_inception_v3_pairs_off_layer_by_layer(tmp_path):
    state, number = slim_state("InceptionV3", slim_v3(), "inception_v3", PAIRS["inception_v3"])
    state["InceptionV3/Logits/Conv2d_1c_1x1/Conv2D/weights"] = torch.ones(1001, 2048, 1, 1)
    state["InceptionV3/Logits/Conv2d_1c_1x1/Conv2D/bias"] = torch.ones(1001)
    state["InceptionV3/AuxLogits/Conv2d_1b_1x1/Conv2D/weights"] = torch.ones(1)
    layers: dict = {}
    for key, value in state.items():
        layer, _, part = key.rpartition("/")
        layers.setdefault(layer, {})[part] = value.numpy()
    file = np.empty((), dtype=object)
    file[()] = layers
    np.save(tmp_path / "net.npy", file, allow_pickle=True)
    mapped = read_foreign(tmp_path / "net.npy", "tf-inception-v3")
    create(load_registry()["ens3-inception-v3"]).load_state_dict(mapped, strict=True)
    for slim, ours in PAIRS["inception_v3"].items():
        assert mapped[f"{ours}.conv.weight"].flatten()[0] == number[slim], slim
        assert mapped[f"{ours}.bn.running_mean"][0] == number[slim], slim
        assert mapped[f"{ours}.bn.weight"][0] == 1
    for key, value in mapped.items():  # kernel sizes in both names agree for every layer
        if key.endswith("conv.weight") and value.shape[2:] not in ((1, 1), (3, 3)):
            slim = next(name for name, n in number.items() if n == value.flatten()[0])
            assert slim.endswith(f"{value.shape[2]}x{value.shape[3]}")


@pytest.mark.parametrize("arch", ["inception_resnet_v2"])
def test_residual_inception_layers_sort_as_timm_defines_them(arch):
    slim = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
    mixed = {"5b": (1, 2, 3, 1), "6a": (1, 3), "7a": (2, 2, 3)}
    for stage, counts in mixed.items():
        for branch, count in enumerate(counts):
            last = "1a_3x3" if stage != "5b" else "0b_1x1"
            middle = [f"0{'abc'[i]}_3x3" for i in range(count - 1)]
            slim += [
                f"Mixed_{stage}/Branch_{branch}/Conv2d_{p}"
                for p in (*middle, last if count != 3 else last.replace("b", "c"))
            ]
    slim = [n if "5b/Branch_2" not in n or "0c" not in n else "Mixed_5b/Branch_2/Conv2d_0c_3x3" for n in slim]
    blocks = [(f"Repeat/block35_{i}", (1, 2, 3)) for i in range(1, 11)]
    blocks += [(f"Repeat_1/block17_{i}", (1, 3)) for i in range(1, 21)]
    blocks += [(f"Repeat_2/block8_{i}", (1, 3)) for i in range(1, 10)] + [("Block8", (1, 3))]
    for block, counts in blocks:
        for branch, count in enumerate(counts):
            kernel = {"block17": "7x1"}.get(block.split("/")[-1].split("_")[0], "3x3")
            parts = ["1x1"] if count == 1 else [f"0{'abc'[i]}_{kernel if i else '1x1'}" for i in range(count)]
            slim += [f"{block}/Branch_{branch}/Conv2d_{part}" for part in parts]
        slim.append(f"{block}/Conv2d_1x1")
    slim.append("Conv2d_7b_1x1")
    ordered = sorted(sorted(slim, key=lambda n: n[::-1]), key=lambda n: _place(f"S/S/{n}/Conv2D"))
    timm_names = [
        re.sub(r"(\.conv)?\.weight$", "", k) for k, s in _target(arch).items() if k.endswith("weight") and len(s) == 4
    ]
    found = dict(zip(ordered, timm_names, strict=True))
    for name, ours in PAIRS[arch].items():
        assert found[name] == ours


def test_files_of_another_net_are_refused():
    with pytest.raises(UserError, match="keymap and arch"):
        convert({"A/A/Conv2d_1a_3x3/Conv2D/weights": torch.zeros(1)}, "inception_v3")


def slim_forward(weights: dict, x: torch.Tensor) -> torch.Tensor:
    """TensorFlow-Slim's inception_v3 (slim/nets/inception_v3.py), layer by layer under its own names; x (N, 3, 299, 299)."""

    def conv(x, name, stride=1, padding="SAME"):
        kernel = weights[f"{name}/weights"]
        pad = [(k - 1) // 2 for k in kernel.shape[2:]] if padding == "SAME" else 0
        y = F.conv2d(x, kernel, stride=stride, padding=pad)
        mean, var, beta = (weights[f"{name}/{part}"][:, None, None] for part in ("mean", "var", "beta"))
        return F.relu((y - mean) / (var + 0.001).sqrt() + beta)

    def chain(x, scope, *parts):
        for part in parts:
            x = conv(x, f"{scope}/{part}")
        return x

    def pooled(x, scope, part):
        count = F.avg_pool2d(torch.ones_like(x), 3, 1, 1)  # SAME: tf.nn.avg_pool divides by the pixels that are there
        return conv(F.avg_pool2d(x, 3, 1, 1) / count, f"{scope}/{part}")

    x = conv(x, "Conv2d_1a_3x3", 2, "VALID")
    x = conv(x, "Conv2d_2a_3x3", 1, "VALID")
    x = F.max_pool2d(conv(x, "Conv2d_2b_3x3"), 3, 2)
    x = conv(conv(x, "Conv2d_3b_1x1", 1, "VALID"), "Conv2d_4a_3x3", 1, "VALID")
    x = F.max_pool2d(x, 3, 2)
    for stage, first, second in (
        ("5b", "Conv2d_0a_1x1", "Conv2d_0b_5x5"),
        ("5c", "Conv2d_0b_1x1", "Conv_1_0c_5x5"),
        ("5d", "Conv2d_0a_1x1", "Conv2d_0b_5x5"),
    ):
        m = f"Mixed_{stage}"
        x = torch.cat(
            [
                conv(x, f"{m}/Branch_0/Conv2d_0a_1x1"),
                chain(x, f"{m}/Branch_1", first, second),
                chain(x, f"{m}/Branch_2", "Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_0c_3x3"),
                pooled(x, f"{m}/Branch_3", "Conv2d_0b_1x1"),
            ],
            1,
        )
    m = "Mixed_6a"
    inner = chain(x, f"{m}/Branch_1", "Conv2d_0a_1x1", "Conv2d_0b_3x3")
    x = torch.cat(
        [
            conv(x, f"{m}/Branch_0/Conv2d_1a_1x1", 2, "VALID"),
            conv(inner, f"{m}/Branch_1/Conv2d_1a_1x1", 2, "VALID"),
            F.max_pool2d(x, 3, 2),
        ],
        1,
    )
    for m in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        deep = ("Conv2d_0a_1x1", "Conv2d_0b_7x1", "Conv2d_0c_1x7", "Conv2d_0d_7x1", "Conv2d_0e_1x7")
        x = torch.cat(
            [
                conv(x, f"{m}/Branch_0/Conv2d_0a_1x1"),
                chain(x, f"{m}/Branch_1", "Conv2d_0a_1x1", "Conv2d_0b_1x7", "Conv2d_0c_7x1"),
                chain(x, f"{m}/Branch_2", *deep),
                pooled(x, f"{m}/Branch_3", "Conv2d_0b_1x1"),
            ],
            1,
        )
    m = "Mixed_7a"
    left = conv(x, f"{m}/Branch_0/Conv2d_0a_1x1")
    right = chain(x, f"{m}/Branch_1", "Conv2d_0a_1x1", "Conv2d_0b_1x7", "Conv2d_0c_7x1")
    x = torch.cat(
        [
            conv(left, f"{m}/Branch_0/Conv2d_1a_3x3", 2, "VALID"),
            conv(right, f"{m}/Branch_1/Conv2d_1a_3x3", 2, "VALID"),
            F.max_pool2d(x, 3, 2),
        ],
        1,
    )
    for m, tall in (("Mixed_7b", "Conv2d_0b_3x1"), ("Mixed_7c", "Conv2d_0c_3x1")):
        one = conv(x, f"{m}/Branch_1/Conv2d_0a_1x1")
        two = chain(x, f"{m}/Branch_2", "Conv2d_0a_1x1", "Conv2d_0b_3x3")
        x = torch.cat(
            [
                conv(x, f"{m}/Branch_0/Conv2d_0a_1x1"),
                conv(one, f"{m}/Branch_1/Conv2d_0b_1x3"),
                conv(one, f"{m}/Branch_1/{tall}"),
                conv(two, f"{m}/Branch_2/Conv2d_0c_1x3"),
                conv(two, f"{m}/Branch_2/Conv2d_0d_3x1"),
                pooled(x, f"{m}/Branch_3", "Conv2d_0b_1x1"),
            ],
            1,
        )
    x = F.avg_pool2d(x, 8)
    return F.conv2d(x, weights["Logits/weights"], weights["Logits/bias"]).flatten(1)


def test_ens3_computes_what_the_tensorflow_graph_does() -> None:
    """Weights under Slim's names give the same logits through the transcription and through the loaded network."""
    names, shapes = slim_v3(), _target("inception_v3")
    ordered = [key for key, shape in shapes.items() if key.endswith(".weight") and len(shape) == 4]
    by_place = sorted(names, key=lambda n: _place(f"InceptionV3/InceptionV3/{n}/Conv2D"))
    draw = torch.Generator().manual_seed(0)
    own, file = {}, {}
    for name, key in zip(by_place, ordered, strict=True):
        shape = shapes[key]
        base = f"InceptionV3/InceptionV3/{name}"
        kernel = torch.randn(shape, generator=draw) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        parts = {
            "mean": torch.randn(shape[0], generator=draw) * 0.1,
            "var": 1 + torch.rand(shape[0], generator=draw),
            "beta": torch.randn(shape[0], generator=draw) * 0.1,
        }
        own |= {f"{name}/weights": kernel, **{f"{name}/{part}": value for part, value in parts.items()}}
        file[f"{base}/Conv2D/weights"] = kernel
        norm = f"{base}/BatchNorm/FusedBatchNorm"
        file |= {f"{norm}/bias": parts["beta"], f"{norm}/mean": parts["mean"], f"{norm}/var": parts["var"]}
    own["Logits/weights"] = file["InceptionV3/Logits/Conv2d_1c_1x1/Conv2D/weights"] = torch.randn(
        1001, 2048, 1, 1, generator=draw
    )
    own["Logits/bias"] = file["InceptionV3/Logits/Conv2d_1c_1x1/Conv2D/bias"] = torch.randn(1001, generator=draw)
    entry = load_registry()["ens3-inception-v3"]
    state = convert(file, "inception_v3")
    net = create(entry)
    net.load_state_dict(state, strict=True)
    plain = create(entry.model_copy(update={"arch": "timm:inception_v3"}))
    plain.load_state_dict(state, strict=True)
    x = torch.randn(1, 3, 299, 299, generator=draw)
    with torch.no_grad():
        expected = slim_forward(own, x)
        found, other = net.eval()(x), plain.eval()(x)
    spread = (expected - expected.mean()).norm()
    assert (found - expected).norm() < 1e-4 * spread
    assert (other - expected).norm() > 0.01 * spread, "averages over padding are another network"
