"""Quantised networks: quantisers, conversion of any CNN, states, calibration, and low-bit files.

It may import `registry` (the records of a quantiser) and `hub.whole`; it knows no architectures and trains nothing but
QDrop's rounding. Begin with `functional`, the formulas; `modules` wraps them, `convert` puts them into a network, `ptq` is
QDrop, `pack` and `save` write low-bit files.
"""

from zoo.quant.calibration import calibrate, reestimate_batchnorm
from zoo.quant.convert import (
    STATES,
    activation_quantizers,
    edge_layers,
    frozen,
    is_quantized,
    latent_weight,
    quantize,
    set_state,
    states,
    weight_quantizers,
)
from zoo.quant.fold import fold_batchnorm
from zoo.quant.folded import folded
from zoo.quant.pack import pack, unpack
from zoo.quant.ptq import QUICK, QDrop, qdrop
from zoo.quant.save import load_into, read_metadata, save

__all__ = [
    "QUICK",
    "STATES",
    "QDrop",
    "activation_quantizers",
    "calibrate",
    "edge_layers",
    "fold_batchnorm",
    "folded",
    "frozen",
    "is_quantized",
    "latent_weight",
    "load_into",
    "pack",
    "qdrop",
    "quantize",
    "read_metadata",
    "reestimate_batchnorm",
    "save",
    "set_state",
    "states",
    "unpack",
    "weight_quantizers",
]
