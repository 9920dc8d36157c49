# SPDX-License-Identifier: Apache-2.0
"""`recipes/analyze.py`, by running it on a tiny pretraining run."""

import json
from pathlib import Path

import pytest
from PIL import Image
from test_recipes import DEMONSTRATIONS, pretrain, recipe


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    pretrain(folder, steps=2)
    return folder


def analyze(**options):
    module = recipe("analyze")
    return module.main(module.AnalyzeArgs(**{name: str(value) for name, value in options.items()}))


def test_a_run_is_analysed_on_clips_with_actions(pretrained, tmp_path):
    source = f"{DEMONSTRATIONS},views=front"
    outcome = analyze(pretrained=pretrained, source=source, output_dir=tmp_path)
    record = json.loads((tmp_path / "analysis.json").read_text())
    assert record.items() <= json.loads(json.dumps(outcome.made)).items()
    assert record["is_held_out"]
    assert record["health"]["num_clips"] == 6
    assert [row["verb"] for row in record["verbs"]] == ["all"]
    assert record["verbs_left_out"] == {"go to": [10, 6]}
    assert set(record["action_probes"]["mlp"]) == {"trained", "untrained", "shuffled"}
    assert record["composition"]["num_clips"] == 6
    report = (tmp_path / "report.md").read_text()
    assert report in outcome.text
    for name in ("strip.png", "neighbours.png", "traversal.png", "traversal.gif"):
        assert f"]({name})" in report
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 100


def test_a_run_is_analysed_on_video_without_actions(pretrained, tmp_path):
    source = "tabletop:reach,episodes=16,actions=false,views=front,num_workers=1"
    analyze(pretrained=pretrained, source=source, output_dir=tmp_path)
    record = json.loads((tmp_path / "analysis.json").read_text())
    assert record["verbs"] == []
    assert record["retrieval"]["trained"]["motion_correlation"] is None
    assert "the clips have no actions" in (tmp_path / "report.md").read_text()


def test_a_folder_that_is_no_pretraining_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="world_model/"):
        analyze(pretrained=tmp_path, output_dir=tmp_path / "out")


def test_an_analysis_does_not_write_over_the_pictures_of_a_run(pretrained):
    before = (pretrained / "args.yaml").read_bytes()
    with pytest.raises(ValueError, match="must not be the folder of a run"):
        analyze(pretrained=pretrained, output_dir=pretrained)
    assert (pretrained / "args.yaml").read_bytes() == before
    assert not (pretrained / "report.md").exists()
