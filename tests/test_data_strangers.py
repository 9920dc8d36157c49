# SPDX-License-Identifier: Apache-2.0
"""Formats of others, files of others: each sample once, with its own words, or refused by name."""

import io
import json
import os
import sys
import tarfile

import h5py
import numpy as np
import pytest
from data_fixtures import (
    HEIGHT,
    TASKS,
    WIDTH,
    build_folder,
    build_libero,
    encode,
    low_dim,
    read_stamp,
    stamped,
)

from lawm_hf import cli
from lawm_hf.data import WindowSpec, make_loader, open_source, spec
from lawm_hf.data import video as videos
from lawm_hf.data.source import BadClipError
from lawm_hf.models.configuration_lawm import load_plugins

OUT_OF_TREE = '''
import numpy as np
from pathlib import Path
from lawm_hf.data import Features, Source, register_scheme


class ArraySource(Source):
    """A folder of `{instruction}.npy`, each `(T, H, W, 3)` uint8."""

    def __init__(self, location, fps="10"):
        self.name, self.paths = f"arrays:{location}", sorted(Path(location).glob("*.npy"))
        self.features = Features(fps=float(fps), cameras=("top",))
        self.clips = np.arange(len(self.paths))
        self.lengths = np.array([len(np.load(path)) for path in self.paths])

    def clip_name(self, clip):
        return self.paths[clip].name

    def task(self, clip):
        return self.paths[clip].stem

    def decode(self, clip, camera, indices, size, resize):
        frames = np.load(self.paths[clip])[indices]
        rows = np.arange(size) * frames.shape[1] // size
        columns = np.arange(size) * frames.shape[2] // size
        return frames[:, rows][:, :, columns].transpose(0, 3, 1, 2)


register_scheme("arrays", ArraySource)
'''


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """A folder of a format that an installed package, not imported yet, brings."""
    (tmp_path / "their_arrays.py").write_text(OUT_OF_TREE)
    metadata = tmp_path / "their_arrays-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-arrays\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[lawm_hf]\narrays = their_arrays\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(spec, "_SCHEMES", dict(spec._SCHEMES))
    monkeypatch.delitem(sys.modules, "their_arrays", raising=False)
    (tmp_path / "set").mkdir()
    for i, task in enumerate(sorted(TASKS)):
        np.save(tmp_path / f"set/{task}.npy", stamped(i, 12))
    return tmp_path / "set"


def lawm(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lawm-hf", *map(str, arguments)])
    cli.main()


def test_a_format_from_elsewhere_is_trained_on_inspected_and_converted(
    arrays, tmp_path, monkeypatch, capsys
):
    window = WindowSpec(chunk_size=2, image_size=64, with_frames=True)
    batch = next(iter(make_loader(f"arrays:{arrays},fps=20", window, 4)))
    for images, index, task in zip(batch["images"], batch["index"], batch["task"], strict=True):
        assert read_stamp(images[0]) == tuple(index[1:].tolist())
        assert task == sorted(TASKS)[index[1]]
    lawm(monkeypatch, "data", "inspect", f"arrays:{arrays}", "--sheet", tmp_path / "sheet.png")
    assert "clips             3" in capsys.readouterr().out
    out = ["--out", tmp_path / "out", "--image_size", 64, "--tasks", 1]
    lawm(monkeypatch, "convert", "arrays", arrays, *out)
    assert len(open_source(f"lerobot:{tmp_path / 'out'}").clips) == 3


def test_a_package_that_cannot_be_imported_is_named_and_others_work(
    arrays, tmp_path, monkeypatch, caplog
):
    broken = tmp_path / "a_broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: a-broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text("[lawm_hf]\nbroken = a_broken\n")
    (tmp_path / "a_broken.py").write_text("raise RuntimeError('no licence key')\n")
    assert len(open_source(f"arrays:{arrays}").clips) == 3
    assert "The plug-in a_broken cannot be imported: RuntimeError: no licence key" in caplog.text
    assert load_plugins()["a_broken"] == "RuntimeError: no licence key"  # as models are told


def test_an_unknown_scheme_names_the_nearest_and_the_way_to_others(arrays):
    with pytest.raises(ValueError, match=r"Did you mean `arrays`\?.*--import"):
        open_source(f"array:{arrays}")
    with pytest.raises(ValueError, match="A scheme is letters"):
        spec.register_scheme("a:b", lambda location: None)


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def video(clip):
    file = io.BytesIO()
    encode(stamped(clip, 8), file, 10)
    return file.getvalue()


def test_samples_of_a_shard_are_told_apart_by_folder_and_by_dots_and_capitals_are_known(tmp_path):
    words = {"cup/01": "a", "jar/01": "b", "jar/2024.05.take1": "c", "Up": "d"}
    members = {}
    for i, (key, word) in enumerate(words.items()):
        capital = str.upper if key == "Up" else str
        members[f"{key}.{capital('json')}"] = json.dumps({"label": word}).encode()
        members[f"{key}.{capital('mp4')}"] = video(i)
    members |= {"two.txt": b"e", "two.left.mp4": video(4), "two.right.mp4": video(5)}
    tar_of(tmp_path / "train-0.tar", members)
    source = open_source(f"wds:{tmp_path}/train-*.tar")
    found = [
        read_stamp(source.decode(c, "video", np.arange(1), 64, "squash")[0])[0] for c in range(6)
    ]
    assert dict(zip(found, map(source.task, range(6)), strict=True)) == dict(enumerate("abcdee"))


def test_a_bad_label_or_a_declared_size_costs_one_clip(tmp_path, caplog):
    members = {f"{i}.txt": b"go" for i in range(4)} | {f"{i}.mp4": video(i) for i in range(4)}
    members = dict(sorted(members.items())) | {"1.json": b"[" * 100_000, "2.json": b"[1]"}
    tar_of(tmp_path / "train-0.tar", {**members, "1.txt": b"\xe9", "2.txt": b"x" * (1 << 21)})
    assert len(open_source(f"wds:{tmp_path}/train-*.tar").clips) == 2
    assert "Label 1.json" in caplog.text
    rows = [{"shard": "train-0.tar", "key": "0", "offset": 512, "size": 3 << 40, "task": "go"}]
    rows.append(rows[0] | {"size": -1, "key": "1"})
    (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="can be opened"):
        open_source(f"wds:{tmp_path}/train-*.tar")
    (tmp_path / "index.jsonl").write_text('{"shard": "train-0.tar", "key')  # a full disk
    assert len(open_source(f"wds:{tmp_path}/train-*.tar").clips) == 2


def test_a_shard_that_is_a_pipe_or_a_link_to_nowhere_is_named_not_left_out(tmp_path):
    for i in range(2):
        tar_of(tmp_path / f"train-{i}.tar", {f"{i}.txt": b"go", f"{i}.mp4": video(i)})
    for replace in (os.mkfifo, lambda path: path.symlink_to(tmp_path / "away.tar")):
        (tmp_path / "train-1.tar").unlink()
        replace(tmp_path / "train-1.tar")
        with pytest.raises(FileNotFoundError, match=r"No file train-1\.tar"):
            open_source(f"wds:{tmp_path}/train-*.tar")


def test_a_video_that_is_a_pipe_or_impossibly_wide_costs_its_clip(tmp_path, monkeypatch):
    for i in range(3):
        encode(stamped(i, 8), str(tmp_path / f"go_{i}.mp4"), 10)
    (tmp_path / "go_1.mp4").unlink()
    os.mkfifo(tmp_path / "go_1.mp4")
    source = open_source(f"folder:{tmp_path}")
    with pytest.raises(BadClipError, match=r"no file go_1\.mp4"):
        source.length(1)
    assert source.length(2) == 8
    monkeypatch.setattr(videos, "_MOST_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(BadClipError, match="too large to be true"):
        videos.scan_video(tmp_path / "go_2.mp4")


def test_captions_are_read_as_datasets_writes_them(tmp_path, caplog):
    for name in ("a.mp4", "deep/b.MP4", "deep/cafe\u0301.mp4", "._a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        encode(stamped(0, 8), str(tmp_path / name), 10)
    (tmp_path / "metadata.csv").write_text("\ufefffile_name,text\na.mp4,push\n", encoding="utf-8")
    rows = [{"file_name": "b.MP4", "text": "pull"}, {"file_name": "caf\u00e9.mp4", "text": "pour"}]
    (tmp_path / "deep/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(f"folder:{tmp_path}")
    assert [source.task(int(c)) for c in source.clips] == ["push", "pull", "pour"]
    with pytest.raises(FileNotFoundError, match=r"No captions metadata\.tsv"):
        open_source(f"folder:{tmp_path},captions=metadata.tsv")
    rows = "file_name,text\na.mp4,push\na.mp4,lift\na.mp4,lift\ndeep/b.MP4,pull\n"
    (tmp_path / "metadata.csv").write_text(rows)
    assert open_source(f"folder:{tmp_path}").task(0) == "lift"
    assert "1 videos have several captions, such as a.mp4: the last counts, 'lift'" in caplog.text


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"file_name;text\na.mp4;push\n", "got a row {'file_name;text': 'a.mp4;push'}"),
        (
            b"file_name,text\na.mp4,push, then pull\n",
            "commas in \"quotes\", got a row .*'then pull'",
        ),
        (b"File_Name,Text\na.mp4,push\n", "got a row {'File_Name': 'a.mp4'"),
        ("file_name,text\na.mp4,géné\n".encode("cp1252") + b"x" * 9999, "0xe9 in position 22"),
    ],
)
def test_captions_of_another_form_are_told_in_a_line(tmp_path, content, got):
    encode(stamped(0, 8), str(tmp_path / "a.mp4"), 10)
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"must be UTF-8 with .*{got}") as error:
        open_source(f"folder:{tmp_path}")
    assert len(str(error.value)) < 500


def test_names_that_are_no_text_or_command_a_terminal_are_shown_as_escapes(
    tmp_path, monkeypatch, capsys
):
    root = build_folder(tmp_path / "set", 1) / "deep"
    clip = next(root.iterdir())
    clip.rename(root / os.fsdecode(b"caf\xe9 \x1b[2J.mp4"))
    source = open_source(f"folder:{tmp_path / 'set'}")
    assert (source.task(0), source.clip_name(0)) == ("café \\x1b[2J", "deep/café \\x1b[2J.mp4")
    assert source.fingerprint()
    json.dumps(next(iter(make_loader(source, WindowSpec(image_size=32), 1)))["task"]).encode()
    sheet = ["--sheet", tmp_path / "sheet.png"]
    lawm(monkeypatch, "data", "inspect", f"folder:{tmp_path / 'set'}", *sheet)
    assert "\x1b" not in capsys.readouterr().out


def test_libero_regenerated_without_idle_actions_is_observed_before_each_action(tmp_path):
    path = next(build_libero(tmp_path / "set", 1).rglob("*.hdf5"))
    with h5py.File(path, "a") as file:
        del file["data"].attrs["problem_info"]
    source = open_source(f"libero:{tmp_path / 'set'}")
    state, actions = source.low_dim(0)
    assert source.length(0) == len(state) == len(actions) == 12
    assert np.array_equal(actions, low_dim(0, 12, 7))
    after = open_source(f"libero:{tmp_path / 'set'},observed=after")
    assert after.low_dim(0)[1][0, 1] == 1
    with pytest.raises(ValueError, match="before or after"):
        open_source(f"libero:{tmp_path / 'set'},observed=maybe")


def outside(demo, folder):
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = np.zeros((12, 3))
    demo["obs/ee_pos"] = h5py.ExternalLink("../secret.h5", "x")


def virtual(demo, folder):
    outside(demo, folder)
    del demo["obs/ee_pos"]
    layout = h5py.VirtualLayout((12, 3), float)
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (12, 3))
    demo["obs"].create_virtual_dataset("ee_pos", layout)


def raw(demo, folder):
    (folder / "secret").write_bytes(bytes(12 * 3 * 8))
    external = [(str(folder / "secret"), 0, 12 * 3 * 8)]
    demo["obs"].create_dataset("ee_pos", (12, 3), float, external=external)


def declared(demo, folder):
    demo["obs"].create_dataset("ee_pos", (12, 1 << 40), "f8", chunks=(1, 1 << 20))


@pytest.mark.parametrize("what", [outside, virtual, raw, declared])
def test_hdf5_gives_only_what_is_in_the_file(tmp_path, what):
    path = next(build_libero(tmp_path / "set", 1).rglob("*.hdf5"))
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs/ee_pos"]
        what(file["data/demo_0"], tmp_path)
    source = open_source(f"libero:{tmp_path / 'set'}")
    with pytest.raises(Exception, match=r"is a link|another file|stored"):
        source.low_dim(0)
