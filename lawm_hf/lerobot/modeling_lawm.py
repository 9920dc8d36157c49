# SPDX-License-Identifier: Apache-2.0
"""A LAWM policy as LeRobot drives it: `lerobot-train`, `lerobot-eval`, `lerobot-rollout`.

A thin shell: inside are the transformers policy and its `LAWMProcessor`. The folder it saves is the
one that `LAWMPolicy.from_pretrained` loads, and the other way round.
"""

import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, Self

import draccus
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor
from torch._dynamo import maybe_mark_dynamic

from ..data.images import fitted_size
from ..data.source import Resize
from ..evaluation.rollout import ChunkAggregator
from ..hub.lerobot_export import describe_for_lerobot, drop_remote_code
from ..models import LAWMPolicy, LAWMProcessor
from ..training.optimizer import parameter_groups
from ..writing.atomic import read_json, write_text_atomic
from ..writing.text import get_logger
from .adapters import default_targets, find_processor
from .averages import AveragedPolicy, resume
from .configuration_lawm import LeRobotLAWMConfig, option_names
from .start import check_sizes, new_policy

logger = get_logger(__name__)
_HUB_KEYS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


def _not_compiled[**P, R](call: Callable[P, R]) -> Callable[P, R]:
    """For what reads words: where a rollout compiles it, the network alone is."""
    return torch.compiler.disable(call)  # pyright: ignore[reportReturnType]


class LeRobotLAWMPolicy(PreTrainedPolicy):
    """See `lerobot.policies.PreTrainedPolicy`.

    Args:
        config: The configuration; new policies take their sizes from its features.
        dataset_stats: Statistics of the data to train on; they replace those of a checkpoint.
        dataset_meta: Its metadata: the instructions, whose mean embedding is subtracted.
        lawm: The policy of a checkpoint; None for a new one.
        processor: Its processor.
    """

    config_class = LeRobotLAWMConfig  # pyright: ignore[reportAssignmentType]
    name = "lawm"  # pyright: ignore[reportAssignmentType]
    config: Any

    def __init__(
        self,
        config: LeRobotLAWMConfig,
        dataset_stats: dict[str, dict[str, Any]] | None = None,
        dataset_meta: Any = None,
        lawm: LAWMPolicy | None = None,
        processor: LAWMProcessor | None = None,
        **_: Any,
    ):
        super().__init__(config)
        if lawm is None or processor is None:
            config.validate_features()
            lawm, processor = new_policy(config)
        self.lawm: Any = lawm
        self.processor = processor
        config.adopt(self.lawm.config)
        if dataset_stats:
            named = {"state": dataset_stats.get(OBS_STATE), "actions": dataset_stats.get(ACTION)}
            processor.set_statistics({k: v for k, v in named.items() if v is not None})
        if dataset_meta is not None:
            processor.center_tasks([str(task) for task in dataset_meta.tasks.index])
        self._average: AveragedPolicy | None = None
        self._num_weights = sum(p.numel() for p in self.lawm.parameters())
        vars(config)["processor"] = processor  # saved beside it where PEFT saves no policy
        if config.compile_model:
            logger.info("The first update and the first action compile: minutes on a busy CPU.")
            self.lawm.compile()  # `forward`, in place: names of weights stay
            self.lawm.compile_acting()
        self.reset()

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: Any = None,
        dataset_stats: Any = None,
        dataset_meta: Any = None,
        strict: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a folder or Hub repository, whichever library has saved it.

        Raises:
            ValueError: If weights are missing or left over, no processor with statistics is there,
                or the robot has other sizes.
        """
        del strict  # always
        path, hub = str(pretrained_name_or_path), {k: kwargs[k] for k in _HUB_KEYS if k in kwargs}
        if config is None:
            config = PreTrainedConfig.from_pretrained(path, **hub)
        check_sizes(config, dataset_meta, path)
        lawm = LAWMPolicy.from_pretrained(path, config=config.to_transformers(), **hub)
        processor = find_processor(config, path, hub)
        if not processor.action_stats:
            raise ValueError(
                f"{path!r} must hold the statistics of its actions, and its processor has none. "
                "Pass the folder of a finetuned policy; a pretraining run goes to "
                "--policy.pretrained_latent."
            )
        policy = cls(config, dataset_stats, dataset_meta, lawm, processor)
        policy.to(config.device).eval()
        policy._average = resume(policy.lawm, path, config.ema_decay)
        return policy

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Write what transformers writes, and LeRobot's own keys into the same `config.json`."""
        if state_dict is not None:
            state_dict = {k.removeprefix("lawm."): v for k, v in state_dict.items()}
        if self._average is not None:
            weights = state_dict or self.lawm.state_dict()
            state_dict = self._average.save(self.lawm, weights, save_directory)
        self.lawm.save_pretrained(save_directory, state_dict=state_dict)
        self.processor.save_pretrained(save_directory)
        file = save_directory / "config.json"
        ours = draccus.encode(self.config, PreTrainedConfig)
        ours = {k: v for k, v in ours.items() if k not in option_names()}  # some are another's
        ours["compile_model"] = False  # what acts may have no compiler, and could not say so
        merged = ours | read_json(file, dict)
        write_text_atomic(file, json.dumps(merged, indent=2, sort_keys=True) + "\n")
        drop_remote_code(save_directory)

    def generate_model_card(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, dataset_repo_id: str, model_type: str, license: Any, tags: Any, **kwargs: Any
    ) -> ModelCard:
        """LeRobot's card, with the licence of all data behind the weights and the base model."""
        ours, text = describe_for_lerobot(self.lawm, self.config, dataset_repo_id, license)
        tags = [*(tags or []), *(ours.tags or [])]
        card = super().generate_model_card(
            dataset_repo_id, model_type, ours.license, tags, **kwargs
        )
        for name in ("license_name", "base_model", "datasets"):
            setattr(card.data, name, getattr(ours, name))
        card.text += text
        return card

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """See `lawm_hf.lerobot.adapters`."""
        return default_targets(self.lawm, "lawm.")

    def _validate_peft_config(self, peft_config: Any) -> None:
        """As LeRobot does; and averaged weights are none of an adapter's.

        Raises:
            ValueError: If there is no saved policy to adapt, or weights are to be averaged.
        """
        super()._validate_peft_config(peft_config)
        if self.config.ema_decay:
            raise ValueError(
                "Adapters are saved as they are: `ema_decay` must be 0 with PEFT, got "
                f"{self.config.ema_decay}. Pass --policy.ema_decay=0."
            )

    def get_optim_params(self) -> Any:
        """Groups: the vision encoder learns at a rate of its own; no decay on vectors."""
        c = self.config
        prefixes: tuple[str, ...] = self.lawm.vision_parameter_prefixes
        vision: dict[str, Any] = dict.fromkeys(prefixes, c.optimizer_vision_lr)
        return parameter_groups(self.lawm, c.optimizer_lr, c.optimizer_weight_decay, vision)

    def update(self) -> None:
        """After each update of the optimiser: average the weights, if asked to.

        Raises:
            ValueError: If this process has a part of them only.
        """
        if not self.config.ema_decay:
            return
        if self._num_weights != sum(p.numel() for p in self.lawm.parameters()):
            raise ValueError(
                "Averaged weights need whole weights in each process, got shards (FSDP), whose "
                "averages LeRobot does not gather to save them. Pass --policy.ema_decay=0, train "
                "with DDP, or take recipes/finetune.py, which averages shards, too."
            )
        if self._average is None:
            self._average = AveragedPolicy(self.lawm, self.config.ema_decay)
        self._average.step(self.lawm)

    def reset(self) -> None:
        """A new episode begins."""
        self._aggregator = ChunkAggregator(self.config.aggregation, self.config.n_action_steps)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, batch: dict[str, Any], reduction: str = "mean"
    ) -> tuple[Tensor, dict[str, float]]:
        """Behaviour-cloning loss; `reduction="none"` gives that of each sample, `(B,)`."""
        inputs = self.processor(
            **self._observation(batch),
            actions=batch[ACTION],
            action_is_pad=batch.get("action_is_pad"),
            augment=self.training and self.config.augment,
        )
        if self.config.compile_model:
            for value in inputs.values():
                maybe_mark_dynamic(value, 0)  # else an epoch's last batch would compile again
        outputs = self.lawm(**inputs)
        if reduction == "none":
            keep = (~batch["action_is_pad"]).float()
            return (outputs.action_loss * keep).sum(1) / keep.sum(1).clamp(min=1), {}
        return outputs.loss, {}

    @_not_compiled
    @torch.no_grad()
    def predict_action_chunk(
        self, batch: dict[str, Any], noise: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Chunk in the robot's units, `(B, N, A)`, float32, on the device of the policy.

        Args:
            batch: Observations of LeRobot.
            noise: Where a policy that samples starts, `(B, N, A)`; others have no use for it.

        Raises:
            ValueError: If `noise` has another shape, or a number is not finite: no robot gets it.
        """
        self.eval()
        observation = self.processor(**self._observation(batch))
        if noise is not None and "noise" in signature(self.lawm.predict_action_chunk).parameters:
            observation["noise"] = self._checked(noise, len(observation["pixel_values"]))
        chunk = self.lawm.predict_action_chunk(**observation)
        chunk = self.processor.unnormalize_actions(chunk.float())
        if not chunk.isfinite().all():
            raise ValueError(
                "Actions must be finite, got NaN or infinity from the policy. Take an earlier "
                "checkpoint, or compute in float32."
            )
        return chunk

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **options: Any) -> Tensor:
        """The next action, `(B, A)`: aggregated over the chunks that reach it.

        Args:
            batch: Observations of LeRobot.
            **options: `noise`, where a chunk that is due starts.
        """
        if self._aggregator.needs_chunk:
            self._aggregator.add(self.predict_action_chunk(batch, **options).cpu().numpy())
        action = torch.from_numpy(self._aggregator.next_action())
        return action.float().to(self.lawm.device)

    def _checked(self, noise: Tensor, batch_size: int) -> Tensor:
        shape = (batch_size, self.lawm.config.chunk_size, self.lawm.config.action_size)
        if noise.shape != shape:
            raise ValueError(
                f"`noise` must have the shape of the chunks, {shape}, got {tuple(noise.shape)}. "
                "Draw it with `torch.randn`."
            )
        return noise.to(self.lawm.device, torch.float32)

    def _observation(self, batch: dict[str, Any]) -> dict[str, Any]:
        """LeRobot's batch as the processor wants it."""
        keys = list(self.config.image_features)
        needed = [*keys, *([OBS_STATE] if self.lawm.config.state_size else []), "task"]
        missing = [k for k in needed if k not in batch]
        if missing:
            raise ValueError(
                f"This policy needs {needed}, got no {missing} among {sorted(batch)}. "
                "Rename with --rename_map, or give --task."
            )
        odd = {key: batch[key].shape for key in keys if batch[key].shape[-3:-2] != (3,)}
        if odd:
            raise ValueError(f"Pictures must be RGB, shape (B, 3, H, W), got {odd}. Convert them.")
        size, resize = self.lawm.config.image_size, self.config.resize
        views = [_scaled(batch[key], size, resize) for key in keys]
        images, task = torch.stack(views, 1), batch["task"]
        task = [task] * len(images) if isinstance(task, str) else list(task)
        observation = {"images": images, "task": task}
        if self.lawm.config.state_size:
            observation["state"] = batch[OBS_STATE]
        return observation


def _scaled(images: Tensor, size: int, resize: Resize) -> Tensor:
    """`(B, C, H, W)` to squares, filtered as the frames that our loader reads, smaller ones too."""
    width, height = fitted_size(images.shape[-1], images.shape[-2], size, resize)
    if images.shape[-2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    top, left = (height - size) // 2, (width - size) // 2
    return images[..., top : top + size, left : left + size]


LawmPolicy = LeRobotLAWMPolicy  # Its former name.
