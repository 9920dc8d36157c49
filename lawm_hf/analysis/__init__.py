# SPDX-License-Identifier: Apache-2.0
"""What the latent actions have learned: probes, swap and copy tests, figures.

held_out = load_clips(load("tabletop:reach,episodes=300,seed=50000", window), processor)
health = latent_health(policy, world_model, held_out, fit)      # print(health)
imagination_strip(policy, world_model, held_out, "strip.png")

`latent_health` takes seconds and is what pretraining prints; `latent_study` runs everything and is
what `recipes/analyze.py` writes down.
"""

from ..metrics.latent_cca.cca import held_out_cca
from .clips import Clips, load_clips
from .composition import Composition, composition, later_steps
from .correlation import Split, VerbCorrelation, cca_by_verb
from .figures import imagination_strip, neighbour_gallery
from .health import LatentHealth, latent_health
from .latents import (
    effective_rank,
    lag_correlation,
    ridge_predict,
    ridge_r2,
    saturated_share,
)
from .markdown import study_markdown
from .probes import action_probes, mlp_predict, untrained_copy
from .retrieval import Retrieval, neighbours, retrieval
from .sensitivity import input_effects
from .study import LatentStudy, latent_study
from .traversal import principal_directions, traversal_figures
from .verbs import verb_groups, verb_of

__all__ = [
    "Clips",
    "Composition",
    "LatentHealth",
    "LatentStudy",
    "Retrieval",
    "Split",
    "VerbCorrelation",
    "action_probes",
    "cca_by_verb",
    "composition",
    "effective_rank",
    "held_out_cca",
    "imagination_strip",
    "input_effects",
    "lag_correlation",
    "latent_health",
    "latent_study",
    "later_steps",
    "load_clips",
    "mlp_predict",
    "neighbour_gallery",
    "neighbours",
    "principal_directions",
    "retrieval",
    "ridge_predict",
    "ridge_r2",
    "saturated_share",
    "study_markdown",
    "traversal_figures",
    "untrained_copy",
    "verb_groups",
    "verb_of",
]
