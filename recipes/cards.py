# SPDX-License-Identifier: Apache-2.0
"""Model cards of the checkpoints that are planned, before anything is trained.

    python recipes/cards.py

Writes `<name>.md` to `model_cards/`, from the configurations: sizes are counted on the models
themselves, and what was not measured says so. A run writes its own card, with results.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lawm_hf.arguments import CommandArgs, arg, parse_args, run_command
from lawm_hf.hub.card import build_card
from lawm_hf.recipes.pretrain import PretrainArgs, build_model

CONFIGS = Path(__file__).parent / "configs"
PLANNED = {
    "lawm-baku-tabletop": [],
    "lawm-baku-ssv2": [str(CONFIGS / "pretrain_ssv2.yaml")],
    "lawm-baku-bridge": [str(CONFIGS / "pretrain_bridge.yaml")],
    "lawm-baku-mixture": [str(CONFIGS / "pretrain_mixture.yaml")],
    "lawm-diffusion-bridge": [str(CONFIGS / "pretrain_bridge.yaml"), "--policy_type", "diffusion"],
}


@dataclass
class CardsArgs(CommandArgs):
    """Arguments of `recipes/cards.py`."""

    output_dir: str = arg(str(Path(__file__).parent.parent / "model_cards"), "where cards go")


def main(args: CardsArgs) -> None:
    """Write all planned cards."""
    for name, flags in PLANNED.items():
        run = parse_args(PretrainArgs, flags)
        with torch.device("meta"):  # Sizes without weights.
            model, _ = build_model(run)
        parts = model.policy, model.world_model
        card = build_card(asdict(run), *parts, run.text_encoder, {}, f"<user>/{name}")
        card.save(Path(args.output_dir, f"{name}.md"))


if __name__ == "__main__":
    run_command(main, CardsArgs)
