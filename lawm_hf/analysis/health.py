# SPDX-License-Identifier: Apache-2.0
"""Latent health: does the world model use the latent actions, and what do they say?

Four questions, each beside what it must be compared with:

* Do the latents matter? Prediction from `x_t` under a clip's own latents, under those of another
  clip, and the prediction that nothing moves.
* Are they alive? Spread, effective rank, saturation of the tanh, smoothness in time.
* What do they depend on? How far they move with the image, and with the instruction.
* What do they know? Linear probes for true actions and positions, beside an untrained policy and
  probes fitted on shuffled truth.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..models.modeling_lawm import LAWMPolicy, LAWMWorldModel
from .clips import Clips
from .latents import effective_rank, lag_correlation, saturated_share
from .prediction import latents_of, prediction_errors
from .probes import Probes, probe, probe_cases, probe_table, untrained_copy
from .sensitivity import input_effects

# Where the alarms sound. Healthy means the tabletop runs of the README (reach and place, BAKU).
_MIN_SWAP_GAP = 0.01  # share of the error; healthy: 0.46 to 0.92, and 2 standard errors besides
_MIN_GAIN_OVER_COPY = 0.01  # share of the error; healthy: 0.55 to 0.70
_MIN_DEVIATION = 0.02  # healthy: 0.68; our choice, far below
_MIN_RANK = 1.5  # healthy: 2.7 to 4.2; prototypes that told left from right and no more: 1.1 to 1.4
_MAX_SATURATED = 0.5  # healthy: below 0.01
_MIN_EFFECT = 0.02  # share of the variance, our choice; healthy (one run): 0.95 and 0.87
_MIN_PROBE_GAIN = 0.1  # R² of the target's position over an untrained policy; healthy: 0.67, 0.95
# Fewer clips scatter too much for some alarms: of 12 draws of a healthy run's clips, the swap gap
# was within two errors of 0 in 9 draws of two clips, 7 of five, 3 of ten, none of 15
# (`benchmarks/few_clips.py`).
_FEW = 20
_STILL = 1e-3  # squared error of a frame: less than one pixel in one channel off by 8 of 255


@dataclass
class LatentHealth:
    """Result of `latent_health`; `print` it, or take `to_dict()`.

    Errors are squared, summed over the pixels of a frame and its views, averaged over steps and
    clips; `parts` has those of each view and of the state: own, swapped and copy.
    """

    num_clips: int
    loss: float
    loss_swapped: float
    imagined_error: float
    imagined_error_swapped: float
    swap_gap_standard_error: float
    copy_error: float
    effective_rank: float
    standard_deviation: float
    saturated_share: float
    lag_correlation: float
    latent_size: int
    image_effect: float
    instruction_effect: float
    num_instructions: int
    moving_psnr: float | None = None  # dB, of the main view's pixels that differ from x_t
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    num_objects: int | None = None
    is_held_out: bool = True  # from training
    probes: dict[str, Probes] = field(default_factory=dict)

    @property
    def swap_gap(self) -> float:
        """Growth of the imagined error under another clip's latents; 0 if latents are ignored."""
        return self.imagined_error_swapped - self.imagined_error

    @property
    def is_of_few(self) -> bool:
        """Whether the clips are too few for alarms that depend on how they scatter."""
        return self.num_clips < _FEW

    def to_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return asdict(self) | {"swap_gap": self.swap_gap, "alarms": self.alarms()}

    def scalars(self) -> dict[str, float]:
        """What a curve over updates should show."""
        trained = self.probes.get("trained")
        found = {
            "swap_gap_share": self.swap_gap / max(self.imagined_error, 1e-9),
            "error_over_copy": self.imagined_error / max(self.copy_error, 1e-9),
            "moving_psnr": self.moving_psnr,
            "effective_rank": self.effective_rank,
            "standard_deviation": self.standard_deviation,
            "saturated_share": self.saturated_share,
            "target_r2": trained and trained.target_r2,
            "chunk_r2": trained and trained.chunk_r2,
            **{
                f"{part.replace(' ', '_')}_over_copy": told["own"] / max(told["copy"], 1e-9)
                for part, told in self.parts.items()
            },
        }
        return {name: value for name, value in found.items() if value is not None}

    def alarms(self) -> list[str]:
        """What is wrong, in plain words; empty if nothing is."""
        return [*self._alarms_of_the_world_model(), *self._alarms_of_the_latents()]

    def _alarms_of_the_world_model(self) -> list[str]:
        found = []
        if self.copy_error < _STILL:
            found.append(
                "Nothing moves in these clips: there is nothing to learn from. Check the frame "
                "rate and that frames are not repeated."
            )
        least = 0 if self.is_of_few else 2 * self.swap_gap_standard_error
        if self.swap_gap <= max(_MIN_SWAP_GAP * self.imagined_error, least):
            found.append("The world model ignores the latents: another clip's do as well.")
        if self.imagined_error > (1 - _MIN_GAIN_OVER_COPY) * self.copy_error:
            found.append("The world model has not beaten copying x_t: train longer.")
        return found

    def _alarms_of_the_latents(self) -> list[str]:
        found = []
        if self.standard_deviation < _MIN_DEVIATION:
            found.append("The latents have collapsed: they are the same for every clip.")
        elif self.effective_rank < _MIN_RANK and not self.is_of_few:
            found.append(
                f"The latents have collapsed to {self.effective_rank:.1f} of {self.latent_size} "
                "dimensions: they say one thing about a clip."
            )
        if self.saturated_share > _MAX_SATURATED:
            found.append(
                "The latents saturate: most sit at ±1, where tanh passes no gradient to the policy."
            )
        if self.image_effect < _MIN_EFFECT:
            found.append(
                "The latents ignore the image: the instruction alone explains "
                f"{1 - self.image_effect:.0%} of their variance."
            )
        if self.num_instructions > 1 and self.instruction_effect < _MIN_EFFECT:
            found.append(
                "The latents ignore the instruction: the image alone explains "
                f"{1 - self.instruction_effect:.0%} of their variance."
            )
        if self._probe_is_no_better():
            found.append(
                "The latents say no more of the target than an untrained policy's: the policy has "
                "not learned, or its gradient is cut."
            )
        return found

    def _probe_is_no_better(self) -> bool:
        """A gain in R², or half the error where an untrained policy leaves little to gain."""
        trained, untrained = self.probes.get("trained"), self.probes.get("untrained")
        if self.is_of_few or not trained or not untrained or trained.target_r2 is None:
            return False
        assert untrained.target_r2 is not None, "both are probed for the same truth"
        has_gained = trained.target_r2 >= untrained.target_r2 + _MIN_PROBE_GAIN
        return not has_gained and 1 - trained.target_r2 > 0.5 * (1 - untrained.target_r2)

    def _moving(self) -> list[str]:
        if self.moving_psnr is None:
            return []
        return [f"    pixels that move         {self.moving_psnr:9.2f} dB"]

    def _of_parts(self) -> list[str]:
        return [
            f"    {part + ', own / other / copy':<26}"
            f"{told['own']:8.2f} / {told['swapped']:.2f} / {told['copy']:.2f}"
            for part, told in self.parts.items()
        ]

    def __str__(self) -> str:
        kind = "held-out clips" if self.is_held_out else "clips of the training data, none held out"
        gain = self.swap_gap / max(self.imagined_error, 1e-9)
        saved = 1 - self.imagined_error / max(self.copy_error, 1e-9)
        lines = [
            f"Latent health on {self.num_clips} {kind}",
            "",
            "  prediction from x_t, squared error per frame",
            f"    own latents              {self.imagined_error:9.2f}",
            f"    another clip's latents   {self.imagined_error_swapped:9.2f}   ({gain:+.0%})",
            f"    copy of x_t              {self.copy_error:9.2f}   (own latents: {saved:+.0%})",
            *self._of_parts(),
            *self._moving(),
            f"  training loss, own / another's: {self.loss:.2f} / {self.loss_swapped:.2f}",
            "",
            f"  latents: effective rank {self.effective_rank:.1f} of {self.latent_size}, "
            f"standard deviation {self.standard_deviation:.2f},",
            f"    saturated {self.saturated_share:.0%}, "
            f"correlation of neighbouring steps {self.lag_correlation:.2f}",
            f"    share that goes with the image {self.image_effect:.0%}, "
            f"with the instruction {self.instruction_effect:.0%}",
        ]
        if self.probes:
            lines += ["", *probe_table(self.probes, self.num_objects)]
        alarms = self.alarms()
        lines += ["", *(f"  ALARM  {alarm}" for alarm in alarms)]
        if self.is_of_few:
            lines.append(f"  {self.num_clips} clips tell little: hold out {_FEW} or more.")
        elif not alarms:
            lines.append("  OK     The latents are alive and the world model depends on them.")
        return "\n".join(lines)


def latent_health(
    policy: LAWMPolicy,
    world_model: LAWMWorldModel,
    held_out: Clips,
    fit: Clips | None = None,
    seed: int = 0,
) -> LatentHealth:
    """Examine the latent actions of a pretrained pair.

    Args:
        policy: The policy, with its latent action head.
        world_model: The world model it was trained with.
        held_out: Clips that were not trained on, of two episodes at least.
        fit: Clips for fitting the probes, of other episodes. Without them, or without truth in
            both, there are no probes.
        seed: Seed of swaps, of sampling in the world model, and of the untrained policy.
    """
    latents = latents_of(policy, held_out)  # (M, N, A)
    numbers = latents.double().numpy()
    flat = numbers.reshape(len(numbers), -1)
    image_effect, instruction_effect = input_effects(policy, held_out, latents, seed)
    health = LatentHealth(
        num_clips=len(held_out),
        **prediction_errors(world_model, held_out, latents, seed),
        effective_rank=effective_rank(flat),
        standard_deviation=float(flat.std(0).mean()),
        saturated_share=saturated_share(numbers),
        lag_correlation=lag_correlation(numbers),
        latent_size=flat.shape[1],
        image_effect=image_effect,
        instruction_effect=instruction_effect,
        num_instructions=len(set(held_out.tasks)),
    )
    if fit is None or not set(fit.truth) & set(held_out.truth):
        return health
    untrained = untrained_copy(policy, fit, seed)
    cases = probe_cases(
        (_numbers(policy, fit), numbers),
        (_numbers(untrained, fit), _numbers(untrained, held_out)),
        (fit.truth, held_out.truth),
        seed,
    )
    for name, ((z_fit, z_test), (fit_truth, test_truth)) in cases.items():
        health.probes[name] = probe(z_fit, fit_truth, z_test, test_truth)
    if "objects_xy" in held_out.truth:
        health.num_objects = held_out.truth["objects_xy"].shape[1]
    return health


def _numbers(policy: LAWMPolicy, clips: Clips) -> np.ndarray:
    return latents_of(policy, clips).double().numpy()
