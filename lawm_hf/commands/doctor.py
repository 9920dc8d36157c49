# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf doctor`."""

from dataclasses import dataclass

from ..arguments import CommandArgs, Outcome, arg


@dataclass
class DoctorArgs(CommandArgs):
    """Check the LIBERO set-up, and a policy for it."""

    policy: str | None = arg(None, "folder or Hub repository of a finetuned policy")
    fast_rendering: bool = arg(False, "as in record and evaluate")


def main(args: DoctorArgs) -> Outcome:
    """Run the checks; the exit status is 1 if one fails."""
    try:
        from ..evaluation.libero_doctor import run_doctor
    except ModuleNotFoundError as error:
        remedy = "Install the simulator: `pip install 'lawm_hf[sim,libero]'`, or in a clone "
        remedy += "`uv pip install -e '.[sim,libero]'`."
        done = [{"check": "installation", "passed": False, "text": f"{error}. {remedy}"}]
        print(f"FAIL  installation: {done[0]['text']}")  # noqa: T201
    else:
        done = run_doctor(args.policy, args.fast_rendering)
    return Outcome({"checks": done}, status=0 if all(c["passed"] for c in done) else 1)
