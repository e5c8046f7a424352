"""The ways to wall a process in on this machine: how each is started, and which is to be used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.sandbox import launch, seccomp
from harness.sandbox.world import ENVIRONMENT, SCRATCH, World, launch_spec
from zoo.errors import UserError

Choice = Literal["auto", "bubblewrap", "namespaces", "docker", "none"]
CHOICES: tuple[Choice, ...] = ("auto", "bubblewrap", "namespaces", "docker", "none")
DOCKER_IMAGE = "qnn-transfer-zoo-empty"


@dataclass(frozen=True)
class Start:
    """A process about to start."""

    command: list[str]
    environment: dict[str, str]
    folder: str


def order() -> tuple[Choice, ...]:
    """Return the backends to try, the strongest first.

    Root can become a user who owns nothing, which bubblewrap started by root does not; everybody else fares better with
    bubblewrap, which systems allow where they forbid user namespaces to other programs.
    """
    if sys.platform != "linux":
        return ()
    return ("namespaces", "bubblewrap") if os.geteuid() == 0 else ("bubblewrap", "namespaces")


DEVICES = ("null", "zero", "random", "urandom")


def start(choice: Choice, world: World, folder: Path, scratch_bytes: int, memory: int, config: str) -> Start:
    """Return how a backend starts the server; `folder` is an empty folder of ours.

    Raises:
        UserError: the backend is not on this machine.
    """
    make: dict[str, Callable[[], Start]] = {
        "namespaces": lambda: _namespaces(world, folder, scratch_bytes, config),
        "bubblewrap": lambda: _bubblewrap(world, folder, scratch_bytes, config),
        "docker": lambda: _docker(world, scratch_bytes, memory, config),
        "none": lambda: Start(
            [sys.executable, *world.argv(config)[1:-2], str(Path(__file__).with_name("server.py")), config],
            {**ENVIRONMENT, "HOME": str(folder), "TMPDIR": str(folder)},
            str(folder),
        ),
    }
    return make[choice]()


def walls(choice: Choice) -> list[str]:
    """Return what a backend consists of, for the row."""
    filtered = ["seccomp"] if seccomp.supported() else []
    if choice == "none":
        return [*filtered, "limits"]
    identity = ["other user"] if os.geteuid() == 0 and choice == "namespaces" else ["user namespace"]
    spaces = ["container"] if choice == "docker" else ["mount, network, process, ipc and host name namespaces"]
    return [*spaces, *identity, "no capabilities", *filtered, "limits"]


def _namespaces(world: World, folder: Path, scratch_bytes: int, config: str) -> Start:
    if sys.platform != "linux" or not seccomp.supported():
        raise UserError("namespaces with a filter of system calls need Linux on x86_64 or aarch64")
    root = folder / "root"
    root.mkdir()
    spec = launch_spec(world, root, scratch_bytes, [config])
    program = str(Path(launch.__file__).resolve())
    return Start([sys.executable, "-I", "-S", "-B", program, json.dumps(spec)], {"LANG": "C.UTF-8"}, "/")


def _bubblewrap(world: World, folder: Path, scratch_bytes: int, config: str) -> Start:
    program = shutil.which("bwrap")
    if program is None or not seccomp.supported():
        raise UserError("bubblewrap is not installed (Debian: apt-get install bubblewrap)")
    command = [program, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--uid", str(launch.NOBODY), "--gid", str(launch.NOBODY), "--hostname", "sandbox", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--perms", "0755", "--size", "65536", "--tmpfs", "/dev"]
    for device in DEVICES:
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    command += ["--remount-ro", "/dev"]
    for source, target in world.binds:
        command += ["--ro-bind", source, target]
    for path in world.hidden:
        command += ["--perms", "0755", "--size", "4096", "--tmpfs", path, "--remount-ro", path]
    for path, link in world.links:
        command += ["--symlink", link, path]
    command += ["--perms", "1777", "--size", str(scratch_bytes), "--tmpfs", SCRATCH, "--remount-ro", "/"]
    return Start([*command, "--", *world.argv(config)], {"PATH": os.environ.get("PATH", "/usr/bin")}, "/")


def _docker(world: World, scratch_bytes: int, memory: int, config: str) -> Start:
    program = shutil.which("docker")
    if program is None or sys.platform != "linux":
        raise UserError("docker is not installed, or this is not Linux, whose Python alone can be shown to a container")
    _empty_image(program)
    command = [program, "run", "--rm", "-i", "--network", "none", "--read-only", "--cap-drop", "ALL", "--ipc", "none"]
    command += [
        "--security-opt",
        "no-new-privileges",
        "--pids-limit",
        "64",
        "--user",
        f"{launch.NOBODY}:{launch.NOBODY}",
    ]
    command += ["--memory", str(memory), "--memory-swap", str(memory), "--hostname", "sandbox", "--log-driver", "none"]
    for name, value in ENVIRONMENT.items():
        command += ["--env", f"{name}={value}"]
    for source, target in world.binds:
        if not target.startswith(("/proc/", "/sys/")):  # a container has its own
            command += ["--mount", f"type=bind,source={source},target={target},readonly"]
    for path in world.hidden:
        command += ["--mount", f"type=tmpfs,destination={path},tmpfs-size=4096"]
    command += ["--tmpfs", f"{SCRATCH}:rw,noexec,nosuid,nodev,size={scratch_bytes},mode=1777"]
    command += ["--entrypoint", world.python, DOCKER_IMAGE, *world.argv(config)[1:]]
    return Start(command, {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "DOCKER_HOST")}, "/")


def _empty_image(program: str) -> None:
    """Make an image with nothing in it but the links of the system's library folders; Python is shown to it from here."""
    if subprocess.run([program, "image", "inspect", DOCKER_IMAGE], capture_output=True, check=False).returncode == 0:
        return
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in ("/lib", "/lib64"):
            if Path(path).is_symlink():
                link = tarfile.TarInfo(path.lstrip("/"))
                link.type, link.linkname = tarfile.SYMTYPE, str(Path(path).readlink())
                archive.addfile(link)
    made = subprocess.run(
        [program, "import", "-", DOCKER_IMAGE], input=buffer.getvalue(), capture_output=True, check=False
    )
    if made.returncode:
        reason = made.stderr.decode(errors="replace").strip().split("\n")[-1][:200]
        raise UserError(f"docker cannot be used ({reason}); start its daemon, or use another --sandbox")
