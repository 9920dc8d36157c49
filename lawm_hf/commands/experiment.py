# SPDX-License-Identifier: Apache-2.0
"""The flags of `recipes/experiment.py`."""

from dataclasses import dataclass

from ..arguments import TaskArgs, arg


@dataclass
class ExperimentArgs(TaskArgs):
    """Run a grid of pretrain, finetune and evaluate, and report on it.

    A plan, or flags; see `lawm_hf.experiments.plan.Plan` and `recipes/configs/experiments/`.
    """

    title: str = arg("Experiment", "heading of the report", group="output")
    output_dir: str = arg(
        "outputs/experiment", "where table, figures and report go", group="output"
    )
    stages_dir: str = arg("outputs/stages", "where the runs go; plans share them", group="output")
    policies: str = arg(
        '{"baku": {}}', "JSON: name -> flags: model, pretrain, finetune", is_json=True, group="plan"
    )
    pretraining: str = arg(
        '{"scratch": {}}',
        "JSON: name -> flags of pretrain.py; none: scratch",
        is_json=True,
        group="plan",
    )
    benchmarks: str = arg(
        '{"tabletop": {}}', "JSON: name -> flags: finetune, evaluate", is_json=True, group="plan"
    )
    pretrain: str = arg("{}", "JSON: flags of all pretraining", is_json=True, group="plan")
    finetune: str = arg(
        "{}",
        "JSON: flags of all finetuning; {demos}, {seed} in `source`",
        is_json=True,
        group="plan",
    )
    evaluate: str = arg("{}", "JSON: flags of all evaluation", is_json=True, group="plan")
    demonstrations: list[int] = arg([25, 50], "demonstration counts; 0: all", min=0, group="plan")
    seeds: list[int] = arg(
        [0, 1, 2], "seeds; pretraining and finetuning share them", min=0, group="plan"
    )
    reference: str = arg("scratch", "pretraining that the others are compared with", group="plan")
    published: str = arg(
        "{}",
        "JSON: group -> {name: [success rate, episodes]}, reference first",
        is_json=True,
        group="plan",
    )
    tasks: int = arg(2, "stages at a time, one thread each", min=1, group="tasks")
    jobs: int | None = arg(None, "the former name of --tasks", min=1, group="tasks")
    shard: str = arg(
        "0/1", "a plan of before has it; now --executor divides", choices=("0/1",), group="tasks"
    )
    dry_run: bool = arg(
        False, "say what would run, its shapes and its cost; run nothing", group="output"
    )
    report_only: bool = arg(
        False, "run nothing; report on what is done and on the tables there", group="output"
    )

    def __post_init__(self):
        if self.jobs is not None:
            self.tasks = self.jobs
