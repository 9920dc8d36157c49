# SPDX-License-Identifier: Apache-2.0
"""Clips that a pretraining run is judged on: which, and what is said of them."""

import pytest
from data_fixtures import encode, stamped
from fake_source import FakeSource

from lawm_hf.analysis.report import LatentReport, report_clips, training_sources
from lawm_hf.data import WindowSpec, open_source
from lawm_hf.data.commands import contact_sheet, describe
from lawm_hf.models import LAWMProcessor

WINDOW = WindowSpec(chunk_size=2, image_size=16, with_frames=True, with_state=False)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i in range(24):
        encode(stamped(i, 8, 32, 32), str(folder / f"push_it_{i:02d}.mp4"), 10)
    return folder


def clips_of(spec, sources, share=0.02):
    processor = LAWMProcessor(image_size=16, frame_size=16)
    return report_clips(spec, sources, WINDOW, processor, share=share)


@pytest.mark.parametrize(
    ("num_clips", "share", "expected"),
    [(7, 0.02, 0), (8, 0.02, 2), (60, 0.02, 5), (1000, 0.02, 20), (40_000, 0.02, 300), (60, 0, 0)],
)
def test_a_stated_share_of_the_clips_is_held_out_always_the_same(num_clips, share, expected):
    source = FakeSource("a", [9] * num_clips)
    training, held_out = source.hold_out(share)
    chosen = [] if held_out is None else held_out.clips.tolist()
    assert len(chosen) == expected
    assert sorted([*chosen, *training.clips.tolist()]) == list(range(num_clips))
    again = FakeSource("a", [9] * num_clips)
    again.clips = again.clips[::-1]
    others = again.hold_out(share)[1]
    assert sorted(chosen) == sorted([] if others is None else others.clips.tolist())


def test_clips_that_are_judged_on_are_not_trained_on(videos):
    sources = [f"folder:{videos}"]
    (training,) = training_sources(sources, "auto", 0.02)
    clips, fit, is_held_out = clips_of("auto", sources)
    assert is_held_out
    assert fit is not None
    assert len(clips) == 5
    assert not set(clips.episodes) & {*training.clips.tolist(), *fit.episodes}
    assert len(training.clips) == 19
    for judged_on, share in (("none", 0.02), ("auto", 0.0), (f"folder:{videos},episodes=:4", 0.02)):
        (training,) = training_sources(sources, judged_on, share)
        assert len(training.clips) == 24


def test_training_clips_are_never_called_held_out(videos, tmp_path):
    sources = [f"folder:{videos},episodes=:12"]
    assert not clips_of("auto", sources, share=0.0)[2]
    assert not clips_of(f"folder:{videos},episodes=10:", sources)[2]
    assert clips_of(f"folder:{videos},episodes=12:", sources)[2]
    processor = LAWMProcessor(image_size=16, frame_size=16)
    report = LatentReport("auto", sources, WINDOW, processor, tmp_path)
    assert report.about == "4 clips of the training data"


def test_a_bad_clip_among_those_to_judge_on_is_left_out(videos, tmp_path):
    held_out = open_source(f"folder:{videos}").hold_out(0.02)[1]
    names = [held_out.clip_name(int(clip)) for clip in held_out.clips]
    for path in videos.iterdir():
        (tmp_path / path.name).write_bytes(b"" if names[0] in str(path) else path.read_bytes())
    clips, _, is_held_out = clips_of("auto", [f"folder:{tmp_path}"])
    assert is_held_out
    assert len(clips) == len(set(clips.episodes.tolist())) == 4
    for path in tmp_path.iterdir():
        if names[0] not in str(path) and any(name in str(path) for name in names[:4]):
            path.write_bytes(b"")
    with pytest.raises((ValueError, RuntimeError), match=r"two episodes at least|are bad"):
        clips_of("auto", [f"folder:{tmp_path}"])


def test_a_bad_clip_does_not_end_an_inspection(videos, tmp_path):
    for path in videos.iterdir():
        is_bad = path.name in ("push_it_00.mp4", "push_it_07.mp4")
        (tmp_path / path.name).write_bytes(b"" if is_bad else path.read_bytes())
    source = open_source(f"folder:{tmp_path}")
    assert describe(source)["frames per clip"] == "8 … 8.0 … 8 (22 looked at, 2 bad)"
    assert contact_sheet(source).height == 5 * 96  # of clips 0, 4, 8, …; the first is bad
