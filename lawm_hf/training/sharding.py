# SPDX-License-Identifier: Apache-2.0
"""From a model to what several processes train (DDP, FSDP2), and back to a whole one.

Accelerate does the work. Here is what it leaves to the program, so that any number of processes
trains as one does.
"""

import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, broadcast
from accelerate.utils.operations import convert_outputs_to_fp32
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import AutoModel


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process holds only its part of the weights."""
    return accelerator.distributed_type == DistributedType.FSDP


def shard_on_cpus(accelerator: Accelerator) -> None:
    """Shard over CPU processes too, if the launcher says FSDP: Accelerate would replicate."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (PartialState(), accelerator.state):  # the second is renewed from the first
            state.distributed_type = DistributedType.FSDP
    if is_sharded(accelerator):
        _check_plugin(_plugin(accelerator))


def _plugin(accelerator: Accelerator) -> FullyShardedDataParallelPlugin:
    plugin = accelerator.state.fsdp_plugin
    assert plugin is not None, "only where Accelerate shards"
    return plugin


def _check_plugin(plugin: FullyShardedDataParallelPlugin) -> None:
    """Refuse settings under which a model of ours cannot be sharded, or would be another.

    Raises:
        ValueError: Naming the setting.
    """
    wrong = {
        "fsdp_version: 2": plugin.fsdp_version != 2,
        # Only what is called as a whole can be gathered as a whole: a policy, a world model.
        "fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP, or NO_WRAP": plugin.auto_wrap_policy
        is size_based_auto_wrap_policy,
        # It draws other noise when it computes again, and counts latents twice.
        "fsdp_activation_checkpointing: false, and --gradient_checkpointing true after the "
        "recipe": plugin.activation_checkpointing,
        # It fails on buffers.
        "fsdp_cpu_ram_efficient_loading: false": plugin.cpu_ram_efficient_loading,
    }
    for setting, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(
                f"Sharding (FSDP) needs other settings than the launcher gave. Set {setting}; "
                "recipes/accelerate/fsdp.yaml has them all."
            )


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, scheduler: Any, *, all_used: bool
) -> tuple[Any, Any, Any]:
    """`accelerator.prepare`, with the weights of the main process everywhere.

    Args:
        accelerator: The accelerator.
        model: The model.
        optimizer: Its optimiser.
        scheduler: The optimiser's schedule.
        all_used: Whether each parameter that learns surely has a gradient in each update; then
            DDP need not search for those that have none.
    """
    if accelerator.ddp_handler is not None:
        accelerator.ddp_handler.find_unused_parameters = not all_used
    if is_sharded(accelerator):
        for tensor in model.state_dict().values():  # DDP does so itself
            tensor.copy_(broadcast(tensor.to(accelerator.device)))
        if accelerator.mixed_precision != "no":
            # As without sharding: weights, states and loss in float32, products in half of it.
            _plugin(accelerator).mixed_precision_policy = MixedPrecisionPolicy()
            model.forward = convert_outputs_to_fp32(accelerator.autocast()(model.forward))
    return accelerator.prepare(model, optimizer, scheduler)


def whole_model(accelerator: Accelerator, model: nn.Module) -> Any:
    """The model itself, to look at and to save; to be called by all processes.

    Sharded weights are put together in a model of the main process, which the training goes on
    without; the others get their sharded one.
    """
    inner: Any = accelerator.unwrap_model(model)
    if not is_sharded(accelerator):
        return inner
    weights = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return inner
    with torch.device("meta"):
        whole = AutoModel.from_config(inner.config)
    whole.load_state_dict(weights, assign=True)
    return whole.to(accelerator.device)


def clip_norm(parameters: Any, max_norm: float) -> Tensor:
    """Clip the gradients to a norm that they have together, sharded or not; returns it.

    As `torch.nn.utils.clip_grad_norm_`, but on a CPU, where looking at the norm waits for nothing,
    gradients that need no clipping are not multiplied by 1: that is reading and writing them all.
    """
    parameters = list(parameters)
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if norm.device.type != "cpu" or not norm + 1e-6 <= max_norm:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class AveragedWeights(EMAModel):
    """Averages of sharded weights, too; what is saved is whole, for any number of processes."""

    def state_dict(self) -> dict[str, Any]:
        """The averages and how they are formed; all processes must call it."""
        whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in self.shadow_params]
        return super().state_dict() | {"shadow_params": whole}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`; all processes must call it."""
        before = self.shadow_params
        super().load_state_dict(state_dict)
        self.shadow_params = [
            distribute_tensor(new.to(old.device), old.device_mesh, old.placements)
            if isinstance(old, DTensor)
            else new.to(old.device)
            for old, new in zip(before, self.shadow_params, strict=True)
        ]
