# SPDX-License-Identifier: Apache-2.0
"""What a label should be: the chunk of one frame, or the first latents of the frames that follow.

    python benchmarks/label_chunks.py outputs/pretrain

On clips of the tabletop that no recipe trains on: the world model's squared error per frame, from
the first frame of each clip under the chunk that the policy says there, under the first latents of
that frame and the next ones in a row, and under another clip's chunk; and how latents are spread.
"""

import sys

import numpy as np
import torch

from lawm_hf import LAWMForPretraining, LAWMProcessor
from lawm_hf.analysis.labels import open_labels
from lawm_hf.data import WindowDataset, WindowSpec, collate, open_source
from lawm_hf.writing.lerobot import LATENT_COLUMN

CLIPS = "tabletop:reach,episodes=200,seed=300000,actions=false,views=front"


def main(run: str) -> None:
    """Measure the run."""
    labels, source = open_labels(run), open_source(CLIPS)
    said = [
        labels(source, c, np.arange(source.length(c)))[LATENT_COLUMN] for c in source.clips.tolist()
    ]
    sizes = {"chunk_size": labels.shape[0], "image_size": labels.image_size}
    window = WindowSpec(**sizes, with_frames=True, max_start=0, views=("front",))
    raw = collate([*WindowDataset(source, window)])
    clips = raw.pop("index")[:, 1].tolist()
    batch = LAWMProcessor.from_pretrained(run, subfolder="processor")(**raw)
    frames, is_pad = batch["frames"].float() / 255, batch["frame_is_pad"][:, 1:]
    world_model = LAWMForPretraining.from_pretrained(run).world_model

    def error(predicted: torch.Tensor) -> float:
        squared = (predicted - frames[:, 1:]).square().sum((2, 3, 4))  # (M, N)
        return squared[~is_pad].mean().item()

    @torch.no_grad()
    def imagined(chunks: list[np.ndarray]) -> float:
        actions = torch.from_numpy(np.stack(chunks))
        return error(world_model.predict_frames(batch["frames"][:, 0], actions))

    steps = np.arange(labels.shape[0])
    own = [said[c][0] for c in clips]
    in_a_row = [said[c][np.minimum(steps, len(said[c]) - 1), 0] for c in clips]
    rows = {
        "error, the frame's chunk": imagined(own),
        "error, first latents of frames in a row": imagined(in_a_row),
        "error, another clip's chunk": imagined(own[1:] + own[:1]),
        "error, a copy of the first frame": error(frames[:, :1].expand(-1, len(steps), -1, -1, -1)),
        "deviation within a clip": np.mean([z.std(0).mean() for z in said]),
        "deviation over all": np.concatenate(said).std(0).mean(),
        "change from step to step of a chunk": np.abs(np.diff(np.concatenate(said), axis=1)).mean(),
        "change from frame to frame, first latent": np.mean(
            [np.abs(np.diff(z[:, 0], axis=0)).mean() for z in said]
        ),
    }
    for name, value in rows.items():
        print(f"{name:<42}{value:8.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
