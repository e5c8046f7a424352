"""What the process inside the sandbox can see: Python, its libraries, this package's sources, and nothing else."""

from __future__ import annotations

import os
import shutil
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRATCH = "/scratch"
PACKAGE = "/package"
ENVIRONMENT = {
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "PATH": "/nonexistent",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
DEPTH = 3
"""How deep folders of packages lie in what is shown: /usr/lib/python3/dist-packages."""
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/proc/cpuinfo", "/sys/devices/system/cpu")
"""Shared libraries, and what torch reads to choose its kernels: without it the same code gives other bytes."""


@dataclass(frozen=True)
class World:
    """The parts of the machine that are visible inside, all of them read-only."""

    binds: tuple[tuple[str, str], ...]
    """(path here, path inside)."""
    hidden: tuple[str, ...]
    """Folders inside a bind that show up empty."""
    links: tuple[tuple[str, str], ...]
    """(path inside, where it points)."""
    python: str
    path: tuple[str, ...]
    """sys.path of the process."""
    forbidden: tuple[str, ...]
    """Paths here that must not exist inside, or be empty; the process checks that before it does anything else."""

    def argv(self, *extra: str) -> list[str]:
        """Return the command line of the server inside."""
        options = ["-I", "-S", "-B", "-X", "utf8"]
        return [self.python, *options, f"{PACKAGE}/harness/sandbox/server.py", *extra]


def describe(stage: Path) -> World:
    """Lay out the world of one sandbox; `stage` is an empty folder of ours that will hold the package's sources."""
    copy_package(stage)
    python = os.path.realpath(sys.executable)
    libraries = [p for p in sys.path if p and Path(p).is_dir() and Path(p).name in ("site-packages", "dist-packages")]
    stdlib = sysconfig.get_path("stdlib")
    dynamic = [p for p in sys.path if Path(p).name == "lib-dynload"] or [f"{stdlib}/lib-dynload"]
    standard = [stdlib, *dynamic]
    shown = [python, *standard, *libraries, *_interpreter_libraries()]
    links: list[tuple[str, str]] = []
    for path in _SYSTEM:
        if Path(path).is_symlink():
            links.append((path, str(Path(path).readlink())))
        elif Path(path).exists():
            shown.append(path)
    binds = [(path, path) for path in _outermost(shown)]
    own = [f"{p}/{name}" for p in libraries for name in ("zoo", "harness") if Path(p, name).is_dir()]
    return World(
        binds=(*binds, (str(stage), PACKAGE)),
        hidden=(*own, *_other_libraries([b[0] for b in binds], libraries)),
        links=tuple(links),
        python=python,
        path=(PACKAGE, *standard, *libraries),
        forbidden=_forbidden([b[0] for b in binds]),
    )


def copy_package(stage: Path) -> None:
    """Copy the sources of zoo and harness, and none of their data: no weights, no boards."""
    root = Path(__file__).resolve().parents[2]
    for package in ("zoo", "harness"):
        for source in sorted((root / package).rglob("*.py")):
            place = stage / source.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
    for path in [stage, *stage.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def _interpreter_libraries() -> list[str]:
    """Return where the interpreter's own shared libraries lie, for a Python that is not the system's."""
    folder = Path(sys.base_prefix) / "lib"  # not what it was built with: Pythons are moved after that
    if str(folder) in ("/usr/lib", "/lib"):
        return []
    if (Path(sys.base_prefix) / "conda-meta").is_dir():
        return [str(folder)]
    return [str(p) for p in sorted(folder.glob("libpython*.so*"))]


def _other_libraries(shown: list[str], libraries: list[str]) -> list[str]:
    """Return folders of packages in what is shown that are not on the path: another Python's may hold targets' weights."""
    kept = {os.path.realpath(p) for p in libraries}
    found = []
    for top in shown:
        if os.path.realpath(top) in kept or not Path(top).is_dir():
            continue
        for folder, folders, _ in os.walk(top):
            if folder.count("/") - top.count("/") >= DEPTH:
                folders.clear()
            for name in [n for n in folders if n in ("site-packages", "dist-packages")]:
                folders.remove(name)
                inside = f"{folder}/{name}"
                if os.path.realpath(inside) not in kept and not any(k.startswith(inside + "/") for k in libraries):
                    found.append(inside)
    return found


def _outermost(paths: list[str]) -> list[str]:
    """Return the paths that lie in no other, each once, outer ones first."""
    kept: list[str] = []
    for path in sorted(dict.fromkeys(paths), key=lambda p: (p.count("/"), p)):
        if not any(path == k or path.startswith(k.rstrip("/") + "/") for k in kept):
            kept.append(path)
    return kept


def _forbidden(shown: list[str]) -> tuple[str, ...]:
    """Return the user's home, working folder, caches and our own data, but for what leads to Python itself."""
    from zoo.hub.store import cache_root

    root = Path(__file__).resolve().parents[2]
    candidates = [
        Path.home(),
        Path.cwd(),
        root,
        root / "zoo" / "bundled",
        cache_root(),
        Path("/etc/passwd"),
        Path("/proc/1"),
    ]
    usersite = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
    out = []
    for path in dict.fromkeys(str(c) for c in candidates if c != Path("/")):  # what is in the root is told by name above
        leads = any(s == path or s.startswith(path.rstrip("/") + "/") for s in [*shown, usersite])
        for child in sorted(p.name for p in Path(path).iterdir())[:200] if leads and Path(path).is_dir() else ():
            inner = f"{path.rstrip('/')}/{child}"
            if not any(s == inner or s.startswith(inner + "/") or inner.startswith(s + "/") for s in shown):
                out.append(inner)
        if not leads:
            out.append(path)
    return tuple(out)


def launch_spec(world: World, root: Path, scratch_bytes: int, extra: list[str]) -> dict[str, Any]:
    """Return what `launch.py` is told."""
    return {
        "root": str(root),
        "binds": world.binds,
        "hidden": world.hidden,
        "links": world.links,
        "scratch": SCRATCH,
        "scratch_bytes": scratch_bytes,
        "argv": world.argv(*extra),
        "env": ENVIRONMENT,
    }
