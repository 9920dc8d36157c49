# SPDX-License-Identifier: Apache-2.0
"""What this CPU can do, and how long an update would then take."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from common import cpu_ms
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def limits() -> dict[str, float]:
    """GFLOP/s of a large product and of a convolution, forward and backward; GB/s of a copy."""
    found = {}
    for name, dtype in (("", torch.float32), ("_bf16", torch.bfloat16)):
        a = torch.randn(2048, 2048).to(dtype)
        found[f"gemm{name}"] = 2 * 2048**3 / _best(lambda a=a: a @ a) / 1e6
        x = torch.randn(16, 128, 32, 32).to(dtype).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        w = torch.randn(128, 128, 3, 3).to(dtype).requires_grad_()
        operations = 3 * 2 * 16 * 32 * 32 * 128 * 128 * 9
        best = _best(lambda x=x, w=w: F.conv2d(x, w, padding=1).sum().backward())
        found[f"conv{name}"] = operations / best / 1e6
    a, b = torch.randn(2, 32 << 20)
    found["copy_gb_s"] = 2 * a.numel() * 4 / _best(lambda: b.copy_(a)) / 1e6
    return {name: round(value, 1) for name, value in found.items()}


def _best(run: Callable[[], object]) -> float:
    return min(cpu_ms(run) for _ in range(7))


def bound_ms(
    side: Callable[[], object], model: nn.Module, limit: dict[str, float], kind: str
) -> float:
    """Milliseconds an update would take at the rates of `limits`."""
    moved = 28 * sum(p.numel() for p in model.parameters()) if model.training else 0
    with Bound(limit[f"gemm{kind}"], limit[f"conv{kind}"], limit["copy_gb_s"]) as bound:
        side()
    return bound.ms + moved / limit["copy_gb_s"] / 1e6


class Bound(TorchDispatchMode):
    """Milliseconds of products and convolutions: of each its operations, or its bytes if longer.

    The bytes are what it must read and write once, so that a product of few rows, which reads a
    large matrix, is not expected at the rate of one that computes.
    """

    def __init__(self, product: float, convolution: float, copy: float):
        super().__init__()
        self.product, self.convolution, self.copy, self.ms = product, convolution, copy, 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet is torch.ops.aten.addbmm:  # torch does not count it
            operations = 2 * args[1].numel() * args[2].shape[-1]
        elif packet in flop_registry:
            operations = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        else:
            return out
        rate = self.convolution if "convolution" in str(packet) else self.product
        self.ms += max(operations / rate, _num_bytes((args, out)) / self.copy) / 1e6
        return out


def _num_bytes(tree: Any) -> int:
    """Bytes of the tensors in it; what is expanded is there once."""
    tensors = [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
    return sum(
        x.element_size() * prod(n for n, step in zip(x.shape, x.stride(), strict=True) if step)
        for x in tensors
    )
