# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf label`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import TaskArgs, arg


@dataclass
class LabelArgs(TaskArgs):
    """Latent actions of a pretrained policy as a column of a LeRobot set, for every frame."""

    policy: str = arg(..., "folder or Hub repository of a pretraining run", positional=True)
    sources: str = arg(..., "what to label (lawm_hf.data.spec)")
    out: Path = arg(..., "folder to write")
    revision: str | None = arg(None, "of the policy's repository")
    image_size: int | None = arg(
        None, "side (even) of the pictures that are written; by default the policy's", min=2
    )
    fps: float | None = arg(
        None, "frames per second of the result, at each time the nearest frame", above=0
    )
    batch_size: int = arg(64, "frames that the policy sees at a time", min=1)
    device: str = arg("auto", "where the policy runs: auto, cpu, cuda, ...")
    clips_per_part: int = arg(100, "clips in an mp4; a run that was killed goes on there", min=1)
    push_to: str = arg("", "USER/NAME on the Hub: upload as a private dataset")
    public: bool = arg(False, "with push_to: not private, if all licences allow it")


def main(args: LabelArgs) -> None:
    """Label, describe the set, and push it if asked to."""
    import torch

    from ..analysis.labels import COLUMN, open_labels
    from ..data import open_source
    from ..data.convert import Conversion, left_out, write_lerobot
    from ..hub.data_set import check_publication, push_set
    from ..hub.label_card import Teacher, describe_labels
    from ..plugins import import_recorded
    from ..writing.atomic import read_json
    from ..writing.text import printable

    executor, device = args.make_executor(), args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    import_recorded(args.policy)
    labels = open_labels(args.policy, args.revision, args.batch_size, device)
    teacher = Teacher.of(args.policy, labels.commit, labels.sha256)
    if args.push_to:
        check_publication(args.sources, args.push_to, args.public, teacher.sources or ())
    source = open_source(args.sources)
    labels.cameras(source.features.cameras)  # raises now rather than at the first clip
    how = Conversion(
        image_size=args.image_size or labels.image_size,
        resize=labels.resize,
        fps=args.fps,
        clips_per_part=args.clips_per_part,
        columns=labels,
    )
    write_lerobot(source, args.out, how, executor)
    bad, numbers = left_out(args.out), read_json(args.out / "meta/stats.json", dict)[COLUMN]
    describe_labels(
        args.out,
        args.sources,
        teacher,
        interval_s=labels.interval_s,
        num_left_out=len(bad),
        repository=args.push_to,
    )
    std: Any = torch.tensor(numbers["std"])
    print(  # noqa: T201
        f"Wrote {len(source.clips) - len(bad)} clips, {numbers['count'][0]:,} frames, to "
        f"{args.out}: `{COLUMN}` of shape {list(labels.shape)} varies by {std.mean():.2f} (mean "
        f"standard deviation; it lies in [-1, 1])."
    )
    for line in bad:
        print(f"Left out {printable(line)}")  # noqa: T201
    if std.max() < 0.02:
        print("ALARM  The latents hardly vary: this policy tells these frames not apart.")  # noqa: T201
    if args.push_to:
        push_set(args.out, args.push_to, private=not args.public)
