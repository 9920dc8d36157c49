# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf play`."""

from dataclasses import dataclass
from pathlib import Path

from ..arguments import CommandArgs, Outcome, arg


@dataclass
class PlayArgs(CommandArgs):
    """A page in the browser: imagine futures, drive the tabletop, look at a run."""

    run: str = arg(
        "", "folder or Hub repository of a run; by default a small one of ours", positional=True
    )
    policy: str = arg("", "with a run of pretraining: the finetuned policy that drives")
    source: str = arg("", "clips to pick from (lawm_hf.data.spec); by default like the run's own")
    host: str = arg("127.0.0.1", "address to listen at; 0.0.0.0: other machines see the page, too")
    port: int | None = arg(None, "port; the first free one from 7860 by default", min=1, max=65535)
    share: bool = arg(False, "also a public address, by way of Gradio's servers")
    space: Path | None = arg(None, "write a folder to upload as a Space, and serve nothing")


def main(args: PlayArgs) -> Outcome | None:
    """Serve the page until it is interrupted, or write a Space."""
    from ..play.run import open_runs

    if args.space is not None:
        from ..play.space import write_space

        folder = write_space(args.space, *open_runs(args.run, args.policy), args.source)
        upload = f"hf upload --repo-type space USER/NAME {folder}"
        return Outcome({"folder": str(folder)}, f"Wrote {folder}. To publish it: {upload}")
    from ..play.page import serve

    serve(args.run, args.policy, args.source, args.host, args.port, share=args.share)
    return None
