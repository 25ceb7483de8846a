"""The settings of stage 1: what a run trains, on what, how. A recipe (``train/recipes/``) holds what differs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from saber.model import Settings


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


def trained_settings(base: Settings, config: SFTConfig) -> Settings:
    """The settings of the checkpoint that a run gives: the base's media settings, the run's prompt and title."""
    about = {**base.about, "title": config.title}
    return Settings.build(config.prompt, media=base.media, max_new_tokens=config.max_new_tokens, about=about)
