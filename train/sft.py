"""Stage 1 (SED): parse, load, train, save.

``accelerate launch train/sft.py`` trains SABER-Mini; ``--config RECIPE`` takes another recipe, and any field can be
given on the command line: ``--learning_rate 5e-4``. Killed and started again it goes on.
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path

from saber.model import ModelError, load_checkpoint
from saber.recipe import parse_recipe, write_run
from saber.sft import DataError, SFTConfig, read_rows, run_sft, trained_settings

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "mini-sed.yaml"


def main() -> None:
    config = parse_recipe(SFTConfig, DEFAULT_RECIPE)
    try:
        checkpoint = load_checkpoint(config.model, device="cpu" if config.cpu else None)
        rows = read_rows(config.data, config.split, config.seed)
        checkpoint = replace(checkpoint, settings=trained_settings(checkpoint.settings, config))
        summary = run_sft(checkpoint, rows, config)
    except (ModelError, DataError) as error:
        sys.exit(f"train/sft.py: {error}")
    if summary["is_main_process"]:
        checkpoint.save(Path(config.output_dir) / "checkpoint")
        write_run(config.output_dir, config, rows=len(rows), settings=asdict(checkpoint.settings), **summary)
        print(f"written to {Path(config.output_dir) / 'checkpoint'}")


if __name__ == "__main__":
    main()
