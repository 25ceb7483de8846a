"""Checkpoints and the Engine: a decoded clip and a prompt go in, typed events come out. The only file that names
Qwen classes.

``load()`` gives an ``Engine``; ``Engine.stream(clip)`` yields ``Seen``, then ``sections.Event`` as text is generated,
then ``Done``. Training uses the parts below it: ``Checkpoint`` (model, processor, settings), ``Checkpoint.prepare``
(the only place where media and text become model inputs) and ``encode_media``. What differs between models (pixel
budget, fps, prompt, token limit) is data in the checkpoint's ``saber.json``, never a branch here.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from saber import media
from saber.prompts import load_prompt
from saber.schema import LANGUAGES, Clip, Prediction
from saber.sections import Event, Parser


def _import_torchvision() -> None:
    """torchvision's wheel is linked to CUDA; beside a CPU torch its import fails for want of two operator schemas, and
    then the Omni processor cannot be imported. Declaring the schemas cures it; on a matching install nothing is done.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _import_torchvision.library = library  # kept alive: the schemas go when it goes
        import torchvision  # noqa: F401


_import_torchvision()

from safetensors import SafetensorError  # noqa: E402
from tokenizers.decoders import DecodeStream  # noqa: E402
from transformers import (  # noqa: E402
    DynamicCache,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    WhisperFeatureExtractor,
)
from transformers.utils import logging as transformers_logging  # noqa: E402

WEIGHTS = Path(__file__).parent / "weights"
#: Names of the embedded checkpoints; anything else is a folder or a Hub id.
EMBEDDED = {"saber-mini": WEIGHTS / "saber-mini", "saber-mini-base": WEIGHTS / "saber-mini-base"}
DEFAULT_MODEL = "saber-mini"
SETTINGS_FILE = "saber.json"
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
_VIDEO = "<|vision_bos|><|VIDEO|><|vision_eos|>"
_AUDIO = "<|audio_bos|><|AUDIO|><|audio_eos|>"


#: Note -> language -> sentence, about an answer; those about the clip and the text are media's and sections'.
NOTES = {
    "answer_cut_off": {
        "en": "The answer reached its bound and was cut off.",
        "zh": "回答达到长度上限，被截断。",
    },
}


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


def resolve(name_or_path: str | Path | None) -> str:
    """A folder or Hub id for a name: None is the embedded default."""
    name = str(name_or_path or DEFAULT_MODEL)
    folder = EMBEDDED.get(name)
    if folder is not None and not Path(name).exists():
        if not (folder / "config.json").exists():
            raise ModelError(f"the embedded checkpoint {name} is not in this installation; train it with: make mini")
        return str(folder)
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise ModelError(f"model {name!r} is neither a folder nor a Hub id (owner/name) nor one of {list(EMBEDDED)}")
    return name


def load_checkpoint(
    name_or_path: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
) -> Checkpoint:
    """Loads weights, processor and settings. ``device``: default cuda if there is one. ``dtype``: default float32 on
    a CPU, bfloat16 elsewhere. ``quantization``: "nf4" holds the text model's linear layers in 4 bits (bitsandbytes);
    encoders and output layer stay as they are. Raises ModelError naming the checkpoint and what is wrong with it."""
    source = resolve(name_or_path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    # An embedded checkpoint loads in an instant: a bar would only be noise.
    hide_bar = source in map(str, EMBEDDED.values()) and transformers_logging.is_progress_bar_enabled()
    try:
        if hide_bar:
            transformers_logging.disable_progress_bar()
        model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            source, dtype=dtype, use_safetensors=True, low_cpu_mem_usage=True, **_quantized(quantization, device, dtype)
        )
        processor = Qwen2_5OmniProcessor.from_pretrained(source)
        settings = _load_settings(source)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        # What a folder can hold instead of a checkpoint: nothing, torn weights, tensors of other sizes, odd settings.
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"model {name_or_path or DEFAULT_MODEL!r} cannot be loaded ({what}); get it again") from error
    finally:
        if hide_bar:
            transformers_logging.enable_progress_bar()
    if quantization is None:
        model = model.to(device)
    return Checkpoint(model.eval(), processor, settings, str(name_or_path or DEFAULT_MODEL))


def _quantized(quantization: str | None, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` for a 4-bit base (QLoRA, Dettmers et al. 2023: NF4, quantised twice)."""
    if quantization is None:
        return {}
    if quantization != "nf4":
        raise ModelError(f"quantization is {quantization!r}; it must be None or 'nf4'")
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=["model.visual", "model.audio_tower", "lm_head"],
        ),
        "device_map": {"": device},
    }


def _load_settings(source: str) -> Settings:
    from transformers.utils import cached_file

    path = cached_file(source, SETTINGS_FILE, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return foreign_settings()
    return Settings.from_json(json.loads(Path(path).read_text(encoding="utf-8")))


def foreign_settings() -> Settings:
    """Settings for a checkpoint of another origin: at most 40 frames and the answer's bound are those of the published
    inference script; frame rate and pixel budget are ours."""
    return Settings.build("sed", media=media.MediaSettings(fps=2.0, max_frames=40, max_pixels=50_176))


def load_plan(name_or_path: str | Path | None = None) -> tuple[Any, Settings]:
    """A checkpoint's configuration and settings without its weights; without the network for the published models.
    Raises ModelError naming the checkpoint."""
    source = resolve(name_or_path)
    if sizes := PUBLISHED_SIZES.get(source):
        untied = {**sizes["text"], "tie_word_embeddings": False}
        configuration = Qwen2_5OmniThinkerConfig(
            text_config=untied, vision_config=dict(sizes["vision"]), audio_config=dict(sizes["audio"]),
            tie_word_embeddings=False,
        )  # fmt: skip
        return configuration, foreign_settings()
    try:
        return Qwen2_5OmniThinkerConfig.from_pretrained(source), _load_settings(source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"the configuration of model {source!r} cannot be read ({what}); get it again") from error


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


def answer_batch(checkpoint: Checkpoint, batch: Sequence[Mapping[str, Any]], limit: int) -> list[list[int]]:
    """Greedy answers (token ids without the end token) of several prepared clips at once, equal to one by one.

    Clips of any length and any tracks may be mixed: each gets the rotary positions that it has alone. Prompts are
    padded on the left.
    """
    return [[token for token, _ in answer] for answer in scored_answer_batch(checkpoint, batch, limit)]


@torch.inference_mode()
def scored_answer_batch(
    checkpoint: Checkpoint, batch: Sequence[Mapping[str, Any]], limit: int
) -> list[list[tuple[int, float]]]:
    """``answer_batch`` with the natural logarithm of each token's probability: (token id, log-probability). The
    probability is that among the tokens that may be chosen: media placeholders have none. In 32 bit."""
    model, processor = checkpoint.model, checkpoint.processor
    text_model, device = model.model.language_model, model.device
    embeddings, positions = [], []
    for inputs in batch:
        on_device = {key: value.to(device) if torch.is_tensor(value) else value for key, value in inputs.items()}
        embeddings.append(embed(model, on_device["input_ids"], encode_media(model, on_device))[0])
        positions.append(prompt_positions(model, inputs))
    longest = max(map(len, embeddings))
    width = embeddings[0].shape[-1]
    hidden = embeddings[0].new_zeros(len(batch), longest, width)
    places = torch.ones(3, len(batch), longest, dtype=torch.long, device=device)
    mask = torch.zeros(len(batch), longest, dtype=torch.long, device=device)
    for row, (embedding, position) in enumerate(zip(embeddings, positions, strict=True)):
        hidden[row, longest - len(embedding) :] = embedding
        places[:, row, longest - len(embedding) :] = position.to(device)
        mask[row, longest - len(embedding) :] = 1
    following = torch.tensor([int(position.max()) + 1 for position in positions], device=device)
    ends = _end_tokens(model)
    blocked = _placeholders(processor.tokenizer)
    answers: list[list[tuple[int, float]]] = [[] for _ in batch]
    open_rows = set(range(len(batch)))
    cache = DynamicCache(config=model.config.get_text_config())
    for _ in range(limit):
        out = text_model(inputs_embeds=hidden, attention_mask=mask, position_ids=places, past_key_values=cache,
                         use_cache=True)  # fmt: skip
        logits = model.lm_head(out.last_hidden_state[:, -1])
        logits[:, blocked] = -torch.inf
        tokens = logits.argmax(-1)
        scores = logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        chosen = list(zip(tokens.tolist(), scores.tolist(), strict=True))
        for row in sorted(open_rows):
            if chosen[row][0] in ends:
                open_rows.discard(row)
            else:
                answers[row].append(chosen[row])
        if not open_rows:
            break
        hidden = model.get_input_embeddings()(tokens)[:, None]
        places = following.expand(3, -1)[..., None]
        following = following + 1
        mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
    return answers


@dataclass(frozen=True)
class Seen:
    """What the model was given, once the clip is decoded. ``notes``: keys of media.NOTES (a track is missing, ...);
    ``remarks``: the same as English sentences."""

    frames: int
    video_s: float
    audio_s: float
    prompt_tokens: int
    video_tokens: int
    audio_tokens: int
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    prediction: Prediction


class _Stop(StoppingCriteria):
    """Ends generation within one token once the flag is up."""

    def __init__(self, flag: threading.Event) -> None:
        self.flag = flag

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.flag.is_set(), dtype=torch.bool, device=input_ids.device)


class _Tokens:
    """What ``generate`` calls a streamer: hands over token ids as they come; the first call holds the prompt."""

    def __init__(self, out: queue.SimpleQueue) -> None:
        self.out, self.prompt_skipped = out, False

    def put(self, ids: torch.Tensor) -> None:
        if self.prompt_skipped:
            for token in ids.flatten().tolist():
                self.out.put(token)
        self.prompt_skipped = True

    def end(self) -> None:
        pass


class Engine:
    """Answers clips with one checkpoint. Generation is serialised by a lock: one model, one answer at a time."""

    def __init__(self, checkpoint: Checkpoint, limits: media.Limits | None = None) -> None:
        self.checkpoint = checkpoint
        self.limits = limits or media.Limits()
        self.name = checkpoint.name
        parameters = sum(p.numel() for p in checkpoint.model.parameters())
        self.about = {"title": checkpoint.name, "parameters": parameters, **checkpoint.settings.about}
        self._lock = threading.Lock()

    def stream(
        self, clip: Clip, language: str | None = None, tracks: str = "both", max_new_tokens: int | None = None
    ) -> Generator[Seen | Event | Done, None, None]:
        """Yields ``Seen``, then each ``Event`` as it is generated, then ``Done``. Greedy.

        ``language``: "en", "zh", None for the clip's. ``tracks``: "both", "picture", "sound". Closing the generator
        stops the model within one token. Raises media.MediaError for a clip that cannot be used.
        """
        started = time.perf_counter()
        if language not in (None, *LANGUAGES):
            raise ModelError(f"language is {language!r}; it must be one of {LANGUAGES} or None for the clip's own")
        checkpoint = self.checkpoint
        decoded = media.decode(clip, checkpoint.settings.media, self.limits, tracks)
        inputs = checkpoint.prepare(decoded, language)
        seen = _describe(decoded, inputs, checkpoint)
        decoded_at = time.perf_counter()
        yield seen
        parser, pieces, ids, first_at = Parser(), [], [], None
        annotation_events: list[Event] = []
        limit = max_new_tokens or checkpoint.settings.max_new_tokens
        for token, text in self._generate(inputs, limit):
            first_at = first_at or time.perf_counter()
            ids.append(token)
            pieces.append(text)
            for event in parser.feed(text):
                annotation_events.append(event)
                yield event
        for event in parser.close():
            annotation_events.append(event)
            yield event
        parsed = parser.result()
        notes = [*seen.notes, *parsed.notes]
        if len(ids) >= limit:
            notes.append("answer_cut_off")
        ended = time.perf_counter()
        usage = {
            **{name: value for name, value in asdict(seen).items() if name not in ("notes", "remarks")},
            "answer_tokens": len(ids),
            "decode_s": round(decoded_at - started, 4),
            "first_token_s": round((first_at or ended) - started, 4),
            "total_s": round(ended - started, 4),
        }
        yield Done(
            Prediction(
                clip=clip.id,
                annotation=parsed.annotation,
                raw="".join(pieces),
                model=self.name,
                language=language or "",
                tracks=tracks,
                notes=tuple(notes),
                usage=usage,
            )
        )

    def analyze(self, clip: Clip, language: str | None = None, tracks: str = "both", **options: Any) -> Prediction:
        """The whole answer at once."""
        for event in self.stream(clip, language, tracks, **options):
            last = event
        return last.prediction

    def _generate(self, inputs: Mapping[str, Any], limit: int) -> Generator[tuple[int, str], None, None]:
        """(token id, its text) one by one; the text may be empty while a character is incomplete."""
        model, processor = self.checkpoint.model, self.checkpoint.processor
        tokenizer = processor.tokenizer
        out: queue.SimpleQueue = queue.SimpleQueue()
        flag = threading.Event()
        batch = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in inputs.items()}

        def work() -> None:
            try:
                while not self._lock.acquire(timeout=0.05):  # another answer is being written
                    if flag.is_set():
                        return
                try:
                    with torch.inference_mode():
                        model.generate(
                            **batch,
                            max_new_tokens=limit,
                            do_sample=False,
                            suppress_tokens=_placeholders(tokenizer),
                            stopping_criteria=StoppingCriteriaList([_Stop(flag)]),
                            streamer=_Tokens(out),
                        )
                finally:
                    self._lock.release()
            except BaseException as error:  # handed over to the reader's thread, raised there
                out.put(error)
            finally:
                out.put(None)

        thread = threading.Thread(target=work, name="saber-generate", daemon=True)
        thread.start()
        decoder = DecodeStream(skip_special_tokens=True)
        ends = _end_tokens(model)
        try:
            while (item := out.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if item not in ends:
                    yield item, decoder.step(tokenizer.backend_tokenizer, item) or ""
        finally:
            flag.set()
            thread.join()


def _placeholders(tokenizer: Any) -> list[int]:
    """Media tokens: one in an answer would crash the next forward, so they are never chosen."""
    ids = (tokenizer.convert_tokens_to_ids(token) for token in MEDIA_TOKENS.values())
    return [token for token in ids if token is not None]


def _end_tokens(model: torch.nn.Module) -> set[int]:
    end = model.generation_config.eos_token_id
    return set(end) if isinstance(end, (list, tuple)) else {end}


def _describe(decoded: media.Decoded, inputs: Mapping[str, Any], checkpoint: Checkpoint) -> Seen:
    ids, config = inputs["input_ids"], checkpoint.model.config
    rate = checkpoint.settings.media.sample_rate_hz
    return Seen(
        frames=0 if decoded.frames is None else len(decoded.frames),
        video_s=0.0 if decoded.frames is None else round(decoded.duration_s, 3),
        audio_s=0.0 if decoded.audio is None else round(len(decoded.audio) / rate, 3),
        prompt_tokens=int(ids.shape[1]),
        video_tokens=int((ids == config.video_token_id).sum()),
        audio_tokens=int((ids == config.audio_token_id).sum()),
        notes=tuple(decoded.notes),
        remarks=decoded.note_sentences(),
    )


def load(
    name_or_path: str | Path | None = None, *, device: str | None = None, dtype: torch.dtype | None = None
) -> Engine:
    """The Engine for a checkpoint: None is the embedded SABER-Mini; else a folder or a Hub id."""
    return Engine(load_checkpoint(name_or_path, device=device, dtype=dtype))
