"""The trusted side of the sandbox: starts it, hands it images and a substitute, and trusts nothing that comes back."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from harness.sandbox import backends, frames, seccomp
from harness.sandbox.backends import Choice
from harness.sandbox.changes import Change
from harness.sandbox.world import SCRATCH, describe
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.suites.suite import SubstituteSpec
    from zoo.registry.entry import ModelEntry

PREFIX, LIVING = "sandbox-", ".living"
START_SECONDS = 180.0
GRACE_SECONDS = 30.0


class SubmissionError(UserError):
    """Submitted code did what it must not, or failed; the message names it and says how."""


@dataclass(frozen=True)
class Limits:
    """What a block of submitted code may use."""

    seconds: float = 600.0
    memory: int = 4 * 2**30
    """Bytes beyond what the loaded libraries and the substitute take."""
    file: int = 16 * 2**20
    scratch: int = 64 * 2**20


@dataclass(frozen=True)
class Crafted:
    """What one block came back as: bytes of a safetensors file, not looked at yet."""

    data: bytes
    forwards: int | None
    """Passes per image, counted where the substitute is; None for code that works inside it."""
    backwards: int | None
    seconds: float
    log: str


@dataclass
class Sandbox:
    """A walled-in process that crafts blocks with submitted code; a context manager.

    Raises (on entry):
        UserError: the chosen isolation does not work on this machine.
    """

    choice: Choice = "auto"
    limits: Limits = field(default_factory=Limits)
    isolation: str = ""
    """Which walls stand, once started."""

    def __enter__(self) -> Sandbox:
        tried = []
        for choice in backends.order() if self.choice == "auto" else (self.choice,):
            try:
                self._start(choice)
            except UserError as error:
                self.close()
                tried.append(f"{choice}: {error}")
            except BaseException:
                self.close()
                raise
            else:
                self.isolation = f"{choice} ({', '.join(backends.walls(choice))})"
                return self
        reasons = "; ".join(tried) or "only Linux offers it"
        raise UserError(
            f"no isolation for submitted code works here ({reasons}). Install bubblewrap, allow user namespaces, or use "
            "--sandbox docker; --sandbox none runs the code as you, and every row says so"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, choice: Choice) -> None:
        sweep_stale(Path(tempfile.gettempdir()))
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._living = FileLock(self._folder / LIVING)
        self._living.acquire()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        stage = self._folder / "package"
        stage.mkdir()
        world = describe(stage)
        bare = choice == "none"
        self._walled = choice in ("namespaces", "bubblewrap")
        if bare:
            (self._folder / "scratch").mkdir()
        config = {
            "path": (str(stage), *world.path[1:]) if bare else world.path,
            "scratch": str(self._folder / "scratch") if bare else SCRATCH,
            "walls": [] if bare else ["seccomp"],
        }
        total = self.limits.memory + self.limits.scratch + 4 * 2**30
        begin = backends.start(choice, world, self._folder, self.limits.scratch, total, json.dumps(config))
        try:
            self._process = subprocess.Popen(
                begin.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=begin.environment,
                cwd=begin.folder,
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"{begin.command[0]} does not start ({error.strerror})") from error
        forbidden = [p for p in world.forbidden if choice != "docker" or p != "/proc/1"]  # a container has its own
        hello, _ = self._ask({"do": "inspect", "forbidden": forbidden})
        if hello.get("holes"):
            raise UserError(f"its walls have holes: {'; '.join(map(str, hello['holes']))}")

    def close(self) -> None:
        """End the process and remove what was made for it.

        It holds nothing that is wanted any more. Behind namespaces all its processes die with it, so that it is not waited for;
        a container, and what has no walls, is given the time to end by itself.
        """
        process = getattr(self, "_process", None)
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
            try:
                process.wait(0.1 if self._walled else 2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._process = None
        if getattr(self, "_folder", None) is not None:
            self._errors.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._living.release()

    def data(self, images: Tensor, labels: Tensor) -> None:
        """Hand over all images of the suite, uint8 (N, C, H, W), with their labels."""
        from safetensors.torch import save

        self._ask({"do": "data"}, save({"images": images.contiguous(), "labels": labels.contiguous()}))

    def substitute(
        self, spec: SubstituteSpec, entries: Sequence[ModelEntry], files: Sequence[Path], change: Change | None = None
    ) -> None:
        """Hand over a substitute: what the suite and the registry say of it, the bytes of its weights, and what to change."""
        bodies = [file.read_bytes() for file in files]
        head = {
            "do": "substitute",
            "spec": spec.model_dump(mode="json"),
            "entries": [entry.model_dump(mode="json") for entry in entries],
            "sizes": [len(body) for body in bodies],
            "suffixes": [file.suffix for file in files],
            "change": None if change is None else asdict(change),
        }
        self._ask(head, b"".join(bodies))

    def craft(
        self,
        files: Mapping[str, str],
        settings: Mapping[str, Any],
        *,
        eps: float,
        steps: int,
        seed: int,
        indices: Sequence[int],
        image_bytes: int,
        internals: bool = False,
    ) -> Crafted:
        """Let submitted code craft the images of `indices`; `image_bytes` is how large one may be as float32.

        With `internals` the code is handed the networks themselves, and its passes are not counted.

        Raises:
            SubmissionError: it failed, or broke a limit.
        """
        result = 2 * image_bytes * len(indices) + 4096
        limits = {
            "seconds": self.limits.seconds,
            "memory": self.limits.memory,
            "file": self.limits.file,
            "result": result,
            "seccomp": seccomp.supported(),
        }
        request = {"do": "craft", "internals": internals, "files": dict(files), "settings": dict(settings), "limits": limits}
        began = time.perf_counter()
        head, body = self._ask(
            {**request, "eps": eps, "steps": steps, "seed": seed, "indices": list(indices)},
            seconds=self.limits.seconds + GRACE_SECONDS,
            max_body=result,
        )
        log = printable(str(head.get("log", "")))
        if head.get("spoiled"):
            self.close()
        if "error" in head:
            tail = f"; it printed: {log[-300:]}" if log.strip() else ""
            raise SubmissionError(f"{printable(str(head['error']))[:600]}{tail}")
        costs = [head.get(key) for key in ("forwards", "backwards")]
        if not internals and not all(type(c) is int and 0 <= c < 2**31 for c in costs):
            raise SubmissionError("its passes were not counted")
        forwards, backwards = (None, None) if internals else costs
        return Crafted(body, forwards, backwards, time.perf_counter() - began, log)

    def _ask(
        self, head: dict[str, Any], body: bytes = b"", seconds: float = START_SECONDS, max_body: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        process = self._process
        if process is None or process.stdin is None:
            raise UserError("the sandbox is not running; use it in a with statement")
        try:
            process.stdin.write(frames.encode(head, body))
            process.stdin.flush()
        except OSError as error:
            raise SubmissionError(self._ended()) from error
        answer, data = self._receive(seconds, max_body)
        if answer.get("internal"):
            raise UserError(f"the sandbox could not do its part: {printable(str(answer.get('error')))[:600]}")
        return answer, data

    def _receive(self, seconds: float, max_body: int) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + seconds
        try:
            head, body = frames.lengths(self._read(frames.HEAD.size, deadline), max_body)
            return frames.decode_head(self._read(head, deadline)), self._read(body, deadline)
        except frames.FrameError as error:  # what follows could be taken for anything
            if self._process is not None:
                self._process.kill()
            raise SubmissionError(f"it sent {error}, and was ended") from error

    def _read(self, count: int, deadline: float) -> bytes:
        """Read exactly `count` bytes of the process's answer before the deadline."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        parts = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while len(parts) < count:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self._process.kill()
                    raise SubmissionError("the sandbox did not answer in time")
                chunk = os.read(descriptor, min(1 << 20, count - len(parts)))
                if not chunk:
                    raise SubmissionError(self._ended())
                parts += chunk
        return bytes(parts)

    def _ended(self) -> str:
        """Say how the process ended, with the last line it wrote."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        last = f": {printable(lines[-1])[:300]}" if lines else ""
        return f"the sandbox ended (status {self._process.returncode}){last}"


def sweep_stale(place: Path) -> None:
    """Remove what sandboxes left behind whose process was killed; those of others, and those that live, are left alone."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid() or not (folder / LIVING).is_file():
                continue
            with FileLock(folder / LIVING, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)


def printable(text: str) -> str:
    """Return text as one line that cannot steer a terminal, turn text around, or put marks above other letters."""
    return "".join(c if c.isprintable() and ord(c) < 0x300 else " " for c in text)
