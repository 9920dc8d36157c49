# SPDX-License-Identifier: Apache-2.0
"""Milliseconds from an observation to an action, by `select_action` in LeRobot.

    python benchmarks/latency.py [--steps 100] [--threads 1 2]

One JSON line per policy, number of threads and use of the chunk: a new chunk at each step, or one
for every 10 steps. Two views of 128 px and 8 numbers of state, as in LIBERO; random weights. ACT is
LeRobot's own, with its default sizes, beside ours with theirs.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.factory import get_policy_class

from lawm_hf.lerobot import LeRobotLAWMConfig

VIEWS = ("observation.images.image", "observation.images.image2")


def features(side: int) -> dict[str, Any]:
    """Inputs and outputs of a LIBERO-like robot."""
    views = {key: PolicyFeature(FeatureType.VISUAL, (3, side, side)) for key in VIEWS}
    return {
        "device": "cpu",
        "input_features": {**views, "observation.state": PolicyFeature(FeatureType.STATE, (8,))},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (7,))},
    }


def make(name: str, n_action_steps: int) -> tuple[Any, int]:
    """A policy, and the side of its pictures."""
    if name == "act":
        # LeRobot re-plans at each step only when it aggregates chunks.
        config = ACTConfig(
            **features(128),
            chunk_size=10,
            n_action_steps=n_action_steps,
            temporal_ensemble_coeff=0.01 if n_action_steps == 1 else None,
            pretrained_backbone_weights=None,
        )
        return get_policy_class("act")(config).eval(), 128
    kind, _, preset = name.partition("-")
    side = 64 if preset == "tabletop" else 128
    config = LeRobotLAWMConfig(
        **features(side), policy_type=kind, policy_preset=preset, n_action_steps=n_action_steps
    )
    ones = {"min": -np.ones(8), "max": np.ones(8)}
    stats = {"observation.state": ones, "action": {k: v[:7] for k, v in ones.items()}}
    return get_policy_class("lawm")(config, dataset_stats=stats).eval(), side


@torch.inference_mode()
def measure(name: str, n_action_steps: int, threads: int, steps: int) -> dict[str, Any]:
    """Latencies over an episode, without its first steps."""
    torch.set_num_threads(threads)
    policy, side = make(name, n_action_steps)
    policy.reset()
    times = []
    for _ in range(steps + 10):
        batch: dict[str, Any] = {key: torch.rand(1, 3, side, side) for key in VIEWS}
        batch |= {"observation.state": torch.zeros(1, 8), "task": ["pick up the milk"]}
        start = time.perf_counter()
        policy.select_action(batch)
        times.append(1e3 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times[10:], [50, 95])
    return {
        "policy": name,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "n_action_steps": n_action_steps,
        "threads": threads,
        "p50_ms": round(p50, 2),
        "p95_ms": round(p95, 2),
    }


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    for threads in args.threads:
        for name in ("act", "baku-default", "baku-tabletop", "diffusion-default"):
            for n_action_steps in (1, 10):
                print(json.dumps(measure(name, n_action_steps, threads, args.steps)), flush=True)


if __name__ == "__main__":
    main()
