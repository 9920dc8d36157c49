# SPDX-License-Identifier: Apache-2.0
"""What latents know: probes for true actions and positions, each beside what it is compared with.

A random network already tells much that is in the picture, so every probe is fitted three times: on
the policy's latents, on those of an untrained copy, and on the policy's with shuffled truth.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from ..models.modeling_lawm import LatentNorm, LAWMPolicy
from .clips import Clips, observation
from .correlation import step_cca
from .latents import Array, remove_step_offsets, ridge_predict, ridge_r2, used_dimensions

Truth = dict[str, np.ndarray]
# name: latents of fit and held-out clips, and their truths
ProbeCases = dict[str, tuple[tuple[Array, Array], tuple[Truth, Truth]]]


@dataclass
class Probes:
    """What can be read linearly from latents, on held-out clips; None where truth is missing.

    Attributes:
        target_r2: Of the position of the named object, from the whole chunk.
        nearest_accuracy: How often the object nearest to that prediction is the named one.
        chunk_r2: Of the true action chunk, from the whole latent chunk.
        action_cca: Canonical correlations of single latents and actions, see `step_cca`.
    """

    target_r2: float | None = None
    nearest_accuracy: float | None = None
    chunk_r2: float | None = None
    action_cca: list[float] | None = None


def probe_cases(
    trained: tuple[Array, Array],
    untrained: tuple[Array, Array],
    truths: tuple[Truth, Truth],
    seed=0,
) -> ProbeCases:
    """The three things to probe.

    Args:
        trained: Latents `(M, N, A)` of the policy, of the clips to fit on and the held-out ones.
        untrained: The same of an untrained copy.
        truths: What is known of either.
        seed: Seed of the shuffling.
    """
    # Both sides: with the truth of the fit alone shuffled, latents that equal the actions would
    # still correlate with them along whatever direction was fitted.
    shuffled = (_shuffled(truths[0], seed), _shuffled(truths[1], seed))
    return {
        "trained": (trained, truths),
        "untrained": (untrained, truths),
        "shuffled": (trained, shuffled),
    }


def probe(z_fit: Array, fit: Truth, z_test: Array, test: Truth) -> Probes:
    """Probe latents `(M, N, A)` for what is known of the clips; see `Clips.truth`."""
    flat_fit, flat_test = z_fit.reshape(len(z_fit), -1), z_test.reshape(len(z_test), -1)
    found = Probes()
    if "target_xy" in fit and "target_xy" in test:
        xy = ridge_predict(flat_fit, fit["target_xy"], flat_test)  # (M, 2)
        spread = np.square(test["target_xy"] - test["target_xy"].mean(0)).sum()
        found.target_r2 = float(1 - np.square(xy - test["target_xy"]).sum() / spread)
        distances = np.linalg.norm(test["objects_xy"] - xy[:, None], axis=-1)  # (M, K)
        found.nearest_accuracy = float((distances.argmin(1) == test["target_index"]).mean())
    if "actions" in fit and "actions" in test:
        varies = used_dimensions(fit["actions"])
        a_fit, a_test = fit["actions"][..., varies], test["actions"][..., varies]
        found.action_cca = step_cca(z_fit, a_fit, z_test, a_test)
        chunks = (remove_step_offsets(a, a_fit).reshape(len(a), -1) for a in (a_fit, a_test))
        chunk_fit, chunk_test = chunks
        found.chunk_r2 = ridge_r2(flat_fit, chunk_fit, flat_test, chunk_test)
    return found


def action_probes(cases: ProbeCases) -> dict[str, dict[str, list[float]]]:
    """R² of each used action dimension over the steps of the chunk, from the whole latent chunk.

    Args:
        cases: See `probe_cases`; truths with `actions`.

    Returns:
        `{"ridge": {case: R² of each dimension}, "mlp": ...}`, on held-out clips, negative where a
        probe does worse than the mean of each step.
    """
    probes: dict[str, Callable[[Array, Array, Array], Array]] = {
        "ridge": ridge_predict,
        "mlp": mlp_predict,
    }
    found: dict[str, dict[str, list[float]]] = {name: {} for name in probes}
    for case, ((z_fit, z_test), (fit, test)) in cases.items():
        varies = used_dimensions(fit["actions"])
        a_fit, a_test = fit["actions"][..., varies], test["actions"][..., varies]
        shape = a_test.shape
        for name, predict in probes.items():
            flat = (x.reshape(len(x), -1) for x in (z_fit, a_fit, z_test))
            errors = np.square(predict(*flat).reshape(shape) - a_test).sum((0, 1))  # (D,)
            spread = np.square(remove_step_offsets(a_test, a_test)).sum((0, 1))
            found[name][case] = (1 - errors / np.maximum(spread, 1e-12)).tolist()
    return found


def mlp_predict(x_train: Array, y_train: Array, x_test: Array) -> Array:
    """Predict `(M, Q)` from `(M, P)` with one hidden layer; a tenth of the fit stops it early."""
    scaler = StandardScaler().fit(y_train)
    network = MLPRegressor(
        hidden_layer_sizes=(64,),
        early_stopping=len(x_train) >= 20,  # of fewer, a tenth is no validation set
        learning_rate_init=3e-3,
        max_iter=500,
        random_state=0,
    )
    probe = make_pipeline(StandardScaler(), network)
    with warnings.catch_warnings():
        # Whether the last hundredth is reached decides nothing here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        targets = np.asarray(scaler.transform(y_train))
        probe.fit(x_train, targets.ravel() if targets.shape[1] == 1 else targets)
    return scaler.inverse_transform(probe.predict(x_test).reshape(len(x_test), -1))


@torch.no_grad()
def untrained_copy(policy: LAWMPolicy, clips: Clips, seed: int = 0) -> LAWMPolicy:
    """A policy of the same configuration with fresh weights.

    Its latent norm is given the statistics of the clips, as the trained one's has: otherwise its
    latents would be all but constant, and the comparison unfair.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config: Any = copy.deepcopy(policy.config)
        fresh = type(policy)(config)
        nn.Module.to(fresh, policy.device)
        norms = [module for module in fresh.modules() if isinstance(module, LatentNorm)]
        fresh.train()
        for number, batch in enumerate(clips.batches if norms else []):
            for norm in norms:
                norm.momentum = 1 / (number + 1)  # the plain average over all batches
            fresh(**observation(batch, policy.device))
    return fresh.eval()


def probe_table(probes: dict[str, Probes], num_objects: int | None) -> list[str]:
    """Lines of text: a row for each thing that was probed, a column for each case."""
    columns = list(probes)
    lines = ["  what a linear probe reads".ljust(37) + "".join(f"{name:>17}" for name in columns)]
    chance = f" (chance {1 / num_objects:.0%})" if num_objects else ""
    rows = {
        "position of the target, R²": "target_r2",
        f"named one is nearest{chance}": "nearest_accuracy",
        "action chunk, R²": "chunk_r2",
        "actions, CCA 1, 2, 3": "action_cca",
    }
    for title, key in rows.items():
        cells = []
        for column in columns:
            value = getattr(probes[column], key)
            if value is None:
                continue
            if isinstance(value, list):
                cells.append(" ".join(f"{v:.2f}" for v in value[:3]))
            else:
                cells.append(f"{value:.0%}" if key == "nearest_accuracy" else f"{value:.2f}")
        if cells:
            lines.append(f"    {title}".ljust(37) + "".join(f"{cell:>17}" for cell in cells))
    return lines


def _shuffled(truth: Truth, seed: int) -> Truth:
    """The truth of another clip for each clip."""
    order = np.random.default_rng(seed).permutation(len(next(iter(truth.values()))))
    return {key: values[order] for key, values in truth.items()}
