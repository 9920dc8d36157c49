# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf export`."""

from dataclasses import dataclass
from pathlib import Path

from ..arguments import CommandArgs, Outcome, arg


@dataclass
class ExportArgs(CommandArgs):
    """Write a finetuned policy as a file for machines without torch, checked."""

    folder: str = arg(..., "folder or Hub repository of a finetuned policy", positional=True)
    onnx: bool = arg(False, "for onnxruntime; the only format so far, so it must be given")
    out: Path | None = arg(None, "file to write (default: policy.onnx in the folder)")
    tasks: list[str] = arg([], "instructions whose embeddings the file is to carry")


def main(args: ExportArgs) -> Outcome:
    """Write the file."""
    if not args.onnx:
        raise ValueError("`lawm-hf export` needs a format. Add `--onnx`, the only one.")
    from ..hub.onnx_export import export_onnx
    from ..plugins import import_recorded

    import_recorded(args.folder)
    path = export_onnx(args.folder, args.out, args.tasks)
    return Outcome({"file": str(path)}, f"onnxruntime agrees with torch; wrote {path}.")
