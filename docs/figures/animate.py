# SPDX-License-Identifier: Apache-2.0
"""The animated strip of the README: held-out video, and what is imagined from its first frame.

    uv run python docs/figures/animate.py --pretrained outputs/pretrain

Shown is the first held-out clip of each instruction: none is picked by its looks.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lawm_hf.analysis.prediction import latents_of
from lawm_hf.analysis.report import report_clips
from lawm_hf.arguments import CommandArgs, arg, run_command
from lawm_hf.data import WindowSpec
from lawm_hf.models import LAWMForPretraining, LAWMProcessor
from lawm_hf.writing.yaml_file import read_yaml

ROWS = ("video", "imagined,\nits own\nlatents", "imagined,\nanother\nclip's latents")
CELL, GAP, LEFT, TOP = 96, 40, 116, 26


@dataclass
class AnimateArgs(CommandArgs):
    """Arguments of `docs/figures/animate.py`."""

    pretrained: str = arg("outputs/pretrain", "folder that recipes/pretrain.py has written")
    out: str = arg("docs/strip.gif", "GIF to write")


@torch.no_grad()
def main(args: AnimateArgs) -> None:
    """Load a run, imagine, write the GIF."""
    folder = Path(args.pretrained)
    run = read_yaml(folder / "args.yaml")
    model = LAWMForPretraining.from_pretrained(folder).eval()
    processor = LAWMProcessor.from_pretrained(folder / "processor")
    window = WindowSpec(
        chunk_size=run["chunk_size"],
        image_size=run["image_size"],
        with_frames=True,
        with_state=False,
    )
    clips = report_clips("auto", run["sources"], window, processor)[0]
    latents = latents_of(model.policy, clips)
    first = {task: clip for clip, task in reversed(list(enumerate(clips.tasks)))}
    chosen = np.sort([*first.values()])
    video = clips.frames[chosen]  # (clips, N+1, C, H, W)
    rows = [video]
    for which in (chosen, np.roll(chosen, 1)):  # of another instruction
        imagined = model.world_model.predict_frames(video[:, 0], latents[which])
        rows.append(torch.cat([video[:, :1], imagined], 1))
    images = torch.stack(rows).clamp(0, 1).movedim(-3, -1)  # (rows, clips, N+1, H, W, C)
    pictures = (255 * images).round().byte().numpy()
    tasks = [clips.tasks[clip] for clip in chosen]
    steps = [page(pictures[:, :, step], tasks, step) for step in range(pictures.shape[2])]
    pauses = [700, *[160] * (len(steps) - 2), 1400]  # milliseconds
    opening, *rest = [step.quantize(128, dither=Image.Dither.NONE) for step in steps]
    opening.save(args.out, save_all=True, append_images=rest, duration=pauses, loop=0)
    print(f"Wrote {args.out}.")  # noqa: T201


def page(pictures: np.ndarray, tasks: list[str], step: int) -> Image.Image:
    """One frame of the GIF, of `(rows, clips, H, W, C)` pictures."""
    num_rows, num_clips = pictures.shape[:2]
    size = (LEFT + num_clips * (CELL + GAP), TOP + num_rows * (CELL + 8))
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    draw.text((8, 5), f"frame +{step}", fill="black", font=font)
    for column, task in enumerate(tasks):
        centre = LEFT + column * (CELL + GAP) + CELL // 2
        draw.text((centre, 5), task, fill="black", font=font, anchor="ma")
    for row, name in enumerate(ROWS):
        top = TOP + row * (CELL + 8)
        draw.text((8, top + CELL // 2), name, fill="black", font=font, anchor="lm")
        for column in range(num_clips):
            tile = Image.fromarray(pictures[row, column])
            tile = tile.resize((CELL, CELL), Image.Resampling.NEAREST)
            canvas.paste(tile, (LEFT + column * (CELL + GAP), top))
    return canvas


if __name__ == "__main__":
    run_command(main, AnimateArgs)
