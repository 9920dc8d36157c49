# SPDX-License-Identifier: Apache-2.0
"""Do latent actions add up, and do they have a direction? Tests in what the world model imagines.

Latent action models with an inverse dynamics model test z(a→c) = z(a→b) + z(b→c) and
z(b→a) = -z(a→b), with z computed from *pairs of frames* (ALAM and its kin). LAWM has no such model:
its latents come from one frame and the instruction, and no latent of a given pair of frames exists.
What can be asked instead, about chunks `z_t` of `N` latents and `h = N // 2`:

* Composition in effect. Roll the first half out, *draw* x_{t+h}, start anew from that drawing and
  go on with the second half. If latents act on what is seen, this ends where the whole chunk ends;
  if the second half only meant something to the memory of the first, it does not. (Without the
  drawing the test would be empty: a recurrent model's two halves are its whole by construction.)
* Composition across windows. The policy looks again at the real x_{t+h}: its first half then covers
  the same video as the second half of `z_t`. Do the two agree as numbers, and in effect?
* Reversal. The clip played backwards: the policy looks at x_{t+N} and the pair predicts
  x_{t+N-1} .. x_t. A pair that knows where things *go* predicts this worse than the clip itself;
  one that only blurs what may move predicts both alike.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..models.modeling_lawm import LAWMPolicy, LAWMWorldModel
from .clips import Clips
from .latents import remove_step_offsets
from .prediction import evaluating, latents_of, part_errors, swap_partners

_PERMUTATIONS = 20


@dataclass
class Composition:
    """Result of `composition`; errors as in `LatentHealth`, of the chunk's last frame only.

    Attributes:
        num_clips: Clips whose video lasts for the whole chunk; the others are left out.
        whole_error: Under the whole chunk.
        halves_error: In two halves with a drawing between them.
        halves_swapped_error: The same with another clip's second half.
        copy_error: Of a copy of `x_t`.
        relooked_error: First half of `z_t`, then first half of the chunk of the policy that has
            looked at x_{t+h}, in one roll-out.
        agreement: Correlation of `z_t[h:]` and `z_{t+h}[:N-h]`, what all clips share at a step
            removed.
        agreement_permuted: The mean of that with clips permuted.
        agreement_permuted_p95: The 95th percentile.
        forward_gain: 1 - error / error of copying, over all frames of the clips.
        reversed_gain: The same of the clips played backwards.
    """

    num_clips: int
    whole_error: float
    halves_error: float
    halves_swapped_error: float
    copy_error: float
    relooked_error: float
    agreement: float
    agreement_permuted: float
    agreement_permuted_p95: float
    forward_gain: float
    reversed_gain: float


def later_steps(chunk_size: int) -> tuple[int, int]:
    """The steps at which the policy must have looked again: the middle and the end."""
    return chunk_size // 2, chunk_size


def composition(
    policy: LAWMPolicy, world_model: LAWMWorldModel, clips: Clips, seed: int = 0
) -> Composition | None:
    """Run the tests of this module.

    Args:
        policy: The policy.
        world_model: The world model.
        clips: Clips loaded with `later=later_steps(N)`.
        seed: Seed of swaps and permutations.

    Returns:
        The numbers; None if the policy sees several views or the world model a state, whose middle
        no picture shows, or if fewer than two clips last for the chunk.
    """
    half, last = later_steps(policy.config.chunk_size)
    keep = ~clips.frame_is_pad[:, last]
    if half < 1 or not {half, last} <= set(clips.later) or clips.first_state or keep.sum() < 2:
        return None
    frames = clips.frames[keep]
    own, relooked, backwards = (
        latents_of(policy, Clips(batches, clips.tasks, clips.episodes))[keep]
        for batches in (clips.batches, clips.later[half], clips.later[last])
    )
    partners = torch.from_numpy(swap_partners(clips.episodes[keep.numpy()], seed))
    with evaluating(world_model):
        middle = _imagine(world_model, frames, own[:, :half])[:, -1:].clamp(0, 1)
        drawn = {
            "whole": _imagine(world_model, frames, own),
            "halves": _imagine(world_model, middle, own[:, half:]),
            "halves_swapped": _imagine(world_model, middle, own[partners][:, half:]),
            "relooked": _imagine(
                world_model, frames, torch.cat([own[:, :half], relooked[:, : last - half]], 1)
            ),
        }
        played_back = frames.flip(1)
        undone = _imagine(world_model, played_back, backwards)
    errors = {
        f"{name}_error": _error(world_model, picture[:, -1:], frames[:, -1:], frames)
        for name, picture in {**drawn, "copy": frames[:, :1]}.items()
    }
    agreement, permuted = _agreement(
        own[:, half:].double().numpy(), relooked[:, : last - half].double().numpy(), seed
    )
    return Composition(
        num_clips=int(keep.sum()),
        **errors,
        agreement=agreement,
        agreement_permuted=float(permuted.mean()),
        agreement_permuted_p95=float(np.quantile(permuted, 0.95)),
        forward_gain=_gain(world_model, drawn["whole"], frames),
        reversed_gain=_gain(world_model, undone, played_back),
    )


@torch.no_grad()
def _imagine(
    world_model: LAWMWorldModel, frames: Tensor, latents: Tensor, batch_size: int = 50
) -> Tensor:
    """`predict_frames` from `frames[:, 0]` in batches, on the CPU."""
    device = next(world_model.parameters()).device
    parts = [
        world_model.predict_frames(first.to(device), z.to(device)).cpu()
        for first, z in zip(frames[:, 0].split(batch_size), latents.split(batch_size), strict=True)
    ]
    return torch.cat(parts)


def _error(world_model: LAWMWorldModel, drawn: Tensor, targets: Tensor, frames: Tensor) -> float:
    """Mean error of frames `(M, T, C, H, W)`, in the world model's measure of motion from x_t."""
    pad = torch.zeros(len(drawn), 1 + drawn.shape[1], dtype=torch.bool)
    return part_errors(world_model, drawn, targets, frames[:, :1], pad).sum(1).mean().item()


def _gain(world_model: LAWMWorldModel, drawn: Tensor, frames: Tensor) -> float:
    targets = frames[:, 1:]
    still = _error(world_model, frames[:, :1].expand_as(targets), targets, frames)
    return 1 - _error(world_model, drawn, targets, frames) / max(still, 1e-9)


def _agreement(second: np.ndarray, again: np.ndarray, seed: int) -> tuple[float, np.ndarray]:
    """Correlation of `(M, h, A)` latents for the same video, and the same of permuted clips."""
    rng = np.random.default_rng(seed)
    second, again = remove_step_offsets(second, second), remove_step_offsets(again, again)
    scale = max(float(np.sqrt((second**2).sum() * (again**2).sum())), 1e-12)
    permuted = [
        (second * again[rng.permutation(len(again))]).sum() / scale for _ in range(_PERMUTATIONS)
    ]
    return float((second * again).sum() / scale), np.array(permuted)
