"""What a notebook expects: boards that show themselves, one-call evaluation, images as files, bars by default."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import harness
import zoo
from harness.attacks import get
from harness.board import Board
from harness.cli import main
from harness.runs.craft import craft
from harness.runs.workspace import Context, forget
from harness.storage import shards
from harness.suites.selection import Job
from tests.harness.tiny import make
from zoo.data import load as load_data
from zoo.errors import UserError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Board]:
    """A folder with a run of tiny networks, their registry, and the board."""
    folder = tmp_path_factory.mktemp("world")
    suite, registry = make(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(folder / "cache"))
        board = harness.run(suite.model_copy(update={"title": "a <b> & c_d"}), overlays=[registry], out=folder / "out", workers=1)
    return folder, registry, board


@pytest.fixture
def at_home(world: tuple[Path, Path, Board], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Board]:
    monkeypatch.setenv("ZOO_CACHE", str(world[0] / "cache"))
    monkeypatch.setenv("ZOO_REGISTRY", str(world[1]))
    forget()
    return world


def test_a_board_shows_itself(world: tuple[Path, Path, Board]) -> None:
    board = world[2]
    assert str(board) == board.to_text()
    html = board._repr_html_()
    assert "a &lt;b&gt; &amp; c_d" in html and "<b>" not in html and html.count("<table>") == 2
    assert all(line.substitute in html for line in board.lines)


def test_a_board_for_a_paper(world: tuple[Path, Path, Board]) -> None:
    text = world[2].to_latex()
    assert text.isascii() and text.count(r"\toprule") == 2 and r"$\pm$" in text and r"\caption{Attack success rate}" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2


def test_a_board_as_a_frame_of_pandas(world: tuple[Path, Path, Board]) -> None:
    pytest.importorskip("pandas")
    board = world[2]
    frame = board.to_pandas()
    assert len(frame) == sum(len(list(line.cells())) for line in board.lines) == 12
    assert frame.whitebox.dtype == bool and frame.asr.dtype == float
    for line in board.lines:
        for cell in line.cells():
            found = frame[(frame.substitute == line.substitute) & (frame.attack == line.attack) & (frame.target == cell.target)]
            assert found.n_correct.item() == cell.n_correct
            if cell.asr is None:
                assert np.isnan(found.asr.item())
            else:
                assert found.asr.item() == pytest.approx(100 * cell.asr.value, abs=1e-3)


def test_a_board_draws_itself(world: tuple[Path, Path, Board], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    board = world[2]
    picture = board.plot("heatmap", tmp_path / "new" / "x.png", attacks=["mim"])
    assert picture._repr_svg_().startswith("<?xml") and picture.figure.axes
    assert (tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"no picture 'heat'; did you mean 'heatmap'"):
        board.plot("heat")
    with pytest.raises(UserError, match="end the name in one of them"):
        board.plot(path=tmp_path / "x.xyz")


@pytest.mark.parametrize(("name", "words"), [("x.xyz", "end the name in one of them"), ("file/x.svg", "--plot")])
def test_a_picture_that_cannot_be_written_is_one_paragraph(
    at_home: tuple[Path, Path, Board], tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "file").write_text("")
    asked = ["board", "--suite", "tiny", "--out", str(at_home[0] / "out"), "--plot", str(tmp_path / name)]
    refused = CliRunner().invoke(main, asked)
    assert refused.exit_code == 2 and refused.stderr.startswith("Error: ") and words in refused.stderr
    assert isinstance(refused.exception, SystemExit)
    asked[-1] = str(tmp_path / "missing" / "folder" / "x.svg")
    assert CliRunner().invoke(main, asked).exit_code == 0 and Path(asked[-1]).is_file()


def test_one_call_measures_what_a_run_measures(at_home: tuple[Path, Path, Board]) -> None:
    """The same images to the byte, and the same rates, as the cell of the board."""
    folder, _, board = at_home
    suite = harness.load_suite(folder / "out" / "tiny" / "v1" / "suite.yaml")
    data = load_data("digits", "test").head(25)
    job = Job("tiny-resnet-2bit", "mim", 0)
    cell = {c.target: c for c in board.line(job.substitute, job.attack).cells()}["tiny-vgg"]
    crafted = craft(Context(suite), job).images
    how = {"attack": "mim", "eps": 32 / 255, "steps": 3, "block": 5}
    for target, images in (("tiny-vgg", data.images), (zoo.load("tiny-vgg"), data.images.float() / 255)):
        found = harness.evaluate(target, images, data.labels, substitute="tiny-resnet-2bit", **how)  # type: ignore[arg-type]
        assert shards.digest(found.adv) == shards.digest(crafted) and found.max_level == 32 and found.n == 25
        assert (found.asr, cell.asr) == (None, None) or found.asr == cell.asr
        assert cell.error is not None and found.robust_accuracy.value == pytest.approx(1 - cell.error.value)
    other = harness.evaluate("tiny-vgg", data.images, data.labels, substitute=zoo.load("tiny-resnet"), **how)  # type: ignore[arg-type]
    assert shards.digest(other.adv) != shards.digest(crafted)


def test_one_call_attacks_the_network_itself() -> None:
    data = load_data("digits", "test").head(30)
    net = zoo.load("digits-vgg")
    modes = [part.training for part in net.modules()], [p.requires_grad for p in net.parameters()]
    found = harness.evaluate(net, data.images, data.labels, attack="pgd", eps=32 / 255)
    assert found.robust_accuracy.value < 0.2 < 0.9 < found.clean_accuracy.value
    assert ([part.training for part in net.modules()], [p.requires_grad for p in net.parameters()]) == modes
    assert "30 images: clean accuracy" in str(found)
    none = harness.evaluate(net, data.images, data.labels, attack=lambda model, x, y, *, eps, steps, rng: x, eps=32 / 255)
    assert none.max_level == 0 and none.asr is not None and none.asr.value == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eps": 8}, "whole number of steps of 1/255"),
        ({"images": torch.rand(2, 1, 16, 16) * 3 - 1}, "before any normalisation"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels"),
        ({"target": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))}, "training mode"),
        ({"attack": "mimm"}, "did you mean 'mim'"),
        ({"attack": lambda model, x, y, *, eps, steps, rng: x * float("nan")}, "not finite"),
        ({"substitute": 5}, "the substitute is"),
    ],
)
def test_what_one_call_refuses(changes: dict[str, object], words: str) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10)).eval()
    given = {"target": net, "images": torch.rand(2, 1, 16, 16), "labels": torch.tensor([1, 2]), **changes}
    with pytest.raises(UserError, match=words):
        harness.evaluate(given.pop("target"), given.pop("images"), given.pop("labels"), **given)  # type: ignore[arg-type]


def test_an_attack_of_ones_own_is_taken_as_it_is() -> None:
    class Half:
        def __call__(self, model, x, y, *, eps, steps, rng):
            model.begin_iteration(0)
            return x + 5 * eps

    x, y = torch.full((2, 1, 16, 16), 0.5), torch.tensor([1, 2])
    net = zoo.load("digits-vgg")
    for offered in (Half, Half()):
        adv = get(offered)(net, x, y, eps=0.1, steps=1, rng=harness_rng())
        assert torch.allclose(adv, x + 0.1), "projected, and the network was given the methods of a substitute"
    assert get(get("mim")) == get("mim")
    with pytest.raises(UserError, match="lacks the parameter 'eps'"):
        get(lambda model, x, y: x)
    with pytest.raises(UserError, match="not by 5"):
        get(5)  # type: ignore[arg-type]


def harness_rng():
    from harness.attacks import Rng

    return Rng(0, range(2))


def test_images_are_written_as_png(at_home: tuple[Path, Path, Board], tmp_path: Path) -> None:
    folder = at_home[0]
    suite = str(folder / "out/tiny/v1/suite.yaml")
    asked = ["images", "--suite", suite, "--substitute", "tiny-resnet", "--out", str(tmp_path / "x")]
    made = CliRunner().invoke(main, [*asked, "--attack", "mim"])
    assert made.exit_code == 0 and "25 images" in made.stdout, made.output
    about = json.loads((tmp_path / "x" / "images.json").read_text())
    read = [np.array(Image.open(tmp_path / "x" / each["file"])) for each in about["images"]]
    assert shards.digest(torch.from_numpy(np.stack(read))[:, None]) == about["sha256"]
    row = json.loads((folder / "out/tiny/v1/rows/tiny-resnet--mim--s0.json").read_text())
    assert about["sha256"] == row["images_sha256"]
    assert [each["label"] for each in about["images"]] == load_data("digits", "test").head(25).labels.tolist()
    assert CliRunner().invoke(main, [*asked, "--attack", "pgd", "--limit", "7"]).exit_code == 0
    assert len(list((tmp_path / "x").glob("*.png"))) == 7, "those of before are gone"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    refused = CliRunner().invoke(main, [*asked[:-1], str(tmp_path / "mine"), "--attack", "mim"])
    assert refused.exit_code == 2 and "no adversarial images" in refused.stderr
    refused = CliRunner().invoke(main, [*asked, "--attack", "mimm"])
    assert refused.exit_code == 2 and "did you mean" in refused.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_over_all_rows_is_shown_by_default(at_home: tuple[Path, Path, Board], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, registry, _ = at_home
    suite = harness.load_suite(folder / "out" / "tiny" / "v1" / "suite.yaml")
    for progress, shown in ((True, True), (False, False)):
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        harness.run(suite, overlays=[registry], out=folder / "out", workers=1, progress=progress)
        assert ("rows: " in screen.getvalue() and "0/4" in screen.getvalue()) is shown, screen.getvalue()
    told: list[tuple[str, int, int]] = []
    harness.run(suite, overlays=[registry], out=folder / "out", workers=1, notify=lambda *what: told.append(what))
    assert told[-1] == ("rows", 4, 4)
