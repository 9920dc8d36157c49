# SPDX-License-Identifier: Apache-2.0
"""What the data behind weights allow, by whichever name they go."""

import json
from types import SimpleNamespace

import pytest
import yaml

from lawm_hf.hub.card import card_metadata, data_licences
from lawm_hf.hub.licences import inherited_sources, licence, pretraining_sources, shareable


def test_the_pretraining_data_are_read_from_its_folder_without_paths(tmp_path):
    sources = [f"ssv2:{tmp_path}/ssv2,manifest={tmp_path}/some.json", "lerobot:a/b@main"]
    (tmp_path / "args.yaml").write_text(yaml.safe_dump({"sources": sources}))
    expected = ["ssv2:ssv2,manifest=some.json", "lerobot:a/b@main"]
    assert pretraining_sources(str(tmp_path)) == expected
    assert pretraining_sources("nobody/on-the-hub") is None


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("tabletop:reach,episodes=4", "apache-2.0"),
        ("tabletop,episodes=4", "apache-2.0"),
        ("ssv2:/data/x", "ssv2-research-only"),
        ("wds:hf://datasets/me/ssv2-wds/train-*.tar", "ssv2-research-only"),
        ("bridge:DIR,views=images0", "cc-by-4.0"),
        ("lerobot:nvidia/BridgeData2_LeRobot_v3@COMMIT", "cc-by-4.0"),
        ("libero:DIR,suite=libero_90", "cc-by-4.0"),
        ("lerobot:me/demos", "unstated"),
        ("lerobot:nvidia/bridge_lerobot_v3", "cc-by-4.0"),
        ("lerobot:IPEC-COMMUNITY/bridge_orig_lerobot", "cc-by-4.0"),
        ("lerobot:someone/bridge_data_v2", "cc-by-4.0"),
        ("lerobot:hf://datasets/lerobot/libero@a1aaacb", "cc-by-4.0"),
        ("lerobot:nvidia/LIBERO_LeRobot_v3/libero_90", "cc-by-4.0"),
        ("lerobot:physical-intelligence/libero", "cc-by-4.0"),
        ("lerobot:openvla/modified_libero_rlds", "cc-by-4.0"),
        ("wds:hf://datasets/me/sthv2-wds/train-*.tar", "ssv2-research-only"),
        ("wds:hf://datasets/me/20bn-clips/train-*.tar", "ssv2-research-only"),
        ("folder:/data/SomethingSomethingV2", "ssv2-research-only"),
        ("wds:smth-smth/x.tar", "ssv2-research-only"),
        ("lerobot:me/bridge-inspection", "unstated"),
        ("folder:/data/cambridge_data", "unstated"),
        ("lerobot:x/libero_plus_lerobot", "unstated"),  # others have extended it
        ("folder:/data/fifthv2", "unstated"),
        ("folder:/data/tabletop", "unstated"),
        ("wds:/data/train-*.tar", "unstated"),
    ],
)
def test_a_source_has_the_licence_of_its_data(spec, name):
    assert licence(spec).name == name


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("lerobot:{folder}/demos,episodes=3", "lerobot:demos,episodes=3"),
        ("wds:{folder}/x/train-*.tar", "wds:train-*.tar"),
        ("folder:~/videos", "folder:videos"),
        ("wds:hf://datasets/me/x/train-*.tar", "wds:hf://datasets/me/x/train-*.tar"),
        ("me/lawm-baku", "me/lawm-baku"),
        ("{folder}/outputs/pretrain", "pretrain"),
    ],
)
def test_a_source_is_shown_without_the_folders_above_it(spec, shown, tmp_path):
    assert shareable(spec.format(folder=tmp_path)) == shown


def test_a_base_in_a_folder_goes_by_the_name_under_which_it_was_pushed(tmp_path):
    (tmp_path / "args.yaml").write_text("push_to_hub: me/lawm-latent\nsources: [tabletop:reach]\n")
    args = {"source": "tabletop:reach", "pretrained": str(tmp_path)}
    policy = SimpleNamespace(config=SimpleNamespace(model_type="lawm_baku"))
    assert card_metadata(args, {}, policy, {}).base_model == "me/lawm-latent"
    (tmp_path / "args.yaml").write_text("sources: [tabletop:reach]\n")
    assert card_metadata(args, {}, policy, {}).base_model is None


@pytest.mark.parametrize(
    "text",
    ["sources: !!python/object/apply:os.mkdir ['{}/ran']", "- a", "sources: [[1]]", "\0", "{", ""],
)
def test_a_damaged_record_of_the_pretraining_data_means_that_they_are_not_known(tmp_path, text):
    (tmp_path / "args.yaml").write_text(text.replace("{}", str(tmp_path)))
    assert pretraining_sources(str(tmp_path)) is None
    assert not (tmp_path / "ran").exists()


def test_the_data_behind_every_checkpoint_that_went_into_a_run_are_inherited(tmp_path):
    """A policy and a world model from elsewhere, one of them finetuned from a third."""
    for name, text in (
        ("a", "sources: [ssv2:DIR]"),
        ("b", "source: tabletop:reach\npretrained: c"),
    ):
        (tmp_path / name / "policy").mkdir(parents=True)
        (tmp_path / name / "args.yaml").write_text(text)
    args = {"sources": ["tabletop:place2"], "policy_type": f"{tmp_path}/a/policy"}
    args |= {"objective": "latent", "world_model_type": f"{tmp_path}/b", "vision_from": ""}
    assert inherited_sources(args) is None
    assert "what b was pretrained on" in data_licences(args, {})
    record = {"pretraining_sources": ["bridge:DIR"]}
    (tmp_path / "b" / "environment.json").write_text(json.dumps(record))
    assert inherited_sources(args) == ["bridge:DIR", "ssv2:DIR", "tabletop:reach"]
    assert inherited_sources(args | {"policy_type": "baku", "world_model_type": "dreamerv3"}) == []


def test_the_name_of_an_unknown_pretraining_frees_no_data():
    for parent, name in (("me/lawm-libero", "unstated"), ("me/lawm-ssv2", "ssv2-research-only")):
        found = data_licences({"source": "tabletop:reach", "pretrained": parent}, {})
        assert [each.name for each in found.values()] == ["apache-2.0", name]
