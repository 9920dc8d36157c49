# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf label`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import Outcome, TaskArgs, arg
from .pretrain import PretrainArgs

_STILL = 0.02  # deviation below which latents say nothing


@dataclass
class LabelArgs(TaskArgs):
    """Latent actions of a pretrained policy as a column of a LeRobot set, for every frame."""

    policy: str = arg(
        ..., "folder or Hub repository of a pretraining run", positional=True, group="model"
    )
    source: str = arg(..., "what to label (lawm_hf.data.spec)", group="data")
    out: Path = arg(..., "folder to write", group="output")
    revision: str | None = arg(None, "of the policy's repository", group="model")
    batch_size: int = arg(64, "frames that the policy sees at a time", min=1, group="model")
    device: str = arg("auto", "where the policy runs: auto, cpu, cuda, ...", group="model")
    fps: float | None = arg(
        None,
        "frames per second of the result, at each time the nearest frame",
        above=0,
        group="data",
    )
    image_size: int | None = arg(
        None,
        "side (even) of the pictures that are written; by default the policy's",
        min=2,
        group="output",
    )
    clips_per_part: int = arg(
        100, "clips in an mp4; a run that was killed goes on there", min=1, group="output"
    )
    push_to: str = arg("", "USER/NAME on the Hub: upload as a private dataset", group="output")
    public: bool = arg(False, "with push_to: not private, if all licences allow it", group="output")


def main(args: LabelArgs) -> Outcome:
    """Label, describe the set, and push it if asked to."""
    import numpy as np
    import torch

    from ..analysis.labels import open_labels
    from ..data import open_source
    from ..data.convert import Conversion, left_out, write_lerobot
    from ..hub.data_set import check_publication, push_set
    from ..hub.label_card import Teacher, describe_labels
    from ..plugins import import_recorded
    from ..writing.atomic import read_json
    from ..writing.lerobot import LATENT_COLUMN

    executor, device = args.make_executor(), args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    import_recorded(args.policy)
    labels = open_labels(args.policy, args.revision, args.batch_size, device)
    teacher = Teacher.of(args.policy, labels.commit, labels.sha256)
    if args.push_to:
        check_publication(args.source, args.push_to, args.public, teacher.sources or ())
    source = open_source(args.source)
    labels.cameras(source.features.cameras)  # both raise now rather than at every clip
    labels.try_out(source.task(int(source.clips[0])))
    how = Conversion(
        image_size=args.image_size or labels.image_size,
        resize=labels.resize,
        fps=args.fps,
        clips_per_part=args.clips_per_part,
        columns=labels,
    )
    write_lerobot(source, args.out, how, executor)
    bad, numbers = left_out(args.out), read_json(args.out / "meta/stats.json", dict)[LATENT_COLUMN]
    describe_labels(
        args.out,
        args.source,
        teacher,
        interval_s=labels.interval_s,
        num_left_out=len(bad),
        repository=args.push_to,
    )
    if args.push_to:
        push_set(args.out, args.push_to, private=not args.public)
    made = {"out": str(args.out), "clips": len(source.clips) - len(bad), "left_out": bad}
    made |= {"frames": numbers["count"][0], "column": LATENT_COLUMN, "shape": list(labels.shape)}
    made["std"] = round(float(np.mean(numbers["std"])), 4)
    lines = [
        f"Wrote {made['clips']} clips, {made['frames']:,} frames, to {args.out}. "
        f"`{LATENT_COLUMN}` of shape {made['shape']} has a mean standard deviation of "
        f"{made['std']:.2f} within [-1, 1]."
    ]
    lines += [f"Left out {line}" for line in bad]
    if made["std"] < _STILL:
        lines.append("ALARM  The latents hardly vary: to this policy all these frames are alike.")
    return Outcome(made, "\n".join(lines), [_learn(args.out, labels)])


def _learn(out: Path, labels: Any) -> list[str]:
    """The command that teaches the labels to a new policy."""
    flags = ["pretrain", "--objective", "supervised", "--sources"]
    flags.append(f"lerobot:{out},action={next(iter(labels.features))}")
    chunk_size, action_size = labels.shape
    if chunk_size != PretrainArgs.chunk_size:
        flags += ["--chunk_size", str(chunk_size)]
    if action_size != 7:
        flags += ["--policy_config", json.dumps({"action_size": action_size})]
    return flags
