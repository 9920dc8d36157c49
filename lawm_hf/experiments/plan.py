# SPDX-License-Identifier: Apache-2.0
"""From a plan to its stages: pretrain -> finetune -> evaluate, equal stages computed once.

A plan crosses policies, ways of pretraining, benchmarks, demonstration counts and seeds. Its flags
are those of the recipes; `config` names a YAML file that comes before them.
"""

import hashlib
import itertools
import json
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..writing.atomic import read_json, run_lock, write_text_atomic
from ..writing.executors import Executor, Task
from ..writing.text import printable_lines
from .flags import check_flags, check_parts, check_variant, expand_grids, fill
from .processes import ending_together, run_bound

# File that exists once a stage has succeeded.
_RESULT = {
    "pretrain": "policy/config.json",
    "finetune": "config.json",
    "evaluate": "summary.json",
}


@dataclass(frozen=True)
class Stage:
    """One run of a recipe.

    Args:
        recipe: `"pretrain"`, `"finetune"` or `"evaluate"`.
        flags: Its flags, without the output folder.
        folder: Where its output goes; the name holds a hash of recipe and flags.
        needs: The stage that must be done before it.
    """

    recipe: str
    flags: dict[str, Any]
    folder: Path
    needs: "Stage | None" = None

    def arguments(self) -> list[str]:
        """What follows the recipe on the command line.

        A stage that was interrupted resumes from its last checkpoint or episode.
        """
        flags = {**self.flags, "output_dir": str(self.folder), "resume": True}
        tokens = [flags.pop("config")] if "config" in flags else []
        for key, value in flags.items():
            value = json.dumps(value) if isinstance(value, dict) else value
            value = "none" if value == "" else value  # which a command line would take for a slip
            tokens += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
        return tokens

    @property
    def is_done(self) -> bool:
        """Whether it has succeeded, in this call or an earlier one."""
        return all((self.folder / f).exists() for f in (_RESULT[self.recipe], "cpu_seconds.json"))

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds it took (its last attempt, if it was interrupted)."""
        return read_json(self.folder / "cpu_seconds.json", float)

    def run(self, recipes: Path) -> None:
        """Run the recipe in a process of its own that ends with this one.

        It has one thread, or as many as `LAWM_NUM_THREADS` and so a job of a cluster says.

        Raises:
            RuntimeError: If it fails, with the end of its output.
            BlockingIOError: If another experiment runs it.
        """
        log = self.folder / "console.txt"
        command = [sys.executable, str(recipes / f"{self.recipe}.py"), *self.arguments()]
        number = os.environ.get("LAWM_NUM_THREADS", "1")
        threads = {"LAWM_NUM_THREADS": number, "OMP_NUM_THREADS": number}
        # Not the lock of the recipe, which is taken by itself.
        with run_lock(self.folder, ".stage.lock", patience_s=10) as lock:
            if self.is_done:  # By another experiment, meanwhile.
                return
            status, cpu_seconds = run_bound(command, log, os.environ | threads, keep=lock)
            if status:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"{' '.join(command)} failed; the end of {log}:\n{tail}")
            write_text_atomic(self.folder / "cpu_seconds.json", json.dumps(round(cpu_seconds, 1)))


@dataclass(frozen=True)
class Run:
    """One cell and seed of the grid, with its stages in order."""

    policy: str
    pretraining: str
    benchmark: str
    demonstrations: int
    seed: int
    stages: tuple[Stage, ...] = field(repr=False)

    @property
    def cell(self) -> dict[str, Any]:
        """The columns that name it in the table."""
        names = ("policy", "pretraining", "benchmark", "demonstrations", "seed")
        return {name: getattr(self, name) for name in names}


@dataclass
class Plan:
    """A grid of runs. All mappings hold flags of the recipes.

    Args:
        pretraining: Name -> flags of `pretrain.py`, none of them for training from scratch. Two
            keys are not flags: `finetune` holds this variant's own flags of `finetune.py`,
            `demonstrations` the counts it is tried with, and `grid` maps flags to values (a list,
            or name -> value), of which every combination becomes a variant.
        policies: Name -> `{"model": flags of both training recipes, "pretrain": ..., "finetune":
            ...}`. Finetuning takes the model's flags only from scratch.
        benchmarks: Name -> `{"finetune": ..., "evaluate": ...}`. With `evaluate: false` the runs
            end with finetuning, and somebody writes `episodes.jsonl` into its folder: a robot.
        pretrain: Flags of all pretraining.
        finetune: Flags of all finetuning; `{demos}`, `{seed}` and `{pretrained}` (the folder of the
            run's pretraining) are filled in, as they are in `evaluate`, and `{seed}` in `pretrain`.
        evaluate: Flags of all evaluation.
        demonstrations: Demonstration counts; 0 stands for all that the source has.
        seeds: Seeds; pretraining and finetuning share them.
        stages_dir: Where the stages of all plans lie, so that plans share them.
    """

    pretraining: dict[str, dict[str, Any]]
    policies: dict[str, dict[str, Any]]
    benchmarks: dict[str, dict[str, Any]]
    pretrain: dict[str, Any]
    finetune: dict[str, Any]
    evaluate: dict[str, Any]
    demonstrations: list[int]
    seeds: list[int]
    stages_dir: str

    def __post_init__(self):
        """Refuse what means nothing.

        Raises:
            ValueError: With the closest thing that does.
        """
        for name in ("demonstrations", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):  # A run would count as two.
                raise ValueError(f"`{name}` of a plan must differ, got {values}. Name each once.")
        for name in ("pretrain", "finetune", "evaluate"):
            check_flags(f"`{name}`", getattr(self, name))
        for name, flags in self.pretraining.items():
            check_variant(f"pretraining `{name}`", flags, self.demonstrations)
        for name, options in self.policies.items():
            check_parts(f"policy `{name}`", options, {"model", "pretrain", "finetune"})
        for name, options in self.benchmarks.items():
            check_parts(f"benchmark `{name}`", options, {"finetune", "evaluate"})

    def runs(self) -> list[Run]:
        """All runs, in order of demonstration counts: an interrupted experiment has whole cells.

        Raises:
            ValueError: If there is none, or a flag of finetuning names what no run has.
        """
        variants = expand_grids(self.pretraining)
        grid = itertools.product(self.demonstrations, self.seeds, self.policies, self.benchmarks)
        runs = [
            self._run(policy, name, benchmark, demos, seed, variants[name])
            for demos, seed, policy, benchmark in grid
            for name in variants
            if demos in variants[name].get("demonstrations", self.demonstrations)
        ]
        if not runs:
            raise ValueError(
                "A plan must have a run, got none: `pretraining`, `policies`, `benchmarks`, "
                "`demonstrations` and `seeds` each need an entry. Scratch is `scratch: {}`."
            )
        return runs

    def _run(
        self, policy: str, name: str, benchmark: str, demos: int, seed: int, variant: dict[str, Any]
    ) -> Run:
        options, task = self.policies[policy], self.benchmarks[benchmark]
        model = options.get("model", {})
        own = {k: v for k, v in variant.items() if k not in ("finetune", "demonstrations")}
        first = None
        if own:
            flags = self.pretrain | model | options.get("pretrain", {}) | own | {"seed": seed}
            first = self._stage("pretrain", fill(flags, {"seed": seed}))
        tune = self.finetune | options.get("finetune", {}) | task.get("finetune", {})
        folder = str(first.folder) if first else ""
        if first or "config" in tune:  # A configuration file may name another.
            tune["pretrained"] = folder
        tune |= ({} if first else model) | {"seed": seed} | variant.get("finetune", {})
        filled = {"demos": demos, "seed": seed, "pretrained": folder}
        second = self._stage("finetune", fill(tune, filled), first)
        third, test = None, task.get("evaluate", {})
        if test is not False:
            test = fill(self.evaluate | test, filled) | {"policy": str(second.folder)}
            third = self._stage("evaluate", test, second)
        stages = tuple(stage for stage in (first, second, third) if stage)
        return Run(policy, name, benchmark, demos, seed, stages)

    def _stage(self, recipe: str, flags: dict[str, Any], needs: Stage | None = None) -> Stage:
        told: list[Any] = [recipe, flags]
        if "config" in flags:  # An edited file is another stage.
            told.append(Path(flags["config"]).read_text())
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
        return Stage(recipe, flags, Path(self.stages_dir, f"{recipe}_{digest}"), needs)


def run_stages(runs: list[Run], recipes: Path, executor: Executor) -> None:
    """Run what is missing, a stage being a task, in the order of the plan.

    A stage that fails holds up only what needs it.

    Raises:
        RuntimeError: At the end, if stages have failed, with what they said.
    """
    stages = {stage.folder: stage for run in runs for stage in run.stages}
    missing = [stage for stage in stages.values() if not stage.is_done]
    if executor.kind == "local":
        return _run_here(missing, len(stages), recipes, executor.tasks)
    steps = [
        [Task(s.folder.name, partial(_run_if_ready, s, recipes)) for s in missing if s.recipe == r]
        for r in _RESULT
    ]
    if stages:
        folder = next(iter(stages)).parent
        return executor.run(steps, folder / ".tasks")
    return None


def _run_if_ready(stage: Stage, recipes: Path) -> None:
    if stage.needs and not stage.needs.is_done:
        raise RuntimeError(f"{stage.folder} needs {stage.needs.folder}, which is not done.")
    if not stage.is_done:
        with ending_together():
            stage.run(recipes)


def _run_here(waiting: list[Stage], total: int, recipes: Path, number: int) -> None:
    """Run stages, `number` at a time, each as soon as what it needs is done."""
    running: dict[Future[None], Stage] = {}
    failures: list[str] = []
    with (
        ThreadPoolExecutor(number) as pool,
        ending_together(),  # Before the pool waits for them.
        tqdm(total=total, initial=total - len(waiting), desc="stages") as bar,
    ):
        while waiting or running:
            for stage in [s for s in waiting if s.needs is None or s.needs.is_done]:
                if len(running) < number:
                    waiting.remove(stage)
                    running[pool.submit(stage.run, recipes)] = stage
            if not running:
                break  # what is left needs something that has failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                bar.update()
                if error := future.exception():
                    failures.append(str(error))
                    tqdm.write(printable_lines(failures[-1]))
    if failures:
        raise RuntimeError(
            f"{len(failures)} stages failed and {len(waiting)} that need them were not begun; "
            f"fix and repeat, what is done is kept. The first:\n{failures[0]}"
        )
