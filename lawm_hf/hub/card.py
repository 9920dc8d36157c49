# SPDX-License-Identifier: Apache-2.0
"""The text of a model card, from a run's arguments and record; nothing in it is made up.

What was not measured says so. No folder of the machine gets into it.
"""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoModel, PreTrainedConfig

from ..models import LAWMPolicy
from .licences import Licence, licence, shareable

# In a wheel the template lies beside this file; in a checkout, where the reader looks for it.
_TEMPLATES = (
    Path(__file__).with_name("model_card_template.md"),
    Path(__file__).parents[2] / "model_cards" / "template.md",
)
_NOT_MEASURED = "not measured"


def num_parameters(config: PreTrainedConfig) -> int:
    """Parameters of the model of a configuration, without making one."""
    with torch.device("meta"):
        return AutoModel.from_config(config).num_parameters()


def build_card(
    args: dict[str, Any],
    policy: LAWMPolicy,
    world_model_parameters: int,
    text_encoder: str,
    record: dict[str, Any],
    repository: str,
    cameras: list[str] | None = None,
    results: str = "",
) -> ModelCard:
    """A card from the template.

    Args:
        args: Of the recipe.
        policy: Whose sizes to state; its weights do not matter.
        world_model_parameters: 0 without a world model.
        text_encoder: Of the processor.
        record: `environment.json` of the run; empty if it was not run.
        repository: For the snippet.
        cameras: Views that the policy was trained with, if known.
        results: What is known by now; by default, that nothing was measured.
    """
    is_pretraining = "sources" in args
    is_latent = is_pretraining and args["objective"] == "latent"
    sources = args.get("sources") or [args["source"]]
    licences = data_licences(args, record)
    is_tabletop = all(spec.startswith("tabletop") for spec in sources)
    card = ModelCard.from_template(
        _metadata(list(licences.values()), is_pretraining),
        template_path=str(next(path for path in _TEMPLATES if path.exists())),
        title=repository.rstrip("/").split("/")[-1],
        summary=_summary(args, bool(record)),
        policy_class=type(policy).__name__,
        policy_parameters=f"{policy.num_parameters():,}",
        text_encoder="hashed words, no parameters"
        if text_encoder == "hashing"
        else f"`{shareable(text_encoder)}`, frozen, not among the parameters",
        world_model=_world_model(args, world_model_parameters),
        sources=_code(sources),
        pretraining=_pretraining(args, record),
        steps=f"{args['steps']:,}",
        batch_size=_batch_size(args, record),
        seed=args["seed"],
        **_cost(record),
        is_trained=bool(record),
        repository=repository,
        policy_subfolder=', subfolder="policy"' if is_pretraining else "",
        processor_subfolder=', subfolder="processor"' if is_pretraining else "",
        is_latent=is_latent,
        task="go to the red cube" if is_tabletop else "pick up the cup",
        **_inputs(policy, cameras or [], is_latent),
        results=results or f"Success: {_NOT_MEASURED}.",
        data_licence="\n".join(f"- `{spec}`: {found.text}." for spec, found in licences.items()),
        limits=_limits(is_latent, is_tabletop),
    )
    card.text += "\n"
    return card


def data_licences(args: dict[str, Any], record: dict[str, Any]) -> dict[str, Licence]:
    """Licence of each source, by its shareable spec; those of the pretraining data included."""
    sources = args.get("sources") or [args["source"]]
    licences = {shareable(spec): licence(spec) for spec in sources}
    if parent := _parent(args):
        for spec in record.get("pretraining_sources") or [f"what {parent} was pretrained on"]:
            licences[spec] = licence(spec)
    return licences


def diagnostics(health: dict[str, Any]) -> str:
    """What a pretraining run has found out about its latents (`health.json`), as a table."""
    trained, untrained = (
        health.get("probes", {}).get(name, {}) for name in ("trained", "untrained")
    )
    rows = {
        "squared error per imagined frame, own latents": health.get("imagined_error"),
        "the same, another clip's latents": health.get("imagined_error_swapped"),
        "the same, a copy of the first frame": health.get("copy_error"),
        f"effective rank of the latents, of {health.get('latent_size')}": health.get(
            "effective_rank"
        ),
        "R² of the target's position, linear probe": trained.get("target_r2"),
        "the same, untrained policy": untrained.get("target_r2"),
    }
    kind = "held-out clips" if health.get("is_held_out") else "clips of the training data"
    lines = [f"| on {health.get('num_clips')} {kind} | |", "|---|--:|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in rows.items() if value is not None]
    alarms = "".join(f"\n- Alarm: {alarm}" for alarm in health.get("alarms", []))
    note = f"\n\nOne run, no intervals. Success on a task: {_NOT_MEASURED}; finetune it first."
    return "\n".join(lines) + ("\n" + alarms if alarms else "") + note


def _metadata(licences: list[Licence], is_pretraining: bool) -> ModelCardData:
    names = sorted({found.name for found in licences})
    data = ModelCardData(
        library_name="lawm_hf",
        pipeline_tag="robotics",
        license="apache-2.0" if names == ["apache-2.0"] else "other",
        tags=["lawm", "latent-actions" if is_pretraining else "imitation-learning"],
    )
    if data.license == "other":
        data.license_name = "data-" + "-and-".join(n for n in names if n != "apache-2.0")
        data.license_link = "README.md#licence-of-the-data"
    return data


def _parent(args: dict[str, Any]) -> str:
    """The pretraining run whose weights went into this one, or nothing."""
    return shareable(args.get("pretrained") or args.get("vision_from") or "")


def _summary(args: dict[str, Any], is_trained: bool) -> str:
    if "sources" not in args:
        return f"A robot policy finetuned on demonstrations, {_origin(args)}."
    kind = (
        "A policy pretrained on video without action labels, jointly with a world model. Its "
        "outputs are latent actions, so finetune it first."
        if args["objective"] == "latent"
        else "A policy pretrained on labelled actions, the paper's supervised baseline."
    )
    return kind if is_trained else f"**Planned; no checkpoint is published yet.** {kind}"


def _inputs(policy: LAWMPolicy, cameras: list[str], is_latent: bool) -> dict[str, Any]:
    """What the snippet feeds in; latent pretraining sees one view and no state."""
    config = policy.config
    has_state = config.state_size and not is_latent
    return {
        "num_views": len(cameras) or (1 if is_latent else config.num_views),
        "cameras": f"views: {', '.join(cameras)}" if cameras else "(batch, views, C, H, W)",
        "image_size": config.image_size,
        "state": f", state=torch.zeros(1, {config.state_size})" if has_state else "",
        "chunk_shape": f"(1, {config.chunk_size}, {config.action_size})",
    }


def _world_model(args: dict[str, Any], parameters: int) -> str:
    if not parameters:
        return "none"
    return f"DreamerV3 `{args['world_model_preset']}`, {parameters:,} parameters"


def _origin(args: dict[str, Any]) -> str:
    if args.get("pretrained"):
        return f"from the latent pretraining `{_parent(args)}`"
    if args.get("vision_from"):
        return f"from scratch, with the frame encoder of `{_parent(args)}`"
    return "from scratch"


def _pretraining(args: dict[str, Any], record: dict[str, Any]) -> str:
    if not _parent(args):
        return ""
    sources = record.get("pretraining_sources")
    return f"{_code(sources) if sources else 'not known'} (`{_parent(args)}`)"


def _code(specs: list[str]) -> str:
    return ", ".join(f"`{shareable(spec)}`" for spec in specs)


def _batch_size(args: dict[str, Any], record: dict[str, Any]) -> int:
    processes = record.get("hardware", {}).get("num_processes", 1)
    return args["batch_size"] * args["gradient_accumulation_steps"] * processes


def _cost(record: dict[str, Any]) -> dict[str, str]:
    """Lines about hardware, time, energy and software."""
    versions = ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items() if v)
    cost = dict.fromkeys(("hardware", "time", "energy"), _NOT_MEASURED)
    if machine := record.get("hardware"):
        parts = [f"{machine['cpu']}, {machine['cpu_cores']} cores"]
        if machine["gpu"]:
            parts.insert(0, f"{machine['num_processes']} × {machine['gpu']}")
        wall, cpu = record["wall_seconds"], record["cpu_seconds"]
        energy = record["energy"]
        cost["hardware"] = "; ".join(parts)
        cost["time"] = f"{wall:,.0f} s on the clock, {cpu:,.0f} CPU seconds"
        known = energy["kwh"] is not None
        cost["energy"] = (
            f"{_NOT_MEASURED}: {energy['method']}"
            if not known
            else f"{1000 * energy['kwh']:.3g} Wh ({energy['method']})"
        )
    return cost | {"versions": versions or "not recorded"}


def _limits(is_latent: bool, is_tabletop: bool) -> list[str]:
    limits = []
    if is_latent:
        limits.append("Its outputs mean nothing to a robot before finetuning.")
    if is_tabletop:
        limits.append(
            "The tabletop is a toy of primitives with a scripted expert: what holds there need not "
            "hold on a robot."
        )
    return [
        *limits,
        "It knows the instructions, cameras and robot of its data; others were not tried.",
        "Nobody has checked it on a robot. Clip actions, limit the speed of a first run, and keep "
        "a hand on the stop button.",
    ]
