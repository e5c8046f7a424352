"""Networks of one's own: saved, named in a registry of one's own, made by one's own code, and never by anybody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import zoo
from zoo.cli import main
from zoo.errors import UserError
from zoo.loading.load import create, identity
from zoo.registry import load
from zoo.registry import registry as registry_module

INPUT = {"size": 16, "channels": 1, "mean": [0.5], "std": [0.5]}
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8, fail=False):
        super().__init__()
        if fail:
            raise RuntimeError("no such width")
        self.conv = nn.Conv2d(1, width, 3, 2, 1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))

number = 5
def made(): return 5
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    (tmp_path / "mynet.py").write_text(CODE)
    return tmp_path


def registry(folder: Path, **models: dict[str, Any]) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "models": models}, sort_keys=False))
    registry_module._load.cache_clear()
    return path


def own(**fields: Any) -> dict[str, Any]:
    return {"family": "standard", "data": "digits", "arch": "mynet.py:Net", "classes": 10, "input": INPUT, **fields}


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--registry", str(path), *arguments])


@pytest.mark.parametrize("name", ["digits-resnet14", "digits-resnet14-2bit"])
def test_a_model_that_was_saved_is_a_model_of_ones_own(home: Path, name: str) -> None:
    model, x = zoo.load(name), torch.rand(4, 1, 16, 16)
    saved = zoo.save(model, home / "new" / "my-net.safetensors")
    path = registry(home, **{"my-net": {"parent": name, "family": zoo.entry(name).family, "weights": {"file": str(saved)}}})
    assert run(path, "lock", "my-net").exit_code == 0
    again = zoo.load("my-net", registry=[path])
    assert torch.equal(again(x), model(x))
    with pytest.raises(UserError, match="end the name in"):
        zoo.save(model, home / "x.pt")
    with pytest.raises(UserError, match="copy that"):
        zoo.save(zoo.load("digits-resnet14-2bit-qaa"), home / "x.safetensors")
    (home / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        zoo.save(model, home / "file" / "x.safetensors")


def test_the_state_dict_of_a_loaded_model_loads(home: Path) -> None:
    model, x = zoo.load("digits-resnet14"), torch.rand(4, 1, 16, 16)
    assert all(key.startswith("net.") for key in model.state_dict())
    save_file(model.state_dict(), home / "wrapped.safetensors")
    fields = {"parent": "digits-resnet14", "weights": {"file": "wrapped.safetensors"}}
    path = registry(home, **{"my-net": fields})
    assert run(path, "lock", "my-net").exit_code == 0
    assert torch.equal(zoo.load("my-net", registry=[path])(x), model(x))
    state = {key.replace("net.", "other.", 1): value for key, value in load_file(home / "wrapped.safetensors").items()}
    save_file(state, home / "wrapped.safetensors")
    assert run(path, "lock", "--again", "my-net").exit_code == 0
    with pytest.raises(UserError, match="does not fit the architecture"):
        zoo.load("my-net", registry=[path])


def test_code_of_ones_own_makes_a_model(home: Path) -> None:
    path = registry(home, mine=own(weights={"file": "w.safetensors"}, arch_args={"width": 6}), kin={"parent": "mine"})
    torch.manual_seed(0)
    net = create(load([path])["mine"])
    zoo.save(net, home / "w.safetensors")
    assert run(path, "lock", "mine").exit_code == 0
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(zoo.load("mine", registry=[path])(x), net((x - 0.5) / 0.5))
    assert json.loads(run(path, "eval", "mine", "--limit", "20", "--json").stdout)[0]["n"] == 20
    before = load([path])["mine"]
    assert before.arch.startswith("own:mynet.py-Net-") and load([path])["kin"].arch == before.arch
    (home / "mynet.py").write_text(CODE.replace("torch.relu", "torch.tanh"))
    with pytest.raises(UserError, match="changed or removed since"):
        create(before)
    registry_module._load.cache_clear()
    after = load([path])["mine"]
    assert after.arch != before.arch and identity(after) != identity(before), "another code is another model"
    assert not torch.equal(zoo.load("mine", registry=[path])(x), net((x - 0.5) / 0.5))


def test_a_child_of_other_code_or_none(home: Path) -> None:
    path = registry(home, mine=own(), other={"parent": "mine", "arch": "zoo:resnet8-16px"})
    assert load([path])["other"].arch_file is None
    create(load([path])["other"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arch": "absent.py:Net"}, "there is no file"),
        ({"arch": "own:mynet.py-Net-0123456789abcdef"}, "by its file and class"),
        ({"arch_file": "/tmp/x.py:Net"}, "by its file and class"),
        ({"arch": "mynet.py:"}, "arch"),
    ],
)
def test_an_entry_that_names_no_code_is_refused(home: Path, fields: dict[str, Any], words: str) -> None:
    refused = run(registry(home, mine=own(**fields)), "show", "mine")
    assert refused.exit_code == 2 and words in refused.stderr and "models.mine" in refused.stderr


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arch": "mynet.py:Nets"}, "has no class 'Nets'; did you mean 'Net'"),
        ({"arch": "mynet.py:number"}, "has no class 'number'"),
        ({"arch": "mynet.py:made"}, "makes a int, not an nn.Module"),
        ({"arch_args": {"depth": 3}}, "TypeError"),
        ({"arch_args": {"fail": True}}, "RuntimeError: no such width"),
        ({"arch": "broken.py:Net"}, "cannot be loaded: SyntaxError"),
    ],
)
def test_code_that_makes_no_network_is_one_paragraph(home: Path, fields: dict[str, Any], words: str) -> None:
    (home / "broken.py").write_text("class Net(")
    with pytest.raises(UserError) as refused:
        create(load([registry(home, mine=own(**fields))])["mine"])
    assert words in str(refused.value)


def test_the_registry_of_the_package_names_no_code(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could alter it, or a submission that shadows it, would otherwise run code on everybody's machine."""
    path = registry(home, mine=own())
    monkeypatch.setattr(registry_module, "main_file", lambda: path)
    with pytest.raises(UserError, match="only a registry file of your own"):
        load()


def test_reading_a_registry_runs_nothing(home: Path) -> None:
    (home / "mynet.py").write_text("raise SystemExit('run')")
    path = registry(home, mine=own())
    assert run(path, "list", "mine").exit_code == 0 and run(path, "show", "mine").exit_code == 0


def test_a_bundle_brings_no_registry() -> None:
    from harness.submit.bundle import Manifest

    assert not {"registry", "overlays", "models"} & set(Manifest.model_fields)
