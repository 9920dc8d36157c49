# SPDX-License-Identifier: Apache-2.0
"""Model cards: of real small runs, with licences, cost and results; and those of the plans."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate import Accelerator
from huggingface_hub import ModelCard
from test_recipes import FINETUNE, finetune, pretrain, recipe

from lawm_hf import LAWMPolicy, run_record
from lawm_hf.evaluation.results import EpisodeResult, summarize
from lawm_hf.hub.licences import licence, pretraining_sources, shareable
from lawm_hf.hub.push import add_results, push_run, write_card
from lawm_hf.training.run_log import ProgressLog, energy, hardware

ROOT = Path(__file__).parent.parent
SETTINGS = {"aggregation": "none", "first_seed": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A pretraining run and a policy finetuned from it."""
    folder = tmp_path_factory.mktemp("runs")
    pretrain(folder / "pretrain", steps=2)
    finetune(folder / "finetune", pretrained=str(folder / "pretrain"), **FINETUNE)
    return folder


@pytest.fixture
def policy_folder(runs, tmp_path) -> Path:
    return Path(shutil.copytree(runs / "finetune", tmp_path / "mine" / "finetune"))


def summary(successes: int, episodes: int) -> dict:
    return summarize([EpisodeResult(i, "go", i < successes, 9) for i in range(episodes)])


def snippet(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


@pytest.mark.parametrize(("name", "result"), [("pretrain", "latents"), ("finetune", "chunk")])
def test_the_snippet_of_a_card_runs_as_it_stands(runs, monkeypatch, name, result):
    monkeypatch.chdir(runs)
    names = {}
    exec(snippet((runs / name / "README.md").read_text()), names)
    assert names[result].shape == (1, 10, 7)


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_card_states_sizes_and_cost_and_no_folder_of_this_machine(runs, name):
    text = (runs / name / "README.md").read_text()
    policy = LAWMPolicy.from_pretrained(runs / name / ("policy" if name == "pretrain" else ""))
    assert f"{policy.num_parameters():,} parameters" in text
    record = json.loads((runs / name / "environment.json").read_text())
    assert record["cpu_seconds"] > 0
    assert f"{record['hardware']['cpu']}, {record['hardware']['cpu_cores']} cores" in text
    assert "assumed 10 W per busy core" in text
    assert str(runs) not in text
    assert not re.search(r"(^|[\s\"'`=:])(/\w|~/)", text, re.MULTILINE)


def test_weights_trained_on_the_tabletop_alone_are_apache(runs):
    data = ModelCard.load(runs / "finetune" / "README.md").data
    assert data.license == "apache-2.0"


def test_the_licence_of_the_pretraining_data_survives_finetuning(policy_folder):
    path = policy_folder / "environment.json"
    record = json.loads(path.read_text()) | {"pretraining_sources": ["ssv2:DIR,fraction=0.1"]}
    path.write_text(json.dumps(record))
    card = write_card(policy_folder)
    assert (card.data.license, card.data.license_name) == ("other", "data-ssv2-research-only")
    assert "`ssv2:DIR,fraction=0.1`: Something-Something v2: research use only" in card.text

    path.write_text(json.dumps(record | {"pretraining_sources": None}))
    card = write_card(policy_folder)
    assert card.data.license_name == "data-unstated"
    assert "state it before you share" in card.text


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


def test_an_evaluation_adds_its_rate_and_interval_and_replaces_only_itself(policy_folder):
    add_results(policy_folder, summary(3, 4), "tabletop", "reach", SETTINGS)
    add_results(policy_folder, summary(1, 4), "tabletop", "place4", SETTINGS)
    add_results(policy_folder, summary(9, 10), "tabletop", "reach", SETTINGS)
    add_results(policy_folder, summary(2, 4), "tabletop", "reach", SETTINGS | {"first_seed": 7})
    card = ModelCard.load(policy_folder / "README.md")
    found = {(r.dataset_config, r.metric_value) for r in card.data.eval_results}
    assert found == {("place4", 0.25), ("reach", 0.9), ("reach", 0.5)}
    assert card.data.to_dict()["model-index"][0]["name"] == "finetune"
    assert "| tabletop: reach | 90.0% | 59.6% – 98.2% | 10 | aggregation none" in card.text
    assert "75.0%" not in card.text
    assert "not measured" not in card.text.split("## Results")[1].split("##")[0]


def test_what_its_owner_wrote_on_a_card_survives_evaluation_and_push(policy_folder, monkeypatch):
    path = policy_folder / "README.md"
    path.write_text(path.read_text().replace("## Limits", "Licence of my demos: CC0.\n\n## Limits"))
    uploaded = {}
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, *a, **k: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **k: uploaded.update(k))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_file", lambda self, **k: None)
    add_results(policy_folder, summary(3, 4), "tabletop", "reach", SETTINGS)
    push_run(policy_folder, "me/lawm-reach")
    text = path.read_text()
    assert "Licence of my demos: CC0." in text
    assert "\n# lawm-reach\n" in text
    assert 'LAWMPolicy.from_pretrained("me/lawm-reach")' in text
    assert 'LAWMProcessor.from_pretrained("me/lawm-reach")' in text
    assert uploaded["repo_id"] == "me/lawm-reach"


def test_an_evaluation_does_not_fail_for_a_card(policy_folder, monkeypatch, caplog, tmp_path):
    add_results(tmp_path / "no_card", summary(3, 4), "tabletop", "reach", SETTINGS)
    add_results("someone/on-the-hub", summary(3, 4), "tabletop", "reach", SETTINGS)

    def refuse(self, path):
        raise PermissionError(f"Read-only file system: {path}")

    monkeypatch.setattr(ModelCard, "save", refuse)
    add_results(policy_folder, summary(3, 4), "tabletop", "reach", SETTINGS)
    assert "not on the model card" in caplog.text


def progress_log(folder: Path, first_step: int) -> ProgressLog:
    (folder / "environment.json").write_text("{}")
    args = SimpleNamespace(
        output_dir=str(folder),
        batch_size=1,
        gradient_accumulation_steps=1,
        steps=4,
        log_every=1,
        report_to=[],
    )
    return ProgressLog(Accelerator(cpu=True), args, first_step, "test")


def test_the_cost_of_a_resumed_run_includes_its_earlier_sessions(tmp_path):
    earlier = {"step": 2, "wall_seconds": 100.0, "cpu_seconds": 50.0}
    (tmp_path / "log.jsonl").write_text(json.dumps(earlier) + '\n{"step": 3, "wall_')
    log = progress_log(tmp_path, first_step=2)
    log.update(3, {})
    log.close()
    record = json.loads((tmp_path / "environment.json").read_text())
    assert 100 <= record["wall_seconds"] < 160
    assert 50 <= record["cpu_seconds"] < 110

    progress_log(tmp_path, first_step=0).update(1, {})  # begun anew: nothing is carried over
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["wall_seconds"] < 60


def test_energy_is_an_estimate_with_its_assumption_or_nothing(monkeypatch):
    machine = hardware(Accelerator(cpu=True))
    assert energy(machine, 10, 3600)["kwh"] == pytest.approx(0.01)
    gpus = machine | {"gpu": "A100", "gpu_power_limit_w": 400.0, "num_processes": 2}
    assert energy(gpus, 3600, 1)["kwh"] == pytest.approx(0.8)
    assert "2 × 400 W" in energy(gpus, 3600, 1)["method"]
    monkeypatch.setattr(run_record.shutil, "which", lambda name: None)
    assert run_record._power_limit("0") is None
    assert energy(gpus | {"gpu_power_limit_w": None}, 3600, 1)["kwh"] is None


def test_the_committed_cards_are_those_of_the_configurations(tmp_path):
    cards = recipe("cards")
    cards.main(cards.CardsArgs(output_dir=str(tmp_path)))
    for path in tmp_path.glob("*.md"):
        committed = (ROOT / "model_cards" / path.name).read_text()
        assert path.read_text() == committed, "run `python recipes/cards.py`"
    assert len(list(tmp_path.glob("*.md"))) == 5
    assert "not measured" in (tmp_path / "lawm-baku-ssv2.md").read_text()
