"""Resumable state of a run: what a killed run goes on from.

One process, or several that each hold the whole model: ``state.pt`` with the trained parameters and the optimizer.
Sharded runs (DeepSpeed, FSDP): accelerate's own folder, ``state-<step>``, which ``state.json`` names once it is whole.
So a kill or a full disk leaves the one before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException

from saber.sft.config import SFTConfig
from saber.sft.rows import DataError

#: Fields that decide what a run learns; a run is not continued with another value of one, nor from another base
#: ("start") or on other rows ("rows").
COURSE = (
    "model", "data", "split", "prompt", "epochs", "max_steps", "batch_size", "learning_rate", "warmup_share",
    "weight_decay", "max_grad_norm", "reasoning_weight", "token_noise", "tuning", "lora_r", "lora_alpha",
    "lora_dropout", "train_encoders", "bf16", "seed",
)  # fmt: skip


class State:
    """The state of one run in ``folder``. ``module``, ``optimizer``: as ``accelerator.prepare`` gave them."""

    def __init__(
        self, folder: Path, config: SFTConfig, facts: Mapping[str, Any], accelerator: Any, module: Any, optimizer: Any
    ) -> None:
        self.folder, self.accelerator, self.module, self.optimizer = folder, accelerator, module, optimizer
        self.course = {name: getattr(config, name) for name in COURSE} | dict(facts)
        self.sharded = accelerator.distributed_type.value in ("DEEPSPEED", "FSDP")
        self.whole, self.pointer = folder / "state.pt", folder / "state.json"

    def restore(self) -> tuple[int, dict[str, float]]:
        """Loads the last state, if there is one. Returns the number of steps that it has done and what ``save`` was
        given of the run so far. Raises DataError where it is that of another run, or not that of all processes."""
        own, other = (self.pointer, self.whole) if self.sharded else (self.whole, self.pointer)
        if other.exists() and not own.exists():
            kind = "without" if self.sharded else "with"
            raise DataError(
                f"{other} was written {kind} DeepSpeed or FSDP; go on {kind} them, or name another output_dir"
            )
        return self._restore_sharded() if self.sharded else self._restore_whole()

    def _agree(self, step: int) -> None:
        """Before any process loads: loading shards they wait for each other."""
        steps = self.accelerator.gather(torch.tensor([step], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise DataError(
                f"{self.folder} holds states of different steps ({sorted(set(steps))}) for different processes; "
                "output_dir must be one folder that all nodes share"
            )

    def _restore_sharded(self) -> tuple[int, dict[str, float]]:
        record = json.loads(self.pointer.read_text(encoding="utf-8")) if self.pointer.exists() else None
        if self.accelerator.is_main_process:  # what a run left that ended while it wrote
            self._remove_others(record and record["folder"])
        self._agree(record["step"] if record else 0)
        if record is None:
            return 0, {}
        self._check(record["course"], self.pointer)
        self.accelerator.load_state(str(self.folder / record["folder"]))
        return record["step"], record["so_far"]

    def _restore_whole(self) -> tuple[int, dict[str, float]]:
        state = torch.load(self.whole, map_location="cpu", weights_only=True) if self.whole.exists() else None
        self._agree(state["step"] if state else 0)
        if state is None:
            return 0, {}
        self._check(state["course"], self.whole)
        model = self.accelerator.unwrap_model(self.module).model
        model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        return state["step"], state["so_far"]

    def save(self, step: int, so_far: Mapping[str, float]) -> None:
        """Every process calls it. ``so_far``: what else a run needs to go on. Raises OSError where it cannot be
        written: in all processes, or, where each writes its share, in one, whose end the launcher makes that of all."""
        if not self.sharded:
            self._together(step, self._save_whole, step, so_far)
            return
        folder = self.folder / f"state-{step}"
        try:
            self.accelerator.save_state(str(folder))
        except (OSError, RuntimeError, CheckpointException) as error:
            # The others wait for this one inside: there is no telling them.
            shutil.rmtree(folder, ignore_errors=True)  # half of it, which only takes room
            raise self._not_written(step, error) from error
        self._together(step, self._point_at, step, folder, so_far)

    def _not_written(self, step: int, error: BaseException | str) -> OSError:
        problem = error if isinstance(error, str) else f"{type(error).__name__}: {error}".splitlines()[0]
        return OSError(
            f"the state of step {step} cannot be written to {self.folder} ({problem}); the one before it is whole: "
            "make room and start the same command again"
        )

    def _together(self, step: int, write: Callable[..., None], *arguments: Any) -> None:
        """Writes, and tells every process how it went in all: one that ended alone would leave the others waiting."""
        problem = None
        try:
            write(*arguments)
        except (OSError, RuntimeError) as error:  # torch reports a disk that fills up as a RuntimeError
            problem = error
        flags = self.accelerator.gather(torch.tensor([problem is not None], device=self.accelerator.device))
        if flags.any():
            raise self._not_written(step, problem or "on another process")

    def _save_whole(self, step: int, so_far: Mapping[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        model = self.accelerator.unwrap_model(self.module).model
        trained = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        state = {
            "step": step, "so_far": dict(so_far), "course": self.course, "model": trained,
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        part = self.whole.with_suffix(".part")
        try:
            torch.save(state, part)
            os.replace(part, self.whole)
        finally:
            part.unlink(missing_ok=True)

    def _point_at(self, step: int, folder: Path, so_far: Mapping[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        part = self.pointer.with_suffix(".part")
        record = {"step": step, "so_far": dict(so_far), "course": self.course, "folder": folder.name}
        part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.pointer)
        self._remove_others(folder.name)

    def _remove_others(self, kept: str | None) -> None:
        for old in self.folder.glob("state-*"):
            if old.name != kept:
                shutil.rmtree(old, ignore_errors=True)  # it only takes room

    def _check(self, before: Mapping[str, Any], path: Path) -> None:
        for name, value in self.course.items():
            if value != before.get(name):
                other = f"{name} = {before.get(name)!r}, not {value!r}"
                what = {"start": "another base", "rows": "other rows"}.get(name, other)
                raise DataError(f"{path} was written with {what}; use the same to go on, or another output_dir")
