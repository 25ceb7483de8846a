"""Builds SABER-Mini-Base: the small stand-in for a pretrained multimodal base, from studio clips alone.

Stages, each resumable and skipped when its result is there: **clips** (rendered), **decode** (to arrays), **see**
and **hear** (each encoder taught on its own targets: action units, gaze, pose, scene, body; CTC over words, prosody,
sound events), **join** (the language model learns to write down what voices alone say, most of it in no order that
could be guessed, and to answer plain questions about whole clips: labels, words, descriptions, reasons; no SED).
The paper starts from a base that already sees and hears; this makes one. Run: ``python train/mini_base.py --help``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import cycle, islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy, ctc_loss, log_softmax, smooth_l1_loss
from tqdm import tqdm

from saber import media
from saber.model import WEIGHTS, Checkpoint, Settings, build_checkpoint
from saber.prompts import load_prompt
from saber.recipe import parse_recipe, write_run
from saber.schema import LANGUAGES, Annotation, Clip
from saber.sections import render
from saber.sft import (
    Row,
    SFTConfig,
    example_stream,
    join_processes,
    learning_rate_at,
    leave,
    option,
    quick_attention,
    run_sft,
    usable_cores,
)
from saber.studio import causes, face, voice
from saber.studio.render import first_wordings, read_rows, run_studio
from saber.studio.sample import Mix
from saber.studio.world import ATTRIBUTES, ClipSpec

SEEN = ("scene", "face", "gaze", "head", "micro", "body")
HEARD = ("event", "level", "movement", "rate", "loudness", "tension", "tremor", "breath", "noise", "voice")
FRAME = 112
TASKS = ("labels", "words", "look", "tone", "why")
ENCODER_SPLITS = ("train", "validation", "speech")
SPLITS = (*ENCODER_SPLITS, "drill", "rare")
ENCODERS = {"see": "visual", "hear": "audio_tower"}  # stage -> the part of the model that it teaches
STAGES = ("clips", "decode", "see", "hear", "join", "all")


@dataclass(frozen=True)
class BaseConfig:
    """SABER-Mini-Base from studio clips."""

    data: str = option(
        "runs/mini/clips", "studio clips with splits train and validation; rendered where they are missing"
    )
    train_clips: int = option(6400, "clips of the train split, where it is rendered")
    validation_clips: int = option(300, "clips of the validation split, where it is rendered")
    wordings: int = option(4, "annotations of each training clip, where it is rendered")
    speech_clips: int = option(72000, "clips of the speech split (voices alone), where it is rendered")
    hear_clips: int = option(24000, "of these, those that the audio encoder is taught on")
    rare_clips: int = option(3200, "clips of the rare split (incomplete and long), where it is rendered")
    drill_clips: int = option(6400, "clips of the drill split (words in no order), where it is rendered")
    output_dir: str = option(str(WEIGHTS / "saber-mini-base"), "where the base checkpoint goes")
    work_dir: str = option("runs/mini/base", "arrays, logs and resumable state")
    stage: str = option("all", "clips, decode, see, hear, join or all; see and hear can run side by side")
    encoders: str = option(
        "", "weights (a checkpoint's folder or a safetensors file) whose encoders join takes, instead of see and hear"
    )
    seed: int = option(0, "initialisation and data order")
    vocabulary_size: int = option(3072, "tokens of the byte-level BPE")
    width: int = option(256, "hidden size of the language model")
    layers: int = option(4, "layers of the language model")
    text_ffn: int = option(768, "feed-forward width of the language model")
    encoder_width: int = option(160, "hidden size of both encoders")
    vision_layers: int = option(4, "layers of the vision encoder")
    audio_layers: int = option(3, "layers of the audio encoder")
    see_steps: int = option(5000, "steps of 64 frame pairs")
    hear_steps: int = option(7000, "steps of 32 clips")
    join_steps: int = option(6000, "optimizer steps of join")
    join_batch_size: int = option(32, "rows a step of join")
    join_voices: int = option(3, "rows of join that are a voice alone, to each that is a whole clip")
    encoder_learning_rate: float = option(1.5e-3, "peak, see and hear")
    join_learning_rate: float = option(2e-3, "peak, join")
    join_tasks: str = option("labels,words,look,tone,why", "what the language model learns in join, comma-separated")
    workers: int = option(2, "processes that decode")

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage is {self.stage!r}; it must be one of {STAGES}")
        if unknown := set(self.join_tasks.split(",")) - set(TASKS):
            raise ValueError(f"join_tasks holds {min(unknown)!r}; there are {TASKS}")


def sizes(config: BaseConfig) -> dict[str, dict[str, Any]]:
    """Configurations of the three parts; the architecture is the published one. Weights begin at a standard deviation
    of 1 / sqrt(width): at the class's 0.02, made for widths of thousands, parts this narrow hardly begin to learn."""
    heads = max(2, config.encoder_width // 40)
    head_dim = 64
    parts = {
        "text": {
            "hidden_size": config.width, "intermediate_size": config.text_ffn, "num_hidden_layers": config.layers,
            "num_attention_heads": config.width // head_dim, "num_key_value_heads": max(1, config.width // 128),
            "head_dim": head_dim, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
        },
        "vision": {
            "depth": config.vision_layers, "hidden_size": config.encoder_width, "num_heads": heads,
            "intermediate_size": config.encoder_width * 12 // 5, "out_hidden_size": config.width,
            "fullatt_block_indexes": list(range(config.vision_layers)),
        },
        "audio": {
            "encoder_layers": config.audio_layers, "d_model": config.encoder_width, "encoder_attention_heads": heads,
            "encoder_ffn_dim": config.encoder_width * 4, "output_dim": config.width,
            "n_window": 200,  # attention over 4 s, so that few words are cut by a window's edge
        },
    }  # fmt: skip
    widths = {"text": config.width, "vision": config.encoder_width, "audio": config.encoder_width}
    return {name: {**part, "initializer_range": widths[name] ** -0.5} for name, part in parts.items()}


def build_mini(config: BaseConfig, rows: list[dict[str, Any]], said: Sequence[str] = ()) -> Checkpoint:
    """The untrained Mini with a tokenizer for the answers of the training rows and for what is ``said``: a word that
    is one token is read off at once, one of four is spelled."""
    torch.manual_seed(config.seed)
    settings = Settings.build(
        "mini",
        # Sound after the picture, as in the published inference script, and not interleaved with it.
        media=media.MediaSettings(
            fps=4.0, max_frames=32, min_pixels=FRAME * FRAME, max_pixels=FRAME * FRAME, audio_in_video=False
        ),
        max_new_tokens=400,
        about={"title": "SABER-Mini-Base", "trained_on": TRAINED_ON},
    )
    texts = [text for row in rows for text in (render(Annotation.from_json(row)), labels(row))]
    return build_checkpoint([*texts, *said], config.vocabulary_size, sizes(config), settings)


TRAINED_ON = {
    "en": "clips of drawn faces and synthetic voices, rendered by its own studio",
    "zh": "由自带工作室渲染的手绘面孔与合成语音片段",
}


# --- clips ------------------------------------------------------------------------------------------------------------


def render_clips(config: BaseConfig, splits: Sequence[str] = SPLITS) -> None:
    """Renders the splits that are missing; of those with people, one clip in eight is annotated in the other language
    than the spoken one, so that the model learns to answer in the language it is asked for."""
    for split in splits:
        if not (Path(config.data) / split / "clips.parquet").exists():
            mix = Mix(
                split=split,
                seed=config.seed,
                other_language_share=0.0 if split == "speech" else 0.12,
                wordings=config.wordings if split in ("train", "drill", "rare") else 1,
            )
            run_studio(Path(config.data), mix, getattr(config, f"{split}_clips"))


# --- decode -----------------------------------------------------------------------------------------------------------


class Arrays:
    """Frames and log-mel features of all clips of a split, one after the other in two raw files, memory-mapped.

    ``frames``: (sum of T, 112, 112, 3) uint8 at 4 a second; ``mel``: (sum of L, 128) float16 at 100 a second.
    ``frame_at``, ``mel_at``: (N + 1,) where each clip begins; ``times``: (sum of T,) seconds.
    """

    def __init__(self, folder: Path) -> None:
        picture = folder / "frames.u8"
        frames = np.memmap(picture, np.uint8, "r") if picture.stat().st_size else np.zeros(0, np.uint8)
        self.frames = frames.reshape(-1, FRAME, FRAME, 3)
        self.mel = np.memmap(folder / "mel.f16", np.float16, "r").reshape(-1, 128)
        with np.load(folder / "index.npz") as index:
            self.times, self.frame_at, self.mel_at = index["times"], index["frame_at"], index["mel_at"]


@dataclass(frozen=True)
class _Decode:
    checkpoint: Checkpoint

    def __call__(self, clip: Clip) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        decoded = media.decode_here(clip, self.checkpoint.settings.media)
        mel = None
        if decoded.audio is not None:
            found = self.checkpoint.media_inputs(dataclasses.replace(decoded, frames=None))
            heard = int(found["feature_attention_mask"].sum())
            mel = found["input_features"][0, :, :heard].T.numpy().astype(np.float16)
        return decoded.frames, decoded.frame_times_s, mel


def run_decode(config: BaseConfig, checkpoint: Checkpoint, split: str, rows: list[dict[str, Any]]) -> Arrays:
    folder = Path(config.work_dir) / split
    if (folder / "index.npz").exists():
        return Arrays(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clips = [Clip(str(Path(config.data) / row["video"]), id=row["id"]) for row in rows]
    stream = example_stream(_Decode(checkpoint), [[clip] for clip in clips], config.workers)
    times, frame_at, mel_at = [], [0], [0]
    with (folder / "frames.u8").open("wb") as frames, (folder / "mel.f16").open("wb") as mels:
        for (found,) in tqdm(stream, total=len(clips), unit="clip", desc=f"decode {split}"):
            if isinstance(found, media.MediaError):
                raise found
            picture, seconds, mel = found
            if picture is not None:
                frames.write(picture.tobytes())
                times.append(seconds)
            if mel is not None:
                mels.write(mel.tobytes())
            frame_at.append(frame_at[-1] + (0 if picture is None else len(picture)))
            mel_at.append(mel_at[-1] + (0 if mel is None else len(mel)))
    np.savez(folder / "index.part.npz", times=np.concatenate([np.zeros(0), *times]), frame_at=frame_at, mel_at=mel_at)
    os.replace(folder / "index.part.npz", folder / "index.npz")  # last and whole: it says that the split is done
    return Arrays(folder)


def claim(config: BaseConfig) -> None:
    """Notes in ``work_dir`` from which clips and with which settings its encoders are made. Raises ValueError where it
    holds those of others: they would be taken for these."""
    course = {name: value for name, value in dataclasses.asdict(config).items() if name not in _FREE}
    for split in ENCODER_SPLITS:
        course[split] = hashlib.sha256((Path(config.data) / split / "clips.parquet").read_bytes()).hexdigest()
    path = Path(config.work_dir) / "encoders.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else course
    for name, value in course.items():
        if before.get(name) != value:
            what = "other clips" if name in ENCODER_SPLITS else f"{name} = {before.get(name)!r}, not {value!r}"
            raise ValueError(f"{path.parent} holds encoders made with {what}; remove it, or give another work_dir")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(course, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


#: Fields that do not decide what the encoders learn.
_FREE = (
    "data",
    "train_clips",
    "validation_clips",
    "wordings",
    "speech_clips",
    "drill_clips",
    "rare_clips",
    "output_dir",
    "work_dir",
    "stage",
    "encoders",
    "join_steps",
    "join_batch_size",
    "join_voices",
    "join_learning_rate",
    "join_tasks",
    "workers",
)


def _save(state: Any, path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


# --- what there is to perceive ----------------------------------------------------------------------------------------


class Probe(nn.Module):
    """Reads attributes off encoder tokens: one learned query an attribute, softmax pooling, a linear layer.

    Used for teaching the encoders and thrown away afterwards.
    """

    def __init__(self, width: int, outputs: dict[str, int]) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(len(outputs), width) / width**0.5)
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in outputs.items()})

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """``tokens`` (B, M, width), ``mask`` (B, M) True where there is one -> attribute -> (B, size)."""
        tokens = self.norm(tokens)
        scores = torch.einsum("bmd,qd->bqm", tokens, self.query)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -1e9)
        pooled = torch.einsum("bqm,bmd->bqd", scores.softmax(-1), tokens)
        return {name: head(pooled[:, number]) for number, (name, head) in enumerate(self.heads.items())}


def index_of(attribute: str, value: str | None) -> int:
    """The class of a value, -100 (ignored by the loss) where it cannot be perceived."""
    return ATTRIBUTES[attribute].index(value) if value is not None else -100


@dataclass
class Visible:
    """Targets of each sampled frame of a split: ``labels`` attribute -> (F,), ``aus`` (F, AUs), ``pose`` (F, 5).
    ``pairs``: the first frame of each pair of a clip; ``leaks``: of those that show a micro-expression."""

    labels: dict[str, np.ndarray]
    aus: np.ndarray
    pose: np.ndarray
    pairs: np.ndarray
    leaks: np.ndarray

    def of_pairs(self, name: str, firsts: np.ndarray) -> np.ndarray:
        """The class of each pair of frames: a micro-expression may be in either; the face beside it is left open."""
        first, second = self.labels[name][firsts], self.labels[name][firsts + 1]
        if name == "micro":
            return np.where(first > 0, first, second)
        return np.where(second < 0, second, first)

    @classmethod
    def build(cls, rows: list[dict[str, Any]], arrays: Arrays) -> Visible:
        count = len(arrays.times)
        labels = {name: np.full(count, -100) for name in SEEN}
        aus = np.zeros((count, len(face.ACTION_UNITS)), np.float32)
        pose = np.zeros((count, 5), np.float32)
        pairs = []
        for number, row in enumerate(rows):
            here = slice(arrays.frame_at[number], arrays.frame_at[number + 1])
            if here.start == here.stop:
                continue
            pairs.extend(range(here.start, here.stop - 1))
            spec = read_spec(row["spec"])
            facts = causes.truth(spec)
            for name in SEEN:
                labels[name][here] = index_of(name, facts.get(name))
            if not spec.can_see_person:
                continue
            motion = face.perform(spec.performance, row["duration_s"], spec.fps)
            # The frame on show at a sampled time is the last one that has begun (as saber.media takes it).
            at = np.clip(np.floor(arrays.times[here] * spec.fps + 0.02).astype(int), 0, len(motion) - 1)
            aus[here] = motion.aus[at]
            pose[here] = np.concatenate([motion.gaze[at], motion.head[at] / 20], axis=1)
            calm = face.perform(dataclasses.replace(spec.performance, micro="none"), row["duration_s"], spec.fps)
            leaks = np.abs(motion.aus - calm.aus).max(axis=1)[at] > 0.3
            labels["micro"][here] = np.where(leaks, labels["micro"][here], 0)
            labels["face"][here] = np.where(leaks, -100, labels["face"][here])
        pairs = np.array(pairs)
        micro = labels["micro"]
        return cls(labels, aus, pose, pairs, pairs[(micro[pairs] > 0) | (micro[pairs + 1] > 0)])


def read_spec(text: str) -> ClipSpec:
    """A ClipSpec from its JSON."""
    from saber.studio.world import Identity, Performance, Prosody, Words

    values = json.loads(text)
    parts = {"identity": Identity, "performance": Performance, "prosody": Prosody, "words": Words}
    return ClipSpec(**{key: parts[key](**value) if key in parts else value for key, value in values.items()})


def vary(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pairs of frames (B, 2, H, W, 3) uint8, each moved by up to 5 pixels and with another light, contrast and tint.
    Not mirrored: contempt is one-sided."""
    varied = np.empty_like(pairs)
    for place, pair in enumerate(pairs):
        down, right = rng.integers(-5, 6, 2)
        rows = np.clip(np.arange(FRAME) + down, 0, FRAME - 1)
        columns = np.clip(np.arange(FRAME) + right, 0, FRAME - 1)
        gain = (rng.uniform(0.8, 1.2) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
        shift = np.float32(rng.uniform(-14, 14))
        varied[place] = np.clip(pair[:, rows][:, :, columns] * gain + shift, 0, 255).astype(np.uint8)
    return varied


# --- see --------------------------------------------------------------------------------------------------------------


def run_see(config: BaseConfig, checkpoint: Checkpoint, data: dict[str, tuple[list, Arrays]]) -> None:
    tower = checkpoint.model.model.visual
    probe = Probe(
        config.width,
        {**{name: len(ATTRIBUTES[name]) for name in SEEN}, "aus": len(face.ACTION_UNITS), "pose": 10},
    )
    visible = {split: Visible.build(*data[split]) for split in ("train", "validation")}

    def batch(split: str, firsts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        arrays = data[split][1]
        pairs = np.stack([arrays.frames[first : first + 2] for first in firsts])  # (B, 2, 112, 112, 3)
        if split == "train":
            pairs = vary(pairs, np.random.default_rng([config.seed, *firsts]))
        # Pairs are separate for the tower (attention stays inside one), so a batch is one long video to the processor.
        found = checkpoint.processor.video_processor(
            videos=[pairs.reshape(-1, FRAME, FRAME, 3)],
            size={"shortest_edge": FRAME * FRAME, "longest_edge": FRAME * FRAME},
            cap_pixels_per_frame=True, do_sample_frames=False, return_tensors="pt",
        )  # fmt: skip
        return found["pixel_values_videos"], found["video_grid_thw"]

    def look(split: str, firsts: np.ndarray) -> dict[str, torch.Tensor]:
        pixels, grid = (value.to(tower.device) for value in batch(split, firsts))
        tokens = tower(pixels, grid_thw=grid).pooler_output  # (B * 16, width)
        found = probe(tokens.reshape(len(firsts), -1, tokens.shape[-1]))
        return {name: value.float().cpu() for name, value in found.items()}

    def loss(split: str, firsts: np.ndarray) -> torch.Tensor:
        out, truth = look(split, firsts), visible[split]
        total = torch.zeros(())
        for name in SEEN:
            target = torch.from_numpy(truth.of_pairs(name, firsts))
            if (target >= 0).any():
                total = total + cross_entropy(out[name], target)
        aus = torch.from_numpy((truth.aus[firsts] + truth.aus[firsts + 1]) / 2)
        pose = torch.from_numpy(np.concatenate([truth.pose[firsts], truth.pose[firsts + 1]], axis=1))
        return total + 8 * smooth_l1_loss(out["aus"], aus, beta=0.1) + smooth_l1_loss(
            out["pose"], pose, beta=0.1
        )  # fmt: skip

    @torch.no_grad()
    def score() -> dict[str, float]:
        truth = visible["validation"]
        chosen = np.random.default_rng(0).choice(truth.pairs, min(1024, len(truth.pairs)), replace=False)
        found: dict[str, list[bool]] = {name: [] for name in (*SEEN, "micro_where_shown")}
        for firsts in np.array_split(chosen, max(1, len(chosen) // 64)):
            out = look("validation", firsts)
            for name in SEEN:
                target = truth.of_pairs(name, firsts)
                found[name].extend((out[name].argmax(-1).numpy() == target)[target >= 0])
        for firsts in np.array_split(truth.leaks, 1 + len(truth.leaks) // 64) if len(truth.leaks) else ():
            target = truth.of_pairs("micro", firsts)
            found["micro_where_shown"].extend(look("validation", firsts)["micro"].argmax(-1).numpy() == target)
        return {name: round(float(np.mean(values)), 3) for name, values in found.items() if values}

    def sample(rng: np.random.Generator) -> Any:
        truth = visible["train"]  # micro-expressions last two frames: left to chance, one pair in 60 would show one
        rare = rng.choice(truth.leaks, 8) if len(truth.leaks) else truth.leaks
        return np.concatenate([rare, rng.choice(truth.pairs, 64 - len(rare))])

    _teach(config, "see", tower, probe, config.see_steps, sample, lambda firsts: loss("train", firsts), score)


# --- hear -------------------------------------------------------------------------------------------------------------


def spoken_units(row: dict[str, Any]) -> dict[str, list[str]]:
    """What CTC spells of a clip: its "words" (English words, Chinese characters) and, since these alone begin to be
    heard only after thousands of steps, its "phonemes"."""
    text, language = row["truth"]["words"], row["spoken_language"]
    if not text:
        return {"words": [], "phonemes": []}
    return {
        "words": text.split() if language == "en" else list(text),
        "phonemes": voice.phonemes(text, language),
    }


def mask_bands(mel: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A log-mel (L, 128) with up to two bands of up to 10 bins and two gaps of up to 80 ms at its mean (SpecAugment,
    Park et al. 2019, with small masks: words here are short)."""
    mel = mel.clone()
    for axis, widest in ((1, 10), (1, 10), (0, 8), (0, 8)):
        width = int(rng.integers(0, widest + 1))
        first = int(rng.integers(0, max(1, mel.shape[axis] - width)))
        mel.narrow(axis, first, width).fill_(float(mel.mean()))
    return mel


def run_hear(config: BaseConfig, checkpoint: Checkpoint, data: dict[str, tuple[list, Arrays]]) -> None:
    tower = checkpoint.model.model.audio_tower
    audible = {
        split: [(split, i) for i in range(len(part)) if 20 <= arrays.mel_at[i + 1] - arrays.mel_at[i] <= 1000]
        for split, (part, arrays) in data.items()
    }
    taught_on, tested_on = audible["train"] + audible["speech"], audible["validation"]
    units = {(split, i): spoken_units(data[split][0][i]) for split, i in [*taught_on, *tested_on]}
    kinds = ("words", "phonemes")
    names = {kind: sorted({unit for clip in taught_on for unit in units[clip][kind]}) for kind in kinds}
    number_of = {kind: {unit: index + 1 for index, unit in enumerate(names[kind])} for kind in kinds}  # 0 is the blank
    probe = Probe(config.width, {name: len(ATTRIBUTES[name]) for name in HEARD})
    spell = nn.ModuleDict({kind: nn.Linear(config.width, len(names[kind]) + 1) for kind in kinds})
    taught = nn.ModuleDict({"probe": probe, "spell": spell})

    def truth(clip: tuple[str, int], name: str) -> str | None:
        return data[clip[0]][0][clip[1]]["truth"][name]

    def listen(clips: list[tuple[str, int]], rng: np.random.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, M, width), on the encoder's device, and their numbers (B,), on the CPU; ``rng``: masks bands of
        the sound."""
        mels = []
        for split, i in clips:
            arrays = data[split][1]
            mel = torch.from_numpy(arrays.mel[arrays.mel_at[i] : arrays.mel_at[i + 1]].astype(np.float32))
            mels.append(mel if rng is None else mask_bands(mel, rng))
        lengths = torch.tensor([len(mel) for mel in mels])
        after, out_lengths = tower._get_feat_extract_output_lengths(lengths)
        sound, at, after = (value.to(tower.device) for value in (torch.cat(mels).T, lengths, after))
        flat = tower(sound, feature_lens=at, aftercnn_lens=after, return_dict=True).last_hidden_state
        tokens = nn.utils.rnn.pad_sequence(list(flat.split(out_lengths.tolist())), batch_first=True)
        return tokens, out_lengths

    def attributes(tokens: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = torch.arange(tokens.shape[1])[None] < lengths[:, None]
        return {name: value.float().cpu() for name, value in probe(tokens, mask.to(tokens.device)).items()}

    def loss(drawn: np.ndarray) -> torch.Tensor:
        clips = [taught_on[number] for number in drawn]
        tokens, lengths = listen(clips, np.random.default_rng([config.seed, *drawn]))
        out = attributes(tokens, lengths)
        total = torch.zeros(())
        for name in HEARD:
            target = torch.tensor([index_of(name, truth(clip, name)) for clip in clips])
            if (target >= 0).any():
                total = total + cross_entropy(out[name], target) / 2
        for kind, weight in (("words", 2), ("phonemes", 1)):
            targets = [[number_of[kind][unit] for unit in units[clip][kind]] for clip in clips]
            flat = torch.tensor([number for target in targets for number in target])
            spelled = log_softmax(spell[kind](tokens).float().cpu(), -1).transpose(0, 1)
            sizes = torch.tensor([len(target) for target in targets])
            total = total + weight * ctc_loss(spelled, flat, lengths, sizes, zero_infinity=True)
        return total

    @torch.no_grad()
    def score() -> dict[str, float]:
        import jiwer

        right = {name: [] for name in HEARD}
        said: dict[str, list[str]] = {kind: [] for kind in kinds}
        heard: dict[str, list[str]] = {kind: [] for kind in kinds}
        for at in range(0, len(tested_on), 32):
            clips = tested_on[at : at + 32]
            tokens, lengths = listen(clips, None)
            out = attributes(tokens, lengths)
            best = {kind: spell[kind](tokens).argmax(-1).cpu() for kind in kinds}
            for place, clip in enumerate(clips):
                for name in HEARD:
                    if truth(clip, name) is not None:
                        right[name].append(int(out[name][place].argmax()) == index_of(name, truth(clip, name)))
                for kind in kinds if units[clip]["words"] else ():
                    path = torch.unique_consecutive(best[kind][place, : lengths[place]]).tolist()
                    said[kind].append(" ".join(units[clip][kind]))
                    heard[kind].append(" ".join(names[kind][number - 1] for number in path if number))
        errors = {f"{kind}_error_rate": round(jiwer.wer(said[kind], heard[kind]), 3) for kind in kinds}
        return {**errors, **{name: round(float(np.mean(v)), 3) for name, v in right.items()}}

    def sample(rng: np.random.Generator) -> Any:
        return rng.choice(len(taught_on), 32)

    _teach(config, "hear", tower, taught, config.hear_steps, sample, loss, score)


def _teach(
    config: BaseConfig,
    stage: str,
    tower: nn.Module,
    heads: nn.Module,
    steps: int,
    sample: Any,
    loss: Any,
    score: Any,
) -> None:
    """Trains an encoder with its reading heads; leaves ``<stage>.pt`` (the encoder). Resumable."""
    work = Path(config.work_dir)
    done, state_path = work / f"{stage}.pt", work / f"{stage}.state.pt"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parameters = [*tower.to(device).parameters(), *heads.to(device).parameters()]
    peak = config.encoder_learning_rate
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.02)
    first = 0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    log = (work / f"{stage}.jsonl").open("a", encoding="utf-8")
    bar = tqdm(range(first, steps), initial=first, total=steps, unit="step", desc=stage)
    began, losses = time.perf_counter(), []
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, peak, 0.05)
        with quick_attention(torch.device(device), longest=200):  # the windows of both encoders are shorter
            with torch.autocast(device, torch.bfloat16):
                value = loss(sample(np.random.default_rng([config.seed, step])))
            value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(value.detach()))
        if (step + 1) % 250 == 0 or step == steps - 1:
            record = {"step": step + 1, "loss": round(float(np.mean(losses[-100:])), 4),
                      "seconds": round(time.perf_counter() - began, 1), **score()}  # fmt: skip
            tqdm.write(f"{stage} {json.dumps(record)}")
            log.write(json.dumps(record) + "\n")
            log.flush()
            _save({"tower": tower.state_dict(), "heads": heads.state_dict(),
                   "optimizer": optimizer.state_dict(), "step": step + 1}, state_path)  # fmt: skip
    _save(tower.cpu().state_dict(), done)
    state_path.unlink(missing_ok=True)


# --- join -------------------------------------------------------------------------------------------------------------


def labels(row: dict[str, Any]) -> str:
    """The plain labels of a clip, one a line in a fixed order, "-" where a thing cannot be perceived. Every word of
    them hangs on picture or sound, none on phrasing: on these the language model learns to look, and soon."""
    return "\n".join(str(row["truth"].get(name) or "-") for name in (*SEEN, *HEARD, "valence", "relation", "emotion"))


def word_rows(config: BaseConfig, rows: list[dict[str, Any]]) -> list[Row]:
    """What is said, of each clip where something is."""
    return [
        Row(clip_of(config, row), prompt_name(["words"], row["language"]), said)
        for row in rows
        if (said := Annotation.from_json(row).speech)
    ]


def plain_rows(config: BaseConfig, rows: list[dict[str, Any]]) -> Iterator[Row]:
    """Plain questions about each clip, one to five in any order, each answered on lines of its own: its labels, what is
    said, what is seen, how the voice sounds, what the person feels and why. SED wants each behind other answers, so
    none may always come first."""
    rng = random.Random(config.seed)
    for row in rows:
        annotation = Annotation.from_json(row)
        answers = {
            "labels": labels(row),
            "words": annotation.speech,
            "look": " ".join([annotation.scene, annotation.face, annotation.body]),
            "tone": annotation.prosody,
            "why": annotation.reasoning,
        }
        asked = [task for task in config.join_tasks.split(",") if answers[task]]
        asked = rng.sample(asked, rng.randint(1, len(asked)))
        yield Row(clip_of(config, row), prompt_name(asked, row["language"]), "\n".join(answers[task] for task in asked))


def prompt_name(tasks: Sequence[str], language: str) -> str:
    """The name of the prompt that asks for ``tasks`` in this order."""
    return f"{'+'.join(tasks)}.{language}"


def plain_prompts() -> dict[str, str]:
    """``prompt_name`` -> text, for one to all of TASKS in every order."""
    orders = [order for count in range(1, len(TASKS) + 1) for order in permutations(TASKS, count)]
    return {
        prompt_name(order, language): "\n".join(load_prompt(task, language).text for task in order)
        for order in orders
        for language in LANGUAGES
    }


def clip_of(config: BaseConfig, row: dict[str, Any]) -> Clip:
    return Clip(str(Path(config.data) / row["video"]), id=row["id"])


def join_rows(config: BaseConfig, clips: list[dict[str, Any]], voices: Sequence[Row]) -> list[Row]:
    """Plain questions about whole clips among voices alone, again from the first where they do not suffice. Both from
    the first step to the last: what was learned first is lost to what comes after it, or keeps it from being learned.
    """
    plain = list(plain_rows(config, clips))
    return [*plain, *islice(cycle(voices), config.join_voices * len(plain))]


def run_join(config: BaseConfig, checkpoint: Checkpoint, rows: Sequence[Row]) -> dict[str, Any]:
    """Trains the language model on plain tasks, the encoders as they are, and writes the base. Resumable."""
    work = Path(config.work_dir)
    settings = SFTConfig(
        output_dir=str(work / "join"), title="SABER-Mini-Base", tuning="full", max_steps=config.join_steps,
        batch_size=config.join_batch_size, micro_batch_size=16, learning_rate=config.join_learning_rate,
        seed=config.seed, cache_dir=str(work / "features"), workers=1,
    )  # fmt: skip
    summary = run_sft(
        checkpoint, rows, settings, plain_prompts(), save=lambda *_: checkpoint.save(config.output_dir)
    )  # fmt: skip
    del summary["tuned"]
    return summary


def encoder_weights(config: BaseConfig) -> dict[str, dict[str, torch.Tensor]]:
    """ "see" and "hear" -> the weights of the encoder that the stage taught. Raises ValueError where the file that
    ``config.encoders`` names has none."""
    if not config.encoders:
        return {stage: torch.load(Path(config.work_dir) / f"{stage}.pt", weights_only=True) for stage in ENCODERS}
    path = Path(config.encoders)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.exists():
        raise ValueError(f"encoders: there is no {path}; give a checkpoint's folder or a safetensors file")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"encoders: {path} is no safetensors file: {error}") from error
    found = {
        stage: {name.removeprefix(f"{part}."): value for name, value in weights.items() if name.startswith(f"{part}.")}
        for stage, part in ENCODERS.items()
    }
    for stage, part in ENCODERS.items():
        if not found[stage]:
            raise ValueError(f"encoders: {path} holds no weights of its {part}")
    return found


def build(config: BaseConfig) -> None:
    """Runs the stages that ``config.stage`` names and that are not done yet. Several processes (torchrun) share the
    encoding and each batch of join once both encoders are there. Raises ValueError for what cannot be done."""
    language = config.stage in ("join", "all")
    given = language and config.encoders
    done = {stage: Path(config.work_dir) / f"{stage}.pt" for stage in ENCODERS}
    several = int(os.environ.get("WORLD_SIZE", "1"))
    if several > 1 and not (language and (given or all(path.exists() for path in done.values()))):
        raise ValueError(f"{several} processes can share the stage join only, once see and hear have ended")
    # An encoder alone leaves a core for the other one; the language model gets them all.
    torch.set_num_threads(1 if config.stage in ENCODERS else max(1, usable_cores() // several))
    with join_processes(SFTConfig()).main_process_first() if several > 1 else nullcontext():
        render_clips(config)
    if config.stage == "clips":
        return
    tables = {split: read_rows(Path(config.data) / split) for split in SPLITS}
    rows = {split: first_wordings(table) for split, table in tables.items()}
    if not given:
        claim(config)
    # To read, words in any order teach more than sentences, which can be guessed: three of the first to one of those.
    voices = word_rows(
        config, [row for at, row in enumerate(rows["speech"]) if row["template"] == "shuffled" or at % 3 == 0]
    )
    checkpoint = build_mini(config, tables["train"], [row.answer for row in voices])
    count = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    print(f"SABER-Mini: {count:,} parameters, {len(checkpoint.processor.tokenizer)} tokens")
    encoders = {
        "see": (checkpoint.model.model.visual, run_see),
        "hear": (checkpoint.model.model.audio_tower, run_hear),
    }
    teaches = [stage for stage in encoders if config.stage == stage or (language and not given)]
    wanted = [stage for stage in teaches if not done[stage].exists()]
    if wanted or config.stage == "decode":
        taught = {split: rows[split] for split in ENCODER_SPLITS}
        taught["speech"] = taught["speech"][: config.hear_clips]
        data = {split: (part, run_decode(config, checkpoint, split, part)) for split, part in taught.items()}
        for stage in wanted:
            encoders[stage][1](config, checkpoint, data)
    if language:
        weights = encoder_weights(config)
        for stage, (tower, _) in encoders.items():
            try:
                tower.load_state_dict(weights[stage])
            except RuntimeError as error:  # other sizes
                raise ValueError(f"the {ENCODERS[stage]} is not of the sizes that are asked for: {error}") from error
            for parameter in tower.parameters():
                # As they will be saved, in 16 bit, so that what is cached now is what the checkpoint gives later.
                parameter.data = parameter.data.half().float()
        tasks = join_rows(config, [*tables["train"], *tables["drill"], *tables["rare"]], voices)
        join = run_join(config, checkpoint, tasks)
        if join.pop("is_main_process"):
            counts = {split: len(table) for split, table in tables.items()}
            write_run(config.work_dir, config, parameters=count, rows=counts, join=join)
            print(f"base written to {config.output_dir}")


def main() -> None:
    config = parse_recipe(BaseConfig, None)
    try:
        build(config)
    except (ValueError, OSError) as error:  # of clips, of a work_dir, of a setting: each says what and where
        sys.exit(f"train/mini_base.py: {error}")
    leave()


if __name__ == "__main__":
    main()
