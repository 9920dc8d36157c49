# SPDX-License-Identifier: Apache-2.0
"""What the converters write is read back frame by frame, and goes on where it was cut short."""

import json
import shlex
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from data_fixtures import (
    TASKS,
    build_bridge,
    build_folder,
    build_libero,
    build_shards,
    build_ssv2,
    encode,
    read_stamp,
    stamped,
)
from PIL import Image

from lawm_hf import cli
from lawm_hf.data import WindowSpec, load, open_source
from lawm_hf.data.convert import Conversion, write_lerobot, write_shards
from lawm_hf.hub.licences import SSV2, licence
from lawm_hf.writing.executors import Executor

WINDOW = WindowSpec(chunk_size=3, image_size=64, with_frames=True)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lawm-hf", *map(str, arguments)])
    cli.main()


def check_frames(dataset, clip_of):
    for sample in dataset:
        _, clip, start = sample["index"].tolist()
        last = dataset.source.length(clip) - 1
        expected = [(clip_of(clip), min(start + k, last)) for k in range(4)]
        assert [read_stamp(f) for f in sample["frames"]] == expected
        assert sample["task"] == TASKS[clip_of(clip) % 3]


@pytest.mark.parametrize("image_size", [None, 64])
def test_ssv2_becomes_shards_as_they_are_or_encoded_anew(tmp_path, monkeypatch, image_size):
    build_ssv2(tmp_path / "ssv2")
    out = tmp_path / "shards"
    options = ["--image_size", image_size] if image_size else []
    run(
        monkeypatch,
        *("convert", "ssv2", tmp_path / "ssv2", "--out", out, "--tasks", 1),
        *("--clips_per_part", 4, *options),
    )
    assert [p.name for p in sorted(out.glob("*.tar"))] == ["train-00000.tar", "train-00001.tar"]
    dataset = load(f"wds:{out}/train-*.tar", WINDOW)
    assert len(dataset) == sum(13 + i for i in range(6))
    check_frames(dataset, lambda clip: clip)
    assert "not redistributable" in (out / "README.md").read_text()
    (out / "index.jsonl").unlink()  # is only a shortcut
    assert len(load(f"wds:{out}/train-*.tar", WINDOW)) == len(dataset)


def test_an_interrupted_conversion_goes_on_and_another_is_refused(tmp_path, monkeypatch):
    source = open_source(f"ssv2:{build_ssv2(tmp_path / 'ssv2')}")
    how, opened = Conversion(clips_per_part=2), []
    original = type(source).open

    def failing(self, clip):
        opened.append(clip)
        if clip == 4 and len(opened) < 20:
            raise KeyboardInterrupt
        return original(self, clip)

    monkeypatch.setattr(type(source), "open", failing)
    with pytest.raises(KeyboardInterrupt):
        write_shards(source, tmp_path / "out", how)
    opened.extend([0] * 20)
    before = len(opened)
    write_shards(source, tmp_path / "out", how)
    assert set(opened[before:]) == {4, 5}
    check_frames(load(f"wds:{tmp_path}/out/train-*.tar", WINDOW), lambda clip: clip)
    with pytest.raises(ValueError, match="another conversion"):
        write_shards(source, tmp_path / "out", Conversion())


@pytest.mark.parametrize("kind", ["bridge", "libero"])
def test_robot_sets_become_lerobot_with_their_actions(tmp_path, kind, monkeypatch):
    build = {"bridge": build_bridge, "libero": build_libero}[kind]
    original = open_source(f"{kind}:{build(tmp_path / 'raw')}")
    out = tmp_path / "lerobot"
    run(
        monkeypatch,
        *("convert", kind, tmp_path / "raw", "--out", out, "--tasks", 1),
        *("--image_size", 96, "--clips_per_part", 2),
    )
    source = open_source(f"lerobot:{out}")
    assert source.lengths.tolist() == [original.length(int(c)) for c in original.clips]
    for clip in source.clips.tolist():
        for ours, theirs in zip(source.low_dim(clip), original.low_dim(clip), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert source.task(clip) == original.task(clip)
        everything = np.arange(source.length(clip))
        for c, camera in enumerate(source.features.cameras):
            frames = source.decode(clip, camera, everything, 96, "squash")
            lag = int(kind == "bridge" and clip == 3)
            stamps = [(clip + 100 * c, t + lag) for t in everything]
            assert [read_stamp(f) for f in frames] == stamps
    for name, stats in original.stats().items():
        np.testing.assert_allclose(source.stats()[name]["std"], stats["std"], rtol=1e-4)


def test_clips_that_cannot_be_read_are_left_out_and_named(tmp_path, monkeypatch, capsys):
    root = build_folder(tmp_path / "videos")
    broken = sorted(root.rglob("*.mp4"))[1]
    broken.write_bytes(broken.read_bytes()[:500])
    run(
        monkeypatch,
        *("convert", "folder", root, "--out", tmp_path / "out", "--tasks", 1),
    )
    printed = capsys.readouterr().out
    assert "Wrote 2 clips" in printed
    assert f"Left out deep/{broken.name}" in printed
    *_, spec = shlex.split(printed.splitlines()[-1])  # of the command to type next
    assert len(open_source(spec).clips) == 2


def test_a_disk_that_was_away_costs_no_clip_and_a_lost_part_is_not_done(
    tmp_path, monkeypatch, capsys
):
    root, out = build_folder(tmp_path / "videos", 12) / "deep", tmp_path / "out"
    command = ["convert", "folder", tmp_path / "videos", "--out", out, "--tasks", 1]
    clips = sorted(root.iterdir())
    for path in clips[1:5]:
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    (tmp_path / clips[1].name).rename(tmp_path / "away")
    run(monkeypatch, *command, "--clips_per_part", 6)  # one of twelve may be bad
    for path in clips[2:5]:
        (tmp_path / path.name).rename(tmp_path / f"{path.name}.away")
    (out / "train-00000.tar").unlink()
    with pytest.raises(SystemExit):
        run(monkeypatch, *command, "--clips_per_part", 6)
    assert "4 of 6 clips" in capsys.readouterr().err
    (tmp_path / "away").rename(tmp_path / clips[1].name)
    for path in clips[2:5]:
        (tmp_path / f"{path.name}.away").rename(tmp_path / path.name)
    run(monkeypatch, *command, "--clips_per_part", 6)
    assert len(open_source(f"wds:{out}/train-*.tar").clips) == 12
    with pytest.raises(ValueError, match="must be at least 1, got -4"):
        Conversion(clips_per_part=-4)


@pytest.mark.parametrize("fps", [Fraction(25, 2), Fraction(30000, 1001)])
def test_a_lerobot_set_keeps_a_rate_that_is_no_whole_number(tmp_path, fps):
    lerobot = pytest.importorskip("lerobot.datasets")
    encode(stamped(3, 40), str(tmp_path / "push it.mp4"), fps)
    how = Conversion(image_size=64)
    out = write_lerobot(open_source(f"folder:{tmp_path}"), tmp_path / "out", how)
    source = open_source(f"lerobot:{out}")
    assert source.features.fps == pytest.approx(float(fps))
    frames = source.decode(0, source.features.cameras[0], np.arange(40), 64, "squash")
    assert [read_stamp(f) for f in frames] == [(3, t) for t in range(40)]
    theirs = lerobot.LeRobotDataset("me/set", root=out, video_backend="pyav")
    camera = source.features.cameras[0]
    stamps = [read_stamp((theirs[t][camera] * 255).round().byte().numpy()) for t in (0, 7, 39)]
    assert stamps == [(3, 0), (3, 7), (3, 39)]
    assert theirs.meta.stats[camera]["mean"].shape == (3, 1, 1)  # what lerobot-train asks for


def test_clips_of_several_rates_are_refused_for_a_set_of_one(tmp_path):
    for i, fps in enumerate((10, 30, 10)):
        encode(stamped(i, 20), str(tmp_path / f"push it {i}.mp4"), fps)
    source, how = open_source(f"folder:{tmp_path}"), Conversion(image_size=64)
    with pytest.raises(ValueError, match=r"1 of 3 are not of 10 frames per second, such as push"):
        write_lerobot(source, tmp_path / "out", how)
    assert write_shards(source, tmp_path / "out", how)


def test_pushing_is_private_unless_told_otherwise(tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo, **options):
            calls.append((repo, options["private"]))

        def upload_folder(self, **options):
            calls.append(options["ignore_patterns"])

    monkeypatch.setattr("lawm_hf.hub.HfApi", Api)
    build_folder(tmp_path / "videos", 1)
    common = ["convert", "folder", tmp_path / "videos", "--tasks", 1, "--push-to", "me/set"]
    run(monkeypatch, *common, "--out", tmp_path / "a")
    run(monkeypatch, *common, "--out", tmp_path / "b", "--public")
    assert calls == [("me/set", True), [".parts/*"], ("me/set", False), [".parts/*"]]


def test_frames_of_something_something_do_not_become_public(tmp_path, monkeypatch, capsys):
    uploads, public = [], set()

    class Api:
        def repo_info(self, repo, **options):
            return SimpleNamespace(private=repo not in public)

        def create_repo(self, repo, **options):
            pass

        def upload_folder(self, **options):
            uploads.append(options["repo_id"])

    monkeypatch.setattr("lawm_hf.hub.HfApi", Api)
    raw, first, second = build_ssv2(tmp_path / "raw", 2), tmp_path / "first", tmp_path / "second"
    common = ["--tasks", 1, "--push_to", "me/set"]
    command = ["convert", "ssv2", raw, "--out", first, *common]

    def is_refused(*arguments):
        with pytest.raises(SystemExit):
            run(monkeypatch, *arguments)
        assert "research use only, not redistributable" in capsys.readouterr().err
        assert not uploads

    is_refused(*command, "--public")
    assert not first.exists()
    public.add("me/set")  # it exists already, and is
    is_refused(*command)
    public.clear()
    run(monkeypatch, *command)
    assert uploads.pop() == "me/set"
    # Converted once more, under a name that tells nothing, as video or as a robot's set.
    again = ["convert", "wds", f"{first}/train-*.tar", "--out", second]
    is_refused(*again, *common, "--public")
    run(monkeypatch, *again, "--tasks", 1, "--format", "lerobot", "--image_size", 64)
    is_refused("convert", "lerobot", second, "--out", tmp_path / "third", *common, "--public")
    assert licence(f"lerobot:{second},episodes=:1") is SSV2


def test_inspect_prints_the_facts_and_draws_a_contact_sheet(tmp_path, monkeypatch, capfd):
    spec = f"wds:{build_shards(tmp_path / 'wds')}/*.tar"
    run(monkeypatch, "data", "inspect", spec, "--sheet", tmp_path / "sheet.png")
    printed = capfd.readouterr().out
    assert "clips             6" in printed
    assert TASKS[0] in printed
    assert Image.open(tmp_path / "sheet.png").size == (8 * 96, 6 * 96)
    run(monkeypatch, "data", "inspect", spec, "--sheet", tmp_path / "sheet.png", "--json")
    facts = json.loads(capfd.readouterr().out)
    assert (facts["clips"], facts["action_size"]) == (6, 0)
    assert facts["next"][0].endswith(f"pretrain --sources '{spec}'")


@pytest.mark.slow
def test_conversion_in_processes_and_lerobot_itself_agree(tmp_path):
    lerobot = pytest.importorskip("lerobot.datasets")
    source = open_source(f"libero:{build_libero(tmp_path / 'raw')}")
    how = Conversion(image_size=96, clips_per_part=2)
    out = write_lerobot(source, tmp_path / "out", how, executor=Executor(tasks=2))
    theirs = lerobot.LeRobotDataset("me/set", root=out, video_backend="pyav")
    ours = open_source(f"lerobot:{out}")
    for item in theirs:
        clip, t = int(item["episode_index"]), int(item["frame_index"])
        frame = (item["observation.images.image"] * 255).round().byte().numpy()
        assert read_stamp(frame) == (clip, t)
        np.testing.assert_allclose(item["action"], ours.low_dim(clip)[1][t])
        assert item["task"] == ours.task(clip)


def test_a_conversion_does_not_become_a_part_of_its_source(tmp_path):
    build_folder(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    how = Conversion(image_size=16)
    with pytest.raises(ValueError, match="for both"):
        write_shards(open_source(f"folder:{tmp_path}"), tmp_path / "deep/..", how)
    assert sorted(tmp_path.rglob("*")) == before
