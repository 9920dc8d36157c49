# SPDX-License-Identifier: Apache-2.0
"""A policy as one program from an observation to a chunk: compiled here, written as ONNX in `hub`.

Only `predict_action_chunk` is captured, for the observation that a configuration describes: all
views, the state if there is one, no masks. The size of the batch stays free. `policy` is any
`LAWMPolicy`.
"""

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MAX_BATCH = 1024


def example_observation(policy: Any, batch_size: int = 2) -> dict[str, Tensor]:
    """Noise in the shapes of an observation: what the processor gives, and what is drawn besides.

    Args:
        policy: Whose configuration says the sizes.
        batch_size: 2 or more to capture a program: torch takes 1 for a constant.
    """
    config, generator = policy.config, torch.Generator().manual_seed(0)
    shapes = {
        "pixel_values": (config.num_views, 3, config.image_size, config.image_size),
        "task_embeds": (config.task_embed_size,),
    }
    if config.state_size:
        shapes["state"] = (config.state_size,)
    drawn = {k: torch.randn(batch_size, *s, generator=generator) for k, s in shapes.items()}
    if config.num_task_tokens:
        shape = (batch_size, config.num_task_tokens)
        drawn["task_tokens"] = torch.randint(2, shape, generator=generator)  # in any vocabulary
    drawn |= policy.draw_noise(batch_size, generator)
    return {name: value.to(policy.device) for name, value in drawn.items()}


class _Program(nn.Module):
    """What is captured: an observation by name to a chunk, finished as the caller wishes."""

    def __init__(self, policy: Any, finish: Callable[[Tensor], Tensor]):
        super().__init__()
        self.policy, self.finish = policy, finish

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        return self.finish(self.policy.predict_action_chunk(**observation))


def capture(
    policy: Any, finish: Callable[[Tensor], Tensor] | None = None
) -> torch.export.ExportedProgram:
    """The policy as a graph without Python, whose one argument is the dictionary of an observation.

    Args:
        policy: In evaluation mode.
        finish: Applied to the chunk `(B, N, A)`, and captured with it.

    Raises:
        ValueError: If the policy does what no graph can hold, such as to branch on numbers it sees.
    """
    example = example_observation(policy)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    program = _Program(policy, finish or nn.Identity()).eval()
    with torch.no_grad():
        program(example)  # What is made at first use must not be made inside the graph.
        try:
            # Strict: it reads the code, so `len(tensor)` stays the size of the batch.
            return torch.export.export(
                program,
                (example,),
                dynamic_shapes={"observation": {name: {0: batch} for name in example}},
                strict=True,
            )
        except Exception as error:
            raise ValueError(
                f"`{type(policy).__name__}.predict_action_chunk` must be tensor operations alone "
                f"to become one program, but torch.export says: {str(error)[:600]} ... Take "
                "branches on values out of it, or use the policy as it is."
            ) from error


def compile_policy(policy: Any) -> Any:
    """See `LAWMPolicy.compile_for_inference`."""
    policy = copy.deepcopy(policy).eval().requires_grad_(False)
    vars(policy).pop("predict_action_chunk", None)  # of a policy that was compiled before
    names = list(example_observation(policy))  # in the order that the program expects
    drawn = set(policy.draw_noise(1))
    program = capture(policy)
    # Freezing makes the weights constants: norms fold into convolutions, layouts are fixed.
    options = {"freezing": True}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = str(Path(folder, "policy.pt2"))
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=path, inductor_configs=options
            )
        except Exception as error:
            raise RuntimeError(
                f"Compiling a policy needs a C++ compiler, and torch says: {str(error)[:600]} ... "
                "Install one (`apt-get install g++`), or write the policy for onnxruntime, which "
                "needs none: `lawm-hf export FOLDER --onnx`."
            ) from error
        run = torch._inductor.aoti_load_package(path)

    @functools.wraps(type(policy).predict_action_chunk)
    def predict_action_chunk(
        generator: torch.Generator | None = None, **observation: Any
    ) -> Tensor:
        if not drawn <= set(observation):
            size = len(observation["pixel_values"])
            observation = policy.draw_noise(size, generator) | observation
        if set(observation) != set(names):
            raise ValueError(
                f"This policy was compiled for {sorted(set(names) - drawn)} and no masks, got "
                f"{sorted(set(observation) - drawn)}. Give these, or use the policy itself."
            )
        with torch.inference_mode():
            return run({name: observation[name] for name in names})

    # In place of the method, and of this object's alone.
    object.__setattr__(policy, "predict_action_chunk", predict_action_chunk)
    return policy
