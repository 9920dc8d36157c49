# SPDX-License-Identifier: Apache-2.0
"""Success rate of a finetuned policy in simulation, with its 95 % interval.

    accelerate launch recipes/evaluate.py --policy outputs/finetune --suite reach
    accelerate launch recipes/evaluate.py --policy user/lawm-place --suite place4 --episodes 200
    accelerate launch recipes/evaluate.py --env libero --suite libero_10 --task_ids 0 1 --trials 10
    accelerate launch recipes/evaluate.py --import my_package --env my/Kitchen-v0 --episodes 50

Writes `episodes.jsonl`, a line as each episode ends, and `summary.json` below `output_dir`, and
with `--videos 4` mp4 files of the first failures; the card of a local policy gets the rate, too.
`--tune_execution true` first finds out how the policy's chunks are best executed, on initial states
that are not evaluated, and saves that in its folder (`lawm_hf.evaluation.execution`).
Several processes share the episodes: of `accelerate launch`, or `--tasks 8` of `--executor local`,
`slurm` or `ray`. `--resume true` continues what was interrupted. What an environment must have
is said in `lawm_hf.evaluation.environments`.
"""

import importlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import lawm_hf  # noqa: F401  before torch, which reads how threads are to wait

# isort: split

from accelerate import Accelerator
from tqdm import tqdm

from lawm_hf.arguments import (
    Outcome,
    parse_json_options,
    run_command,
)
from lawm_hf.commands.evaluate import EvaluateArgs
from lawm_hf.evaluation import results
from lawm_hf.evaluation.environments import Environment, ask_environment, keep_simulator
from lawm_hf.evaluation.execution import (
    Execution,
    candidates,
    check_tunable,
    describe_execution,
    learn_execution,
    learned_execution,
    save_execution,
)
from lawm_hf.evaluation.results import EpisodeResult, FailureVideos, Trial
from lawm_hf.evaluation.rollout import ChunkAggregator, fingerprint, rollout
from lawm_hf.evaluation.trials import (
    benchmark_trials,
    check_apart,
    describe_record,
    seeded_trials,
    tuning_trials,
)
from lawm_hf.hub import add_results
from lawm_hf.models import LAWMPolicy, LAWMProcessor
from lawm_hf.plugins import import_packages, import_recorded
from lawm_hf.training import TrainingArgs, make_accelerator
from lawm_hf.writing.atomic import is_hub_copy, unlock_folder
from lawm_hf.writing.executors import Task


def env_options(args: EvaluateArgs) -> dict[str, Any]:
    """What the constructor of the environment is given."""
    flags = {name: getattr(args, name) for name in ("suite", "image_size", "fast_rendering")}
    told = {name: value for name, value in flags.items() if value}
    return told | parse_json_options(args.env_options, "env_options")


def plan(args: EvaluateArgs, env: Environment) -> list[Trial]:
    """All episodes, task by task."""
    if env.num_init_states is None:
        count = args.episodes if env.num_tasks is None else args.trials
        trials = seeded_trials(env, args.task_ids, args.first_seed, count)
    else:
        starts = args.first_init_state, args.trials, args.seeds
        trials = benchmark_trials(env, args.task_ids, *starts)
    if not trials:
        raise ValueError("An evaluation must play an episode. Give `--episodes` or `--trials`.")
    return trials


class Opened(NamedTuple):
    """What the flags name: the policy, on its device, and what it meets."""

    policy: LAWMPolicy
    processor: LAWMProcessor
    policy_fingerprint: str
    env: Environment
    accelerator: Accelerator


def evaluate(args: EvaluateArgs, opened: Opened, trials: Sequence[Trial], num_videos: int) -> None:
    """Play these trials, one task after the other, writing each result at once."""
    env = opened.env
    videos = FailureVideos(Path(args.output_dir, "videos"), num_videos, env.fps)
    with tqdm(total=len(trials), desc="episodes", smoothing=0) as bar:
        successes = []

        def end(result: EpisodeResult) -> None:
            results.append_result(result, args.output_dir)
            videos.end_episode(result)
            successes.append(result.is_success)
            bar.set_postfix_str(f"success {sum(successes) / len(successes):.1%}", refresh=False)
            bar.update()

        for task, group in groupby(trials, key=lambda trial: trial.task_index):
            rollout(
                opened.policy,
                opened.processor,
                partial(env.make, task),
                list(group),
                views=env.views,
                aggregation=args.aggregation,
                n_action_steps=args.n_action_steps,
                lockstep=min(args.lockstep, env.max_alive or args.lockstep),
                on_step=videos.add_frame if num_videos else None,
                on_end=end,
            )


def start(args: EvaluateArgs, opened: Opened) -> None:
    """Prepare the results, for one evaluation at a time."""
    env = opened.env
    settings = {k: v for k, v in env.options.items() if k != "suite"}
    settings |= {"env": args.env, "image_size": env.image_size, "views": env.views}
    settings |= {name: getattr(args, name) for name in ("aggregation", "n_action_steps")}
    settings["policy_fingerprint"] = opened.policy_fingerprint
    unlock_folder(args.output_dir)  # The accelerator's lock becomes that of the results.
    results.start_results(args.output_dir, settings, args.resume)


def report(
    args: EvaluateArgs, env: Environment, trials: list[Trial], record: dict[str, Any]
) -> Outcome:
    """Write and print the summary, and bring it to the policy's card.

    Args:
        args: Flags.
        env: Where it was played.
        trials: All of them.
        record: See `learned_execution`.
    """
    order = {trial: index for index, trial in enumerate(trials)}
    episodes = results.read_results(args.output_dir)
    episodes.sort(key=lambda result: order.get(result.trial, len(order)))
    summary = results.write_results(episodes, args.output_dir)
    names = ["aggregation", "n_action_steps"]
    names += [] if env.num_tasks is None else ["task_ids", "trials"]
    names += ["first_seed"] if env.num_init_states is None else ["first_init_state", "seeds"]
    settings = {name: getattr(args, name) for name in names}
    settings |= {k: v for k, v in env_options(args).items() if k not in ("suite", "image_size")}
    if record:
        settings["execution"] = describe_record(record, env)
    add_results(args.policy, summary, args.env, env.suite, settings)
    text = results.describe(env.suite or args.env, summary)
    is_own = Path(args.policy).is_dir() and not is_hub_copy(args.policy)
    following = [["push", args.policy, "USER/NAME"]] if is_own else []
    told = {name: getattr(args, name) for name in ("output_dir", "aggregation", "n_action_steps")}
    return Outcome(told | summary, text, following)


def open_all(args: EvaluateArgs) -> Opened:
    """Open what the flags name; the policy says how it is executed, if they do not."""
    import_recorded(args.policy)
    accelerator = make_accelerator(TrainingArgs(output_dir=args.output_dir), trains=False)
    policy = LAWMPolicy.from_pretrained(args.policy).to(accelerator.device)
    processor = LAWMProcessor.from_pretrained(args.policy)
    if args.aggregation is None:
        args.aggregation = policy.config.aggregation
    if args.n_action_steps is None:
        args.n_action_steps = policy.config.n_action_steps
    ChunkAggregator(args.aggregation, args.n_action_steps).check(policy.config.chunk_size)
    with accelerator.main_process_first():  # It writes LIBERO's configuration.
        env = ask_environment(args.env, policy.config, env_options(args), args.views)
    return Opened(policy, processor, fingerprint(policy, processor), env, accelerator)


def play_share(options: dict[str, Any], trials: Sequence[Trial], num_videos: int) -> None:
    """One task of `--tasks`: an evaluation of some trials, with a folder of its own."""
    args = EvaluateArgs(**options)
    import_packages(args.import_)
    opened = open_all(args)
    try:
        start(args, opened)
        missing = results.missing_trials(trials, args.output_dir)
        evaluate(args, opened, missing, num_videos)
    finally:
        unlock_folder(args.output_dir)


def is_shared_out(args: EvaluateArgs) -> bool:
    """Whether tasks play, and not this process."""
    return args.executor != "local" or args.tasks > 1


def share_out(args: EvaluateArgs, trials: list[Trial]) -> None:
    """Play the trials in shares, each a task."""
    # By its name in the package: other processes do not know this file as `__main__`.
    play = importlib.import_module("lawm_hf.recipes.evaluate").play_share
    shares, count = Path(args.output_dir, "shares"), min(args.tasks, len(trials))
    tasks = []
    for i in range(count):
        options = vars(args) | {"output_dir": str(shares / f"{i:04d}"), "resume": True}
        num_videos = args.videos // count + (i < args.videos % count)
        tasks.append(Task(f"{i:04d}", partial(play, options, trials[i::count], num_videos)))
    args.make_executor().run([tasks], shares)


def play(args: EvaluateArgs, opened: Opened, trials: list[Trial]) -> None:
    """Play those that are missing in `output_dir`: this process, several, or tasks."""
    accelerator = opened.accelerator
    rank, world_size = accelerator.process_index, accelerator.num_processes
    if accelerator.is_main_process:
        start(args, opened)
        results.gather_shares(args.output_dir, keep=args.resume)
    accelerator.wait_for_everyone()
    missing = results.missing_trials(trials, args.output_dir)
    accelerator.wait_for_everyone()  # Nobody writes before all have read.
    if missing and is_shared_out(args):
        share_out(args, missing)
        results.gather_shares(args.output_dir)
    else:
        num_videos = args.videos // world_size + (rank < args.videos % world_size)
        evaluate(args, opened, missing[rank::world_size], num_videos)
    accelerator.wait_for_everyone()


def tune(args: EvaluateArgs, opened: Opened, states: list[Trial]) -> Execution:
    """Learn the execution on tuning states, whose episodes `output_dir/tuning` keeps; save it."""
    env, accelerator = opened.env, opened.accelerator
    folder = Path(args.output_dir, "tuning")
    if accelerator.is_main_process and not args.resume:
        shutil.rmtree(folder, ignore_errors=True)
    accelerator.wait_for_everyone()

    def try_out(execution: Execution, trials: list[Trial]) -> list[bool]:
        told = {"output_dir": str(folder / str(execution)), "resume": True, "videos": 0}
        own = replace(args, **asdict(execution), **told)
        try:
            play(own, opened, trials)
            found = {r.trial: r.is_success for r in results.read_results(own.output_dir)}
            accelerator.wait_for_everyone()  # All have read before one goes on.
        finally:
            unlock_folder(own.output_dir)
        return [found[trial] for trial in trials]

    tried, in_tasks = candidates(opened.policy.config.chunk_size), is_shared_out(args)
    chosen, solved = learn_execution(tried, states, try_out, at_once=in_tasks)
    if accelerator.is_main_process:
        told = {"env": env.id, "suite": env.suite, "env_options": env.options}
        told |= {"policy_fingerprint": opened.policy_fingerprint}
        told |= {"states": [{k: v for k, v in asdict(s).items() if k != "suite"} for s in states]}
        save_execution(args.policy, chosen, solved, told)
        accelerator.print(describe_execution(chosen, solved))
    return chosen


def main(args: EvaluateArgs) -> Outcome | None:
    """Play the episodes that are missing and report."""
    executor = args.make_executor()
    if args.tune_execution:
        check_tunable(args.policy, args.aggregation, args.n_action_steps)
    opened = open_all(args)
    env, accelerator = opened.env, opened.accelerator
    if is_shared_out(args) and accelerator.num_processes > 1:
        raise ValueError(
            f"Episodes are shared by processes of `accelerate launch` or by `--tasks`, got "
            f"{accelerator.num_processes} processes and {executor.tasks} tasks on "
            f"{executor.kind!r}. Start it with `python`."
        )
    trials = plan(args, env)
    if args.tune_execution and opened.policy.config.chunk_size == 1:
        accelerator.print("Nothing to tune: a chunk of one action is executed in one way only.")
        args = replace(args, tune_execution=False)
    try:
        if args.tune_execution:
            states = tuning_trials(env, trials, args.tuning_episodes, args.first_tuning_state)
            with keep_simulator(env) as kept:
                chosen = tune(args, opened._replace(env=kept), states)
            args = replace(args, **asdict(chosen))
        told = asdict(Execution(args.aggregation, args.n_action_steps))
        told |= {"policy_fingerprint": opened.policy_fingerprint}
        record = learned_execution(args.policy, told)
        if not args.tune_execution:
            check_apart(record, env, trials)
        play(args, opened, trials)
        return report(args, env, trials, record) if accelerator.is_main_process else None
    finally:
        unlock_folder(args.output_dir)


if __name__ == "__main__":
    run_command(main, EvaluateArgs)
