# SPDX-License-Identifier: Apache-2.0
"""The table of an experiment: one row per episode, from which everything else is made."""

from pathlib import Path

import pandas as pd

from ..evaluation.results import read_results
from .plan import Run

CELL = ["policy", "pretraining", "benchmark", "demonstrations"]
RUN = [*CELL, "seed"]
# What an episode started from: the same in every run of a benchmark, which pairs the runs.
STATE = ["task_index", "init_state", "episode_seed"]


def episode_table(runs: list[Run]) -> pd.DataFrame:
    """All episodes of the runs that are done.

    Columns: `policy`, `pretraining`, `benchmark`, `demonstrations`, `seed` (the run's),
    `task`, `task_index`, `init_state`, `episode_seed` (-1 where a benchmark has none),
    `is_success`, `length`, and `pretrain_cpu_s`, `finetune_cpu_s`, `evaluate_cpu_s` of the run.
    """
    rows = []
    for run in runs:
        if not run.stages[-1].is_done:
            continue
        cost = dict.fromkeys(("pretrain_cpu_s", "finetune_cpu_s", "evaluate_cpu_s"), 0.0)
        cost |= {f"{stage.recipe}_cpu_s": stage.cpu_seconds for stage in run.stages}
        for episode in read_results(run.stages[-1].folder):
            state = {
                "task": episode.task,
                "task_index": -1 if episode.task_index is None else episode.task_index,
                "init_state": -1 if episode.init_state is None else episode.init_state,
                "episode_seed": episode.seed,
            }
            outcome = {"is_success": episode.is_success, "length": episode.length}
            rows.append({**run.cell, **state, **outcome, **cost})
    return pd.DataFrame(rows)


def read_tables(folder: str | Path) -> pd.DataFrame:
    """The tables in a folder, `episodes*.parquet`, together, such as those of several machines.

    Raises:
        FileNotFoundError: If there is none.
    """
    paths = sorted(Path(folder).glob("episodes*.parquet"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no `episodes*.parquet`. Run the plan first, or copy the "
            "tables of other machines there."
        )
    tables = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    return tables.drop_duplicates([*RUN, *STATE], keep="last", ignore_index=True)


def success_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Success of one cell, 0 or 1: a row per seed, a column per initial state.

    States that not every seed has played are left out.
    """
    wide = table.pivot_table(index="seed", columns=STATE, values="is_success", aggfunc="first")
    return wide.dropna(axis=1).astype(int)
