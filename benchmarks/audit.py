# SPDX-License-Identifier: Apache-2.0
"""Is our world model the released one? Loss and gradients with copied weights, one line each.

    python benchmarks/audit.py --peer-path CLONE --sizes 1m 12m 50m

Modes instead of samples on both sides. Two things are theirs alone and stand here, not in the
model: the initial state's gradient goes straight through to log-probabilities, not to
probabilities, and the first frame is reconstructed, too. Nothing of their code is kept here.
"""

import argparse
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from authors import build_world_model
from common import conditions, report
from torch import Tensor

from lawm_hf.models.configuration_dreamer import DreamerV3Config
from lawm_hf.models.modeling_dreamer import DreamerV3WorldModel
from lawm_hf.models.modeling_outputs import frame_error

Tensors = dict[str, Tensor]


def released_loss(model: DreamerV3WorldModel, frames: Tensor, actions: Tensor) -> Tensor:
    """The released loss of frames `(B, T, C, H, W)`, action `t` leading into frame `t`."""
    rssm, images = model.rssm, model._centre(frames)
    deter = rssm.initial_deter.tanh().expand(len(frames), -1)
    log_probs = rssm.prior(deter)
    mode = F.one_hot(log_probs.argmax(-1), log_probs.shape[-1])
    stoch = mode + log_probs - log_probs.detach()
    led_by = F.pad(actions[:, 1:], (0, 0, 1, 0))  # the first action is not used
    states = rssm._scan(deter, stoch, led_by, model._embed(images), None)
    error = frame_error(model._draw(states), images, images[:, :1])
    return (error + model._kl(states)).mean()


def as_ours(theirs: Tensors, model: DreamerV3WorldModel) -> Tensors:
    """Their weights, or gradients, under our names and in our layouts."""
    c = model.config
    ours: Tensors = {}
    for part, layers in (
        ("encoder", "encoder._cnn.layers."),
        ("decoder", "heads.decoder._cnn.layers."),
    ):
        for name, value in theirs.items():
            if name.startswith(layers):
                rest = name.removeprefix(layers).replace(".norm.", ".")
                ours[f"{part}.layers.{rest}"] = value
    old, new = "dynamics.", "rssm."
    for norm, their_norm in (
        ("recurrence.in_norm", "_img_in_layers.1"),
        ("recurrence.gates_norm", "_cell.layers.GRU_norm"),
        ("prior_norm", "_img_out_layers.1"),
        ("posterior_norm", "_obs_out_layers.1"),
    ):
        for kind in ("weight", "bias"):
            ours[f"{new}{norm}.{kind}"] = theirs[f"{old}{their_norm}.{kind}"]
    stoch_and_action = theirs[f"{old}_img_in_layers.0.weight"]
    ours[f"{new}recurrence.stoch_in.weight"] = stoch_and_action[:, : c.stoch_size]
    ours[f"{new}recurrence.action_in.weight"] = stoch_and_action[:, c.stoch_size :]
    ours[f"{new}recurrence.gates.weight"] = theirs[f"{old}_cell.layers.GRU_linear.weight"]
    ours[f"{new}prior_in.weight"] = theirs[f"{old}_img_out_layers.0.weight"]
    deter_and_embed = theirs[f"{old}_obs_out_layers.0.weight"]
    ours[f"{new}posterior_deter_in.weight"] = deter_and_embed[:, : c.deter_size]
    embed = deter_and_embed[:, c.deter_size :].unflatten(1, (c.grid_channels, -1))
    ours[f"{new}posterior_embed_in.weight"] = embed.transpose(1, 2).flatten(1)  # channels last
    for name, stat in (("prior", "_imgs_stat_layer"), ("posterior", "_obs_stat_layer")):
        ours[f"{new}{name}_out.weight"] = theirs[f"{old}{stat}.weight"]
        ours[f"{new}{name}_bias"] = theirs[f"{old}{stat}.bias"]
    ours[f"{new}initial_deter"] = theirs[f"{old}W"].flatten()
    linear = theirs["heads.decoder._cnn._linear_layer.weight"]
    ours["decoder.stoch_in.weight"] = linear[:, : c.stoch_size]
    ours["decoder.deter_in.weight"] = linear[:, c.stoch_size :].t()[None]
    ours["decoder.bias"] = theirs["heads.decoder._cnn._linear_layer.bias"]
    return ours


def mode_for_sample(distribution, sample_shape=()) -> Tensor:
    """What stands for their sampling: the mode, straight through to the probabilities."""
    probs = distribution.probs
    return F.one_hot(probs.argmax(-1), probs.shape[-1]) + probs - probs.detach()


def audit(clone: Path, size: str, batch_size: int) -> dict:
    """Both losses, and the largest difference of a gradient as a share of its largest entry."""
    torch.manual_seed(0)
    theirs = build_world_model(clone, size)
    ours = DreamerV3WorldModel(DreamerV3Config.from_preset(size, "authors"))
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    if counts[0] != counts[1]:
        raise SystemExit(f"The models must have as many parameters as each other, got {counts}.")
    ours.load_state_dict(as_ours(theirs.state_dict(), ours))
    frames = torch.randint(0, 256, (batch_size, 10, 3, 128, 128), dtype=torch.uint8)
    actions = torch.rand(batch_size, 10, 7) * 2 - 1
    first = torch.zeros(batch_size, 10)
    first[:, 0] = 1
    latents = [actions.clone().requires_grad_() for _ in range(2)]
    inputs = {"image": frames.permute(0, 1, 3, 4, 2), "action": latents[1], "is_first": first}
    from dreamerv3.tools import OneHotDist  # type: ignore

    with (
        patch.object(OneHotDist, "sample", mode_for_sample),
        patch.object(torch, "tensor", lambda value, **options: torch.as_tensor(value, **options)),
    ):
        expected = theirs._train(inputs)  # pyright: ignore[reportCallIssue]
        expected.backward()
    loss = released_loss(ours, frames, latents[0])
    loss.backward()
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    wanted = as_ours({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}, ours)
    found["actions"], wanted["actions"] = (x.grad for x in latents if x.grad is not None)
    if found.keys() != wanted.keys():
        raise SystemExit(f"One side lacks a gradient: {sorted(found.keys() ^ wanted.keys())}.")
    errors = {n: ((found[n] - w).abs().max() / w.abs().max()).item() for n, w in wanted.items()}
    worst = max(errors, key=lambda name: errors[name])
    return {
        "size": size,
        "parameters": counts[0],
        "loss": loss.item(),
        "their_loss": expected.item(),
        "gradients": len(errors),
        "largest_gradient_difference": errors[worst],
        "of": worst,
    }


def main() -> None:
    """Audit the sizes asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-path", type=Path, required=True, help="clone of the authors' code")
    parser.add_argument("--sizes", nargs="+", default=["1m", "12m"])
    parser.add_argument("--batch_size", type=int, default=2)
    args = parser.parse_args()
    for size in args.sizes:
        report(**audit(args.peer_path, size, args.batch_size) | conditions())


if __name__ == "__main__":
    main()
