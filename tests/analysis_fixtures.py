# SPDX-License-Identifier: Apache-2.0
"""A toy pair of policy and world model whose truth is known.

In each clip the red and green of all pixels grow by a velocity in [-0.1, 0.1] per step. The views
show that velocity (red, green) beside noise (blue). Latent action = ten times the velocity.
"""

import numpy as np
import torch
from torch import nn

from lawm_hf.analysis import Clips
from lawm_hf.models import (
    LAWMPolicy,
    LAWMPolicyConfig,
    LAWMWorldModel,
    LAWMWorldModelConfig,
)
from lawm_hf.models.modeling_outputs import LatentNorm, PolicyOutput, WorldModelOutput, masked_mean

N, SIDE = 5, 4


class ToyPolicy(LAWMPolicy):
    config_class = LAWMPolicyConfig

    def __init__(self, config):
        super().__init__(config)
        self.read = nn.Linear(3, 2, bias=False)
        self.norm = LatentNorm(2)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):  # untrained: looks at the noise only
            module.weight.data = torch.tensor([[0.0, 0.0, 1e-3], [0.0, 0.0, -1e-3]])

    def forward(self, pixel_values, task_embeds, **kwargs):
        latents = self.read(pixel_values.mean((1, 3, 4)))
        if self.config.latent_norm == "batch":
            latents = self.norm(latents)
        return PolicyOutput(actions=latents[:, None].expand(-1, N, -1))


def toy_policy(kind: str) -> ToyPolicy:
    norm = "batch" if kind == "untrained" else "none"
    policy = ToyPolicy(LAWMPolicyConfig(chunk_size=N, action_size=2, latent_norm=norm))
    if kind == "trained":
        policy.read.weight.data = torch.tensor([[10.0, 0, 0], [0, 10.0, 0]])
    if kind == "saturated":
        policy.read.register_forward_hook(lambda _module, _args, output: output.sign())
    return policy


class ToyWorldModel(LAWMWorldModel):
    """Knows the toy's physics; `gain` 0 ignores the actions."""

    def __init__(self, gain: float = 0.1):
        super().__init__(LAWMWorldModelConfig(image_size=SIDE))
        self.gain = nn.Parameter(torch.tensor(gain))

    def predict_frames(self, first_frame, actions):
        drift = torch.nn.functional.pad(actions.cumsum(1) * self.gain, (0, 1))
        colours = first_frame.mean((-1, -2))[:, None] + drift  # (B, N, C)
        return colours[..., None, None].expand(*colours.shape, SIDE, SIDE)

    def forward(self, frames, actions, frame_is_pad):
        error = self.predict_frames(frames[:, 0], actions) - frames[:, 1:]
        error = error.square().sum((-3, -2, -1))
        return WorldModelOutput(loss=masked_mean(error, frame_is_pad[:, 1:]))


def toy_clips(num_clips: int, seed: int, pad_from: int | None = None) -> Clips:
    generator = torch.Generator().manual_seed(seed)
    velocity = torch.rand(num_clips, 3, generator=generator) * 0.2 - 0.1
    colours = torch.cat([velocity[:, :2], torch.zeros(num_clips, 1)], 1)
    frames = 0.4 + torch.arange(N + 1)[None, :, None] * colours[:, None]
    frames = frames[..., None, None].expand(-1, -1, -1, SIDE, SIDE).clone()
    is_pad = torch.zeros(num_clips, N + 1, dtype=torch.bool)
    if pad_from is not None:
        is_pad[:, pad_from:] = True
        frames[:, pad_from:] = 77
    target = velocity[:, :2].double().numpy() * 5
    others = np.random.default_rng(seed).uniform(-0.5, 0.5, (num_clips, 4, 2))
    index = np.arange(num_clips) % 4
    others[np.arange(num_clips), index] = target
    batches = [
        {
            "pixel_values": velocity[part][:, None, :, None, None].expand(-1, 1, -1, SIDE, SIDE),
            "task_embeds": torch.zeros(len(part), 8),
            "frames": frames[part],
            "frame_is_pad": is_pad[part],
        }
        for part in torch.arange(num_clips).split(30)
    ]
    actions = velocity[:, None, :2].double().numpy().repeat(N, 1)
    actions = np.concatenate([actions, np.zeros((num_clips, N, 1))], -1)  # one is never used
    truth = {"target_xy": target, "objects_xy": others, "target_index": index, "actions": actions}
    # At every later frame the view shows the same velocity; played backwards, its negative.
    later = {N // 2: batches, N: [b | {"pixel_values": -b["pixel_values"]} for b in batches]}
    return Clips(batches, ["push"] * num_clips, np.arange(num_clips), truth, later)
