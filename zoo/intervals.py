"""Wilson's interval, for accuracies and success rates alike; imports nothing heavy."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""Normal quantile of a two-sided 95 % interval."""


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of `successes` out of `n` > 0; both may be effective, fractional counts."""
    p = successes / n
    scale = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return (0.0 if p <= 0 else max(0.0, centre - half)), (1.0 if p >= 1 else min(1.0, centre + half))
