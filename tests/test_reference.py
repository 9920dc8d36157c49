# SPDX-License-Identifier: Apache-2.0
"""The fast world model and the plain reading of its equations agree, gradients included."""

import statistics
import time

import pytest
import torch
from dreamer_fixtures import batch, build
from dreamer_reference import Reference

from lawm_hf.models.configuration_dreamer import PAPER_FORM, DreamerV3Config
from lawm_hf.models.modeling_dreamer import DreamerV3WorldModel

IMAGINATION = {
    "training_states": "imagination",
    "initial_state": "frame",
    "residual_decoder": True,
    "motion_weight": 1.0,
}


@pytest.mark.parametrize("variant", ["default", "authors"])
@pytest.mark.parametrize("form", [PAPER_FORM, IMAGINATION], ids=["posterior", "imagination"])
def test_loss_and_gradients_are_those_of_the_equations(variant, form):
    model = build(variant, **form).eval()  # modes, and every step is decoded
    with torch.no_grad():
        for parameter in model.parameters():  # nothing hides behind a zero or a one
            parameter.add_(0.1 * torch.randn_like(parameter))
    data = batch()
    actions = [data["actions"].clone().requires_grad_() for _ in range(2)]
    model(data["frames"], actions[0]).loss.backward()
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    expected = Reference(model.config, weights).loss(data["frames"], actions[1])
    expected.backward()

    torch.testing.assert_close(model(data["frames"], actions[0]).loss, expected, rtol=1e-5, atol=0)
    found = {n: p.grad for n, p in model.named_parameters()} | {"actions": actions[0].grad}
    wanted = {n: w.grad for n, w in weights.items()} | {"actions": actions[1].grad}
    for name, gradient in wanted.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            found[name], gradient, rtol=0, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_imagined_steps_are_those_of_the_whole_chunk():
    model, data = build(**IMAGINATION), batch()
    state = model.initial_state(model.encode(data["frames"][:, :1])[:, 0], data["noise"][:, 0])
    chunk = (data["actions"], data["noise"][:, 1:])
    steps = torch.tensor([2, 0])
    for some, every in zip(
        model.rssm.imagine(state, *chunk, steps), model.imagine(state, *chunk), strict=True
    ):
        torch.testing.assert_close(some, every[:, steps])


def test_decoding_some_steps_has_the_loss_of_those_steps():
    model, data = build(**IMAGINATION, num_decoded_steps=2), batch()
    torch.manual_seed(3)
    steps = torch.randperm(data["actions"].shape[1])[:2]
    torch.manual_seed(3)
    some = model(**data).reconstruction_loss
    model.config.num_decoded_steps = None
    every = model(**data).reconstruction_loss
    torch.testing.assert_close(some[:, steps], 2 * every[:, steps])
    assert some.count_nonzero() == 2 * len(some)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "floor"), [("authors", 1.6), ("default", 1.5)])
def test_the_fast_world_model_is_faster_than_the_equations(variant, floor):
    """Ratios of CPU time in one process, in turn: no machine's speed matters, nor its load."""
    torch.set_num_threads(1)
    config = DreamerV3Config.from_preset("12m", variant, image_size=32)
    model = DreamerV3WorldModel(config).eval()
    weights = dict(model.named_parameters())
    frames = torch.randint(0, 256, (8, 11, 3, 32, 32), dtype=torch.uint8)
    actions = torch.rand(8, 10, 7)

    def ours() -> float:
        start = time.process_time()
        model(frames, actions).loss.backward()
        return time.process_time() - start

    def plain() -> float:
        start = time.process_time()
        Reference(config, weights).loss(frames, actions).backward()
        return time.process_time() - start

    ours(), plain()
    rounds = [(plain(), ours(), ours(), plain()) for _ in range(5)]
    ratios = [(a + d) / (b + c) for a, b, c, d in rounds]
    assert statistics.median(ratios) > floor, ratios
