# SPDX-License-Identifier: Apache-2.0
"""The world model's loss as its equations read: one frame, one block, one term after the other.

Nothing of the package is used but the configuration and the names of the weights. Modes stand for
samples. It is slow on purpose: `DreamerV3WorldModel` computes the same in another order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class Reference:
    """Loss of a clip.

    Args:
        config: A `DreamerV3Config`.
        weights: Tensors by their names in the model's state dict.
    """

    def __init__(self, config, weights: dict[str, Tensor]):
        self.c, self.w = config, weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        weight = self.w[f"{name}.weight"]
        if weight.ndim == 2:
            return x @ weight.T
        parts = x.chunk(len(weight), -1)  # a block of the input feeds a block of the output
        return torch.cat([part @ block for part, block in zip(parts, weight, strict=True)], -1)

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
        return unit * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def log_probs(self, logits: Tensor) -> Tensor:
        """Classes mixed with the uniform distribution: `(B, S*K)` to `(B, S, K)`."""
        probs = logits.unflatten(-1, (self.c.num_categoricals, -1)).softmax(-1)
        return torch.log((1 - self.c.unimix) * probs + self.c.unimix / self.c.num_classes)

    @staticmethod
    def mode(log_probs: Tensor) -> Tensor:
        """Most likely classes, one-hot, with the gradient of the probabilities: `(B, S*K)`."""
        probs = log_probs.exp()
        one_hot = F.one_hot(probs.argmax(-1), probs.shape[-1])
        return (one_hot + probs - probs.detach()).flatten(-2)

    def encode(self, image: Tensor) -> Tensor:
        """Embedding `(B, E)` of an image `(B, C, H, W)` in [-0.5, 0.5], channels last."""
        for stage in range(self.c.num_stages):
            kernel = self.w[f"encoder.layers.{3 * stage}.weight"]
            x = F.conv2d(image, kernel, stride=2, padding=1).movedim(1, -1)
            image = F.silu(self.norm(f"encoder.layers.{3 * stage + 1}", x)).movedim(-1, 1)
        return image.movedim(1, -1).flatten(1)

    def decode(self, deter: Tensor, stoch: Tensor) -> Tensor:
        """Drawing `(B, C, H, W)` of a state."""
        side = self.c.grid_size
        blocks = self.linear("decoder.deter_in", deter).chunk(self.c.num_blocks, -1)
        grid = torch.cat([block.unflatten(-1, (side, side, -1)) for block in blocks], -1)
        rest = self.linear("decoder.stoch_in", stoch) + self.w["decoder.bias"]
        x = (grid + rest.unflatten(-1, (side, side, -1))).movedim(-1, 1)
        kernel = self.c.decoder_kernel_size
        for stage in range(self.c.num_stages):
            name = f"decoder.layers.{3 * stage}"
            options = {"stride": 2, "padding": (kernel - 1) // 2, "output_padding": kernel - 4}
            x = F.conv_transpose2d(
                x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), **options
            )
            if stage < self.c.num_stages - 1:
                x = self.norm(f"decoder.layers.{3 * stage + 1}", x.movedim(1, -1)).movedim(-1, 1)
                x = F.silu(x)
        return x

    def recur(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """The next deterministic state."""
        r = "rssm.recurrence."
        x = self.linear(f"{r}stoch_in", stoch) + self.linear(f"{r}action_in", action)
        x = F.silu(self.norm(f"{r}in_norm", x))
        if self.c.num_blocks == 1:
            x = self.linear(f"{r}gates", torch.cat([x, deter], -1))
            gates = self.norm(f"{r}gates_norm", x).chunk(3, -1)
        else:
            seen = F.silu(self.norm(f"{r}deter_norm", self.linear(f"{r}deter_in", deter)))
            shared = self.linear(f"{r}shared_hidden", torch.cat([seen, x], -1))
            x = self.linear(f"{r}block_hidden", deter) + shared
            x = F.silu(self.norm(f"{r}hidden_norm", x))
            x = self.linear(f"{r}gates", x) + self.w[f"{r}gates_bias"]
            of_blocks = [block.chunk(3, -1) for block in x.chunk(self.c.num_blocks, -1)]
            gates = [torch.cat(parts, -1) for parts in zip(*of_blocks, strict=True)]
        reset, candidate, update = gates
        update = torch.sigmoid(update - 1)
        return update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * deter

    def prior(self, deter: Tensor) -> Tensor:
        x = F.silu(self.norm("rssm.prior_norm", self.linear("rssm.prior_in", deter)))
        return self.log_probs(self.linear("rssm.prior_out", x) + self.w["rssm.prior_bias"])

    def posterior(self, deter: Tensor, embed: Tensor) -> Tensor:
        x = self.linear("rssm.posterior_deter_in", deter)
        x = F.silu(
            self.norm("rssm.posterior_norm", x + self.linear("rssm.posterior_embed_in", embed))
        )
        return self.log_probs(self.linear("rssm.posterior_out", x) + self.w["rssm.posterior_bias"])

    def loss(self, frames: Tensor, actions: Tensor) -> Tensor:
        """Mean over clips and steps; frames `(B, N+1, C, H, W)` uint8, actions `(B, N, A)`."""
        images = frames.float() / 255 - 0.5
        first, embed = images[:, 0], self.encode(images[:, 0])
        if self.c.initial_state == "learned":
            deter = self.w["rssm.initial_deter"].tanh().expand(len(frames), -1)
            deter = self.recur(deter, self.mode(self.prior(deter)), torch.zeros_like(actions[:, 0]))
        else:
            deter = self.linear("rssm.initial_in", embed).tanh()
        stoch = self.mode(self.posterior(deter, embed))
        losses = []
        for k in range(actions.shape[1]):
            deter, target = self.recur(deter, stoch, actions[:, k]), images[:, k + 1]
            prior, kl = self.prior(deter), torch.zeros(len(frames))
            drawn_from = prior
            if self.c.training_states == "posterior":
                drawn_from = posterior = self.posterior(deter, self.encode(target))
                dyn = (posterior.detach().exp() * (posterior.detach() - prior)).sum((1, 2))
                rep = (posterior.exp() * (posterior - prior.detach())).sum((1, 2))
                kl = self.c.dyn_scale * dyn.clamp(min=self.c.free_nats)
                kl = kl + self.c.rep_scale * rep.clamp(min=self.c.free_nats)
            stoch = self.mode(drawn_from)
            drawn = self.decode(deter, stoch) + (first if self.c.residual_decoder else 0)
            error = (drawn - target).square()
            if self.c.motion_weight:
                motion = 4 * (target - first).abs().amax(1, keepdim=True)
                error = error * (0.2 + self.c.motion_weight * motion.clamp(max=1))
            losses.append(error.sum((1, 2, 3)) + kl)
        return torch.stack(losses).mean()
