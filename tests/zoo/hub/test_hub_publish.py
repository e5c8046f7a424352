"""Pins are written without touching the rest of a registry; lock and push agree with what the Hub holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors.torch import save

from tests.hub_server import TOKEN, serve
from zoo.errors import UserError
from zoo.hub import DownloadOptions, fetch, lock, pins_of, push, write_pins
from zoo.hub.pins import set_value
from zoo.loading.load import check_runs, create, load_entry
from zoo.quant import calibrate
from zoo.quant import save as save_net
from zoo.registry import load
from zoo.registry.entry import ModelEntry

FILE = save({"w": torch.arange(1000, dtype=torch.float32)})
SHA = hashlib.sha256(FILE).hexdigest()
REGISTRY = """\
# a registry of my own
version: 1
models:
  # the parent
  tiny:
    family: standard  # it is
    data: digits
    arch: zoo:resnet8-16px
    classes: 10
    input: {size: 16, channels: 1, mean: [0.5], std: [0.5]}
    clean_accuracy: {top1: 97.5, data: digits, source: measured}
    weights:
      hub: {repo: o/n, revision: null}   # to be pinned
      sha256: null
      license: mit # terms
    # after the weights

  tiny-2bit:
    parent: tiny
    family: quantized
    quant: {method: apot, w_bits: 2, a_bits: 2}
    notes: |
      Two lines
      of notes.
"""


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
def registry(tmp_path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(REGISTRY)
    return path


def entry(path: Path, name: str):
    load.__globals__["_load"].cache_clear()
    return load([path])[name]


def trained(model: ModelEntry, path: Path) -> Path:
    """Write weights that the model loads, as a recipe does."""
    net = create(model)
    if model.quant:
        calibrate(net, torch.rand(2, 1, 16, 16))
    save_net(net, path, packed=model.quant is not None)
    return path


def lines_changed(before: str, after: str) -> set[str]:
    return set(after.splitlines()) ^ set(before.splitlines())


def test_pins_change_only_their_lines(registry):
    write_pins(registry, {"tiny": {"hub.revision": "1" * 40, "sha256": "a" * 64, "size": 42}})
    after = registry.read_text()
    assert lines_changed(REGISTRY, after) == {
        "      hub: {repo: o/n, revision: null}   # to be pinned",
        f'      hub: {{repo: o/n, revision: "{"1" * 40}"}}   # to be pinned',
        "      sha256: null",
        f"      sha256: {'a' * 64}",
        "      size: 42",
    }
    weights = entry(registry, "tiny").weights
    assert (weights.hub.revision, weights.sha256, weights.size, weights.license) == ("1" * 40, "a" * 64, 42, "mit")


def test_pinning_keeps_the_permissions_of_the_registry(registry):
    registry.chmod(0o664)
    write_pins(registry, {"tiny": {"size": 42}})
    assert registry.stat().st_mode & 0o777 == 0o664 and len(list(registry.parent.iterdir())) == 1


def test_a_model_without_weights_gets_a_block(registry):
    values = {"hub.repo": "o/up", "hub.revision": "e" * 40, "sha256": SHA, "size": 7, "license": "mit"}
    write_pins(registry, {"tiny-2bit": values})
    weights = entry(registry, "tiny-2bit").weights
    assert weights.hub.repo == "o/up" and weights.hub.revision == "e" * 40 and weights.size == 7
    assert registry.read_text().startswith(REGISTRY)


@pytest.mark.parametrize(
    "weights",
    [
        "weights:\n      hub: {repo: o/n}\n",
        "weights: {hub: {repo: o/n}}\n",
        "weights:\n      hub:\n        repo: o/n\n        revision:\n",
        "weights:\n      hub:\n        repo: o/n  # here\n      # at the end",
        "weights: {\n      hub: {repo: o/n,}, sha256: null,\n      }\n",
        "weights:\n      hub: {repo: o/n}\n      license: >-\n        free\n        to use\n",
        "weights: null\n",
        "weights:\n",
    ],
)
def test_every_way_to_write_weights_can_be_pinned(weights):
    text = f"models:\n  a:\n    {weights}\n  b: {{notes: x}}\n"
    number = "1234567890" * 4  # would be read as a number without quotes
    for key, value in {"hub.repo": "o/n", "hub.revision": number, "sha256": "0e" + "1" * 62, "size": 5}.items():
        text = set_value(text, ["models", "a", "weights", *key.split(".")], value, "f")
    found = yaml.safe_load(text)["models"]
    assert found["b"] == {"notes": "x"}
    assert found["a"]["weights"]["hub"] == {"repo": "o/n", "revision": number}
    assert found["a"]["weights"]["sha256"] == "0e" + "1" * 62 and found["a"]["weights"]["size"] == 5


def test_an_edit_that_would_change_more_is_refused():
    shared = "models:\n  a:\n    weights: &w {hub: {repo: o/n}}\n  b:\n    weights: *w\n"
    with pytest.raises(UserError, match="by hand"):
        set_value(shared, ["models", "b", "weights", "sha256"], SHA, "f")
    with pytest.raises(UserError, match=r"models\.c is not defined"):
        set_value(shared, ["models", "c", "weights", "sha256"], SHA, "f")


def test_lock_fills_what_is_missing_and_shows_what_moved(hub, registry):
    first = hub.add("o/n", {"model.safetensors": FILE})
    [found] = lock([entry(registry, "tiny")])
    assert found.filled == {"hub.revision": first, "sha256": SHA, "size": len(FILE)} and found.moved is None
    write_pins(registry, {"tiny": found.filled})
    assert lock([entry(registry, "tiny")])[0].filled == {}
    assert fetch("tiny", entry(registry, "tiny").weights).read_bytes() == FILE
    second = hub.add("o/n", {"README.md": b"words"})
    [found] = lock([entry(registry, "tiny")])
    assert found.filled == {} and found.moved == f"main is now {second[:12]}: the same file"
    third = hub.add("o/n", {"model.safetensors": FILE[::-1]})
    assert lock([entry(registry, "tiny")])[0].moved == f"main is now {third[:12]}: another file"


def test_lock_never_pins_other_bytes_than_the_known_hash(hub, registry):
    registry.write_text(REGISTRY.replace("sha256: null", f'sha256: "{SHA}"'))
    hub.add("o/n", {"model.safetensors": FILE[::-1]})
    [found] = lock([entry(registry, "tiny")])
    assert found.filled == {} and SHA in (found.moved or "")


def test_lock_hashes_what_the_hub_does_not_state(hub, registry):
    registry.write_text(REGISTRY.replace("repo: o/n", "repo: o/n, file: small.dat"))
    hub.add("o/n", {"small.dat": FILE})
    assert lock([entry(registry, "tiny")])[0].filled["sha256"] == SHA


@pytest.mark.parametrize(("endpoint", "message"), [(None, "no such repository"), ("http://127.0.0.1:9", "cannot reach")])
def test_lock_says_what_stands_in_the_way(hub, registry, monkeypatch, endpoint, message):
    if endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert message in (lock([entry(registry, "tiny")])[0].error or "")
    assert "offline" in (lock([entry(registry, "tiny")], DownloadOptions(offline=True))[0].error or "")


def test_push_publishes_a_pinned_model_with_a_card(hub, registry, tmp_path):
    quantised = entry(registry, "tiny-2bit")
    file = trained(quantised, tmp_path / "q.safetensors")
    with pytest.raises(UserError, match="no licence is known"):
        push(quantised, file, "o/up", check_runs)
    weights = push(quantised, file, "o/up", check_runs, license="mit")
    assert hub.store.get("models", "o/up").main == weights.hub.revision
    write_pins(registry, {"tiny-2bit": pins_of(weights)})
    pinned = entry(registry, "tiny-2bit").weights
    assert pinned == weights
    assert fetch("tiny-2bit", pinned).read_bytes() == file.read_bytes()

    push(entry(registry, "tiny"), trained(entry(registry, "tiny"), tmp_path / "m.safetensors"), "o/up", check_runs)
    tree = hub.store.get("models", "o/up").commits[hub.store.get("models", "o/up").main]
    data = ModelCard(hub.store.read(tree["README.md"].sha256).decode()).data
    assert data.license == "mit" and data.model_name == "tiny"
    [result] = data.eval_results
    assert result.metric_value == 97.5 and result.metric_args == {"w_bits": 32, "a_bits": 32}
    assert "claim" in result.metric_name
    text = hub.store.read(tree["README.md"].sha256).decode()
    assert "The registry claims" in text and "(measured); publishing did not measure it again" in text
    assert b'"arch": "zoo:resnet8-16px"' in hub.store.read(tree["config.json"].sha256)


def test_push_refuses_pickles_and_says_when_the_token_may_not_write(hub, registry, tmp_path, monkeypatch):
    (tmp_path / "m.pt").write_bytes(b"\x80\x04" + b"x" * 100)
    with pytest.raises(UserError, match="no safetensors file"):
        push(entry(registry, "tiny"), tmp_path / "m.pt", "o/up", check_runs)
    trained(entry(registry, "tiny"), tmp_path / "m.safetensors")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match="not allowed to write"):
        push(entry(registry, "tiny"), tmp_path / "m.safetensors", "o/up", check_runs)
    with pytest.raises(UserError, match="Repo id must"):
        push(entry(registry, "tiny"), tmp_path / "m.safetensors", "a/b/c", check_runs)


def test_a_file_that_the_model_does_not_load_is_not_published(hub, registry, tmp_path):
    (tmp_path / "other.safetensors").write_bytes(FILE)
    with pytest.raises(UserError, match="does not fit the architecture"):
        push(entry(registry, "tiny"), tmp_path / "other.safetensors", "o/up", check_runs)
    state = create(entry(registry, "tiny")).state_dict()
    spoilt = {key: value * float("nan") if value.is_floating_point() else value for key, value in state.items()}
    (tmp_path / "broken.safetensors").write_bytes(save(spoilt))
    with pytest.raises(UserError, match="no finite logits of 10 classes"):
        push(entry(registry, "tiny"), tmp_path / "broken.safetensors", "o/up", check_runs)
    assert not any("o/up" in request for request in map(str, hub.requests))


def test_what_a_pushed_file_replaces_is_unpinned(hub, registry, tmp_path):
    fields = ("hub: {repo: o/n, file: old.bin}", "url: https://example.org/old.bin", "keymap: akamaster", "license: mit")
    foreign = "".join(f"      {field}\n" for field in fields)
    start = REGISTRY.index("      hub: {repo")
    end = REGISTRY.index("    # after the weights")
    registry.write_text(REGISTRY[:start] + foreign + REGISTRY[end:])
    tiny = entry(registry, "tiny")
    weights = push(tiny, trained(tiny, tmp_path / "m.safetensors"), "o/up", check_runs)
    write_pins(registry, {"tiny": pins_of(weights, tiny.weights)})
    pinned = entry(registry, "tiny")
    assert pinned.weights == weights and "keymap: null" in registry.read_text()
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_entry(pinned)(x), load_entry(tiny, tmp_path / "m.safetensors")(x))
