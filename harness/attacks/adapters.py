"""Run the attacks of the packages torchattacks and TransferAttack unchanged."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks.model import Model
from harness.attacks.rng import Rng
from zoo.errors import UserError, did_you_mean


def _package() -> ModuleType:
    try:
        import torchattacks
    except ImportError as error:
        raise UserError(
            "this attack needs the package torchattacks: pip install 'qnn-transfer-zoo[torchattacks]'"
        ) from error
    package: ModuleType = torchattacks
    return package


def version() -> str:
    """Return the installed version.

    Raises:
        UserError: torchattacks is not installed.
    """
    return f"torchattacks {_package().__version__}"


class _Network(nn.Module):
    """A substitute in the form of a network. Each `forwards`-th forward pass is one iteration of its schedule."""

    def __init__(self, model: Model, forwards: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList(model.networks())
        self._model = (model,)
        self._forwards = forwards
        self._count = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits in the state of this pass."""
        model = self._model[0]
        model.begin_iteration(self._count // self._forwards)
        model.begin_forward()
        self._count += 1
        return model(x)


UNFIT = {
    "MultiAttack": "is handed attacks that are made already; list them as attacks of the suite instead",
    "LGV": "trains the substitute on a loader of images; give the suite a substitute that a recipe of kind lgv makes",
}
"""Classes of torchattacks that are no attack on a finished network, and why."""
COLOUR_ONLY = ("TIFGSM", "PIFGSM", "PIFGSMPP")
"""Classes whose kernels have three channels."""


@dataclass(frozen=True)
class TorchAttack:
    """`torchattacks.NAME(model, **options)`, with eps, steps and the step size eps / steps where it takes them.

    It draws from global generators and shares draws within a batch, so each image runs alone, with all generators seeded
    by the image and restored afterwards. Options win over the suite's budget, except eps. The option `forwards` says how
    many forward passes make one iteration for a substitute that alternates (1 by default; VMI makes N + 1).
    """

    name: str
    options: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        """Refuse names that torchattacks does not have."""
        known = [n for n, each in vars(_package()).items() if isinstance(each, type) and hasattr(each, "forward")]
        if self.name not in known:
            raise UserError(f"torchattacks has no attack {self.name!r}{did_you_mean(self.name, known)}")
        if self.name in UNFIT:
            raise UserError(f"torchattacks:{self.name} cannot run here: it {UNFIT[self.name]}")

    @property
    def source(self) -> str:
        """Package and class."""
        return f"{version()}, {self.name}"

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, *, eps: float, steps: int, rng: Rng, target: Tensor | None = None
    ) -> Tensor:
        """Return the adversarial images, one at a time."""
        if self.name in COLOUR_ONLY and x.shape[1] != 3:
            channels = x.shape[1]
            raise UserError(f"torchattacks:{self.name} is written for images of three channels; these have {channels}")
        images = []
        for n, seed in enumerate(rng.seeds):
            model.begin_batch()
            with _seeded(seed, x.device):
                attack = self._make(model, eps, steps)
                if target is not None:
                    attack.set_mode_targeted_by_label(quiet=True)
                images.append(attack(x[n : n + 1], (y if target is None else target)[n : n + 1]).detach())
        return torch.cat(images)

    def _make(self, model: Model, eps: float, steps: int) -> Any:
        kind = getattr(_package(), self.name)
        options = dict(self.options)
        forwards = options.pop("forwards", 1)
        if not isinstance(forwards, int) or forwards < 1:
            raise UserError(f"torchattacks:{self.name}: forwards is a number of passes of at least 1, not {forwards!r}")
        taken = inspect.signature(kind).parameters
        unknown = [key for key in options if key not in taken or key == "model"]
        if unknown:
            near = did_you_mean(unknown[0], taken)
            raise UserError(f"torchattacks:{self.name} has no option {unknown[0]!r}{near}; it has {', '.join(taken)}")
        budget = {"eps": eps, "steps": steps, "alpha": eps / float(str(options.get("steps", steps)))}
        suite = {key: value for key, value in budget.items() if key in taken and (key == "eps" or key not in options)}
        return kind(_Network(model, forwards), **{**options, **suite})


def _library() -> ModuleType:
    try:
        import transferattack
    except ImportError as error:
        raise UserError(
            "this attack needs TransferAttack, which is no package of an index: clone its repository and put the folder on "
            f"PYTHONPATH ({error})"
        ) from error
    package: ModuleType = transferattack
    return package


def library_version() -> str:
    """Return the version that TransferAttack states.

    Raises:
        UserError: it is not there.
    """
    return f"TransferAttack {getattr(_library(), '__version__', 'of unknown version')}"


@dataclass(frozen=True)
class LibraryAttack:
    """`transferattack.attack_zoo[NAME](model_name, epsilon, alpha, epoch, **options)` on a substitute of ours.

    Its classes load a network by its name and wrap it with a normalisation; here `load_model` returns the substitute, as
    the second of two modules, since some classes look at `model[1]`. They return a perturbation, share draws within a batch
    and draw from global generators, so each image runs alone, with all generators seeded by the image. eps, steps and
    eps / steps are handed over where any of their constructors takes them; options win, except over eps. `forwards` says how
    many forward passes make one iteration of a substitute that alternates. Classes that name layers of one architecture
    need a substitute that has them; those that call `.cuda()` need a GPU.
    """

    name: str
    options: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        """Refuse names that the library does not list."""
        known = _library().attack_zoo
        if self.name not in known:
            raise UserError(f"TransferAttack has no attack {self.name!r}{did_you_mean(self.name, known)}")

    @property
    def source(self) -> str:
        """Library and class."""
        return f"{library_version()}, {self.name}"

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, *, eps: float, steps: int, rng: Rng, target: Tensor | None = None
    ) -> Tensor:
        """Return the adversarial images, one at a time."""
        images = []
        for n, seed in enumerate(rng.seeds):
            model.begin_batch()
            with _seeded(seed, x.device):
                attack = self._make(model, x, eps, steps, target is not None)
                label = y[n : n + 1] if target is None else torch.stack([y[n : n + 1], target[n : n + 1]])
                images.append(x[n : n + 1] + attack(x[n : n + 1], label).detach())
        return torch.cat(images)

    def _make(self, model: Model, x: Tensor, eps: float, steps: int, targeted: bool) -> Any:
        listed = _library().attack_zoo[self.name]
        if isinstance(listed, tuple):  # later versions list where a class is instead of importing them all
            listed = getattr(import_module(listed[0], "transferattack"), listed[1])
        options = dict(self.options)
        forwards = options.pop("forwards", 1)
        if not isinstance(forwards, int) or forwards < 1:
            raise UserError(
                f"transferattack:{self.name}: forwards is a number of passes of at least 1, not {forwards!r}"
            )
        taken = {name for base in listed.__mro__ for name in inspect.signature(base.__init__).parameters}
        unknown = [key for key in options if key not in taken]
        if unknown:
            raise UserError(f"transferattack:{self.name} has no option {unknown[0]!r}{did_you_mean(unknown[0], taken)}")
        network = nn.Sequential(nn.Identity(), _Network(model, forwards)).eval()
        kind = type(listed.__name__, (listed,), {"load_model": lambda _self, _name: network})
        epochs = float(str(options.get("epoch", steps)))
        budget = {
            "epoch": steps,
            "alpha": eps / epochs,
            "targeted": targeted,
            "device": x.device,
            **options,
            "epsilon": eps,
        }
        return kind(
            model_name="substitute", **{key: value for key, value in budget.items() if key in taken or key in options}
        )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every global generator within the context and restore them all."""
    import numpy as np

    state, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(state)
            np.random.set_state(legacy)
