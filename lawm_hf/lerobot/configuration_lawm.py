# SPDX-License-Identifier: Apache-2.0
"""Configuration of a LAWM policy as LeRobot knows it: `--policy.type=lawm`.

One `config.json` serves transformers and LeRobot. LeRobot rejects keys that its dataclass does not
declare, so the options of all registered policies are fields here, those of other packages as soon
as they are imported; None stands for the policy's own default.
"""

import functools
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import draccus
from lerobot.configs import NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.optim import AdamWConfig, DiffuserSchedulerConfig
from lerobot.utils.constants import OBS_IMAGES

from ..hub.lerobot_export import drop_remote_code
from ..hub.licences import read_file
from ..models import LAWMPolicyConfig
from ..models.auto_lawm import policy_config
from ..models.configuration_lawm import find_config_class, load_plugins, subclasses
from ..models.loading_lawm import load_config


class _OpenFields(dict):
    """Fields of the dataclass below, and one for each option of the policies known by now.

    `dataclasses.fields` asks here, and with it LeRobot's command line, loading and saving.
    """

    def values(self) -> Any:
        load_plugins()
        missing = sorted(option_names() - self.keys())
        new: Any = make_dataclass("_New", [(name, Any, None) for name in missing])
        self.update(new.__dataclass_fields__)
        return super().values()


def option_names() -> set[str]:
    """Those of the options of all known policies, and what transformers writes beside them."""
    from . import act  # noqa: F401  (registers LeRobot's ACT; `python -m` runs it by itself)

    names = {"model_type", "auto_map", "defined_in"}
    for found in subclasses(LAWMPolicyConfig):
        names |= {f.name for f in fields(found)} | {*found.attribute_map, *found.retired_options}
    return names


@PreTrainedConfig.register_subclass("lawm")
@dataclass(init=False, eq=False)
class LeRobotLAWMConfig(PreTrainedConfig):
    """Options of a policy (`BakuConfig`, `DiffusionPolicyConfig`, …) and of its use in LeRobot.

    Args:
        policy_type: From scratch: a registered `model_type` (`"baku"`, `"diffusion"`,
            `"lerobot:act"`, or that of another package), or a folder or Hub repository.
        policy_preset: From scratch: `"default"` (the paper's sizes) or `"tabletop"`.
        pretrained_latent: Folder or Hub repository of a latent pretraining run to start from, with
            a fresh last action layer.
        views: Names of the cameras in the order in which the policy takes them. The order of
            `input_features` does not last: JSON files are sorted by key.
        resize: How pictures become squares, `"squash"` or `"crop"`, as in `recipes/finetune.py`.
        text_encoder: From scratch: `"hashing"`, or the id of a transformers text model.
        augment: Shift and recolour views in training.
        ema_decay: Highest decay of averaged weights, which are then saved; 0 turns it off. A
            checkpoint also has the weights as they are, with which a resumed run goes on.
        compile_model: `torch.compile` the policy at its first use: in training, and to act. A saved
            policy forgets it, a resumed run does not.
        optimizer_lr: Peak learning rate.
        optimizer_vision_lr: Peak learning rate of the vision encoder.
        optimizer_weight_decay: AdamW's weight decay, on matrices only.
        optimizer_grad_clip_norm: Clip the gradient to this norm.
        scheduler_warmup_steps: Updates of linear warm-up, before a cosine to 0.
    """

    policy_type: str = "baku"
    policy_preset: str = "default"
    pretrained_latent: str | None = None
    views: list[str] | None = None
    resize: Literal["squash", "crop"] = "squash"
    text_encoder: str = "hashing"
    augment: bool = True
    ema_decay: float = 0.0
    compile_model: bool = False
    # All identity: the policy's own processor normalises, in LeRobot as elsewhere.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(
            ("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY
        )
    )
    optimizer_lr: float = 1e-3
    optimizer_vision_lr: float = 3e-3
    optimizer_weight_decay: float = 1e-4
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int = 50
    processor: ClassVar[Any] = None  # the policy's, which holds the statistics of its data

    def __init__(self, **options: Any):
        for f in fields(self):
            default = f.default if f.default_factory is MISSING else f.default_factory()
            setattr(self, f.name, options.pop(f.name, default))
        if options:
            raise TypeError(f"No registered policy has the options {sorted(options)}.")
        if self.pretrained_latent == "":  # or it would silently be a fresh policy
            raise ValueError(
                "`pretrained_latent` must name a run of pretraining, got '': is a variable of the "
                "shell not set? Set it, or leave the flag out."
            )
        super().__post_init__()
        self.adopt(self.to_transformers())

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write LeRobot's file; where PEFT saves an adapter only, the processor, too."""
        super()._save_pretrained(save_directory)
        if self.use_peft and self.processor is not None:
            self.processor.save_pretrained(save_directory)
            drop_remote_code(save_directory)

    def __getattr__(self, name: str) -> Any:
        if name in option_names():  # of a policy that was imported after this was made
            return None
        raise AttributeError(f"`{type(self).__name__}` has no option `{name}`.")

    def to_transformers(self) -> Any:
        """The policy's configuration: a saved one, that of `pretrained_latent`, or a preset."""
        names = option_names() - _LEROBOT_FIELDS - {"model_type"}
        given = {k: getattr(self, k) for k in names if getattr(self, k) is not None}
        if self.model_type is not None:
            package = given.get("defined_in", "")
            return find_config_class(self.model_type, LAWMPolicyConfig, package)(**given)
        if self.pretrained_latent:
            config = load_config(self.pretrained_latent, LAWMPolicyConfig, subfolder="policy")
            return type(config)(**(config.to_dict() | {"latent_norm": "none"} | given))
        return policy_config(self.policy_type, self.policy_preset, **given)

    def adopt(self, config: LAWMPolicyConfig) -> None:
        """Take over the values of a transformers configuration.

        Raises:
            ValueError: If it has an option with a name of LeRobot's: one file serves both.
        """
        if clash := sorted(_LEROBOT_FIELDS & {f.name for f in fields(config)}):
            raise ValueError(
                f"Options of a policy must not be named as LeRobot's, got {clash} in "
                f"`{type(config).__name__}`. Rename them there."
            )
        for key, value in config.to_dict().items():
            if key in option_names():
                setattr(self, key, value)

    @property
    def image_features(self) -> dict[str, PolicyFeature]:
        """LeRobot's, in the order of `views`.

        Raises:
            ValueError: If those are not the cameras.
        """
        features = super().image_features
        if self.views is None:
            return features
        keys = [image_key(view) for view in self.views]
        if set(keys) != set(features):
            raise ValueError(
                f"`views` must name the cameras of `input_features`, got {self.views} and "
                f"{list(features)}. Rename cameras with --rename_map, or change both."
            )
        return {key: features[key] for key in keys}

    def validate_features(self) -> None:
        """Take the sizes of a new policy and the order of its views from the features of the data.

        Raises:
            ValueError: If there is no camera or no action.
        """
        if not self.image_features or self.action_feature is None:
            raise ValueError(
                "A LAWM policy needs at least one camera and `action`, got inputs "
                f"{list(self.input_features or {})} and outputs {list(self.output_features or {})}."
            )
        self.views = [key.removeprefix(f"{OBS_IMAGES}.") for key in self.image_features]
        self.action_size = self.action_feature.shape[0]
        state = self.robot_state_feature
        self.state_size = state.shape[0] if state else 0
        self.num_views = max(self.num_views, len(self.image_features))

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW; the policy's parameter groups bring their own learning rates."""
        return AdamWConfig(
            lr=self.optimizer_lr,
            betas=(0.9, 0.99),
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> DiffuserSchedulerConfig:
        """Linear warm-up and cosine over the whole run."""
        return DiffuserSchedulerConfig(name="cosine", num_warmup_steps=self.scheduler_warmup_steps)

    @property
    def observation_delta_indices(self) -> None:
        """One observation, the current one."""
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        """The chunk that begins now."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards."""
        return None


def image_key(view: str) -> str:
    """LeRobot's name of a view: `front` stands for `observation.images.front`."""
    return view if view.startswith("observation.") else f"{OBS_IMAGES}.{view}"


def _say_what_to_import(read: Any) -> Any:
    """LeRobot's reading of a saved configuration, with a remedy where a package is missing.

    It asks no class of ours before it refuses the options of a policy that nobody has imported.
    """

    def from_pretrained(cls: Any, pretrained_name_or_path: Any, **options: Any) -> Any:
        try:
            return read(cls, pretrained_name_or_path, **options)
        except draccus.ParsingError as error:
            if LeRobotLAWMConfig.__name__ not in str(error):
                raise
            if isinstance(error.__cause__, ValueError):  # ours, which says more
                raise error.__cause__ from None
            package = read_file(str(pretrained_name_or_path), "config.json").get("defined_in")
            raise ValueError(
                "The options of a saved policy must be those of a policy that is known, got: "
                f"{error}. If {package or 'another package'} defines it, let LeRobot import that: "
                f"--my.discover_packages_path={package or 'PACKAGE'}; or install one that names it "
                "as an entry point of the group `lawm_hf`."
            ) from error

    return classmethod(functools.wraps(read)(from_pretrained))


_lerobot: Any = PreTrainedConfig
if not hasattr(_lerobot.from_pretrained, "__wrapped__"):
    _lerobot.from_pretrained = _say_what_to_import(_lerobot.from_pretrained.__func__)
_LEROBOT_FIELDS = {f.name for f in fields(LeRobotLAWMConfig)}
_open: Any = LeRobotLAWMConfig
_open.__dataclass_fields__ = _OpenFields(_open.__dataclass_fields__)
LawmConfig = LeRobotLAWMConfig  # Its former name.
