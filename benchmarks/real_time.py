# SPDX-License-Identifier: Apache-2.0
"""A finetuned policy at the pace of a robot; called by `latency.py --robot`."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lawm_hf.lerobot.modeling_lawm import LeRobotLAWMPolicy
from lawm_hf.lerobot.robot_tabletop import STATE_KEYS, TabletopRobot, TabletopRobotConfig

TASK = "go to the red cube"


def drive(folder: Path, form: str, fps: float, seconds: float) -> dict[str, Any]:
    """Run the loop of `lerobot-rollout --fps`: observe, decide, act, wait for the next tick.

    The simulation advances by one control step with each action, however late that is: being late
    costs no success here, as it would on an arm.

    Args:
        folder: The policy, for the tabletop's `reach`.
        form: `eager` or `compiled`.
        fps: Steps a second.
        seconds: How long.
    """
    policy: Any = LeRobotLAWMPolicy.from_pretrained(folder)
    if form == "compiled":
        policy.lawm = policy.lawm.compile_for_inference()
    size = policy.lawm.config.image_size
    robot = TabletopRobot(TabletopRobotConfig(id="real_time", task=TASK, image_size=size))
    robot.connect()
    whole, thinking, cpu = [], [], []
    period = 1 / fps
    for step in range(-10, int(seconds * fps)):  # the first ones warm up
        tick, cpu_tick = time.perf_counter(), time.process_time()
        seen = robot.get_observation()
        batch: dict[str, Any] = {
            f"observation.images.{view}": torch.from_numpy(seen[view].copy())
            .permute(2, 0, 1)[None]
            .float()
            / 255
            for view in robot.cameras
        }
        state = torch.tensor([[seen[key] for key in STATE_KEYS]])
        start = time.perf_counter()
        action = policy.select_action({**batch, "observation.state": state, "task": [TASK]})[0]
        thought = time.perf_counter() - start
        robot.send_action(dict(zip(robot.action_features, action.tolist(), strict=True)))
        took, cpu_took = time.perf_counter() - tick, time.process_time() - cpu_tick
        time.sleep(max(0.0, period - took))
        if step >= 0:
            whole.append(1e3 * took)
            thinking.append(1e3 * thought)
            cpu.append(1e3 * cpu_took)
    robot.disconnect()
    quantiles = {
        name: dict(zip(("p50", "p95", "p99"), np.percentile(v, [50, 95, 99]).round(2), strict=True))
        for name, v in (("step_ms", whole), ("policy_ms", thinking), ("step_cpu_ms", cpu))
    }
    return {
        "robot": "lawm_tabletop",
        "form": form,
        "fps": fps,
        "steps": len(whole),
        "in_time": round(float(np.mean(np.array(whole) <= 1e3 * period)), 4),
        "policy_in_time": round(float(np.mean(np.array(thinking) <= 1e3 * period)), 4),
        "episodes": len(robot.results),
        "successes": sum(result["is_success"] for result in robot.results),
        **quantiles,
    }
