"""What a test run says at its end of the tests that it could not do here."""

from __future__ import annotations

from typing import Any

WANTS = {
    "bubblewrap": "bubblewrap (apt-get install bubblewrap, and user namespaces)",
    "selenium": "a browser (pip install '.[browser]', and Chromium)",
    "namespaces": "user namespaces",
    "root": "another user than root, or root",
}
"""What a reason for skipping says, and what helps."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name in one line what tests were skipped for want of."""
    missing: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        want = next((words for key, words in WANTS.items() if key in reason), "what the lines above name")
        missing[want] = missing.get(want, 0) + 1
    if missing:
        parts = ", ".join(f"{count} for want of {want}" for want, count in missing.items())
        terminalreporter.write_line(f"not tested here: {parts}")
