# SPDX-License-Identifier: Apache-2.0
"""What every policy must do. A test class inherits `PolicyContract` and says which policy it is.

Copy this file to test a policy of your own (docs/extending.md).
"""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModel

from lawm_hf.models.configuration_lawm import LAWMPolicyConfig
from lawm_hf.models.modeling_lawm import LAWMPolicy
from lawm_hf.models.modeling_outputs import PolicyOutput

Inputs = dict[str, Tensor]


def make_inputs(config: LAWMPolicyConfig, batch_size: int = 3, seed: int = 0) -> Inputs:
    """A random batch with all views, states and targets; the last action of each is padding."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch_size, *shape, generator=generator)

    tokens = torch.randint(2, (batch_size, config.num_task_tokens), generator=generator)
    action_is_pad = torch.zeros(batch_size, config.chunk_size, dtype=torch.bool)
    action_is_pad[:, -1] = True
    return {
        "pixel_values": normal(config.num_views, 3, config.image_size, config.image_size),
        "task_embeds": normal(config.task_embed_size),
        **({"task_tokens": tokens} if config.num_task_tokens else {}),
        "state": normal(config.state_size),
        "actions": normal(config.chunk_size, config.action_size).tanh(),
        "action_is_pad": action_is_pad,
    }


def make_observation(config: LAWMPolicyConfig, batch_size: int = 3) -> Inputs:
    """The same without targets."""
    inputs = make_inputs(config, batch_size)
    return {k: v for k, v in inputs.items() if k not in ("actions", "action_is_pad")}


class PolicyContract:
    """Tests of one policy class.

    Attributes:
        policy_class: The class under test.
        options: Options of its configuration that make it tiny, but with 2 views and a state.
    """

    policy_class: type[LAWMPolicy]
    options: dict[str, Any]

    def config(self, **overrides: Any) -> Any:
        return self.policy_class.config_class(**{**self.options, **overrides})

    def policy(self, **overrides: Any) -> Any:
        torch.manual_seed(0)
        return self.policy_class(self.config(**overrides)).eval()

    def run(self, policy: LAWMPolicy, inputs: Inputs) -> PolicyOutput:
        """Call with fixed noise: a loss may draw some."""
        torch.manual_seed(1)
        return policy(**inputs)

    # --------------------------------------------------------------------------- saving

    def test_a_saved_policy_loads_with_equal_outputs(self, tmp_path):
        policy = self.policy(latent_norm="batch")
        observation = make_observation(policy.config)
        policy.train()(**observation)  # moves the statistics of the latent norm
        policy.eval().save_pretrained(tmp_path)
        expected = self.run(policy, observation).actions
        for entry in (self.policy_class, LAWMPolicy, AutoModel):
            loaded = entry.from_pretrained(tmp_path)
            assert type(loaded) is self.policy_class
            torch.testing.assert_close(self.run(loaded, observation).actions, expected)
        assert type(AutoConfig.from_pretrained(tmp_path)) is self.policy_class.config_class

    def test_an_unknown_option_is_rejected_with_a_suggestion(self):
        with pytest.raises(ValueError, match=r"chunk_sise.*Did you mean `chunk_size`"):
            self.config(chunk_sise=3)

    # --------------------------------------------------------------------------- outputs

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_a_chunk_is_bounded_and_has_the_configured_shape(self, batch_size):
        policy = self.policy()
        observation = make_observation(policy.config, batch_size)
        observation["pixel_values"] *= 100
        shape = (batch_size, policy.config.chunk_size, policy.config.action_size)
        for chunk in (policy(**observation).actions, policy.predict_action_chunk(**observation)):
            assert chunk.shape == shape
            assert chunk.isfinite().all()
            assert chunk.abs().max() <= 1

    def test_a_loss_exists_only_with_targets(self):
        policy = self.policy()
        output = self.run(policy, make_inputs(policy.config))
        assert output.loss.ndim == 0
        assert output.loss.isfinite()
        assert output.action_loss.shape == (3, policy.config.chunk_size)
        assert policy(**make_observation(policy.config)).loss is None

    def test_latent_actions_are_deterministic(self):
        policy = self.policy()
        observation = make_observation(policy.config)
        torch.testing.assert_close(
            policy(**observation).actions, policy(**observation).actions, rtol=0, atol=0
        )

    def test_inputs_are_left_unchanged(self):
        policy = self.policy()
        inputs = make_inputs(policy.config) | {"view_mask": torch.tensor([[True, False]] * 3)}
        before = deepcopy(inputs)
        policy(**inputs)
        for name, value in inputs.items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)

    def test_bfloat16_stays_close(self):
        policy = self.policy()
        inputs, observation = make_inputs(policy.config), make_observation(policy.config)
        expected = policy(**observation).actions
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(
                policy(**observation).actions.float(), expected, rtol=0, atol=0.1
            )
            assert self.run(policy, inputs).loss.isfinite()
        # As saved and served in half precision, with inputs still in single.
        assert policy.to(torch.bfloat16)(**observation).actions.isfinite().all()

    # --------------------------------------------------------------------------- learning

    @pytest.mark.parametrize("kind", ["loss", "latents"])
    def test_every_parameter_receives_gradient(self, kind):
        policy = self.policy().train()
        if kind == "loss":
            self.run(policy, make_inputs(policy.config)).loss.backward()
        else:
            chunk = policy(**make_observation(policy.config)).actions
            (chunk * torch.randn_like(chunk)).sum().backward()
        without = [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []

    def test_padding_does_not_change_the_loss(self):
        policy = self.policy()
        inputs = make_inputs(policy.config)
        expected = self.run(policy, inputs).loss
        inputs["actions"][:, -1] = 0.9
        torch.testing.assert_close(self.run(policy, inputs).loss, expected)
        inputs["actions"][:, 0] = 0.9
        assert self.run(policy, inputs).loss != expected

    def test_vision_is_named_and_can_be_frozen(self):
        policy = self.policy()
        names = policy.freeze_vision()
        assert len(names) < len(list(policy.parameters()))
        frozen = [name for name, p in policy.named_parameters() if not p.requires_grad]
        assert frozen == names

    # --------------------------------------------------------------------------- absent inputs

    def test_what_stands_in_absent_views_and_states_is_ignored(self):
        policy = self.policy()
        inputs = make_inputs(policy.config)
        inputs["view_mask"] = torch.tensor([[True, False], [True, True], [True, False]])
        inputs["state_mask"] = torch.tensor([False, True, False])
        expected = self.run(policy, inputs).loss
        for garbage in (1e4, torch.nan):
            inputs["pixel_values"][~inputs["view_mask"]] = garbage
            inputs["state"][~inputs["state_mask"]] = garbage
            loss = self.run(policy, inputs).loss
            torch.testing.assert_close(loss, expected)
            policy.zero_grad()
            loss.backward()
            assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)
        inputs["pixel_values"][1, 1] += 1
        assert self.run(policy, inputs).loss != expected

    def test_one_view_equals_two_of_which_one_is_masked(self):
        policy = self.policy()
        observation = make_observation(policy.config)
        mask = torch.tensor([[True, False]] * 3)
        masked = policy(**observation, view_mask=mask).actions
        observation["pixel_values"] = observation["pixel_values"][:, :1]
        torch.testing.assert_close(policy(**observation).actions, masked)

    def test_no_state_equals_a_masked_state(self):
        policy = self.policy()
        observation = make_observation(policy.config)
        masked = policy(**observation, state_mask=torch.zeros(3, dtype=torch.bool)).actions
        assert not torch.allclose(policy(**observation).actions, masked)
        del observation["state"]
        torch.testing.assert_close(policy(**observation).actions, masked)

    def test_more_views_than_configured_are_refused(self):
        policy = self.policy(num_views=1)
        with pytest.raises(ValueError, match="num_views"):
            policy(**make_observation(self.config(num_views=2)))

    def test_views_of_another_size_are_refused(self):
        inputs = make_observation(self.config())
        inputs["pixel_values"] = inputs["pixel_values"].repeat(1, 1, 1, 2, 2)
        with pytest.raises(ValueError, match="processor that was saved with it"):
            self.policy()(**inputs)

    def test_a_size_into_which_no_convolution_fits_is_refused(self):
        with pytest.raises(StrictDataclassError, match="`image_size` must be at least 8, got 4"):
            self.config(image_size=4)

    # --------------------------------------------------------------------------- finetuning

    def test_resetting_the_action_head_touches_the_last_layer_alone(self, tmp_path):
        self.policy(latent_norm="batch").save_pretrained(tmp_path)
        # Loaded, not fresh: transformers guards loaded weights against initialisation.
        policy = LAWMPolicy.from_pretrained(tmp_path)
        before = deepcopy(policy.state_dict())
        names = policy.reset_action_head()
        after = policy.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed <= set(names)
        assert changed >= {name for name in names if name.endswith("weight")}
        assert all(name.startswith(policy.action_head_prefixes) for name in names)
        for name in names:  # drawn anew from the same distribution, not zeroed
            spread = before[name].std().item()
            assert after[name].std().item() == pytest.approx(spread, rel=0.5, abs=1e-6)

    def test_the_latent_norm_is_gone_after_a_reset(self, tmp_path):
        policy = self.policy(latent_norm="batch")
        observation = make_observation(policy.config)
        policy.train()(**observation)
        policy.eval().reset_action_head()
        assert policy.config.latent_norm == "none"
        fresh = dict(self.policy().named_buffers())
        for name, buffer in policy.named_buffers():
            torch.testing.assert_close(buffer, fresh[name])
        policy.save_pretrained(tmp_path)
        loaded = LAWMPolicy.from_pretrained(tmp_path)
        assert loaded.config.latent_norm == "none"
        assert Path(tmp_path, "model.safetensors").exists()
        torch.testing.assert_close(
            self.run(loaded, observation).actions, self.run(policy, observation).actions
        )


class OwnPolicyContract(PolicyContract):
    """A policy of this package also carries its code in its folder."""

    @pytest.mark.parametrize("name", ["actions", "action_is_pad"])
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_targets_that_would_be_repeated_to_fit_are_refused(self, name, axis):
        policy = self.policy()
        inputs = make_inputs(policy.config)
        if axis < inputs[name].dim():
            inputs[name] = inputs[name].narrow(axis, 0, 1)
            with pytest.raises(ValueError, match=f"`{name}` must .* got .*1"):
                self.run(policy, inputs)

    def test_a_saved_policy_loads_where_this_package_is_not_installed(self, tmp_path):
        policy = self.policy()
        policy.save_pretrained(tmp_path)
        script = (
            "import sys; sys.modules['lawm_hf'] = None\n"
            "from transformers import AutoModel\n"
            f"model = AutoModel.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)\n"
            "print(type(model).__name__, sum(p.sum().item() for p in model.parameters()))"
        )
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
        result = subprocess.run(
            [sys.executable, "-c", script],
            env={**environment, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr
        name, total = result.stdout.split()[-2:]
        assert name == self.policy_class.__name__
        assert float(total) == pytest.approx(sum(p.sum().item() for p in policy.parameters()))
