"""The walls stand: what submitted code must not do is stopped with a reason, and the next block finds no trace."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from harness.attacks import Images, Rng, get
from harness.sandbox import Limits, Sandbox, SubmissionError, backends, seccomp, server
from harness.sandbox.box import LIVING, PREFIX, sweep_stale
from harness.sandbox.world import World, describe
from harness.substitutes import Substitute
from tests.harness.sandbox.boxes import ENTRY, HONEST, MIM, craft, furnish, images, weights
from tests.harness.sandbox.hostile import HOSTILE, WALLS, Hostile
from zoo.errors import UserError
from zoo.loading.load import load_entry

LIMITS = Limits(seconds=1, memory=256 * 2**20, file=2**20, scratch=8 * 2**20)
PATIENT = replace(LIMITS, seconds=60)
BACKENDS = ("namespaces", "bubblewrap")


def opened(choice: backends.Choice, limits: Limits = LIMITS) -> Sandbox:
    """Return a started sandbox, or skip saying why the kernel forbids it."""
    try:
        return Sandbox(choice, limits).__enter__()
    except UserError as error:
        pytest.skip(f"no {choice} here: {error}")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    os.environ["CANARY"] = "a secret of the user"
    walled = opened("auto")
    del os.environ["CANARY"]
    try:
        yield furnish(walled, tmp_path_factory.mktemp("weights"))
    finally:
        walled.close()


@pytest.fixture
def patient(box: Sandbox) -> Sandbox:
    """The same sandbox, with time enough for a machine that is busy."""
    box.limits = PATIENT
    return box


@pytest.mark.parametrize("hostile", [pytest.param(h, id=name) for name, h in HOSTILE.items()])
def test_hostile_code_is_stopped_with_a_reason(box: Sandbox, hostile: Hostile) -> None:
    if "libc.syscall" in hostile.source and platform.machine() != "x86_64":
        pytest.skip("the numbers of these calls are x86_64's")
    box.limits = LIMITS if "longer than" in hostile.reason else PATIENT  # a machine that is busy is no reason
    with pytest.raises(SubmissionError) as caught:
        craft(box, hostile.source)
    assert re.search(hostile.reason, str(caught.value)), str(caught.value)
    assert str(caught.value).isprintable()


def test_there_are_enough_hostile_attacks() -> None:
    assert len(HOSTILE) >= 50


def test_after_all_that_an_honest_attack_still_gets_through(patient: Sandbox) -> None:
    found = craft(patient, HONEST)
    assert torch.equal(found, images()[0][:4].float() / 255)


def test_the_sandbox_crafts_the_same_bytes_as_the_harness(patient: Sandbox, tmp_path: Path) -> None:
    pixels, labels = images()
    substitute = Substitute(load_entry(ENTRY, weights(tmp_path)), feature_layer="net.layer2")
    with substitute.session():
        expected = get("mim")(
            substitute,
            pixels[:4].float() / 255,
            labels[:4],
            eps=32 / 255,
            steps=3,
            rng=Rng(0, [0, 1, 2, 3], "cpu"),
            pool=Images(pixels, labels),
        )
    assert torch.equal(craft(patient, MIM), expected)


def test_a_block_leaves_nothing_for_the_next(patient: Sandbox) -> None:
    source = """
import os, sys, torch
before = sorted(os.listdir("/scratch")), hasattr(torch, "trace_of_me")
torch.trace_of_me = True
os.makedirs("folder/inner")
open("file", "w").write("x")

def attack(model, x, y, **settings):
    model.module.net.trace = True
    assert before == (["submission"], False), before
    return x
"""
    for _ in range(2):
        craft(patient, source)


def test_global_generators_are_seeded_by_seed_and_block(patient: Sandbox) -> None:
    source = "import torch\ndef attack(model, x, y, **settings):\n    return torch.rand_like(x)\n"
    first = craft(patient, source)
    assert torch.equal(first, craft(patient, source))
    assert not torch.equal(first, craft(patient, source, seed=1))
    assert not torch.equal(first, craft(patient, source, indices=(4, 5, 6, 7)))


def test_passes_are_counted(patient: Sandbox) -> None:
    made = patient.craft({"attack.py": MIM}, {}, eps=0.1, steps=3, seed=0, indices=[0, 1], image_bytes=1024)
    assert (made.forwards, made.backwards) == (3, 3)


LIARS = {
    "patches what counted": "import harness.sandbox.worker as w, contextlib\nw.audited = lambda m: contextlib.nullcontext({})\n",
    "patches the messages": (
        "import harness.sandbox.frames as f\nold = f.encode\n"
        "f.encode = lambda head, body=b'': old({**head, 'forwards': 0, 'backwards': 0}, body)\n"
    ),
    "patches its own side": (
        "import harness.sandbox.oracle as o\no.Oracle._count = lambda *a: None\no.Oracle.counts = {}\n"
    ),
}


@pytest.mark.parametrize("lie", LIARS.values(), ids=LIARS)
def test_passes_are_counted_where_the_code_cannot_reach(patient: Sandbox, lie: str) -> None:
    made = patient.craft({"attack.py": lie + MIM}, {}, eps=0.1, steps=3, seed=0, indices=[0, 1], image_bytes=1024)
    assert (made.forwards, made.backwards) == (3, 3)


def test_passes_inside_the_substitute_are_not_counted(patient: Sandbox) -> None:
    options: dict[str, Any] = {"eps": 0.1, "steps": 3, "seed": 0, "indices": [0, 1], "image_bytes": 1024}
    made = patient.craft({"attack.py": MIM}, {}, **options, internals=True)
    assert (made.forwards, made.backwards) == (None, None)
    assert made.data == patient.craft({"attack.py": MIM}, {}, **options).data


@pytest.mark.parametrize(
    "name", ["mim", "fia", *(pytest.param(n, marks=pytest.mark.slow) for n in ("naa", "ila", "ssa", "admix", "vmi", "pgn"))]
)
def test_an_attack_makes_the_same_bytes_with_the_substitute_sealed(patient: Sandbox, name: str) -> None:
    options: dict[str, Any] = {"eps": 32 / 255, "steps": 3, "seed": 0, "indices": [0, 1, 2], "image_bytes": 1024}
    source = MIM.replace('"mim"', f'"{name}"')
    inside = patient.craft({"attack.py": source}, {}, **options, internals=True)
    assert inside.data == patient.craft({"attack.py": source}, {}, **options).data


def test_attacks_that_need_the_inside_say_so(patient: Sandbox) -> None:
    with pytest.raises(SubmissionError, match="residual"):
        craft(patient, MIM.replace('"mim"', '"sgm"'))


def family(pid: int) -> set[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(place.parent.name)] = int(place.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def lives(pid: int) -> bool:
    """Return whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_closed_sandbox_leaves_no_process(tmp_path: Path) -> None:
    walled = opened("auto", PATIENT)
    furnish(walled, tmp_path)
    assert walled._process is not None
    members = family(walled._process.pid)
    assert len(members) >= 3, "the server, and the process that holds the substitute"
    walled.close()
    until = time.monotonic() + 30
    while any(map(lives, members)) and time.monotonic() < until:
        time.sleep(0.05)
    assert [pid for pid in members if lives(pid)] == []


@pytest.mark.parametrize("choice", [BACKENDS[0], pytest.param(BACKENDS[1], marks=pytest.mark.slow)])
def test_each_backend_closes_its_walls(box: Sandbox, choice: backends.Choice, tmp_path: Path) -> None:
    if box.isolation.startswith(choice):
        assert set(WALLS) <= set(HOSTILE), "all of them were tried behind these walls above"
        return
    walled = opened(choice, PATIENT)
    try:
        furnish(walled, tmp_path)
        assert walled.isolation.startswith(choice) and "seccomp" in walled.isolation
        for name in WALLS:
            with pytest.raises(SubmissionError) as caught:
                craft(walled, HOSTILE[name].source)
            assert re.search(HOSTILE[name].reason, str(caught.value)), f"{name}: {caught.value}"
        assert craft(walled, HONEST).shape == (4, 1, 16, 16)
    finally:
        walled.close()


def test_without_isolation_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "order", tuple)
    with pytest.raises(UserError, match=r"no isolation for submitted code works here.*--sandbox none"), Sandbox():
        pass


def test_a_hole_in_the_walls_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened("namespaces").close()
    shown = tmp_path / "shown"
    shown.mkdir(mode=0o755)
    secret = shown / "secret"
    secret.write_text("x")

    def careless(stage: Path) -> World:
        world = describe(stage)
        return replace(world, binds=(*world.binds, (str(shown), str(shown))), forbidden=(str(secret),))

    monkeypatch.setattr("harness.sandbox.box.describe", careless)
    with pytest.raises(UserError, match=r"walls have holes: .*secret is in sight"), Sandbox("namespaces"):
        pass


def test_the_user_may_insist_and_it_says_so(tmp_path: Path) -> None:
    with Sandbox("none", LIMITS) as bare:
        furnish(bare, tmp_path)
        assert bare.isolation.startswith("none (")
        assert craft(bare, HONEST).shape == (4, 1, 16, 16)


def test_the_filter_knows_this_machines_calls() -> None:
    header = Path("/usr/include") / f"{platform.machine()}-linux-gnu" / "asm" / "unistd_64.h"
    if platform.machine() != "x86_64" or not header.is_file():
        pytest.skip("no list of this kernel's calls is installed")
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    assert {name: str(n) for name, n in seccomp.numbers("x86_64").items()}.items() <= known.items()


def test_a_killed_sandbox_says_so() -> None:
    walled = opened("auto")
    try:
        assert walled._process is not None
        walled._process.kill()
        with pytest.raises(SubmissionError, match="the sandbox ended"):
            craft(walled, HONEST)
    finally:
        walled.close()


def test_a_start_that_fails_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("harness.sandbox.box.describe", lambda stage: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), Sandbox("none"):
        pass
    assert list(tmp_path.iterdir()) == []


USER = """
import re, sys
from pathlib import Path
from harness.sandbox import Limits, Sandbox, SubmissionError
from tests.harness.sandbox.boxes import HONEST, craft, furnish
from tests.harness.sandbox.hostile import HOSTILE, WALLS
from zoo.errors import UserError

try:
    walled = Sandbox(sys.argv[1], Limits(seconds=30, memory=256 * 2**20, file=2**20, scratch=8 * 2**20)).__enter__()
except UserError as error:
    sys.exit(f"SKIP {error}")
furnish(walled, Path(sys.argv[2]))
for name in WALLS:
    try:
        craft(walled, HOSTILE[name].source)
        print("NOT STOPPED", name)
    except SubmissionError as error:
        print("stopped" if re.search(HOSTILE[name].reason, str(error)) else f"OTHERWISE {error}:", name)
print("honest", tuple(craft(walled, HONEST).shape), walled.isolation)
walled.close()
"""


def _pythons() -> list[str]:
    """Pythons that an ordinary user can start with these packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [p for p in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}") if Path(p).exists()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; the other tests run as an ordinary one then")
@pytest.mark.parametrize("choice", [pytest.param("namespaces", marks=pytest.mark.slow), "bubblewrap"])
def test_the_walls_stand_for_an_ordinary_user(choice: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    libraries = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="ordinary-"))
    os.chown(place, 12345, 12345)
    try:
        for python in _pythons():
            environment = {"PYTHONPATH": os.pathsep.join([str(root), *libraries]), "HOME": str(place), "PATH": "/usr/bin:/bin"}
            options: dict[str, Any] = {"user": 12345, "group": 12345, "extra_groups": [], "cwd": place, "env": environment}
            try:
                command = [python, "-c", USER, choice, str(place)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
            except PermissionError:
                continue
            if done.stderr.startswith("SKIP"):
                pytest.skip(done.stderr)
            if "ModuleNotFoundError" in done.stderr or "Permission denied" in done.stderr:
                continue
            lines = done.stdout.splitlines()
            assert lines[:-1] == [f"stopped {name}" for name in WALLS], done.stdout + done.stderr
            assert lines[-1].startswith("honest (4, 1, 16, 16)") and "user namespace" in lines[-1]
            return
        pytest.skip("no Python here can be started by an ordinary user")
    finally:
        shutil.rmtree(place)


def test_weights_in_sight_are_a_hole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened("namespaces").close()
    shown = tmp_path / "shown"
    shown.mkdir(mode=0o755)
    (shown / "target.safetensors").write_bytes(b"x")

    def careless(stage: Path) -> World:
        world = describe(stage)
        return replace(world, binds=(*world.binds, (str(shown), str(shown))))

    monkeypatch.setattr("harness.sandbox.box.describe", careless)
    with pytest.raises(UserError, match=r"walls have holes: .*target.safetensors is in sight"), Sandbox("namespaces"):
        pass


def test_a_place_to_write_is_a_hole(tmp_path: Path) -> None:
    for name in ("scratch", "library/inner", "open", "closed"):
        (tmp_path / name).mkdir(parents=True)
    tmp_path.chmod(0o755)
    found = server.around([str(tmp_path / "library")], str(tmp_path / "scratch"), str(tmp_path))
    assert f"{tmp_path / 'open'} can be written" in found
    assert not any("scratch" in hole or "inner" in hole for hole in found)


def test_the_packages_of_another_python_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    (base / "site-packages" / "zoo" / "bundled").mkdir(parents=True)
    (base / "python3" / "dist-packages").mkdir(parents=True)
    monkeypatch.setattr("harness.sandbox.world.sysconfig.get_path", lambda name: str(base))
    (tmp_path / "stage").mkdir()
    hidden = describe(tmp_path / "stage").hidden
    assert {str(base / "site-packages"), str(base / "python3" / "dist-packages")} <= set(hidden)


def test_a_broken_frame_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    walled = opened("auto")
    try:
        process = walled._process
        assert process is not None
        monkeypatch.setattr("harness.sandbox.frames.MAX_HEAD", 1)
        with pytest.raises(SubmissionError, match="and was ended"):
            craft(walled, HONEST)
        assert process.wait(5) != 0
    finally:
        walled.close()


@pytest.mark.slow
def test_limits_that_are_lower_already_stay(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
from harness.sandbox import Sandbox
from tests.harness.sandbox.boxes import HONEST, craft, furnish
with Sandbox("none") as walled:
    print(tuple(craft(furnish(walled, Path(sys.argv[1])), HONEST).shape))
"""
    root = str(Path(__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(4, 1, 16, 16)", done.stderr


def test_what_a_killed_process_left_behind_is_swept(tmp_path: Path) -> None:
    dead, living, foreign = (tmp_path / f"{PREFIX}{name}" for name in ("dead", "living", "foreign"))
    for folder in (dead, living, foreign):
        (folder / "package").mkdir(parents=True)
    for folder in (dead, living):
        (folder / LIVING).touch()
    with FileLock(living / LIVING):
        sweep_stale(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == [foreign.name, living.name]
