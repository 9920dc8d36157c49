# SPDX-License-Identifier: Apache-2.0
"""What the latent actions have learned: probes, swap and copy tests, figures.

held_out = load_clips(load("tabletop:reach,episodes=300,seed=50000", window), processor)
health = latent_health(policy, world_model, held_out, fit)      # print(health)
imagination_strip(policy, world_model, held_out, "strip.png")
"""

from .clips import Clips, load_clips
from .figures import imagination_strip
from .health import LatentHealth, latent_health, untrained_copy
from .latents import (
    effective_rank,
    held_out_cca,
    lag_correlation,
    ridge_predict,
    ridge_r2,
    saturated_share,
)

__all__ = [
    "Clips",
    "LatentHealth",
    "effective_rank",
    "held_out_cca",
    "imagination_strip",
    "lag_correlation",
    "latent_health",
    "load_clips",
    "ridge_predict",
    "ridge_r2",
    "saturated_share",
    "untrained_copy",
]
