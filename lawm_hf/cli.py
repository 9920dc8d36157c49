# SPDX-License-Identifier: Apache-2.0
"""The command `lawm-hf`."""

import argparse
from pathlib import Path
from typing import Any


def main() -> None:
    """Parse the command line and run what it names."""
    from .data.commands import add_commands

    parser = argparse.ArgumentParser(prog="lawm-hf", description="LAWM on the Hugging Face stack")
    subparsers = parser.add_subparsers(required=True)
    add_commands(subparsers)
    _add_libero(subparsers)
    _add_doctor(subparsers)
    args = parser.parse_args()
    args.run(args)


# The simulators are optional: what they need is imported when a command runs.


def _add_libero(subparsers: Any) -> None:
    libero = subparsers.add_parser("libero", help="the LIBERO simulator")
    record = libero.add_subparsers(required=True).add_parser(
        "record", help="demonstrations of the scripted expert, as a LeRobot dataset; resumable"
    )
    record.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    record.add_argument("--suite", default="libero_object", help="the expert knows libero_object")
    record.add_argument("--tasks", type=int, nargs="+", default=[0, 1])
    record.add_argument("--episodes", type=int, default=25, help="successes of each task")
    record.add_argument(
        "--first_init_state", type=int, default=20, help="those below stay unseen for evaluation"
    )
    record.add_argument("--image_size", type=int, default=128)
    record.add_argument("--noise", type=float, default=0.2, help="on executed actions, at most")
    record.add_argument(
        "--fast_rendering", action="store_true", help="thinner meshes: evaluate with them, too"
    )
    record.set_defaults(run=_run_record)


def _run_record(args: argparse.Namespace) -> None:
    from .envs.libero.recorder import record_libero

    options = {key: value for key, value in vars(args).items() if key not in ("run", "out")}
    record_libero(args.out, **options)
    print(f"Wrote {args.out}.")  # noqa: T201


def _add_doctor(subparsers: Any) -> None:
    doctor = subparsers.add_parser("doctor", help="check the LIBERO set-up, and a policy for it")
    doctor.add_argument("--policy", help="folder or Hub repository of a finetuned policy")
    doctor.add_argument("--fast_rendering", action="store_true", help="as in record and evaluate")
    doctor.set_defaults(run=_run_doctor)


def _run_doctor(args: argparse.Namespace) -> None:
    try:
        from .evaluation.libero_doctor import run_doctor
    except ModuleNotFoundError as error:
        remedy = "Install the simulator: `pip install 'lawm_hf[sim,libero]'`."
        print(f"FAIL  installation: {error}. {remedy}")  # noqa: T201
        raise SystemExit(1) from error
    raise SystemExit(run_doctor(args.policy, args.fast_rendering))


if __name__ == "__main__":
    main()
