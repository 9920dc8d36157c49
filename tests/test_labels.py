# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf label`: what a policy says on seeing a frame is in that frame's row."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from data_fixtures import TASKS, build_folder, build_lerobot, read_stamp
from huggingface_hub import DatasetCard
from huggingface_hub.dataclasses import strict
from test_recipes import run as run_recipe
from torch import nn
from transformers import AutoConfig, AutoModel

from lawm_hf import BakuConfig, BakuPolicy, LAWMPolicy, LAWMPolicyConfig, LAWMProcessor, cli
from lawm_hf.analysis.labels import open_labels
from lawm_hf.data import WindowDataset, WindowSpec, open_source
from lawm_hf.data import convert as conversion
from lawm_hf.hub.licences import SSV2, licence, pretraining_sources
from lawm_hf.models.modeling_outputs import PolicyOutput
from lawm_hf.writing import statistics
from lawm_hf.writing.statistics import ColumnStatistics

SIZES = {"chunk_size": 4, "action_size": 4, "image_size": 32, "task_embed_size": 64}


@strict
class StampConfig(LAWMPolicyConfig):
    model_type = "stamp_reader"


class StampReader(LAWMPolicy):
    """A policy whose latents are the 16 bits that are stamped on a frame."""

    config_class = StampConfig

    def __init__(self, config):
        super().__init__(config)
        self.unused = nn.Parameter(torch.zeros(1))
        self.post_init()

    def forward(self, pixel_values, task_embeds, view_mask=None):
        centres = ((torch.arange(16) + 0.5) * 2).long()
        bits = pixel_values[:, 0, :, 4, centres].mean(1).sign()  # (B, 16)
        return PolicyOutput(actions=bits.unflatten(1, (4, 4)))


AutoConfig.register(StampConfig.model_type, StampConfig, exist_ok=True)
AutoModel.register(StampConfig, StampReader, exist_ok=True)


def save_run(folder: Path, policy: LAWMPolicy, **args) -> Path:
    """A run of pretraining: as much of it as labelling reads."""
    processor = LAWMProcessor(image_size=32, task_embed_size=64)
    policy.save_pretrained(folder / "policy")
    processor.save_pretrained(folder / "processor")
    given = {"objective": "latent", "sources": ["folder:clips"], "resize": "squash"}
    (folder / "args.yaml").write_text(yaml.safe_dump(given | args))
    return folder


@pytest.fixture
def baku(tmp_path):
    torch.manual_seed(0)
    small = BakuConfig(hidden_size=32, num_layers=1, latent_norm="batch", state_size=0, **SIZES)
    return save_run(tmp_path / "baku", BakuPolicy(small))


@pytest.fixture
def reader(tmp_path):
    return save_run(tmp_path / "reader", StampReader(StampConfig(num_views=1, **SIZES)))


def label(monkeypatch, run, spec, out, *flags):
    """The command, here; the labelled set's spec."""
    argv = ["lawm-hf", "label", run, "--source", spec, "--out", out, "--image_size", 64, *flags]
    monkeypatch.setattr(sys, "argv", [*map(str, argv)])
    cli.main()
    return f"lerobot:{out},action=latent_action"


def files(folder):
    """Content of all files but notes of the conversion."""
    found = [p for p in folder.rglob("*") if p.is_file() and ".parts" not in p.parts]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def test_a_label_is_what_the_policy_says_on_seeing_that_frame_and_its_instruction(
    tmp_path, monkeypatch, baku
):
    source = open_source(f"folder:{build_folder(tmp_path / 'clips')}")
    out = label(monkeypatch, baku, source.name, tmp_path / "out", "--batch_size", 5)
    labelled = open_source(out)
    policy = LAWMPolicy.from_pretrained(baku, subfolder="policy").eval()
    processor = LAWMProcessor.from_pretrained(baku, subfolder="processor")
    for clip in source.clips.tolist():
        frames = source.decode(clip, "video", np.arange(source.length(clip)), 32, "squash")
        task = [source.task(clip)] * len(frames)
        with torch.no_grad():
            wanted = policy(**processor(images=frames[:, None], task=task)).actions
        got = labelled.low_dim(clip)[1]
        assert got.shape == (source.length(clip), 4, 4)
        torch.testing.assert_close(torch.from_numpy(got), wanted, atol=1e-5, rtol=1e-5)
        assert labelled.task(clip) == source.task(clip)


@pytest.mark.parametrize("flags", [(), ("--fps", 4)])
def test_row_k_holds_the_label_of_the_picture_in_row_k(tmp_path, monkeypatch, reader, flags):
    spec = f"folder:{build_folder(tmp_path / 'clips')}"  # of 15 frames per second
    labelled = open_source(label(monkeypatch, reader, spec, tmp_path / "out", *flags))
    assert labelled.features.action_size == labelled.chunk_size == 4
    for clip in labelled.clips.tolist():
        length = labelled.length(clip)
        pictures = labelled.decode(
            clip, labelled.features.cameras[0], np.arange(length), 64, "crop"
        )
        for picture, chunk in zip(pictures, labelled.low_dim(clip)[1], strict=True):
            bits = "".join("1" if bit > 0 else "0" for bit in chunk.ravel())
            assert (int(bits, 2) >> 8, int(bits, 2) & 255) == read_stamp(picture)


def test_states_actions_and_cameras_of_the_source_stay_and_lerobot_opens_the_set(
    tmp_path, monkeypatch, baku
):
    source = open_source(f"lerobot:{build_lerobot(tmp_path / 'set', 'v3.0')}")
    out = tmp_path / "out"
    labelled = open_source(label(monkeypatch, baku, source.name, out))
    plain = open_source(f"lerobot:{out}")
    assert plain.features == source.features
    for clip in source.clips.tolist():
        for ours, theirs in zip(plain.low_dim(clip), source.low_dim(clip), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    lerobot = pytest.importorskip("lerobot.datasets")
    theirs = lerobot.LeRobotDataset("me/labels", root=out, video_backend="pyav")
    last = theirs[len(theirs) - 1]
    clip = int(last["episode_index"])
    np.testing.assert_array_equal(last["latent_action"], labelled.low_dim(clip)[1][-1])
    assert read_stamp(last["observation.images.wrist"] * 255)[0] == clip + 100
    assert theirs.meta.stats["latent_action"]["mean"].shape == (4, 4)


def test_the_policy_looks_at_the_cameras_of_pretraining_and_never_guesses_one(
    tmp_path, monkeypatch, capsys
):
    spec = f"lerobot:{build_lerobot(tmp_path / 'set', 'v3.0')}"
    one = save_run(tmp_path / "one", StampReader(StampConfig(num_views=2, **SIZES)),
                   sources=["lerobot:x,views=wrist"])  # fmt: skip
    labelled = open_source(label(monkeypatch, one, spec, tmp_path / "out"))
    bits = labelled.low_dim(3)[1][5].ravel() > 0
    assert int("".join(map(str, bits.astype(int))), 2) == (103 << 8) + 5
    two = save_run(tmp_path / "two", StampReader(StampConfig(num_views=2, **SIZES)),
                   sources=["lerobot:x,views=front+wrist"])  # fmt: skip
    with pytest.raises(SystemExit):
        label(monkeypatch, two, f"{spec},views=front", tmp_path / "no")
    assert "those of pretraining, front and wrist" in capsys.readouterr().err
    none = save_run(tmp_path / "none", StampReader(StampConfig(num_views=1, **SIZES)))
    with pytest.raises(SystemExit):
        label(monkeypatch, none, spec, tmp_path / "no")
    assert "at most 1 views" in capsys.readouterr().err


def test_a_labelling_that_was_cut_short_goes_on_to_the_same_bytes(tmp_path, monkeypatch, baku):
    spec, parts = f"folder:{build_folder(tmp_path / 'clips', 5)}", ("--clips_per_part", 2)
    label(monkeypatch, baku, spec, tmp_path / "straight", *parts)
    write, done = conversion._write_part, []

    def once(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(write(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_write_part", once)
        with pytest.raises(SystemExit):
            label(patch, baku, spec, tmp_path / "cut", *parts)
    assert not (tmp_path / "cut/meta").exists()
    video = next((tmp_path / "cut").rglob("file-000.mp4"))
    before = video.stat().st_mtime_ns
    label(monkeypatch, baku, spec, tmp_path / "cut", *parts)
    assert files(tmp_path / "cut") == files(tmp_path / "straight")
    assert video.stat().st_mtime_ns == before


def test_a_folder_begun_with_other_weights_is_refused(tmp_path, monkeypatch, capsys, baku):
    spec = f"folder:{build_folder(tmp_path / 'clips')}"
    label(monkeypatch, baku, spec, tmp_path / "out")
    torch.manual_seed(1)
    policy = LAWMPolicy.from_pretrained(baku, subfolder="policy")
    nn.init.normal_(policy.action_head.weight)
    policy.save_pretrained(baku / "policy")
    from lawm_hf.analysis.labels import load_policy

    load_policy.cache_clear()  # as a new process has it
    with pytest.raises(SystemExit):
        label(monkeypatch, baku, spec, tmp_path / "out")
    assert "holds another conversion" in capsys.readouterr().err


def test_a_policy_of_actions_is_no_teacher(tmp_path, monkeypatch, capsys, baku):
    save_run(baku, LAWMPolicy.from_pretrained(baku, subfolder="policy"), objective="supervised")
    with pytest.raises(SystemExit):
        label(monkeypatch, baku, "folder:nowhere", tmp_path / "out")
    assert "needs a policy of latent pretraining" in capsys.readouterr().err


def test_a_policy_that_fails_is_not_taken_for_clips_that_cannot_be_read(
    tmp_path, monkeypatch, capsys, baku
):
    LAWMProcessor(image_size=32, task_embed_size=32).save_pretrained(baku / "processor")
    with pytest.raises(SystemExit):
        label(monkeypatch, baku, f"folder:{build_folder(tmp_path / 'clips')}", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "shapes cannot be multiplied" in capsys.readouterr().err


def test_the_card_names_the_policy_its_weights_and_the_licences_of_all_that_it_has_seen(
    tmp_path, monkeypatch, capsys
):
    run = save_run(tmp_path / "run", StampReader(StampConfig(num_views=1, **SIZES)),
                   sources=["ssv2:/data/ssv2", "tabletop:reach"], frame_interval_s=0.2)  # fmt: skip
    spec = f"folder:{build_folder(tmp_path / 'clips')}"
    label(monkeypatch, run, spec, tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out/README.md")
    note = json.loads((tmp_path / "out/source.json").read_text())
    assert note["labels"]["sources"] == ["ssv2:ssv2", "tabletop:reach"]
    for words in (note["labels"]["sha256"], "research use only", "ssv2:ssv2", "a\nstep is 0.2 s"):
        assert words in card.text
    assert card.data.license == "other"
    assert "LeRobot" in card.data.tags
    assert str(tmp_path) not in card.content
    # Whoever trains on the labels has learned from what their maker saw.
    assert licence(f"lerobot:{tmp_path}/out,action=latent_action") is SSV2
    student = tmp_path / "student"
    student.mkdir()
    (student / "args.yaml").write_text(yaml.safe_dump({"sources": [f"lerobot:{tmp_path}/out"]}))
    assert {"folder:clips", "ssv2:ssv2", "tabletop:reach"} <= {*pretraining_sources(str(student))}

    class Api:
        def repo_info(self, repo, **options):
            return SimpleNamespace(private=True)

    monkeypatch.setattr("lawm_hf.hub.HfApi", Api)
    with pytest.raises(SystemExit):
        label(monkeypatch, run, spec, tmp_path / "no", "--push_to", "me/labels", "--public")
    assert "research use only" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_statistics_are_of_all_frames_and_those_of_a_large_column_need_no_memory_for_it(
    tmp_path, monkeypatch, baku
):
    spec = f"folder:{build_folder(tmp_path / 'clips')}"
    labelled = open_source(label(monkeypatch, baku, spec, tmp_path / "out"))
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())["latent_action"]
    values = np.concatenate([labelled.low_dim(clip)[1] for clip in labelled.clips.tolist()])
    for name, wanted in (
        ("mean", values.mean(0)),
        ("std", values.std(0)),
        ("q90", np.quantile(values, 0.9, axis=0)),
    ):
        np.testing.assert_allclose(stats[name], wanted, atol=1e-6)
    assert stats["count"] == [len(values)]
    assert labelled.stats()["actions"]["mean"].shape == (4,)

    monkeypatch.setattr(statistics, "_MOST_ROWS", 1000)
    column, rows = ColumnStatistics(), np.random.default_rng(0).normal(3, 2, (50_000, 2, 3))
    for part in np.split(rows, [7, 8, 900, 20_001, 20_002]):
        column.add(part)
    found = column.result()
    assert column._num_kept <= 1000
    for name, wanted in (("min", rows.min(0)), ("max", rows.max(0)), ("mean", rows.mean(0))):
        np.testing.assert_allclose(found[name], wanted)
    np.testing.assert_allclose(found["std"], rows.std(0))
    np.testing.assert_allclose(found["q50"], np.quantile(rows, 0.5, axis=0), atol=0.4)
    assert found["count"] == [50_000]


def test_a_window_of_labels_has_the_chunk_of_its_first_frame(tmp_path, monkeypatch, reader):
    spec = label(
        monkeypatch, reader, f"folder:{build_folder(tmp_path / 'clips')}", tmp_path / "out"
    )
    source = open_source(spec)
    windows = WindowDataset(source, WindowSpec(chunk_size=4, image_size=32, with_actions=True))
    for sample in windows:
        clip, frame = read_stamp(sample["images"][0])
        bits = "".join("1" if bit > 0 else "0" for bit in sample["actions"].ravel())
        assert int(bits, 2) == (clip << 8) + frame
        assert not sample["action_is_pad"].any()
    with pytest.raises(ValueError, match="`chunk_size` must be 4, the steps of the chunks"):
        WindowDataset(source, WindowSpec(chunk_size=5, image_size=32, with_actions=True))
    assert not open_source(spec.partition(",")[0]).features.action_size  # without being asked for
    assert TASKS[0] in {source.task(int(clip)) for clip in source.clips}


def test_a_new_policy_learns_the_labels_and_is_then_finetuned_on_actions(
    tmp_path, monkeypatch, baku
):
    robot = f"lerobot:{build_lerobot(tmp_path / 'set', 'v3.0')},views=front"
    spec = label(monkeypatch, baku, robot, tmp_path / "out")
    small = {"hidden_size": 32, "num_layers": 1, "task_embed_size": 64}
    options = {"objective": "supervised", "sources": [spec], "chunk_size": 4, "image_size": 32}
    options |= {"steps": 30, "batch_size": 8, "warmup_steps": 1, "log_every": 1, "max_start": -1}
    with pytest.raises(ValueError, match="data's size, 4, got 7"):
        run_recipe("pretrain", tmp_path / "a", **options, policy_config=json.dumps(small))
    small["action_size"] = 4
    student = tmp_path / "student"
    run_recipe("pretrain", student, **options, policy_config=json.dumps(small))
    losses = [json.loads(line)["loss"] for line in (student / "log.jsonl").open()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1
    assert "another one's latent actions as labels" in (student / "README.md").read_text()
    tuned = tmp_path / "tuned"
    options = {"source": robot, "pretrained": str(student), "steps": 1, "warmup_steps": 1}
    run_recipe("finetune", tuned, **options, learning_rate=1e-9, vision_learning_rate=1e-9)
    before = LAWMPolicy.from_pretrained(student, subfolder="policy")
    after = LAWMPolicy.from_pretrained(tuned)
    assert after.config.action_size == 7
    torch.testing.assert_close(after.blocks.state_dict(), before.blocks.state_dict())


def test_the_page_about_labels_reads_and_draws_them(tmp_path, monkeypatch, baku):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    clips = f"folder:{build_folder(tmp_path / 'clips')}"
    label(monkeypatch, baku, clips, tmp_path / "data/mine_labels")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs/label.md").read_text()
    space: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "page", "exec"), space)
    assert space["chunks"].shape[1:] == (4, 4)
    assert (tmp_path / "label.png").stat().st_size > 1000


@pytest.mark.slow
def test_processes_write_the_labels_that_one_process_writes(tmp_path, monkeypatch, baku):
    spec, parts = f"folder:{build_folder(tmp_path / 'clips', 5)}", ("--clips_per_part", 2)
    one = open_source(label(monkeypatch, baku, spec, tmp_path / "one", *parts))
    two = open_source(label(monkeypatch, baku, spec, tmp_path / "two", *parts, "--tasks", 2))
    for clip in one.clips.tolist():
        np.testing.assert_allclose(one.low_dim(clip)[1], two.low_dim(clip)[1], atol=1e-6)


def test_a_policy_without_latents_is_told_as_what_its_folder_is(tmp_path):
    with pytest.raises(OSError, match=r"finished run has written, got: .*policy/config\.json\.$"):
        open_labels(str(tmp_path))
