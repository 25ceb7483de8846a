"""The loop that trains: one optimizer step after the other, over one process or many.

Every process takes its share of each global batch, splits it by length into micro-batches and divides its sum by the
weight of the answer tokens of all processes, so the loss and the gradient are those of one process with the whole
batch.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from saber import media
from saber.model import Checkpoint
from saber.recipe import write_run
from saber.sft.attention import quick_attention
from saber.sft.config import SFTConfig
from saber.sft.examples import AHEAD, IGNORED, Example, collate, example_stream, with_token_noise
from saber.sft.features import ExampleBuilder, MediaCache
from saber.sft.loss import AnswerLoss
from saber.sft.processes import build_accelerator, device_name, engine_name, is_split, local_world
from saber.sft.report import Report
from saber.sft.rows import DataError, Row
from saber.sft.sources import Source, TableSource
from saber.sft.state import State
from saber.sft.tuning import prepare_tuning

#: As few clips as this say nothing about how many of the data cannot be decoded.
FEWEST_SKIPPED = 20
#: Within a micro-batch, how many times as long as the shortest example the longest may be.
LIKE = 1.5


def learning_rate_at(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up, then cosine decay to a twentieth of the peak."""
    warmup = max(1, int(steps * warmup_share))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def seed_of(*numbers: int) -> int:
    """One seed of several numbers, the same in every process and after a restart."""
    return hash(numbers) % 2**63


def run_sft(
    checkpoint: Checkpoint,
    rows: Sequence[Row] | Source,
    config: SFTConfig,
    prompts: Mapping[str, str] | None = None,
    evaluate: Callable[[Checkpoint], dict[str, Any]] | None = None,
    save: Callable[[torch.nn.Module, Mapping[str, torch.Tensor] | None], None] | None = None,
) -> dict[str, Any]:
    """Trains in place; writes ``output_dir/log.jsonl``, ``progress.png`` and resumable state. Returns a summary.

    ``rows``: a list of rows or a source of them (``open_source``). ``prompts``: prompt key -> text (default: the
    checkpoint's). ``evaluate``: gives "scores" and "samples" of a checkpoint, asked every ``config.eval_every`` steps.
    ``save``: called at the end by the main process, while the others wait, with what ``prepare_tuning`` gave and with
    the weights where the model does not hold them whole, else None.
    Killed and started again with the same configuration it goes on from the last saved step, without decoding what it
    skips. A clip that cannot be decoded is named and counted; more than ``config.max_skipped_share`` of them stops the
    run with a DataError, as does a source without rows. OSError where a checkpoint cannot be written.
    """
    source = TableSource(config.data, rows) if isinstance(rows, Sequence) else rows
    count = count_rows(source, config)
    steps = count_steps(source, count, config)
    accelerator = build_accelerator(config)
    torch.manual_seed(config.seed)
    facts = {"start": checkpoint.fingerprint(), "rows": source.digest()}
    out = Path(config.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = checkpoint.model, checkpoint.processor.tokenizer
    # A model that is to be split among the processes need not fit into one: the engine moves each share.
    for module in (model.model.visual, model.model.audio_tower) if is_split(accelerator) else (model,):
        module.to(accelerator.device)
    rank, world = accelerator.process_index, accelerator.num_processes
    cache = fill_cache(checkpoint, source, config, accelerator)
    tuned = prepare_tuning(checkpoint, config)
    optimizer = build_optimizer(model, config.learning_rate, config.weight_decay)
    loss_module = AnswerLoss(model, config.train_encoders, same_path=world > 1)
    loss_module, optimizer = accelerator.prepare(loss_module, optimizer)
    state = State(out, config, facts, accelerator, loss_module, optimizer)
    first, so_far = state.restore()
    skipped, seen = so_far.get("skipped", 0), so_far.get("seen", 0)
    report = Report(out, first, steps, so_far.get("seconds", 0.0), accelerator)
    about = {
        "data": facts["rows"], "base": facts["start"], "processes": world, "engine": engine_name(accelerator),
        "device": device_name(accelerator.device),
    }  # fmt: skip
    if accelerator.is_main_process:
        write_run(out, config, **about)
    builder = ExampleBuilder(cache, prompts or checkpoint.settings.prompts, config.reasoning_weight)
    stand_in = idle_example(checkpoint, cache.folder is not None)
    source.spare_batches = max(source.spare_batches, AHEAD * config.workers + 2)
    batches = itertools.islice(source.batches(config.batch_size, config.seed, first), steps - first)
    mine = (batch[rank::world] for batch in batches)
    stream = example_stream(builder.example, mine, config.workers)
    model.train()
    for step in range(first, steps):
        at = time.perf_counter()
        loaded = next(stream)
        report.waited += time.perf_counter() - at
        for item in loaded:
            if isinstance(item, media.MediaError):
                tqdm.write(f"skipped: {item}")
        # Seeds go by the place in the batch of all processes: noise does not depend on their number.
        examples = [
            with_token_noise(item, config.token_noise, seed_of(config.seed, step, rank + place * world))
            for place, item in enumerate(loaded) if not isinstance(item, media.MediaError)
        ]  # fmt: skip
        parts = micro_batches(examples, config.micro_batch_size)
        # What all processes have: examples, skipped clips, weight of the answers' tokens, all tokens, micro-batches.
        answers = sum(float(example.weights[example.labels != IGNORED].sum()) for example in examples)
        own = [len(examples), len(loaded) - len(examples), answers, sum(map(len, examples)), len(parts)]
        everyone = accelerator.gather(torch.tensor([own], device=accelerator.device))
        _, bad, weight, tokens, _ = everyone.sum(0).tolist()
        skipped, seen = skipped + int(bad), seen + int(everyone[:, :2].sum())
        if skipped > max(FEWEST_SKIPPED, config.max_skipped_share * seen):
            raise DataError(
                f"data {source.name!r}: {skipped} of {seen} clips, named above, could not be decoded, more than "
                f"max_skipped_share {config.max_skipped_share}; mend them, or raise it to go on; or remove them, and "
                "begin anew in another output_dir"
            )
        learned = None
        if weight:
            rate = learning_rate_at(step, steps, config.learning_rate, config.warmup_share)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(seed_of(config.seed, step, rank))  # of dropout: the same after a restart
            parts += [[stand_in]] * (int(everyone[:, 4].max()) - len(parts))
            learned = update(accelerator, loss_module, optimizer, parts, weight, config, tokenizer.pad_token_id)
        report.clips, report.tokens = report.clips + int(everyone[:, 0].sum()), report.tokens + int(tokens)
        report.step(learned and learned[0])
        if learned and (step % config.log_every == 0 or step == steps - 1):
            loss, norm = learned
            report.record(step, loss=round(loss, 5), learning_rate=rate, grad_norm=round(norm, 4), skipped=skipped)
        at = time.perf_counter()
        is_last = step == steps - 1
        # Before the state is saved: a run that is killed in it does it again.
        if evaluate and ((step + 1) % config.eval_every == 0 or is_last):
            if accelerator.is_main_process:
                report.evaluation(step, evaluate(checkpoint))
                model.train()
            accelerator.wait_for_everyone()
        if (step + 1) % config.save_every == 0 or is_last:
            state.save(step + 1, {"skipped": skipped, "seen": seen, "seconds": report.total_s})
            if accelerator.is_main_process:
                report.plot()
        report.paused += time.perf_counter() - at
    seconds = report.total_s
    model.eval()
    # Where no process has all weights they are brought together here; every process takes part.
    whole = accelerator.get_state_dict(loss_module) if is_split(accelerator) else None
    weights = {name.removeprefix("model."): value for name, value in whole.items()} if whole else None
    last = report.close()
    if save and accelerator.is_main_process:
        save(tuned, weights)
    accelerator.wait_for_everyone()  # a process that ends takes the others with it
    accelerator.end_training()
    return {
        **about, "rows": count, "steps": steps, "skipped": skipped, "seconds": round(seconds, 1), "log": last,
        "is_main_process": accelerator.is_main_process, "tuned": tuned,
    }  # fmt: skip


def fill_cache(checkpoint: Checkpoint, source: Source, config: SFTConfig, accelerator: Any) -> MediaCache:
    """The cache of what the encoders give, filled by all processes together; one that keeps nothing where that is not
    asked for or cannot be."""
    if not keeps_features(config, source):
        if config.cache_dir and not config.train_encoders and accelerator.is_main_process:
            tqdm.write(f"cache_dir is not used: the clips of {source.name} are encoded anew each epoch")
        return MediaCache(checkpoint, None)
    cache = MediaCache(checkpoint, config.cache_dir)
    clips, local = [row.clip for row in source.rows], accelerator.local_process_index
    every = slice(accelerator.process_index, None, accelerator.num_processes)
    for share in (every, slice(local, None, local_world())):  # a node that does not share its cache needs them all
        cache.fill(clips, config.workers, share)
        accelerator.wait_for_everyone()
    return cache


def keeps_features(config: SFTConfig, source: Source | None) -> bool:
    """Whether what the encoders give is kept on disk: where they are frozen, of clips that are all known. ``source``
    None: such as these."""
    known = source is None or isinstance(source, TableSource)
    return bool(config.cache_dir) and not config.train_encoders and known


def count_rows(source: Source, config: SFTConfig) -> int | None:
    """Rows of an epoch; None where only reading tells, or where the number of steps is given and shards would have to
    be read to be counted."""
    return None if config.max_steps and not isinstance(source, TableSource) else source.count()


def count_steps(source: Source, count: int | None, config: SFTConfig) -> int:
    """Optimizer steps of the run over ``count`` rows. Raises DataError for a source without rows, or of unknown length
    without a bound."""
    if count == 0:
        raise DataError(f"data {source.name!r}: the split {config.split!r} has no rows")
    if config.max_steps:
        return config.max_steps
    if count is None:
        raise DataError(f"data {source.name!r} does not say how many rows it has; give max_steps")
    return math.ceil(max(1, count // config.batch_size) * config.epochs)


def build_optimizer(model: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW on what is trained of the model; only matrices decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [{"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
         {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}],
        lr=learning_rate, betas=(0.9, 0.98),
    )  # fmt: skip


def idle_example(checkpoint: Checkpoint, cached: bool) -> Example:
    """An example that teaches nothing, for a process whose share of a step is smaller than another's. ``cached``: the
    others have encoded media, and it has none."""
    ids = torch.tensor(checkpoint.processor.tokenizer.encode("idle"))
    nothing = torch.empty(0, checkpoint.model.config.get_text_config().hidden_size)
    features = {"video_features": nothing, "audio_features": nothing} if cached else {}
    ignored, nowhere = torch.full_like(ids, IGNORED), torch.zeros(len(ids))
    return Example(ids, ignored, nowhere, torch.arange(len(ids)).expand(3, -1), features)


def micro_batches(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """Micro-batches of like length, the longest first: none with more tokens, padding counted, than ``size`` of the
    longest example, so there are more short ones in one; and none where a row would be padded by more than half."""
    parts: list[list[Example]] = []
    room = size * max(map(len, examples), default=0)
    for example in sorted(examples, key=len, reverse=True):
        longest = len(parts[-1][0]) if parts else 0
        if parts and (len(parts[-1]) + 1) * longest <= room and longest <= len(example) * LIKE:
            parts[-1].append(example)
        else:
            parts.append([example])
    return parts


def update(
    accelerator: Any, loss_module: Any, optimizer: Any, parts: Sequence[Sequence[Example]], weight: float,
    config: SFTConfig, pad_token_id: int,
) -> tuple[float, float]:  # fmt: skip
    """One optimizer step on this process's micro-batches. ``weight``: of the answers' tokens of all processes. Returns
    their mean loss by weight and the gradient's norm before clipping."""
    summed = torch.zeros((), device=accelerator.device)
    for number, part in enumerate(parts):
        batch = {key: value.to(accelerator.device) for key, value in collate(part, pad_token_id).items()}
        is_last = number == len(parts) - 1
        accelerator.gradient_state._set_sync_gradients(is_last)  # DeepSpeed steps inside the last backward
        # Where weights are split, gradients are too, at once: whole ones would not fit.
        waits = not is_last and not is_split(accelerator)
        exchange = accelerator.no_sync(loss_module) if waits else contextlib.nullcontext()
        with exchange, quick_attention(accelerator.device, len(part[0]), config.bf16):
            with accelerator.autocast():
                total, _ = loss_module(batch)
            # Processes average their gradients, so each scales its sum to the weighted mean over all answer tokens.
            accelerator.backward(total * accelerator.num_processes / weight)
        summed += total.detach()
    norm = accelerator.clip_grad_norm_(loss_module.parameters(), config.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(accelerator.reduce(summed) / weight), float(norm or 0.0)
