# SPDX-License-Identifier: Apache-2.0
"""A push uploads what is meant for others, and where it may."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from test_recipes import pretrain

from lawm_hf import hub
from lawm_hf.cli import main
from lawm_hf.hub import push_run


class FakeApi:
    """Notes what is committed."""

    is_private = True

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **options: self.calls.append((name, options))

    def repo_info(self, repository, revision=None):
        return SimpleNamespace(private=self.is_private, sha="head")

    def list_repo_refs(self, repository):
        return SimpleNamespace(tags=[])

    def create_commit(self, **options):
        self.calls.append(("create_commit", options))
        return SimpleNamespace(oid="abc")

    @property
    def files(self) -> dict:
        """What the one commit holds."""
        (commit,) = [options for name, options in self.calls if name.endswith("commit")]
        assert not any(name.startswith("upload") for name, _ in self.calls)
        return {o.path_in_repo: o.path_or_fileobj for o in commit["operations"]}


def push(monkeypatch, folder: Path, repository: str, api=None, **options) -> FakeApi:
    api = api or FakeApi()
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    push_run(folder, repository, **options)
    return api


def run_folder(folder: Path, source: str, **args) -> Path:
    """What a pretraining run leaves behind, without its weights' numbers."""
    names = ["health.json", "environment.json", "policy/model.safetensors", "policy/modeling_a.py"]
    names += ["policy/images_b.py", "world_model/config.json", "processor/processor_config.json"]
    private = ["console.txt", "wandb/config.json", "log.jsonl", "step_000004/model.safetensors"]
    private += [
        "optimizer.safetensors",
        "policy/adapter_of_mine.safetensors",
        "notes.py",
        ".env",
        "policy/mine.py",
        "policy/optimizer.bin",
        "token.json",
    ]
    private += ["strip_000200.png", "README.1.md", "videos/a.mp4", "episodes.jsonl"]
    for name in names + private:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("{}")
    (folder / "policy/modeling_a.py").write_text("from .images_b import x\n")
    auto_map = {"AutoModel": "modeling_a.Policy"}
    (folder / "policy/config.json").write_text(json.dumps({"auto_map": auto_map}))
    (folder / "README.md").write_text("# mine\n")
    args = {"sources": [source], "output_dir": str(folder), "eval_source": "auto"} | args
    (folder / "args.yaml").write_text(yaml.safe_dump(args))
    return folder


RESULTS = {
    *("README.md", "args.yaml", "environment.json", "health.json", "policy/config.json"),
    *("policy/model.safetensors", "policy/modeling_a.py", "policy/images_b.py"),
    *("processor/processor_config.json", "world_model/config.json"),
}


@pytest.mark.parametrize(
    ("source", "eval_source", "has_pictures"),
    [
        ("tabletop:reach", "auto", True),
        ("lerobot:lerobot/libero", "none", True),
        ("ssv2:DIR", "auto", False),
        ("folder:/data/mine", "auto", False),
        ("tabletop:reach", "ssv2:DIR", False),  # held-out clips are on the pictures
    ],
)
def test_a_push_uploads_results_alone_in_one_commit(
    tmp_path, monkeypatch, source, eval_source, has_pictures
):
    folder = run_folder(tmp_path / "run", source, eval_source=eval_source)
    api = push(monkeypatch, folder, "me/x", tag="v1", revision="next")
    assert set(api.files) == RESULTS | ({"strip_000200.png"} if has_pictures else set())
    assert str(tmp_path) not in api.files["args.yaml"].decode()
    assert (folder / "README.md").read_text() == "# mine\n"
    calls = dict(api.calls)
    assert calls["create_repo"] == {"private": True, "exist_ok": True}
    assert (calls["create_branch"]["branch"], calls["create_commit"]["revision"]) == ("next",) * 2
    assert calls["create_tag"] == {"tag": "v1", "revision": "abc"}


def test_research_only_weights_go_to_a_public_repository_only_if_asked_to(tmp_path, monkeypatch):
    api = FakeApi()
    api.is_private = False
    folder = run_folder(tmp_path / "run", "wds:hf://datasets/me/sthv2/train-*.tar")
    with pytest.raises(ValueError, match="allow_public"):
        push(monkeypatch, folder, "me/x", api)
    assert "create_commit" not in dict(api.calls)
    push(monkeypatch, folder, "me/x", api, allow_public=True, create_pr=True)
    assert dict(api.calls)["create_commit"]["create_pr"] is True
    free = run_folder(tmp_path / "free", "tabletop:reach")
    push(monkeypatch, free, "me/x", type("Public", (FakeApi,), {"is_private": False})())


def test_a_run_is_pushed_later_by_a_command(tmp_path, monkeypatch):
    api = FakeApi()
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    folder = run_folder(tmp_path / "run", "tabletop:reach")
    argv = ["lawm-hf", "push", str(folder), "me/x", "--create-pr", "--revision", "next"]
    monkeypatch.setattr("sys.argv", argv)
    main()
    (commit,) = [options for name, options in api.calls if name == "create_commit"]
    assert (commit["create_pr"], commit["revision"]) == (True, "next")


@pytest.mark.parametrize(
    "name", ["true", "lawm", "me/", "me/x/y", "https://huggingface.co/me/x", "me/a b", "me/x@main"]
)
def test_a_malformed_repository_is_found_before_training(tmp_path, name):
    with pytest.raises(ValueError, match="`user/name`, got"):
        pretrain(tmp_path, steps=1, push_to_hub=name)
    assert not list(tmp_path.iterdir())
