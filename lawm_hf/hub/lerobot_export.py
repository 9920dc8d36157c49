# SPDX-License-Identifier: Apache-2.0
"""What a finetuned folder needs so that LeRobot's commands load it, too.

Written without LeRobot; a test compares it with what LeRobot itself writes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from .. import hub
from ..models import LAWMPolicy
from ..writing.atomic import read_json, write_text_atomic
from .card import backbone_of, card_metadata, data_licences, licence_list
from .licences import Licence, pretraining_sources
from .push import check_private
from .text import escape, literal

_IDENTITY = dict.fromkeys(("VISUAL", "STATE", "ACTION"), "IDENTITY")


def export_for_lerobot(folder: str | Path, cameras: Sequence[str], resize: str = "squash") -> None:
    """Add the configuration keys and the two pipelines that `--policy.path=FOLDER` looks for.

    The pipelines change nothing: the policy brings its `LAWMProcessor`, which resizes, embeds and
    normalises, so that both libraries use one set of statistics. Their steps are there because
    LeRobot's commands address them by name.

    Args:
        folder: Written by a policy's and a processor's `save_pretrained`.
        cameras: The views in the order of training, which is kept as `views`, since the file is
            sorted by key; `front` stands for `observation.images.front`.
        resize: How pictures became squares in training.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json", dict)
    side = config["image_size"]
    keys = [c if c.startswith("observation.") else f"observation.images.{c}" for c in cameras]
    inputs: dict[str, Any] = {k: {"type": "VISUAL", "shape": [3, side, side]} for k in keys}
    if config["state_size"]:
        inputs["observation.state"] = {"type": "STATE", "shape": [config["state_size"]]}
    outputs = {"action": {"type": "ACTION", "shape": [config["action_size"]]}}
    config |= {
        "type": "lawm",
        "views": [c.removeprefix("observation.images.") for c in cameras],
        "resize": resize,
        "input_features": inputs,
        "output_features": outputs,
        "normalization_mapping": _IDENTITY,
        "push_to_hub": False,
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_text_atomic(folder / "config.json", text)

    normalize = {"eps": 1e-8, "norm_map": _IDENTITY}
    before = [
        _step("rename_observations_processor", rename_map={}),
        _step("to_batch_processor"),
        _step("device_processor", device="cpu", float_dtype=None),
        _step("normalizer_processor", **normalize, features=inputs | outputs),
    ]
    after = [
        _step("unnormalizer_processor", **normalize, features=outputs),
        _step("device_processor", device="cpu", float_dtype=None),
    ]
    for name, steps in (("policy_preprocessor", before), ("policy_postprocessor", after)):
        pipeline = {"name": name, "steps": steps}
        write_text_atomic(folder / f"{name}.json", json.dumps(pipeline, indent=2) + "\n")


def drop_remote_code(folder: str | Path) -> None:
    """Leave out what LeRobot does not upload: Python files, and where configurations name them."""
    for file in Path(folder).glob("*.py"):
        file.unlink()
    for name in ("config.json", "processor_config.json"):
        file = Path(folder) / name
        config = read_json(file, dict)
        config.pop("auto_map", None)
        write_text_atomic(file, json.dumps(config, indent=2, sort_keys=True) + "\n")


def describe_for_lerobot(
    policy: LAWMPolicy, config: Any, dataset: str, stated: str | None
) -> tuple[ModelCardData, str]:
    """What the card that `lerobot-train` writes lacks: metadata, and a section at its end.

    Args:
        policy: Whose type to state.
        config: LeRobot's configuration of it: where it started, and where it goes.
        dataset: Repository of the demonstrations.
        stated: Licence of the demonstrations, if their owner has given one.

    Raises:
        ValueError: If a public repository would get weights that derive from research-only data.
    """
    parent = str(config.pretrained_latent or config.pretrained_path or "")
    args = {"source": f"lerobot:{dataset}", "pretrained": parent}
    record = {"pretraining_sources": pretraining_sources(parent) if parent else None}
    licences = data_licences(args, record, backbone_of(policy))
    if stated:
        licences[args["source"]] = Licence(stated, f"as its owner states, {escape(stated)}")
    if config.private is not False:
        remedy = "with `--policy.private=false`"
        check_private(hub.HfApi(), config.repo_id, licences, remedy)
    data = card_metadata(args, record, policy, licences)
    others: Any = data.datasets or []
    data.datasets = sorted({dataset, *others})
    data.license_link = None  # LeRobot uploads no such file.
    loads = literal(config.repo_id or "me/policy")
    text = f"""
## With lawm_hf

The code is the package `lawm_hf`, which LeRobot finds when it is installed. Without LeRobot:

```python
from lawm_hf import LAWMPolicy, LAWMProcessor

policy = LAWMPolicy.from_pretrained({loads}).eval()
processor = LAWMProcessor.from_pretrained({loads})
```

## Licence of the data

The code is Apache-2.0; what these weights were trained on counts, too:

{licence_list(licences)}
"""
    return data, text


def _step(name: str, **config: Any) -> dict[str, Any]:
    return {"registry_name": name, "config": config}
