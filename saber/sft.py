"""Stage 1 of the paper, structured evidence decomposition (SED): examples, masks, loss and the loop that trains.

Goes in: rows in the published schema with a clip each. Comes out: a checkpoint whose answer is
Y = [E_v, E_a, R] (paper, Eq. 1), trained on the negative log-likelihood of the answer alone (Eq. 2). The loss is a mean
over answer tokens; the paper writes the sum. ``train/sft.py`` is the script; ``train/recipes/`` hold the settings.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow.parquet
import torch
import torch.utils.checkpoint
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from saber import media
from saber.model import Checkpoint, Settings, embed, encode_media, prompt_positions
from saber.schema import Annotation, Clip
from saber.sections import render

IGNORED = -100


def option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class SFTConfig:
    """Stage 1: supervised fine-tuning on SED targets. The defaults are the paper's run where it states a value
    (2 epochs, batch 128, learning rate 1e-4); the rest is ours. The script's default recipe is SABER-Mini's."""

    model: str = option("Qwen/Qwen2.5-Omni-7B", "the base: a name, a folder or a Hub id")
    data: str = option("data/saber", "folder of clips with a table of annotations a split: SPLIT/clips.parquet")
    split: str = option("train", "its split")
    output_dir: str = option("runs/sft", "where checkpoints, logs and run.json go")
    prompt: str = option("sed", "name of the prompt files in saber/prompts")
    max_new_tokens: int = option(4096, "bound of an answer, saved with the checkpoint")
    title: str = option("SABER-LLM", "name for people, saved with the checkpoint")
    epochs: float = option(2.0, "passes over the data (paper: 2)")
    max_steps: int = option(0, "stop after so many optimizer steps; 0: as epochs say")
    batch_size: int = option(128, "clips a step over all processes (paper: 128)")
    micro_batch_size: int = option(8, "clips a forward pass")
    learning_rate: float = option(1e-4, "peak (paper: 1e-4)")
    warmup_share: float = option(0.03, "share of the steps with rising learning rate")
    weight_decay: float = option(0.01, "AdamW weight decay on matrices")
    max_grad_norm: float = option(1.0, "gradient clipping")
    train_encoders: bool = option(False, "also train the audio and vision encoders")
    bf16: bool = option(True, "bfloat16 autocast")
    cpu: bool = option(False, "train on the CPU even where there is a GPU")
    seed: int = option(0, "data order and initialisation")
    workers: int = option(1, "processes that decode ahead of the model; 0: in line")
    cache_dir: str | None = option(None, "keep what frozen encoders give here, between epochs and runs")
    save_every: int = option(200, "optimizer steps between resumable checkpoints")
    log_every: int = option(10, "optimizer steps between log lines")

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "micro_batch_size": 1, "save_every": 1, "log_every": 1, "max_steps": 0, "workers": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {value}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be between 0 and 1")
        if not 0 < self.epochs < math.inf and self.max_steps == 0:
            raise ValueError(f"epochs is {self.epochs} and max_steps {self.max_steps}; one must be above 0")


class DataError(ValueError):
    """Training data cannot be used. The message names the data, the field and the next step."""


def trained_settings(base: Settings, config: SFTConfig) -> Settings:
    """The settings of the checkpoint that a run gives: the base's media settings, the run's prompt and title."""
    about = {**base.about, "title": config.title}
    return Settings.build(config.prompt, media=base.media, max_new_tokens=config.max_new_tokens, about=about)


@dataclass(frozen=True)
class Row:
    """One training row: a clip, the prompt's language key ("en", "zh", "clip") and the answer."""

    clip: Clip
    prompt: str
    answer: str


@dataclass
class Example:
    """One clip and one answer as model inputs. ``input_ids`` (S,), ``labels`` (S,) with IGNORED before the answer,
    ``positions`` (3, S); ``media`` the encoder inputs."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    media: dict[str, Any]

    def __len__(self) -> int:
        return len(self.input_ids)


def read_rows(data: str, split: str, seed: int = 0) -> list[Row]:
    """Rows of a dataset in the published schema. ``video`` is a path inside ``data``. A clip that speaks the answer's
    language is asked for it by name in half of the rows, and "in the clip's language" in the other half."""
    if not Path(data).is_dir():
        raise DataError(f"data folder {data!r} does not exist; render one: python -m saber studio {data} --clips 8000")
    rows = []
    rng = random.Random(seed)
    table = Path(data) / split / "clips.parquet"
    if not table.is_file():
        raise DataError(f"{data} has no split {split!r}: there is no {table}")
    # Read directly: datasets keeps a copy by the folder's name and its card, and would give back another folder's rows.
    records = pyarrow.parquet.read_table(table).to_pylist()
    for record in records:
        if missing := [name for name in ("id", "video", "language") if not record.get(name)]:
            raise DataError(f"{table}: row {record.get('id')!r} has no {missing[0]!r}")
        annotation = Annotation.from_json(record, name=str(record.get("id")))
        language = record["language"]
        spoken = record.get("spoken_language") or language
        prompt = "clip" if spoken == language and rng.random() < 0.5 else language
        clip = Clip(path=str(Path(data) / record["video"]), id=record["id"], language=spoken)
        rows.append(Row(clip, prompt, render(annotation)))
    return rows


class MediaCache:
    """What frozen encoders give for each clip, computed once and kept on disk, 16 bit, one small file a clip.

    ``folder`` None: nothing is kept, clips are decoded whenever they are needed. Files are named by the clip (path,
    size and time), the media settings and the encoders' weights, so that nothing stale is read back.
    """

    def __init__(self, checkpoint: Checkpoint, folder: str | Path | None) -> None:
        self.checkpoint, self.folder = checkpoint, Path(folder) if folder else None
        if self.folder:
            settings = json.dumps(checkpoint.settings.media.to_json(), sort_keys=True)
            digest = hashlib.sha256(settings.encode())
            for encoder in (checkpoint.model.model.visual, checkpoint.model.model.audio_tower):
                for parameter in encoder.parameters():
                    digest.update(parameter.detach().half().cpu().numpy().tobytes())
            self.fingerprint = digest.hexdigest()[:16]

    def load(self, clip: Clip) -> dict[str, Any]:
        """``Checkpoint.media_inputs`` of the clip, or, where it is kept, the same with "video_features" and
        "audio_features" in the place of the encoders' inputs. Raises media.MediaError."""
        path = self._path(clip)
        if path is None or not path.exists():
            return self.checkpoint.media_inputs(media.decode_here(clip, self.checkpoint.settings.media))
        with np.load(path) as arrays:
            inputs: dict[str, Any] = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        inputs["use_audio_in_video"] = bool(inputs["use_audio_in_video"])
        return inputs

    def fill(self, clips: Sequence[Clip], workers: int) -> None:
        """Encodes the clips that are not kept yet. Decoding runs ahead in ``workers`` processes. Clips that cannot be
        decoded are left out; training names them when it meets them."""
        missing = {path: clip for clip in clips if (path := self._path(clip)) and not path.exists()}
        if not missing:
            return
        rows = [Row(clip, "", "") for clip in missing.values()]
        build = _Build(self)
        stream = example_stream(rows, build.media, [[index] for index in range(len(rows))], workers)
        model = self.checkpoint.model
        for path, (inputs,) in tqdm(zip(missing, stream, strict=True), total=len(rows), unit="clip", desc="encode"):
            if isinstance(inputs, media.MediaError):
                continue
            with torch.inference_mode():
                on_device = {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in inputs.items()}
                features = encode_media(model, on_device)
            kept = {key: np.asarray(value) for key, value in inputs.items()
                    if key not in ("pixel_values_videos", "input_features")}  # fmt: skip
            kept |= {f"{kind}_features": value.half().cpu().numpy() for kind, value in features.items()}
            if "feature_attention_mask" in kept:
                kept["feature_attention_mask"] = kept["feature_attention_mask"].astype(np.uint8)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            with part.open("wb") as file:
                np.savez(file, **kept)
            os.replace(part, path)

    def _path(self, clip: Clip) -> Path | None:
        if self.folder is None:
            return None
        try:
            file = os.stat(clip.path)
        except OSError:
            return None  # decoding it tells what is wrong
        name = f"{clip.path}\0{file.st_size} {file.st_mtime_ns}\0{clip.start_s}\0{clip.end_s}\0{self.fingerprint}"
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        return self.folder / digest[:2] / f"{digest}.npz"


@dataclass(frozen=True)
class _Build:
    """What a loader's worker makes of a row: its media alone, or the whole example."""

    cache: MediaCache
    prompts: Mapping[str, str] = field(default_factory=dict)

    def media(self, row: Row) -> dict[str, Any]:
        return self.cache.load(row.clip)

    def example(self, row: Row) -> Example:
        inputs = self.cache.load(row.clip)
        return build_example(self.cache.checkpoint, inputs, self.prompts[row.prompt], row.answer)


def build_example(checkpoint: Checkpoint, inputs: Mapping[str, Any], prompt: str, answer: str) -> Example:
    """Prompt, then answer and end token. Labels decode to exactly the answer and the end token.

    ``inputs``: ``Checkpoint.media_inputs``. ``prompt``: the prompt's text.
    """
    tokenizer = checkpoint.processor.tokenizer
    full = checkpoint.with_prompt(inputs, prompt)
    answer_ids = torch.tensor([*tokenizer.encode(answer), tokenizer.eos_token_id])
    prompt_ids = full["input_ids"][0]
    positions = prompt_positions(checkpoint.model, full)
    after = positions.max() + 1 + torch.arange(len(answer_ids)).expand(3, -1)
    return Example(
        input_ids=torch.cat([prompt_ids, answer_ids]),
        labels=torch.cat([torch.full_like(prompt_ids, IGNORED), answer_ids]),
        positions=torch.cat([positions, after], dim=1),
        media={key: value for key, value in inputs.items() if key != "media_ids"},
    )


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-padded ``input_ids``, ``labels`` (B, S), ``positions`` (3, B, S); media tensors one after the other, in the
    order of their placeholders. Right padding needs no attention mask: causal attention never looks at it."""
    longest = max(len(example) for example in examples)

    def pad(values: torch.Tensor, value: int) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, longest - values.shape[-1]), value=value)

    batch = {
        "input_ids": torch.stack([pad(example.input_ids, pad_token_id) for example in examples]),
        "labels": torch.stack([pad(example.labels, IGNORED) for example in examples]),
        "positions": torch.stack([pad(example.positions, 0) for example in examples], dim=1),
    }
    for key in ("video_features", "audio_features", "pixel_values_videos", "video_grid_thw"):
        parts = [example.media[key] for example in examples if key in example.media]
        if parts:
            batch[key] = torch.cat(parts)
    sounds = [example.media for example in examples if "input_features" in example.media]
    if sounds:
        frames = max(sound["input_features"].shape[-1] for sound in sounds)
        for key in ("input_features", "feature_attention_mask"):
            padded = [torch.nn.functional.pad(sound[key], (0, frames - sound[key].shape[-1])) for sound in sounds]
            batch[key] = torch.cat(padded)
    return batch


class AnswerLoss(torch.nn.Module):
    """Sum of the answer tokens' negative log-likelihoods (paper, Eq. 2) and their number.

    Logits are made for answer positions only, ``chunk`` rows at a time, and made again in the backward pass, so those
    of a whole sequence are never held.
    """

    def __init__(self, model: torch.nn.Module, train_encoders: bool = False, chunk: int = 1024) -> None:
        super().__init__()
        self.model, self.train_encoders, self.chunk = model, train_encoders, chunk

    def forward(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.set_grad_enabled(self.train_encoders and torch.is_grad_enabled()):
            features = encode_media(self.model, batch)
        features |= {kind: batch[f"{kind}_features"] for kind in ("video", "audio") if f"{kind}_features" in batch}
        hidden = self.model.model.language_model(
            inputs_embeds=embed(self.model, batch["input_ids"], features),
            position_ids=batch["positions"],
            use_cache=False,
        ).last_hidden_state  # (B, S, width)
        wanted = batch["labels"][:, 1:] != IGNORED
        rows, targets = hidden[:, :-1][wanted], batch["labels"][:, 1:][wanted]
        total = rows.new_zeros((), dtype=torch.float32)
        for start in range(0, len(rows), self.chunk):
            part = slice(start, start + self.chunk)
            total = total + torch.utils.checkpoint.checkpoint(self._chunk_loss, rows[part], targets[part],
                                                              use_reentrant=False)  # fmt: skip
        return total, wanted.sum()

    def _chunk_loss(self, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(self.model.lm_head(rows).float(), targets, reduction="sum")


def epoch_batches(count: int, batch_size: int, seed: int) -> list[list[int]]:
    """One epoch of shuffled index batches. The last, smaller batch is left out unless it is the only one. (A batch is
    split by length into micro-batches later; batches of one length would each hold one kind of clip or task.)"""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    batches = [order[at : at + batch_size] for at in range(0, count, batch_size)]
    return [batch for batch in batches if len(batch) == batch_size] or batches


class _Rows(torch.utils.data.Dataset):
    """Row number -> Example, or the error that its clip raised (named and counted by the loop)."""

    def __init__(self, rows: Sequence[Row], build: Callable[[Row], Example]) -> None:
        self.rows, self.build = rows, build

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example | media.MediaError:
        try:
            return self.build(self.rows[index])
        except media.MediaError as error:
            return error


def example_stream(
    rows: Sequence[Row], build: Callable[[Row], Example], batches: Iterable[list[int]], workers: int
) -> Iterator[list[Example | media.MediaError]]:
    """Lists of examples, one list a batch of row numbers, built ahead of the model in ``workers`` processes."""
    loader = torch.utils.data.DataLoader(
        _Rows(rows, build),
        batch_sampler=list(batches),
        num_workers=workers,
        collate_fn=list,
        prefetch_factor=4 if workers else None,
        worker_init_fn=lambda _: torch.set_num_threads(1),
    )
    yield from loader


def learning_rate_at(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up, then cosine decay to a twentieth of the peak."""
    warmup = max(1, int(steps * warmup_share))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def run_sft(
    checkpoint: Checkpoint, rows: Sequence[Row], config: SFTConfig, prompts: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Trains in place and writes ``output_dir/log.jsonl`` and resumable state. Returns a summary.

    ``prompts``: prompt key -> text (default: the checkpoint's). Killed and started again with the same configuration
    it goes on from the last saved step, without decoding what it skips. A clip that cannot be decoded is named and
    counted; more than one in ten stops the run.
    """
    from accelerate import Accelerator

    if not rows:
        raise DataError(f"data {config.data!r}: the split {config.split!r} has no rows")
    accelerator = Accelerator(mixed_precision="bf16" if config.bf16 else "no", cpu=config.cpu)
    torch.manual_seed(config.seed)
    model, out = checkpoint.model.to(accelerator.device), Path(config.output_dir)
    prompts = prompts or checkpoint.settings.prompts
    tokenizer = checkpoint.processor.tokenizer
    cache = MediaCache(checkpoint, None if config.train_encoders else config.cache_dir)
    model.requires_grad_(True)
    for encoder in (model.model.visual, model.model.audio_tower):
        encoder.requires_grad_(config.train_encoders)

    if cache.folder:
        with accelerator.main_process_first():
            cache.fill([row.clip for row in rows], config.workers)
    build = _Build(cache, prompts).example
    per_epoch = max(1, len(rows) // config.batch_size)
    steps = config.max_steps or math.ceil(per_epoch * config.epochs)
    plan: list[list[int]] = []
    for epoch in range(math.ceil(steps / per_epoch) + 1):
        plan += epoch_batches(len(rows), config.batch_size, config.seed * 1000 + epoch)
    plan = plan[:steps]

    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    loss_module = AnswerLoss(model, config.train_encoders)
    loss_module, optimizer = accelerator.prepare(loss_module, optimizer)
    state_path = out / "state.pt"
    course = {name: getattr(config, name) for name in _COURSE}
    course |= {"start": checkpoint.fingerprint(), "rows": _digest(rows)}
    first = _restore(state_path, course, accelerator.unwrap_model(loss_module).model, optimizer)
    rank, world = accelerator.process_index, accelerator.num_processes
    mine = [batch[rank::world] for batch in plan[first:]]
    out.mkdir(parents=True, exist_ok=True)
    log = _open_log(out / "log.jsonl", first) if accelerator.is_main_process else None
    bar = tqdm(total=steps, initial=first, unit="step", disable=not accelerator.is_main_process)
    skipped, seen, waited, began, records = 0, 0, 0.0, time.perf_counter(), []
    stream = example_stream(rows, build, mine, config.workers)
    model.train()
    for step in range(first, steps):
        at = time.perf_counter()
        loaded = next(stream)
        waited += time.perf_counter() - at
        examples = []
        for item in loaded:
            if isinstance(item, media.MediaError):
                skipped += 1
                tqdm.write(f"skipped: {item}")
            else:
                examples.append(item)
        seen += len(loaded)
        if skipped > 20 and skipped > 0.1 * seen:
            raise DataError(f"data {config.data!r}: {skipped} of {seen} clips, named above, could not be decoded")
        rate = learning_rate_at(step, steps, config.learning_rate, config.warmup_share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        learned = _update(accelerator, loss_module, optimizer, examples, config, tokenizer.pad_token_id)
        bar.update()
        if learned:
            bar.set_postfix(loss=f"{learned[0]:.3f}", refresh=False)
        if learned and log and (step % config.log_every == 0 or step == steps - 1):
            loss, norm = learned
            spent = time.perf_counter() - began
            record = {
                "step": step, "loss": round(loss, 5), "learning_rate": rate, "grad_norm": round(norm, 4),
                "clips_per_s": round(seen * world / spent, 2), "waiting_share": round(waited / spent, 4),
                "skipped": skipped,
            }  # fmt: skip
            records.append(record)
            log.write(json.dumps(record) + "\n")
            log.flush()
        if (step + 1) % config.save_every == 0 or step == steps - 1:
            _save(state_path, course, step + 1, accelerator, loss_module, optimizer)
    bar.close()
    if log:
        log.close()
    model.eval()
    return {
        "steps": steps, "skipped": skipped, "seconds": round(time.perf_counter() - began, 1), "log": records[-5:],
        "is_main_process": accelerator.is_main_process,
    }  # fmt: skip


def _update(
    accelerator: Any, loss_module: Any, optimizer: Any, examples: list[Example], config: SFTConfig, pad_token_id: int
) -> tuple[float, float] | None:
    """One optimizer step on this process's examples. Returns the mean loss over the answer tokens of all processes and
    the gradient's norm; None if no process has an example (no clip of the step could be decoded)."""
    answer_tokens = sum(int((example.labels != IGNORED).sum()) for example in examples)
    everywhere = accelerator.reduce(torch.tensor(float(answer_tokens), device=accelerator.device))
    if not everywhere:
        return None
    summed = torch.zeros((), device=accelerator.device)
    examples = sorted(examples, key=len)
    for at in range(0, len(examples), config.micro_batch_size):
        batch = collate(examples[at : at + config.micro_batch_size], pad_token_id)
        with accelerator.autocast():
            total, _ = loss_module({key: value.to(accelerator.device) for key, value in batch.items()})
        # Processes average their gradients, so each scales its sum to the mean over all answer tokens.
        accelerator.backward(total * accelerator.num_processes / everywhere)
        summed += total.detach()
    norm = accelerator.clip_grad_norm_(loss_module.parameters(), config.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(accelerator.reduce(summed) / everywhere), float(norm)


def _open_log(path: Path, first: int) -> TextIO:
    """The log, to be continued at step ``first``: lines of steps that a killed run did but did not save are dropped."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < first]
    path.write_text("".join(kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


#: Fields that decide what a run learns; a run is not continued with another value of one, nor from another base
#: ("start") or on other rows ("rows").
_COURSE = (
    "model", "data", "split", "prompt", "epochs", "max_steps", "batch_size", "learning_rate", "warmup_share",
    "weight_decay", "max_grad_norm", "train_encoders", "seed",
)  # fmt: skip


def _digest(rows: Sequence[Row]) -> str:
    found = hashlib.sha256()
    for row in rows:
        found.update(f"{row.clip.id}\0{row.prompt}\0{row.answer}\0".encode())
    return found.hexdigest()


def _save(path: Path, course: Mapping, step: int, accelerator: Any, loss_module: Any, optimizer: Any) -> None:
    if not accelerator.is_main_process:
        return
    part = path.with_suffix(".part")
    model = accelerator.unwrap_model(loss_module).model
    torch.save(
        {"step": step, "course": dict(course), "model": model.state_dict(), "optimizer": optimizer.state_dict()}, part
    )
    os.replace(part, path)


def _restore(path: Path, course: Mapping[str, Any], model: torch.nn.Module, optimizer: Any) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in course.items():
        before = state["course"].get(name)
        if value != before:
            what = {"start": "another base", "rows": "other rows"}.get(name, f"{name} = {before!r}, not {value!r}")
            raise DataError(f"{path} was written with {what}; use the same to go on, or another output_dir")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
