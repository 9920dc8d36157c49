# SPDX-License-Identifier: Apache-2.0
"""Why the paper's form seemed to learn nothing: its decoder's start, as curves over updates.

    OMP_NUM_THREADS=1 python benchmarks/plateau.py                 # about an hour of CPU time
    python benchmarks/plateau.py --draw_only true                  # the figure from the table

The main job in the paper's form from both starts: as it is, the decoder's last layer a hundredth of
DreamerV3's scale, and as it was, at the full scale, so that it begins by drawing noise. Each run
resumes. The table is `health.csv`, a row per report; the figure shows medians and ranges.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lawm_hf.arguments import CommandArgs, arg, run_command
from lawm_hf.models.configuration_dreamer import DreamerV3Config
from lawm_hf.models.modeling_dreamer import DreamerV3WorldModel

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain.py"
STARTS = {"a hundredth": 1.0, "full scale, as it was": 100.0}
SHOWN = {"target_r2": "R² of the named cube's place, from latents", "swap_gap_share": "swap gap"}


@dataclass
class PlateauArgs(CommandArgs):
    """Arguments of `benchmarks/plateau.py`."""

    seeds: list[int] = arg([0, 1, 2, 3, 4], "seeds of each start")
    steps: int = arg(1000, "updates of a run", min=1)
    report_every: int = arg(100, "updates between two reports", min=1)
    output_dir: str = arg("outputs/plateau", "where runs, table and figure go")
    draw_only: bool = arg(False, "no runs: the figure from the table")


def run(args: PlateauArgs, start: str, seed: int) -> pd.DataFrame:
    """Pretrain once, and return its reports."""
    folder = Path(args.output_dir, f"{'old' if STARTS[start] > 1 else 'new'}_{seed}")
    if not (folder / "run" / "health.json").exists():
        torch.manual_seed(seed)
        model = DreamerV3WorldModel(DreamerV3Config.from_preset("tiny", "paper", image_size=32))
        with torch.no_grad():
            model.decoder.layers[-1].weight.mul_(STARTS[start])
        model.save_pretrained(folder / "start")
        options = {"world_model_type": folder / "start", "seed": seed, "output_dir": folder / "run"}
        options |= {"steps": args.steps, "report_every": args.report_every}
        flags = [f"--{name}={value}" for name, value in options.items()]
        subprocess.run([sys.executable, RECIPE, *flags], check=True, env=os.environ)
    reports = pd.read_json(folder / "run" / "health.jsonl", lines=True)
    return reports.assign(start=start, seed=seed)[["start", "seed", "step", *SHOWN]]


def draw(table: pd.DataFrame, path: Path) -> None:
    """Medians over the seeds, and their range."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (name, title) in zip(figure.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
        for start, rows in table.groupby("start"):
            by_step = rows.groupby("step")[name]
            (line,) = axis.plot(by_step.median(), marker="o", markersize=3, label=start)
            low, high = by_step.min(), by_step.max()
            axis.fill_between(low.index, low, high, color=line.get_color(), alpha=0.2)
        axis.set(title=title, xlabel="updates")
        axis.grid(alpha=0.3)
    axis.legend(title="last layer of the decoder")
    figure.savefig(path, dpi=110)


def main(args: PlateauArgs) -> None:
    """Run what is not there yet, then draw."""
    folder = Path(args.output_dir)
    if not args.draw_only:
        runs = [run(args, start, seed) for seed in args.seeds for start in STARTS]
        pd.concat(runs).round(3).to_csv(folder / "health.csv", index=False)
    draw(pd.read_csv(folder / "health.csv"), folder / "plateau.png")


if __name__ == "__main__":
    run_command(main, PlateauArgs)
