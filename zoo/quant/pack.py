"""Low-bit storage: weights as packed integer codes and scales, everything else as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.errors import UserError
from zoo.quant.convert import latent_weight, layers, set_state, weight_quantizers
from zoo.quant.modules import Codes, FixedWeight, WeightQuantizer

_CHUNK = 1 << 20  # codes handled at once; a multiple of 8, so that chunks end on whole bytes
_WEIGHT = ".parametrizations.weight."

Meta = dict[str, Any]


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack integers in [0, 2^bits) into bytes, lowest bit first: n codes take ceil(n * bits / 8) bytes."""
    place = 2 ** torch.arange(8, device=codes.device)
    packed = []
    for chunk in torch.split(codes.flatten(), _CHUNK):
        digits = (chunk.to(torch.int32)[:, None] >> torch.arange(bits, device=codes.device)) & 1
        flat = torch.nn.functional.pad(digits.flatten(), (0, -digits.numel() % 8))
        packed.append((flat.view(-1, 8) * place).sum(1).to(torch.uint8))
    return torch.cat(packed)


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """Invert `pack_codes`; returns `count` int32 codes."""
    place = 2 ** torch.arange(bits, device=packed.device, dtype=torch.int32)
    codes = []
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        chunk = packed[start * bits // 8 : -(-(start + size) * bits // 8)]
        digits = (chunk.to(torch.int32)[:, None] >> torch.arange(8, device=packed.device)) & 1
        codes.append((digits.flatten()[: size * bits].view(size, bits) * place).sum(1, dtype=torch.int32))
    return torch.cat(codes)


def _along_first_axis(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1)) if values.numel() > 1 else values.reshape(())


def _decode(index: Tensor, codes: Codes) -> Tensor:
    numbers = torch.tensor(codes.numerators, device=index.device)[index.long()]
    if codes.zero is not None:
        numbers = numbers - _along_first_axis(codes.zero.long(), index)
    return numbers.to(codes.unit.dtype) * _along_first_axis(codes.unit, index)


def _encode(name: str, w: Tensor, quantizer: WeightQuantizer) -> tuple[Tensor, Codes]:
    codes = quantizer.codes(w)
    effective = quantizer.quantize(w)
    numbers = effective.double().div(_along_first_axis(codes.unit.double(), w)).round().long()
    if codes.zero is not None:
        numbers += _along_first_axis(codes.zero.long(), w)
    index = torch.searchsorted(torch.tensor(codes.numerators, device=w.device), numbers)
    index = index.clamp_(max=len(codes.numerators) - 1)
    if not torch.equal(_decode(index, codes), effective):
        raise RuntimeError(f"the codes of {name!r} do not give back its quantised weight")
    return index, codes


@torch.no_grad()
def pack(model: nn.Module) -> tuple[dict[str, Tensor], Meta]:
    """Return the model's tensors with quantised weights as packed codes, and what is needed to read them.

    Latent weights are not kept, so an unpacked model is a target, not a start for training.

    Raises:
        UserError: Weights that are not quantised, or that hold NaN.
    """
    quantizers = weight_quantizers(model)
    if not quantizers:
        raise UserError("only a model with quantised weights can be packed: save it with packed=False")
    tensors: dict[str, Tensor] = {}
    described: dict[str, Meta] = {}
    named = layers(model)
    for name, quantizer in quantizers.items():
        w = latent_weight(named[name])
        if not bool(torch.isfinite(w).all()):
            raise UserError(f"the weight of layer {name!r} holds NaN or infinite values and cannot be packed")
        index, codes = _encode(name, w, quantizer)
        bits = (len(codes.numerators) - 1).bit_length()
        first, steps = (
            codes.numerators[0],
            {b - a for a, b in zip(codes.numerators, codes.numerators[1:], strict=False)},
        )
        even = steps.pop() if len(steps) == 1 else None
        described[name] = {"shape": list(w.shape), "bits": bits, "first": first, "count": len(codes.numerators)}
        described[name] |= {"step": even} if even else {"numerators": list(codes.numerators)}
        tensors[f"{name}.weight_codes"] = pack_codes(index, bits)
        tensors[f"{name}.weight_unit"] = codes.unit.detach().clone().flatten()
        if codes.zero is not None:
            tensors[f"{name}.weight_zero"] = codes.zero.detach().to(torch.int32).flatten()
    skipped = tuple(name + _WEIGHT for name in quantizers)
    for key, value in model.state_dict().items():
        if not key.startswith(skipped):
            tensors[key] = value.detach().clone()
    return tensors, {"packed": json.dumps(described, separators=(",", ":"))}


def _read_layer(
    name: str, description: Meta, tensors: Mapping[str, Tensor], used: set[str]
) -> tuple[Tensor, Codes]:
    codes_key, unit_key, zero_key = (f"{name}.weight_{part}" for part in ("codes", "unit", "zero"))
    missing = [key for key in (codes_key, unit_key) if key not in tensors]
    if missing:
        raise UserError(f"the packed file lacks {', '.join(missing)}: fetch or build it again")
    used.update((codes_key, unit_key, *([zero_key] if zero_key in tensors else [])))
    shape, first, count = description["shape"], description["first"], description["count"]
    numerators = description.get("numerators") or range(first, first + count * description["step"], description["step"])
    size = int(torch.Size(shape).numel())
    if tensors[codes_key].numel() != -(-size * description["bits"] // 8):
        raise UserError(f"the packed file is damaged: {codes_key} has the wrong length")
    index = unpack_codes(tensors[codes_key], description["bits"], size).view(shape)
    if int(index.max()) >= count:
        raise UserError(f"the packed file is damaged: {codes_key} holds codes beyond {count - 1}")
    return index, Codes(tuple(numerators), tensors[unit_key], tensors.get(zero_key))


def read_codes(tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> dict[str, tuple[Tensor, Codes]]:
    """Return each quantised layer's codes from what `pack` returned: places among the numerators, and the grid itself.

    Raises:
        UserError: The tensors are not those that `meta` describes.
    """
    described: dict[str, Meta] = json.loads(meta["packed"])
    return {name: _read_layer(name, description, tensors, set()) for name, description in described.items()}


@torch.no_grad()
def unpack(model: nn.Module, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
    """Load what `pack` returned into a model prepared by `quantize` with the same spec; logits are bit-identical.

    Afterwards weights are fixed: the model has the states "w" and "wa" only, and is left in "wa".

    Raises:
        UserError: Keys or shapes that do not fit; the model is then unchanged.
    """
    described: dict[str, Meta] = json.loads(meta["packed"])
    quantizers, named = weight_quantizers(model), layers(model)
    if quantizers.keys() != described.keys():
        differing = ", ".join(sorted(quantizers.keys() ^ described.keys())[:8])
        raise UserError(f"the packed file quantises other layers than this model (differing: {differing})")
    used: set[str] = set()
    weights = {name: _decode(*_read_layer(name, description, tensors, used)) for name, description in described.items()}
    skipped = tuple(name + _WEIGHT for name in quantizers)
    rest = {key: value for key, value in tensors.items() if key not in used}
    own = {key: value for key, value in model.state_dict().items() if not key.startswith(skipped)}
    check_keys(own, rest)
    for name, weight in weights.items():
        if weight.shape != latent_weight(named[name]).shape:
            raise UserError(f"the packed weight of {name!r} has shape {tuple(weight.shape)}, not the model's")
    for name, weight in weights.items():
        _fix(named[name], weight)
    for key, value in rest.items():
        own[key].copy_(value)
    set_state(model, "wa")


def _fix(layer: nn.Module, weight: Tensor) -> None:
    """Put a plain quantised weight in place of a latent one and its quantiser."""
    original = latent_weight(layer)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    layer.weight = nn.Parameter(weight.to(original), requires_grad=False)
    parametrize.register_parametrization(layer, "weight", FixedWeight(0))


def check_keys(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise UserError unless both have the same keys and shapes, and floating-point values that are finite."""
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or extra:
        parts = [f"{what}: {', '.join(keys[:6])}{', ...' * (len(keys) > 6)}" for what, keys in
                 ((f"{len(missing)} missing", missing), (f"{len(extra)} not in the model", extra)) if keys]  # fmt: skip
        raise UserError(f"the weights do not fit the model ({'; '.join(parts)}): load the file made for this entry")
    for key, value in given.items():
        if value.shape != own[key].shape:
            raise UserError(
                f"{key} has shape {tuple(value.shape)} in the file but {tuple(own[key].shape)} in the model"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{key} holds NaN or infinite values: fetch or build the weights again")
