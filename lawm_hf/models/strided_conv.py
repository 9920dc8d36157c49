# SPDX-License-Identifier: Apache-2.0
"""Convolutions between a map and one of twice its side, as CPUs do them fastest.

Where the smaller map is a few pixels wide and the channels are many, oneDNN runs at half the rate
of a plain product (bfloat16: a quarter). Gathering the windows first, and one product, is faster.
A transposed convolution to the few channels of a picture is faster as a plain one that draws each
pixel's four children. On all other shapes and devices these are `nn.Conv2d` and
`nn.ConvTranspose2d`.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class DownConv(nn.Conv2d):
    """Convolution of stride 2, `(B, in, 2s, 2s)` to `(B, out, s, s)`, without bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__(
            in_channels, out_channels, kernel_size, stride=2, padding=_left(kernel_size), bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map `(B, in, 2s, 2s)`."""
        if _is_gathered(self.weight, input.shape[-1] // 2):
            return cast(Tensor, _Gathered.apply(*_cast(input, self.weight), False))
        return super().forward(input)


class UpConv(nn.ConvTranspose2d):
    """Transposed convolution of stride 2, `(B, in, s, s)` to `(B, out, 2s, 2s)`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=2,
            padding=_left(kernel_size),
            output_padding=kernel_size - 4,
            bias=bias,
        )

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map `(B, in, s, s)`."""
        if self.bias is None and _is_gathered(self.weight, input.shape[-1]):
            return cast(Tensor, _Gathered.apply(*_cast(input, self.weight), True))
        if self.bias is not None and self.out_channels <= 8 and _is_eager_cpu(self.weight):
            return cast(Tensor, _Drawn.apply(*_cast(input, self.weight, self.bias)))
        return super().forward(input, output_size)


class _Gathered(torch.autograd.Function):
    """Either of them by its windows: with one matrix each is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, is_up: bool) -> Tensor:
        matrix = weight.permute(0, 2, 3, 1).flatten(1)
        rows = _rows(x) if is_up else _windows(x, weight.shape[-1])
        ctx.save_for_backward(rows, matrix)
        ctx.is_up, ctx.weight_shape, ctx.shape = is_up, weight.shape, x.shape
        if is_up:
            return _lay(rows @ matrix, len(x), x.shape[-1], weight.shape)
        side = x.shape[-1] // 2
        return (rows @ matrix.t()).unflatten(0, (len(x), side, side)).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator's annotation loses the name of `ctx`
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        (grad,) = grad_outputs
        rows, matrix = ctx.saved_tensors
        small, large, kernel, _ = ctx.weight_shape
        batch_size, side = ctx.shape[0], grad.shape[-1]
        if ctx.is_up:
            windows = _windows(grad, kernel)
            of_input = (windows @ matrix.t()).unflatten(0, (batch_size, side // 2, side // 2))
            of_input, of_matrix = of_input.permute(0, 3, 1, 2), rows.t() @ windows
        else:
            dy = _rows(grad)
            of_input = _lay(dy @ matrix, batch_size, side, ctx.weight_shape)
            of_matrix = dy.t() @ rows
        of_weight = of_matrix.view(small, kernel, kernel, large).permute(0, 3, 1, 2)
        return of_input, of_weight, None


class _Drawn(torch.autograd.Function):
    """Transposed convolution to few channels: a plain one to four times as many, interleaved.

    An output pixel sees 2 or 3 inputs a side. The plain convolution of 3 computes half of its
    products with zeros, and still takes half the time; the gradient is oneDNN's, which is fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        children = F.conv2d(x, _of_children(weight), bias.repeat(4), padding=1)
        children = children.permute(0, 2, 3, 1).unflatten(3, (2, -1))  # (B, s, s, row, column*C)
        children = children.transpose(2, 3).flatten(1, 2)  # (B, 2s, s, column*C)
        return children.unflatten(3, (2, -1)).flatten(2, 3).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # the decorator's annotation loses the name of `ctx`
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        x, weight = ctx.saved_tensors
        _, channels, kernel, _ = weight.shape
        padding, output_padding = [_left(kernel)] * 2, [kernel - 4] * 2
        shape = ([channels], [2, 2], padding, [1, 1], True, output_padding, 1)
        return torch.ops.aten.convolution_backward(grad, x, weight, *shape, ctx.needs_input_grad)


def _of_children(weight: Tensor) -> Tensor:
    """A transposed kernel `(in, C, k, k)` as a plain one to each child: `(2*2*C, in, 3, 3)`."""
    left = _left(weight.shape[-1])
    taps = [[child + left + 3 - 2 * i for i in range(3)] for child in (0, 1)]
    kernels = F.pad(weight, (1, 1, 1, 1))[:, :, taps][..., taps]  # (in, C, 2, 3, 2, 3)
    return kernels.permute(2, 4, 1, 0, 3, 5).flatten(0, 2)


def _is_gathered(weight: Tensor, small_side: int) -> bool:
    """Whether the product is faster: on a CPU, for maps of 4 pixels and many channels."""
    return _is_eager_cpu(weight) and small_side <= 4 and weight.numel() >= 1 << 20


def _is_eager_cpu(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and not torch.compiler.is_compiling()


def _cast(*tensors: Tensor) -> tuple[Tensor, ...]:
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype("cpu")) for x in tensors)


def _left(kernel_size: int) -> int:
    return (kernel_size - 1) // 2


def _rows(x: Tensor) -> Tensor:
    """`(B, C, s, s)` to `(B*s*s, C)`; a view where channels are last."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _windows(x: Tensor, kernel: int) -> Tensor:
    """The `k` x `k` windows of a map `(B, C, 2s, 2s)`, two pixels apart: `(B*s*s, k*k*C)`."""
    left, side = _left(kernel), x.shape[-1] // 2
    edges = (left, kernel - 2 - left) * 2
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, *edges)).contiguous()  # (B, 2s+k-2, 2s+k-2, C)
    batch, row, column, _ = x.stride()
    size = (len(x), side, side, kernel, kernel * x.shape[-1])
    return x.as_strided(size, (batch, 2 * row, 2 * column, row, 1)).flatten(3).flatten(0, 2)


def _lay(windows: Tensor, batch_size: int, side: int, weight_shape: torch.Size) -> Tensor:
    """Add windows `(B*s*s, k*k*C)` where they came from: `(B, C, 2s, 2s)`."""
    _, channels, kernel, _ = weight_shape
    windows = windows.view(batch_size, side, side, kernel, kernel, channels)
    width, left = 2 * side + kernel - 2, _left(kernel)
    dtype = torch.promote_types(windows.dtype, torch.float32)
    total = windows.new_zeros(batch_size, width, width, channels, dtype=dtype)
    for i in range(kernel):
        for j in range(kernel):
            total[:, i : i + 2 * side : 2, j : j + 2 * side : 2] += windows[:, :, :, i, j]
    total = total[:, left : left + 2 * side, left : left + 2 * side].to(windows.dtype)
    return total.contiguous().permute(0, 3, 1, 2)
