"""Builds SABER-Mini-Base: the small stand-in for a pretrained multimodal base, from studio clips alone.

Stages, each resumable and skipped when its result is there: **decode** (clips to arrays), **see** and **hear** (each
encoder taught on its own targets: action units, gaze, pose, scene, body; CTC over the words, prosody, sound events),
**join** (the language model learns plain descriptions, transcripts and labels of what the encoders give; no SED).
The paper starts from a base that already sees and hears; this makes one. Run: ``python train/mini_base.py --help``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, ctc_loss, log_softmax, smooth_l1_loss
from tqdm import tqdm

from saber import media
from saber.model import WEIGHTS, Checkpoint, Settings, build_checkpoint
from saber.prompts import load_prompt
from saber.recipe import parse_recipe, write_run
from saber.schema import Annotation, Clip
from saber.sections import render
from saber.sft import Row, SFTConfig, example_stream, learning_rate_at, option, run_sft
from saber.studio import causes, face, voice
from saber.studio.render import read_rows
from saber.studio.world import ATTRIBUTES, ClipSpec

SEEN = ("scene", "face", "gaze", "head", "micro", "body")
HEARD = ("event", "level", "movement", "rate", "loudness", "tension", "tremor", "breath", "noise", "voice")
FRAME = 112


@dataclass(frozen=True)
class BaseConfig:
    """SABER-Mini-Base from studio clips."""

    data: str = option("runs/mini/clips", "folder that python -m saber studio wrote, with a train split")
    output_dir: str = option(str(WEIGHTS / "saber-mini-base"), "where the base checkpoint goes")
    work_dir: str = option("runs/mini/base", "arrays, logs and resumable state")
    stage: str = option("all", "decode, see, hear, join or all; see and hear can run side by side")
    seed: int = option(0, "initialisation and data order")
    vocabulary_size: int = option(2048, "tokens of the byte-level BPE")
    width: int = option(256, "hidden size of the language model")
    layers: int = option(4, "layers of the language model")
    text_ffn: int = option(768, "feed-forward width of the language model")
    encoder_width: int = option(160, "hidden size of both encoders")
    vision_layers: int = option(4, "layers of the vision encoder")
    audio_layers: int = option(3, "layers of the audio encoder")
    see_steps: int = option(3400, "steps of 64 frame pairs")
    hear_steps: int = option(2000, "steps of 32 clips")
    join_steps: int = option(320, "steps of 32 clips")
    encoder_learning_rate: float = option(1.5e-3, "peak, see and hear")
    join_learning_rate: float = option(1.5e-3, "peak, join")
    workers: int = option(2, "processes that decode")


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


def build_mini(config: BaseConfig, rows: list[dict[str, Any]]) -> Checkpoint:
    """The untrained Mini with a tokenizer for the answers of the training rows."""
    torch.manual_seed(config.seed)
    settings = Settings.build(
        "mini",
        media=media.MediaSettings(fps=4.0, max_frames=32, min_pixels=FRAME * FRAME, max_pixels=FRAME * FRAME),
        max_new_tokens=400,
        about={"title": "SABER-Mini-Base", "trained_on": TRAINED_ON},
    )
    texts = [text for row in rows for text in (render(Annotation.from_json(row)), labels(row))]
    return build_checkpoint(texts, config.vocabulary_size, sizes(config), settings)


TRAINED_ON = {
    "en": "clips of drawn faces and synthetic voices, rendered by its own studio",
    "zh": "由自带工作室渲染的手绘面孔与合成语音片段",
}


# --- decode -----------------------------------------------------------------------------------------------------------


class Arrays:
    """Frames and log-mel features of all clips of a split, one after the other on disk, memory-mapped.

    ``frames``: (sum of T, 112, 112, 3) uint8 at 4 a second; ``mel``: (sum of L, 128) float16 at 100 a second.
    ``frame_at``, ``mel_at``: (N + 1,) where each clip begins; ``times``: (sum of T,) seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.frames = np.load(folder / "frames.npy", mmap_mode="r")
        self.mel = np.load(folder / "mel.npy", mmap_mode="r")
        with np.load(folder / "index.npz") as index:
            self.times, self.frame_at, self.mel_at = index["times"], index["frame_at"], index["mel_at"]


@dataclass(frozen=True)
class _Decode:
    checkpoint: Checkpoint

    def __call__(self, row: Row) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        decoded = media.decode_here(row.clip, self.checkpoint.settings.media)
        mel = None
        if decoded.audio is not None:
            extract = self.checkpoint.processor.feature_extractor
            found = extract(decoded.audio, sampling_rate=16000, return_tensors="np", return_attention_mask=True,
                            padding="max_length")  # fmt: skip
            mel = found["input_features"][0][:, : int(found["attention_mask"].sum())].T.astype(np.float16)
        return decoded.frames, decoded.frame_times_s, mel


def run_decode(config: BaseConfig, checkpoint: Checkpoint, split: str, rows: list[dict[str, Any]]) -> Arrays:
    folder = Path(config.work_dir) / split
    if (folder / "index.npz").exists():
        return Arrays(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clips = [Row(Clip(str(Path(config.data) / row["video"]), id=row["id"]), "", "") for row in rows]
    stream = example_stream(clips, _Decode(checkpoint), [[index] for index in range(len(clips))], config.workers)
    frames, times, mels, frame_at, mel_at = [], [], [], [0], [0]
    for (found,) in tqdm(stream, total=len(clips), unit="clip", desc=f"decode {split}"):
        if isinstance(found, media.MediaError):
            raise found
        picture, seconds, mel = found
        if picture is not None:
            frames.append(picture)
            times.append(seconds)
        if mel is not None:
            mels.append(mel)
        frame_at.append(frame_at[-1] + (0 if picture is None else len(picture)))
        mel_at.append(mel_at[-1] + (0 if mel is None else len(mel)))
    np.save(folder / "frames.npy", np.concatenate(frames))
    np.save(folder / "mel.npy", np.concatenate(mels))
    np.savez(folder / "index.npz", times=np.concatenate(times), frame_at=frame_at, mel_at=mel_at)
    return Arrays(folder)


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
    """Targets of each sampled frame of a split: ``labels`` attribute -> (F,), ``aus`` (F, AUs), ``pose`` (F, 5)."""

    labels: dict[str, np.ndarray]
    aus: np.ndarray
    pose: np.ndarray
    pairs: np.ndarray

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
            at = np.clip(np.round(arrays.times[here] * spec.fps).astype(int), 0, len(motion) - 1)
            aus[here] = motion.aus[at]
            pose[here] = np.concatenate([motion.gaze[at], motion.head[at] / 20], axis=1)
            calm = face.perform(dataclasses.replace(spec.performance, micro="none"), row["duration_s"], spec.fps)
            leaks = np.abs(motion.aus - calm.aus).max(axis=1)[at] > 0.3
            labels["micro"][here] = np.where(leaks, labels["micro"][here], 0)
            labels["face"][here] = np.where(leaks, -100, labels["face"][here])
        return cls(labels, aus, pose, np.array(pairs))


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
    visible = {split: Visible.build(rows, arrays) for split, (rows, arrays) in data.items()}

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
        pixels, grid = batch(split, firsts)
        tokens = tower(pixels, grid_thw=grid).pooler_output  # (B * 16, width)
        return probe(tokens.reshape(len(firsts), -1, tokens.shape[-1]))

    def loss(split: str, firsts: np.ndarray) -> torch.Tensor:
        out, truth = look(split, firsts), visible[split]
        total = torch.zeros(())
        for name in SEEN:
            target = torch.from_numpy(truth.labels[name][firsts])
            if (target >= 0).any():
                total = total + cross_entropy(out[name].float(), target)
        aus = torch.from_numpy((truth.aus[firsts] + truth.aus[firsts + 1]) / 2)
        pose = torch.from_numpy(np.concatenate([truth.pose[firsts], truth.pose[firsts + 1]], axis=1))
        return total + 8 * smooth_l1_loss(out["aus"].float(), aus, beta=0.1) + smooth_l1_loss(
            out["pose"].float(), pose, beta=0.1
        )  # fmt: skip

    @torch.no_grad()
    def score() -> dict[str, float]:
        truth = visible["validation"]
        chosen = np.random.default_rng(0).choice(truth.pairs, min(1024, len(truth.pairs)), replace=False)
        right = {name: [] for name in SEEN}
        for firsts in np.array_split(chosen, max(1, len(chosen) // 64)):
            out = look("validation", firsts)
            for name in SEEN:
                target = truth.labels[name][firsts]
                right[name].extend((out[name].argmax(-1).numpy() == target)[target >= 0])
        return {name: round(float(np.mean(values)), 3) for name, values in right.items()}

    def sample(rng: np.random.Generator) -> Any:
        return rng.choice(visible["train"].pairs, 64)

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
    units = {split: [spoken_units(row) for row in part] for split, (part, _) in data.items()}
    rows = data["train"][0]
    kinds = ("words", "phonemes")
    names = {kind: sorted({unit for row in units["train"] for unit in row[kind]}) for kind in kinds}
    number_of = {kind: {unit: index + 1 for index, unit in enumerate(names[kind])} for kind in kinds}  # 0 is the blank
    probe = Probe(config.width, {name: len(ATTRIBUTES[name]) for name in HEARD})
    spell = nn.ModuleDict({kind: nn.Linear(config.width, len(names[kind]) + 1) for kind in kinds})
    taught = nn.ModuleDict({"probe": probe, "spell": spell})
    audible = {
        split: np.array([i for i in range(len(part)) if 20 <= arrays.mel_at[i + 1] - arrays.mel_at[i] <= 1000])
        for split, (part, arrays) in data.items()
    }

    def listen(split: str, clips: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        arrays = data[split][1]
        mels = [torch.from_numpy(arrays.mel[arrays.mel_at[i] : arrays.mel_at[i + 1]].astype(np.float32)) for i in clips]
        if split == "train":
            rng = np.random.default_rng([config.seed, *clips])
            mels = [mask_bands(mel, rng) for mel in mels]
        lengths = torch.tensor([len(mel) for mel in mels])
        after, out_lengths = tower._get_feat_extract_output_lengths(lengths)
        flat = tower(torch.cat(mels).T, feature_lens=lengths, aftercnn_lens=after, return_dict=True).last_hidden_state
        tokens = nn.utils.rnn.pad_sequence(list(flat.split(out_lengths.tolist())), batch_first=True)
        return tokens, out_lengths

    def loss(clips: np.ndarray) -> torch.Tensor:
        tokens, lengths = listen("train", clips)
        mask = torch.arange(tokens.shape[1])[None] < lengths[:, None]
        out = probe(tokens, mask)
        total = torch.zeros(())
        for name in HEARD:
            target = torch.tensor([index_of(name, rows[i]["truth"][name]) for i in clips])
            if (target >= 0).any():
                total = total + cross_entropy(out[name].float(), target) / 2
        for kind, weight in (("words", 2), ("phonemes", 1)):
            targets = [[number_of[kind][unit] for unit in units["train"][i][kind]] for i in clips]
            flat = torch.tensor([number for target in targets for number in target])
            spelled = log_softmax(spell[kind](tokens).float(), -1).transpose(0, 1)
            sizes = torch.tensor([len(target) for target in targets])
            total = total + weight * ctc_loss(spelled, flat, lengths, sizes, zero_infinity=True)
        return total

    @torch.no_grad()
    def score() -> dict[str, float]:
        import jiwer

        part, _ = data["validation"]
        right = {name: [] for name in HEARD}
        said: dict[str, list[str]] = {kind: [] for kind in kinds}
        heard: dict[str, list[str]] = {kind: [] for kind in kinds}
        for clips in np.array_split(audible["validation"], max(1, len(audible["validation"]) // 32)):
            tokens, lengths = listen("validation", clips)
            out = probe(tokens, torch.arange(tokens.shape[1])[None] < lengths[:, None])
            best = {kind: spell[kind](tokens).argmax(-1) for kind in kinds}
            for place, i in enumerate(clips):
                for name in HEARD:
                    if part[i]["truth"][name] is not None:
                        right[name].append(int(out[name][place].argmax()) == index_of(name, part[i]["truth"][name]))
                for kind in kinds if units["validation"][i]["words"] else ():
                    path = torch.unique_consecutive(best[kind][place, : lengths[place]]).tolist()
                    said[kind].append(" ".join(units["validation"][i][kind]))
                    heard[kind].append(" ".join(names[kind][number - 1] for number in path if number))
        errors = {f"{kind}_error_rate": round(jiwer.wer(said[kind], heard[kind]), 3) for kind in kinds}
        return {**errors, **{name: round(float(np.mean(v)), 3) for name, v in right.items()}}

    def sample(rng: np.random.Generator) -> Any:
        return rng.choice(audible["train"], 32)

    _teach(config, "hear", tower, taught, config.hear_steps, sample, loss, score)


def _teach(
    config: BaseConfig, stage: str, tower: nn.Module, heads: nn.Module, steps: int, sample: Any, loss: Any, score: Any
) -> None:
    """Trains an encoder with its reading heads; leaves ``<stage>.pt`` (the encoder). Resumable."""
    work = Path(config.work_dir)
    done, state_path = work / f"{stage}.pt", work / f"{stage}.state.pt"
    if done.exists():
        tower.load_state_dict(torch.load(done, weights_only=True))
        return
    parameters = [*tower.parameters(), *heads.parameters()]
    peak = config.encoder_learning_rate
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.02)
    first = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
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
        with torch.autocast("cpu", torch.bfloat16):
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
            torch.save({"tower": tower.state_dict(), "heads": heads.state_dict(),
                        "optimizer": optimizer.state_dict(), "step": step + 1}, state_path)  # fmt: skip
    torch.save(tower.state_dict(), done)
    state_path.unlink(missing_ok=True)


# --- join -------------------------------------------------------------------------------------------------------------


def labels(row: dict[str, Any]) -> str:
    """The plain labels of a clip, one a line in a fixed order, "-" where a thing cannot be perceived. Every word of
    them hangs on picture or sound, none on phrasing: on these the language model learns to look, and soon."""
    return "\n".join(str(row["truth"].get(name) or "-") for name in (*SEEN, *HEARD, "valence", "relation", "emotion"))


def plain_rows(config: BaseConfig, rows: list[dict[str, Any]]) -> Iterator[Row]:
    """Three plain tasks a clip: its labels, what is said, and a description of what is seen or of the voice."""
    rng = random.Random(config.seed)
    for row in rows:
        annotation = Annotation.from_json(row)
        clip = Clip(str(Path(config.data) / row["video"]), id=row["id"])
        answers = {"labels": labels(row), "words": annotation.speech}
        if rng.random() < 0.5:
            answers["look"] = " ".join([annotation.scene, annotation.face, annotation.body])
        else:
            answers["tone"] = annotation.prosody
        for task, answer in answers.items():
            if answer:
                yield Row(clip, f"{task}.{row['language']}", answer)


def run_join(config: BaseConfig, checkpoint: Checkpoint, rows: list[dict[str, Any]]) -> dict[str, Any]:
    work = Path(config.work_dir)
    prompts = {
        f"{task}.{language}": load_prompt(task, language).text
        for task in ("labels", "words", "look", "tone")
        for language in ("en", "zh")
    }
    settings = SFTConfig(
        output_dir=str(work / "join"), max_steps=config.join_steps, batch_size=32, micro_batch_size=16,
        seed=config.seed, learning_rate=config.join_learning_rate, cache_dir=str(work / "features"), workers=1,
        title="SABER-Mini-Base",
    )  # fmt: skip
    return run_sft(checkpoint, list(plain_rows(config, rows)), settings, prompts)


def main() -> None:
    config = parse_recipe(BaseConfig, None)
    # An encoder alone leaves a core for the other one; the language model gets them all.
    torch.set_num_threads(1 if config.stage in ("see", "hear") else os.cpu_count() or 1)
    rows = {split: read_rows(Path(config.data) / split) for split in ("train", "validation")}
    checkpoint = build_mini(config, rows["train"])
    count = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    print(f"SABER-Mini: {count:,} parameters, {len(checkpoint.processor.tokenizer)} tokens")
    data = {split: (part, run_decode(config, checkpoint, split, part)) for split, part in rows.items()}
    if config.stage in ("see", "join", "all"):
        run_see(config, checkpoint, data)
    if config.stage in ("hear", "join", "all"):
        run_hear(config, checkpoint, data)
    if config.stage in ("join", "all"):
        # Encoders as they will be saved, in 16 bit, so that what is cached now is what the checkpoint gives later.
        for parameter in (
            *checkpoint.model.model.visual.parameters(),
            *checkpoint.model.model.audio_tower.parameters(),
        ):
            parameter.data = parameter.data.half().float()
        summary = run_join(config, checkpoint, rows["train"])
        checkpoint.save(config.output_dir)
        write_run(config.work_dir, config, parameters=count, join=summary)
        print(f"base written to {config.output_dir}")


if __name__ == "__main__":
    main()
