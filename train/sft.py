"""Stage 1 (SED): parse, load, train, save.

``accelerate launch train/sft.py`` trains SABER-Mini; ``--config RECIPE`` takes another recipe, and any field can be
given on the command line: ``--learning_rate 5e-4``. Killed and started again it goes on.
"""

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from saber.eval.studio import sample_evaluation
from saber.model import Checkpoint, load_checkpoint
from saber.recipe import parse_recipe, write_run
from saber.sft import (
    SFTConfig,
    join_processes,
    keeps_features,
    leave,
    open_source,
    run_sft,
    save_adapter,
    trained_settings,
    usable_cores,
)
from saber.sft.rows import split_names

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "mini-sed.yaml"
MINI_CLIPS = "runs/mini/clips"


def render_mini_clips(config: SFTConfig) -> None:
    """The Mini's own clips are not in the repository: a seed makes them, where they are missing."""
    from mini_base import SPLITS, BaseConfig, render_clips

    wanted = {*split_names(config.split), "validation"}
    with join_processes(config).main_process_first():
        render_clips(BaseConfig(data=config.data), [split for split in SPLITS if split in wanted])


def base_dtype(config: SFTConfig) -> torch.dtype:
    """What is trained is held in 32 bits: steps of the optimizer are smaller than what 16 bits can tell apart. A base
    that stays as it is under adapters is held in 16 (where the run computes in 16), or in 4."""
    return torch.bfloat16 if config.tuning != "full" and config.bf16 else torch.float32


def load_base(config: SFTConfig) -> Checkpoint:
    dtype = base_dtype(config)
    if config.tuning == "qlora":
        device = "cpu" if config.cpu or not torch.cuda.is_available() else f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        return load_checkpoint(config.model, device=device, dtype=dtype, quantization="4bit")
    return load_checkpoint(config.model, device="cpu", dtype=dtype)


def print_estimate(config: SFTConfig) -> None:
    """What the run would need. Its data are counted where they are at hand."""
    from saber.sft.estimate import dry_run

    source = None
    if Path(config.data).is_dir() or ".tar" in config.data:
        source = open_source(config.data, config.split, config.seed)
    if not keeps_features(config, source):
        config = replace(config, cache_dir=None)
    print(dry_run(config, clips=source and source.count()))


def main() -> None:
    config = parse_recipe(SFTConfig, DEFAULT_RECIPE)
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if alone and (config.cpu or not torch.cuda.is_available()):
        torch.set_num_threads(usable_cores())  # accelerate leaves a process one thread
    try:
        if config.dry_run:
            return print_estimate(config)
        checkpoint = load_base(config)
        if config.data == MINI_CLIPS:
            render_mini_clips(config)
        source = open_source(config.data, config.split, config.seed, delete_used=config.delete_used)
        checkpoint = replace(checkpoint, settings=trained_settings(checkpoint.settings, config))
        evaluate = None
        if config.eval_clips:
            evaluate = sample_evaluation(config.eval_data or config.data, "validation", config.eval_clips)
        folder = Path(config.output_dir) / ("checkpoint" if config.tuning == "full" else "adapter")

        def save(tuned, weights) -> None:
            if config.tuning == "full":
                checkpoint.save(folder, weights=weights)
            else:
                save_adapter(tuned, checkpoint, folder, weights)

        summary = run_sft(checkpoint, source, config, evaluate=evaluate, save=save)
    except (ValueError, OSError) as error:  # of a checkpoint, data, a prompt, a setting: each says what and where
        sys.exit(f"train/sft.py: {error}")
    del summary["tuned"]
    if summary["is_main_process"]:
        write_run(config.output_dir, config, settings=asdict(checkpoint.settings), **summary)
        print(f"written to {folder}")
    leave()


if __name__ == "__main__":
    main()
