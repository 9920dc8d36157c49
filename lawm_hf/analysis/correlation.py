# SPDX-License-Identifier: Apache-2.0
"""Canonical correlations of latents and true actions by verb: the paper's Table III, with floors.

The paper prints the first coefficient per verb, apparently fitted and judged on the same rows, with
nothing to compare it with. Here every coefficient is taken on clips that were not fitted on, beside
the same for an untrained policy and for actions of other clips; the in-sample figure is shown too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..metrics.latent_cca.cca import held_out_cca
from .latents import Array, remove_step_offsets, used_dimensions
from .verbs import verb_groups

_PERMUTATIONS = 20
# Fewer clips than this say nothing: seven latents against seven actions, ten correlated rows each.
MIN_FIT_CLIPS, MIN_HELD_OUT_CLIPS = 40, 20


@dataclass
class VerbCorrelation:
    """Canonical correlations of single latents and actions among the clips of one verb.

    Attributes:
        verb: The verb, or "all".
        num_fit: Clips fitted on.
        num_held_out: Clips judged on.
        held_out: All coefficients, in the order of the fit; step offsets removed.
        untrained: The same of an untrained policy.
        permuted_mean: Mean over permutations of the clips, of each coefficient.
        permuted_p95: Their 95th percentile: what chance reaches once in twenty times.
        in_sample: First coefficient fitted and judged on the same clips, step offsets left in.
        in_sample_untrained: The same of an untrained policy: how far that way of counting flatters.
    """

    verb: str
    num_fit: int
    num_held_out: int
    held_out: list[float]
    untrained: list[float]
    permuted_mean: list[float]
    permuted_p95: list[float]
    in_sample: float
    in_sample_untrained: float


@dataclass
class Split:
    """Latents `(M, N, A)` of a policy and of an untrained one, true actions `(M, N, D)`, tasks."""

    trained: Array
    untrained: Array
    actions: Array
    tasks: Sequence[str]

    def rows(self, chosen: np.ndarray) -> "Split":
        """The chosen clips only."""
        tasks = [self.tasks[int(i)] for i in chosen]
        return Split(self.trained[chosen], self.untrained[chosen], self.actions[chosen], tasks)


def cca_by_verb(
    fit: Split, held_out: Split, seed: int = 0
) -> tuple[list[VerbCorrelation], dict[str, tuple[int, int]]]:
    """Correlations for all clips, then for each verb with enough clips.

    Args:
        fit: Clips to fit on.
        held_out: Clips to judge on.
        seed: Seed of the permutations.

    Returns:
        The table, and what was left out of it: for each other verb its clips of fit and held out.
    """
    varies = used_dimensions(fit.actions)
    fit, held_out = (replace(s, actions=s.actions[..., varies]) for s in (fit, held_out))
    fit_groups, groups = verb_groups(fit.tasks), verb_groups(held_out.tasks)
    everything = np.arange(len(fit.tasks)), np.arange(len(held_out.tasks))
    table, left_out = [_correlation_of("all", fit, held_out, *everything, seed)], {}
    nothing = np.array([], dtype=int)
    for verb in [*groups, *(v for v in fit_groups if v not in groups)]:
        chosen = fit_groups.get(verb, nothing), groups.get(verb, nothing)
        if len(chosen[0]) < MIN_FIT_CLIPS or len(chosen[1]) < MIN_HELD_OUT_CLIPS:
            left_out[verb] = len(chosen[0]), len(chosen[1])
        else:
            table.append(_correlation_of(verb, fit, held_out, *chosen, seed))
    return table, left_out


def _correlation_of(
    verb: str, fit: Split, held_out: Split, fit_rows: np.ndarray, rows: np.ndarray, seed: int
) -> VerbCorrelation:
    fit, held_out = fit.rows(fit_rows), held_out.rows(rows)
    rng = np.random.default_rng(seed)
    permuted = []
    for _ in range(_PERMUTATIONS):
        # Both sides: with the fit alone permuted, latents that equal the actions would still
        # correlate with them along whatever direction was fitted.
        shuffled = (rng.permutation(len(fit_rows)), rng.permutation(len(rows)))
        actions = (fit.actions[shuffled[0]], held_out.actions[shuffled[1]])
        permuted.append(step_cca(fit.trained, actions[0], held_out.trained, actions[1]))
    return VerbCorrelation(
        verb=verb,
        num_fit=len(fit_rows),
        num_held_out=len(rows),
        held_out=step_cca(fit.trained, fit.actions, held_out.trained, held_out.actions),
        untrained=step_cca(fit.untrained, fit.actions, held_out.untrained, held_out.actions),
        permuted_mean=np.mean(permuted, 0).tolist(),
        permuted_p95=np.quantile(permuted, 0.95, 0).tolist(),
        in_sample=_in_sample(held_out.trained, held_out.actions),
        in_sample_untrained=_in_sample(held_out.untrained, held_out.actions),
    )


def step_cca(z_fit: Array, a_fit: Array, z_test: Array, a_test: Array) -> list[float]:
    """`held_out_cca` of single latents and actions of `(M, N, ...)` chunks, step offsets removed.

    Often low in a good model: latents need not repeat what `x_t` shows.
    """
    z, y = (_flat(remove_step_offsets(x, x)) for x in (z_fit, a_fit))
    z_judge, y_judge = (
        _flat(remove_step_offsets(x, fit)) for x, fit in ((z_test, z_fit), (a_test, a_fit))
    )
    return held_out_cca(z, y, z_judge, y_judge)


def _in_sample(latents: Array, actions: Array) -> float:
    z, a = _flat(latents), _flat(actions)
    return held_out_cca(z, a, z, a)[0]


def _flat(chunks: Array) -> Array:
    """`(M, N, D)` chunks as `(M * N, D)` rows."""
    return chunks.reshape(-1, chunks.shape[-1])
