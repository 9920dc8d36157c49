# SPDX-License-Identifier: Apache-2.0
"""What a plan says is checked before its first stage: nothing in it is without effect."""

import pytest
from test_experiment import make_plan
from test_recipes import recipe

from lawm_hf.arguments import parse_args
from lawm_hf.experiments.statistics import PublishedRate

PLAN = """
pretraining: {a: {steps: 2, report_every: 0}}
benchmarks: {reach: {}}
finetune: {source: "tabletop:reach,episodes=8,seed=20{seed}000,demonstrations={demos}", steps: 2}
evaluate: {suite: reach, episodes: 2}
demonstrations: [4]
seeds: [0]
"""


def check(path, changes: str = "") -> None:
    """Read a plan, some lines replaced, and check it."""
    keys = [line.partition(":")[0] for line in changes.splitlines()]
    kept = [line for line in PLAN.splitlines() if line.partition(":")[0] not in keys]
    path.write_text("\n".join([*kept, changes]))
    module = recipe("experiment")
    args = parse_args(module.ExperimentArgs, [str(path)])
    module.read_published(args)
    module.check(module.read_plan(args).runs(), args.reference, is_local=True)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ("seeds: [0, 0]", r"must differ, got \[0, 0\]"),
        ("demonstrations: [4, 4]", "must differ"),
        ("pretraining: {}", "must have a run"),
        ("pretraining: {a: null}", "must be a mapping"),
        ("pretraining: {a: {finetune: 3}}", "must be a mapping"),
        ("pretraining: {a: {demonstrations: 4}}", "must be a list of some of the plan's"),
        ("pretraining: {a: {demonstrations: [5]}}", "must be a list of some of the plan's"),
        ("pretraining: {a: {grid: {steps: 2}}}", "must be a list of values"),
        ("pretraining: {a: {grid: {steps: [2, 2]}}}", "'a, 2' twice"),
        ("pretraining: {a: {grid: {seed: [2, 3]}}}", "must leave `seed` to the plan"),
        ("pretrain: {output_dir: elsewhere}", "must leave `output_dir` to the plan"),
        ("evaluate: {policy: elsewhere}", "must leave `policy` to the plan"),
        ("policies: {baku: {pretrian: {}}}", "Did you mean `pretrain`"),
        ("benchmarks: {reach: {evaluation: {}}}", "Did you mean `evaluate`"),
        ("benchmarks: {reach: null}", "must be a mapping"),
        ("benchmarks: {reach: {evaluate: true}}", "must be a mapping"),
        ("policies: {diffusion: {}}", "got 'baku' for `diffusion`"),
        ("reference: scrach", "unknown key `scrach`"),
        ("evaluate: {suite: raech}", "Did you mean `reach`"),
        ("evaluate: {env: tabeltop}", "Did you mean `tabletop`"),
        ('finetune: {source: "tabeltop:reach"}', "Did you mean `tabletop`"),
        ('finetune: {source: "tabletop:reach,demonstrations={demo}"}', "Did you mean `demos`"),
        ("published: {paper: {latent: 0.9}}", "must be `{group: {name:"),
        ("published: {paper: {latent: [94.2, 900]}}", "94.2 % is 0.942"),
    ],
)
def test_what_a_plan_would_ignore_or_stumble_over_is_refused(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        check(tmp_path / "plan.yaml", changes)


@pytest.mark.parametrize(
    "changes",
    [
        "",
        "policies: {mine: {}}",
        "policies: {diffusion: {model: {policy_type: diffusion}}}",
        "benchmarks: {reach: {evaluate: false}}",
        "published: {paper: {latent: [0.942, 900]}}",
        "reference: a",
    ],
)
def test_what_means_something_is_not_refused(tmp_path, changes):
    check(tmp_path / "plan.yaml", changes)


def test_blanks_are_filled_wherever_a_flag_has_them_and_other_braces_stay(tmp_path):
    plan = make_plan(
        tmp_path,
        pretraining={"latent": {"sources": ["tabletop:reach,seed={seed}"]}},
        finetune={"source": "lerobot:d{demos:03d}", "policy_config": '{"depth": 2}'},
        evaluate={"first_seed": "9{seed}00"},
        demonstrations=[5],
        seeds=[7],
    )
    first, second, third = plan.runs()[0].stages
    assert first.flags["sources"] == ["tabletop:reach,seed=7"]
    assert second.flags["source"] == "lerobot:d005"
    assert second.flags["policy_config"] == '{"depth": 2}'
    assert third.flags["first_seed"] == "9700"


def test_a_published_rate_of_no_episode_is_refused():
    with pytest.raises(ValueError, match="1 episode or more"):
        PublishedRate("latent", 0.5, 0)
