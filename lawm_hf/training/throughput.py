# SPDX-License-Identifier: Apache-2.0
"""How well a run uses its machine: waiting for data, model FLOP/s utilisation, peak memory.

Nothing here waits for a device. FLOPs are counted where they can be compared with what the device
could do; else counting would only cost time.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

# Dense (not sparse) bf16, for V100 and T4 fp16, teraFLOP/s by the makers' data sheets. All words of
# an entry must be in the device's name; of several the first holds.
_PEAK_TFLOPS = (
    ("B200", 2250),
    ("GH200", 989),
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),
    ("A100", 312),
    ("A40", 150),
    ("A10", 125),
    ("L40S", 362),
    ("L4", 121),
    ("V100", 125),
    ("T4", 65),
    ("RTX 4090", 165),
    ("RTX 3090", 71),
)
_PARTS_OR_OTHERS = {"MIG", "Laptop", "Ti", "D", "SUPER"}


def peak_flops(name: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU by its name; `None` if it is not known."""
    words = set(name.replace("-", " ").split())
    if words & _PARTS_OR_OTHERS:
        return None
    return next((1e12 * t for gpu, t in _PEAK_TFLOPS if words >= set(gpu.split())), None)


class Throughput:
    """Counts between two lines of a log.

    Args:
        device: What the model runs on.
        accumulation: Micro-batches of an update.
    """

    def __init__(self, device: torch.device, accumulation: int):
        self.device, self.accumulation = device, accumulation
        is_cuda = device.type == "cuda"
        self.peak = peak_flops(torch.cuda.get_device_name(device)) if is_cuda else None
        self.flops: float | None = None  # of an update
        self.waited, self.since = 0.0, time.perf_counter()

    def timed[T](self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; adds up how long each one took to come."""
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def counting(self) -> AbstractContextManager[Any]:
        """Around a micro-batch, forward to update: counts the FLOPs of the first one."""
        return nullcontext() if self.peak is None or self.flops else self._count()

    @contextmanager
    def _count(self) -> Iterator[None]:
        # Eagerly: of a compiled model no operation would be seen.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            yield
        self.flops = float(counter.get_total_flops()) * self.accumulation

    def read(self, now: float, updates: int) -> dict[str, float | None]:
        """Shares since the last call, and the peak of memory so far; begins anew.

        Args:
            now: `time.perf_counter()`, when the device has done the updates.
            updates: How many these were.
        """
        seconds = now - self.since
        mfu = self.peak and self.flops and self.flops * updates / seconds / self.peak
        waited, self.waited, self.since = self.waited / seconds, 0.0, now
        return {"data_wait_share": waited, "mfu": mfu, "peak_memory_gb": peak_memory(self.device)}


def peak_memory(device: torch.device) -> float | None:
    """GB that tensors took on a GPU at most; on a CPU what this process took, without workers."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource  # Only here: Windows has none.
    except ImportError:
        return getattr(psutil.Process().memory_info(), "peak_wset", 0) / 1e9 or None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
