# SPDX-License-Identifier: Apache-2.0
"""Success rate of a finetuned policy in simulation, with its 95 % interval.

    accelerate launch recipes/evaluate.py --policy outputs/finetune --suite reach
    accelerate launch recipes/evaluate.py --policy user/lawm-place --suite place4 --episodes 200
    accelerate launch recipes/evaluate.py --env libero --suite libero_object --tasks 0 1 --trials 10

Writes `episodes.jsonl`, a line as each episode ends, and `summary.json` below `output_dir`, and
with `--videos 4` mp4 files of the first failures; the card of a local policy gets the rate, too.
Several processes share the episodes. `--resume true` goes on with what was interrupted.
"""

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import gymnasium
from tqdm import tqdm

import lawm_hf.envs  # noqa: F401  (registers the environments)
from lawm_hf import results
from lawm_hf.arguments import CommandArgs, arg, import_recorded, run_command
from lawm_hf.envs.libero import num_tasks, prepare_libero
from lawm_hf.evaluation.results import EpisodeResult, FailureVideos, Trial
from lawm_hf.evaluation.rollout import fingerprint, rollout
from lawm_hf.hub import add_results
from lawm_hf.models import LAWMPolicy, LAWMProcessor
from lawm_hf.training import TrainingArgs, make_accelerator


@dataclass
class EvaluateArgs(CommandArgs):
    """Arguments of `recipes/evaluate.py`."""

    policy: str = arg("outputs/finetune", "folder or Hub repository of a finetuned policy")
    output_dir: str = arg("outputs/evaluate", "where results go")
    env: str = arg("tabletop", "tabletop or libero")
    suite: str = arg("", "reach (default), place2, place4; or libero_object (default) and so on")
    episodes: int = arg(200, "tabletop: episodes, one initial state each", min=1)
    first_seed: int = arg(0, "tabletop: first initial state; recorded data start at 100000", min=0)
    tasks: list[int] = arg([], "LIBERO: tasks of the suite; all by default", min=0)
    trials: int = arg(10, "LIBERO: initial states of each task; there are 50", min=1)
    first_init_state: int = arg(0, "LIBERO: the first of them", min=0)
    seeds: list[int] = arg(
        [0], "LIBERO: each trial once with each; noise of a policy that has some", min=0
    )
    image_size: int = arg(128, "LIBERO: size to render, that of the training data", min=8)
    fast_rendering: bool = arg(False, "LIBERO: thinner meshes; only if the data had them")
    views: list[str] = arg([], "cameras, in the order of training; all by default")
    aggregation: str = arg(
        "none", "of overlapping chunks", choices=("none", "uniform", "exponential")
    )
    n_action_steps: int = arg(1, "steps between two calls of the policy", min=1)
    lockstep: int = arg(50, "tabletop: episodes played at once", min=1)
    videos: int = arg(0, "videos of failures to write", min=0)
    resume: bool = arg(False, "keep the episodes in output_dir and play the missing ones")


def plan(args: EvaluateArgs) -> list[Trial]:
    """All episodes, task by task."""
    if args.env == "tabletop":
        return [Trial(args.first_seed + i, args.suite) for i in range(args.episodes)]
    prepare_libero()
    states = range(args.first_init_state, args.first_init_state + args.trials)
    return [
        Trial(seed, args.suite, task, state)
        for task in args.tasks or range(num_tasks(args.suite))
        for seed in args.seeds
        for state in states
    ]


def make_env(args: EvaluateArgs, task: int | None, image_size: int) -> gymnasium.Env:
    """The environment of one task."""
    if args.env == "tabletop":
        return gymnasium.make("lawm_hf/Tabletop-v0", suite=args.suite, image_size=image_size)
    options = {"image_size": args.image_size, "fast_rendering": args.fast_rendering}
    return gymnasium.make("lawm_hf/Libero-v0", suite=args.suite, task=task, **options)


def evaluate(
    args: EvaluateArgs,
    policy: LAWMPolicy,
    processor: LAWMProcessor,
    trials: list[Trial],
    num_videos: int,
) -> None:
    """Play these trials, one task after the other, writing each result at once."""
    videos = FailureVideos(Path(args.output_dir, "videos"), num_videos, fps=20)
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
                policy,
                processor,
                partial(make_env, args, task, policy.config.image_size),
                list(group),
                views=args.views,
                aggregation=args.aggregation,
                n_action_steps=args.n_action_steps,
                # A second render context of LIBERO beside the first fails.
                lockstep=args.lockstep if args.env == "tabletop" else 1,
                on_step=videos.add_frame,
                on_end=end,
            )


def main(args: EvaluateArgs) -> None:
    """Play the episodes that are missing and report."""
    if args.env not in ("tabletop", "libero"):
        raise ValueError(f'`env` must be "tabletop" or "libero", got {args.env!r}.')
    tabletop = args.env == "tabletop"
    args.suite = args.suite or ("reach" if tabletop else "libero_object")
    args.views = args.views or (["front", "wrist"] if tabletop else ["image", "image2"])
    accelerator = make_accelerator(TrainingArgs(output_dir=args.output_dir))
    rank, world_size = accelerator.process_index, accelerator.num_processes
    import_recorded(args.policy)
    policy = LAWMPolicy.from_pretrained(args.policy).to(accelerator.device)
    processor = LAWMProcessor.from_pretrained(args.policy)
    with accelerator.main_process_first():  # It writes LIBERO's configuration.
        trials = plan(args)
    if accelerator.is_main_process:
        names = ("env", "image_size", "fast_rendering", "views", "aggregation", "n_action_steps")
        settings = {name: getattr(args, name) for name in names}
        settings["policy_fingerprint"] = fingerprint(policy, processor)
        results.start_results(args.output_dir, settings, args.resume)
    accelerator.wait_for_everyone()
    done = {result.trial for result in results.read_results(args.output_dir)}
    accelerator.wait_for_everyone()  # Nobody writes before all have read.
    mine = [trial for trial in trials if trial not in done][rank::world_size]
    num_videos = args.videos // world_size + (rank < args.videos % world_size)
    evaluate(args, policy, processor, mine, num_videos)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        order = {trial: index for index, trial in enumerate(trials)}
        episodes = results.read_results(args.output_dir)
        episodes.sort(key=lambda result: order.get(result.trial, len(order)))
        summary = results.write_results(episodes, args.output_dir)
        print(results.describe(args.suite, summary))  # noqa: T201
        libero = ("tasks", "trials", "first_init_state", "seeds", "fast_rendering")
        names = ("aggregation", "n_action_steps", *(("first_seed",) if tabletop else libero))
        settings = {name: getattr(args, name) for name in names}
        add_results(args.policy, summary, args.env, args.suite, settings)


if __name__ == "__main__":
    run_command(main, EvaluateArgs)
