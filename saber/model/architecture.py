"""The thinker itself: its classes and sizes, its encoders, and what goes into its text model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

MEDIA_TOKENS = {
    "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
}  # fmt: skip
#: What each encoder takes, without which it is not run.
ENCODER_INPUTS = {"video": "pixel_values_videos", "audio": "input_features"}
#: Sizes of the published thinkers where they differ from the configuration classes' defaults, so that a run can be
#: estimated without the network; ``embed`` and ``lm_head`` are two tensors in both. 7B: counted 8.93 B in all, as the
#: checkpoint has (the vision class's own default width, 3584, is not the checkpoint's). 3B: text and audio sizes as in
#: the configuration of a public fine-tune of it (huggingface.co/OpenMOSS-Team/RoboOmni-LIBERO-Object, config.json),
#: output layer and 36 layers as another project's strict loader of the checkpoint expects. Not confirmed: its vision
#: encoder is taken to be that of 7B with an output of 2048, as in Qwen2.5-VL-3B.
PUBLISHED_SIZES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "Qwen/Qwen2.5-Omni-7B": {"text": {}, "vision": {"hidden_size": 1280}, "audio": {}},
    "Qwen/Qwen2.5-Omni-3B": {
        "text": {
            "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
            "num_key_value_heads": 2, "vocab_size": 151936,
        },
        "vision": {"hidden_size": 1280, "out_hidden_size": 2048},
        "audio": {"output_dim": 2048},
    },
}  # fmt: skip


def build_thinker(configuration: Any, dtype: torch.dtype = torch.bfloat16, layers: int | None = None) -> Any:
    """A model of this configuration, for planning: under ``torch.device("meta")`` or a FakeTensorMode it takes no
    memory. ``layers``: so many in the text model and in each encoder, None for all."""
    configuration = copy.deepcopy(configuration)
    if layers is not None:
        configuration.text_config.num_hidden_layers = layers
        configuration.text_config.layer_types = configuration.text_config.layer_types[:1] * layers
        configuration.vision_config.depth = layers
        configuration.audio_config.encoder_layers = layers
    return Qwen2_5OmniThinkerForConditionalGeneration._from_config(configuration, dtype=dtype)


def encode_media(model: torch.nn.Module, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Runs the encoders once: "video" (video tokens, width) and "audio" (audio tokens, width), where present."""
    features = {}
    if inputs.get(ENCODER_INPUTS["video"]) is not None:
        outputs = model.model.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
        )
        features["video"] = torch.cat(list(outputs.pooler_output))
    if inputs.get(ENCODER_INPUTS["audio"]) is not None:
        outputs = model.model.get_audio_features(
            inputs["input_features"], inputs["feature_attention_mask"], return_dict=True
        )
        features["audio"] = outputs.last_hidden_state
    return features


def least_media(model: torch.nn.Module, kinds: Sequence[str]) -> dict[str, torch.Tensor]:
    """The smallest inputs that each encoder of ``kinds`` ("video", "audio") takes, all zero: one pair of frames of one
    token, 80 ms of sound. For running an encoder where a batch has nothing for it."""
    vision, audio, device = model.config.vision_config, model.config.audio_config, model.device
    inputs: dict[str, torch.Tensor] = {}
    if "video" in kinds:
        side = vision.spatial_merge_size
        size = 3 * vision.temporal_patch_size * vision.patch_size**2
        inputs["pixel_values_videos"] = torch.zeros(side * side, size, device=device)
        inputs["video_grid_thw"] = torch.tensor([[1, side, side]], device=device)
    if "audio" in kinds:
        inputs["input_features"] = torch.zeros(1, audio.num_mel_bins, 8, device=device)
        inputs["feature_attention_mask"] = torch.ones(1, 8, dtype=torch.long, device=device)
    return inputs


def embed(model: torch.nn.Module, input_ids: torch.Tensor, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Token embeddings (..., S, width) with the media features in the places of their placeholder tokens, in order."""
    embeddings = model.get_input_embeddings()(input_ids)
    for kind, token_id in (("video", model.config.video_token_id), ("audio", model.config.audio_token_id)):
        if kind in features:
            places = (input_ids == token_id).unsqueeze(-1)
            embeddings = embeddings.masked_scatter(places, features[kind].to(embeddings.dtype))
    return embeddings


def prompt_positions(model: torch.nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Rotary positions (3, S) of one clip's prompt. Always clip by clip: over a batch that mixes clips with and without
    audio the model's own are silently wrong."""
    seconds = inputs.get("video_second_per_grid")
    mask = inputs.get("feature_attention_mask")
    if inputs.get("video_grid_thw") is None:  # without video the model numbers its tokens one by one
        return torch.arange(inputs["input_ids"].shape[1]).expand(3, -1)
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"],
        video_grid_thw=inputs.get("video_grid_thw"),
        attention_mask=inputs["attention_mask"],
        use_audio_in_video=bool(inputs.get("use_audio_in_video")),
        audio_seqlens=None if mask is None else mask.sum(-1),
        second_per_grids=None if seconds is None else torch.as_tensor(seconds),
    )
    return positions[:, 0]
