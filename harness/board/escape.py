"""Words that a board did not choose, made harmless for what shows them: Markdown with HTML in it, spreadsheets, terminals.

Pages of the site escape by their templates. Names need none of this, as their pattern allows nothing odd; reasons, remarks and
compositions do.
"""

from __future__ import annotations

import re
import unicodedata

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~])")
_CODE = re.compile(r"(`[^`<>|]*`)")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet runs."""


def plain(text: str) -> str:
    """Return text as one line without what steers a terminal, turns text around, or stands on other letters."""
    kept = "".join(c if c.isprintable() and unicodedata.bidirectional(c) not in ("R", "AL") else " " for c in text)
    return "".join(c for c in kept if not unicodedata.combining(c))


def markdown(text: str) -> str:
    """Return text that Markdown shows as it is; short pieces `between backticks` stay code."""
    parts = _CODE.split(plain(text))
    return "".join(part if n % 2 else _MARKDOWN.sub(r"\\\1", part).replace("&", "&amp;") for n, part in enumerate(parts))


def csv_text(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet takes for a formula."""
    shown = plain(text)
    return f"'{shown}" if text.startswith(FORMULA) or shown.lstrip().startswith(FORMULA) else shown
