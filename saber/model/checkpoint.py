"""A checkpoint: model, processor and the settings that travel with them. ``Checkpoint.prepare`` is the only place where
media and text become model inputs; ``build_checkpoint`` makes a new one with random weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from saber import media
from saber.model.architecture import MEDIA_TOKENS, build_thinker
from saber.prompts import load_prompt
from saber.schema import LANGUAGES

SETTINGS_FILE = "saber.json"
_VIDEO = "<|vision_bos|><|VIDEO|><|vision_eos|>"
_AUDIO = "<|audio_bos|><|AUDIO|><|audio_eos|>"


class ModelError(ValueError):
    """A checkpoint cannot be used. The message names it, the field and the value, and the next step."""


@dataclass(frozen=True)
class Settings:
    """What travels with a checkpoint besides weights and processor.

    ``media``: how clips are decoded. ``prompts``: language ("en", "zh", "clip") -> text. ``prompt_version``: as in the
    prompt file. ``max_new_tokens``: the answer's bound. ``about``: facts for people (title, what it was trained on).
    """

    media: media.MediaSettings = field(default_factory=media.MediaSettings)
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt_version: str = ""
    max_new_tokens: int = 4096
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def build(cls, prompt: str, **values: Any) -> Settings:
        """Settings with the prompt files called ``prompt``."""
        files = {language: load_prompt(prompt, language) for language in (*LANGUAGES, "clip")}
        texts = {language: file.text for language, file in files.items()}
        return cls(prompts=texts, prompt_version=files["en"].version, **values)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "media": self.media.to_json()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Settings:
        return cls(**{**record, "media": media.MediaSettings.from_json(record["media"])})


@dataclass
class Checkpoint:
    """A model with its processor and settings, ready for the Engine or for training."""

    model: Qwen2_5OmniThinkerForConditionalGeneration
    processor: Qwen2_5OmniProcessor
    settings: Settings
    name: str = ""

    def prepare(self, decoded: media.Decoded, language: str | None = None) -> dict[str, Any]:
        """Model inputs of one clip and its prompt, batch of one: ``input_ids`` (1, S), ``attention_mask``, the media
        tensors, ``use_audio_in_video``. ``language``: of the answer, None means the clip's."""
        inputs = self.media_inputs(decoded)
        return self.with_prompt(inputs, self.settings.prompts[language or "clip"])

    def media_inputs(self, decoded: media.Decoded) -> dict[str, Any]:
        """The prompt-independent part of ``prepare``: media tensors, and ``media_ids``, the placeholder tokens that
        stand for them (what the processor writes between the vision or audio brackets)."""
        frames, audio = decoded.frames, decoded.audio
        together = frames is not None and audio is not None and self.settings.media.audio_in_video
        arguments: dict[str, Any] = {}
        text = ""
        if frames is not None:
            pixels = frames.shape[1] * frames.shape[2]
            low = self.settings.media.min_pixels or pixels
            high = self.settings.media.max_pixels or pixels
            if self.settings.media.side_multiple > 1:  # frames have their final size
                low = high = pixels
            arguments["videos"] = [frames]
            # The processor's class-level size overrides the saved one, so the budget is passed on every call.
            arguments["videos_kwargs"] = {
                "size": {"shortest_edge": min(low, high), "longest_edge": high},
                "fps": decoded.fps,  # as realised: lower than asked where a long clip reached the frame limit
                "cap_pixels_per_frame": True,
                "do_sample_frames": False,
            }
            text += _VIDEO
        hop = self.processor.feature_extractor.hop_length
        if audio is not None and frames is not None and len(audio) < 3 * hop:
            audio, together = None, False  # less than the audio encoder makes a token of
        if audio is not None:
            arguments["audio"] = [audio]
            # Half a second of silence after it stands for the 30 to 300 s that the extractor pads to: the same numbers
            # where there is sound, and the encoder reads no others.
            length = -(-(len(audio) + 8000) // hop) * hop
            arguments["audio_kwargs"] = {"padding": "max_length", "max_length": length}
            text += "" if together else _AUDIO
        if together:
            arguments |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
        inputs = dict(self.processor(text=[text], return_tensors="pt", **arguments))
        inputs["media_ids"] = inputs.pop("input_ids")[0]
        inputs["use_audio_in_video"] = together
        del inputs["attention_mask"]
        return inputs

    def with_prompt(self, inputs: Mapping[str, Any], text: str) -> dict[str, Any]:
        """Adds ``input_ids`` and ``attention_mask`` (1, S): the chat of one user turn that holds the media and a text,
        with the assistant's turn opened."""
        content: list[dict[str, str]] = []
        if inputs.get("video_grid_thw") is not None:
            content.append({"type": "video"})
        if inputs.get("feature_attention_mask") is not None and not inputs["use_audio_in_video"]:
            content.append({"type": "audio"})
        content.append({"type": "text", "text": text})
        chat = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        brackets = [bracket for bracket in (_VIDEO, _AUDIO) if bracket in chat]
        start = min(chat.index(bracket) for bracket in brackets)
        end = max(chat.index(bracket) + len(bracket) for bracket in brackets)
        encode = self.processor.tokenizer.encode
        ids = torch.tensor([*encode(chat[:start]), *inputs["media_ids"].tolist(), *encode(chat[end:])])[None]
        return {
            **{key: value for key, value in inputs.items() if key != "media_ids"},
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
        }

    def save(
        self,
        folder: str | Path,
        dtype: torch.dtype = torch.float16,
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Writes weights (16-bit safetensors), configuration, processor and settings. ``weights``: by their names in
        the model, where the model itself does not hold them whole."""
        folder = Path(folder)
        state = {name: value.to(dtype) for name, value in (weights or self.model.state_dict()).items()}
        if self.model.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)  # the same numbers as the embeddings; once is enough
        # Written beside its place, each file moved there whole: a kill leaves no torn weights.
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        self.model.save_pretrained(part, state_dict=state)
        config = json.loads((part / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = str(dtype).removeprefix("torch.")  # save_pretrained writes that of the weights in memory
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        self.processor.save_pretrained(part)
        self.save_settings(part)
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(part.iterdir()):
            os.replace(file, folder / file.name)
        part.rmdir()

    def save_settings(self, folder: Path) -> None:
        text = json.dumps(self.settings.to_json(), indent=1, ensure_ascii=False)
        (folder / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")

    def without_weights(self) -> Checkpoint:
        """The same with its model on the meta device: whoever prepares inputs needs the configuration alone."""
        with torch.device("meta"):
            return replace(self, model=build_thinker(self.model.config))

    def fingerprint(self) -> str:
        """Tells checkpoints apart by what their answers follow from: settings (not the answer's bound nor what is said
        about the model) and some weights of each tensor. A path can come to hold another model."""
        settings = {k: v for k, v in self.settings.to_json().items() if k not in ("max_new_tokens", "about")}
        found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, values in self.model.state_dict().items():
            found.update(name.encode() + values.flatten()[:64].float().cpu().numpy().tobytes())
        return found.hexdigest()


def build_checkpoint(
    texts: Iterable[str], vocabulary_size: int, sizes: Mapping[str, Mapping[str, Any]], settings: Settings
) -> Checkpoint:
    """A new checkpoint of the published architecture with random weights and its own tokenizer, a byte-level BPE of
    ``vocabulary_size`` tokens trained on ``texts``. ``sizes``: "text", "vision" and "audio" configurations."""
    tokenizer = Qwen2TokenizerFast(
        vocab={},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={**MEDIA_TOKENS, "im_start_token": "<|im_start|>"},
    ).train_new_from_iterator(texts, vocabulary_size, show_progress=False)
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5OmniThinkerConfig(
        text_config={**sizes["text"], "vocab_size": len(tokenizer), "tie_word_embeddings": True},
        vision_config=dict(sizes["vision"]),
        audio_config=dict(sizes["audio"]),
        image_token_index=token("<|IMAGE|>"),
        audio_token_index=token("<|AUDIO|>"),
        video_token_index=token("<|VIDEO|>"),
        audio_start_token_id=token("<|audio_bos|>"),
        audio_end_token_id=token("<|audio_eos|>"),
        user_token_id=token("<|im_start|>"),
        vision_start_token_id=token("<|vision_bos|>"),  # get_rope_index reads it; the class does not declare it
        tie_word_embeddings=True,
    )
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(),
        video_processor=Qwen2VLVideoProcessor(),
        # 30 s: padding to the class's 300 s would cost half a second a clip.
        feature_extractor=WhisperFeatureExtractor(feature_size=128, chunk_length=30, return_attention_mask=True),
        tokenizer=tokenizer,
        chat_template=(
            "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
            "{% if part.type == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
            "{% elif part.type == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
            "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    )
    return Checkpoint(model, processor, settings)
