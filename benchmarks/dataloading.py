# SPDX-License-Identifier: Apache-2.0
"""How fast the loader reads, one JSON line per source; CPU time, so a busy machine changes little.

    python benchmarks/dataloading.py [--clips 24] [--windows 400] [--lerobot] [--workers 0 1 2]

Synthetic clips of the real shapes and codecs: Something-Something as VP9, 426×240, 12 frames per
second, 48 frames, one keyframe; the same encoded anew by `lawm-hf convert` as 128 px H.264 with a
keyframe every 8 frames; a LeRobot v3.0 set of the latter's kind. Windows of 10 frames at 128 px.
`need`: what one H100 could ask for at most, from the operations of a joint update at the paper's
sizes (BAKU, world model 50m, forward and backward, counted by torch) at 40 % of its 989 dense bf16
TFLOP/s, against 16 cores at the measured rates.
"""

import argparse
import json
import platform
import resource
import shutil
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from lawm_hf import (
    BakuConfig,
    BakuPolicy,
    DreamerV3Config,
    DreamerV3WorldModel,
    LawmForPretraining,
)
from lawm_hf.data import WindowSpec, make_loader, open_source
from lawm_hf.data.convert import Conversion, write_lerobot, write_shards
from lawm_hf.experiments.cost import pretraining_batch, training_cost

WINDOW = WindowSpec(chunk_size=9, image_size=128, with_frames=True)  # x_t and nine more: 10 frames
_BATCH = 32


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
        with av.open(str(videos / f"{i}.webm"), "w", format="webm") as out:
            stream = out.add_stream("libvpx-vp9", rate=12, options=options)
            stream.width, stream.height, stream.pix_fmt = 426, 240, "yuv420p"
            stream.time_base, stream.gop_size = Fraction(1, 12), 128
            for frame in textured_clip(i % 8, 48, 240, 426):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode())


def measure(name: str, spec: str, num_windows: int, **options) -> float:
    """Read windows in this process and print the rate; returns windows per CPU second."""
    loader = make_loader(open_source(spec), WINDOW, _BATCH, cache_bytes=0, **options)
    batches = iter(loader)
    next(batches)
    start, wall, memory = time.process_time(), time.perf_counter(), []
    for _ in range(max(1, num_windows // _BATCH)):
        next(batches)
        memory.append(resident_megabytes())
    count = max(1, num_windows // _BATCH) * _BATCH
    rate = count / (time.process_time() - start)
    report(
        name,
        windows_per_cpu_s=rate,
        windows_per_wall_s=count / (time.perf_counter() - wall),
        memory_mb_first_half=max(memory[: len(memory) // 2 + 1]),
        memory_mb_second_half=max(memory[len(memory) // 2 :]),
        **options,
    )
    return rate


def measure_workers(name: str, spec: str, num_windows: int, num_workers: int) -> None:
    """Wall-clock rate of worker processes; the parent's own CPU time per batch beside it."""
    loader = make_loader(open_source(spec), WINDOW, _BATCH, cache_bytes=0, num_workers=num_workers)
    batches = iter(loader)
    for _ in range(2 * num_workers):
        next(batches)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(max(1, num_windows // _BATCH)):
        next(batches)
    count = max(1, num_windows // _BATCH) * _BATCH
    report(
        name,
        num_workers=num_workers,
        windows_per_wall_s=count / (time.perf_counter() - start),
        parent_cpu_ms_per_batch=1e3 * (time.process_time() - cpu) * _BATCH / count,
    )


def measure_lerobot(root: Path, num_windows: int) -> float:
    """The same windows by `LeRobotDataset` in random order."""
    from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata

    meta = LeRobotDatasetMetadata("me/benchmark", root=root)
    camera = meta.camera_keys[0]
    deltas = {camera: [k / meta.fps for k in range(10)]}
    dataset = LeRobotDataset(
        "me/benchmark", root=root, delta_timestamps=deltas, return_uint8=True, video_backend="pyav"
    )
    order = np.random.default_rng(0).permutation(len(dataset))[:num_windows].tolist()
    dataset[0]
    start = time.process_time()
    for index in order:
        dataset[index]
    rate = len(order) / (time.process_time() - start)
    report("LeRobotDataset", windows_per_cpu_s=rate)
    return rate


def flops_per_window() -> float:
    """Operations of pretraining per window, by torch's own count."""
    policy = BakuPolicy(BakuConfig(latent_norm="batch"))
    model = LawmForPretraining(policy, DreamerV3WorldModel(DreamerV3Config.from_preset("50m")))
    cost = training_cost(model, pretraining_batch(model), batch_size=1, updates=1)
    return cost.flops_per_window


def resident_megabytes() -> float:
    """Memory of this process now; its peak where `/proc` is missing."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def report(name: str, **values) -> None:
    """One JSON line."""
    rounded = {k: round(v, 2) if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"source": name, **rounded, "machine": platform.machine()}), flush=True)


def main() -> None:
    """Build the clips, measure each source."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--windows", type=int, default=1600)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--lerobot", action="store_true", help="compare with LeRobotDataset")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        build_ssv2(root / "ssv2", args.clips)
        webm = open_source(f"ssv2:{root / 'ssv2'}")
        how = Conversion(image_size=128)
        shards = write_shards(webm, root / "shards", how)
        lerobot = write_lerobot(webm, root / "lerobot", how)
        specs = {
            "ssv2 webm": f"ssv2:{root / 'ssv2'}",
            "shards of h264": f"wds:{shards}/*.tar",
            "lerobot v3 mp4": f"lerobot:{lerobot}",
        }
        measure("ssv2 webm, naive", specs["ssv2 webm"], args.windows // 4, windows_per_visit=1)
        for name, spec in specs.items():
            measure(name, spec, args.windows, windows_per_visit=4)
        rates = {n: measure(n, s, args.windows, windows_per_visit=8) for n, s in specs.items()}
        if args.lerobot:
            theirs = measure_lerobot(lerobot, args.windows // 4)
            report("ratio to LeRobotDataset", ratio=rates["lerobot v3 mp4"] / theirs)
        for num_workers in args.workers:
            measure_workers("ssv2 webm", specs["ssv2 webm"], args.windows, num_workers)
        most = 0.4 * 989e12 / flops_per_window()
        for name, rate in rates.items():
            share = 16 * rate / most
            report(f"need, {name}", h100_windows_per_s=most, of_16_cores=16 * rate, share=share)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
