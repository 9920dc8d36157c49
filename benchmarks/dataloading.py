# SPDX-License-Identifier: Apache-2.0
"""How many windows a CPU second does the loader bring from a mixture, beside the loaders of others?

    OMP_NUM_THREADS=1 python benchmarks/dataloading.py [--clips 64] [--rounds 5]
    ... benchmarks/dataloading.py --sides "ours, shards" "datasets, 8 windows per clip" --rounds 20

Two sets of synthetic clips in the shape and at the bit rate of Something-Something (VP9, 426×240,
12 frames a second, 48 frames, one keyframe), mixed 3 : 1; `lawm-hf convert` encodes both anew as
128 px H.264 with a keyframe every 8 frames, as tar shards and as LeRobot v3 sets. Windows are 10
frames of 128 px, batches 32, everything in this process, in turn A B B A, with the settings of the
recipes (`tune_cpu`). Each brings its frames as (B, 10, 3, 128, 128), contiguous.

Beside ours, on the same files, whatever is installed: `LeRobotDataset` (by PyAV, and by torchcodec,
its default), `StreamingLeRobotDataset`, `datasets.IterableDataset` (both need torchcodec, whose
FFmpeg is to be found by the system), and stable-worldmodel's `VideoDataset` (put its folder on
PYTHONPATH). One JSON line each; `ratio` is ours on the same files over theirs.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median

import av
import numpy as np
import peer_loaders as peers
import torch
from common import conditions, in_turn, report, spread
from PIL import Image
from torch import Tensor

from lawm_hf.data import WindowSpec, make_loader, open_source
from lawm_hf.data.convert import Conversion, write_lerobot, write_shards
from lawm_hf.data.order import Visits
from lawm_hf.training.accelerator import tune_cpu

WINDOW = WindowSpec(chunk_size=9, image_size=128, with_frames=True)  # x_t and nine more: 10 frames
WEIGHTS, BATCH = (3.0, 1.0), 32
# Batches of a round. Ours opens the clips of a block of its order at the block's begin, and none at
# its end: a round must be a whole one.
A_BLOCK, MANY_BATCHES, FEW_BATCHES = 128, 32, 4


def textured_clip(seed: int, num_frames: int, height: int, width: int) -> np.ndarray:
    """Frames `(n, H, W, 3)` with texture, noise, hand-held motion and a moving object."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8))
    big = np.asarray(small.resize((width + 32, height + 32), Image.Resampling.BICUBIC), np.float32)
    big = big + rng.normal(0, 8, big.shape)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        y, x = int(16 + 8 * np.sin(0.3 * t)), int(16 + 8 * np.cos(0.2 * t))
        frames[t] = np.clip(big[y : y + height, x : x + width], 0, 255)
        frames[t, 60:120, 10 + 5 * t : 60 + 5 * t] = (200, 40, 40)
    return frames


def build_ssv2(root: Path, num_clips: int) -> None:
    """A folder like the real one, at its bit rate (about 90 kB per clip)."""
    videos, labels = root / "20bn-something-something-v2", root / "labels"
    videos.mkdir(parents=True)
    labels.mkdir()
    rows = [{"id": str(i), "label": f"moving thing {i % 174}"} for i in range(num_clips)]
    (labels / "train.json").write_text(json.dumps(rows))
    options = {"b": "180k", "deadline": "realtime", "cpu-used": "6"}
    for i in range(num_clips):
        path = str(videos / f"{i}.webm")
        if i >= 8:
            shutil.copy(videos / f"{i % 8}.webm", path)
            continue
        with av.open(path, "w", format="webm") as out:
            stream = out.add_stream("libvpx-vp9", rate=12, options=options)
            stream.width, stream.height, stream.pix_fmt = 426, 240, "yuv420p"
            stream.time_base, stream.gop_size = Fraction(1, 12), 128
            for frame in textured_clip(i, 48, 240, 426):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode())


def build(root: Path, num_clips: int) -> dict[str, list[Path]]:
    """Both sets in each form."""
    made: dict[str, list[Path]] = {form: [] for form in ("webm", "shards", "lerobot", "videos")}
    how = Conversion(image_size=128)
    for name in ("a", "b"):
        build_ssv2(root / name / "webm", num_clips)
        made["webm"].append(root / name / "webm")
        source = open_source(f"ssv2:{root / name / 'webm'}")
        made["shards"].append(write_shards(source, root / name / "shards", how))
        made["lerobot"].append(write_lerobot(source, root / name / "lerobot", how))
        videos = peers.write_stable_worldmodel(made["shards"][-1], root / name / "videos")
        made["videos"].append(videos)
    return made


def ours(
    specs: list[str], windows_per_visit: int | None = None, *, forgets: bool = False
) -> Iterator[Tensor]:
    """Frames of our loader's batches; if it forgets, each visit to a clip is as its first."""
    options = {"weights": WEIGHTS, "cache_bytes": 0, "windows_per_visit": windows_per_visit}
    loader = make_loader(specs, WINDOW, BATCH, **options)
    for visits in loader._visits if forgets else ():
        visits.starts = partial(starts_of_a_new_clip, visits, visits.starts)
    for batch in loader:
        yield batch["frames"]


def starts_of_a_new_clip(visits: Visits, starts: Callable, epoch: int, visit: int) -> np.ndarray:
    """`Visits.starts`, for which the clip is looked at."""
    visits.reader.source._scans.drop(int(visits.clips[visit]))  # type: ignore[attr-defined]
    return starts(epoch, visit)


def all_sides(made: dict[str, list[Path]]) -> dict[str, tuple[str, Iterator[Tensor]]]:
    """Of each side which of ours it is compared with, and its batches."""
    webm = [f"ssv2:{root}" for root in made["webm"]]
    shards = [f"wds:{root}/*.tar" for root in made["shards"]]
    lerobot = [f"lerobot:{root}" for root in made["lerobot"]]
    mix = (WEIGHTS, BATCH)
    return {
        "ours, webm": ("ours, webm", ours(webm)),
        "ours, webm, each visit the first": ("ours, webm", ours(webm, forgets=True)),
        "ours, webm, one window per clip": ("ours, webm", ours(webm, 1)),
        "ours, shards": ("ours, shards", ours(shards)),
        "ours, shards, each visit the first": ("ours, shards", ours(shards, forgets=True)),
        "datasets, 8 windows per clip": (
            "ours, shards",
            peers.hf_datasets(made["shards"], *mix, windows_per_clip=8),
        ),
        "datasets, 1 window per clip": (
            "ours, shards",
            peers.hf_datasets(made["shards"], *mix, windows_per_clip=1),
        ),
        "stable-worldmodel": ("ours, shards", peers.stable_worldmodel(made["videos"], *mix)),
        "ours, LeRobot v3": ("ours, LeRobot v3", ours(lerobot)),
        "ours, LeRobot v3, one window per clip": ("ours, LeRobot v3", ours(lerobot, 1)),
        "LeRobotDataset, pyav": (
            "ours, LeRobot v3",
            peers.lerobot_map(made["lerobot"], *mix, backend="pyav"),
        ),
        "LeRobotDataset, torchcodec": (
            "ours, LeRobot v3",
            peers.lerobot_map(made["lerobot"], *mix, backend="torchcodec"),
        ),
        "StreamingLeRobotDataset": (
            "ours, LeRobot v3",
            peers.lerobot_stream(made["lerobot"], *mix),
        ),
    }


def take(batches: Iterator[Tensor], count: int) -> None:
    """Read batches, and see that they are what was asked for."""
    for _ in range(count):
        frames = next(batches)
        wanted = (BATCH, 10, 3, 128, 128), torch.uint8
        if (tuple(frames.shape), frames.dtype) != wanted or not frames.is_contiguous():
            got = f"{tuple(frames.shape)}, {frames.dtype}, strides {frames.stride()}"
            raise SystemExit(f"A batch must be {wanted} and contiguous, got {got}.")


def available(sides: dict[str, tuple[str, Iterator[Tensor]]]) -> dict[str, str]:
    """The sides that run here, with their bases; the others are named."""
    found = {}
    for name, (base, batches) in sides.items():
        try:
            take(batches, 1)
        except (ImportError, OSError, RuntimeError) as error:
            if name.startswith("ours"):
                raise
            report(side=name, skipped=str(error).strip().splitlines()[0][:200])
            continue
        found[name] = base
    return found


def main() -> None:
    """Build the clips, measure each side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=64, help="of each of the two sets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", help="these alone, by their names; else all")
    args = parser.parse_args()
    torch.manual_seed(0)
    tune_cpu()  # for all sides: as in the recipes, freed memory is kept
    root = Path(tempfile.mkdtemp())
    try:
        sides = all_sides(build(root, args.clips))
        for name in args.sides or ():
            if name not in sides or sides[name][0] not in args.sides:
                raise SystemExit(f"Sides, each with its base: {', '.join(sides)}; got {name!r}.")
        bases = available({name: sides[name] for name in args.sides or sides})
        sizes = dict.fromkeys(bases, FEW_BATCHES) | dict.fromkeys(bases.values(), A_BLOCK)
        sizes |= {name: A_BLOCK for name in bases if name.endswith("the first")}
        sizes |= {name: MANY_BATCHES for name in bases if name.startswith("datasets, 8")}
        calls: dict[str, Callable[[], None]] = {
            name: partial(take, sides[name][1], sizes[name]) for name in bases
        }
        # Two rounds before: then the buffers are full.
        times = in_turn(calls, args.rounds)
        rates = {n: [1e3 * BATCH * sizes[n] / ms for ms in v] for n, v in times.items()}
        for name, base in bases.items():
            rate, rate_range = spread(rates[name])
            ratios = sorted(o / t for o, t in zip(rates[base], rates[name], strict=True))
            line = {"side": name, "windows_per_cpu_s": rate, "range": rate_range, "base": base}
            line |= {"ratio": round(median(ratios), 2)}
            line |= {"ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)]}
            where = conditions("av", "lerobot", "torchcodec", "datasets", "stable-worldmodel")
            report(**line, rounds=args.rounds, **where)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
