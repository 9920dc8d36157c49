# SPDX-License-Identifier: Apache-2.0
"""Sharing results: a card filled from the run itself, and the push to the Hub."""

import json
from pathlib import Path

import yaml
from huggingface_hub import HfApi, ModelCard, ModelCardData

from .models import LAWMPolicy

# In a wheel the template lies beside this file; in a checkout, where the reader looks for it.
_TEMPLATES = (
    Path(__file__).with_name("model_card_template.md"),
    Path(__file__).parent.parent / "model_cards" / "template.md",
)
_SSV2_NOTE = (
    "Something-Something v2 is licensed for research use only and may not be redistributed; "
    "weights trained on it should not be used commercially."
)


def write_card(folder: str | Path, repository: str) -> ModelCard:
    """Write `README.md` of a pretraining or finetuning run from what the run recorded.

    Args:
        folder: Output of a recipe.
        repository: Where it will live, for the snippet.
    """
    folder = Path(folder)
    args = yaml.safe_load((folder / "args.yaml").read_text())
    versions = json.loads((folder / "environment.json").read_text())["versions"]
    is_pretraining = (folder / "policy").is_dir()
    policy = LAWMPolicy.from_pretrained(folder / "policy" if is_pretraining else folder)
    sources = args.get("sources") or [args["source"]]
    has_world_model = (folder / "world_model").is_dir()
    health = folder / "health.json"
    card = ModelCard.from_template(
        ModelCardData(
            library_name="lawm_hf", pipeline_tag="robotics", license="other", tags=["lawm"]
        ),
        template_path=str(next(path for path in _TEMPLATES if path.exists())),
        title=repository.split("/")[-1],
        summary=(
            "A policy pretrained on video; its outputs are latent actions, so finetune it first."
            if is_pretraining
            else f"A policy finetuned from {args['pretrained'] or 'scratch'}."
        ),
        policy_class=type(policy).__name__,
        policy_parameters=f"{policy.num_parameters():,}",
        world_model=args["world_model_preset"] if has_world_model else "none",
        sources=", ".join(f"`{source}`" for source in sources),
        steps=args["steps"],
        batch_size=args["batch_size"] * args["gradient_accumulation_steps"],
        seed=args["seed"],
        versions=", ".join(f"{k} {v}" for k, v in versions.items() if v),
        hardware="not measured",
        repository=repository,
        policy_subfolder=', subfolder="policy"' if is_pretraining else "",
        processor_subfolder=', subfolder="processor"' if is_pretraining else "",
        results=f"```json\n{health.read_text()}\n```" if health.exists() else "Not measured.",
        data_licence=_SSV2_NOTE
        if any("ssv2" in source for source in sources)
        else "See the licence of each source.",
    )
    card.save(folder / "README.md")
    return card


def push_run(folder: str | Path, repository: str) -> str:
    """Write the card and upload models, processor and reports; not the resumable state or logs.

    The repository is created private if it does not exist: checkpoints may carry the licence of
    the data behind them.

    Returns:
        Address of the commit.
    """
    write_card(folder, repository)
    api = HfApi()
    api.create_repo(repository, private=True, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository,
        folder_path=str(folder),
        ignore_patterns=["step_*/**", ".*", "**/events.out.*", "log.jsonl"],
        commit_message="Upload a lawm_hf run",
    )
    return str(commit)
