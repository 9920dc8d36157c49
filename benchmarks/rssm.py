# SPDX-License-Identifier: Apache-2.0
"""How fast is the recurrent core of the world model beside r2dreamer's, both eager?

    OMP_NUM_THREADS=1 python benchmarks/rssm.py --peer-path CLONE

CLONE is one of github.com/NM512/r2dreamer; its code runs as it is. Both observe a chunk of 10
embedded frames at the sizes of preset 50m, draw the prior, take the KL divergence and its gradient;
one hidden layer each in prior and posterior. Their action has a projection of its own, which is
8 % more parameters; ours is made wider until it has as many. One JSON line per side.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch
from common import conditions, in_turn, ratios, report, spread
from torch import Tensor, nn

from lawm_hf.models.configuration_dreamer import DreamerV3Config
from lawm_hf.models.modeling_rssm import RSSM, RSSMState, categorical_kl

FREE_NATS = 1.0


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def their_core(clone: Path, config: DreamerV3Config) -> nn.Module:
    """Their RSSM of the same sizes."""
    sys.path.insert(0, str(clone))
    sys.modules.setdefault("torch.utils.tensorboard", MagicMock())  # of their logger
    import rssm  # type: ignore

    sizes = {"stoch": config.num_categoricals, "deter": config.deter_size}
    sizes |= {"hidden": config.hidden_size, "discrete": config.num_classes}
    layers = {"img_layers": 1, "obs_layers": 1, "dyn_layers": 1, "blocks": config.num_blocks}
    rest = {"act": "SiLU", "unimix_ratio": config.unimix, "initial": "learned", "device": "cpu"}
    return rssm.RSSM(
        SimpleNamespace(**sizes, **layers, **rest), config.embed_size, config.action_size
    )


def our_core(size: str, wanted: int) -> RSSM:
    """Ours, with the narrowest hidden layers that give it as many parameters."""
    for hidden in range(512, 1024, 8):
        core = RSSM(DreamerV3Config.from_preset(size, "paper", hidden_size=hidden))
        for parameter in core.parameters():
            nn.init.normal_(parameter, std=0.02)
        if count(core) >= wanted:
            break
    if not wanted <= count(core) <= 1.02 * wanted:
        raise SystemExit(f"Sides must have equally many parameters, got {count(core)}, {wanted}.")
    return core


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-path", type=Path, required=True, help="clone of r2dreamer")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(0)
    config = DreamerV3Config.from_preset("50m", "paper")
    theirs = their_core(args.peer_path, config)
    ours = our_core("50m", count(theirs))
    embeds = torch.randn(args.batch_size, 10, config.embed_size)
    actions = torch.rand(args.batch_size, 10, config.action_size) * 2 - 1
    resets = torch.zeros(args.batch_size, 10, dtype=torch.bool)
    deter = torch.zeros(args.batch_size, config.deter_size)
    stoch = torch.zeros(args.batch_size, config.num_categoricals, config.num_classes)

    def their_loss() -> Tensor:
        _, deters, posterior = theirs.observe(embeds, actions, (stoch, deter), resets)
        _, prior = theirs.prior(deters)
        dyn, rep = theirs.kl_loss(posterior, prior, FREE_NATS)
        return (dyn + 0.1 * rep).mean()

    def our_loss() -> Tensor:
        noise = torch.rand(args.batch_size, 10, config.num_categoricals)
        state = RSSMState(deter, stoch, stoch)
        states = ours.observe(embeds, actions, state, noise)
        prior = ours.prior(states.deter)
        dyn = categorical_kl(states.log_probs.detach(), prior).clamp(min=FREE_NATS)
        rep = categorical_kl(states.log_probs, prior.detach()).clamp(min=FREE_NATS)
        return (dyn + 0.1 * rep).mean()

    def update(core: nn.Module, loss: Callable[[], Tensor], is_bf16: bool) -> Callable[[], None]:
        def step() -> None:
            core.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                value = loss()
            value.backward()

        return step

    cores = {"r2dreamer": (theirs, their_loss), "ours": (ours, our_loss)}
    sides = {
        name + (", bfloat16" if is_bf16 else ""): update(*core, is_bf16)
        for is_bf16 in (False, True)
        for name, core in cores.items()
    }
    times = in_turn(sides, args.rounds)
    for name, values in times.items():
        base = name.replace("ours", "r2dreamer")
        ms, ms_range = spread(values)
        ratio, ratio_range = ratios(times, name, base)
        line = {"side": name, "parameters": count(cores[name.partition(",")[0]][0]), "ms": ms}
        line |= {"ms_range": ms_range, "base": base, "ratio": ratio, "ratio_range": ratio_range}
        report(**line, rounds=len(values), **conditions())


if __name__ == "__main__":
    main()
