# SPDX-License-Identifier: Apache-2.0
"""LeRobot sets in the dialects of the Hub: which instruction, which row, which picture."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import TASKS, build_lerobot, encode, low_dim, read_stamp, stamped

from lawm_hf.data import WindowSpec, load, make_loader, open_source

EPISODES = "meta/episodes/chunk-000/file-000.parquet"
FRONT = "observation.images.front"


def rewrite(path, change):
    """Change a parquet file as a pandas frame."""
    frame = pq.read_table(path).to_pandas()
    pq.write_table(pa.Table.from_pandas(change(frame) if callable(change) else change), path)


def edit_info(root, **changes):
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, **changes}))


def add_rows(root, **columns):
    """Add columns, functions of (episode, step), to the rows of every data file."""

    def change(frame):
        steps = frame.groupby("episode_index").cumcount()
        for name, value in columns.items():
            frame[name] = [value(e, t) for e, t in zip(frame.episode_index, steps, strict=True)]
        return frame

    for path in (root / "data").rglob("*.parquet"):
        rewrite(path, change)


def write_tasks(root, how, tasks):
    """`meta/tasks`, in a form that is found on the Hub; the order of its rows is not the number."""
    numbers = list(range(len(tasks)))[::-1]
    texts = [tasks[i] for i in numbers]
    if how == "jsonl":
        rows = [{"task_index": i, "task": t} for i, t in zip(numbers, texts, strict=True)]
        (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        frame = pd.DataFrame({"task_index": numbers})
        frame = frame.assign(task=texts) if how == "column" else frame.set_index(pd.Index(texts))
        frame.index.name = "task" if how == "index" else None
        frame.to_parquet(root / "meta/tasks.parquet")


def check_windows(source, task=lambda clip, step: TASKS[clip % 3]):
    """Every window has its own pictures, state, actions and instruction."""
    window = WindowSpec(chunk_size=2, image_size=64, with_frames=True, with_actions=True)
    samples = load(source, window)
    assert len(samples)
    for sample in samples:
        _, clip, start = sample["index"].tolist()
        episode, last = int(source.table.ids[clip]), source.length(clip) - 1
        stamps = [read_stamp(frame) for frame in sample["frames"]]
        assert stamps == [(episode, min(start + k, last)) for k in range(3)]
        rows = low_dim(episode, last + 1, 7)[np.minimum(start + np.arange(2), last)]
        np.testing.assert_array_equal(sample["actions"], rows)
        np.testing.assert_array_equal(sample["state"], low_dim(episode, last + 1, 8)[start])
        assert sample["task"] == task(episode, start)


@pytest.mark.parametrize("how", ["index", "unnamed index", "column", "jsonl"])
@pytest.mark.parametrize("tasks", ["absent", "null", "empty list"])
def test_instructions_come_from_the_rows_where_the_episodes_have_none(tmp_path, how, tasks):
    root = build_lerobot(tmp_path / "set", "v3.0")
    add_rows(root, task_index=lambda episode, step: episode % 3)
    write_tasks(root, how, TASKS)
    values = {"null": None, "empty list": [[]] * 5}
    rewrite(
        root / EPISODES,
        lambda f: f.drop(columns="tasks") if tasks == "absent" else f.assign(tasks=values[tasks]),
    )
    check_windows(open_source(f"lerobot:{root}"))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_bare_string_is_the_instruction_not_its_first_letter(tmp_path, version):
    root = build_lerobot(tmp_path / "set", version)
    if version == "v3.0":
        rewrite(root / EPISODES, lambda f: f.assign(tasks=[t[0] for t in f.tasks]))
    else:
        path = root / "meta/episodes.jsonl"
        path.write_text(re.sub(r"\[(\".*?\")\]", r"\1", path.read_text()))
    check_windows(open_source(f"lerobot:{root}"))


@pytest.mark.parametrize("version", ["v2.0", "v3.0"])
@pytest.mark.parametrize("listed", [["reach", "lift"], ["lift", "reach"], ["reach"], None])
def test_a_window_has_the_instruction_of_its_first_frame(tmp_path, version, listed):
    root = build_lerobot(tmp_path / "set", version)
    add_rows(root, task_index=lambda episode, step: int(step >= 5))
    write_tasks(root, "jsonl" if version == "v2.0" else "index", ["reach", "lift"])
    if version == "v3.0":
        rewrite(root / EPISODES, lambda f: f.assign(tasks=[listed] * len(f)))
    else:
        path = root / "meta/episodes.jsonl"
        rows = [{**json.loads(line), "tasks": listed} for line in path.read_text().splitlines()]
        path.write_text("\n".join(map(json.dumps, rows)))
    source = open_source(f"lerobot:{root}")
    check_windows(source, lambda clip, step: "reach" if step < 5 else "lift")
    assert source.task(0) == "reach"
    if listed and len(listed) == 2:
        assert source.tasks(0) == ("reach", "lift")


def test_rows_are_found_by_their_own_episode_index(tmp_path):
    root = build_lerobot(tmp_path / "set", "v3.0", num_episodes=9)
    stale = lambda f: f.assign(**{"data/file_index": [0, 0, 0, 0, 1, 1, 1, 2, 7]})  # noqa: E731
    rewrite(root / EPISODES, stale)
    check_windows(open_source(f"lerobot:{root}"))
    rewrite(root / EPISODES, lambda f: f.drop(columns=["data/file_index", "dataset_from_index"]))
    check_windows(open_source(f"lerobot:{root}"))
    rewrite(root / EPISODES, lambda f: f[f.episode_index.isin([1, 4, 8])])
    check_windows(open_source(f"lerobot:{root}"))


@pytest.mark.parametrize("images", [False, True])
def test_rows_in_any_order_are_sorted_by_their_frame_index(tmp_path, images):
    root = build_lerobot(tmp_path / "set", "v3.0", images=images)
    add_rows(root, frame_index=lambda episode, step: step)
    for path in (root / "data").rglob("*.parquet"):
        rewrite(path, lambda f: f.sample(frac=1, random_state=0))
    check_windows(open_source(f"lerobot:{root}"))


def test_an_episode_that_lost_rows_is_refused_by_name(tmp_path):
    root = build_lerobot(tmp_path / "set", "v3.0")
    rewrite(root / "data/chunk-000/file_000.parquet", lambda f: f.drop(index=14))
    source = open_source(f"lerobot:{root}")
    with pytest.raises(Exception, match=r"12 rows of data for 13 frames, data/.*\.parquet"):
        source.low_dim(1)
    source.low_dim(2)


def test_episode_tables_whose_column_types_differ_are_read_together(tmp_path):
    root = build_lerobot(tmp_path / "set", "v3.0")
    table = pq.read_table(root / EPISODES)
    first, second = table.slice(0, 2), table.slice(2)
    for name, kind in {
        "tasks": pa.list_(pa.large_string()),
        "length": pa.int32(),
        "data/file_index": pa.float64(),
        f"videos/{FRONT}/file_index": pa.float64(),
    }.items():
        at = second.schema.get_field_index(name)
        second = second.set_column(at, name, second[name].cast(kind))
    pq.write_table(first, root / EPISODES)
    pq.write_table(second.select(second.column_names[::-1]), root / f"{EPISODES[:-12]}001.parquet")
    check_windows(open_source(f"lerobot:{root}"))


def test_a_padded_camera_is_masked_where_its_column_says_so(tmp_path):
    root = build_lerobot(tmp_path / "set", "v3.0")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    mask = "observation.images.wrist_available"
    edit_info(root, features={**features, mask: {"dtype": "bool", "shape": [1]}})
    add_rows(
        root, **{mask: lambda episode, step: episode != 2 and not (episode == 3 and step == 4)}
    )
    window = WindowSpec(image_size=64, views=("front", "wrist"))
    for sample in load(f"lerobot:{root}", window):
        _, clip, start = sample["index"].tolist()
        assert sample["view_mask"].tolist() == [True, clip not in (2, 3)]
        if clip not in (2, 3):
            assert read_stamp(sample["images"][1]) == (100 + clip, start)


@pytest.mark.parametrize(
    ("key", "feature"),
    [
        ("observation.images.head_depth", {}),
        ("observation.depth_h", {}),
        ("observation.images.a_map", {"info": {"video.pix_fmt": "gray16le"}}),
        ("observation.images.a_map", {"video_info": {"is_depth_map": True}}),
        ("observation.images.a_map", {"shape": [1, 64, 96]}),
        ("observation.images.a_map", {"shape": [64, 96, 1]}),
    ],
)
def test_a_depth_map_is_no_view_flagged_or_not(tmp_path, key, feature):
    root = build_lerobot(tmp_path / "set", "v2.1")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    depth = {key: {"dtype": "video", "shape": [64, 96, 3], **feature}}
    edit_info(root, features={**depth, **features})
    cameras = open_source(f"lerobot:{root}").features.cameras
    assert cameras == (FRONT, "observation.images.wrist")


def test_the_frame_nearest_in_time_is_taken_whatever_the_rate_of_the_video(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=1)
    path = next((root / "videos" / FRONT).rglob("*.mp4"))
    encode(np.repeat(stamped(0, 12), 3, axis=0), str(path), 30)  # three pictures of each frame
    frames = open_source(f"lerobot:{root}").decode(0, FRONT, np.arange(12), 64, "squash")
    assert [read_stamp(frame) for frame in frames] == [(0, t) for t in range(12)]
    # A recorder that missed a picture now and then: the rows say when each was taken.
    times = np.cumsum([0, *np.random.default_rng(0).choice([1, 2], 11)]) / 10
    add_rows(root, timestamp=lambda episode, step: np.float32(times[step]))
    shown = np.repeat(stamped(0, 12), np.diff([*(10 * times).round().astype(int), 99]), axis=0)
    encode(shown, str(path), 10)
    frames = open_source(f"lerobot:{root}").decode(0, FRONT, np.arange(12), 64, "squash")
    assert [read_stamp(frame) for frame in frames] == [(0, t) for t in range(12)]


@pytest.mark.parametrize(("option", "want"), [("open_is_1", [-1, 1]), ("closed_is_1", [1, -1])])
def test_a_gripper_of_0_to_1_is_refused_or_becomes_that_of_libero(tmp_path, option, want):
    tasks = ["Open the middle drawer of the cabinet"]
    root = build_lerobot(tmp_path / "set", "v2.0", num_episodes=2, tasks=tasks)

    def binary(frame):
        actions = np.stack(frame.action.tolist())
        actions[:, 6] = np.arange(len(actions)) < 5  # 1 at first
        return frame.assign(action=list(actions))

    for path in (root / "data").rglob("*.parquet"):
        rewrite(path, binary)
    with pytest.raises(ValueError, match="gripper=open_is_1"):
        open_source(f"lerobot:{root},suite=libero_goal")
    source = open_source(f"lerobot:{root},suite=libero_goal,gripper={option}")
    actions = source.low_dim(0)[1]
    assert actions[[0, 6], 6].tolist() == want
    assert sorted(source.stats()["actions"][k][6] for k in ("min", "max")) == [-1, 1]
    with pytest.raises(ValueError, match="open_is_1 or closed_is_1"):
        open_source(f"lerobot:{root},gripper=yes")


@pytest.mark.parametrize("path", ["../private.parquet", "{here}/private.parquet", "link.parquet"])
def test_a_set_does_not_lead_out_of_its_folder(tmp_path, path):
    root = build_lerobot(tmp_path / "set", "v2.1")
    private = tmp_path / "private.parquet"
    private.write_bytes((root / "data/chunk-000/episode_000000.parquet").read_bytes())
    (root / "link.parquet").symlink_to(private)
    edit_info(root, data_path=path.format(here=tmp_path))
    with pytest.raises(ValueError, match="only files in its own folder"):
        open_source(f"lerobot:{root}").low_dim(0)


def test_a_snapshot_in_the_cache_of_the_hub_may_link_to_its_blobs(tmp_path):
    repo = tmp_path / "datasets--me--set"
    root = build_lerobot(repo / "snapshots/c0ffee", "v2.1")
    (repo / "blobs").mkdir()
    for i, path in enumerate([p for p in root.rglob("*") if p.is_file()]):
        path.rename(repo / f"blobs/{i}")
        path.symlink_to(repo / f"blobs/{i}")
    check_windows(open_source(f"lerobot:{root}"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 0}, "positive"),
        ({"fps": float("nan")}, "positive"),
        ({"fps": "fast"}, "incomplete"),
        ({"chunks_size": -1}, "positive"),
        ({"features": {"action": {"dtype": "float32", "shape": [-7]}}}, "positive"),
        ({"features": []}, "incomplete"),
        ({"data_path": "{chunk_index:0999999999d}"}, "no valid path"),
        ({"data_path": "{episode_index.__class__}"}, "no valid path"),
        ({"codebase_version": "v1.6"}, "v2.0, v2.1 and v3.0 are read"),
    ],
)
def test_an_info_file_that_cannot_be_right_is_refused(tmp_path, changes, message):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=1)
    edit_info(root, **changes)
    with pytest.raises(ValueError, match=message):
        open_source(f"lerobot:{root}")


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"episode_index": 0, "length": 9999999999999}'])
def test_an_episode_table_that_cannot_be_right_is_refused(tmp_path, text):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=1)
    (root / "meta/episodes.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"episodes|frames"):
        open_source(f"lerobot:{root}")


def test_a_recording_without_an_end_is_named(tmp_path):
    root = build_lerobot(tmp_path / "set", "v3.0")
    path = root / "data/chunk-000/file_000.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(Exception, match=r"file_000\.parquet is not a complete parquet file"):
        open_source(f"lerobot:{root}").low_dim(0)
    (root / EPISODES).write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="not a complete parquet file"):
        open_source(f"lerobot:{root}")


@pytest.mark.parametrize("length", [float("inf"), "ten", None, [3], 10**400])
def test_a_length_that_is_none_is_refused_by_name(tmp_path, length):
    root = build_lerobot(tmp_path / "set", "v2.1")
    path = root / "meta/episodes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["length"] = length
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"meta/|must have 0 to"):
        open_source(f"lerobot:{root}")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: "{",
        lambda s: json.dumps(s | {"action": {**s["action"], "std": [float("nan")] * 7}}),
        lambda s: json.dumps(s | {"action": {**s["action"], "std": [1.0] * 6}}),
        lambda s: json.dumps(s | {"action": "x"}),
        lambda s: json.dumps([]),
    ],
)
def test_statistics_that_are_none_are_computed_anew(tmp_path, spoil, caplog):
    root = build_lerobot(tmp_path / "set", "v2.1")
    computed = open_source(f"lerobot:{root}").stats()
    names = {"state": "observation.state", "actions": "action"}
    stored = {
        names[part]: {key: (values + 1).tolist() for key, values in found.items()}
        for part, found in computed.items()
    }
    path = root / "meta/stats.json"
    path.write_text(json.dumps(stored))
    used = open_source(f"lerobot:{root}").stats()["actions"]["std"]
    np.testing.assert_allclose(used, computed["actions"]["std"] + 1, rtol=1e-6)
    path.write_text(spoil(stored))
    again = open_source(f"lerobot:{root}").stats()["actions"]["std"]
    np.testing.assert_allclose(again, computed["actions"]["std"], rtol=1e-6)
    assert "are computed" in caplog.text


def test_sets_that_name_the_same_cameras_in_another_order_are_mixed_only_in_the_one_asked_for(
    tmp_path,
):
    a, b = (build_lerobot(tmp_path / name, "v2.1", num_episodes=2) for name in "ab")
    features = json.loads((b / "meta/info.json").read_text())["features"]
    edit_info(b, features=dict(reversed(features.items())))
    specs = [f"lerobot:{a}", f"lerobot:{b}"]
    with pytest.raises(ValueError, match="their views in one order"):
        make_loader(specs, WindowSpec(image_size=64, image_views=1), 8)
    window = WindowSpec(image_size=64, views=("front", "wrist"))
    batch = next(iter(make_loader(specs, window, 8)))
    assert {read_stamp(views[1])[0] // 100 for views in batch["images"]} == {1}
    assert {read_stamp(views[0])[0] // 100 for views in batch["images"]} == {0}


def test_a_clone_without_lfs_is_told_as_what_it_is(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=2)
    note = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for path in [*root.rglob("*000000.parquet"), *root.rglob("*000001.mp4")]:
        path.write_text(note)
    source = open_source(f"lerobot:{root}")
    with pytest.raises(ValueError, match=r"parquet is not here, only a note of Git LFS"):
        source.low_dim(0)
    with pytest.raises(ValueError, match=r"mp4 is not here, only a note of Git LFS"):
        source.decode(1, FRONT, np.arange(2), 64, "squash")
    (root / "meta/info.json").write_text(note)
    with pytest.raises(ValueError, match=r"info\.json is not here, .*`git lfs pull`"):
        open_source(f"lerobot:{root}")
