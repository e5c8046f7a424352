"""A recipe made complete: required settings checked, defaults filled in, options typed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from zoo.errors import UserError, did_you_mean
from zoo.registry.entry import ModelEntry, Recipe, State
from zoo.registry.qdrop import ReconstructionSettings

PRECISIONS = ("exact", "tf32", "bf16")
"""How exactly a training computes."""


@dataclass(frozen=True)
class RecipeOptions:
    """RecipeOptions that every kind of recipe knows (`recipe.options` in the registry)."""

    threads: int = 0
    """CPU threads to compute with, so that the same machine gives the same bytes; 0 leaves torch's setting."""
    latent: bool = False
    """Store the latent float weights of a quantised net instead of packed codes: for nets that others start from."""
    calibration_images: int = 256
    """Training images from which the first clip thresholds are set."""


@dataclass(frozen=True)
class TrainingOptions(RecipeOptions):
    """RecipeOptions that every kind of training knows."""

    optimizer: str = "sgd"
    """`sgd` or `adam` (as XNOR-Net is trained; `momentum` is then its first beta)."""
    milestones: tuple[int, ...] = ()
    """Epochs at which the `step` schedule multiplies the learning rate by `gamma`."""
    gamma: float = 0.1
    max_grad_norm: float = 0.0
    """Gradients of a larger norm are scaled down to it; 0 leaves them. Depthwise nets at 2 bits need it."""
    smooth: float = 0.0
    """Weight of the squared norm of input gradients in the loss (`zoo.recipes.smoothing`); 0 leaves it out."""
    weight_scale_lr: float = 0.0
    """Learning rate of the weights' clip thresholds (APoT on CIFAR-10: 0.02); 0 takes `lr`."""
    activation_scale_lr: float = 0.0
    """Learning rate of the activations' clip thresholds (APoT on CIFAR-10: 0.1); 0 takes `lr`."""
    precision: str = "exact"
    """`exact` is float32; `tf32` lets a GPU multiply in TF32; `bf16` runs what autocast chooses in bfloat16. Decides bytes."""
    channels_last: bool = False
    """Keep images and weights channels-last in memory, which most devices convolve faster; it decides the last bits."""


@dataclass(frozen=True)
class AdversarialOptions(TrainingOptions):
    """RecipeOptions of adversarial training."""

    eps_levels: float = 8.0
    """L-infinity budget in 1/255 steps."""
    attack_steps: int = 7
    """Gradient steps; 1 with `random_start` false is FGSM."""
    step_levels: float = 2.0
    """Size of a gradient step in 1/255 steps."""
    random_start: bool = True
    clean_share: float = 0.0
    """Share of every batch that stays clean (Madry et al.: 0; ensemble-adversarial training: 0.5)."""
    ensemble: tuple[str, ...] = ()
    """Entries of fixed nets that take turns with the trained one as the net that is attacked (Tramer et al.)."""


@dataclass(frozen=True)
class LgvOptions(TrainingOptions):
    """RecipeOptions of LGV collection."""

    snapshots_per_epoch: int = 4


@dataclass(frozen=True)
class PtqOptions(ReconstructionSettings, RecipeOptions):
    """Options of post-training quantisation. Its batches are `recipe.batch_size`, 32 by default."""

    images: int = 1024
    """Training images that blocks are reconstructed on."""


OPTIONS: dict[str, type[RecipeOptions]] = {
    "train": TrainingOptions,
    "qat": TrainingOptions,
    "adversarial": AdversarialOptions,
    "lgv": LgvOptions,
    "ptq": PtqOptions,
}


@dataclass(frozen=True)
class Plan:
    """What the training loop needs to know; see `zoo.registry.entry.Recipe` for the fields that come from there."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    momentum: float
    schedule: str
    states: tuple[State, ...]
    augment: str
    seed: int
    options: RecipeOptions

    @property
    def training(self) -> TrainingOptions:
        """The options as those of a training."""
        return self.options if isinstance(self.options, TrainingOptions) else TrainingOptions()

    def lr_factor(self, step: int, steps_per_epoch: int) -> float:
        """Return the factor on the learning rate at a global step: a pure function, so that resuming needs no state."""
        import math

        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / max(self.epochs * steps_per_epoch, 1)))
        if self.schedule == "step":
            return self.training.gamma ** sum(step // steps_per_epoch >= epoch for epoch in self.training.milestones)
        return 1.0


def plan(entry: ModelEntry) -> Plan:
    """Return the complete plan of an entry's recipe.

    Raises:
        UserError: a setting is missing, unknown or does not fit the entry; the message names its place in the registry.
    """
    recipe = entry.recipe
    if recipe is None:
        raise UserError(
            f"{entry.name}: has no recipe, so it cannot be built; {entry.notes or 'zoo show ' + entry.name}"
        )
    where = f"{entry.name}: recipe"
    if recipe.kind == "export":
        raise ValueError(f"{where}: an export has nothing to train; see zoo.recipes.exporting")
    if recipe.kind == "ptq":
        return _ptq_plan(entry, recipe, where)
    for key in ("epochs", "batch_size", "lr"):
        if getattr(recipe, key) is None:
            raise UserError(f"{where}.{key}: missing; kind {recipe.kind!r} needs it")
    assert recipe.epochs is not None and recipe.batch_size is not None and recipe.lr is not None
    if recipe.kind == "qat" and entry.quant is None:
        raise UserError(f"{where}.kind: 'qat' trains a quantised model, but the entry has no quant")
    states: tuple[State, ...] = recipe.states or (("wa",) if entry.quant else ("fp",))
    if entry.quant is None and set(states) != {"fp"}:
        raise UserError(
            f"{where}.states: only a quantised entry has states other than 'fp'; remove states or add quant"
        )
    options = read_options(recipe, where)
    assert isinstance(options, TrainingOptions)
    if recipe.schedule == "step" and not options.milestones:
        raise UserError(f"{where}.options.milestones: missing; schedule 'step' needs the epochs of its steps")
    return Plan(
        recipe.epochs,
        recipe.batch_size,
        recipe.lr,
        recipe.weight_decay or 0.0,
        recipe.momentum,
        recipe.schedule,
        states,
        recipe.augment,
        recipe.seed,
        options,
    )


def _ptq_plan(entry: ModelEntry, recipe: Recipe, where: str) -> Plan:
    """Return a plan without epochs: all is done before the first."""
    if entry.quant is None or entry.quant.method != "qdrop":
        raise UserError(f"{where}.kind: 'ptq' quantises by QDrop; give the entry quant: {{method: qdrop, ...}}")
    if recipe.start is None:
        raise UserError(f"{where}.start: missing; kind 'ptq' quantises a trained net")
    options = read_options(recipe, where)
    return Plan(0, recipe.batch_size or 32, 1.0, 0.0, 0.0, "constant", ("wa",), recipe.augment, recipe.seed, options)


def read_options(recipe: Recipe, where: str) -> RecipeOptions:
    """Return the recipe's options as the record of its kind, checked for names, types and ranges."""
    kind = OPTIONS[recipe.kind]
    known = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in recipe.options.items():
        if key not in known:
            raise UserError(f"{where}.options.{key}: kind {recipe.kind!r} has no such option{did_you_mean(key, known)}")
        values[key] = _typed(value, getattr(kind, key), f"{where}.options.{key}")
    options = kind(**values)
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, int | float) and value < 0:
            raise UserError(f"{where}.options.{field.name}: must not be negative, is {value}")
    if isinstance(options, TrainingOptions) and options.optimizer not in ("sgd", "adam"):
        raise UserError(f"{where}.options.optimizer: must be 'sgd' or 'adam', is {options.optimizer!r}")
    if isinstance(options, TrainingOptions) and options.precision not in PRECISIONS:
        raise UserError(f"{where}.options.precision: must be one of {', '.join(PRECISIONS)}, is {options.precision!r}")
    if isinstance(options, AdversarialOptions) and options.clean_share >= 1:
        raise UserError(f"{where}.options.clean_share: must be below 1, or nothing adversarial is learned")
    if isinstance(options, LgvOptions) and options.snapshots_per_epoch < 1:
        raise UserError(f"{where}.options.snapshots_per_epoch: must be at least 1")
    return options


def _typed(value: Any, default: Any, where: str) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise UserError(f"{where}: expected {type(default).__name__}, found {value!r}")
    return value
