# SPDX-License-Identifier: Apache-2.0
"""What `lawm-hf convert` costs per clip, one JSON line per kind of source; CPU time, one thread.

    python benchmarks/convert.py [--clips 24]

Synthetic clips with texture, noise and motion: Something-Something's (VP9, 426×240, 48 frames), a
phone's (H.264, 1280×720, 120 frames, 4 Mbit/s), a robot's (H.264, 640×480, 150 frames), to shards
of 128 px and, with `image_size` null, copied. `bytes_in` and `bytes_out` are per clip. The plan for
10^8 clips in `docs/performance.md` starts from these.
"""

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import av
from common import conditions, report
from dataloading import build_ssv2, textured_clip

from lawm_hf.data import open_source
from lawm_hf.data.convert import Conversion, write_shards

# Name -> height, width, frames, frames per second, bits per second.
_MP4 = {
    "phone mp4 H.264 1280x720": (720, 1280, 120, 30, 4_000_000),
    "robot mp4 H.264 640x480": (480, 640, 150, 30, 1_500_000),
}


def build_mp4(root: Path, num_clips: int, shape: tuple[int, int, int, int, int]) -> None:
    """A folder of H.264 videos of a camera's bit rate, a keyframe a second."""
    height, width, num_frames, fps, bits = shape
    root.mkdir(parents=True)
    for i in range(num_clips):
        with av.open(str(root / f"push the cup {i}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.bit_rate, stream.gop_size = bits, fps
            for frame in textured_clip(i, num_frames, height, width):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode())


def size(folder: Path, pattern: str) -> int:
    """Bytes of all files that match."""
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def measure(name: str, spec: str, raw: Path, pattern: str, image_size: int | None) -> None:
    """Convert in this process, and print the costs of a clip."""
    source, out = open_source(spec), raw.with_name(f"{raw.name}_{image_size}")
    start = time.process_time()
    write_shards(source, out, Conversion(image_size=image_size))
    count = len(source.clips)
    values = {
        "cpu_s": round((time.process_time() - start) / count, 4),
        "bytes_in": size(raw, pattern) // count,
        "bytes_out": size(out, "*.tar") // count,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    about = {"clips": count, "image_size": image_size}
    report(source=name, **values, **about, **conditions("av"))


def main() -> None:
    """Build the clips, measure each kind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=24)
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        build_ssv2(root / "ssv2", args.clips)
        sources = {"ssv2 webm VP9 426x240": (f"ssv2:{root / 'ssv2'}", root / "ssv2", "*.webm")}
        for i, (name, shape) in enumerate(_MP4.items()):
            build_mp4(root / f"mp4_{i}", args.clips, shape)
            sources[name] = f"folder:{root / f'mp4_{i}'}", root / f"mp4_{i}", "*.mp4"
        for image_size in (128, None):
            for name, (spec, raw, pattern) in sources.items():
                measure(name, spec, raw, pattern, image_size)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
