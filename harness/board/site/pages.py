"""Writes the site: an index, a page for every board, row, model and attack, and the files to download."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.board import Board
from harness.board.plots import PLOTS
from harness.board.plots.style import Choice, inline_svg, open_style
from harness.board.site import row_view, viewer
from harness.board.site.catalogue import attacks
from harness.board.site.heat import heat
from harness.board.site.view import COMMON, View, in_percent
from harness.records import chain
from harness.records.pinned import PinnedSuite
from harness.records.rows import read_absent, read_clean, read_rows
from harness.storage.files import cannot, read_bytes
from zoo.errors import UserError
from zoo.registry import registry as registries
from zoo.registry.listing import details, unknown
from zoo.registry.registry import natural

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
MARK = ".harness-site"
"""A file that says that a folder is a site of ours, whose pages may be replaced."""
FIGURES = {
    "bits": "ASR against the bitwidth of the target",
    "gains": "Gains",
    "cost": "ASR against cost",
}


ANALYSES = {
    "shift": "Feature shift, layer by layer (Eq. 8)",
    "alignment": "Alignment of input gradients (Eq. 9), and rival measures",
    "batchnorm": "Batch normalisation in each state",
    "states": "States held fixed",
    "sharpness": "Loss sharpness (Eqs. 10 and 11)",
    "margins": "ASR against clean margin",
}
"""What `harness analyze` may have left beside a board."""


@dataclass
class Built:
    """What was built."""

    folder: Path
    boards: int = 0
    pages: int = 0
    skipped: list[str] = field(default_factory=list)
    """Boards that could not be read, with the reason."""


def build(out: Path, leaderboards: Path, overlays: Sequence[str | Path] = ()) -> Built:
    """Write the site of every board below a folder of leaderboards.

    A board that cannot be read is left out and named in `skipped`, and on the index page.

    Raises:
        UserError: Jinja2 or matplotlib is not installed, there is no board, or `out` holds something that is no site.
    """
    registry = registries.load(overlays)
    built = Built(out)
    views = []
    for folder in sorted(leaderboards.glob("*/v*"), key=lambda path: natural(path.as_posix())):
        if (folder / "suite.yaml").is_file():
            try:
                views.append(_view(folder, registry))
            except UserError as error:
                built.skipped.append(f"{folder}: {error}")
    if not views:
        raise UserError(f"{leaderboards} holds no board{''.join(f'; {why}' for why in built.skipped)}; make one: harness run")
    _prepare(out)
    writer = _Writer(_environment(), built)
    for view in views:
        _board(writer, view)
    _models(writer, views, registry)
    _attacks(writer, views)
    newest = {v.board.suite.name: v for v in views if v.whole}
    writer.page("index.html", "index.html", views=views, newest=newest, skipped=built.skipped, suites=_by_suite(views))
    built.boards = len(views)
    return built


def _view(folder: Path, registry: registries.Registry) -> View:
    pinned = PinnedSuite.read(folder)
    rows = tuple(read_rows(folder))
    board = Board(pinned, rows, read_clean(folder), read_absent(folder).rows)
    return View(board, rows, pinned, folder, registry)


def _by_suite(views: Sequence[View]) -> dict[str, list[View]]:
    found: dict[str, list[View]] = defaultdict(list)
    for view in reversed(views):
        found[view.board.suite.name].append(view)
    return dict(sorted(found.items()))


def _prepare(out: Path) -> None:
    """Empty the folder when it is a site of ours, and put the assets there."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise UserError(f"{out} holds other files, which a site would be mixed with; give --out an empty or a new folder")
    try:
        if out.is_dir():
            for entry in out.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        shutil.copytree(HERE / "assets", out / "assets", dirs_exist_ok=True)
        (out / MARK).write_text("made by harness site; made anew each time\n", encoding="utf-8")
        (out / ".nojekyll").write_text("", encoding="utf-8")
    except OSError as error:
        raise cannot("write", out, error) from error


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise UserError("the site needs Jinja2: pip install 'qnn-transfer-zoo[plots]'") from error
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"points": _points, "p": _p, "words": _words}
    return made


def _points(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _words(value: Any) -> str:
    """Return a value of the registry as words: lists by commas, records by semicolons, without what is not set."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_words(each)}" for key, each in value.items() if each not in (None, {}, []))
    return ", ".join(map(_words, value)) if isinstance(value, list | tuple) else str(value)


@dataclass
class _Writer:
    """Renders templates into the site and counts them."""

    environment: Environment
    built: Built

    def page(self, template: str, place: str, **content: Any) -> None:
        root = "../" * place.count("/")
        text = self.environment.get_template(template).render(root=root, place=place, **content)
        self.file(place, text)
        self.built.pages += 1

    def file(self, place: str, content: str | bytes) -> None:
        path = self.built.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        try:
            path.write_bytes(data)
        except OSError as error:
            raise cannot("write", path, error) from error


def _board(writer: _Writer, view: View) -> None:
    board, place = view.board, view.place
    entries = view.entries()
    changelog = view.folder / "CHANGELOG.md"
    payload = {"scopes": [s.key for s in view.scopes], "rows": [e["scopes"] for e in entries]}
    writer.page(
        "board.html",
        f"{place}/index.html",
        view=view,
        board=board,
        entries=entries,
        payload=payload,
        common=COMMON,
        figures=_figures(view),
        heat=heat(view),
        analyses=_analyses(writer, view),
        problems=chain.check(view.folder),
        changelog=read_bytes(changelog).decode(errors="replace").strip() if changelog.is_file() else "",
    )
    for name, text in board.files().items():
        writer.file(f"{place}/{name}", text)
    samples = viewer.read(view.folder)
    strips = _strips(writer, view, samples) if samples is not None else set()
    for line in view.lines:
        rows = view.rows_of[line.substitute, line.attack, line.evidence]
        writer.page(
            "row.html",
            f"{place}/rows/{view.page_of(line)}",
            view=view,
            line=line,
            overall=in_percent(line.overall),
            own=in_percent(line.own),
            described=attacks().get(line.attack),
            targets=row_view.targets(view, line),
            seeds=row_view.seeds(line),
            rows=[
                {
                    "row": row,
                    "file": f"rows/{row.filename}",
                    "facts": row_view.origin(view, row, view.folder),
                    "command": row_view.command(row, view.folder),
                    "viewer": row_view.images(view, row, samples, row.filename in strips),
                }
                for row in rows
            ],
            gains=view.gains_of.get(_key(line), []),
            reported=[f for f in view.reported if (f["substitute"], f["attack"]) == _key(line)[:2]],
        )
        for row in rows:
            writer.file(f"{place}/rows/{row.filename}", read_bytes(view.folder / "rows" / row.filename))


def _key(line: Any) -> tuple[str, str, str]:
    return line.substitute, line.attack, line.evidence


def _figures(view: View) -> list[dict[str, str]]:
    """Draw the pictures of a board; one that has nothing to show is left out."""
    from markupsafe import Markup

    made = []
    for kind, words in FIGURES.items():
        try:
            with open_style(view.pinned.digest + view.version + kind):
                figure = PLOTS[kind](view.board, Choice(most=40))
                label = f"{words}: {view.board.suite.name} {view.version}; the table holds the same figures"
                made.append({"kind": kind, "title": words, "svg": Markup(inline_svg(figure, label))})
        except UserError:
            continue
    return made


def _analyses(writer: _Writer, view: View) -> list[dict[str, Any]]:
    """Copy what analyses left beside a board, and return it for the page."""
    made = []
    for kind, words in ANALYSES.items():
        files = sorted((view.folder / "analysis").glob(f"{kind}[.-]*"))
        named = [p.name for p in files if p.suffix in (".json", ".csv", ".svg")]
        for name in named:
            writer.file(f"{view.place}/analysis/{name}", read_bytes(view.folder / "analysis" / name))
        if named:
            tables = [name for name in named if not name.endswith(".svg")]
            picture = f"{kind}.svg" if f"{kind}.svg" in named else ""
            made.append({"kind": kind, "title": words, "picture": picture, "tables": tables})
    return made


def _strips(writer: _Writer, view: View, samples: viewer.Samples) -> set[str]:
    """Copy the strips of the rows that they were cut from, with the differences drawn large; return those rows' names."""
    folder = view.folder / viewer.FOLDER
    found: set[str] = set()
    if samples.suite_digest != view.pinned.digest:
        return found
    clean = viewer.from_png(folder / viewer.CLEAN, samples)
    writer.file(f"{view.place}/{viewer.FOLDER}/{viewer.CLEAN}", viewer.to_png(clean))
    for row in view.rows:
        name = viewer.strip_name(row.filename)
        if samples.strips.get(row.filename) != row.images_sha256 or not (folder / name).is_file():
            continue
        adv = viewer.from_png(folder / name, samples)
        difference = viewer.amplified(clean, adv, view.board.suite.budget.levels)
        writer.file(f"{view.place}/{viewer.FOLDER}/{name}", viewer.to_png(adv))
        writer.file(f"{view.place}/{viewer.FOLDER}/difference-{name}", viewer.to_png(difference))
        found.add(row.filename)
    return found


def _models(writer: _Writer, views: Sequence[View], registry: registries.Registry) -> None:
    used: dict[str, dict[str, list[View]]] = defaultdict(lambda: {"target": [], "substitute": []})
    for view in views:
        for name in view.board.frame.targets:
            used[name]["target"].append(view)
        for substitute in dict.fromkeys(line.substitute for line in view.lines):
            for name in view.models_of(substitute):
                if view not in used[name]["substitute"]:
                    used[name]["substitute"].append(view)
    entries = sorted(registry.values(), key=lambda e: natural(e.name))
    for entry in entries:
        facts = details(entry, registry)
        facts.pop("registry")
        children = [e.name for e in entries if e.parent == entry.name]
        content = {"entry": entry, "facts": facts, "unknown": unknown(entry), "used": used[entry.name], "children": children}
        writer.page("model.html", f"models/{entry.name}.html", **content)
    writer.page("models.html", "models/index.html", entries=entries, used=used)


def _attacks(writer: _Writer, views: Sequence[View]) -> None:
    found: dict[str, list[tuple[View, Any]]] = defaultdict(list)
    for view in reversed(views):
        for line in view.lines:
            found[line.attack].append((view, line))
    names = list(dict.fromkeys([*attacks(), *found]))
    for name in names:
        content = {"name": name, "described": attacks().get(name), "lines": found[name]}
        writer.page("attack.html", f"attacks/{name}.html", **content)
    writer.page("attacks.html", "attacks/index.html", names=names, described=attacks(), found=found)
