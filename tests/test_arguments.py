# SPDX-License-Identifier: Apache-2.0
"""Run configuration: YAML first, flags override, mistakes are named."""

from dataclasses import dataclass

import pytest

from lawm_hf.arguments import arg, parse_args, parse_json_options


@dataclass
class Args:
    learning_rate: float = arg(1e-3, "rate")
    sources: list[str] = arg(["tabletop"], "sources")
    augment: bool = arg(True, "augment")
    options: str = arg("", "JSON")


def test_flags_override_the_yaml_file_which_overrides_the_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 3e-4\nsources: [a, b]\naugment: false\noptions: {x: 1}\n")
    args = parse_args(Args, [str(path), "--learning_rate", "0.1"])
    assert args == Args(0.1, ["a", "b"], False, '{"x": 1}')
    assert parse_args(Args, []) == Args()


@pytest.mark.parametrize("argv", [["--learning_rat", "1"], ["--learning", "1"]])
def test_a_misspelled_flag_is_rejected_with_a_suggestion(argv, capsys):
    with pytest.raises(SystemExit) as error:
        parse_args(Args, argv)
    assert error.value.code == 2
    assert "learning_rate" in capsys.readouterr().err


def test_an_unknown_yaml_key_is_rejected_with_a_suggestion(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("source: [a]\n")
    with pytest.raises(SystemExit):
        parse_args(Args, [str(path)])
    assert "Did you mean `sources`?" in capsys.readouterr().err


def test_a_missing_yaml_file_is_named(capsys):
    with pytest.raises(SystemExit):
        parse_args(Args, ["nowhere.yaml"])
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[1]", "{x: 1}", "3"])
def test_options_that_are_not_a_json_mapping_are_rejected(text):
    with pytest.raises(ValueError, match="--policy_config"):
        parse_json_options(text, "policy_config")
    assert parse_json_options("", "policy_config") == {}
