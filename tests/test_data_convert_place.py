# SPDX-License-Identifier: Apache-2.0
"""A conversion replaces nothing that it has not written."""

import numpy as np
import pytest
from data_fixtures import build_bridge, build_folder, build_lerobot, build_shards
from test_data_lerobot import add_rows, edit_info

from lawm_hf.data import open_source
from lawm_hf.data.convert import Conversion, write_lerobot, write_shards
from lawm_hf.hub.data_set import describe_set

HOW = Conversion(image_size=64)


def content(root):
    return {p: p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("write", [write_lerobot, write_shards])
@pytest.mark.parametrize("kind", ["lerobot", "shards", "mine", "parent"])
def test_a_folder_that_holds_a_set_or_data_of_the_users_is_refused_and_left_as_it_is(
    tmp_path, write, kind
):
    build_lerobot(tmp_path / "lerobot", "v2.1", num_episodes=2)
    build_shards(tmp_path / "shards", 2)
    (tmp_path / "mine/data").mkdir(parents=True)
    (tmp_path / "mine/data/thesis.txt").write_text("years of work")
    build_folder(tmp_path / "parent/data")
    parent = f"folder:{tmp_path}/parent/data"
    specs = {"lerobot": f"lerobot:{tmp_path}/lerobot", "shards": f"wds:{tmp_path}/shards/*.tar"}
    source, out = open_source(specs.get(kind, parent)), tmp_path / kind
    before = content(tmp_path)
    with pytest.raises(
        ValueError, match=r"must have none before it begins, got .* Choose an empty"
    ):
        write(source, out, HOW)
    assert content(tmp_path) == before


def test_a_result_among_the_videos_is_named(tmp_path, caplog):
    source = open_source(f"folder:{build_folder(tmp_path / 'set')}")
    write_shards(source, tmp_path / "set/small", HOW)
    assert "lies in the folder of the videos" in caplog.text


@pytest.mark.parametrize("kind", ["no camera", "none in common"])
def test_a_set_without_a_camera_that_all_clips_have_is_refused(tmp_path, kind):
    if kind == "no camera":
        source = open_source(f"lerobot:{build_lerobot(tmp_path / 'set', 'v2.1')}")
        features = source.info.features
        numbers = {k: f for k, f in features.items() if f["dtype"] != "video"}
        edit_info(tmp_path / "set", features=numbers)
        source = open_source(f"lerobot:{tmp_path / 'set'}")
    else:
        build_bridge(tmp_path / "set")
        other = next(p for p in (tmp_path / "set").rglob("images0") if p.parent.name == "traj1")
        other.rename(other.with_name("images1"))
        source = open_source(f"bridge:{tmp_path / 'set'}")
    with pytest.raises(ValueError, match="needs a camera that every clip has"):
        write_lerobot(source, tmp_path / "out", HOW)


def test_actions_of_a_varying_rate_are_refused_with_a_remedy(tmp_path):
    root = build_lerobot(tmp_path / "set", "v2.1", num_episodes=2)
    times = np.cumsum([0, *[1] * 5, *[2] * 20]) / 10
    add_rows(root, timestamp=lambda episode, step: np.float32(times[step]))
    with pytest.raises(ValueError, match=r"its rate varies.*leave it out \(`,action=,state=`"):
        write_lerobot(open_source(f"lerobot:{root}"), tmp_path / "out", HOW)


def test_a_card_that_is_there_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("# Mine")
    describe_set(tmp_path, "folder:x")
    assert (tmp_path / "README.md").read_text() == "# Mine"
