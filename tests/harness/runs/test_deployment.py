"""Which networks of a suite an integer target was made of, by the registry's parents."""

from __future__ import annotations

from harness.records.pinned import Deployment
from harness.runs.workspace import deployment
from zoo import registry

REGISTRY = registry.load()
DEVICE, FAKE, LAB = "digits-vgg-8bit-onnx", "digits-vgg-8bit", "digits-vgg"


def test_an_export_has_its_fake_quantised_start_and_the_full_precision_parent() -> None:
    assert deployment(DEVICE, REGISTRY, [LAB, FAKE, DEVICE]) == Deployment(precise=LAB, emulated=FAKE)
    assert deployment(DEVICE, REGISTRY, [LAB, DEVICE]) == Deployment(precise=LAB)
    assert deployment(DEVICE, REGISTRY, [FAKE, DEVICE]) == Deployment(emulated=FAKE)


def test_networks_of_torch_and_targets_without_kin_have_none() -> None:
    assert deployment(FAKE, REGISTRY, [LAB, FAKE, DEVICE]) is None
    assert deployment(DEVICE, REGISTRY, [DEVICE, "digits-nin"]) is None
    assert deployment(DEVICE, REGISTRY, [LAB, FAKE]) is None, "it is no target"
    assert deployment("mobilenet-v2-uint8", REGISTRY, ["mobilenet-v2-uint8"]) is None


def test_an_imported_network_emulates_the_file_that_it_was_read_from() -> None:
    targets = ["mobilenet-v2-imported", "mobilenet-v2-uint8"]
    assert deployment("mobilenet-v2-uint8", REGISTRY, targets) == Deployment(emulated="mobilenet-v2-imported")
