"""Leaderboard folders made for tests of the site, from a small suite on models that the registry knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.board.site.viewer import CLEAN, FOLDER, INDEX, Samples, strip_name, to_png
from harness.records.pinned import Model, PinnedSuite
from harness.records.rows import Row, Size, Submitted, write_clean, write_row
from harness.suites.suite import Suite
from tests.harness.synthetic import DIGEST, SHA, World
from tests.harness.synthetic import Suite as CraftedImages

TARGETS = {"Standard": ("digits-resnet8",), "QNN": ("digits-nin-4bit", "digits-nin-2bit")}
BITS = {"digits-resnet8": 32, "digits-nin-4bit": 4, "digits-nin-2bit": 2}
SUBSTITUTES = ("digits-vgg", "digits-vgg-2bit", "digits-vgg-2bit-qaa")
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=\"window.hacked=1\">'\"}};</textarea>"


def pinned(name: str = "made-up", title: str = "A made-up suite", attacks: Sequence[str] = ("mim", "pgd")) -> PinnedSuite:
    suite = Suite.model_validate(
        {
            "name": name,
            "version": 1,
            "title": title,
            "data": {"name": "digits"},
            "budget": {"levels": 32},
            "steps": 10,
            "attacks": tuple(attacks),
            "substitutes": tuple({"name": s, "models": (s,)} for s in SUBSTITUTES),
            "pairs": ({"substitute": SUBSTITUTES[2], "baseline": SUBSTITUTES[0], "controls": (SUBSTITUTES[1],)},),
            "targets": TARGETS,
            "whitebox": "model",
        }
    )
    widths = {**BITS, **{name: 2 if "2bit" in name else 32 for name in SUBSTITUTES}}
    models = {n: Model(arch="zoo:x", w_bits=w, a_bits=w, sha256=SHA, identity=SHA) for n, w in widths.items()}
    return PinnedSuite(digest=DIGEST, images=60, data_sha256=SHA, models=models, suite=suite)


def world(images: int = 60) -> World:
    return World(CraftedImages(families=TARGETS, bits=BITS, pairs=()), images=images)


def rows(made: World, attacks: Sequence[str] = ("mim", "pgd"), **changes: Any) -> list[Row]:
    size = Size(l2=1.25, ssim=0.8125)
    shares = {name: 0.3 + 0.2 * place for place, name in enumerate(SUBSTITUTES)}
    return [
        made.row(name, attack, share=share, size=size, composition=f"Attack({attack})", **changes)
        for attack in attacks
        for name, share in shares.items()
    ]


def hostile(row: Row) -> Row:
    """A row whose submitter tries to write HTML wherever words are free."""
    submission = Submitted(
        authors=(HOSTILE,),
        paper="javascript:window.hacked=1",
        license=HOSTILE,
        source_sha256=None,
        bundle_sha256=SHA,
        isolation=HOSTILE,
    )
    failures = {"digits-nin-2bit": HOSTILE}
    outcomes = {t: o for t, o in row.outcomes.items() if t not in failures}
    provenance = row.provenance.model_copy(update={"platform": HOSTILE})
    words = {"composition": HOSTILE, "notes": HOSTILE, "submission": submission, "provenance": provenance}
    words |= {"outcomes": outcomes, "failures": failures, "attack": "theirs", "evidence": "rescored"}
    return row.model_copy(update=words)


def fill(folder: Path, suite: PinnedSuite, made: World, lines: Sequence[Row]) -> None:
    """Write a leaderboard folder."""
    (folder / "rows").mkdir(parents=True)
    suite.write(folder)
    write_clean(folder, made.clean)
    for row in lines if len(lines) < 100 else ():
        write_row(folder, row)
    for row in lines if len(lines) >= 100 else ():  # a chain of thousands grows with their square
        (folder / "rows" / row.filename).write_text(row.model_dump_json())


def analysis(folder: Path) -> None:
    """Write what an analysis leaves beside a board."""
    (folder / "analysis").mkdir()
    for name, text in (("shift.json", "{}"), ("shift.csv", "a,b\n"), ("shift.svg", '<svg xmlns="http://www.w3.org/2000/svg"/>')):
        (folder / "analysis" / name).write_text(text)


def strips(folder: Path, lines: Sequence[Row], count: int = 3) -> np.ndarray:
    """Write strips of made-up images beside a board, and return the clean images."""
    random = np.random.default_rng(0)
    clean = random.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    (folder / FOLDER).mkdir()
    (folder / FOLDER / CLEAN).write_bytes(to_png(clean))
    for row in lines:
        adv = np.clip(clean.astype(int) + random.choice([-32, 32], clean.shape), 0, 255).astype(np.uint8)
        (folder / FOLDER / strip_name(row.filename)).write_bytes(to_png(adv))
    index = Samples(
        suite_digest=DIGEST,
        indices=tuple(range(count)),
        shape=(3, 8, 8),
        strips={row.filename: row.images_sha256 for row in lines},
    )
    (folder / FOLDER / INDEX).write_text(index.model_dump_json())
    return clean
