"""The commands that fetch, check, publish and pin, against the loopback Hub."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from huggingface_hub import constants
from safetensors.torch import save

import zoo
from tests.hub_server import TOKEN, serve
from zoo import quant
from zoo.cli import main
from zoo.commands.suites import models_of
from zoo.errors import UserError
from zoo.loading.load import create
from zoo.registry import registry as registry_module
from zoo.registry.entry import Input, ModelEntry

INPUT = {"size": 16, "channels": 1, "mean": [0.5], "std": [0.5]}


def content(seed: int) -> bytes:
    return save({"w": torch.full((500,), float(seed))})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "ZOO_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def run(tmp_path, hub):
    """Run `zoo` with an overlay of the given models."""

    def call(models: dict[str, dict], *arguments: str) -> Result:
        overlay = tmp_path / "mine.yaml"
        if models:
            overlay.write_text(yaml.safe_dump({"version": 1, "models": models}, sort_keys=False))
        registry_module._load.cache_clear()
        return CliRunner().invoke(main, ["--registry", str(overlay), *arguments])

    return call


def tiny(**fields) -> dict:
    return {"family": "standard", "data": "digits", "arch": "zoo:resnet8-16px", "classes": 10, "input": INPUT, **fields}


def published(hub, name: str, seed: int) -> dict:
    """An entry of the real registry, with weights that the loopback Hub has."""
    real = yaml.safe_load(registry_module.main_file().read_text())["models"][name]
    return {**real, "weights": on_hub(hub, name, seed)}


def on_hub(hub, model: str, seed: int, **changes) -> dict:
    revision = hub.add(f"o/{model}", {"model.safetensors": content(seed)})
    pins = {"sha256": hashlib.sha256(content(seed)).hexdigest(), "size": len(content(seed)), "license": "mit"}
    return {"hub": {"repo": f"o/{model}", "revision": revision}, **pins, **changes}


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2 and "Traceback" not in result.stderr, result.output
    assert all(w in result.stderr for w in words), result.stderr


def test_pull_downloads_once_and_works_offline(hub, run):
    models = {"resnet34-2bit": published(hub, "resnet34-2bit", 1)}
    first = run(models, "pull", "resnet34-2bit")
    assert first.exit_code == 0, first.output
    path = Path(first.stdout.strip().removeprefix("resnet34-2bit: "))
    assert path.read_bytes() == content(1)
    assert "1 to download" in first.stderr and "o/resnet34-2bit/model.safetensors" in first.stderr
    hub.requests.clear()
    assert run(models, "pull", "resnet34-2bit", "--offline").exit_code == 0
    assert "1 ready" in run(models, "pull", "resnet34-2bit").stderr
    assert hub.requests == []


def test_pull_of_a_whole_suite(hub, run):
    names = models_of("imagenet-bitwidth")
    assert {"resnet18", "resnet34-2bit"} <= set(names)
    models = {n: published(hub, n, i) for i, n in enumerate(names)}
    result = run(models, "pull", "--suite", "imagenet-bitwidth", "--json")
    assert result.exit_code == 0, result.output
    assert {r["name"] for r in json.loads(result.stdout)} == set(names)
    hub.requests.clear()
    assert run(models, "pull", "--suite", "imagenet-bitwidth").exit_code == 0 and hub.requests == []
    refused(run(models, "pull", "--suite", "imagenet-bitwidt"), "unknown suite")


def test_pull_keeps_what_came_when_something_fails(hub, run):
    models = {"good": tiny(weights=on_hub(hub, "good", 1)), "bad": tiny(weights=on_hub(hub, "bad", 2, sha256="0" * 64))}
    result = run(models, "pull", "good", "bad")
    refused(result, "Error: bad: ", "its sha256 is")
    assert result.stdout.startswith("good: ")


def test_pull_says_how_to_get_what_is_not_published(hub, run):
    recipe = {"kind": "qat", "start": "wide", "cost": "two days"}
    models = {"wide": tiny(weights=on_hub(hub, "wide", 1)), "narrow": tiny(recipe=recipe)}
    refused(run(models, "pull", "narrow"), "`zoo build narrow`", "on digits, starting from wide; two days", "Meanwhile wide")


def test_unpinned_weights_are_taken_once_and_then_insisted_on(hub, run):
    models = {"loose": tiny(weights={**on_hub(hub, "loose", 1, sha256=None, size=None), "hub": {"repo": "o/loose"}})}
    refused(run(models, "pull", "loose"), "no sha256", "zoo lock loose", "--unpinned")
    assert run(models, "pull", "loose", "--unpinned").exit_code == 0
    assert run(models, "pull", "loose").exit_code == 0
    hub.add("o/loose", {"model.safetensors": content(2)})
    assert run(models, "verify", "loose").exit_code == 0
    assert run(models, "cache", "remove", "loose").exit_code == 0
    refused(run(models, "pull", "loose"), "no sha256")


def test_verify_finds_what_was_altered(hub, run):
    models = {"a": tiny(weights=on_hub(hub, "a", 1)), "b": tiny(weights=on_hub(hub, "b", 2))}
    path = Path(run(models, "pull", "a").stdout.split(": ")[1].strip())
    assert run(models, "verify").exit_code == 0
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    result = run(models, "verify", "a", "b", "--json")
    assert result.exit_code == 1
    assert [(v["name"], v["status"]) for v in json.loads(result.stdout)] == [("a", "altered"), ("b", "missing")]
    assert run(models, "pull", "a").exit_code == 0 and run(models, "verify", "a").exit_code == 0


def test_push_then_pull_by_the_pin(hub, run, tmp_path):
    model = ModelEntry(name="mine", **{**tiny(), "input": Input(size=16, channels=1, mean=(0.5,), std=(0.5,))})
    quant.save(create(model), tmp_path / "w.safetensors", packed=False)
    claim = {"top1": 97.5, "data": "digits", "source": "measured"}
    models = {"mine": tiny(clean_accuracy=claim)}
    arguments = ("push", "mine", "--repo", "o/mine", "--file", str(tmp_path / "w.safetensors"))
    refused(run(models, *arguments), "licence")
    result = run(models, *arguments, "--license", "mit")
    assert result.exit_code == 0 and "mine.yaml" in result.stderr, result.output
    pulled = Path(run({}, "pull", "mine").stdout.split(": ")[1].strip())
    assert pulled.read_bytes() == (tmp_path / "w.safetensors").read_bytes()


def test_a_pushed_model_gives_the_same_logits_when_it_is_pulled(hub, run, tmp_path):
    name = "digits-resnet14-2bit"
    real = yaml.safe_load(registry_module.main_file().read_text())["models"][name]
    assert run({name: real}, "push", name, "--repo", "o/net", "--license", "mit").exit_code == 0
    overlay = tmp_path / "mine.yaml"
    pinned = yaml.safe_load(overlay.read_text())["models"][name]
    del pinned["weights"]["bundled"]
    assert run({name: pinned}, "pull", name).exit_code == 0
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    pulled = zoo.load(name, registry=[overlay])
    registry_module._load.cache_clear()
    assert torch.equal(pulled(x), zoo.load(name)(x))


def test_show_says_where_the_bytes_would_come_from(hub, run):
    models = {"a": tiny(weights=on_hub(hub, "a", 1)), "b": tiny(recipe={"kind": "train", "cost": "a minute"})}
    assert json.loads(run(models, "show", "a", "--json").stdout)["bytes_from"][0].startswith("hub: o/a/model.safetensors")
    assert "zoo build b" in json.loads(run(models, "show", "b", "--json").stdout)["bytes_from"][0]
    run(models, "pull", "a")
    assert json.loads(run(models, "show", "a", "--json").stdout)["bytes_from"][0].startswith("cache: ")


def test_lock_checks_then_fills(hub, run):
    models = {"a": tiny(weights=on_hub(hub, "a", 1, sha256=None, size=None))}
    assert run(models, "lock", "a", "--check").exit_code == 1
    refused(run({}, "pull", "a"), "no sha256")
    result = run({}, "lock", "a", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)[0]["filled"]["size"] == len(content(1))
    assert run({}, "lock", "a", "--check").exit_code == 0
    assert run({}, "pull", "a").exit_code == 0


def test_a_local_file_is_pinned_as_it_is(hub, run, tmp_path):
    (tmp_path / "own.safetensors").write_bytes(content(5))
    models = {"own": tiny(weights={"file": "own.safetensors"})}
    refused(run(models, "pull", "own"), "no sha256", "zoo lock own")
    assert run(models, "lock", "own").exit_code == 0
    assert run({}, "pull", "own").stdout.strip() == f"own: {tmp_path / 'own.safetensors'}"
    (tmp_path / "own.safetensors").write_bytes(content(6))
    refused(run({}, "pull", "own"), "was altered", "zoo lock --again own")


def test_local_files_are_pinned_by_the_registry_alone(hub, run, tmp_path):
    """Trained again, or the same names in another folder: what was locked before is forgotten with the registry's line."""
    own, models = tmp_path / "own.safetensors", {"own": tiny(weights={"file": "own.safetensors"})}
    own.write_bytes(content(5))
    assert run(models, "lock", "own").exit_code == 0 and run({}, "pull", "own").exit_code == 0
    own.write_bytes(content(6))
    assert run(models, "lock", "own").exit_code == 0, "the registry says nothing, so there is nothing to hold it against"
    assert run({}, "pull", "own").exit_code == 0
    assert run({}, "verify", "own").exit_code == 0
    assert not list((tmp_path / "cache").rglob("refs/*"))


def test_lock_again_pins_a_local_file_that_changed_and_no_other(hub, run, tmp_path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(content(5))
    other = on_hub(hub, "a", 1)
    run({"own": tiny(weights={"file": "own.safetensors"}), "a": tiny(weights=other)}, "lock", "own")
    own.write_bytes(content(6))
    told = run({}, "lock", "own")
    assert "--again" in told.stdout and "another than the registry says" in told.stdout
    refused(run({}, "pull", "own"), "was altered")
    refused(run({}, "lock", "--again"), "name the models")
    assert run({}, "lock", "--again", "own", "a").exit_code == 0
    weights = yaml.safe_load((tmp_path / "mine.yaml").read_text())["models"]
    assert weights["own"]["weights"]["sha256"] == hashlib.sha256(content(6)).hexdigest()
    assert weights["a"]["weights"] == other
    assert run({}, "pull", "own").exit_code == 0
    own.write_bytes(b"no tensors")
    result = run({}, "lock", "--again", "own")
    assert result.exit_code == 1 and "no safetensors file" in result.stdout, result.output


def test_the_cache_lists_and_forgets_what_was_accepted_unpinned(hub, run, tmp_path):
    run({"a": tiny(weights=on_hub(hub, "a", 1, sha256=None, size=None))}, "pull", "a", "--unpinned")
    rows = json.loads(run({}, "cache", "list", "--json").stdout)
    assert any("accepted unpinned" in r["source"] and r["models"] == ["a"] for r in rows)
    next((tmp_path / "cache/blobs").glob("[0-9a-f]" * 8 + "*")).unlink()
    assert "1 record" in run({}, "cache", "remove", "a").stdout
    assert not [r for r in json.loads(run({}, "cache", "list", "--json").stdout) if "accepted" in r["source"]]


def test_validate_lists_every_null(hub, run):
    models = {"a": tiny(weights=on_hub(hub, "a", 1, license=None)), "b": tiny()}
    rows = {r["name"]: r["unknown"] for r in json.loads(run(models, "validate", "a", "b", "--json").stdout)}
    assert rows == {"a": ["weights.license", "clean_accuracy"], "b": ["weights", "clean_accuracy"]}
    assert run(models, "validate", "a", "--strict").exit_code == 1
    refused(run({"a": tiny(size=3)}, "validate"), "models.a.size")


def test_cache_is_listed_and_emptied(hub, run, tmp_path):
    models = {"a": tiny(weights=on_hub(hub, "a", 1)), "b": tiny(weights=on_hub(hub, "b", 2))}
    run(models, "pull", "a", "b")
    (tmp_path / "cache/partial" / ("f" * 64)).write_bytes(b"half")
    rows = json.loads(run(models, "cache", "list", "--json").stdout)
    assert sorted(r["models"] for r in rows) == [[], ["a"], ["b"]]
    assert json.loads(run(models, "cache", "size", "--json").stdout)["size"] > 2 * len(content(1))
    refused(run(models, "cache", "remove"), "say what to remove")
    assert "removed 2 files" in run(models, "cache", "remove", "a", "--partial").stdout
    assert [r["models"] for r in json.loads(run(models, "cache", "list", "--json").stdout)] == [["b"]]
    assert "removed 1 files" in run({"x": tiny()}, "cache", "remove", "--unlisted").stdout


def test_every_command_shows_an_example():
    for name in ("pull", "verify", "push", "lock", "validate"):
        text = CliRunner().invoke(main, [name, "--help"]).output
        assert f"zoo {name}" in text or f"{name} --strict" in text, text


class Marker:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("keymap", ["akamaster", "robustness", "tf-inception-v3"])
@pytest.mark.parametrize("route", ["hub", "url", "file"])
def test_a_keymap_does_not_run_a_malicious_pickle_either(hub, run, tmp_path, route, keymap):
    marker = tmp_path / "executed"
    if keymap.startswith("tf-"):
        import numpy as np

        np.save(tmp_path / "evil.npy", np.array({"a": Marker(str(marker))}, dtype=object), allow_pickle=True)
        evil = (tmp_path / "evil.npy").read_bytes()
    else:
        torch.save({"state_dict": {"w": Marker(str(marker))}}, tmp_path / "evil.pt")
        evil = (tmp_path / "evil.pt").read_bytes()
    (tmp_path / "evil").write_bytes(evil)
    revision = hub.add("o/evil", {"evil.ckpt": evil})
    where = {
        "hub": {"hub": {"repo": "o/evil", "revision": revision, "file": "evil.ckpt"}},
        "url": {"url": f"{hub.url}/o/evil/resolve/main/evil.ckpt"},
        "file": {"file": "evil"},
    }[route]
    weights = {**where, "sha256": hashlib.sha256(evil).hexdigest(), "keymap": keymap}
    assert run({"evil": tiny(weights=weights)}, "pull", "evil").exit_code == 0  # bytes are only kept
    with pytest.raises(UserError, match="cannot be read"):
        zoo.load("evil", registry=[tmp_path / "mine.yaml"])
    assert not marker.exists()


def test_the_arguments_of_an_architecture_load_no_checkpoint(hub, run, tmp_path):
    """Older versions of timm unpickle `checkpoint_path` and run what is in it."""
    marker = tmp_path / "executed"
    torch.save({"w": Marker(str(marker))}, tmp_path / "evil.pth")
    (tmp_path / "w.safetensors").write_bytes(content(1))
    weights = {"file": "w.safetensors", "sha256": hashlib.sha256(content(1)).hexdigest()}
    evil = tiny(arch="timm:resnet18", arch_args={"checkpoint_path": str(tmp_path / "evil.pth")}, weights=weights)
    refused(run({"evil": evil}, "eval", "evil"), "models.evil", "checkpoint_path", "loads no weights")
    assert not marker.exists()
