"""What the registry says of one model: validated, immutable records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from zoo.registry.bitwidths import bitwidth_problem

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$", max_length=80)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+][A-Za-z0-9_.+-]*(/[A-Za-z0-9_+][A-Za-z0-9_.+-]*)*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Family = Literal["standard", "adversarial", "quantized"]
State = Literal["fp", "w", "a", "wa"]
"""Which parts of a quantised model are quantised: nothing, weights, activations, or both."""

_LOADING = ("checkpoint_path", "cache_dir", "pruned", "kwargs_filter")
"""Arguments of timm's, besides those named pretrained..., that make it read files of its own choice."""


class Record(BaseModel):
    """Base of every record: strict types, no unknown keys, finite numbers, immutable, hashable by value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Input(Record):
    """What the network expects of its input; the harness always hands over [0, 1] pixels.

    `mean` and `std` are per channel in [0, 1] units. `size` is the side at which the published accuracy was measured.
    `resize` is the side that images are resized to inside the model, differentiably; null feeds them as they come.
    """

    size: int = Field(ge=4, le=1024)
    channels: int = Field(default=3, ge=1, le=4)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = Field(default=None, ge=4, le=1024)
    crop_pct: float = Field(default=1.0, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Input:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class HubFile(Record):
    """One file of a Hub repository at one commit. A null `revision` or `file` is not known yet; `zoo lock` fills it."""

    repo: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    revision: Revision | None = None
    file: FileName = "model.safetensors"


class PackageFile(Record):
    """One file inside a package of the package index, at one version."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?$")]
    version: Annotated[str, StringConstraints(pattern=r"^[0-9][\w.+!-]*$")]
    file: FileName
    """Its path inside the wheel."""


class Weights(Record):
    """Where a model's bytes are, in order of preference: `bundled`, `package`, `hub`, `url`, `file`. null means unknown."""

    bundled: FileName | None = None
    package: PackageFile | None = None
    hub: HubFile | None = None
    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] | None = None
    file: str | None = None
    sha256: Sha256 | None = None
    size: int | None = Field(default=None, gt=0)
    license: str | None = None
    keymap: str | None = None
    """Name of the map in `zoo.loading.checkpoints` that turns a foreign state dict into ours; null for ours and timm's."""

    @model_validator(mode="after")
    def _somewhere(self) -> Weights:
        if not (self.bundled or self.package or self.hub or self.url or self.file):
            raise ValueError("weights need one of bundled, package, hub, url, file")
        return self

    @property
    def is_graph(self) -> bool:
        """Whether the file is a network of its own, by its name: .tflite or .onnx, which hold data and no code."""
        routes = (self.bundled, self.hub.file if self.hub else None, self.url, self.file)
        return any(route is not None and route.endswith((".tflite", ".onnx")) for route in routes)


class QuantSpec(Record):
    """How a model is quantised. Bits of 32 mean full precision. `edge_bits` are those of the first and last layer's weights."""

    method: Literal["apot", "uniform", "qdrop", "dorefa", "pact", "xnor", "bnn", "integer", "codebook"]
    """Two say how others made a file: `integer` that its integers say all, `codebook` that each weight is one of a few shared
    values, which are stored as floats here. The others are quantisers of `zoo.quant`."""
    w_bits: int = Field(ge=1, le=32)
    a_bits: int = Field(ge=1, le=32)
    edge_bits: int = Field(default=8, ge=1, le=32)


class Engine(Record):
    """Which engine runs an entry's file as it is deployed: a black box, without gradients, states or weights to look at.

    Integer inputs get the image's bytes, brought to the size of `input.resize` and rounded (int8: less 128), so that `input`
    states mean 0 and std 1; float inputs get (x - mean) / std of pixels x in [0, 1]. The file itself says whether channels come
    first or last.
    """

    name: Literal["litert", "onnxruntime"]
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels that the file wants."""
    order: tuple[int, ...] | None = None
    """Which output stands for each class, where the file lists them otherwise; `label_offset` drops outputs before that."""


class Alternation(Record):
    """QAA's schedule of states: `states[t % len(states)]` at step t, anew for each batch.

    The paper (Alg. 1) starts in full precision and switches every iteration; `forward` is what the released code does.
    """

    states: tuple[State, ...] = Field(min_length=1)
    every: Literal["iteration", "forward"] = "iteration"


class Recipe(Record):
    """How an entry's weights are made by `zoo build`. `start` names the entry whose weights training starts from.

    Kind `export` writes the start's network to the file that the entry's engine runs.
    """

    kind: Literal["train", "adversarial", "qat", "ptq", "lgv", "export"]
    start: Name | None = None
    epochs: int | None = Field(default=None, ge=0)
    batch_size: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    states: tuple[State, ...] | None = None
    """Training states, one per step in turn (QAA: [w, wa]); null trains with everything quantised that the entry quantises."""
    augment: Literal["none", "shift1", "crop-flip", "resize-crop-flip"] = "none"
    seed: int = 0
    options: dict[str, int | float | str | bool | tuple[int | float | str, ...]] = Field(default_factory=dict)
    """Settings of one kind of recipe alone, such as `eps_levels` of adversarial training or `iterations` of ptq."""
    cost: str | None = None
    """What building it takes, in words a reader can plan with; a measured figure names its machine."""


class ClaimedAccuracy(Record):
    """A clean accuracy in percent, where it was measured, and who says so."""

    top1: float = Field(ge=0, le=100)
    data: str
    source: str


class ModelEntry(Record):
    """One model of the registry.

    `parent` supplies defaults for what describes the network (`zoo.registry.INHERITED`), never for its weights, recipe,
    engine or accuracy. `arch` is `timm:NAME` or `zoo:NAME` (`zoo.archs`), or in a registry file of the user's own
    `mynet.py:Net`; a file that brings its own graph may have `file:NAME`, which no code makes and which only says what is the
    same architecture.
    """

    name: Name
    family: Family
    data: str
    """Data set that it classifies: digits, cifar10, imagenet, or one of the user's own."""
    arch: Annotated[str, StringConstraints(pattern=r"^(timm|zoo|file|own):[\w.-]+$")]
    arch_file: str | None = None
    """Place of the code of the user's own that makes the network, path/to/mynet.py:Net; the registry finds it (`owncode`)."""
    arch_args: dict[str, int | float | str | bool | tuple[int | float | str, ...]] = Field(default_factory=dict)
    classes: int = Field(ge=2)
    label_offset: int = Field(default=0, ge=0, le=1)
    """Leading logits to drop: 1 for the TF-converted networks with 1001 classes, whose class 0 is the background."""
    input: Input
    weights: Weights | None = None
    quant: QuantSpec | None = None
    engine: Engine | None = None
    alternation: Alternation | None = None
    feature_layer: str | None = None
    recipe: Recipe | None = None
    parent: Name | None = None
    clean_accuracy: ClaimedAccuracy | None = None
    aliases: tuple[Name, ...] = ()
    cite: str | None = None
    notes: str | None = None

    @model_validator(mode="after")
    def _architecture_alone(self) -> ModelEntry:
        """Keep weights out of arch_args: timm loads what it is told to there, unverified, as pickles that may run code."""
        loading = [key for key in self.arch_args if key.startswith("pretrained") or key in _LOADING]
        if self.arch.startswith("timm:") and loading:
            raise ValueError(f"arch_args.{loading[0]}: an architecture loads no weights; name them in weights, with a sha256")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> ModelEntry:
        if self.alternation is not None and self.quant is None:
            raise ValueError("alternation needs quant: only a quantised model has states to alternate")
        if self.family == "quantized" and self.quant is None:
            raise ValueError("family is quantized but quant is missing")
        if self.family == "standard" and self.quant is not None:
            raise ValueError("quant is given but family is standard; say family: quantized")
        q = self.quant
        problem = bitwidth_problem(q.method, q.w_bits, q.a_bits, q.edge_bits) if q else None
        if problem is not None:
            raise ValueError(f"quant: {problem}")
        return self

    @model_validator(mode="after")
    def _graph_of_its_own(self) -> ModelEntry:
        """Let only files that bring their graph do without an architecture or a quantiser of ours."""
        whole = self.engine is not None or (self.weights is not None and self.weights.keymap == "tflite")
        if not whole and self.arch.startswith("file:"):
            raise ValueError(f"arch: {self.arch} is made by no code; only entries with an engine, or keymap tflite, may say so")
        if not whole and self.quant is not None and self.quant.method == "integer":
            raise ValueError("quant.method: integer is for entries with an engine, or keymap tflite; choose a quantiser")
        if self.engine is None:
            return self
        if self.alternation is not None:
            raise ValueError("alternation: an engine runs a file as it is, which has no states")
        order = self.engine.order
        if order is not None and sorted(order) != list(range(self.classes)):
            raise ValueError(f"engine.order: it must hold each of 0 to {self.classes - 1} once, the output of each class")
        return self

    @property
    def w_bits(self) -> int:
        """Weight bitwidth, 32 when not quantised."""
        return self.quant.w_bits if self.quant else 32

    @property
    def a_bits(self) -> int:
        """Activation bitwidth, 32 when not quantised."""
        return self.quant.a_bits if self.quant else 32
