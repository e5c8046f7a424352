"""Where a row comes from, read off the environment without importing what it names."""

from __future__ import annotations

import platform
import subprocess
import time
from functools import cache
from importlib import metadata
from pathlib import Path

from harness.records.rows import Provenance

PACKAGE = "qnn-transfer-zoo"


def provenance(
    hardware: str | None = None,
    precision: str | None = None,
    engines: dict[str, str] | None = None,
    code: str | None = None,
) -> Provenance:
    """Describe this process: versions, commit, platform, the time in UTC, and what is given."""
    return Provenance(
        package=_version(PACKAGE),
        commit=_commit(Path(__file__).resolve().parent),
        torch=_version("torch"),
        timm=_version("timm"),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        hardware=hardware,
        precision=precision,
        engines=engines or None,
        code=code,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def _commit(folder: Path) -> str | None:
    """Return the commit that this code was checked out from, or None for an installed package or without git.

    A wheel installed under someone else's repository is not that repository's code: the file must be tracked by git.
    """
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return None
    dirty = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", "..", "../../zoo")
    return f"{head}-dirty" if dirty else head


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
