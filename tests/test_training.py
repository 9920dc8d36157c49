# SPDX-License-Identifier: Apache-2.0
"""What the training recipes share: checkpoints, resuming, the log, and what is checked at first."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType

from lawm_hf import BakuConfig, BakuPolicy
from lawm_hf.training import (
    ProgressLog,
    TrainingArgs,
    check_batch,
    find_checkpoints,
    load_checkpoint,
    make_accelerator,
    make_optimizer,
    parameter_groups,
    save_checkpoint,
    told_only,
    write_run_record,
)
from lawm_hf.training import accelerator as accelerator_module
from lawm_hf.training.sharding import shard_on_cpus
from lawm_hf.writing.atomic import unlock_folder

RECIPES = Path(__file__).parent.parent / "recipes"


def recipe(name: str):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Numbers:
    """A loader of numbers: its position is how many were handed out."""

    def __init__(self):
        self.count = 0

    def __iter__(self):
        while True:
            self.count += 1
            yield torch.full((1, 2), float(self.count))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state, next_epoch=False):
        self.count = state["count"]


def accelerator_of(args: TrainingArgs) -> Accelerator:
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    return make_accelerator(args)


def train(folder: Path, until: int, **options):
    """As the recipes do, with a linear model whose loss has noise in it; returns what it became."""
    args = TrainingArgs(output_dir=str(folder), **{"steps": 4, "warmup_steps": 1} | options)
    accelerator = accelerator_of(args)
    loader, model = Numbers(), torch.nn.Linear(2, 1)
    groups = parameter_groups(model, args.learning_rate, args.weight_decay, {})
    model, optimizer, scheduler = accelerator.prepare(model, *make_optimizer(groups, args))
    first = load_checkpoint(accelerator, args, loader, optimizer, scheduler)
    write_run_record(args, first)
    log, batches = ProgressLog(accelerator, args, first, "test"), iter(loader)
    for step in range(first + 1, until + 1):
        for _ in range(args.gradient_accumulation_steps):
            with accelerator.accumulate(model):
                loss = (model(next(batches)) + torch.randn(1)).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                if accelerator.sync_gradients:
                    scheduler.step()
                optimizer.zero_grad()
            log.add({"loss": loss})
        log.update(step)
    if until > first:
        save_checkpoint(accelerator, args.output_dir, until, loader)
    log.close()
    unlock_folder(args.output_dir)
    return SimpleNamespace(
        first=first,
        weights=torch.cat([p.detach().flatten() for p in model.parameters()]),
        rates=[group["lr"] for group in optimizer.param_groups],
        decays={group["weight_decay"] for group in optimizer.param_groups},
    )


def test_a_run_is_not_overwritten_that_is_to_be_resumed(tmp_path):
    with pytest.raises(ValueError, match="got both"):
        accelerator_of(TrainingArgs(output_dir=str(tmp_path), resume=True, overwrite=True))


@pytest.fixture(scope="module")
def two_done(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two_done")
    train(folder, 2)
    return folder


@pytest.fixture
def run(two_done, tmp_path) -> Path:
    return Path(shutil.copytree(two_done, tmp_path / "run"))


class Fake:
    """What `save_checkpoint` needs of an accelerator."""

    is_main_process, process_index, num_processes = True, 0, 1

    def wait_for_everyone(self):
        pass

    def save_state(self, folder):
        (Path(folder) / "model.safetensors").write_text("weights")


@pytest.mark.parametrize("steps", [(9, 10, 11), (999_500, 1_000_000, 1_000_500)])
def test_the_newest_checkpoint_is_the_one_with_the_highest_number(tmp_path, steps):
    for step in steps:
        save_checkpoint(Fake(), tmp_path, step, Numbers())
        assert [int(f.name[5:]) for f in find_checkpoints(tmp_path)] == [step]


def test_at_every_moment_of_saving_there_is_a_sound_checkpoint(tmp_path, monkeypatch):
    from lawm_hf.training import checkpoints

    save_checkpoint(Fake(), tmp_path, 1, Numbers())
    moments = []

    def watched(function):
        def call(*args, **kwargs):
            moments.append(checkpoints._newest_sound(tmp_path).name)
            return function(*args, **kwargs)

        return call

    for owner, name in [(Path, "replace"), (shutil, "rmtree"), (checkpoints, "sync")]:
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    save_checkpoint(Fake(), tmp_path, 2, Numbers())
    assert moments == sorted(moments)
    assert {"step_000001", "step_000002"} == set(moments)
    saved = (tmp_path / "step_000002" / "progress.json").stat().st_mtime_ns
    shutil.copytree(tmp_path / "step_000002", tmp_path / "step_000001")  # killed before it went
    save_checkpoint(Fake(), tmp_path, 2, Numbers())  # resumed with nothing to do
    assert [f.name for f in find_checkpoints(tmp_path)] == ["step_000002"]
    assert (tmp_path / "step_000002" / "progress.json").stat().st_mtime_ns == saved


def test_a_disk_that_is_full_keeps_the_checkpoint_before_and_says_what_to_do(tmp_path):
    class Full(Fake):
        def save_state(self, folder):
            super().save_state(folder)
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")

    save_checkpoint(Fake(), tmp_path, 1, Numbers())
    with pytest.raises(OSError, match=r"of update 2 .* MB free\. Make room .*--resume true"):
        save_checkpoint(Full(), tmp_path, 2, Numbers())
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]


def empty(path: Path):
    path.write_bytes(b"")


def cut(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path):
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = [Path.unlink, empty, cut, zero]
STATE = ["progress.json", "data_position_0.json", "model.safetensors", "optimizer.bin"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*STATE, "scheduler.bin"])
def test_a_damaged_checkpoint_is_named_or_the_one_before_is_taken(run, name, damage, caplog):
    newest = run / "step_000002"
    older = shutil.copytree(newest, run / "step_000001")
    tell(older, step=1)
    damage(newest / name)
    assert train(run, 3, resume=True).first == 1
    assert name in caplog.text
    assert [f.name for f in find_checkpoints(run)] == ["step_000003"]
    assert not older.exists()

    damage(run / "step_000003" / name)
    with pytest.raises(ValueError, match=rf"step_000003/{name}.*--overwrite"):
        train(run, 4, resume=True)


def tell(checkpoint: Path, **progress):
    path = checkpoint / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | progress))


@pytest.mark.parametrize("wrong", [{"step": 3}, {"step": "2"}, {"step": 2.0}, {"files": [1]}])
def test_a_checkpoint_of_another_update_than_its_name_says_is_not_gone_on_with(run, wrong):
    tell(run / "step_000002", **wrong)
    with pytest.raises(ValueError, match=r"progress\.json is not what was written.*--overwrite"):
        train(run, 4, resume=True)


def test_a_position_in_other_data_is_named(run, monkeypatch):
    tell(run / "step_000002", files={})  # of an earlier version
    (run / "step_000002/data_position_0.json").write_text("{}")
    with pytest.raises(ValueError, match=r"data_position_0\.json must hold .*--overwrite"):
        train(run, 4, resume=True)


def test_a_checkpoint_on_another_disk_is_unlinked_and_stays_there(run, tmp_path):
    kept = (run / "step_000002").rename(tmp_path / "elsewhere")
    (run / "step_000002").symlink_to(kept)
    assert train(run, 4, resume=True).first == 2
    assert [f.name for f in find_checkpoints(run)] == ["step_000004"]
    assert (kept / "progress.json").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_missing_random_states_are_told_and_do_not_end_the_run(run, damage, caplog):
    damage(run / "step_000002" / "random_states_0.pkl")
    assert train(run, 4, resume=True).first == 2
    assert "random_states_0.pkl" in caplog.text
    assert "not bit for bit" in caplog.text


def test_a_resumed_run_ends_as_if_nothing_had_happened(run, tmp_path):
    resumed, straight = train(run, 4, resume=True), train(tmp_path / "straight", 4)
    assert torch.equal(resumed.weights, straight.weights)
    assert resumed.rates == straight.rates
    assert "from update" not in (run / "args.yaml").read_text()


def test_new_rates_hold_at_once_and_are_recorded(run, capsys):
    straight = train(run.parent / "straight", 3)
    resumed = train(run, 3, resume=True, learning_rate=1e-4, weight_decay=0.5)
    assert resumed.rates == pytest.approx([rate / 10 for rate in straight.rates])
    assert resumed.decays == {0.0, 0.5}
    assert "learning_rate: 0.001 -> 0.0001" in capsys.readouterr().out
    text = (run / "args.yaml").read_text()
    assert "# from update 2 learning_rate: 0.001 -> 0.0001" in text
    assert yaml.safe_load(text)["learning_rate"] == 1e-4
    train(run, 4, resume=True, learning_rate=1e-5, weight_decay=0.5)
    assert (run / "args.yaml").read_text().count("# from update") == 3


def test_another_accumulation_begins_with_a_whole_update(run):
    train(run, 3, resume=True, gradient_accumulation_steps=1)
    train(run, 4, resume=True, gradient_accumulation_steps=2)
    state = torch.load(run / "step_000004" / "optimizer.bin", weights_only=True)["state"]
    assert {int(values["step"]) for values in state.values()} == {4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "--steps 2 or more"),
        ({"seed": 1}, "`seed` was 0, got 1"),
    ],
)
def test_what_a_resumed_run_cannot_do_is_refused_and_not_recorded(run, options, message):
    before = (run / "args.yaml").read_text()
    with pytest.raises(ValueError, match=message):
        train(run, 4, resume=True, **options)
    assert (run / "args.yaml").read_text() == before


def test_an_optimiser_with_other_parameters_is_refused_with_a_remedy(run):
    args = TrainingArgs(output_dir=str(run), resume=True, steps=4)
    accelerator, model = accelerator_of(args), torch.nn.Linear(2, 1)
    groups = parameter_groups(model, 1e-3, 0.0, {})  # weights and biases in one group
    prepared = accelerator.prepare(model, *make_optimizer(groups, args))
    with pytest.raises(ValueError, match=r"must fit .*args\.yaml"):
        load_checkpoint(accelerator, args, Numbers(), *prepared[1:])


@pytest.mark.parametrize("damage", [empty, zero])
def test_damaged_arguments_of_a_run_are_named(run, damage):
    damage(run / "args.yaml")
    with pytest.raises(ValueError, match=r"args\.yaml must hold .*delete it"):
        train(run, 4, resume=True)
    (run / "args.yaml").unlink()
    train(run, 4, resume=True)


def test_a_damaged_log_and_record_do_not_stop_a_run(run):
    with (run / "log.jsonl").open("a") as log:
        log.write('\0\0\n{"step": 3, "lo')
    empty(run / "environment.json")
    train(run, 4, resume=True, log_every=1)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][-2:] == [3, 4]
    assert json.loads((run / "environment.json").read_text())["hardware"]["num_processes"] == 1


def test_the_loss_in_the_log_is_the_mean_over_micro_batches(tmp_path):
    args = TrainingArgs(output_dir=str(tmp_path), log_every=2)
    accelerator = accelerator_of(args)
    write_run_record(args)
    log = ProgressLog(accelerator, args, 0, "test")
    for step, losses in ((1, (1.0, 2.0)), (2, (3.0, 6.0))):
        for loss in losses:
            log.add({"loss": torch.tensor(loss)})
        log.add({"grad": torch.tensor(float(step))})
        log.update(step, {"epoch": step / 2, "skipped": step})
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert line["loss"] == 3.0
    assert line["grad"] == 1.5
    assert (line["epoch"], line["skipped"]) == (1.0, 2)  # as they stand
    unlock_folder(tmp_path)


@pytest.mark.parametrize(("given", "held"), [(None, "bf16"), ("no", "no")])
def test_the_launchers_precision_holds_unless_the_recipe_is_told_another(
    tmp_path, monkeypatch, given, held
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = TrainingArgs(output_dir=str(tmp_path), mixed_precision=given)
    assert accelerator_of(args).mixed_precision == held
    assert args.mixed_precision == held


@pytest.mark.parametrize("by_launcher", [False, True])
def test_half_precision_without_a_scaler_is_refused(tmp_path, monkeypatch, by_launcher):
    if by_launcher:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    args = TrainingArgs(output_dir=str(tmp_path), mixed_precision=None if by_launcher else "fp16")
    with pytest.raises(ValueError, match=r"mixed_precision.*bf16"):
        accelerator_of(args)


def test_a_launcher_that_accumulates_otherwise_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ValueError, match="--gradient_accumulation_steps 4"):
        accelerator_of(TrainingArgs(output_dir=str(tmp_path)))


def test_half_precision_gradients_are_unscaled_once_and_clipped(tmp_path, monkeypatch):
    """On a GPU, that is; the scaler works on a CPU, too."""
    args = recipe("pretrain").PretrainArgs(output_dir=str(tmp_path), max_grad_norm=0.5)
    accelerator = accelerator_of(args)
    monkeypatch.setattr(type(accelerator), "mixed_precision", "fp16")
    accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu")
    model = torch.nn.ModuleDict(
        {n: torch.nn.Linear(1, 1, False) for n in ("policy", "world_model")}
    )
    model.policy, model.world_model = model["policy"], model["world_model"]
    model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accelerator.backward(3 * model.policy.weight.sum() + 4 * model.world_model.weight.sum())
    norms = recipe("pretrain").clip(accelerator, model, args)
    assert {name: round(norm.item(), 4) for name, norm in norms.items()} == {
        "grad_policy": 3.0,
        "grad_world_model": 4.0,
    }
    assert model.policy.weight.grad.item() == pytest.approx(0.5, abs=1e-4)
    assert model.world_model.weight.grad.item() == pytest.approx(4.0, abs=1e-4)
    unlock_folder(tmp_path)


def test_an_objectives_own_parameters_are_grouped_once():
    model = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1) for name in ("policy", "own")})
    (weight, bias) = parameter_groups(model, 0.1, 0.5, {}, ("policy.",))
    assert [weight["params"], bias["params"]] == [[model["own"].weight], [model["own"].bias]]
    assert not parameter_groups(model, 0.1, 0.5, {}, ("policy.", "own."))


def test_one_sample_without_a_gradient_is_refused_before_training():
    policy = BakuPolicy(BakuConfig.from_preset("tabletop", latent_norm="batch"))
    with pytest.raises(ValueError, match="--batch_size 2"):
        check_batch(policy, 1)
    check_batch(policy, 2)
    check_batch(BakuPolicy(BakuConfig.from_preset("tabletop", latent_norm="none")), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"push_to_hub": "me/you/it"}, "push_to_hub"),
        ({"push_to_hub": "me/a name"}, "push_to_hub"),
        ({"report_to": ["wandb", "nosuchtracker"]}, "nosuchtracker"),
        ({"report_to": ["swanlab"]}, "swanlab"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_at_the_start(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        accelerator_of(TrainingArgs(output_dir=str(tmp_path), **options))


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        with pytest.raises(OSError, match="`output_dir` must be a folder"):
            accelerator_of(TrainingArgs(output_dir=str(tmp_path / folder)))


def test_two_runs_in_one_folder_are_refused(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 5))
    fake = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None)
    monkeypatch.setattr(accelerator_module, "time", fake)
    code = (
        "import sys; from lawm_hf.writing.atomic import lock_folder; lock_folder(sys.argv[1]);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        other.stdout.readline()
        with pytest.raises(BlockingIOError, match=str(other.pid)):
            accelerator_of(TrainingArgs(output_dir=str(tmp_path)))
        other.stdin.close()
    accelerator_of(TrainingArgs(output_dir=str(tmp_path)))
    unlock_folder(tmp_path)


def test_a_report_that_fails_after_the_save_is_only_told(caplog):
    with told_only("The push", "Repeat it."):
        raise ConnectionError("no network")
    assert "The push failed (ConnectionError: no network)" in caplog.text
    assert "Repeat it." in caplog.text
    with pytest.raises(KeyboardInterrupt), told_only("The push", "Repeat it."):
        raise KeyboardInterrupt


def test_a_run_records_the_commit_of_each_set_on_the_hub(tmp_path):
    moving = SimpleNamespace(name="lerobot:me/set", commit="c0ffee")
    local = SimpleNamespace(name="lerobot:demos", commit=None)
    write_run_record(TrainingArgs(output_dir=str(tmp_path)), 0, [moving, local])
    record = json.loads((tmp_path / "environment.json").read_text())
    assert record["data_commits"] == {"lerobot:me/set": "c0ffee"}


def test_a_launch_that_meant_several_processes_and_started_one_is_refused(tmp_path, monkeypatch):
    """As `accelerate launch --cpu --num_processes 2` does."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(ValueError, match="--multi_gpu --num_processes 2"):
        accelerator_of(TrainingArgs(output_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("VERSION", "1", "fsdp_version: 2"),
        ("AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "TRANSFORMER_BASED_WRAP"),
        ("ACTIVATION_CHECKPOINTING", "true", "--gradient_checkpointing true"),
        ("CPU_RAM_EFFICIENT_LOADING", "true", "fsdp_cpu_ram_efficient_loading: false"),
    ],
)
def test_settings_that_would_shard_another_model_are_refused(monkeypatch, setting, value, remedy):
    environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", f"FSDP_{setting}": value}
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    state = SimpleNamespace(distributed_type=DistributedType.MULTI_CPU)
    accelerator = mock.Mock(state=state)
    type(accelerator).distributed_type = property(lambda self: self.state.distributed_type)
    with pytest.raises(ValueError, match=remedy):
        shard_on_cpus(accelerator)
    PartialState._reset_state()


def test_the_settings_for_a_cpu_keep_float32():
    precision = torch.get_float32_matmul_precision()
    try:
        accelerator_module.tune_cpu()
        a, b = (torch.randn(300, 300, dtype=torch.float64) for _ in range(2))
        torch.testing.assert_close((a.float() @ b.float()).double(), a @ b, rtol=0, atol=1e-3)
    finally:
        torch.set_float32_matmul_precision(precision)
