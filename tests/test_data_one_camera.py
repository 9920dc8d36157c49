# SPDX-License-Identifier: Apache-2.0
"""A clip that is bad in one camera only: skipped, counted and named by every reader of it."""

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import build_bridge, build_lerobot, build_libero, read_stamp

from lawm_hf.data import WindowDataset, WindowSpec, load, make_loader, open_source
from lawm_hf.data.commands import contact_sheet, describe
from lawm_hf.data.convert import Conversion, left_out, write_lerobot

WRIST = "observation.images.wrist"


def cut_video(root):
    build_lerobot(root, "v2.1")
    path = root / f"videos/{WRIST}/chunk-000/episode_000002.mp4"
    path.write_bytes(path.read_bytes()[:700])
    return f"lerobot:{root}", 2, "episode 2"


def spoil_pictures(root):
    build_lerobot(root, "v3.0", images=True)
    path = root / "data/chunk-000/file_000.parquet"
    table = pq.read_table(path)
    cells = [
        row | {"bytes": row["bytes"][:60]} if episode == 2 else row
        for row, episode in zip(
            *(table[c].to_pylist() for c in (WRIST, "episode_index")), strict=True
        )
    ]
    table = table.set_column(table.column_names.index(WRIST), WRIST, pa.array(cells))
    pq.write_table(table, path)
    return f"lerobot:{root}", 2, "episode 2"


def empty_pictures(root):
    build_bridge(root)
    for path in root.rglob("traj0/images1/*.jpg"):
        path.write_bytes(b"")
    return f"bridge:{root}", 0, "traj0"


def drop_camera(root):
    build_libero(root, 4)
    with h5py.File(next(root.rglob("*.hdf5")), "a") as file:
        del file["data/demo_1/obs/eye_in_hand_rgb"]
    return f"libero:{root}", 1, "demo_1"


@pytest.mark.parametrize("damage", [cut_video, spoil_pictures, empty_pictures, drop_camera])
def test_a_clip_that_is_bad_in_one_camera_is_skipped_counted_and_named(damage, tmp_path, caplog):
    spec, bad, name = damage(tmp_path / "set")
    source = open_source(spec)
    sound = set(source.clips.tolist()) - {bad}
    window = WindowSpec(chunk_size=2, image_size=64, with_frames=True, with_actions=True)

    def named():
        found = any(name in message for message in caplog.messages)
        caplog.clear()
        return found

    dataset = WindowDataset(source, window)
    assert {int(dataset[i]["index"][1]) for i in range(len(dataset))} == sound
    assert list(dataset.bad.bad) == [bad]
    assert named()

    assert {int(s["index"][1]) for s in load(source, window, streaming=True)} == sound
    assert named()

    loader = make_loader(source, window, 4, max_bad_share=0.3, cache_bytes=0)
    seen, batches = set(), iter(loader)
    while loader.epochs()[source.name] < 1:
        batch = next(batches)
        seen |= set(batch["index"][:, 1].tolist())
        for index, images in zip(batch["index"].tolist(), batch["images"], strict=True):
            assert read_stamp(images[0])[0] == index[1]
    assert seen == sound
    assert loader.num_bad()[source.name] >= 1  # windows
    assert named()

    out = write_lerobot(source, tmp_path / "out", Conversion(image_size=64), num_workers=0)
    if all(len(source.cameras_of(clip)) == 2 for clip in sound):
        assert len(open_source(f"lerobot:{out}").clips) == len(sound)
        (line,) = left_out(out)
        assert name in line
    else:  # a set has the cameras that all clips have
        assert len(open_source(f"lerobot:{out}").clips) == len(sound) + 1

    main = WindowSpec(chunk_size=2, image_size=64, views=source.features.cameras[:1])
    everything = load(source, main)  # who does not look at that camera misses nothing
    assert {int(everything[i]["index"][1]) for i in range(len(everything))} == sound | {bad}
    assert describe(source)["clips"] == len(sound) + 1
    assert contact_sheet(source).width == 8 * 96
    assert np.isfinite(source.stats()["actions"]["std"]).all()
