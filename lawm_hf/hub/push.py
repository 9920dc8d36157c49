# SPDX-License-Identifier: Apache-2.0
"""Sharing results: a model card filled from the run itself, its results, and the push to the Hub.

The card is written when a run ends. After that it is yours: evaluation adds results between two
marks, a push names the repository in the snippet, and all you have written stays.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard
from transformers import AutoConfig

from ..models import LAWMPolicy, LAWMProcessor
from .card import build_card, diagnostics, num_parameters
from .licences import shareable

logger = logging.getLogger(__name__)
_RESULTS = re.compile(r"(?<=<!-- results -->\n).*?(?=\n<!-- end of results -->)", re.DOTALL)


def write_card(folder: str | Path, repository: str = "") -> ModelCard:
    """Write `README.md` of a pretraining or finetuning run from what the run recorded.

    Args:
        folder: Output of a recipe.
        repository: Where it will live, for the snippet; by default the folder itself, without the
            directories above if they belong to this machine.
    """
    folder = Path(folder)
    args = yaml.safe_load((folder / "args.yaml").read_text())
    record = json.loads((folder / "environment.json").read_text())
    if not repository:
        repository = folder.name if folder.is_absolute() or ".." in folder.parts else str(folder)
    parts = folder / "policy" if (folder / "policy").is_dir() else folder
    policy = LAWMPolicy.from_pretrained(parts)
    world_model = 0
    if (folder / "world_model").is_dir():
        world_model = num_parameters(AutoConfig.from_pretrained(folder / "world_model"))
    processor = folder / "processor" if parts != folder else folder
    text_encoder = LAWMProcessor.from_pretrained(processor).text_encoder
    inputs = json.loads((parts / "config.json").read_text()).get("input_features", {})
    cameras = [key.split(".")[-1] for key, value in inputs.items() if value["type"] == "VISUAL"]
    health = folder / "health.json"
    card = build_card(
        args,
        policy,
        world_model,
        text_encoder,
        record,
        repository,
        cameras=cameras,
        results=diagnostics(json.loads(health.read_text())) if health.exists() else "",
    )
    card.save(folder / "README.md")
    return card


def add_results(
    folder: str | Path,
    summary: dict[str, Any],
    environment: str,
    suite: str,
    settings: dict[str, Any],
) -> None:
    """Add a success rate to the card of a policy; the same evaluation done before is replaced.

    A policy on the Hub or without a card is left alone, and one that must not be written is, too:
    an evaluation does not fail for its card.

    Args:
        folder: With the card, `README.md`.
        summary: Of the metric `success_rate`.
        environment: Which simulator.
        suite: Which of its suites.
        settings: Which episodes, and how chunks were executed.
    """
    path = Path(folder) / "README.md"
    if not path.is_file():
        return
    card = ModelCard.load(path)
    low, high = summary["interval_95"]
    new = EvalResult(
        task_type="robotics",
        dataset_type=environment,
        dataset_name=f"{environment}: {suite}",
        dataset_config=suite,
        metric_type="success_rate",
        metric_value=round(summary["success_rate"], 4),
        metric_name=f"Success rate ({summary['episodes']} episodes, 95 % Wilson interval "
        f"{low:.1%} to {high:.1%})",
        metric_args={
            "episodes": summary["episodes"],
            "interval_95": [round(low, 4), round(high, 4)],
            "settings": json.loads(json.dumps(settings)),
        },
    )
    data: Any = card.data
    rows = [r for r in data.eval_results or [] if _identity(r) != _identity(new)] + [new]
    data.model_name = data.model_name or Path(folder).resolve().name
    data.eval_results = rows
    table = "\n".join(
        [
            "| evaluated on | success | 95 % interval (Wilson) | episodes | settings |",
            "|---|--:|---|--:|---|",
            *(_row(row) for row in rows if row.metric_type == "success_rate"),
        ]
    )
    card.text = _RESULTS.sub(lambda _: table, card.text)
    try:
        card.save(path)
    except OSError as error:
        logger.warning("The result is not on the model card, %s.", error)


def push_run(folder: str | Path, repository: str) -> str:
    """Name the repository in the card and upload models, processor and reports.

    Not the resumable state or logs, and `args.yaml` without the folders of this machine. The
    repository is created private if it does not exist: checkpoints may carry the licence of the
    data behind them.

    Returns:
        Address of the commit.
    """
    path = Path(folder) / "README.md"
    if not path.exists():
        write_card(folder, repository)
    text = path.read_text()
    text = re.sub(r'(?<=\.from_pretrained\(")[^"]*', repository, text)
    old, new = path.resolve().parent.name, repository.split("/")[-1]
    path.write_text(text.replace(f"\n# {old}\n", f"\n# {new}\n", 1))
    api = HfApi()
    api.create_repo(repository, private=True, exist_ok=True)
    args = yaml.safe_load((Path(folder) / "args.yaml").read_text())
    shared = yaml.safe_dump({k: _without_folders(v) for k, v in args.items()}, sort_keys=False)
    api.upload_file(repo_id=repository, path_in_repo="args.yaml", path_or_fileobj=shared.encode())
    commit = api.upload_folder(
        repo_id=repository,
        folder_path=str(folder),
        ignore_patterns=["step_*/**", ".*", "**/events.out.*", "log.jsonl", "args.yaml"],
        commit_message="Upload a lawm_hf run",
    )
    return str(commit)


def _without_folders(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return shareable(value) if isinstance(value, str) else value


def _identity(result: EvalResult) -> tuple[Any, ...]:
    settings = (result.metric_args or {}).get("settings")
    return result.dataset_type, result.dataset_config, result.metric_type, settings


def _row(result: EvalResult) -> str:
    """A line of the table; also for results that were added by hand, as far as they go."""
    args = result.metric_args or {}
    low, high = args.get("interval_95", (None, None))
    interval = "not stated" if low is None else f"{low:.1%} – {high:.1%}"
    settings = ", ".join(f"{k} {v}" for k, v in args.get("settings", {}).items())
    value = result.metric_value
    rate = f"{value:.1%}" if isinstance(value, float) else value
    return (
        f"| {result.dataset_name} | {rate} | {interval} | {args.get('episodes', '')} | {settings} |"
    )
