"""WebDataset shards: tars of KEY.mp4 (or another media file) and KEY.json, the published record; read where they lie.

Goes in: names of shards and what brings one to this machine. Comes out: a ``Source`` whose rows point at the
clip's bytes inside the tar (``Clip.span``), so that nothing is unpacked. A shard's headers are scanned when its block
begins, in a thread, while the block before is being used. ``{split}-index.json`` beside the shards (written by
``python -m saber.sft.index``) says how many rows each has, so that a run that goes on skips shards unopened.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saber.sft.order import Source, shuffled
from saber.sft.rows import DataError, Row, build_row

#: Media files of a sample by suffix. Where a key has several, the first here is the clip (a wav beside an mp4 is its
#: sound once more). Members with other suffixes are left alone.
MEDIA = ("mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "wav", "flac", "m4a", "mp3", "ogg", "opus")

_BLOCK = 512  # bytes; what a tar counts in


@dataclass
class Sample:
    """One key of a shard: the spans (first byte, bytes) of its media file and of its record, None while unseen."""

    key: str
    media: tuple[int, int] | None = None
    rank: int = len(MEDIA)
    record: tuple[int, int] | None = None


def scan_shard(path: str | os.PathLike[str]) -> list[Sample]:
    """The samples of a tar in stored order, by its headers alone. KEY is the name up to its last dot; names that begin
    with a dot (what macOS adds) are left out.

    A record without a media file is a sample too: its row is named and counted as a clip that is missing. A media file
    without a record, a name that stands there twice, and a tar that is cut off or damaged are errors (DataError).
    """
    samples: dict[str, Sample] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK if member.isreg() else tar.offset
                key, _, suffix = posixpath.normpath(member.name).rpartition(".")
                suffix, hidden = suffix.lower(), posixpath.basename(key).startswith(".")
                if not member.isreg() or not key or hidden or suffix not in ("json", *MEDIA):
                    continue
                span, sample = (member.offset_data, member.size), samples.setdefault(key, Sample(key))
                if suffix == "json":
                    if sample.record:
                        raise DataError(f"{path}: {member.name} is in it twice; pack it again with one sample a key")
                    sample.record = span
                elif (rank := MEDIA.index(suffix)) == sample.rank:
                    raise DataError(f"{path}: {member.name} is in it twice; pack it again with one sample a key")
                elif rank < sample.rank:
                    sample.media, sample.rank = span, rank
        with open(path, "rb") as file:
            file.seek(end)
            # tarfile takes a broken header, and the end of the file, for the end of the archive.
            whole = file.read(_BLOCK) == bytes(_BLOCK)
    except FileNotFoundError as error:
        raise DataError(f"shard {path} does not exist; copy it there, or name the shards that do") from error
    except tarfile.ReadError as error:
        raise DataError(f"{path} is no whole tar ({error}); fetch or pack it again (uncompressed)") from error
    if not whole:
        last = f" after {list(samples)[-1]}" if samples else ""
        raise DataError(f"{path} is cut off or damaged{last}; fetch or pack it again")
    if bare := [sample.key for sample in samples.values() if sample.record is None]:
        raise DataError(
            f"{path}: {bare[0]} has no {bare[0]}.json ({len(bare)} such keys); add the record or leave it out"
        )
    return list(samples.values())


class ShardRows(Sequence[Row]):
    """The rows of one shard. Records are read at once, in file order; a row is made of one when it is asked for."""

    def __init__(self, name: str, path: Path, seed: int) -> None:
        self.name, self.path, self.seed = name, path, seed
        self.samples = scan_shard(path)
        self.records = []
        with path.open("rb") as file:
            for first, size in (sample.record for sample in self.samples):
                file.seek(first)
                self.records.append(file.read(size))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Row:
        sample = self.samples[place]
        try:
            record = json.loads(self.records[place])
        except ValueError as error:  # UnicodeDecodeError is one too.
            raise DataError(f"{self.name}: {sample.key}.json is no JSON ({error}); correct the record") from error
        if not isinstance(record, dict):
            raise DataError(f"{self.name}: {sample.key}.json holds {record!r:.60}; it must be a published record")
        path, clip_id = str(self.path), sample.key
        if sample.media is None:  # A place where nothing is: the worker that opens it says which clip is missing.
            path, clip_id = f"{path}/{sample.key}", f"{sample.key} in {self.name}"
        return build_row(record, self.name, clip_id, path, sample.media, self.seed)


class _Chain(Sequence[Row]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self.places = [(part, place) for part in parts for place in range(len(part))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> Row:
        part, inside = self.places[place]
        return part[inside]


class ShardSource(Source):
    """Shards, ``block_shards`` at a time: shards are permuted each epoch, and the rows of a block among themselves.

    ``shards``: their names. ``fetch``: name -> local file, waits for the download where there is one. ``counts``: name
    -> rows, from the index; shards that it lacks are scanned. ``identity``: what the fingerprint is made of. ``seed``:
    that of the prompts. ``local``: shards may be opened just to count their rows. ``remove``: called with the name of
    a shard whose clips are no longer needed.
    """

    def __init__(
        self,
        name: str,
        shards: Sequence[str],
        fetch: Callable[[str], Path],
        *,
        counts: Mapping[str, int] | None = None,
        identity: str = "",
        seed: int = 0,
        block_shards: int = 4,
        local: bool = True,
        remove: Callable[[str], None] | None = None,
    ) -> None:
        if block_shards < 1:
            raise ValueError(f"block_shards is {block_shards}; it must be at least 1")
        self.name, self.shards, self.fetch, self.remove = name, list(shards), fetch, remove
        self.seed, self.block_shards, self.local, self.identity = seed, block_shards, local, identity
        self.counts: dict[str, int] = dict(counts or {})
        self.blocks_per_epoch = -(-len(self.shards) // block_shards)

    def count(self) -> int | None:
        if not self.local and len(self.counts) < len(self.shards):
            return None
        return sum(map(self._shard_rows, self.shards))

    def digest(self) -> str:
        text = json.dumps([self.identity, self.shards, self.seed, self.block_shards])
        return hashlib.sha256(text.encode()).hexdigest()

    def block_shard_names(self, seed: int, block: int) -> list[str]:
        epoch, number = divmod(block, self.blocks_per_epoch)
        order = shuffled(len(self.shards), "shards", seed, epoch)
        return [self.shards[at] for at in order[number * self.block_shards : (number + 1) * self.block_shards]]

    def block_rows(self, seed: int, block: int) -> int:
        return sum(map(self._shard_rows, self.block_shard_names(seed, block)))

    def _shard_rows(self, shard: str) -> int:
        if shard not in self.counts:
            self.counts[shard] = len(scan_shard(self.fetch(shard)))
        return self.counts[shard]

    def open_block(self, seed: int, block: int) -> Sequence[Row]:
        parts = []
        for shard in self.block_shard_names(seed, block):
            part = ShardRows(shard, self.fetch(shard), self.seed)
            if self.counts.setdefault(shard, len(part)) != len(part):
                raise DataError(
                    f"{self.name}: {shard} has {len(part)} rows, the index says {self.counts[shard]}; fetch it again, "
                    "or write the index again: python -m saber.sft.index"
                )
            parts.append(part)
        return _Chain(parts)

    def release_block(self, seed: int, block: int, current: int) -> None:
        if self.remove:
            # Later blocks that workers may still read, that is being given, that is open ahead of time; and two more,
            # because other processes of this machine may be a block ahead.
            later = range(block + 1, current + 4)
            near = {shard for at in later for shard in self.block_shard_names(seed, at)}
            for shard in self.block_shard_names(seed, block):
                if shard not in near:
                    self.remove(shard)


def index_name(split: str) -> str:
    return f"{split}-index.json"


def read_index(path: Path, shards: Sequence[str] | None = None) -> dict[str, int]:
    """Shard name -> rows; empty where there is no such file. ``shards``: those that are there; one that only the index
    has is missing (DataError)."""
    if not path.is_file():
        return {}
    again = "write it again: python -m saber.sft.index"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); {again}") from error
    if not isinstance(index, dict) or not all(isinstance(rows, int) and rows >= 0 for rows in index.values()):
        raise DataError(f"{path} must map names of shards to their rows; {again}")
    if shards is not None and (absent := sorted(set(index) - set(shards))):
        raise DataError(
            f"{path}: {len(absent)} shards that it names are not there, first {absent[0]}; add them, or {again}"
        )
    return index


def is_shard_of(name: str, split: str) -> bool:
    """Whether a path inside a dataset is a shard of the split: train.tar, train-00007.tar, train-00000-of-00010.tar,
    data/train-000.tar, train/anything.tar; not train_hard-000.tar, which is another split's."""
    split = re.escape(split)
    return bool(re.fullmatch(rf"(data/)?{split}([-_.]?\d+([-_.](of[-_.])?\d+)*)?\.tar|{split}/[^/]+\.tar", name))


def local_shards(data: str, split: str) -> tuple[Path, list[str]]:
    """Shards of a folder or of a pattern (``clips/{train,extra}-{000..099}.tar``, ``clips/*.tar``): (folder that holds
    them all and the index, names inside it). No name where the folder has none; a pattern must match."""
    if Path(data).is_dir():
        names = [path.relative_to(data).as_posix() for place in (".", "data", split)
                 for path in sorted((Path(data) / place).glob("*.tar"))]  # fmt: skip
        names = [name for name in names if is_shard_of(name, split)]
        folder = Path(data)
        if names and len(parents := {Path(name).parent for name in names}) == 1:
            folder, names = folder / parents.pop(), [Path(name).name for name in names]
        return folder, names
    paths = [
        path for one in _expand_braces(data) for path in (sorted(glob.glob(one)) if glob.has_magic(one) else [one])
    ]
    if not paths:
        raise DataError(f"no shard matches {data!r}; name tars, such as clips/train-{{000..099}}.tar")
    if absent := [path for path in paths if not Path(path).is_file()]:
        raise DataError(
            f"{data}: {len(absent)} of {len(paths)} shards do not exist, first {absent[0]}; correct the range"
        )
    folder = Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))
    return folder, [Path(os.path.abspath(path)).relative_to(folder).as_posix() for path in dict.fromkeys(paths)]


def _expand_braces(pattern: str) -> Iterator[str]:
    """``{000..011}`` and ``{a,b}``, as a shell expands them."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        yield pattern
        return
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", found[1]):
        low, high = numbers.groups()
        parts = [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    else:
        parts = found[1].split(",")
    for part in parts:
        yield from _expand_braces(pattern[: found.start()] + part + pattern[found.end() :])


def open_local_shards(data: str, split: str, seed: int, block_shards: int) -> ShardSource | None:
    """The shards of a folder or a pattern; None where a folder has none. Their fingerprint: names, sizes and the first
    bytes of each (its first header holds a name and a time)."""
    folder, names = local_shards(data, split)
    if not names:
        return None
    found = hashlib.sha256(split.encode())
    for name in names:
        with (folder / name).open("rb") as file:
            found.update(f"{name}\0{os.fstat(file.fileno()).st_size}\0".encode() + file.read(4096))
    index = read_index(folder / index_name(split), names if Path(data).is_dir() else None)
    counts = {name: index[name] for name in names if name in index}
    identity = found.hexdigest()
    return ShardSource(
        data, names, folder.joinpath, counts=counts, identity=identity, seed=seed, block_shards=block_shards
    )
