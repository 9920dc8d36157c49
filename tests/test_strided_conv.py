# SPDX-License-Identifier: Apache-2.0
"""Convolutions are torch's, whichever way they are computed."""

import pytest
import torch
from torch import nn

from lawm_hf.models import strided_conv
from lawm_hf.models.strided_conv import DownConv, UpConv


def both_ways(layer: nn.Module, x: torch.Tensor, monkeypatch) -> list[list[torch.Tensor]]:
    """Output and gradients of input and weight, by windows and by torch."""
    results, weights = [], torch.randn_like(layer(x))
    for is_gathered in (True, False):
        monkeypatch.setattr(strided_conv, "_is_gathered", lambda *_, how=is_gathered: how)
        out = layer(x)
        gradients = torch.autograd.grad((out * weights).sum(), [x, layer.weight])
        results.append([out, *gradients])
    return results


@pytest.mark.parametrize("side", [2, 4])
@pytest.mark.parametrize(
    ("layer", "is_up"),
    [
        (DownConv(3, 5, 4), False),
        (UpConv(5, 3, 4, bias=False), True),
        (UpConv(5, 3, 5, bias=False), True),
    ],
    ids=["down", "up", "up with an odd kernel"],
)
def test_windows_and_a_product_are_a_convolution(layer, is_up, side, monkeypatch):
    layer = layer.double()
    shape = (2, 5, side, side) if is_up else (2, 3, 2 * side, 2 * side)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    ours, theirs = both_ways(layer, x, monkeypatch)
    assert ours[0].shape == ((2, 3, 2 * side, 2 * side) if is_up else (2, 5, side, side))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layer", [DownConv(3, 5, 4), UpConv(3, 5, 4, bias=False)])
def test_autocast_decides_the_type_either_way(layer, monkeypatch):
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = both_ways(layer, x, monkeypatch)
    assert ours[0].dtype == theirs[0].dtype == torch.bfloat16
    assert [g.dtype for g in ours[1:]] == [torch.float32] * 2
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.05, atol=0.05)


def test_only_maps_of_four_pixels_with_many_channels_are_gathered():
    many, few = torch.empty(512, 256, 4, 4), torch.empty(64, 32, 4, 4)
    assert strided_conv._is_gathered(many, 4)
    assert not strided_conv._is_gathered(many, 8)
    assert not strided_conv._is_gathered(few, 4)


@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_picture_drawn_by_children_is_a_transposed_convolution(kernel, dtype, monkeypatch):
    of_inputs = torch.float32 if dtype == torch.bfloat16 else dtype  # autocast
    layer = UpConv(6, 3, kernel, bias=True).to(of_inputs)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 5, 7, dtype=of_inputs, requires_grad=True)
    weights, results = torch.randn(2, 3, 10, 14), []
    for is_cpu in (True, False):
        monkeypatch.setattr(strided_conv, "_is_eager_cpu", lambda _, how=is_cpu: how)
        with torch.autocast("cpu", dtype, enabled=dtype != of_inputs):
            out = layer(x)
        assert out.dtype == dtype
        loss = (out * weights).sum()
        results.append([out, *torch.autograd.grad(loss, [x, layer.weight, layer.bias])])
    tolerance = 1e-10 if dtype == torch.float64 else 0.05
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_frozen_inputs_and_weights_of_a_drawn_picture_have_no_gradient():
    layer = UpConv(6, 3, 4, bias=True)
    layer.weight.requires_grad_(False)
    layer(torch.randn(2, 6, 4, 4)).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((3,), 2.0 * 8 * 8))
