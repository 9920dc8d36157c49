# SPDX-License-Identifier: Apache-2.0
"""What one GPU does with joint pretraining, in about ten minutes; prints one JSON document.

    python benchmarks/gpu.py > gpu.json               # on a machine with a GPU
    python benchmarks/gpu.py --render gpu.json        # the tables of docs/performance.md
    python benchmarks/gpu.py --expect                 # the same from operations and bytes alone
    python benchmarks/gpu.py --device cpu --presets tiny --batch_size 4 --rounds 2 --skip_run

BAKU at its default sizes with a world model of each preset, chunks of 10, 128 pixels, on noise:
milliseconds of an update (forward, backward, clipping, AdamW), share of the GPU's dense bf16 peak,
peak memory; in float32 with TF32, in bf16, and in bf16 compiled. Then what the loader brings beside
it, and the README's first command with its health.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from common import conditions
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lawm_hf import (
    BakuConfig,
    BakuPolicy,
    DreamerV3Config,
    DreamerV3WorldModel,
    LAWMForPretraining,
)
from lawm_hf.data import WindowSpec, make_loader
from lawm_hf.experiments.cost import TrainingCost, pretraining_batch, training_cost
from lawm_hf.training.throughput import peak_flops

ROOT = Path(__file__).parents[1]
MODES = ("fp32", "bf16", "bf16, compiled")
# H100 SXM by NVIDIA's data sheet; the shares are assumptions, of which nothing was measured.
PEAK, BANDWIDTH, SHARE_OF_PEAK, SHARE_OF_BANDWIDTH = peak_flops("H100") or 0.0, 3.35e12, 0.4, 0.7
# Weights, gradients and AdamW's two moments read, and all but the gradients written, in float32.
BYTES_PER_PARAMETER = 28
LAUNCH = 6e-6  # seconds of Python and driver for each operator that is not compiled: an assumption


def build(preset: str) -> LAWMForPretraining:
    """BAKU and a world model of a preset that decodes every step, freshly initialised."""
    config = DreamerV3Config.from_preset(preset, num_decoded_steps=None)
    world_model = DreamerV3WorldModel(config)
    return LAWMForPretraining(BakuPolicy(BakuConfig(latent_norm="batch")), world_model).train()


class Calls(TorchDispatchMode):
    """Counts operators but for views: on a GPU each launches a kernel or more."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count, and go on."""
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def count(preset: str) -> tuple[TrainingCost, int]:
    """Parameters, operations and operator calls, counted without memory or arithmetic."""
    with FakeTensorMode():
        model = build(preset)
        batch = pretraining_batch(model)
        cost = training_cost(model, batch, batch_size=1, updates=1)
        with Calls() as calls:
            model(**batch).loss.backward()
    return cost, calls.number


def noise(model: LAWMForPretraining, batch_size: int, device: str) -> dict[str, Tensor]:
    """A batch of noise on the device."""
    batch = pretraining_batch(model)
    repeats = -(-batch_size // len(batch["frames"]))
    return {
        k: v.repeat(repeats, *[1] * (v.dim() - 1))[:batch_size].to(device) for k, v in batch.items()
    }


def measure_update(preset: str, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time updates of one preset in one mode."""
    torch.manual_seed(0)
    is_cuda = args.device == "cuda"
    flops, model = count(preset)[0].flops_per_window, build(preset).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = noise(model, args.batch_size, args.device)
    step = torch.compile(model) if "compiled" in mode else model
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    started = time.perf_counter()
    for _ in range(3 + args.rounds):
        began = time.perf_counter()
        autocast = torch.autocast(args.device, torch.bfloat16) if "bf16" in mode else nullcontext()
        with autocast:
            loss = step(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        optimizer.zero_grad()
        if is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[3:])
    peak = peak_flops(torch.cuda.get_device_name()) if is_cuda else None
    return {
        "preset": preset,
        "mode": mode,
        "batch_size": args.batch_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_per_window": flops,
        "ms": round(1e3 * median, 2),
        "ms_range": [round(1e3 * s, 2) for s in (min(seconds[3:]), max(seconds[3:]))],
        "first_three_s": round(sum(seconds[:3]), 1),
        "windows_per_s": round(args.batch_size / median, 1),
        "mfu": peak and round(flops * args.batch_size / median / peak, 3),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if is_cuda else None,
        "total_s": round(time.perf_counter() - started, 1),
    }


def measure_loader(num_workers: int, seconds: float = 20.0) -> dict[str, Any]:
    """Windows per second that worker processes bring from the tabletop's videos."""
    loader = make_loader(
        "tabletop:reach,episodes=256,actions=false,views=front",
        WindowSpec(chunk_size=10, image_size=128, with_frames=True),
        64,
        num_workers=num_workers,
    )
    batches = iter(loader)
    for _ in range(2 * num_workers + 1):
        next(batches)
    began, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        next(batches)
        count += 64
    return {"num_workers": num_workers, "windows_per_s": round(count / elapsed, 1)}


def run_readme(device: str) -> dict[str, Any]:
    """The README's first command: its time, and the health of its latents."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "recipes/pretrain.py"), "--output_dir", folder]
        environment = os.environ | ({"ACCELERATE_USE_CPU": "true"} if device == "cpu" else {})
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
        health = json.loads(Path(folder, "health.json").read_text())
        lines = Path(folder, "log.jsonl").read_text().splitlines()
        return {
            "seconds": round(time.perf_counter() - began, 1),
            "health": health,
            "last_line": json.loads(lines[-1]),
        }


def expect(preset: str, batch_size: int) -> list[dict[str, Any]]:
    """What an H100 should take, from operations, bytes and calls, and the assumptions above."""
    cost, calls = count(preset)
    parameters = sum(cost.parameters.values())
    compute = cost.flops_per_window * batch_size / (PEAK * SHARE_OF_PEAK)
    memory = BYTES_PER_PARAMETER * parameters / (BANDWIDTH * SHARE_OF_BANDWIDTH)
    seconds = {
        "bf16, eager": max(compute + memory, calls * LAUNCH),
        "bf16, no launches": compute + memory,
    }
    return [
        {
            "preset": preset,
            "mode": f"{mode}, expected",
            "batch_size": batch_size,
            "parameters": parameters,
            "ms": round(1e3 * second, 1),
            "windows_per_s": round(batch_size / second),
            "mfu": round(cost.flops_per_window * batch_size / second / PEAK, 2),
        }
        for mode, second in seconds.items()
    ]


def render(document: dict[str, Any]) -> str:
    """Tables in Markdown."""
    lines = [f"{document['machine']}, commit {document['commit']}, {document['date']}.", ""]
    keys = ("preset", "mode", "batch_size", "parameters", "ms", "windows_per_s", "mfu")
    keys += ("peak_memory_gb",)
    lines += [f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
    for row in document["updates"]:
        shown = (row.get(key) for key in keys)
        lines.append(f"| {' | '.join('' if v is None else str(v) for v in shown)} |")
    for row in document.get("loader", ()):
        lines.append(
            f"\nLoader, {row['num_workers']} workers: {row['windows_per_s']} windows per second."
        )
    if run := document.get("run"):
        health = run["health"]
        lines.append(
            f"\nREADME's first command: {run['seconds']} s; error {health['imagined_error']:.2f}, "
            f"under another clip's latents {health['imagined_error_swapped']:.2f}; alarms: "
            f"{'; '.join(health['alarms']) or 'none'}."
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, expect or render."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--presets", nargs="+", default=["12m", "50m", "200m"])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--skip_run", action="store_true", help="updates only")
    parser.add_argument("--expect", action="store_true")
    parser.add_argument("--render", type=Path)
    args = parser.parse_args()
    if args.render:
        return print(render(json.loads(args.render.read_text())))
    document = conditions("accelerate", "transformers")
    if args.expect:
        document["machine"] = "Expected of an H100, not measured"
        document["updates"] = [
            row for preset in args.presets for row in expect(preset, args.batch_size)
        ]
        return print(render(document))
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU is here. Pass --expect for what one should do, or --device cpu.")
    document["machine"] = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    torch.set_float32_matmul_precision("high")
    document["updates"] = []
    for preset in args.presets:
        for mode in args.modes:
            try:
                row = measure_update(preset, mode, args)
            except torch.cuda.OutOfMemoryError:
                row = {"preset": preset, "mode": mode, "error": "out of memory"}
                torch.cuda.empty_cache()
            document["updates"].append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    if not args.skip_run:
        counts = sorted({2, min(16, len(os.sched_getaffinity(0)))})
        document["loader"] = [measure_loader(count) for count in counts]
        document["run"] = run_readme(args.device)
    return print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
