# SPDX-License-Identifier: Apache-2.0
"""How does the cost of an update grow with batch, chunk, resolution, preset, views and workers?

    OMP_NUM_THREADS=1 python benchmarks/scaling.py --out docs/performance

From one point (BAKU and world model 1m, 8 windows of 10 steps, one view, 128 px, every step
decoded) each axis is walked alone. An update is forward, backward, clipping and AdamW on noise, one
thread, at the settings of the recipes; all points in one process, in turn A B B A. The exponent is
the slope of the line through the logarithms: 1 means twice as much costs twice as much. Workers
read converted clips; what grows there is the CPU time of all processes together. JSON lines go to
stdout and, with `--out`, to `scaling.jsonl`, with the picture `scaling.png`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from common import conditions, in_turn, order, report, spread
from dataloading import BATCH, WINDOW, build_ssv2
from step import our_update

from lawm_hf import BakuConfig, BakuPolicy, DreamerV3Config, DreamerV3WorldModel, LAWMForPretraining
from lawm_hf.data import make_loader, open_source
from lawm_hf.data.convert import Conversion, write_shards
from lawm_hf.training.accelerator import tune_cpu

BASE = {"batch": 8, "chunk": 10, "resolution": 128, "preset": "1m", "views": 1}
AXES: dict[str, list[Any]] = {
    "batch": [2, 4, 8, 16],
    "chunk": [5, 10, 20],
    "resolution": [64, 96, 128],
    "preset": ["1m", "12m", "50m"],
    "views": [1, 2, 3],
}
WORKERS = [0, 1, 2, 4]
PARTS = ["updates", "workers"]


@cache
def update(
    batch: int, chunk: int, resolution: int, preset: str, views: int
) -> tuple[Callable[[], object], int]:
    """An update at a point of the grid, and the parameters of the pair."""
    torch.manual_seed(0)
    sizes = {"chunk_size": chunk, "image_size": resolution, "num_views": views}
    policy = BakuPolicy(BakuConfig(latent_norm="batch", **sizes))
    options: dict[str, Any] = {"image_size": resolution, "num_decoded_steps": None}
    world_model = DreamerV3WorldModel(DreamerV3Config.from_preset(preset, **options))
    model = LAWMForPretraining(policy, world_model).train()
    side = (3, resolution, resolution)
    inputs = {
        "pixel_values": torch.randn(batch, views, *side),
        "task_embeds": torch.randn(batch, policy.config.task_embed_size),
        "frames": torch.randint(0, 256, (batch, chunk + 1, *side), dtype=torch.uint8),
    }
    step = our_update(model, [policy, world_model], lambda: model(**inputs).loss)
    return step, sum(p.numel() for p in model.parameters())


def measure_updates(rounds: int) -> Iterator[dict[str, Any]]:
    """A line per axis."""
    points = {axis: [BASE | {axis: value} for value in values] for axis, values in AXES.items()}
    built = {json.dumps(p): update(**p) for walk in points.values() for p in walk}
    times = in_turn({name: side for name, (side, _) in built.items()}, rounds, warm_up=1)
    for axis, walk in points.items():
        names = [json.dumps(point) for point in walk]
        sizes = [built[n][1] / 1e6 for n in names] if axis == "preset" else AXES[axis]
        costs = np.array([times[name] for name in names])  # (points, rounds)
        exponents = [slope(sizes, column) for column in costs.T]
        ms = [spread(times[name]) for name in names]
        line = {"axis": axis, "values": AXES[axis], "sizes": [round(float(s), 1) for s in sizes]}
        line |= {"ms": [m for m, _ in ms], "ms_range": [r for _, r in ms], "rounds": rounds}
        exponent, exponent_range = spread(exponents, 2)
        yield line | {"exponent": exponent, "exponent_range": exponent_range}


def slope(sizes: list[Any], costs: np.ndarray) -> float:
    """Of the line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def measure_workers(num_batches: int, rounds: int) -> Iterator[dict[str, Any]]:
    """CPU milliseconds of a window, this process and its workers together."""
    costs: dict[int, list[float]] = {n: [] for n in WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        build_ssv2(Path(folder, "webm"), 96)
        shards = write_shards(
            open_source(f"ssv2:{folder}/webm"), Path(folder, "shards"), Conversion(image_size=128)
        )
        for r in range(rounds):
            for n in order(WORKERS, r):
                spec = f"wds:{shards}/*.tar"
                loader = make_loader(spec, WINDOW, BATCH, cache_bytes=0, num_workers=n)
                batches = iter(loader)
                for _ in range(32):  # 64 clips are open then, the queues full
                    next(batches)
                family = [psutil.Process(), *psutil.Process().children()]
                before = cpu_seconds(family)
                for _ in range(num_batches):
                    next(batches)
                costs[n].append(1e3 * (cpu_seconds(family) - before) / num_batches / BATCH)
                del batches
    ms = [spread(costs[n], 2) for n in WORKERS]
    line = {"axis": "workers", "values": WORKERS, "sizes": WORKERS, "rounds": rounds}
    yield line | {"ms": [m for m, _ in ms], "ms_range": [r for _, r in ms]}


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Of all of them."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """A panel for each axis; bars are the range of the rounds."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

    names = {"preset": "parameters of the pair, M", "resolution": "resolution, pixels"}
    figure, panels = plt.subplots(2, 3, figsize=(9, 5.4), layout="constrained")
    for panel, line in zip(panels.flat, lines, strict=False):
        sizes, ms = np.array(line["sizes"]), np.array(line["ms"])
        low, high = np.array(line["ms_range"]).T
        panel.errorbar(sizes, ms, [ms - low, high - ms], fmt="o", ms=4, color="C0", capsize=2)
        panel.set_xlabel(names.get(line["axis"], line["axis"]))
        if line["axis"] == "workers":
            panel.set(ylabel="CPU ms a window, all processes", ylim=(0, 1.3 * high.max()))
            panel.set_xticks(sizes)
            continue
        fit = np.polyfit(np.log(sizes), np.log(ms), 1)
        panel.plot(sizes, np.exp(np.polyval(fit, np.log(sizes))), color="C1", lw=1)
        panel.set(xscale="log", yscale="log", ylabel="CPU ms an update")
        panel.set_xticks(sizes, [f"{s:.0f}" for s in sizes])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(ScalarFormatter())
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_ylim(0.7 * low.min(), 1.4 * high.max())
        panel.set_title(f"exponent {line['exponent']:.2f}", fontsize=10)
        panel.set_yticks(sorted({round(v, -1) for v in (ms.min(), np.median(ms), ms.max())}))
    for panel in panels.flat[len(lines) :]:  # not measured yet
        panel.set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=32, help="that each number of workers reads")
    parser.add_argument("--out", type=Path, help="folder for the lines and the picture")
    args = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    parts = {
        "updates": lambda: measure_updates(args.rounds),
        "workers": lambda: measure_workers(args.batches, args.rounds),
    }
    for line in chain.from_iterable(parts[part]() for part in args.parts):
        line |= conditions("av")
        report(**line)
        if args.out:
            keep(line, args.out)


def keep(line: dict[str, Any], out: Path) -> None:
    """Put a line among those of the folder, in the place of an earlier one of its axis; plot."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "scaling.jsonl"
    texts = path.read_text().splitlines() if path.exists() else []
    lines = {found["axis"]: found for found in map(json.loads, texts)} | {line["axis"]: line}
    lines = {axis: lines[axis] for axis in (*AXES, "workers") if axis in lines}
    path.write_text("".join(json.dumps(x) + "\n" for x in lines.values()))
    plot(list(lines.values()), out / "scaling.png")


if __name__ == "__main__":
    main()
