# SPDX-License-Identifier: Apache-2.0
"""The DreamerV3 world model from outside: sizes, inputs, saving, learning."""

import json

import pytest
import torch
from dreamer_fixtures import OBJECTIVES, A, B, N, S, batch, build
from huggingface_hub.errors import StrictDataclassError
from remote_code import loss_as_remote_code
from torch import Tensor
from transformers import AutoConfig, AutoModel

from lawm_hf.models.configuration_dreamer import PAPER_FORM, PRESETS, DreamerV3Config
from lawm_hf.models.modeling_dreamer import DreamerV3WorldModel
from lawm_hf.models.modeling_outputs import frame_error

# ---------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("preset", "authors", "default"),
    [
        ("1m", 1_813_823, 739_763),
        ("12m", 28_942_451, 11_769_539),
        ("25m", 65_100_843, 26_464_803),
        ("50m", 115_717_347, 47_033_731),
        ("100m", 260_324_691, 105_792_579),
        ("200m", 462_764_483, 188_046_083),
        ("400m", 1_041_141_411, 423_037_059),
    ],
)
def test_presets_have_the_parameter_counts_measured_on_the_authors_code(preset, authors, default):
    for variant, count in (("authors", authors), ("default", default)):
        with torch.device("meta"):
            model = DreamerV3WorldModel(DreamerV3Config.from_preset(preset, variant))
        assert model.num_parameters() == count


@pytest.mark.parametrize("image_size", [32, 64, 96, 128, 160, 192, 224, 256, 480])
def test_every_multiple_of_32_works(image_size):
    model = build(image_size=image_size, depth=1, num_blocks=1).eval()
    frames = batch(image_size=image_size)["frames"][:1, :2]
    with torch.no_grad():
        state = model.initial_state(model.encode(frames)[:, 0])
        later = model.imagine(state, torch.zeros(1, 1, A))
    assert model.decode(later).shape == (1, 1, 3, image_size, image_size)


@pytest.mark.parametrize("image_size", [16, 30, 100])
def test_other_image_sizes_are_rejected(image_size):
    with pytest.raises(StrictDataclassError, match="multiple of 32"):
        build(image_size=image_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 7}, "`num_blocks` must divide `deter_size`"),
        ({"dyn_scale": -1.0}, "`dyn_scale` must not be negative"),
        ({"unimix": 1.0}, "`unimix` must lie in"),
        ({"mask_ratio": 1.0}, "`mask_ratio` must lie in"),
        ({"num_decoded_steps": 0}, "`num_decoded_steps` must be at least 1"),
        ({"num_classes": 1}, "`num_classes` must be at least 2"),
    ],
)
def test_configurations_without_meaning_are_rejected(options, message):
    with pytest.raises(StrictDataclassError, match=message):
        build(**options)
    with pytest.raises(ValueError, match="Did you mean `free_nats`"):
        build(free_nat=2.0)


def test_unknown_presets_and_variants_are_rejected():
    with pytest.raises(ValueError, match="no preset '60m'"):
        DreamerV3Config.from_preset("60m")
    with pytest.raises(ValueError, match="`variant` must be"):
        DreamerV3Config.from_preset("1m", "author")  # pyright: ignore
    assert DreamerV3Config.from_preset("tiny").image_size == 32
    assert all(DreamerV3Config.from_preset(n).num_classes == PRESETS[n][3] for n in PRESETS)


def test_the_papers_form_has_one_name_and_the_network_of_the_default():
    default, paper = (DreamerV3Config.from_preset("tiny", v) for v in ("default", "paper"))
    assert {k: getattr(paper, k) for k in PAPER_FORM} == PAPER_FORM
    assert all(getattr(default, k) != v for k, v in PAPER_FORM.items())
    sizes = ("deter_size", "hidden_size", "num_blocks", "num_classes", "decoder_kernel_size")
    assert all(getattr(default, k) == getattr(paper, k) for k in sizes)
    mixed = DreamerV3Config.from_preset("tiny", "paper", free_nats=0.5, motion_weight=1.0)
    assert (mixed.free_nats, mixed.motion_weight) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": torch.zeros(B, N + 1, 3, 64, 64)}, "`frames` must have shape"),
        ({"frames": torch.zeros(B, N + 1, 3, 32, 32, dtype=torch.long)}, "uint8 or float"),
        ({"actions": torch.zeros(B, N + 1, A)}, "`actions` must have shape"),
        ({"actions": torch.zeros(B, N, A + 1)}, "`actions` must have shape"),
        ({"frame_is_pad": torch.zeros(B, N, dtype=torch.bool)}, "`frame_is_pad` must be bool"),
        ({"frame_is_pad": torch.zeros(B, N + 1)}, "`frame_is_pad` must be bool"),
        ({"noise": torch.zeros(B, N, S)}, "`noise` must have shape"),
    ],
)
def test_inputs_of_the_wrong_shape_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        build()(**(batch() | change))


# ------------------------------------------------------------------------------ saving, learning


@pytest.mark.parametrize("variant", ["default", "authors"])
def test_saving_and_loading_keeps_outputs(variant, tmp_path):
    options = {"initial_state": "frame", "residual_decoder": True, "motion_weight": 0.5}
    model, data = build(variant, **options).eval(), batch()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is DreamerV3WorldModel
    assert loaded.config.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()
    assert torch.equal(model(**data).loss, loaded.eval()(**data).loss)


def test_a_model_in_half_precision_runs():
    """As served: the weights themselves are bfloat16, without autocast."""
    for objective in OBJECTIVES:
        model = build(objective=objective, initial_state="frame").eval()
        exact = model(**batch()).loss.item()
        model.to(torch.bfloat16)
        assert model(**batch()).loss.item() == pytest.approx(exact, rel=0.02)
        model.train()(**batch()).loss.backward()


def test_a_saved_folder_loads_as_remote_code_without_this_package(tmp_path):
    model, data = build().eval(), batch()
    loss = loss_as_remote_code(model, data, tmp_path)
    assert loss == pytest.approx(model(**data).loss.item(), rel=1e-5)


def test_an_unknown_key_in_a_saved_configuration_is_rejected(tmp_path):
    build().config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"deter_sise": 8}))
    with pytest.raises(ValueError, match="Did you mean `deter_size`"):
        AutoConfig.from_pretrained(tmp_path)


def moving_square(generator: torch.Generator, batch_size: int) -> dict[str, Tensor]:
    """A bright square that each action displaces by up to 6 pixels."""
    actions = torch.rand(batch_size, 2, A, generator=generator) * 2 - 1
    start = torch.rand(batch_size, 1, A, generator=generator) * 8 + 12
    centres = torch.cat([start, start + 6 * actions.cumsum(1)], 1)  # (B, 3, 2)
    grid = torch.arange(32.0)
    inside = (grid - centres[..., None]).abs() < 4  # (B, 3, 2, 32)
    square = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]
    return {"frames": square[:, :, None].expand(-1, -1, 3, -1, -1).float(), "actions": actions}


def test_imagination_learns_a_motion_that_is_the_action():
    model = build(
        objective="imagination",
        initial_state="frame",
        residual_decoder=True,
        motion_weight=1.0,
        deter_size=128,
        hidden_size=32,
        depth=8,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        optimizer.zero_grad()
        model(**moving_square(generator, 16)).loss.backward()
        optimizer.step()
    data = moving_square(generator, 64)
    model.eval()
    with torch.no_grad():
        right = model(**data).reconstruction_loss.mean()
        wrong = model(data["frames"], data["actions"].roll(1, 0)).reconstruction_loss.mean()
        late = model(data["frames"], data["actions"].flip(1)).reconstruction_loss.mean()
    first = data["frames"][:, :1]
    copy = frame_error(first, data["frames"][:, 1:], first, motion_weight=1.0).mean()
    assert right < 0.5 * copy
    assert right < 0.7 * wrong
    assert right < 0.85 * late
