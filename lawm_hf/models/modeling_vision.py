# SPDX-License-Identifier: Apache-2.0
"""The vision encoder that BAKU and Diffusion Policy share: where is what the instruction names?

BAKU (https://arxiv.org/abs/2406.07539) modulates a ResNet by FiLM and pools with a spatial softmax.
In our measurements such a policy learns to grasp, but not *which* object: with a few hundred
demonstrations nothing makes the unconditional pooling select the named one. Here the
instruction itself asks the question: key point `j` is the soft-argmax of the dot products between
the features and a query that is linear in the instruction, which turns binding words to objects
into learning one vector per word.

Normalisation is by group, never by batch: no statistics drift between pretraining and finetuning or
between training and evaluation, and a batch of one is as good as any. ImageNet convolutions can
be loaded all the same (Diffusion Policy replaces the norms likewise).
"""

from itertools import batched
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_vision import VisionPolicyConfig

TEMPERATURE = 5.0  # Sharpness of the key points; 15 memorised the training set instead.


class Film(nn.Module):
    """Feature-wise linear modulation: `(1 + gamma) x + beta`, both linear in the code."""

    def __init__(self, code_size: int, channels: int):
        super().__init__()
        self.linear = nn.Linear(code_size, 2 * channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Modulate `(B, C, H, W)` by a code `(B, code_size)`."""
        gamma, beta = self.linear(code)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + gamma) + beta


class FilmBlock(GradientCheckpointingLayer):
    """ResNet's basic block with GroupNorm, modulated by FiLM at its end as in BAKU."""

    def __init__(self, in_channels: int, channels: int, stride: int, code_size: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(channels // 16, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(channels // 16, channels)
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                nn.GroupNorm(channels // 16, channels),
            )
        self.film = Film(code_size, channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Transform `(B, C, H, W)` given a code `(B, code_size)`."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))
        return self.film(y, code)


class PlainBlock(GradientCheckpointingLayer):
    """One residual 3x3 convolution; normalising would cost a quarter of a CPU's step."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride, 1)
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Transform `(B, C, H, W)`; the code is for `FilmBlock`."""
        y = F.relu(self.conv(x))
        return x + y if self.is_residual else y


class StridedStem(nn.Sequential):
    """The first two stages of DreamerV3's `FrameEncoder`, under the same names."""

    def __init__(self, channels: int):
        layers, shapes = [], ((3, channels // 2), (channels // 2, channels))
        for shape in shapes:
            conv = nn.Conv2d(*shape, 4, 2, 1, bias=False)
            layers += [conv, nn.LayerNorm(shape[1], eps=1e-3), nn.SiLU()]
        super().__init__(*layers)

    def forward(self, input: Tensor) -> Tensor:
        """Map `(B, 3, H, W)` to `(B, channels, H/4, W/4)`, normalised at each position."""
        x = input
        for conv, norm, activation in batched(self, 3):
            x = activation(norm(conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x


class KeypointPooling(nn.Module):
    """Asks for `num_keypoints` locations, with queries linear in the instruction's code."""

    def __init__(self, code_size: int, channels: int, num_keypoints: int):
        super().__init__()
        self.num_keypoints, self.channels = num_keypoints, channels
        self.query = nn.Linear(code_size, num_keypoints * channels)
        self.output_size = 3 * num_keypoints + channels

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Pool `(B, C, H, W)` to key points `(x, y)`, their certainty, and the mean feature."""
        height, width = x.shape[-2:]
        features = F.layer_norm(x.flatten(2).transpose(1, 2), (self.channels,))  # (B, HW, C)
        query = self.query(code).unflatten(1, (self.num_keypoints, self.channels))
        logits = TEMPERATURE * query @ features.transpose(1, 2)  # (B, num_keypoints, HW)
        weights = logits.softmax(dim=-1).unflatten(2, (height, width))
        # Coordinates in [-2, 2] have about unit variance over a picture.
        rows = torch.linspace(-2, 2, height, device=x.device, dtype=weights.dtype)
        columns = torch.linspace(-2, 2, width, device=x.device, dtype=weights.dtype)
        vertical = weights.sum(3) @ rows  # (B, num_keypoints)
        horizontal = weights.sum(2) @ columns
        certainty = 0.1 * logits.amax(dim=-1)  # 0.1: to the scale of the other outputs
        return torch.cat([horizontal, vertical, certainty, features.mean(1)], dim=1)


class FilmVisionEncoder(nn.Module):
    """One token per view; all views share the weights.

    Args:
        config: `hidden_size`, `task_embed_size` and the options of `VisionPolicyConfig`.
    """

    def __init__(self, config: VisionPolicyConfig):
        super().__init__()
        channels, code_size = config.encoder_channels[0], config.task_code_size
        self.task_code = nn.Linear(config.task_embed_size, code_size, bias=False)
        if config.stem == "resnet":
            self.stem = nn.Sequential(
                nn.Conv2d(3, channels, 7, 2, 3, bias=False),
                nn.GroupNorm(channels // 16, channels),
                nn.ReLU(),
                nn.MaxPool2d(3, 2, 1),
            )
        elif config.stem == "strided":
            self.stem = StridedStem(channels)
        else:
            self.stem = nn.Sequential(nn.Conv2d(3, channels, 8, 4, 2), nn.ReLU())
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(config.encoder_depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                shape = (channels, config.encoder_channels[stage], stride)
                self.blocks.append(
                    FilmBlock(*shape, code_size) if config.stem == "resnet" else PlainBlock(*shape)
                )
                channels = config.encoder_channels[stage]
        self.pooling = KeypointPooling(code_size, channels, config.num_keypoints)
        self.output = nn.Sequential(
            nn.Linear(self.pooling.output_size, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )
        # `from_pretrained` builds on the meta device: it has weights of its own.
        if config.backbone_weights is not None and not self.task_code.weight.is_meta:
            load_backbone(self, config.backbone_weights)

    def forward(self, images: Tensor, task: Tensor) -> Tensor:
        """Encode views.

        Args:
            images: `(B, V, C, H, W)`, normalised to about unit variance.
            task: Instruction embeddings `(B, L)`; only their direction matters.

        Returns:
            `(B, V, hidden_size)`.
        """
        num_views = images.shape[1]
        # Text encoders differ by a factor of ten in the length of their embeddings.
        code = self.task_code(F.normalize(task, dim=-1)).repeat_interleave(num_views, dim=0)
        # Channels last: the layout that convolutions prefer.
        x = self.stem(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x, code)
        return self.output(self.pooling(x, code)).unflatten(0, (-1, num_views))


def init_vision_weights(module: nn.Module) -> None:
    """Initialise a convolution or norm of the vision encoder, for a policy's `_init_weights`.

    Linear layers are the policy's affair.
    """
    if isinstance(module, nn.Conv2d):
        init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)


def load_backbone(encoder: FilmVisionEncoder, source: str) -> None:
    """Copy ImageNet convolutions into the ResNet; see `VisionPolicyConfig.backbone_weights`.

    Libraries name the layers of a ResNet differently, but sorted by name, with the 1x1 shortcuts
    apart, the convolutions come in the order of the computation in all of them.

    Raises:
        ValueError: If the weights are not those of a ResNet with this encoder's shapes.
    """
    if source.startswith("torchvision/"):
        from torchvision.models import get_weight

        weights = get_weight(source.removeprefix("torchvision/")).get_state_dict(check_hash=True)
    elif Path(source).is_dir():
        weights = load_file(Path(source) / "model.safetensors")
    else:
        weights = load_file(hf_hub_download(source, "model.safetensors"))
    theirs = [weights[name] for name in sorted(weights) if weights[name].ndim == 4]
    ours = [m.weight for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    for is_shortcut in (False, True):
        targets = [w for w in ours if (w.shape[-1] == 1) == is_shortcut]
        sources = [w for w in theirs if (w.shape[-1] == 1) == is_shortcut][: len(targets)]
        expected, got = ([tuple(w.shape) for w in ws] for ws in (targets, sources))
        if expected != got:
            raise ValueError(
                f"`backbone_weights` must hold a ResNet with convolutions {expected}, got {got} "
                f"from {source!r}. Choose a ResNet-18 or change `encoder_channels` and "
                "`encoder_depths`."
            )
        for target, weight in zip(targets, sources, strict=True):
            with torch.no_grad():
                target.copy_(weight)
            # What `transformers.initialization` looks at: `post_init` then leaves the weight alone.
            target._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]
