# SPDX-License-Identifier: Apache-2.0
"""Finetune a policy on labelled demonstrations: from latent pretraining, or from scratch.

    accelerate launch recipes/finetune.py --pretrained outputs/pretrain
    accelerate launch recipes/finetune.py                                  # from scratch
    accelerate launch recipes/finetune.py --source lerobot:DIR --pretrained user/lawm-ssv2

The world model is left behind and the last action layer is re-initialised (paper §III-B).
Writes a folder for `LAWMPolicy.from_pretrained` and `LAWMProcessor.from_pretrained`.
"""

from dataclasses import replace
from pathlib import Path

import lawm_hf  # noqa: F401  before torch, which reads how threads are to wait

# isort: split

from accelerate import Accelerator

from lawm_hf.arguments import Outcome, parse_json_options, run_command
from lawm_hf.commands.finetune import FinetuneArgs
from lawm_hf.data import WindowSpec, make_loader, open_source
from lawm_hf.data.source import Source
from lawm_hf.data.spec import parse_spec
from lawm_hf.evaluation.execution import carry_execution
from lawm_hf.hub import push_run, write_card
from lawm_hf.hub.lerobot_export import export_for_lerobot
from lawm_hf.models import LAWMPolicy, LAWMPolicyConfig, LAWMProcessor
from lawm_hf.models.auto_lawm import is_address, new_policy
from lawm_hf.models.loading_lawm import load_config
from lawm_hf.plugins import import_recorded
from lawm_hf.training import (
    AveragedWeights,
    FocusedLoader,
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
from lawm_hf.training.transfer import copy_frame_encoder, keep_part, transfer_report
from lawm_hf.writing.atomic import unlock_folder

AGAIN = (
    "The run is saved. Repeat with --resume true once the cause is gone: nothing is trained twice."
)
FROM_SCRATCH = ("policy_type", "policy_preset", "policy_config", "text_encoder")
FOCUS_MAX_START = 6  # last frame of an episode where a window of the focus starts


def build_policy(args: FinetuneArgs, source: Source) -> tuple[LAWMPolicy, LAWMProcessor]:
    """The pretrained policy with a fresh last layer, or a fresh policy; and its processor.

    Its sizes are those of the robot that the demonstrations show.

    Raises:
        ValueError: If options of a pretrained and of a fresh policy are mixed.
    """
    if (args.pretrained and args.vision_from) or (not args.pretrained and args.transfer != "all"):
        raise ValueError(
            "`transfer` is for a pretrained policy and `vision_from` for one from scratch, got "
            f"--pretrained {args.pretrained!r}, --transfer {args.transfer!r} and --vision_from "
            f"{args.vision_from!r}. Leave one out."
        )
    robot = source.features
    if not robot.action_size:
        raise ValueError(
            f"Finetuning needs demonstrations with actions, got {source.name} without any. Name "
            "others by --source; video without actions is for pretraining."
        )
    sizes = {"action_size": robot.action_size, "state_size": robot.state_size}
    if len(robot.cameras) > 2:
        sizes["num_views"] = len(robot.cameras)
    if args.pretrained:
        processor = LAWMProcessor.from_pretrained(args.pretrained, subfolder="processor")
        if args.keep_action_head:
            policy = LAWMPolicy.from_pretrained(args.pretrained, subfolder="policy")
            kept = {name: getattr(policy.config, name) for name in sizes}
            if any(size and kept[name] and size != kept[name] for name, size in sizes.items()):
                raise ValueError(
                    "`keep_action_head` needs a robot of the sizes of pretraining, got "
                    f"{sizes} after {kept}. Leave it out: what depends on them then starts afresh."
                )
        else:
            policy = LAWMPolicy.from_latent_pretraining(args.pretrained, **sizes)
        return keep_part(policy, args.transfer), processor
    stem = {"stem": "strided"} if args.vision_from else {}
    options = stem | parse_json_options(args.policy_config, "policy_config")
    policy = new_policy(args.policy_type, args.policy_preset, **(sizes | options))
    # As the world model centres its frames; likewise where the same stem starts at random.
    centred = {"image_mean": (0.5, 0.5, 0.5), "image_std": (1.0, 1.0, 1.0)}
    processor = LAWMProcessor(
        image_size=policy.config.image_size,
        text_encoder=args.text_encoder,
        task_embed_size=policy.config.task_embed_size,
        **(centred if options.get("stem") == "strided" else policy.config.processor_options()),
    )
    if args.vision_from:
        copy_frame_encoder(policy, args.vision_from)
    if is_address(args.policy_type):  # Weights that were trained on what this one made.
        processor = LAWMProcessor.from_pretrained(args.policy_type)
    return policy, processor


def build_loader(
    args: FinetuneArgs,
    source: Source,
    policy: LAWMPolicy,
    processor: LAWMProcessor,
    accelerator: Accelerator,
) -> FocusedLoader:
    """Demonstrations for this process, first frames first; sets the processor's statistics."""
    window = WindowSpec(
        chunk_size=policy.config.chunk_size,
        image_size=policy.config.image_size,
        resize=args.resize,
        views=tuple(args.views) or None,
        with_actions=True,
    )
    full, focus = (
        make_loader(
            source,
            w,
            batch_size=args.batch_size,
            seed=args.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulation=args.gradient_accumulation_steps,
            num_workers=args.num_workers,
            device=accelerator.device,
        )
        for w in (window, replace(window, max_start=FOCUS_MAX_START))
    )
    processor.set_statistics(full.stats())
    processor.center_tasks(full.instructions())
    return FocusedLoader(focus, full, args.focus_steps)


def main(args: FinetuneArgs) -> Outcome | None:
    """Train by behaviour cloning, and save."""
    import_recorded(args.pretrained)
    accelerator = make_accelerator(args)
    for name in FROM_SCRATCH if args.pretrained else ("keep_action_head",):
        if getattr(args, name) != getattr(FinetuneArgs, name):
            how = "with" if args.pretrained else "without"
            accelerator.print(f"`{name}` changes nothing {how} `pretrained`.")
    if args.pretrained:  # A wrong name is told before data are recorded or fetched.
        load_config(args.pretrained, LAWMPolicyConfig, subfolder="policy")
    source = open_source(args.source)
    policy, processor = build_policy(args, source)
    loader = build_loader(args, source, policy, processor, accelerator)
    if args.pretrained:
        accelerator.print(transfer_report(policy, args.pretrained))
    if args.freeze_vision:
        policy.freeze_vision()

    # Higher rates wash out what pretraining has found (docs/experiments.md).
    rates = (5e-4, 3e-4) if args.pretrained else (1e-3, 3e-3)
    given = (args.learning_rate, args.vision_learning_rate)
    rate, vision_rate = (r if g is None else g for r, g in zip(rates, given, strict=True))
    vision = dict.fromkeys(policy.vision_parameter_prefixes, vision_rate)
    groups = parameter_groups(policy, rate, args.weight_decay, vision)
    all_used = freeze_unused(policy, sees_state=bool(source.features.state_size))
    if args.gradient_checkpointing:
        policy.gradient_checkpointing_enable()
    prepared = prepare(accelerator, policy, *make_optimizer(groups, args), all_used=all_used)
    model, optimizer, scheduler = prepared
    ema = None
    if args.ema_decay:
        average = {"decay": args.ema_decay, "use_ema_warmup": True, "power": 0.75}
        ema = AveragedWeights(policy.parameters(), **average)
        accelerator.register_for_checkpointing(ema)
    accelerator.init_trackers("lawm_finetune")

    first = load_checkpoint(accelerator, args, loader, optimizer, scheduler)
    if ema:
        ema.decay = args.ema_decay  # its state brings the one of before
    if accelerator.is_main_process:
        write_run_record(args, first, [source])
    log = ProgressLog(accelerator, args, first, "finetune")
    batches = log.throughput.timed(iter(loader))
    model.train()
    for step in range(first + 1, args.steps + 1):
        for _ in range(args.gradient_accumulation_steps):
            raw = next(batches)
            del raw["index"]  # book-keeping
            with accelerator.accumulate(model), log.throughput.counting():
                outputs = model(**processor(**raw, augment=args.augment))
                log.add({"loss": outputs.loss})
                accelerator.backward(outputs.loss)
                if accelerator.sync_gradients:
                    accelerator.unscale_gradients()
                    norm = clip_norm(model.parameters(), args.max_grad_norm)
                    log.add({"grad_policy": norm})
                optimizer.step()
                if accelerator.sync_gradients:
                    scheduler.step()
                    if ema:
                        ema.step(policy.parameters())
                optimizer.zero_grad()
        log.update(step, loader.progress())
        if args.save_every and step % args.save_every == 0 and step < args.steps:
            log.look()  # so that nothing is saved that is not finite
            save_checkpoint(accelerator, args.output_dir, step, loader)
    save_checkpoint(accelerator, args.output_dir, args.steps, loader)
    if ema:
        ema.copy_to(policy.parameters())
    whole = whole_model(accelerator, model)
    if accelerator.is_main_process:
        carry_execution(args.output_dir, whole.config, is_trained=first < args.steps)
        whole.save_pretrained(args.output_dir)
        processor.save_pretrained(args.output_dir)
    with told_only("The record of the run", AGAIN):
        log.close()
    if accelerator.is_main_process:
        with told_only("The export for LeRobot", AGAIN):
            cameras = args.views or source.features.cameras
            export_for_lerobot(args.output_dir, cameras, args.resize)
        with told_only("The model card", AGAIN):
            write_card(args.output_dir, args.push_to_hub)
        if args.push_to_hub:
            with told_only("The push", AGAIN):
                push_run(Path(args.output_dir), args.push_to_hub)
    accelerator.end_training()
    unlock_folder(args.output_dir)
    return outcome(args) if accelerator.is_main_process else None


def outcome(args: FinetuneArgs) -> Outcome:
    """What there is now, and what to do with it: play it where its demonstrations come from."""
    following = [["push", args.output_dir, "USER/NAME"]]
    scheme, suite, _ = parse_spec(args.source)
    if scheme in ("tabletop", "libero"):
        where = ["--suite", suite or "reach"] if scheme == "tabletop" else ["--env", "libero"]
        following.insert(0, ["evaluate", "--policy", args.output_dir, *where])
    text = f"Finetuned for {args.steps} updates: {args.output_dir}"
    return Outcome(run_summary(args.output_dir), text, following)


if __name__ == "__main__":
    run_command(main, FinetuneArgs)
