# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf convert`."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..arguments import Outcome, TaskArgs, arg


@dataclass
class ConvertArgs(TaskArgs):
    """Rewrite a set for training."""

    kind: str = arg(..., "scheme of its spec: ssv2, bridge, lerobot, ...", positional=True)
    src: str = arg(..., "location[,key=value...] as in a spec", positional=True)
    out: Path = arg(..., "folder to write", group="output")
    format: str | None = arg(
        None,
        "by default shards for videos, else lerobot",
        choices=("shards", "lerobot"),
        group="output",
    )
    image_size: int | None = arg(
        None, "re-encode to squares of this (even) side", min=2, group="data"
    )
    resize: str = arg("squash", "how they become squares", choices=("squash", "crop"), group="data")
    fps: float | None = arg(
        None,
        "frames per second of the result, at each time the nearest frame",
        above=0,
        group="data",
    )
    clips_per_part: int | None = arg(None, "clips in a shard or mp4", min=1, group="output")
    tasks: int = arg(
        os.cpu_count() or 1,
        "parts at a time: processes, jobs of Slurm or Ray",
        min=1,
        group="tasks",
    )
    num_workers: int | None = arg(None, "the former name of --tasks; 0: one", min=0, group="tasks")
    push_to: str = arg("", "USER/NAME on the Hub: upload as a private dataset", group="output")
    public: bool = arg(
        False, "with push_to: not private, if the licence of the data allows it", group="output"
    )

    def __post_init__(self):
        if self.num_workers is not None:
            self.tasks = max(1, self.num_workers)


def main(args: ConvertArgs) -> Outcome:
    """Convert, describe the set, and push it if asked to."""
    from ..data.commands import run_convert
    from ..hub.data_set import check_publication, describe_set, push_set

    spec = f"{args.kind}:{args.src}"
    if args.push_to:
        check_publication(spec, args.push_to, args.public)
    made = run_convert(args)
    describe_set(args.out, spec)
    if args.push_to:
        push_set(args.out, args.push_to, private=not args.public)
    lines = [f"Wrote {made['clips']} clips to {args.out}."]
    lines += [f"Left out {line}" for line in made["left_out"]]
    shards = f"wds:{args.out}/train-*.tar"
    spec = shards if made["format"] == "shards" else f"lerobot:{args.out}"
    return Outcome(made, "\n".join(lines), [["data", "inspect", spec]])
