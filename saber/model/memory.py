"""What a checkpoint and a clip need of memory, known before either is loaded, and whether there is room.

Goes in: a ``Layout`` (its tensors' shapes), how it is to be held, and how large a clip may be. Comes out: ``Memory`` in
bytes; ``check_room`` and ``check_clip`` raise NoRoom with the figure and a smaller choice where the device has
less; ``lacks_memory`` knows the errors of an allocation that failed after all. The weights and the cache are exact; the
working memory is the largest of what one layer of each part makes at once, by its sizes, and is small beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from saber.media import MediaSettings
from saber.model.checkpoint import ModelError
from saber.model.layout import Layout

GIB = 2**30
#: Bytes a parameter: LLM.int8 with a scale a row; NF4 with scales quantised twice (4 bits, 8 a 64, 32 a 64 * 256).
QUANTIZED_BYTES = {"8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}
#: Of a GPU: a process's context and libraries, and what the allocator cannot use. Assumed, ours.
RESERVE_BYTES, FRAGMENTATION = int(0.8 * GIB), 0.1
#: Tokens of a request's text.
PROMPT_TOKENS = 400


#: What the allocators of CPU, GPU and MPS say in their errors, in lower case.
LACKS = ("out of memory", "not enough memory", "can't allocate memory")


class NoRoom(ModelError):
    """A model or a clip needs more memory than there is."""

    reason = "no_room"


@dataclass(frozen=True)
class Memory:
    """Bytes. ``weights``; ``cache``: keys and values of prompt and answer; ``working``: the most that exists for a
    moment besides."""

    weights: int
    cache: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.working

    def __str__(self) -> str:
        parts = (f"{getattr(self, name) / GIB:.1f} GiB {name}" for name in ("weights", "cache", "working"))
        return f"{self.total / GIB:.1f} GiB ({', '.join(parts)})"


def weight_bytes(layout: Layout, dtype: torch.dtype, quantization: str | None = None) -> int:
    """Of the thinker's tensors as they are held: matrices of the text layers in few bits where that is asked."""
    total = 0.0
    for name, (shape, _) in layout.tensors.items():
        count = 1
        for side in shape:
            count *= side
        few = quantization and name.startswith("model.layers.") and len(shape) == 2
        total += count * (QUANTIZED_BYTES[quantization] if few else dtype.itemsize)
    return int(total)


def clip_tokens(config: Mapping[str, Any], media: MediaSettings, seconds: float) -> tuple[int, int]:
    """(tokens of the picture, tokens of the sound) of a clip whose frames use the whole pixel budget."""
    vision = config["vision_config"]
    side = vision["patch_size"] * vision["spatial_merge_size"]
    frames = max(2, min(media.max_frames, round(seconds * media.fps)))
    pixels = media.max_pixels or 640 * 480
    return -(-frames // 2) * max(1, -(-pixels // side**2)), round(25 * seconds)


def clip_memory(
    config: Mapping[str, Any], dtype: torch.dtype, video: int, sound: int, prompt: int, answer: int
) -> tuple[int, int]:
    """(cache, working memory) of one clip: tokens of picture and sound, of the whole prompt, and of the answer."""
    text, vision, audio = (config[f"{name}_config"] for name in ("text", "vision", "audio"))
    width = dtype.itemsize
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    cache = 2 * text["num_hidden_layers"] * keys * width * (prompt + answer)
    in_text = prompt * width * (4 * text["hidden_size"] + queries + 2 * keys + 3 * text["intermediate_size"])
    patches = video * vision["spatial_merge_size"] ** 2
    pixels = vision.get("in_channels", 3) * vision.get("temporal_patch_size", 2) * vision["patch_size"] ** 2
    in_vision = patches * (8 * pixels + width * (8 * vision["hidden_size"] + 3 * vision["intermediate_size"]))
    in_audio = 2 * sound * width * (8 * audio["d_model"] + 2 * audio["encoder_ffn_dim"])
    return cache, max(in_text, in_vision, in_audio) + 2 * width * text["vocab_size"]


def estimate_memory(
    layout: Layout, media: MediaSettings, answer_tokens: int, dtype: torch.dtype, quantization: str | None = None,
    seconds: float = 30.0,
) -> Memory:  # fmt: skip
    """Of the weights and of one clip of so many seconds whose answer has so many tokens."""
    video, sound = clip_tokens(layout.thinker_config, media, seconds)
    prompt = video + sound + PROMPT_TOKENS
    cache, working = clip_memory(layout.thinker_config, dtype, video, sound, prompt, answer_tokens)
    return Memory(weight_bytes(layout, dtype, quantization), cache, working)


def free_bytes(device: str) -> int:
    """Room on a device now: of a GPU its free memory with what this process keeps of it unused, else the machine's that
    can be had without swapping."""
    if device.startswith("cuda"):
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(torch.device(device))[0] + unused
    import psutil

    return psutil.virtual_memory().available


def check_room(
    layout: Layout, media: MediaSettings, answer_tokens: int, dtype: torch.dtype, quantization: str | None, device: str
) -> Memory:
    """The memory that is needed for one clip of 30 s. Raises NoRoom where the device has less."""
    needed = estimate_memory(layout, media, answer_tokens, dtype, quantization)
    free = free_bytes(device)
    if _with_reserve(needed, device) <= free:
        return needed
    raise NoRoom(
        f"model {layout.name!r} with a clip of 30 s needs {needed} on {device}, where {free / GIB:.1f} GiB are free; "
        + _smaller(layout, media, answer_tokens, dtype, quantization, device, free)
    )


def check_clip(
    name: str, config: Mapping[str, Any], dtype: torch.dtype, device: str, tokens: Mapping[str, int]
) -> None:
    """Raises NoRoom where a prepared clip and its answer do not fit beside the weights. ``tokens``: "video",
    "sound", "prompt", "answer"."""
    cache, working = clip_memory(config, dtype, **tokens)
    needed, free = (1 + FRAGMENTATION) * (cache + working), free_bytes(device)
    if needed > free:
        raise NoRoom(
            f"this clip takes {tokens['prompt']:,} tokens and its answer up to {tokens['answer']:,}: "
            f"{needed / GIB:.1f} GiB besides model {name!r}, and {free / GIB:.1f} GiB are free on {device}; give a "
            "shorter part of it, or the picture or the sound alone"
        )


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, (NoRoom, MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in LACKS)


def _with_reserve(needed: Memory, device: str) -> float:
    reserve = RESERVE_BYTES if device.startswith("cuda") else 0
    return needed.weights + reserve + (1 + FRAGMENTATION) * (needed.cache + needed.working)


def _smaller(
    layout: Layout, media: MediaSettings, answer_tokens: int, dtype: torch.dtype, quantization: str | None, device: str,
    free: int,
) -> str:  # fmt: skip
    """The first choice, from the mildest on, that has room."""
    choices: list[tuple[str, torch.dtype, str | None]] = []
    if dtype == torch.float32:
        choices.append(("dtype bf16", torch.bfloat16, quantization))
    if quantization is None:
        choices.append(("quantization 8bit", torch.bfloat16, "8bit"))
    if quantization != "4bit":
        choices.append(("quantization 4bit", torch.bfloat16, "4bit"))
    for name, kind, few in choices:
        found = estimate_memory(layout, media, answer_tokens, kind, few)
        if _with_reserve(found, device) <= free:
            return f"{name} would need {found.total / GIB:.1f} GiB"
    return "nothing smaller fits either: take a smaller model or a device with more memory"
