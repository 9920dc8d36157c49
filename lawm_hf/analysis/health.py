# SPDX-License-Identifier: Apache-2.0
"""Latent health: does the world model use the latent actions, and what do they say?

Three questions, each beside what it must be compared with:

* Do the latents matter? Prediction from `x_t` under a clip's own latents, under those of another
  clip, and the prediction that nothing moves.
* Are they alive? Spread, effective rank, saturation of the tanh, smoothness in time.
* What do they know? Linear probes for true actions and positions, beside an untrained policy and
  probes fitted on shuffled truth. A random network already tells much that is in the picture.
"""

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ..models.modeling_lawm import LatentNorm, LAWMPolicy
from .clips import Clips, observation
from .latents import (
    effective_rank,
    held_out_cca,
    lag_correlation,
    remove_step_offsets,
    ridge_predict,
    ridge_r2,
    saturated_share,
)
from .prediction import latents_of, prediction_errors


@dataclass
class Probes:
    """What can be read linearly from latents, on held-out clips; None where truth is missing.

    Attributes:
        target_r2: Of the position of the named object, from the whole chunk.
        nearest_accuracy: How often the object nearest to that prediction is the named one.
        chunk_r2: Of the true action chunk, from the whole latent chunk.
        action_cca: Canonical correlations of single latents and actions, step offsets removed.
            Often low in a good model: latents need not repeat what `x_t` shows.
    """

    target_r2: float | None = None
    nearest_accuracy: float | None = None
    chunk_r2: float | None = None
    action_cca: list[float] | None = None


@dataclass
class LatentHealth:
    """Result of `latent_health`; `print` it, or take `to_dict()`.

    Errors are squared, summed over the pixels of a frame, averaged over steps and clips.
    """

    num_clips: int
    loss: float
    loss_swapped: float
    imagined_error: float
    imagined_error_swapped: float
    swap_gap_standard_error: float
    copy_error: float
    effective_rank: float
    standard_deviation: float
    saturated_share: float
    lag_correlation: float
    latent_size: int
    num_objects: int | None = None
    probes: dict[str, Probes] = field(default_factory=dict)

    @property
    def swap_gap(self) -> float:
        """Growth of the imagined error under another clip's latents; 0 if latents are ignored."""
        return self.imagined_error_swapped - self.imagined_error

    def to_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return asdict(self) | {"swap_gap": self.swap_gap, "alarms": self.alarms()}

    def alarms(self) -> list[str]:
        """What is wrong, in plain words; empty if nothing is."""
        found = []
        if self.swap_gap < max(0.01 * self.imagined_error, 2 * self.swap_gap_standard_error):
            found.append("The world model ignores the latents: another clip's do as well.")
        if self.imagined_error > 0.99 * self.copy_error:
            found.append("The world model has not beaten copying x_t: train longer.")
        if self.standard_deviation < 0.02:
            found.append("The latents have collapsed: they are the same for every clip.")
        if self.saturated_share > 0.5:
            found.append(
                "The latents saturate: most sit at ±1, where tanh passes no gradient to the policy."
            )
        trained, untrained = self.probes.get("trained"), self.probes.get("untrained")
        if trained and untrained and trained.target_r2 is not None:
            assert untrained.target_r2 is not None, "both are probed for the same truth"
            if trained.target_r2 < untrained.target_r2 + 0.1:
                found.append("The latents say no more of the target than an untrained policy's.")
        return found

    def __str__(self) -> str:
        gain = self.swap_gap / max(self.imagined_error, 1e-9)
        saved = 1 - self.imagined_error / max(self.copy_error, 1e-9)
        lines = [
            f"Latent health on {self.num_clips} held-out clips",
            "",
            "  prediction from x_t, squared error per frame",
            f"    own latents              {self.imagined_error:9.2f}",
            f"    another clip's latents   {self.imagined_error_swapped:9.2f}   ({gain:+.0%})",
            f"    copy of x_t              {self.copy_error:9.2f}   (own latents: {saved:+.0%})",
            f"  training loss, own / another's: {self.loss:.2f} / {self.loss_swapped:.2f}",
            "",
            f"  latents: effective rank {self.effective_rank:.1f} of {self.latent_size}, "
            f"standard deviation {self.standard_deviation:.2f},",
            f"    saturated {self.saturated_share:.0%}, "
            f"correlation of neighbouring steps {self.lag_correlation:.2f}",
        ]
        if self.probes:
            lines += ["", *_probe_table(self.probes, self.num_objects)]
        alarms = self.alarms()
        lines += ["", *(f"  ALARM  {alarm}" for alarm in alarms)]
        if not alarms:
            lines.append("  OK     The latents are alive and the world model depends on them.")
        return "\n".join(lines)


def latent_health(
    policy: LAWMPolicy,
    world_model: nn.Module,
    held_out: Clips,
    fit: Clips | None = None,
    seed: int = 0,
) -> LatentHealth:
    """Examine the latent actions of a pretrained pair.

    Args:
        policy: The policy, with its latent action head.
        world_model: The world model it was trained with.
        held_out: Clips that were not trained on, of two episodes at least.
        fit: Clips for fitting the probes, of other episodes. Without them, or without truth in
            both, there are no probes.
        seed: Seed of swaps, of sampling in the world model, and of the untrained policy.
    """
    latents = latents_of(policy, held_out)  # (M, N, A)
    numbers = latents.double().numpy()
    flat = numbers.reshape(len(numbers), -1)
    health = LatentHealth(
        num_clips=len(held_out),
        **prediction_errors(world_model, held_out, latents, seed),
        effective_rank=effective_rank(flat),
        standard_deviation=float(flat.std(0).mean()),
        saturated_share=saturated_share(numbers),
        lag_correlation=lag_correlation(numbers),
        latent_size=flat.shape[1],
    )
    common = set() if fit is None else set(fit.truth) & set(held_out.truth)
    if fit is None or not common:
        return health
    untrained = untrained_copy(policy, fit, seed)
    own = latents_of(policy, fit), latents
    fresh = latents_of(untrained, fit), latents_of(untrained, held_out)
    truths = fit.truth, held_out.truth
    # Both sides: with the truth of the fit alone shuffled, latents that equal the actions would
    # still correlate with them along whatever direction was fitted.
    shuffled = tuple(_shuffled(truth, seed) for truth in truths)
    cases = {"trained": (own, truths), "untrained": (fresh, truths), "shuffled": (own, shuffled)}
    for name, ((z_fit, z_test), (fit_truth, test_truth)) in cases.items():
        health.probes[name] = probe(
            z_fit.double().numpy(), fit_truth, z_test.double().numpy(), test_truth
        )
    if "objects_xy" in held_out.truth:
        health.num_objects = held_out.truth["objects_xy"].shape[1]
    return health


def probe(
    z_fit: np.ndarray,
    fit: dict[str, np.ndarray],
    z_test: np.ndarray,
    test: dict[str, np.ndarray],
) -> Probes:
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
        varies = fit["actions"].std((0, 1)) > 1e-6  # rotations and grippers may never be used
        reference = fit["actions"][..., varies]
        a_fit = remove_step_offsets(reference, reference)
        a_test = remove_step_offsets(test["actions"][..., varies], reference)
        size = a_fit.shape[-1]
        found.action_cca = held_out_cca(
            remove_step_offsets(z_fit, z_fit).reshape(-1, z_fit.shape[-1]),
            a_fit.reshape(-1, size),
            remove_step_offsets(z_test, z_fit).reshape(-1, z_fit.shape[-1]),
            a_test.reshape(-1, size),
        )
        chunks = (a.reshape(len(a), -1) for a in (a_fit, a_test))
        chunk_fit, chunk_test = chunks
        found.chunk_r2 = ridge_r2(flat_fit, chunk_fit, flat_test, chunk_test)
    return found


@torch.no_grad()
def untrained_copy(policy: LAWMPolicy, clips: Clips, seed: int = 0) -> LAWMPolicy:
    """A policy of the same configuration with fresh weights.

    Its latent norm is given the statistics of the clips, as the trained one's has: otherwise its
    latents would be all but constant, and the comparison unfair.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(policy)(copy.deepcopy(policy.config))
        nn.Module.to(fresh, policy.device)
        norms = [module for module in fresh.modules() if isinstance(module, LatentNorm)]
        fresh.train()
        for number, batch in enumerate(clips.batches if norms else []):
            for norm in norms:
                norm.momentum = 1 / (number + 1)  # the plain average over all batches
            fresh(**observation(batch, policy.device))
    return fresh.eval()


def _shuffled(truth: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The truth of another clip for each clip."""
    order = np.random.default_rng(seed).permutation(len(next(iter(truth.values()))))
    return {key: values[order] for key, values in truth.items()}


def _probe_table(probes: dict[str, Probes], num_objects: int | None) -> list[str]:
    columns = list(probes)
    lines = ["  what a linear probe reads".ljust(34) + "".join(f"{name:>18}" for name in columns)]
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
            lines.append(f"    {title}".ljust(34) + "".join(f"{cell:>18}" for cell in cells))
    return lines
