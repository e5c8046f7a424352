"""Linux namespaces without helpers: build a small read-only world, enter it, give up every privilege, start the program.

Run as a script with one JSON argument; standard library only. Started as root it uses root's rights to build the world and
then becomes a user who owns nothing. Started as anybody else it builds the world in a user namespace of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

NOBODY = 65534
_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000,
    0x2000000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS, _CAP_AMBIENT = 1, 24, 38, 47
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _prctl(option: int, *values: int) -> int:
    padded = [ctypes.c_ulong(v) for v in [*values, 0, 0, 0, 0][:4]]
    result: int = _libc.prctl(option, *padded)
    return result


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    args = (source.encode(), bytes(target), kind.encode() if kind else None, ctypes.c_ulong(flags))
    _check(_libc.mount(*args, data.encode() if data else None), f"mount {target}")


def _read_only(target: Path, flags: int) -> None:
    """Close a mount and all below it for writing; flags that the outer world set stay set."""
    attributes = struct.pack("=QQQQ", flags, 0, 0, 0)
    call = (ctypes.c_long(_MOUNT_SETATTR), ctypes.c_int(-100), bytes(target), ctypes.c_uint(_AT_RECURSIVE))
    _check(_libc.syscall(*call, attributes, ctypes.c_size_t(len(attributes))), f"mount_setattr {target}")


def unshare() -> bool:
    """Leave the namespaces of the caller; return whether a user namespace was needed."""
    flags = _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS | _NEWCGROUP
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and _libc.unshare(flags) == 0:
        return False
    _check(_libc.unshare(flags | _NEWUSER), "unshare (user namespaces may be switched off on this machine)")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")
    return True


def build(world: dict[str, Any]) -> None:
    """Mount the world of the program over an empty folder and make it the root."""
    root = Path(world["root"])
    _mount("none", Path("/"), None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for source, target in world["binds"]:
        _bind(source, root / target.lstrip("/"), _RDONLY | _NOSUID | _NODEV)
    for device in ("null", "zero", "random", "urandom"):
        _bind(f"/dev/{device}", root / "dev" / device, _NOSUID | _NOEXEC)
    for target in world["hidden"]:
        inside = root / target.lstrip("/")
        if inside.is_dir():
            _mount("tmpfs", inside, "tmpfs", _NOSUID | _NODEV | _RDONLY, "size=4k,mode=755")
    for target, link in world["links"]:
        place = root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(link)
    scratch = root / world["scratch"].lstrip("/")
    scratch.mkdir(parents=True)
    _mount(
        "tmpfs", scratch, "tmpfs", _NOSUID | _NODEV | _NOEXEC, f"size={world['scratch_bytes']},nr_inodes=4096,mode=1777"
    )
    name = b"sandbox"
    _check(_libc.sethostname(name, ctypes.c_size_t(len(name))), "sethostname")
    os.chdir(root)
    _check(_libc.syscall(ctypes.c_long(_PIVOT_ROOT[os.uname().machine]), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _DETACH), "umount of the old root")
    os.chdir("/")
    _mount("none", Path("/"), None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _bind(source: str, target: Path, flags: int) -> None:
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(source, target, None, _BIND | _REC)
    _read_only(target, flags)


def give_up(own_user_namespace: bool) -> None:
    """Drop every capability and the user's identity, so that nothing is left to give back."""
    for capability in range(64):
        _prctl(_CAPBSET_DROP, capability)
    _prctl(_CAP_AMBIENT, 4)
    if not own_user_namespace:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _check(_libc.capset(header, none), "capset")
    _check(_prctl(_NO_NEW_PRIVS, 1), "no_new_privs")


def main() -> int:
    """Build the world of the JSON argument and run its program there."""
    world = json.loads(sys.argv[1])
    _prctl(_PDEATHSIG, signal.SIGKILL)
    own = unshare()
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):
            os.close(0)
            os.close(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF
    try:
        _prctl(_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        os.umask(0o022)
        build(world)
        give_up(own)
        _prctl(_PDEATHSIG, signal.SIGKILL)  # a change of identity has cleared it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o077)
        os.closerange(3, 4096)
        os.execve(world["argv"][0], world["argv"], world["env"])
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}\n")
        sys.stderr.flush()
    os._exit(97)


if __name__ == "__main__":
    sys.exit(main())
