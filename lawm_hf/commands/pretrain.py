# SPDX-License-Identifier: Apache-2.0
"""The flags of `recipes/pretrain.py`."""

from dataclasses import dataclass

from ..arguments import TrainingArgs, arg


@dataclass
class PretrainArgs(TrainingArgs):
    """Learn latent actions and a world model together, from video without action labels."""

    output_dir: str = arg(
        "outputs/pretrain", "where checkpoints, logs and results go", group="output"
    )
    steps: int = arg(400, "updates of the optimiser", min=1, group="training")
    batch_size: int = arg(48, "windows per process and micro-batch", min=1, group="training")
    learning_rate: float = arg(3e-4, "peak learning rate of the policy", above=0, group="training")
    vision_learning_rate: float = arg(
        1e-3, "peak learning rate of the policy's vision encoder", above=0, group="training"
    )
    sources: list[str] = arg(
        ["tabletop:reach,episodes=4000,actions=false,views=front"],
        "video sources (lawm_hf.data.spec)",
        group="data",
    )
    weights: list[float] = arg(
        [], "probability of each source per sample; equal by default", above=0, group="data"
    )
    objective: str = arg(
        "latent",
        "latent; supervised: on actions or labels of the sources; or a model_type",
        group="model",
    )
    objective_config: str = arg(
        "", "JSON options of an objective from elsewhere", is_json=True, group="model"
    )
    policy_type: str = arg(
        "baku", "a registered model_type, or a folder or Hub id to go on from", group="model"
    )
    policy_preset: str = arg("tabletop", "tabletop, or default: the paper's sizes", group="model")
    policy_config: str = arg(
        "", "JSON overrides of the policy's configuration", is_json=True, group="model"
    )
    world_model_type: str = arg(
        "dreamerv3",
        "dreamerv3, frame_diffusion, features; or another model_type, a folder or a Hub id",
        group="model",
    )
    world_model_preset: str = arg(
        "tiny",
        "tiny, default; of dreamerv3: tiny, 1m, 12m, 25m, 50m, 100m, 200m, 400m",
        group="model",
    )
    world_model_config: str = arg(
        "", "JSON overrides of the world model's configuration", is_json=True, group="model"
    )
    text_encoder: str = arg("hashing", "hashing, or a transformers text model id", group="model")
    chunk_size: int = arg(10, "latent actions per window", min=1, group="model")
    image_size: int = arg(64, "side of the policy's views, in pixels", min=8, group="data")
    policy_views: int = arg(
        0, "the policy sees this many of the views, the first ones; 0: all", min=0, group="data"
    )
    frame_size: int = arg(32, "side of the world model's frames, in pixels", min=8, group="data")
    frame_interval_s: float = arg(
        0.0, "seconds between frames; 0 takes them as stored", min=0, group="data"
    )
    resize: str = arg(
        "squash",
        "how frames become squares; the authors squash",
        choices=("squash", "crop"),
        group="data",
    )
    max_start: int = arg(
        3, "last frame of an episode where a window starts; -1 for any", min=-1, group="data"
    )
    world_model_learning_rate: float = arg(
        1e-3, "peak learning rate of the world model", above=0, group="training"
    )
    world_model_max_grad_norm: float = arg(
        100.0, "clip the world model's gradient to this norm", above=0, group="training"
    )
    shuffle_instructions: bool = arg(
        False, "control: pair each clip with another's instruction", group="training"
    )
    cut_gradient: bool = arg(
        False, "control: no gradient from world model to policy, as released", group="training"
    )
    report_every: int = arg(
        200, "updates between two health reports and pictures; 0: at the end", min=0, group="output"
    )
    stop_on_alarm: bool = arg(
        False, "stop, with a checkpoint, when such a report raises an alarm", group="output"
    )
    eval_source: str = arg(
        "auto", "held-out clips for the health report; auto, or none to skip", group="data"
    )
    held_out: float = arg(
        0.02,
        "share of the first source's clips that auto holds out, 5 to 300",
        min=0,
        max=0.5,
        group="data",
    )

    def __post_init__(self):
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(
                f"`weights` must be one number for each of the {len(self.sources)} sources, got "
                f"{self.weights}. Leave them out for equal shares."
            )
