"""Weights arrive verified or not at all, whatever the server does."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.hub_server import TOKEN, Hub, serve
from zoo.errors import UserError
from zoo.hub import Cache, DownloadOptions, Patience, fetch, fetch_with, pull_many, routes, verify_all
from zoo.hub import weights as weights_module
from zoo.registry.entry import HubFile, Weights

FILE = save({"w": torch.arange(40_000, dtype=torch.float32)})
SHA = hashlib.sha256(FILE).hexdigest()
QUICK = Patience(connect=1.0, read=0.4, attempts=3, backoff=0.01)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def options(hub):
    return DownloadOptions(patience=QUICK)


def on_hub(hub: Hub, content: bytes = FILE, **pins) -> Weights:
    revision = hub.add("o/n", {"model.safetensors": content})
    pins = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), **pins}
    return Weights(hub=HubFile(repo="o/n", revision=revision), **pins)


def nothing_wrong_in(cache: Cache) -> bool:
    return all(hashlib.sha256(h.path.read_bytes()).hexdigest() == h.key for h in cache if not h.partial)


@pytest.mark.parametrize("cdn", [False, True])
def test_second_fetch_and_offline_make_no_request(hub, options, cdn):
    hub.cdn = cdn
    weights = on_hub(hub)
    path = fetch("m", weights)
    assert path.read_bytes() == FILE and path.name == SHA
    seen = len(hub.requests)
    assert fetch("m", weights) == path
    assert fetch("m", weights, offline=True) == path
    assert len(hub.requests) == seen


def test_offline_without_the_file_says_so(hub, monkeypatch):
    weights = on_hub(hub)
    with pytest.raises(UserError, match="offline mode is on"):
        fetch("m", weights, offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="offline mode is on"):
        fetch("m", weights)
    assert hub.requests == []


HARMLESS = {
    "errors that pass": {"kind": "error", "status": 503, "times": 2},
    "rate limit": {"kind": "error", "status": 429, "times": 1},
    "a stall": {"kind": "stall", "after": 5000, "times": 1, "seconds": 2.0},
    "a hang-up": {"kind": "truncate", "after": 70_000, "times": 2},
    "altered once": {"kind": "alter", "after": 9000, "times": 1},
    "short once": {"kind": "short", "after": 9000, "times": 1},
    "long once": {"kind": "long", "times": 1},
}


@pytest.mark.parametrize("fault", HARMLESS.values(), ids=HARMLESS)
@pytest.mark.parametrize("stated", [True, False], ids=["size", "nosize"])
def test_passing_faults_end_in_the_right_file(hub, options, fault, stated):
    weights = on_hub(hub, **({} if stated else {"size": None}))
    hub.fail(**fault)
    assert fetch_with(options, "m", weights).read_bytes() == FILE
    assert not [h for h in options.cache if h.partial]


LASTING = {
    "errors": ({"kind": "error", "status": 500}, "answered 500"),
    "stalls": ({"kind": "stall", "after": 0, "seconds": 2.0}, "Timeout"),
    "hang-ups": ({"kind": "truncate", "after": 0}, "gave up after 3 tries"),
    "alteration": ({"kind": "alter", "after": 9000}, "its sha256 is .* instead of"),
    "shorter": ({"kind": "short", "after": 9000}, "9000 bytes instead of|its sha256"),
    "longer": ({"kind": "long"}, "bytes instead of|its sha256"),
    "redirects": ({"kind": "redirect"}, "redirect"),
    "html": ({"kind": "html"}, "HTML page"),
    "gone": ({"kind": "error", "status": 410}, "answered 410"),
}


@pytest.mark.parametrize(("fault", "message"), LASTING.values(), ids=LASTING)
@pytest.mark.parametrize("stated", [True, False], ids=["size", "nosize"])
def test_lasting_faults_end_in_an_error_and_no_wrong_byte(hub, options, fault, message, stated):
    weights = on_hub(hub, **({} if stated else {"size": None}))
    hub.fail(**fault)
    begun = time.monotonic()
    with pytest.raises(UserError, match=message) as caught:
        fetch_with(options, "m", weights)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("m: ")
    assert options.cache.find(SHA) is None
    assert nothing_wrong_in(options.cache)
    assert time.monotonic() - begun < 5


def test_a_dead_endpoint_fails_in_a_few_seconds(hub, monkeypatch):
    weights = on_hub(hub)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(UserError, match="ConnectError"):
        fetch("m", weights)
    assert time.monotonic() - begun < 4


def test_a_download_resumes_in_the_next_run(hub, options):
    weights = on_hub(hub)
    hub.fail("truncate", after=100_000, times=1)
    hub.fail("error", times=10)
    with pytest.raises(UserError, match="is kept and resumed"):
        fetch_with(options, "m", weights)
    part = options.cache.part(SHA)
    assert part.stat().st_size == 100_000 and options.cache.find(SHA) is None
    hub.faults.clear()
    hub.requests.clear()
    assert fetch_with(options, "m", weights).read_bytes() == FILE
    assert hub.requests[0].headers["range"] == "bytes=100000-"


@pytest.mark.parametrize("left", [FILE[:50_000][::-1], b"x" * len(FILE), b"x" * (len(FILE) + 9)])
def test_a_spoilt_part_is_thrown_away(hub, options, left):
    weights = on_hub(hub)
    options.cache.part(SHA).write_bytes(left)
    assert fetch_with(options, "m", weights).read_bytes() == FILE


def test_a_server_that_ignores_ranges_is_read_from_the_start(hub, options):
    weights = on_hub(hub)
    options.cache.part(SHA).write_bytes(FILE[:1000])
    hub.fail("norange")
    assert fetch_with(options, "m", weights).read_bytes() == FILE


def test_missing_gated_and_private(hub, options, monkeypatch):
    revision = hub.add("o/gated", {"model.safetensors": FILE}, gated=True)
    gated = Weights(hub=HubFile(repo="o/gated", revision=revision), sha256=SHA)
    with pytest.raises(UserError, match=r"gated .*accept its terms at http.*o/gated.*HF_TOKEN"):
        fetch_with(options, "m", gated)
    none = Weights(hub=HubFile(repo="o/none", revision="1" * 40), sha256=SHA)
    with pytest.raises(UserError, match="no such repository, or a private one"):
        fetch_with(options, "m", none)
    moved = on_hub(hub).model_copy(update={"hub": HubFile(repo="o/n", revision="1" * 40)})
    with pytest.raises(UserError, match="no such revision"):
        fetch_with(options, "m", moved)
    other = moved.model_copy(update={"hub": HubFile(repo="o/n", file="other.safetensors")})
    with pytest.raises(UserError, match="no such file"):
        fetch_with(options, "m", other)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch_with(options, "m", gated).read_bytes() == FILE


def test_the_token_stays_with_the_hub(hub, options, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.cdn = True
    weights = on_hub(hub)
    fetch_with(options, "m", weights)
    by_path = {r.path.split("/")[1]: r.headers for r in hub.requests}
    assert "authorization" in by_path["o"] and "authorization" not in by_path["cdn"]
    hub.requests.clear()
    url = Weights(url=f"{hub.url}/o/n/resolve/main/model.safetensors", sha256=SHA)
    options.cache.remove(SHA)
    fetch_with(options, "m", url)
    assert all("authorization" not in r.headers for r in hub.requests)


def test_without_a_hash_only_on_request(hub, options, tmp_path):
    weights = on_hub(hub, sha256=None, size=None)
    with pytest.raises(UserError, match=r"gives no sha256 .* `zoo lock m`"):
        fetch_with(options, "m", weights)
    hub.fail("alter", after=900)
    with pytest.raises(UserError, match="its sha256 is"):  # against what the server states for the file
        fetch_with(options, "m", weights, unpinned=True)
    hub.faults.clear()
    assert fetch_with(options, "m", weights, unpinned=True).name == SHA
    hub.requests.clear()
    assert fetch_with(options, "m", weights, unpinned=True).name == SHA
    assert hub.requests == []
    (tmp_path / "mine.safetensors").write_bytes(FILE)
    with pytest.raises(UserError, match=f"zoo lock mine.*`sha256: {SHA}`"):
        fetch_with(options, "mine", Weights(file=str(tmp_path / "mine.safetensors")))


def test_a_null_revision_is_fine_when_the_hash_is_known(hub, options):
    weights = on_hub(hub).model_copy(update={"hub": HubFile(repo="o/n")})
    assert fetch_with(options, "m", weights).name == SHA
    options.cache.remove(SHA)
    hub.add("o/n", {"model.safetensors": FILE[::-1]})
    with pytest.raises(UserError, match="its sha256 is"):
        fetch_with(options, "m", weights)


def test_routes_fall_back_and_say_what_failed(hub, options, tmp_path, monkeypatch):
    (tmp_path / "bundled").mkdir()
    monkeypatch.setattr(weights_module, "bundled_file", lambda name: tmp_path / "bundled" / name)
    good = hub.add("o/n", {"model.safetensors": FILE})
    everywhere = Weights(
        bundled="b.safetensors",
        hub=HubFile(repo="o/none", revision=good),
        url=f"{hub.url}/o/n/resolve/main/model.safetensors",
        file=str(tmp_path / "local.safetensors"),
        sha256=SHA,
    )
    assert [r.kind for r in routes(everywhere)] == ["hub", "url", "file"]
    assert fetch_with(options, "m", everywhere).name == SHA
    assert next(r.kind for r in routes(everywhere)) == "cache"
    options.cache.remove(SHA)
    hub.fail("error", status=404)
    with pytest.raises(UserError, match=r"no file .*b.safetensors; then .*; then .*; then .*no file .*local"):
        fetch_with(options, "m", everywhere)
    (tmp_path / "local.safetensors").write_bytes(FILE)
    assert fetch_with(options, "m", everywhere) == tmp_path / "local.safetensors"
    (tmp_path / "bundled/b.safetensors").write_bytes(FILE)
    assert fetch_with(options, "m", everywhere) == tmp_path / "bundled/b.safetensors"
    (tmp_path / "bundled/b.safetensors").write_bytes(FILE[:-1] + b"x")
    (tmp_path / "local.safetensors").write_bytes(FILE[:-1] + b"x")
    with pytest.raises(UserError, match="was altered"):
        fetch_with(options, "m", everywhere)


class Marker:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize("route", ["bundled", "hub", "url", "file", "cache"])
def test_a_malicious_pickle_is_refused_on_every_route(hub, options, tmp_path, monkeypatch, route, form):
    marker, evil = tmp_path / "executed", tmp_path / "evil.bin"
    if form == "pickle":
        evil.write_bytes(pickle.dumps(Marker(str(marker))))
    else:
        torch.save({"w": Marker(str(marker))}, evil)
    content, sha = evil.read_bytes(), hashlib.sha256(evil.read_bytes()).hexdigest()
    monkeypatch.setattr(weights_module, "bundled_file", lambda name: tmp_path / name)
    revision = hub.add("o/evil", {"model.safetensors": content})
    where = {
        "bundled": {"bundled": "evil.bin"},
        "hub": {"hub": HubFile(repo="o/evil", revision=revision)},
        "url": {"url": f"{hub.url}/o/evil/resolve/main/model.safetensors"},
        "file": {"file": str(evil)},
        "cache": {"hub": HubFile(repo="o/evil", revision=revision)},
    }[route]
    if route == "cache":  # some data set may have put those very bytes there
        (tmp_path / "cache/blobs").mkdir(parents=True)
        options.cache.blob(sha).write_bytes(content)
    with pytest.raises(UserError, match="no safetensors file"):
        fetch_with(options, "m", Weights(**where, sha256=sha))
    assert not marker.exists()


def test_verify_finds_one_altered_byte_anywhere(hub, options):
    weights = on_hub(hub)
    path = fetch_with(options, "m", weights)
    before = path.stat()
    for position in (0, 100, len(FILE) // 2, len(FILE) - 1):
        path.write_bytes(FILE[:position] + bytes([FILE[position] ^ 1]) + FILE[position + 1 :])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert [v.status for v in verify_all({"m": weights}, options.cache)] == ["altered"]
        assert fetch_with(options, "m", weights).read_bytes() == FILE  # noticed without hashing every time, and replaced
    assert [v.status for v in verify_all({"m": weights}, options.cache)] == ["ok"]


def test_verify_reports_missing_and_unlisted(hub, options):
    weights = on_hub(hub)
    fetch_with(options, "m", weights)
    other = weights.model_copy(update={"sha256": "0" * 64})
    options.cache.part("1" * 64).write_bytes(b"half")
    verdicts = {(v.status, v.name) for v in verify_all({"other": other}, options.cache)}
    assert verdicts == {("missing", "other"), ("unlisted", "")}


def test_hashing_is_skipped_only_while_the_file_is_untouched(hub, options, monkeypatch):
    path = fetch_with(options, "m", on_hub(hub))
    from zoo.hub import cache as cache_module

    hashed: list[Path] = []
    real = cache_module.sha256_of
    monkeypatch.setattr(cache_module, "sha256_of", lambda p: hashed.append(p) or real(p))
    assert options.cache.find(SHA) == path and hashed == []
    os.utime(path)
    assert options.cache.find(SHA) == path and hashed == [path]
    assert options.cache.find(SHA) == path and hashed == [path]


def test_many_at_once(hub, options):
    models = {}
    for i in range(6):
        content = save({"w": torch.full((1000,), float(i))})
        revision = hub.add(f"o/m{i}", {"model.safetensors": content})
        models[f"m{i}"] = Weights(hub=HubFile(repo=f"o/m{i}", revision=revision), sha256=hashlib.sha256(content).hexdigest())
    models["twin"] = models["m0"]
    models["bad"] = models["m1"].model_copy(update={"sha256": "0" * 64})
    pulled = {p.name: p for p in pull_many(models, options)}
    assert list(pulled) == list(models)
    assert all(p.path for n, p in pulled.items() if n != "bad")
    assert pulled["bad"].path is None and "its sha256 is" in (pulled["bad"].error or "")
    assert sum("/m0/" in p for p in hub.paths()) == 1
    seen = len(hub.requests)
    assert all(p.path for p in pull_many({n: w for n, w in models.items() if n != "bad"}, options))
    assert len(hub.requests) == seen


def test_stop_ends_running_downloads_and_keeps_the_part(hub, options):
    weights = on_hub(hub)
    options.stop.set()
    [pulled] = pull_many({"m": weights}, options)
    assert pulled.path is None and "interrupted" in (pulled.error or "")
    assert options.cache.find(SHA) is None


def test_several_threads_want_the_same_file(hub, options):
    weights = on_hub(hub)
    hub.fail("stall", after=1000, seconds=0.2, times=1)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_with(options, "m", weights))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.read_bytes() for p in found] == [FILE] * 3


def partial_size(options: DownloadOptions) -> int:
    return sum(h.size for h in options.cache if h.partial)


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_download_leaves_nothing_trusted_and_is_resumed(hub, options):
    weights = on_hub(hub)
    hub.fail("stall", after=90_000, seconds=3.0, times=1)
    record = f"Weights.model_validate_json({weights.model_dump_json()!r})"
    code = f"from zoo.registry.entry import Weights; from zoo.hub import fetch; fetch('m', {record})"
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: partial_size(options) >= 90_000)
    process.kill()
    process.wait()
    assert options.cache.find(SHA) is None and partial_size(options) == 90_000
    assert fetch_with(options, "m", weights).read_bytes() == FILE
    assert hub.requests[-1].headers["range"] == "bytes=90000-"


def test_ctrl_c_ends_a_pull_that_waits_for_a_silent_server(hub, options, tmp_path):
    weights = on_hub(hub)
    hub.fail("stall", after=90_000, seconds=3.0)
    overlay = tmp_path / "mine.json"  # JSON is YAML
    entry = {"parent": "resnet34", "weights": json.loads(weights.model_dump_json(exclude_none=True))}
    overlay.write_text(json.dumps({"version": 1, "models": {"mine": entry}}))
    command = [sys.executable, "-m", "zoo.cli", "--registry", str(overlay), "pull", "mine"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: partial_size(options) >= 90_000)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130 and "Interrupted" in told and "Traceback" not in told
    assert time.monotonic() - begun < 3


def test_a_bug_in_one_download_is_not_swallowed(hub, options, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(weights_module, "fetch_with", broken)
    with pytest.raises(ZeroDivisionError):
        pull_many({"m": on_hub(hub)}, options)


def test_importing_the_hub_is_cheap():
    code = "import sys, zoo.hub; print([m for m in ('torch', 'huggingface_hub', 'httpx2', 'tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_progress_goes_to_standard_error(hub, capsys):
    fetch("m", on_hub(hub), progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "m:" in captured.err
