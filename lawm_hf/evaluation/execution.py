# SPDX-License-Identifier: Apache-2.0
"""Which execution of its chunks suits a policy: found on tuning states, saved in its folder.

An average over overlapping chunks doubled the success of one policy in LIBERO and halved that of
another on the tabletop, so there is no default that is right everywhere. Candidates play the same
states, the better half goes on (successive halving), and of the last two the simpler is taken
unless the other solved states that it did not, by more than chance.
"""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from ..models import LAWMPolicyConfig
from ..models.configuration_lawm import EXECUTION
from ..writing.atomic import check_writable, read_json, write_text_atomic
from .results import Trial
from .rollout import Aggregation

CHANCE = 0.125  # What differs by more than this of coin tosses is no near-tie: 3 states of 3.
RULE = (
    "Successive halving on the same states; of the last two the simpler, unless the other solved "
    "more and tosses of a coin would be as uneven at most one time in eight (one-sided sign test)."
)
RECORD = "execution.json"
MIN_STATES = 3  # With fewer no candidate can win, whatever happens.


@dataclass(frozen=True)
class Execution:
    """How chunks become actions: the two options of a policy's configuration."""

    aggregation: Aggregation
    n_action_steps: int

    def __str__(self) -> str:
        return f"{self.aggregation}_{self.n_action_steps}"


def candidates(chunk_size: int) -> list[Execution]:
    """What is tried, the simplest first: fresh chunks, blind steps, averages."""
    tried = [Execution("none", 1)]
    if chunk_size > 1:
        tried += [Execution("none", chunk_size // 2)] if chunk_size > 3 else []
        tried += [Execution("uniform", 1), Execution("exponential", 1)]
    return tried


def learn_execution(
    tried: Sequence[Execution],
    states: Sequence[Trial],
    play: Callable[[Execution, list[Trial]], list[bool]],
    at_once: bool = False,
) -> tuple[Execution, dict[Execution, list[bool]]]:
    """Find the execution that suits a policy.

    Args:
        tried: Candidates, the simplest first.
        states: Tuning states, their tasks in turn; each round has twice as many as the one before.
        play: Plays states of one task under a candidate and returns which were solved.
        at_once: Let it play those of all tasks in one call: each call starts processes, while the
            simulator of a task does not stay.

    Returns:
        The execution, and what each candidate solved, in the order in which it played.

    Raises:
        ValueError: If there are too few states to tell two candidates apart.
    """
    if len(states) < MIN_STATES:
        raise ValueError(
            f"An execution is chosen by at least {MIN_STATES} episodes, got {len(states)}: with "
            "fewer the simplest always wins. Raise `tuning_episodes`."
        )
    rounds = max(math.ceil(math.log2(len(tried))), 1)
    solved: dict[Execution, list[bool]] = {execution: [] for execution in tried}
    left, begin = list(tried), 0
    for number in range(1, rounds + 1):
        end = round(len(states) * (2**number - 1) / (2**rounds - 1))
        by_task = sorted(states[begin:end], key=lambda trial: trial.task_index or 0)
        for _, trials in groupby(by_task, key=lambda trial: at_once or trial.task_index):
            together = list(trials)
            for execution in left:  # One after the other in one simulator.
                solved[execution] += play(execution, together)
        begin = end
        if number < rounds:
            best = sorted(left, key=lambda execution: -sum(solved[execution]))  # Stable: simpler.
            left = [execution for execution in left if execution in best[: (len(left) + 1) // 2]]
    chosen = left[0]
    for other in left[1:]:
        if is_better(solved[other], solved[chosen]):
            chosen = other
    return chosen, solved


def is_better(one: Sequence[bool], other: Sequence[bool]) -> bool:
    """Whether one candidate solved more of the same states than chance would have it."""
    wins = sum(a > b for a, b in zip(one, other, strict=True))
    uneven = sum(a != b for a, b in zip(one, other, strict=True))
    as_many = sum(math.comb(uneven, k) for k in range(wins, uneven + 1))
    return 2 * wins > uneven and as_many / 2**uneven <= CHANCE


def save_execution(
    folder: str | Path,
    execution: Execution,
    solved: dict[Execution, list[bool]],
    told: dict[str, Any],
) -> None:
    """Write an execution into a policy's `config.json`, and beside it how it was found.

    Args:
        folder: Of the policy.
        execution: The one to act by from now on, in both libraries.
        solved: See `learn_execution`.
        told: Where and on which states it was found.
    """
    folder = Path(folder)
    _tell_export(folder)
    rows = [asdict(e) | {"successes": sum(s), "episodes": len(s)} for e, s in solved.items()]
    record = asdict(execution) | told | {"candidates": rows, "rule": RULE}
    write_text_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")
    config = read_json(folder / "config.json", dict) | asdict(execution)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_text_atomic(folder / "config.json", text)


def check_tunable(policy: str, aggregation: str | None, n_action_steps: int | None) -> None:
    """Before anything is opened: what is learned can be saved, and nobody else decides it.

    Args:
        policy: Folder, not a repository.
        aggregation: Of a flag.
        n_action_steps: Likewise.

    Raises:
        ValueError: If not.
        OSError: If the folder cannot be written.
    """
    if aggregation is not None or n_action_steps is not None:
        raise ValueError(
            "`tune_execution` learns `aggregation` and `n_action_steps`, which must not be given "
            f"then, got {aggregation!r} and {n_action_steps!r}. Leave out them or it."
        )
    if not Path(policy).is_dir():
        raise ValueError(
            "What is learned is saved in the policy's folder, so `policy` must be one, got "
            f"{policy!r}. A repository: hf download {policy} --local-dir FOLDER."
        )
    check_writable(policy)


def learned_execution(policy: str, played: dict[str, Any]) -> dict[str, Any]:
    """How the execution of a policy was learned; empty if it was not, or not for these weights.

    Args:
        policy: Folder or Hub repository.
        played: `aggregation`, `n_action_steps` and the `policy_fingerprint` of the weights.
    """
    path = Path(policy, RECORD)
    if not Path(policy).is_dir():
        try:
            path = Path(hf_hub_download(policy, RECORD))
        except (EntryNotFoundError, HfHubHTTPError, OSError):  # offline, too
            return {}
    record = read_json(path, dict) if path.is_file() else {}
    is_it = all(record.get(name) == value for name, value in played.items())
    return record if is_it and record.get("states") else {}


def carry_execution(folder: str | Path, config: LAWMPolicyConfig, is_trained: bool) -> None:
    """What was learned for a policy goes with its weights, before others are saved in their place.

    Args:
        folder: Of the policy.
        config: To be saved; of the same weights, it gets what was learned for them.
        is_trained: Whether they are new: they have to learn it anew.
    """
    path = Path(folder, RECORD)
    if is_trained:
        _tell_export(Path(folder))
        path.unlink(missing_ok=True)
    elif path.is_file():
        config.update({k: v for k, v in read_json(path, dict).items() if k in EXECUTION})


def _tell_export(folder: Path) -> None:
    if (folder / "policy.onnx").exists():
        warnings.warn(
            f"{folder / 'policy.onnx'} was exported before and stays as it is: export it again.",
            stacklevel=2,
        )


def describe_execution(chosen: Execution, solved: dict[Execution, list[bool]]) -> str:
    """A line for each candidate and one for the choice."""
    lines = [
        f"  {e.aggregation}, {e.n_action_steps}: {sum(s)} of {len(s)}" for e, s in solved.items()
    ]
    is_known = any(map(any, solved.values()))
    unknown = "" if is_known else " No state was solved, so nothing is known: train longer, then."
    return "\n".join(
        [
            "Execution, on tuning states (aggregation, n_action_steps: solved):",
            *lines,
            f"Chosen and saved: {chosen.aggregation}, {chosen.n_action_steps}.{unknown}",
        ]
    )
