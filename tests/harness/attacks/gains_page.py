"""The tables of docs/newer-attacks.md, from measured rows alone: `python -m tests.harness.attacks.gains_page` writes them."""

from __future__ import annotations

import re
from pathlib import Path

from harness.board import Board, load
from harness.suites.suite import load as load_suite

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "newer-attacks.md"
PAIRS = (("digits-resnet14", "ResNet-14"), ("digits-vgg", "VGG"))


def _board(suite: str) -> Board:
    return load(ROOT / "leaderboards" / suite / "v1")


def _gain(board: Board, baseline: str, attack: str) -> str:
    """Return the ASR without and with QAA over the pair's black-box targets' families, and the gain; a dash without rows."""
    for gain in board.gains:
        if (gain.attack, gain.against, gain.family) == (attack, baseline, "all families") and gain.gain is not None:
            value, low, high = (100 * number for number in (gain.gain.value, gain.gain.low, gain.gain.high))
            words = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
            return f"**{words}**" if gain.p_holm is not None and gain.p_holm < 0.05 else words
    return "–"


def _rate(board: Board, substitute: str, attack: str) -> str:
    for line in board.lines:
        if (line.substitute, line.attack) == (substitute, attack) and line.overall is not None:
            return f"{100 * line.overall.value:.1f}"
    return "–"


def tables() -> str:
    """Return both tables: gains attack by attack, and the best attacks at both costs."""
    published, equal = _board("digits-attacks"), _board("digits-attacks-40")
    attacks = list(dict.fromkeys(line.attack for line in equal.lines))
    order = [name for name in load_suite("digits-attacks").attack_names if name in attacks]
    lines = ["| attack | passes | " + " | ".join(f"{n}, published | {n}, 40 passes" for _, n in PAIRS) + " |"]
    lines.append("| --- | --- |" + " --- |" * (2 * len(PAIRS)))
    for name in order:
        passes = next((f"{line.gradients:g}" for line in published.lines if line.attack == name and line.gradients), "–")
        cells = [_gain(board, baseline, name) for baseline, _ in PAIRS for board in (published, equal)]
        lines.append(f"| {name} | {passes} | " + " | ".join(cells) + " |")
    lines += ["", "| attack | " + " | ".join(f"{n}, published | {n}, 40 passes" for _, n in PAIRS) + " |"]
    lines.append("| --- |" + " --- |" * (2 * len(PAIRS)))
    for name in order:
        cells = []
        for baseline, _ in PAIRS:
            for board in (published, equal):
                cells.append(f"{_rate(board, baseline, name)} / {_rate(board, f'{baseline}-2bit-qaa', name)}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def written(page: str) -> str:
    """Return the page with its tables renewed."""
    return re.sub(r"(<!-- tables -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{tables()}\n{m[2]}", page, flags=re.S)


def main() -> None:
    """Write the page."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
