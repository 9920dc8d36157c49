# SPDX-License-Identifier: Apache-2.0
"""How well can a frame of the tabletop's videos be predicted at all?

    python benchmarks/ceiling.py                    # 60 held-out scenes, about 5 CPU seconds
    python benchmarks/ceiling.py --frame_size 64

The expert's actions are executed with noise, as in every recording, and no first frame tells it.
The best prediction is then the mean over that noise: here of `draws` further episodes from the same
scene, whose error is corrected for their number. Beside it: the episode without noise, and a copy
of `x_t`. PSNR in dB over the pixels that differ from `x_t` by more than 0.1, as in the report.
"""

from dataclasses import dataclass

import numpy as np

from lawm_hf.analysis.prediction import psnr
from lawm_hf.arguments import CommandArgs, arg, run_command
from lawm_hf.envs.tabletop import ScriptedExpert, Tabletop
from lawm_hf.envs.tabletop.recorder import _NOISE_MEMORY

STEPS, SIDE, FIRST_SEED = 10, 64, 900_000  # as the health report's clips; pixels of a recording


@dataclass
class CeilingArgs(CommandArgs):
    """Arguments of `benchmarks/ceiling.py`."""

    episodes: int = arg(60, "scenes", min=1)
    draws: int = arg(8, "further episodes of each scene", min=2)
    noise: float = arg(0.3, "largest noise of an episode, as `record_tabletop` has it", min=0)
    frame_size: int = arg(32, "side of the predicted frames, a divisor of 64 pixels", min=1, max=64)


def episode(world: Tabletop, args: CeilingArgs, seed: int, draw: int, noise: float) -> np.ndarray:
    """The frames `(11, H, W, C)` in [0, 1] of the expert under the noise number `draw`."""
    world.reset(seed)
    expert, rng = ScriptedExpert(world), np.random.RandomState([seed, draw])
    scale = rng.uniform(0, noise) * np.array([1, 1, 1, 0, 0, 0.5, 0])
    push, frames = np.zeros(7), []
    for _ in range(STEPS + 1):
        frames.append(world.render("front"))
        innovation = np.sqrt(1 - _NOISE_MEMORY**2) * rng.randn(7)
        push = _NOISE_MEMORY * push + scale * innovation
        world.step(expert.action() + push)
    video = np.stack(frames).astype(np.float64) / 255
    side, times = args.frame_size, SIDE // args.frame_size
    return video.reshape(STEPS + 1, side, times, side, times, 3).mean((2, 4))


def main(args: CeilingArgs) -> None:
    """Play, compare, print a table."""
    if SIDE % args.frame_size:
        raise ValueError(f"`frame_size` must divide {SIDE}, got {args.frame_size}. Try 32.")
    world = Tabletop("reach", SIDE)
    errors, count = dict.fromkeys(("mean over noise", "no noise", "copy of x_t"), 0.0), 0
    for seed in range(FIRST_SEED, FIRST_SEED + args.episodes):
        video = episode(world, args, seed, 1, args.noise)
        others = [episode(world, args, seed, 100 + i, args.noise) for i in range(args.draws)]
        moves = np.abs(video - video[:1]).max(-1, keepdims=True) > 0.1
        count += 3 * int(moves.sum())
        for name, prediction, share in (
            ("mean over noise", np.mean(others, 0), 1 / (1 + 1 / args.draws)),
            ("no noise", episode(world, args, seed, 1, 0.0), 1.0),
            ("copy of x_t", video[:1], 1.0),
        ):
            errors[name] += share * float((np.square(prediction - video) * moves).sum())
    for name, error in errors.items():
        print(f"| {name} | {psnr(error, count):.1f} dB |")


if __name__ == "__main__":
    run_command(main, CeilingArgs)
