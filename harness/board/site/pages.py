"""Builds the site: its folder, the pages of every board, and an index, the models and the attacks."""

from __future__ import annotations

import multiprocessing
import shutil
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.board.site.board_pages import board_pages, open_view, write_board
from harness.board.site.catalogue import attacks
from harness.board.site.view import View
from harness.board.site.writer import HERE, Writer, open_writer
from harness.storage.files import cannot
from zoo.errors import UserError
from zoo.registry import registry as registries
from zoo.registry.listing import details, unknown
from zoo.registry.registry import natural

MARK = ".harness-site"
"""A file that says that a folder is a site of ours, whose pages may be replaced."""


@dataclass
class Built:
    """What was built."""

    folder: Path
    boards: int = 0
    pages: int = 0
    skipped: list[str] = field(default_factory=list)
    """Boards that could not be read, with the reason."""


def build(out: Path, leaderboards: Path, overlays: Sequence[str | Path] = (), workers: int = 1) -> Built:
    """Write the site of every board below a folder of leaderboards.

    A board that cannot be read is left out and named in `skipped`, and on the index page. With several workers, boards are
    written by as many processes, which start afresh: call it from a module that may be imported. The bytes are the same.

    Raises:
        UserError: Jinja2 or matplotlib is not installed, there is no board, or `out` holds something that is no site.
    """
    registry = registries.load(overlays)
    built = Built(out)
    views = []
    for folder in sorted(leaderboards.glob("*/v*"), key=lambda path: natural(path.as_posix())):
        if (folder / "suite.yaml").is_file():
            try:
                views.append(open_view(folder, registry))
            except UserError as error:
                built.skipped.append(f"{folder}: {error}")
    if not views:
        raise UserError(f"{leaderboards} holds no board{''.join(f'; {why}' for why in built.skipped)}; make one: harness run")
    writer = open_writer(out)
    _prepare(out)
    if workers > 1 and len(views) > 1:
        built.pages = _side_by_side(writer, views, registry, built.skipped, overlays, workers)
    else:
        for view in views:
            board_pages(writer, view)
        _shared_pages(writer, views, registry, built.skipped)
        built.pages = writer.pages
    built.boards = len(views)
    return built


def _side_by_side(
    writer: Writer,
    views: Sequence[View],
    registry: registries.Registry,
    skipped: Sequence[str],
    overlays: Sequence[str | Path],
    workers: int,
) -> int:
    """Write the boards in several processes, the largest first, and meanwhile the other pages here; return their number."""
    largest = sorted(views, key=lambda view: len(view.rows), reverse=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(views)), mp_context=context) as pool:
        started = [pool.submit(write_board, view.folder, writer.folder, tuple(overlays)) for view in largest]
        _shared_pages(writer, views, registry, skipped)
        return writer.pages + sum(each.result() for each in started)


def _shared_pages(writer: Writer, views: Sequence[View], registry: registries.Registry, skipped: Sequence[str]) -> None:
    """Write the pages that speak of all boards."""
    _models(writer, views, registry)
    _attacks(writer, views)
    newest = {v.board.suite.name: v for v in views if v.whole}
    writer.page("index.html", "index.html", views=views, newest=newest, skipped=skipped, suites=_by_suite(views))


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


def _models(writer: Writer, views: Sequence[View], registry: registries.Registry) -> None:
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


def _attacks(writer: Writer, views: Sequence[View]) -> None:
    found: dict[str, list[tuple[View, Any]]] = defaultdict(list)
    for view in reversed(views):
        for line in view.lines:
            found[line.attack].append((view, line))
    names = list(dict.fromkeys([*attacks(), *found]))
    for name in names:
        made: dict[str, dict[str, None]] = defaultdict(dict)
        for view, line in found[name]:
            made[line.composition][f"{view.board.suite.name} {view.version}"] = None
        content = {"name": name, "described": attacks().get(name), "lines": found[name], "compositions": made}
        writer.page("attack.html", f"attacks/{name}.html", **content)
    writer.page("attacks.html", "attacks/index.html", names=names, described=attacks(), found=found)
