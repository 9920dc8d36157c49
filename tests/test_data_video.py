# SPDX-License-Identifier: Apache-2.0
"""Which picture a video file shows at which time: rates, edits, rotation, colours, damage."""

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from data_fixtures import read_stamp, stamped
from PIL import Image

from lawm_hf.data import WindowSpec, load, open_source
from lawm_hf.data.images import decode_image
from lawm_hf.data.source import BadClipError
from lawm_hf.data.video import Video, scan_video


def write(path, frames, times_ms=None, *, codec="libx264", options=None, edit=None, colour=(2, 0)):
    """Encode frames `(n, H, W, 3)`, shown at `times_ms` (by default ten a second).

    `edit(packet)` may change each packet before it is written; `colour` is matrix and range.
    """
    times_ms = range(0, 100 * len(frames), 100) if times_ms is None else times_ms
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream = out.add_stream(codec, rate=10, options=options or {"crf": "12", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.gop_size, stream.codec_context.time_base = 8, Fraction(1, 1000)
        stream.codec_context.colorspace, stream.codec_context.color_range = colour
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


def test_a_picture_that_stands_still_for_a_while_is_no_damage_in_an_mp4(tmp_path):
    times = [0, 100, 200, 300, 1400, 1500, 1600]
    write(tmp_path / "push_it.mp4", stamped(0, 7), times)
    source = open_source(f"folder:{tmp_path}")
    assert (source.times(0) * 1000).round().tolist() == times
    assert numbers(source) == list(range(7))


def test_a_file_that_ends_within_a_frame_is_refused(tmp_path):
    options = {"movflags": "faststart"}  # the table of frames comes first
    with av.open(str(tmp_path / "push_it.mp4"), "w", options=options) as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for frame in stamped(0, 25):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    path = tmp_path / "push_it.mp4"
    with av.open(str(path)) as container:
        last = [p for p in container.demux(video=0) if p.size][20]
    path.write_bytes(path.read_bytes()[: last.pos + last.size // 2])
    with pytest.raises(BadClipError, match="ends within a frame"):
        scan_video(path)


def test_times_rounded_to_milliseconds_are_a_steady_rate(tmp_path):
    write(tmp_path / "push_it.mkv", stamped(0, 24), [round(1000 * t / 12) for t in range(24)])
    source = open_source(f"folder:{tmp_path}")
    assert source.times(0) is None
    assert numbers(source) == list(range(24))


def test_frames_are_those_that_the_scaler_draws_whatever_the_length_of_its_rows(tmp_path):
    path = write(tmp_path / "push_it.mp4", stamped(0, 4))
    times, keyframes, _ = scan_video(path)
    with av.open(str(path)) as container:
        wanted = [
            frame.reformat(50, 50, "rgb24", interpolation="BILINEAR").to_ndarray()
            for frame in container.decode(video=0)
        ]  # 150 bytes a row, which the scaler fills up
    read = Video(path, keyframes).read(times, 0, 50, "squash")
    assert np.array_equal(read.transpose(0, 2, 3, 1), np.stack(wanted))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_video_is_read_rightly_after_a_time_that_it_does_not_have(tmp_path, is_known):
    path = write(tmp_path / "push_it.mp4", stamped(0, 40))
    times, keyframes, _ = scan_video(path)
    video = Video(path, keyframes if is_known else None)
    for missing in (times[-1] + 5 * times[1], times[20] + times[1] // 2):
        with pytest.raises(BadClipError):
            video.read(np.array([missing]), 0, 64, "squash")
        for frame in (3, 21, 39):
            (read,) = video.read(times[[frame]], 0, 64, "squash")
            assert read_stamp(read)[1] == frame
            with pytest.raises(BadClipError):
                video.read(np.array([missing]), 0, 64, "squash")


@pytest.mark.parametrize("name", ["go.mp4", "go.mkv", "without_cues.mkv", "go.avi"])
def test_a_clip_that_is_seen_for_the_first_time_is_read_rightly_wherever_it_begins(tmp_path, name):
    path = write(tmp_path / name, stamped(0, 40))
    if name == "without_cues.mkv":  # as a camera streams it
        options = {"live": "1"}
        with (
            av.open(str(path)) as made,
            av.open(str(tmp_path / "live.mkv"), "w", options=options) as out,
        ):
            stream = out.add_stream_from_template(made.streams.video[0])
            for packet in made.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        (tmp_path / "live.mkv").replace(path)
    for first in (0, 5, 8, 29):
        source = open_source(f"folder:{tmp_path}")
        wanted = np.arange(first, first + 10)
        frames = source.decode(0, "video", wanted, 64, "squash")
        assert [read_stamp(frame)[1] for frame in frames] == wanted.tolist()


def test_a_clip_is_opened_once_to_be_looked_at_and_read(tmp_path, monkeypatch):
    for i in range(3):
        write(tmp_path / f"push_it_{i}.mp4", stamped(i, 20))
    source, opened = open_source(f"folder:{tmp_path}"), []
    monkeypatch.setattr(av, "open", lambda *args, to=av.open: opened.append(args[0]) or to(*args))
    for clip in (1, 2):
        assert numbers(source, clip) == list(range(20))
    assert [Path(name).name for name in opened] == ["push_it_1.mp4", "push_it_2.mp4"]
    assert numbers(source, 1) == list(range(20)), "again, from what is remembered of it"
    assert len(opened) == 3


def test_frames_within_a_seeks_cost_of_the_beginning_are_decoded_without_one(tmp_path, monkeypatch):
    path = write(tmp_path / "push_it.mp4", stamped(0, 40))  # a keyframe every 8 frames
    times, keyframes, _ = scan_video(path)
    seeks = []
    seek = Video._seek
    monkeypatch.setattr(Video, "_seek", lambda self, t: seeks.append(t) or seek(self, t))
    for first, is_sought in ((0, False), (5, False), (30, True)):
        seeks.clear()
        video = Video(path, keyframes)
        frames = video.read(times[first : first + 6], 0, 64, "squash")
        assert [read_stamp(frame)[1] for frame in frames] == list(range(first, first + 6))
        assert bool(seeks) == is_sought


def numbered(path):
    """The stamped numbers that ffmpeg shows."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return [read_stamp(frame.transpose(2, 0, 1))[1] for frame in frames]


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("begin", [-500, -100, 0, 300])
@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
def test_the_frames_of_a_cut_or_delayed_clip_are_those_a_player_shows(
    tmp_path, container, begin, b_frames
):
    def shift(packet):
        by = round(begin / 1000 / packet.time_base)
        packet.pts, packet.dts = packet.pts + by, packet.dts + by

    options = {"crf": "12", "bf": str(b_frames)}
    path = write(tmp_path / f"push_it.{container}", stamped(0, 25), options=options, edit=shift)
    if container == "mkv" and begin < 0:
        pytest.skip("Matroska has no negative times")
    source, shown = open_source(f"folder:{tmp_path}"), numbered(path)
    assert len(shown) >= 20
    assert numbers(source) == shown
    times, keyframes, _ = scan_video(path)
    for known in (keyframes, None):
        video, rng = Video(path, known), np.random.default_rng(0)
        for _ in range(8):
            wanted = np.sort(rng.choice(len(shown), 3, replace=False))
            frames = video.read(times[wanted], 0, 64, "squash")
            assert [read_stamp(f)[1] for f in frames] == [shown[i] for i in wanted]


# What a player does with the quarter turns of a phone's header, and with its mirrored forms.
TURNS = {
    (1, 0, 0, 1): lambda f: f,
    (0, 1, -1, 0): lambda f: np.rot90(f, -1),
    (-1, 0, 0, -1): lambda f: np.rot90(f, 2),
    (0, -1, 1, 0): lambda f: np.rot90(f, 1),
    (-1, 0, 0, 1): lambda f: f[:, ::-1],
    (1, 0, 0, -1): lambda f: f[::-1],
    (0, 1, 1, 0): lambda f: f.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda f: np.rot90(f.transpose(1, 0, 2), 2),
}


def set_matrix(path, a, b, c, d):
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    values = [round(v * one) for v in (a, b, 0, c, d, 0, 0, 0)]
    data[at : at + 36] = struct.pack(">9i", *values, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("matrix", TURNS)
def test_a_phone_video_is_turned_as_a_player_turns_it(tmp_path, matrix, resize):
    corners = np.zeros((4, 64, 96, 3), np.uint8)
    corners[:, :32, :48] = 220, 0, 0  # red, green, blue and black: no two turns look the same
    corners[:, :32, 48:] = 0, 220, 0
    corners[:, 32:, :48] = 0, 0, 220
    path = write(tmp_path / "push_it.mp4", corners)
    set_matrix(path, *matrix)
    got = open_source(f"folder:{tmp_path}").decode(0, "video", np.arange(1), 32, resize)[0]
    want = decode_image(np.ascontiguousarray(TURNS[matrix](corners[0])), 32, resize)
    assert np.abs(got.astype(int) - want)[:, 4:12, 4:12].max() < 40
    assert np.abs(got.astype(int) - want).mean() < 12


def test_a_video_at_a_slant_is_refused(tmp_path):
    path = write(tmp_path / "push_it.mp4", stamped(0, 4))
    set_matrix(path, 0.7, 0.7, -0.7, 0.7)
    with pytest.raises(BadClipError, match="turned by"):
        numbers(open_source(f"folder:{tmp_path}"))


def test_a_photograph_is_turned_by_its_header(tmp_path):
    picture, exif = Image.fromarray(stamped(0, 1)[0]), Image.Exif()
    exif[0x0112] = 6  # held upright: a player turns it clockwise
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    got = decode_image(tmp_path / "a.jpg", 48, "squash").astype(int)
    want = decode_image(np.ascontiguousarray(np.rot90(stamped(0, 1)[0], -1)), 48, "squash")
    assert np.abs(got - want).mean() < 6


def test_pixels_that_are_no_squares_are_cut_out_as_they_are_shown(tmp_path):
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:, 32:64] = 255  # of 192 columns that are shown, the middle 64
    with av.open(str(tmp_path / "push_it.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    got = open_source(f"folder:{tmp_path}").decode(0, "video", np.arange(1), 64, "crop")
    assert got[..., 2:-2].min() > 200


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_of_an_avi_that_are_stored_in_another_order_are_those_that_are_shown(
    tmp_path, codec
):
    with av.open(str(tmp_path / "push_it.avi"), "w") as out:
        stream = out.add_stream(codec, rate=10, options={"b": "2000000"})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 64, 96, "yuv420p", 8
        stream.codec_context.max_b_frames = 2
        for frame in stamped(3, 30):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    source = open_source(f"folder:{tmp_path}")
    for wanted in (range(30), [21, 22], [4], [29], [0, 17]):
        frames = source.decode(0, "video", np.array(wanted), 64, "squash")
        assert [read_stamp(frame) for frame in frames] == [(3, t) for t in wanted]


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_a_grey_picture_of_16_bits_is_scaled_and_one_of_other_numbers_refused(tmp_path, kind):
    grey = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    values = grey.astype(kind) * (257 if kind == np.uint16 else 1 << 20 if kind == np.int32 else 1)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    if kind == np.uint16:
        got, want = decode_image(tmp_path / "a.tiff", 48, "squash"), np.stack([grey] * 3, axis=-1)
        np.testing.assert_array_equal(got, decode_image(want, 48, "squash"))
    else:
        with pytest.raises(BadClipError, match="8 or 16 bits a channel"):
            decode_image(tmp_path / "a.tiff", 48, "squash")


@pytest.mark.parametrize("matrix", [1, 2, 4, 5, 6, 7, 9])  # as H.273 numbers them; 2: unknown
@pytest.mark.parametrize("range_", [0, 1, 2])  # unknown, limited, full
def test_colours_are_those_that_ffmpeg_shows(tmp_path, matrix, range_):
    blocks = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    frames = blocks.repeat(16, 1).repeat(16, 2).repeat(2, 0)
    path = write(tmp_path / "push_it.mp4", frames, colour=(matrix, range_))
    with av.open(str(path)) as container:
        graph = av.filter.Graph()
        stream = container.streams.video[0]
        ends = [
            graph.add_buffer(template=stream),
            graph.add("scale", "64:64:flags=bilinear"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*ends).configure()
        frame = next(container.decode(stream))
        assert frame.colorspace == matrix
        graph.push(frame)
        want = graph.pull().to_ndarray().transpose(2, 0, 1).astype(int)
    got = open_source(f"folder:{tmp_path}").decode(0, "video", np.arange(1), 64, "squash")[0]
    assert np.abs(got - want).max() <= 2


def test_of_several_streams_the_one_that_ffmpeg_takes_is_read(tmp_path):
    path = tmp_path / "push_it.mkv"
    with av.open(str(path), "w") as out:
        streams = []
        for height in (32, 64, 48):
            stream = out.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = height, 2 * height, "yuv420p"
            streams.append(stream)
        for i, stream in enumerate(streams):
            for frame in stamped(i, 12, stream.height, stream.width):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode())
    frames = open_source(f"folder:{tmp_path}").decode(0, "video", np.arange(12), 64, "squash")
    assert [read_stamp(frame) for frame in frames] == [(1, t) for t in range(12)]


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_reading_a_video_starts_no_thread(tmp_path):
    write(tmp_path / "push_it.mp4", stamped(0, 12, 240, 320))
    source = open_source(f"folder:{tmp_path}")
    before = len([*Path("/proc/self/task").iterdir()])
    numbers(source)
    assert len([*Path("/proc/self/task").iterdir()]) <= before


def scene(name, size, count):
    """Frames of one of ffmpeg's test patterns."""
    graph = av.filter.Graph()
    source, sink = graph.add(name, f"size={size}:rate=12"), graph.add("buffersink")
    source.link_to(sink)
    graph.configure()
    return np.stack([graph.vpull().to_ndarray(format="rgb24") for _ in range(count)])


CODECS = {
    "libsvtav1": {"crf": "20", "preset": "10"},
    "libaom-av1": {"crf": "20", "cpu-used": "8", "usage": "realtime"},
    "libvpx": {"crf": "10", "b": "1M", "deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "8"},
    "libx264": {"crf": "0", "preset": "ultrafast"},
    "libx265": {"x265-params": "log-level=none:lossless=1", "preset": "ultrafast"},
    "mpeg4": {"q:v": "2"},
    "ffv1": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", ["testsrc2", "smptebars", "mandelbrot", "life"])
def test_no_sound_video_is_refused(tmp_path, codec, name):
    for size in ("320x240", "640x480"):
        write(tmp_path / f"{size}.mkv", scene(name, size, 36), codec=codec, options=CODECS[codec])
    source = open_source(f"folder:{tmp_path}")
    for clip in (0, 1):
        assert source.decode(clip, "video", np.arange(36), 16, "squash").any()


@pytest.mark.parametrize("size", [40, 300, 20_000])
def test_room_that_an_editor_has_left_at_the_end_is_no_damage(tmp_path, size):
    """An element `Void` of Matroska: its number, its size, zeros."""
    whole = write(tmp_path / "a.mkv", stamped(0, 8))
    number = (size | 1 << 14).to_bytes(2) if size < 1 << 14 else (size | 1 << 56).to_bytes(8)
    whole.write_bytes(whole.read_bytes() + b"\xec" + number + bytes(size))
    assert numbers(open_source(f"folder:{tmp_path}")) == list(range(8))
    whole.write_bytes(whole.read_bytes() + bytes(40))
    with pytest.raises(ValueError, match="can be opened"):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm"])
@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9", "libx264"])
def test_an_interrupted_download_is_refused_wherever_it_stopped(tmp_path, codec, container):
    if (codec, container) == ("libx264", "webm"):
        pytest.skip("webm holds no H.264")
    options = {**CODECS[codec], "crf": "20"}
    frames = scene("testsrc2", "320x240", 12)
    whole = write(tmp_path / f"a.{container}", frames, codec=codec, options=options)
    data = whole.read_bytes()
    with av.open(str(whole)) as file:
        packets = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    begin, end = packets[1][0], packets[-1][0] + packets[-1][1]
    for stop in np.linspace(begin, end - 64, 9).astype(int).tolist():
        index = data[end:] if container == "mp4" else b""  # mp4 keeps its table at the end
        whole.write_bytes(data[:stop] + bytes(len(data) - stop - len(index)) + index)
        with pytest.raises((BadClipError, ValueError)):
            numbers(open_source(f"folder:{tmp_path}"))
