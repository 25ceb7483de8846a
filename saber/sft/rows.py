"""Training rows: a clip, the prompt it is asked with, the answer to learn; made from records in the published schema.

Goes in: a table of records beside its clips (a folder), or one record at a time (``shards``). Comes out: ``Row``. A
record that cannot be used is an error that names it, the field and the value; whether its clip can be decoded shows
when a worker opens it. To read another kind of table: one pattern in ``TABLES``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet

from saber.schema import LANGUAGES, Annotation, Clip, SchemaError
from saber.sections import render


class DataError(ValueError):
    """Training data cannot be used. The message names the data, the field and the next step."""


@dataclass(frozen=True)
class Row:
    """One training row: a clip, the prompt's language key ("en", "zh", "clip") and the answer."""

    clip: Clip
    prompt: str
    answer: str


def build_row(
    record: Mapping[str, Any], where: str, clip_id: str, path: str, span: tuple[int, int] | None = None, seed: int = 0
) -> Row:
    """The row of one published record. ``where``: what messages name, a table or a shard.

    ``language`` is that of the answer; a record without it is in the language of its own letters. A clip that speaks
    the answer's language (``spoken_language``; default: the same) is asked for it by name in half of the rows, and "in
    the clip's language" in the other half; which half depends on ``seed`` and the clip's id alone, not on the order of
    reading. A dimension that is not there is not part of the answer; a record without any is an error (DataError).
    """
    try:
        annotation = Annotation.from_json(record, name=f"{where}: {clip_id}")
    except SchemaError as error:
        raise DataError(f"{error}; correct the record") from error
    answer = render(annotation)
    if not answer:
        raise DataError(f"{where}: {clip_id}: none of the fields has text, so there is no answer; leave the clip out")
    language = record.get("language") or _written_language(annotation)
    if language not in LANGUAGES:
        raise DataError(f"{where}: {clip_id}: field language is {language!r}; it must be one of {LANGUAGES}")
    spoken = record.get("spoken_language") or language
    by_name = hashlib.sha256(f"{seed}\0{clip_id}".encode()).digest()[0] % 2
    clip = Clip(path=path, id=clip_id, language=spoken if spoken in LANGUAGES else None, span=span)
    return Row(clip, "clip" if spoken == language and not by_name else language, answer)


def _written_language(annotation: Annotation) -> str:
    """The language of the descriptions, by their letters; of the words spoken only where there is nothing else."""
    text = annotation.scene + annotation.face + annotation.body + annotation.prosody + annotation.reasoning
    text = text or annotation.speech
    chinese = sum("\u4e00" <= letter <= "\u9fff" for letter in text)
    return "zh" if chinese > sum(letter.isascii() and letter.isalpha() for letter in text) else "en"


#: Where the table of a split may lie, and in which order it is looked for: the studio's, those that ``datasets``
#: writes, and the table of a videofolder or audiofolder.
TABLES = ("{split}/clips.parquet", "{split}/*.parquet", "data/{split}-*.parquet", "{split}/metadata.jsonl")


def find_tables(data: str | Path, split: str) -> list[Path]:
    """The files of the split's table, in order; empty where there is none."""
    for pattern in TABLES:
        if found := sorted(Path(data).glob(pattern.format(split=split))):
            return found
    return []


def split_names(split: str) -> list[str]:
    """The splits that an instruction names: "train+speech[:25%]" -> ["train", "speech"]."""
    return [part.partition("[")[0].strip() for part in split.split("+")]


def read_rows(data: str, split: str, seed: int = 0) -> list[Row]:
    """Rows of a folder with a table of the published records (``build_row``). Parquet: ``id``, and ``video`` is a path
    inside ``data``. metadata.jsonl: ``file_name`` is a path beside the table, and the id unless there is an ``id``.
    ``split``: a name, or several and parts of them as ``datasets`` writes it: "train+speech[:25%]"."""
    if not Path(data).is_dir():
        raise DataError(f"data folder {data!r} does not exist; render one: python -m saber studio {data} --clips 8000")
    rows = {}
    for name in split_names(split):
        if not (tables := find_tables(data, name)):
            places = ", ".join(pattern.format(split=name) for pattern in TABLES)
            raise DataError(
                f"{data} has no split {name!r}: there is none of {places}, and no shard {name}-*.tar; "
                "--split names others"
            )
        rows[name] = [row for table in tables for row in _read_table(Path(data), table, seed)]
    if split in rows:
        return rows[split]
    from datasets import ReadInstruction  # a second's import, which workers need not wait for

    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(found) for name, found in rows.items()})
    except (ValueError, AssertionError) as error:
        raise DataError(f"split {split!r} cannot be read ({error}); write it as in train+speech[:25%]") from error
    return [row for part in parts for row in rows[part.splitname][part.from_ : part.to]]


def media_paths(data: str, split: str) -> list[str]:
    """The paths inside ``data`` that the splits' tables name."""
    return [
        (folder / place).relative_to(data).as_posix()
        for name in split_names(split)
        for table in find_tables(data, name)
        for folder, place, _ in _records(Path(data), table)
    ]


def _read_table(data: Path, table: Path, seed: int) -> Iterator[Row]:
    for folder, place, record in _records(data, table):
        clip_id = str(record.get("id") or (place if table.suffix == ".jsonl" else ""))
        if missing := [name for name, value in (("id", clip_id), ("video", place)) if not value]:
            raise DataError(f"{table}: row {clip_id or None!r} has no {missing[0]!r}")
        if ".." in PurePosixPath(place).parts:
            raise DataError(f"{table}: row {clip_id!r}: its file is {place!r}; it must lie inside {folder}")
        yield build_row(record, str(table), clip_id, str(folder / place), seed=seed)


def _records(data: Path, table: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """The records of a table: (folder, path of the clip inside it, record)."""
    if table.suffix == ".jsonl":
        for number, line in enumerate(table.read_text(encoding="utf-8").split("\n"), start=1):
            try:
                record = json.loads(line) if line.strip() else None
            except json.JSONDecodeError as error:
                raise DataError(f"{table}: line {number} is no JSON ({error}); write one object a line") from error
            if record is not None:
                yield table.parent, str(record.get("file_name") or ""), record
        return
    # Read directly: datasets keeps a copy by the folder's name and its card, and would give back another folder's rows.
    with pyarrow.parquet.ParquetFile(table) as file:
        for batch in file.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                video = record.get("video")
                if isinstance(video, Mapping):  # What datasets' Video feature writes.
                    if video.get("bytes"):
                        raise DataError(
                            f"{table}: row {record.get('id')!r} holds its clip itself, in the column 'video'; write "
                            "clips to files and their paths to the table, or pack them as WebDataset shards"
                        )
                    video = video.get("path")
                yield data, str(video or ""), record
