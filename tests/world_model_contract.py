# SPDX-License-Identifier: Apache-2.0
"""What every world model must do. A test class inherits `WorldModelContract` and says which it is.

Copy this file to test a world model of your own (docs/extending.md).
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from lawm_hf.models import LAWMWorldModel
from lawm_hf.models.auto_lawm import new_world_model

N = 4


class WorldModelContract:
    """Tests of one world model class.

    Attributes:
        world_model_class: The class under test.
        options: Options of its configuration that make it tiny.
    """

    world_model_class: type[LAWMWorldModel]
    options: dict[str, Any]

    def build(self) -> LAWMWorldModel:
        torch.manual_seed(0)
        config: Any = self.world_model_class.config_class
        return self.world_model_class(config(**self.options)).eval()

    def inputs(self, model: LAWMWorldModel, batch_size: int = 2) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        side = model.config.image_size
        frames = torch.rand(batch_size, N + 1, 3, side, side, generator=generator)
        actions = torch.rand(batch_size, N, model.config.action_size, generator=generator) * 2 - 1
        return frames, actions

    def test_a_saved_world_model_loads_from_its_folder_alone(self, tmp_path):
        model = self.build()
        model.save_pretrained(tmp_path)
        frames, actions = self.inputs(model)
        expected = model.predict_frames(frames[:, 0], actions)
        loaded = LAWMWorldModel.from_pretrained(tmp_path)
        assert type(loaded) is self.world_model_class
        torch.testing.assert_close(loaded.predict_frames(frames[:, 0], actions), expected)

    def test_it_is_known_by_its_model_type(self):
        config: Any = self.world_model_class.config_class
        name = config.model_type
        assert type(new_world_model(name, **self.options)) is self.world_model_class

    def test_predictions_have_the_shape_of_the_frames_that_follow(self):
        model = self.build()
        frames, actions = self.inputs(model)
        assert model.predict_frames(frames[:, 0], actions).shape == frames[:, 1:].shape
        as_bytes = (frames[:, 0] * 255).to(torch.uint8)
        assert model.predict_frames(as_bytes, actions).shape == frames[:, 1:].shape

    def test_no_action_reaches_a_frame_before_it_and_every_one_a_frame_after_it(self):
        model = self.build()
        frames, actions = self.inputs(model)
        actions.requires_grad_()
        predicted = model.predict_frames(frames[:, 0], actions)
        for k in range(N):
            weights = torch.randn(predicted[:, k].shape, generator=torch.Generator().manual_seed(k))
            (grad,) = torch.autograd.grad(
                (predicted[:, k] * weights).sum(), actions, retain_graph=True
            )
            assert grad[:, : k + 1].flatten(2).any(-1).all(), f"frame {k + 1} ignores an action"
            assert not grad[:, k + 1 :].any(), f"frame {k + 1} knows a later action"

    def test_the_loss_sends_gradient_through_every_action_and_parameter(self):
        model = self.build().train()
        frames, actions = self.inputs(model)
        actions.requires_grad_()
        output = model(frames=frames, actions=actions)
        assert output.loss.ndim == 0
        assert output.reconstruction_loss.shape == actions.shape[:2]
        output.loss.backward()
        assert actions.grad.any(-1).all()
        learn = {n: p for n, p in model.named_parameters() if p.requires_grad}
        without = [n for n, p in learn.items() if p.grad is None or not p.grad.any()]
        assert without == []

    @pytest.mark.parametrize("garbage", [0.9, torch.nan])
    def test_padded_frames_add_nothing(self, garbage):
        model = self.build()
        frames, actions = self.inputs(model)
        pad = torch.zeros(frames.shape[:2], dtype=torch.bool)
        pad[0, -1] = True
        expected = model(frames=frames, actions=actions, frame_is_pad=pad).loss
        frames[0, -1] = garbage
        loss = model(frames=frames, actions=actions, frame_is_pad=pad).loss
        torch.testing.assert_close(loss, expected)

    def test_the_same_noise_gives_the_same_loss(self):
        model = self.build()
        frames, actions = self.inputs(model)
        draw = [model.draw_noise(frames, torch.Generator().manual_seed(3)) for _ in range(2)]
        first, second = (model(frames=frames, actions=actions, **noise).loss for noise in draw)
        torch.testing.assert_close(first, second, rtol=0, atol=0)
