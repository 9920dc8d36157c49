# SPDX-License-Identifier: Apache-2.0
"""The flags of `recipes/finetune.py`."""

from dataclasses import dataclass

from ..arguments import TrainingArgs, arg


@dataclass
class FinetuneArgs(TrainingArgs):
    """Train a policy on labelled demonstrations: after latent pretraining, or from scratch."""

    output_dir: str = arg("outputs/finetune", "where the finetuned policy goes", group="output")
    source: str = arg(
        "tabletop:reach,episodes=200,seed=200000,demonstrations=25",
        "demonstrations (lawm_hf.data.spec)",
        group="data",
    )
    pretrained: str = arg(
        "", "folder or Hub repository of a pretraining run; by default from scratch", group="model"
    )
    keep_action_head: bool = arg(
        False, "keep the last action layer instead of a fresh one", group="model"
    )
    transfer: str = arg(
        "all",
        "what is taken from it; trunk: all but the vision encoder",
        choices=("all", "vision", "trunk"),
        group="model",
    )
    # Its frames are smaller than the views unless that run had --frame_size 64, and objects with
    # them: the convolutions then start for another scale.
    vision_from: str = arg(
        "",
        "control, from scratch: run of pretraining whose world model lends its first two layers",
        group="model",
    )
    freeze_vision: bool = arg(False, "do not train the vision encoder", group="model")
    policy_type: str = arg(
        "baku", "from scratch: a registered model_type, or a folder or Hub id", group="model"
    )
    policy_preset: str = arg(
        "tabletop", "from scratch: tabletop, or default: the paper's sizes", group="model"
    )
    policy_config: str = arg(
        "",
        "from scratch: JSON overrides of the policy's configuration",
        is_json=True,
        group="model",
    )
    text_encoder: str = arg(
        "hashing", "from scratch: hashing, or a transformers text model id", group="model"
    )
    views: list[str] = arg([], "cameras, the main one first; all by default", group="data")
    resize: str = arg(
        "squash",
        "how frames become squares; the authors squash",
        choices=("squash", "crop"),
        group="data",
    )
    focus_steps: int = arg(
        0,
        "first updates that draw only the first 7 frames of each episode",
        min=0,
        group="training",
    )
    augment: bool = arg(True, "random shift and colour jitter", group="training")
    ema_decay: float = arg(
        0.0,
        "highest decay of averaged weights, which are then saved; 0: off",
        min=0,
        max=1,
        group="training",
    )
    steps: int = arg(500, "updates of the optimiser", min=1, group="training")
    learning_rate: float | None = arg(  # pyright: ignore[reportIncompatibleVariableOverride]
        None,
        "peak learning rate of the policy; by default 1e-3, pretrained 5e-4",
        above=0,
        group="training",
    )
    vision_learning_rate: float | None = arg(  # pyright: ignore[reportIncompatibleVariableOverride]
        None,
        "peak learning rate of its vision encoder; by default 3e-3, pretrained 3e-4",
        above=0,
        group="training",
    )
    weight_decay: float = arg(
        1e-4, "AdamW weight decay on matrices (not on biases and norms)", min=0, group="training"
    )
    max_grad_norm: float = arg(1.0, "clip the gradient to this norm", above=0, group="training")
