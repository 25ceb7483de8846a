"""The settings of stage 1: what a run trains, on what, how. A recipe (``train/recipes/``) holds what differs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from saber.model import Settings

TUNING = ("full", "lora", "qlora")
SHARDING = ("ddp", "zero2", "zero3", "fsdp")
TRACKERS = ("none", "tensorboard", "trackio")


def option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class SFTConfig:
    """Stage 1: supervised fine-tuning on SED targets. The defaults are the paper's run where it states a value
    (2 epochs, batch 128, learning rate 1e-4); the rest is ours: it does not say what is trained, so LoRA on the text
    model with frozen encoders is our default. The script's default recipe is SABER-Mini's."""

    model: str = option("Qwen/Qwen2.5-Omni-7B", "the base: a name, a folder or a Hub id")
    data: str = option("data/saber", "a folder with a table of clips, a Hub data set (owner/name), or WebDataset tars")
    split: str = option("train", "its split; of tables also several and parts of them: train+speech[:25%]")
    output_dir: str = option("runs/sft", "where checkpoints, logs and run.json go")
    prompt: str = option("sed", "name of the prompt files in saber/prompts")
    max_new_tokens: int = option(4096, "bound of an answer, saved with the checkpoint")
    title: str = option("SABER-LLM", "name for people, saved with the checkpoint")
    epochs: float = option(2.0, "passes over the data (paper: 2)")
    max_steps: int = option(0, "stop after so many optimizer steps; 0: as epochs say")
    batch_size: int = option(128, "clips a step over all processes (paper: 128)")
    micro_batch_size: int = option(8, "clips a forward pass; more where they are shorter than the longest of a step")
    learning_rate: float = option(1e-4, "peak (paper: 1e-4)")
    warmup_share: float = option(0.03, "share of the steps with rising learning rate")
    weight_decay: float = option(0.01, "AdamW weight decay on matrices")
    max_grad_norm: float = option(1.0, "gradient clipping")
    reasoning_weight: float = option(
        1.0, "how much a token of the reasoning and the verdict counts, to one of the evidence (paper: 1)"
    )
    token_noise: float = option(
        0.0, "chance of each token of an answer to be read as another one of it, while it is learned (paper: 0)"
    )
    tuning: str = option("lora", "full, lora or qlora (lora on a base in 4 bits)")
    lora_r: int = option(64, "rank of the adapters on the text model's linear layers")
    lora_alpha: int = option(128, "their scale: alpha / r")
    lora_dropout: float = option(0.05, "dropout before them")
    train_encoders: bool = option(False, "also train the audio and vision encoders (full tuning only)")
    bf16: bool = option(True, "bfloat16 autocast")
    gradient_checkpointing: bool = option(False, "compute layers again in the backward pass: less memory, more time")
    cpu: bool = option(False, "train on the CPU even where there is a GPU")
    seed: int = option(0, "data order and initialisation")
    workers: int = option(1, "processes that decode ahead of the model; 0: in line")
    cache_dir: str | None = option(None, "keep what frozen encoders give here, between epochs and runs")
    max_skipped_share: float = option(
        0.02, "the run stops where more than this share of the clips, and more than 20, cannot be decoded"
    )
    delete_used: bool = option(False, "remove shards that the run fetched from the Hub once it has used them")
    eval_clips: int = option(0, "clips of the split validation that are answered during training; 0: none")
    eval_data: str = option("", "the studio folder that holds them; empty: that of the data")
    eval_every: int = option(500, "optimizer steps between these evaluations")
    report_to: str = option("none", "also log to none, tensorboard or trackio")
    dry_run: bool = option(False, "print what the run would need, and stop")
    gpus: int = option(8, "processes that a dry run counts with, one a GPU (paper: 8 A100)")
    gpu: str = option("a100", "their kind, for a dry run: a key of saber.sft.estimate.GPUS")
    sharding: str = option("ddp", "what is split among them, for a dry run: ddp (nothing), zero2, zero3 or fsdp")
    save_every: int = option(200, "optimizer steps between resumable checkpoints")
    log_every: int = option(10, "optimizer steps between log lines")

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "micro_batch_size": 1, "save_every": 1, "log_every": 1, "eval_every": 1, "lora_r": 1,
                 "lora_alpha": 1, "gpus": 1, "max_steps": 0, "workers": 0, "eval_clips": 0}  # fmt: skip
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {value}")
        for name, values in (("tuning", TUNING), ("sharding", SHARDING), ("report_to", TRACKERS)):
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {values}")
        for name in ("lora_dropout", "max_skipped_share", "token_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to below 1")
        if self.train_encoders and self.tuning != "full":
            raise ValueError(f"train_encoders is true with tuning {self.tuning!r}; encoders are trained in full tuning")
        if not 0 < self.reasoning_weight < math.inf:
            raise ValueError(f"reasoning_weight is {self.reasoning_weight}; it must be above 0")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be between 0 and 1")
        if not 0 < self.epochs < math.inf and self.max_steps == 0:
            raise ValueError(f"epochs is {self.epochs} and max_steps {self.max_steps}; one must be above 0")


def trained_settings(base: Settings, config: SFTConfig) -> Settings:
    """The settings of the checkpoint that a run gives: the base's media settings, the run's prompt and title."""
    about = {**base.about, "title": config.title}
    return Settings.build(config.prompt, media=base.media, max_new_tokens=config.max_new_tokens, about=about)
