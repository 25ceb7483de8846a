"""What a run of stage 1 needs, before it starts: memory of a GPU, time, steps and GPU hours. Nothing is downloaded.

Goes in: a recipe (``SFTConfig``, with ``gpus``, ``gpu`` and ``sharding``). Comes out: an ``Estimate``; ``dry_run`` is
its table and ``headline`` the first lines of a recipe. The model is built on the meta device from its configuration,
and few of its layers are run on fake tensors (``saber.sft.footprint``). Nothing here was measured on a GPU.

Memory of a process, bytes; T trained, F frozen parameters, N processes:
- ddp, or one process: full 4 (T + F) in 32 bits, under adapters 4 T + 2 F; gradients 4 T; AdamW 8 T; buckets of DDP 4 T
  where N > 1.
- zero2 (Rajbhandari et al. 2020, section 5: 2 P + 14 P / N): 2 (T + F), gradients 2 T / N and a bucket, 12 T / N.
- zero3 (the same, 16 P / N): 2 (T + F) / N and what is gathered, gradients 2 T / N and a bucket, 12 T / N.
- fsdp: 4 T / N and 2 F / N (full: 4 F / N), gradients 4 T / N, AdamW 8 T / N; gathered are two layers and what is
  no layer, in 16 bits.
- qlora: the text layers' matrices at 0.516 bytes (Dettmers et al. 2023: 4 bits, and 0.127 for scales quantised twice).
On top comes the largest of: encoders, loss chunk, backward pass, embedding's gradient, optimizer step.

Time: floating-point operations over the chip's peak times ``UTILISATION``. For D tokens and P parameters a forward pass
is 2 P D, the gradient of its input 2 P D, of its weights 2 P D where they are trained (6 P D; 4 P D for frozen weights
below trained adapters), recomputation 2 P D more; causal attention 2 D^2 w a layer forward and 2.5 times that backward
(Dao et al. 2022; w: all heads' width); the output layer runs on answers alone, twice forward. Communication between
processes and waiting for data are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from saber.media import MediaSettings
from saber.model import build_thinker, load_plan
from saber.sft.config import SFTConfig
from saber.sft.footprint import (
    Line,
    Precision,
    audio_footprint,
    loss_footprint,
    text_footprint,
    vision_footprint,
)

GIB = 1024**3
#: Share of the peak that a training step reaches, and of the bandwidth that unpacking 4-bit weights reaches: assumed.
UTILISATION = 0.40
#: A process's context, library buffers; and what the allocator cannot use of the working memory: assumed, ours.
RESERVE_BYTES, FRAGMENTATION = int(1.5 * GIB), 0.05
#: Bytes a parameter in NF4 with scales quantised twice: 4 bits, 8 bits each 64, 32 bits each 64 * 256.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
#: DeepSpeed's defaults, in parameters: a bucket of gradients; live and prefetched parameters of ZeRO-3.
BUCKET, LIVE = 500_000_000, 1_050_000_000
#: Rows of logits at once, as in AnswerLoss.
CHUNK = 1024
#: Clips of the paper's data set, where the recipe's own data are not at hand to be counted.
PAPER_CLIPS = 600_000


class GPU(NamedTuple):
    """``memory_gib``: as the driver reports it; ``tflops``: bfloat16, dense, and ``tb_s``: the maker's data sheet."""

    title: str
    memory_gib: float
    tflops: float
    tb_s: float


GPUS: Mapping[str, GPU] = {
    "a100": GPU("A100 80 GB", 79.1, 312, 2.04),
    "a100-40": GPU("A100 40 GB", 39.4, 312, 1.56),
    "h100": GPU("H100 80 GB", 79.1, 989, 3.35),
    "h200": GPU("H200 141 GB", 139.7, 989, 4.8),
    "l40s": GPU("L40S 48 GB", 44.4, 362, 0.86),
    "l4": GPU("L4 24 GB", 21.9, 121, 0.30),
    "rtx4090": GPU("RTX 4090 24 GB", 23.5, 165, 1.01),
}


@dataclass(frozen=True)
class ClipSize:
    """A clip as tokens. ``pairs``: of frames; ``video``: merged vision tokens; ``patches``: the vision encoder's."""

    seconds: float
    pairs: int
    video: int
    audio: int
    prompt: int
    answer: int
    patches: int

    @property
    def length(self) -> int:
        return self.video + self.audio + self.prompt + self.answer


#: Seconds and answer tokens of a typical clip and of the longest: 30 s is the paper's filter, the rest is assumed.
TYPICAL, LONGEST = (5.0, 450), (30.0, 900)


@dataclass(frozen=True)
class Estimate:
    """``parts``: name -> (parameters, trained). ``state``: name -> bytes that stay; ``working``: name -> the most bytes
    of each phase with the longest clips; ``typical_bytes``, ``longest_bytes``: a process's peak."""

    config: SFTConfig
    gpu: GPU
    parts: Mapping[str, tuple[int, int]]
    state: Mapping[str, int]
    working: Mapping[str, int]
    typical: ClipSize
    longest: ClipSize
    typical_bytes: int
    longest_bytes: int
    clips: int
    steps: int
    step_flops: float
    step_s: float

    @property
    def total(self) -> int:
        return sum(total for total, _ in self.parts.values())

    @property
    def trained(self) -> int:
        return sum(trained for _, trained in self.parts.values())

    @property
    def host_bytes(self) -> int:
        """Of the machine's own memory, in each process: the base as it is loaded. A base in 4 bits goes to its GPU
        tensor by tensor, which at most takes as much."""
        base = sum(total for name, (total, _) in self.parts.items() if name != "adapters")
        return base * (4 if self.config.tuning == "full" or not self.config.bf16 else 2)

    @property
    def fits(self) -> bool:
        return self.longest_bytes <= self.gpu.memory_gib * GIB

    @property
    def hours(self) -> float:
        return self.steps * self.step_s / 3600

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.config.gpus


def clip_size(configuration: Any, media: MediaSettings, prompt: str, seconds: float, answer: int) -> ClipSize:
    """Tokens of a clip whose frames use the whole pixel budget and which has both tracks.

    Video: (pixels / (patch * merge)^2) a pair of frames. Audio: 25 a second (two strides of 2 over 100 mel frames).
    Prompt: a token for four bytes and 16 for the chat around it; an estimate, since the tokenizer may not be at hand.
    """
    vision = configuration.vision_config
    side = vision.patch_size * vision.spatial_merge_size
    frames = max(vision.temporal_patch_size, min(media.max_frames, round(seconds * media.fps)))
    pixels = media.max_pixels or 640 * 480
    pairs = math.ceil(frames / vision.temporal_patch_size)
    video = pairs * max(1, pixels // side**2)
    return ClipSize(
        seconds=seconds,
        pairs=pairs,
        video=video,
        audio=((round(100 * seconds) - 1) // 2 - 1) // 2 + 1,
        prompt=math.ceil(len(prompt.encode()) / 4) + 16,
        answer=answer,
        patches=video * vision.spatial_merge_size**2,
    )


def estimate(config: SFTConfig, clips: int | None = None) -> Estimate:
    """``clips``: of the training split; None takes the paper's number.
    Raises ValueError for an unknown GPU and ModelError for a model that cannot be read."""
    if config.gpu not in GPUS:
        raise ValueError(f"gpu is {config.gpu!r}; it must be one of {tuple(GPUS)}")
    if config.tuning == "qlora" and config.sharding in ("zero3", "fsdp"):
        raise ValueError(
            f"sharding is {config.sharding!r} with tuning 'qlora'; 4-bit weights are not split: take zero2"
        )
    configuration, settings = load_plan(config.model)
    counts = _counts(config.model)
    parts = _parts(counts, config)
    prompt = max(settings.prompts.values(), key=lambda text: len(text.encode()))
    typical, longest = (clip_size(configuration, settings.media, prompt, *size) for size in (TYPICAL, LONGEST))
    state, transient = _state(counts, parts, config)
    peaks = {}
    for size in (typical, longest):
        working = _working(counts, config, size) | transient
        peak = max(working.values())
        peaks[size] = sum(state.values()) + peak + int(FRAGMENTATION * peak) + RESERVE_BYTES
    clips = PAPER_CLIPS if clips is None else clips
    steps = config.max_steps or math.ceil(max(1, clips // config.batch_size) * config.epochs)
    step_flops = config.batch_size * _flops(configuration, counts, parts, config, typical)
    gpu = GPUS[config.gpu]
    step_s = step_flops / config.gpus / (gpu.tflops * 1e12 * UTILISATION)
    if config.tuning == "qlora":  # each pass of each micro-batch unpacks the text layers: reads 4 bits, writes 16
        passes = (3 if config.gradient_checkpointing else 2) * math.ceil(_share(config) / _micro(config))
        step_s += passes * counts["text layers"] * (NF4_BYTES + 2) / (gpu.tb_s * 1e12 * UTILISATION)
    return Estimate(
        config, gpu, parts, state, working, typical, longest, peaks[typical], peaks[longest], clips, steps,
        step_flops, step_s,
    )  # fmt: skip


def smaller_that_fits(config: SFTConfig, clips: int | None = None) -> Estimate | None:
    """The nearest choice whose longest clips fit: smaller micro-batches, then checkpointing, then ZeRO-3, then
    adapters, then a base in 4 bits. None where none of them does."""
    for choice in _choices(config):
        least = estimate(replace(choice, micro_batch_size=1), clips)
        if not least.fits:
            continue
        size = choice.micro_batch_size
        while size > 1 and not (found := estimate(replace(choice, micro_batch_size=size), clips)).fits:
            size //= 2
        return found if size > 1 else least
    return None


def _choices(config: SFTConfig) -> Iterator[SFTConfig]:
    ways = [{}]
    if config.gpus > 1 and config.tuning != "qlora":
        ways.append({"sharding": "zero3"})
    if config.tuning == "full":
        ways.append({"tuning": "lora", "train_encoders": False, "sharding": config.sharding})
    if config.tuning != "qlora":
        split = config.sharding if config.sharding in ("ddp", "zero2") else "zero2"
        ways.append({"tuning": "qlora", "train_encoders": False, "sharding": split})
    for way in ways:
        for checkpointing in sorted({config.gradient_checkpointing, True}):
            yield replace(config, gradient_checkpointing=checkpointing, **way)


def headline(found: Estimate) -> str:
    """The two comment lines that a recipe begins with."""
    config, gib = found.config, found.gpu.memory_gib
    return (
        f"# {config.gpus} x {found.gpu.title}, {config.sharding}: {found.longest_bytes / GIB:.0f} of {gib:.0f} GiB "
        f"(clips of {found.longest.seconds:g} s; {found.typical_bytes / GIB:.0f} with {found.typical.seconds:g} s), "
        f"{found.hours:.0f} hours, {found.gpu_hours:.0f} GPU hours; estimated by --dry-run,\n"
        f"# not measured, for {found.clips:,} clips at {UTILISATION:.0%} of the peak; "
        f"{'should fit' if found.fits else 'does not fit'}."
    )


def dry_run(config: SFTConfig, clips: int | None = None) -> str:
    """The table that ``train/sft.py --dry-run`` prints. Arguments and errors: ``estimate``'s."""
    found = estimate(config, clips)
    size, gpu = found.typical, found.gpu
    lines = [
        f"{config.model}, tuning {config.tuning}, {config.gpus} x {gpu.title}, sharding {config.sharding}",
        "estimated from the configuration, not measured; how: saber/sft/estimate.py",
        "",
        f"{'part':<24}{'parameters':>18}{'trained':>18}",
        *(f"{name:<24}{total:>18,}{trained:>18,}" for name, (total, trained) in found.parts.items()),
        f"{'all':<24}{found.total:>18,}{found.trained:>18,}",
        "",
        f"{'clip':<24}{'seconds':>10}{'video':>8}{'audio':>8}{'prompt':>8}{'answer':>8}{'tokens':>8}",
        *(
            f"{name:<24}{clip.seconds:>10g}{clip.video:>8,}{clip.audio:>8,}{clip.prompt:>8,}{clip.answer:>8,}"
            f"{clip.length:>8,}"
            for name, clip in (("typical", found.typical), ("longest", found.longest))
        ),
        "",
        f"{'memory of a GPU':<24}{'GiB':>10}   micro-batches of {_micro(config)}, longest clips",
        *(f"{name:<24}{value / GIB:>10.2f}" for name, value in found.state.items()),
        *(f"  {name:<22}{value / GIB:>10.2f}   while it lasts" for name, value in found.working.items()),
        f"{'context, fragments':<24}{(RESERVE_BYTES + FRAGMENTATION * max(found.working.values())) / GIB:>10.2f}"
        "   assumed",
        f"{'peak, longest clips':<24}{found.longest_bytes / GIB:>10.2f}   of {gpu.memory_gib:g}: "
        + ("fits" if found.fits else "DOES NOT FIT"),
        f"{'peak, typical clips':<24}{found.typical_bytes / GIB:>10.2f}",
        f"{'memory of the host':<24}{found.host_bytes / GIB:>10.2f}   a process, while it loads the base",
        "",
        f"{'time':<24}{found.step_s:>10.1f} s a step, {found.step_flops:.2e} operations, at {UTILISATION:.0%} of "
        f"{gpu.tflops:g} TFLOP/s (assumed)",
        f"{'steps':<24}{found.steps:>10,} of {config.batch_size} clips; {found.clips:,} clips, "
        f"{config.batch_size * size.length / found.step_s:,.0f} tokens/s",
        f"{'cost':<24}{found.hours:>10.1f} hours, {found.gpu_hours:,.0f} GPU hours",
    ]
    if not found.fits:
        smaller = smaller_that_fits(config, clips)
        lines += ["", _advice(config, smaller)]
    return "\n".join(lines)


def _advice(config: SFTConfig, smaller: Estimate | None) -> str:
    if smaller is None:
        return "Nothing smaller fits this GPU either; take one with more memory, or a smaller model."
    names = ("tuning", "sharding", "train_encoders", "gradient_checkpointing", "micro_batch_size")
    changed = [
        f"--{name} {str(getattr(smaller.config, name)).lower()}"
        for name in names
        if getattr(smaller.config, name) != getattr(config, name)
    ]
    return (
        f"This fits: {' '.join(changed)} ({smaller.longest_bytes / GIB:.1f} of {smaller.gpu.memory_gib:g} GiB, "
        f"{smaller.hours:.1f} hours)"
    )


def _share(config: SFTConfig) -> int:
    """Clips of a step that a process takes."""
    return math.ceil(config.batch_size / config.gpus)


def _micro(config: SFTConfig) -> int:
    return min(config.micro_batch_size, _share(config))


def _cached(config: SFTConfig) -> bool:
    """Whether the encoders' output is kept on disk."""
    return bool(config.cache_dir) and not config.train_encoders


@lru_cache(maxsize=8)
def _counts(name: str) -> Mapping[str, int]:
    """Parameters of the model's parts, counted on the meta device. An output layer that is the embedding counts 0."""
    with torch.device("meta"):
        model = build_thinker(load_plan(name)[0])
    text = model.model.language_model
    modules = {
        "text layers": text.layers, "text embedding": text.embed_tokens, "text norm": text.norm,
        "vision": model.model.visual, "audio": model.model.audio_tower,
    }  # fmt: skip
    counts = {name: sum(values.numel() for values in module.parameters()) for name, module in modules.items()}
    tied = model.lm_head.weight is text.embed_tokens.weight
    counts["output layer"] = 0 if tied else model.lm_head.weight.numel()
    linear = [module for module in text.layers[0].modules() if isinstance(module, torch.nn.Linear)]
    counts["of a text layer"] = sum(values.numel() for values in text.layers[0].parameters())
    counts["in matrices"] = len(text.layers) * sum(module.weight.numel() for module in linear)
    counts["largest matrix"] = max(module.weight.numel() for module in linear)
    counts["of adapters of rank 1"] = len(text.layers) * sum(sum(module.weight.shape) for module in linear)
    counts["in vision blocks"] = sum(values.numel() for values in model.model.visual.blocks.parameters())
    return counts


def _parts(counts: Mapping[str, int], config: SFTConfig) -> dict[str, tuple[int, int]]:
    full = config.tuning == "full"
    text = counts["text layers"] + counts["text embedding"] + counts["text norm"]
    parts = {
        "text": (text, full * text),
        "output layer": (counts["output layer"], full * counts["output layer"]),
        "vision": (counts["vision"], config.train_encoders * counts["vision"]),
        "audio": (counts["audio"], config.train_encoders * counts["audio"]),
    }
    if not full:
        adapters = config.lora_r * counts["of adapters of rank 1"]
        parts["adapters"] = (adapters, adapters)
    return parts


def _precision(config: SFTConfig) -> Precision:
    if not config.bf16:
        return Precision(torch.float32, torch.float32, False)
    if config.sharding != "ddp":  # DeepSpeed and FSDP compute with weights of 16 bits
        return Precision(torch.bfloat16, torch.bfloat16, False)
    return Precision(torch.float32, torch.float32 if config.tuning == "full" else torch.bfloat16, True)


def _state(
    counts: Mapping[str, int], parts: Mapping[str, tuple[int, int]], config: SFTConfig
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of a process that stay, and those of moments that no activation shares."""
    total = sum(every for every, _ in parts.values())
    trained = sum(some for _, some in parts.values())
    frozen, share = total - trained, config.gpus
    low = 2 if config.bf16 else 4  # bytes of a weight that is computed with
    kept = 4 if config.tuning == "full" or not config.bf16 else 2  # of a frozen weight, as it is loaded
    quantised = counts["in matrices"] if config.tuning == "qlora" else 0
    packed = quantised * NF4_BYTES
    bucket = low * min(BUCKET, trained)
    if config.sharding == "ddp":
        weights, gradients, optimizer = 4 * trained + kept * (frozen - quantised) + packed, 4 * trained, 8 * trained
        other, share = 4 * trained if share > 1 else 0, 1
    elif config.sharding == "zero2":
        weights = low * (total - quantised) + packed
        gradients, optimizer, other = low * trained / share, 12 * trained / share, bucket
    elif config.sharding == "zero3":
        weights, gradients, optimizer = low * total / share, low * trained / share, 12 * trained / share
        other = low * min(LIVE, total) + bucket
    else:
        weights, gradients, optimizer = (4 * trained + kept * frozen) / share, 4 * trained / share, 8 * trained / share
        other = low * min(total, total - counts["text layers"] + 2 * counts["of a text layer"])
    if quantised:
        other += 2 * low * counts["largest matrix"]  # unpacked, of a forward and of a backward pass
    state = {"weights": weights, "gradients": gradients, "AdamW": optimizer, "buckets, gathered": other}
    # AdamW's own temporary tensors; ZeRO also makes 32-bit gradients of its share.
    step = (8 if config.sharding.startswith("zero") else 4) * trained / share
    embedding = counts["text embedding"] * (low if config.sharding != "ddp" else 4) if config.tuning == "full" else 0
    moments = {"optimizer step": step, "embedding's gradient": embedding}
    return {name: int(value) for name, value in state.items()}, {name: int(value) for name, value in moments.items()}


def _working(counts: Mapping[str, int], config: SFTConfig, size: ClipSize) -> dict[str, int]:
    """The most bytes of each phase of a micro-batch of such clips."""
    micro = _micro(config)
    text, vision, audio, loss = _lines(config)
    decoded = micro * (size.video + size.audio) * load_plan(config.model)[0].text_config.hidden_size * 2
    held, peak = decoded, decoded
    if not _cached(config):
        seen, heard = vision.at(micro * size.patches), audio.at(micro * math.ceil(50 * size.seconds))
        held, peak = seen.held + heard.held, max(seen.peak + heard.held, seen.held + heard.peak)
    read = text.at(micro * size.length)
    chunk = loss.at(min(CHUNK, micro * size.answer))
    copies = 0
    if _precision(config).autocast and config.tuning == "full" and config.gradient_checkpointing:
        # Autocast keeps its 16-bit copies of the weights until the forward pass ends; without checkpointing they are
        # saved for the backward pass anyway and counted as held.
        copies = 2 * counts["text layers"] + 2 * config.train_encoders * (counts["vision"] + counts["audio"])
    return {
        "encoders": int(peak),
        "loss chunk": int(held + read.held + chunk.peak + copies),
        "backward pass": int(held + read.peak),
    }


def _lines(config: SFTConfig) -> tuple[Line, Line, Line, Line]:
    """Footprints of text model, vision encoder, audio encoder and loss chunk."""
    precision = _precision(config)
    tuning = "full" if config.tuning == "full" else "lora"
    # Only what each depends on, so that equal ones are found once.
    least = SFTConfig(model=config.model, bf16=config.bf16, tuning=tuning)
    again, towers = config.gradient_checkpointing, config.train_encoders
    text = replace(least, gradient_checkpointing=again)
    if tuning == "lora":
        text = replace(text, lora_r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout)
    encoder = replace(least, tuning="full", train_encoders=towers, gradient_checkpointing=again and towers)
    frozen = precision if towers else replace(precision, trained=precision.frozen)
    return (
        _line(text_footprint, text, precision),
        _line(vision_footprint, encoder, frozen),
        _line(audio_footprint, encoder, frozen),
        _line(loss_footprint, least, precision),
    )


@lru_cache(maxsize=256)
def _line(kind: Callable[..., Line], config: SFTConfig, precision: Precision) -> Line:
    return kind(load_plan(config.model)[0], config, precision)


def _flops(
    configuration: Any,
    counts: Mapping[str, int],
    parts: Mapping[str, tuple[int, int]],
    config: SFTConfig,
    size: ClipSize,
) -> float:
    """Floating-point operations of one clip, forward and backward. The module's docstring has the formula."""
    text, vision, audio = configuration.text_config, configuration.vision_config, configuration.audio_config
    full, again = config.tuning == "full", 1 if config.gradient_checkpointing else 0
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    matrices = 2 * counts["in matrices"] * size.length
    attention = 2 * size.length**2 * text.num_attention_heads * head * text.num_hidden_layers
    adapters = 2 * parts.get("adapters", (0, 0))[0] * size.length
    forward = matrices + attention + adapters
    backward = matrices * (2 if full else 1) + 2.5 * attention + 2 * adapters
    head_matrix = 2 * (counts["output layer"] or counts["text embedding"]) * size.answer
    output = head_matrix * (4 if full else 3)
    window = (vision.window_size // vision.patch_size) ** 2
    whole, frame = len(vision.fullatt_block_indexes), size.patches / size.pairs
    seen = whole * frame + (vision.depth - whole) * min(window, frame)  # patches that a patch attends to, all blocks
    places = 50 * size.seconds  # of the audio encoder, before its pooling
    encoders = (
        2 * counts["in vision blocks"] * size.patches
        + 2 * (counts["vision"] - counts["in vision blocks"]) * size.video
        + 4 * size.patches * seen * vision.hidden_size
        + 2 * counts["audio"] * places
        + 4 * places * audio.n_window * audio.d_model * audio.encoder_layers
    )
    if _cached(config):
        encoders = 0  # run once, before the first step
    return forward * (1 + again) + backward + output + encoders * (3 + again if config.train_encoders else 1)
