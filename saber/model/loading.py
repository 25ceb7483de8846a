"""From a name to a checkpoint: what is embedded, what a folder or the Hub holds, in which precision, with which
adapter."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from saber import media
from saber.model.adapter import apply_adapter, check_adapter
from saber.model.architecture import PUBLISHED_SIZES
from saber.model.checkpoint import SETTINGS_FILE, Checkpoint, ModelError, Settings
from saber.model.layout import find_adapter, find_checkpoint
from saber.model.memory import check_room

WEIGHTS = Path(__file__).parents[1] / "weights"
#: Names of the embedded checkpoints; anything else is a folder or a Hub id.
EMBEDDED = {"saber-mini": WEIGHTS / "saber-mini", "saber-mini-base": WEIGHTS / "saber-mini-base"}
DEFAULT_MODEL = "saber-mini"
QUANTIZATIONS = ("8bit", "4bit")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: What safetensors calls them.
STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


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
    adapter: str | Path | None = None,
    quantization: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    preset: str | None = None,
) -> Checkpoint:
    """Loads weights, processor and settings of a checkpoint in any layout of ``layout``.

    ``name_or_path``: None is the embedded default; else a name, a folder or a Hub id. ``adapter``: a LoRA adapter's
    folder or Hub id; it is added to the weights, or, where they are quantized, kept beside them. ``quantization``:
    "8bit" or "4bit" (bitsandbytes: LLM.int8, NF4) for the text model's linear layers; encoders and output layer stay as
    they are. ``device``: default cuda if there is one. ``dtype``: a key of ``DTYPES``, or "auto", as it is stored;
    default float32 on a CPU, bfloat16 elsewhere. ``revision``: of the Hub repository. ``preset``: a key of ``PRESETS``,
    in the place of the settings that the checkpoint brings. Raises ModelError naming the checkpoint and what is wrong
    with it, before its weights are read where their headers can tell.
    """
    for name, value, known in (
        ("quantization", quantization, QUANTIZATIONS), ("preset", preset, tuple(PRESETS)),
        ("dtype", dtype if isinstance(dtype, str) else None, (*DTYPES, "auto")),
    ):  # fmt: skip
        if value not in (None, *known):
            raise ModelError(f"{name} is {value!r}; it must be one of {known}")
    source = resolve(name_or_path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = find_checkpoint(source, revision)
    if dtype == "auto":
        dtype = STORED.get(Counter(kind for _, kind in found.tensors.values()).most_common(1)[0][0])
    dtype = DTYPES.get(dtype, dtype) or (torch.float32 if device == "cpu" else torch.bfloat16)
    quantized = _quantized(quantization, device, dtype)
    lora = find_adapter(str(adapter)) if adapter is not None else None
    if lora is not None:
        check_adapter(lora, found)
    try:
        files = [at.folder / SETTINGS_FILE for at in (lora, found) if at is not None]
        brought = next((file for file in files if file.exists()), None)
        settings = _settings(brought, PRESET_OF.get(source, "sed"))
        if preset:  # who speaks stays what it was
            settings = replace(PRESETS[preset](), about=settings.about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _cannot_load(name_or_path, _what(error)) from error
    check_room(found, settings.media, settings.max_new_tokens, dtype, quantization, device)
    # An embedded checkpoint loads in an instant: a bar would only be noise.
    hide_bar = source in map(str, EMBEDDED.values()) and transformers_logging.is_progress_bar_enabled()
    try:
        if hide_bar:
            transformers_logging.disable_progress_bar()
        model, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            found.folder, dtype=dtype, use_safetensors=True, low_cpu_mem_usage=True, output_loading_info=True,
            **quantized,
        )  # fmt: skip
        processor = Qwen2_5OmniProcessor.from_pretrained(found.folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        # What a folder can hold instead of a checkpoint: torn weights, tensors of other sizes, odd settings.
        raise _cannot_load(name_or_path, _what(error)) from error
    finally:
        if hide_bar:
            transformers_logging.enable_progress_bar()
    if lacking := sorted(report["missing_keys"]):  # transformers fills them at random and only warns
        raise _cannot_load(name_or_path, f"{len(lacking)} tensors are missing, {lacking[0]} among them")
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    name = str(name_or_path or DEFAULT_MODEL)
    model.name_or_path = model.config._name_or_path = name  # what an adapter trained on it calls its base
    if lora is not None:
        model = apply_adapter(model, lora, merge=quantization is None)
    if quantization is None:
        model = model.to(device)
    return Checkpoint(model.eval(), processor, settings, f"{name} + {adapter}" if lora else name)


def _quantized(quantization: str | None, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` for a base in 8 bits (LLM.int8, Dettmers et al. 2022) or in 4 (QLoRA,
    Dettmers et al. 2023: NF4, quantised twice)."""
    if quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    kept = ["model.visual", "model.audio_tower", "lm_head"]
    if quantization == "8bit":
        configuration = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    else:
        configuration = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=kept,
        )
    return {"quantization_config": configuration, "device_map": {"": device}}


def _what(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _cannot_load(name: str | Path | None, what: str) -> ModelError:
    return ModelError(f"model {str(name or DEFAULT_MODEL)!r} cannot be loaded ({what}); get it again")


def _settings(file: Path | None, preset: str) -> Settings:
    """What a checkpoint brings, or else the preset's."""
    if file is None:
        return PRESETS[preset]()
    return Settings.from_json(json.loads(file.read_text(encoding="utf-8")))


def sed_settings() -> Settings:
    """Settings for a checkpoint of another origin: at most 40 frames and the answer's bound are those of the published
    inference script; prompt, frame rate and pixel budget are ours."""
    return Settings.build("sed", media=media.MediaSettings(fps=2.0, max_frames=40, max_pixels=50_176))


def published_settings() -> Settings:
    """What SABER-LLM's published inference script gives the model (github.com/zxzhao0/SABER-LLM: FPS_MAX_FRAMES 40,
    VIDEO_MAX_PIXELS 50,176, max_new_tokens 4096, one Chinese request; run by ms-swift, which puts the video before the
    sound and does not interleave them). The frames and sizes are those of qwen-omni-utils 0.0.9, under which 50,176
    pixels lie below its least of 128 tokens a pair of frames and 1.05 times that least counts instead. The script says
    nothing on sampling of tokens, nor does the base's configuration: greedy. Ours: the request for English."""
    least = 128 * 28 * 28
    settings = media.MediaSettings(
        fps=2.0, max_frames=40, min_pixels=least, max_pixels=int(1.05 * least), sampling="frames", side_multiple=28,
        audio_in_video=False,
    )  # fmt: skip
    return Settings.build("published", media=settings)


#: Name -> settings for a checkpoint that brings none: ours, or those of the published inference script.
PRESETS: Mapping[str, Callable[[], Settings]] = {"sed": sed_settings, "published": published_settings}
#: Published checkpoint -> its preset; "sed" for any other.
PRESET_OF = {"zhaoxiaoxian/SABER-LLM": "published"}


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
        return configuration, sed_settings()
    try:
        file = cached_file(source, SETTINGS_FILE, _raise_exceptions_for_missing_entries=False)
        settings = _settings(Path(file) if file else None, PRESET_OF.get(source, "sed"))
        return Qwen2_5OmniThinkerConfig.from_pretrained(source), settings
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the configuration of model {source!r} cannot be read ({_what(error)}); get it again"
        ) from error
