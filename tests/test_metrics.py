# SPDX-License-Identifier: Apache-2.0
"""Our `evaluate` metrics: right numbers, loaded offline from a folder, used by our own recipes."""

import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml
from scipy.stats import binomtest

from lawm_hf import metrics
from lawm_hf.evaluation.results import EpisodeResult, summarize
from lawm_hf.metrics.latent_cca.cca import held_out_cca

FOLDER = Path(metrics.__file__).parent


def clips(seed: int, mixing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents, and actions of which two directions depend on them and one does not."""
    generator = np.random.default_rng(seed)
    latent = generator.normal(size=(400, 5))
    actions = latent @ mixing
    actions[:, 2] = generator.normal(size=400)
    return latent, actions


def test_the_success_rate_counts_overall_and_by_task():
    result = metrics.load("success_rate").compute(
        predictions=[True, True, False, True], tasks=["b", "a", "b", "b"]
    )
    low, high = binomtest(3, 4).proportion_ci(0.95, method="wilson")
    assert result["interval_95"] == pytest.approx([low, high], abs=1e-4)
    assert (result["success_rate"], result["successes"], result["episodes"]) == (0.75, 3, 4)
    assert {k: v["success_rate"] for k, v in result["per_task"].items()} == {"a": 1, "b": 2 / 3}


def test_episodes_may_be_added_one_by_one():
    metric = metrics.load("success_rate")
    for is_success in (True, False):
        metric.add(prediction=is_success)
    assert metric.compute()["success_rate"] == 0.5


def test_no_episodes_say_nothing():
    assert metrics.load("success_rate").compute(predictions=[])["interval_95"] == [0, 1]


@pytest.mark.parametrize("wrong", [0.5, 2, -1, float("nan"), "no"])
def test_what_is_neither_success_nor_failure_is_refused(wrong):
    with pytest.raises(ValueError, match=r"true or false|could not convert"):
        metrics.load("success_rate").compute(predictions=[wrong, wrong])


def test_tasks_that_do_not_match_the_episodes_are_refused():
    with pytest.raises(ValueError, match="1 names for 2 episodes"):
        metrics.load("success_rate").compute(predictions=[True, False], tasks=["a"])


def test_the_summary_of_an_evaluation_is_the_metric():
    results = [EpisodeResult(i, f"task {i % 2}", i < 3, 10) for i in range(6)]
    metric = metrics.load("success_rate").compute(
        predictions=[r.is_success for r in results], tasks=[r.task for r in results]
    )
    assert summarize(results) == metric | {"mean_length": 10}


def test_latent_cca_finds_the_related_directions_and_no_others():
    mixing = np.random.default_rng(0).normal(size=(5, 3))
    (z, y), (z_fit, y_fit) = clips(1, mixing), clips(2, mixing)
    result = metrics.load("latent_cca").compute(
        predictions=z, references=y, fit_predictions=z_fit, fit_references=y_fit
    )
    first, second, third = result["canonical_correlations"]
    assert min(first, second) > 0.99
    assert abs(third) < 0.15
    assert held_out_cca(z_fit, y_fit, z, y) == [first, second, third]


def test_latent_cca_refuses_to_judge_where_it_was_fitted():
    with pytest.raises(ValueError, match="fit_predictions"):
        metrics.load("latent_cca").compute(predictions=[[0.0]], references=[[0.0]])


@pytest.mark.parametrize(
    ("part", "change", "match"),
    [
        ("predictions", lambda rows: rows * np.nan, "finite numbers"),
        ("fit_references", lambda rows: rows + np.inf, "finite numbers"),
        ("fit_predictions", lambda rows: rows * 0, "must vary"),
        ("fit_references", lambda rows: rows[:100], "as many rows, got"),
        ("predictions", lambda rows: rows[:, :2], "one width, got"),
        ("predictions", lambda rows: rows[:1], "two or more rows"),
    ],
)
def test_latent_cca_refuses_rows_that_say_nothing(part, change, match):
    mixing = np.random.default_rng(0).normal(size=(5, 3))
    (z, y), (z_fit, y_fit) = clips(1, mixing), clips(2, mixing)
    rows = {"predictions": z, "references": y, "fit_predictions": z_fit, "fit_references": y_fit}
    rows[part] = change(rows[part])
    if part == "predictions":  # `evaluate` itself compares the numbers of these two.
        rows["references"] = rows["references"][: len(rows[part])]
    with pytest.raises(ValueError, match=match):
        metrics.load("latent_cca").compute(**rows)


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="latent_cca, success_rate"):
        metrics.load("sucess_rate")


def test_our_own_code_counts_without_the_library():
    code = (
        "import sys; sys.modules['evaluate'] = None; "
        "from lawm_hf.metrics import success_rates; print(success_rates([True])['episodes'])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == ["1"]


@pytest.mark.parametrize("name", ["success_rate", "latent_cca"])
def test_a_metric_is_a_space_that_evaluate_can_load(name):
    metric = evaluate.load(str(FOLDER / name))
    assert metric.module_type == "metric"
    card = (FOLDER / name / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert {"evaluate", "metric"} <= set(header["tags"])
    assert (FOLDER / name / header["app_file"]).is_file()
    assert (FOLDER / name / "requirements.txt").is_file()
