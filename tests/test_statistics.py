# SPDX-License-Identifier: Apache-2.0
"""Statistics of an experiment, against hand counts and against simulation."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lawm_hf.experiments.statistics import (
    PublishedRate,
    compare,
    detectable_difference,
    false_alarms,
    holm,
    mcnemar,
)


def matrix(rows, seeds=None):
    return pd.DataFrame(np.array(rows), index=seeds or range(len(rows)))


def test_mcnemar_counts_only_pairs_that_differ():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar(3, 3) == 1
    assert mcnemar(2, 9) == mcnemar(9, 2)


def test_a_comparison_is_paired_by_seed_and_by_initial_state():
    ours, theirs = matrix([[1, 1, 1, 0], [1, 1, 0, 0]]), matrix([[0, 1, 1, 0], [0, 0, 0, 1]])
    found = compare(ours, theirs)
    assert (found.wins, found.losses, found.num_seeds) == (3, 1, 2)
    assert found.difference == pytest.approx(0.25)


def test_seeds_and_states_that_only_one_method_has_are_left_out():
    ours = matrix([[1, 1], [1, 1], [0, 0]], seeds=[0, 1, 7])
    theirs = pd.DataFrame([[0, 0, 1], [1, 0, 1]], index=[0, 1], columns=[0, 1, 2])
    found = compare(ours, theirs)
    assert found.num_seeds == 2
    assert found.difference == pytest.approx(0.75)
    with pytest.raises(ValueError, match="share 0 seeds"):
        compare(ours.loc[[7]], theirs)


def test_the_interval_over_seeds_is_a_paired_t_interval():
    ours, theirs = (
        matrix([[1] * 8 + [0] * 2, [1] * 6 + [0] * 4, [1] * 9 + [0]]),
        matrix([[1] * 4 + [0] * 6] * 3),
    )
    found = compare(ours, theirs)
    expected = stats.ttest_1samp([0.4, 0.2, 0.5], 0)
    assert found.p_seeds == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


def test_with_one_seed_nothing_is_said_about_new_seeds():
    found = compare(matrix([[1, 1, 1, 1, 1, 1]]), matrix([[0] * 6]))
    assert found.interval is None
    assert found.p_seeds is None
    assert found.p_episodes < 0.05


def test_episodes_cannot_stand_in_for_seeds():
    """Two methods that are the same but for large seed effects: McNemar is sure, the t test not."""
    rng = np.random.default_rng(0)
    by_episode = by_seed = 0
    for _ in range(200):
        ours, theirs = (
            matrix(rng.random((3, 200)) < rng.normal(0.5, 0.1, (3, 1)).clip(0, 1)).astype(int)
            for _ in range(2)
        )
        found = compare(ours, theirs)
        by_episode += found.p_episodes < 0.05
        by_seed += found.p_seeds < 0.05
    assert by_episode / 200 > 0.3
    assert by_seed / 200 < 0.1


def test_holm_is_monotone_and_ignores_what_was_not_tested():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.01, float("nan"), 0.02])
    assert adjusted[0] == pytest.approx(0.02)
    assert np.isnan(adjusted[1])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("num_seeds", [3, 4, 10])
def test_the_detectable_difference_is_found_with_the_promised_power(num_seeds):
    smallest = detectable_difference(0.05, num_seeds)
    draws = np.random.default_rng(0).normal(smallest, 0.05, (4000, num_seeds))
    found = (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(0.8, abs=0.03)


def test_more_seeds_see_smaller_differences_and_one_sees_none():
    seen = [detectable_difference(0.05, count) for count in (1, 2, 3, 5, 10, 30)]
    assert seen[0] == float("inf")
    assert seen == sorted(seen, reverse=True)


def test_false_alarms_are_pairs_of_seeds_of_one_method():
    rows = [[1] * 20, [1] * 20, [0] * 10 + [1] * 10]
    assert false_alarms(matrix(rows)) == (2, 3)


def test_the_papers_average_does_not_survive_its_own_interval():
    """Table I: 95.5 against 97.25 % of 400 episodes each."""
    scratch, latent = PublishedRate("scratch", 0.955, 400), PublishedRate("latent", 0.9725, 400)
    assert latent.p_value(scratch) > 0.1
    assert latent.interval[0] < 0.955 < scratch.interval[1]
    assert latent.detectable_difference > 0.0975 - 0.0725


def test_the_p_values_of_the_papers_claims_in_the_docs_are_fishers():
    text = (Path(__file__).parent.parent / "docs/experiments.md").read_text()
    rows = re.findall(r"\| ([\d.]+) → ([\d.]+) % \| (\d+) \| ([\d.]+) \| ([\d.]+) \|", text)
    assert len(rows) == 9
    for before, after, count, p, detectable in rows:
        first, second = (
            PublishedRate("", float(rate) / 100, int(count)) for rate in (before, after)
        )
        assert second.p_value(first) == pytest.approx(float(p), abs=0.006 if len(p) == 4 else 6e-4)
        assert 100 * first.detectable_difference == pytest.approx(float(detectable), abs=0.06)
