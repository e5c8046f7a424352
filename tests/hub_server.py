"""A loopback server that speaks the Hub's protocol to the unmodified huggingface_hub client, with faults on demand.

By hand:

    python -m tests.hub_server --folder /tmp/hub --port 8765

serves `/tmp/hub/models/ORG/NAME/...` and `/tmp/hub/datasets/ORG/NAME/...` and prints the HF_ENDPOINT to use. Uploads go
through git-LFS, so the client needs HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_store import Blob, Repository, Store

TOKEN = "hf_loopback"
"""The one token that may read gated and private repositories."""
REPO = r"(?:(?P<kind>datasets)/)?(?P<repo>[\w.-]+/[\w.-]+)"
API = r"/api/(?P<kind>models|datasets)/(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Fault:
    """Something that goes wrong with the next `times` requests whose path contains `match`.

    kind: `error` answers with `status`; `stall` sends `after` bytes and then nothing for `seconds`; `truncate` announces the
    whole length and hangs up after `after` bytes; `short` serves a consistent but shorter file; `alter` changes one byte at
    `after`; `long` appends bytes; `redirect` sends the client to `location`; `html` answers 200 with a page; `norange`
    ignores a Range header.
    """

    kind: Literal["error", "stall", "truncate", "short", "alter", "long", "redirect", "html", "norange"]
    match: str = "/resolve/"
    times: int = 1_000_000
    status: int = 500
    after: int = 0
    seconds: float = 30.0
    location: str = ""
    method: str = "GET"


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """What a test holds: the store, the faults to come, and the requests so far."""

    store: Store
    url: str = ""
    cdn: bool = False
    """Answer LFS files by a redirect to another origin (localhost for 127.0.0.1), as the real Hub does."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, files: dict[str, bytes], *, kind: str = "models", gated: bool = False) -> str:
        """Create a repository or commit to it; return the commit id."""
        repository = self.store.get(kind, name) or self.store.create(kind, name, gated=gated)
        return self.store.commit(repository, files)

    def fail(self, kind: Any, **settings: Any) -> None:
        self.faults.append(Fault(kind, **settings))

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.match in path and fault.method == method:
                    fault.times -= 1
                    return fault
        return None

    def paths(self, method: str = "GET") -> list[str]:
        return [r.path for r in self.requests if r.method == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        body = self._body()
        fault = self.hub.take_fault(self.command, path)
        if fault and fault.kind in ("error", "redirect", "html"):
            self._plain_fault(fault)
            return
        try:
            self._route(path, query, body, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up, as it should on some faults

    def _route(self, path: str, query: dict[str, list[str]], body: bytes, fault: Fault | None) -> None:
        read = self.command in ("GET", "HEAD")
        if read and (m := re.fullmatch(rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<file>.+)", path)):
            self._resolve(m, fault)
        elif read and (m := re.fullmatch(r"/cdn/(?P<sha>[0-9a-f]{64})", path)):
            self._send_file(self.hub.store.read(m["sha"]), {}, fault)
        elif read and (m := re.fullmatch(rf"{API}(?:/revision/(?P<rev>[^/]+))?", path)):
            self._info(m, blobs="blobs" in query)
        elif read and (m := re.fullmatch(rf"{API}/tree/(?P<rev>[^/]+)(?:/.*)?", path)):
            self._tree(m)
        elif self.command == "POST":
            self._write(path, body)
        elif self.command == "PUT" and (m := re.fullmatch(r"/lfs/(?P<sha>[0-9a-f]{64})", path)):
            right = self.hub.store.put(body) == m["sha"]
            self._json({} if right else {"error": "the bytes are not those of the name"}, status=200 if right else 400)
        else:
            self._error(404, "", "Not found")

    def _find(self, m: re.Match[str]) -> tuple[Repository, str] | None:
        """Return the repository and commit a request names, or answer with the Hub's error and return None."""
        repository = self.hub.store.get(m["kind"] or "models", m["repo"])
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not allowed):
            self._error(401, "RepoNotFound", "Repository not found")
            return None
        if repository.gated and not allowed and "/resolve/" in self.path:
            self._error(403, "GatedRepo", "Access to this model is restricted. Please log in and accept its terms.")
            return None
        commit = repository.resolve(m.groupdict().get("rev") or "main")
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {m['rev']}")
            return None
        return repository, commit

    def _resolve(self, m: re.Match[str], fault: Fault | None) -> None:
        found = self._find(m)
        if found is None:
            return
        repository, commit = found
        blob = repository.commits.get(commit, {}).get(m["file"])
        if blob is None:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob.sha256 if blob.lfs else blob.git_oid}"'}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if blob.lfs and self.hub.cdn:
            port = urlsplit(self.hub.url).port
            self._start(302, {**headers, "Location": f"http://localhost:{port}/cdn/{blob.sha256}", "Content-Length": "0"})
            return
        self._send_file(self.hub.store.read(blob.sha256), headers, fault)

    def _send_file(self, content: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        if fault and kind == "alter":
            content = content[: fault.after] + bytes([content[fault.after] ^ 1]) + content[fault.after + 1 :]
        elif fault and kind == "short":
            content = content[: fault.after]
        elif kind == "long":
            content += b"more"
        status, start = 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and kind != "norange":
            start, status = int(wanted[1]), 206
            if start >= len(content):
                self._start(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        body = content[start:]
        self._start(status, {"Accept-Ranges": "bytes", **headers, "Content-Length": str(len(body))})
        if self.command == "HEAD":
            return
        if fault and kind in ("truncate", "stall"):
            self.wfile.write(body[: fault.after])
            self.wfile.flush()
            self.close_connection = True
            if kind == "stall":
                time.sleep(fault.seconds)
            return
        self.wfile.write(body)

    def _info(self, m: re.Match[str], *, blobs: bool) -> None:
        found = self._find(m)
        if found is None:
            return
        repository, commit = found
        siblings = [_sibling(p, b, blobs) for p, b in sorted(repository.commits.get(commit, {}).items())]
        gated = "auto" if repository.gated else False
        self._json({"id": repository.name, "sha": commit, "private": repository.private, "gated": gated, "siblings": siblings})

    def _tree(self, m: re.Match[str]) -> None:
        found = self._find(m)
        if found is None:
            return
        repository, commit = found
        entries = []
        for path, blob in sorted(repository.commits.get(commit, {}).items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 135}
            entries.append(entry)
        self._json(entries)

    def _write(self, path: str, body: bytes) -> None:
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif m := re.fullmatch(rf"{API}/preupload/(?P<rev>[^/]+)", path):
            if self._find(m):
                files = [f["path"] for f in json.loads(body)["files"]]
                self._json({"files": [{"path": f, "uploadMode": _mode(f), "shouldIgnore": False} for f in files]})
        elif re.fullmatch(rf"/{REPO}\.git/info/lfs/objects/batch", path):
            actions = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}", "header": {}}}}
                for o in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": actions})
        elif m := re.fullmatch(rf"{API}/commit/(?P<rev>[^/]+)", path):
            self._commit(m, body)
        else:
            self._error(404, "", "Not found")

    def _create(self, wanted: dict[str, Any]) -> None:
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._error(401, "", "Invalid credentials in Authorization header")
        elif self.hub.store.get(kind, name):
            self._json({"url": f"{self.hub.url}/{name}", "error": "You already created this repo"}, status=409)
        else:
            self.hub.store.create(kind, name, private=wanted.get("visibility") == "private")
            self._json({"url": f"{self.hub.url}/{name}"})

    def _commit(self, m: re.Match[str], body: bytes) -> None:
        found = self._find(m)
        if found is None:
            return
        files: dict[str, bytes] = {}
        deleted: list[str] = []
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.store.read(value["oid"])
            elif item["key"] == "deletedFile":
                deleted.append(value["path"])
        commit = self.hub.store.commit(found[0], files, tuple(deleted))
        self._json({"commitOid": commit, "commitUrl": f"{self.hub.url}/{found[0].name}/commit/{commit}"})

    def _plain_fault(self, fault: Fault) -> None:
        if fault.kind == "redirect":
            self._start(302, {"Location": fault.location or self.path, "Content-Length": "0"})
        elif fault.kind == "html":
            page = b"<!DOCTYPE html><html><body>Please log in to this network</body></html>"
            self._start(200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(page))})
            self.wfile.write(page)
        else:
            self._error(fault.status, "", "made to fail")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self._start(status, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        extra = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self._start(status, {**extra, "Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)


def _mode(path: str) -> str:
    from tests.hub_store import LFS_SUFFIXES

    return "lfs" if path.endswith(LFS_SUFFIXES) else "regular"


def _sibling(path: str, blob: Blob, blobs: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path}
    if blobs:
        entry |= {"size": blob.size, "blobId": blob.git_oid}
        if blob.lfs:
            entry["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 135}
    return entry


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[Hub]:
    """Serve a folder on loopback while the context lasts."""
    hub = Hub(Store(folder))
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a folder as a Hugging Face Hub on loopback.")
    parser.add_argument("--folder", type=Path, required=True, help="holds models/ORG/NAME/... and datasets/ORG/NAME/...")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--fault", action="append", default=[], metavar="KIND[:AFTER]", help="e.g. alter:100, truncate:50, error")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with serve(options.folder, options.port) as hub:
        for text in options.fault:
            kind, _, after = text.partition(":")
            hub.fail(kind, after=int(after or 0))
        print(f"HF_ENDPOINT={hub.url} HF_TOKEN={TOKEN} HF_HUB_DISABLE_XET=1", flush=True)  # noqa: T201
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
