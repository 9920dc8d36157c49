# SPDX-License-Identifier: Apache-2.0
"""The run that lies in a folder already: whether another may begin there, and its removal.

Weights lie beside the arguments and the record that tell how they came about, and nothing else ties
them together. So those of an earlier run are gone, on the disk, before a new one writes its own.
"""

import shutil
from pathlib import Path

from ..hub.licences import parents
from ..hub.push import PARTS, WEIGHTS
from ..writing.atomic import set_aside, sync_folder
from .args import TrainingArgs, changed_arguments
from .checkpoints import find_checkpoints, remove_folder

# What loads as a model or a processor, or tells of one.
_MODELS = (*WEIGHTS, "model.safetensors.index.json", "policy.onnx", "config.json")
_MODELS += ("processor_config.json", "task_*.safetensors", "task_tokenizer.json")
_MODELS += ("policy_p*processor.json",)
_REPORTS = ("health.json*", "strip*.png", "execution.json")


def check_folder(args: TrainingArgs) -> None:
    """Refuse to begin where there is a run, or to go on with what cannot be gone on with.

    Raises:
        FileExistsError: If `output_dir` holds a run, and nobody said what is to become of it.
        ValueError: If it cannot become that.
    """
    if args.resume and args.overwrite:
        raise ValueError(
            "`resume` goes on with the run in `output_dir`, `overwrite` deletes it, got both. "
            "Leave one out."
        )
    folder = Path(args.output_dir)
    checkpoints, weights = find_checkpoints(folder), _files(folder, WEIGHTS)
    if checkpoints and args.resume:
        changed_arguments(args)  # refused before models and data are opened
    elif weights and args.resume:
        raise ValueError(
            f"To resume, {args.output_dir} must hold a checkpoint, a folder `step_...`, got "
            f"{weights[0].relative_to(folder)} without one. Put it back, or choose another "
            "--output_dir, or replace these weights by --overwrite true without --resume."
        )
    if (found := checkpoints or weights) and not args.resume and not args.overwrite:
        go_on = "--resume true to go on with it, " if checkpoints else ""
        raise FileExistsError(
            f"`output_dir` must not hold another run, got {args.output_dir!r} with "
            f"{found[-1].relative_to(folder)}. Pass {go_on}--overwrite true to replace it, or "
            "another --output_dir."
        )
    own = {(folder / part).resolve() for part in PARTS}
    for parent in () if args.resume else parents(vars(args)):
        if Path(parent).resolve() in own:
            raise ValueError(
                f"`output_dir` must not be the folder of the weights that a run begins with, got "
                f"{args.output_dir!r} for both: they would be replaced. Choose another "
                "--output_dir."
            )


def remove_run(output_dir: str | Path) -> None:
    """Remove what an earlier run has left, before the arguments of the next one are written.

    Models go first, then the checkpoints, by one rename each. Killed between, the folder holds the
    earlier run, which can be resumed, or none. The card is kept under another name.
    """
    folder = Path(output_dir)
    files = _files(folder, (*_MODELS, *_REPORTS))
    for file in files:
        file.unlink()
    for part in {file.parent for file in files} - {folder}:
        shutil.rmtree(part)  # and the code that lies beside a model
    if (folder / "README.md").exists():
        set_aside(folder / "README.md")
    sync_folder(folder)
    for checkpoint in find_checkpoints(folder):
        checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.partial"))
    sync_folder(folder)
    for left in folder.glob(".step_*.partial"):
        remove_folder(left)


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Files of a run below its folder, models' parts included."""
    places = [folder / part for part in PARTS]
    return sorted({file for p in places for pattern in patterns for file in p.glob(pattern)})
