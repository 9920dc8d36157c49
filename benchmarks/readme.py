# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of the README's first command and of finetuning, before some commits and now.

    python benchmarks/readme.py --before OTHER_CHECKOUT [--rounds 3]

Each as the README has it, in a process of its own: its videos recorded anew (`HF_HOME` is empty),
all updates, the report. Both checkouts have one thread (`OMP_NUM_THREADS=1 LAWM_NUM_THREADS=1`) and
this environment, in turn A B B A. One JSON line for each command, at the end and after each round
so far: CPU seconds of the process and its children, and `ratio`, before over now in each round.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from common import commit_of, conditions, order, ratios, report, spread

HERE = Path(__file__).parent.parent
COMMANDS = {
    "pretrain": ["recipes/pretrain.py"],
    "finetune": ["recipes/finetune.py", "--pretrained", "outputs/pretrain"],
}


def children_seconds() -> float:
    """CPU seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(checkout: Path) -> dict[str, float]:
    """Both commands, one after the other; their CPU seconds."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        threads = {"OMP_NUM_THREADS": "1", "LAWM_NUM_THREADS": "1"}
        environment = os.environ | threads | {"HF_HOME": folder, "PYTHONPATH": str(checkout)}
        for name, (recipe, *options) in COMMANDS.items():
            launch = [sys.executable, "-m", "accelerate.commands.launch", str(checkout / recipe)]
            before = children_seconds()
            done = subprocess.run(
                launch + options, cwd=folder, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"{' '.join(launch + options)} failed:\n{done.stderr[-3000:]}")
            seconds[name] = children_seconds() - before
    return seconds


def main() -> None:
    """Both checkouts in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sides = {"before": args.before.resolve(), "now": HERE}
    commit = commit_of(args.before)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for done in range(args.rounds):
        for side in order(sides, done):
            found[side].append(run(sides[side]))
        for command in COMMANDS:
            times = {side: [row[command] for row in rows] for side, rows in found.items()}
            (before, before_range), (now, now_range) = map(spread, times.values())
            ratio, ratio_range = ratios(times, "now", "before")
            line = {"command": command, "before_s": before, "before_range": before_range}
            line |= {"now_s": now, "now_range": now_range, "ratio": ratio}
            line |= {"ratio_range": ratio_range, "rounds": done + 1, "before": commit}
            report(**line, **conditions("accelerate") | {"threads": 1})


if __name__ == "__main__":
    main()
