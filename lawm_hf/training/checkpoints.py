# SPDX-License-Identifier: Apache-2.0
"""Resumable checkpoints: everything that going on needs, all or nothing."""

import json
import re
import shutil
import zlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from accelerate.utils import load, set_seed

from ..writing.atomic import read_json
from ..writing.atomic import sync_folder as sync  # files, too
from ..writing.text import get_logger
from .args import TrainingArgs, changed_arguments

logger = get_logger(__name__)


class ResumableLoader(Protocol):
    """A loader whose position is part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch that was handed out."""
        ...

    def load_state_dict(self, state: dict[str, Any], *, next_epoch: bool = False) -> None:
        """Continue from a position."""
        ...


def save_checkpoint(
    accelerator: Accelerator, output_dir: str | Path, step: int, loader: ResumableLoader
) -> None:
    """Write everything that resuming needs to `step_<n>/`, all or nothing.

    The folder gets its name only when it is complete and on the disk, and the older ones go
    afterwards: a run killed at any time resumes from one or the other.
    """
    final = Path(output_dir) / f"step_{step:06d}"
    if final.exists() and not _damage(final):  # A run resumed from it with nothing left to do.
        if accelerator.is_main_process:
            _remove_others(final)  # if it was killed before that
        return
    partial = final.with_name(f".{final.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
    except Exception as error:  # of torch's, safetensors' or the system's kind
        free = shutil.disk_usage(partial).free
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"The checkpoint of update {step} must find room in {output_dir}, got {error} with "
            f"{free / 1e6:,.0f} MB free. Make room and repeat with --resume true."
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (partial / "data_position_0.json").write_text(json.dumps(loader.state_dict()))
        files = [path for path in partial.rglob("*") if path.is_file()]
        checksums = {str(path.relative_to(partial)): _checksum(path) for path in files}
        progress = {"step": step, "num_processes": accelerator.num_processes}
        (partial / "progress.json").write_text(json.dumps(progress | {"files": checksums}))
        for path in (*partial.rglob("*"), partial):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)  # damaged: the run resumed from an older one
        partial.replace(final)
        sync(final.parent)
        _remove_others(final)
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Accelerator,
    args: TrainingArgs,
    loader: ResumableLoader,
    optimizer: AcceleratedOptimizer,
    scheduler: AcceleratedScheduler,
) -> int:
    """Continue where a run stopped, if `resume` asks for it; with the current rates and steps.

    Restores the newest sound checkpoint: weights, optimiser, schedule, random states and data
    position. Learning rates, weight decay and schedule are those of `args`.

    Returns:
        Updates done so far; 0 if there is no checkpoint yet.

    Raises:
        ValueError: If there are checkpoints and all are damaged, or the run cannot go on as `args`
            say: with other data or another model, or to fewer steps than it has done.
    """
    if not args.resume:
        return 0
    folder = _newest_sound(args.output_dir)
    if folder is None:
        accelerator.print(f"No checkpoint in {args.output_dir}: starting from the beginning.")
        return 0
    progress = read_json(folder / "progress.json", dict)
    if progress["step"] > args.steps:
        raise ValueError(
            f"`steps` must not be fewer than a resumed run has done, got {args.steps} after "
            f"{progress['step']} in {folder}. Pass --steps {progress['step']} or more."
        )
    changed = changed_arguments(args)
    groups = optimizer.param_groups
    rates = [{k: group[k] for k in ("initial_lr", "weight_decay")} for group in groups]
    try:
        accelerator.load_state(str(folder))
    except (ValueError, RuntimeError, OSError, UnpicklingError) as error:
        raise ValueError(
            f"The state in {folder} must fit the models and the optimiser of this run, got: "
            f"{error}. Parameters that learned at one rate must go on with one, and all else as "
            f"{Path(args.output_dir) / 'args.yaml'} says; or start again in another --output_dir."
        ) from error
    accelerator.step = 0  # micro-batches since the last update
    schedule = scheduler.scheduler
    schedule.base_lrs = [rate["initial_lr"] for rate in rates]
    for group, rate, shape in zip(optimizer.param_groups, rates, schedule.lr_lambdas, strict=True):
        group |= rate | {"lr": rate["initial_lr"] * shape(schedule.last_epoch)}
    random_states = folder / f"random_states_{accelerator.process_index}.pkl"
    if not _is_sound_random(random_states, accelerator.device):
        set_seed(args.seed + progress["step"], device_specific=True)
        logger.warning(
            "Random states: %s is missing, damaged or from another machine. The run continues with "
            "fresh ones, so not bit for bit as it would have.",
            random_states,
        )
    position = read_json(folder / "data_position_0.json", dict)  # the same for all processes
    try:
        loader.load_state_dict(position, next_epoch=args.next_epoch)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'data_position_0.json'} must hold a position in the data of this run, got "
            f"another ({error!r}). Restore it, or start again with --overwrite true."
        ) from error
    accelerator.print(f"Resumed from {folder.name}.", *changed, sep="\n")
    return progress["step"]


def find_checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders `step_<n>` of a run, the newest last."""
    folders = Path(output_dir).glob("step_*")
    numbered = {int(f.name[5:]): f for f in folders if re.fullmatch(r"step_\d{6,}", f.name)}
    return [numbered[step] for step in sorted(numbered)]


def _remove_others(kept: Path) -> None:
    for folder in find_checkpoints(kept.parent):
        if folder != kept:
            remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a checkpoint; of a link, not what it leads to."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def _newest_sound(output_dir: str | Path) -> Path | None:
    reason = ""
    for folder in reversed(find_checkpoints(output_dir)):
        if not (reason := _damage(folder)):
            return folder
        logger.warning("Not resuming from %s: %s.", folder, reason)
    if reason:
        raise ValueError(
            f"To resume, {output_dir} must hold a sound checkpoint: {reason}. Restore that file, "
            "or start again with --overwrite true."
        )
    return None


def _damage(folder: Path) -> str:
    """Why a checkpoint cannot be resumed from; empty if it can."""
    try:
        progress = read_json(folder / "progress.json", dict)
        step, files = progress.get("step"), progress.get("files", {})
        if type(step) is not int or step != int(folder.name[5:]) or not isinstance(files, dict):
            return f"{folder / 'progress.json'} is not what was written"
        for name, checksum in files.items():
            # A run can go on without its random states, if not bit for bit.
            if not name.startswith("random_states") and _checksum(folder / name) != checksum:
                return f"{folder / name} is not what was written"
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def _is_sound_random(path: Path, device: torch.device) -> bool:
    """Whether Accelerate could restore these random states: it says nothing if not."""
    try:
        states = load(path)
    except Exception:  # Whatever a damaged pickle raises.
        return False
    cuda = len(states.get("torch_cuda_manual_seed", []))
    return device.type != "cuda" or cuda == torch.cuda.device_count()


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return value
