# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf` and the recipes' command lines: light, and every wrong use is one screen, code 2."""

import subprocess
import sys
from importlib import import_module

import pytest

from lawm_hf import cli
from lawm_hf.arguments import run_command

RECIPES = ("pretrain", "finetune", "evaluate", "analyze", "experiment")


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


def test_the_help_of_the_command_imports_nothing_heavy():
    code = "import sys; from lawm_hf import cli; sys.argv = ['', '--help']\ntry: cli.main()\n"
    code += "finally: print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pretrain" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"torch", "transformers", "numpy", "huggingface_hub", "datasets", "PIL"}


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
