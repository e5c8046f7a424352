"""Renders templates into the files of a site, and counts the pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.storage.files import cannot
from zoo.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent


@dataclass
class Writer:
    """Renders templates into the site and counts its pages."""

    environment: Environment
    folder: Path
    pages: int = 0

    def page(self, template: str, place: str, **content: Any) -> None:
        """Render a template to a page at that place within the site."""
        root = "../" * place.count("/")
        text = self.environment.get_template(template).render(root=root, place=place, **content)
        self.file(place, text)
        self.pages += 1

    def file(self, place: str, content: str | bytes) -> None:
        """Write a file at that place within the site."""
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        try:
            path.write_bytes(data)
        except OSError as error:
            raise cannot("write", path, error) from error


def open_writer(folder: Path) -> Writer:
    """Return a writer into the folder of a site, whose templates escape everything.

    Raises:
        UserError: Jinja2 is not installed.
    """
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
    return Writer(made, folder)


def _points(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _words(value: Any) -> str:
    """Return a value of the registry as words: lists by commas, records by semicolons, without what is not set."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_words(each)}" for key, each in value.items() if each not in (None, {}, []))
    return ", ".join(map(_words, value)) if isinstance(value, list | tuple) else str(value)
