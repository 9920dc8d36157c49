# SPDX-License-Identifier: Apache-2.0
"""Tasks of a command, done by processes of this machine, by jobs of Slurm, or by Ray.

A task is a call that another process can make, and that does nothing when its work is done. A
command hands over what is missing, so it is resumed by repeating it, with any executor.

Slurm and Ray are driven by datatrove (extra `cluster`). This machine is not: datatrove's
`LocalPipelineExecutor` waits for ever for a task whose process was killed, ends all tasks when one
fails, and leaves them running when it is killed itself.
"""

import difflib
import inspect
import itertools
import json
import multiprocessing
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .atomic import run_lock

# Where datatrove's default is no good; `qos` None is the cluster's own.
_SLURM = {"time": "24:00:00", "mem_per_cpu_gb": 4, "qos": None}
_PARENT_S = 0.2  # Seconds between two looks whether the parent is still there.


@dataclass(frozen=True)
class Task:
    """What one process does.

    Args:
        name: A file name, its own among the tasks of a command.
        run: The call, picklable, of a module that others can import. It is made again if the
            process is lost, and does nothing when all is done.
    """

    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Executor:
    """Who does the tasks.

    Args:
        kind: `"local"`, `"slurm"` or `"ray"`.
        tasks: Processes at a time here; 1: this one. On a cluster the shares into which the tasks
            of a command are divided: jobs of Slurm's array, tasks of Ray. With more than there are
            processors, some wait, and the last share ends sooner.
        options: Arguments of datatrove's executor, such as `partition`, `time`, `cpus_per_task`,
            `gpus_per_task`, `mem_per_cpu_gb`.

    Raises:
        ValueError: If the options are not the executor's.
        ModuleNotFoundError: If it needs a package that is not installed.
    """

    kind: str = "local"
    tasks: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.tasks < 1:
            raise ValueError(f"`tasks` must be at least 1, got {self.tasks}.")
        known = inspect.signature(self._class()).parameters if self.kind != "local" else {}
        for name in self.options:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean `{close[0]}`?" if close else "Slurm and Ray have some."
                raise ValueError(
                    f"`executor_options` must be options of the executor {self.kind!r}, got "
                    f"{name!r}. {hint}"
                )
        if self.kind == "slurm" and not self.options.get("partition"):
            raise ValueError(
                "Slurm must be told a partition (`sinfo` lists them), got "
                f"{json.dumps(self.options)}. Add, for instance, "
                """--executor_options '{"partition": "cpu", "time": "12:00:00"}'."""
            )

    def run(
        self,
        steps: Sequence[Sequence[Task]],
        folder: str | Path,
        on_end: Callable[[Task], None] | None = None,
    ) -> None:
        """Do the tasks, those of a step after all of the step before.

        Args:
            steps: The tasks.
            folder: Where locks and logs go; all machines see it under this name.
            on_end: Told each task that has succeeded; by Ray at the end, by Slurm never.

        Raises:
            RuntimeError: If tasks of a cluster have failed, once the others are done; here the
                first error ends the run.
            SystemExit: When Slurm has got the jobs: repeat the command when they have ended.
        """
        steps, folder = [step for step in steps if step], Path(folder).absolute()
        tell = on_end or (lambda task: None)
        if self.kind == "local":
            for step in steps:
                self._run_here(step, folder, tell)
        elif self.kind == "ray" and steps:
            self._run_on_ray(steps, folder)
            for task in itertools.chain(*steps):
                tell(task)
        elif steps:
            self._submit(steps, folder)

    def _run_here(self, tasks: Sequence[Task], folder: Path, tell: Callable[[Task], None]) -> None:
        number = min(self.tasks, len(tasks))
        if number == 1:
            for task in tasks:
                _do(task, folder)
                tell(task)
            return
        with _pool(number) as pool:
            done = pool.map(_do, tasks, itertools.repeat(folder))
            try:
                for task, _ in zip(tasks, done, strict=True):
                    tell(task)
            except BrokenProcessPool as error:
                raise _lost(error) from error

    def _class(self) -> Any:
        if self.kind == "slurm":
            from datatrove.executor import SlurmPipelineExecutor

            return SlurmPipelineExecutor
        import ray  # noqa: F401
        from datatrove.executor import RayPipelineExecutor

        return RayPipelineExecutor

    def _run_on_ray(self, steps: Sequence[Sequence[Task]], folder: Path) -> None:
        import ray

        ray.init(ignore_reinit_error=True)
        failed, logs = [], _logs(folder)
        for number, step in enumerate(steps):
            executor = self._class()(**self._told(step, folder, logs / str(number)) | self.options)
            executor.run()
            missing = executor.get_incomplete_ranks(skip_completed=True)
            failed += [logs / f"{number}/logs/task_{rank:05d}.log" for rank in missing]
        if failed:
            end = failed[0].read_text(errors="replace").splitlines() if failed[0].is_file() else []
            raise RuntimeError(
                f"{len(failed)} of Ray's tasks failed; fix that and repeat the command, what is "
                "done is kept. The end of {}:\n{}".format(failed[0], "\n".join(end[-15:]))
            )

    def _submit(self, steps: Sequence[Sequence[Task]], folder: Path) -> None:
        options = _SLURM | self.options
        threads, path = options.get("cpus_per_task", 1), str(Path(sys.executable).parent)
        options.setdefault("env_command", f"export PATH={shlex.quote(path)}:$PATH")
        options["env_command"] += f"\nexport OMP_NUM_THREADS={threads} LAWM_NUM_THREADS={threads}"
        executor, logs = None, _logs(folder)
        if shlex.quote(str(logs)) != str(logs):  # datatrove's script has it without quotes.
            raise ValueError(
                f"A folder for Slurm must have a plain path, without spaces and the like, got "
                f"{str(folder)!r}. Choose another."
            )
        for number, step in enumerate(steps):
            told = self._told(step, folder, logs / str(number))
            # A step may begin when some of the last have failed: each looks for what it needs.
            told |= {"depends": executor, "run_on_dependency_fail": True}
            told |= {"job_name": f"lawm_hf_{number}"}
            executor = self._class()(**told | options)
            executor.launch_merge_stats = _no_statistics
        scripts = logs / "0/launch_script.slurm"
        try:
            assert executor is not None
            executor.run()
        except FileNotFoundError as error:
            if error.filename != "sbatch":
                raise
            raise ValueError(
                "`--executor slurm` must be used where `sbatch` is, on a machine of the cluster; "
                f"got none. Nothing was submitted; the script would be {scripts}."
            ) from error
        print(  # noqa: T201
            f"Slurm has got {sum(map(len, steps))} tasks; their scripts and logs are in {logs}. "
            "Repeat this command when the jobs have ended: it does what is missing, and finishes."
        )
        raise SystemExit(0)

    def _told(self, tasks: Sequence[Task], folder: Path, logs: Path) -> dict[str, Any]:
        # datatrove's notes of what is done are of this launch alone: the tasks know better.
        told = {"pipeline": [_Step(tasks, folder, Path.cwd())], "skip_completed": False}
        return told | {"tasks": min(self.tasks, len(tasks)), "logging_dir": str(logs)}


class _Step:
    """What datatrove calls on another machine: a share of the tasks."""

    def __init__(self, tasks: Sequence[Task], folder: Path, home: Path):
        self.tasks, self.folder, self.home = tasks, folder, home

    def __repr__(self) -> str:
        return f"{len(self.tasks)} tasks, {self.tasks[0].name} to {self.tasks[-1].name}"

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        threads = os.environ.get("DATATROVE_CPUS_PER_TASK", "1")
        for name in ("OMP_NUM_THREADS", "LAWM_NUM_THREADS"):
            os.environ.setdefault(name, threads)
        # In a process of its own: the loss of datatrove's would be waited for without end. And
        # if Ray's worker is killed, what it has begun must not go on beside the second try.
        _end_with(os.getppid())
        with _pool(1) as pool:
            mine = self.tasks[rank::world_size]
            calls = [pool.submit(_do, task, self.folder, self.home) for task in mine]
            # One that fails does not hold up the others.
            errors = [error for error in [call.exception() for call in calls] if error]
        if errors:
            raise errors[0] if not isinstance(errors[0], BrokenProcessPool) else _lost(errors[0])


def _do(task: Task, folder: Path, home: Path | None = None) -> None:
    """Do a task, unless another process is at it: one that was killed ends a little later."""
    if home is not None:
        os.chdir(home)
    with run_lock(folder, f"{task.name}.lock", patience_s=10):
        task.run()


def _pool(number: int) -> ProcessPoolExecutor:
    """Processes that end with this one."""
    # Spawned: an encoder's threads and a source's open files do not survive a fork.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(number, context, _begin, (os.getpid(), number))


def _begin(parent: int, number: int) -> None:
    for name in ("OMP_NUM_THREADS", "LAWM_NUM_THREADS"):  # Before torch is imported.
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // number)))
    _end_with(parent)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, be it by SIGKILL: a repeat may be at work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lost(error: BrokenProcessPool) -> RuntimeError:
    return RuntimeError(
        "The process of a task must end by itself, but one was killed, for want of memory maybe "
        f"({error}). Repeat the command, with fewer `--tasks` at a time: what is done is kept."
    )


def _logs(folder: Path) -> Path:
    """A folder for one launch: jobs of an earlier one may still wait for theirs."""
    return folder / "executor" / f"{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}"


def _no_statistics() -> None:
    """In place of a job that would sum up datatrove's statistics: there are none."""
