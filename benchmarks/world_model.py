# SPDX-License-Identifier: Apache-2.0
"""CPU time of one world-model update: what does each way of computing the same loss cost?

Four ways, equal in their losses (checked before timing) and interleaved in one process:

* `stepwise`: frame by frame, as the equations read; AdamW's default loop over parameters.
* `batched`: encoder, prior, decoder and projections for all frames at once; fused AdamW.
* `deferred`: what `DreamerV3WorldModel` does: also, the scan's weight gradients in one product.
* `bfloat16`: the same under autocast. Not output-equal, hence a row of its own.

Prints one JSON line per preset and way. CPU time of one thread is what a busy machine can repeat:

    OMP_NUM_THREADS=1 python benchmarks/world_model.py --presets tiny 1m 12m --rounds 7
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lawm_hf.models import scan_linear
from lawm_hf.models.configuration_dreamer import PRESETS, DreamerV3Config
from lawm_hf.models.modeling_dreamer import DreamerV3WorldModel
from lawm_hf.models.modeling_outputs import frame_error
from lawm_hf.models.modeling_rssm import categorical_kl

Loss = Callable[[DreamerV3WorldModel, Tensor, Tensor, Tensor], Tensor]


def stepwise_loss(
    model: DreamerV3WorldModel, frames: Tensor, actions: Tensor, noise: Tensor
) -> Tensor:
    """The posterior or imagination loss, one frame at a time."""
    config = model.config
    state = model.initial_state(model.encode(frames[:, :1])[:, 0], noise[:, 0])
    losses = []
    for k in range(actions.shape[1]):
        step = (actions[:, k : k + 1], noise[:, k + 1 : k + 2])
        target, kl = frames[:, k + 1 : k + 2], 0.0
        if config.objective == "posterior":
            state = model.observe(model.encode(target), step[0], state, step[1]).at(0)
            prior, posterior = model.rssm.prior(state.deter), state.log_probs
            dyn = categorical_kl(posterior.detach(), prior).clamp(min=config.free_nats)
            rep = categorical_kl(posterior, prior.detach()).clamp(min=config.free_nats)
            kl = config.dyn_scale * dyn + config.rep_scale * rep
        else:
            state = model.imagine(state, *step).at(0)
        states = type(state)(*(part[:, None] for part in state))
        first = frames[:, 0].float() / 255
        drawn, target = model.decode(states, first), target.float() / 255
        error = frame_error(drawn, target, first[:, None], config.motion_weight)
        losses.append(error[:, 0] + kl)
    return torch.stack(losses, 1).mean()


def model_loss(
    model: DreamerV3WorldModel, frames: Tensor, actions: Tensor, noise: Tensor
) -> Tensor:
    """The model's own forward."""
    return model(frames, actions, noise=noise).loss


def batched_loss(
    model: DreamerV3WorldModel, frames: Tensor, actions: Tensor, noise: Tensor
) -> Tensor:
    """The model's own forward, with autograd's weight gradient at every step."""
    can_defer, scan_linear._can_defer = scan_linear._can_defer, lambda *_, **__: False
    try:
        return model_loss(model, frames, actions, noise)
    finally:
        scan_linear._can_defer = can_defer


def bfloat16_loss(
    model: DreamerV3WorldModel, frames: Tensor, actions: Tensor, noise: Tensor
) -> Tensor:
    """The model's own forward under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        return model_loss(model, frames, actions, noise)


WAYS: dict[str, Loss] = {
    "stepwise": stepwise_loss,
    "batched": batched_loss,
    "deferred": model_loss,
    "bfloat16": bfloat16_loss,
}


def measure(config: DreamerV3Config, batch_size: int, num_steps: int, rounds: int) -> list[dict]:
    """Time an update of every way, in alternating order; the first round warms up."""
    torch.manual_seed(0)
    model = DreamerV3WorldModel(config).train()
    shape = (batch_size, num_steps + 1, config.num_channels, config.image_size, config.image_size)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8)
    actions = torch.rand(batch_size, num_steps, config.action_size) * 2 - 1
    noise = torch.rand(batch_size, num_steps + 1, config.num_categoricals)
    batch = (frames, actions, noise)
    with torch.no_grad():
        for loss in (batched_loss, model_loss):
            torch.testing.assert_close(loss(model, *batch), stepwise_loss(model, *batch))

    parameters = list(model.parameters())
    optimizers = {
        is_fused: torch.optim.AdamW(parameters, lr=1e-5, fused=is_fused)
        for is_fused in (False, True)
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for r in range(rounds + 1):
        for name in WAYS if r % 2 else reversed(WAYS):
            start = time.process_time()
            WAYS[name](model, *batch).backward()
            middle = time.process_time()
            torch.nn.utils.clip_grad_norm_(parameters, 100.0)
            optimizers[name != "stepwise"].step()
            model.zero_grad(set_to_none=True)
            times[name].append((middle - start, time.process_time() - middle))
    base = [sum(pair) for pair in times["stepwise"][1:]]
    rows = []
    for name, pairs in times.items():
        gradient, optimizer = zip(*pairs[1:], strict=True)
        ratios = [b / sum(pair) for b, pair in zip(base, pairs[1:], strict=True)]
        rows.append(
            {
                "way": name,
                "gradient_ms": round(1e3 * statistics.median(gradient), 1),
                "optimizer_ms": round(1e3 * statistics.median(optimizer), 1),
                "speedup": round(statistics.median(ratios), 2),
                "speedup_range": [round(min(ratios), 2), round(max(ratios), 2)],
                "parameters": model.num_parameters(),
            }
        )
    return rows


def main() -> None:
    """Measure the presets asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["tiny", "1m"], choices=list(PRESETS))
    parser.add_argument("--variants", nargs="+", default=["default", "authors"])
    parser.add_argument("--objectives", nargs="+", default=["posterior", "imagination"])
    parser.add_argument("--image_size", type=int, default=None, help="default: the preset's")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
    }
    for preset in args.presets:
        for variant in args.variants:
            for objective in args.objectives:
                config = DreamerV3Config.from_preset(
                    preset,
                    variant,
                    image_size=args.image_size,
                    objective=objective,
                    num_decoded_steps=None,  # every way must compute the same loss
                )
                about = {
                    "preset": preset,
                    "variant": variant,
                    "objective": objective,
                    "image_size": config.image_size,
                    "batch_size": args.batch_size,
                    "load": round(os.getloadavg()[0], 1),
                }
                for row in measure(config, args.batch_size, args.num_steps, args.rounds):
                    print(json.dumps(about | row | machine), flush=True)


if __name__ == "__main__":
    main()
