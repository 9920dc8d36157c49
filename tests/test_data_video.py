# SPDX-License-Identifier: Apache-2.0
"""Which picture a video file shows at which time: rates, edits, rotation, colours, damage."""

from fractions import Fraction

import av
import numpy as np
import pytest
from data_fixtures import read_stamp, stamped

from lawm_hf.data import WindowSpec, load, open_source


def write(path, frames, times_ms=None, *, codec="libx264", options=None, edit=None, gop=8):
    """Encode frames `(n, H, W, 3)`, shown at `times_ms` (by default ten a second).

    `edit(packet)` may change each packet before it is written.
    """
    times_ms = range(0, 100 * len(frames), 100) if times_ms is None else times_ms
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream = out.add_stream(codec, rate=1000, options=options or {"crf": "12", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.gop_size, stream.codec_context.time_base = gop, Fraction(1, 1000)
        packets = []
        for frame, time in zip(frames, times_ms, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            packets += stream.encode(picture)
        for packet in [*packets, *stream.encode()]:
            if edit is not None:
                edit(packet)
            out.mux(packet)
    return path


def numbers(source, clip=0):
    """The stamped number of each frame that is read."""
    frames = source.decode(clip, "video", np.arange(source.length(clip)), 64, "squash")
    return [read_stamp(frame)[1] for frame in frames]


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_frames_of_a_varying_rate_are_as_far_apart_as_asked(tmp_path, container):
    steps = np.random.default_rng(0).choice([70, 100, 130, 200], 39)  # milliseconds
    times = np.concatenate([[0], np.cumsum(steps)])
    write(tmp_path / f"push_it.{container}", stamped(0, 40), times.tolist())
    window = WindowSpec(chunk_size=6, image_size=64, with_frames=True, frame_interval_s=0.2)
    samples = load(f"folder:{tmp_path}", window)
    assert 30 < len(samples) < 40
    for sample in samples:
        start = int(sample["index"][2])
        assert not sample["frame_is_pad"][1]  # there always is something to predict
        for k, frame in enumerate(sample["frames"]):
            wanted, shown = times[start] + 200 * k, times[read_stamp(frame)[1]]
            nearest = np.abs(times - wanted).min()
            assert abs(shown - wanted) == nearest
            assert bool(sample["frame_is_pad"][k]) == (wanted > times[-1] + steps[-1] / 2)


def test_times_rounded_to_milliseconds_are_a_steady_rate(tmp_path):
    write(tmp_path / "push_it.mkv", stamped(0, 24), [round(1000 * t / 12) for t in range(24)])
    source = open_source(f"folder:{tmp_path}")
    assert source.times(0) is None
    assert numbers(source) == list(range(24))
