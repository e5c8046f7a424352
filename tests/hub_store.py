"""Repositories of the loopback Hub: commits of files, kept in a folder so that uploads outlive the server."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".zip", ".parquet", ".npy", ".tar")
HIDDEN = ".hub"


@dataclass(frozen=True)
class Blob:
    """One file of a commit."""

    sha256: str
    size: int
    git_oid: str
    lfs: bool


@dataclass
class Repository:
    """A repository: commits in order, the last one being main."""

    kind: str
    name: str
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    @property
    def main(self) -> str:
        return list(self.commits)[-1] if self.commits else "0" * 40

    def resolve(self, revision: str) -> str | None:
        """Return the commit that `main` or a commit id names, or None."""
        if revision == "main":
            return self.main
        return revision if revision in self.commits else None


class Store:
    """All repositories of one folder: `models/ORG/NAME/...` and `datasets/ORG/NAME/...` hold what main holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects = folder / HIDDEN / "objects"
        self.objects.mkdir(parents=True, exist_ok=True)
        for kind in ("models", "datasets"):
            for path in sorted(folder.glob(f"{kind}/*/*")):
                if path.is_dir():
                    self._load(kind, f"{path.parent.name}/{path.name}", path)

    def create(self, kind: str, name: str, *, gated: bool = False, private: bool = False) -> Repository:
        with self.lock:
            repository = Repository(kind, name, gated=gated, private=private)
            self.repositories[kind, name] = repository
            (self.folder / kind / name).mkdir(parents=True, exist_ok=True)
            return repository

    def get(self, kind: str, name: str) -> Repository | None:
        return self.repositories.get((kind, name))

    def put(self, content: bytes) -> str:
        """Keep an object and return its sha256."""
        sha = hashlib.sha256(content).hexdigest()
        (self.objects / sha).write_bytes(content)
        return sha

    def read(self, sha256: str) -> bytes:
        return (self.objects / sha256).read_bytes()

    def commit(self, repository: Repository, files: dict[str, bytes], deleted: tuple[str, ...] = ()) -> str:
        """Add a commit on main that writes `files` and removes `deleted`; return its id."""
        if any(part in ("", ".", "..") for path in files for part in path.split("/")):
            raise ValueError(f"a path leaves the repository: {sorted(files)}")
        with self.lock:
            tree = dict(repository.commits.get(repository.main, {}))
            for path in deleted:
                tree.pop(path, None)
            for path, content in files.items():
                tree[path] = self._blob(path, content)
                target = self.folder / repository.kind / repository.name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            label = json.dumps([repository.main, {p: b.sha256 for p, b in sorted(tree.items())}])
            revision = hashlib.sha1(label.encode()).hexdigest()
            repository.commits[revision] = tree
            self._save(repository)
            return revision

    def _blob(self, path: str, content: bytes) -> Blob:
        git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Blob(self.put(content), len(content), git_oid, path.endswith(LFS_SUFFIXES))

    def _history(self, repository: Repository) -> Path:
        return self.folder / HIDDEN / f"{repository.kind}--{repository.name.replace('/', '--')}.json"

    def _save(self, repository: Repository) -> None:
        commits = {r: {p: b.sha256 for p, b in tree.items()} for r, tree in repository.commits.items()}
        self._history(repository).write_text(json.dumps(commits))

    def _load(self, kind: str, name: str, folder: Path) -> None:
        repository = Repository(kind, name)
        self.repositories[kind, name] = repository
        history = self._history(repository)
        if history.is_file():
            for revision, tree in json.loads(history.read_text()).items():
                repository.commits[revision] = {p: self._blob(p, self.read(sha)) for p, sha in tree.items()}
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        current = {p: b.sha256 for p, b in repository.commits.get(repository.main, {}).items()}
        if {p: hashlib.sha256(c).hexdigest() for p, c in files.items()} != current:
            self.commit(repository, files, tuple(set(current) - set(files)))
