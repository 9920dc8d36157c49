# SPDX-License-Identifier: Apache-2.0
"""How much memory does a step of joint pretraining take, by preset, batch and chunk?

    python benchmarks/memory.py                                   # tiny to 50m, 8 clips of 10 steps
    python benchmarks/memory.py --presets 200m --chunks 10 50 --checkpointing no yes
    python benchmarks/memory.py --presets tiny 12m --real         # and the peak of a real process

torch's `MemTracker` follows each tensor of a forward, backward and AdamW step. The tensors are
fake: shapes without numbers, so that any preset fits any machine and nothing is computed. What an
allocator wastes and what libraries take for themselves is not in it; `--real` also takes the step
in a process of its own and says by how much its peak (`ru_maxrss`) rose. Prints JSON lines, then a
Markdown table. The policy is BAKU in its default size; every step of a chunk is decoded.
"""

import argparse
import itertools
import json
import platform
import resource
import subprocess
import sys
from typing import Any

import torch
from common import conditions, report
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from lawm_hf import BakuConfig, BakuPolicy, DreamerV3Config, DreamerV3WorldModel, LAWMForPretraining
from lawm_hf.models.configuration_dreamer import PRESETS

MB = 1e6
COLUMNS = {
    "preset": "preset",
    "form": "trained on",
    "parameters_m": "parameters, M",
    "batch": "batch",
    "chunk": "chunk",
    "precision": "precision",
    "checkpointing": "checkpointing",
    "state_mb": "weights, gradients, Adam, MB",
    "kept_mb": "kept for the backward pass, MB",
    "peak_mb": "peak, MB",
    "real_peak_mb": "peak of a process, MB",
}


class Step:
    """A model, its optimiser and a batch; `forward` and `backward` are a step."""

    def __init__(self, case: dict[str, Any]):
        self.precision = case["precision"]
        options = {"training_states": case["form"], "num_decoded_steps": None}
        config = DreamerV3Config.from_preset(case["preset"], **options)
        policy = BakuPolicy(BakuConfig(latent_norm="batch", chunk_size=case["chunk"]))
        self.model = LAWMForPretraining(policy, DreamerV3WorldModel(config)).train()
        if case["checkpointing"]:
            self.model.gradient_checkpointing_enable()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        shape = (case["batch"], case["chunk"] + 1, 3, config.image_size, config.image_size)
        self.batch = {
            "pixel_values": torch.zeros(case["batch"], 1, 3, 128, 128),
            "task_embeds": torch.ones(case["batch"], 512),
            "frames": torch.zeros(shape, dtype=torch.uint8),
        }

    def forward(self) -> torch.Tensor:
        """The loss."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model(**self.batch).loss

    def backward(self, loss: torch.Tensor) -> None:
        """Update the weights; the gradients stay."""
        loss.backward()
        self.optimizer.step()


def total(tracker: MemTracker, moment: str) -> int:
    """Bytes of all tensors now, or when they were most."""
    return tracker.get_tracker_snapshot(moment)[torch.device("cpu")]["Total"]


def measure(case: dict[str, Any]) -> dict[str, float]:
    """A second step, when the optimiser has its state, on fake tensors."""
    with FakeTensorMode():
        step = Step(case)
        step.backward(step.forward())
        step.optimizer.zero_grad()
        tracker = MemTracker()
        tracker.track_external(step.model, step.optimizer, *step.batch.values())
        with tracker:
            before = total(tracker, "current")
            loss = step.forward()
            kept = total(tracker, "current") - before
            step.backward(loss)
            peak = total(tracker, "peak")
    parameters = sum(p.numel() for p in step.model.parameters())
    return {
        "parameters_m": round(parameters / 1e6, 1),
        "state_mb": round(16 * parameters / MB),
        "kept_mb": round(kept / MB),
        "peak_mb": round(peak / MB),
    }


def measure_real(case: dict[str, Any]) -> int:
    """By how many MB the peak of this process rises with the model and two steps."""
    unit = 1 if platform.system() == "Darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = Step(case)
    for _ in range(2):
        step.optimizer.zero_grad()
        step.backward(step.forward())
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / MB)


def main() -> None:
    """Measure all combinations."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=[*PRESETS][:5])
    parser.add_argument("--batches", nargs="+", type=int, default=[8])
    parser.add_argument("--chunks", nargs="+", type=int, default=[10])
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--checkpointing", nargs="+", choices=("no", "yes"), default=["no", "yes"])
    parser.add_argument(
        "--forms", nargs="+", choices=("imagination", "posterior"), default=["imagination"]
    )
    parser.add_argument("--real", action="store_true", help="take the step, in a process")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # that process
    args = parser.parse_args()
    if args.one:
        print(measure_real(json.loads(args.one)))
        return
    rows = []
    for values in itertools.product(
        *(args.presets, args.forms, args.batches, args.chunks, args.precisions, args.checkpointing)
    ):
        names = ("preset", "form", "batch", "chunk", "precision", "checkpointing")
        case = dict(zip(names, values, strict=True))
        case["checkpointing"] = case["checkpointing"] == "yes"
        row = case | measure(case)
        if args.real:
            command = [sys.executable, __file__, "--one", json.dumps(case)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row["real_peak_mb"] = int(done.stdout)
        rows.append(row)
        report(**row | conditions())
    columns = {name: title for name, title in COLUMNS.items() if name in rows[0]}
    print(f"\n| {' | '.join(columns.values())} |\n|{'|'.join(' --: ' for _ in columns)}|")
    for row in rows:
        print(f"| {' | '.join(written(row[name]) for name in columns)} |")


def written(value: Any) -> str:
    """A cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,}"


if __name__ == "__main__":
    main()
