"""Full precision and fixed kernels around all that is crafted and scored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.backends import cudnn

from harness.attacks import Attack
from harness.runs.craft import craft
from harness.runs.score import score
from harness.runs.workspace import Context, workspace_of
from harness.suites.selection import Job
from tests.harness.tiny import make
from zoo import kernels
from zoo.evaluate import predictions
from zoo.recipes.seeds import reproducible

LOOSE = (True, False, True, "high", False)
FIXED = (False, True, False, "highest")


def flags() -> tuple[Any, ...]:
    precision = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    return cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, precision, deterministic


@pytest.fixture
def loose() -> Iterator[None]:
    """Settings of a user who wants speed."""
    with cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        torch.set_float32_matmul_precision("high")
        yield
        torch.set_float32_matmul_precision("highest")


def test_kernels_are_fixed_inside_and_the_users_outside(loose: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(ZeroDivisionError), kernels.fixed("cuda:0"):
        assert flags() == (*FIXED, True) and torch.is_deterministic_algorithms_warn_only_enabled()
        raise ZeroDivisionError
    assert flags() == LOOSE
    with kernels.fixed("cpu"):
        assert flags() == (*FIXED, False)
    assert flags() == LOOSE


def test_training_and_evaluation_run_under_them(loose: None) -> None:
    """On a GPU deterministic kernels in every precision; TF32 only where a recipe declares a precision."""
    with reproducible(0, torch.device("cuda:0"), 1) if torch.cuda.is_available() else kernels.fixed("cuda:0", repeatable=True):
        assert flags() == (*FIXED, True)
    with kernels.fixed("cuda:0", "tf32", repeatable=True):
        assert flags() == (False, True, True, "high", True)
    with reproducible(0, torch.device("cpu"), 1, "bf16"):
        assert flags() == (False, True, True, "high", False)
    assert flags() == LOOSE
    seen: list[tuple[Any, ...]] = []

    class Watches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(flags())
            return x.flatten(1)

    predictions(Watches(), torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    assert seen == [(*FIXED, False)] and flags() == LOOSE


def test_crafting_and_predicting_run_under_them(loose: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    suite, registry = make(tmp_path)
    context = Context(suite, (str(registry),), limit=5)
    seen: list[tuple[Any, ...]] = []
    inner = Attack.__call__

    def attack(self: Attack, *given: Any, **named: Any) -> Any:
        seen.append(flags())
        return inner(self, *given, **named)

    monkeypatch.setattr(Attack, "__call__", attack)
    craft(context, Job("tiny-resnet", "mim", 0))
    target = workspace_of(context).target("tiny-vgg")
    hook = target.register_forward_pre_hook(lambda module, inputs: seen.append(flags()))
    score(context, None, "tiny-vgg")
    hook.remove()
    assert seen == [(*FIXED, False)] * 2 and flags() == LOOSE


def test_images_of_another_gpu_have_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU called {device}")
    suite, registry = make(tmp_path)
    keys = {
        workspace_of(Context(suite, (str(registry),), device)).craft_key("tiny-resnet", "mim", 0)
        for device in ("cpu", "cuda:0", "cuda:1")
    }
    assert len(keys) == 3


def test_the_key_names_what_decides_the_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.hardware("cpu") == f"cpu {torch.backends.cpu.get_cpu_capability()}"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(cudnn, "version", lambda: 91002)
    assert kernels.hardware("cuda:0") == "cuda NVIDIA H100 80GB HBM3, CUDA 12.8, cuDNN 91002"
