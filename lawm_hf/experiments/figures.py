# SPDX-License-Identifier: Apache-2.0
# pandas types its results wider than these calls return:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportReturnType=false
"""Pictures of an experiment's table."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..analysis.figures import new_figure
from ..metrics import wilson_interval


def draw_curves(table: pd.DataFrame, path: Path) -> Path:
    """Success over demonstration counts, a line for each pretraining, a dot for each seed.

    Bars are 95 % Wilson intervals over all episodes.
    """
    figure = new_figure(7.2, 4.6)
    axis = figure.subplots()
    names = list(table.pretraining.unique())
    for index, name in enumerate(names):
        part = table[table.pretraining == name]
        demos = sorted(part.demonstrations.unique())
        # Lines a little apart, so that dots at the same count can be told.
        x = np.array(demos) * 1.035 ** (index - (len(names) - 1) / 2)
        rates, low, high = _rates([part[part.demonstrations == d] for d in demos])
        bars = np.clip([rates - low, high - rates], 0, None)
        axis.errorbar(x, rates, bars, color=f"C{index}", label=name, marker="o", capsize=2)
        for position, count in zip(x, demos, strict=True):
            seeds = part[part.demonstrations == count].groupby("seed").is_success.mean()
            axis.plot(
                [position] * len(seeds), seeds, ".", color=f"C{index}", alpha=0.4, markersize=5
            )
    counts = sorted(table.demonstrations.unique())
    axis.set_xscale("log")
    axis.set_xticks(counts, [str(c) for c in counts], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("labelled demonstrations")
    axis.set_ylim(-0.02, 1.02)
    axis.set_yticks(np.linspace(0, 1, 6), [f"{p} %" for p in range(0, 101, 20)])
    axis.set_ylabel("success")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    return path


def draw_cells(table: pd.DataFrame, path: Path) -> Path:
    """Success of each pretraining, a panel for each demonstration count, a dot for each seed."""
    counts, names = sorted(table.demonstrations.unique()), list(table.pretraining.unique())
    labels = 0.3 + 0.08 * max(map(len, names))  # Inches.
    figure = new_figure(labels + 2.1 * len(counts), 1.3 + 0.36 * len(names))
    axes = np.atleast_1d(figure.subplots(1, len(counts)))
    for column, (axis, count) in enumerate(zip(axes, counts, strict=True)):
        for row, name in enumerate(names):
            cell = table[(table.pretraining == name) & (table.demonstrations == count)]
            if cell.empty:
                continue
            (rate,), (low,), (high,) = _rates([cell])
            axis.plot([low, high], [row, row], color=f"C{row}", linewidth=6, alpha=0.3)
            axis.plot(rate, row, "|", color=f"C{row}", markersize=14, markeredgewidth=2)
            seeds = cell.groupby("seed").is_success.mean()
            axis.plot(seeds, [row] * len(seeds), "o", color=f"C{row}", markersize=3.5)
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_yticks(range(len(names)), names if column == 0 else [""] * len(names))
        axis.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axis.set_title(f"{count} demonstrations" if count else "all demonstrations", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    return path


def _rates(cells: list[pd.DataFrame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Success rates of cells, and the ends of their intervals."""
    rates = [cell.is_success.mean() for cell in cells]
    ends = [wilson_interval(int(cell.is_success.sum()), len(cell)) for cell in cells]
    return np.array(rates), *(np.array(end) for end in zip(*ends, strict=True))
