# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf doctor`."""

from dataclasses import dataclass

from ..arguments import CommandArgs, arg


@dataclass
class DoctorArgs(CommandArgs):
    """Check the LIBERO set-up, and a policy for it."""

    policy: str | None = arg(None, "folder or Hub repository of a finetuned policy")
    fast_rendering: bool = arg(False, "as in record and evaluate")


def main(args: DoctorArgs) -> None:
    """Run the checks; the exit status is 1 if one fails."""
    try:
        from ..evaluation.libero_doctor import run_doctor
    except ModuleNotFoundError as error:
        remedy = "Install the simulator: `pip install 'lawm_hf[sim,libero]'`, or in a clone "
        remedy += "`uv pip install -e '.[sim,libero]'`."
        print(f"FAIL  installation: {error}. {remedy}")  # noqa: T201
        raise SystemExit(1) from error
    raise SystemExit(run_doctor(args.policy, args.fast_rendering))
