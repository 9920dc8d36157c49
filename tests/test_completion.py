# SPDX-License-Identifier: Apache-2.0
"""What the Tab key completes: commands, flags, values and files, without starting Python."""

import shutil
import subprocess

import pytest

from lawm_hf.arguments import parse_args
from lawm_hf.commands import RECIPES, TOOLS
from lawm_hf.commands.completion import CompletionArgs, main

pytest.importorskip("shtab")

# What bash does when Tab is pressed at the end of the words that it is given.
PRESS_TAB = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
function=$(complete -p lawm-hf | sed 's/.* -F \\([^ ]*\\).*/\\1/')
"$function" lawm-hf "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str) -> str:
    return main(parse_args(CompletionArgs, [shell])).text


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pret"], {"pretrain"}),
        (["data", ""], {"inspect"}),
        (["libero", ""], {"record"}),
        (["pretrain", "--world_model_p"], {"--world_model_preset"}),
        (["pretrain", "--resize", ""], {"squash", "crop"}),
        (["pretrain", "--report_to", "ten"], {"tensorboard"}),
        (["pretrain", "--resume", ""], {"true", "false"}),
        (["finetune", "--tr"], {"--transfer", "--traceback"}),
        (["finetune", "my"], {"my.yaml"}),
        (["evaluate", "--policy", "my"], {"my.yaml"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_what_is_begun(words, expected, tmp_path):
    (tmp_path / "my.yaml").touch()
    (tmp_path / "lawm-hf.bash").write_text(script("bash"))
    done = subprocess.run(
        ["bash", "--norc", "-c", PRESS_TAB, "bash", "lawm-hf.bash", "lawm-hf", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_of_other_shells_names_every_command(shell):
    text = script(shell)
    for word in {word for command in (*RECIPES, *TOOLS) for word in command.split()}:
        assert word in text
    assert "world_model_preset" in text
    assert text.isprintable() or not any(c < " " for c in text if c != "\n")  # printed unchanged
