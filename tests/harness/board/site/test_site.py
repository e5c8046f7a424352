"""The site without a browser: what it holds, what it escapes, what it leaves alone, and that it needs no torch."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from harness.board.site import build
from harness.board.site.catalogue import attacks
from harness.board.site.viewer import FOLDER as STRIPS
from harness.board.site.viewer import amplified, from_png, read, to_png
from harness.records.pinned import Deployment
from tests.harness.board.site.worlds import HOSTILE, analysis, fill, hostile, pinned, rows, strips, world
from zoo.errors import UserError

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("site")
    made = world()
    lines = rows(made)
    folder = base / "boards" / "made-up" / "v1"
    fill(folder, pinned(), made, [*lines, hostile(lines[0])])
    strips(folder, lines[:2])
    analysis(folder)
    build(base / "site", base / "boards")
    return base / "site"


class Page(HTMLParser):
    """Collects what a page refers to, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self.links += [value for key in ("href", "src") if (value := given.get(key))]


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_link_leads_to_a_file_and_none_leaves_the_site(site: Path) -> None:
    for path in pages(site):
        for link in Page(path.read_text()).links:
            if link.startswith(("#", "data:,")):
                continue
            assert not re.match(r"[a-z]+:|//", link), f"{path}: {link}"
            assert (path.parent / link.partition("#")[0]).is_file(), f"{path}: {link}"


def test_what_a_submission_says_stands_as_text(site: Path) -> None:
    page = (site / "boards/made-up/v1/rows/digits-vgg--theirs--rescored.html").read_text()
    assert html.escape(HOSTILE, quote=False).replace("'", "&#39;").replace('"', "&#34;") in page
    for path in pages(site):
        text = path.read_text()
        assert "<script>window" not in text and "<img src=x" not in text, path
        for tag, given in Page(text).tags:
            assert not any(key.startswith("on") for key in given), (path, tag, given)
            assert not str(given.get("href")).startswith("javascript"), path
    board = (site / "boards/made-up/v1/index.html").read_text()
    assert json.loads(re.search(r'id="data">(.*?)</script>', board, re.S)[1])["rows"]  # type: ignore[index]


def test_a_row_page_says_how_to_make_it_again(site: Path) -> None:
    page = (site / "boards/made-up/v1/rows/digits-vgg--mim.html").read_text()
    assert re.search(r"<pre>harness reproduce \S*made-up/v1/rows/digits-vgg--mim--s0\.json</pre>", page)
    theirs = (site / "boards/made-up/v1/rows/digits-vgg--theirs--rescored.html").read_text()
    assert "<pre>harness verify " in theirs
    assert 'href="digits-vgg--mim--s0.json"' in page and (site / "boards/made-up/v1/rows/digits-vgg--mim--s0.json").is_file()


def test_the_image_viewer_says_what_each_target_says(site: Path) -> None:
    page = (site / "boards/made-up/v1/rows/digits-vgg--mim.html").read_text()
    assert page.count('<article class="sample"') == 3
    first = page.split('<article class="sample"')[1]
    made = world()
    row = rows(made)[0]
    for target, outcome in row.outcomes.items():
        answers = [(int(p.array[0]), "✓" if p.array[0] == made.labels[0] else "✗") for p in (outcome.clean, outcome.adv)]
        cells = "".join(rf"<td class=\"\w+\">{said} {sign}</td>" for said, sign in answers)
        assert re.search(rf"{target}</th>{cells}", first), target
    assert "class=\"sample\"" not in (site / "boards/made-up/v1/rows/digits-vgg--pgd.html").read_text()


def test_what_analyses_left_is_shown_and_kept(site: Path) -> None:
    board = (site / "boards/made-up/v1/index.html").read_text()
    assert 'src="analysis/shift.svg"' in board and 'href="analysis/shift.csv"' in board
    assert (site / "boards/made-up/v1/analysis/shift.json").read_text() == "{}"


def test_strips_keep_every_byte_and_differences_fill_the_scale(tmp_path: Path) -> None:
    made = world()
    lines = rows(made)
    clean = strips(tmp_path, lines[:1])
    samples = read(tmp_path)
    assert samples is not None
    assert np.array_equal(from_png(tmp_path / STRIPS / "clean.png", samples), clean)
    grey = clean[:, :1]
    (tmp_path / "grey.png").write_bytes(to_png(grey))
    one = samples.model_copy(update={"shape": (1, 8, 8)})
    assert np.array_equal(from_png(tmp_path / "grey.png", one), grey)
    base = np.full((1, 1, 1, 3), 100, dtype=np.uint8)
    assert amplified(base, np.array([[[[84, 100, 116]]]], dtype=np.uint8), 16).tolist() == [[[[0, 128, 255]]]]


def test_strips_of_other_images_are_not_shown(tmp_path: Path) -> None:
    made = world()
    lines = rows(made)
    folder = tmp_path / "boards" / "made-up" / "v1"
    fill(folder, pinned(), made, lines)
    strips(folder, [lines[0].model_copy(update={"images_sha256": "0" * 64})])
    build(tmp_path / "site", tmp_path / "boards")
    page = (tmp_path / "site/boards/made-up/v1/rows/digits-vgg--mim.html").read_text()
    assert 'class="sample"' not in page


def test_a_board_that_cannot_be_read_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    made = world()
    fill(tmp_path / "boards" / "made-up" / "v1", pinned(), made, rows(made))
    broken = tmp_path / "boards" / "broken" / "v1"
    fill(broken, pinned("broken"), made, [])
    (broken / "clean.json").write_text("{")
    built = build(tmp_path / "site", tmp_path / "boards")
    assert built.boards == 1 and len(built.skipped) == 1 and "clean.json" in built.skipped[0]
    assert "broken" in (tmp_path / "site/index.html").read_text()


def test_a_board_of_another_precision_says_so_and_does_not_stand_for_its_suite(tmp_path: Path) -> None:
    made = world()
    lines = rows(made)
    fill(tmp_path / "boards" / "made-up" / "v1", pinned(), made, lines)
    fast = [r.model_copy(update={"provenance": r.provenance.model_copy(update={"precision": "tf32"})}) for r in lines]
    fill(tmp_path / "boards" / "made-up" / "v1-tf32", pinned(), made, fast)
    build(tmp_path / "site", tmp_path / "boards")
    assert "Computed in tf32" in (tmp_path / "site/boards/made-up/v1-tf32/index.html").read_text()
    assert "Computed in" not in (tmp_path / "site/boards/made-up/v1/index.html").read_text()
    card = (tmp_path / "site/index.html").read_text().split('<article class="card">')[1]
    assert 'href="boards/made-up/v1/index.html"' in card.split("Other versions")[0]


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    made = world()
    fill(tmp_path / "boards" / "made-up" / "v1", pinned(), made, rows(made))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        build(tmp_path, tmp_path / "boards")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    for _ in range(2):  # a site is replaced
        build(tmp_path / "site", tmp_path / "boards")
    with pytest.raises(UserError, match="holds no board"):
        build(tmp_path / "other", tmp_path / "nothing")


def test_the_sources_describe_the_attacks_as_the_package_does() -> None:
    from harness.attacks.registry import ALIASES, PRESETS

    described = attacks()
    assert described.keys() == PRESETS.keys()
    for name, preset in PRESETS.items():
        said = described[name]
        assert (said.category, said.source, said.doc) == (preset.category, preset.source, preset.doc), name
        assert set(said.aliases) == {alias for alias, of in ALIASES.items() if of == name}


@pytest.mark.parametrize("chosen", ["imagenet-edge", pytest.param("*", marks=pytest.mark.slow)])
def test_the_site_of_the_committed_boards_is_built_without_torch(tmp_path: Path, chosen: str) -> None:
    (tmp_path / "boards").mkdir()
    for folder in (ROOT / "leaderboards").glob(chosen):
        (tmp_path / "boards" / folder.name).symlink_to(folder)
    code = (
        "import sys; from pathlib import Path; from harness.board.site import build; "
        f"b = build(Path({str(tmp_path / 'site')!r}), Path({str(tmp_path / 'boards')!r})); "
        "assert not b.skipped, b.skipped; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    boards = {p.parent.relative_to(ROOT / "leaderboards") for p in (ROOT / "leaderboards").glob(f"{chosen}/v*/suite.yaml")}
    assert boards
    assert {p.parent.relative_to(tmp_path / "site/boards") for p in (tmp_path / "site/boards").glob("*/v*/index.html")} == boards


def test_several_processes_write_the_same_bytes(tmp_path: Path) -> None:
    made = world()
    for name in ("v1", "v1-limit30"):
        fill(tmp_path / "boards" / "made-up" / name, pinned(), made, rows(made)[:2])
    alone = build(tmp_path / "alone", tmp_path / "boards")
    together = build(tmp_path / "together", tmp_path / "boards", workers=2)
    assert alone.pages == together.pages and together.boards == 2
    files = sorted(p.relative_to(tmp_path / "alone") for p in (tmp_path / "alone").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "together") for p in (tmp_path / "together").rglob("*") if p.is_file())
    for name in files:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "together" / name).read_bytes(), name


def test_a_board_with_a_deployed_target_shows_gaps_and_flips_and_others_do_not(tmp_path: Path) -> None:
    suite, made = pinned(), world()
    known = Deployment(precise="digits-resnet8", emulated="digits-nin-4bit")
    models = {**suite.models, "digits-nin-2bit": suite.models["digits-nin-2bit"].model_copy(update={"deployed": known})}
    pages = []
    for name, changed in (("plain", suite), ("device", suite.model_copy(update={"models": models}))):
        fill(tmp_path / name / "made-up" / "v1", changed, made, rows(made))
        build(tmp_path / f"site-{name}", tmp_path / name)
        pages.append((tmp_path / f"site-{name}" / "boards" / "made-up" / "v1" / "index.html").read_text())
    plain, device = pages
    assert 'id="deployment-' not in plain
    assert 'id="deployment-gap"' in device and 'id="deployment-flips"' in device
    section = device.split('id="deployment-gap"')[1].split("</section>")[0]
    assert section.count("<tr>") == 1 + 1 + 6  # a head, the clean images, six rows
