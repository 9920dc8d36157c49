# SPDX-License-Identifier: Apache-2.0
"""Recurrent state-space model of DreamerV3 (https://huggingface.co/papers/2301.04104).

A latent state is a deterministic vector (deter) and `S` categorical variables of `K` classes
(stoch). One step: `deter_k = recurrence(deter_{k-1}, stoch_{k-1}, action_{k-1})`; then stoch is
drawn from the posterior, which sees the frame, or from the prior, which does not.

Shapes: `B` batch, `T` steps, `A` action, `E` frame embedding, `D` deter, `S×K` stoch.

Built for speed: whatever does not depend on the previous step (projections of embeddings and
actions, the prior of observed states) is computed for all steps at once, outside the loop.
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_dreamer import DreamerV3Config
from .modeling_frames import NORM_EPS
from .scan_linear import BlockLinear, ScanLinear, for_scan

# One step of a scan: stoch `(B, S*K)` and deter `(B, D)` to the next deter.
Recurrence = Callable[[Tensor, Tensor], Tensor]


class RSSMState(NamedTuple):
    """A latent state, or several: leading dimensions `(B,)` or `(B, T)`.

    Attributes:
        deter: Deterministic part, `(..., D)`.
        stoch: One-hot classes with straight-through gradient, `(..., S, K)`.
        log_probs: Log-probabilities `stoch` was drawn from, `(..., S, K)`, float32.
    """

    deter: Tensor
    stoch: Tensor
    log_probs: Tensor

    def at(self, index: int | slice | Tensor) -> Self:
        """Select steps of a `(B, T)` state."""
        return type(self)(*(part[:, index] for part in self))


def mixed_log_probs(logits: Tensor, unimix: float) -> Tensor:
    """Log-probabilities of categoricals mixed with the uniform one, in float32.

    The mixture bounds every log-probability, and with it the KL divergence, from below.
    """
    probs = logits.float().softmax(-1)
    return ((1 - unimix) * probs + unimix / logits.shape[-1]).log()


def sample_one_hot(log_probs: Tensor, noise: Tensor | None) -> Tensor:
    """Draw one-hot classes whose gradient is that of the probabilities (straight-through).

    Args:
        log_probs: `(..., S, K)`.
        noise: Uniform in [0, 1), `(..., S)`, inverted through the cumulative distribution; the
            most likely class if `None`.
    """
    probs = log_probs.exp()
    if noise is None:
        index = probs.argmax(-1, keepdim=True)
    else:
        index = (probs.cumsum(-1) <= noise.unsqueeze(-1)).sum(-1, keepdim=True)
        index = index.clamp(max=probs.shape[-1] - 1)  # a sum of floats may end below 1
    one_hot = torch.zeros_like(probs).scatter(-1, index, 1.0)
    return one_hot + (probs - probs.detach())


def categorical_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL divergence in nats of `(..., S, K)` log-probabilities, summed over the variables."""
    return (p.exp() * (p - q)).sum((-2, -1))


class DenseRecurrence(nn.Module):
    """The LAWM authors' GRU: one dense matrix, layer norm on the gates."""

    def __init__(self, config: DreamerV3Config):
        super().__init__()
        hidden, deter, stoch = config.hidden_size, config.deter_size, config.stoch_size
        fan_in = stoch + config.action_size
        self.stoch_in = ScanLinear(stoch, hidden, fan_in)
        self.action_in = ScanLinear(config.action_size, hidden, fan_in)
        self.in_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.gates = ScanLinear(hidden + deter, 3 * deter)
        self.gates_norm = nn.LayerNorm(3 * deter, eps=NORM_EPS)

    def for_scan(self, actions: Tensor) -> Recurrence:
        """Prepare one scan over actions `(T, B, A)`."""
        stoch_in = for_scan(self.stoch_in, self.action_in(actions))
        gates_in = for_scan(
            self.gates, actions.new_zeros(()).expand(*actions.shape[:2], self.gates.out_features)
        )

        def step(stoch: Tensor, deter: Tensor) -> Tensor:
            x = F.silu(self.in_norm(stoch_in(stoch)))  # (B, hidden)
            gates = self.gates_norm(gates_in(torch.cat([x, deter.to(x.dtype)], -1)))
            return update_deter(deter, gates.chunk(3, -1))

        return step


class BlockRecurrence(nn.Module):
    """The block-diagonal GRU of DreamerV3 (2024): `num_blocks` times fewer recurrent weights.

    Two deviations, both for continuous actions on CPUs: the action shares a projection with the
    stochastic state, where DreamerV3 normalises it alone and thereby divides its magnitude away;
    and layer norm stands for RMS norm, which has no fused CPU kernel.
    """

    def __init__(self, config: DreamerV3Config):
        super().__init__()
        hidden, deter, stoch = config.hidden_size, config.deter_size, config.stoch_size
        self.num_blocks = config.num_blocks
        fan_in = stoch + config.action_size
        self.deter_in = ScanLinear(deter, hidden)
        self.deter_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.stoch_in = ScanLinear(stoch, hidden, fan_in)
        self.action_in = ScanLinear(config.action_size, hidden, fan_in)
        self.in_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        # Every block sees its share of deter and all of the projections.
        fan_in = deter // self.num_blocks + 2 * hidden
        self.block_hidden = BlockLinear(deter, deter, self.num_blocks, fan_in)
        self.shared_hidden = ScanLinear(2 * hidden, deter, fan_in)
        self.hidden_norm = nn.LayerNorm(deter, eps=NORM_EPS)
        self.gates = BlockLinear(deter, 3 * deter, self.num_blocks)
        self.gates_bias = nn.Parameter(torch.empty(3 * deter))

    def for_scan(self, actions: Tensor) -> Recurrence:
        """Prepare one scan over actions `(T, B, A)`."""
        steps = actions.shape[:2]
        zero = actions.new_zeros(())
        stoch_in = for_scan(self.stoch_in, self.action_in(actions))
        deter_in = for_scan(self.deter_in, zero.expand(*steps, self.deter_in.out_features))
        width = self.shared_hidden.out_features
        block_hidden = for_scan(self.block_hidden, zero.expand(*steps, width))
        shared_hidden = for_scan(self.shared_hidden, zero.expand(*steps, width))
        gates_in = for_scan(self.gates, self.gates_bias.expand(*steps, -1))

        def step(stoch: Tensor, deter: Tensor) -> Tensor:
            x = torch.cat(
                [
                    F.silu(self.deter_norm(deter_in(deter))),
                    F.silu(self.in_norm(stoch_in(stoch))),
                ],
                -1,
            )  # (B, 2*hidden)
            x = F.silu(self.hidden_norm(block_hidden(deter) + shared_hidden(x)))  # (B, D)
            gates = gates_in(x).unflatten(-1, (self.num_blocks, 3, -1)).unbind(-2)
            return update_deter(deter, [gate.flatten(1) for gate in gates])

        return step


def update_deter(deter: Tensor, gates: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """GRU update, computed in float32, from reset, candidate and update gates, each `(B, D)`.

    The update gate's bias of -1 makes the state remember by default (DreamerV3).
    """
    reset, candidate, update = (gate.float() for gate in gates)
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    return torch.lerp(deter.float(), candidate, torch.sigmoid(update - 1)).to(deter.dtype)


class RSSM(nn.Module):
    """Recurrence, prior and posterior; `observe` and `imagine` run them over a chunk."""

    def __init__(self, config: DreamerV3Config):
        super().__init__()
        self.config = config
        hidden, deter, embed = config.hidden_size, config.deter_size, config.embed_size
        recurrence = DenseRecurrence if config.num_blocks == 1 else BlockRecurrence
        self.recurrence = recurrence(config)
        self.prior_in = ScanLinear(deter, hidden)
        self.prior_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.prior_out = ScanLinear(hidden, config.stoch_size)
        self.prior_bias = nn.Parameter(torch.empty(config.stoch_size))
        self.posterior_deter_in = ScanLinear(deter, hidden, deter + embed)
        self.posterior_embed_in = ScanLinear(embed, hidden, deter + embed)
        self.posterior_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.posterior_out = ScanLinear(hidden, config.stoch_size)
        self.posterior_bias = nn.Parameter(torch.empty(config.stoch_size))
        if config.initial_state == "learned":
            self.initial_deter = nn.Parameter(torch.empty(deter))
        else:
            # Dense, it would be the largest matrix of all: 33M of preset 50m's 76M parameters.
            blocks = config.num_blocks
            self.initial_in = (
                ScanLinear(embed, deter) if blocks == 1 else BlockLinear(embed, deter, blocks)
            )

    def prior(self, deter: Tensor) -> Tensor:
        """Log-probabilities `(..., S, K)` of what comes with a deterministic state `(..., D)`."""
        hidden = F.silu(self.prior_norm(self.prior_in(deter)))
        return self._log_probs(self.prior_out(hidden) + self.prior_bias)

    def posterior(self, deter: Tensor, embed: Tensor) -> Tensor:
        """Log-probabilities `(..., S, K)` given a state `(..., D)` and its frame `(..., E)`."""
        hidden = self.posterior_deter_in(deter) + self.posterior_embed_in(embed)
        return self._log_probs(
            self.posterior_out(F.silu(self.posterior_norm(hidden))) + self.posterior_bias
        )

    def initial_state(self, embed: Tensor, noise: Tensor | None = None) -> RSSMState:
        """State of a first frame, which nothing preceded.

        Args:
            embed: Its embedding, `(B, E)`.
            noise: Uniform noise of the sample, `(B, S)`; the mode if `None`.
        """
        noise = None if noise is None else noise[:, None]
        actions = embed.new_zeros(len(embed), 0, self.config.action_size)
        return self.observe(embed[:, None], actions, noise=noise).at(0)

    def observe(
        self,
        embeds: Tensor,
        actions: Tensor,
        state: RSSMState | None = None,
        noise: Tensor | None = None,
    ) -> RSSMState:
        """Infer the latent states of frames: posterior states.

        Args:
            embeds: Embeddings of `T` frames, `(B, T, E)`.
            actions: Action that led to each frame, `(B, T, A)`. Without `state` the first frame has
                none: `(B, T-1, A)`.
            state: State before the first frame; `None` if nothing preceded it.
            noise: Uniform in [0, 1), `(B, T, S)`; modes instead of samples if `None`.

        Returns:
            States of the `T` frames, `(B, T, ...)`.
        """
        if state is not None:
            return self._scan(state.deter, state.stoch, actions, embeds, noise)
        if self.config.initial_state == "learned":
            deter = self.initial_deter.tanh().expand(len(embeds), -1)
            stoch = sample_one_hot(self.prior(deter), noise=None).to(deter.dtype)
            return self._scan(deter, stoch, F.pad(actions, (0, 0, 1, 0)), embeds, noise)
        deter = self.initial_in(embeds[:, 0]).tanh().to(self.initial_in.weight.dtype)
        log_probs = self.posterior(deter, embeds[:, 0])
        stoch = sample_one_hot(log_probs, None if noise is None else noise[:, 0]).to(deter.dtype)
        first = RSSMState(*(part[:, None] for part in (deter, stoch, log_probs)))
        if embeds.shape[1] == 1:
            return first
        rest = noise if noise is None else noise[:, 1:]
        later = self._scan(deter, stoch, actions, embeds[:, 1:], rest)
        return RSSMState(*(torch.cat(parts, 1) for parts in zip(first, later, strict=True)))

    def imagine(
        self,
        state: RSSMState,
        actions: Tensor,
        noise: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> RSSMState:
        """Predict latent states from actions alone: prior states.

        Args:
            state: Where to start, `(B, ...)`.
            actions: `(B, T, A)`; action `k` leads to the state `k` of the result.
            noise: Uniform in [0, 1), `(B, T, S)`; modes instead of samples if `None`.
            steps: Which states are wanted, `(n,)` on the CPU; all by default. Nothing is computed
                for those after the last of them.

        Returns:
            The states after `state`, `(B, T, ...)` or `(B, n, ...)`.
        """
        if steps is None or torch.compiler.is_compiling():  # whose shapes must not be drawn
            states = self._scan(state.deter, state.stoch, actions, None, noise)
            return states if steps is None else states.at(steps)
        return self._scan(state.deter, state.stoch, actions, None, noise, steps.tolist())

    def _scan(
        self,
        deter: Tensor,
        stoch: Tensor,
        actions: Tensor,
        embeds: Tensor | None,
        noise: Tensor | None,
        steps: list[int] | None = None,
    ) -> RSSMState:
        """Run the recurrence; stoch is drawn from the posterior, without embeds from the prior."""
        num_steps = actions.shape[1] if steps is None else max(steps) + 1
        actions = actions[:, :num_steps]
        recurrence = self.recurrence.for_scan(actions.transpose(0, 1).to(deter.dtype))
        infer = self._stoch_for_scan(embeds, num_steps, len(actions))
        states = []
        for k in range(num_steps):
            deter = recurrence(stoch.flatten(1), deter)  # (B, D)
            log_probs = infer(deter)  # (B, S, K)
            sample = sample_one_hot(log_probs, None if noise is None else noise[:, k])
            stoch = sample.to(deter.dtype)
            states.append((deter, stoch, log_probs))
        states = states if steps is None else [states[k] for k in steps]
        return RSSMState(*(torch.stack(parts, 1) for parts in zip(*states, strict=True)))

    def _stoch_for_scan(
        self, embeds: Tensor | None, num_steps: int, batch_size: int
    ) -> Callable[[Tensor], Tensor]:
        """Prepare the posterior (with embeds `(B, T, E)`) or the prior for one scan."""
        if embeds is None:
            first, norm, last = self.prior_in, self.prior_norm, self.prior_out
            bias, shape = self.prior_bias, (num_steps, batch_size, first.out_features)
            first = for_scan(first, bias.new_zeros(()).expand(shape))
        else:
            first, norm, last = self.posterior_deter_in, self.posterior_norm, self.posterior_out
            bias = self.posterior_bias
            first = for_scan(first, self.posterior_embed_in(embeds).transpose(0, 1))
        last = for_scan(last, bias.expand(num_steps, batch_size, -1))
        return lambda deter: self._log_probs(last(F.silu(norm(first(deter)))))

    def _log_probs(self, logits: Tensor) -> Tensor:
        logits = logits.unflatten(-1, (self.config.num_categoricals, self.config.num_classes))
        return mixed_log_probs(logits, self.config.unimix)
