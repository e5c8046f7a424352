"""The walls stand: what submitted code must not do is stopped with a reason, and the next block finds no trace."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.attacks import Images, Rng, get
from harness.sandbox import Limits, Sandbox, SubmissionError, backends, seccomp
from harness.sandbox.world import World, describe
from harness.substitutes import Substitute
from tests.harness.sandbox.boxes import ENTRY, HONEST, MIM, craft, furnish, images, weights
from tests.harness.sandbox.hostile import HOSTILE, Hostile
from zoo.errors import UserError
from zoo.loading.load import load_entry

LIMITS = Limits(seconds=1, memory=256 * 2**20, file=2**20, scratch=8 * 2**20)
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


@pytest.mark.parametrize("hostile", [pytest.param(h, id=name) for name, h in HOSTILE.items()])
def test_hostile_code_is_stopped_with_a_reason(box: Sandbox, hostile: Hostile) -> None:
    if "libc.syscall" in hostile.source and platform.machine() != "x86_64":
        pytest.skip("the numbers of these calls are x86_64's")
    box.limits = replace(LIMITS, seconds=30) if "os.walk" in hostile.source else LIMITS
    with pytest.raises(SubmissionError) as caught:
        craft(box, hostile.source)
    assert re.search(hostile.reason, str(caught.value)), str(caught.value)
    assert str(caught.value).isprintable()


def test_there_are_enough_hostile_attacks() -> None:
    assert len(HOSTILE) >= 50


def test_after_all_that_an_honest_attack_still_gets_through(box: Sandbox) -> None:
    found = craft(box, HONEST)
    assert torch.equal(found, images()[0][:4].float() / 255)


def test_the_sandbox_crafts_the_same_bytes_as_the_harness(box: Sandbox, tmp_path: Path) -> None:
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
    assert torch.equal(craft(box, MIM), expected)


def test_a_block_leaves_nothing_for_the_next(box: Sandbox) -> None:
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
        craft(box, source)


def test_global_generators_are_seeded_by_seed_and_block(box: Sandbox) -> None:
    source = "import torch\ndef attack(model, x, y, **settings):\n    return torch.rand_like(x)\n"
    first = craft(box, source)
    assert torch.equal(first, craft(box, source))
    assert not torch.equal(first, craft(box, source, seed=1))
    assert not torch.equal(first, craft(box, source, indices=(4, 5, 6, 7)))


def test_passes_are_counted(box: Sandbox) -> None:
    made = box.craft({"attack.py": MIM}, {}, eps=0.1, steps=3, seed=0, indices=[0, 1], image_bytes=1024)
    assert (made.forwards, made.backwards) == (3, 3)


@pytest.mark.parametrize("choice", BACKENDS)
def test_each_backend_closes_its_walls(choice: backends.Choice, tmp_path: Path) -> None:
    walled = opened(choice)
    try:
        furnish(walled, tmp_path)
        assert walled.isolation.startswith(choice) and "seccomp" in walled.isolation
        for name in (
            "opens a socket",
            "reads the targets",
            "writes outside",
            "lists the home folder",
            "reads the environment",
        ):
            with pytest.raises(SubmissionError):
                craft(walled, HOSTILE[name].source)
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


def test_a_killed_sandbox_says_so(tmp_path: Path) -> None:
    walled = opened("auto")
    try:
        furnish(walled, tmp_path)
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
