# SPDX-License-Identifier: Apache-2.0
"""Each alarm, by doing the harm it warns of to a small pair in training; and silence without it.

A square moves left, right, up or down, as the instruction says, at a speed that only the policy's
view tells (by the brightness of a stripe). Latents that work carry both to the world model.
"""

import numpy as np
import pytest
import torch

from lawm_hf.analysis import Clips, LatentHealth, latent_health
from lawm_hf.models import (
    BakuConfig,
    BakuPolicy,
    DreamerV3Config,
    DreamerV3WorldModel,
    LawmForPretraining,
    LAWMProcessor,
)

N, SIDE, BATCH, STRIPE = 3, 32, 32, 10
WAYS = {"go left": (0, -1), "go right": (0, 1), "go up": (-1, 0), "go down": (1, 0)}


def make_clips(num: int, seed: int, is_moving: bool = True, is_shuffled: bool = False) -> Clips:
    rng = np.random.default_rng(seed)
    way, speed = np.arange(num) % 4, rng.choice([1, 4], num)
    start, step = rng.integers(12, 15, (num, 2)), np.array(list(WAYS.values()))[way]
    step = step * speed[:, None]
    frames = np.full((num, N + 1, 3, SIDE, SIDE), 90, np.uint8)
    for clip in range(num):
        for k in range(N + 1):
            row, column = start[clip] + k * step[clip] * is_moving
            frames[clip, k, :2, row : row + 5, column : column + 5] = 250
    views = frames[:, :1].copy()
    views[..., :STRIPE] = 50 * speed[:, None, None, None, None]
    named = rng.permutation(way) if is_shuffled else way
    tasks = [list(WAYS)[i] for i in named]
    processor = LAWMProcessor(SIDE, SIDE)
    processor.center_tasks(list(WAYS))
    batches = [
        processor(
            images=torch.from_numpy(views[part]),
            frames=torch.from_numpy(frames[part]),
            task=[tasks[i] for i in part],
        )
        for part in np.split(np.arange(num), range(BATCH, num, BATCH))
    ]
    truth = {
        "target_xy": step.astype(float),
        "objects_xy": step[:, None].astype(float),
        "target_index": np.zeros(num, int),
    }
    return Clips(batches, tasks, np.arange(num), truth)


def examine(
    updates: int = 40,
    cut_gradient: bool = False,
    task_scale: float = 1.0,
    view_scale: float = 1.0,
    latent_norm: str = "batch",
    is_probed: bool = True,
    learning_rate: float = 3e-3,
    seed: int = 0,
    **clip_options: bool,
) -> LatentHealth:
    """Train a small pair on such clips and look at it; scales of 0 take an input away."""
    torch.manual_seed(seed)
    sizes = {"chunk_size": N, "image_size": SIDE, "action_size": 2}
    policy = BakuPolicy(
        BakuConfig.from_preset(
            "tabletop", hidden_size=32, num_layers=1, latent_norm=latent_norm, **sizes
        )
    )
    world_model = DreamerV3WorldModel(
        DreamerV3Config.from_preset(
            "tiny", action_size=2, image_size=SIDE, deter_size=64, hidden_size=32, depth=8
        )
    )
    model = LawmForPretraining(policy, world_model, cut_gradient).train()
    clips = [
        make_clips(num, seed, **clip_options) for num, seed in ((8 * BATCH, 1), (64, 7), (128, 8))
    ]
    for some in clips:
        for batch in some.batches:
            # A broken text encoder gives every instruction the same vector.
            batch["task_embeds"] = batch["task_embeds"] * task_scale + (1 - task_scale)
            batch["pixel_values"] = batch["pixel_values"] * view_scale
    train, held_out, fit = clips
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    for update in range(updates):
        loss = model(**train.batches[update % len(train.batches)]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return latent_health(policy, world_model, held_out, fit if is_probed else None)


def test_a_pair_that_learns_raises_no_alarm():
    # Not probed: of so simple a truth, random features tell linearly nearly as much. So short a
    # training finds the latents from three initialisations of five; which ones, rounding decides.
    pairs = (examine(is_probed=False, seed=seed) for seed in range(5))
    health = next((pair for pair in pairs if not pair.alarms()), None)
    assert health is not None
    assert "OK" in str(health)
    assert health.instruction_effect > 0.5


@pytest.mark.parametrize(
    ("harm", "alarm"),
    [
        ({"cut_gradient": True, "updates": 20}, "no more of the target than an untrained"),
        ({"is_shuffled": True, "view_scale": 0.0}, "The world model ignores the latents"),
        ({"is_moving": False, "updates": 5}, "Nothing moves"),
        ({"updates": 0}, "has not beaten copying"),
        ({"task_scale": 0.0, "updates": 10}, "The latents ignore the instruction"),
        ({"view_scale": 0.0, "updates": 10}, "The latents ignore the image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_harm_raises_its_alarm(harm, alarm):
    health = examine(**harm)
    assert any(alarm in found for found in health.alarms()), health


def test_without_the_latent_norm_a_high_rate_saturates_or_collapses_the_latents():
    health = examine(latent_norm="none", learning_rate=0.1, updates=20)
    alarms = " ".join(health.alarms())
    assert "saturate" in alarms or "collapsed" in alarms
