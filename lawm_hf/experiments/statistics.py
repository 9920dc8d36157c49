# SPDX-License-Identifier: Apache-2.0
# pandas types its results wider than these calls return:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportReturnType=false
"""What a sceptic asks of two success rates.

A run is one draw of initialisation, data order and demonstrations; its episodes say how good *that*
checkpoint is. Whether a *method* is better is a question about new runs, so seeds are a random
effect: the unit of evidence is one run's difference to the other method's run of the same seed,
and thousands of episodes cannot make up for few runs. McNemar's test on the same initial states is
given beside it; it is about these very checkpoints, and calls another seed of the same method
"better" far more often than one time in twenty.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ..metrics import wilson_interval

Table = pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """One method against another, over the seeds and states that both have played.

    Attributes:
        by_seed: Difference in success rate of each seed.
        difference: Their mean.
        interval: 95 % interval of it for new seeds (paired t); None with one seed.
        p_seeds: Two-sided p of the paired t test over seeds; None with one seed.
        p_episodes: Exact two-sided McNemar p over all pairs of episodes: these checkpoints only.
        wins: Episodes that only the first method solves.
        losses: Episodes that only the second solves.
    """

    by_seed: list[float]
    difference: float
    interval: tuple[float, float] | None
    p_seeds: float | None
    p_episodes: float
    wins: int
    losses: int

    @property
    def num_seeds(self) -> int:
        """Seeds compared."""
        return len(self.by_seed)


def compare(ours: Table, theirs: Table) -> Comparison:
    """Compare two matrices of outcomes, a row per seed, a column per initial state.

    Raises:
        ValueError: If they share no seed or no state.
    """
    seeds = ours.index.intersection(theirs.index)
    states = ours.columns.intersection(theirs.columns)
    if not len(seeds) or not len(states):
        raise ValueError(
            "Methods are compared on the seeds and initial states that both have; these share "
            f"{len(seeds)} seeds and {len(states)} states. Evaluate both on the same ones."
        )
    a, b = (x.loc[seeds, states].to_numpy() for x in (ours, theirs))
    by_seed = a.mean(1) - b.mean(1)
    wins, losses = int((a > b).sum()), int((a < b).sum())
    interval, p_seeds = _paired_t(by_seed) if len(seeds) > 1 else (None, None)
    return Comparison(
        by_seed=by_seed.tolist(),
        difference=float(by_seed.mean()),
        interval=interval,
        p_seeds=p_seeds,
        p_episodes=mcnemar(wins, losses),
        wins=wins,
        losses=losses,
    )


def _paired_t(differences: np.ndarray) -> tuple[tuple[float, float], float]:
    """95 % interval of the mean, and the p of its being 0."""
    mean, error = differences.mean(), stats.sem(differences)
    if error < 1e-9:  # All seeds differ by the same amount, by chance: there is no spread to judge.
        return (float(mean), float(mean)), 1.0 if abs(mean) < 1e-9 else float("nan")
    half = stats.t.ppf(0.975, len(differences) - 1) * error
    p = stats.ttest_1samp(differences, 0.0).pvalue
    return (float(mean - half), float(mean + half)), float(p)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p of McNemar's test; 1 if no pair differs."""
    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment for this many tests; NaN stays NaN and is not counted."""
    order = [i for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    adjusted, largest = list(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def false_alarms(matrix: Table) -> tuple[int, int]:
    """How often McNemar calls one seed of a method better than another, at p < 0.05.

    Returns:
        Pairs called different, and all pairs.
    """
    rows = matrix.to_numpy()
    pairs = list(itertools.combinations(range(len(rows)), 2))
    counts = [(int((rows[i] > rows[j]).sum()), int((rows[i] < rows[j]).sum())) for i, j in pairs]
    return sum(mcnemar(*count) < 0.05 for count in counts), len(pairs)


def detectable_difference(standard_deviation: float, num_seeds: int, power: float = 0.8) -> float:
    """Smallest true difference that the paired t test would find (two-sided 5 %) with this power.

    Args:
        standard_deviation: Of the difference between runs of the same seed.
        num_seeds: Runs of each method.
        power: How often it would be found.
    """
    if num_seeds < 2:
        return float("inf")
    if standard_deviation == 0:
        return 0.0
    freedom, scale = num_seeds - 1, standard_deviation / num_seeds**0.5
    critical = stats.t.ppf(0.975, freedom)
    low, high = 0.0, (critical + 20) * scale
    for _ in range(60):  # bisection: the power of the noncentral t grows with the difference
        middle = (low + high) / 2
        # The chance of a significant difference of the wrong sign is left out; and scipy gives NaN
        # far out, where the difference is all but sure to be found.
        found = stats.nct.sf(critical, freedom, middle / scale)
        low, high = (middle, high) if found < power else (low, middle)
    return float(high)


@dataclass(frozen=True)
class PublishedRate:
    """A success rate that others have published, of one run.

    Args:
        name: What it is called in the report.
        success_rate: In [0, 1].
        episodes: Episodes behind it.
    """

    name: str
    success_rate: float
    episodes: int

    def __post_init__(self):
        if not 0 <= self.success_rate <= 1 or self.episodes < 1:
            raise ValueError(
                f"A published rate must be in [0, 1], of 1 episode or more, got {self}. 94.2 % is "
                "0.942."
            )

    @property
    def successes(self) -> int:
        """Episodes that succeeded, to the nearest."""
        return round(self.success_rate * self.episodes)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval: of this checkpoint, not of the method."""
        return wilson_interval(self.successes, self.episodes)

    @property
    def detectable_difference(self) -> float:
        """Difference of two such rates found at two-sided 5 % with power 0.8 (normal, unpaired)."""
        error = (2 * self.success_rate * (1 - self.success_rate) / self.episodes) ** 0.5
        return float((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * error)

    def p_value(self, other: "PublishedRate") -> float:
        """Fisher's exact p against another rate, as if the episodes were unrelated."""
        table = [[r.successes, r.episodes - r.successes] for r in (self, other)]
        return float(stats.fisher_exact(table).pvalue)
