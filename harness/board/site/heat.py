"""The heat map of a board as a table: every line on every target, the targets in the order of their bitwidths."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from harness.board.plots.style import ink, shade
from harness.board.site.view import View

MOST = 60
"""Lines that a page shows; the best ones."""


def heat(view: View) -> dict[str, Any] | None:
    """Return the targets, their bitwidths and the shaded cells of the best lines; None without lines."""
    if not view.lines:
        return None
    frame, bits = view.board.frame, view.board.suite.bits
    order = sorted(range(len(frame.targets)), key=lambda t: (-bits[frame.targets[t]], t))
    names = [frame.targets[t] for t in order]
    rows = []
    for line in view.lines[:MOST]:
        cells = [_cell(float(line.asr.value[t]) if line.measured[t] else None, bool(line.whitebox[t])) for t in order]
        rows.append({"name": f"{line.substitute} · {line.attack}", "page": f"rows/{view.page_of(line)}", "cells": cells})
    return {
        "targets": names,
        "widths": [(width, len(list(each))) for width, each in groupby(bits[name] for name in names)],
        "rows": rows,
        "left_out": max(0, len(view.lines) - MOST),
    }


def _cell(value: float | None, whitebox: bool) -> dict[str, str]:
    if value is None or value != value:  # no clean image that the target gets right
        return {"words": "–", "colour": "", "ink": ""}
    return {"words": f"{100 * value:.0f}{'*' if whitebox else ''}", "colour": shade(value), "ink": ink(value)}
