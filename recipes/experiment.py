# SPDX-License-Identifier: Apache-2.0
"""A grid of pretrain -> finetune -> evaluate runs, its table and its report, from one plan.

    python recipes/experiment.py recipes/configs/experiments/e1_tabletop.yaml
    python recipes/experiment.py recipes/configs/experiments/e1_libero90.yaml --dry_run true
    python recipes/experiment.py PLAN.yaml --executor ray --tasks 16
    python recipes/experiment.py PLAN.yaml --report_only true

Every stage is a process of its own, done once, and skipped when its result is there: interrupt and
repeat at will. Writes `episodes.parquet`, a row per episode, and from it `report.md` with figures.
"""

import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lawm_hf.arguments import (
    Outcome,
    as_flags,
    parse_args,
    parse_json_options,
    run_command,
)
from lawm_hf.commands.experiment import ExperimentArgs
from lawm_hf.data.spec import parse_spec
from lawm_hf.evaluation.environments import open_environment
from lawm_hf.experiments.cost import (
    GPUS,
    UTILIZATION,
    TrainingCost,
    demonstration_batch,
    pretraining_batch,
    training_cost,
)
from lawm_hf.experiments.flags import check_known
from lawm_hf.experiments.plan import Plan, Run, Stage, run_stages
from lawm_hf.experiments.report import write_report
from lawm_hf.experiments.statistics import PublishedRate
from lawm_hf.experiments.table import episode_table, read_tables
from lawm_hf.models import LawmForPretraining
from lawm_hf.models.auto_lawm import is_policy_type, new_policy
from lawm_hf.recipes.evaluate import env_options
from lawm_hf.recipes.pretrain import build_model

RECIPES = Path(__file__).parent
# Flags that do not change what an update costs: one count serves for all their values.
_COST_IGNORES = ("seed", "source", "sources", "output_dir", "pretrained")
# Flags of pretraining that decide which policy is finetuned.
_POLICY_FLAGS = ("policy_type", "policy_preset", "policy_config", "chunk_size", "image_size")


def read_plan(args: ExperimentArgs) -> Plan:
    """The plan behind the arguments."""
    names = ("pretraining", "policies", "benchmarks", "pretrain", "finetune", "evaluate")
    mappings = {name: parse_json_options(getattr(args, name), name) for name in names}
    if args.import_:
        for name in ("pretrain", "finetune", "evaluate"):
            mappings[name]["import"] = args.import_
    return Plan(
        **mappings,
        demonstrations=args.demonstrations,
        seeds=args.seeds,
        stages_dir=args.stages_dir,
    )


def read_published(args: ExperimentArgs) -> dict[str, list[PublishedRate]]:
    """Published rates, by the group that they are compared in."""
    groups = parse_json_options(args.published, "published")
    try:
        return {
            group: [PublishedRate(name, *numbers) for name, numbers in rates.items()]
            for group, rates in groups.items()
        }
    except (TypeError, AttributeError):
        raise ValueError(
            "`published` must be `{group: {name: [success rate, episodes]}}`, got "
            f"{groups}. The reference comes first."
        ) from None


def stage_args(stage: Stage) -> Any:
    """The arguments of a stage as its recipe will see them; ends the program if one is wrong."""
    module = importlib.import_module(f"lawm_hf.recipes.{stage.recipe}")
    return parse_args(getattr(module, f"{stage.recipe.capitalize()}Args"), stage.arguments())


def check(runs: list[Run], reference: str, is_local: bool) -> None:
    """Find what is misspelled in a plan now, not after a night.

    Args:
        runs: All of the plan.
        reference: The pretraining that the others are compared with.
        is_local: Whether the runs are played here, so that their simulator must be, too.
    """
    if reference != ExperimentArgs.reference:
        check_known("`reference`", [reference], {run.pretraining for run in runs})
    environments = {}
    stages = {(stage.folder, run.policy): stage for run in runs for stage in run.stages}
    for (_, policy), stage in stages.items():
        args = stage_args(stage)
        if stage.recipe == "evaluate":
            options = env_options(args)
            environments[args.env, repr(options)] = args.env, options
            continue
        for source in sources_of(args):
            parse_spec(source)
        # Finetuning after pretraining takes the policy that is there.
        if stage.needs is None and args.policy_type != policy and is_policy_type(policy):
            raise ValueError(
                f"A policy of a plan that is called as a type must be of it, got "
                f"{args.policy_type!r} for `{policy}`. Give it `model: {{policy_type: {policy}}}`, "
                "or another name."
            )
    for name, options in environments.values():
        try:
            open_environment(name, options)[1].close()
        except ImportError:
            if is_local:
                raise


def sources_of(args: Any) -> list[str]:
    """The data that a training stage reads."""
    return getattr(args, "sources", None) or [args.source]


def stage_cost(stage: Stage) -> TrainingCost:
    """Build the true models of a training stage, run one small batch of noise, and count."""
    args = stage_args(stage)
    if stage.recipe == "pretrain":
        model, _ = build_model(args)
    elif stage.needs:  # Its policy, without a world model.
        model, _ = build_model(replace(stage_args(stage.needs), objective="supervised"))
    else:
        options = parse_json_options(args.policy_config, "policy_config")
        model = new_policy(args.policy_type, args.policy_preset, **options)
    if isinstance(model, LawmForPretraining):
        batch = pretraining_batch(model)
    else:  # Pretraining corpora show one camera, supervised or not.
        batch = demonstration_batch(model, num_views=1 if stage.recipe == "pretrain" else 2)
    windows = args.batch_size * args.gradient_accumulation_steps
    return training_cost(model, batch, windows, args.steps)


def dry_run(runs: list[Run]) -> Outcome:
    """Say what would run: data, shapes, updates, operations, hours of a GPU."""
    stages = {stage.folder: stage for run in runs for stage in run.stages}
    hours, costs = dict.fromkeys(GPUS, 0.0), {}
    missing: set[str] = set()
    for number, stage in enumerate(stages.values(), 1):
        args = stage_args(stage)
        print(f"\n[{number}/{len(stages)}] {stage.recipe} {' '.join(stage.arguments())}")  # noqa: T201
        if stage.recipe == "evaluate":
            print(f"  {args.env} {args.suite}: as long as the simulator takes")  # noqa: T201
            continue
        for source in sources_of(args):
            if re.search(r"\b(DIR|COMMIT|CAMERA)\b", source):
                missing.add(source)
        told = {k: v for k, v in vars(args).items() if k not in _COST_IGNORES}
        first = stage.needs and stage_args(stage.needs)
        key = repr((stage.recipe, told, first and [getattr(first, k) for k in _POLICY_FLAGS]))
        cost = costs[key] = costs.get(key) or stage_cost(stage)
        for gpu in hours:
            hours[gpu] += cost.gpu_hours(gpu)
        print("  " + ", ".join(f"{k} {v:,} parameters" for k, v in cost.parameters.items()))  # noqa: T201
        print("  " + ", ".join(f"{k} {v}" for k, v in cost.shapes.items()))  # noqa: T201
        each = ", ".join(f"{cost.gpu_hours(gpu):.1f} h of one {gpu}" for gpu in hours)
        work = f"{cost.updates:,} updates, {cost.flops_per_window / 1e9:.1f} GFLOP per window"
        print(f"  {work}; {each}")  # noqa: T201
    total = ", ".join(f"{value:,.0f} h of one {gpu}" for gpu, value in hours.items())
    print(  # noqa: T201
        f"\n{len(runs)} runs, {len(stages)} stages. Training: {total} at {UTILIZATION:.0%} of its "
        "bf16 peak (assumed), data loading and simulation not counted."
    )
    for source in sorted(missing):
        print(f"Missing: {source} (put your own in place of DIR, COMMIT, CAMERA)")  # noqa: T201
    made = {"runs": len(runs), "stages": len(stages), "gpu_hours": hours}
    return Outcome(made | {"missing": sorted(missing)})


def report(args: ExperimentArgs) -> Outcome:
    """Make the report from the tables in the output folder."""
    published = read_published(args)
    table = read_tables(args.output_dir)
    path = write_report(table, args.output_dir, args.title, args.reference, published)
    made = {"output_dir": args.output_dir, "report": str(path), "episodes": len(table)}
    return Outcome(made, f"{path.read_text()}\nReported: {path}")


def save_table(runs: list[Run], args: ExperimentArgs) -> None:
    """Write the episodes of the runs that are done, and the plan beside them."""
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.yaml").write_text(yaml.safe_dump(as_flags(args), sort_keys=False))
    table = episode_table(runs)
    if len(table):
        table.to_parquet(folder / "episodes.parquet", index=False)


def main(args: ExperimentArgs) -> Outcome:
    """Run what is missing, then write table and report."""
    executor, runs = args.make_executor(), read_plan(args).runs()
    read_published(args)
    if not args.report_only:
        check(runs, args.reference, executor.kind == "local" and not args.dry_run)
    if args.dry_run:
        return dry_run(runs)
    try:
        if not args.report_only:
            run_stages(runs, RECIPES, executor)
    finally:  # Interrupted or failed: what is done is in the table.
        save_table(runs, args)
    return report(args)


if __name__ == "__main__":
    run_command(main, ExperimentArgs)
