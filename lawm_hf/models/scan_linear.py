# SPDX-License-Identifier: Apache-2.0
"""Linear layers of a recurrent scan whose weight gradient is formed once, not at every step.

A scan of `T` steps multiplies `(B, in)` by the same weight `T` times. Autograd then forms `T`
weight gradients, each a full-size matrix from only `B` rows, and adds them up: for the recurrent
weights of a world model that is more than half of the backward pass, bound by memory. The sum of
`T` products is one product of matrices stacked over the steps, which is what
`_DeferWeightGradient` computes: exact, and one GEMM.

The trick needs no state across backward passes. Each step computes `addend_t + x_t W'` with a
detached `W`; autograd stacks the gradients of all `addend_t` anyway, and an identity function on
the stacked addends returns, beside them, the gradient of `W`. To autograd it is an ordinary node
with the weight as its input, so that gradient accumulation, DDP hooks and autocast hold as usual.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor


class _DeferWeightGradient(torch.autograd.Function):
    """Identity on the addends `(T, B, out)` of a scan; its backward adds the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, addends: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs, ctx.num_blocks = inputs, weight.shape[0] if weight.dim() == 3 else None
        return addends.view_as(addends)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator's annotation loses the name of `ctx`
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        (grad,) = grad_outputs  # (T, B, out)
        assert len(ctx.inputs) == len(grad), "a scan must call its linear layer once per step"
        x, dy = torch.cat(ctx.inputs), grad.flatten(0, 1)  # (T*B, in), (T*B, out)
        if ctx.num_blocks is None:
            return grad, _sum_of_outer_products(dy, x), None
        x, dy = (_split(rows, ctx.num_blocks) for rows in (x, dy))
        return grad, x.transpose(1, 2) @ dy, None  # (G, in/G, out/G)


class _TallProduct(torch.autograd.Function):
    """`addend + x W'` for a few rows `x` and a matrix that no cache holds; `W` is a constant.

    A product of 8 rows costs what reading `W` costs, 226 MB at 50m. BLAS first copies it into an
    order of its own, which takes twice as long; in blocks of a few rows it does not.
    """

    @staticmethod
    def forward(ctx: Any, addend: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        blocks = _row_blocks(weight, len(x))  # (R, rows, in)
        ctx.save_for_backward(blocks)
        product = torch.bmm(x.expand(len(blocks), *x.shape), blocks.transpose(1, 2))
        return _join(product) + addend

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator's annotation loses the name of `ctx`
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        (grad,) = grad_outputs
        (blocks,) = ctx.saved_tensors
        zero = grad.new_zeros(len(grad), blocks.shape[-1])
        return grad, torch.addbmm(zero, _split(grad, len(blocks)), blocks), None


def _sum_of_outer_products(dy: Tensor, x: Tensor) -> Tensor:
    """`dy' x` of `(R, out)` and `(R, in)`; if they are few rows of a large matrix, in blocks."""
    if not _is_tall(x, dy.shape[1], most_rows=128):
        return dy.t() @ x
    blocks = _split(dy, dy.shape[1] // 128)  # (G, R, 128)
    return torch.bmm(blocks.transpose(1, 2), x.expand(len(blocks), *x.shape)).flatten(0, 1)


def _row_blocks(weight: Tensor, batch_size: int) -> Tensor:
    return weight.unflatten(0, (-1, 16 if batch_size <= 16 else 32))


def _is_tall(x: Tensor, out_features: int, most_rows: int) -> bool:
    """Whether blocks pay for few rows `x`: float32 on a CPU, a matrix of at least 32 MB."""
    is_large = out_features * x.shape[1] >= 1 << 23 and not out_features % 128
    return x.device.type == "cpu" and x.dtype == torch.float32 and is_large and len(x) <= most_rows


class ScanLinear(nn.Linear):
    """`nn.Linear` without bias, one of possibly several whose outputs are summed.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        fan_in: Inputs that the initialisation counts; more than `in_features` where outputs are
            summed, since that is one layer on concatenated inputs.
    """

    def __init__(self, in_features: int, out_features: int, fan_in: int | None = None):
        super().__init__(in_features, out_features, bias=False)
        self.fans = (fan_in or in_features) + out_features


class BlockLinear(nn.Module):
    """Block-diagonal linear layer without bias: block `g` of the input feeds block `g` only.

    Args:
        in_features: Width of the input, a multiple of `num_blocks`.
        out_features: Width of the output, a multiple of `num_blocks`.
        num_blocks: Blocks `G`.
        fan_in: See `ScanLinear`.
    """

    def __init__(
        self, in_features: int, out_features: int, num_blocks: int, fan_in: int | None = None
    ):
        super().__init__()
        self.out_features = out_features
        self.fans = (fan_in or in_features // num_blocks) + out_features // num_blocks
        self.weight = nn.Parameter(
            torch.empty(num_blocks, in_features // num_blocks, out_features // num_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in)` to `(B, out)`."""
        return _join(torch.bmm(_split(x, len(self.weight)), self.weight))


def for_scan(layer: ScanLinear | BlockLinear, addends: Tensor) -> Callable[[Tensor], Tensor]:
    """Prepare a layer for one scan.

    Args:
        layer: The layer.
        addends: What is known before the scan and added to the output of each step: a bias, or the
            projection of embeddings or actions, `(T, B, out)`.

    Returns:
        A function to be called exactly once per step with `(B, in)`; returns `(B, out)`.
    """
    if not _can_defer(layer.weight, num_steps=len(addends)):
        plain = iter(addends.unbind())
        return lambda x: layer(x) + next(plain)
    device = addends.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else layer.weight.dtype
    weight, inputs = layer.weight.to(dtype), []
    deferred = iter(_DeferWeightGradient.apply(addends.to(dtype), weight, inputs).unbind())
    weight = weight.detach()

    def step(x: Tensor) -> Tensor:
        x = x.to(dtype)
        # Detached, or the list would tie the graph into a cycle that is never freed.
        inputs.append(x.detach())
        if weight.dim() == 2 and _is_tall(x, len(weight), most_rows=48):
            return cast(Tensor, _TallProduct.apply(next(deferred), x, weight))
        if weight.dim() == 2:
            return torch.addmm(next(deferred), x, weight.t())
        addend = _split(next(deferred), len(weight))
        return _join(torch.baddbmm(addend, _split(x, len(weight)), weight))

    return step


def _split(x: Tensor, num_blocks: int) -> Tensor:
    """`(B, width)` to `(G, B, width/G)`, a view."""
    return x.unflatten(-1, (num_blocks, -1)).transpose(0, 1)


def _join(x: Tensor) -> Tensor:
    """`(G, B, width/G)` to `(B, width)`."""
    return x.transpose(0, 1).flatten(1)


def _can_defer(weight: Tensor, num_steps: int) -> bool:
    """Whether the gradient is wanted, worth deferring, and the weight a whole, plain matrix.

    A compiler fuses the scan itself and cannot trace the list of inputs; a sharded weight (FSDP,
    ZeRO) is whole only inside its module's own call, which the plain path makes.
    """
    return (
        num_steps > 1
        and torch.is_grad_enabled()
        and weight.requires_grad
        and not torch.compiler.is_compiling()
        and not isinstance(weight, DTensor)
        and weight.dim() > 1
    )
