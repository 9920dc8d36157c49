# SPDX-License-Identifier: Apache-2.0
"""All analyses of one pretrained pair, as one record."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ..models.modeling_lawm import LAWMPolicy, LAWMWorldModel
from .clips import Clips
from .composition import Composition, composition
from .correlation import Split, VerbCorrelation, cca_by_verb
from .health import LatentHealth, latent_health
from .prediction import latents_of
from .probes import action_probes, probe_cases, untrained_copy
from .retrieval import Retrieval, retrieval


@dataclass
class LatentStudy:
    """Result of `latent_study`; what could not be measured is empty or None.

    Attributes:
        health: The table that pretraining prints, with its alarms.
        verbs: Canonical correlations with true actions: "all", then by verb.
        verbs_left_out: Verbs with too few clips, and how many there were to fit on and held out.
        action_probes: R² of each action dimension; see `action_probes`.
        composition: Whether latents add up and have a direction.
        retrieval: Nearest neighbours under the policy's latents, and under an untrained policy's.
    """

    health: LatentHealth
    verbs: list[VerbCorrelation] = field(default_factory=list)
    verbs_left_out: dict[str, tuple[int, int]] = field(default_factory=dict)
    action_probes: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    composition: Composition | None = None
    retrieval: dict[str, Retrieval] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return asdict(self) | {"health": self.health.to_dict()}


def latent_study(
    policy: LAWMPolicy,
    world_model: LAWMWorldModel,
    held_out: Clips,
    fit: Clips | None = None,
    seed: int = 0,
) -> LatentStudy:
    """Run every analysis that the clips allow.

    Args:
        policy: The policy, with its latent action head.
        world_model: The world model it was trained with.
        held_out: Clips to judge on, loaded with `later=later_steps(N)`.
        fit: Clips to fit on, of other episodes.
        seed: Seed of swaps, permutations, sampling and the untrained policy.
    """
    study = LatentStudy(
        health=latent_health(policy, world_model, held_out, fit, seed),
        composition=composition(policy, world_model, held_out, seed),
    )
    policies = {"trained": policy, "untrained": untrained_copy(policy, fit or held_out, seed)}
    latents = {name: latents_of(p, held_out).double().numpy() for name, p in policies.items()}
    actions = held_out.truth.get("actions")
    study.retrieval = {
        name: retrieval(z, held_out.episodes, held_out.tasks, actions)
        for name, z in latents.items()
    }
    if fit is None or actions is None or "actions" not in fit.truth:
        return study
    fitted = {name: latents_of(p, fit).double().numpy() for name, p in policies.items()}
    study.verbs, study.verbs_left_out = cca_by_verb(
        Split(**fitted, actions=fit.truth["actions"], tasks=fit.tasks),
        Split(**latents, actions=actions, tasks=held_out.tasks),
        seed,
    )
    pairs = {name: (fitted[name], latents[name]) for name in policies}
    cases = probe_cases(pairs["trained"], pairs["untrained"], (fit.truth, held_out.truth), seed)
    study.action_probes = action_probes(cases)
    return study
