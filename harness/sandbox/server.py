"""The trusted process inside the sandbox: loads the substitute, forks a worker for each block, passes its images on.

Run as a script. It never runs submitted code itself: each block is crafted by a fork that first locks itself in, so that
blocks start alike and a worker that misbehaves takes nothing with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO, Any

LOG_BYTES = 256 * 1024
"""Text that a worker may print; more is a flood."""
KEPT_LOG = 4000
HOLES = 5
"""Holes that are told; one is enough."""
WEIGHTS = (".safetensors", ".onnx", ".tflite", ".ckpt", ".pt", ".npz")


def main() -> None:
    """Answer requests until the other side hangs up."""
    config = json.loads(sys.argv[1])
    sys.path[:] = config["path"]
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.chdir(config["scratch"])
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: workers of the same user must not look into this process
    from harness.sandbox import frames

    holes = apart(requests, config)
    answers.write(frames.encode({"ready": not holes, "holes": holes}))
    answers.flush()
    if not holes:
        serve(requests, answers, Path(config["scratch"]))


def apart(requests: IO[bytes], config: dict[str, Any]) -> list[str]:
    """Inspect the walls in a fork, which alone learns what must not be in sight: names from the user's home stay outside."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            from harness.sandbox import frames

            head_length, _ = frames.HEAD.unpack(requests.read(frames.HEAD.size))
            forbidden = frames.decode_head(requests.read(head_length))["forbidden"]
            holes = inspect({**config, "forbidden": forbidden}) if config["walls"] else []
            os.write(write, json.dumps(holes[:HOLES]).encode())
            os._exit(0)
        except BaseException as error:
            os.write(write, json.dumps([f"they could not be inspected ({type(error).__name__})"]).encode())
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        found: list[str] = json.loads(stream.read() or b'["they could not be inspected"]')
    os.waitpid(pid, 0)
    return found


def inspect(config: dict[str, Any]) -> list[str]:
    """Return what this process can do although it should not; an empty list lets it begin."""
    holes = [f"{path} is in sight" for path in config["forbidden"] if _visible(path)]
    holes += around(config["path"], config["scratch"])
    with contextlib.suppress(OSError):
        Path("/intruder").touch()
        holes.append("the root folder can be written")
    with contextlib.suppress(OSError), socket.socket() as plug:
        plug.settimeout(0.2)
        if plug.connect_ex(("192.0.2.1", 9)) not in (errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.ENETDOWN):
            holes.append("there is a way to the network")
    if os.getuid() == 0 or os.geteuid() == 0:
        holes.append("it runs as root")
    data = (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None).capget(header, data) != 0 or any(data):
        holes.append("it holds capabilities")
    pid = os.fork()
    if pid == 0:
        os._exit(_escape(config["walls"]))
    found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if found:
        holes.append("system calls are not filtered" if found == 1 else f"the filter of system calls failed ({found})")
    return holes


def around(libraries: list[str], scratch: str, top: str = "/") -> list[str]:
    """Return the places in sight that can be written, and the weights; what is on the path was shown on purpose."""
    holes = [f"{path} can be written" for path in libraries if os.access(path, os.W_OK)]
    skipped = {scratch, "/proc", "/sys", *libraries}
    folders = [top]
    while folders and len(holes) < HOLES:
        folder = folders.pop()
        if os.access(folder, os.W_OK):
            holes.append(f"{folder} can be written")
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.path not in skipped:
                        folders.append(entry.path)
                elif entry.name.endswith(WEIGHTS):
                    holes.append(f"{entry.path} is in sight, which looks like weights")
    return holes


def _visible(path: str) -> bool:
    try:
        return any(Path(path).iterdir()) if Path(path).is_dir() else Path(path).exists()
    except OSError:
        return False


def _escape(walls: list[str]) -> int:
    from harness.sandbox import seccomp

    if "seccomp" not in walls:
        return 0
    try:
        seccomp.install()
    except OSError:
        return 2
    for attempt in (socket.socket, os.fork):
        try:
            attempt()
            return 1
        except OSError as error:
            if error.errno != errno.EPERM:
                return 3
    return 0


def serve(requests: IO[bytes], answers: IO[bytes], scratch: Path) -> None:
    """Handle one request after the other; a failure of ours is an answer, too."""
    from harness.sandbox import frames
    from harness.sandbox.keeper import Keeper
    from harness.sandbox.worker import Shop, build

    shop, keeper = Shop(), None
    while True:
        prefix = requests.read(frames.HEAD.size)
        if len(prefix) < frames.HEAD.size:
            return
        head_length, body_length = frames.HEAD.unpack(prefix)
        head, body = frames.decode_head(requests.read(head_length)), requests.read(body_length)
        try:
            if head["do"] == "craft":
                if keeper is None:
                    raise ValueError("no substitute was sent")
                answer = keeper.craft(head) if head["internals"] else sealed(shop, keeper, head, scratch)
            elif head["do"] == "substitute":
                if keeper is not None:
                    keeper.close()
                keeper = Keeper(
                    lambda head=head, body=body: build(head, body, shop.images, shop.labels),  # type: ignore[misc]
                    lambda model: functools.partial(craft, shop.hold(model)),
                    scratch,
                )
                shop.per_forward = keeper.per_forward
                answer = frames.encode({})
            else:
                shop.receive(head, body)
                answer = frames.encode({})
        except Exception as error:  # the wall's other side decides; this process goes on
            answer = frames.encode({"error": f"{type(error).__name__}: {error}", "internal": True})
        answers.write(answer)
        answers.flush()


def sealed(shop: Any, keeper: Any, head: dict[str, Any], scratch: Path) -> bytes:
    """Craft one block with code that asks the keeper for its passes; the counts are the keeper's."""
    from harness.sandbox import frames
    from harness.sandbox.keeper import counted

    line, counts = keeper.open(head)
    answer = craft(shop, head, scratch, line)
    passes = counted(counts, len(head["indices"]))
    head_length, _ = frames.HEAD.unpack(answer[: frames.HEAD.size])
    body = answer[frames.HEAD.size + head_length :]
    found = frames.decode_head(answer[frames.HEAD.size : frames.HEAD.size + head_length])
    if passes is None:
        reason = "its passes could not be counted: one took too long, or too much memory"
        return frames.encode({"error": reason, **found, "spoiled": True})
    return frames.encode({**found, **passes}, body)


def craft(shop: Any, head: dict[str, Any], scratch: Path, line: tuple[int, int] | None = None) -> bytes:
    """Let a fork craft one block, within its limits; return its message, or one that says how it ended."""
    from harness.sandbox import frames

    result_in, result_out = os.pipe()
    log_in, log_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 98
        try:
            os.close(result_in)
            os.close(log_in)
            shop.work(head, result_out, log_out, scratch, line)
            status = 0
        finally:
            os._exit(status)
    for descriptor in (result_out, log_out, *(line or ())):
        os.close(descriptor)
    limits = head["limits"]
    caps = {result_in: limits["result"] + frames.HEAD.size + frames.MAX_HEAD, log_in: LOG_BYTES}
    texts, stopped = _listen(caps, time.monotonic() + limits["seconds"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    log = texts[log_in][-KEPT_LOG:].decode("utf-8", "replace")
    facts: dict[str, Any] = {"log": log, "cpu_seconds": usage.ru_utime + usage.ru_stime}
    with contextlib.suppress(PermissionError):  # root's, which the worker cannot have locked either
        scratch.chmod(0o700)
    try:
        _sweep(scratch)
    except OSError as error:
        reason = f"it left a scratch folder that cannot be emptied ({error.strerror})"
        return frames.encode({"error": reason, "spoiled": True, **facts})
    if stopped == 0:
        return frames.encode({"error": f"it ran longer than {limits['seconds']:g} seconds", **facts})
    if stopped is not None:
        what = "text" if stopped == log_in else "data"
        return frames.encode({"error": f"it wrote more {what} than {caps[stopped]} bytes", **facts})
    return _checked(texts[result_in], limits["result"], _ending(status), facts)


def _listen(caps: dict[int, int], deadline: float) -> tuple[dict[int, bytes], int | None]:
    """Read pipes to their ends; stop at the first that exceeds its cap, or at the deadline (0)."""
    texts = {pipe: bytearray() for pipe in caps}
    stopped: int | None = None
    with selectors.DefaultSelector() as selector:
        for pipe in caps:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and stopped is None:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                stopped = 0
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fd)
                texts[key.fd] += chunk
                if len(texts[key.fd]) > caps[key.fd]:
                    stopped = key.fd
            if time.monotonic() > deadline:
                stopped = 0 if stopped is None else stopped
    for pipe in caps:
        os.close(pipe)
    return {pipe: bytes(text) for pipe, text in texts.items()}, stopped


def _checked(text: bytes, cap: int, ending: str, facts: dict[str, Any]) -> bytes:
    """Return the worker's one message with our facts added, or say that there was none."""
    from harness.sandbox import frames

    size = frames.HEAD.size
    try:
        if len(text) < size:
            raise frames.FrameError("nothing")
        head_length, body_length = frames.lengths(text[:size], cap)
        if len(text) != size + head_length + body_length:
            raise frames.FrameError(f"{len(text)} bytes where {size + head_length + body_length} were announced")
        head = frames.decode_head(text[size : size + head_length])
    except frames.FrameError as error:
        found = "no images" if str(error) == "nothing" else str(error)
        return frames.encode({"error": f"it {ending} and returned {found}", **facts})
    if "error" not in head and len(text) == size + head_length:
        return frames.encode({"error": f"it {ending} and returned no images", **facts})
    kept: dict[str, Any] = {key: head[key] for key in ("error",) if key in head}
    return frames.encode({**kept, **facts}, text[size + head_length :])


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended (status {code})"
    if -code == signal.SIGXCPU:
        return "used up its time"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _sweep(scratch: Path) -> None:
    """Empty the scratch folder, however deep or locked its folders are; what resists is an error, not left for the next."""
    names = itertools.count()
    folders = [scratch]
    while folders:
        folder = folders.pop()
        for entry in list(os.scandir(folder)):
            if not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink()
                continue
            Path(entry.path).chmod(0o700)
            if folder == scratch:
                folders.append(Path(entry.path))
            else:  # lift it to the top, so that no path grows long
                lifted = scratch / f"lifted-{next(names)}-{os.getpid()}"
                Path(entry.path).rename(lifted)
                folders.append(lifted)
        if folder != scratch:
            folder.rmdir()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
