"""The process inside the sandbox that holds the substitute, so that the one that forks submitted code never has it in memory."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.sandbox import frames, oracle

COUNT_SECONDS = 60.0
"""A pass that runs on when its asker has died may take so long."""
Crafting = Callable[[dict[str, Any], Path], bytes]


class Keeper:
    """The server's handle on that process: it loads a substitute, and ends when the handle is closed."""

    def __init__(self, load: Callable[[], Any], craft: Callable[[Any], Crafting], scratch: Path) -> None:
        """Start it.

        Args:
            load: loads the substitute; called there alone.
            craft: returns what crafts a block right in forks of that process, for code that works inside the substitute.
            scratch: the scratch folder.

        Raises:
            ValueError: the substitute cannot be loaded.
        """
        self._control, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                line = theirs.fileno()
                for low, high in ((3, line), (line + 1, 4096)):  # the server's own lines are not ours to hold open
                    os.closerange(low, high)
                _keep(theirs, load, craft, scratch)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        ready = self._receive()[0]
        if "error" in ready:
            self.close()
            raise ValueError(ready["error"])
        self.per_forward = bool(ready["per_forward"])

    def craft(self, head: dict[str, Any]) -> bytes:
        """Let it craft a block with code that sees the substitute; return the message."""
        self._control.sendall(frames.encode(head))
        return frames.encode(*self._receive())

    def open(self, head: dict[str, Any]) -> tuple[tuple[int, int], int]:
        """Let it serve passes for one block; return the pipes to ask by and to hear by, and that of the counts."""
        from harness.substitutes import block_seed

        requests, asks = os.pipe()
        seed = block_seed(head["seed"], head["indices"][0])
        hears, answers = os.pipe()
        counts, told = os.pipe()
        self._control.sendall(frames.encode({"do": "serve", "seed": seed, "limits": head["limits"]}))
        socket.send_fds(self._control, [b"p"], [requests, answers, told])
        for descriptor in (requests, answers, told):
            os.close(descriptor)
        return (asks, hears), counts

    def close(self) -> None:
        """Let it end."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            return oracle.receive(self._control.fileno(), 2**40)
        except oracle.StoppedError as error:
            raise ValueError("the process that holds the substitute is gone") from error


def counted(descriptor: int, images: int) -> dict[str, int] | None:
    """Return the passes per image that were counted; None when they are not told in time."""
    deadline, text = time.monotonic() + COUNT_SECONDS, b""
    with selectors.DefaultSelector() as selector, os.fdopen(descriptor, "rb", buffering=0) as stream:
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = stream.read(4096)
            if not chunk:
                break
            text += chunk
    try:
        return {key: -(-int(value) // images) for key, value in json.loads(text).items()}
    except ValueError:
        return None


def _keep(control: socket.socket, load: Callable[[], Any], craft: Callable[[Any], Crafting], scratch: Path) -> None:
    try:
        model = load()
        control.sendall(frames.encode({"per_forward": model.per_forward}))
    except Exception as error:
        control.sendall(frames.encode({"error": f"{type(error).__name__}: {error}"}))
        return
    while True:
        try:
            head, _ = oracle.receive(control.fileno(), 0)
        except oracle.StoppedError:
            return
        if head["do"] == "craft":
            control.sendall(craft(model)(head, scratch))
            continue
        _, (requests, answers, told), _, _ = socket.recv_fds(control, 1, 3)
        pid = os.fork()
        if pid == 0:
            try:
                control.close()
                from harness.sandbox.worker import limit

                limit(head["limits"])
                counts = oracle.serve(model, head["seed"], requests, answers, head["limits"]["memory"])
                os.write(told, json.dumps(counts).encode())
            finally:
                os._exit(0)
        for descriptor in (requests, answers, told):
            os.close(descriptor)
        os.waitpid(pid, 0)
