"""saber.sft.estimate: parameters, memory and time of a run before it starts, and the recipes that state them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saber.model import build_thinker, load_plan
from saber.recipe import parse_recipe
from saber.sft import AnswerLoss, SFTConfig
from saber.sft.estimate import ClipSize, _precision, _working, clip_size, dry_run, estimate, headline, smaller_that_fits
from saber.sft.footprint import LiveBytes, text_footprint

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "train" / "recipes").glob("*/*/*.yaml"))
SEVEN, THREE = "Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B"


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    """The folder of a configuration of 33 million parameters, small enough to be run and large enough to be measured."""
    from saber.model import Qwen2_5OmniThinkerConfig

    width = 384
    configuration = Qwen2_5OmniThinkerConfig(
        text_config={
            "hidden_size": width, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6,
            "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 6000, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
        },
        vision_config={
            "depth": 4, "hidden_size": 160, "num_heads": 4, "intermediate_size": 480, "out_hidden_size": width,
            "fullatt_block_indexes": [1, 3],
        },
        audio_config={
            "encoder_layers": 4, "d_model": 160, "encoder_attention_heads": 4, "encoder_ffn_dim": 640,
            "output_dim": width, "n_window": 50,
        },
        tie_word_embeddings=False, image_token_index=5997, audio_token_index=5998, video_token_index=5999,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("middle")
    configuration.save_pretrained(folder)
    return str(folder)


def measured(config: SFTConfig, clips: int, size: ClipSize) -> tuple[int, int]:
    """Bytes that a real step on the CPU saves for its backward pass, and the most that are alive at once, besides
    weights and gradients."""
    torch.manual_seed(0)
    configuration, _ = load_plan(config.model)
    precision = _precision(config)
    model = build_thinker(configuration, precision.frozen).train()
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.requires_grad_(config.tuning == "full")
    for tower in (model.model.visual, model.model.audio_tower):
        tower.requires_grad_(config.train_encoders)
    if config.tuning == "lora":
        from peft import LoraConfig, get_peft_model

        targets = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
        get_peft_model(model, LoraConfig(r=config.lora_r, lora_dropout=config.lora_dropout, target_modules=targets))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(precision.trained)
            parameter.grad = torch.zeros_like(parameter)
    known = {values.untyped_storage()._cdata for values in model.state_dict().values()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(values: torch.Tensor) -> torch.Tensor:
        storage = values.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage
        return values

    side = round((size.patches / size.pairs) ** 0.5)
    frames = round(100 * size.seconds)
    words = torch.randint(10, 5000, (clips, size.prompt + size.answer))
    media = torch.tensor([configuration.video_token_id] * size.video + [configuration.audio_token_id] * size.audio)
    loss = AnswerLoss(model, config.train_encoders)
    with LiveBytes() as live:
        ids = torch.cat([media.expand(clips, -1), words], dim=1)
        labels = torch.full_like(ids, -100)
        labels[:, -size.answer :] = ids[:, -size.answer :]
        batch = {
            "input_ids": ids, "labels": labels, "positions": torch.arange(size.length).expand(3, clips, -1),
            "pixel_values_videos": torch.randn(clips * size.patches, 3 * 2 * 14 * 14),
            "video_grid_thw": torch.tensor([[size.pairs, side, side]] * clips),
            "input_features": torch.randn(clips, 128, frames), "feature_attention_mask": torch.ones(clips, frames).long(),
        }  # fmt: skip
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision.autocast):
                total, _ = loss(batch)
        held = sum(storage.nbytes() for storage in saved.values())
        saved.clear()
        total.backward()
    return held, live.peak


@pytest.mark.parametrize(
    "choice",
    [
        {"tuning": "full", "bf16": False},
        {"tuning": "full", "bf16": False, "gradient_checkpointing": True},
        {"tuning": "full", "train_encoders": True},
        {"tuning": "lora", "lora_dropout": 0.0},
        {"tuning": "lora", "lora_dropout": 0.0, "gradient_checkpointing": True},
    ],
    ids=lambda choice: " ".join(f"{name}={value}" for name, value in choice.items()),
)
def test_the_working_memory_is_within_a_fifth_of_what_a_real_step_takes(middle, choice, record_property):
    config = SFTConfig(model=middle, micro_batch_size=2, sharding="none", **choice)
    size = ClipSize(seconds=4.0, pairs=4, video=256, audio=100, prompt=40, answer=200, patches=1024)
    _, peak = measured(config, 2, size)
    said = max(_working(config, size).values())
    print(f"\n{choice}: estimated {said / 2**20:.1f} MiB, measured {peak / 2**20:.1f} MiB, ratio {said / peak:.3f}")
    assert said == pytest.approx(peak, rel=0.2)
