# SPDX-License-Identifier: Apache-2.0
"""Resumable checkpoints: everything that going on needs, all or nothing."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator


class ResumableLoader(Protocol):
    """A loader whose position is part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch that was handed out."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        ...


def save_checkpoint(
    accelerator: Accelerator, output_dir: str | Path, step: int, loader: ResumableLoader
) -> None:
    """Write everything that resuming needs to `step_<n>/`, all or nothing.

    The folder gets its name only when it is complete, so a run killed while saving resumes from
    the checkpoint before; older ones are removed afterwards.
    """
    final = Path(output_dir) / f"step_{step:06d}"
    partial = final.with_name(f".{final.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    position = partial / f"data_position_{accelerator.process_index}.json"
    position.write_text(json.dumps(loader.state_dict()))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (partial / "progress.json").write_text(
            json.dumps({"step": step, "num_processes": accelerator.num_processes})
        )
        shutil.rmtree(final, ignore_errors=True)  # written before, and resumed from an older one
        partial.replace(final)
        for old in _checkpoints(output_dir)[:-1]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Accelerator, output_dir: str | Path, loader: ResumableLoader
) -> int:
    """Restore the newest checkpoint: weights, optimiser, schedule, random states, data position.

    Returns:
        Updates done so far; 0 if there is no checkpoint yet.

    Raises:
        ValueError: If it was written by another number of processes: the data order would differ.
    """
    found = _checkpoints(output_dir)
    if not found:
        accelerator.print(f"No checkpoint in {output_dir}: starting from the beginning.")
        return 0
    progress = json.loads((found[-1] / "progress.json").read_text())
    if progress["num_processes"] != accelerator.num_processes:
        raise ValueError(
            f"A run must be resumed with as many processes as it was started with, got "
            f"{accelerator.num_processes} for a checkpoint of {progress['num_processes']}. Launch "
            f"{progress['num_processes']}, or start anew from the saved weights."
        )
    accelerator.load_state(str(found[-1]))
    position = found[-1] / f"data_position_{accelerator.process_index}.json"
    loader.load_state_dict(json.loads(position.read_text()))
    accelerator.print(f"Resumed from {found[-1].name}.")
    return progress["step"]


def _checkpoints(output_dir: str | Path) -> list[Path]:
    folders = Path(output_dir).glob("step_*")
    return sorted(f for f in folders if re.fullmatch(r"step_\d{6,}", f.name))
