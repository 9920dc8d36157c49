# SPDX-License-Identifier: Apache-2.0
"""Command lines: YAML first, flags override; what is wrong is one line that names it."""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from tqdm import tqdm

import lawm_hf
from lawm_hf import BakuConfig
from lawm_hf.arguments import (
    CommandArgs,
    arg,
    as_flags,
    parse_args,
    parse_json_options,
    run_command,
)
from lawm_hf.data.spec import parse_spec
from lawm_hf.plugins import import_recorded
from lawm_hf.writing.text import get_logger
from lawm_hf.writing.yaml_file import read_yaml


@dataclass
class Args(CommandArgs):
    learning_rate: float = arg(1e-3, "rate", above=0)
    maximum: float | None = arg(None, "by default 1 %", min=0, max=1)
    steps: int = arg(5, "updates", min=1)
    sources: list[str] = arg(["tabletop"], "sources")
    weights: list[float] = arg([], "of each source", min=0)
    augment: bool = arg(True, "augment")
    resize: str = arg("squash", "how", choices=("squash", "crop"))
    precision: str | None = arg(None, "which", choices=("no", "bf16"))
    options: str = arg("", "JSON")
    output_dir: str = arg("outputs", "where")


def refusal(argv, capsys) -> str:
    return refusal_of(lambda args: None, capsys, argv)


def refusal_of(main, capsys, argv=()) -> str:
    with pytest.raises(SystemExit) as ended:
        run_command(main, Args, list(argv))
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert len(text.splitlines()) <= 3
    return text


def test_flags_override_the_yaml_file_which_overrides_the_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning-rate: 3e-4\nsources: [a, b]\naugment: false\noptions: {x: 1}\n")
    args = parse_args(Args, [str(path), "--learning_rate", "0.1"])
    expected = {"sources": ["a", "b"], "augment": False, "options": '{"x": 1}'}
    assert args == Args(learning_rate=0.1, **expected)
    assert parse_args(Args, []) == Args()


def test_a_no_of_yaml_is_the_word_where_that_is_a_choice(tmp_path):
    (tmp_path / "run.yaml").write_text("precision: no\naugment: no\n")
    args = parse_args(Args, [str(tmp_path / "run.yaml")])
    assert (args.precision, args.augment) == ("no", False)


def test_a_home_that_no_shell_has_put_in_is_put_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("sources: ~/videos\n")
    assert parse_args(Args, [str(tmp_path / "run.yaml")]).sources == [f"{tmp_path}/videos"]
    assert parse_args(Args, ["--sources=~/videos"]).sources == [f"{tmp_path}/videos"]


def test_an_option_of_a_model_that_is_refused_is_told_in_a_line(capsys):
    text = refusal_of(lambda args: BakuConfig(hidden_size=0), capsys)
    assert text.startswith("error: `hidden_size` must be at least 1, got 0.\n")


def test_what_a_run_has_recorded_is_a_configuration_again(tmp_path):
    path = tmp_path / "args.yaml"
    args = Args(sources=["a"], augment=False, maximum=0.5, import_=["json"])
    path.write_text(yaml.safe_dump(as_flags(args)))
    assert parse_args(Args, [str(path)]) == args


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--learning-rate", "0.1"], {"learning_rate": 0.1}),
        (["--learning-rate=0.1"], {"learning_rate": 0.1}),
        (["--augment"], {"augment": True}),
        (["--augment", "false"], {"augment": False}),
        (["--augment=no", "--steps", "7"], {"augment": False, "steps": 7}),
        (["--weights", "1", "2.5", "--augment"], {"weights": [1, 2.5]}),
        (["--maximum", "0"], {"maximum": 0.0}),
    ],
)
def test_flags_have_one_spelling_and_booleans_may_leave_out_their_value(argv, expected):
    assert parse_args(Args, argv) == Args(**expected)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--learning_rat", "1"], ["Did you mean `learning_rate`?"]),
        (["--learning", "1"], ["learning"]),
        (["--learning_rate", "0"], ["`learning_rate` must be a number, above 0, got '0'"]),
        (["--learning_rate", "nan"], ["must be a number, above 0, got 'nan'"]),
        (["--learning_rate", "inf"], ["got 'inf'"]),
        (["--learning_rate=-1e-3"], ["got '-1e-3'"]),
        (["--learning_rate"], ["learning_rate"]),
        (["--maximum", "1.5"], ["at least 0, at most 1, got '1.5'"]),
        (["--steps", "0"], ["`steps` must be a whole number, at least 1"]),
        (["--steps", "2.5"], ["whole number"]),
        (["--steps", "1", "2"], ["unknown argument '2'"]),
        (["--weights", "1", "-2"], ["at least 0, got '-2'"]),
        (["--augment=perhaps"], ["true or false, got 'perhaps'"]),
        (["--resize", "sqash"], ["one of squash, crop, got 'sqash'. Did you mean `squash`?"]),
        (["nowhere.yaml"], ["'nowhere.yaml' does not exist"]),
        (["--steps", "1", "run.yaml"], ["comes first"]),
        (["--output_dir", ""], ["`output_dir` must not be empty", "variable of the shell"]),
        (["--sources", "a", "--sources", "b"], ["given once", "--sources A B"]),
        (["--sources", "ssv2:DIR,fraction=0.1"], ["DIR", "the folder of your own copy"]),
        (["--sources", "a:b", "lerobot:u/x@COMMIT"], ["COMMIT", "40 hexadecimal digits"]),
        (["--sources", "lerobot:u/x,views=CAMERA"], ["CAMERA", "lawm-hf data inspect"]),
        (["--import", "no_such_package"], ["'no_such_package' cannot be imported", "Install it"]),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line_with_rule_and_value(argv, words, capsys):
    text = refusal(argv, capsys)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "argv", [["--options", ""], ["--options="], ["--options= "], ["--sources", "a", ""], [""]]
)
def test_a_variable_of_the_shell_that_is_not_set_is_no_value(argv, tmp_path, capsys):
    assert "is a variable of the shell not set?" in refusal(argv, capsys)
    (tmp_path / "run.yaml").write_text("options: ''\n")  # as runs record it
    assert parse_args(Args, [str(tmp_path / "run.yaml")]) == Args()


def test_none_on_the_command_line_takes_back_what_a_file_gives(tmp_path):
    (tmp_path / "run.yaml").write_text("options: '{\"x\": 1}'\n")
    assert parse_args(Args, [str(tmp_path / "run.yaml"), "--options", "none"]).options == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("source: [a]", "Did you mean `sources`?"),
        ("steps: -3", "at least 1, got '-3'"),
        ("steps: [1, 2]", "one value"),
        ("steps:", "`steps` of run.yaml must have a value, got null"),
        ("sources: [tabletop, null]", "`sources` of run.yaml must have a value"),
        ("sources: []", "expected at least one argument"),
        ("- steps", "got a list"),
        ("steps: [", "must be a YAML file"),
        ("steps: \xff".encode("latin-1"), "must be a YAML file"),
    ],
)
def test_a_wrong_configuration_file_is_refused_likewise(content, words, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as ended:
        parse_args(Args, [str(path)])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_package_of_the_current_folder_is_imported_and_its_mistakes_are_named(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lawm_plugin_a.py").write_text("LOADED = 1\n")
    (tmp_path / "lawm_plugin_b.py").write_text("LOADED = \n")
    args = parse_args(Args, ["--import", "lawm_plugin_a", "--steps", "3"])
    assert sys.modules.pop("lawm_plugin_a").LOADED == 1
    assert as_flags(args)["import"] == ["lawm_plugin_a"]
    (tmp_path / "run.yaml").write_text("import: [lawm_plugin_a]\n")
    parse_args(Args, ["run.yaml"])
    assert "lawm_plugin_a" in sys.modules
    assert "SyntaxError" in refusal(["--import", "lawm_plugin_a", "lawm_plugin_b"], capsys)


def test_a_run_names_the_packages_that_its_analysis_imports_but_brings_no_code(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "lawm_plugin_c.py").touch()
    (run / "lawm_plugin_d.py").touch()
    (run / "args.yaml").write_text("import: [lawm_plugin_c]\n")
    import_recorded(run)
    assert "lawm_plugin_c" in sys.modules
    for name in ("run.lawm_plugin_d", "lawm_plugin_d"):
        (run / "args.yaml").write_text(f"import: [{name}]\n")
        with pytest.raises(ValueError, match="trust"):
            import_recorded(run)
        monkeypatch.chdir(run)
    import_recorded("me/no-such-folder")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("`x` must be y, got z."), "error: `x` must be y, got z."),
        (FileNotFoundError(2, "No such file", "a.mp4"), "a.mp4"),
        (ModuleNotFoundError("No module named 'mujoco'"), "mujoco"),
        (KeyError("frames"), "KeyError: 'frames' ("),
    ],
)
def test_an_error_is_one_screen_and_the_traceback_on_demand(error, words, capsys):
    def main(args):
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main, Args, [])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert words in text
    assert "--traceback" in text
    assert "Traceback" not in text
    with pytest.raises(type(error)):
        run_command(main, Args, ["--steps", "3", "--traceback"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "CACHE/lawm_hf/tabletop"), "set HF_HOME to"),
        (OSError(30, "Read-only file system", "/"), "set HF_HOME to"),
        (NotADirectoryError(20, "Not a directory", "elsewhere"), "elsewhere'\n"),
        (OSError(28, "No space left on device"), "Make room"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "Make room"),
        (OSError("The disk is full. Make room in x."), "x.\n"),
    ],
)
def test_where_nobody_may_write_the_remedy_is_told(error, words, capsys):
    if error.filename if isinstance(error, OSError) else None:
        error.filename = error.filename.replace("CACHE", constants.HF_HOME)

    def main(args):
        raise error

    assert words in refusal_of(main, capsys)


def test_an_error_begins_a_line_of_its_own_beneath_a_bar(capsys):
    def main(args):
        bar = tqdm(total=2)
        bar.update()
        raise ValueError("no")

    with pytest.raises(SystemExit):
        run_command(main, Args, [])
    assert "\nerror: no" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[1]", "{x: 1}", "3"])
def test_options_that_are_not_a_json_mapping_are_rejected(text):
    with pytest.raises(ValueError, match="--policy_config"):
        parse_json_options(text, "policy_config")
    assert parse_json_options("", "policy_config") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: 3\nresize: crop\nsteps: 4\n", "the key `steps` in line 1 and in line 3"),
        ("options: {a: {x: 1, x: 2}}\n", "the key `x`"),
        ("learning_rate: 1\nlearning-rate: 2\n", "got 'learning_rate' and 'learning-rate'"),
        ("import: [a]\nimport_: [b]\n", "got 'import' and 'import_'"),
        ("- 1\n", "must hold `key: value` lines, got a list"),
        ("steps: [1\n", "must be a YAML file"),
        ("steps: " + "[" * 5000 + "\n", "must be a YAML file"),
        ("steps: !!python/object/apply:os.system [exit]\n", "must be a YAML file"),
        ("options: &a {b: *a}\n", "must hold at most"),
        (
            "a: &a0 [1, 1]\n"
            + "".join(f"x{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
            "must hold at most",
        ),
    ],
)
def test_a_configuration_that_says_two_things_or_none_is_refused(tmp_path, capsys, text, words):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    told = refusal([str(path)], capsys)
    assert words in told
    assert str(path) in told


def test_merged_keys_of_a_configuration_may_be_overridden(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n")
    assert read_yaml(path)["c"] == {"x": 3, "y": 1}


def test_an_option_that_is_given_twice_is_refused():
    with pytest.raises(ValueError, match="the key 'a' is there twice"):
        parse_json_options('{"a": 1, "b": {"a": 2}, "a": 3}', "options")
    with pytest.raises(ValueError, match="given once, got `views` twice"):
        parse_spec("lerobot:me/set,views=a,views=b")


def test_an_error_and_a_log_line_do_not_steer_the_terminal(capsys, caplog):
    escape = "\x1b]0;owned\x07\x1b[2J"

    def main(args):
        raise ValueError(f"{escape}.mp4 is damaged.\nFetch it again.")

    assert "\x1b" not in refusal_of(main, capsys)
    logger = get_logger("lawm_hf.of_this_test")
    assert get_logger("lawm_hf.of_this_test") is logger
    logger.warning("Skipped %s of %d", escape, 3)
    assert caplog.messages == [r"Skipped \x1b]0;owned\x07\x1b[2J of 3"]


@pytest.mark.parametrize(
    ("package", "extra"),
    [("gymnasium", "sim"), ("mujoco", "sim"), ("matplotlib", "sim"), ("lerobot", "lerobot")],
)
def test_a_package_that_is_not_installed_is_named_with_what_brings_it(package, extra, capsys):
    def main(args):
        error = f"No module named {package!r}"
        raise ModuleNotFoundError(error, name=f"{package}.spaces")

    assert f"pip install 'lawm_hf[{extra}]'" in refusal_of(main, capsys)


@pytest.mark.parametrize("recipe", ["pretrain", "finetune", "evaluate", "analyze", "experiment"])
def test_a_recipe_says_its_flags_without_any_optional_package(recipe):
    # As if they were not installed: nothing that is found on the way imports them at its top.
    names = {"gymnasium", "mujoco", "matplotlib", "lerobot", "draccus", "libero", "tensorboard"}
    seen, ours = set(), [f"lawm_hf.recipes.{recipe}"]
    root = Path(lawm_hf.__file__).parent
    while ours:
        module = ours.pop()
        path = root.joinpath(*module.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module in seen or not path.is_file():
            continue
        seen.add(module)
        parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        ours.append(".".join(parts))
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(
                    [*(parts[: len(parts) - node.level + 1] if node.level else [])]
                    + ([node.module] if node.module else [])
                )
                found = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            else:
                continue
            assert not {name.split(".")[0] for name in found} & names, path
            ours += [name for name in found if name.startswith("lawm_hf")]
    assert len(seen) > 10


def test_every_module_that_logs_does_it_without_steering_the_terminal():
    for path in Path(lawm_hf.__file__).parent.rglob("*.py"):
        if "models" not in path.parts and path.name != "text.py":  # models import nothing of ours
            assert "logging.getLogger" not in path.read_text(), path


def test_help_names_choices_and_defaults(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_args(Args, ["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--resize squash|crop" in text
    assert "how (default: squash)" in text
    assert "by default 1 %" in text
    assert "--import" in text
