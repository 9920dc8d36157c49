# SPDX-License-Identifier: Apache-2.0
"""The Wilson score interval; a file of its own, so that using it does not import `evaluate`."""

import math


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a rate (95 % by default), both ends in [0, 1]."""
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, z * z
    center = rate + z2 / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    scale = 1 + z2 / trials
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)
