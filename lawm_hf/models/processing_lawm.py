# SPDX-License-Identifier: Apache-2.0
"""The processor: raw views, instructions, states and actions to the batch that the models take."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor

from .configuration_lawm import LAWMPolicyConfig
from .images_lawm import check_images, colour_jitter, constant, random_shift, resize, send
from .normalization_lawm import NormalizationMode, Normalizer, Statistics, as_lists
from .saving_lawm import SavedProcessor
from .sharing_lawm import SharedOnHub
from .text_lawm import HASHING, TaskEncoder
from .tokens_lawm import TaskTokenizer

# ImageNet's, since trunks may start from ImageNet weights; any fixed scaling would do for others.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# Held-out actions may leave [-1, 1] by this much and are then clamped; more means that the
# statistics are those of other data.
ACTION_TOLERANCE = 0.1


# `SharedOnHub` is named for transformers, which copies the code that a saved file imports directly.
class LAWMProcessor(SavedProcessor, SharedOnHub):
    """Turns raw batches into model inputs, and predicted actions back into the robot's units.

    Saved beside each model; a finetuned checkpoint carries its statistics and, when a text model is
    used, the embeddings of the instructions it knows.

    Args:
        image_size: Side of the policy's views, in pixels.
        frame_size: Side of the world model's frames; `None` for `image_size`.
        image_mean: Subtracted from each channel of the views, after scaling to [0, 1].
        image_std: Divides each channel of the views.
        text_encoder: `"hashing"` (no weights), or the id or folder of a transformers text model.
        task_embed_size: Width `L` of `task_embeds`; `None` for the encoder's own.
        task_center: Subtracted from each embedding, `(L,)`; see `center_tasks`.
        task_tokens: For a policy that reads words by itself: the id or folder of its tokenizer, or
            `"hashing:VOCABULARY"` (no file); see `LAWMPolicyConfig.processor_options`.
        num_task_tokens: Token ids `T` of an instruction.
        state_normalization: `"min_max"`, `"quantile"`, `"mean_std"` or `"identity"`.
        action_normalization: The same without `"mean_std"`: policies output [-1, 1].
        state_stats: Statistics by LeRobot's names (`min`, `max`, `mean`, `std`, `q01`, `q99`).
        action_stats: The same for actions.
        shift: Largest random shift of a view when augmenting, as a share of its side.
        brightness: Strength of this change of colour when augmenting; 0 turns it off.
        contrast: See `brightness`.
        saturation: See `brightness`.
        hue: See `brightness`; small, since instructions name colours.
    """

    def __init__(
        self,
        image_size: int = 128,
        frame_size: int | None = None,
        image_mean: tuple[float, float, float] = IMAGE_MEAN,
        image_std: tuple[float, float, float] = IMAGE_STD,
        text_encoder: str = HASHING,
        task_embed_size: int | None = None,
        task_center: list[float] | None = None,
        task_tokens: str | None = None,
        num_task_tokens: int = 0,
        state_normalization: NormalizationMode = "min_max",
        action_normalization: NormalizationMode = "min_max",
        state_stats: Statistics | None = None,
        action_stats: Statistics | None = None,
        shift: float = 2 / 64,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.02,
    ):
        super().__init__()
        if action_normalization == "mean_std":
            raise ValueError(
                "`action_normalization` must map actions to [-1, 1], which is all that policies "
                "output; 'mean_std' does not. Use 'min_max' or 'quantile'."
            )
        self.image_size, self.frame_size = image_size, frame_size or image_size
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
        self.text_encoder = text_encoder
        self.task_encoder = TaskEncoder(text_encoder, task_embed_size)
        self.task_embed_size = self.task_encoder.size
        self.task_center = task_center
        self.task_tokens, self.num_task_tokens = task_tokens, num_task_tokens
        self.task_reader = TaskTokenizer(task_tokens, num_task_tokens) if task_tokens else None
        self._check_numbers()
        self.state_normalization: NormalizationMode = state_normalization
        self.action_normalization: NormalizationMode = action_normalization
        self.shift, self.brightness, self.contrast = shift, brightness, contrast
        self.saturation, self.hue = saturation, hue
        given = {"state": state_stats, "actions": action_stats}
        self.set_statistics({key: value for key, value in given.items() if value is not None})

    def _check_numbers(self) -> None:
        for name in ("image_size", "frame_size"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"`{name}` must be a whole number of pixels, got {size!r}.")
        for name, count in (
            ("image_mean", 3),
            ("image_std", 3),
            ("task_center", self.task_embed_size),
        ):
            if (values := getattr(self, name)) is None:
                continue
            numbers = np.asarray(values, dtype=np.float64)
            least = 0 if name == "image_std" else -np.inf
            if numbers.shape != (count,) or not (np.isfinite(numbers) & (numbers > least)).all():
                kind = "positive" if name == "image_std" else "finite"
                raise ValueError(f"`{name}` must be {count} {kind} numbers, got {values!r:.100}.")

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        """Replace all statistics, as finetuning does with those of its data.

        Args:
            statistics: Those of `"state"` and of `"actions"`; a missing one is forgotten.
        """
        unknown = sorted(set(statistics) - {"state", "actions"})
        if unknown:
            raise ValueError(
                f"Statistics must be those of 'state' and 'actions', got {unknown}. Pass "
                '`{"state": {"min": ..., ...}, "actions": {...}}`.'
            )
        self.state_stats = as_lists(statistics.get("state"), "state_stats")
        self.action_stats = as_lists(statistics.get("actions"), "action_stats")
        self.state_normalizer = Normalizer(self.state_normalization, self.state_stats, "state")
        self.action_normalizer = Normalizer(self.action_normalization, self.action_stats, "action")

    def center_tasks(self, instructions: Sequence[str]) -> None:
        """Subtract the mean embedding of a dataset's instructions from now on.

        Instructions of one dataset share most of their words, or with a text model most of their
        direction; what tells them apart is the small rest. Centred, that rest is all there is.

        Args:
            instructions: The data's; 1,000 of them, evenly spread, are looked at.
        """
        distinct = sorted(set(instructions))
        some = distinct[:: max(1, len(distinct) // 1000)]
        self.task_center = self.task_encoder(some).mean(0).tolist() if len(some) > 1 else None

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Tensor | np.ndarray,
        task: list[str],
        state: Tensor | np.ndarray | None = None,
        actions: Tensor | np.ndarray | None = None,
        action_is_pad: Tensor | np.ndarray | None = None,
        frames: Tensor | np.ndarray | None = None,
        frame_states: Tensor | np.ndarray | None = None,
        frame_is_pad: Tensor | np.ndarray | None = None,
        view_mask: Tensor | np.ndarray | None = None,
        state_mask: Tensor | np.ndarray | None = None,
        augment: bool = False,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Prepare one batch; results lie on the device of `images`.

        States, actions and masks are checked where they are. On the CPU that costs a GPU nothing;
        on a GPU it would have to be waited for.

        Args:
            images: Views at time t, `(B, V, C, H, W)`, uint8 or float in [0, 1].
            task: One instruction per sample.
            state: Proprioception `(B, P)` in the robot's units.
            actions: Target chunk `(B, N, A)` in the robot's units.
            action_is_pad: `(B, N)`; padded actions may hold anything and become 0.
            frames: `x_t .. x_{t+N}` for the world model, `(B, N+1, C, H, W)`; returned in the same
                dtype, resized, and never augmented. Of several views, `(B, N+1, V, C, H, W)`, the
                channels are stacked: `(B, N+1, V*C, H, W)`.
            frame_states: Proprioception beside the frames, `(B, N+1, P)`, in the robot's units;
                padded ones may hold anything and become 0.
            frame_is_pad: `(B, N+1)`, handed on.
            view_mask: `(B, V)`, true where a view exists, handed on.
            state_mask: `(B,)`, true where a state exists; others may hold anything and become 0.
            augment: Shift and recolour each view at random (finetuning).
            generator: CPU generator of these draws; PyTorch's global one by default.

        Returns:
            `pixel_values`, `task_embeds`, `task_tokens` `(B, T)` if the processor makes them (-1
            past the end of an instruction), and whichever of `state`, `state_mask`, `actions`,
            `action_is_pad`, `frames`, `frame_states`, `frame_is_pad`, `view_mask` were given.

        Raises:
            ValueError: If a shape, dtype or value is not as described, with what to do about it.
        """
        images = torch.as_tensor(images)
        check_images(images, "images", "BVCHW")
        device, batch_size = images.device, len(images)
        _check_tasks(task, batch_size)
        batch = {
            "pixel_values": self._views(images, augment, generator),
            "task_embeds": self._embed(task),
        }
        if self.task_reader is not None:
            batch["task_tokens"] = self.task_reader(task)
        given = {"view_mask": view_mask, "state_mask": state_mask}
        given |= {"action_is_pad": action_is_pad, "frame_is_pad": frame_is_pad}
        masks = {
            name: torch.as_tensor(mask, dtype=torch.bool)
            for name, mask in given.items()
            if mask is not None
        }
        if state is not None:
            state = torch.as_tensor(state, dtype=torch.float32)
            is_present = masks.get("state_mask")
            is_absent = None if is_present is None else ~is_present.to(state.device)
            batch["state"] = self.state_normalizer.normalize(state, is_absent)
        if frame_states is not None:
            frame_states = torch.as_tensor(frame_states, dtype=torch.float32)
            is_pad = masks.get("frame_is_pad")
            is_pad = None if is_pad is None else is_pad.to(frame_states.device)
            batch["frame_states"] = self.state_normalizer.normalize(frame_states, is_pad)
        if actions is not None:
            actions = torch.as_tensor(actions, dtype=torch.float32)
            is_pad = masks.get("action_is_pad")
            is_pad = None if is_pad is None else is_pad.to(actions.device)
            batch["actions"] = self._normalize_actions(actions, is_pad)
        if frames is not None:
            frames = send(torch.as_tensor(frames), device)
            has_views = frames.ndim == 6
            check_images(frames, "frames", "BNVCHW" if has_views else "BNCHW")
            frames = resize(frames, self.frame_size, "frames")
            batch["frames"] = frames.flatten(2, 3) if has_views else frames
        batch = {name: send(value, device) for name, value in (batch | masks).items()}
        for name, value in batch.items():
            if len(value) != batch_size:
                raise ValueError(
                    f"All inputs must have the batch size of `images`, {batch_size}, got `{name}` "
                    f"of shape {tuple(value.shape)}."
                )
        return batch

    def _embed(self, task: list[str]) -> Tensor:
        embeds = self.task_encoder(task)
        return embeds if self.task_center is None else embeds - torch.tensor(self.task_center)

    def _views(self, images: Tensor, augment: bool, generator: torch.Generator | None) -> Tensor:
        """Resize, augment and standardise views `(B, V, C, H, W)`."""
        views = resize(images, self.image_size, "images")
        if augment:
            shifted = random_shift(
                views.flatten(0, 1), round(self.shift * self.image_size), generator
            )
            views = shifted.view_as(views)
        scale = 1.0 if views.is_floating_point() else 1 / 255
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        if augment and any(strengths):
            flat = views.flatten(0, 1).float().mul_(scale)
            views, scale = colour_jitter(flat, *strengths, generator).view_as(views), 1.0
        mean = constant(self.image_mean, views.device)[:, None, None]
        std = constant(self.image_std, views.device)[:, None, None]
        return (views * (scale / std)).sub_(mean / std)

    def _normalize_actions(self, actions: Tensor, is_pad: Tensor | None) -> Tensor:
        """Normalise `(B, N, A)`; raise if a real action leaves [-1, 1]."""
        normalised = self.action_normalizer.normalize(actions, is_pad)
        excess = normalised.abs().flatten(0, -2).amax(0)  # (A,)
        if (excess > 1 + ACTION_TOLERANCE).any():
            dimension = int(excess.argmax())
            column, raw = normalised[..., dimension].flatten(), actions[..., dimension].flatten()
            worst = int(column.abs().argmax())
            raise ValueError(
                f"Actions must be in [-1, 1] after {self.action_normalization!r} normalisation, "
                f"got {column[worst].item():.4g} in dimension {dimension} (raw value "
                f"{raw[worst].item():.4g}). Use the statistics of this dataset, or 'quantile' "
                "normalisation, which clips."
            )
        return normalised.clamp(-1, 1)

    def unnormalize_actions(self, actions: Tensor) -> Tensor:
        """Turn a policy's actions `(..., A)` in [-1, 1] into the robot's units.

        Raises:
            ValueError: If the processor holds no action statistics and its mode needs them.
        """
        return self.action_normalizer.unnormalize(actions)


def _check_tasks(task: list[str], batch_size: int) -> None:
    if (
        isinstance(task, str)
        or len(task) != batch_size
        or not all(isinstance(t, str) for t in task)
    ):
        raise ValueError(
            f"`task` must be a list of {batch_size} instructions, one per sample, got "
            f"{task!r:.100}."
        )


# The saved file names the class, and `AutoProcessor` then finds it among the registered ones.
AutoProcessor.register(LAWMPolicyConfig, LAWMProcessor, exist_ok=True)
LAWMProcessor.register_for_auto_class()
