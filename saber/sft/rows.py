"""Training rows: a clip, the prompt it is asked with, the answer to learn; read from data in the published schema."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from saber.schema import Annotation, Clip
from saber.sections import render


class DataError(ValueError):
    """Training data cannot be used. The message names the data, the field and the next step."""


@dataclass(frozen=True)
class Row:
    """One training row: a clip, the prompt's language key ("en", "zh", "clip") and the answer."""

    clip: Clip
    prompt: str
    answer: str


def read_rows(data: str, split: str, seed: int = 0) -> list[Row]:
    """Rows of a dataset in the published schema. ``video`` is a path inside ``data``. A clip that speaks the answer's
    language is asked for it by name in half of the rows, and "in the clip's language" in the other half."""
    if not Path(data).is_dir():
        raise DataError(f"data folder {data!r} does not exist; render one: python -m saber studio {data} --clips 8000")
    rows = []
    rng = random.Random(seed)
    table = Path(data) / split / "clips.parquet"
    if not table.is_file():
        raise DataError(f"{data} has no split {split!r}: there is no {table}")
    # Read directly: datasets keeps a copy by the folder's name and its card, and would give back another folder's rows.
    records = pyarrow.parquet.read_table(table).to_pylist()
    for record in records:
        if missing := [name for name in ("id", "video", "language") if not record.get(name)]:
            raise DataError(f"{table}: row {record.get('id')!r} has no {missing[0]!r}")
        annotation = Annotation.from_json(record, name=str(record.get("id")))
        language = record["language"]
        spoken = record.get("spoken_language") or language
        prompt = "clip" if spoken == language and rng.random() < 0.5 else language
        clip = Clip(path=str(Path(data) / record["video"]), id=record["id"], language=spoken)
        rows.append(Row(clip, prompt, render(annotation)))
    return rows
