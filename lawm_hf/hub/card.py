# SPDX-License-Identifier: Apache-2.0
"""The text of a model card, from a run's arguments and record; nothing in it is made up.

What was not measured says so. No folder of the machine gets into it.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from ..models import LAWMPolicy
from ..writing.lerobot import LATENT_COLUMN
from .licences import (
    UNKNOWN,
    Licence,
    hub_id,
    label_sources,
    licence,
    licence_fields,
    parents,
    read_file,
    shareable,
)
from .text import cell, code, escape, literal, plain

# In a wheel the template lies beside this file; in a checkout, where the reader looks for it.
_TEMPLATES = (
    Path(__file__).with_name("model_card_template.md"),
    Path(__file__).parents[2] / "model_cards" / "template.md",
)
_NOT_MEASURED = "not measured"
LICENCE_FILE = "LICENSE.md"


def build_card(
    args: dict[str, Any],
    policy: LAWMPolicy,
    world_model: PreTrainedModel | None,
    text_encoder: str,
    record: dict[str, Any],
    repository: str,
    cameras: Sequence[str] = (),
    results: str = "",
) -> ModelCard:
    """A card from the template.

    Args:
        args: Of the recipe.
        policy: Whose class and sizes to state; its weights do not matter.
        world_model: Likewise, if there was one.
        text_encoder: Of the processor.
        record: `environment.json` of the run; empty if it was not run.
        repository: For the snippet.
        cameras: Views that the policy was trained with, if known.
        results: What is known by now, in Markdown; by default, that nothing was measured.
    """
    is_pretraining = "sources" in args
    is_latent = is_pretraining and args["objective"] != "supervised"
    sources = args.get("sources") or [args["source"]]
    licences = data_licences(args, record, backbone_of(policy))
    is_tabletop = all(spec.startswith("tabletop") for spec in sources)
    preset = "" if "/" in args.get("world_model_type", "") else args.get("world_model_preset", "")
    inherited = _codes(record.get("pretraining_sources") or []) or "not known"
    rows = {
        "policy": _model(policy),
        "world model": _model(world_model, preset) if world_model else "none",
        "instructions": "hashed words, no parameters"
        if text_encoder == "hashing"
        else f"{code(shareable(text_encoder))}, frozen, not among the parameters",
        "data": _codes(sources),
        **({"pretrained on": f"{inherited} ({_codes(parents(args))})"} if parents(args) else {}),
        "updates × batch": f"{args['steps']:,} × {_batch_size(args, record)}",
        "seed": escape(args["seed"]),
        **_cost(record),
    }
    card = ModelCard.from_template(
        card_metadata(args, record, policy, licences),
        template_path=str(next(path for path in _TEMPLATES if path.exists())),
        title=escape(repository.rstrip("/").split("/")[-1]),
        summary=_summary(args, bool(record)),
        rows={name: cell(value) for name, value in rows.items()},
        is_trained=bool(record),
        repository=literal(repository),
        policy_subfolder=', subfolder="policy"' if is_pretraining else "",
        processor_subfolder=', subfolder="processor"' if is_pretraining else "",
        is_latent=is_latent,
        task="go to the red cube" if is_tabletop else "pick up the cup",
        **_inputs(policy, cameras, is_latent),
        results=results or f"Success: {_NOT_MEASURED}.",
        data_licence=licence_list(licences),
        limits=_limits(is_latent, is_tabletop),
    )
    card.text += "\n"
    return card


def data_licences(
    args: dict[str, Any], record: dict[str, Any], backbone: str = ""
) -> dict[str, Licence]:
    """Licence of each source, by its shareable spec; those of the pretraining data included.

    And of the vision-language model that a policy has started from, which nobody here knows.
    """
    sources = args.get("sources") or [args["source"]]
    licences = {shareable(spec): licence(spec) for spec in sources}
    if backbone:
        licences[f"the backbone {shareable(backbone)}"] = UNKNOWN
    for seen in itertools.chain(*map(label_sources, sources)):  # by whoever labelled them
        licences.setdefault(seen, licence(seen))
    if inherited := record.get("pretraining_sources"):
        return licences | {spec: licence(spec) for spec in inherited}
    for parent in map(shareable, parents(args)):
        # The name of a model says little: the worst of it is believed.
        found = licence(parent)
        found = UNKNOWN if found.allows_public_weights else found
        licences[f"what {parent} was pretrained on"] = found
    return licences


def backbone_of(policy: LAWMPolicy) -> str:
    """Id or folder of the vision-language model in a policy, if there is one."""
    return getattr(policy.config, "backbone", "")


def licence_list(licences: dict[str, Licence]) -> str:
    """In Markdown, a line for each source."""
    return "\n".join(f"- {code(spec)}: {found.text}." for spec, found in licences.items())


def card_metadata(
    args: dict[str, Any], record: dict[str, Any], policy: LAWMPolicy, licences: dict[str, Licence]
) -> ModelCardData:
    """What the Hub filters and links by: licence, datasets, base model, tags."""
    is_pretraining = "sources" in args
    specs = [*(args.get("sources") or [args["source"]]), *(record.get("pretraining_sources") or [])]
    bases = [
        # Of a folder, the name under which it was pushed when it was trained, if it was.
        hub_id(parent) or hub_id(str(read_file(parent, "args.yaml").get("push_to_hub", "")))
        for parent in parents(args)
    ]
    bases.append(hub_id(backbone_of(policy)))
    data = ModelCardData(
        library_name="lawm_hf",
        pipeline_tag="robotics",
        tags=[
            *("lawm", "latent-actions" if is_pretraining else "imitation-learning"),
            *("lerobot", "robotics", policy.config.model_type.removeprefix("lawm_")),
        ],
        base_model=next(filter(None, bases), None),
        datasets=sorted({found for spec in specs if (found := hub_id(spec))}) or None,
        **licence_fields(licences.values()),
    )
    if data.license == "other":
        data.license_link = LICENCE_FILE
    return data


def diagnostics(health: dict[str, Any]) -> str:
    """What a pretraining run has found out about its latents (`health.json`), as a table."""
    trained, untrained = (
        health.get("probes", {}).get(name, {}) for name in ("trained", "untrained")
    )
    rows = {
        "squared error per imagined frame, own latents": health.get("imagined_error"),
        "the same, another clip's latents": health.get("imagined_error_swapped"),
        "the same, a copy of the first frame": health.get("copy_error"),
        f"effective rank of the latents, of {escape(health.get('latent_size'))}": health.get(
            "effective_rank"
        ),
        "R² of the target's position, linear probe": trained.get("target_r2"),
        "the same, untrained policy": untrained.get("target_r2"),
    }
    kind = "held-out clips" if health.get("is_held_out") else "clips of the training data"
    lines = [f"| on {escape(health.get('num_clips'))} {kind} | |", "|---|--:|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in rows.items() if value is not None]
    alarms = "".join(f"\n- Alarm: {escape(alarm)}" for alarm in health.get("alarms", []))
    note = f"\n\nOne run, no intervals. Success on a task: {_NOT_MEASURED}; finetune it first."
    return "\n".join(lines) + ("\n" + alarms if alarms else "") + note


def _summary(args: dict[str, Any], is_trained: bool) -> str:
    if "sources" not in args:
        return f"A robot policy finetuned on demonstrations, {_origin(args)}."
    if args["objective"] != "supervised":
        kind = "A policy pretrained on video without action labels, jointly with a world model. "
        kind += "Its outputs are latent actions, so finetune it first."
    elif any(f"action={LATENT_COLUMN}" in spec.split(",") for spec in args["sources"]):
        kind = "A policy pretrained on another one's latent actions as labels (`lawm-hf label`). "
        kind += "Its outputs are latents, so finetune it first."
    else:
        kind = "A policy pretrained on labelled actions, the paper's supervised baseline."
    return kind if is_trained else f"**Planned; no checkpoint is published yet.** {kind}"


def _inputs(policy: LAWMPolicy, cameras: Sequence[str], is_latent: bool) -> dict[str, Any]:
    """What the snippet feeds in; latent pretraining sees one view and no state."""
    config = policy.config
    has_state = config.state_size and not is_latent
    return {
        "num_views": len(cameras) or (1 if is_latent else config.num_views),
        "cameras": f"views: {plain(', '.join(cameras))}" if cameras else "(batch, views, C, H, W)",
        "image_size": config.image_size,
        "state": f", state=torch.zeros(1, {config.state_size})" if has_state else "",
        "chunk_shape": f"(1, {config.chunk_size}, {config.action_size})",
    }


def _model(model: PreTrainedModel, preset: str = "") -> str:
    """Its true name, type and size."""
    kind = code(model.config.model_type) + (f", preset {code(preset)}" if preset else "")
    if backbone := getattr(model.config, "backbone", ""):
        kind += f", backbone {code(shareable(backbone))}"
    return f"{escape(type(model).__name__)} ({kind}), {model.num_parameters():,} parameters"


def _origin(args: dict[str, Any]) -> str:
    base = _codes(parents(args))
    if args.get("vision_from"):
        return f"from scratch, with the frame encoder of {base}"
    if args.get("pretrained"):
        return f"from the latent pretraining {base}"
    return f"from the weights of {base}" if base else "from scratch"


def _codes(specs: list[str]) -> str:
    return ", ".join(code(shareable(spec)) for spec in specs)


def _batch_size(args: dict[str, Any], record: dict[str, Any]) -> int:
    processes = record.get("hardware", {}).get("num_processes", 1)
    return args["batch_size"] * args["gradient_accumulation_steps"] * processes


def _cost(record: dict[str, Any]) -> dict[str, str]:
    """Lines about hardware, time, energy and software."""
    versions = ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items() if v)
    hardware = time = energy = _NOT_MEASURED
    if machine := record.get("hardware"):
        gpu = f"{machine['num_processes']} × {machine['gpu']}; " if machine["gpu"] else ""
        hardware = f"{gpu}{machine['cpu']}, {machine['cpu_cores']} cores"
        wall, cpu = record["wall_seconds"], record["cpu_seconds"]
        time = f"{wall:,.0f} s on the clock, {cpu:,.0f} CPU seconds"
        kwh, method = record["energy"]["kwh"], record["energy"]["method"]
        energy += f": {method}"
        if kwh is not None:
            energy = f"{1000 * kwh:.3g} Wh ({method})"
    rows = {
        "hardware": hardware,
        "time of the training loop": time,
        "energy, an estimate": energy,
        "software": versions or "not recorded",
    }
    return {name: escape(value) for name, value in rows.items()}


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
