"""The main job end to end on the embedded models: the same bytes whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harness.board import check, load
from harness.records import chain
from harness.records.rows import Row, read_clean, read_row, read_rows
from harness.runs.craft import spans
from harness.suites.selection import Selection
from harness.suites.suite import Suite
from harness.suites.suite import load as load_suite
from tests.harness.tiny import run
from zoo import registry
from zoo.errors import UserError
from zoo.registry import load as load_registry

ROOT = Path(__file__).parents[3]
SUITE = """
name: small
version: 1
title: A small suite of embedded models
data: {name: digits, split: test, limit: 45}
budget: {norm: linf, levels: 32}
steps: 4
block: 10
attacks: [pgd, mim]
substitutes: [digits-resnet14, digits-resnet14-2bit, digits-resnet14-2bit-qaa]
pairs:
  - {substitute: digits-resnet14-2bit-qaa, baseline: digits-resnet14, controls: [digits-resnet14-2bit]}
targets:
  Standard: [digits-vgg]
  QNN: [digits-nin-2bit, digits-vgg-4bit]
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return load_suite(str(path))


def canonical(folder: Path) -> dict[str, bytes]:
    return {row.filename: row.canonical() for row in read_rows(folder)}


def digests(folder: Path) -> dict[str, tuple[str, str]]:
    """Images and outcomes of every row, without what describes the machine."""
    return {row.filename: (row.images_sha256, str(sorted(row.outcomes.items()))) for row in read_rows(folder)}


def test_a_run_writes_rows_clean_predictions_suite_and_board(suite: Suite, tmp_path: Path) -> None:
    report = run(suite, tmp_path / "out", workers=1)
    assert len(report.written) == 6 and not report.blocked
    folder = report.folder
    assert folder == tmp_path / "out" / "small" / "v1" and not (folder / "run.json").exists()
    clean = read_clean(folder)
    assert len(clean.labels) == 45 and set(clean.predictions) == set(suite.target_names)
    for row in read_rows(folder):
        assert row.max_level == 32 and row.evidence == "regenerated" and set(row.outcomes) == set(suite.target_names)
        assert row.cost.forwards == 4 and row.cost.backwards == 4
    board = load(folder)
    rates = {line.substitute: line.overall.value for line in board.lines if line.attack == "mim" and line.overall}
    assert min(rates.values()) > 0.05, "MIM at 32 levels fools these nets; a floor of nothing means that crafting is broken"


def test_a_second_run_reuses_every_row_and_the_rows_do_not_change(suite: Suite, tmp_path: Path) -> None:
    selection = Selection(attacks=("mim",))
    first = run(suite, tmp_path / "out", selection, workers=1)
    before = {p: p.read_bytes() for p in first.written}
    second = run(suite, tmp_path / "out", selection, workers=1)
    assert not second.written and sorted(second.reused) == sorted(before)
    assert {p: p.read_bytes() for p in before} == before


def test_neither_batch_size_nor_workers_nor_a_fresh_cache_change_a_byte(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = Selection(attacks=("pgd",), substitutes=("digits-resnet14-2bit-qaa",))
    found = []
    for batch_size, workers in ((1, 1), (7, 2), (64, 1)):
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path / f"cache{batch_size}"))
        out = tmp_path / f"out{batch_size}"
        report = run(suite, out, selection, workers=workers, queue=batch_size)
        assert len(report.written) == 1
        found.append(canonical(report.folder))
    assert found[0] == found[1] == found[2]


def test_another_seed_gives_other_images_and_the_same_seed_the_same(suite: Suite, tmp_path: Path) -> None:
    selection = Selection(attacks=("pgd",), substitutes=("digits-resnet14",), seeds=(0, 5))
    report = run(suite, tmp_path / "out", selection, workers=1)
    assert len({read_row(p).images_sha256 for p in report.written}) == 2


def test_limited_runs_agree_with_full_ones_and_live_in_their_own_folder(suite: Suite, tmp_path: Path) -> None:
    selection = Selection(attacks=("mim",), substitutes=("digits-resnet14-2bit",))
    full = run(suite, tmp_path / "out", selection, workers=1)
    part = run(suite, tmp_path / "out", selection, limit=15, workers=1)
    assert part.folder.name == "v1-limit15" and full.folder.name == "v1"
    whole, few = read_row(full.written[0]), read_row(part.written[0])
    assert few.images == 15 and few.suite_digest != whole.suite_digest
    for target in few.outcomes:
        assert np.array_equal(few.outcomes[target].adv.array, whole.outcomes[target].adv.array[:15])


def test_targets_left_out_stay_visibly_missing_and_are_filled_in_later(suite: Suite, tmp_path: Path) -> None:
    selection = Selection(attacks=("mim",), substitutes=("digits-resnet14",), targets=("digits-vgg",))
    report = run(suite, tmp_path / "out", selection, workers=1)
    (path,) = report.written
    assert set(read_row(path).failures) == {"digits-nin-2bit", "digits-vgg-4bit"}
    again = run(suite, tmp_path / "out", Selection(attacks=("mim",), substitutes=("digits-resnet14",)), workers=1)
    assert again.written == [path] and not read_row(path).failures


def test_a_model_that_cannot_be_had_blocks_its_own_cells_only(suite: Suite, tmp_path: Path) -> None:
    text = SUITE.replace("digits-nin-2bit", "resnet34-2bit").replace("substitutes: [", "substitutes: [resnet34-2bit, ")
    path = tmp_path / "partly.yaml"
    path.write_text(text, encoding="utf-8")
    report = run(load_suite(str(path)), tmp_path / "out", Selection(attacks=("mim",)), workers=1)
    assert len(report.written) == 3 and "zoo build resnet34-2bit" in report.blocked["resnet34-2bit"]
    row = read_row(report.written[0])
    assert "zoo build" in row.failures["resnet34-2bit"] and set(row.outcomes) == {"digits-vgg", "digits-vgg-4bit"}
    text = load(report.folder).to_markdown()
    assert "zoo build resnet34-2bit" in text and "–" in text


def test_a_model_that_misses_its_claim_is_blocked(suite: Suite, tmp_path: Path) -> None:
    pinned = registry.load()["digits-vgg"].weights
    assert pinned is not None
    overlay = tmp_path / "wrong.yaml"
    overlay.write_text(
        "version: 1\nmodels:\n  digits-vgg:\n    family: standard\n    data: digits\n    arch: zoo:vgg-16px\n    classes: 10\n"
        "    input: {size: 16, channels: 1, mean: [7.0], std: [0.01]}\n"
        f"    weights: {{bundled: digits-vgg.safetensors, sha256: {pinned.sha256}}}\n"
        "    clean_accuracy: {top1: 99.0, data: digits, source: test}\n",
        encoding="utf-8",
    )
    report = run(suite, tmp_path / "out", Selection(attacks=("mim",)), workers=1, overlays=[str(overlay)])
    assert "99.0 % claimed" in report.blocked["digits-vgg"] and "zoo eval digits-vgg" in report.blocked["digits-vgg"]


OWN_ATTACK = """
class MyNoise:
    def __call__(self, model, x, y, *, eps, steps, rng):
        return x + rng.uniform(x.shape[1:], -2 * eps, 2 * eps)
"""


def test_an_attack_from_a_file_gets_an_id_and_its_row_can_be_reproduced(suite: Suite, tmp_path: Path) -> None:
    from harness.runs.reproduce import reproduce

    (tmp_path / "own.py").write_text(OWN_ATTACK, encoding="utf-8")
    mine = Selection(attacks=(f"{tmp_path / 'own.py'}:MyNoise",), substitutes=("digits-resnet14",))
    report = run(suite, tmp_path / "out", mine, workers=1)
    (path,) = report.written
    row = read_row(path)
    assert path.name == "digits-resnet14--my-noise--s0.json" and row.max_level == 32 and row.cost.forwards is None
    run(suite, tmp_path / "out", Selection(attacks=("mim",), substitutes=("digits-resnet14",)), workers=1)
    assert reproduce(path).identical


def test_rows_of_another_suite_are_refused_before_anything_runs(suite: Suite, tmp_path: Path) -> None:
    selection = Selection(attacks=("mim",), substitutes=("digits-resnet14",))
    run(suite, tmp_path / "out", selection, workers=1)
    before = digests(tmp_path / "out" / "small" / "v1")
    path = tmp_path / "moved.yaml"
    path.write_text(SUITE.replace("levels: 32", "levels: 16"), encoding="utf-8")
    with pytest.raises(UserError, match="raise the suite's version"):
        run(load_suite(str(path)), tmp_path / "out", selection, workers=1)
    assert digests(tmp_path / "out" / "small" / "v1") == before


def test_check_finds_one_flipped_outcome(suite: Suite, tmp_path: Path) -> None:
    from harness.board import write_files

    report = run(suite, tmp_path / "out", Selection(attacks=("mim",)), workers=1)
    write_files(load(report.folder), report.folder)
    assert check(report.folder) == []
    row = read_row(report.written[0])
    outcome = row.outcomes["digits-vgg"]
    flipped = outcome.adv.array.copy()
    right = read_clean(report.folder).labels.array
    index = int(np.flatnonzero(outcome.clean.array == right)[0])
    flipped[index] = right[index] if flipped[index] != right[index] else (right[index] + 1) % 10
    changed = {**json.loads(row.model_dump_json()), "outcomes": json.loads(row.model_dump_json())["outcomes"]}
    changed["outcomes"]["digits-vgg"]["adv"] = type(outcome.adv)(flipped).encode()
    report.written[0].write_text(Row.model_validate_json(json.dumps(changed)).model_dump_json(indent=1) + "\n", encoding="utf-8")
    assert any("differs from its rows" in problem for problem in check(report.folder))


def test_a_folder_that_cannot_be_written_ends_in_one_paragraph(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="choose another folder with --out"):
        run(suite, tmp_path / "file", Selection(attacks=("mim",)), workers=1)


def test_two_runs_do_not_share_a_folder(suite: Suite, tmp_path: Path) -> None:
    from harness.storage.lock import exclusive

    folder = tmp_path / "out" / "small" / "v1"
    with exclusive(folder), pytest.raises(UserError, match="another run is at work"):
        run(suite, tmp_path / "out", Selection(attacks=("mim",)), workers=1)


def start(tmp_path: Path, out: str, *arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ZOO_CACHE": str(tmp_path / f"cache-{out}")}
    code = "from harness.cli import main; main(prog_name='harness')"
    command = [sys.executable, "-c", code, "run", "--suite", "small.yaml", "--out", out, "--workers", "1", *arguments]
    return subprocess.Popen(
        command, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def test_ctrl_c_ends_with_130_and_the_run_goes_on_from_there(suite: Suite, tmp_path: Path) -> None:
    process = start(tmp_path, "out")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache-out").rglob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "Interrupted" in err
    assert not list(tmp_path.rglob("*.tmp"))
    assert (tmp_path / "out" / "small" / "v1" / "run.json").is_file()


def test_killed_at_any_moment_it_ends_with_the_same_rows(suite: Suite, tmp_path: Path) -> None:
    """Two kills, while it crafts and while it scores; the slow test does twenty at random."""
    killed_and_resumed(tmp_path, [0.4, 0.8])


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_the_same_rows(suite: Suite, tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, np.random.default_rng(0).uniform(0.0, 1.0, 20).tolist())


def killed_and_resumed(tmp_path: Path, moments: list[float]) -> None:
    began = time.monotonic()
    undisturbed = start(tmp_path, "whole")
    _, err = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, err
    duration = time.monotonic() - began
    for moment in moments:
        process = start(tmp_path, "cut")
        try:
            process.wait(timeout=max(0.1, moment * duration))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    last = start(tmp_path, "cut")
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert canonical(tmp_path / "cut" / "small" / "v1") == canonical(tmp_path / "whole" / "small" / "v1")
    assert chain.check(tmp_path / "cut" / "small" / "v1") == [], "no row is written that is not recorded"
    assert not list((tmp_path / "cut").rglob("*.tmp")) and spans(45, 10)[-1] == (40, 45)


def overlay(tmp_path: Path, mean: float, bits: str = "") -> list[str]:
    """Return a registry that shadows a target with another normalisation; the file of its weights stays the same."""
    path = tmp_path / "overlay.yaml"
    path.write_text(
        "version: 1\nmodels:\n  digits-vgg:\n    family: standard\n    data: digits\n    arch: zoo:vgg-16px\n    classes: 10\n"
        f"    input: {{size: 16, channels: 1, mean: [{mean}], std: [0.318]}}\n"
        f"    weights: {{bundled: digits-vgg.safetensors, sha256: {load_registry()['digits-vgg'].weights.sha256}}}\n",  # type: ignore[union-attr]
        encoding="utf-8",
    )
    return [str(path)]


def test_a_target_that_is_described_otherwise_is_not_served_from_the_cache(suite: Suite, tmp_path: Path) -> None:
    part = Selection(attacks=("mim",), substitutes=("digits-resnet14",), targets=("digits-vgg",))
    wrong = run(suite, tmp_path / "wrong", part, workers=1, overlays=overlay(tmp_path, 9.0))
    right = run(suite, tmp_path / "right", part, workers=1, overlays=overlay(tmp_path, 0.305))
    clean = [read_clean(report.folder).predictions["digits-vgg"] for report in (wrong, right)]
    labels = read_clean(right.folder).labels.array
    assert (clean[0].array == labels).mean() < 0.5 < (clean[1].array == labels).mean()
    with pytest.raises(UserError, match="digits-vgg is described otherwise now"):
        run(suite, tmp_path / "wrong", part, workers=1, overlays=overlay(tmp_path, 0.305))


def test_a_substitute_in_other_states_does_not_keep_its_rows(suite: Suite, tmp_path: Path) -> None:
    held = "substitutes: [{{name: q, models: [digits-resnet14-2bit-qaa], states: [{}]}}, digits-resnet14-2bit, digits-resnet14]"
    found = []
    for states in ("w", "wa"):
        path = tmp_path / f"{states}.yaml"
        listed = "substitutes: [digits-resnet14, digits-resnet14-2bit, digits-resnet14-2bit-qaa]"
        text = SUITE.replace(listed, held.format(states))
        path.write_text(text.replace("digits-resnet14-2bit-qaa, baseline", "q, baseline"), encoding="utf-8")
        found.append(load_suite(str(path)))
    part = Selection(attacks=("mim",), substitutes=("q",))
    first = run(found[0], tmp_path / "out", part, workers=1)
    with pytest.raises(UserError, match="rows of another q: it is composed otherwise now"):
        run(found[1], tmp_path / "out", part, workers=1)
    second = run(found[1], tmp_path / "other", part, workers=1)
    images = [read_row(report.written[0]).images_sha256 for report in (first, second)]
    assert images[0] != images[1]


def test_rows_of_a_substitute_that_left_the_suite_stay_white_box(suite: Suite, tmp_path: Path) -> None:
    text = SUITE.replace("Standard: [digits-vgg]", "Standard: [digits-vgg, digits-resnet14]")
    named = tmp_path / "named.yaml"
    named.write_text(text, encoding="utf-8")
    fewer = tmp_path / "fewer.yaml"
    head, _, rest = text.partition("substitutes: [")
    fewer.write_text(f"{head}substitutes: [digits-nin]\ntargets:{rest.partition('targets:')[2]}", encoding="utf-8")
    run(load_suite(str(named)), tmp_path / "out", Selection(attacks=("mim",), substitutes=("digits-resnet14-2bit",)), workers=1)
    report = run(load_suite(str(fewer)), tmp_path / "out", Selection(attacks=("mim",)), workers=1)
    line = load(report.folder).line("digits-resnet14-2bit", "mim")
    assert dict(zip(line.frame.targets, line.whitebox.tolist(), strict=True))["digits-resnet14"]


def test_weights_that_are_replaced_between_runs_of_one_process_are_loaded_anew(suite: Suite, tmp_path: Path) -> None:
    part = Selection(attacks=("mim",), substitutes=("digits-resnet14",), targets=("digits-vgg",))
    first = run(suite, tmp_path / "a", part, workers=1, overlays=overlay(tmp_path, 9.0))
    second = run(suite, tmp_path / "b", part, workers=1, overlays=overlay(tmp_path, 0.305))
    fresh = run(suite, tmp_path / "c", part, workers=1)
    found = [read_clean(report.folder).predictions["digits-vgg"] for report in (first, second, fresh)]
    assert found[0] != found[1] == found[2]
