# SPDX-License-Identifier: Apache-2.0
"""What a run has written about itself: numbers over updates, alarms, strips, success rates."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import ModelCard

from ..writing.atomic import read_json, read_json_lines
from ..writing.text import printable
from .run import Run

# What the health report says over updates, and how it reads.
HEALTH = {
    "swap_gap_share": "swap gap: growth of the error under another clip's latents",
    "error_over_copy": "imagined error, as a share of that of a copy of x_t",
    "target_r2": "R² of the target's place from the latents",
    "chunk_r2": "R² of the true actions from the latents",
    "effective_rank": "effective rank of the latents",
    "standard_deviation": "standard deviation of the latents",
    "saturated_share": "saturated share of the latents",
    "moving_psnr": "PSNR of the pixels that move, dB",
}
_LOSSES = ("loss", "reconstruction", "kl", "grad_policy", "grad_world_model", "samples_per_s")
_MAX_BYTES = 16 << 20


@dataclass
class Record:
    """A run's record as the page shows it.

    Attributes:
        log: Columns `step` and what `log.jsonl` has of losses, norms and speed; a row per line.
        health: Columns `step` and those of `HEALTH` that are known.
        alarms: The report's alarms, each with its update.
        strips: Pictures of imagined frames with captions, in the order of updates.
        results: Success rates: task set, rate and interval.
    """

    log: pd.DataFrame
    health: pd.DataFrame
    alarms: list[str]
    strips: list[tuple[Path, str]]
    results: pd.DataFrame


def read_record(run: Run) -> Record:
    """Read what is there now; of a run that goes on, so far. Damaged lines are left out."""
    lines = read_lines(run.folder / "health.jsonl")
    log = pd.DataFrame(read_lines(run.folder / "log.jsonl"), columns=pd.Index(["step", *_LOSSES]))
    health = pd.DataFrame(lines, columns=pd.Index(["step", *HEALTH])).dropna(axis=1, how="all")
    alarms = [
        f"Update {line['step']}: {printable(str(alarm))}"
        for line in lines
        for alarm in line.get("alarms") or []
    ]
    told = lines[-1].get("alarms") or [] if lines else []  # older runs' last line is not the end's
    final = [a for a in final_alarms(run.folder / "health.json") if a not in told]
    alarms += [f"At the end: {printable(str(alarm))}" for alarm in final]
    return Record(log.dropna(axis=1, how="all"), health, alarms, strips(run.folder), results(run))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a log that have a number of updates, `step`; none of a log that is too large."""
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        return []
    return [line for line in read_json_lines(path) if isinstance(line.get("step"), int)]


def final_alarms(path: Path) -> list[Any]:
    """Of the report at the end; none of one that is damaged or too large."""
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        return []
    with suppress(ValueError):
        return read_json(path, dict).get("alarms") or []
    return []


def strips(folder: Path) -> list[tuple[Path, str]]:
    """`strip_000200.png` and so on, then `strip.png`."""
    on_the_way = sorted(folder.glob("strip_[0-9]*.png"))
    found = [(p, f"update {int(re.sub(r'[^0-9]', '', p.stem) or 0)}") for p in on_the_way]
    last = folder / "strip.png"
    return found + ([(last, "at the end")] if last.is_file() else [])


def results(run: Run) -> pd.DataFrame:
    """Success rates on the run's card."""
    columns = pd.Index(["environment", "success", "95 % interval", "episodes"])
    rows = []
    card = run.folder / "README.md"
    try:
        data: Any = ModelCard.load(card).data
        found = data.eval_results or []
    except Exception:  # no card, or one that its owner has damaged
        found = []
    for result in found:
        if result.metric_type != "success_rate":
            continue
        told = result.metric_args or {}
        low, high = told.get("interval_95") or (None, None)
        interval = "" if low is None else f"{low:.1%} to {high:.1%}"
        rate = f"{float(result.metric_value):.1%}"
        rows.append([printable(result.dataset_name), rate, interval, told.get("episodes", "")])
    return pd.DataFrame(rows, columns=columns)
