"""How far two forms of one network agree, image by image: fake-quantised in torch, and in the engine that runs its integers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.engines.export_onnx import export_onnx
from zoo.errors import UserError
from zoo.intervals import wilson
from zoo.loading.load import load_entry
from zoo.registry.entry import Engine, ModelEntry
from zoo.registry.registry import Registry

Answers = Callable[[Tensor], Tensor]
"""Pixels in [0, 1], (N, C, H, W), to logits (N, K)."""


@dataclass(frozen=True)
class Agreement:
    """Two networks on the same images. Rates are fractions, `low` and `high` the 95 % Wilson interval of the share."""

    images: int
    equal: int
    low: float
    high: float
    ties: int
    """Images whose top classes differ while the second network's outputs for both are the same number."""
    mean_error: float
    max_error: float
    """Of the outputs' absolute differences."""
    spread: float
    """Standard deviation of the second network's outputs, to hold the errors against."""
    outputs: str
    """`logits`, or `probabilities` where the second network ends in a softmax; the first one's are then turned into such."""
    right: tuple[int, int] | None
    """How many images each gets right; None without labels."""
    differing: tuple[int, ...]
    """Places of the images whose top classes differ."""

    @property
    def share(self) -> float:
        """Share of images with the same top class."""
        return self.equal / self.images


@dataclass(frozen=True)
class Form:
    """A form of a network, loaded, with the name of its entry."""

    name: str
    model: nn.Module


@contextmanager
def forms(entry: ModelEntry, registry: Registry, other: ModelEntry | None = None) -> Iterator[tuple[Form, Form]]:
    """Load both forms of an entry's network: the one of torch and the one in an engine.

    Args:
        entry: Either form. A network of torch that has no other form is exported, and that file run in ONNX Runtime.
        registry: Where the other form is looked up.
        other: The other form, where it is not what the registry says.

    Raises:
        UserError: no other form is known, both run in engines or neither does, or one cannot be loaded.
    """
    other = other or twin(entry, registry)
    if other is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{entry.name}.onnx"
            export_onnx(entry, path)
            exported = exported_entry(entry)
            yield Form(entry.name, load_entry(entry)), Form(f"{entry.name} in ONNX Runtime", load_entry(exported, path))
        return
    if (entry.engine is None) == (other.engine is None):
        where = "neither runs in an engine" if entry.engine is None else "both run in engines"
        raise UserError(f"{entry.name} and {other.name}: {where}; compare a network of torch with one in an engine")
    ours, theirs = (other, entry) if entry.engine is not None else (entry, other)
    yield Form(ours.name, load_entry(ours)), Form(theirs.name, load_entry(theirs))


def exported_entry(entry: ModelEntry) -> ModelEntry:
    """Return the entry of an entry's network as `export_onnx` writes it."""
    plain = {"mean": (0.0,) * entry.input.channels, "std": (1.0,) * entry.input.channels}
    update = {
        "engine": Engine(name="onnxruntime"),
        "input": entry.input.model_copy(update=plain),
        "label_offset": 0,
        "weights": None,
        "recipe": None,
        "alternation": None,
    }
    return entry.model_copy(update=update)


@torch.no_grad()
def compare(
    first: Answers, second: Answers, images: Tensor, labels: Tensor | None = None, batch_size: int = 50
) -> Agreement:
    """Run two networks on uint8 images (N, C, H, W) and count.

    Raises:
        UserError: there are no images, or the networks have other numbers of classes.
    """
    if not len(images):
        raise UserError("there are no images to compare networks on")
    parts = [images[i : i + batch_size].float() / 255 for i in range(0, len(images), batch_size)]
    a, b = (torch.cat([answer(part).float().cpu() for part in parts]) for answer in (first, second))
    if a.shape != b.shape:
        raise UserError(
            f"the networks have {a.shape[1]} and {b.shape[1]} classes, so they are not two forms of one network"
        )
    # of 8-bit probabilities the small ones are 0, so that they may sum to less than 1
    probabilities = bool((b >= 0).all() and (b <= 1).all() and (b.sum(1) < 1.2).all())
    top_a, top_b = a.argmax(1), b.argmax(1)
    differs = top_a != top_b
    ties = differs & (b.gather(1, top_a[:, None]) == b.gather(1, top_b[:, None]))[:, 0]
    error = ((a.softmax(1) if probabilities else a) - b).abs()
    equal = int((~differs).sum())
    low, high = wilson(equal, len(images))
    return Agreement(
        images=len(images),
        equal=equal,
        low=low,
        high=high,
        ties=int(ties.sum()),
        mean_error=float(error.mean()),
        max_error=float(error.max()),
        spread=float(b.std()),
        outputs="probabilities" if probabilities else "logits",
        right=None if labels is None else (int((top_a == labels).sum()), int((top_b == labels).sum())),
        differing=tuple(differs.nonzero()[:, 0].tolist()),
    )


def twin(entry: ModelEntry, registry: Registry) -> ModelEntry | None:
    """Return the other form of an entry's network: of one in an engine what it was made of or is read into torch as, and back.

    None where the registry has none, as for a fake-quantised network that was not exported yet.

    Raises:
        UserError: the entry runs in an engine, and nothing says which network of torch it is.
    """
    if _imported(entry) and entry.parent is not None:
        return registry[entry.parent]
    if entry.engine is None:
        return None
    if entry.recipe is not None and entry.recipe.kind == "export" and entry.recipe.start is not None:
        return registry[entry.recipe.start]
    for other in registry.values():
        if other.parent == entry.name and _imported(other):
            return other
    raise UserError(
        f"{entry.name} runs in an engine, and the registry has no network of torch that is the same one: name it by --with, or "
        "read a TFLite file into torch with zoo import"
    )


def _imported(entry: ModelEntry) -> bool:
    return entry.engine is None and entry.weights is not None and entry.weights.keymap == "tflite"


def read_images(path: Path, like: Tensor) -> Tensor:
    """Return the images of a safetensors file, which holds one tensor of bytes (N, C, H, W), such as adversarial images.

    Args:
        path: The file; its images stand in the order of the data set's, of which they may be the first ones.
        like: The data set's images.

    Raises:
        UserError: it is no such file, or its images have another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}); save one uint8 tensor of images (N, C, H, W) in it"
        ) from error
    if len(tensors) != 1:
        raise UserError(f"{path} holds {len(tensors)} tensors; it must hold one, of uint8 images (N, C, H, W)")
    (images,) = tensors.values()
    if images.dtype != torch.uint8 or images.shape[1:] != like.shape[1:]:
        wanted = ("N", *like.shape[1:])
        raise UserError(
            f"{path} holds {images.dtype} of shape {tuple(images.shape)}; the images here are uint8 of {wanted}".replace(
                "'", ""
            )
        )
    if len(images) > len(like):
        raise UserError(f"{path} holds {len(images)} images and the data set {len(like)}; name another one by --data")
    return images
