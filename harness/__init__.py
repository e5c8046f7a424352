"""Benchmark harness for transfer-based adversarial attacks on quantised networks.

    import harness

    board = harness.run("digits-qnn", attacks=["mim"], limit=50)
    print(board.to_text())
"""

from __future__ import annotations

from harness.api import evaluate, load_board, load_suite, run

__all__ = ["evaluate", "load_board", "load_suite", "run"]
