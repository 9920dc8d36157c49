# SPDX-License-Identifier: Apache-2.0
"""Success rate of a finetuned policy on the tabletop, with its 95 % interval.

    accelerate launch recipes/evaluate.py --policy outputs/finetune --suite reach
    accelerate launch recipes/evaluate.py --policy user/lawm-place --suite place4 --episodes 200

Writes `episodes.jsonl` and `summary.json` below `output_dir`, and with `--videos 4` strips of the
first episodes. Several processes share the episodes.
"""

from dataclasses import dataclass
from pathlib import Path

import gymnasium
from accelerate.utils import gather_object

import lawm_hf.envs  # noqa: F401  (registers the environment)
from lawm_hf.arguments import arg, parse_args
from lawm_hf.evaluation import rollout, summarize, write_results
from lawm_hf.models import LAWMPolicy, LAWMProcessor
from lawm_hf.training import TrainingArgs, make_accelerator


@dataclass
class EvaluateArgs:
    """Arguments of `recipes/evaluate.py`."""

    policy: str = arg("outputs/finetune", "folder or Hub repository of a finetuned policy")
    output_dir: str = arg("outputs/evaluate", "where results go")
    suite: str = arg("reach", "reach, place2 or place4")
    episodes: int = arg(200, "episodes, one initial state each")
    first_seed: int = arg(0, "seed of the first initial state; recorded data start at 100000")
    views: list[str] = arg(["front", "wrist"], "cameras, in the order of training")
    aggregation: str = arg("uniform", "uniform, exponential or none: of overlapping chunks")
    n_action_steps: int = arg(1, "steps between two calls of the policy")
    lockstep: int = arg(50, "episodes played at once")


def main(args: EvaluateArgs) -> None:
    """Play the episodes and report."""
    accelerator = make_accelerator(TrainingArgs(output_dir=args.output_dir))
    policy = LAWMPolicy.from_pretrained(args.policy).to(accelerator.device)
    processor = LAWMProcessor.from_pretrained(args.policy)
    seeds = range(args.first_seed, args.first_seed + args.episodes)
    results = rollout(
        policy,
        processor,
        lambda: gymnasium.make(
            "lawm_hf/Tabletop-v0", suite=args.suite, image_size=policy.config.image_size
        ),
        seeds[accelerator.process_index :: accelerator.num_processes],
        views=args.views,
        aggregation=args.aggregation,
        n_action_steps=args.n_action_steps,
        lockstep=args.lockstep,
    )
    results = sorted(gather_object(results), key=lambda r: r.seed)
    if accelerator.is_main_process:
        write_results(results, Path(args.output_dir))
        summary = summarize(results)
        low, high = summary["interval_95"]
        print(  # noqa: T201
            f"{args.suite}: {summary['success_rate']:.1%} of {summary['episodes']} episodes "
            f"(95 % interval {low:.1%} to {high:.1%})"
        )


if __name__ == "__main__":
    main(parse_args(EvaluateArgs))
