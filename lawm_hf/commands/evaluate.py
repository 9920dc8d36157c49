# SPDX-License-Identifier: Apache-2.0
"""The flags of `recipes/evaluate.py`."""

from dataclasses import dataclass

from ..arguments import TaskArgs, arg


@dataclass
class EvaluateArgs(TaskArgs):
    """Measure the success rate of a policy in simulation, with its 95 % interval."""

    policy: str = arg(
        "outputs/finetune", "folder or Hub repository of a finetuned policy", group="model"
    )
    output_dir: str = arg("outputs/evaluate", "where results go", group="output")
    env: str = arg(
        "tabletop", "tabletop, libero, or the id of any gymnasium environment", group="environment"
    )
    env_options: str = arg("{}", "JSON: further arguments of its constructor", group="environment")
    suite: str = arg(
        "", "suite of tasks: reach, place2, place4; libero_object and so on", group="environment"
    )
    episodes: int = arg(
        200, "episodes, where the seed is the initial state", min=1, group="environment"
    )
    first_seed: int = arg(
        0, "first seed; recorded data start at 100000", min=0, group="environment"
    )
    task_ids: list[int] = arg(
        [], "tasks of the suite, if it has several; all by default", min=0, group="environment"
    )
    trials: int = arg(
        10, "episodes of each of these tasks; LIBERO has 50", min=1, group="environment"
    )
    first_init_state: int = arg(
        0, "first of the benchmark's initial states", min=0, group="environment"
    )
    seeds: list[int] = arg(
        [0],
        "play each initial state once per seed; it seeds a policy's noise",
        min=0,
        group="environment",
    )
    image_size: int = arg(
        0, "size to render, that of the training data; 0: its own", min=8, group="environment"
    )
    fast_rendering: bool = arg(
        False, "LIBERO: thinner meshes; only if the data had them", group="environment"
    )
    views: list[str] = arg(
        [], "cameras, in the order of training; all by default", group="environment"
    )
    aggregation: str | None = arg(
        None,
        "of overlapping chunks; by default the policy's own",
        choices=("none", "uniform", "exponential"),
        group="model",
    )
    n_action_steps: int | None = arg(
        None, "steps between two calls of the policy; by default its own", min=1, group="model"
    )
    tune_execution: bool = arg(
        False,
        "first learn both on other initial states, and save them in the policy's folder",
        group="model",
    )
    tuning_episodes: int = arg(
        30, "tuning states, shared evenly by the tasks", min=3, group="environment"
    )
    first_tuning_state: int | None = arg(
        None,
        "first of them; by default seed 5000, or the initial state after the evaluation's last",
        min=0,
        group="environment",
    )
    lockstep: int = arg(
        50, "episodes played at once, if the environment allows it", min=1, group="tasks"
    )
    videos: int = arg(0, "videos of failures to write", min=0, group="output")
    resume: bool = arg(
        False, "keep the episodes in output_dir and play the missing ones", group="output"
    )
