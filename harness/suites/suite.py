"""What is benchmarked: suites as versioned YAML, validated, expanded to jobs, and identified by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from zoo.errors import UserError, did_you_mean
from zoo.registry.entry import Name, Record, State
from zoo.registry.yamlfile import read_yaml, validate

Transport = Literal["lossless", "jpeg75"]
FOLDER = Path(__file__).parent


class DataSpec(Record):
    """Images of a suite: a data set, its split, and how many of its first images (null: all)."""

    name: str
    split: str = "test"
    limit: int | None = Field(default=None, ge=1)


class Hidden(Record):
    """Images that a suite holds back, on which maintainers score a submission: nobody else knows which they are."""

    images: int = Field(ge=20)
    """How many, of those that the data set has beyond the suite's own (`data.limit`)."""
    seed_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the seed that chooses them, a text that maintainers keep to themselves."""


class Budget(Record):
    """The ball that adversarial images must stay in, in whole 1/255 steps of the bytes that a target sees."""

    norm: Literal["linf"] = "linf"
    levels: int = Field(ge=1, le=255)
    passes: int | None = Field(default=None, ge=1)
    """Gradient passes per image that every attack is brought to, by its copies or steps; null: as each is published."""
    patch: float | None = Field(default=None, gt=0, lt=1)
    """Share of an image's pixels that may change, within a square that every attack is confined to; null: all of them."""

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out limits that are not set, so that suites without them keep their digests."""
        shown: dict[str, Any] = handler(self)
        return {key: value for key, value in shown.items() if value is not None}

    @property
    def eps(self) -> float:
        """Radius in [0, 1] pixel units."""
        return self.levels / 255


class SubstituteSpec(Record):
    """A substitute of a suite: a registry model, optionally in other states than the registry's, or several models combined."""

    name: Name
    models: tuple[Name, ...] = Field(min_length=1)
    states: tuple[State, ...] | None = None
    """Schedule of states that replaces the registry's alternation; one state holds it fixed (Table IX)."""
    every: Literal["iteration", "forward"] | None = None
    ensemble: Literal["logits", "softmax", "sampling"] | None = None
    """Run all models in each iteration, or sample one of them."""
    mixture: tuple[int, int] | None = None
    """Take two models in turn, so many iterations of each per round: LGV+QAA is [1, 1] (Table VII, Fig. 7)."""

    temperature: float | None = Field(default=None, gt=0)
    """Divides the logits, so that a net that is sure of itself still has gradients; null: as they are."""

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a temperature that is not set, so that suites without one keep their digests."""
        shown: dict[str, Any] = handler(self)
        return shown if self.temperature is not None else {k: v for k, v in shown.items() if k != "temperature"}

    @model_validator(mode="after")
    def _combination_is_named(self) -> SubstituteSpec:
        if self.ensemble is not None and self.mixture is not None:
            raise ValueError("models are combined by `ensemble` or by `mixture`, not by both")
        if (len(self.models) > 1) != (self.ensemble is not None or self.mixture is not None):
            raise ValueError("several models need `ensemble: logits|softmax|sampling` or `mixture: [1, 1]`, and one model none")
        if self.mixture is not None and (len(self.models) != 2 or min(self.mixture) < 1):
            raise ValueError("mixture takes two models and at least one iteration of each, such as [1, 1]")
        return self


class Pair(Record):
    """A QAA substitute, the baseline that its gain is measured against, and the controls that say where the gain is from."""

    substitute: Name
    baseline: Name
    controls: tuple[Name, ...] = ()


class Reported(Record):
    """A figure of the paper in percent, shown beside ours and never mixed into a mean."""

    substitute: Name
    attack: str
    target: Name
    asr: float = Field(ge=0, le=100)
    source: str | None = None


_NAME: TypeAdapter[str] = TypeAdapter(Name)
AttackItem = Annotated[str, StringConstraints(min_length=1)] | dict[str, Any]


class Suite(Record):
    """A benchmark: data, budget, substitutes x attacks x targets, and what is compared with what."""

    name: Name
    version: int = Field(ge=1)
    title: str
    description: str = ""
    data: DataSpec
    budget: Budget
    steps: int = Field(ge=1)
    transport: Transport = "lossless"
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    block: int = Field(default=16, ge=1)
    """Images crafted together. Fixed, since float kernels differ in their last bits between batch sizes."""
    attacks: tuple[AttackItem, ...] = Field(min_length=1)
    substitutes: tuple[SubstituteSpec, ...] = Field(min_length=1)
    pairs: tuple[Pair, ...] = ()
    targets: dict[str, tuple[Name, ...]]
    """Family title -> target models, in the order in which a board shows them."""
    whitebox: Literal["architecture", "model"] = "architecture"
    """Which cells are marked and left out of means: those within one architecture, or only a model against itself."""
    tolerance: float = Field(default=2.0, ge=0)
    """Points by which a model's clean accuracy may lie from its claim before its cells are blocked."""
    reported: tuple[Reported, ...] = ()
    hidden: Hidden | None = None
    """Images held back; they decide no figure of a row, only whether a submission may have one."""

    def over_all_images(self) -> Suite:
        """Return this suite over all images of its data set, where it takes only the first of them."""
        return self.model_copy(update={"data": self.data.model_copy(update={"limit": None})})


    @model_validator(mode="after")
    def _hides_from_beyond_its_own(self) -> Suite:
        if self.hidden is not None and self.data.limit is None:
            raise ValueError("hidden: images are held back from those beyond `data.limit`; state a limit")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        names = [s.name for s in self.substitutes]
        targets = [t for family in self.targets.values() for t in family]
        for kind, listed in (("substitute", names), ("target", targets), ("attack", self.attack_names)):
            twice = {n for n in listed if listed.count(n) > 1}
            if twice:
                raise ValueError(f"{kind} {sorted(twice)[0]!r} is listed twice")
        for name in self.attack_names:
            try:
                _NAME.validate_python(name)
            except ValidationError:
                raise ValueError(
                    f"attack {name!r}: a name is of lower-case letters, digits, dots and dashes, since it names files; give "
                    "what comes from elsewhere a name: {name: my-attack, use: 'attack.py:MyAttack'}"
                ) from None
        if not targets:
            raise ValueError("a suite needs at least one target")
        for pair in self.pairs:
            for name in (pair.substitute, pair.baseline, *pair.controls):
                if name not in names:
                    near = did_you_mean(name, names)
                    raise ValueError(
                        f"pairs name {name!r}, which is no substitute of the suite{near}; pairs: [] clears inherited ones"
                    )
        for figure in self.reported:
            for kind, name, known in (("substitute", figure.substitute, names), ("target", figure.target, targets)):
                if name not in known:
                    raise ValueError(f"reported names {name!r}, which is no {kind} of the suite{did_you_mean(name, known)}")
        return self

    @property
    def attack_names(self) -> list[str]:
        """Ids of the attacks, in order."""
        return [a if isinstance(a, str) else str(a.get("name", "unnamed")) for a in self.attacks]

    @property
    def target_names(self) -> list[str]:
        """Ids of all targets, in order."""
        return [t for family in self.targets.values() for t in family]

    @property
    def model_names(self) -> list[str]:
        """Every registry model that the suite names, each once."""
        return list(dict.fromkeys([m for s in self.substitutes for m in s.models] + self.target_names))

    def substitute(self, name: str) -> SubstituteSpec:
        """Return the substitute of that name."""
        for spec in self.substitutes:
            if spec.name == name:
                return spec
        known = [s.name for s in self.substitutes]
        raise UserError(f"suite {self.name} has no substitute {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}")

    def attack(self, name: str) -> AttackItem:
        """Return the attack of that name as the suite composes it; a name the suite does not list stands for itself."""
        for item, known in zip(self.attacks, self.attack_names, strict=True):
            if known == name:
                return item
        return name

    def canonical(self) -> dict[str, Any]:
        """Everything that can move a number, as plain data: neither which rows exist nor the words shown."""
        shown = {"title", "description", "reported", "pairs", "attacks", "seeds", "substitutes", "whitebox", "hidden"}
        return self.model_dump(mode="json", exclude=shown)

    def digest(self, targets: Mapping[str, str | None], data_digest: str) -> str:
        """sha256 over the canonical suite, its targets' weights and the images; rows of different digests do not compare."""
        content = {"suite": self.canonical(), "targets": dict(targets), "data": data_digest}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def names() -> list[str]:
    """Return the names of the suites that ship with the package."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.stem.startswith("_"))


def load(name: str) -> Suite:
    """Return a suite by its name, or from a file: one of the user's own, or the suite.yaml of a leaderboard folder.

    Raises:
        UserError: no such suite or file, or the file is malformed.
    """
    return _load(find(name))


def find(name: str) -> Path:
    """Return the file of a suite that ships with the package, or the path that `name` is.

    Raises:
        UserError: there is no such suite.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if name not in names():
        near = did_you_mean(name, names())
        raise UserError(f"unknown suite {name!r}{near}; see harness list, or give the path of a .yaml file")
    return FOLDER / f"{name}.yaml"


def name_of(given: str) -> str:
    """Return the name of a suite that is given by its name or by its file.

    Raises:
        UserError: the file is malformed.
    """
    return load(given).name if given.endswith((".yaml", ".yml")) else given


def _load(path: Path) -> Suite:
    data = _included(path, ())
    if "suite" in data and "digest" in data:  # a leaderboard folder's record of what was run
        return validate(Suite, data["suite"], f"{path}: suite")
    suite = validate(Suite, _expand(data, path), str(path))
    if path.parent == FOLDER and suite.name != path.stem:
        raise UserError(f"{path}: name is {suite.name!r} but the file is called {path.stem!r}")
    return suite


def _included(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Read one file and what it includes; its own keys win."""
    if path.resolve() in seen:
        raise UserError(f"{path}: include runs in a circle ({' -> '.join(p.name for p in [*seen, path.resolve()])})")
    data = read_yaml(path)
    parent = data.pop("include", None)
    if parent is None:
        return data
    if not isinstance(parent, str) or "/" in parent or "\\" in parent:
        raise UserError(f"{path}: include: expected a suite or the name of a file in the same folder, found {parent!r}")
    parent = parent if parent.endswith((".yaml", ".yml")) else f"{parent}.yaml"
    folder = path.parent if (path.parent / parent).is_file() else FOLDER
    return {**_included(folder / parent, (*seen, path.resolve())), **data}


def _expand(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Turn the compact forms into records: a bare substitute name, and `reported` as substitute -> attack -> target -> figure."""
    listed = data.get("substitutes")
    if isinstance(listed, list):
        short = [{"name": s, "models": [s]} if isinstance(s, str) else s for s in listed]
        data = {**data, "substitutes": short}
    table = data.get("reported")
    if not isinstance(table, dict):
        return data
    source = table.get("source")
    rows = []
    for substitute, attacks in table.items():
        if substitute == "source":
            continue
        if not isinstance(attacks, dict) or not all(isinstance(cells, dict) for cells in attacks.values()):
            raise UserError(f"{path}: reported.{substitute}: expected attack -> target -> figure")
        rows += [
            {"substitute": substitute, "attack": attack, "target": target, "asr": asr, "source": source}
            for attack, cells in attacks.items()
            for target, asr in cells.items()
        ]
    return {**data, "reported": rows}
