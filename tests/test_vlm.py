# SPDX-License-Identifier: Apache-2.0
"""The vision-language policy over tiny random backbones, and the tokens that it reads."""

import json
import shutil
import sys

import pytest
import torch
from contract import OwnPolicyContract, make_inputs, make_observation
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from lawm_hf import (
    DreamerV3Config,
    DreamerV3WorldModel,
    LAWMForPretraining,
    LAWMPolicy,
    LAWMProcessor,
    VlmPolicy,
    VlmPolicyConfig,
)
from lawm_hf.envs.tabletop.scene import CUBE_COLORS, GOALS
from lawm_hf.hub.card import card_metadata, data_licences
from lawm_hf.hub.card_file import run_files, saved_backbone
from lawm_hf.models.auto_lawm import new_policy
from lawm_hf.models.modeling_vlm import grid_waves
from lawm_hf.models.tokens_lawm import TaskTokenizer, hash_ids

SIZES = {"chunk_size": 3, "action_size": 2, "state_size": 2, "task_embed_size": 32}
TEXT = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": None}
TEXT |= {"bos_token_id": None, "eos_token_id": None}
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32}
VISION |= {"num_hidden_layers": 2, "num_attention_heads": 2}
SMOLVLM = {"model_type": "smolvlm", "scale_factor": 2, "image_token_id": 0, "pad_token_id": None}
SMOLVLM |= {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION}
BACKBONES = {
    "smolvlm": SMOLVLM,
    "idefics3": SMOLVLM | {"model_type": "idefics3"},
    "llava": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model"},
    },
    "paligemma": {
        "text_config": TEXT | {"model_type": "gemma"},
        "vision_config": VISION | {"model_type": "siglip_vision_model", "projection_dim": 16},
        "projection_dim": 16,
    },
    "internvl": {
        "text_config": TEXT | {"model_type": "qwen2"},
        "vision_config": VISION | {"image_size": [32, 32], "patch_size": [8, 8]},
    },
}
TINY = SIZES | {"image_size": 32, "num_task_tokens": 8, "hidden_size": 16, "num_heads": 2}
TINY |= {"num_expert_layers": 1, "backbone_config": SMOLVLM}
WORDS = ["<s>", "<unk>", "go", "to", "the", "red", "blue", "cube"]


def make_policy(**options) -> VlmPolicy:
    torch.manual_seed(0)
    return VlmPolicy(VlmPolicyConfig(**TINY | options))


class TestVlmPolicy(OwnPolicyContract):
    policy_class = VlmPolicy
    options = TINY

    @pytest.mark.slow
    def test_a_saved_policy_loads_where_this_package_is_not_installed(self, tmp_path):
        super().test_a_saved_policy_loads_where_this_package_is_not_installed(tmp_path)


# ------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("family", BACKBONES)
def test_each_latent_moves_the_backbone_of_every_family_and_a_checkpoint_round_trips(
    family, tmp_path
):
    policy = make_policy(backbone_config={"model_type": family} | BACKBONES[family])
    chunk = policy(**make_observation(policy.config)).actions
    words, vision = policy.backbone.get_input_embeddings().weight, policy.view_places
    for latent in chunk.unbind(1):
        for gradient in torch.autograd.grad(latent.sum(), [words, vision], retain_graph=True):
            assert gradient.any()
    assert any(gradient is not None and gradient.any() for gradient in vision_gradients(policy))
    policy.save_pretrained(tmp_path)
    again = LAWMPolicy.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**make_observation(policy.config)).actions, chunk)


def vision_gradients(policy: VlmPolicy) -> list[torch.Tensor | None]:
    chunk = policy(**make_observation(policy.config)).actions
    vision = list(policy.named_part("vision_parameter_prefixes").values())
    return list(torch.autograd.grad(chunk.square().sum(), vision, allow_unused=True))


def test_the_world_model_trains_every_parameter_through_every_latent():
    policy = make_policy(latent_norm="batch", state_size=0)
    world = DreamerV3Config.from_preset("tiny", action_size=2, deter_size=32, hidden_size=16)
    model = LAWMForPretraining(policy, DreamerV3WorldModel(world))
    frames = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    observation = make_observation(policy.config)
    del observation["state"]
    outputs = model(frames=frames, **observation)
    outputs.latents.retain_grad()
    outputs.loss.backward()
    assert (outputs.latents.grad.abs().sum((0, 2)) > 0).all()
    without = [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_backbone_that_does_not_learn_stays_and_so_does_a_loaded_one(tmp_path):
    make_policy(train_backbone="none").save_pretrained(tmp_path)
    policy = LAWMPolicy.from_pretrained(tmp_path)
    policy(**make_inputs(policy.config)).loss.backward()
    for name, parameter in policy.named_parameters():
        is_frozen = name.startswith("backbone.")
        assert parameter.requires_grad is not is_frozen, name
        assert is_frozen or parameter.grad.any(), name


def test_adapters_alone_learn_beside_the_expert_and_are_saved_with_it(tmp_path):
    pytest.importorskip("peft")
    policy = make_policy(train_backbone="lora", lora_rank=2)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01)
    for _ in range(2):  # at first the adapters' second matrices are zero, and hide the first ones
        optimizer.zero_grad()
        chunk = policy(**make_observation(policy.config)).actions
        (chunk * torch.randn_like(chunk)).sum().backward()
        optimizer.step()
    learning = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    assert [n for n, p in learning.items() if not p.grad.any()] == []
    adapters = {n for n in learning if n.startswith("backbone.")}
    assert adapters == {n for n in before if "lora_" in n}
    assert any("vision_model" in n for n in adapters)
    assert any("text_model" in n for n in adapters)
    for name, value in policy.state_dict().items():
        is_base = name.startswith("backbone.") and "lora_" not in name
        assert not is_base or torch.equal(value, before[name]), name

    policy.eval().save_pretrained(tmp_path)
    again = LAWMPolicy.from_pretrained(tmp_path)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == set(learning)
    observation = make_observation(policy.config)
    torch.testing.assert_close(again(**observation).actions, policy(**observation).actions)

    policy.save_pretrained(tmp_path / "policy")  # and to a robot of other sizes
    robot = LAWMPolicy.from_latent_pretraining(tmp_path, action_size=4, state_size=0)
    assert {n for n, p in robot.named_parameters() if p.requires_grad} < set(learning)
    for name in adapters:
        assert torch.equal(robot.state_dict()[name], policy.state_dict()[name])


def test_adapters_without_their_library_are_an_error_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"lawm_hf\[vlm\]"):
        make_policy(train_backbone="lora")


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for is_checkpointed in (False, True):
        policy = make_policy().train()
        if is_checkpointed:
            policy.gradient_checkpointing_enable()
        policy(**make_inputs(policy.config)).loss.backward()
        gradients.append([p.grad for p in policy.parameters()])
    torch.testing.assert_close(*gradients)


def squares(num: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Pictures with a red square, and where it is."""
    places = torch.randint(0, 56, (num, 2), generator=generator)
    views = -torch.ones(num, 1, 3, 64, 64)
    for view, (row, column) in zip(views, places.tolist(), strict=True):
        view[0, 0, row : row + 8, column : column + 8] = 1
    tokens = torch.tensor([[7, 3, 9] + 13 * [-1]]).repeat(num, 1)
    return {"pixel_values": views, "task_tokens": tokens, "actions": places[:, None] / 28 - 1}


@pytest.mark.slow
def test_with_random_weights_it_finds_a_square_within_300_updates():
    sizes = {"action_size": 2, "state_size": 0, "chunk_size": 1}
    policy = new_policy("vlm", "tabletop", **sizes).train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=4e-4, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=30)
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        policy(**squares(32, generator)).loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    batch = squares(64, generator)
    with torch.no_grad():
        assert policy.eval()(**batch).loss < 0.5 * batch["actions"].abs().mean()


def test_each_token_of_a_picture_has_a_place_of_its_own():
    for num_tokens in (1, 4, 12, 16, 81):
        waves = grid_waves(num_tokens)
        assert len(waves.unique(dim=0)) == len(waves) == num_tokens
    columns = grid_waves(16).reshape(4, 4, 2, -1)[:, :, 0]  # (row, column, ...)
    assert columns.eq(columns[:1]).all()


# ------------------------------------------------------------------------ a backbone in a folder


def words_to_tokenizer(more: tuple[str, ...] | list[str] = (), **options):
    words = {word: i for i, word in enumerate([*WORDS, *more])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **options)


@pytest.fixture
def backbone(tmp_path) -> str:
    """A vision-language model as it lies on the Hub: weights, tokenizer, picture processor."""
    folder = tmp_path / "smolvlm"
    config = AutoConfig.for_model(**SMOLVLM)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    words_to_tokenizer().save_pretrained(folder)
    picture = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return str(folder)


def from_folder(backbone: str, **options) -> tuple[LAWMPolicy, LAWMProcessor]:
    torch.manual_seed(0)
    tiny = {k: v for k, v in TINY.items() if k != "backbone_config"}
    policy = new_policy("vlm", "tabletop", **tiny | {"backbone": backbone} | options).eval()
    sizes = {"image_size": 32, "task_embed_size": 32}
    return policy, LAWMProcessor(**sizes, **policy.config.processor_options())


def test_a_new_policy_has_the_weights_words_and_pictures_of_its_backbone(backbone):
    policy, processor = from_folder(backbone, num_layers=1)
    theirs = AutoModelForImageTextToText.from_pretrained(backbone).model.state_dict()
    ours = policy.backbone.state_dict()
    assert ours.keys() < theirs.keys()
    assert {name.split("layers.")[1][0] for name in ours if "text_model.layers" in name} == {"0"}
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    batch = processor(images=torch.zeros(1, 1, 3, 32, 32), task=["go to the red cube"])
    assert batch["task_tokens"].tolist() == [[0, 2, 3, 4, 5, 7, -1, -1]]
    expected = -torch.tensor([0.1, 0.2, 0.3]) / torch.tensor([0.4, 0.5, 0.6])
    torch.testing.assert_close(batch["pixel_values"][0, 0, :, 0, 0], expected)


def test_a_checkpoint_reads_new_instructions_without_the_backbone_it_came_from(backbone, tmp_path):
    policy, processor = from_folder(backbone)
    images = torch.rand(2, 2, 3, 64, 64)
    tasks = ["go to the red cube", "go to the blue cube"]
    chunk = policy(**processor(images=images[:1].expand_as(images), task=tasks)).actions
    assert not chunk[0].allclose(chunk[1])
    policy.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    shutil.rmtree(backbone)
    policy = LAWMPolicy.from_pretrained(tmp_path / "saved")
    processor = LAWMProcessor.from_pretrained(tmp_path / "saved")
    batch = processor(images=images[:1].expand_as(images), task=tasks)
    torch.testing.assert_close(policy(**batch).actions, chunk)


def test_a_card_names_the_backbone_and_leaves_its_licence_to_whoever_shares_it(tmp_path):
    policy = make_policy()
    args, parts = {"source": "tabletop:reach"}, ({}, policy)
    assert card_metadata(args, *parts, data_licences(args, {})).base_model is None
    policy.config.backbone = "me/model"
    policy.save_pretrained(tmp_path / "policy")
    (tmp_path / "args.yaml").write_text("source: tabletop:reach")
    (tmp_path / "environment.json").write_text("{}")
    licences = data_licences(*run_files(tmp_path), saved_backbone(tmp_path))
    assert "licence unknown" in licences["the backbone me/model"].text
    data = card_metadata(args, *parts, licences)
    assert (data.base_model, data.license) == ("me/model", "other")


def test_incomplete_weights_of_a_backbone_are_refused(backbone):
    model = AutoModelForImageTextToText.from_pretrained(backbone)
    weights = model.state_dict()
    del weights["model.connector.modality_projection.proj.weight"]
    model.save_pretrained(backbone, state_dict=weights)
    with pytest.raises(ValueError, match=r"1 are missing.*connector"):
        from_folder(backbone)


def test_a_damaged_tokenizer_is_named(backbone, tmp_path):
    _, processor = from_folder(backbone)
    processor.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved/task_tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"task_tokenizer.json must hold a tokenizer"):
        LAWMProcessor.from_pretrained(tmp_path / "saved")


# ------------------------------------------------------------------------ what is refused


def test_a_model_whose_pictures_have_many_sizes_is_refused_before_it_is_loaded():
    with pytest.raises(StrictDataclassError, match=r"smolvlm.*got 'qwen2_5_vl'"):
        make_policy(backbone_config={"model_type": "qwen2_5_vl"})


def test_an_instruction_that_comes_as_an_embedding_alone_is_refused():
    policy = make_policy()
    observation = make_observation(policy.config)
    del observation["task_tokens"]
    with pytest.raises(ValueError, match="processor_options"):
        policy(**observation)


@pytest.mark.parametrize("task", ["", "a b c d e"])
def test_an_instruction_without_words_or_of_too_many_is_refused(task):
    with pytest.raises(ValueError, match=r"from 1 to 4 tokens.*got [05]"):
        TaskTokenizer("hashing:32", 4)([task])


# ------------------------------------------------------------------------ words without a tokenizer


def test_hashed_words_keep_their_order_and_the_tabletops_words_have_an_id_each():
    assert hash_ids("Red CUBE!", 2048) == hash_ids("red cube", 2048)
    assert hash_ids("red cube", 2048) == hash_ids("cube red", 2048)[::-1]
    words = " ".join(["go to the put pick up place in on cube", *CUBE_COLORS, *GOALS])
    ids = hash_ids(words, 2048)
    assert len(set(ids)) == len(set(words.split()))


# ------------------------------------------------------------------------ the recipes, and LeRobot


@pytest.mark.slow
def test_it_is_pretrained_finetuned_and_acts_in_both_libraries(tmp_path):
    import test_recipes as recipes

    tiny = {"hidden_size": 32, "num_expert_layers": 1}
    folder, finetuned = tmp_path / "pretrained", tmp_path / "finetuned"
    options = {"policy_type": "vlm", "policy_config": json.dumps(tiny)}
    recipes.pretrain(folder, steps=2, **options, eval_source=recipes.SMALL["sources"][0])
    recipes.finetune(finetuned, pretrained=str(folder), steps=2)
    before, after = (load_file(f / "model.safetensors") for f in (folder / "policy", finetuned))
    assert before.keys() == after.keys()
    for state in (recipes.AcceleratorState, recipes.PartialState, recipes.GradientState):
        state._reset_state()
    module = recipes.recipe("evaluate")
    options = {"policy": str(finetuned), "output_dir": str(tmp_path / "eval"), "episodes": 2}
    module.main(module.EvaluateArgs(**options))
    assert json.loads((tmp_path / "eval/summary.json").read_text())["episodes"] == 2

    pytest.importorskip("lerobot")
    from lawm_hf.lerobot.modeling_lawm import LeRobotLAWMPolicy

    theirs = LeRobotLAWMPolicy.from_pretrained(finetuned)
    views, state, task = torch.rand(1, 2, 3, 64, 64), torch.rand(1, 8), ["go to the red cube"]
    observation = {f"observation.images.{v}": views[:, i] for i, v in enumerate(("front", "wrist"))}
    chunk = theirs.predict_action_chunk(observation | {"observation.state": state, "task": task})
    policy, processor = (c.from_pretrained(finetuned) for c in (LAWMPolicy, LAWMProcessor))
    expected = policy.predict_action_chunk(**processor(images=views, task=task, state=state))
    torch.testing.assert_close(chunk, processor.unnormalize_actions(expected))
