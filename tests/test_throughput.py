# SPDX-License-Identifier: Apache-2.0
"""What a run looks at seldom, and what it says about its speed."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_recipes import FINETUNE, SMALL, run

from lawm_hf.data import WindowSpec, make_loader
from lawm_hf.training import ProgressLog, find_checkpoints
from lawm_hf.training import throughput as throughput_module
from lawm_hf.training.batches import FocusedLoader
from lawm_hf.training.throughput import Throughput, peak_flops

SOURCE = "tabletop:reach,episodes=16,num_workers=1"


def progress_log(folder: Path, device: str, scaler=None, **options) -> ProgressLog:
    """A log beside a device: `meta` stands for any that the CPU would have to wait for."""
    (folder / "environment.json").write_text("{}")
    args = {"batch_size": 1, "gradient_accumulation_steps": 1, "steps": 8, "log_every": 4}
    args |= {"output_dir": str(folder), "report_to": []} | options
    accelerator = SimpleNamespace(
        device=torch.device(device), num_processes=1, is_main_process=True, scaler=scaler
    )
    return ProgressLog(accelerator, SimpleNamespace(**args), 0, "test")


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("device", "num_looks"), [("cpu", 8 * 3 + 2), ("meta", 2)])
def test_beside_a_device_values_are_looked_at_once_a_line(tmp_path, monkeypatch, device, num_looks):
    looks, look = [], ProgressLog.look
    monkeypatch.setattr(ProgressLog, "look", lambda self: looks.append(1) or look(self))
    log, losses = progress_log(tmp_path, device), torch.rand(8, 2, 3, 2)
    for step in range(1, 9):
        for loss in losses[step - 1]:
            log.add({"loss": loss})
        log.add({"kl": None, "grad": torch.tensor(step / 3)})
        log.update(step)
    assert len(looks) == num_looks
    for line, part in zip(lines(tmp_path), (losses[:4], losses[4:]), strict=True):
        means = part.mean((-2, -1)).double()  # of the micro-batches, as the models say
        assert line["loss"] == pytest.approx(means.mean().item(), rel=1e-12)
        assert "kl" not in line


def test_the_first_update_that_was_not_finite_is_named_however_late_it_is_seen(tmp_path):
    log = progress_log(tmp_path, "meta")
    for step, loss in ((1, 1.0), (2, float("inf")), (3, float("nan"))):
        log.add({"loss": torch.tensor(loss)})
        log.update(step)
    with pytest.raises(FloatingPointError, match=r"loss must stay finite, got inf at update 2\."):
        log.look()


def test_on_a_cpu_it_is_seen_before_the_update(tmp_path):
    log = progress_log(tmp_path, "cpu")
    with pytest.raises(FloatingPointError, match=r"gradient must .*nan at update 1\..*rate"):
        log.add({"grad_policy": torch.tensor(float("nan"))})


def test_an_overflow_that_the_scaler_of_half_precision_skips_is_none_of_its_business(tmp_path):
    log = progress_log(tmp_path, "cpu", scaler=torch.amp.GradScaler("cpu"))
    log.add({"grad_policy": torch.tensor(float("inf"))})
    with pytest.raises(FloatingPointError):
        log.add({"loss": torch.tensor(float("inf"))})


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_nothing_is_saved_that_is_not_finite(name, tmp_path, monkeypatch):
    """Beside a device, where updates go on until somebody looks."""
    begin, scale = ProgressLog.__init__, torch.Tensor.backward
    backwards = []

    def begin_beside_a_device(log, *args):
        begin(log, *args)
        log.defers = True

    def backward(loss, **kwargs):
        backwards.append(1)
        scale(loss * float("nan") if len(backwards) == 3 else loss, **kwargs)

    monkeypatch.setattr(ProgressLog, "__init__", begin_beside_a_device)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    options = {"pretrain": SMALL, "finetune": FINETUNE}[name]
    options = options | {"steps": 8, "log_every": 8, "save_every": 2}
    with pytest.raises(FloatingPointError, match="at update 3"):
        run(name, tmp_path, **options)
    assert len(backwards) == 4
    assert [folder.name for folder in find_checkpoints(tmp_path)] == ["step_000002"]


def windows(device: str, **options):
    window = WindowSpec(chunk_size=3, image_size=64, with_actions=True)
    return make_loader(SOURCE, window, 4, device=device, **options)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_batch_that_was_sent_ahead_is_not_consumed(accumulation):
    plain, ahead = (windows(d, accumulation=accumulation) for d in ("cpu", "meta"))
    want = list(itertools.islice(plain, 7))
    states = []
    for batch, expected in zip(itertools.islice(ahead, 5), want, strict=False):
        assert batch["images"].device.type == "meta"  # the pictures alone
        assert all(torch.equal(batch[k], expected[k]) for k in ("index", "actions", "view_mask"))
        states.append(ahead.state_dict())
    assert ahead.progress()["epoch"] == pytest.approx(20 / 28 * plain.progress()["epoch"])
    for taken in range(1, 6):
        resumed = windows("meta", accumulation=accumulation)
        resumed.load_state_dict(json.loads(json.dumps(states[taken - 1])))
        assert torch.equal(next(iter(resumed))["index"], want[taken]["index"])


def test_what_was_sent_ahead_of_the_end_of_the_focus_is_not_consumed():
    focused = FocusedLoader(windows("meta", seed=1), windows("meta"), 2)
    list(itertools.islice(focused, 3))
    first, second = focused.state_dict()["loaders"]
    assert [part["position"]["samples"] for part in (first, second)] == [8, 4]


def test_flops_are_counted_once_and_change_nothing():
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(), torch.nn.Linear(16, 4))
    use, losses = Throughput(torch.device("cpu"), 2), []
    assert use.peak is None
    for peak in (None, 1e3):
        use.peak = peak
        torch.manual_seed(0)
        for _ in range(2):
            model.zero_grad()
            with use.counting():
                loss = model(torch.randn(5, 8)).square().mean()
                loss.backward()
            losses.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    forward = 2 * 5 * (8 * 16 + 16 * 4)
    backward = 2 * forward - 2 * 5 * 8 * 16  # nobody asks for the gradient of the input
    assert use.flops == 2 * (forward + backward)
    for (a, da), (b, db) in zip(losses[:2], losses[2:], strict=True):
        assert a == b
        assert torch.equal(da, db)
    read = use.read(use.since + 4.0, updates=10)
    assert read["mfu"] == pytest.approx(use.flops * 10 / 4.0 / 1e3)
    assert 0 < read["peak_memory_gb"] < 1000


def test_the_wait_for_data_is_a_share_of_the_time(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(throughput_module.time, "perf_counter", lambda: float(next(clock)))
    use = Throughput(torch.device("cpu"), 1)
    assert list(use.timed(iter([{}, {}]))) == [{}, {}]
    assert use.read(use.since + 6, 1)["data_wait_share"] == pytest.approx(3 / 6)
    assert use.read(use.since + 1, 1)["data_wait_share"] == 0


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_a_known_gpus_peak_is_found_by_its_name(name, tera):
    assert peak_flops(name) == tera * 1e12


@pytest.mark.parametrize(
    "name", ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 3090 Ti", "AMD Instinct"]
)
def test_the_utilisation_of_an_unknown_gpu_is_not_known(name):
    assert peak_flops(name) is None


def test_a_cpus_line_has_no_utilisation_but_its_peak_memory(tmp_path):
    log = progress_log(tmp_path, "cpu", steps=1)
    log.update(1)
    (line,) = lines(tmp_path)
    assert line["mfu"] is None
    assert line["data_wait_share"] == 0
    assert line["peak_memory_gb"] > 0.05
