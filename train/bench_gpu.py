"""How fast, and in how much memory, a recipe trains on one GPU: a table, then one JSON line last.

Run: ``make bench-gpu``, or ``python train/bench_gpu.py --recipe train/recipes/qwen2.5-omni-3b/sed/full.yaml``. Nothing
is downloaded: the model has the recipe's sizes and random weights, the tokenizer is SABER-Mini's (more tokens a word),
the clips of 1 to 8 s are the studio's. What is measured is ``run_sft`` itself, one process on one GPU, with batches of
one list of clips, so every step is the same work. Its floating-point operations are counted by torch as they run, in
the first step, which is not timed; they include what gradient checkpointing computes again.

Each size of micro-batch has a process of its own; one that does not fit is named and the next is tried. ``--profile``
adds a step under torch's profiler: the operators that take most, and a trace for chrome://tracing or Perfetto.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bench_train import Clock, render_rows, start_workers_by
from sft import base_dtype
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from saber.model import Checkpoint, build_thinker, load_checkpoint, load_plan
from saber.recipe import parse_recipe, read_recipe
from saber.sft import Row, SFTConfig, loop, option, run_sft
from saber.sft.estimate import GPUS, estimate

#: Of the configuration, what a tokenizer decides.
TOKENS = (
    "image_token_id", "audio_token_id", "video_token_id", "audio_start_token_id", "audio_end_token_id",
    "user_token_id", "vision_start_token_id",
)  # fmt: skip
RECIPE = "train/recipes/qwen2.5-omni-7b/sed/lora.yaml"


@dataclass(frozen=True)
class BenchConfig:
    """Training a recipe's model with random weights on one GPU: step time, tokens a second, peak memory, and the share
    of the chip's peak, for several sizes of micro-batch."""

    recipe: str = option(RECIPE, "what is trained, and how")
    micro_batch_sizes: str = option("1,2,4,8,16", "clips a forward pass, each its own run")
    batch_size: int = option(16, "clips a step: a GPU's share of the global batch")
    steps: int = option(5, "steps of a run, the first of them untimed")
    layers: int = option(0, "so many layers of the text model and of each encoder, to try it out; 0: all")
    profile: str = option("", "a folder for the profile of one more step of each run; empty: none")

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("steps", 2), ("layers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.sizes:
            raise ValueError(f"micro_batch_sizes is {self.micro_batch_sizes!r}; write numbers with commas: 1,2,4")

    @property
    def sizes(self) -> list[int]:
        found = [size.strip() for size in self.micro_batch_sizes.split(",")]
        return [int(size) for size in found] if all(size.isdigit() and int(size) for size in found) else []


def random_checkpoint(config: SFTConfig, layers: int, device: str) -> Checkpoint:
    """The recipe's model with random weights on ``device``, in the type that training holds them in, with SABER-Mini's
    processor. For qlora it is written and read again, since 4-bit weights come from a checkpoint."""
    configuration, settings = load_plan(config.model)
    small = load_checkpoint("saber-mini-base", device="cpu")
    configuration = copy.deepcopy(configuration)
    for name in TOKENS:
        setattr(configuration, name, getattr(small.model.config, name))
    with torch.device(device):
        model = build_thinker(configuration, base_dtype(config), layers or None)
    made = Checkpoint(model, small.processor, settings, config.model)
    if config.tuning != "qlora":
        return made
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "base", dtype=base_dtype(config))
        del made, model
        return load_checkpoint(Path(folder) / "base", device=device, dtype=base_dtype(config), quantization="4bit")


def measure(config: BenchConfig, size: int, rows: Sequence[Row], work: Path) -> dict[str, Any]:
    """One run with micro-batches of ``size``: its figures, or "error" where it does not fit."""
    recipe = SFTConfig(**read_recipe(SFTConfig, config.recipe))
    on_gpu = torch.cuda.is_available()
    steps = config.steps + bool(config.profile)
    recipe = replace(
        recipe, data="bench", output_dir=str(work / f"micro-{size}"), max_steps=steps, batch_size=config.batch_size,
        micro_batch_size=size, save_every=10**9, log_every=1, eval_clips=0, cache_dir=None, report_to="none",
        cpu=not on_gpu,
    )  # fmt: skip
    clock, counter = Clock(config.batch_size), FlopCounterMode(display=False)

    class Timed(loop.Report):
        def step(self, loss: float | None) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            super().step(loss)
            clock.mark(self.waited)
            clock.tokens = self.tokens / len(clock.marks)

    def update(*arguments: Any) -> tuple[float, float]:
        if not clock.marks:
            with counter:
                return plain_update(*arguments)
        if len(clock.marks) < config.steps:
            return plain_update(*arguments)
        with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as found:
            updated = plain_update(*arguments)
        write_profile(found, Path(config.profile), size, on_gpu)
        return updated

    kept = loop.Report, loop.update, loop.State.save
    plain_update = loop.update
    loop.Report, loop.update = Timed, update
    loop.State.save = lambda *_: None  # of tens of GB, which nobody goes on from
    try:
        run_sft(random_checkpoint(recipe, config.layers, "cuda" if on_gpu else "cpu"), list(rows), recipe)
    except torch.cuda.OutOfMemoryError as error:
        return {"error": str(error).splitlines()[0]}
    finally:
        loop.Report, loop.update, loop.State.save = kept
    timed = clock.marks[: config.steps]
    seconds = [after[0] - before[0] for before, after in zip(timed, timed[1:], strict=False)]
    step_s = statistics.median(seconds)
    log = [json.loads(line) for line in (work / f"micro-{size}" / "log.jsonl").read_text("utf-8").splitlines()]
    return {
        "step_s": round(step_s, 4),
        "spread_s": [round(min(seconds), 4), round(max(seconds), 4)],
        "clips_per_s": round(config.batch_size / step_s, 2),
        "tokens_per_s": round(clock.tokens / step_s, 1),
        "waiting_share": round((timed[-1][2] - timed[0][2]) / (timed[-1][0] - timed[0][0]), 4),
        "step_flops": counter.get_total_flops(),
        "share_of_peak": share_of_peak(counter.get_total_flops() / step_s),
        "peak_memory_gib": log[config.steps - 1]["peak_memory_gib"],
    }


def write_profile(found: Any, folder: Path, size: int, on_gpu: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found.export_chrome_trace(str(folder / f"micro-{size}.json.gz"))
    table = found.key_averages().table(sort_by="self_device_time_total" if on_gpu else "self_cpu_time_total",
                                       row_limit=25, max_name_column_width=60)  # fmt: skip
    (folder / f"micro-{size}.txt").write_text(table, encoding="utf-8")


def share_of_peak(flops: float) -> float | None:
    """``flops`` a second as a share of what the maker's data sheet gives for bfloat16; None for a chip not in GPUS."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    known = [gpu for key, gpu in GPUS.items() if key.split("-")[0].upper() in name.upper().replace(" ", "")]
    return round(flops / (known[0].tflops * 1e12), 3) if known else None


def estimated(config: BenchConfig, size: int) -> dict[str, float]:
    """What the dry run says of the same recipe, alone on one GPU with clips of 5 s: to be held against what was
    measured."""
    recipe = SFTConfig(**read_recipe(SFTConfig, config.recipe))
    found = estimate(replace(recipe, gpus=1, sharding="ddp", batch_size=config.batch_size, micro_batch_size=size))
    return {"estimated_typical_gib": round(found.typical_bytes / 2**30, 2)}


def main() -> None:
    config = parse_recipe(BenchConfig, None)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    context = multiprocessing.get_context("spawn")
    runs: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="saber-bench-gpu-") as name:
        rows, lengths = render_rows(Path(name), config.batch_size)
        print(f"{config.recipe} on {device}; clips of {min(lengths):.1f} to {max(lengths):.1f} s\n")
        print(
            f"{'micro-batch':>11}{'s a step':>10}{'clips/s':>9}{'tokens/s':>10}{'of peak':>9}{'waiting':>9}{'GiB':>8}"
        )
        for size in config.sizes:
            with ProcessPoolExecutor(1, context, start_workers_by, (multiprocessing.get_start_method(),)) as pool:
                runs[size] = found = pool.submit(measure, config, size, rows, Path(name)).result()
            if "error" in found:
                print(f"{size:>11}  does not fit: {found['error']}", flush=True)
                continue
            share = "" if found["share_of_peak"] is None else f"{found['share_of_peak']:.1%}"
            print(f"{size:>11}{found['step_s']:>10.2f}{found['clips_per_s']:>9.2f}{found['tokens_per_s']:>10.0f}"
                  f"{share:>9}{found['waiting_share']:>9.1%}{found['peak_memory_gib']:>8.1f}", flush=True)  # fmt: skip
            if not config.layers:
                found |= estimated(config, size)
    print()
    print(json.dumps({"device": device, "config": asdict(config), "runs": runs}))


if __name__ == "__main__":
    main()
