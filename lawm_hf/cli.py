# SPDX-License-Identifier: Apache-2.0
"""The command `lawm-hf`."""

import argparse


def main() -> None:
    """Parse the command line and run what it names."""
    from lawm_hf.data.commands import add_commands

    parser = argparse.ArgumentParser(prog="lawm-hf", description="LAWM on the Hugging Face stack")
    add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
