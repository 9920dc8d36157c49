# SPDX-License-Identifier: Apache-2.0
"""Raw BridgeData and LIBERO's HDF5 as people keep them: other roots, names, letters, lost parts."""

import pickle

import h5py
import numpy as np
import pytest
from data_fixtures import TASKS, build_bridge, build_libero, read_stamp
from PIL import Image

from lawm_hf.data import open_source
from lawm_hf.data.bad_clips import BadClipError


def first_stamp(source, clip, camera):
    return read_stamp(source.decode(clip, camera, np.arange(1), 64, "squash")[0])


@pytest.mark.parametrize("depth", range(4))
def test_the_lagging_camera_is_known_whichever_folder_above_is_named(tmp_path, depth, monkeypatch):
    build_bridge(tmp_path)
    folder = next(tmp_path.rglob("2021-06-20*")) / "raw/traj_group0"
    root = [folder, *folder.parents][depth]
    assert first_stamp(open_source(f"bridge:{root}"), 0, "images0") == (3, 1)
    monkeypatch.chdir(root)
    assert first_stamp(open_source("bridge:."), 0, "images0") == (3, 1)


@pytest.mark.parametrize("name", ["im_{:04d}.jpg", "im_{}.jpeg", "im_{}.png"])
def test_pictures_of_bridge_are_found_by_their_numbers_however_written(tmp_path, name):
    build_bridge(tmp_path, 1)
    for path in list(tmp_path.rglob("im_*.jpg")):
        Image.open(path).save(path.with_name(name.format(int(path.stem[3:]))))
        if path.name != name.format(int(path.stem[3:])):
            path.unlink()
    source = open_source(f"bridge:{tmp_path}")
    frames = source.decode(0, "images0", np.arange(11), 64, "squash")
    assert [read_stamp(frame) for frame in frames] == [(0, t + 1) for t in range(11)]  # it lagged


def test_a_camera_without_pictures_or_with_fewer_than_the_main_one_makes_a_bad_clip(tmp_path):
    build_bridge(tmp_path)
    second = next(tmp_path.rglob("images1"))
    (second / "im_12.jpg").unlink()
    source = open_source(f"bridge:{tmp_path}")
    with pytest.raises(BadClipError, match="images1 has 11 pictures for 12 of images0"):
        source.decode(0, "images1", np.arange(3), 64, "squash")
    for path in (second.parent / "images0").iterdir():
        path.rename(path.with_suffix(".bmp"))
    with pytest.raises(BadClipError, match=r"images0 lacks picture im_0\.jpg"):
        open_source(f"bridge:{tmp_path}").length(0)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_an_instruction_of_bridge_is_a_text_and_not_its_confidence(tmp_path, encoding):
    build_bridge(tmp_path, 1)
    path = next(tmp_path.rglob("lang.txt"))
    path.write_bytes("\n Confidence: 0.9\nput the café away\n".encode(encoding))
    assert open_source(f"bridge:{tmp_path}").task(0) == "put the café away"


@pytest.mark.parametrize(
    ("name", "content"),
    [("obs_dict", {"state": [[0.0] * 7] * 13}), ("policy_out", [{"action": [0.0] * 7}] * 12)],
)
def test_pickles_of_another_form_say_what_they_must_hold(tmp_path, name, content):
    build_bridge(tmp_path, 2)
    next(tmp_path.rglob(f"traj0/{name}.pkl")).write_bytes(pickle.dumps(content))
    with pytest.raises(BadClipError, match=r"must hold `full_state` and .* steps with `actions`"):
        open_source(f"bridge:{tmp_path}").low_dim(0)


def edited(root, change):
    build_libero(root)
    with h5py.File(next(root.rglob("*.hdf5")), "a") as file:
        change(file["data"])
    return open_source(f"libero:{root}")


def test_one_demonstration_that_cannot_be_read_costs_no_other_of_its_file(tmp_path, caplog):
    def change(data):
        del data["demo_0/actions"]
        data.move("demo_1", "demo_1_success")

    source = edited(tmp_path, change)
    assert [source.clip_name(c).split()[0] for c in source.clips] == ["demo_1_success", "demo_2"]
    assert [first_stamp(source, clip, "image") for clip in (0, 1)] == [(1, 0), (2, 0)]
    assert "Skipped demo_0 of libero_90/" in caplog.text


@pytest.mark.parametrize("factor", [0.5, 2])
def test_pictures_that_are_not_one_for_each_step_make_a_bad_clip(tmp_path, factor):
    def change(data):
        frames = data["demo_1/obs/eye_in_hand_rgb"][:]
        del data["demo_1/obs/eye_in_hand_rgb"]
        kept = frames[::2] if factor < 1 else np.repeat(frames, 2, axis=0)
        data["demo_1/obs/eye_in_hand_rgb"] = kept

    source = edited(tmp_path, change)
    assert first_stamp(source, 1, "image") == (1, 0)
    with pytest.raises(BadClipError, match="image2 is no 13 pictures"):
        source.decode(1, "image2", np.arange(2), 64, "squash")
    assert source.task(0) == TASKS[1]
