# SPDX-License-Identifier: Apache-2.0
"""How often would a healthy run look ill in a report of few clips?

    python benchmarks/few_clips.py      # the small checkpoint that comes along; 22 CPU seconds

For each number of clips, draws of them from 600 held-out episodes: in how many the swap gap lies
within two standard errors of zero, and the latents' effective rank below the alarm's.
"""

from dataclasses import dataclass

import lawm_hf
from lawm_hf.analysis import latent_health, load_clips
from lawm_hf.analysis.health import _MIN_RANK
from lawm_hf.arguments import CommandArgs, arg, run_command
from lawm_hf.data import WindowDataset, WindowSpec, open_source
from lawm_hf.models import LAWMForPretraining, LAWMProcessor

EPISODES = 600


@dataclass
class FewClipsArgs(CommandArgs):
    """Arguments of `benchmarks/few_clips.py`."""

    numbers: list[int] = arg([2, 3, 5, 8, 10, 15, 20], "clips in a report", min=2)
    draws: int = arg(12, "draws of each", min=1)


def main(args: FewClipsArgs) -> None:
    """Draw, report, count, print a table."""
    pair = LAWMForPretraining.from_pretrained(lawm_hf.TABLETOP)
    processor = LAWMProcessor.from_pretrained(lawm_hf.TABLETOP, subfolder="processor")
    source = open_source(f"tabletop:reach,episodes={EPISODES},seed=50000,actions=false")
    window = WindowSpec(image_size=64, max_start=0, with_frames=True)
    print("| clips | gap within two errors | rank below the alarm's | draws |\n|--:|--:|--:|--:|")
    for number in args.numbers:
        few = [source.select(fraction=number / EPISODES, subset_seed=s) for s in range(args.draws)]
        clips = [load_clips(WindowDataset(part, window), processor) for part in few]
        seen = [
            latent_health(pair.policy, pair.world_model, held_out, seed=seed)
            for seed, held_out in enumerate(clips)
        ]
        gaps = sum(h.swap_gap <= 2 * h.swap_gap_standard_error for h in seen)
        ranks = sum(h.effective_rank < _MIN_RANK for h in seen)
        print(f"| {number} | {gaps} | {ranks} | {args.draws} |")


if __name__ == "__main__":
    run_command(main, FewClipsArgs)
