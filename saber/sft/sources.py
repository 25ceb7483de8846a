"""Where training rows come from: a folder with a table, WebDataset shards, or a dataset on the Hub of either kind.

Goes in: what a user writes as ``data``, and the split. Comes out: a ``Source``, which gives the same global batches in
every process, from any step on. To add a kind: a ``Source`` and one branch in ``open_source``.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from saber.sft.order import Source
from saber.sft.rows import TABLES, DataError, Row, media_paths, read_rows, split_names
from saber.sft.shards import ShardSource, index_name, is_shard_of, open_local_shards, read_index


class TableSource(Source):
    """Rows that are all known: one block. ``identity``: what the fingerprint has besides the rows."""

    blocks_per_epoch = 1

    def __init__(self, name: str, rows: Sequence[Row], identity: str = "") -> None:
        self.name, self.rows, self.identity = name, rows, identity

    def count(self) -> int:
        return len(self.rows)

    def digest(self) -> str:
        found = hashlib.sha256(self.identity.encode())
        sizes: dict[str, int] = {}
        for row in self.rows:
            clip = row.clip
            if clip.path not in sizes:  # the same name can come to be another picture
                sizes[clip.path] = os.stat(clip.path).st_size if os.path.exists(clip.path) else -1
            piece = f"{clip.start_s}\0{clip.end_s}\0{sizes[clip.path]}"
            found.update(f"{clip.id}\0{piece}\0{row.prompt}\0{row.answer}\0".encode())
        return found.hexdigest()

    def block_rows(self, seed: int, block: int) -> int:
        return len(self.rows)

    def open_block(self, seed: int, block: int) -> Sequence[Row]:
        return self.rows

    def release_block(self, seed: int, block: int, current: int) -> None:
        """Nothing is held but the rows."""


def open_source(data: str, split: str, seed: int = 0, block_shards: int = 4, delete_used: bool = False) -> Source:
    """The rows of ``split`` in ``data``; of tables also several and parts of them (``read_rows``). Raises DataError
    that names what is wrong and the next step.

    ``data``: a folder with a table (``read_rows``) or with shards ``{split}-*.tar``, also under ``data/`` or
    ``{split}/``; a pattern of local shards (``clips/train-{000..099}.tar``); or a dataset on the Hub, ``owner/name`` or
    ``owner/name@revision``, of either kind. Where there are a table and shards, the shards are taken, unless the table
    is the studio's. ``seed``: which half of the rows is asked by name for its language (``build_row``).
    ``block_shards``: shards that are open, and shuffled together, at a time. ``delete_used``: a shard that this process
    downloaded is removed from the cache once it is used, so that a few blocks are all that lies on the disk (where the
    Hub has no index, also what a run that goes on had to fetch just to count it).
    """
    if Path(data).is_dir():
        if not (Path(data) / split / "clips.parquet").is_file():
            if shards := open_local_shards(data, split, seed, block_shards):
                return shards
        return TableSource(data, read_rows(data, split, seed))
    if ".tar" in PurePosixPath(data).name or glob.has_magic(data) or "{" in data:
        return open_local_shards(data, split, seed, block_shards)
    if found := re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?", data):
        return _open_hub(*found.groups(), split, seed, block_shards, delete_used)
    return TableSource(data, read_rows(data, split, seed))  # Says that the folder is not there.


@contextmanager
def _hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """What the Hub answers, as what to do about it."""
    page = f"https://huggingface.co/datasets/{repo}"
    render = f"render one: python -m saber studio {repo} --clips 8000"
    try:
        yield
    except GatedRepoError as error:
        step = f"accept its terms on {page}, then log in: hf auth login"
        raise DataError(f"data {repo!r}: access to this dataset is gated; {step}") from error
    except RevisionNotFoundError as error:
        raise DataError(f"data {repo!r} has no revision {revision!r}; its revisions: {page}/commits/main") from error
    except RepositoryNotFoundError as error:
        step = f"correct the name, log in if it is private (hf auth login), or {render}"
        raise DataError(f"data {repo!r} is neither a folder here nor a dataset on the Hub; {step}") from error
    except EntryNotFoundError as error:
        raise DataError(
            f"data {repo!r}: a file could not be fetched ({error}); start again to go on from here"
        ) from error
    except (HTTPError, ConnectionError) as error:  # ConnectionError: offline by HF_HUB_OFFLINE.
        step = f"start again when it can, or fetch it elsewhere (hf download {repo} --repo-type dataset), or {render}"
        raise DataError(f"data {repo!r} is no folder here, and the Hub could not be asked ({error}); {step}") from error


def _open_hub(
    repo: str, revision: str | None, split: str, seed: int, block_shards: int, delete_used: bool
) -> ShardSource | TableSource:
    with _hub_errors(repo, revision):
        about = HfApi().dataset_info(repo, revision=revision)
    commit, files = about.sha, sorted(file.rfilename for file in about.siblings or ())
    name = f"{repo}@{commit[:12]}"
    shards = [file for file in files if is_shard_of(file, split)]
    if shards and f"{split}/clips.parquet" not in files:
        return _open_hub_shards(repo, commit, name, split, files, shards, seed, block_shards, delete_used)
    tables = []
    for one in split_names(split):
        tables += (places := [pattern.format(split=one) for pattern in TABLES])
        if not any(fnmatch.filter(files, pattern) for pattern in places):
            raise DataError(
                f"{name} has no split {one!r}: there is none of {', '.join(places)}, and no shard {one}-*.tar; "
                "--split names others"
            )
    with _hub_errors(repo, revision):
        folder = snapshot_download(repo, repo_type="dataset", revision=commit, allow_patterns=tables)
        # Whole top folders: a pattern for each clip would be matched against every file.
        places = {PurePosixPath(path).parts[0] for path in media_paths(folder, split)}
        patterns = [pattern for place in sorted(places) for pattern in (place, f"{place}/*")]
        if patterns:
            snapshot_download(repo, repo_type="dataset", revision=commit, allow_patterns=patterns)
    return TableSource(name, read_rows(folder, split, seed), identity=f"{repo}@{commit}")


def _open_hub_shards(
    repo: str, commit: str, name: str, split: str, files: list[str], shards: list[str], seed: int, block_shards: int,
    delete_used: bool,
) -> ShardSource:  # fmt: skip
    def fetch(shard: str) -> Path:
        known = try_to_load_from_cache(repo, shard, revision=commit, repo_type="dataset")
        with _hub_errors(repo, commit):
            path = Path(hf_hub_download(repo, shard, repo_type="dataset", revision=commit))
        if not isinstance(known, str):
            fetched[shard] = path
        return path

    def remove(shard: str) -> None:
        # Only what this process brought here. The cache keeps the bytes elsewhere and links to them.
        if path := fetched.pop(shard, None):
            bytes_path = path.resolve()
            path.unlink(missing_ok=True)
            bytes_path.unlink(missing_ok=True)

    fetched: dict[str, Path] = {}
    # Beside the shards, or at the top where they lie in several folders. Its names are relative to where it lies.
    places = {PurePosixPath(shard).parent for shard in shards}
    index, counts = (places.pop() if len(places) == 1 else PurePosixPath()) / index_name(split), {}
    if str(index) in files:
        there = [str(PurePosixPath(shard).relative_to(index.parent)) for shard in shards]
        with _hub_errors(repo, commit):
            path = Path(hf_hub_download(repo, str(index), repo_type="dataset", revision=commit))
        counts = {str(index.parent / shard): rows for shard, rows in read_index(path, there).items()}
    return ShardSource(
        name, shards, fetch, counts=counts, identity=f"{repo}@{commit} {split}", seed=seed, block_shards=block_shards,
        local=False, remove=remove if delete_used else None,
    )  # fmt: skip
