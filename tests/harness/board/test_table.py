"""Figures in tables are the same on every processor, whatever its last bits."""

from __future__ import annotations

import numpy as np
import pytest

from harness.board.table import p_value, percent, points


@pytest.mark.parametrize("value", [0.5325, 0.12345, 0.0005, 0.99950])
def test_a_half_is_rounded_alike_whatever_the_last_bits_are(value: float) -> None:
    around = [float(np.nextafter(value, side)) for side in (0, 1)] + [value, value + 3e-15, value - 3e-15]
    assert len({percent(v) for v in around}) == len({points(v) for v in around}) == 1


def test_p_values_near_a_thousandth() -> None:
    assert p_value(0.001) == p_value(0.001 - 1e-16) == p_value(0.001 + 1e-16) == "0.001"
    assert p_value(0.0009) == "<0.001"
