# SPDX-License-Identifier: Apache-2.0
"""What does each setting of a process give an update of training on a CPU?

    OMP_NUM_THREADS=1 python benchmarks/settings.py [--rounds 5] [--jemalloc LIBJEMALLOC_SO]

The update of the README's first command (`step.py`'s row `tabletop`, batch 48, random frames), in
processes of one setting each, in turn A B B A: `glibc` as it is; `tuned` as the recipes have it
(`tune_cpu`: memory that is freed is kept, and products of matrices go to oneDNN where they stay
float32); `medium`, products by oneDNN whatever they are rounded to; `jemalloc` preloaded, and told
to keep what is freed. One JSON line each: CPU ms and page faults of an update; `ratio` is `glibc`'s
ms over the setting's, and `product_error` how far a product of 256 is off, in parts of its largest
entry.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from statistics import median

import torch
from common import conditions, cpu_ms, order, ratios, report, spread

WARM_UP, UPDATES = 3, 10
KEEP = "dirty_decay_ms:-1,muzzy_decay_ms:-1"


def measure(setting: str) -> None:
    """Updates in this process; prints one JSON line."""
    from step import tabletop_sides

    from lawm_hf.training.accelerator import tune_cpu

    if setting == "tuned":
        tune_cpu()
    if setting == "medium":
        torch.set_float32_matmul_precision("medium")
    torch.manual_seed(0)
    update = tabletop_sides(is_finetuning=False)["ours"][0]
    for _ in range(WARM_UP):
        update()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    times = [cpu_ms(update) for _ in range(UPDATES)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    x = torch.arange(256**2, dtype=torch.float64).mul(0.7).sin().view(256, 256)
    exact = x @ x
    error = (x.float() @ x.float() - exact).abs().max() / exact.abs().max()
    print(json.dumps([median(times), faults / UPDATES, error.item()]))


def main() -> None:
    """Each setting in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jemalloc", help="libjemalloc.so.2, to be preloaded")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # setting of such a process
    args = parser.parse_args()
    if args.one:
        measure(args.one)
        return
    settings: dict[str, dict[str, str]] = {name: {} for name in ("glibc", "tuned", "medium")}
    if args.jemalloc:
        settings["jemalloc"] = {"LD_PRELOAD": args.jemalloc}
        settings["jemalloc, keeps"] = settings["jemalloc"] | {"MALLOC_CONF": KEEP}
    found: dict[str, list[list[float]]] = {name: [] for name in settings}
    for r in range(args.rounds):
        for name in order(settings, r):
            command = [sys.executable, __file__, "--one", name]
            environment = os.environ | settings[name]
            done = subprocess.run(command, env=environment, capture_output=True, check=True)
            found[name].append(json.loads(done.stdout))
    times = {name: [ms for ms, _, _ in rows] for name, rows in found.items()}
    for name, rows in found.items():
        ms, ms_range = spread(times[name])
        ratio, ratio_range = ratios(times, name, "glibc")
        line = {"setting": name, "ms": ms, "ms_range": ms_range, "ratio": ratio}
        line |= {"ratio_range": ratio_range, "rounds": args.rounds}
        line |= {"page_faults": round(median(faults for _, faults, _ in rows))}
        report(**line, product_error=float(f"{rows[0][2]:.1e}"), **conditions())


if __name__ == "__main__":
    main()
