"""What a run tells while it trains: a progress bar, ``log.jsonl``, ``progress.png``, and a tracker by flag.

One line of the log an ``SFTConfig.log_every`` steps: loss, learning rate, gradient norm, clips and tokens a second, the
share of time spent waiting for data, peak memory, clips skipped. Evaluations during training stand in
``evaluations.jsonl``, each with the samples of its answers.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm


def peak_memory_gib() -> float:
    """The most memory that this process has held: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Report:
    """The report of one process's run; only that of the main process writes. ``first``: the step that it begins at;
    ``before_s``: seconds of training until then."""

    def __init__(self, folder: Path, first: int, steps: int, before_s: float, accelerator: Any) -> None:
        self.folder, self.accelerator, self.steps = folder, accelerator, steps
        self.log = open_log(folder / "log.jsonl", first) if accelerator.is_main_process else None
        self.evaluations = open_log(folder / "evaluations.jsonl", first) if accelerator.is_main_process else None
        self.bar = tqdm(total=steps, initial=first, unit="step", disable=not accelerator.is_main_process)
        self.began, self.waited, self.paused, self.clips, self.tokens = time.perf_counter(), 0.0, 0.0, 0, 0
        self.before_s = before_s

    @property
    def spent_s(self) -> float:
        """Seconds of training since this start: those of evaluations and checkpoints do not count."""
        return time.perf_counter() - self.began - self.paused

    @property
    def total_s(self) -> float:
        """The same since step 0, however often the run was started again."""
        return self.before_s + self.spent_s

    def step(self, loss: float | None) -> None:
        self.bar.update()
        if loss is not None:
            self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def record(self, step: int, **values: Any) -> None:
        spent = self.spent_s
        line = {
            "step": step, **values, "clips_per_s": round(self.clips / spent, 2),
            "tokens_per_s": round(self.tokens / spent, 1), "waiting_share": round(self.waited / spent, 4),
            "peak_memory_gib": round(peak_memory_gib(), 3),
        }  # fmt: skip
        write_line(self.log, line)
        self.accelerator.log({name: value for name, value in line.items() if name != "step"}, step=step)

    def evaluation(self, step: int, found: dict[str, Any]) -> None:
        """``found``: "scores" (name -> number) and "samples" (of answers)."""
        write_line(self.evaluations, {"step": step, **found})
        scores = ", ".join(f"{name} {value:.3f}" for name, value in found["scores"].items())
        tqdm.write(f"step {step}: {scores}")
        self.accelerator.log({f"eval/{name}": value for name, value in found["scores"].items()}, step=step)

    def plot(self) -> None:
        """``progress.png`` from the whole log, also of the runs before this one."""
        from matplotlib.figure import Figure

        lines = read_log(self.folder / "log.jsonl")
        if not lines:
            return
        evaluations = read_log(self.folder / "evaluations.jsonl")
        figure = Figure(figsize=(9, 6 if evaluations else 4), layout="constrained")
        axes = figure.subplots(2 if evaluations else 1, 1, sharex=True, squeeze=False)[:, 0]
        at = [line["step"] for line in lines]
        axes[0].plot(at, [line["loss"] for line in lines], color="C0", linewidth=1)
        axes[0].set_ylabel("loss (nats a token)", color="C0")
        axes[0].set_ylim(bottom=0)
        rate = axes[0].twinx()
        rate.plot(at, [line["learning_rate"] for line in lines], color="C1", linewidth=1)
        rate.set_ylabel("learning rate", color="C1")
        rate.set_ylim(bottom=0)
        if evaluations:
            for name in evaluations[-1]["scores"]:
                known = [(line["step"], line["scores"][name]) for line in evaluations if name in line["scores"]]
                axes[1].plot(*zip(*known, strict=True), marker=".", label=name)
            axes[1].set_ylabel("clips of the validation split")
            axes[1].set_ylim(-0.02, 1.02)
            axes[1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes[-1].set_xlabel("step")
        figure.savefig(self.folder / "progress.png", dpi=120)

    def close(self) -> list[dict[str, Any]]:
        """The last lines of the log, where this process wrote it."""
        self.bar.close()
        for file in (self.log, self.evaluations):
            if file:
                file.close()
        if not self.accelerator.is_main_process:
            return []
        self.plot()
        return read_log(self.folder / "log.jsonl")[-5:]


def open_log(path: Path, first: int) -> TextIO:
    """A log, to be continued at step ``first``: lines of steps that a killed run did but did not save are dropped."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < first]
    path.write_text("".join(kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_line(file: TextIO | None, line: dict[str, Any]) -> None:
    if file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
