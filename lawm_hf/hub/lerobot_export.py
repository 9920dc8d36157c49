# SPDX-License-Identifier: Apache-2.0
"""What a finetuned folder needs so that LeRobot's commands load it, too.

Written without LeRobot; a test compares it with what LeRobot itself writes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_IDENTITY = dict.fromkeys(("VISUAL", "STATE", "ACTION"), "IDENTITY")


def export_for_lerobot(folder: str | Path, cameras: Sequence[str]) -> None:
    """Add the configuration keys and the two pipelines that `--policy.path=FOLDER` looks for.

    The pipelines change nothing: the policy brings its `LAWMProcessor`, which resizes, embeds and
    normalises, so that both libraries use one set of statistics. Their steps are there because
    LeRobot's commands address them by name.

    Args:
        folder: Written by a policy's and a processor's `save_pretrained`.
        cameras: The views in the order of training; `front` stands for `observation.images.front`.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    side = config["image_size"]
    keys = [c if c.startswith("observation.") else f"observation.images.{c}" for c in cameras]
    inputs: dict[str, Any] = {k: {"type": "VISUAL", "shape": [3, side, side]} for k in keys}
    if config["state_size"]:
        inputs["observation.state"] = {"type": "STATE", "shape": [config["state_size"]]}
    outputs = {"action": {"type": "ACTION", "shape": [config["action_size"]]}}
    config |= {
        "type": "lawm",
        "input_features": inputs,
        "output_features": outputs,
        "normalization_mapping": _IDENTITY,
        "push_to_hub": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

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
        (folder / f"{name}.json").write_text(json.dumps(pipeline, indent=2) + "\n")


def _step(name: str, **config: Any) -> dict[str, Any]:
    return {"registry_name": name, "config": config}
