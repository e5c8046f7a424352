"""One file over the network: resumed, bounded in time, and handed on only after its bytes were checked.

Why not `hf_hub_download` or pooch: the same rules must hold for Hub files and plain urls - a part resumed across processes, a
sha256 checked before a name appears in the cache, a whole download bounded in tries and seconds, a web page told
from weights, and parallel pulls that one Ctrl-C stops. The Hub client checks no hash of its own and keeps a cache per repository,
pooch resumes nothing and bounds no stall. The client's session, endpoint and tokens are used (`servers`), not its download.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.hub.cache import Cache, key_of, sha256_of
from zoo.hub.servers import TRANSIENT, Source, describe, http_library, refusal, request_headers


@dataclass(frozen=True)
class Patience:
    """How long a download may wait, in seconds, and how many times in a row it may fail without getting further."""

    connect: float = 4.0
    read: float = 20.0
    attempts: int = 4
    backoff: float = 0.4


@dataclass(frozen=True)
class DownloadOptions:
    """How files are fetched, whatever they are."""

    cache: Cache = field(default_factory=Cache)
    offline: bool = False
    progress: bool = False
    patience: Patience = Patience()
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def is_offline(self) -> bool:
        """Whether requests are forbidden, by the caller or by HF_HUB_OFFLINE."""
        return self.offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Want:
    """What a file must be. An unknown hash is taken from what was recorded at the first download, if any."""

    name: str
    sha256: str | None = None
    size: int | None = None
    safetensors: bool = False


class StoppedError(Exception):
    """The user pressed Ctrl-C during parallel downloads; what was read so far stays for the next try."""


class _RetryError(Exception):
    """A failure that may pass."""


def get(source: Source, want: Want, options: DownloadOptions) -> Path:
    """Return a verified file from the cache, or download it there.

    Raises:
        UserError: offline and not in the cache; missing, gated, unreachable; or not the bytes that were asked for.
    """
    sha256 = want.sha256 or (options.cache.recorded(source.url) if source.immutable else None)
    if sha256 and (found := options.cache.find(sha256)):
        return usable(want, found)
    if options.is_offline:
        raise UserError(
            f"{want.name}: {source.label} is not in the cache {options.cache.folder} and offline mode is on; "
            "fetch it once with the network (unset HF_HUB_OFFLINE, leave out --offline)"
        )
    key = sha256 or key_of(source.url)
    part = options.cache.part(key)
    with _locked(part):
        if sha256 and (found := options.cache.find(sha256)):  # another process was faster
            return usable(want, found)
        if sha256 is None:
            part.unlink(missing_ok=True)  # nothing would tell two versions of it apart
        return _fetch_checked(source, want, sha256, part, options)


def usable(want: Want, path: Path) -> Path:
    """Return a verified file, or refuse one of a kind that the caller could only read by unpickling it."""
    if want.safetensors and not is_safetensors(path):
        raise UserError(f"{want.name}: {path} is no safetensors file; name the keymap that reads it in weights.keymap")
    return path


def _fetch_checked(source: Source, want: Want, sha256: str | None, part: Path, options: DownloadOptions) -> Path:
    """Download and check; a mismatch is tried once more from the first byte, since an old part may be to blame."""
    problem = ""
    for _ in range(2):
        stated = _download(source, want, part, options)
        problem, digest = _problem(part, want, sha256 or stated)
        if not problem:
            if sha256 is None and source.immutable:
                options.cache.record(source.url, digest)
            return options.cache.admit(part, digest, source.label)
        part.unlink()
    raise UserError(
        f"{want.name}: {source.label} is not the file that was asked for: {problem}; nothing was kept. It changed at its "
        "source or on the way: try again, and if it persists compare the pin with `zoo lock --check`"
    )


def _problem(part: Path, want: Want, sha256: str | None) -> tuple[str, str]:
    """Return what is wrong with a finished download (empty: nothing) and its sha256."""
    size = part.stat().st_size
    with part.open("rb") as file:
        head = file.read(512)
    if looks_like_html(head):
        return "it is an HTML page (a login, a quota or an error page), not a file of weights or data", ""
    if want.size is not None and size != want.size:
        return f"it has {size} bytes instead of {want.size}", ""
    digest = sha256_of(part)
    if sha256 is not None and digest != sha256:
        return f"its sha256 is {digest} instead of {sha256}", digest
    if want.safetensors and not is_safetensors(part):
        return "it is no safetensors file, and the entry names no keymap to read anything else", digest
    return "", digest


def looks_like_html(head: bytes) -> bool:
    """Return whether a file begins as a web page does."""
    return re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)\b", head, re.IGNORECASE) is not None


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins with the header of a safetensors file: its length in 8 bytes, then JSON."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return 2 <= length <= min(size - 8, 100_000_000) and file.read(1) == b"{"


def _download(source: Source, want: Want, part: Path, options: DownloadOptions) -> str | None:
    """Complete `part` and return the sha256 that the server states, if it states one."""
    patience = options.patience
    failures, furthest = 0, part.stat().st_size if part.exists() else 0
    with _bar(want, options.progress) as bar:
        while True:
            try:
                return _stream(source, want, part, options, bar)
            except _RetryError as error:
                reached = part.stat().st_size if part.exists() else 0
                failures = 0 if reached > furthest else failures + 1
                furthest = max(furthest, reached)
                unreachable = isinstance(error.__cause__, http_library().ConnectError | http_library().ConnectTimeout)
                if failures >= (min(2, patience.attempts) if unreachable else patience.attempts):
                    raise UserError(
                        f"{want.name}: cannot get {source.label}: {error}; gave up after {failures} tries without progress. "
                        f"Check the connection to {source.url.split('/')[2]} and try again; what was read is kept and resumed"
                    ) from None
                options.stop.wait(min(patience.backoff * 2**failures, 5.0))


def _stream(source: Source, want: Want, part: Path, options: DownloadOptions, bar: Any) -> str | None:
    """Read once from where `part` ends to the end of the file."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    httpx, patience = http_library(), options.patience
    start = part.stat().st_size if part.exists() else 0
    if want.size is not None and start == want.size:
        return None
    headers = request_headers(source) | ({"Range": f"bytes={start}-"} if start else {})
    timeout = httpx.Timeout(patience.read, connect=patience.connect)
    try:
        with get_session().stream("GET", source.url, headers=headers, timeout=timeout) as response:
            if response.status_code == 416 and start:
                part.unlink()
                raise _RetryError("the server has fewer bytes than were read before")
            _check_status(source, want, response)
            start = start if _continues(response, start) else 0
            _check_room(part, response, want)
            _write(part, start, response, want, options, bar)
            return _stated_sha256(response)
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise _RetryError(describe(error)) from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"{want.name}: {error}") from None
    except OSError as error:
        raise UserError(f"{want.name}: cannot write {part} ({error}); ZOO_CACHE moves the cache") from None
    except (httpx.TooManyRedirects, httpx.InvalidURL) as error:
        raise UserError(f"{want.name}: {source.label}: {error}; correct the address {source.url}") from None


def _write(part: Path, start: int, response: Any, want: Want, options: DownloadOptions, bar: Any) -> None:
    length = response.headers.get("Content-Length")
    total = want.size or (start + int(length) if length and length.isdigit() else None)
    if bar is not None:
        bar.total, bar.n = total, start
    begun = time.monotonic()
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        for chunk in response.iter_raw():
            if options.stop.is_set():
                raise StoppedError(want.name)
            file.write(chunk)
            if bar is not None:
                bar.update(len(chunk))
            if want.size is not None and file.tell() > want.size:
                return  # the size check that follows says what is wrong
            if time.monotonic() - begun > 60 and file.tell() - start < 1024:
                raise _RetryError("the server sends less than a kilobyte a minute")


def _continues(response: Any, start: int) -> bool:
    """Return whether the answer begins where the part ends; a server may ignore Range and send the whole file."""
    ranged = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return start > 0 and response.status_code == 206 and ranged is not None and int(ranged[1]) == start


def _check_status(source: Source, want: Want, response: Any) -> None:
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    if status < 300:
        if "text/html" in response.headers.get("Content-Type", ""):
            raise UserError(
                f"{want.name}: {source.label} answered with an HTML page (a login, a quota or an error page) instead of the "
                f"file; open {source.url} in a browser to see it"
            )
        return
    if status in TRANSIENT:
        raise _RetryError(f"the server answered {status}")
    raise UserError(f"{want.name}: {source.label}: {refusal(source, status, code)}")


def _stated_sha256(response: Any) -> str | None:
    """Return the sha256 that the Hub states for a git-LFS file, on the answer or on a redirect before it."""
    for answer in [*response.history, response]:
        stated = str(answer.headers.get("X-Linked-Etag", "")).strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", stated):
            return stated
    return None


def _check_room(part: Path, response: Any, want: Want) -> None:
    length = response.headers.get("Content-Length", "0")
    free = shutil.disk_usage(part.parent).free
    if length.isdigit() and int(length) > free:
        raise UserError(
            f"{want.name}: needs {int(length) / 1e6:.0f} MB and {part.parent} has {free / 1e6:.0f} MB left; "
            "`zoo cache` shows what could go, and ZOO_CACHE moves the cache"
        )


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Hold off other processes and threads that want the same file."""
    from filelock import FileLock

    with FileLock(part.with_name(f"{part.name}.lock")):
        yield


@contextmanager
def _bar(want: Want, shown: bool) -> Iterator[Any]:
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=want.name, unit="B", unit_scale=True, unit_divisor=1024, total=want.size) as bar:
        yield bar
