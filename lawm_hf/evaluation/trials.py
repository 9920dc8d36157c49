# SPDX-License-Identifier: Apache-2.0
"""Which episodes are played: those of an evaluation, and others to tune on."""

from collections.abc import Sequence
from typing import Any

from .environments import Environment
from .results import Trial

FIRST_TUNING_SEED, FIRST_RECORDED_SEED = 5000, 100_000  # Evaluations begin at 0.


def seeded_trials(
    env: Environment, task_ids: Sequence[int], first_seed: int, count: int
) -> list[Trial]:
    """Episodes of an environment whose seed is the initial state, task by task."""
    seeds = _seeds(first_seed, count)
    return [Trial(seed, env.suite, task) for task in _tasks(env, task_ids) for seed in seeds]


def benchmark_trials(
    env: Environment,
    task_ids: Sequence[int],
    first_init_state: int,
    count: int,
    seeds: Sequence[int],
) -> list[Trial]:
    """Episodes from a benchmark's own initial states, each once per seed, task by task.

    Raises:
        ValueError: If it has not as many.
    """
    states = range(first_init_state, first_init_state + count)
    if states.stop > (env.num_init_states or 0):
        raise ValueError(
            f"`first_init_state` and `trials` must stay within the {env.num_init_states} "
            f"initial states, got {states.start} to {states.stop - 1}."
        )
    return [
        Trial(seed, env.suite, task, state)
        for task in _tasks(env, task_ids)
        for seed in seeds
        for state in states
    ]


def tuning_trials(
    env: Environment, trials: Sequence[Trial], episodes: int, first: int | None
) -> list[Trial]:
    """Episodes to tune on, the tasks in turn; none begins as one of the evaluation does.

    Args:
        env: The environment.
        trials: Of the evaluation, whose tasks they share.
        episodes: At least as many, the same number of each task.
        first: First seed or initial state; None: seed 5000, or the state after the evaluation's.

    Raises:
        ValueError: If there are not as many other initial states.
    """
    tasks = list(dict.fromkeys(trial.task_index for trial in trials))
    used = {_start(trial) for trial in trials}
    if first is None:
        first = FIRST_TUNING_SEED if env.num_init_states is None else 1 + max(s for _, s in used)
    count = -(-episodes // len(tasks))
    is_seeded = env.num_init_states is None
    starts = _seeds(first, count) if is_seeded else range(first, first + count)
    states = [
        Trial(start, env.suite, task)
        if env.num_init_states is None
        else Trial(trials[0].seed, env.suite, task, start)
        for start in starts
        for task in tasks
    ]
    last = None if env.num_init_states is None else env.num_init_states - 1
    is_beyond = last is not None and starts[-1] > last
    if is_beyond or used & {_start(trial) for trial in states}:
        raise ValueError(
            f"Tuning needs {len(starts)} initial states of each task that are not evaluated, got "
            f"{starts.start} to {starts.stop - 1}, of which some "
            + (f"are beyond the last, {last}" if is_beyond else "are evaluated")
            + ". Choose `first_tuning_state`, or lower `tuning_episodes` or `trials`."
        )
    return states


def _is_learned_in(record: dict[str, Any], env: Environment) -> bool:
    short = env.id.removeprefix("lawm_hf/").rpartition("-v")[0].lower()  # as a flag may name it
    return record.get("env") in (env.id, short) and record.get("suite") == env.suite


def describe_record(record: dict[str, Any], env: Environment) -> str:
    """On how many states an execution was learned, and where, if elsewhere."""
    is_here = _is_learned_in(record, env)
    where = "other states" if is_here else f"states of {record['suite'] or record['env']}"
    return f"learned on {len(record['states'])} {where}"


def check_apart(record: dict[str, Any], env: Environment, trials: Sequence[Trial]) -> None:
    """No success rate comes from the states on which the execution was learned.

    Args:
        record: Of `learned_execution`; empty if nothing was learned.
        env: The environment.
        trials: To evaluate.

    Raises:
        ValueError: If some of them begin as tuning states do.
    """
    if not _is_learned_in(record, env):
        return
    learned = {
        (s["task_index"], s["seed"] if s["init_state"] is None else s["init_state"])
        for s in record["states"]
    }
    both = sorted({state for task, state in map(_start, trials) if (task, state) in learned})
    if both:
        raise ValueError(
            "Initial states that are evaluated must not be those on which the policy's execution "
            f"was learned (its execution.json), got {len(both)} such: {both[:5]}"
            f"{' ...' if len(both) > 5 else ''}. Choose others, by "
            + ("`first_seed`" if env.num_init_states is None else "`first_init_state` or `trials`")
            + ", or learn it on others: --tune_execution true --first_tuning_state N."
        )


def _seeds(first: int, count: int) -> range:
    """Seeds that do not run into those of data by accident; data's own may be chosen."""
    if first < FIRST_RECORDED_SEED < first + count:
        raise ValueError(
            f"Seeds must stay below {FIRST_RECORDED_SEED}, where those of recorded data start, got "
            f"{first} to {first + count - 1}. Play fewer episodes, or begin with a lower seed."
        )
    return range(first, first + count)


def _start(trial: Trial) -> tuple[int | None, int]:
    return trial.task_index, trial.seed if trial.init_state is None else trial.init_state


def _tasks(env: Environment, task_ids: Sequence[int]) -> Sequence[int | None]:
    if env.num_tasks is None:
        if task_ids:
            raise ValueError(
                f"`task_ids` are for an environment that counts its tasks, got {list(task_ids)} "
                f"and {env.id}, whose seeds draw them. Leave them out."
            )
        return [None]
    if max(task_ids, default=0) >= env.num_tasks:
        raise ValueError(
            f"`task_ids` must be among the suite's {env.num_tasks}, 0 to {env.num_tasks - 1}, got "
            f"{list(task_ids)}."
        )
    return task_ids or range(env.num_tasks)
