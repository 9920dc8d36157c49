# SPDX-License-Identifier: Apache-2.0
"""What a training run writes about itself: its progress, its settings, and what it has cost.

`args.yaml` and `environment.json` at the start, `log.jsonl` on the way; at the end hardware, time
and an estimate of the energy join `environment.json`. The model card is made of these.
"""

import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from ..arguments import as_flags
from ..hub.licences import inherited_sources, parents
from ..writing.atomic import read_json, read_json_lines, write_text_atomic
from ..writing.text import get_logger
from .args import TrainingArgs, changed_arguments
from .earlier_run import remove_run
from .throughput import Throughput

logger = get_logger(__name__)

# Watts of a busy core with its share of memory and mainboard: an assumption, twice what the makers
# of server processors rate a core at (AMD EPYC 7763: 280 W for 64).
WATTS_PER_CORE = 10


class ProgressLog:
    """One progress bar, one console line every `log_every` updates, and the trackers.

    Lines of `log.jsonl` hold means over updates, micro-batches and processes, how well the machine
    was used, and what the run has cost so far, interrupted sessions included.

    A GPU is waited for by `look` alone: at each line, and before each save. Until then what was
    added stays there. On a CPU every value is looked at when it is added.
    """

    def __init__(self, accelerator: Accelerator, args: TrainingArgs, first_step: int, name: str):
        self.accelerator, self.args = accelerator, args
        self.values: dict[str, list[float]] = {}
        self.unseen: list[tuple[str, int, torch.Tensor]] = []  # name, update, scalar on the device
        self.defers = accelerator.device.type != "cpu"
        self.step, self.count, self.since = first_step, 0, time.perf_counter()
        self.throughput = Throughput(accelerator.device, args.gradient_accumulation_steps)
        self.samples = (
            args.batch_size * args.gradient_accumulation_steps * accelerator.num_processes
        )
        self.path = Path(args.output_dir) / "log.jsonl"
        self.before = (0.0, 0.0)
        if accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.record = read_json(self.path.with_name("environment.json"), dict)
            # A run that begins anew begins a new log.
            lines = read_json_lines(self.path) if first_step else []
            write_text_atomic(self.path, "".join(f"{json.dumps(line)}\n" for line in lines))
            self.before = _last_cost(lines)
        self.start = (time.perf_counter(), _cpu_seconds())
        self.bar = tqdm(
            total=args.steps,
            initial=first_step,
            desc=name,
            disable=not accelerator.is_main_process,
            mininterval=1.0,
        )

    def add(self, values: Mapping[str, torch.Tensor | None]) -> None:
        """Average values, of a micro-batch or of an update, into the next line.

        Raises:
            FloatingPointError: On a CPU, if one is not finite; elsewhere `look` says so.
        """
        for name, value in values.items():
            if value is None:
                continue
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            self.unseen.append((name, self.step + 1, whole.detach().float().mean()))
        if not self.defers:
            self.look()

    def look(self) -> None:
        """Fetch what was added since the last time, waiting for the device once.

        To be called before anything is saved.

        Raises:
            FloatingPointError: If a loss or a gradient was not finite, with the first such update.
        """
        for name, step, scalar in self.unseen:
            number = scalar.item()  # the first one waits
            # Gradients of half precision overflow now and then, and the scaler skips the update.
            scaled = self.accelerator.scaler is not None and name.startswith("grad")
            if not math.isfinite(number) and not scaled:
                what = "gradient" if name.startswith("grad") else "loss"
                raise FloatingPointError(
                    f"The {what} must stay finite, got {number} at update {step}. Lower the "
                    "learning rate or the gradient norm, or resume from the last checkpoint with "
                    "another seed."
                )
            self.values.setdefault(name, []).append(number)
        self.unseen = []

    def update(self, step: int, progress: dict[str, float] | None = None) -> None:
        """Count an update that is done; `progress` of the data is written as it stands."""
        self.step = step
        self.count += 1
        self.bar.update()
        if step % self.args.log_every and step != self.args.steps:
            return
        self.look()
        means = {key: sum(values) / len(values) for key, values in self.values.items()}
        now, cpu = time.perf_counter(), _cpu_seconds() - self.start[1]
        use = self.throughput.read(now, self.count)
        *shared, cpu = self._over_processes([*means.values(), cpu])
        means = dict(zip(means, shared, strict=True))
        means["samples_per_s"] = self.samples * self.count / (now - self.since)
        self.values, self.count, self.since = {}, 0, now
        if self.args.report_to:
            known = {key: number for key, number in use.items() if number is not None}
            self.accelerator.log(means | known, step=step)
        self.bar.set_postfix_str("  ".join(f"{k} {v:.4g}" for k, v in means.items()))
        cost = {
            "wall_seconds": self.before[0] + now - self.start[0],
            "cpu_seconds": self.before[1] + cpu * self.accelerator.num_processes,
        }
        if self.accelerator.is_main_process:
            with self.path.open("a") as log:
                line = {"step": step, **means, **(progress or {}), **use, **cost}
                log.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """End the bar; add hardware, time and energy to the run record."""
        self.bar.close()
        if not self.accelerator.is_main_process:
            return
        wall, cpu = _last_cost(read_json_lines(self.path))
        machine = hardware(self.accelerator)
        record = self.record | {
            "hardware": machine,
            "wall_seconds": round(wall, 1),
            "cpu_seconds": round(cpu, 1),
            "energy": energy(machine, wall, cpu),
        }
        write_text_atomic(self.path.with_name("environment.json"), json.dumps(record, indent=2))

    def _over_processes(self, values: list[float]) -> list[float]:
        """Mean of each over the processes."""
        if self.accelerator.num_processes == 1:
            return values
        own = torch.tensor(values, device=self.accelerator.device)
        mean: Any = self.accelerator.reduce(own, "mean")
        return mean.tolist()


@contextmanager
def told_only(what: str, remedy: str) -> Iterator[None]:
    """For reports, cards and pushes after a run is saved: a failure is told, and loses nothing."""
    try:
        yield
    except Exception as error:
        logger.warning("%s failed (%s: %s). %s", what, type(error).__name__, error, remedy)


def write_run_record(args: TrainingArgs, first_step: int = 0, sources: Sequence[Any] = ()) -> None:
    """Write the resolved arguments, package versions and git revision beside the results.

    A finetuning run also records what its weights were pretrained on, while that is known: the
    licence of those data goes with them. What a resumed run was given otherwise than before stands
    in comments of `args.yaml`.

    Args:
        args: Of the run.
        first_step: Updates done before, by another process.
        sources: The opened data; of those on the Hub, the commit is recorded.
    """
    folder = Path(args.output_dir)
    path = folder / "args.yaml"
    history: list[str] = []
    if first_step:
        text = path.read_text() if path.exists() else ""
        history = [line for line in text.splitlines() if line.startswith("# ")]
        history += [f"# from update {first_step} {line}" for line in changed_arguments(args)]
    elif args.overwrite or path.exists():
        remove_run(folder)
    text = yaml.safe_dump(as_flags(args), sort_keys=False)
    write_text_atomic(path, "".join(f"{line}\n" for line in history) + text)
    packages = ("lawm_hf", "torch", "transformers", "accelerate", "diffusers", "datasets", "mujoco")
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    record: dict[str, Any] = {"versions": versions, "git_revision": git.stdout.strip() or None}
    record["data_commits"] = {s.name: s.commit for s in sources if s.commit}
    if parents(vars(args)):
        record["pretraining_sources"] = inherited_sources(vars(args))
    write_text_atomic(folder / "environment.json", json.dumps(record, indent=2))


def run_summary(folder: str | Path) -> dict[str, Any]:
    """What a run that is done says of itself: its folder and the last line of its log."""
    lines = read_json_lines(Path(folder) / "log.jsonl")
    return {"output_dir": str(folder), **(lines[-1] if lines else {})}


def hardware(accelerator: Accelerator) -> dict[str, Any]:
    """The processor, its usable cores, the processes; and their GPUs with power limit, if any."""
    machine: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cpu_cores": len(psutil.Process().cpu_affinity() or [])
        if hasattr(psutil.Process, "cpu_affinity")  # not on macOS
        else os.cpu_count(),
        "num_processes": accelerator.num_processes,
        "gpu": None,
        "gpu_power_limit_w": None,
    }
    if accelerator.device.type == "cuda":
        properties = torch.cuda.get_device_properties(accelerator.device)
        machine["gpu"] = properties.name
        machine["gpu_power_limit_w"] = _power_limit(str(properties.uuid))
    elif accelerator.device.type != "cpu":
        machine["gpu"] = accelerator.device.type
    return machine


def energy(machine: dict[str, Any], wall_seconds: float, cpu_seconds: float) -> dict[str, Any]:
    """An estimate in kWh, from time and an assumed power; and how it was made.

    Nothing is estimated for an accelerator whose power is not known.
    """
    if machine["gpu"]:
        watts, count = machine["gpu_power_limit_w"], machine["num_processes"]
        if watts is None:
            return {"kwh": None, "method": f"the power limit of {machine['gpu']} is not known"}
        method = (
            f"{count} × {watts:.0f} W, the limit that nvidia-smi reports, over the whole time; "
            "processors not counted"
        )
        return {"kwh": wall_seconds * watts * count / 3.6e6, "method": method}
    method = f"CPU seconds at an assumed {WATTS_PER_CORE} W per busy core"
    return {"kwh": cpu_seconds * WATTS_PER_CORE / 3.6e6, "method": method}


def _cpu_seconds() -> float:
    """Of this process, the loader workers it has now, and those that have ended."""
    own = psutil.Process()
    used = own.cpu_times()
    total = used.user + used.system + used.children_user + used.children_system
    for child in own.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:  # It has ended since, and is among `children_*` next time.
            continue
        total += times.user + times.system
    return total


def _last_cost(lines: list[dict[str, Any]]) -> tuple[float, float]:
    """Wall and CPU seconds by the last line of a log."""
    last = lines[-1] if lines else {}
    return last.get("wall_seconds", 0.0), last.get("cpu_seconds", 0.0)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _power_limit(uuid: str) -> float | None:
    """Watts; `None` where nvidia-smi is not there or cannot tell."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["--query-gpu=power.limit", "--format=csv,noheader,nounits", f"--id=GPU-{uuid}"]
    answer = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, check=False)
    text = answer.stdout.strip()
    return float(text) if text.replace(".", "", 1).isdigit() else None
