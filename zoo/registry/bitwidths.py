"""Which bitwidths each quantisation method has: plain data, so that a registry is checked without torch."""

from __future__ import annotations

FULL = 32
"""Bits that mean full precision; always possible."""

_TWO_TO_EIGHT = tuple(range(2, 9))
BITWIDTHS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "apot": ((2, 3, 4, 5, 6), (2, 3, 4, 5, 6)),
    "bnn": ((1,), (1,)),
    "codebook": (_TWO_TO_EIGHT, ()),
    "integer": ((8, 16), (8, 16)),
    "dorefa": (tuple(range(1, 9)), tuple(range(1, 9))),
    "pact": (_TWO_TO_EIGHT, _TWO_TO_EIGHT),
    "qdrop": (_TWO_TO_EIGHT, _TWO_TO_EIGHT),
    "uniform": (_TWO_TO_EIGHT, _TWO_TO_EIGHT),
    "xnor": ((1,), (1,)),
}
"""Bitwidths of weights and of activations by method."""


def edge_bitwidths(method: str) -> tuple[int, int]:
    """Return the least and the most bits that a method gives the first and the last layer's weights."""
    return 1 if method == "bnn" else 2, 8 if method == "qdrop" else 16


def bitwidth_problem(method: str, w_bits: int, a_bits: int, edge_bits: int) -> str | None:
    """Say what is impossible about the bitwidths, and what to choose instead; None when nothing is."""
    for field, bits, choices in zip(("w_bits", "a_bits"), (w_bits, a_bits), BITWIDTHS[method], strict=True):
        if bits not in (*choices, FULL):
            hint = "; for 7 or 8 bits use method 'uniform', for 1 bit 'xnor' or 'bnn'" if method == "apot" else ""
            listed = ", ".join(map(str, choices))
            return f"method {method!r} has no {field}={bits}: choose one of {listed}, or 32 for full precision{hint}"
    least, most = edge_bitwidths(method)
    if not (least <= edge_bits <= most or edge_bits == FULL):
        return (
            f"edge_bits={edge_bits} is not possible with method {method!r}: choose {least} to {most}, or 32 for full precision"
        )
    return None
