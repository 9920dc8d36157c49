# SPDX-License-Identifier: Apache-2.0
"""The flags of `recipes/analyze.py`."""

from dataclasses import dataclass

from ..arguments import CommandArgs, arg


@dataclass
class AnalyzeArgs(CommandArgs):
    """Show what the latent actions of a pretraining run have learned: tables and pictures."""

    pretrained: str = arg(
        "outputs/pretrain", "folder that recipes/pretrain.py has written", group="model"
    )
    source: str = arg(
        "auto", "held-out clips (lawm_hf.data.spec); auto: of the run's tabletop", group="data"
    )
    output_dir: str = arg("outputs/analyze", "where tables and pictures go", group="output")
    seed: int = arg(0, "seed of swaps, permutations and the untrained policy", min=0, group="data")
