# SPDX-License-Identifier: Apache-2.0
"""Miniature sets of every format. Each picture is stamped with its clip and frame number.

The layouts follow the real sets; the values of states and actions name their clip and step too.
"""

import io
import json
import pickle
import shutil
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HEIGHT, WIDTH = 64, 96
BITS = 16  # of the stamp: 8 for the clip, 8 for the frame
TASKS = ["push the red cube", "open the drawer", "lift the cup"]


def stamped(clip, num_frames, height=HEIGHT, width=WIDTH):
    """Frames `(n, H, W, 3)`: a gradient, below a row of black and white blocks, its top quarter."""
    ramp = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None]
    frames = np.broadcast_to(ramp, (num_frames, height, width, 3)).copy()
    for t in range(num_frames):
        for b in range(BITS):
            bit = ((clip << 8 | t) >> (BITS - 1 - b)) & 1
            frames[t, : height // 4, b * width // BITS : (b + 1) * width // BITS] = 255 * bit
    return frames


def read_stamp(frame):
    """(clip, frame number) of a picture `(3, S, S)` of any size."""
    size = frame.shape[-1]
    centres = ((np.arange(BITS) + 0.5) * size / BITS).astype(int)
    bits = np.asarray(frame)[:, size // 8, centres].mean(0) > 127
    value = int("".join("1" if b else "0" for b in bits), 2)
    return value >> 8, value & 255


def low_dim(clip, num_steps, size):
    """`(n, size)`: clip, step, then noise."""
    values = np.random.default_rng(clip).normal(size=(num_steps, size)).astype(np.float32)
    values[:, 0], values[:, 1] = clip, np.arange(num_steps)
    return values


def encode(frames, file, fps, codec="libx264", container="mp4", gop=8):
    """Write a video."""
    fast = {"libx264": {"preset": "ultrafast", "crf": "20"}, "libvpx-vp9": {"cpu-used": "8"}}
    options = {"deadline": "realtime", **fast[codec]} if codec == "libvpx-vp9" else fast[codec]
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.time_base, stream.gop_size = 1 / Fraction(fps), gop
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def build_ssv2(root, num_clips=6, names="new"):
    """The folder a user has after unpacking; clip numbers are positions in the label file."""
    prefix = "" if names == "new" else "something-something-v2-"
    videos, labels = root / "20bn-something-something-v2", root / "labels"
    videos.mkdir(parents=True)
    labels.mkdir()
    rows = [{"id": str(700 + i), "label": TASKS[i % 3]} for i in range(num_clips)]
    for i, row in enumerate(rows):
        path = str(videos / f"{row['id']}.webm")
        encode(stamped(i, 14 + i), path, 12, "libvpx-vp9", "webm", gop=128)
    (labels / f"{prefix}train.json").write_text(json.dumps(rows))
    return root


def build_shards(root, num_clips=6):
    """Two tar shards."""
    root.mkdir(parents=True)
    for s in range(2):
        with tarfile.open(root / f"train-{s:05d}.tar", "w") as tar:
            for i in range(s, num_clips, 2):
                video = io.BytesIO()
                encode(stamped(i, 14 + i), video, 12, "libvpx-vp9", "webm", gop=128)
                parts = {"json": json.dumps({"label": TASKS[i % 3]}).encode()}
                for suffix, data in {**parts, "webm": video.getvalue()}.items():
                    member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return root


def build_folder(root, num_clips=3):
    """Videos named by their instruction."""
    (root / "deep").mkdir(parents=True)
    for i in range(num_clips):
        name = TASKS[i % 3].replace(" ", "_")
        encode(stamped(i, 14 + i), str(root / "deep" / f"{name}_{i:03d}.mp4"), 15)
    return root


def build_lerobot(root, version, num_episodes=5, images=False, fps=10, tasks=TASKS):
    """A LeRobot set; in v3.0 two episodes share each mp4 and three each parquet file.

    Clip numbers of the stamps: the episode for camera `front`, 100 more for `wrist`.
    """
    root.mkdir(parents=True)
    cameras = ["observation.images.front", "observation.images.wrist"]
    kind = {"dtype": "image" if images else "video", "shape": [HEIGHT, WIDTH, 3]}
    features = dict.fromkeys(cameras, kind)
    features["observation.state"] = {"dtype": "float32", "shape": [8]}
    features["action"] = {"dtype": "float32", "shape": [7]}
    lengths = [12 + e for e in range(num_episodes)]
    v3 = version == "v3.0"
    place = (
        "chunk-{chunk_index:03d}/file_{file_index:03d}"
        if v3
        else "chunk-{episode_chunk:03d}/episode_{episode_index:06d}"
    )
    info = {
        "codebase_version": version,
        "fps": fps,
        "chunks_size": 1000,
        "features": features,
        "data_path": f"data/{place}.parquet",
        "video_path": f"videos/{{video_key}}/{place}.mp4",
    }
    _write(root / "meta/info.json", json.dumps(info))

    per_data, per_video = (3, 2) if v3 else (1, 1)
    for first in range(0, num_episodes, per_data):
        path = root / info["data_path"].format(**_numbers(first, per_data))
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = [
            _episode_table(e, lengths[e], cameras if images else [])
            for e in range(first, min(first + per_data, num_episodes))
        ]
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)
    for c, camera in enumerate([] if images else cameras):
        for first in range(0, num_episodes, per_video):
            episodes = range(first, min(first + per_video, num_episodes))
            path = root / info["video_path"].format(**_numbers(first, per_video), video_key=camera)
            path.parent.mkdir(parents=True, exist_ok=True)
            frames = [stamped(e + 100 * c, lengths[e]) for e in episodes]
            encode(np.concatenate(frames), str(path), fps)

    episode_tasks = [tasks[e % len(tasks)] for e in range(num_episodes)]
    if not v3:
        rows = [
            {"episode_index": e, "tasks": [task], "length": lengths[e]}
            for e, task in enumerate(episode_tasks)
        ]
        _write(root / "meta/episodes.jsonl", "\n".join(map(json.dumps, rows)))
        return root
    begins = np.cumsum([0, *lengths[:-1]])
    columns = {
        "episode_index": range(num_episodes),
        "tasks": [[task] for task in episode_tasks],
        "length": lengths,
        "dataset_from_index": begins,
        "data/chunk_index": [0] * num_episodes,
        "data/file_index": [e // per_data for e in range(num_episodes)],
    }
    for camera in [] if images else cameras:
        columns[f"videos/{camera}/chunk_index"] = [0] * num_episodes
        columns[f"videos/{camera}/file_index"] = [e // per_video for e in range(num_episodes)]
        columns[f"videos/{camera}/from_timestamp"] = [
            (begins[e] - begins[e - e % per_video]) / fps for e in range(num_episodes)
        ]
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "meta/episodes/chunk-000/file-000.parquet")
    return root


def _numbers(episode, per_file):
    return {
        "chunk_index": 0,
        "file_index": episode // per_file,
        "episode_chunk": 0,
        "episode_index": episode,
    }


def _episode_table(episode, length, image_cameras):
    columns = {
        "observation.state": list(low_dim(episode, length, 8)),
        "action": list(low_dim(episode, length, 7)),
        "episode_index": [episode] * length,
    }
    for c, camera in enumerate(image_cameras):
        columns[camera] = [
            {"bytes": _png(frame), "path": None} for frame in stamped(episode + 100 * c, length)
        ]
    return pa.table(columns)


def _png(frame):
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "png")
    return file.getvalue()


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def build_bridge(root, num_clips=4):
    """Raw trajectories: the first has two cameras, the last is of the time of the camera's lag."""
    for i in range(num_clips):
        date = "2021-06-20_10-00-00" if i == num_clips - 1 else "2022-11-25_21-52-07"
        folder = root / f"raw/bridge_data_v2/kitchen/skills/{i:02d}/{date}/raw/traj_group0/traj{i}"
        num_actions = 12 + i  # above 10, so that numeric and lexicographic order differ
        for c in range(2 if i == 0 else 1):
            (folder / f"images{c}").mkdir(parents=True)
            for t, frame in enumerate(stamped(i + 100 * c, num_actions + 1)):
                Image.fromarray(frame).save(folder / f"images{c}/im_{t}.jpg", quality=90)
        actions = low_dim(i, num_actions, 7).astype(np.float64)
        steps = [{"actions": a} for a in actions] if i % 2 else list(actions)
        state = {"full_state": low_dim(i, num_actions + 1, 7).astype(np.float64)}
        (folder / "policy_out.pkl").write_bytes(pickle.dumps(steps))
        (folder / "obs_dict.pkl").write_bytes(pickle.dumps(state))
        (folder / "lang.txt").write_text(f"{TASKS[i % 3]}\nconfidence: 0.9\n")
    return root


def build_libero(root, num_demos=3):
    """One file of one suite. As LIBERO stored it: upside down, and `obs[t]` after `actions[t]`."""
    path = root / "libero_90/KITCHEN_SCENE10_open_the_drawer_demo.hdf5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": TASKS[1]})
        for i in range(num_demos):
            demo = data.create_group(f"demo_{i}")
            length = 12 + i
            demo["actions"] = low_dim(i, length, 7).astype(np.float64)
            for c, camera in enumerate(("agentview_rgb", "eye_in_hand_rgb")):
                frames = stamped(i + 100 * c, length, 96, 96)[:, ::-1, ::-1]
                demo[f"obs/{camera}"] = np.ascontiguousarray(frames)
            state = low_dim(i, length, 8).astype(np.float64)
            parts = {
                "ee_pos": state[:, :3],
                "ee_ori": state[:, 3:6],
                "gripper_states": state[:, 6:],
            }
            for key, value in parts.items():
                demo[f"obs/{key}"] = value
    return root


def copy_set(root: Path, spec: str, to: Path) -> tuple[Path, str]:
    """Copy the set of a spec, below `root`, to another folder: its place and its spec there."""
    scheme, _, location = spec.partition(":")
    folder = location.removeprefix(str(root)).split("/")[1]
    shutil.copytree(root / folder, to / folder)
    return to / folder, f"{scheme}:{location.replace(str(root), str(to))}"


def build_all(root: Path) -> dict[str, str]:
    """Every format below `root`, as specs by name."""
    return {
        "lerobot_v2.0": f"lerobot:{build_lerobot(root / 'v20', 'v2.0')}",
        "lerobot_v2.1": f"lerobot:{build_lerobot(root / 'v21', 'v2.1')}",
        "lerobot_v3.0": f"lerobot:{build_lerobot(root / 'v30', 'v3.0')}",
        "lerobot_images": f"lerobot:{build_lerobot(root / 'v30i', 'v3.0', images=True)}",
        "ssv2": f"ssv2:{build_ssv2(root / 'ssv2')}",
        "wds": f"wds:{build_shards(root / 'wds')}/train-*.tar",
        "folder": f"folder:{build_folder(root / 'folder')}",
        "bridge": f"bridge:{build_bridge(root / 'bridge')}",
        "libero": f"libero:{build_libero(root / 'libero')}",
    }
