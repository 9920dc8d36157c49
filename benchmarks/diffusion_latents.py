# SPDX-License-Identifier: Apache-2.0
"""How should a Diffusion Policy make latent actions? Measured on the tabletop's reach suite.

    python benchmarks/diffusion_latents.py --candidates ddim-1 authors

Each candidate is pretrained together with a world model for the same CPU time, on video alone, in
turns so that other load on the machine hits all alike. Lines of JSON:

* `loss`, `loss_swapped`, `loss_copy`: world model on held-out clips with the clip's own latents,
  with another clip's, and of copying the first frame;
* `r2`, `named`: ridge regression from the latents of first frames to where the named cube lies, on
  held-out episodes: R2, and how often the named cube is the one nearest to the prediction.

Measured on one thread of a heavily shared 2-core machine, one seed, after 100 s of a schedule of
120 s (`--candidates ddim-1 authors ddim-2 --seconds 120 --reports 6`):

| candidate | updates | R2 at 40, 60, 80, 100 s | named | loss | swapped | copy |
|-----------|---------|-------------------------|-------|------|---------|------|
| ddim-1    | 432     | .25 .61 .63 .64         | 69 %  | 17.5 | 22.3    | 36.7 |
| ddim-2    | 338     | .02 .21 .56 .57         | 64 %  | 19.5 | 21.6    | 36.7 |
| authors   | 435     | .02 .21 .50 .53         | 60 %  | 18.5 | 21.5    | 36.7 |
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import conditions
from common import report as print_line
from torch import Tensor
from torch.nn import functional as F

from lawm_hf.envs.tabletop.expert import ScriptedExpert
from lawm_hf.envs.tabletop.simulation import Tabletop
from lawm_hf.models.configuration_diffusion import DiffusionPolicyConfig
from lawm_hf.models.configuration_dreamer import DreamerV3Config
from lawm_hf.models.modeling_diffusion import DiffusionPolicy
from lawm_hf.models.modeling_dreamer import DreamerV3WorldModel
from lawm_hf.models.modeling_pretraining import LawmForPretraining
from lawm_hf.models.text_lawm import hash_words

LENGTH, CHUNK, LAST_START = 14, 10, 3  # frames of an episode, actions of a chunk, latest window
HELD_OUT = 200
BATCH_SIZE = 32


# Options on top of the tabletop preset with `latent_norm="batch"`, predicting noise as the authors.
CANDIDATES: dict[str, dict[str, Any]] = {
    "untrained": {},
    "ddim-1": {"num_latent_steps": 1},
    "ddim-2": {"num_latent_steps": 2},
    "ddim-1-sample": {"prediction_type": "sample"},
    "ddim-1-no-norm": {"latent_norm": "none"},
    "authors": {"latent_generator": "authors", "latent_norm": "none"},
}


def record(num_episodes: int, cache: Path) -> dict[str, np.ndarray]:
    """Noisy expert episodes of the reach suite, front view; seeds 0, 1, 2 and so on."""
    if cache.exists():
        return dict(np.load(cache))
    world = Tabletop("reach", image_size=64)
    rows: dict[str, list] = {k: [] for k in ("frames", "task", "cubes", "named")}
    for seed in range(num_episodes):
        world.reset(seed)
        expert, rng, noise = ScriptedExpert(world), np.random.RandomState(seed), np.zeros(7)
        deviation = rng.uniform(0, 0.3)
        frames = []
        for _ in range(LENGTH):
            frames.append(world.render("front").transpose(2, 0, 1))
            noise[:3] = 0.7 * noise[:3] + rng.randn(3) * deviation
            world.step(expert.action() + noise)
        rows["frames"].append(np.stack(frames))
        rows["task"].append(hash_words(world.instruction, 512).numpy())
        rows["cubes"].append(world.cubes[:, :2].astype(np.float32))
        rows["named"].append(world.layout.target)
    data = {key: np.stack(value) for key, value in rows.items()}
    np.savez(cache, allow_pickle=False, **data)
    return data


class Episodes:
    """Tensors of the recorded episodes, and batches of them."""

    def __init__(self, data: dict[str, np.ndarray]):
        self.frames = torch.from_numpy(data["frames"])  # (episodes, LENGTH, 3, 64, 64) uint8
        self.small = torch.stack([F.avg_pool2d(x.float(), 2).round().byte() for x in self.frames])
        task = torch.from_numpy(data["task"])
        task = task / task.square().mean(1, keepdim=True).sqrt()
        self.task = task - task.unique(dim=0).mean(0)  # centred, as the processor does
        self.cubes, self.named = torch.from_numpy(data["cubes"]), torch.from_numpy(data["named"])
        self.target = self.cubes[torch.arange(len(self.named)), self.named]
        self.held_out = torch.arange(len(self.named) - HELD_OUT, len(self.named))

    def observation(self, episodes: Tensor, starts: Tensor) -> dict[str, Tensor]:
        """Inputs of the policy at the given frames."""
        images = self.frames[episodes, starts].float() / 255
        return {
            "pixel_values": (images[:, None] - 0.5) / 0.25,
            "task_embeds": self.task[episodes],
        }

    def windows(self, episodes: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Frames at 32 pixels, `(B, N+1, 3, 32, 32)` uint8, and which of them are padding."""
        steps = starts[:, None] + torch.arange(CHUNK + 1)
        return self.small[episodes[:, None], steps.clamp(max=LENGTH - 1)], steps >= LENGTH


class Pretraining:
    """One candidate in joint training; `spent` is its CPU time in seconds."""

    def __init__(self, name: str, seed: int):
        torch.manual_seed(seed)
        options = {"latent_norm": "batch", "prediction_type": "epsilon"} | CANDIDATES[name]
        policy = DiffusionPolicy(DiffusionPolicyConfig.from_preset("tabletop", **options))
        world_model = DreamerV3WorldModel(DreamerV3Config.from_preset("tiny", num_decoded_steps=2))
        self.model = LawmForPretraining(policy, world_model)
        vision, rest = [], []
        for parameter_name, parameter in policy.named_parameters():
            is_vision = parameter_name.startswith(policy.vision_parameter_prefixes)
            (vision if is_vision else rest).append(parameter)
        groups = [(vision, 1e-3), (rest, 5e-4), (list(world_model.parameters()), 1e-3)]
        self.optimizer = torch.optim.Adam([{"params": p, "lr": r} for p, r in groups], fused=True)
        self.rates = [rate for _, rate in groups]
        self.generator = torch.Generator().manual_seed(seed)
        self.spent, self.updates = 0.0, 0

    def update(self, episodes: Episodes, seconds: float) -> None:
        """One update; `seconds` is when the learning rate arrives at zero."""
        begin = time.process_time()
        factor = min(1, (self.updates + 1) / 30) * (
            0.5 + 0.5 * np.cos(np.pi * self.spent / seconds)
        )
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        clips = len(episodes.named) - HELD_OUT
        chosen = torch.randint(clips, (BATCH_SIZE,), generator=self.generator)
        starts = torch.randint(LAST_START + 1, (BATCH_SIZE,), generator=self.generator)
        frames, is_pad = episodes.windows(chosen, starts)
        observation = episodes.observation(chosen, starts)
        self.model.train()
        self.model(frames=frames, frame_is_pad=is_pad, **observation).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.policy.parameters(), 10.0)
        torch.nn.utils.clip_grad_norm_(self.model.world_model.parameters(), 100.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self.spent += time.process_time() - begin


@torch.no_grad()
def probe(model: LawmForPretraining, episodes: Episodes) -> dict[str, float]:
    """What the latents of first frames say, and how much the world model needs them."""
    model.eval()
    everyone = torch.arange(len(episodes.named))[-HELD_OUT - 1000 :]
    latents = torch.cat(
        [
            model.policy(**episodes.observation(part, torch.zeros_like(part))).actions.flatten(1)
            for part in everyone.split(200)
        ]
    )
    fit, test = everyone[:-HELD_OUT], episodes.held_out
    predicted = ridge(latents[:-HELD_OUT], episodes.target[fit], latents[-HELD_OUT:])
    error = (predicted - episodes.target[test]).square().sum()
    spread = (episodes.target[test] - episodes.target[fit].mean(0)).square().sum()
    nearest = torch.cdist(predicted[:, None], episodes.cubes[test])[:, 0].argmin(1)
    frames, is_pad = episodes.windows(test, torch.zeros_like(test))
    own = latents[-HELD_OUT:].unflatten(1, (CHUNK, -1))
    losses = [
        model.world_model(frames=frames, actions=z, frame_is_pad=is_pad).loss.item()
        for z in (own, own.roll(1, dims=0))
    ]
    images = frames.float() / 255
    motion = (images[:, 1:] - images[:, :1]).abs().amax(2, keepdim=True)
    copy = (images[:, 1:] - images[:, :1]).square() * (0.2 + (4 * motion).clamp(max=1))
    return {
        "r2": 1 - (error / spread).item(),
        "named": (nearest == episodes.named[test]).float().mean().item(),
        "loss": losses[0],
        "loss_swapped": losses[1],
        "loss_copy": copy.sum((2, 3, 4)).mean().item(),
        "abs": latents.abs().mean().item(),
    }


def ridge(x: Tensor, y: Tensor, x_test: Tensor, strength: float = 1e-2) -> Tensor:
    """Ridge regression with standardised inputs."""
    mean, std, y_mean = x.mean(0), x.std(0) + 1e-6, y.mean(0)
    x, x_test = (x - mean) / std, (x_test - mean) / std
    gram = x.T @ x / len(x) + strength * torch.eye(x.shape[1])
    return x_test @ torch.linalg.solve(gram, x.T @ (y - y_mean) / len(x)) + y_mean


def main() -> None:
    """Measure the chosen candidates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--seconds", type=float, default=120, help="CPU time of pretraining")
    parser.add_argument(
        "--episodes", type=int, default=3000, help="recorded; the last 200 held out"
    )
    parser.add_argument("--reports", type=int, default=6, help="times to look, evenly spread")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cache", type=Path, default=Path("reach_episodes.npz"))
    args = parser.parse_args()
    episodes = Episodes(record(args.episodes, args.cache))
    runs = [(n, seed, Pretraining(n, seed)) for seed in args.seeds for n in args.candidates]
    for part in range(1, args.reports + 1):
        until = args.seconds * part / args.reports
        while late := [run for name, _, run in runs if run.spent < until and name != "untrained"]:
            for run in late:
                run.update(episodes, args.seconds)
        for name, seed, run in runs:
            report(name, seed, run, probe(run.model, episodes))


def report(name: str, seed: int, run: Pretraining, values: dict[str, float]) -> None:
    """Print one line of JSON."""
    row = {"candidate": name, "seed": seed, "updates": run.updates, "seconds": run.spent} | values
    row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
    print_line(**row, **conditions())


if __name__ == "__main__":
    main()
