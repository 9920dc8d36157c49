# SPDX-License-Identifier: Apache-2.0
"""The scan's deferred weight gradient is autograd's, whatever wraps or repeats it."""

import pytest
import torch
import torch.distributed as dist
from dreamer_fixtures import OBJECTIVES, batch, build, gradients
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lawm_hf.models import scan_linear
from lawm_hf.models.modeling_dreamer import DreamerV3WorldModel
from lawm_hf.models.scan_linear import ScanLinear, for_scan


@pytest.fixture
def process_group():
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        scale = theirs[name].abs().max().item()
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=2e-6 * scale)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("variant", ["default", "authors"])
def test_deferred_weight_gradients_equal_those_of_autograd(variant, objective, monkeypatch):
    model, data = build(variant, objective=objective), batch()
    data["actions"].requires_grad_()
    results = []
    for is_deferred in (True, False):
        if not is_deferred:
            monkeypatch.setattr(scan_linear, "_can_defer", lambda *_, **__: False)
        model.zero_grad()
        data["actions"].grad = None
        loss = model(**data).loss
        loss.backward()
        results.append((loss, gradients(model) | {"actions": data["actions"].grad}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=0)
    assert_same_gradients(results[0][1], results[1][1])


def test_deferred_gradients_survive_partial_and_repeated_backward_passes(monkeypatch):
    """A first pass that needs no weight gradient must leave nothing behind for the second."""

    def run() -> dict[str, Tensor]:
        model, data = build(), batch()
        actions = data["actions"].requires_grad_()
        out = model(**data)
        torch.autograd.grad(out.loss, actions, retain_graph=True)
        out.reconstruction_loss[:, :2].sum().backward(retain_graph=True)
        out.loss.backward()
        model(**data).loss.backward()  # accumulates
        return gradients(model)

    deferred = run()
    monkeypatch.setattr(scan_linear, "_can_defer", lambda *_, **__: False)
    assert_same_gradients(deferred, run())


@pytest.mark.parametrize("batch_size", [3, 20])
def test_a_product_in_blocks_of_rows_is_the_product(batch_size, monkeypatch):
    """As it is for large matrices, with blocks of 16 rows and of 32."""
    layer = ScanLinear(7, 256)
    inputs = [torch.randn(batch_size, 7, requires_grad=True) for _ in range(3)]
    addends = torch.randn(3, batch_size, 256, requires_grad=True)
    results = []
    for is_tall in (True, False):
        monkeypatch.setattr(scan_linear, "_is_tall", lambda *_, how=is_tall, **__: how)
        step = for_scan(layer, addends)
        out = torch.stack([step(x) for x in inputs])
        gradients = torch.autograd.grad(out.square().sum(), [*inputs, addends, layer.weight])
        results.append([out, *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_large_matrices_in_float32_go_in_blocks(dtype):
    rows = torch.empty(48, 1 << 11, dtype=dtype)
    assert scan_linear._is_tall(rows, 1 << 12, most_rows=48) == (dtype == torch.float32)
    assert not scan_linear._is_tall(rows, 1 << 12, most_rows=47)
    assert not scan_linear._is_tall(rows, (1 << 12) - 128, most_rows=48)
    assert not scan_linear._is_tall(rows, (1 << 12) + 32, most_rows=48)


def test_gradients_are_the_same_under_ddp_and_fsdp(process_group):
    def run(wrap) -> dict[str, Tensor]:
        model = wrap(build())
        for seed in (0, 1):  # two uses in one update, as gradient accumulation has
            model(**batch(seed)).loss.backward()
        return gradients(model)

    def shard(model: DreamerV3WorldModel) -> DreamerV3WorldModel:
        mesh = dist.init_device_mesh("cpu", (1,))
        for module in (model.encoder, model.rssm.recurrence.block_hidden, model.rssm.prior_in):
            fully_shard(module, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    plain = run(lambda model: model)
    assert_same_gradients(run(DistributedDataParallel), plain)
    assert_same_gradients(run(shard), plain)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bfloat16_autocast_is_near_float32(objective):
    model, data = build(objective=objective), batch()
    exact = model(**data)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**data)
    out.loss.backward()
    assert out.loss.dtype == out.kl_loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients(model).values())


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_model_compiles_to_one_graph(objective):
    model, data = build(objective=objective), batch()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(**data).loss, model(**data).loss)
