# SPDX-License-Identifier: Apache-2.0
"""A converted set says of each frame what its source says: which instruction, and when."""

from dataclasses import replace

import numpy as np
import pytest
from data_fixtures import TASKS, build_lerobot, encode, read_stamp, stamped
from test_data_lerobot import add_rows, write_tasks
from test_data_video import write

from lawm_hf.data import WindowSpec, load, open_source
from lawm_hf.data.convert import Conversion, write_lerobot, write_shards

WINDOW = WindowSpec(chunk_size=3, image_size=64, with_frames=True)
HOW = Conversion(image_size=64)
# Milliseconds of frames that come every tenth of a second, but for a pause and a hurry.
TIMES = np.cumsum([0, *[100] * 6, 300, *[100] * 5, *[50] * 4, *[100] * 8])


def windows(spec, window=WINDOW):
    """Each window as instruction, stamps of its frames, padding."""
    return {
        tuple(sample["index"][1:].tolist()): (
            sample["task"],
            [read_stamp(frame) for frame in sample["frames"]],
            sample["frame_is_pad"].tolist(),
        )
        for sample in load(spec, window)
    }


@pytest.fixture
def changing(tmp_path):
    """Episodes whose instruction is another one in every fifth frame and after."""
    root = build_lerobot(tmp_path / "set", "v3.0", 3)
    add_rows(root, task_index=lambda episode, step: (episode + step // 5) % 3)
    write_tasks(root, "index", TASKS)
    return f"lerobot:{root},views=front"


def test_the_instruction_of_each_frame_outlives_a_conversion(tmp_path, changing):
    out = write_lerobot(open_source(changing), tmp_path / "lerobot", HOW)
    expected = windows(changing)
    assert [expected[1, step][0] for step in (0, 5)] == [TASKS[1], TASKS[2]]
    assert windows(f"lerobot:{out}") == expected
    shards = write_shards(open_source(changing), tmp_path / "wds", HOW)
    assert windows(f"wds:{shards}/*.tar") == expected
    assert open_source(f"wds:{shards}/*.tar").tasks(1) == (TASKS[1], TASKS[2], TASKS[0])
    (shards / "index.jsonl").unlink()  # is only a shortcut
    assert windows(f"wds:{shards}/*.tar") == expected


def test_lerobot_itself_reads_the_instruction_of_each_frame(tmp_path, changing):
    lerobot = pytest.importorskip("lerobot.datasets")
    out = write_lerobot(open_source(changing), tmp_path / "out", HOW)
    theirs = lerobot.LeRobotDataset("me/set", root=out, video_backend="pyav")
    tasks = [theirs[i]["task"] for i in range(theirs.meta.episodes[0]["length"])]
    assert tasks == [TASKS[step // 5 % 3] for step in range(len(tasks))]


def test_shards_keep_the_times_of_a_varying_rate(tmp_path):
    (tmp_path / "videos").mkdir()
    write(tmp_path / "videos/push_it.mp4", stamped(0, len(TIMES)), TIMES.tolist())
    source = open_source(f"folder:{tmp_path}/videos")
    out = write_shards(source, tmp_path / "out", HOW)
    found = open_source(f"wds:{out}/*.tar")
    np.testing.assert_allclose(found.times(0), source.times(0), atol=1e-4)
    timed = replace(WINDOW, frame_interval_s=0.19)
    assert windows(f"wds:{out}/*.tar", timed) == windows(f"folder:{tmp_path}/videos", timed)


def test_a_lerobot_set_holds_the_frame_nearest_to_each_time(tmp_path, caplog):
    (tmp_path / "videos").mkdir()
    write(tmp_path / "videos/push_it.mp4", stamped(0, len(TIMES)), TIMES.tolist())
    source = open_source(f"folder:{tmp_path}/videos")
    how = Conversion(image_size=64, fps=10)
    out = write_lerobot(source, tmp_path / "out", how)
    assert "The rate of 1 of 1 clips varies, such as in push_it.mp4" in caplog.text
    converted = windows(f"lerobot:{out}", replace(WINDOW, frame_interval_s=0.1))
    assert len(converted) == TIMES[-1] // 100
    original = windows(f"folder:{tmp_path}/videos", replace(WINDOW, frame_interval_s=0.1))
    shared = [n for n in range(len(TIMES) - 4) if TIMES[n] % 100 == 0]
    assert len(shared) > 15
    for number in shared:
        assert converted[0, TIMES[number] // 100] == original[0, number]


def test_clips_of_several_rates_become_a_set_of_the_one_asked_for(tmp_path):
    for clip, fps in enumerate((10, 30, 25)):
        encode(stamped(clip, 24), str(tmp_path / f"push_it_{clip}.mp4"), fps)
    source = open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="Pass `--fps 10`"):
        write_lerobot(source, tmp_path / "out", HOW)
    timed, how = replace(WINDOW, frame_interval_s=0.1), replace(HOW, fps=10)
    original = windows(f"folder:{tmp_path}", timed)
    lerobot = write_lerobot(source, tmp_path / "out", how)
    shards = write_shards(source, tmp_path / "shards", how)
    for spec in (f"lerobot:{lerobot}", f"wds:{shards}/*.tar"):
        converted = windows(spec)
        assert [open_source(spec).length(clip) for clip in range(3)] == [24, 9, 10]
        assert converted[0, 0] == original[0, 0]
        for (clip, start), (_, stamps, _) in converted.items():
            rate = (10, 30, 25)[clip]
            wanted = np.floor(np.arange(start, start + 4) * 0.1 * rate + 0.5)
            held = np.floor((open_source(spec).length(clip) - 1) * 0.1 * rate + 0.5)
            assert stamps == [(clip, min(t, held, 23)) for t in wanted]


def test_a_rate_that_the_source_cannot_give_is_refused(tmp_path):
    encode(stamped(0, 24), str(tmp_path / "push_it.mp4"), 10)
    source = open_source(f"folder:{tmp_path}")
    for write_set in (write_lerobot, write_shards):
        with pytest.raises(ValueError, match=r"must not exceed the rate.*got 20.*Pass at most 10"):
            write_set(source, tmp_path / "out", replace(HOW, fps=20))
    with pytest.raises(ValueError, match="pass `image_size`"):
        write_shards(source, tmp_path / "out", Conversion(fps=5))
    robot = open_source(f"lerobot:{build_lerobot(tmp_path / 'set', 'v3.0', 2)}")
    with pytest.raises(ValueError, match=r"actions belong to the frames.* 10, got 5\. Leave"):
        write_lerobot(robot, tmp_path / "out", replace(HOW, fps=5))
