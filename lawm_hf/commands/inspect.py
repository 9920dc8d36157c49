# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf data inspect`."""

from dataclasses import dataclass

from ..arguments import CommandArgs, Outcome, arg


@dataclass
class InspectArgs(CommandArgs):
    """Show what a source of video or demonstrations holds, with a contact sheet."""

    spec: str = arg(..., "scheme:location[,key=value...], see lawm_hf.data.spec", positional=True)
    sheet: str = arg("contact_sheet.png", "PNG to write")


def main(args: InspectArgs) -> Outcome:
    """Look into the source, and write the contact sheet."""
    from ..data.commands import inspect_source

    found, facts = inspect_source(args.spec, args.sheet)
    text = "\n".join(f"{name:<18}{value}" for name, value in found.items())
    return Outcome(facts, text, [["pretrain", "--sources", args.spec]])
