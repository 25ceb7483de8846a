"""The loop that trains: steps, learning rate, log, checkpoints that a killed run goes on from."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from saber import media
from saber.model import Checkpoint
from saber.sft.config import SFTConfig
from saber.sft.examples import IGNORED, Example, collate, epoch_batches, example_stream
from saber.sft.features import ExampleBuilder, MediaCache
from saber.sft.loss import AnswerLoss
from saber.sft.rows import DataError, Row


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
    build = ExampleBuilder(cache, prompts).example
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
