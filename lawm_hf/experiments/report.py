# SPDX-License-Identifier: Apache-2.0
# pandas types its results wider than these calls return:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportReturnType=false
"""The report of an experiment, in Markdown, from its table of episodes alone."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ..metrics import wilson_interval
from .figures import draw_cells, draw_curves
from .statistics import (
    Comparison,
    PublishedRate,
    compare,
    detectable_difference,
    false_alarms,
    holm,
)
from .table import CELL, RUN, success_matrix

Cell = tuple[str, str, str, int]  # as `CELL`: policy, pretraining, benchmark, demonstrations


def write_report(
    table: pd.DataFrame,
    folder: str | Path,
    title: str,
    reference: str = "scratch",
    published: dict[str, list[PublishedRate]] | None = None,
) -> Path:
    """Write `report.md` and its figures.

    Args:
        table: See `episode_table`.
        folder: Where they go.
        title: Heading of the report.
        reference: The pretraining that the others are compared with.
        published: Published rates of the same question: groups, the reference of each first.

    Returns:
        Path of `report.md`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ordered = table.sort_values("demonstrations", kind="stable")
    matrices = {key: success_matrix(part) for key, part in ordered.groupby(CELL, sort=False)}
    pairs = _pairs(matrices, reference)
    figures = []
    for (policy, benchmark), part in table.groupby(["policy", "benchmark"], sort=False):
        name = f"{policy}_{benchmark}".replace("/", "_")
        if part.demonstrations.nunique() > 1:
            figures.append(draw_curves(part, folder / f"curve_{name}.png"))
        figures.append(draw_cells(part, folder / f"cells_{name}.png"))
    sections = [
        f"# {title}",
        _size(table),
        *(f"![{path.stem}]({path.name})" for path in figures),
        "## Success",
        _success(ordered),
        f"## Against {reference}",
        _comparisons(pairs, reference),
        "## What this design could see",
        _power(pairs, matrices.values()),
    ]
    if published:
        sections += ["## Published numbers", _published(published)]
    path = folder / "report.md"
    path.write_text("\n\n".join(sections) + "\n")
    return path


def _size(table: pd.DataFrame) -> str:
    """How much was run, and what it cost; pretraining that runs share counts once."""
    runs = table.drop_duplicates(RUN)
    hours = runs[["finetune_cpu_s", "evaluate_cpu_s"]].to_numpy().sum() / 3600
    first = runs[runs.pretrain_cpu_s > 0]
    # One pretraining serves all demonstration counts and benchmarks of its seed.
    shared = first.drop_duplicates(["policy", "pretraining", "seed", "pretrain_cpu_s"])
    hours += shared.pretrain_cpu_s.sum() / 3600
    return (
        f"{len(table):,} episodes of {len(runs)} runs; {hours:.1f} CPU hours "
        f"({len(shared)} pretrainings, shared between runs)."
    )


def _success(ordered: pd.DataFrame) -> str:
    lines = [
        "Interval: Wilson, 95 %, over all episodes; it takes the episodes of different seeds as "
        "one sample, so it is about these checkpoints.",
        "",
        "| policy | benchmark | demonstrations | pretraining | success | 95 % interval | episodes "
        "| by seed | CPU s: pretrain / finetune |",
        "|---|---|--:|---|--:|---|--:|---|---|",
    ]
    keys = ["policy", "benchmark", "demonstrations", "pretraining"]
    for (policy, benchmark, demos, name), cell in ordered.groupby(keys, sort=False):
        low, high = wilson_interval(int(cell.is_success.sum()), len(cell))
        runs = cell.groupby("seed")
        by_seed = " ".join(f"{100 * rate:.1f}" for rate in runs.is_success.mean())
        cost = runs[["pretrain_cpu_s", "finetune_cpu_s"]].first().mean()
        lines.append(
            f"| {policy} | {benchmark} | {demos or 'all'} | {name} | "
            f"{cell.is_success.mean():.1%} | {low:.1%} – {high:.1%} | {len(cell)} | {by_seed} | "
            f"{cost.pretrain_cpu_s:.0f} / {cost.finetune_cpu_s:.0f} |"
        )
    return "\n".join(lines)


def _pairs(matrices: dict[Cell, pd.DataFrame], reference: str) -> list[tuple[Cell, Comparison]]:
    """Each cell against the same one of the reference, where there is one."""
    pairs = []
    for cell, matrix in matrices.items():
        policy, name, *rest = cell
        other = matrices.get((policy, reference, *rest))
        if name != reference and other is not None:
            pairs.append((cell, compare(matrix, other)))
    return pairs


def _comparisons(pairs: list[tuple[Cell, Comparison]], reference: str) -> str:
    if not pairs:
        return f"Nothing to compare: the table must have `{reference}` and another pretraining."
    p_values = [np.nan if c.p_seeds is None else c.p_seeds for _, c in pairs]
    lines = [
        "Difference in points on the same initial states. Its interval and *p (new seeds)* are of "
        "a paired t test over seeds: they speak of the method. *Holm*: the same, adjusted for "
        f"{int(np.isfinite(p_values).sum())} comparisons. *p (these checkpoints)*: McNemar's exact "
        "test over episodes; *only one solves*: the discordant pairs behind it.",
        "",
        "| policy | benchmark | demonstrations | pretraining | difference | 95 % interval "
        "| p (new seeds) | Holm | p (these checkpoints) | only one solves: it / reference |",
        "|---|---|--:|---|--:|---|--:|--:|--:|---|",
    ]
    for ((policy, name, benchmark, demos), c), adjusted in zip(pairs, holm(p_values), strict=True):
        interval = (
            "one seed"
            if c.interval is None
            else "{:+.1f} – {:+.1f}".format(*(100 * x for x in c.interval))
        )
        lines.append(
            f"| {policy} | {benchmark} | {demos or 'all'} | {name} | {100 * c.difference:+.1f} | "
            f"{interval} | {_p(c.p_seeds)} | {_p(adjusted)} | {_p(c.p_episodes)} | "
            f"{c.wins} / {c.losses} |"
        )
    return "\n".join(lines)


def _p(value: float | None) -> str:
    if value is None or np.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _power(pairs: list[tuple[Cell, Comparison]], matrices: Iterable[pd.DataFrame]) -> str:
    """Detectable differences, and what McNemar says of two seeds of one method."""
    lines = []
    repeated = [c for _, c in pairs if c.num_seeds > 1]
    deviations = [np.var(c.by_seed, ddof=1) for c in repeated]
    counts = [c.num_seeds for c in repeated]
    if deviations:
        spread, seeds = float(np.mean(deviations)) ** 0.5, int(np.median(counts))
        smallest = detectable_difference(spread, seeds)
        lines.append(
            f"The difference between runs of one seed has a standard deviation of "
            f"{100 * spread:.1f} points (pooled over {len(deviations)} comparisons). With {seeds} "
            f"seeds a true difference of {100 * smallest:.0f} points would be found 8 times in 10 "
            f"(two-sided 5 %), with 5 seeds {100 * detectable_difference(spread, 5):.0f}, with 10 "
            f"seeds {100 * detectable_difference(spread, 10):.0f} points."
        )
    alarms = [false_alarms(matrix) for matrix in matrices]
    found, total = (sum(column) for column in zip(*alarms, strict=True))
    if total:
        lines.append(
            f"The control of another seed: of {total} pairs of runs that differ in nothing but the "
            "seed (and what the plan draws with it, such as demonstrations), McNemar's test calls "
            f"{found} ({found / total:.0%}) different at p < 0.05. That is what a comparison of "
            "single runs is worth."
        )
    return "\n\n".join(lines) or "One seed: nothing can be said about new seeds."


def _published(published: dict[str, list[PublishedRate]]) -> str:
    lines = [
        "One run each, as published. Interval: Wilson. *p* against the first of each group: "
        "Fisher's exact test, which knows of episodes only; what another seed would give nobody "
        "has measured. *Detectable*: the difference that this many episodes would show 8 times in "
        "10, if runs did not differ by their seed.",
        "",
        "| published | | success | episodes | 95 % interval | p | detectable |",
        "|---|---|--:|--:|---|--:|--:|",
    ]
    for group, rates in published.items():
        for rate in rates:
            low, high = rate.interval
            p = "" if rate is rates[0] else _p(rate.p_value(rates[0]))
            lines.append(
                f"| {group} | {rate.name} | {rate.success_rate:.1%} | {rate.episodes} | "
                f"{low:.1%} – {high:.1%} | {p} | {100 * rate.detectable_difference:.1f} points |"
            )
    return "\n".join(lines)
