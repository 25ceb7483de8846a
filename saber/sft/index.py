"""Counts the rows of local shards once and writes it beside them; checks every record on the way.

Run it before shards are copied, pushed or trained on: ``python -m saber.sft.index FOLDER_OR_PATTERN SPLIT``. A faulty
record would otherwise stop the run that meets it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from tqdm import tqdm

from saber.sft.rows import DataError
from saber.sft.shards import ShardRows, index_name, local_shards


def write_index(data: str, split: str) -> Path:
    """Writes ``{split}-index.json`` (shard -> rows) beside the shards and returns its path. Raises DataError naming the
    first faults and their number; then nothing is written."""
    folder, names = local_shards(data, split)
    if not names:
        raise DataError(f"{data} has no shard of the split {split!r}, such as {split}-000.tar")
    counts, faults = {}, []
    for name in tqdm(names, unit="shard", desc="index", disable=None):
        try:
            rows = ShardRows(name, folder / name, seed=0)
        except DataError as error:
            faults.append(str(error))
            continue
        counts[name] = len(rows)
        for place in range(len(rows)):
            try:
                row = rows[place]
            except DataError as error:
                faults.append(str(error))
            else:
                if row.clip.span is None:
                    faults.append(f"{row.clip.id}: there is no media file of that name")
    if faults:
        raise DataError(f"{data}: {len(faults)} faults, no index was written:\n" + "\n".join(faults[:20]))
    path = folder / index_name(split)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m saber.sft.index", description=__doc__)
    parser.add_argument("data", help="a folder of shards, or a pattern such as clips/train-{000..099}.tar")
    parser.add_argument("split", help="its split")
    arguments = parser.parse_args()
    try:
        print(write_index(arguments.data, arguments.split))
    except DataError as error:
        raise SystemExit(f"python -m saber.sft.index: {error}") from error


if __name__ == "__main__":
    main()
