"""Builds: the same bytes twice, the right states, the right start, and one clear paragraph when a recipe is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.zoo.recipes.conftest import TWO_BITS, Builder, make_entry
from zoo import recipes
from zoo.data import Dataset
from zoo.data.rectangles import Photographs, Rectangles
from zoo.errors import UserError
from zoo.evaluate import predictions
from zoo.quant import read_metadata, states
from zoo.recipes.seeds import stream
from zoo.registry.entry import Input, QuantSpec


def test_building_twice_gives_the_same_bytes_and_leaves_torch_as_it_was(builder: Builder, tmp_path: Path) -> None:
    entry = make_entry("digits", augment="shift1", options={"threads": 1})
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = builder(entry)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    torch.rand(3)
    again = builder(entry, out=tmp_path / "again.safetensors")
    assert first.path.read_bytes() == again.path.read_bytes() and first.sha256 == again.sha256
    other = builder(entry.model_copy(update={"recipe": entry.recipe.model_copy(update={"seed": 1})}))  # type: ignore[union-attr]
    assert other.sha256 != first.sha256


def test_a_report_holds_what_the_loaded_file_does(fp_builder: Builder) -> None:
    report = fp_builder(make_entry("q", TWO_BITS, start="fp", epochs=10))
    net = fp_builder.load("q")
    top1 = 100 * (predictions(net, fp_builder.test.images) == fp_builder.test.labels).double().mean()
    assert report.top1 == report.accuracies["wa"] == pytest.approx(float(top1)) and report.top1 > 60
    assert report.size == report.path.stat().st_size
    assert states(net) == ("w", "wa"), "targets are stored packed"


def test_the_log_travels_with_the_weights_and_has_no_times(fp_builder: Builder) -> None:
    report = fp_builder(make_entry("q", TWO_BITS, start="fp", states=("w", "wa")))
    log = json.loads(read_metadata(report.path)["log"])
    assert log == json.loads(json.dumps(report.log))
    assert log["recipe"]["start"] == "fp" and log["steps"] == 5 and log["steps_in_state"] == {"w": 3, "wa": 2}
    assert log["train"]["digest"] == fp_builder.train.digest and set(log["test_top1"]) == {"w", "wa"}
    assert not any("seconds" in key for key in log)
    assert json.loads(report.path.with_suffix(".json").read_text())["seconds"] == report.seconds


def test_qaa_starts_with_full_precision_activations_and_alternates_every_step(
    fp_builder: Builder, seen_states: Callable[[], list[str]]
) -> None:
    fp_builder(make_entry("qaa", TWO_BITS, start="fp", states=("w", "wa"), epochs=2))
    assert seen_states() == ["w", "wa"] * 5, "by the global step, across the end of an epoch of five steps"


@pytest.mark.parametrize("objective", [("wa",), ("fp",), ("w", "wa"), ("w",)])
def test_the_objectives_of_the_ablation_train_in_their_states(
    fp_builder: Builder, seen_states: Callable[[], list[str]], objective: tuple[str, ...]
) -> None:
    report = fp_builder(make_entry("q", TWO_BITS, start="fp", states=objective))
    assert seen_states() == [objective[step % len(objective)] for step in range(5)]
    assert set(objective) <= set(report.accuracies) and "wa" in report.accuracies


def test_going_on_from_a_net_quantised_alike_takes_over_everything(fp_builder: Builder) -> None:
    fp_builder(make_entry("q", TWO_BITS, start="fp", options={"latent": True}))
    same = fp_builder(make_entry("same", TWO_BITS, start="q", epochs=0, options={"latent": True}))
    start, copy = fp_builder.load("q").state_dict(), fp_builder.load("same").state_dict()
    assert all(torch.equal(start[key], copy[key]) for key in start)
    assert same.top1 == fp_builder(make_entry("q", TWO_BITS, start="fp", options={"latent": True})).top1


def test_going_on_from_more_bits_takes_over_latent_weights_and_sets_new_thresholds(fp_builder: Builder) -> None:
    four = QuantSpec(method="apot", w_bits=4, a_bits=4)
    fp_builder(make_entry("four", four, start="fp", options={"latent": True}))
    fp_builder(make_entry("two", TWO_BITS, start="four", epochs=0, options={"latent": True}))
    before, after = fp_builder.load("four").state_dict(), fp_builder.load("two").state_dict()
    latent = [key for key in before if key.endswith("weight.original")]
    alphas = [key for key in before if key.endswith("quantizer.alpha")]
    assert latent and all(torch.equal(before[key], after[key]) for key in latent)
    assert alphas and any(not torch.equal(before[key], after[key]) for key in alphas)
    assert all(after[key] for key in after if key.endswith("calibrated"))


def test_a_packed_start_is_refused_with_the_way_out(fp_builder: Builder) -> None:
    fp_builder(make_entry("q", TWO_BITS, start="fp"))
    with pytest.raises(UserError, match=r"q-ft: recipe.start: q holds packed.*options.latent"):
        fp_builder(make_entry("q-ft", TWO_BITS, start="q"))


def test_another_architecture_as_start_is_refused(fp_builder: Builder) -> None:
    entry = make_entry("wide", start="fp").model_copy(update={"arch_args": {"width": 8}})
    with pytest.raises(UserError, match="fp is another network"):
        fp_builder(entry)
    assert not fp_builder.path("wide").exists()


def test_divergence_is_reported_and_leaves_nothing(builder: Builder) -> None:
    entry = make_entry(lr=1e12, epochs=2)
    builder.train.images.random_(generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"no longer a number.*lower recipe\.lr"):
        builder(entry)
    assert not list(builder.folder.iterdir())


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"epochs": None}, r"recipe\.epochs: missing"),
        ({"options": {"thread": 1}}, r"options\.thread: kind 'train' has no such option; did you mean 'threads'"),
        ({"options": {"threads": "two"}}, r"options\.threads: expected int"),
        ({"options": {"gamma": -1.0}}, r"options\.gamma: must not be negative"),
        ({"states": ("w", "wa")}, r"states: only a quantised entry"),
        ({"schedule": "step"}, r"milestones: missing"),
        ({"kind": "qat"}, "the entry has no quant"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_sentence(builder: Builder, recipe: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        builder(make_entry(**recipe))


def test_streams_of_one_seed_are_independent_and_repeatable() -> None:
    draws = {use: torch.rand(4, generator=stream(*use)) for use in [(0, "order", 1), (0, "order", 2), (1, "order", 1)]}
    assert torch.equal(draws[0, "order", 1], torch.rand(4, generator=stream(0, "order", 1)))
    assert len({tuple(d.tolist()) for d in draws.values()}) == 3


def test_planning_a_build_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, zoo.recipes; assert 'torch' not in sys.modules; zoo.recipes.build"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_starts_are_built_before_what_needs_them() -> None:
    entries = {
        "fp": make_entry("fp"),
        "q": make_entry("q", TWO_BITS, start="fp"),
        "qaa": make_entry("qaa", TWO_BITS, start="q"),
        "ens": make_entry("ens", kind="adversarial", options={"ensemble": ("fp", "q")}),
    }
    order = recipes.build_order([entries["ens"], entries["qaa"]], entries, lambda entry: False)
    names = [entry.name for entry in order]
    assert set(names) == set(entries)
    assert names.index("fp") < names.index("q") < min(names.index("qaa"), names.index("ens"))
    only = recipes.build_order([entries["qaa"]], entries, lambda entry: entry.name == "q")
    assert [entry.name for entry in only] == ["qaa"], "what is there already is not built again"
    with pytest.raises(UserError, match=r"q, which qaa starts from, has no recipe"):
        bare = {**entries, "q": entries["q"].model_copy(update={"recipe": None})}
        recipes.build_order([entries["qaa"]], bare, lambda entry: False)


@pytest.mark.parametrize("quant", [None, TWO_BITS])
def test_pictures_of_many_shapes_are_trained_on(builder: Builder, quant: QuantSpec | None) -> None:
    """As ImageNet's: crops out of whole rectangles, for training and for the calibration of what is quantised."""
    draws = torch.Generator().manual_seed(0)
    sides = torch.tensor([[18, 18 + 5 * (place % 4)] if place % 2 else [18 + 3 * (place % 5), 18] for place in range(64)])
    flat = torch.randint(0, 256, (int(3 * sides.prod(1).sum()),), generator=draws, dtype=torch.uint8)
    labels = torch.arange(64) % 10
    ids = tuple(str(place) for place in range(64))
    train = Photographs("pictures", "train", Rectangles.of(flat, sides), labels, ids)
    test = Dataset("pictures", "test", torch.zeros(10, 3, 16, 16, dtype=torch.uint8), labels[:10], ids[:10])
    entry = make_entry("pictures", quant, augment="resize-crop-flip", **({"start": "plain"} if quant else {}))
    update = {"arch_args": {"width": 4, "in_chans": 3}, "input": Input(size=16, channels=3, mean=(0.5,) * 3, std=(0.3,) * 3)}
    entry = entry.model_copy(update=update)
    if quant:
        plain = make_entry("plain", augment="resize-crop-flip").model_copy(update=update)
        builder(plain, data_train=train, data_test=test)
    first = builder(entry, data_train=train, data_test=test)
    again = builder(entry, data_train=train, data_test=test, out=builder.folder / "again.safetensors")
    assert first.sha256 == again.sha256
    with pytest.raises(UserError, match="augment: none cannot handle"):
        wrong = entry.model_copy(update={"recipe": entry.recipe.model_copy(update={"augment": "none"})})  # type: ignore[union-attr]
        builder(wrong, data_train=train, data_test=test, out=builder.folder / "wrong.safetensors")
