# SPDX-License-Identifier: Apache-2.0
"""A grid of pretrain -> finetune -> evaluate runs, and its table, from one plan.

    python recipes/experiment.py recipes/configs/experiments/reach.yaml
    python recipes/experiment.py recipes/configs/experiments/reach.yaml --jobs 1 --dry_run

A plan names the ways to pretrain (flags of `pretrain.py`; empty for none), the demonstration
counts, and the seeds. Every stage is a process of its own, done once, and skipped when its result
is already there: interrupt and repeat at will. Writes `runs.jsonl` and `report.md`.
"""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from lawm_hf.arguments import arg, parse_args
from lawm_hf.results import wilson_interval

RECIPES = Path(__file__).parent


@dataclass
class ExperimentArgs:
    """A plan, or flags; see the YAML files in `recipes/configs/experiments/`."""

    output_dir: str = arg("outputs/experiment", "where all runs and the report go")
    pretraining: str = arg(
        "{}",
        "JSON: name -> flags of pretrain.py, none: from scratch; and `finetune`: its own flags",
    )
    finetune: str = arg("{}", "JSON: flags of finetune.py; `{demos}` in source is filled in")
    evaluate: str = arg("{}", "JSON: flags of evaluate.py")
    demonstrations: list[int] = arg([25, 50], "demonstration counts")
    seeds: list[int] = arg([0, 1, 2], "seeds; pretraining and finetuning share them")
    jobs: int = arg(2, "processes at a time, one thread each")
    dry_run: bool = arg(False, "print the commands only")


@dataclass
class Stage:
    """One command; `done` is the file that exists once it has succeeded."""

    recipe: str
    flags: dict[str, Any]
    folder: Path
    done: str

    def command(self) -> list[str]:
        """The command line."""
        tokens = [sys.executable, str(RECIPES / f"{self.recipe}.py")]
        for key, value in {**self.flags, "output_dir": str(self.folder)}.items():
            value = json.dumps(value) if isinstance(value, dict) else value
            tokens += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
        return tokens

    def run(self) -> None:
        """Run it unless it is done; its CPU seconds go to `cpu_seconds.json`.

        Raises:
            RuntimeError: If it fails, with the end of its log.
        """
        if (self.folder / self.done).exists() and (self.folder / "cpu_seconds.json").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "console.txt"
        environment = os.environ | {"LAWM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with log.open("w") as out:
            process = subprocess.Popen(self.command(), stdout=out, stderr=out, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            tail = "\n".join(log.read_text().splitlines()[-15:])
            raise RuntimeError(f"{' '.join(self.command())} failed; the end of {log}:\n{tail}")
        cpu = round(usage.ru_utime + usage.ru_stime, 1)
        (self.folder / "cpu_seconds.json").write_text(json.dumps(cpu))

    def cpu_seconds(self) -> float:
        """CPU seconds it took."""
        return json.loads((self.folder / "cpu_seconds.json").read_text())


@dataclass
class Run:
    """One cell and seed of the grid: its stages in order."""

    name: str
    demonstrations: int
    seed: int
    stages: list[Stage]

    def record(self) -> dict[str, Any]:
        """Its line in `runs.jsonl`."""
        summary = json.loads((self.stages[-1].folder / "summary.json").read_text())
        return {
            "pretraining": self.name,
            "demonstrations": self.demonstrations,
            "seed": self.seed,
            "success_rate": summary["success_rate"],
            "successes": summary["successes"],
            "episodes": summary["episodes"],
            "cpu_seconds": {s.recipe: s.cpu_seconds() for s in self.stages},
        }


def expand(args: ExperimentArgs) -> list[Run]:
    """All runs of a plan; equal stages share a folder, named by what they were told to do."""
    pretraining, finetune = json.loads(args.pretraining), json.loads(args.finetune)
    root, runs = Path(args.output_dir), []
    for seed in args.seeds:
        for name, flags in pretraining.items():
            first, own = [], {k: v for k, v in flags.items() if k != "finetune"}
            if own:
                first = [_stage(root, "pretrain", own | {"seed": seed}, "policy/config.json")]
            for demos in args.demonstrations:
                tune = finetune | {"seed": seed} | flags.get("finetune", {})
                tune["source"] = finetune["source"].format(demos=demos)
                if first:
                    tune |= {"pretrained": str(first[0].folder)}
                second = _stage(root, "finetune", tune, "config.json")
                test = json.loads(args.evaluate) | {"policy": str(second.folder)}
                third = _stage(root, "evaluate", test, "summary.json")
                runs.append(Run(name, demos, seed, [*first, second, third]))
    return runs


def _stage(root: Path, recipe: str, flags: dict[str, Any], done: str) -> Stage:
    digest = hashlib.sha256(json.dumps([recipe, flags], sort_keys=True).encode()).hexdigest()[:8]
    return Stage(recipe, flags, root / f"{recipe}_{digest}", done)


def report(records: list[dict[str, Any]], args: ExperimentArgs) -> str:
    """Markdown table: success by pretraining and demonstration count, over all seeds."""
    lines = [
        "| demonstrations | pretraining | success | 95 % interval | by seed | CPU s: "
        "pretrain / finetune |",
        "|--:|---|--:|---|---|---|",
    ]
    for demos in args.demonstrations:
        for name in json.loads(args.pretraining):
            rows = [r for r in records if (r["demonstrations"], r["pretraining"]) == (demos, name)]
            if not rows:
                continue
            successes, episodes = (sum(r[k] for r in rows) for k in ("successes", "episodes"))
            low, high = wilson_interval(successes, episodes)
            cpu = {
                k: np.mean([r["cpu_seconds"].get(k, 0) for r in rows])
                for k in ("pretrain", "finetune")
            }
            by_seed = " ".join(f"{r['success_rate']:.1%}" for r in rows)
            lines.append(
                f"| {demos} | {name} | {successes / episodes:.1%} | {low:.1%} – {high:.1%} | "
                f"{by_seed} | {cpu['pretrain']:.0f} / {cpu['finetune']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main(args: ExperimentArgs) -> None:
    """Run what is missing, then write the table."""
    runs = expand(args)
    levels = [
        {str(s.folder): s for r in runs for s in r.stages if s.recipe == name}
        for name in ("pretrain", "finetune", "evaluate")
    ]
    if args.dry_run:
        for level in levels:
            for stage in level.values():
                print(" ".join(stage.command()))  # noqa: T201
        return
    with tqdm(total=sum(map(len, levels)), desc="stages") as bar:
        for level in levels:
            with ThreadPoolExecutor(args.jobs) as pool:
                for _ in pool.map(Stage.run, level.values()):
                    bar.update()
    records = [run.record() for run in runs]
    root = Path(args.output_dir)
    (root / "runs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (root / "plan.yaml").write_text(yaml.safe_dump(vars(args), sort_keys=False))
    table = report(records, args)
    (root / "report.md").write_text(table)
    print(table)  # noqa: T201


if __name__ == "__main__":
    main(parse_args(ExperimentArgs))
