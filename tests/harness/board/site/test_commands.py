"""The commands of the site end to end: a run, its sample images, its pages, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from harness.board.site.viewer import FOLDER, from_png, read
from harness.cli import main
from harness.runs.samples import sample
from zoo.data import load as load_data


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_sample_images_are_those_of_the_row_or_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    boards, some = tmp_path / "boards", ["--limit", "8", "--workers", "1", "--target", "digits-nin-2bit"]
    attack = ["--attack", "mim", "--substitute", "digits-vgg"]
    assert call("run", "--suite", "digits-qnn", *attack, *some, "--out", str(boards)).exit_code == 0
    (folder,) = (boards / "digits-qnn").glob("v*-limit8")
    done = call("samples", "--suite", "digits-qnn", "--limit", "8", "--images", "3", "--out", str(boards))
    assert done.exit_code == 0 and "strips of 1 rows" in done.output
    samples = read(folder)
    assert samples is not None and samples.indices == (0, 3, 7)
    clean = from_png(folder / FOLDER / "clean.png", samples)
    assert np.array_equal(clean, load_data("digits", "test").images[[0, 3, 7]].numpy())
    adv = from_png(folder / FOLDER / "digits-vgg--mim--s0.png", samples)
    levels = np.abs(adv.astype(int) - clean.astype(int)).max()
    assert 0 < levels <= 32

    site = tmp_path / "site"
    assert call("site", "--out", str(site), "--leaderboards", str(boards), "--strict").exit_code == 0
    page = (site / "boards/digits-qnn" / folder.name / "rows/digits-vgg--mim.html").read_text()
    assert page.count('class="sample"') == 3 and "Mean L2 · SSIM" in page

    path = folder / "rows" / "digits-vgg--mim--s0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "images_sha256": "0" * 64}))
    made = sample(folder, 3)
    assert made.written == [] and "other bytes" in made.left_out["digits-vgg--mim--s0.json"]


def test_mistakes_end_in_one_paragraph(tmp_path: Path) -> None:
    for arguments, words in (
        (["site", "--out", str(tmp_path / "site"), "--leaderboards", str(tmp_path)], "holds no board"),
        (["plot", "bits", str(tmp_path / "x.gif"), "--suite", "digits-qnn"], "end the name in one of them"),
        (["plot", "bits", str(tmp_path / "x.svg"), "--suite", "digits-qnn", "--attack", "nobodys"], "no rows of nobodys"),
        (["analyze", "shift", "--suite", "digits-qnn", "--target", "nobody"], "unknown model 'nobody'"),
        (["analyze", "states", "--suite", "digits-qnn", "--model", "digits-vgg"], "alternates its states"),
    ):
        done = call(*arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert words in done.output and "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []
