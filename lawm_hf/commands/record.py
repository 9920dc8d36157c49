# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf libero record`."""

from dataclasses import asdict, dataclass
from pathlib import Path

from ..arguments import CommandArgs, Outcome, arg


@dataclass
class RecordArgs(CommandArgs):
    """Record demonstrations of LIBERO's scripted expert; resumable."""

    out: Path = arg(..., "folder of the dataset")
    suite: str = arg("libero_object", "the expert knows libero_object")
    task_ids: list[int] = arg([0, 1], "tasks of the suite", min=0)
    episodes: int = arg(25, "successes of each task", min=1)
    first_init_state: int = arg(20, "the ones below it are kept for evaluation", min=0)
    image_size: int = arg(128, "side of the pictures, in pixels", min=8)
    noise: float = arg(0.2, "largest noise on executed actions", min=0)
    fast_rendering: bool = arg(False, "thinner meshes: evaluate with them, too")


def main(args: RecordArgs) -> Outcome:
    """Record what is missing."""
    from ..envs.libero.recorder import record_libero

    options = asdict(args)
    del options["import_"], options["out"]
    record_libero(args.out, tasks=options.pop("task_ids"), **options)
    following = [["finetune", "--source", f"lerobot:{args.out}"]]
    return Outcome({"out": str(args.out)}, f"Wrote {args.out}.", following)
