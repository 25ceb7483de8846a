"""How fast stage 1 trains on this machine, beside TRL's SFTTrainer: a table, then one JSON line last.

Run: ``make bench-train``. The same clips of 1 to 8 s in the same order, the same start, batches, optimizer, schedule,
precision and number of workers; full tuning of the text model under frozen encoders. Every run starts in a process of
its own, its first step is not timed, and the variants take turns, so that a ratio compares neighbours in time.
``VARIANTS`` is the list. A new one is a line there.

TRL knows no sound and no video, so it gets what its documentation asks for then: a collator of its own, here with the
processor over a whole micro-batch, its tokens padded on the right. It sums over the micro-batches of a step and divides
by the answer tokens of all of them, as we do: the losses and the gradients' norms of the first step must agree, or the
bench stops. TRL cannot keep what encoders give; so both ratios are told, with and without it on our side.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from saber import media
from saber.model import Checkpoint, load_checkpoint
from saber.recipe import parse_recipe
from saber.schema import Annotation, Clip
from saber.sections import render as render_answer
from saber.sft import IGNORED, MediaCache, Row, SFTConfig, learning_rate_at, loop, option, prepare_tuning, run_sft
from saber.sft.sources import TableSource
from saber.studio import voice
from saber.studio.render import record, render
from saber.studio.sample import Mix, draw_spec

LENGTHS_S = (1, 8)
#: The most that the first step of both may differ by, relatively: in 32 bits, and with what is rounded to 16 (features
#: that were kept; everything under bfloat16 autocast).
SAME, SAME_ROUNDED = 1e-4, 5e-3


@dataclass(frozen=True)
class BenchConfig:
    """Speed of training: samples a second of this trainer and of TRL's SFTTrainer, and what each part of ours gives."""

    model: str = option("saber-mini-base", "what is trained: a name, a folder or a Hub id")
    clips: int = option(64, "clips, rendered for this run, as many of each length from 1 to 8 s")
    batch_size: int = option(16, "clips an optimizer step")
    micro_batch_size: int = option(8, "clips a forward pass")
    steps: int = option(4, "optimizer steps of a run, the first of them untimed")
    repeats: int = option(2, "runs of each variant")
    threads: int = option(1, "threads of the training process; a worker has one of its own")
    bf16: bool = option(False, "bfloat16 autocast, for both")

    def __post_init__(self) -> None:
        for name, least in (("clips", self.batch_size), ("micro_batch_size", 1), ("steps", 2), ("repeats", 1),
                            ("threads", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, no multiple of micro_batch_size {self.micro_batch_size}; TRL needs "
                "equal micro-batches"
            )


@dataclass(frozen=True)
class Variant:
    """One way to train. ``by_length``: micro-batches of like length. ``kept``: encoder features from the cache.
    ``workers``: processes that decode ahead."""

    trainer: str = "ours"
    by_length: bool = True
    kept: bool = False
    workers: int = 1


VARIANTS = {
    "trl": Variant("trl", by_length=False),
    "ours": Variant(),
    "ours_in_line": Variant(workers=0),
    "ours_unsorted": Variant(by_length=False),
    "kept": Variant(kept=True),
    "kept_in_line": Variant(kept=True, workers=0),
    "kept_unsorted": Variant(kept=True, by_length=False),
}
#: Name of a ratio of samples a second -> the variants above and below the line.
RATIOS = {
    "ours_over_trl": ("ours", "trl"),
    "kept_over_trl": ("kept", "trl"),
    "length_batching": ("ours", "ours_unsorted"),
    "length_batching_kept": ("kept", "kept_unsorted"),
    "keeping_features": ("kept", "ours"),
    "worker": ("ours", "ours_in_line"),
    "worker_kept": ("kept", "kept_in_line"),
}


# --- clips ------------------------------------------------------------------------------------------------------------


def render_rows(folder: Path, count: int) -> tuple[list[Row], list[float]]:
    """``count`` studio clips with picture and sound, as many of each whole second of length in ``LENGTHS_S``, and
    their lengths. (Batches that mix clips with and without a track get wrong positions in the model's own forward,
    which TRL runs.) The studio's own lengths are 1.3 to 6 s, half of them within 0.7 s of 3.2; some hold several
    sentences, and those are the longest here."""
    mix = Mix(seed=9)
    low, high = LENGTHS_S
    quota, found = math.ceil(count / (high - low)), Counter()
    rows, lengths = [], []
    for index in itertools.count():
        if len(rows) == count:
            return rows, lengths
        spec = draw_spec(mix, index)
        # Speaking takes most of the time here, so what is hardly ever of a length that is still wanted is passed over.
        of_three_sentences = spec.incomplete == "long" and spec.words.template.count("+") == 2
        ordinary = spec.incomplete == "" and any(found[second] < quota for second in range(low, 5))
        if not (of_three_sentences or ordinary):
            continue
        length_s = voice.speak(spec).duration_s
        if not low <= length_s < high - 1 / spec.fps or found[int(length_s)] >= quota:
            continue
        found[int(length_s)] += 1
        path = folder / f"{spec.id}.mp4"
        lengths.append(render(spec, path))
        answer = render_answer(Annotation.from_json(record(spec, path.name, lengths[-1])))
        rows.append(Row(Clip(str(path), id=spec.id, language=spec.words.language), "clip", answer))


class Clock:
    """Marks the end of each step; the first step (the loader's start, the first kernels) is not counted."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.marks = batch_size, []

    def mark(self, waited_s: float) -> None:
        self.marks.append((time.perf_counter(), time.process_time(), waited_s))

    def figures(self) -> dict[str, float]:
        """ "samples_per_s"; "waiting_share" of the time; "cpu_s", the processor's seconds a sample in the training
        process (workers have their own), which other programs on the machine change least."""
        wall, cpu, waited = (last - first for first, last in zip(self.marks[0], self.marks[-1], strict=True))
        samples = self.batch_size * (len(self.marks) - 1)
        return {"samples_per_s": samples / wall, "waiting_share": waited / wall, "cpu_s": cpu / samples}


# --- ours -------------------------------------------------------------------------------------------------------------


def sft_config(config: BenchConfig, variant: Variant, work: Path) -> SFTConfig:
    return SFTConfig(
        model=config.model, data="bench", output_dir=str(work), prompt="mini", tuning="full",
        batch_size=config.batch_size, micro_batch_size=config.micro_batch_size, max_steps=config.steps,
        learning_rate=2e-3, bf16=config.bf16, cpu=True, workers=variant.workers, log_every=1, save_every=10**9,
        cache_dir=str(work.parent / "features") if variant.kept else None,
    )  # fmt: skip


def unsorted_micro_batches(examples: Sequence[Any], size: int) -> list[list[Any]]:
    """``loop.micro_batches`` in the order of the data. Put in its place for a variant: it is no option of the trainer,
    since nobody should want it."""
    return [list(examples[at : at + size]) for at in range(0, len(examples), size)]


def train_ours(
    checkpoint: Checkpoint, rows: Sequence[Row], config: BenchConfig, variant: Variant, work: Path
) -> dict[str, float]:
    """One run of ``run_sft``: the figures of ``Clock``, "loss" and "grad_norm" of the first step."""
    clock = Clock(config.batch_size)

    class Timed(loop.Report):
        def step(self, loss: float | None) -> None:
            super().step(loss)
            clock.mark(self.waited)

    kept = loop.Report, loop.micro_batches
    loop.Report = Timed
    if not variant.by_length:
        loop.micro_batches = unsorted_micro_batches
    try:
        run_sft(checkpoint, list(rows), sft_config(config, variant, work))
    finally:
        loop.Report, loop.micro_batches = kept
    first = json.loads((work / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    return {**clock.figures(), "loss": first["loss"], "grad_norm": first["grad_norm"]}


def fill_cache(checkpoint: Checkpoint, rows: Sequence[Row], work: Path) -> dict[str, float]:
    """Clips a second that are decoded and encoded, once, for the variants that keep features."""
    cache = MediaCache(checkpoint, work / "features")
    began = time.perf_counter()
    cache.fill([row.clip for row in rows], workers=1)
    return {"samples_per_s": len(rows) / (time.perf_counter() - began)}


# --- TRL --------------------------------------------------------------------------------------------------------------


class Collator:
    """Micro-batches for the model's own forward: clips decoded by our decoder, then the processor over all of them, as
    TRL's own collators of prompts and completions do it: prompts by the processor, answers by the tokenizer, joined and
    padded on the right; labels only on answers and their end token."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.processor, self.settings = checkpoint.processor, checkpoint.settings

    def __call__(self, records: Sequence[dict[str, str]]) -> dict[str, Any]:
        clips = [media.decode_here(Clip(record["path"]), self.settings.media) for record in records]
        together = self.settings.media.audio_in_video
        tracks = [{"type": "video"}] if together else [{"type": "video"}, {"type": "audio"}]
        chats = [
            [{"role": "user", "content": [*tracks, {"type": "text", "text": record["prompt"]}]}] for record in records
        ]
        inside = {"load_audio_from_video": True, "audio_from_video_indices": list(range(len(clips)))}
        pixels = [clip.frames.shape[1] * clip.frames.shape[2] for clip in clips]
        low, high = self.settings.media.min_pixels or min(pixels), self.settings.media.max_pixels or max(pixels)
        batch = dict(self.processor(
            text=[self.processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats],
            videos=[clip.frames for clip in clips],
            audio=[clip.audio for clip in clips],
            videos_kwargs={"size": {"shortest_edge": min(low, high), "longest_edge": high}, "fps": clips[0].fps,
                           "cap_pixels_per_frame": True, "do_sample_frames": False},
            **(inside if together else {}),
            padding=True,
            return_tensors="pt",
        ))  # fmt: skip
        tokenizer = self.processor.tokenizer
        prompts = [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        answers = [torch.tensor([*tokenizer.encode(r["answer"]), tokenizer.eos_token_id]) for r in records]
        whole = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
        labels = [torch.cat([torch.full_like(p, IGNORED), a]) for p, a in zip(prompts, answers, strict=True)]
        pad = torch.nn.utils.rnn.pad_sequence
        batch["input_ids"] = pad(whole, batch_first=True, padding_value=tokenizer.pad_token_id)
        batch["attention_mask"] = pad([torch.ones_like(ids) for ids in whole], batch_first=True)
        batch["labels"] = pad(labels, batch_first=True, padding_value=IGNORED)
        return {**batch, "use_audio_in_video": together}


def train_trl(
    checkpoint: Checkpoint, rows: Sequence[Row], config: BenchConfig, variant: Variant, work: Path
) -> dict[str, float]:
    """One run of TRL's SFTTrainer on what ``train_ours`` trains on; the same figures.

    Its defaults, but for what must be as ours: order of the data, optimizer, schedule, no gradient checkpointing.
    """
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig as TRLConfig
    from trl import SFTTrainer

    ours = sft_config(config, variant, work)
    batches = TableSource(ours.data, rows).batches(config.batch_size, ours.seed)
    order = [row for batch in itertools.islice(batches, config.steps) for row in batch]
    prompts = checkpoint.settings.prompts
    data = Dataset.from_list([{"path": r.clip.path, "prompt": prompts[r.prompt], "answer": r.answer} for r in order])
    prepare_tuning(checkpoint, ours)
    optimizer, schedule = build_optimizer(checkpoint.model, ours)
    clock = Clock(config.batch_size)

    class Timed(SFTTrainer):
        waited = 0.0

        def get_batch_samples(self, *arguments: Any) -> Any:
            began = time.perf_counter()
            found = super().get_batch_samples(*arguments)
            self.waited += time.perf_counter() - began
            return found

    class Marks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.mark(trainer.waited)

    trainer = Timed(
        model=checkpoint.model,
        args=TRLConfig(
            output_dir=str(work), max_steps=config.steps, per_device_train_batch_size=config.micro_batch_size,
            gradient_accumulation_steps=config.batch_size // config.micro_batch_size, bf16=config.bf16, use_cpu=True,
            max_grad_norm=ours.max_grad_norm, train_sampling_strategy="sequential", gradient_checkpointing=False,
            dataloader_num_workers=variant.workers, dataloader_pin_memory=False,
            # As many clips ahead as ours: four batches.
            dataloader_prefetch_factor=4 * config.batch_size // config.micro_batch_size if variant.workers else None,
            max_length=None, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, seed=ours.seed,
        ),
        data_collator=Collator(checkpoint), train_dataset=data, processing_class=checkpoint.processor,
        optimizers=(optimizer, schedule), callbacks=[Marks()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # standard output is the table's and the line's
    trainer.train()
    first = trainer.state.log_history[0]
    return {**clock.figures(), "loss": first["loss"], "grad_norm": first["grad_norm"]}


def build_optimizer(model: torch.nn.Module, ours: SFTConfig) -> tuple[Any, Any]:
    """AdamW and the schedule as ``run_sft`` has them, for TRL."""
    optimizer = loop.build_optimizer(model, 1.0, ours.weight_decay)

    def rate(step: int) -> float:
        return learning_rate_at(step, ours.max_steps, ours.learning_rate, ours.warmup_share)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


# --- runs and figures -------------------------------------------------------------------------------------------------


def measure(
    config: BenchConfig, variant: Variant | None, rows: Sequence[Row], work: Path, number: int
) -> dict[str, float]:
    """One run in this process, from the start checkpoint; ``variant`` None fills the cache. ``work``: folder of the
    whole bench; ``number``: of this run."""
    torch.set_num_threads(config.threads)
    checkpoint = load_checkpoint(config.model, device="cpu", dtype=torch.float32)
    if variant is None:
        return fill_cache(checkpoint, rows, work)
    train = {"ours": train_ours, "trl": train_trl}[variant.trainer]
    folder = work / f"run-{number}"
    folder.mkdir()
    return train(checkpoint, rows, config, variant, folder)


def start_workers_by(method: str) -> None:
    """In a forked process: its loaders start their workers as they do outside the bench."""
    multiprocessing.set_start_method(method, force=True)


def measure_apart(*arguments: Any) -> dict[str, float]:
    """``measure`` in a process of its own. It is forked from one that has done no more than import, so runs share no
    state and none pays for the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["saber.sft.loop", "trl.trainer.sft_trainer", "matplotlib.figure"])
    with ProcessPoolExecutor(1, context, start_workers_by, (multiprocessing.get_start_method(),)) as pool:
        return pool.submit(measure, *arguments).result()


def check_same_work(runs: dict[str, list[dict[str, float]]], bf16: bool = False) -> dict[str, float]:
    """The largest relative differences of the first step's loss and gradient norm from TRL's, of all variants but those
    with kept features, and of these. Raises ValueError where they say that not the same was trained."""
    reference = runs["trl"][0]
    differences = {"": 0.0, "_kept": 0.0}
    for name, found in runs.items():
        kind = "_kept" if VARIANTS[name].kept else ""
        for one, key in itertools.product(found, ("loss", "grad_norm")):
            difference = abs(one[key] - reference[key]) / reference[key]
            differences[kind] = max(differences[kind], difference)
            if difference > (SAME_ROUNDED if kind or bf16 else SAME):
                raise ValueError(
                    f"{name}: {key} of the first step is {one[key]} and TRL's {reference[key]}; they do not train the "
                    "same, so their speeds cannot be compared"
                )
    return {f"first_step_difference{kind}": float(f"{value:.1e}") for kind, value in differences.items()}


def summarize(config: BenchConfig, filled: dict[str, float], runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The JSON line: medians of each variant, and medians over the turns of the ratios within a turn."""
    variants = {
        name: {
            "samples_per_s": round(statistics.median(run["samples_per_s"] for run in found), 2),
            "waiting_share": round(statistics.median(run["waiting_share"] for run in found), 4),
            "cpu_s": round(statistics.median(run["cpu_s"] for run in found), 4),
            "spread": [round(choose(run["samples_per_s"] for run in found), 2) for choose in (min, max)],
        }
        for name, found in runs.items()
    }
    ratios, cpu_ratios = {}, {}
    for name, (above, below) in RATIOS.items():
        turns = list(zip(runs[above], runs[below], strict=True))
        ratios[name] = round(statistics.median(a["samples_per_s"] / b["samples_per_s"] for a, b in turns), 2)
        cpu_ratios[name] = round(statistics.median(b["cpu_s"] / a["cpu_s"] for a, b in turns), 2)
    gain = 1 / variants["ours"]["samples_per_s"] - 1 / variants["kept"]["samples_per_s"]  # seconds a clip
    return {
        "variants": variants,
        "ratios": ratios,
        "cpu_ratios": cpu_ratios,
        "fill_clips_per_s": round(filled["samples_per_s"], 2),
        # Passes over the data after which filling the cache has paid for itself; None: never.
        "fill_paid_after_epochs": round(1 / filled["samples_per_s"] / gain, 2) if gain > 0 else None,
        **check_same_work(runs, config.bf16),
        "cores": os.cpu_count(),
        "config": asdict(config),
    }


def run_bench(config: BenchConfig, rows: Sequence[Row], work: Path, apart: bool = True) -> dict[str, Any]:
    """Runs every variant ``config.repeats`` times in turns; returns what ``summarize`` makes of it. ``apart``: each in
    a process of its own. ``work``: an empty folder."""
    run = measure_apart if apart else measure
    filled = run(config, None, rows, work, 0)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for number, (_, name) in enumerate(itertools.product(range(config.repeats), VARIANTS)):
        runs[name].append(run(config, VARIANTS[name], rows, work, number))
        print(f"{name:16}{runs[name][-1]['samples_per_s']:8.2f} samples/s", file=sys.stderr, flush=True)
    return summarize(config, filled, runs)


def print_table(found: dict[str, Any]) -> None:
    print(f"\n{'variant':20}{'samples/s':>10}{'least':>8}{'most':>8}{'waiting':>9}{'CPU s/sample':>14}")
    for name, figures in found["variants"].items():
        least, most = figures["spread"]
        print(f"{name:20}{figures['samples_per_s']:10.2f}{least:8.2f}{most:8.2f}{figures['waiting_share']:9.1%}"
              f"{figures['cpu_s']:14.4f}")  # fmt: skip
    print(f"\n{'ratio':24}{'times':>6}{'in CPU time':>13}")
    for name, (above, below) in RATIOS.items():
        print(f"{name:24}{found['ratios'][name]:6.2f}{found['cpu_ratios'][name]:13.2f}   {above} / {below}")
    print()
    for name in ("fill_clips_per_s", "fill_paid_after_epochs", "first_step_difference", "first_step_difference_kept"):
        print(f"{name:28} {found[name]}")
    print(f"{'clip_lengths_s':28} {found['clip_lengths_s']} (least, median, most)\n")


def main() -> None:
    config = parse_recipe(BenchConfig, None)
    with tempfile.TemporaryDirectory(prefix="saber-bench-train-") as clips, tempfile.TemporaryDirectory() as work:
        rows, lengths = render_rows(Path(clips), config.clips)
        found = run_bench(config, rows, Path(work))
    found["clip_lengths_s"] = [round(choose(lengths), 2) for choose in (min, statistics.median, max)]
    print_table(found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
