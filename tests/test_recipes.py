# SPDX-License-Identifier: Apache-2.0
"""The recipes, by running them: results, exact resume, and errors a user would meet."""

import contextlib
import importlib
import io
import itertools
import json
import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from data_fixtures import build_all
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from lawm_hf import LAWMPolicy, LAWMProcessor
from lawm_hf.hub import push_run
from lawm_hf.training import find_checkpoints
from lawm_hf.training.earlier_run import remove_run

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL = {
    "sources": ["tabletop:reach,episodes=16,actions=false,views=front,num_workers=1"],
    "batch_size": 4,
    "eval_source": "none",
    "policy_config": '{"hidden_size": 32, "num_layers": 1}',
    "world_model_config": '{"deter_size": 32, "hidden_size": 16, "depth": 8}',
    "warmup_steps": 1,
    "log_every": 1,
}
DEMONSTRATIONS = "tabletop:reach,episodes=16,seed=200000,num_workers=1"


def recipe(name: str):
    return importlib.import_module(f"lawm_hf.recipes.{name}")


FINETUNE = {"source": DEMONSTRATIONS, "batch_size": 4, "steps": 2, "warmup_steps": 1}


def run(name: str, folder: Path, interrupt_at: int | None = None, **options):
    """Run a recipe's `main` here, as a process of its own would, and maybe interrupt it."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    module = recipe(name)
    save = module.save_checkpoint

    def save_then_interrupt(accelerator, output_dir, step, loader):
        save(accelerator, output_dir, step, loader)
        if step == interrupt_at:
            raise KeyboardInterrupt

    arguments = {"pretrain": "PretrainArgs", "finetune": "FinetuneArgs"}[name]
    with mock.patch.object(module, "save_checkpoint", save_then_interrupt):
        module.main(getattr(module, arguments)(output_dir=str(folder), **options))


def pretrain(folder: Path, **options):
    run("pretrain", folder, **{**SMALL, **options})


def finetune(folder: Path, **options):
    run("finetune", folder, **{**FINETUNE, **options})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{k}": v
        for part in ("policy", "world_model")
        for k, v in load_file(folder / part / "model.safetensors").items()
    }


def assert_same_weights(a: Path, b: Path):
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def four_straight(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    pretrain(folder, steps=4)
    return folder


def test_a_run_that_is_watched_trains_as_if_it_were_not_and_an_alarm_can_stop_it(
    four_straight, tmp_path
):
    watched = {"steps": 4, "report_every": 1, "eval_source": SMALL["sources"][0]}

    def lines() -> list[dict]:
        return [json.loads(x) for x in (tmp_path / "health.jsonl").read_text().splitlines()]

    alarms = mock.Mock(side_effect=[[], ["The latents are dead."]])
    with (
        mock.patch("lawm_hf.analysis.health.LatentHealth.alarms", alarms),
        pytest.raises(RuntimeError, match="at update 2: The latents are dead"),
    ):
        pretrain(tmp_path, **watched, stop_on_alarm=True, report_to=["tensorboard"])
    assert [line["step"] for line in lines()] == [1, 2]
    (events,) = {path.parent for path in tmp_path.rglob("events.out*")}
    tracked = EventAccumulator(str(events)).Reload()
    for name in ("swap_gap_share", "effective_rank", "target_r2"):
        told = [(point.step, point.value) for point in tracked.Scalars(f"health/{name}")]
        assert told == [(x["step"], pytest.approx(x[name], rel=1e-6)) for x in lines()]
    for name in ("loss", "reconstruction", "kl", "grad_policy"):
        assert [point.step for point in tracked.Scalars(name)] == [1, 2]
    for number, point in enumerate(tracked.Images("imagined"), 1):
        strip = Image.open(tmp_path / f"strip_{number:06d}.png").convert("RGB")
        shown = Image.open(io.BytesIO(point.encoded_image_string))
        assert (point.step, strip.tobytes()) == (number, shown.tobytes())
    pretrain(tmp_path, **watched, resume=True)
    assert_same_weights(tmp_path, four_straight)
    assert [line["step"] for line in lines()] == [1, 2, 3, 4]
    ends = json.loads((tmp_path / "health.json").read_text())
    assert lines()[-1]["effective_rank"] == ends["effective_rank"]
    assert {"swap_gap_share", "effective_rank", "moving_psnr"} <= lines()[0].keys()


def test_a_run_that_is_overwritten_leaves_none_of_its_reports_to_the_next(four_straight, tmp_path):
    folder = Path(shutil.copytree(four_straight, tmp_path / "run"))
    (folder / "health.jsonl").write_text('{"step": 1, "alarms": []}\n')
    for name in ("health.json", "strip.png", "strip_000001.png"):
        (folder / name).touch()
    pretrain(folder, steps=1, overwrite=True)
    assert not [*folder.glob("health*"), *folder.glob("strip*")]


def test_at_no_moment_do_the_weights_of_an_overwritten_run_lie_beside_the_arguments_of_the_next(
    four_straight, tmp_path
):
    folder = Path(shutil.copytree(four_straight, tmp_path / "run"))
    log = recipe("pretrain").ProgressLog
    killed = mock.patch.object(log, "update", side_effect=KeyboardInterrupt)
    with killed, pytest.raises(KeyboardInterrupt):
        pretrain(folder, steps=1, overwrite=True)
    assert yaml.safe_load((folder / "args.yaml").read_text())["steps"] == 1
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"args.yaml", "environment.json", "log.jsonl", "README.1.md", ".lock"}
    pretrain(folder, steps=1, resume=True)
    pretrain(tmp_path / "straight", steps=1)
    assert_same_weights(folder, tmp_path / "straight")


@pytest.mark.parametrize("moment", [1, 6, 9, 11, 12])
def test_a_removal_that_is_killed_leaves_the_earlier_run_or_none(four_straight, tmp_path, moment):
    folder = Path(shutil.copytree(four_straight, tmp_path / "run"))
    count = itertools.count(1)

    def until(act):
        def call(*args, **kwargs):
            if next(count) == moment:
                raise KeyboardInterrupt
            return act(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for owner, name in ((Path, "unlink"), (Path, "rename"), (shutil, "rmtree")):
            killed = mock.patch.object(owner, name, until(getattr(owner, name)))
            stack.enter_context(killed)
        stack.enter_context(pytest.raises(KeyboardInterrupt))
        remove_run(folder)
    if find_checkpoints(folder):  # it can be gone on with, and is itself again
        pretrain(folder, steps=4, resume=True)
        assert_same_weights(folder, four_straight)
    else:
        assert not [f for part in ("policy", "world_model") for f in folder.glob(f"{part}/*")]


def test_a_folder_with_weights_and_no_checkpoint_is_not_written_over(four_straight, tmp_path):
    folder = Path(shutil.copytree(four_straight, tmp_path / "run"))
    shutil.rmtree(folder / "step_000004")
    before = (folder / "policy/model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match=r"model\.safetensors.*--overwrite"):
        pretrain(folder, steps=1)
    with pytest.raises(ValueError, match=r"hold a checkpoint.*--overwrite"):
        pretrain(folder, steps=5, resume=True)
    assert (folder / "policy/model.safetensors").read_bytes() == before
    pretrain(folder, steps=1, overwrite=True)
    assert (folder / "policy/model.safetensors").read_bytes() != before


def test_a_run_does_not_replace_the_weights_that_it_begins_with(four_straight, tmp_path):
    folder = Path(shutil.copytree(four_straight, tmp_path / "run"))
    own = {"pretrained": str(folder)}, {"policy_type": f"{folder}/policy"}
    for options in own:
        with pytest.raises(ValueError, match=r"must not be the folder of the weights"):
            finetune(folder, overwrite=True, **options)
    assert_same_weights(folder, four_straight)


def test_the_folder_of_another_recipes_run_is_not_resumed_and_a_sentence_says_so(
    four_straight, tmp_path
):
    folder = Path(shutil.copytree(four_straight, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"one of recipes/pretrain\.py\. .*--pretrained"):
        finetune(folder, resume=True, pretrained=str(folder))
    finetune(tmp_path / "tuned")
    with pytest.raises(ValueError, match=r"one of recipes/finetune\.py\. Choose another"):
        pretrain(tmp_path / "tuned", steps=4, resume=True)


def test_two_updates_and_a_resume_to_four_equal_four_straight_bit_for_bit(four_straight, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path, interrupt_at=2, steps=4, save_every=2)
    assert (tmp_path / "step_000002").is_dir()
    pretrain(tmp_path, steps=4, save_every=2, resume=True)
    assert_same_weights(four_straight, tmp_path)


def start(name: str, folder: Path, **options) -> int:
    """Go on with a run in a process of its own; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        # By default forked processes share one, which a killed one may hold for ever.
        tqdm.set_lock(threading.RLock())
        try:
            run(name, folder, resume=True, **options)
            code = 0
        finally:
            os._exit(code)


def kill_and_resume(name: str, folder: Path, delays: list[float], **options) -> int:
    """Kill a run this many seconds after it was started, again and again, until it has ended.

    Returns:
        How often it was killed while it was at work.
    """
    killed = 0
    for delay in (*delays, math.inf):
        before = [int(f.name[5:]) for f in find_checkpoints(folder)]
        pid, until = start(name, folder, **options), time.monotonic() + delay
        while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < until:
            time.sleep(0.001)
        if not ended[0]:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
        after = [int(f.name[5:]) for f in find_checkpoints(folder)]
        assert max(after, default=0) >= max(before, default=0), "an update was lost"
        if not os.WIFSIGNALED(ended[1]):
            assert ended[1] == 0, "a resumed run failed"
            break
        killed += 1
    return killed


KILLED = {
    "pretrain": {**SMALL, "steps": 6, "save_every": 1},
    "finetune": {**FINETUNE, "steps": 6, "save_every": 1, "ema_decay": 0.9, "focus_steps": 3},
}


def results(folder: Path) -> dict[str, torch.Tensor]:
    """All weights that a run has written, its checkpoint's included."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.relative_to(folder)} {k}": v for f in files for k, v in load_file(f).items()}


def kill_runs(name: str, folder: Path, kills: int, per_run: int) -> str:
    """Compare killed and resumed runs with one that was left alone, bit for bit.

    Returns:
        What was done. Only SIGKILLs that ended a process at work are counted.
    """
    run(name, folder / "straight", **KILLED[name])
    want, random, began = results(folder / "straight"), Random(0), time.monotonic()
    os.waitpid(start(name, folder / "timed", **KILLED[name]), 0)
    seconds = time.monotonic() - began
    killed = runs = 0
    while killed < kills:
        runs += 1
        cut = folder / f"cut_{runs}"
        delays = [random.uniform(0, seconds) for _ in range(per_run)]
        killed += kill_and_resume(name, cut, delays, **KILLED[name])
        got = results(cut)
        assert got.keys() == want.keys()
        assert all(torch.equal(got[key], want[key]) for key in want)
        shutil.rmtree(cut)
    return f"{name}: {killed} processes at work were killed in {runs} runs, 0 losses"


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_run_resumes_to_the_same_result(name, tmp_path):
    kill_runs(name, tmp_path, kills=1, per_run=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_kills_at_random_times_lose_nothing(name, tmp_path):
    """`LAWM_KILLS=100` for the figures in the documents; `-s` shows them."""
    kills = int(os.environ.get("LAWM_KILLS", "20"))
    print(kill_runs(name, tmp_path, kills, per_run=10))  # noqa: T201


@pytest.mark.parametrize("name", KILLED)
def test_what_fails_after_the_last_update_loses_nothing(name, tmp_path, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("broken")

    options = KILLED[name] | {"steps": 1, "push_to_hub": "me/it"}
    monkeypatch.setattr("lawm_hf.training.run_log.ProgressLog.close", fail)
    for function in ("write_card", "push_run"):
        monkeypatch.setattr(recipe(name), function, fail)
    run(name, tmp_path, **options)
    for part in ("record of the run", "model card", "push"):
        assert f"The {part} failed (RuntimeError: broken)" in caplog.text
    assert [f.name for f in find_checkpoints(tmp_path)] == ["step_000001"]
    saved = results(tmp_path)
    assert len({key.split()[0] for key in saved}) == {"pretrain": 3, "finetune": 2}[name]

    pushed = []
    monkeypatch.undo()
    monkeypatch.setattr(recipe(name), "push_run", lambda folder, to, **_: pushed.append(to))
    run(name, tmp_path, resume=True, **options)
    assert pushed == ["me/it"]
    assert (tmp_path / "README.md").exists()
    assert all(torch.equal(saved[key], value) for key, value in results(tmp_path).items())


def test_a_kept_action_head_needs_the_robot_of_pretraining(four_straight, tmp_path):
    module = recipe("finetune")
    args = module.FinetuneArgs(pretrained=str(four_straight), keep_action_head=True)
    features = SimpleNamespace(action_size=3, state_size=0, cameras=("front",))
    with pytest.raises(ValueError, match="Leave it out"):
        module.build_policy(args, SimpleNamespace(features=features))


def test_an_output_folder_that_holds_a_run_is_not_overwritten_by_accident(four_straight):
    with pytest.raises(FileExistsError, match="--resume"):
        pretrain(four_straight, steps=4)


def test_finetuning_starts_from_the_pretrained_policy_and_its_result_acts(four_straight, tmp_path):
    finetune(
        tmp_path,
        pretrained=str(four_straight),
        steps=2,
        learning_rate=0.0,
        vision_learning_rate=0.0,
    )
    before = load_file(four_straight / "policy" / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    changed = {k for k in after if not torch.equal(before[k], after[k])}
    head = {"action_head.weight", "action_head.bias"}
    assert changed == head | {"latent_norm.running_mean", "latent_norm.running_var"}
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    module = recipe("evaluate")
    module.main(
        module.EvaluateArgs(policy=str(tmp_path), output_dir=str(tmp_path / "eval"), episodes=2)
    )
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["episodes"] == 2
    assert len((tmp_path / "eval" / "episodes.jsonl").read_text().splitlines()) == 2


def test_finetuning_resumes_bit_for_bit_across_the_end_of_the_focus(tmp_path):
    options = {"steps": 4, "save_every": 1, "focus_steps": 2, "ema_decay": 0.99}
    finetune(tmp_path / "straight", **options)
    for interrupt_at in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            finetune(tmp_path / "cut", interrupt_at=interrupt_at, resume=True, **options)
    finetune(tmp_path / "cut", resume=True, **options)
    ours, theirs = (load_file(tmp_path / x / "model.safetensors") for x in ("straight", "cut"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_latent_pretraining_takes_any_source_and_ignores_robot_states(tmp_path):
    specs = build_all(tmp_path / "data")
    sources = [specs["ssv2"], f"{specs['bridge']},views=images0"]
    pretrain(tmp_path / "mixed", sources=sources, steps=1, frame_interval_s=0.2, max_start=-1)
    pretrain(tmp_path / "robot", sources=[specs["lerobot_v3.0"]], steps=1, max_start=-1)
    processor = LAWMProcessor.from_pretrained(tmp_path / "robot", subfolder="processor")
    assert not processor.state_stats


def test_supervised_pretraining_trains_the_policy_alone(tmp_path):
    pretrain(tmp_path, objective="supervised", sources=[DEMONSTRATIONS], steps=2)
    assert (tmp_path / "policy").is_dir()
    assert not (tmp_path / "world_model").exists()


def test_averaged_weights_are_the_ones_that_are_saved(tmp_path):
    finetune(tmp_path / "plain", steps=3)
    finetune(tmp_path / "averaged", steps=3, ema_decay=0.9999)
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    averaged = load_file(tmp_path / "averaged" / "model.safetensors")
    assert any(not torch.equal(plain[k], averaged[k]) for k in plain)


def test_a_checkpoint_without_statistics_refuses_to_act(four_straight):
    processor = LAWMProcessor.from_pretrained(four_straight, subfolder="processor")
    policy = LAWMPolicy.from_pretrained(four_straight, subfolder="policy")
    with pytest.raises(ValueError, match="statistics"):
        processor.unnormalize_actions(torch.zeros(1, 10, policy.config.action_size))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="learning rate"):
        pretrain(
            tmp_path,
            steps=20,
            learning_rate=1e30,
            world_model_learning_rate=1e30,
            warmup_steps=0,
            max_grad_norm=1e30,
            world_model_max_grad_norm=1e30,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy_type": "bakku"}, "policy_type"),
        ({"objective": "latents"}, "objective"),
        ({"sources": ["tabeltop:reach"]}, "tabletop"),
        ({"policy_config": '{"hidden_sise": 3}'}, "hidden_size"),
        ({"policy_config": '{"chunk_size": 3}'}, "--chunk_size 3"),
        ({"world_model_config": '{"image_size": 64}'}, "Give --frame_size 64"),
        ({"world_model_config": '{"action_size": 3}'}, "in --policy_config 3"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        pretrain(tmp_path, steps=1, **options)


def test_finetuning_without_actions_is_refused_and_what_changes_nothing_is_told(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"needs demonstrations with actions, got .* without"):
        finetune(tmp_path, source=SMALL["sources"][0])
    finetune(tmp_path, steps=1, keep_action_head=True)
    assert "`keep_action_head` changes nothing without `pretrained`." in capsys.readouterr().out


def test_pushing_a_run_writes_its_card_and_leaves_the_resumable_state_at_home(
    four_straight, monkeypatch
):
    uploaded = {}
    for name in ("create_repo", "create_commit", "repo_info"):

        def note(self, *args, **options):
            uploaded.update(options)
            return SimpleNamespace(private=True, sha="head")

        monkeypatch.setattr(f"huggingface_hub.HfApi.{name}", note)
    push_run(four_straight, "me/tabletop")
    assert uploaded["private"] is True
    files = {o.path_in_repo: o.path_or_fileobj for o in uploaded["operations"]}
    models = {"policy/model.safetensors", "world_model/model.safetensors"}
    assert models | {"config.json"} <= set(files)  # the Hub counts downloads by the root one
    assert not [name for name in files if name.startswith(("step_", "log"))]
    shared = yaml.safe_load(files["args.yaml"])
    kept = yaml.safe_load((four_straight / "args.yaml").read_text())
    assert Path(kept.pop("output_dir")).is_absolute()
    assert shared.pop("output_dir") == four_straight.name
    assert shared == kept  # Nothing else names a folder.
    card = (four_straight / "README.md").read_text()
    assert "library_name: lawm_hf" in card
    assert 'LAWMPolicy.from_pretrained("me/tabletop", subfolder="policy")' in card
    assert "tabletop:reach" in card


def test_processes_that_do_not_know_each_other_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="ACCELERATE_USE_CPU"):
        pretrain(tmp_path, steps=1)
