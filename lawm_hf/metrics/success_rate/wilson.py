# SPDX-License-Identifier: Apache-2.0
"""Success rates with their Wilson interval; a file of its own, so that it needs no `evaluate`."""

import math
from collections.abc import Sequence
from typing import Any


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a rate (95 % by default), both ends in [0, 1]."""
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, z * z
    center = rate + z2 / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    scale = 1 + z2 / trials
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def success_rates(
    predictions: Sequence[bool], tasks: Sequence[str] | None = None
) -> dict[str, Any]:
    """What the metric `success_rate` returns, as its card describes.

    Args:
        predictions: For each episode, whether it succeeded.
        tasks: For each episode, the name of its task; for rates by task.

    Raises:
        ValueError: If a prediction is neither true nor false, or tasks are not one for each.
    """
    wrong = [value for value in predictions if value not in (0, 1)]
    if wrong:  # A reward, say, which would count as success.
        raise ValueError(
            f"`predictions` must each be true or false, 1 or 0, got {wrong[0]!r}. Compare rewards "
            "with what counts as success."
        )
    predictions = [bool(value) for value in predictions]
    result = _rate(predictions)
    if tasks is None:
        return result
    if len(tasks) != len(predictions):
        raise ValueError(
            f"`tasks` must name the task of each episode, got {len(tasks)} names for "
            f"{len(predictions)} episodes. Give one name per prediction, in the same order."
        )
    by_task: dict[str, list[bool]] = {task: [] for task in sorted(set(tasks))}
    for task, is_success in zip(tasks, predictions, strict=True):
        by_task[task].append(is_success)
    return result | {"per_task": {task: _rate(rows) for task, rows in by_task.items()}}


def _rate(rows: Sequence[bool]) -> dict[str, Any]:
    successes = sum(rows)
    return {
        "success_rate": successes / max(len(rows), 1),
        "interval_95": list(wilson_interval(successes, len(rows))),
        "successes": successes,
        "episodes": len(rows),
    }
