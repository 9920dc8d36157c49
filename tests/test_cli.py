# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf` and the recipes' command lines: light, and every wrong use is one screen, code 2."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass, fields
from importlib import import_module

import pytest
import transformers
from huggingface_hub.utils import are_progress_bars_disabled

from lawm_hf import cli
from lawm_hf.arguments import CommandArgs, Outcome, arg, parse_args, run_command
from lawm_hf.arguments.outcome import program
from lawm_hf.arguments.quiet import quiet_libraries
from lawm_hf.commands import RECIPES, TOOLS, flags_of


def refusal(argv, monkeypatch, capsys) -> str:
    """What a wrong command line prints; in this process."""
    monkeypatch.setattr(sys, "argv", ["lawm-hf", *argv])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    text = capsys.readouterr().err
    assert ended.value.code == 2, text
    assert "error: " in text
    assert "Traceback" not in text
    assert len(text.splitlines()) <= 20
    return text


def test_help_of_every_command_imports_nothing_heavy_and_groups_its_flags():
    code = """
import sys
from lawm_hf import cli, commands
for words in ([], *(name.split() for name in (*commands.RECIPES, *commands.TOOLS))):
    sys.argv = ["lawm-hf", *words, "--help"]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code
print(*{m.split(".")[0] for m in sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *told, loaded = done.stdout.splitlines()
    heavy = {"torch", "transformers", "numpy", "huggingface_hub", "datasets", "PIL", "yaml"}
    assert not heavy & set(loaded.split())
    usages = [line for line in told if line.startswith("usage: lawm-hf ")]
    assert len(usages) == 1 + len(RECIPES) + len(TOOLS)
    pretrain = "\n".join(told).split("usage: lawm-hf ")[2]
    headings = re.findall(r"^(\w[\w ]*):$", pretrain, re.M)
    assert headings == ["data", "model", "training", "output", "of every command"]
    assert "--resize squash|crop" in pretrain.split("model:")[0]


@pytest.mark.parametrize("name", RECIPES)
def test_every_flag_of_a_recipe_has_its_group(name):
    groups = {f.name: f.metadata["group"] for f in fields(flags_of(name))}
    assert not [flag for flag, group in groups.items() if not group]


@dataclass
class Args(CommandArgs):
    folder: str = arg("out", "folder")


def noisy(args: Args) -> Outcome:
    """A command whose libraries print, in Python and below it."""
    sys.stdout.write("chatter\n")
    os.system("echo chatter of a child")
    made = {"folder": args.folder, "loss": float("nan")}
    return Outcome(made, "Wrote it.", [["evaluate", "--policy", args.folder]], status=3)


def test_json_is_one_object_on_stdout_and_all_else_is_on_stderr(capfd):
    with pytest.raises(SystemExit) as ended:
        run_command(noisy, Args, ["--folder", "a b", "--json"])
    assert ended.value.code == 3
    out, err = capfd.readouterr()
    assert json.loads(out) == {"folder": "a b", "loss": None, "next": [command("'a b'")]}
    assert err.splitlines() == ["chatter", "chatter of a child"]


def test_a_command_ends_with_what_it_has_made_and_the_command_to_type_next(capfd):
    with pytest.raises(SystemExit):
        run_command(noisy, Args, [])
    assert capfd.readouterr().out.endswith(f"Wrote it.\n\nNext:\n  {command('out')}\n")


def test_a_reader_that_has_gone_and_a_terminal_of_few_letters_are_no_errors():
    code = """
from lawm_hf.arguments import CommandArgs, Outcome, run_command
run_command(lambda args: Outcome({}, "\u2026" * 99_999), CommandArgs, [])
"""
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env)
    assert told.stdout.startswith(b"\\u2026")
    gone, ours = os.pipe()
    os.close(gone)
    done = subprocess.run([sys.executable, "-c", code], stdout=ours, stderr=subprocess.PIPE)
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, b"")


def command(folder: str) -> str:
    return f"{shlex.join(program())} evaluate --policy {folder}"


@pytest.mark.parametrize(
    ("name", "flags", "commands"),
    [
        ("pretrain", [], ["finetune", "analyze", "play"]),
        ("pretrain", ["--objective", "supervised"], ["finetune"]),
        ("finetune", [], ["evaluate", "push"]),
        ("finetune", ["--source", "libero:x,suite=y"], ["evaluate", "push"]),
        ("finetune", ["--source", "lerobot:me/arm"], ["push"]),
    ],
)
def test_what_a_recipe_says_to_type_next_is_a_command_with_its_folder(name, flags, commands):
    recipe, folder = import_module(f"lawm_hf.recipes.{name}"), "my runs/a"
    args = parse_args(flags_of(name), [*flags, "--output_dir", folder])
    outcome = recipe.outcome(args, *([None] if name == "pretrain" else []))
    assert [words[0] for words in outcome.following] == commands
    for command, *argv in outcome.following:
        assert folder in vars(parse_args(flags_of(command), argv)).values() or command == "push"
        assert folder in argv


def test_the_next_command_is_spelled_as_this_user_can_type_it(monkeypatch):
    monkeypatch.setenv("UV", "/usr/bin/uv")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert program() == ["python3", "-m", "uv", "run", "lawm-hf"]
    assert program("play")[3:] == ["run", "--extra", "play", "lawm-hf"]
    monkeypatch.delenv("UV")
    assert program() == [sys.executable, "-m", "lawm_hf.cli"]
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert program() == ["lawm-hf"]


def test_libraries_keep_quiet_unless_they_are_asked_to_talk(monkeypatch):
    seen = []
    monkeypatch.setattr("lawm_hf.arguments.running.quiet_libraries", lambda: seen.append("quiet"))
    run_command(lambda args: None, Args, ["--verbose"])
    monkeypatch.setenv("LAWM_VERBOSE", "1")
    run_command(lambda args: None, Args, [])
    assert not seen
    monkeypatch.delenv("LAWM_VERBOSE")
    run_command(lambda args: None, Args, [])
    assert seen == ["quiet"]


def test_quiet_libraries_show_no_bar_for_weights_and_keep_that_of_downloads(monkeypatch):
    import_module("lawm_hf.models")  # as it is when a recipe is started by its own name
    for name in ("LAWM_QUIET", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    try:
        with warnings.catch_warnings(record=True) as seen:
            quiet_libraries()
            warnings.warn_explicit("theirs", UserWarning, "x.py", 1, module="torch.nn")
            warnings.warn_explicit("ours", UserWarning, "x.py", 1, module="lawm_hf.data")
        assert [str(warning.message) for warning in seen] == ["ours"]
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
        assert not transformers.utils.logging.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
    finally:
        transformers.utils.logging.enable_progress_bar()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "usage: lawm-hf"),
        (["pretrian"], "Did you mean `pretrain`?"),
        (["data", "inspct", "x"], "Did you mean `data inspect`?"),
        (["libero"], "libero record"),
        (["data", "inspect"], "spec"),
        (["data", "inspect", "tabeltop:reach"], "Did you mean `tabletop`?"),
        (["data", "inspect", "ssv2:DIR"], "the folder of your own copy"),
        (["data", "inspect", "folder:nowhere"], "nowhere"),
        (["data", "inspect", "folder:nowhere", "--sheet", "."], "must be a picture to write"),
        (["convert", "ssv2", "x"], "--out"),
        (["convert", "sv2", "x", "--out", "y"], "Did you mean `ssv2`?"),
        (["convert", "ssv2", "x", "--out", "y", "--image-size", "-4"], "at least 2"),
        (["convert", "ssv2", "x", "--out", "y", "--tasks", "0"], "at least 1"),
        (["convert", "ssv2", "x", "--out", "y", "--clips_per_part=0"], "at least 1"),
        (["convert", "ssv2", "x", "--out", "y", "--format", "shard"], "Did you mean `shards`?"),
        (["libero", "record", "--out", "x", "--noise", "nan"], "got 'nan'"),
        (["libero", "record", "--out", "x", "--episodes", "0"], "at least 1"),
        (["doctor", "--polcy", "x"], "Did you mean `policy`?"),
        (["export", "nowhere"], "Add `--onnx`"),
        (["push", "nowhere", "me/x"], "must be the output of a recipe"),
        (["push", "nowhere", "x"], "the owner is missing"),
        (["push", "nowhere", "USER/NAME"], "your name on the Hub"),
    ],
)
def test_a_wrong_use_of_the_tools_is_one_screen(argv, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    if not argv:
        monkeypatch.setattr(sys, "argv", ["lawm-hf"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert words in capsys.readouterr().out
    else:
        assert words in refusal(argv, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pretrain --steps 0", "at least 1"),
        ("pretrain --steps -5", "at least 1"),
        ("pretrain --batch_size 0", "at least 1"),
        ("pretrain --gradient-accumulation-steps 0", "at least 1"),
        ("pretrain --learning_rate nan", "above 0"),
        ("pretrain --learning_rate=-0.1", "above 0"),
        ("pretrain --world_model_learning_rate inf", "above 0"),
        ("pretrain --vision_learning_rate 0", "above 0"),
        ("pretrain --weight_decay=-1", "at least 0"),
        ("pretrain --warmup_steps -1", "at least 0"),
        ("pretrain --max_grad_norm 0", "above 0"),
        ("pretrain --weights 1 nan", "above 0"),
        ("pretrain --weights 1 2", "`weights`"),
        ("pretrain --weights 0", "`weights`"),
        ("pretrain --chunk_size 0", "at least 1"),
        ("pretrain --image_size -64", "at least"),
        ("pretrain --frame_size 0", "at least"),
        ("pretrain --frame_interval_s nan", "at least 0"),
        ("pretrain --max_start -2", "at least -1"),
        ("pretrain --log_every 0", "at least 1"),
        ("pretrain --save_every -1", "at least 0"),
        ("pretrain --report_every -1", "at least 0"),
        ("pretrain --num_workers -1", "at least 0"),
        ("pretrain --seed -1", "at least 0"),
        ("pretrain --mixed_precision fp8", "bf16"),
        ("pretrain --resize stretch", "squash"),
        ("pretrain --policy_config [1]", "JSON mapping"),
        ("pretrain --world_model_config {", "JSON mapping"),
        ("pretrain --report_to tensorbord", "tensorboard"),
        ("pretrain --sources lerobot:u/x@COMMIT", "40 hexadecimal"),
        ("pretrain --eval_source ssv2:DIR", "your own copy"),
        ("pretrain --compile maybe", "maybe"),
        ("pretrain --import nothing_of_that_name", "cannot be imported"),
        ("finetune --transfer al", "Did you mean `all`?"),
        ("finetune --ema_decay 1.5", "at most 1"),
        ("finetune --ema_decay=-0.5", "at least 0"),
        ("finetune --focus_steps -1", "at least 0"),
        ("finetune --learning_rate 0", "above 0"),
        ("finetune --source bridge:DIR", "your own copy"),
        ("finetune --souce x", "Did you mean `source`?"),
        ("evaluate --episodes 0", "at least 1"),
        ("evaluate --lockstep 0", "at least 1"),
        ("evaluate --trials 0", "at least 1"),
        ("evaluate --n_action_steps 0", "at least 1"),
        ("evaluate --first_seed -1", "at least 0"),
        ("evaluate --tasks 0", "at least 1"),
        ("evaluate --task_ids -1", "at least 0"),
        ("evaluate --videos -2", "at least 0"),
        ("evaluate --aggregation mean", "exponential"),
        ("evaluate --policy DIR", "your own copy"),
        ("analyze --seed x", "whole number"),
        ("analyze --pretrained DIR", "your own copy"),
        ("experiment PLAN.yaml", "does not exist"),
        ("experiment --tasks 0", "at least 1"),
        ("experiment --demonstrations -5", "at least 0"),
        ("experiment --policies [1]", "JSON mapping"),
    ],
)
def test_a_wrong_command_line_of_a_recipe_is_one_screen_before_anything_is_opened(
    line, words, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    name, *argv = line.split()
    recipe = import_module(f"lawm_hf.recipes.{name}")
    monkeypatch.setattr(recipe, "main", lambda args: pytest.fail("nothing was refused"))
    text = refusal([name, *argv], monkeypatch, capsys)
    assert words in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_its_help(name, capsys):
    recipe = import_module(f"lawm_hf.recipes.{name}")
    with pytest.raises(SystemExit) as ended:
        run_command(recipe.main, getattr(recipe, f"{name.capitalize()}Args"), ["--help"])
    assert ended.value.code == 0
    assert "--import" in capsys.readouterr().out
