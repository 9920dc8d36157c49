# SPDX-License-Identifier: Apache-2.0
"""Several views and the robot's state, from the files to the report of a run."""

import importlib
import json
from dataclasses import replace

import pytest
import torch
import yaml
from dreamer_fixtures import batch, build
from remote_code import loss_as_remote_code

from lawm_hf import LAWMForPretraining, LAWMPolicy, LAWMProcessor
from lawm_hf.analysis.labels import open_labels
from lawm_hf.data import WindowDataset, WindowSpec, make_loader, open_source
from lawm_hf.data.reader import WindowReader
from lawm_hf.data.source import BadClipError

SOURCE = "tabletop:reach,episodes=16,actions=false,state=true,num_workers=1"
FRONT = "tabletop:reach,episodes=16,actions=false,views=front,num_workers=1"
ALL = {"chunk_size": 4, "image_size": 32, "with_frames": True, "with_state": False}
BOTH = {"frame_views": 2, "with_frame_states": True, "image_views": 1}


def test_frames_and_states_of_a_window_are_those_of_the_same_moment():
    source = open_source(SOURCE)
    assert source.features.action_size == 0
    sample = WindowDataset(source, WindowSpec(**ALL, **BOTH))[3]
    assert sample["frames"].shape == (5, 2, 3, 32, 32)
    assert sample["images"].shape == (1, 3, 32, 32)
    assert (sample["images"][0] == sample["frames"][0, 0]).all()
    alone = WindowDataset(source, WindowSpec(**ALL))[3]
    assert alone["images"].shape == (2, 3, 32, 32)
    assert (alone["frames"] == sample["frames"][:, 0]).all()
    assert (alone["images"][1] == sample["frames"][0, 1]).all()
    _, clip, first = sample["index"].tolist()
    state, _ = source.sound_low_dim(clip)
    rows = [min(first + k, len(state) - 1) for k in range(5)]
    assert (sample["frame_states"] == state[rows]).all()


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (
            FRONT,
            {"frame_views": 2},
            r"Windows of 2 views need as many cameras, but .*has .*front\.",
        ),
        (FRONT, {"image_views": 3}, r"Windows of 3 views need as many cameras, .*policy_views"),
        (FRONT, {"views": ("front", "front")}, r"`views` must name each camera once"),
        (FRONT, {"with_frame_states": True}, "needs the robot's state, but .* has none"),
        (FRONT, {"frame_views": 0}, "must be at least 1, got 0"),
        (SOURCE.replace("state=true", "state=yes"), {}, "must be true or left out, got 'yes'"),
    ],
)
def test_what_a_source_does_not_have_is_refused_with_what_to_do(spec, options, message):
    with pytest.raises(ValueError, match=message):
        WindowDataset(open_source(spec), WindowSpec(**ALL, **options))


def test_a_clip_without_a_view_that_is_predicted_is_skipped_and_named(monkeypatch):
    source = open_source(SOURCE)
    cameras = source.features.cameras
    monkeypatch.setattr(source, "cameras_of", lambda clip: cameras[:1] if clip == 2 else cameras)
    reader = WindowReader(source, WindowSpec(**ALL, **BOTH))
    assert reader.decode(1, [0]).take(cameras[1], reader.frame_indices(1, 0)[0]).any()
    with pytest.raises(BadClipError, match=r"no camera .*wrist"):
        reader.decode(2, [0])


def test_states_of_several_sizes_cannot_be_mixed():
    sources = [open_source(SOURCE), open_source(SOURCE)]
    sources[1].features = replace(sources[1].features, state_size=3)
    with pytest.raises(ValueError, match="need states of one size"):
        make_loader(sources, WindowSpec(**ALL, with_frame_states=True), batch_size=2)


def test_the_processor_stacks_the_channels_of_views_and_normalises_states_but_not_padding():
    processor = LAWMProcessor(image_size=32, frame_size=32, task_embed_size=64)
    processor.set_statistics({"state": {"min": [0.0, 0.0], "max": [2.0, 4.0]}})
    frames = torch.randint(0, 256, (2, 3, 2, 3, 32, 32), dtype=torch.uint8)
    states = torch.tensor([2.0, 0.0]).expand(2, 3, 2).clone()
    is_pad = torch.zeros(2, 3, dtype=torch.bool)
    is_pad[1, 2], states[1, 2] = True, float("nan")
    told = {"frames": frames, "frame_states": states, "frame_is_pad": is_pad}
    out = processor(images=frames[:, 0], task=["a", "b"], **told)
    assert out["frames"].shape == (2, 3, 6, 32, 32)
    assert torch.equal(out["frames"][:, :, 3:], frames[:, :, 1])
    assert out["frame_states"][0].tolist() == [[1, -1]] * 3
    assert out["frame_states"][1, 2].tolist() == [0, 0]


def test_a_saved_model_of_views_and_state_runs_without_the_package(tmp_path):
    model = build(objective="imagination", num_views=2, state_size=3).eval()
    frames = torch.cat([batch(seed)["frames"] for seed in (0, 1)], 2)
    inputs = batch() | {"frames": frames, "frame_states": torch.rand(*frames.shape[:2], 3)}
    loss = model(**inputs).loss.item()
    assert loss_as_remote_code(model, inputs, tmp_path) == pytest.approx(loss, rel=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short pretraining that predicts both cameras and the state, and its folder."""
    folder = tmp_path_factory.mktemp("views")
    sizes = {"deter_size": 32, "hidden_size": 16, "depth": 8, "num_views": 2, "state_size": 8}
    pretrain = importlib.import_module("lawm_hf.recipes.pretrain")
    pretrain.main(
        pretrain.PretrainArgs(
            sources=[SOURCE],
            eval_source=SOURCE.replace("episodes=16", "episodes=24"),
            policy_views=1,
            policy_config='{"hidden_size": 32, "num_layers": 1}',
            world_model_config=json.dumps(sizes),
            batch_size=4,
            steps=2,
            warmup_steps=1,
            log_every=1,
            output_dir=str(folder),
        )
    )
    return folder


def test_a_run_reports_each_view_and_the_state_and_its_policy_finetunes(run, tmp_path):
    health = json.loads((run / "health.json").read_text())
    assert list(health["parts"]) == ["view 1", "view 2", "state"]
    views = [health["parts"][f"view {v}"]["copy"] for v in (1, 2)]
    assert health["copy_error"] == pytest.approx(sum(views))
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert line["state"] > 0
    finetune = importlib.import_module("lawm_hf.recipes.finetune")
    finetune.main(
        finetune.FinetuneArgs(
            source="tabletop:reach,episodes=16,seed=200000,num_workers=1",
            pretrained=str(run),
            batch_size=4,
            steps=1,
            warmup_steps=1,
            output_dir=str(tmp_path),
        )
    )
    assert LAWMPolicy.from_pretrained(tmp_path).config.state_size == 8


def test_a_run_s_policy_labels_by_the_views_that_it_saw(run):
    labels = open_labels(str(run))
    with pytest.raises(ValueError, match="at most 1 views"):
        labels.cameras(["front", "wrist"])
    assert labels.cameras(["front"]) == ("front",)


def test_a_state_of_another_size_than_the_data_s_is_refused(run, tmp_path):
    pretrain = importlib.import_module("lawm_hf.recipes.pretrain")
    args = yaml.safe_load((run / "args.yaml").read_text())
    assert args["policy_views"] == 1
    loaded = LAWMForPretraining.from_pretrained(run)
    loader = make_loader(
        [open_source(SOURCE)], WindowSpec(**ALL, with_frame_states=True), batch_size=2
    )
    pretrain.check_size("world_model", loaded.world_model, "state", loader)
    loaded.world_model.config.state_size = 7
    with pytest.raises(ValueError, match=r'of the data\'s size, 8, got 7.*"state_size": 8'):
        pretrain.check_size("world_model", loaded.world_model, "state", loader)
