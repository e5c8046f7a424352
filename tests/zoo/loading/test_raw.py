"""Files of bare numbers: each number in its place, and files of anything else refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo import archs, registry
from zoo.archs.compact import DARKNET
from zoo.errors import UserError
from zoo.evaluate import predictions
from zoo.hub.weights import bundled_file
from zoo.loading import raw
from zoo.loading.checkpoints import read_foreign
from zoo.loading.load import load_entry, load_strictly


def test_deep_compression_unpacks_gaps_and_shared_values(tmp_path: Path) -> None:
    """Two weights a layer: the first after a gap of 2, the next after one of 5; nibbles lie low first."""
    shapes = list(raw._squeezenet(96, 7))
    head = np.full(26, 2, "<u4").tobytes()
    body = b""
    for place, (_, shape) in enumerate(shapes):
        values = np.arange(256, dtype="<f4") + place
        bias = np.full(shape[0], -place, "<f4")
        body += values.tobytes() + bias.tobytes() + bytes([7, 9]) + bytes([2 | 5 << 4])
    (tmp_path / "net").write_bytes(head + body)
    state = raw.deep_compression_squeezenet(tmp_path / "net")
    weight = state["fires.0.squeeze.weight"].flatten()
    assert weight.nonzero().flatten().tolist() == [2, 8] and weight[[2, 8]].tolist() == [8.0, 10.0]
    assert state["fires.0.squeeze.bias"].tolist() == [-1.0] * 16
    stem = state["conv1.weight"]  # blue, green, red in the file: place 2 is the first row of blue, which is read last
    assert stem[0, 2, 0, 2] == 7 and stem[0, 2, 1, 1] == 9 and stem[0, 0].count_nonzero() == 0
    load_strictly(archs.create("squeezenet", 1000, version="1.0"), state, tmp_path / "net")
    (tmp_path / "net").write_bytes(head + body + b"x")
    with pytest.raises(UserError, match="it is of another network"):
        raw.deep_compression_squeezenet(tmp_path / "net")
    (tmp_path / "net").write_bytes((head + body)[:-1])
    with pytest.raises(UserError, match=r"ends after .* bytes where its network has more"):
        raw.deep_compression_squeezenet(tmp_path / "net")


def test_openvinos_file_is_read_in_order_and_its_means_are_checked(tmp_path: Path) -> None:
    numbers = [np.array([-104, -117, -123], "<f2")]
    for place, (_, shape) in enumerate(raw._squeezenet(64, 3)):
        numbers += [np.full(shape, place + 1, "<f2"), np.full(shape[0], -place, "<f2")]
    data = b"".join(each.tobytes() for each in numbers)
    (tmp_path / "net.bin").write_bytes(data + bytes(24))
    state = read_foreign(tmp_path / "net.bin", "openvino-squeezenet")
    load_strictly(archs.create("squeezenet", 1000), state, tmp_path / "net.bin")
    assert state["fires.7.expand3x3.weight"].unique().tolist() == [25.0] and state["conv10.bias"].unique().tolist() == [-25.0]
    (tmp_path / "net.bin").write_bytes(data[2:] + bytes(26))
    with pytest.raises(UserError, match="does not begin with the means"):
        read_foreign(tmp_path / "net.bin", "openvino-squeezenet")


def test_darknets_norm_and_order_of_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = [np.zeros(4, "<i4")]
    width = 3
    for channels in (c for c in DARKNET if c):
        out, kernel = abs(channels), 3 if channels > 0 else 1
        parts += [rng.normal(size=out), rng.uniform(0.5, 1, out), rng.normal(size=out), rng.uniform(1e-4, 1, out)]
        parts.append(rng.normal(size=(out, width, kernel, kernel)) * 0.1)
        width = out
    parts += [np.arange(1000), np.zeros((1000, width))]
    path = tmp_path / "tiny.weights"
    path.write_bytes(parts[0].tobytes() + b"".join(part.astype("<f4").tobytes() for part in parts[1:]))
    state = raw.tiny_darknet(path)
    net = archs.create("tiny-darknet", 1000)
    load_strictly(net, state, path)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bias, gain, mean, var, weight = (torch.from_numpy(part.astype(np.float32)) for part in parts[1:6])
    plain = torch.nn.functional.conv2d(x, weight, padding=1)
    column = (1, -1, 1, 1)
    by_hand = (plain - mean.view(column)) / (var.view(column).sqrt() + 1e-6) * gain.view(column) + bias.view(column)
    with torch.no_grad():
        assert torch.allclose(net.eval().features[:2](x), by_hand, rtol=1e-4, atol=1e-4)  # type: ignore[index, operator]
    names = bundled_file("tiny-darknet-classes.txt").read_text().split()
    found = state["last.bias"].long().tolist()
    assert [names[place] for place in found] == sorted(names)


def test_squeezenets_have_the_published_shapes_and_pools() -> None:
    for version, parameters, sides in (("1.0", 1_248_424, (55, 27, 13)), ("1.1", 1_235_496, (56, 28, 14))):
        net = archs.create("squeezenet", 1000, version=version).eval()
        assert sum(p.numel() for p in net.parameters()) == parameters
        seen: list[int] = []
        for place in (0, 3, 7):
            net.fires[place].register_forward_hook(lambda m, a, out, seen=seen: seen.append(out.shape[-1]))  # type: ignore[index, union-attr]
        with torch.no_grad():
            assert net(torch.zeros(1, 3, 227, 227)).shape == (1, 1000)
        assert tuple(seen) == sides


def test_the_codebook_net_that_ships_is_what_it_claims() -> None:
    from zoo.data import load

    entry = registry.load()["squeezenet1.0-8bit"]
    images = load("imagenet-compatible-mini").head(30)
    model = load_entry(entry)
    assert all(len(p.unique()) <= 257 for n, p in model.named_parameters() if n.endswith("weight"))
    assert (predictions(model, images.images) == images.labels).float().mean() > 0.4
