# SPDX-License-Identifier: Apache-2.0
"""The model card of a run, on disk: written from what the run recorded, and its results.

It is written when a run ends. After that it is yours: evaluation adds results between two marks, a
push names the repository in the snippet, and all you have written stays.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoModel

from ..models import LAWMPolicy, LAWMProcessor
from ..models.configuration_lawm import LAWMWorldModelConfig
from ..models.loading_lawm import load_config
from ..writing.atomic import is_hub_copy, read_json, set_aside, write_text_atomic
from ..writing.text import get_logger
from ..writing.yaml_file import read_yaml
from .card import (
    LICENCE_FILE,
    backbone_of,
    build_card,
    data_licences,
    diagnostics,
    licence_list,
)
from .text import code, escape, literal, plain

logger = get_logger(__name__)

# What this package has written on a card, and may write again.
_RESULTS = re.compile(r"(?<=<!-- results -->\n).*?(?=\n<!-- end of results -->)", re.DOTALL)
_FRONT = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)
_SNIPPET = re.compile(r"(?<=\n## Use\n)(?:(?!\n## ).)*?\n```python\n.*?\n```\n", re.DOTALL)
_STRING = r""" "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' """
_LOADS = re.compile(
    rf"^((?:policy\ =\ LAWMPolicy|processor\ =\ LAWMProcessor)\.from_pretrained\()({_STRING})",
    re.MULTILINE | re.VERBOSE,
)


def write_card(folder: str | Path, repository: str = "") -> ModelCard:
    """Write `README.md` of a pretraining or finetuning run from what the run recorded.

    A card that is there already, perhaps edited by its owner, is kept as `README.1.md` and so on.

    Args:
        folder: Output of a recipe.
        repository: Where it will live, for the snippet; by default the folder itself, without the
            directories above if they belong to this machine.
    """
    folder = Path(folder)
    args, record = run_files(folder)
    if not repository:
        is_shareable = not folder.is_absolute() and ".." not in folder.parts
        repository = folder.as_posix() if is_shareable else folder.name
    parts = folder / "policy" if (folder / "policy").is_dir() else folder
    processor = folder / "processor" if parts != folder else folder
    saved = read_json(parts / "config.json", dict)  # `views`: the features are sorted by name.
    cameras = saved.get("views") or list(saved.get("input_features", {}))
    world_model = None
    if (folder / "world_model").is_dir():
        with torch.device("meta"):  # Sizes without weights.
            config = load_config(folder / "world_model", LAWMWorldModelConfig)
            world_model = AutoModel.from_config(config)
    health, learned = folder / "health.json", folder / "execution.json"
    results = diagnostics(read_json(health, dict)) if health.exists() else ""
    if learned.exists():
        results = _execution(read_json(learned, dict))
    policy = LAWMPolicy.from_pretrained(parts)
    try:
        card = build_card(
            args,
            policy,
            world_model,
            LAWMProcessor.from_pretrained(processor).text_encoder,
            record,
            repository,
            cameras=[k.split(".")[-1] for k in cameras if k != "observation.state"],
            results=results,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"args.yaml and environment.json of {folder} must be what a recipe has written, got "
            f"others ({error!r}). Restore them, or write README.md yourself."
        ) from error
    _write(folder / "README.md", str(card), keep=True)
    data: Any = card.data
    if data.license == "other":
        licences = licence_list(data_licences(args, record, backbone_of(policy)))
        text = f"The code is Apache-2.0. What the weights were trained on:\n\n{licences}\n"
        _write(folder / LICENCE_FILE, text, keep=True)
    return card


def add_results(
    folder: str | Path,
    summary: dict[str, Any],
    environment: str,
    suite: str,
    settings: dict[str, Any],
) -> None:
    """Add a success rate to the card of a policy; the same evaluation done before is replaced.

    A policy on the Hub, in its cache or without a card is left alone, and so is a card that is
    damaged or must not be written: an evaluation does not fail for it.

    Args:
        folder: With the card, `README.md`.
        summary: Of the metric `success_rate`.
        environment: Which simulator.
        suite: Which of its suites.
        settings: Which episodes, and how chunks were executed.

    Raises:
        ValueError: If nothing was played.
    """
    if summary["episodes"] < 1:
        raise ValueError(
            f"A result on a card needs at least one episode, got {summary['episodes']}. Play some; "
            "the card stays as it was."
        )
    path = Path(folder) / "README.md"
    if not path.is_file() or is_hub_copy(folder):
        return
    low, high = summary["interval_95"]
    result = EvalResult(
        task_type="robotics",
        dataset_type=plain(environment),
        dataset_name=plain(f"{environment}: {suite}"),
        dataset_config=plain(suite),
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
    try:
        text = path.read_text(encoding="utf-8")
        name = (_repository(text) or Path(folder).resolve().name).split("/")[-1]
        _write(path, _with_result(text, result, plain(name)))
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        logger.warning("The result is not on the model card %s: %s", path, error)


def rename_card(path: Path, repository: str) -> None:
    """Make snippet, title and results name the repository; the rest is its owner's.

    Raises:
        ValueError: If the metadata are damaged: the Hub would refuse them, too.
    """
    card = path.read_text(encoding="utf-8")
    old, new = _repository(card).split("/")[-1], repository.split("/")[-1]
    card = _SNIPPET.sub(
        lambda found: _LOADS.sub(lambda loads: loads[1] + literal(repository), found[0]), card, 1
    )
    if old:
        card = card.replace(f"\n# {escape(old)}\n", f"\n# {escape(new)}\n", 1)
        front = _FRONT.match(card)
        try:
            data: Any = ModelCard(front[0]).data if front else None
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(
                f"{path} must begin with YAML between two lines of ---, got: {error}. Fix it, or "
                "move it away to have a new one written. Nothing was uploaded."
            ) from error
        if front and data.model_name == old:
            name = yaml.safe_dump({"name": new}).strip()
            index = re.sub(r"(?<=^model-index:\n- )name: .*", name, front[0], count=1, flags=re.M)
            card = index + card[front.end() :]
    _write(path, card)


def run_files(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and record of a run.

    Raises:
        FileNotFoundError: If the folder is not a run's.
        ValueError: If its arguments do not say what the weights have seen.
    """
    if not (folder / "args.yaml").is_file():
        raise FileNotFoundError(
            f"{folder} must be the output of a recipe, got no args.yaml there. Give the run's "
            "`output_dir`."
        )
    args = read_yaml(folder / "args.yaml")
    data = args.get("sources") or [args.get("source")]
    if not (isinstance(data, list) and all(isinstance(spec, str) for spec in data)):
        raise ValueError(
            f"{folder / 'args.yaml'} must say which data the weights have seen, as text in "
            f"`sources` or `source`, got {data!r:.100}. Their licence depends on it: restore it."
        )
    return args, read_json(folder / "environment.json", dict)


def saved_backbone(folder: Path) -> str:
    """`backbone_of` the policy of a run, without building it."""
    policy = folder / "policy" if (folder / "policy").is_dir() else folder
    return read_json(policy / "config.json", dict).get("backbone") or ""


def _write(path: Path, text: str, keep: bool = False) -> None:
    """Replace a file at once; `keep` gives what was there another name."""
    if keep and path.exists() and path.read_bytes() != text.encode():
        set_aside(path)
    write_text_atomic(path, text)


def _execution(record: dict[str, Any]) -> str:
    """How chunks are executed, until an evaluation says it with its rate."""
    how, where = f"{record['aggregation']}, {record['n_action_steps']}", record.get("suite")
    return (
        f"Chunks are executed by {code(how)} (aggregation, n_action_steps), learned on "
        f"{len(record['states'])} states of {code(where or record['env'])}.\n\n"
        "Success: not measured."
    )


def _repository(card: str) -> str:
    """What the snippet of a card loads, if it is still there."""
    found = _SNIPPET.search(card)
    loads = _LOADS.search(found[0]) if found else None
    try:
        return ast.literal_eval(loads[2]) if loads else ""
    except (SyntaxError, ValueError):  # edited to something else
        return ""


def _with_result(card: str, result: EvalResult, name: str) -> str:
    """A card with one more result, in its metadata and in the table between the two marks."""
    data: Any = ModelCard(card).data
    rows = [r for r in data.eval_results or [] if _identity(r) != _identity(result)] + [result]
    index = ModelCardData(model_name=data.model_name or name, eval_results=rows).to_yaml() + "\n"
    front = _FRONT.match(card)
    before = re.sub(r"^model-index:\n([ -].*\n)*", "", front[1], flags=re.M) if front else ""
    table = "\n".join(
        [
            "| evaluated on | success | 95 % interval (Wilson) | episodes | settings |",
            "|---|--:|---|--:|---|",
            *(_row(row) for row in rows if row.metric_type == "success_rate"),
        ]
    )
    body = _RESULTS.sub(lambda _: table, card[front.end() :] if front else card)
    return f"---\n{before}{index}---\n{body}"


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
    cells = (result.dataset_name, rate, interval, args.get("episodes", ""), settings)
    return f"| {' | '.join(map(escape, cells))} |"
