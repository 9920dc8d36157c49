# SPDX-License-Identifier: Apache-2.0
"""The command `lawm-hf`: the recipes and the tools, each imported when it is named."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .arguments import CommandArgs, TaskArgs, arg, one_screen, run_command


@dataclass
class InspectArgs(CommandArgs):
    """What a source holds, and a contact sheet."""

    spec: str = arg(..., "scheme:location[,key=value...], see lawm_hf.data.spec", positional=True)
    sheet: str = arg("contact_sheet.png", "PNG to write")


@dataclass
class ConvertArgs(TaskArgs):
    """Rewrite a set for training."""

    kind: str = arg(..., "scheme of its spec: ssv2, bridge, lerobot, ...", positional=True)
    src: str = arg(..., "location[,key=value...] as in a spec", positional=True)
    out: Path = arg(..., "folder to write")
    format: str | None = arg(
        None, "by default shards for videos, else lerobot", choices=("shards", "lerobot")
    )
    image_size: int | None = arg(None, "re-encode to squares of this (even) side", min=2)
    resize: str = arg("squash", "how they become squares", choices=("squash", "crop"))
    fps: float | None = arg(
        None, "frames per second of the result, at each time the nearest frame", above=0
    )
    clips_per_part: int | None = arg(None, "clips in a shard or mp4", min=1)
    tasks: int = arg(os.cpu_count() or 1, "parts at a time: processes, jobs of Slurm or Ray", min=1)
    num_workers: int | None = arg(None, "the former name of --tasks; 0: one", min=0)
    push_to: str = arg("", "USER/NAME on the Hub: upload as a private dataset")
    public: bool = arg(False, "with push_to: not private, if the licence of the data allows it")

    def __post_init__(self):
        if self.num_workers is not None:
            self.tasks = max(1, self.num_workers)


@dataclass
class RecordArgs(CommandArgs):
    """Demonstrations of LIBERO's scripted expert, as a LeRobot dataset; resumable."""

    out: Path = arg(..., "folder of the dataset")
    suite: str = arg("libero_object", "the expert knows libero_object")
    task_ids: list[int] = arg([0, 1], "tasks of the suite", min=0)
    episodes: int = arg(25, "successes of each task", min=1)
    first_init_state: int = arg(20, "the ones below it are kept for evaluation", min=0)
    image_size: int = arg(128, "side of the pictures, in pixels", min=8)
    noise: float = arg(0.2, "largest noise on executed actions", min=0)
    fast_rendering: bool = arg(False, "thinner meshes: evaluate with them, too")


@dataclass
class ExportArgs(CommandArgs):
    """A finetuned policy as a file for machines without torch; checked before it is written."""

    folder: str = arg(..., "folder or Hub repository of a finetuned policy", positional=True)
    onnx: bool = arg(False, "for onnxruntime; the only format so far, so it must be given")
    out: Path | None = arg(None, "file to write (default: policy.onnx in the folder)")
    tasks: list[str] = arg([], "instructions whose embeddings the file is to carry")


@dataclass
class PushArgs(CommandArgs):
    """Upload a run: models, card and reports, to a repository that is private unless it exists."""

    folder: Path = arg(..., "output of a recipe", positional=True)
    repository: str = arg(..., "USER/NAME on the Hub", positional=True)
    revision: str | None = arg(None, "branch; the main one by default")
    create_pr: bool = arg(False, "open a pull request instead")
    tag: str = arg("", "tag for the commit")
    allow_public: bool = arg(False, "even if a licence of the data forbids publishing")


@dataclass
class DoctorArgs(CommandArgs):
    """Check the LIBERO set-up, and a policy for it."""

    policy: str | None = arg(None, "folder or Hub repository of a finetuned policy")
    fast_rendering: bool = arg(False, "as in record and evaluate")


# The simulators are optional: what they need is imported when a command runs.


def _record(args: RecordArgs) -> None:
    from .envs.libero.recorder import record_libero

    options = asdict(args)
    del options["import_"], options["out"]
    record_libero(args.out, tasks=options.pop("task_ids"), **options)
    print(f"Wrote {args.out}.")  # noqa: T201


def _doctor(args: DoctorArgs) -> None:
    try:
        from .evaluation.libero_doctor import run_doctor
    except ModuleNotFoundError as error:
        remedy = "Install the simulator: `pip install 'lawm_hf[sim,libero]'`, or in a clone "
        remedy += "`uv pip install -e '.[sim,libero]'`."
        print(f"FAIL  installation: {error}. {remedy}")  # noqa: T201
        raise SystemExit(1) from error
    raise SystemExit(run_doctor(args.policy, args.fast_rendering))


def _export(args: ExportArgs) -> None:
    if not args.onnx:
        raise ValueError("`lawm-hf export` needs a format. Add `--onnx`, the only one.")
    from .hub.onnx_export import export_onnx
    from .plugins import import_recorded

    import_recorded(args.folder)
    path = export_onnx(args.folder, args.out, args.tasks)
    print(f"onnxruntime agrees with torch; wrote {path}.")  # noqa: T201


def _push(args: PushArgs) -> None:
    from .hub import push_run

    options = asdict(args)
    del options["import_"]
    print(push_run(**options))  # noqa: T201


def _inspect(args: InspectArgs) -> None:
    from .data.commands import run_inspect

    run_inspect(args)


def _convert(args: ConvertArgs) -> None:
    from .data.commands import run_convert
    from .hub.data_set import check_publication, describe_set, push_set

    spec = f"{args.kind}:{args.src}"
    if args.push_to:
        check_publication(spec, args.push_to, args.public)
    run_convert(args)
    describe_set(args.out, spec)
    if args.push_to:
        push_set(args.out, args.push_to, private=not args.public)


_RECIPES = {
    "pretrain": "latent-action pretraining on video",
    "finetune": "train a policy on demonstrations",
    "evaluate": "success rate in simulation",
    "analyze": "what latent actions have learned",
    "experiment": "a grid of the three, with its report",
}
_COMMANDS: dict[str, tuple[Callable[[Any], None], type[CommandArgs]]] = {
    "data inspect": (_inspect, InspectArgs),
    "convert": (_convert, ConvertArgs),
    "libero record": (_record, RecordArgs),
    "export": (_export, ExportArgs),
    "push": (_push, PushArgs),
    "doctor": (_doctor, DoctorArgs),
}


def main() -> None:
    """Run what the command line names."""
    argv = sys.argv[1:]
    names = [*_RECIPES, *_COMMANDS]
    name = next((n for n in names if argv[: len(n.split())] == n.split()), "")
    if not name:
        _help(argv, names)
    rest = argv[len(name.split()) :]
    sys.argv = [f"lawm-hf {name}", *rest]  # What usage lines show.
    if name in _COMMANDS:
        return run_command(*_COMMANDS[name], rest)
    with one_screen([*rest]):  # A missing package, too.
        recipe = importlib.import_module(f"{__package__}.recipes.{name}")
    return run_command(recipe.main, getattr(recipe, f"{name.capitalize()}Args"), rest)


def _help(argv: list[str], names: list[str]) -> None:
    about = _RECIPES | {name: cls.__doc__ or "" for name, (_, cls) in _COMMANDS.items()}
    lines = [f"  {name:<15}{about[name]}" for name in names]
    told = ["usage: lawm-hf COMMAND [config.yaml] [--flag value ...]", "", *lines, ""]
    told.append("`lawm-hf COMMAND --help` lists its flags.")
    if not argv or argv[0] in ("-h", "--help") or argv[-1] in ("-h", "--help"):
        print("\n".join(told))  # noqa: T201
        raise SystemExit(0 if argv else 2)
    close = difflib.get_close_matches(" ".join(argv[:2]), names, n=1)
    close = close or difflib.get_close_matches(argv[0], names, n=1)
    hint = f"Did you mean `{close[0]}`?" if close else f"There are: {', '.join(names)}."
    print(f"error: no command {' '.join(argv[:2])!r}. {hint}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)


if __name__ == "__main__":
    main()
