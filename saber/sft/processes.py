"""The processes of a run and the engine that joins them: one, several with the whole model each, DeepSpeed, FSDP.

Goes in: the settings, and what the launcher left in the environment. Comes out: accelerate's ``Accelerator``; and what
the engine is called, on what it runs, whether it divides the weights.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from saber.sft.config import SFTConfig

#: Age of a compiler's lock from which on a killed process must have left it; a compilation takes minutes.
LEFT_LOCK_S = 1800


def join_processes(config: SFTConfig) -> Any:
    """accelerate's PartialState: the processes of the run, which may wait for each other from now on."""
    from accelerate import PartialState

    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        remove_left_locks()
    # DeepSpeed runs on CPUs too, but accelerate finds no backend for it there by itself.
    backend = {"backend": "gloo"} if _several() and not torch.accelerator.is_available() else {}
    # Rendering, encoding, evaluation and checkpoints make processes wait longer than the default.
    return PartialState(cpu=_wants_cpus(config), timeout=timedelta(hours=3), **backend)


def remove_left_locks() -> None:
    """DeepSpeed compiles parts of itself when they are first used. A process that is killed in this leaves a lock, for
    which torch would wait for ever: an old one is removed, a young one is named."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in sorted(root.rglob("lock")):
        try:
            age = time.time() - lock.stat().st_mtime
            if age > LEFT_LOCK_S:
                lock.unlink()
        except FileNotFoundError:  # another process of the run was first, or has compiled
            continue
        if age > LEFT_LOCK_S:
            print(f"removed {lock}, {age / 60:.0f} minutes old: a killed process left it", file=sys.stderr)
        else:
            print(f"may wait for {lock}: if no process is compiling there, remove it", file=sys.stderr)


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _wants_cpus(config: SFTConfig) -> bool:
    """What accelerate must be told: it joins processes on CPUs only where it is asked for CPUs, and leaves them apart
    in silence otherwise; DeepSpeed and FSDP it then leaves out."""
    engine = any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("DEEPSPEED", "FSDP"))
    return config.cpu or (_several() and not torch.accelerator.is_available() and not engine)


def build_accelerator(config: SFTConfig) -> Any:
    """accelerate's Accelerator for the run. Raises ValueError with the reason for what the engine cannot do."""
    from accelerate import Accelerator

    join_processes(config)
    tracker = None if config.report_to == "none" else config.report_to
    accelerator = Accelerator(
        mixed_precision="bf16" if config.bf16 else "no", cpu=_wants_cpus(config), log_with=tracker,
        project_dir=config.output_dir,
    )  # fmt: skip
    if _several() and accelerator.distributed_type.value == "NO":
        raise ValueError(
            f"the {os.environ['WORLD_SIZE']} processes of this run were not joined: each would train on its own share "
            "alone; start them with accelerate launch or torchrun"
        )
    if tracker and not accelerator.log_with:  # accelerate only warns
        raise ValueError(f"report_to is {tracker!r}, which is not installed: pip install {tracker}")
    if tracker:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        accelerator.init_trackers("saber-sft", config=dataclasses.asdict(config))
    plugin = accelerator.state.deepspeed_plugin
    if is_split(accelerator):
        engine = engine_name(accelerator)
        if config.tuning == "qlora":
            raise ValueError(
                f"{engine} cannot split 4-bit weights among processes; use ZeRO-2, or lora instead of qlora"
            )
        if config.eval_clips:
            raise ValueError(
                f"{engine} leaves no process with a whole model to answer with; give eval_clips 0 and evaluate the "
                "checkpoint afterwards"
            )
    if plugin:
        # We accumulate and clip ourselves, at the boundaries that we know.
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.micro_batch_size
        plugin.deepspeed_config["train_batch_size"] = config.micro_batch_size * accelerator.num_processes
        plugin.deepspeed_config["gradient_accumulation_steps"] = 1
        plugin.deepspeed_config["gradient_clipping"] = config.max_grad_norm
        plugin.deepspeed_config.setdefault("zero_allow_untested_optimizer", True)
        if plugin.zero_stage == 3:  # for the checkpoint at the end
            plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    return accelerator


def is_split(accelerator: Any) -> bool:
    """Whether the weights themselves are divided among the processes."""
    plugin = accelerator.state.deepspeed_plugin
    return plugin.zero_stage == 3 if plugin else accelerator.distributed_type.value == "FSDP"


def engine_name(accelerator: Any) -> str:
    plugin = accelerator.state.deepspeed_plugin
    kind = accelerator.distributed_type.value
    return f"DeepSpeed ZeRO-{plugin.zero_stage}" if plugin else "one process" if kind == "NO" else kind


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def local_world() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine has where a scheduler gave it some. More threads than
    that wait for each other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave() -> None:
    """Ends a process of several on CPUs at once, when all is written. Threads of gloo that outlive the process group
    can abort an interpreter that ends in the ordinary way (github.com/pytorch/pytorch/issues/190489), and the launcher
    would take a finished run for a failed one."""
    if _several() and not torch.accelerator.is_available():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
