# SPDX-License-Identifier: Apache-2.0
"""Rows and videos of a LeRobot set that contradict `info.json`, or are written in another form."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import build_lerobot, encode, read_stamp, stamped
from test_data_lerobot import EPISODES, FRONT, add_rows, check_windows, edit_info, rewrite
from test_data_lerobot_meta import edit_episodes

from lawm_hf.data import WindowSpec, load, open_source
from lawm_hf.data.bad_clips import BadClipError
from lawm_hf.data.convert import Conversion, write_lerobot

WRIST = "observation.images.wrist"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_video_of_another_rate_that_has_a_picture_for_each_row_is_refused(tmp_path, version):
    root = build_lerobot(tmp_path / "set", version, num_episodes=4)
    frames = [stamped(e, 12 + e) for e in range(4)]
    shared = 2 if version == "v3.0" else 1
    for number, path in enumerate(sorted((root / "videos" / FRONT).rglob("*.mp4"))):
        encode(np.concatenate(frames[number * shared :][:shared]), str(path), 30)
    window = WindowSpec(chunk_size=2, image_size=64, with_frames=True, max_start=0)
    with pytest.raises(RuntimeError, match=r"30 per second, and info\.json states 10"):
        [sample["task"] for sample in load(f"lerobot:{root}", window)]


def test_frames_are_as_far_apart_as_asked_where_rows_and_info_differ_in_their_rate(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1")
    edit_info(root, fps=30)
    add_rows(root, timestamp=lambda episode, step: np.float32(step / 10))
    window = WindowSpec(chunk_size=2, image_size=64, with_frames=True, frame_interval_s=0.2)
    samples = load(f"lerobot:{root}", window)
    assert [read_stamp(frame) for frame in samples[0]["frames"]] == [(0, 0), (0, 2), (0, 4)]
    write_lerobot(samples.source, tmp_path / "out", Conversion(image_size=64))
    converted = open_source(f"lerobot:{tmp_path / 'out'}")
    assert converted.features.fps == 10
    check_windows(converted)


@pytest.mark.parametrize("unit", [1e3, 1e9, "date"])
def test_times_that_are_no_seconds_are_not_taken_for_seconds(tmp_path, unit):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=2)
    date = lambda step: np.datetime64(100 * step, "ms")  # noqa: E731
    add_rows(root, timestamp=lambda e, step: date(step) if unit == "date" else unit * step / 10)
    check_windows(open_source(f"lerobot:{root}"))


def test_rows_without_a_number_are_refused_and_not_put_last(tmp_path):
    root = build_lerobot(tmp_path / "set", "v3.0")
    add_rows(root, frame_index=lambda e, step: None if (e, step) == (1, 3) else step)
    source = open_source(f"lerobot:{root}")
    source.low_dim(0)
    with pytest.raises(BadClipError, match="rows without a `frame_index`"):
        source.low_dim(1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"action": lambda e, step: None if step == 3 else [0.0] * 7}, "as many in each row"),
        ({"action": lambda e, step: [0.0] * (7 - step % 2)}, "as many in each row"),
        (None, "no column `action`"),
    ],
)
def test_actions_that_lack_in_a_row_say_which_column(tmp_path, rows, message):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=1)
    path = next((root / "data").rglob("*.parquet"))
    if rows is None:
        pq.write_table(pq.read_table(path).drop_columns(["action"]), path)
    else:
        add_rows(root, **rows)
    with pytest.raises(BadClipError, match=message):
        open_source(f"lerobot:{root}").low_dim(0)


def test_a_gripper_that_is_true_or_false_is_part_of_the_action(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=1)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    del features["action"]
    parts = {"action.gripper": "bool", "action.arm": "float64", "action.is_valid": "bool"}
    edit_info(root, features=features | {k: {"dtype": d, "shape": [1]} for k, d in parts.items()})
    closed, arm = lambda e, step: step > 5, lambda e, step: 0.5
    add_rows(root, **{"action.gripper": closed, "action.arm": arm, "action.is_valid": closed})
    actions = open_source(f"lerobot:{root}").sound_low_dim(0)[1]
    assert actions[[0, 6]].tolist() == [[0, 0.5], [1, 0.5]]


@pytest.mark.parametrize("form", ["bytes", "path", "absolute", "structure"])
def test_pictures_are_bytes_or_paths_bare_or_in_a_structure(tmp_path, form):
    root = build_lerobot(tmp_path / "set", "v3.0", images=True)
    (root / "images").mkdir()

    def written(value):
        if form == "bytes":
            return value["bytes"]
        path = root / f"images/{len(list((root / 'images').iterdir()))}.png"
        path.write_bytes(value["bytes"])
        name = str(path if form == "absolute" else path.relative_to(root))
        return {"bytes": None, "path": name} if form == "structure" else name

    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        for camera in (FRONT, WRIST):
            cells = pa.array([written(value) for value in table[camera].to_pylist()])
            table = table.set_column(table.column_names.index(camera), camera, cells)
        pq.write_table(table, path)
    check_windows(open_source(f"lerobot:{root}"))


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": None}, [1, 2]])
def test_a_row_without_a_picture_is_named(tmp_path, cell):
    root = build_lerobot(tmp_path / "set", "v3.0", images=True, num_episodes=2)
    path = next((root / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    cells = pa.array([cell] * len(table))
    pq.write_table(table.set_column(table.column_names.index(FRONT), FRONT, cells), path)
    with pytest.raises(BadClipError, match="row 12 must hold the bytes of a picture or its path"):
        open_source(f"lerobot:{root}").decode(1, FRONT, np.arange(2), 64, "squash")


def test_statistics_that_contradict_themselves_are_computed_anew(tmp_path, caplog):
    root = build_lerobot(tmp_path / "set", "v3.0")
    truth = open_source(f"lerobot:{root}").stats()
    names = {"observation.state": "state", "action": "actions"}
    stored = {k: {s: v.tolist() for s, v in truth[n].items()} for k, n in names.items()}
    stored["action"]["q01"], stored["action"]["q99"] = (
        stored["action"]["q99"],
        stored["action"]["q01"],
    )
    (root / "meta/stats.json").write_text(json.dumps(stored))
    with caplog.at_level(logging.WARNING):
        found = open_source(f"lerobot:{root}").stats()
    np.testing.assert_array_equal(found["actions"]["q01"], truth["actions"]["q01"])
    assert "its `q01` is larger than its `q99`" in caplog.text


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_rows_that_were_cut_off_at_the_beginning_keep_their_pictures(tmp_path, version):
    root = build_lerobot(tmp_path / "set", version)
    add_rows(root, timestamp=lambda episode, step: np.float32(step / 10))
    for path in (root / "data").rglob("*.parquet"):
        rewrite(path, lambda f: f[f.timestamp > 0.25])
    if version == "v3.0":
        begin, end = (f"videos/{FRONT}/{which}_timestamp" for which in ("from", "to"))
        cut = lambda f: {end: f[begin] + f.length / 10, "length": f.length - 3}  # noqa: E731
        rewrite(root / EPISODES, lambda f: f.assign(**cut(f)))
    else:
        edit_episodes(root, lambda rows: [r | {"length": r["length"] - 3} for r in rows])
    source = open_source(f"lerobot:{root}")
    for clip in range(2):
        frames = source.decode(clip, FRONT, np.arange(9), 64, "squash")
        assert [read_stamp(frame) for frame in frames] == [(clip, t + 3) for t in range(9)]
        assert source.low_dim(clip)[0][:9, 1].tolist() == [*range(3, 12)]


def test_times_of_another_clock_say_nothing_of_the_video(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1")
    add_rows(root, timestamp=lambda episode, step: 1.7e9 * (episode % 2) + 2 * episode + step / 10)
    check_windows(open_source(f"lerobot:{root}"))


def test_a_gripper_that_is_not_of_0_to_1_is_not_converted_as_if(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=1)
    add_rows(root, action=lambda episode, step: [0.0] * 6 + [-1.0 if step < 5 else 1.0])
    with pytest.raises(BadClipError, match=r"one of 0 to 1, got -1 to 1: leave it out"):
        open_source(f"lerobot:{root},gripper=open_is_1").low_dim(0)
    with pytest.raises(ValueError, match=r"must be a feature of numbers, got one of video"):
        open_source(f"lerobot:{root},action={FRONT}")


def test_episodes_without_frames_are_counted_and_named(tmp_path, caplog):
    root = build_lerobot(tmp_path / "set", "v2.1")
    edit_episodes(
        root, lambda rows: [r | {"length": r["length"] * (i != 2)} for i, r in enumerate(rows)]
    )
    open_source(f"lerobot:{root}")
    assert "1 of the 5 episodes" in caplog.text
    assert "have no frames, such as 2." in caplog.text


def test_times_that_begin_with_the_second_frame_are_of_another_clock(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1")
    add_rows(root, timestamp=lambda episode, step: np.float32((step + 1) / 10))
    check_windows(open_source(f"lerobot:{root}"))
