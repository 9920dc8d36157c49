# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf push`."""

from dataclasses import asdict, dataclass
from pathlib import Path

from ..arguments import CommandArgs, Outcome, arg


@dataclass
class PushArgs(CommandArgs):
    """Upload a run, with its card, to a Hub repository that is private unless it exists."""

    folder: Path = arg(..., "output of a recipe", positional=True)
    repository: str = arg(..., "USER/NAME on the Hub", positional=True)
    revision: str | None = arg(None, "branch; the main one by default")
    create_pr: bool = arg(False, "open a pull request instead")
    tag: str = arg("", "tag for the commit")
    collection: str = arg("", "add it to this collection of yours, a title; private if new")
    allow_public: bool = arg(False, "even if a licence of the data forbids publishing")


def main(args: PushArgs) -> Outcome:
    """Upload; the address of the commit is the outcome."""
    from ..hub import push_run

    options = asdict(args)
    del options["import_"]
    address = push_run(**options)
    return Outcome({"repository": args.repository, "commit": address}, f"Pushed: {address}")
