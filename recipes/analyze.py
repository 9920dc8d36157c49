# SPDX-License-Identifier: Apache-2.0
"""What the latent actions of a pretraining run have learned, in tables and pictures.

    python recipes/analyze.py --pretrained outputs/pretrain
    python recipes/analyze.py --pretrained outputs/pretrain --source bridge:DIR,episodes=:800

The source is video that was not trained on, with true actions or without; clips are one window from
the beginning of each episode. Writes `analysis.json`, `report.md` and its pictures below
`output_dir`, and prints the report.
"""

import json
from pathlib import Path

from tqdm import tqdm

from lawm_hf.analysis import (
    imagination_strip,
    latent_study,
    later_steps,
    neighbour_gallery,
    study_markdown,
    traversal_figures,
)
from lawm_hf.analysis.clips import predicted
from lawm_hf.analysis.prediction import latents_of
from lawm_hf.analysis.report import report_clips
from lawm_hf.arguments import Outcome, run_command
from lawm_hf.commands.analyze import AnalyzeArgs
from lawm_hf.data import WindowSpec
from lawm_hf.models import LAWMForPretraining, LAWMProcessor
from lawm_hf.plugins import import_recorded
from lawm_hf.writing.yaml_file import read_yaml


def main(args: AnalyzeArgs) -> Outcome:
    """Load the run, look at it, write down what was seen."""
    folder, output = Path(args.pretrained), Path(args.output_dir)
    if not (folder / "world_model").is_dir():
        raise FileNotFoundError(
            f"`pretrained` must be the folder of a finished latent pretraining run, with policy/, "
            f"world_model/ and processor/ in it, got {str(folder)!r}. Pass the `output_dir` of "
            "recipes/pretrain.py; a supervised run has no world model."
        )
    if (output / "args.yaml").exists():  # Their pictures have the same names.
        raise ValueError(
            f"`output_dir` must not be the folder of a run, got {str(output)!r}. Choose another."
        )
    import_recorded(folder)
    run = read_yaml(folder / "args.yaml")
    model = LAWMForPretraining.from_pretrained(folder)
    policy, world_model = model.policy, model.world_model
    processor = LAWMProcessor.from_pretrained(folder / "processor")
    window = WindowSpec(
        chunk_size=run["chunk_size"],
        image_size=run["image_size"],
        frame_interval_s=run["frame_interval_s"] or None,
        resize=run["resize"],
        image_views=run.get("policy_views") or None,
        with_frames=True,
        with_state=False,
        **predicted(world_model),
    )
    held_out, fit, is_held_out = report_clips(
        args.source,
        run["sources"],
        window,
        processor,
        later_steps(window.chunk_size),
        run.get("held_out", 0.0),  # older runs held none out
    )
    output.mkdir(parents=True, exist_ok=True)
    with tqdm(total=4, desc="analysis") as bar:
        study = latent_study(policy, world_model, held_out, fit, args.seed)
        study.health.is_held_out = is_held_out
        bar.update()
        strip, seed = output / "strip.png", args.seed
        imagination_strip(policy, world_model, held_out, strip, seed=seed)
        bar.update()
        latents = latents_of(policy, held_out).numpy()
        gallery = neighbour_gallery(held_out, latents, output / "neighbours.png")
        bar.update()
        traversal, sweep = traversal_figures(world_model, held_out, latents, output)
        bar.update()
    pictures = {
        "Imagined under own and other latents": strip,
        "Clips with similar latents (Fig. 7 of the paper)": gallery,
        "Along the widest directions of the latents": traversal,
        "The same, swept": sweep,
    }
    source = args.source if args.source != "auto" else f"auto, for {run['sources'][0]}"
    heading = (
        f"`{folder}` ({run['steps']} updates), judged on {len(held_out)} clips of `{source}`"
        f"{f', probes fitted on {len(fit)} others' if fit else ''}."
    )
    if not is_held_out:
        heading += " **These are training clips**: no others are known. Pass `--source`."
    report = study_markdown(study, heading, pictures)
    record = {"pretrained": str(folder), "source": source, "is_held_out": is_held_out}
    record |= study.to_dict()
    (output / "analysis.json").write_text(json.dumps(record, indent=2))
    (output / "report.md").write_text(report)
    files = {"output_dir": str(output), "report": str(output / "report.md")}
    following = [["finetune", "--pretrained", folder]]
    return Outcome(files | record, f"{report}\nAnalysed: {output / 'report.md'}", following)


if __name__ == "__main__":
    run_command(main, AnalyzeArgs)
