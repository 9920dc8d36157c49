# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: sides timed in turn, medians with their range, lines that say where.

CPU time of the process, not wall time: what else runs on the machine then changes little. Sides
are run A B B A in one process, and ratios are taken within a round, so that what is left of the
machine's moods hits all sides alike.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch


def cpu_ms(run: Callable[[], object]) -> float:
    """CPU milliseconds of one call, all threads of this process."""
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


def in_turn(
    sides: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """CPU milliseconds of each side in each round, A B B A; the first rounds are not kept."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for r in range(rounds + warm_up):
        for name in order(sides, r):
            times[name].append(cpu_ms(sides[name]))
    return {name: values[warm_up:] for name, values in times.items()}


def order[T](names: Iterable[T], number: int) -> list[T]:
    """Sides in the order of round `number`: A B B A."""
    there = list(names)
    return there if number % 2 else there[::-1]


def spread(values: list[float], digits: int = 1) -> tuple[float, list[float]]:
    """Median, and smallest and largest."""
    return round(median(values), digits), [round(f(values), digits) for f in (min, max)]


def ratios(times: Mapping[str, list[float]], side: str, base: str) -> tuple[float, list[float]]:
    """How many times as fast as `base` a side is: median and range over the rounds."""
    return spread([b / s for b, s in zip(times[base], times[side], strict=True)], 2)


def commit_of(checkout: Path) -> str:
    """What git calls the state of a checkout; empty if it knows nothing of it."""
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def conditions(*packages: str) -> dict[str, Any]:
    """Where, when and with what this was measured; of `packages` those that are installed."""
    versions = {}
    for name in ("torch", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    cpus = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = cpus.partition("model name\t: ")[2].partition("\n")[0] or platform.machine()
    return {
        "commit": commit_of(Path(__file__).parent),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions,
        "cpu": f"{model}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


def report(**values: Any) -> None:
    """Print one JSON line."""
    print(json.dumps(values), flush=True)
