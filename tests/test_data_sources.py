# SPDX-License-Identifier: Apache-2.0
"""Every format gives exactly the frames, actions and words that were asked for."""

import json
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from data_fixtures import (
    TASKS,
    build_all,
    build_bridge,
    build_lerobot,
    build_libero,
    build_ssv2,
    encode,
    low_dim,
    read_stamp,
    stamped,
)
from numpy._core.numeric import _frombuffer

from lawm_hf.data import WindowSpec, load, make_loader, open_source
from lawm_hf.data.formats.bridge import load_pickle
from lawm_hf.data.formats.libero import instruction, suite_tasks
from lawm_hf.data.reader import DecodedClip
from lawm_hf.data.statistics import merge_statistics, statistics
from lawm_hf.data.video import Video, scan_video

FORMATS = [
    *("lerobot_v2.0", "lerobot_v2.1", "lerobot_v3.0", "lerobot_images", "ssv2", "wds", "folder"),
    *("bridge", "libero"),
]


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    return build_all(tmp_path_factory.mktemp("data"))


def expected_stamp(name, source, clip, frame):
    """What the picture of a clip's frame is stamped with."""
    if name == "wds":  # the table goes shard by shard
        clip = int(source.clip_name(clip)[:3])
    if name == "folder":
        clip = int(source.clip_name(clip)[-7:-4])
    if name == "bridge" and clip == len(source.trajectories) - 1:
        frame += 1  # the camera lagged
    return clip, frame


@pytest.mark.parametrize("name", FORMATS)
def test_every_frame_of_every_window_is_the_right_one(specs, name):
    window = WindowSpec(chunk_size=4, image_size=64, with_frames=True)
    dataset = load(specs[name], window)
    assert len(dataset) > 20
    for sample in dataset:
        _, clip, start = sample["index"].tolist()
        last = dataset.source.length(clip) - 1
        for k, frame in enumerate(sample["frames"]):
            t = min(start + k, last)
            assert read_stamp(frame) == expected_stamp(name, dataset.source, clip, t)
            assert sample["frame_is_pad"][k] == (start + k > last)
        assert torch.equal(sample["images"][0], sample["frames"][0])


@pytest.mark.parametrize("name", ["lerobot_v2.0", "lerobot_v2.1", "lerobot_v3.0", "lerobot_images"])
def test_state_and_actions_belong_to_their_frame(specs, name):
    for sample in load(specs[name], WindowSpec(chunk_size=4, image_size=48, with_actions=True)):
        _, clip, start = sample["index"].tolist()
        length = 12 + clip
        steps = np.minimum(start + np.arange(4), length - 1)
        assert np.array_equal(sample["state"], low_dim(clip, length, 8)[start])
        assert np.array_equal(sample["actions"], low_dim(clip, length, 7)[steps])
        assert sample["action_is_pad"].tolist() == [start + k >= length for k in range(4)]
        assert read_stamp(sample["images"][1]) == (clip + 100, start)
        assert sample["task"] == TASKS[clip % 3]


def test_several_windows_of_a_shared_decode_are_right_in_any_order(specs):
    window = WindowSpec(chunk_size=3, image_size=64, with_frames=True, views=("front",))
    loader = make_loader(specs["lerobot_v3.0"], window, 8, windows_per_visit=3, cache_bytes=0)
    for _, batch in zip(range(30), loader, strict=False):
        for index, frames in zip(batch["index"].tolist(), batch["frames"], strict=True):
            last = 11 + index[1]
            stamps = [read_stamp(frame) for frame in frames]
            assert stamps == [(index[1], min(index[2] + k, last)) for k in range(4)]


@pytest.mark.parametrize("wanted", [[4], [4, 5, 6], [9, 9], [8, 9, 9], [4, 6, 8], [5, 4], [2, 9]])
def test_frames_that_lie_in_a_row_are_those_that_are_picked_one_by_one(wanted):
    numbers = np.array([2, 4, 5, 6, 8, 9])
    pixels = np.arange(len(numbers) * 12, dtype=np.uint8).reshape(-1, 3, 2, 2)
    taken = DecodedClip({"front": (numbers, pixels)}, None, None).take("front", np.array(wanted))
    assert np.array_equal(taken, pixels[[numbers.tolist().index(n) for n in wanted]])


def test_what_is_written_into_a_sample_stays_out_of_the_next(specs):
    dataset = load(specs["lerobot_v3.0"], WindowSpec(chunk_size=4, image_size=48, with_frames=True))
    first = dataset[0]
    kept = {key: first[key].clone() for key in ("images", "frames", "state")}
    for key in kept:
        first[key].fill_(7)
    for key, value in kept.items():
        assert torch.equal(dataset[0][key], value)


def test_any_order_of_frames_is_right_where_the_codec_reorders_them(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    with av.open(str(root / "lift.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"preset": "fast", "bf": "3"})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 64, 96, "yuv420p", 10
        for frame in stamped(0, 60):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    times, keyframes, _ = scan_video(root / "lift.mp4")
    assert len(keyframes) > 3
    rng = np.random.default_rng(0)
    for known in (keyframes, None):
        video = Video(root / "lift.mp4", known)
        for _ in range(30):
            wanted = np.sort(rng.choice(60, 4, replace=False))
            frames = video.read(times[wanted], 0, 64, "squash")
            assert [read_stamp(f) for f in frames] == [(0, int(t)) for t in wanted]


def test_libero_pairs_a_picture_with_the_action_that_follows_it(specs):
    for sample in load(specs["libero"], WindowSpec(chunk_size=1, image_size=48, with_actions=True)):
        start = int(sample["index"][2])
        assert sample["actions"][0, 1] == start + 1
        assert sample["state"][1] == start
        assert sample["task"] == TASKS[1]
    with_last = load(specs["libero"], WindowSpec(chunk_size=1))
    assert len(with_last) == sum(11 + i for i in range(3))  # the last picture has no action


def test_a_libero_suite_is_found_by_its_instructions(tmp_path):
    tasks = ["Open the middle drawer of the cabinet", "put both moka pots on the stove"]
    root = build_lerobot(tmp_path / "set", "v2.0", num_episodes=4, tasks=tasks)
    assert open_source(f"lerobot:{root},suite=libero_goal").clips.tolist() == [0, 2]
    assert open_source(f"lerobot:{root},suite=libero_10").clips.tolist() == [1, 3]
    with pytest.raises(ValueError, match="is one of libero_object"):
        open_source(f"lerobot:{root},suite=libero_object")
    with pytest.raises(ValueError, match="there are libero_spatial"):
        open_source(f"lerobot:{root},suite=libero_gaol")


def test_libero_says_what_the_benchmark_says_not_what_the_file_holds():
    name = "libero_90/KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet_demo.hdf5"
    assert instruction(name) == "close the top drawer of the cabinet"
    assert instruction(name) in suite_tasks("libero_90")


def test_libero_orientation_is_explicit(specs):
    turned, stored = (
        load(specs["libero"] + option, WindowSpec(image_size=96))[0]["images"][0]
        for option in ("", ",orientation=stored")
    )
    assert torch.equal(turned, stored.flip(-1, -2))
    with pytest.raises(ValueError, match="rotate180 or stored"):
        open_source(specs["libero"] + ",orientation=upright")


def test_bridge_actions_follow_the_rule_of_the_lagging_camera(specs):
    source = open_source(specs["bridge"])
    for clip in range(4):
        late = clip == 3
        state, actions = source.low_dim(clip)
        assert source.length(clip) == len(state) == len(actions) == 12 + clip - late
        assert state[0, 1] == late
        assert actions[0, 1] == 0
        assert source.cameras_of(clip) == (("images0", "images1") if clip == 0 else ("images0",))


def test_bridge_reads_lexicographic_order_only_on_demand(specs):
    source = open_source(specs["bridge"] + ",frame_order=lexicographic")
    frames = source.decode(0, "images0", np.arange(4), 64, "squash")
    assert [read_stamp(f)[1] for f in frames] == [0, 1, 10, 11]


def test_absent_cameras_are_masked(specs):
    window = WindowSpec(image_size=48, views=("images0", "images1"))
    masks = {int(s["index"][1]): s["view_mask"].tolist() for s in load(specs["bridge"], window)}
    assert masks == {0: [True, True], **{clip: [True, False] for clip in (1, 2, 3)}}


def forged_array():
    """Eight bytes as a dtype of objects that denies it: numpy follows them as an address."""
    state = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
    dtype = Asks(np.dtype, ("V8", False, True), state)
    return Asks(_frombuffer, (bytes(8 * [65]), dtype, (1,), "C"))


class Asks:
    """What a pickle of it does."""

    def __init__(self, *what):
        self.what = what

    def __reduce__(self):
        return self.what


def lists_of_lists():
    """A few bytes that stand for 2**40 numbers."""
    value = [0.0]
    for _ in range(40):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "content",
    [
        lambda folder: pickle.dumps([{"actions": Asks(os.mkdir, (str(folder / "ran"),))}]),
        lambda folder: pickle.dumps([{"actions": forged_array()}], 4),
        lambda folder: pickle.dumps([{"actions": Asks(bytearray, (3 << 30,))}]),
        lambda folder: pickle.dumps(lists_of_lists()),
        lambda folder: b"\x80\x04]\x8e" + (3 << 30).to_bytes(8, "little") + b"x" * 40,  # bytes
        lambda folder: b"\x80\x04]r\xff\xff\xff\x7f.",  # a place in the memo
        lambda folder: b"}" + b")" + b"\x85" * 3_000_000 + b"K\x00s.",  # a key of nested tuples
        lambda folder: b"]" * 100_000 + b"a" * 99_999 + b".",
        lambda folder: b"cos\nsystem\n(S'true'\ntR.",
        lambda folder: b"",
    ],
    ids=range(10),
)
def test_a_hostile_pickle_runs_nothing_takes_no_memory_and_costs_its_clip(tmp_path, content):
    root = build_bridge(tmp_path / "bridge", 2)
    next(root.rglob("traj1/policy_out.pkl")).write_bytes(content(tmp_path))
    source = open_source(f"bridge:{root}")
    tracemalloc.start()
    with pytest.raises(Exception, match=r"\w"):
        source.low_dim(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 << 20
    assert not (tmp_path / "ran").exists()
    assert source.low_dim(0)[1].shape == (12, 7)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [">f4", "<f8", "<i8", "|b1"])
def test_arrays_of_any_protocol_and_plain_type_are_read(tmp_path, protocol, kind):
    value = np.arange(24).reshape(4, 6).astype(kind)
    content = {"c": value, "f": np.asfortranarray(value), "n": [value[0, 1], 2.5, None, True, "ä"]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    found = load_pickle(tmp_path / "a.pkl")
    np.testing.assert_array_equal(np.asarray(found["c"]), value)
    np.testing.assert_array_equal(np.asarray(found["f"]), value)
    assert [float(np.asarray(found["n"][0])), *found["n"][1:]] == content["n"]


def test_ssv2_reads_both_naming_schemes_and_test_answers(tmp_path, specs):
    old = open_source(f"ssv2:{build_ssv2(tmp_path / 'old', 3, names='old')}")
    assert [old.task(i) for i in range(3)] == TASKS
    (tmp_path / "old/labels/test.json").write_text('[{"id": "701"}]')
    (tmp_path / "old/labels/test-answers.csv").write_text("701;Opening something\n")
    assert open_source(f"ssv2:{tmp_path / 'old'},split=test").task(0) == "Opening something"
    with pytest.raises(FileNotFoundError, match=r"validation\.json"):
        open_source(f"{specs['ssv2']},split=validation")


def test_folder_takes_its_text_from_a_csv_or_from_the_file_names(tmp_path, specs):
    source = open_source(specs["folder"])
    assert sorted(source.task(i) for i in range(3)) == sorted(TASKS)
    encode(stamped(0, 12), str(tmp_path / "a.mp4"), 10)
    encode(stamped(1, 12), str(tmp_path / "b.mp4"), 10)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,turn the knob\nb.mp4,\n")
    source = open_source(f"folder:{tmp_path}")
    assert [source.task(int(c)) for c in source.clips] == ["turn the knob"]


@pytest.mark.parametrize("name", ["ssv2", "folder", "lerobot_v3.0"])
def test_frames_are_resampled_by_time(specs, name):
    window = WindowSpec(chunk_size=4, image_size=64, with_frames=True, frame_interval_s=0.25)
    for sample in load(specs[name], window):
        start = int(sample["index"][2])
        fps = {"ssv2": 12, "folder": 15, "lerobot_v3.0": 10}[name]
        for k, frame in enumerate(sample["frames"]):
            if not sample["frame_is_pad"][k]:
                t = read_stamp(frame)[1]
                assert abs((t - start) / fps - 0.25 * k) <= 0.5 / fps + 1e-6
        assert not sample["frame_is_pad"][1]  # there always is something to predict


def test_a_source_slower_than_the_frame_interval_is_refused(specs):
    window = WindowSpec(with_frames=True, frame_interval_s=0.05)
    with pytest.raises(ValueError, match=r"Use at least 0\.1"):
        load(specs["lerobot_v3.0"], window)


def test_max_start_restricts_windows_to_the_beginning(specs):
    window = WindowSpec(chunk_size=2, image_size=48, with_frames=True, max_start=3)
    assert len(load(specs["lerobot_v3.0"], window)) == 5 * 4


def test_crop_keeps_the_centre_and_squash_keeps_everything(specs):
    squash, crop = (
        load(specs["lerobot_images"], WindowSpec(image_size=64, resize=r))[0]["images"][0]
        for r in ("squash", "crop")
    )
    assert read_stamp(squash) == (0, 0)
    ramp = np.linspace(40, 200, 96)[16:80]  # the centre 64 columns of 96
    assert np.abs(crop[0, -1].numpy() - ramp).max() < 3


def test_unlabelled_clips_are_left_out_unless_asked_for(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.0", num_episodes=4, tasks=["lift", ""])
    assert open_source(f"lerobot:{root}").clips.tolist() == [0, 2]
    assert len(open_source(f"lerobot:{root},unlabelled=keep").clips) == 4


def test_demonstrations_are_balanced_over_the_tasks(specs):
    source = open_source(f"{specs['lerobot_v3.0']},demonstrations=4")
    assert [source.task(int(c)) for c in source.clips] == [*TASKS, TASKS[0]]
    with pytest.raises(ValueError, match=r"1\.\.5"):
        open_source(f"{specs['lerobot_v3.0']},demonstrations=6")


def test_a_random_subset_is_named_by_its_manifest(specs, tmp_path):
    manifest = tmp_path / "subset.json"
    spec = f"{specs['ssv2']},fraction=0.5,manifest={manifest}"
    chosen = open_source(f"{spec},subset_seed=3").clips.tolist()
    assert len(chosen) == 3
    assert len(json.loads(manifest.read_text())["clips"]) == 3
    assert open_source(f"{spec},subset_seed=4").clips.tolist() == chosen
    manifest.unlink()
    others = [open_source(f"{specs['ssv2']},fraction=0.5,subset_seed={s}") for s in range(8)]
    assert len({tuple(o.clips) for o in others}) > 3


def test_statistics_are_those_of_the_selected_episodes(specs):
    source = open_source(f"{specs['lerobot_v3.0']},episodes=1:3")
    actions = np.concatenate([low_dim(1, 13, 7), low_dim(2, 14, 7)])
    stats = source.stats()
    np.testing.assert_allclose(stats["actions"]["mean"], actions.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["actions"]["q99"], np.quantile(actions, 0.99, 0), rtol=1e-5)
    assert stats["state"]["std"].shape == (8,)


def test_statistics_of_a_mixture_are_those_of_the_pooled_rows():
    a, b = low_dim(0, 50, 3), low_dim(1, 50, 3)
    merged, pooled = merge_statistics([statistics(a), statistics(b)], [0.5, 0.5]), [a, b]
    for key in ("min", "max", "mean", "std"):
        expected = statistics(np.concatenate(pooled))[key]
        np.testing.assert_allclose(merged[key], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("lerbot:x", ValueError, "Did you mean `lerobot`"),
        ("{ssv2},spilt=test", ValueError, "Did you mean `split`"),
        ("lerobot:/no/such/folder", FileNotFoundError, "No folder /no/such/folder"),
        ("wds:{here}/*.tar", FileNotFoundError, r"No file matches \*\.tar in"),
        ("ssv2:{here}", FileNotFoundError, "something-something-v2-train.json"),
        ("bridge:{here}", FileNotFoundError, "traj_group"),
        ("libero:{here}", FileNotFoundError, "hdf5"),
        ("folder:{here}", FileNotFoundError, "No video"),
        ("folder:,episodes=:3", ValueError, "without one"),
        ("tabletop:,episodes=16", ValueError, "without one"),
        ("{ssv2},demonstrations=ten", ValueError, "must be a whole number, got 'ten'"),
        ("{ssv2},fraction=10%", ValueError, "must be a number, got '10%'"),
        ("{ssv2},unlabelled=yes", ValueError, "is drop or keep, got 'yes'"),
        ("bridge:{here},actions=no", ValueError, "must be true or false, got 'no'"),
        ("tabletop:reach,episodes=two", ValueError, "`num_episodes` .*a whole number, got 'two'"),
        ("tabletop:reach,actions=flase", ValueError, "must be true or false, got 'flase'"),
        ("tabletop:reach,noise=nan", ValueError, "must be a number, got 'nan'"),
        ("{ssv2},views=video+video", ValueError, r"once, got 'video\+video'"),
        ("{here}", ValueError, "Did you mean `folder:"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(specs, tmp_path, spec, error, message):
    with pytest.raises(error, match=message):
        open_source(spec.format(here=tmp_path, ssv2=specs["ssv2"]))


def test_streaming_gives_a_datasets_stream_of_the_same_rows(specs):
    window = WindowSpec(chunk_size=2, image_size=48, with_frames=True)
    rows = list(load(specs["ssv2"], window, streaming=True))
    dataset = load(specs["ssv2"], window)
    assert len(rows) == len(dataset)
    assert rows[5]["task"] == dataset[5]["task"]
    assert np.array_equal(np.asarray(rows[5]["frames"]), dataset[5]["frames"])


def test_the_hub_is_read_at_a_commit_through_a_bounded_cache(specs, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError

    from lawm_hf.data import files

    origin, fetched, failures = specs["lerobot_v3.0"].removeprefix("lerobot:"), [], [OSError("x")]

    class Api:
        def dataset_info(self, repo, revision=None):
            return type("Info", (), {"sha": "c0ffee"})

        def list_repo_tree(self, repo, folder, **_):
            local = files.LocalFiles(origin).list(folder.removeprefix("sub/"), "")
            return [type("File", (), {"path": f"sub/{p}"}) for p in local]

    def download(repo, name, *, revision, local_dir, **_):
        assert revision == "c0ffee"
        if failures:
            raise failures.pop()
        if not Path(origin, name.removeprefix("sub/")).is_file():
            raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)  # needs a response
        fetched.append(name)
        (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(origin, name.removeprefix("sub/")), local_dir / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(files.constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(files.time, "sleep", lambda _: None)
    source = open_source("lerobot:hf://datasets/me/set@main/sub")
    assert source.lengths.tolist() == [12, 13, 14, 15, 16]
    assert source.commit == "c0ffee"
    assert open_source(specs["lerobot_v3.0"]).commit is None
    source.store.cache_bytes = 1
    window = WindowSpec(chunk_size=2, image_size=64, with_frames=True, views=("front",))
    for sample in load(source, window):
        assert read_stamp(sample["frames"][0]) == tuple(sample["index"].tolist()[1:])
    kept = [p for p in (tmp_path / "lawm_hf/data").rglob("*") if p.suffix in (".mp4", ".parquet")]
    assert len([p for p in kept if "meta" not in p.parts]) == 1  # the budget of one byte
    assert len(fetched) == len(set(fetched))  # in order, each is needed once


def test_libero_skips_a_file_that_is_no_hdf5(tmp_path):
    root = build_libero(tmp_path / "libero", 1)
    (root / "libero_90/broken_demo.hdf5").write_bytes(b"not an archive")
    assert len(open_source(f"libero:{root}").clips) == 1
