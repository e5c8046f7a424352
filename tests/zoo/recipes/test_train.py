"""Parts of the loop: views of images, adversarial examples, schedules, learning rates of thresholds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.zoo.recipes.conftest import TWO_BITS, Builder, make_entry
from zoo.errors import UserError
from zoo.quant import activation_quantizers, weight_quantizers
from zoo.recipes.adversarial import Adversary
from zoo.recipes.augment import augment
from zoo.recipes.plan import AdversarialOptions, plan
from zoo.recipes.runtime import Runtime, runtime
from zoo.recipes.train import limited_scales, make_optimizer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shift1_moves_whole_images_by_at_most_one_pixel_and_black_moves_in() -> None:
    images = torch.randint(1, 256, (60, 1, 8, 8), generator=seeded(), dtype=torch.uint8)
    moved = augment(images, "shift1", seeded(), 8)
    padded = torch.nn.functional.pad(images.float() / 255, (1, 1, 1, 1))
    places = set()
    for image, wide in zip(moved, padded, strict=True):
        fits = [(r, c) for r in range(3) for c in range(3) if torch.equal(image, wide[:, r : r + 8, c : c + 8])]
        assert len(fits) == 1
        places.add(fits[0])
    assert len(places) == 9


def test_crop_flip_mirrors_about_half_the_images() -> None:
    images = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
    images[..., :16] = 255
    left = augment(images, "crop-flip", seeded(), 32)[:, 0, 16, 4:12].mean(1)
    assert set(left.unique().tolist()) <= {0.0, 1.0} and 70 < int(left.sum()) < 130


def test_resize_crop_flip_gives_the_size_of_the_entry() -> None:
    images = torch.randint(0, 256, (2, 3, 40, 60), generator=seeded(), dtype=torch.uint8)
    assert augment(images, "resize-crop-flip", seeded(), 28).shape == (2, 3, 28, 28)


def test_views_are_in_range_and_follow_the_generator() -> None:
    images = torch.randint(0, 256, (8, 3, 16, 16), generator=seeded(), dtype=torch.uint8)
    for kind in ("none", "shift1", "crop-flip", "resize-crop-flip"):
        a, b = augment(images, kind, seeded(1), 16), augment(images, kind, seeded(1), 16)
        assert torch.equal(a, b) and float(a.min()) >= 0 and float(a.max()) <= 1 + 1e-6
    with pytest.raises(UserError, match="unknown augmentation"):
        augment(images, "mixup", seeded(), 16)


class Margin(torch.nn.Module):
    """Logits (s, -s) of the sum s of the pixels, with a norm that would notice training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        s = self.norm(x).sum((1, 2, 3)) / 10
        return torch.stack([s, -s], 1)


def test_adversarial_examples_fill_the_ball_against_the_label_and_spare_the_clean_share() -> None:
    net = Margin().train()
    x = torch.rand(8, 1, 4, 4, generator=seeded())
    y = torch.tensor([0, 1] * 4)
    options = AdversarialOptions(eps_levels=8, attack_steps=10, step_levels=2, clean_share=0.25)
    adv = Adversary(net, options, seed=0)(x, y, step=3, runtime=Runtime("cpu"))
    assert torch.equal(adv[:2], x[:2])
    sign = torch.where(y == 0, -1.0, 1.0)[2:, None, None, None]
    assert torch.allclose(adv[2:], (x[2:] + sign * 8 / 255).clamp(0, 1), atol=1e-6)
    assert net.training and net.norm.training and int(net.norm.num_batches_tracked) == 0
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_without_random_start_one_step_is_fgsm() -> None:
    options = AdversarialOptions(eps_levels=8, attack_steps=1, step_levels=4, random_start=False)
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    adv = Adversary(Margin(), options, seed=0)(x, y, step=0, runtime=Runtime("cpu"))
    assert torch.allclose((adv - x)[:, 0, 0, 0], torch.tensor([-4.0, 4.0]) / 255)


def test_an_ensemble_takes_turns_by_the_step() -> None:
    calls: list[str] = []

    class Named(Margin):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            calls.append(self.name)
            return super().forward(x)

    options = AdversarialOptions(attack_steps=1)
    adversary = Adversary(Named("own"), options, 0, [Named("a"), Named("b")])
    x, y = torch.rand(2, 1, 4, 4, generator=seeded()), torch.tensor([0, 1])
    for step in range(30):
        adversary(x, y, step=step, runtime=Runtime("cpu"))
    first = list(calls)
    assert set(first) == {"own", "a", "b"}
    for step in range(30):
        adversary(x, y, step=step, runtime=Runtime("cpu"))
    assert calls[30:] == first


def test_adversarial_training_builds_with_an_ensemble(fp_builder: Builder) -> None:
    options = {"eps_levels": 16, "attack_steps": 1, "step_levels": 16, "clean_share": 0.5, "ensemble": ("fp",)}
    plain = fp_builder(make_entry("plain", epochs=1))
    report = fp_builder(make_entry("adv", kind="adversarial", epochs=1, options=options))
    assert report.sha256 != plain.sha256 and report.accuracies.keys() == {"fp"}


def test_learning_rates_follow_the_schedule() -> None:
    cosine = plan(make_entry(epochs=4))
    assert cosine.lr_factor(0, 10) == 1 and cosine.lr_factor(20, 10) == pytest.approx(0.5)
    assert cosine.lr_factor(39, 10) < 0.01
    steps = plan(make_entry(epochs=4, schedule="step", options={"milestones": (2, 3), "gamma": 0.1}))
    assert [round(steps.lr_factor(s, 10), 4) for s in (19, 20, 29, 30)] == [1, 0.1, 0.1, 0.01]
    assert plan(make_entry(schedule="constant")).lr_factor(9, 10) == 1


def test_thresholds_get_their_own_learning_rates() -> None:
    from zoo.loading.load import create

    options = {"weight_scale_lr": 0.02, "activation_scale_lr": 0.1}
    entry = make_entry("q", TWO_BITS, lr=0.04, options=options)
    net = create(entry)
    optimizer = make_optimizer(net, plan(entry))
    rates = {id(p): group["base_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(q.alpha)] for q in weight_quantizers(net).values() if hasattr(q, "alpha")} == {0.02}  # type: ignore[arg-type]
    assert {rates[id(q.alpha)] for q in activation_quantizers(net).values()} == {0.1}  # type: ignore[arg-type]
    assert len(rates) == len(list(net.parameters())) and 0.04 in rates.values()


def test_a_scale_at_most_halves_in_a_step() -> None:
    scales = [torch.nn.Parameter(torch.tensor(v)) for v in (1.0, 1.0, 2.0)]
    with limited_scales(scales):
        for scale, after in zip(scales, (-3.0, 0.55, 7.0), strict=True):
            scale.copy_(torch.tensor(after))
    assert [round(float(s.detach()), 4) for s in scales] == [0.5, 0.55, 7.0]


def test_gradients_are_scaled_down_to_the_norm_that_is_set(builder: Builder) -> None:
    plain = builder(make_entry("plain"))
    loose = builder(make_entry("loose", options={"max_grad_norm": 1e9}))
    tight = builder(make_entry("tight", options={"max_grad_norm": 1e-6}))
    first, second, third = (r.log["epochs"][0]["loss"] for r in (plain, loose, tight))
    assert first == second != third


def test_a_launcher_without_accelerate_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    assert type(runtime("cpu")) is Runtime
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"pip install 'qnn-transfer-zoo\[train\]'"):
        runtime("cpu")
