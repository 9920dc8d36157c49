# SPDX-License-Identifier: Apache-2.0
"""Does int8 pay? Success on the tabletop, latency and size of an exported policy, quantised.

    python benchmarks/int8.py outputs/finetune [--suite reach] [--episodes 200]

By onnxruntime's own quantiser: `dynamic` has int8 weights of the linear layers, `dynamic_all` those
of the convolutions too, `static` and `static_conv` int8 activations as well (ranges from 8 episodes
of other seeds), of everything or of the convolutions alone. One JSON line each.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import conditions, order, report
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from lawm_hf.evaluation.environments import ask_environment
from lawm_hf.evaluation.results import Trial
from lawm_hf.evaluation.rollout import rollout
from lawm_hf.hub.onnx_export import export_onnx
from lawm_hf.models import LAWMPolicy, LAWMProcessor

Batch = dict[str, np.ndarray]


class OnnxPolicy:
    """As much of a policy as `rollout` needs; remembers what it has seen."""

    def __init__(self, path: Path, policy: LAWMPolicy, processor: LAWMProcessor):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = onnxruntime.InferenceSession(path, options)
        self.config, self.device, self.name_or_path = policy.config, policy.device, str(path)
        self.seen: list[Batch] = []
        size = policy.config.action_size
        ends = [processor.unnormalize_actions(torch.full((size,), x)).numpy() for x in (0.0, 1.0)]
        self.offset, self.scale = ends[0], np.where(ends[0] == ends[1], 1, ends[1] - ends[0])

    def eval(self) -> None:
        """There is no other mode."""

    def named_parameters(self) -> list[Any]:
        """None that torch knows of."""
        return []

    def predict_action_chunk(self, **batch: torch.Tensor) -> torch.Tensor:
        """See `LAWMPolicy`; the file's actions are in the robot's units, these in [-1, 1]."""
        self.seen.append({name: value.numpy() for name, value in batch.items()})
        actions = self.session.run(["actions"], self.seen[-1])[0]
        return torch.from_numpy((actions - self.offset) / self.scale)


class Replay(CalibrationDataReader):
    """Observations from which the ranges of activations come."""

    def __init__(self, seen: list[Batch]):
        self.batches: Iterator[Batch] = iter(seen)

    def get_next(self) -> Batch | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next one, or None at the end."""
        return next(self.batches, None)


def main() -> None:
    """Export, quantise, time and play."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--suite", default="reach")
    parser.add_argument("--episodes", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy, processor = (c.from_pretrained(args.policy) for c in (LAWMPolicy, LAWMProcessor))
    env = ask_environment("tabletop", policy.config, {"suite": args.suite}, [])
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            name: Path(folder, f"{name}.onnx")
            for name in ("fp32", "prepared", "dynamic", "dynamic_all", "static", "static_conv")
        }
        export_onnx(args.policy, paths["fp32"])
        quant_pre_process(paths["fp32"], paths["prepared"], skip_symbolic_shape=True)

        def play(player: OnnxPolicy, seeds: range, lockstep: int) -> list[bool]:
            trials = [Trial(seed, env.suite, None, None) for seed in seeds]
            played: Any = player
            make = partial(env.make, None)
            results = rollout(played, processor, make, trials, env.views, lockstep=lockstep)
            return [result.is_success for result in results]

        first = OnnxPolicy(paths["fp32"], policy, processor)
        play(first, range(5000, 5008), lockstep=1)
        source, seen = paths.pop("prepared"), first.seen
        quantize_dynamic(source, paths["dynamic"], op_types_to_quantize=["MatMul", "Gemm"])
        # onnxruntime has no dynamic convolution with signed weights.
        quantize_dynamic(source, paths["dynamic_all"], weight_type=QuantType.QUInt8)
        for name, types in (("static", None), ("static_conv", ["Conv"])):
            options: Any = {"activation_type": QuantType.QUInt8, "op_types_to_quantize": types}
            quantize_static(source, paths[name], Replay(seen[::4]), per_channel=True, **options)
        players = {name: OnnxPolicy(path, policy, processor) for name, path in paths.items()}
        cpu_ms = time_in_turns(players, seen[0])
        for name, player in players.items():
            line = {"form": name, "bytes": paths[name].stat().st_size, "cpu_ms": cpu_ms[name]}
            wins = play(player, range(args.episodes), lockstep=50)
            line |= {"episodes": len(wins), "successes": sum(wins)}
            report(**line | conditions("onnxruntime"))


def time_in_turns(players: dict[str, OnnxPolicy], batch: Batch) -> dict[str, float]:
    """Median CPU milliseconds of one call, batch 1, without the processor."""
    times: dict[str, list[float]] = {name: [] for name in players}
    for index in range(20):
        for name in order(players, index):
            start = time.process_time()
            for _ in range(50):
                players[name].session.run(None, batch)
            times[name].append(20 * (time.process_time() - start))
    return {name: round(float(np.median(values)), 3) for name, values in times.items()}


if __name__ == "__main__":
    main()
