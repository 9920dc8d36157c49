# SPDX-License-Identifier: Apache-2.0
"""Options of the vision encoder that the policies share."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_lawm import LAWMPolicyConfig


@strict
class VisionPolicyConfig(LAWMPolicyConfig):
    """A policy that sees through a `FilmVisionEncoder`.

    Args:
        hidden_size: Width of one view's token, and of the policy's other tokens.
        stem: `"resnet"` is ResNet-18's (7x7 stride 2, max-pooling; FiLM-conditioned residual blocks
            with GroupNorm follow), for 128 pixels and more. `"patch"` is one 8x8 convolution with
            stride 4 followed by plain residual 3x3 convolutions: far cheaper, for small
            pictures on a CPU. `"strided"` is two 4x4 convolutions with stride 2 in its place, the
            first two stages of the world model's frame encoder, whose weights it can start from.
        encoder_channels: Channels of each stage; every stage after the first halves the resolution.
            The default is ResNet-18 up to `layer2`, as BAKU cuts it: 128 channels at stride 8.
        encoder_depths: Residual blocks of each stage.
        num_keypoints: Image locations that the instruction asks for, per view.
        task_code_size: Width of the linear code of the instruction that conditions vision.
        backbone_weights: Where a *new* policy takes ImageNet convolutions from: a Hub repository
            or folder with `model.safetensors` ("microsoft/resnet-18", "timm/resnet18.a1_in1k"), or
            "torchvision/ResNet18_Weights.IMAGENET1K_V1". None starts at random and needs no
            network. Never read when a saved policy is loaded. Pictures should then be normalised
            with ImageNet's mean and deviation.
    """

    hidden_size: int = 256
    stem: Literal["resnet", "patch", "strided"] = "resnet"
    encoder_channels: list[int] | tuple[int, ...] = (64, 128)
    encoder_depths: list[int] | tuple[int, ...] = (2, 2)
    num_keypoints: int = 24
    task_code_size: int = 64
    backbone_weights: str | None = None

    def validate_vision(self):
        """Stages are well formed, and only a ResNet can start from ImageNet."""
        if len(self.encoder_channels) != len(self.encoder_depths) or not self.encoder_channels:
            raise ValueError(
                "`encoder_channels` and `encoder_depths` need one entry per stage, got "
                f"{self.encoder_channels} and {self.encoder_depths}."
            )
        for name in ("hidden_size", "num_keypoints", "task_code_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.stem == "resnet" and any(c % 16 for c in self.encoder_channels):
            raise ValueError(
                "`encoder_channels` must be multiples of 16 with the ResNet stem (one group of "
                f"GroupNorm), got {self.encoder_channels}."
            )
        if self.stem == "strided" and self.encoder_channels[0] % 2:
            raise ValueError(
                "The first of `encoder_channels` must be even with the strided stem, whose first "
                f"layer has half of them, got {self.encoder_channels}."
            )
        if self.backbone_weights is not None and self.stem != "resnet":
            raise ValueError(
                f"`backbone_weights` are a ResNet's, got {self.backbone_weights!r} with "
                f'`stem="{self.stem}"`. Set `stem="resnet"` or leave `backbone_weights` out.'
            )
