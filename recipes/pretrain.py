# SPDX-License-Identifier: Apache-2.0
r"""Joint latent-action pretraining of a policy and a world model, on video without action labels.

    accelerate launch recipes/pretrain.py                              # the embedded tabletop
    accelerate launch recipes/pretrain.py recipes/configs/x.yaml --learning_rate 3e-4
    accelerate launch recipes/pretrain.py --objective supervised \
        --sources tabletop:reach,episodes=4000,views=front             # the paper's baseline
    accelerate launch recipes/pretrain.py --objective supervised \
        --sources lerobot:LABELLED,action=latent_action                # after `lawm-hf label`

Writes `policy/`, `world_model/` and `processor/` below `output_dir`, the resumable state in
`step_<n>/`, and at the end `health.json` and `strip.png`: what the latent actions have learned.
"""

from pathlib import Path

import lawm_hf  # noqa: F401  before torch, which reads how threads are to wait

# isort: split

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from lawm_hf.analysis.clips import predicted
from lawm_hf.analysis.health import LatentHealth
from lawm_hf.analysis.report import LatentReport, track, training_sources
from lawm_hf.arguments import Outcome, parse_json_options, run_command
from lawm_hf.commands.pretrain import PretrainArgs
from lawm_hf.data import WindowLoader, WindowSpec, make_loader
from lawm_hf.hub import push_run, write_card
from lawm_hf.models import LAWMProcessor
from lawm_hf.models.auto_lawm import new_objective, new_policy, new_world_model
from lawm_hf.training import (
    check_batch,
    clip_norm,
    freeze_unused,
    load_checkpoint,
    make_accelerator,
    make_optimizer,
    parameter_groups,
    prepare,
    save_checkpoint,
    told_only,
    whole_model,
)
from lawm_hf.training.run_log import ProgressLog, run_summary, write_run_record
from lawm_hf.writing.atomic import unlock_folder

STOPPED = (
    "`stop_on_alarm` stopped the run at update {step}: {alarms} It is saved; go on with --resume "
    "true --stop_on_alarm false, or begin anew with other settings."
)
AGAIN = (
    "The run is saved. Repeat with --resume true once the cause is gone: nothing is trained twice."
)


def build_model(args: PretrainArgs) -> tuple[torch.nn.Module, LAWMProcessor]:
    """Fresh policy and world model (supervised: the policy alone), and their processor."""
    sizes = {"chunk_size": args.chunk_size, "image_size": args.image_size}
    options = parse_json_options(args.policy_config, "policy_config")
    refuse_sizes(options, "policy_config", {name: f"--{name}" for name in sizes})
    latent = args.objective != "supervised"
    policy = new_policy(
        args.policy_type,
        args.policy_preset,
        **({"latent_norm": "batch" if latent else "none"} | sizes | options),
    )
    processor = LAWMProcessor(
        image_size=args.image_size,
        frame_size=args.frame_size,
        text_encoder=args.text_encoder,
        task_embed_size=policy.config.task_embed_size,
        **policy.config.processor_options(),
    )
    if not latent:
        return policy, processor
    options = parse_json_options(args.world_model_config, "world_model_config")
    flags = {"image_size": "--frame_size", "action_size": "`action_size` in --policy_config"}
    refuse_sizes(options, "world_model_config", flags)
    world_model = new_world_model(
        args.world_model_type,
        args.world_model_preset,
        image_size=args.frame_size,
        action_size=policy.config.action_size,
        **options,
    )
    options = parse_json_options(args.objective_config, "objective_config")
    options["cut_gradient"] = args.cut_gradient
    return new_objective(args.objective, policy, world_model, **options), processor


def refuse_sizes(options: dict, flag: str, instead: dict[str, str]) -> None:
    """Refuse options of one model on which others, or the windows of video, depend, too."""
    for name in sorted(instead.keys() & options.keys()):
        raise ValueError(
            f"`{name}` is not for `{flag}`: the windows of video or the other model depend on it, "
            f"too. Give {instead[name]} {options[name]} instead."
        )


def build_loader(
    args: PretrainArgs, model: torch.nn.Module, accelerator: Accelerator
) -> WindowLoader:
    """Windows of video for this process; of actions, or latents that are labels, if supervised."""
    supervised = args.objective == "supervised"
    judged_on = "none" if supervised else args.eval_source
    sources = training_sources(args.sources, judged_on, args.held_out)
    window = WindowSpec(
        chunk_size=args.chunk_size,
        image_size=args.image_size,
        frame_interval_s=args.frame_interval_s or None,
        resize=args.resize,
        image_views=args.policy_views or None,
        with_frames=not supervised,
        **({} if supervised else predicted(model.world_model)),
        with_actions=supervised,
        # Latent actions come from pixels and words, as in the paper: the states of different robots
        # mean different things, and most video has none.
        with_state=supervised and not any(source.chunk_size for source in sources),
        max_start=None if args.max_start < 0 else args.max_start,
    )
    return make_loader(
        sources,
        window,
        weights=args.weights or None,
        batch_size=args.batch_size,
        seed=args.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        accumulation=args.gradient_accumulation_steps,
        num_workers=args.num_workers,
        device=accelerator.device,
    )


def check_size(part: str, model: torch.nn.Module, what: str, loader: WindowLoader) -> None:
    """Refuse actions (or latents that are labels), or states, of another size than the model's.

    Args:
        part: Of the pair, as its flags call it: `policy` or `world_model`.
        model: That part.
        what: `action` or `state`.
        loader: Of the data.
    """
    option = f"{what}_size"
    size, own = getattr(loader.sources[0].features, option), getattr(model.config, option)
    if size != own:
        raise ValueError(
            f"The {part.replace('_', ' ')}'s {what}s must be of the data's size, {size}, got "
            f"{own}. Pass --{part}_config '{{\"{option}\": {size}}}'."
        )


def main(args: PretrainArgs) -> Outcome | None:
    """Train, and show what was learned."""
    accelerator = make_accelerator(args)
    model, processor = build_model(args)
    check_batch(getattr(model, "policy", model), args.batch_size * accelerator.num_processes)
    loader = build_loader(args, model, accelerator)
    processor.center_tasks(loader.instructions())
    latent, report = args.objective != "supervised", None
    if not latent:
        check_size("policy", model, "action", loader)
        processor.set_statistics(loader.stats())
    elif loader.window.with_frame_states:
        check_size("world_model", model.world_model, "state", loader)
        processor.set_statistics({"state": loader.stats()["state"]})
    if latent and args.eval_source != "none" and accelerator.is_main_process:
        where = (args.eval_source, args.sources, loader.window, processor, args.output_dir)
        report = LatentReport(*where, args.held_out)
        accelerator.print(f"Judged on {report.about}.")

    policy = model.policy if latent else model
    vision = dict.fromkeys(policy.vision_parameter_prefixes, args.vision_learning_rate)
    groups, own = parameter_groups(policy, args.learning_rate, args.weight_decay, vision), []
    if latent:
        rate = args.world_model_learning_rate
        groups += parameter_groups(model.world_model, rate, args.weight_decay, {})
        parts = ("policy.", "world_model.")  # an objective may have parameters of its own
        own = parameter_groups(model, args.learning_rate, args.weight_decay, {}, parts)
        groups += own
    sees_state, learns = loader.readers[0].with_state, not (latent and args.cut_gradient)
    all_used = freeze_unused(policy, sees_state=sees_state, learns=learns)
    all_used &= not own and (not latent or model.world_model.uses_all_parameters)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    prepared = prepare(accelerator, model, *make_optimizer(groups, args), all_used=all_used)
    model, optimizer, scheduler = prepared
    accelerator.init_trackers("lawm_pretrain")

    first = load_checkpoint(accelerator, args, loader, optimizer, scheduler)
    if accelerator.is_main_process:
        write_run_record(args, first, loader.sources)
    log = ProgressLog(accelerator, args, first, "pretrain")
    batches = log.throughput.timed(iter(loader))
    model.train()
    for step in range(first + 1, args.steps + 1):
        for _ in range(args.gradient_accumulation_steps):
            raw = next(batches)
            del raw["index"]  # book-keeping
            if args.shuffle_instructions:
                raw["task"] = [raw["task"][i] for i in torch.randperm(len(raw["task"])).tolist()]
            with accelerator.accumulate(model), log.throughput.counting():
                outputs = model(**processor(**raw))
                log.add({"loss": outputs.loss})
                if latent:
                    log.add({"reconstruction": outputs.reconstruction_loss})
                    log.add({"kl": outputs.kl_loss})
                    if outputs.state_loss is not None:
                        log.add({"state": outputs.state_loss})
                accelerator.backward(outputs.loss)
                if accelerator.sync_gradients:
                    log.add(clip(accelerator, model, args))
                optimizer.step()
                if accelerator.sync_gradients:
                    scheduler.step()
                optimizer.zero_grad()
        log.update(step, loader.progress())
        alarms: list[str] = []
        if args.report_every and step % args.report_every == 0 and step < args.steps:
            whole = whole_model(accelerator, model)
            with told_only("The report on the way", "Training goes on."):
                alarms = report.watch(whole, step, accelerator) if report else []
            alarms = broadcast_object_list([alarms])[0] if args.stop_on_alarm else []
        is_due = args.save_every and step % args.save_every == 0 and step < args.steps
        if is_due or alarms:
            log.look()  # so that nothing is saved that is not finite
            save_checkpoint(accelerator, args.output_dir, step, loader)
        if alarms:
            raise RuntimeError(STOPPED.format(step=step, alarms=" ".join(alarms)))
    save_checkpoint(accelerator, args.output_dir, args.steps, loader)
    whole = whole_model(accelerator, model)
    if accelerator.is_main_process:
        save(whole, processor, args)
    with told_only("The record of the run", AGAIN):
        log.close()
    health = show(whole, report, args, accelerator) if accelerator.is_main_process else None
    accelerator.end_training()
    unlock_folder(args.output_dir)
    return outcome(args, health) if accelerator.is_main_process else None


def save(model: torch.nn.Module, processor: LAWMProcessor, args: PretrainArgs) -> None:
    """Write the result."""
    folder = Path(args.output_dir)
    model.save_pretrained(folder / "policy" if args.objective == "supervised" else folder)
    processor.save_pretrained(folder / "processor")


def show(
    model: torch.nn.Module,
    report: LatentReport | None,
    args: PretrainArgs,
    accelerator: Accelerator,
) -> LatentHealth | None:
    """Show what the latents have learned, and share the result if asked to."""
    health = None
    if report is not None:
        with told_only("The health report", AGAIN):
            health = report.health(model, args.steps)
            print(health)  # noqa: T201
            picture = report.strip(model, "strip")
            print(f"See {picture}")  # noqa: T201
            track(accelerator, health.scalars(), picture, args.steps)
    with told_only("The model card", AGAIN):
        write_card(args.output_dir, args.push_to_hub)
    if args.push_to_hub:
        with told_only("The push", AGAIN):
            push_run(Path(args.output_dir), args.push_to_hub)
    return health


def outcome(args: PretrainArgs, health: LatentHealth | None) -> Outcome:
    """What there is now, and what to do with it."""
    following = [["finetune", "--pretrained", args.output_dir]]
    if args.objective != "supervised":
        following.append(["analyze", "--pretrained", args.output_dir])
    if args.objective != "supervised" and not (health and health.parts):  # of one view
        following.append(["play", args.output_dir])
    made = run_summary(args.output_dir)
    if health is not None:
        strip = str(Path(args.output_dir, "strip.png"))
        made |= {"strip": strip, "health": health.scalars(), "alarms": health.alarms()}
    text = f"Pretrained for {args.steps} updates: {args.output_dir}"
    return Outcome(made, text, following)


def clip(accelerator: Accelerator, model, args: PretrainArgs) -> dict[str, torch.Tensor]:
    """Clip policy and world model apart: their gradient norms differ by orders of magnitude."""
    model = accelerator.unwrap_model(model)
    accelerator.unscale_gradients()
    if args.objective == "supervised":
        return {"grad_policy": clip_norm(model.parameters(), args.max_grad_norm)}
    world = model.world_model.parameters()
    rest = (p for name, p in model.named_parameters() if not name.startswith("world_model."))
    return {
        "grad_policy": clip_norm(rest, args.max_grad_norm),
        "grad_world_model": clip_norm(world, args.world_model_max_grad_norm),
    }


if __name__ == "__main__":
    run_command(main, PretrainArgs)
