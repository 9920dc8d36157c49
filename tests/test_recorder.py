# SPDX-License-Identifier: Apache-2.0
"""Recordings of the tabletop: exact pixels, LeRobot's layout, cached, the same for any workers."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("mujoco")
pytest.importorskip("gymnasium")

from lawm_hf.data import open_source
from lawm_hf.envs import ScriptedExpert, Tabletop
from lawm_hf.envs.tabletop import recorder
from lawm_hf.envs.tabletop.recorder import record_tabletop
from lawm_hf.writing import lerobot as lerobot_writer
from lawm_hf.writing.episode import Episode, encode_png, load_episodes, save_episodes

SEED = 1000


def rows_of(folder):
    return [
        row
        for path in sorted(folder.glob("data/chunk-*/*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def pixels(cell):
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three noiseless episodes of place2 with both views, state and actions."""
    cache = tmp_path_factory.mktemp("place")
    return record_tabletop("place2", 3, SEED, noise=0, cache_dir=cache, num_workers=1)


def test_replaying_the_actions_gives_the_recorded_pixels_and_states(place):
    rows, world = rows_of(place), Tabletop("place2")
    for row in rows:
        if row["frame_index"] == 0:
            world.reset(SEED + row["episode_index"])
        for view in ("front", "wrist"):
            image = pixels(row[f"observation.images.{view}"])
            np.testing.assert_array_equal(image, world.render(view))
        np.testing.assert_allclose(row["observation.state"], world.state(), atol=1e-6)
        world.step(np.array(row["action"]))
    assert world.is_success
    assert rows[-1]["episode_index"] == 2


def test_metadata_describes_the_frames(place):
    rows = rows_of(place)
    info = json.loads((place / "meta/info.json").read_text())
    episodes = pq.read_table(place / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    tasks = pq.read_table(place / "meta/tasks.parquet").to_pydict()
    assert (info["codebase_version"], info["fps"], info["total_episodes"]) == ("v3.0", 10, 3)
    assert info["total_frames"] == len(rows) == sum(e["length"] for e in episodes)
    assert [row["index"] for row in rows] == list(range(len(rows)))
    for row in rows:
        episode = episodes[row["episode_index"]]
        assert row["index"] == episode["dataset_from_index"] + row["frame_index"]
        assert tasks["task"][tasks["task_index"].index(row["task_index"])] == episode["tasks"][0]
        assert row["timestamp"] == pytest.approx(row["frame_index"] / 10)
    assert set(rows[0]) == set(info["features"])


def test_each_episode_is_one_row_group(place):
    file = pq.ParquetFile(place / "data/chunk-000/file-000.parquet")
    assert file.num_row_groups == 3
    assert {*file.read_row_group(1).column("episode_index").to_pylist()} == {1}


def test_statistics_are_those_of_the_stored_values(place):
    rows = rows_of(place)
    stats = json.loads((place / "meta/stats.json").read_text())
    images = np.stack([pixels(row["observation.images.front"]) for row in rows]) / 255
    values = {
        "observation.images.front": images.reshape(-1, 3),
        "action": np.array([row["action"] for row in rows]),
        "observation.state": np.array([row["observation.state"] for row in rows]),
    }
    for name, value in values.items():
        shape = (3, 1, 1) if "images" in name else value.shape[1:]
        expected = {"min": value.min(0), "max": value.max(0)}
        expected |= {"mean": value.mean(0), "std": value.std(0)}
        for key, percent in (("q01", 1), ("q10", 10), ("q50", 50), ("q90", 90), ("q99", 99)):
            expected[key] = np.percentile(value, percent, axis=0)
        for key, number in expected.items():
            actual = np.array(stats[name][key])
            assert actual.shape == shape
            tolerance = 1.01 / 255 if "images" in name else 1e-6  # Image quantiles are bytes.
            np.testing.assert_allclose(actual.reshape(-1), number, atol=tolerance)
        assert stats[name]["count"] == [len(rows)]


def test_truth_tells_where_the_named_cube_is(place):
    truth = pq.read_table(place / "meta/tabletop_truth.parquet").to_pylist()
    assert len(truth) == len(rows_of(place))
    world = Tabletop("place2")
    for row in truth:
        assert row["colors"][row["target_index"]] in row["task"]
        assert row["target_xy"] == row["objects_xy"][row["target_index"]]
        if row["frame_index"] == 0:
            world.reset(row["seed"])
            np.testing.assert_allclose(row["hand_xyz"], world.hand)
            np.testing.assert_allclose(row["goal_xy"], world.goal_xy)


def test_labels_are_clean_while_the_motion_is_noisy(tmp_path):
    folder = record_tabletop("reach", 4, SEED, noise=0.4, cache_dir=tmp_path, num_workers=1)
    rows = rows_of(folder)
    truth = pq.read_table(folder / "meta/tabletop_truth.parquet").to_pylist()
    worlds = {"clean": Tabletop("reach"), "noisy": Tabletop("reach")}
    differences = []
    for row, true in zip(rows, truth, strict=True):
        action = np.array(row["action"])
        way = [*true["target_xy"], 0.105] - np.array(true["hand_xyz"])
        np.testing.assert_allclose(action[:3], np.clip(0.8 * way / 0.03, -1, 1), atol=1e-4)
        assert action.tolist()[3:] == [0, 0, 0, -1]
        if row["frame_index"] == 0:
            worlds["clean"].reset(SEED + row["episode_index"])
        differences.append(np.abs(worlds["clean"].hand - true["hand_xyz"]).max())
        worlds["clean"].step(action)
    assert max(differences) > 0.005


def test_reach_episodes_hold_a_whole_window(tmp_path):
    folder = record_tabletop("reach", 8, SEED, image_size=8, cache_dir=tmp_path, num_workers=1)
    episodes = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert min(episode["length"] for episode in episodes) >= 12


def test_video_without_actions_has_no_action_and_no_state(tmp_path):
    folder = record_tabletop(
        *("reach", 2, SEED, "hand"), actions=False, views=["front"], cache_dir=tmp_path
    )
    columns = pq.read_schema(folder / "data/chunk-000/file-000.parquet").names
    stats = json.loads((folder / "meta/stats.json").read_text())
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    for names in (columns, stats, features):
        assert set(names) == {
            *("observation.images.front", "timestamp", "frame_index"),
            *("episode_index", "index", "task_index"),
        }


def test_content_does_not_depend_on_the_number_of_workers(tmp_path):
    folders = [
        record_tabletop(
            *("reach", 64, SEED),
            image_size=8,
            max_frames=3,
            cache_dir=tmp_path / str(n),
            num_workers=n,
        )
        for n in (1, 2)
    ]
    files = [sorted(p for p in folder.rglob("*") if p.is_file()) for folder in folders]
    assert [p.relative_to(folders[0]) for p in files[0]] == [
        p.relative_to(folders[1]) for p in files[1]
    ]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert {row["frame_index"] for row in rows_of(folders[0])} == {0, 1, 2}


def test_failed_episodes_are_replaced_by_further_scenes(tmp_path, monkeypatch):
    class Clumsy(ScriptedExpert):
        def action(self):
            return super().action() * (self.world.layout.task != 1)

    monkeypatch.setattr(recorder, "ScriptedExpert", Clumsy)
    folder = record_tabletop(
        *("reach", 6, 400), image_size=8, noise=0, cache_dir=tmp_path, num_workers=1
    )
    truth = pq.read_table(folder / "meta/tabletop_truth.parquet").to_pylist()
    seeds = [row["seed"] for row in truth if row["frame_index"] == 0]
    assert seeds == [400, 402, 403, 404, 406, 407]


def test_a_second_call_returns_at_once_and_other_arguments_record_anew(tmp_path, monkeypatch):
    arguments = {"num_episodes": 2, "image_size": 8, "num_workers": 1}
    monkeypatch.setattr(recorder.constants, "HF_HOME", str(tmp_path))
    first = record_tabletop("reach", seed=SEED, **arguments)
    assert first.parent == tmp_path / "lawm_hf/tabletop"
    assert record_tabletop("reach", seed=SEED + 1, **arguments) != first
    monkeypatch.setattr(recorder, "LeRobotWriter", None)  # Recording again would fail.
    assert record_tabletop("reach", seed=SEED, **arguments) == first


def test_an_interrupted_recording_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(recorder.LeRobotWriter, "close", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record_tabletop("reach", 1, SEED, cache_dir=tmp_path, num_workers=1)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_recordings_have_left_is_removed_by_the_next_but_not_a_live_ones(tmp_path):
    killed, live = tmp_path / ".unfinished-killed", tmp_path / ".unfinished-live"
    (killed / "dataset").mkdir(parents=True)
    (killed / ".lock").touch()
    code = (
        "import sys, time; from lawm_hf.writing.atomic import lock_folder\n"
        "lock_folder(sys.argv[1]); print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(live)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"locked\n"
            record_tabletop(num_episodes=1, cache_dir=tmp_path, num_workers=1)
            assert live.is_dir()
        finally:
            other.kill()
    assert not killed.exists()
    record_tabletop(num_episodes=1, seed=7, cache_dir=tmp_path, num_workers=1)
    assert not list(tmp_path.glob(".unfinished-*"))


def test_large_recordings_are_split_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_writer, "FILE_SIZE_IN_MB", 0.01)
    folder = record_tabletop("reach", 4, SEED, cache_dir=tmp_path, num_workers=1)
    episodes = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert len({episode["data/file_index"] for episode in episodes}) > 1
    for episode in episodes:
        path = folder / f"data/chunk-000/file-{episode['data/file_index']:03d}.parquet"
        stored = pq.read_table(path).column("episode_index").to_pylist()
        assert stored.count(episode["episode_index"]) == episode["length"]


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (64, 64, 3)])
def test_png_files_are_lossless(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(pixels({"bytes": encode_png(image)}), image)


def test_bad_arguments_are_told_apart(tmp_path):
    bad = [
        ({"domain": "hand"}, "no actions and no wrist"),
        ({"views": ("side",)}, "`views` must be some of"),
        ({"views": ()}, "`views` must be some of"),
        ({"num_episodes": 0}, "`num_episodes` must be at least 1"),
        ({"noise": -1}, "`noise` must not be negative"),
        ({"max_frames": 0}, "`max_frames` must be at least 1"),
        ({"seed": -1}, "`seed` must lie in"),
        ({"suite": "reech"}, "Did you mean `reach`"),
        ({"image_size": 0}, "`image_size` must be a positive integer"),
    ]
    for arguments, message in bad:
        with pytest.raises(ValueError, match=message):
            record_tabletop(cache_dir=tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_lerobot_opens_the_recording(place, monkeypatch):
    datasets = pytest.importorskip("lerobot.datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    times = [0, 0.1, 0.5]
    dataset = datasets.LeRobotDataset(
        "local/tabletop",
        root=place,
        delta_timestamps={"observation.images.front": times, "action": times},
    )
    rows = rows_of(place)
    assert len(dataset) == len(rows)
    for index in (0, 7, len(rows) - 2):
        item, is_pad = dataset[index], []
        for step, offset in enumerate((0, 1, 5)):
            other = index + offset
            is_pad.append(
                other >= len(rows) or rows[other]["episode_index"] != rows[index]["episode_index"]
            )
            if not is_pad[-1]:
                image = (item["observation.images.front"][step].numpy() * 255).round()
                expected = pixels(rows[other]["observation.images.front"])
                np.testing.assert_array_equal(image.transpose(1, 2, 0), expected)
                np.testing.assert_allclose(item["action"][step], rows[other]["action"])
        assert item["observation.images.front_is_pad"].tolist() == is_pad
        assert item["observation.state"].shape == (8,)
        assert item["task"] in Tabletop("place2").suite.tasks
    assert dataset.meta.stats["observation.images.front"]["mean"].shape == (3, 1, 1)


@pytest.mark.parametrize("domain", ["robot", "hand"])
def test_a_spec_records_only_the_views_it_names(domain):
    """The hand has no wrist camera: its recording works only if the recorder hears of the views."""
    options = "actions=false,views=front,image_size=8,num_workers=1"
    source = open_source(f"tabletop:reach,episodes=2,domain={domain},{options}")
    info = json.loads((source.store.root / "meta/info.json").read_text())
    assert [key for key in info["features"] if "images" in key] == ["observation.images.front"]
    assert source.features.cameras == ("observation.images.front",)


def test_kept_episodes_come_back_as_they_were_and_a_strangers_file_runs_nothing(tmp_path):
    pictures = {"front": list(np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8))}
    vectors = {"action": np.arange(6, dtype=np.float32).reshape(3, 2)}
    kept = [Episode.from_views(f"go {i}", vectors, pictures, {"seed": [i] * 3}) for i in range(2)]
    save_episodes(kept, tmp_path / "kept")
    for one, other in zip(load_episodes(tmp_path / "kept"), kept, strict=True):
        assert (one.task, one.length, one.images, one.truth) == (
            *(other.task, 3, other.images, other.truth),
        )
        np.testing.assert_array_equal(one.vectors["action"], vectors["action"])
        key = "observation.images.front"
        np.testing.assert_array_equal(one.histograms[key], other.histograms[key])
    (tmp_path / "kept").write_bytes(pickle.dumps(kept))
    with pytest.raises(ValueError, match="is not a file of episodes"):
        load_episodes(tmp_path / "kept")
