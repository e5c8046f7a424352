"""The suite as a board's folder keeps it: with what it was run on, so that old boards stay readable; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from harness.storage.files import atomic_write
from harness.suites.suite import Budget, Pair, Reported, Suite, name_of
from zoo.errors import UserError
from zoo.registry.entry import Record
from zoo.registry.yamlfile import read_yaml, validate

if TYPE_CHECKING:
    pass


class Deployment(Record):
    """Which other targets an integer network in an engine was made of, by the registry's parents; null where none is a target."""

    precise: str | None = None
    emulated: str | None = None


class Model(Record):
    """What a board needs to know of a model, and the bytes that it was."""

    arch: str
    w_bits: int
    a_bits: int
    sha256: str | None
    """Digest of its weights; null when they could not be had."""
    identity: str | None
    """Digest of its weights and of all that the registry says of its network; null likewise."""
    deployed: Deployment | None = None
    """Of a target that runs in an engine."""


class PinnedSuite(Record):
    """A suite, its digest, its images and its models at the time of a run; offers what boards ask for."""

    digest: str
    images: int
    data_sha256: str
    models: dict[str, Model]
    suite: Suite

    def write(self, folder: Path) -> None:
        """Write `folder`/suite.yaml."""
        content = self.model_dump(mode="json")
        if self.suite.hidden is None:
            del content["suite"]["hidden"]
        for model in content["models"].values():
            if model["deployed"] is None:
                del model["deployed"]
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
        atomic_write(folder / "suite.yaml", text)

    def completed(self, known: PinnedSuite) -> PinnedSuite:
        """Return this pinned with the weights that are absent here filled in as the other one knows them."""
        models = {
            name: known.models.get(name, model) if model.sha256 is None else model for name, model in self.models.items()
        }
        targets = {name: models[name].identity for name in self.suite.target_names}
        return self.model_copy(update={"models": models, "digest": self.suite.digest(targets, self.data_sha256)})

    def change_from(self, known: PinnedSuite) -> str:
        """Say in words what makes this digest differ from that of another pinned of the suite."""
        if self.data_sha256 != known.data_sha256:
            return "its images are others"
        for name in self.suite.target_names:
            if name in known.models and known.models[name].sha256 not in (None, self.models[name].sha256):
                return f"{name} has other weights now"
            if name in known.models and known.models[name].identity not in (None, self.models[name].identity):
                return f"{name} is described otherwise now"
        now, then = self.suite.canonical(), known.suite.canonical()
        return f"{next((key for key in now if now[key] != then.get(key)), 'a setting')} changed"

    @staticmethod
    def read(folder: Path) -> PinnedSuite:
        """Read `folder`/suite.yaml.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = folder / "suite.yaml"
        if not path.is_file():
            raise UserError(f"{folder} holds no leaderboard (no suite.yaml); run the suite first, or check --out")
        return validate(PinnedSuite, read_yaml(path), str(path))

    def keeping(self, known: PinnedSuite) -> PinnedSuite:
        """Return this pinned with what rows of earlier runs need: attacks brought along, and substitutes since left out."""
        own = self.suite.attack_names
        listed = zip(known.suite.attack_names, known.suite.attacks, strict=True)
        attacks = [composed for name, composed in listed if name not in own and isinstance(composed, dict)]
        named = {s.name for s in self.suite.substitutes}
        substitutes = [s for s in known.suite.substitutes if s.name not in named]
        update = {"attacks": (*self.suite.attacks, *attacks), "substitutes": (*self.suite.substitutes, *substitutes)}
        needed = {m: known.models[m] for s in substitutes for m in s.models if m not in self.models}
        suite = self.suite.model_copy(update=update)
        return self.model_copy(update={"suite": suite, "models": {**self.models, **needed}})

    def redefined(self, known: PinnedSuite) -> dict[str, str]:
        """Return the substitutes that are not what they were, with the reason: their rows are of something else."""
        found = {}
        then = {s.name: s for s in known.suite.substitutes}
        for spec in self.suite.substitutes:
            if spec.name not in then:
                continue
            if spec != then[spec.name]:
                found[spec.name] = "it is composed otherwise now"
            for model in spec.models:
                old, new = known.models[model].identity, self.models[model].identity
                if spec == then[spec.name] and old and new and old != new:
                    found[spec.name] = f"{model} is another network now"
        return found

    @property
    def name(self) -> str:
        """Name of the suite."""
        return self.suite.name

    @property
    def version(self) -> int:
        """Version of the suite."""
        return self.suite.version

    @property
    def title(self) -> str:
        """Title of the suite."""
        return self.suite.title

    @property
    def budget(self) -> Budget:
        """How far an adversarial image may be from the clean one."""
        return self.suite.budget

    @property
    def steps(self) -> int:
        """Iterations of an attack."""
        return self.suite.steps

    @property
    def families(self) -> Mapping[str, tuple[str, ...]]:
        """Family title -> targets."""
        return self.suite.targets

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """QAA substitutes with baseline and controls."""
        return self.suite.pairs

    @property
    def reported(self) -> tuple[Reported, ...]:
        """The paper's figures."""
        return self.suite.reported

    @property
    def bits(self) -> dict[str, int]:
        """Target -> weight bitwidth, 32 when not quantised."""
        return {t: self.models[t].w_bits for t in self.suite.target_names}

    @property
    def deployed(self) -> dict[str, Deployment]:
        """Target in an engine -> what it was made of."""
        found = {t: self.models[t].deployed for t in self.suite.target_names}
        return {t: known for t, known in found.items() if known is not None}

    def whitebox(self, substitute: str, target: str) -> bool:
        """Whether a cell is marked and left out of means: the substitute is the target, or of its architecture.

        Raises:
            UserError: nothing is known of the substitute, which would be black-box everywhere.
        """
        models = next((s.models for s in self.suite.substitutes if s.name == substitute), (substitute,))
        if self.suite.whitebox == "model":
            return target in models
        unknown = [m for m in models if m not in self.models]
        if unknown:
            raise UserError(
                f"suite {self.suite.name} knows no model {unknown[0]!r}, so nobody can say which targets share its architecture; "
                "name the substitute in the suite, and run it again"
            )
        return any(architecture(self.models[m].arch) == architecture(self.models[target].arch) for m in models)


SAME = {"zoo:inception-v3-tf": "timm:inception_v3"}
"""Architectures that differ in how they treat padding and no more."""


def architecture(arch: str) -> str:
    """Return an architecture without what timm writes behind a point: which weights it has (timm:inception_v3.tf_adv_in1k).

    Networks that differ from another in their padding alone count as that one.
    """
    if arch in SAME:
        return SAME[arch]
    return arch.split(".", 1)[0] if arch.startswith("timm:") else arch


def board_folder(out: Path, suite: str, version: int | None = None, limit: int | None = None) -> Path:
    """Return the folder of a suite's board, by default of the newest version that has rows.

    Args:
        out: folder of the leaderboards.
        suite: the suite's name or its file, or a folder's path: that of one version, or that of all of them.
        version: a version of the suite.
        limit: the board of a trial on so many images.

    Raises:
        UserError: there is none.
    """
    if suite.endswith((".yaml", ".yml")):
        file = Path(suite)
        kept = file.name == "suite.yaml" and "digest" in read_yaml(file)
        return board_folder(out, str(file.parent.absolute()) if kept else name_of(suite), version, limit)
    folder = out / suite if (out / suite).is_dir() or not Path(suite).is_dir() else Path(suite)
    if (folder / "suite.yaml").is_file() and (version is not None or limit is not None):
        folder = folder.parent
    elif (folder / "suite.yaml").is_file():
        return folder
    boards = [p for p in folder.glob("v*") if (p / "suite.yaml").is_file()]
    tail = "" if limit is None else f"-limit{limit}"
    numbers = {p.name[1:].removesuffix(tail): p for p in boards if p.name.endswith(tail)}
    found = {int(number): p for number, p in numbers.items() if number.isdigit()}
    if not found:
        trials = sorted(p.name.partition("-limit")[2] for p in boards if "-limit" in p.name)
        hint = f"; of trials it holds those of --limit {', '.join(trials)}" if trials else ""
        raise UserError(f"{folder} holds no leaderboard{hint}; make one with: harness run --suite {suite}")
    if version is not None and version not in found:
        raise UserError(f"{folder} has no version {version}; it has {', '.join(map(str, sorted(found)))}")
    filled = [number for number, path in found.items() if any((path / "rows").glob("*.json"))]
    return found[version or max(filled or found)]
