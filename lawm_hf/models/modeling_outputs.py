# SPDX-License-Identifier: Apache-2.0
"""What policies and world models return, and the arithmetic that all of them share.

Shapes, here and everywhere: `B` batch, `V` views, `N` chunk steps, `C,H,W` image, `P` state,
`L` task embedding, `A` action.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput


@dataclass
class PolicyOutput(ModelOutput):
    """What a policy returns.

    Attributes:
        loss: Behaviour-cloning loss, a scalar; only when target actions were given.
        actions: Chunk of shape `(B, N, A)`, in [-1, 1]. Differentiable; without targets these are
            the latent actions.
        action_loss: Loss of each step, `(B, N)`, before masking.
    """

    loss: Tensor | None = None
    actions: Tensor | None = None
    action_loss: Tensor | None = None


@dataclass
class WorldModelOutput(ModelOutput):
    """What a world model returns; the losses of step `k` are about frame `x_{t+k+1}`.

    Attributes:
        loss: Scalar, averaged over the steps whose frame is not padding.
        reconstruction_loss: `(B, N)`, squared error summed over the pixels of a frame.
        kl_loss: `(B, N)`, weighted KL terms in nats; zeros for an objective without a posterior.
        state_loss: `(B, N)`, squared error summed over the robot's state, where it is predicted.
    """

    loss: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    kl_loss: Tensor | None = None
    state_loss: Tensor | None = None


@dataclass
class PretrainingOutput(ModelOutput):
    """Loss of joint pretraining, its parts, and the latent actions `(B, N, A)` behind it."""

    loss: Tensor | None = None
    latents: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    kl_loss: Tensor | None = None
    state_loss: Tensor | None = None


def world_size() -> int:
    """Processes that train together; 1 without gradients: one process makes the reports."""
    is_together = torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if is_together else 1


def masked_mean(values: Tensor, is_pad: Tensor | None, across_processes: bool = False) -> Tensor:
    """Mean of `(B, N)` values over the entries that are not padding (0 where all are).

    Args:
        values: `(B, N)`.
        is_pad: `(B, N)`, True where an entry does not count; `None` if all do.
        across_processes: Divide by the mean count of all processes, which then must all call this:
            the mean of their results is that of all entries, however the padding is spread.
    """
    if is_pad is None:
        return values.mean()
    keep = (~is_pad).to(values.dtype)
    count = keep.sum()
    if across_processes and world_size() > 1:
        dist.all_reduce(count)
        count /= world_size()
    return (values * keep).sum() / count.clamp(min=1 / world_size())


def check_targets(actions: Tensor, action_is_pad: Tensor | None, size: tuple[int, ...]) -> None:
    """Refuse what a policy cannot be taught: shapes that broadcast would teach something else.

    Args:
        actions: Targets.
        action_is_pad: Which of them do not count.
        size: `(B, N, A)` of the policy and its observations.

    Raises:
        ValueError: If they are not one chunk for each observation, or its padding.
    """
    if actions.shape != size:
        raise ValueError(
            f"`actions` must have shape (B, N, A) = {tuple(size)}, a chunk for each observation, "
            f"got {tuple(actions.shape)}. Cut them, or build the policy with other sizes."
        )
    if action_is_pad is not None and (
        action_is_pad.shape != size[:2] or action_is_pad.dtype != torch.bool
    ):
        raise ValueError(
            f"`action_is_pad` must be bool of shape {tuple(size[:2])}, got {action_is_pad.dtype} "
            f"of shape {tuple(action_is_pad.shape)}."
        )


def check_clip(
    frames: Tensor,
    actions: Tensor,
    frame_is_pad: Tensor | None,
    image_size: int,
    action_size: int,
    num_views: int = 1,
) -> None:
    """Refuse what a world model cannot be given; see `LAWMWorldModel.forward`.

    Shapes and dtypes only: to look at values would make a GPU wait.

    Raises:
        ValueError: If the clip is not `(B, N+1, V*3, image_size, image_size)`, uint8 or float, with
            one action between each two frames.
    """
    expected = (3 * num_views, image_size, image_size)
    if frames.dim() != 5 or frames.shape[2:] != expected:
        size = ", ".join(map(str, expected))
        raise ValueError(
            f"`frames` must have shape (B, N+1, {size}), 3 channels for each of {num_views} views, "
            f"got {tuple(frames.shape)}. Resize the frames, or change `image_size` or `num_views`."
        )
    if frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise ValueError(
            f"`frames` must be uint8 or float in [0, 1], got {frames.dtype}. Convert them."
        )
    expected = (frames.shape[0], frames.shape[1] - 1, action_size)
    if actions.shape != expected or expected[1] < 1:
        raise ValueError(
            f"`actions` must have shape (B, N, A) = {expected}, one action between each two of "
            f"the {frames.shape[1]} frames, got {tuple(actions.shape)}."
        )
    if frame_is_pad is not None and (
        frame_is_pad.shape != frames.shape[:2] or frame_is_pad.dtype != torch.bool
    ):
        raise ValueError(
            f"`frame_is_pad` must be bool of shape {tuple(frames.shape[:2])}, got "
            f"{frame_is_pad.dtype} of shape {tuple(frame_is_pad.shape)}."
        )


def unit_images(frames: Tensor) -> Tensor:
    """Float32 in [0, 1] of frames that are uint8, or floats in [0, 1] already."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()


def check_states(frame_states: Tensor | None, shape: torch.Size, state_size: int) -> None:
    """Refuse states of the robot that are not `(B, T, state_size)`; of a size of 0, any.

    Raises:
        ValueError: If they are missing, too many, or of another shape.
    """
    found = None if frame_states is None else tuple(frame_states.shape)
    if found != ((*shape, state_size) if state_size else None):
        raise ValueError(
            "`frame_states` (`first_state`) must be the robot's normalised states, "
            f"{state_size or 'none'} for each of {tuple(shape)} frames, as `state_size` "
            f"{state_size} says, got {found}. Load them with `WindowSpec(with_frame_states=True)`, "
            "or build the world model with another `state_size`; 0 is for video alone."
        )


def draw_steps(num_drawn: int | None, num_steps: int, device: torch.device) -> Tensor | None:
    """Which steps an update decodes, `(num_drawn,)` of them; `None` for all.

    On the CPU, where a scan looks at them; on the device in a graph, which does not.
    """
    if not num_drawn or num_drawn >= num_steps:
        return None
    where = device if torch.compiler.is_compiling() else "cpu"
    return torch.randperm(num_steps, device=where)[:num_drawn]


def spread_steps(values: Tensor, steps: Tensor, weights: Tensor | float, num_steps: int) -> Tensor:
    """Losses `(B, n)` of drawn steps among all, `(B, N)`, weighted; 0 elsewhere."""
    spread = values.new_zeros(len(values), num_steps)
    return spread.index_copy(1, steps, values * weights)


def frame_error(
    predicted: Tensor, frames: Tensor, first_frame: Tensor, motion_weight: float = 0.0
) -> Tensor:
    """Squared error of each frame, summed over its pixels; or over its features.

    Args:
        predicted: `(B, N, C, H, W)`.
        frames: What the prediction should have been, `(B, N, C, H, W)`.
        first_frame: `x_t`, `(B, 1, C, H, W)`. Predicting it for every step is the copy baseline.
        motion_weight: 0 is the plain squared error; otherwise a pixel weighs
            `0.2 + motion_weight * min(1, 4 |x_{t+k} - x_t|)`.

    Returns:
        `(B, N)`, float32.
    """
    error = (predicted.float() - frames).square()
    if motion_weight:
        motion = (frames - first_frame).abs().amax(2, keepdim=True)  # (B, N, 1, H, W)
        error = error * (0.2 + motion_weight * (4 * motion).clamp(max=1))
    return error.sum((-3, -2, -1))


class LatentNorm(nn.Module):
    """Standardises each of the `N*A` outputs over the batch, across all processes.

    Why: with a plain tanh the latents saturate within a few hundred updates and the policy's
    gradient vanishes, or they collapse to a constant; unit variance before the tanh prevents both.
    `nn.BatchNorm1d` would do on one process; `nn.SyncBatchNorm` does not run on CPUs.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, size: int, momentum: float = 0.1, eps: float = 1e-4):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.was_used = False  # whether a policy that asks for it really standardises
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def reset(self) -> None:
        """Forget the statistics."""
        self.running_mean.zero_()
        self.running_var.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise `(B, N*A)` by batch statistics in training, running ones in evaluation."""
        self.was_used = True
        if not self.training:
            return (x - self.running_mean) * (self.running_var + self.eps).rsqrt()
        if len(x) * world_size() < 2:
            raise ValueError(
                "`latent_norm` standardises over the batch, which must hold at least 2 samples of "
                "all processes, got 1: its gradient would be exactly 0. Take a larger batch, or "
                '`latent_norm="none"`.'
            )
        dtype, x = x.dtype, x.float()
        moments = torch.stack([x.mean(0), x.square().mean(0)])  # (2, N*A)
        if world_size() > 1:
            moments = dist_functional.all_reduce(moments) / world_size()
        mean, var = moments[0], (moments[1] - moments[0].square()).clamp(min=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return ((x - mean) * (var + self.eps).rsqrt()).to(dtype)
