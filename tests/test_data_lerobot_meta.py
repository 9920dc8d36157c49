# SPDX-License-Identifier: Apache-2.0
"""`meta/` of a LeRobot set that is not what its rows and videos are: read rightly, or refused."""

import json

import numpy as np
import pandas as pd
import pytest
from data_fixtures import TASKS, build_lerobot
from test_data_lerobot import EPISODES, FRONT, add_rows, check_windows, edit_info, rewrite

from lawm_hf.data import open_source

BEGIN = f"videos/{FRONT}/from_timestamp"


def edit_episodes(root, change):
    """Change the rows of `episodes.jsonl`."""
    path = root / "meta/episodes.jsonl"
    rows = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.drop(columns=[BEGIN]),
        lambda f: f.assign(**{BEGIN: None}),
        lambda f: f.assign(**{BEGIN: float("nan")}),
        lambda f: f.assign(**{f"videos/{FRONT}/file_index": [0, 0, 0, 1, 1]}),
    ],
)
def test_episodes_that_would_share_their_frames_are_refused(tmp_path, change):
    root = build_lerobot(tmp_path / "set", "v3.0")
    rewrite(root / EPISODES, change)
    with pytest.raises(ValueError, match=r"frames of its own.*file_000\.mp4.*write meta/ again"):
        open_source(f"lerobot:{root}")


def test_two_instructions_for_the_very_same_frames_are_no_fault(tmp_path):
    root = build_lerobot(tmp_path / "set", "v3.0", num_episodes=2)
    rewrite(root / EPISODES, lambda f: pd.concat([f, f.iloc[:1].assign(episode_index=2)]))
    paths = open_source(f"lerobot:{root}").table.videos[FRONT][0]
    assert paths[0] == paths[2]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_an_episode_that_is_listed_twice_counts_once(tmp_path, version, caplog):
    root = build_lerobot(tmp_path / "set", version)
    edit_info(root, total_episodes=9)
    if version == "v3.0":
        rewrite(root / EPISODES, lambda f: pd.concat([f, f.iloc[[1]]]))
    else:
        edit_episodes(root, lambda rows: [*rows, rows[1]])
    source = open_source(f"lerobot:{root}")
    check_windows(source)
    assert source.lengths.tolist() == [12, 13, 14, 15, 16]
    assert "6 rows for 5 episodes" in caplog.text
    assert "5 of the 9 episodes that info.json counts" in caplog.text


def test_episodes_are_ordered_by_number_also_where_numbers_are_texts(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=12)
    edit_episodes(root, lambda rows: [r | {"episode_index": str(r["episode_index"])} for r in rows])
    source = open_source(f"lerobot:{root},episodes=2:4")
    assert source.table.ids[source.clips].tolist() == [2, 3]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_small_files_may_begin_with_a_byte_order_mark_and_hold_any_letter(tmp_path, mark):
    root = build_lerobot(tmp_path / "set", "v2.1")
    edit_episodes(root, lambda rows: [r | {"tasks": ["lift\u2028the\x85cup"]} for r in rows])
    for name in ("info.json", "episodes.jsonl"):
        path = root / "meta" / name
        path.write_text(mark + path.read_text("utf-8"), "utf-8")
    assert open_source(f"lerobot:{root}").task(3) == "lift\u2028the\x85cup"


def test_tasks_that_are_numbers_are_those_of_the_table(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1")
    edit_episodes(root, lambda rows: [r | {"tasks": [r["episode_index"] % 3]} for r in rows])
    rows = [{"task_index": i, "task": task} for i, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    check_windows(open_source(f"lerobot:{root}"))


def test_a_table_of_tasks_whose_column_is_unclear_is_named_and_not_guessed_from(tmp_path, caplog):
    root = build_lerobot(tmp_path / "set", "v2.1")
    add_rows(root, task_index=lambda episode, step: episode % 3)
    rows = [{"task_index": i, "room": "kitchen", "words": task} for i, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    check_windows(open_source(f"lerobot:{root}"))  # by `tasks` of the episodes
    assert "tasks.jsonl is not used" in caplog.text


def test_rows_that_contradict_the_instruction_of_their_episode_are_named_once(tmp_path, caplog):
    root = build_lerobot(tmp_path / "set", "v2.1")
    add_rows(root, task_index=lambda episode, step: 0)
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": TASKS[0]}))
    check_windows(open_source(f"lerobot:{root}"), lambda episode, step: TASKS[0])
    assert caplog.text.count("The rows of episode 1 say 'push the red cube', meta/ says 'open") == 1
    assert caplog.text.count("the rows count") == 1


@pytest.mark.parametrize("shape", [7, None, [6]])
def test_a_shape_that_is_a_number_or_absent_or_wrong_is_read_or_told(tmp_path, shape):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=1)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit_info(root, features=features | {"action": {"dtype": "float32", "shape": shape}})
    source = open_source(f"lerobot:{root}")
    if shape == 7:
        assert np.shape(source.sound_low_dim(0)[1]) == (12, 7)
    else:
        with pytest.raises(Exception, match=r"actions should have shape .*got \(12, 7\)"):
            source.sound_low_dim(0)


def test_what_a_mac_leaves_beside_the_files_of_a_set_is_not_of_it(tmp_path):
    root = build_lerobot(tmp_path / "set", "v3.0")
    for path in list(root.rglob("*.parquet")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    rewrite(root / EPISODES, lambda f: f.assign(**{"data/file_index": 7}))  # so it looks for them
    check_windows(open_source(f"lerobot:{root}"))


def test_a_frame_without_a_task_is_told_as_that(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=2)
    add_rows(root, task_index=lambda episode, step: None if step == 2 else episode)
    rows = [{"task_index": i, "task": task} for i, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(f"lerobot:{root}")
    assert source.task_at(1, 3) == TASKS[1]
    with pytest.raises(Exception, match="frame 2 has no instruction"):
        source.task_at(1, 2)
