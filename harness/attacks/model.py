"""What an attack sees of a substitute, and how a plain network becomes one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from zoo.errors import UserError, did_you_mean

_NAME_IT = "set feature_layer in its registry entry, or use as_model(module, feature_layer='layer2')"


@runtime_checkable
class Model(Protocol):
    """A substitute: a map from [0, 1] pixels (N, C, H, W) to logits (N, classes), with a schedule of its own.

    The attack announces what it does (`begin_batch`, `begin_iteration`, `begin_forward`) and the model decides what that
    means: an alternating QNN switches its state, an ensemble picks a member, a plain network does nothing.
    """

    per_forward: bool
    """Whether the schedule moves with each forward pass. Copies of separate passes are then never merged into one."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits."""

    def begin_batch(self) -> None:
        """Restart the schedule: nothing that ran before may matter."""

    def begin_iteration(self, t: int) -> None:
        """Take the state of iteration t = 0, 1, ... of the attack, or of its preparation."""

    def begin_forward(self) -> None:
        """Announce one forward pass of the published algorithm, however many chunks compute it."""

    def features(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return (logits, outputs of the feature layers, one per network in use), all part of one graph.

        Raises:
            UserError: there is no such layer.
        """

    def networks(self) -> tuple[nn.Module, ...]:
        """Return the networks inside, for attacks that refine the backward pass."""


class PlainModel:
    """A network without a schedule. `feature_layer` is the dotted name of the module whose output features() returns."""

    per_forward = False

    def __init__(self, module: nn.Module, feature_layer: str | None = None) -> None:
        self.module = module
        self.feature_layer = feature_layer
        self.layout = torch.preserve_format
        """The layout in which images enter the network."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.module(x.to(memory_format=self.layout))
        return logits

    def once(self, x: Tensor) -> AbstractContextManager[bool]:
        """Open a pass over images like x that ends with its gradient, and say whether that must be copied before the next.

        A substitute may compute such a pass otherwise than module by module.
        """
        return nullcontext(False)

    def begin_batch(self) -> None:
        """Do nothing."""

    def begin_iteration(self, t: int) -> None:
        """Do nothing."""

    def begin_forward(self) -> None:
        """Do nothing."""

    def features(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return (logits, (output of the feature layer,))."""
        if self.feature_layer is None:
            raise UserError("this attack disrupts features, but the substitute names no feature layer; " + _NAME_IT)
        with tap(self.module, self.feature_layer) as tapped:
            logits = self(x)
        if len(tapped) != 1:
            raise UserError(
                f"feature layer {self.feature_layer!r} ran {len(tapped)} times in one forward pass and must run once; "
                "name a module that the network uses exactly once"
            )
        return logits, (tapped[0],)

    def networks(self) -> tuple[nn.Module, ...]:
        """Return the network."""
        return (self.module,)


def members(model: Model) -> tuple[Model, ...]:
    """Return the models that a substitute runs together; one that is no ensemble is its own only member."""
    together: tuple[Model, ...] | None = getattr(model, "together", None)
    return (model,) if together is None else tuple(each for member in together for each in members(member))


def feature_layers(model: Model) -> list[tuple[nn.Module, nn.Module]]:
    """Return each network of a substitute with its feature layer.

    Raises:
        UserError: one of them names none.
    """
    inside: tuple[Model, ...] = getattr(model, "members", ())
    if inside:
        return [found for member in inside for found in feature_layers(member)]
    module: nn.Module = model.networks()[0]
    layer: str | None = getattr(model, "feature_layer", None)
    if layer is None:
        raise UserError("this attack works at the feature layer, but the substitute names none; " + _NAME_IT)
    return [(module, _layer(module, layer))]


def _layer(module: nn.Module, layer: str) -> nn.Module:
    """Return the submodule of that name; the zoo wraps networks, and a layer is named as the architecture names it."""
    known: dict[str, nn.Module] = dict(module.named_modules())
    if layer in known:
        return known[layer]
    inside = [name for name in known if name.endswith("." + layer) and name.count(".") == layer.count(".") + 1]
    if len(inside) != 1:
        raise UserError(
            f"the substitute has no layer {layer!r}{did_you_mean(layer, known)}; "
            "feature_layer must be a name from its named_modules()"
        )
    return known[inside[0]]


@contextmanager
def tap(module: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Collect the outputs of `layer` during the context; the hook is gone when it ends, however it ends.

    Without a graph leading to it (the input needs no gradient), the output starts one, so that gradients with respect to
    features never walk through the layers before. The rest of the network gets a copy: a following in-place ReLU would
    otherwise overwrite the tapped value.

    Raises:
        UserError: the network has no module of that name, or its output is not a tensor.
    """
    tapped = _layer(module, layer)
    outputs: list[Tensor] = []

    def hook(_module: nn.Module, _args: object, output: object) -> Tensor:
        if not isinstance(output, Tensor):
            raise UserError(
                f"feature layer {layer!r} returns {type(output).__name__}; name a layer that returns a tensor"
            )
        if torch.is_grad_enabled() and not output.requires_grad:
            output = output.detach().requires_grad_()
        outputs.append(output)
        return output.clone()

    handle = tapped.register_forward_hook(hook)
    try:
        yield outputs
    finally:
        handle.remove()


def as_model(model: Model | nn.Module, feature_layer: str | None = None) -> Model:
    """Return `model` as attacks see it; a plain network is wrapped.

    Raises:
        UserError: it is neither, or part of it is in training mode.
    """
    if isinstance(model, nn.Module) and not isinstance(model, Model):
        model = PlainModel(model, feature_layer)
    elif feature_layer is not None:
        raise UserError("feature_layer is for plain networks; a substitute names its own")
    if not isinstance(model, Model):
        raise UserError(
            f"cannot attack a {type(model).__name__}: hand over an nn.Module that maps [0, 1] pixels to logits, "
            "or an object with the methods of harness.attacks.Model"
        )
    for network in model.networks():
        training = next((name or "the network itself" for name, part in network.named_modules() if part.training), None)
        if training is not None:
            raise UserError(
                f"the substitute is in training mode ({training}), so images would depend on their batch and change it; "
                "call model.eval() first"
            )
    return model
