# SPDX-License-Identifier: Apache-2.0
"""Model cards: of real small runs, with licences, cost and results; and those of the plans."""

import ast
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate import Accelerator
from huggingface_hub import ModelCard
from test_push import FakeApi, push
from test_recipes import FINETUNE, finetune, pretrain, recipe

from lawm_hf import LAWMPolicy, run_record
from lawm_hf.evaluation.results import EpisodeResult, summarize
from lawm_hf.hub import add_results, write_card
from lawm_hf.hub.text import cell, code, literal
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
    return re.search(r"```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)[1]


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
    assert record["cpu_seconds"] >= 0  # rounded, on a fast machine to 0.0
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
    mine = '```python\npolicy = LAWMPolicy.from_pretrained("someone/else")\n```\n'
    path.write_text(path.read_text().replace("---\n", "---\n# my comment\n", 1) + mine)
    add_results(policy_folder, summary(3, 4), "tabletop", "reach", SETTINGS)
    push(monkeypatch, policy_folder, "me/lawm-reach")
    text = path.read_text()
    assert "Licence of my demos: CC0." in text
    assert text.startswith("---\n# my comment\n")
    assert text.endswith(mine)
    for again in ("me/lawm-reach", "me/lawm-2"):  # under a second name, too
        push(monkeypatch, policy_folder, again)
        text, name = path.read_text(), again.split("/")[1]
        assert f"\n# {name}\n" in text
        assert f'LAWMPolicy.from_pretrained("{again}")' in text
        assert f'LAWMProcessor.from_pretrained("{again}")' in text
        assert ModelCard(text).data.model_name == name
        assert text.endswith(mine)
    add_results(policy_folder, summary(1, 4), "tabletop", "place4", SETTINGS)
    assert ModelCard.load(path).data.model_name == "lawm-2"


def test_an_evaluation_does_not_fail_for_a_card(policy_folder, monkeypatch, caplog, tmp_path):
    add_results(tmp_path / "no_card", summary(3, 4), "tabletop", "reach", SETTINGS)
    add_results("someone/on-the-hub", summary(3, 4), "tabletop", "reach", SETTINGS)

    path = policy_folder / "README.md"
    by_hand = "---\nmodel-index:\n- name: a\n  results:\n  - task: {type: x}\n"
    by_hand += "    dataset: {type: y, name: z}\n    metrics:\n"
    by_hand += "    - {type: success_rate, value: 1, args: [1]}\n---\n# mine\n"
    for damaged in (
        "---\nlicense: [\n---\n# mine\n",
        "---\nmodel-index:\n- 3\n---\n# mine\n",
        by_hand,
    ):
        path.write_text(damaged)
        caplog.clear()
        add_results(policy_folder, summary(3, 4), "tabletop", "reach", SETTINGS)
        assert "not on the model card" in caplog.text
        assert path.read_text() == damaged

    def refuse(self, *args, **kwargs):
        raise PermissionError("Read-only file system")

    caplog.clear()
    monkeypatch.setattr("lawm_hf.hub.card_file.write_text_atomic", refuse)
    add_results(policy_folder, summary(3, 4), "tabletop", "reach", SETTINGS)
    assert "not on the model card" in caplog.text


def test_a_push_of_a_damaged_card_names_it_and_leaves_it_alone(policy_folder, monkeypatch):
    path = policy_folder / "README.md"
    damaged = path.read_text().replace("license:", "license: [", 1)
    path.write_text(damaged)
    api = FakeApi()
    with pytest.raises(ValueError, match=r"README\.md must begin with YAML"):
        push(monkeypatch, policy_folder, "me/x", api)
    assert path.read_text() == damaged
    assert "create_commit" not in dict(api.calls)


def test_a_run_without_weights_or_whose_data_are_not_told_is_not_pushed(policy_folder, monkeypatch):
    api = FakeApi()
    args = policy_folder / "args.yaml"
    for text in ("steps: 3\n", "source: 3\n", "sources: {a: b}\n", "sources: [1]\n"):
        args.write_text(text)
        with pytest.raises(ValueError, match=r"args\.yaml must say which data"):
            push(monkeypatch, policy_folder, "me/x", api)
    args.write_text("source: tabletop:reach\n")
    (policy_folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights in"):
        push(monkeypatch, policy_folder, "me/x", api)
    assert not api.calls


def test_a_link_of_a_run_that_leads_elsewhere_is_not_uploaded(policy_folder, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("{}")
    (policy_folder / "policy_preprocessor.json").unlink(missing_ok=True)
    (policy_folder / "policy_preprocessor.json").symlink_to(tmp_path / "secret")
    api = FakeApi()
    with pytest.raises(ValueError, match=r"policy_preprocessor\.json, a link to .*secret"):
        push(monkeypatch, policy_folder, "me/x", api)
    assert "create_commit" not in dict(api.calls)


def test_a_card_of_a_damaged_record_is_refused_by_name(policy_folder):
    (policy_folder / "environment.json").write_text('{"hardware": "x"}')
    with pytest.raises(ValueError, match=r"environment\.json of .* must be what a recipe"):
        write_card(policy_folder)


def test_an_evaluation_of_nothing_leaves_the_result_on_the_card(policy_folder):
    add_results(policy_folder, summary(3, 4), "tabletop", "reach", SETTINGS)
    before = (policy_folder / "README.md").read_text()
    nothing = summary(1, 1) | {"episodes": 0}
    with pytest.raises(ValueError, match="at least one episode, got 0"):
        add_results(policy_folder, nothing, "tabletop", "reach", SETTINGS)
    assert (policy_folder / "README.md").read_text() == before


def test_a_card_that_is_there_when_a_run_ends_is_kept_under_another_name(policy_folder):
    path = policy_folder / "README.md"
    for words in ("mine", "mine again"):
        path.write_text(words)
        write_card(policy_folder)
    assert (policy_folder / "README.1.md").read_text() == "mine"
    assert (policy_folder / "README.2.md").read_text() == "mine again"
    write_card(policy_folder)  # the same once more
    assert len(list(policy_folder.glob("README*.md"))) == 3


HOSTILE = 'x"]\n```\n\n<img src=x>\n# Verified `\n---\nlicense: mit\n---\n| a | [b](c) '
HOSTILE += "\x1b[31m\u202e\u2028"  # colour of a terminal, order of reading, end of a line


def test_words_of_others_on_a_card_are_neither_code_nor_markup_nor_metadata(policy_folder):
    path = policy_folder / "environment.json"
    record = json.loads(path.read_text()) | {"pretraining_sources": [f"folder:{HOSTILE}"]}
    record["versions"]["torch"] = record["hardware"]["cpu"] = HOSTILE
    path.write_text(json.dumps(record))
    args = yaml.safe_load((policy_folder / "args.yaml").read_text())
    args |= {"source": f"lerobot:{HOSTILE}", "pretrained": HOSTILE}
    (policy_folder / "args.yaml").write_text(yaml.safe_dump(args))
    config = json.loads((policy_folder / "config.json").read_text())
    key = f"observation.images.{HOSTILE}"
    config["input_features"] = {key: {"type": "VISUAL", "shape": [3, 64, 64]}}
    (policy_folder / "config.json").write_text(json.dumps(config))
    write_card(policy_folder, HOSTILE)
    add_results(policy_folder, summary(3, 4), HOSTILE, HOSTILE, SETTINGS)
    text = (policy_folder / "README.md").read_text()
    assert all(c == "\n" or c.isprintable() for c in text)
    assert ModelCard(text).data.license == "other"
    body = text.split("\n---\n", 1)[1]
    assert not re.search(r"^ *(<(?!!--)|# Verified|---|license|```\n\n<)", body, re.MULTILINE)
    # Outside of code spans and fences no character of markup is bare.
    prose = re.sub(r"```python.*?```\n", "", body, flags=re.DOTALL)
    prose = re.sub(r"(?<!\\)(`+)(?!`).+?(?<!`)\1(?!`)", "", prose)
    assert not re.search(r"(?<!\\)<(?!!--)|(?<!\\)\[b", prose)
    table = body.split("## Use")[0]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines() if line[:1] == "|"]
    assert set(bars) == {3}
    tree = ast.parse(snippet(text))
    assert [type(node).__name__ for node in tree.body].count("Expr") == 0
    loaded = [ast.literal_eval(n.args[0]) for n in ast.walk(tree) if is_load(n)]
    assert loaded == [HOSTILE, HOSTILE]


def is_load(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained"


@pytest.mark.parametrize("text", ["a", 'a"b', "a'b", "a'\"b", "back\\slash", "é\n\u2028", HOSTILE])
def test_a_literal_is_the_string(text):
    assert ast.literal_eval(literal(text)) == text
    assert literal(text).isprintable()


def test_a_code_span_holds_any_backticks():
    assert code("a") == "`a`"
    assert code("a`b``c") == "``` a`b``c ```"
    assert cell(code("a|b")) == "`a\\|b`"


def test_the_metadata_name_base_model_data_sets_and_policy(policy_folder):
    path = policy_folder / "args.yaml"
    args = yaml.safe_load(path.read_text())
    args |= {"source": "lerobot:lerobot/libero@a1,suite=x", "pretrained": "me/lawm-latent"}
    path.write_text(yaml.safe_dump(args))
    path = policy_folder / "environment.json"
    sources = ["lerobot:nvidia/LIBERO_LeRobot_v3/libero_90", "wds:hf://datasets/me/b/*.tar"]
    record = json.loads(path.read_text()) | {"pretraining_sources": sources[:1]}
    path.write_text(json.dumps(record))
    data = write_card(policy_folder).data
    assert (data.license, data.license_link) == ("cc-by-4.0", None)
    assert data.base_model == "me/lawm-latent"
    assert data.datasets == ["lerobot/libero", "nvidia/LIBERO_LeRobot_v3"]
    assert {"lerobot", "robotics", "baku"} <= set(data.tags)
    path.write_text(json.dumps(record | {"pretraining_sources": sources}))
    data = write_card(policy_folder).data
    assert (data.license, data.license_link) == ("other", "LICENSE.md")
    assert "licence unknown" in (policy_folder / "LICENSE.md").read_text()
    assert "me/b" in data.datasets


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
    log.update(3)
    log.close()
    record = json.loads((tmp_path / "environment.json").read_text())
    assert 100 <= record["wall_seconds"] < 160
    assert 50 <= record["cpu_seconds"] < 110

    progress_log(tmp_path, first_step=0).update(1)  # begun anew: nothing is carried over
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
