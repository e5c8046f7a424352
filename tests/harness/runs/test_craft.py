"""Bytes: rounded, inside the ball, and never read back damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.runs.craft import images_per_pass, max_level, spans, to_bytes
from harness.runs.executors.local import Local
from harness.runs.score import transported
from harness.runs.workspace import Context, Workspace
from harness.storage import shards
from tests.harness.tiny import make
from zoo.errors import UserError


def images(seed: int = 0, shape: tuple[int, ...] = (3, 1, 8, 8)) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_bytes_are_rounded_to_the_nearest_level_not_cut() -> None:
    clean = torch.tensor([[[[100, 100, 100, 100]]]], dtype=torch.uint8)
    adv = torch.tensor([[[[100.4, 100.6, 99.6, 99.4]]]]) / 255
    assert to_bytes(adv, clean, 16).tolist() == [[[[100, 101, 100, 99]]]]


def test_bytes_never_leave_the_ball_or_the_range() -> None:
    clean = images()
    wild = torch.rand(clean.shape, generator=torch.Generator().manual_seed(1)) * 3 - 1
    adv = to_bytes(wild, clean, 7)
    difference = adv.int() - clean.int()
    assert difference.abs().max() == 7 and max_level(adv, clean) == 7
    expected = ((wild * 255).round().clamp(0, 255).int() - clean.int()).clamp(-7, 7)
    assert torch.equal(difference, expected)


def test_exactly_eps_survives_rounding_at_every_level() -> None:
    clean = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for levels in (1, 8, 16, 32):
        adv = (clean.float() / 255 + levels / 255).clamp(max=1)
        assert max_level(to_bytes(adv, clean, levels), clean) == levels


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    clean = images()
    with pytest.raises(UserError, match="not finite"):
        to_bytes(torch.full(clean.shape, value), clean, 8)


def test_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match="one per input"):
        to_bytes(torch.zeros(2, 1, 8, 8), images(), 8)


def test_a_gpu_takes_more_than_a_block_of_small_images_in_a_pass() -> None:
    assert images_per_pass(torch.empty(4, 3, 32, 32), 100) == 100
    assert images_per_pass(torch.empty(4, 3, 32, 32, device="meta"), 100) == 3136
    assert images_per_pass(torch.empty(4, 3, 299, 299, device="meta"), 16) == 35
    assert images_per_pass(torch.empty(4, 3, 2048, 2048, device="meta"), 16) == 16


def test_blocks_cover_every_image_once() -> None:
    assert spans(105, 50) == [(0, 50), (50, 100), (100, 105)]
    assert spans(0, 50) == []


def test_a_shard_comes_back_as_written_or_not_at_all(tmp_path: Path) -> None:
    path, data = tmp_path / "a" / "shard.safetensors", images()
    shards.write(path, data, seconds="1.5")
    found = shards.read(path)
    assert found is not None and torch.equal(found[0], data) and found[1]["seconds"] == "1.5"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert shards.read(path) is None and not path.exists()
    path.write_bytes(b"not a shard")
    assert shards.read(path) is None


def test_jpeg_transport_changes_bytes_and_lossless_does_not() -> None:
    data = images(shape=(2, 3, 16, 16))
    assert torch.equal(transported(data, "lossless"), data)
    jpeg = transported(data, "jpeg75")
    assert jpeg.shape == data.shape and jpeg.dtype == torch.uint8 and max_level(jpeg, data) > 16
    assert transported(images(), "jpeg75").shape == (3, 1, 8, 8)


def double(value: int) -> int:
    if value == 3:
        raise UserError("three is refused")
    return 2 * value


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_give_the_same_results_in_one_process_or_many(workers: int) -> None:
    with Local(workers) as executor:
        found = dict(executor.run(double, range(6)))
        again = dict(executor.run(double, [10]))
    assert {k: v for k, v in found.items() if k != 3} == {0: 0, 1: 2, 2: 4, 4: 8, 5: 10} and again == {10: 20}
    assert isinstance(found[3], UserError) and str(found[3]) == "three is refused"


def test_targets_asked_for_in_a_circle_are_not_all_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.runs import workspace as workspaces

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    bench = Workspace(Context(suite, (str(registry),)))
    size = workspaces._bytes(bench.target("tiny-vgg"))
    monkeypatch.setattr(workspaces, "resident_bytes", lambda device: int(2.5 * size))
    monkeypatch.setattr(workspaces, "_bytes", lambda model: size)
    loads: list[str] = []
    inner = workspaces.load_entry
    monkeypatch.setattr(workspaces, "load_entry", lambda entry: loads.append(entry.name) or inner(entry))  # type: ignore[func-returns-value]
    bench._targets.clear()
    for _ in range(4):
        for name in ("tiny-vgg", "tiny-resnet", "tiny-vgg-2bit"):
            bench.target(name)
            assert len(bench._targets) <= 2
    assert len(loads) <= 8, "the least recently used first would load all 12 times"


def test_the_distance_is_taken_of_every_image() -> None:
    clean = torch.full((600, 1, 2, 2), 100, dtype=torch.uint8)
    adv = clean.clone()
    adv[599, 0, 1, 1] = 60
    adv[300, 0, 0, 0] = 130
    assert max_level(adv, clean) == 40 and max_level(clean[:0], clean[:0]) == 0
