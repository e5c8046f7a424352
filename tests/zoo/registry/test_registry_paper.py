"""The registry names what the paper names, with the preprocessing and the pins that the weights need."""

from __future__ import annotations

import re

import pytest
import torch

from zoo.loading.load import InputWrapper, create
from zoo.quant.convert import check_spec
from zoo.recipes.order import needs
from zoo.recipes.plan import OPTIONS, plan
from zoo.registry import load

REGISTRY = {name: entry for name, entry in load().items() if entry.data in ("imagenet", "cifar10")}
TIMM = sorted(n for n, e in REGISTRY.items() if e.arch.startswith("timm:") and e.quant is None)
IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def bits(prefix: str, *widths: int) -> set[str]:
    return {f"{prefix}-{width}bit" for width in widths}


PAPER = {
    "Table I": bits("resnet18", 8, 5, 4, 3, 2) | bits("resnet34", 8, 5, 4, 3, 2) | {"resnet18", "resnet34"},
    "Table II": {"inception-v3", "inception-v4", "inception-resnet-v2", "resnet50", "resnet152", "vgg16", "vgg19"}
    | {"mobilenet-v2", "densenet121", "resnet34-2bit-qaa", "vgg16-2bit-qdrop-qaa", "vgg16-2bit-qdrop"},
    "Table III": {f"cifar10-{n}" for n in ("resnet18", "resnet50", "vgg19", "densenet121", "mobilenet-v2")}
    | {f"cifar10-resnet{d}{s}" for d in (20, 56) for s in ("", "-2bit", "-2bit-qaa")},
    "Table IV": {"adv-inception-v3", "adv-inception-resnet-v2", "ens-inception-resnet-v2"}
    | {"ens3-inception-v3", "ens4-inception-v3"},
    "Table V": bits("cifar10-nin", 8, 1)
    | bits("cifar10-alexnet", 8, 1)
    | bits("cifar10-densenet121", 8, 4)
    | bits("cifar10-resnet20", 8, 4, 2)
    | bits("cifar10-mobilenet-v2", 8, 4),
    "Table VI": bits("resnet50", 8, 4, 2) | bits("vgg16", 8, 4, 2) | bits("mobilenet-v2", 8, 4, 3),
    "Tables VII and VIII": {"resnet34-lgv"},
    "Table IX": {"resnet18-2bit-qaa"},
    "Fig. 5a": bits("resnet34", 5, 4, 3, 2),
    "Fig. 5c": {f"resnet34-2bit-objective-{o}" for o in "abcd"},
}


GRAPHS = {n for n, e in REGISTRY.items() if e.weights and e.weights.is_graph}
"""Entries whose file is the network: no code makes them, and they take bytes."""
OTHERS = {n for n, e in REGISTRY.items() if e.quant and e.quant.method in ("integer", "codebook")}
"""Entries that others quantised."""


@pytest.mark.parametrize("table", PAPER)
def test_every_network_of_the_paper_is_there(table):
    assert PAPER[table] <= set(REGISTRY)


@pytest.mark.parametrize("name", TIMM)
def test_preprocessing_is_that_of_timms_weights(name):
    from zoo._compat import ensure_torchvision

    ensure_torchvision()
    import timm

    entry = REGISTRY[name]
    config = timm.get_pretrained_cfg(entry.arch.removeprefix("timm:"))
    assert config is not None, f"timm does not know {entry.arch}"
    spec = entry.input
    assert (spec.channels, spec.size, spec.size) == config.input_size
    assert (spec.mean, spec.std) == (config.mean, config.std)
    assert (spec.crop_pct, spec.interpolation) == (config.crop_pct, config.interpolation)
    assert entry.classes == config.num_classes and not config.label_offset
    weights = entry.weights
    if weights and weights.hub and weights.hub.repo.startswith("timm/"):
        assert weights.hub.repo == f"timm/{entry.arch.removeprefix('timm:')}" and weights.license == config.license


MADE = {(e.arch, e.label_offset) for n, e in REGISTRY.items() if e.quant is None and n not in GRAPHS}


@pytest.mark.parametrize("arch", sorted(MADE))
def test_every_architecture_can_be_made_and_has_the_named_layers(arch):
    entries = [e for e in REGISTRY.values() if (e.arch, e.label_offset) == arch and e.quant is None]
    with torch.device("meta"):
        net = create(entries[0])
    modules = dict(net.named_modules())
    for entry in entries:
        assert entry.feature_layer is None or entry.feature_layer in modules, entry.name
    spec = entries[0].input
    with torch.device("meta"):
        out = InputWrapper(net, spec, entries[0].label_offset).to("meta")(torch.zeros(2, spec.channels, spec.size, spec.size))
    assert out.shape == (2, entries[0].classes)


def test_inceptions_from_tensorflow_are_not_normalised_as_imagenet():
    for name, entry in REGISTRY.items():
        if entry.data == "imagenet" and name not in GRAPHS and not name.startswith(("vit-", "clip-", "effic", "squee", "tiny-")):
            assert (entry.input.mean, entry.input.std) == (HALF if "inception" in name else IMAGENET_NORM), name


def test_only_files_with_a_background_class_have_a_label_offset():
    """timm's ports had `label_offset: 1` in their first configuration and 1000 classes in their weights."""
    with_offset = {n for n, e in REGISTRY.items() if e.label_offset and n not in GRAPHS}
    foreign = [e for n, e in REGISTRY.items() if n in GRAPHS and not (e.recipe and e.recipe.kind == "export")]
    assert foreign and all(e.label_offset == (e.classes == 1000) for e in foreign)
    assert with_offset == {n for n, e in REGISTRY.items() if e.weights and (e.weights.keymap or "").startswith("tf-")}
    stale = ("24edbb8f", "89854797", "e9188c47", "8639afe")  # the commits whose configuration still says so
    assert not [e for e in REGISTRY.values() if e.weights and e.weights.hub and (e.weights.hub.revision or "").startswith(stale)]


def test_torchvision_families_are_pinned_to_torchvisions_first_weights():
    """timm's bare names (resnet50 and the like) give other weights than the paper attacks."""
    for name, entry in REGISTRY.items():
        if name in ("resnet18", "resnet34", "resnet50", "resnet152", "vgg16", "vgg19", "densenet121", "inception-v3"):
            assert entry.arch.endswith(".tv_in1k"), name


def test_quantised_entries_say_their_bits_in_their_names():
    for name, entry in REGISTRY.items():
        stated = entry.parent or "" if name.endswith("-imported") else name  # of a file whose own entry says its bits
        found = re.search(r"-(\d+)bit|-u?int(\d+)$", stated)
        assert (found is None) == (entry.quant is None), name
        if found and entry.quant:
            assert entry.w_bits == int(found[1] or found[2])
            assert entry.a_bits == (32 if entry.quant.method == "codebook" else entry.w_bits)


def test_every_network_can_be_quantised_as_its_entry_says():
    for entry in load().values():
        if entry.quant is not None and entry.name not in OTHERS:
            check_spec(entry.quant)
    for name in PAPER["Table I"] | PAPER["Table V"]:
        quant = REGISTRY[name].quant
        assert quant is None or quant.w_bits < 8 or quant.method == "uniform", f"{name}: APoT's levels end at 6 bits"


def test_binarised_networks_have_their_sources_edges():
    """BNN binarises every layer; XNOR-Net leaves the first and the last one alone."""
    edges = {e.quant.method: e.quant.edge_bits for e in REGISTRY.values() if e.quant and e.quant.w_bits == 1}
    assert edges == {"bnn": 1, "xnor": 32}


def test_what_has_no_published_weights_has_a_recipe_or_says_why():
    for name, entry in REGISTRY.items():
        assert entry.weights or entry.recipe or entry.notes, name
        assert not entry.recipe or entry.recipe.cost, name


def test_qaa_entries_follow_the_paper():
    for name in ("resnet18-2bit-qaa", "resnet34-2bit-qaa", "cifar10-resnet20-2bit-qaa", "cifar10-resnet56-2bit-qaa"):
        entry = REGISTRY[name]
        assert entry.alternation and entry.alternation.states == ("w", "wa")  # full-precision activations first
        assert entry.recipe and entry.recipe.states == ("w", "wa") and entry.recipe.start == name.removesuffix("-qaa")
        paper = entry.data == "imagenet"  # on CIFAR-10 five epochs at a falling rate, which keep the accuracy
        assert (entry.recipe.epochs, entry.recipe.batch_size) == ((1, 128) if paper else (5, 256))
        assert entry.recipe.weight_decay == 1e-4
    for name in (f"cifar10-{net}-2bit-{kind}" for net in ("resnet20", "resnet56") for kind in ("qaa", "ft")):
        options = REGISTRY[name].recipe.options  # APoT's rates of the thresholds
        assert (options["weight_scale_lr"], options["activation_scale_lr"]) == (0.02, 0.1)
    after_training = REGISTRY["vgg16-2bit-qdrop-qaa"]
    assert after_training.alternation and after_training.alternation.states == ("fp", "wa")


def test_what_imagenet_trains_or_calibrates_on_has_the_size_of_its_entry():
    """Training images are rectangles of which only that augmentation makes 224 px."""
    for name, entry in REGISTRY.items():
        recipe = entry.recipe
        copied = recipe and recipe.kind == "ptq" and recipe.start and REGISTRY[recipe.start].quant
        if recipe and recipe.kind != "export" and entry.data == "imagenet" and not copied:
            assert recipe.augment == "resize-crop-flip", name


@pytest.mark.parametrize("name", ["digits-resnet14-2bit-qdrop-qaa", "vgg16-2bit-qdrop-qaa"])
def test_qaa_after_training_copies_the_net_that_it_is_compared_with(name):
    """Quantising once more would compare two nets, not two ways to attack one."""
    entry = load()[name]
    start = load()[name.removesuffix("-qaa")]
    assert entry.recipe and entry.recipe.start == start.name and entry.quant == start.quant
    assert start.recipe and start.recipe.options.get("latent"), "Alg. 2 returns to the full-precision weights"


@pytest.mark.parametrize("name", [n for n, e in load().items() if e.recipe and e.recipe.kind in OPTIONS])
def test_every_recipe_is_complete(name):
    assert plan(load()[name]).batch_size >= 1
    for start in needs(load()[name]):
        other = load()[start]
        assert other.weights or other.recipe, f"{name} starts from {start}, which cannot be had"


def test_a_network_that_another_one_is_trained_from_keeps_its_latent_weights():
    """Packed low-bit codes cannot be trained further."""
    for name, entry in load().items():
        start = load()[entry.recipe.start] if entry.recipe and entry.recipe.start else None
        if start and start.quant and start.recipe and not start.weights:
            assert start.recipe.options.get("latent"), f"{name} starts from {start.name}"
