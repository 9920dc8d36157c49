# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf data inspect`."""

from dataclasses import dataclass

from ..arguments import CommandArgs, arg


@dataclass
class InspectArgs(CommandArgs):
    """Show what a source of video or demonstrations holds, with a contact sheet."""

    spec: str = arg(..., "scheme:location[,key=value...], see lawm_hf.data.spec", positional=True)
    sheet: str = arg("contact_sheet.png", "PNG to write")


def main(args: InspectArgs) -> None:
    """Print what the source holds, and write the contact sheet."""
    from ..data.commands import run_inspect

    run_inspect(args)
