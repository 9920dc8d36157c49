# SPDX-License-Identifier: Apache-2.0
"""Pushes to the Hub and loads from it: huggingface_hub itself against a stand-in of its server."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from data_fixtures import build_folder
from hub_fixtures import StandIn
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError
from test_data_convert import run
from test_labels import SIZES, save_run
from test_lawm import make_policy, make_world_model

from lawm_hf import (
    BakuConfig,
    BakuPolicy,
    LAWMForPretraining,
    LAWMPolicy,
    LAWMProcessor,
    LAWMWorldModel,
)
from lawm_hf.cli import main
from lawm_hf.data import open_source
from lawm_hf.hub import export_for_lerobot, push_run

pytest_plugins = ["hub_fixtures"]
RUN = {
    *("config.json", "policy/config.json", "policy/model.safetensors", "args.yaml", "README.md"),
    *("world_model/config.json", "world_model/model.safetensors", "environment.json"),
    "processor/processor_config.json",
}
STATISTICS = {"min": [-1.0] * 7, "max": [1.0] * 7}
LATENT = {"sources": ["tabletop:reach"], "objective": "latent"}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def write_records(folder: Path, args: dict) -> Path:
    options = {"seed": 0, "steps": 1, "batch_size": 1, "gradient_accumulation_steps": 1}
    (folder / "args.yaml").write_text(yaml.safe_dump(options | args))
    (folder / "environment.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """What a pretraining run leaves, with weights that nobody has trained."""
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    LAWMForPretraining(make_policy("baku"), make_world_model("imagination")).save_pretrained(folder)
    LAWMProcessor(32, task_embed_size=32).save_pretrained(folder / "processor")
    (folder / "step_000001").mkdir()
    (folder / "step_000001/random_states_0.pkl").write_bytes(b"\x80\x04N.")
    (folder / "policy/optimizer.bin").write_bytes(b"\x80\x04N.")
    return write_records(folder, LATENT)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory) -> Path:
    """What a finetuning run leaves, in the same way."""
    folder = tmp_path_factory.mktemp("runs") / "finetune"
    policy = make_policy("baku", state_size=0)
    policy.save_pretrained(folder)
    LAWMProcessor(32, task_embed_size=32, action_stats=STATISTICS).save_pretrained(folder)
    export_for_lerobot(folder, ["front", "wrist"])
    return write_records(folder, {"source": "tabletop:reach", "pretrained": ""})


def changed_policy(folder: Path, copy: Path, by: float) -> Path:
    """A copy with other weights, which the Hub does not have."""
    shutil.copytree(folder, copy)
    policy = LAWMPolicy.from_pretrained(copy)
    policy.load_state_dict({name: value + by for name, value in policy.state_dict().items()})
    policy.save_pretrained(copy)
    return copy


def fails(monkeypatch, capsys, *argv) -> str:
    """What a command says that ends with an error, on one screen."""
    monkeypatch.setattr("sys.argv", ["lawm-hf", *map(str, argv)])
    with pytest.raises(SystemExit) as caught:
        main()
    told = capsys.readouterr().err.partition("error: ")[2]  # after what huggingface_hub says
    assert caught.value.code == 2
    assert "Traceback" not in told
    assert len(told) < 1200
    return told


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------ one commit


def test_a_run_is_one_private_commit_and_comes_back_byte_for_byte(
    pretrained, online, storage, tmp_path
):
    name = f"me/run-{storage}"
    address = push_run(pretrained, name)
    (commit,) = online.commits(f"models/{name}")
    code = {path for path in commit["files"] if path.endswith(".py")}
    assert {*commit["files"]} - code - {".gitattributes"} == RUN
    assert online.ask("state")["repos"][f"models/{name}"]["private"] is True
    assert address.startswith(f"{online.url}/{name}/commit/")
    loaded = snapshot_download(name, local_dir=tmp_path / "loaded")
    for path in RUN - {"args.yaml"}:
        assert (Path(loaded) / path).read_bytes() == (pretrained / path).read_bytes()
    assert not [path for path in commit["files"] if path.endswith(PICKLES)]
    ways = {"lfs": f"/{name}.git/info/lfs", "xet": f"/{name}/xet-write-token"}
    assert [way for way in ways if online.requests(ways[way])] == [storage]


def test_policies_pairs_and_processors_load_by_name_revision_and_subfolder(
    pretrained, online, tmp_path
):
    push_run(pretrained, "me/pair", tag="v1")
    first = online.commits("models/me/pair")[0]
    changed = Path(shutil.copytree(pretrained, tmp_path / "changed"))
    pair = LAWMForPretraining.from_pretrained(changed)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter += 1
    pair.save_pretrained(changed)
    push_run(changed, "me/pair", revision="next")
    push_run(changed, "me/pair")
    before, after = LAWMForPretraining.from_pretrained(pretrained), pair
    assert same(LAWMForPretraining.from_pretrained("me/pair", revision="next"), after)
    for where, expected in (({}, after), ({"revision": "v1"}, before)):
        assert same(LAWMForPretraining.from_pretrained("me/pair", **where), expected)
        policy = LAWMPolicy.from_pretrained("me/pair", subfolder="policy", **where)
        world_model = LAWMWorldModel.from_pretrained("me/pair", subfolder="world_model", **where)
        assert same(policy, expected.policy)
        assert same(world_model, expected.world_model)
        processor = LAWMProcessor.from_pretrained("me/pair", subfolder="processor", **where)
        assert processor.image_size == 32
    assert first in online.commits("models/me/pair")


def test_a_pair_in_a_subfolder_loads_from_there(pretrained, online):
    api = HfApi()
    api.create_repo("me/many", private=True)
    api.upload_folder(repo_id="me/many", folder_path=pretrained, path_in_repo="runs/a")
    loaded = LAWMForPretraining.from_pretrained("me/many", subfolder="runs/a")
    assert same(loaded, LAWMForPretraining.from_pretrained(pretrained))


@pytest.mark.parametrize("what", ["policy", "pair", "processor"])
def test_push_to_hub_of_an_object_is_one_private_commit_with_its_processor_and_card(
    pretrained, online, what
):
    name = f"me/object-{what}"
    pair = LAWMForPretraining.from_pretrained(pretrained)
    processor = LAWMProcessor.from_pretrained(pretrained, subfolder="processor")
    pushed = {"policy": pair.policy, "pair": pair, "processor": processor}[what]
    with_it = {} if what == "processor" else {"processor": processor}
    pushed.push_to_hub(name, tags=["mine"], **with_it)
    (commit,) = online.commits(f"models/{name}")
    inside = "processor/" if what == "pair" else ""
    assert f"{inside}processor_config.json" in commit["files"]
    assert online.ask("state")["repos"][f"models/{name}"]["private"] is True
    # Its card runs as it stands.
    card = Path(snapshot_download(name), "README.md").read_text()
    assert "state it before you share this" in card
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["lawm", "robotics", "mine"]
    names: dict = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert names["processor"].image_size == 32
    if what != "processor":
        assert same(names["model"], pushed)


def test_what_its_owner_wrote_on_a_card_stays_when_an_object_is_pushed_again(pretrained, online):
    policy = LAWMPolicy.from_pretrained(pretrained, subfolder="policy")
    policy.push_to_hub("me/mine")
    text = "---\ntags: [a]\n---\n\n# Mine\n"
    HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id="me/mine")
    policy.push_to_hub("me/mine", tags=["b"], commit_message="again")
    card = Path(snapshot_download("me/mine"), "README.md").read_text()
    assert "# Mine" in card
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["a", "b"]


def test_save_pretrained_with_push_to_hub_makes_no_public_repository(pretrained, online, tmp_path):
    pair = LAWMForPretraining.from_pretrained(pretrained)
    pair.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="me/saved")
    (commit,) = online.commits("models/me/saved")
    assert {"policy/model.safetensors", "world_model/model.safetensors"} <= {*commit["files"]}
    assert online.ask("state")["repos"]["models/me/saved"]["private"] is True


# ------------------------------------------------------------------------------ the command


def test_the_command_opens_a_pull_request_tags_and_fills_a_collection(
    pretrained, online, monkeypatch, capsys
):
    def push(*flags):
        monkeypatch.setattr("sys.argv", ["lawm-hf", "push", str(pretrained), "me/cli", *flags])
        main()
        return capsys.readouterr().out.split()[-1]

    assert "/commit/" in push("--tag", "v1", "--collection", "LAWM policies")
    push("--collection", "LAWM policies")  # once is enough
    (collection,) = online.ask("state")["collections"].values()
    assert [item["id"] for item in collection["items"]] == ["me/cli"]
    assert collection["private"] is True
    push("--collection", collection["slug"])
    policy = Path(pretrained, "policy/config.json")
    original = policy.read_text()
    policy.write_text(original.replace("\n}", ',\n  "note": 1\n}'))
    push("--create_pr")
    policy.write_text(original)
    refs = HfApi().list_repo_refs("me/cli", include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests or []] == ["refs/pr/1"]
    assert refs.tags[0].name == "v1"
    assert len(online.commits("models/me/cli")) == 1
    proposed = online.commits("models/me/cli", "refs/pr/1")[0]["files"]["policy/config.json"]
    assert proposed["size"] > len(original)
    told = fails(monkeypatch, capsys, "push", pretrained, "me/cli", "--tag", "v1")
    assert "`tag` must be new, got 'v1'" in told


def test_without_a_token_the_error_says_how_to_log_in(pretrained, online, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    told = fails(monkeypatch, capsys, "push", pretrained, "me/nobody")
    assert "hf auth login" in told
    assert "Nothing was committed" in told
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "hf auth login" in fails(monkeypatch, capsys, "push", pretrained, "me/nobody")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    told = fails(monkeypatch, capsys, "push", pretrained, "me/nobody")
    assert "got 403" in told
    assert "Take a token that may write there" in told
    assert "models/me/nobody" not in online.ask("state")["repos"]


def test_what_is_private_or_gated_stays_so(finetuned, online, monkeypatch, tmp_path):
    push_run(finetuned, "me/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_you")
    with pytest.raises(OSError, match="me/secret"):
        LAWMPolicy.from_pretrained("me/secret")
    online.ask("publish", repo="models/me/secret")
    online.ask("gate", repo="models/me/secret")
    with pytest.raises(GatedRepoError):
        snapshot_download("me/secret", cache_dir=tmp_path)
    with pytest.raises(OSError, match="gated"):
        LAWMPolicy.from_pretrained("me/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    assert same(LAWMPolicy.from_pretrained("me/secret"), LAWMPolicy.from_pretrained(finetuned))


# ------------------------------------------------------------------------------ faults


def test_a_branch_that_moved_meanwhile_gets_nothing(pretrained, online, monkeypatch, capsys):
    push_run(pretrained, "me/moved")
    with (pretrained / "README.md").open("a") as card:
        card.write("\nSomething new.\n")
    online.fault("POST .*/me/moved/commit", stale="models/me/moved")
    told = fails(monkeypatch, capsys, "push", pretrained, "me/moved")
    assert "Somebody has pushed to it in the meantime" in told
    titles = [commit["title"] for commit in online.commits("models/me/moved")]
    assert titles == ["by somebody else", "Upload a lawm_hf run"]


def test_a_server_that_dies_in_mid_upload_gets_no_half_commit_and_the_rest_later(
    finetuned, online, monkeypatch, capsys
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    online.fault("POST .*/me/died/commit", die=100)
    told = fails(monkeypatch, capsys, "push", finetuned, "me/died")
    assert "Nothing was committed. Push again: what has arrived is not sent twice." in told
    online.restart()
    assert not online.commits("models/me/died")
    push_run(finetuned, "me/died")
    assert len(online.commits("models/me/died")) == 1
    assert not [line for line in online.requests("/lfs/") if line.startswith("PUT")]


def test_a_server_that_is_back_in_time_is_waited_for(finetuned, online, tmp_path, storage):
    folder = changed_policy(finetuned, tmp_path / "other", by=1 if storage == "lfs" else 4)
    online.fault("PUT /lfs/" if storage == "lfs" else "POST /v1/xorbs/", die=5000)
    name = f"me/back-{storage}"

    def revive():
        online.process.wait()
        time.sleep(0.2)
        online.start()

    nurse = threading.Thread(target=revive)
    nurse.start()
    push_run(folder, name)
    nurse.join()
    assert len(online.commits(f"models/{name}")) == 1
    assert same(LAWMPolicy.from_pretrained(name), LAWMPolicy.from_pretrained(folder))


@pytest.mark.parametrize("status", [429, pytest.param(503, marks=pytest.mark.slow)])
def test_a_busy_hub_is_asked_again_when_it_says(finetuned, online, status):
    name = f"me/busy-{status}"
    fault = {"status": status, "headers": {"Retry-After": "0"}}
    online.fault(f"POST .*/{name}/preupload", **fault)
    push_run(finetuned, name)
    assert len(online.requests(f"/{name}/preupload")) == 2
    assert len(online.commits(f"models/{name}")) == 1


def test_a_file_that_arrives_changed_is_refused(
    finetuned, online, monkeypatch, tmp_path, capsys, storage
):
    folder = changed_policy(finetuned, tmp_path / "changed", by=2 if storage == "lfs" else 3)
    online.fault("PUT /lfs/" if storage == "lfs" else "POST /v1/xorbs/", corrupt=True)
    told = fails(monkeypatch, capsys, "push", folder, f"me/wrong-{storage}")
    assert "Nothing was committed" in told
    assert not online.commits(f"models/me/wrong-{storage}")


# ------------------------------------------------------------------------------ datasets


def test_a_converted_set_is_pushed_and_streamed_from_there(online, tmp_path, monkeypatch, storage):
    build_folder(tmp_path / "videos", 2)
    out, name = tmp_path / "out", f"me/set-{storage}"
    command = ["convert", "folder", tmp_path / "videos", "--tasks", 1, "--out", out]
    run(monkeypatch, *command, "--push-to", name)
    commits = online.commits(f"datasets/{name}")
    assert online.ask("state")["repos"][f"datasets/{name}"]["private"] is True
    assert {"README.md", "source.json"} <= {*commits[0]["files"]}
    assert not [path for path in commits[0]["files"] if path.startswith((".parts", ".cache"))]
    ours = open_source(f"wds:{out}/*.tar")
    theirs = open_source(f"wds:hf://datasets/{name}/*.tar")
    assert len(theirs.clips) == len(ours.clips)
    before = len(commits)
    run(monkeypatch, *command[:-1], tmp_path / "again", "--push-to", name)  # the same once more
    assert len(online.commits(f"datasets/{name}")) == before


def test_a_policy_of_the_hub_labels_at_its_commit_and_the_labels_are_pushed(
    online, tmp_path, monkeypatch, storage
):
    teacher, name = f"me/teacher-{storage}", f"me/labels-{storage}"
    for tag in ("v1", "v2"):
        policy = BakuPolicy(BakuConfig(hidden_size=32, num_layers=1, **SIZES))
        write_records(save_run(tmp_path / tag, policy), LATENT)
        push_run(tmp_path / tag, teacher, tag=tag)
    old = online.ask("state")["repos"][f"models/{teacher}"]["refs"]["refs/tags/v1"]
    build_folder(tmp_path / "videos", 2)
    command = ["label", teacher, "--revision", "v1", "--source", f"folder:{tmp_path}/videos"]
    run(monkeypatch, *command, "--out", tmp_path / "out", "--push_to", name)
    assert online.ask("state")["repos"][f"datasets/{name}"]["private"] is True
    note = json.loads((tmp_path / "out/source.json").read_text())["labels"]
    assert (note["model"], note["commit"], note["sources"]) == (teacher, old, ["tabletop:reach"])
    assert old in (tmp_path / "out/README.md").read_text()
    ours = open_source(f"lerobot:{tmp_path}/out,action=latent_action")
    theirs = open_source(f"lerobot:{name},action=latent_action")
    np.testing.assert_array_equal(theirs.low_dim(1)[1], ours.low_dim(1)[1])


# ------------------------------------------------------------------------------ new processes

LOAD = """
import json, sys
from lawm_hf import LAWMForPretraining, LAWMPolicy, LAWMProcessor
pair = LAWMForPretraining.from_pretrained("me/offline", revision="v1")
policy = LAWMPolicy.from_pretrained("me/offline", revision="v1", subfolder="policy")
processor = LAWMProcessor.from_pretrained("me/offline", revision="v1", subfolder="processor")
LAWMForPretraining.from_pretrained("me/offline")
print(json.dumps([float(sum(p.double().sum() for p in m.parameters())) for m in (pair, policy)]))
"""


def in_new_process(code: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_what_was_fetched_once_loads_in_a_new_process_without_the_hub(
    pretrained, stand_in: StandIn, tmp_path
):
    on = stand_in.environment(tmp_path / "home")
    push = ["-m", "lawm_hf.cli", "push", str(pretrained), "me/offline", "--tag", "v1"]
    assert "/commit/" in in_new_process(push, on)
    fetched = json.loads(in_new_process(["-c", LOAD], on))
    expected = LAWMForPretraining.from_pretrained(pretrained)
    sums = [
        float(sum(p.double().sum() for p in m.parameters())) for m in (expected, expected.policy)
    ]
    assert fetched == pytest.approx(sums)
    stand_in.stop()
    offline = on | {"HF_HUB_OFFLINE": "1"}
    assert json.loads(in_new_process(["-c", LOAD], offline)) == fetched
    # Also when nobody has said that there is no Hub.
    assert json.loads(in_new_process(["-c", LOAD], on)) == fetched
    stand_in.start()


LEROBOT = """
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
import lawm_hf.lerobot
config = PreTrainedConfig.from_pretrained("me/robot")
policy = get_policy_class(config.type).from_pretrained("me/robot", config=config)
make_pre_post_processors(config, pretrained_path="me/robot")
print(float(sum(p.double().sum() for p in policy.lawm.parameters())))
"""


@pytest.mark.slow
def test_lerobot_loads_a_policy_by_name_and_again_without_the_hub(
    finetuned, stand_in: StandIn, tmp_path
):
    pytest.importorskip("lerobot")
    on = stand_in.environment(tmp_path / "home")
    push = ["-m", "lawm_hf.cli", "push", str(finetuned), "me/robot"]
    in_new_process(push, on)
    expected = sum(p.double().sum() for p in LAWMPolicy.from_pretrained(finetuned).parameters())
    assert float(in_new_process(["-c", LEROBOT], on)) == pytest.approx(float(expected))
    offline = on | {"HF_HUB_OFFLINE": "1"}
    assert float(in_new_process(["-c", LEROBOT], offline)) == pytest.approx(float(expected))


@pytest.mark.slow
def test_a_hub_that_stays_away_is_told_on_one_screen_and_the_push_goes_on_later(
    finetuned, stand_in: StandIn, tmp_path
):
    on = stand_in.environment(tmp_path / "home", HF_HUB_DISABLE_XET="1")
    push = [sys.executable, "-m", "lawm_hf.cli", "push", str(finetuned), "me/away"]
    stand_in.fault("PUT /lfs/", die=1000)
    done = subprocess.run(push, env=on, capture_output=True, text=True, check=False)
    stand_in.restart()
    if done.returncode:  # unless the file had arrived before, by another test
        assert "Push again: what has arrived is not sent twice." in done.stderr
        assert "Traceback" not in done.stderr
        assert not stand_in.commits("models/me/away")
    subprocess.run(push, env=on, capture_output=True, text=True, check=True)
    assert len(stand_in.commits("models/me/away")) == 1
