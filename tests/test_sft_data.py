"""saber.sft.sources and shards: what is read, in which order, what is skipped unread, and what is wrong with the data.

The clips are the studio's, packed to tars here. The Hub is a small server on this machine, asked by HF_ENDPOINT.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from loopback_hub import COMMIT, LoopbackHub

from saber import media
from saber.model import load_checkpoint
from saber.schema import Annotation
from saber.sft import DataError, Row, SFTConfig, keeps_features, open_source, read_rows, run_sft
from saber.sft.index import write_index
from saber.sft.shards import is_shard_of, local_shards, scan_shard

pytestmark = pytest.mark.usefixtures("own_accelerator")
ROOT = Path(__file__).parents[1]
SIZES = (3, 2, 3, 2, 2)  # rows of the five shards; blocks of two are 2 + 2 + 1 of them


def record_of(clip) -> dict:
    row = clip.metadata
    return Annotation.from_json(row).to_json() | {key: row[key] for key in ("language", "spoken_language")}


def pack(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def sample(clip, key: str = "", **changes) -> dict[str, bytes]:
    record = json.dumps(record_of(clip) | changes, ensure_ascii=False)
    key = key or clip.id
    return {f"{key}.mp4": Path(clip.path).read_bytes(), f"{key}.json": record.encode()}


def make_shards(folder: Path, clips) -> Path:
    at = iter(clips)
    for number, size in enumerate(SIZES):
        members = [sample(clip) for clip in itertools.islice(at, size)]
        pack(folder / f"train-{number:03d}.tar", {name: content for one in members for name, content in one.items()})
    return folder


@pytest.fixture(scope="module")
def shards(clips, tmp_path_factory) -> Path:
    """The twelve clips in five shards, without an index."""
    return make_shards(tmp_path_factory.mktemp("shards"), clips)


@pytest.fixture
def own_shards(clips, tmp_path) -> Path:
    """The same, for a test to spoil."""
    return make_shards(tmp_path / "shards", clips)


def steps(source, count: int, first: int = 0, batch_size: int = 5, seed: int = 7) -> list[list[Row]]:
    return list(itertools.islice(source.batches(batch_size, seed, first), count))


def ids(batches) -> list[list[str]]:
    return [[row.clip.id for row in batch] for batch in batches]


# --- what a row is ----------------------------------------------------------------------------------------------------


def test_shards_give_the_rows_of_the_folder_and_the_same_pictures_and_sounds(clips, clips_folder, shards):
    source = open_source(str(shards), "train")
    (batch,) = steps(source, 1, batch_size=12)
    wanted = {row.clip.id: row for row in read_rows(str(clips_folder), "train")}
    assert source.count() == 12 and {row.clip.id for row in batch} == set(wanted)
    for row in batch:
        other = wanted[row.clip.id]
        assert (row.prompt, row.answer, row.clip.language) == (other.prompt, other.answer, other.clip.language)
        assert row.clip.path.endswith(".tar") and row.clip.span[1] == Path(other.clip.path).stat().st_size
        for one, two in zip(
            vars(media.decode_here(row.clip)).values(), vars(media.decode_here(other.clip)).values(), strict=True
        ):
            assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two


def test_the_prompt_of_a_row_follows_from_its_id_and_the_seed_alone(clips, shards, tmp_path):
    def prompts(data, seed):
        (batch,) = steps(open_source(str(data), "train", seed=seed), 1, batch_size=12)
        return {row.clip.id: row.prompt for row in batch}

    make_shards(tmp_path, reversed(clips))
    assert prompts(shards, 0) == prompts(tmp_path, 0) != prompts(shards, 1)
    assert set(prompts(shards, 0).values()) == {"clip", "en", "zh"}


def test_a_record_without_a_language_is_in_that_of_its_letters(clips, tmp_path):
    records = [sample(clip, language=None, spoken_language=None) for clip in clips]
    pack(tmp_path / "train.tar", {name: content for one in records for name, content in one.items()})
    (batch,) = steps(open_source(str(tmp_path), "train"), 1, batch_size=12)
    written = {clip.id: clip.metadata["language"] for clip in clips}
    assert {row.clip.id: row.clip.language for row in batch} == written


@pytest.mark.parametrize("layout", ["metadata", "parquet", "video feature"])
def test_a_folder_may_hold_the_table_of_a_videofolder_or_of_datasets(clips, clips_folder, tmp_path, layout):
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [record_of(clip) | {"id": clip.id} for clip in clips]
    names = [str(Path(clip.path).relative_to(clips_folder)) for clip in clips]
    if layout == "metadata":
        (tmp_path / "train").mkdir()
        lines = [json.dumps(record | {"file_name": name}) for record, name in zip(records, names, strict=True)]
        (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        base = tmp_path / "train"
    else:
        (tmp_path / "data").mkdir()
        values = [{"bytes": None, "path": name} if "feature" in layout else name for name in names]
        rows = [record | {"video": value} for record, value in zip(records, values, strict=True)]
        pq.write_table(pa.Table.from_pylist(rows[:7]), tmp_path / "data" / "train-00000-of-00002.parquet")
        pq.write_table(pa.Table.from_pylist(rows[7:]), tmp_path / "data" / "train-00001-of-00002.parquet")
        base = tmp_path
    wanted = read_rows(str(clips_folder), "train")
    rows = open_source(str(tmp_path), "train").rows
    assert [(row.clip.id, row.prompt, row.answer) for row in rows] == [
        (row.clip.id, row.prompt, row.answer) for row in wanted
    ]
    assert [row.clip.path for row in rows] == [str(base / name) for name in names]


@pytest.fixture(scope="module")
def two_splits(clips, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for split, some in (("train", clips[:8]), ("speech", clips[8:])):
        (folder / split).mkdir()
        lines = [json.dumps(record_of(clip) | {"file_name": f"{clip.id}.mp4"}) for clip in some]
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("train+speech", [*range(8), *range(8, 12)]),
        ("train+speech[:50%]", [*range(8), 8, 9]),
        ("train[-3:] + speech[1:2]", [5, 6, 7, 9]),
        ("train[:99]", [*range(8)]),
    ],
)
def test_several_splits_and_parts_of_them_are_named_as_datasets_does(clips, two_splits, split, wanted):
    rows = open_source(str(two_splits), split).rows
    assert [row.clip.id for row in rows] == [f"{clips[number].id}.mp4" for number in wanted]


def test_an_instruction_that_cannot_be_read_is_named(two_splits):
    with pytest.raises(DataError, match=r"split 'train\[' cannot be read .*; write it as in train\+speech\[:25%\]"):
        read_rows(str(two_splits), "train[")
    with pytest.raises(DataError, match="has no split 'test'"):
        read_rows(str(two_splits), "train+test[:5]")


# --- the order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["table", "shards", "indexed shards"])
@pytest.mark.parametrize("batch_size", [1, 5, 12, 20])
def test_any_step_on_a_fresh_source_gives_the_tail_of_an_unbroken_run(kind, batch_size, clips_folder, own_shards):
    data = clips_folder if kind == "table" else own_shards
    if kind == "indexed shards":
        write_index(str(own_shards), "train")

    def fresh():
        return open_source(str(data), "train", block_shards=2)

    per_epoch = max(1, 12 // batch_size)
    count = 2 * per_epoch + 2  # two epochs and a little
    unbroken = steps(fresh(), count, batch_size=batch_size)
    for first in range(count):
        assert steps(fresh(), count - first, first, batch_size) == unbroken[first:], first
    for epoch in range(2):
        seen = [one for batch in ids(unbroken[epoch * per_epoch : (epoch + 1) * per_epoch]) for one in batch]
        assert len(seen) == len(set(seen)) == min(12, per_epoch * batch_size)
    assert ids(unbroken[:per_epoch]) != ids(unbroken[per_epoch : 2 * per_epoch])
    assert steps(fresh(), 2, batch_size=batch_size, seed=8) != unbroken[:2]


def test_another_process_gives_the_same_batches(shards, answers):
    source = open_source(str(shards), "train", block_shards=1)
    assert answers["here"]["ids"] == ids(steps(source, 4, 3, batch_size=2))
    assert answers["here"]["digest"] == source.digest()


def test_a_block_is_a_few_shards_and_its_rows_are_mixed(shards):
    source = open_source(str(shards), "train", block_shards=2)
    rows = [row for batch in steps(source, 12, batch_size=1) for row in batch]
    tars = [Path(row.clip.path).name for row in rows]
    for block in range(3):
        names = source.block_shard_names(7, block)
        size = source.block_rows(7, block)
        assert set(tars[:size]) == set(names) and len(names) == (2, 2, 1)[block]
        tars = tars[size:]
    epochs = [[source.block_shard_names(seed, epoch * 3 + block) for block in range(3)] for seed, epoch in
              ((7, 0), (7, 1), (8, 0))]  # fmt: skip
    assert all(one != two for one, two in itertools.combinations(epochs, 2))
    stored = [sample.key for name in source.block_shard_names(7, 0) for sample in scan_shard(shards / name)]
    assert sorted(stored) == sorted(ids([rows])[0][: len(stored)]) and stored != ids([rows])[0][: len(stored)]


# --- what is not read -------------------------------------------------------------------------------------------------


def test_shards_that_are_skipped_are_not_even_opened(own_shards):
    write_index(str(own_shards), "train")
    unbroken = ids(steps(open_source(str(own_shards), "train", block_shards=1), 9, batch_size=2))
    source = open_source(str(own_shards), "train", block_shards=1)
    for block in (0, 1):  # five rows at least, which is two batches of two and a part of the third
        (own_shards / source.block_shard_names(7, block)[0]).unlink()
    skipped = sum(source.block_rows(7, block) for block in (0, 1))
    first = -(-skipped // 2)
    assert ids(steps(source, 5 - first + 1, first, batch_size=2)) == unbroken[first:6]
    with pytest.raises(DataError, match="does not exist"):
        steps(source, 1, first - 1, batch_size=2)


def test_only_the_clips_of_the_steps_that_are_done_are_decoded(shards, monkeypatch):
    opened = []
    av_open = av.open
    monkeypatch.setattr(av, "open", lambda address, **options: opened.append(address) or av_open(address, **options))
    source = open_source(str(shards), "train", block_shards=2)
    done = steps(source, 2, first=3)
    assert not opened
    for row in done[0]:
        media.decode_here(row.clip)
    places = {f"start,{row.clip.span[0]},end,{sum(row.clip.span)},,:file:{row.clip.path}" for row in done[0]}
    assert {address.removeprefix("subfile,,") for address in opened} == places and len(places) == 5


def test_a_killed_run_on_shards_goes_on_with_the_losses_of_an_unbroken_one(tiny_folder, shards, tmp_path, monkeypatch):
    def run(name: str) -> list[float]:
        checkpoint = load_checkpoint(tiny_folder, device="cpu", dtype=torch.float32)
        config = SFTConfig(
            output_dir=str(tmp_path / name), tuning="full", max_steps=4, batch_size=5, micro_batch_size=2, save_every=2,
            learning_rate=1e-2, log_every=1, workers=0, bf16=False, cpu=True,
        )  # fmt: skip
        run_sft(checkpoint, open_source(str(shards), "train"), config)
        lines = (tmp_path / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["loss"] for line in lines]

    class Killed(BaseException):
        """Ends a run from outside, as a signal would."""

    decode, decoded = media.decode_here, []

    def count(clip, settings):
        if len(decoded) == 15:  # of the fourth step
            raise Killed
        decoded.append(clip.id)
        return decode(clip, settings)

    whole = run("whole")
    monkeypatch.setattr(media, "decode_here", count)
    with pytest.raises(Killed):
        run("killed")
    monkeypatch.setattr(media, "decode_here", lambda clip, settings: decoded.append(clip.id) or decode(clip, settings))
    assert run("killed") == whole and len(whole) == 4
    assert len(decoded) == 15 + 10, "what the saved steps had is not decoded again"


def test_used_blocks_are_released_late_and_never_while_near(clips, tmp_path):
    record = json.dumps(record_of(clips[0])).encode()
    for number in range(8):
        pack(tmp_path / f"train-{number}.tar", {f"k{number}.mp4": b"x", f"k{number}.json": record})
    source = open_source(str(tmp_path), "train", block_shards=1)
    removed: list[tuple[int, str]] = []
    given: list[Row] = []
    source.spare_batches, source.remove = 3, lambda shard: removed.append((len(given), shard))
    for batch in itertools.islice(source.batches(1, 7), 80):  # a batch is a block here, ten epochs
        given += batch
    order = [source.block_shard_names(7, block)[0] for block in range(90)]
    for step, shard in removed:
        assert shard not in order[step - 3 : step + 3]
    assert removed[0] == (4, order[0]) and 20 < len(removed) < 75  # some were spared: they came again soon


# --- what is wrong with data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": "fr"}, r"train\.tar: clip7: field language is 'fr'; it must be one of"),
        ({"audio_desc": "loud"}, r"train\.tar: clip7: field audio_desc\.speech_content is 'loud'"),
        ({"video_desc": 3}, r"train\.tar: clip7: field video_desc is 3; it must be a string"),
        ({"relation": "odd"}, r"train\.tar: clip7: field relation is 'odd'"),
    ],
)
def test_a_faulty_record_is_named_with_shard_key_field_and_value(clips, tmp_path, changes, message):
    pack(tmp_path / "train.tar", sample(clips[0], "clip7", **changes))
    with pytest.raises(DataError, match=message):
        steps(open_source(str(tmp_path), "train"), 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "clip7: none of the fields has text"),
        (b'{"video_desc": ', r"clip7\.json is no JSON"),
        (b"[1]", r"clip7\.json holds \[1\]"),
    ],
)
def test_a_file_that_is_no_record_is_named(clips, tmp_path, content, message):
    pack(tmp_path / "train.tar", sample(clips[0], "clip7") | {"clip7.json": content})
    with pytest.raises(DataError, match=message):
        steps(open_source(str(tmp_path), "train"), 1)


def test_a_record_without_its_clip_is_a_row_that_is_named_as_missing(clips, tmp_path):
    members = sample(clips[0]) | sample(clips[1], "clip7")
    del members["clip7.mp4"]
    pack(tmp_path / "train.tar", members)
    ((*rows,),) = steps(open_source(str(tmp_path), "train"), 1, batch_size=2)
    assert len(rows) == 2
    lost = next(row for row in rows if "clip7" in row.clip.id)
    with pytest.raises(media.MediaError, match=r"^clip clip7 in train\.tar: The file does not exist"):
        media.decode_here(lost.clip)


def test_a_clip_that_cannot_be_decoded_is_named_with_its_shard(clips, tmp_path):
    pack(tmp_path / "train.tar", sample(clips[0], "clip7") | {"clip7.mp4": b"\0" * 3000})
    ((row,),) = steps(open_source(str(tmp_path), "train"), 1, batch_size=1)
    with pytest.raises(media.MediaError, match=r"^clip clip7 in train\.tar: This is not a video"):
        media.decode_here(row.clip)


def test_a_clip_without_its_record_and_a_name_that_is_there_twice_are_errors(clips, tmp_path):
    members = sample(clips[0], "a") | sample(clips[1], "clip7")
    del members["clip7.json"]
    pack(tmp_path / "bare.tar", members)
    with pytest.raises(DataError, match=r"bare\.tar: clip7 has no clip7\.json \(1 such keys\)"):
        scan_shard(tmp_path / "bare.tar")
    for name in ("clip7.mp4", "clip7.json"):
        pack(tmp_path / "twice.tar", sample(clips[0], "clip7"))
        with tarfile.open(tmp_path / "twice.tar", "a") as tar:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
        with pytest.raises(DataError, match=rf"twice\.tar: {name} is in it twice"):
            scan_shard(tmp_path / "twice.tar")


def test_what_else_a_sample_holds_is_left_alone_and_a_picture_goes_before_its_sound(clips, tmp_path):
    plain = sample(clips[0], "dir/clip7.5")
    other = {"dir/clip7.5.txt": b"x", "./dir/._clip7.5.mp4": b"x", "dir/._clip7.5.json": b"x"}
    plain = {f"./{name}": content for name, content in plain.items()}
    pack(
        tmp_path / "train.tar",
        {"dir/clip7.5.wav": b"RIFF", **other, **plain, "dir/clip7.5.mp3": b"x", "dir/clip7.5.npy": b""},
    )
    (found,) = scan_shard(tmp_path / "train.tar")
    with tarfile.open(tmp_path / "train.tar") as tar:
        member = tar.getmember("./dir/clip7.5.mp4")
    assert (found.key, found.media) == ("dir/clip7.5", (member.offset_data, member.size))


def test_a_tar_that_is_cut_off_anywhere_is_an_error_that_names_it(clips, tmp_path):
    path = tmp_path / "train-000.tar"
    pack(path, {name: content[:700] for name, content in (sample(clips[0], "a") | sample(clips[1], "b")).items()})
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        end = (last := tar.getmembers()[-1]).offset_data + -(-last.size // 512) * 512
    for length in [0, 1, 511, *range(512, end + 1, 128)]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"train-000\.tar"):
            scan_shard(path)
    path.write_bytes(whole[: end + 512])
    assert [sample.key for sample in scan_shard(path)] == ["a", "b"]


def test_a_header_that_is_damaged_is_an_error_and_not_the_end(own_shards):
    path = own_shards / "train-000.tar"
    with tarfile.open(path) as tar:
        header = tar.getmembers()[4].offset
    content = bytearray(path.read_bytes())
    content[header + 150] ^= 0xFF  # in its checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train-000\.tar is cut off or damaged after "):
        steps(open_source(str(own_shards), "train"), 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "", "video": "a.mp4"}, "row None has no 'id'"),
        ({"id": "clip7", "video": ""}, "row 'clip7' has no 'video'"),
        ({"id": "clip7", "video": {"bytes": b"x", "path": "a.mp4"}}, "row 'clip7' holds its clip itself"),
    ],
)
def test_a_table_without_a_field_or_with_the_clips_inside_is_refused(clips, tmp_path, row, message):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "train").mkdir()
    pq.write_table(pa.Table.from_pylist([record_of(clips[0]) | row]), tmp_path / "train" / "0000.parquet")
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path), "train")


def test_a_clip_of_a_videofolder_is_named_by_its_file(clips, tmp_path):
    (tmp_path / "train").mkdir()
    line = json.dumps(record_of(clips[0]) | {"file_name": "sub/a.mp4"})
    (tmp_path / "train" / "metadata.jsonl").write_text(line + "\n", encoding="utf-8")
    (row,) = open_source(str(tmp_path), "train").rows
    assert (row.clip.id, row.clip.path) == ("sub/a.mp4", str(tmp_path / "train" / "sub" / "a.mp4"))


def test_a_line_of_a_table_that_is_no_json_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.jsonl").write_text("\n{", encoding="utf-8")
    with pytest.raises(DataError, match=r"metadata\.jsonl: line 2 is no JSON"):
        open_source(str(tmp_path), "train")


def test_data_without_rows_and_paths_outside_the_data_are_errors(clips, tmp_path):
    pack(tmp_path / "train.tar", {})
    with pytest.raises(DataError, match="has no rows"):
        steps(open_source(str(tmp_path), "train"), 1)
    (tmp_path / "test").mkdir()
    record = record_of(clips[0]) | {"file_name": "../../etc/x.mp4"}
    (tmp_path / "test" / "metadata.jsonl").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError, match="must lie inside"):
        open_source(str(tmp_path), "test")


# --- the index, names and the fingerprint -----------------------------------------------------------------------------


def test_the_index_holds_the_rows_of_each_shard_and_a_stale_one_is_an_error(clips, own_shards):
    path = write_index(str(own_shards), "train")
    assert path == own_shards / "train-index.json"
    index = json.loads(path.read_text())
    assert index == {f"train-{number:03d}.tar": size for number, size in enumerate(SIZES)}
    path.write_text(json.dumps(index | {"train-001.tar": 9}))
    assert open_source(str(own_shards), "train").count() == 19
    with pytest.raises(DataError, match=r"train-001\.tar has 2 rows, the index says 9; fetch it again"):
        steps(open_source(str(own_shards), "train"), 3)
    path.write_text(json.dumps(index | {"train-005.tar": 1}))
    with pytest.raises(DataError, match=r"1 shards that it names are not there, first train-005\.tar"):
        open_source(str(own_shards), "train")
    assert open_source(str(own_shards / "train-00{0..2}.tar"), "train").count() == 8
    path.write_text(json.dumps({"train-001.tar": 2}))  # the others are scanned
    assert open_source(str(own_shards), "train").count() == 12


def test_writing_the_index_checks_every_record_and_names_all_faults(clips, tmp_path, capsys):
    members = sample(clips[0], "a", language="fr") | sample(clips[1], "b", video_desc=[]) | sample(clips[2], "c")
    del members["c.mp4"]
    pack(tmp_path / "train-0.tar", members)
    with pytest.raises(DataError, match="3 faults, no index was written") as error:
        write_index(str(tmp_path), "train")
    assert all(name in str(error.value) for name in ("a: field language", "b: field video_desc", "c in train-0.tar"))
    assert not (tmp_path / "train-index.json").exists()


def test_the_fingerprint_changes_with_the_data_and_not_with_an_index(clips, clips_folder, own_shards):
    def digest(**options):
        return open_source(str(own_shards), "train", **options).digest()

    before = digest()
    write_index(str(own_shards), "train")
    assert digest() == before
    assert len({before, digest(seed=1), digest(block_shards=2)}) == 3
    pack(own_shards / "train-004.tar", sample(clips[0], "other"))
    (own_shards / "train-index.json").unlink()
    assert digest() != before
    tables = {open_source(str(clips_folder), "train", seed=seed).digest() for seed in (0, 0, 1)}
    assert len(tables) == 2


def test_a_pattern_names_shards_as_a_shell_would(own_shards):
    assert local_shards(str(own_shards / "train-{001..003}.tar"), "train") == (
        own_shards, ["train-001.tar", "train-002.tar", "train-003.tar"]
    )  # fmt: skip
    assert local_shards(str(own_shards / "{train,train}-00{4,1}.tar"), "train")[1] == ["train-004.tar", "train-001.tar"]
    assert len(local_shards(str(own_shards / "*-00?.tar"), "train")[1]) == 5
    with pytest.raises(DataError, match=r"2 of 3 shards do not exist, first .*train-005\.tar"):
        open_source(str(own_shards / "train-{004..006}.tar"), "train")
    with pytest.raises(DataError, match="no shard matches"):
        open_source(str(own_shards / "test-*.tar"), "train")
    with pytest.raises(DataError, match=r"no split 'test'.*no shard test-\*\.tar"):
        open_source(str(own_shards), "test")


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("train.tar", True), ("train-000.tar", True), ("train_7.tar", True), ("train-00001-of-00010.tar", True),
        ("data/train-000.tar", True), ("train/clips-a.tar", True), ("train_hard-000.tar", False),
        ("training-000.tar", False), ("other/train-000.tar", False), ("train-000.tar.gz", False),
    ],
)  # fmt: skip
def test_a_shard_belongs_to_the_split_that_it_is_named_after(name, belongs):
    assert is_shard_of(name, "train") == belongs


def test_what_encoders_give_is_kept_of_tables_and_not_of_shards(shards, clips_folder, monkeypatch, capsys):
    """The same question for the run and for its dry run, which otherwise leaves the encoders out."""
    config = SFTConfig(cache_dir="features")
    assert not keeps_features(config, open_source(str(shards), "train"))
    assert keeps_features(config, open_source(str(clips_folder), "train")) and keeps_features(config, None)
    said = []
    for data in (shards, clips_folder):
        options = ["--data", str(data), "--cache_dir", "features", "--dry_run", "true", "--split", "train"]
        monkeypatch.setattr(sys, "argv", ["train/sft.py", *options])
        runpy.run_path(str(ROOT / "train" / "sft.py"), run_name="__main__")
        said.append(next(line for line in capsys.readouterr().out.splitlines() if "operations" in line))
    assert float(said[0].split()[5]) > float(said[1].split()[5]), "encoders run in every step"


# --- the Hub, and another process -------------------------------------------------------------------------------------


class Hub(LoopbackHub):
    fetched: list[str] = []


#: Says what open_source gives for each request, or its error; decodes the clips of the last batch. The package's own
#: __init__ loads torch, which takes seconds and which reading rows does not need.
ASK = """
import itertools, json, sys, types
from pathlib import Path
package = types.ModuleType("saber.sft")
package.__path__ = ["saber/sft"]
sys.modules["saber.sft"] = package
from saber import media
from saber.sft.rows import DataError
from saber.sft.sources import open_source
for name, request in json.loads(sys.argv[1]).items():
    try:
        split, delete = request.get("split", "train"), request.get("delete", False)
        source = open_source(request["data"], split, block_shards=1, delete_used=delete)
        source.spare_batches = 1
        before, given, most = source.count(), [], 0
        for batch in itertools.islice(source.batches(2, 7, request["first"]), request["steps"]):
            given.append([row.clip.id for row in batch])
            for kind in ("blobs/*", "snapshots/*/*.tar"):
                most = max(most, len(list(Path(sys.argv[2]).rglob("datasets--lab--many/" + kind))))
        for row in batch:
            media.decode_here(row.clip)
        answer = {"name": source.name, "digest": source.digest(), "count": before, "ids": given, "most": most}
    except DataError as error:
        answer = {"error": str(error)}
    print(json.dumps([name, answer]))
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def answers(clips, clips_folder, shards, tmp_path_factory) -> dict[str, dict]:
    """What one other process, for which HF_ENDPOINT is a server here, gets for each request."""
    Hub.root = folder = tmp_path_factory.mktemp("hub")
    for name in ("plain/data", "indexed/data", "gated", "open"):
        make_shards(folder / "lab" / name, clips)
    write_index(str(folder / "lab" / "indexed"), "train")
    for number in range(14):
        pack(folder / "lab" / "many" / f"train-{number:02d}.tar", sample(clips[number % 12], f"k{number}"))
    shutil.copytree(clips_folder, folder / "lab" / "studio")
    (folder / "lab" / "studio" / "test").mkdir()
    (folder / "lab" / "studio" / "test" / "clips.parquet").write_bytes(b"another split")
    shutil.copytree(clips_folder, folder / "lab" / "splits")
    shutil.copytree(clips_folder / "train", folder / "lab" / "splits" / "speech")
    (folder / "lab" / "empty").mkdir()
    requests = {
        "here": {"data": str(shards), "first": 3, "steps": 4},
        "whole": {"data": "lab/plain", "first": 0, "steps": 9},
        "later": {"data": "lab/plain", "first": 4, "steps": 5},
        "indexed": {"data": f"lab/indexed@{COMMIT}", "first": 4, "steps": 2},
        "deleted": {"data": "lab/many", "first": 0, "steps": 14, "delete": True},
        "kept": {"data": "lab/many", "first": 0, "steps": 14},
        "table": {"data": "lab/studio", "first": 1, "steps": 3},
        "splits": {"data": "lab/splits", "first": 0, "steps": 1, "split": "train[:2]+speech[:1]"},
        **{
            name: {"data": f"lab/{name}", "first": 0, "steps": 1}
            for name in ("none", "gated", "open@v9", "empty", "down")
        },
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tmp_path_factory.mktemp("home")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1", "PYTHONHASHSEED": "5", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-c", ASK, json.dumps(requests), str(home)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


def fetched(name: str) -> list[str]:
    return [path.removeprefix(f"lab/{name}/") for path in Hub.fetched if path.startswith(f"lab/{name}/")]


def test_shards_on_the_hub_are_fetched_once_and_give_the_local_order(answers, shards):
    whole, later, indexed = answers["whole"], answers["later"], answers["indexed"]
    assert whole["count"] is None and whole["name"] == f"lab/plain@{COMMIT[:12]}"
    assert later["ids"] == whole["ids"][4:] and later["digest"] == whole["digest"] != indexed["digest"]
    assert sorted(fetched("plain")) == [f"data/train-{number:03d}.tar" for number in range(5)]
    assert indexed["count"] == 12 and indexed["ids"] == whole["ids"][4:6]
    assert whole["ids"] == ids(steps(open_source(str(shards), "train", block_shards=1), 9, batch_size=2))


def test_shards_of_the_hub_that_the_index_lets_a_run_skip_are_not_fetched(answers):
    index, *tars = fetched("indexed")
    assert index == "data/train-index.json" and 0 < len(tars) < 5


def test_used_shards_of_the_hub_are_deleted_where_that_is_asked(answers):
    kept, deleted = answers["kept"], answers["deleted"]
    assert kept["ids"] == deleted["ids"]
    assert deleted["most"] < 12 < kept["most"] == 14


def test_a_table_on_the_hub_is_fetched_with_its_clips_and_opened_as_a_folder(answers, clips_folder):
    local = open_source(str(clips_folder), "train")
    assert answers["table"]["ids"] == ids(steps(local, 3, 1, batch_size=2)) and answers["table"]["count"] == 12
    assert answers["table"]["digest"] != local.digest()
    assert sum(name.endswith(".mp4") for name in fetched("studio")) == 12
    assert not [name for name in fetched("studio") if name.startswith("test/")]
    assert answers["splits"]["count"] == 3  # of which one lies in the second split, a copy that the cache fetches once


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "'lab/none' is neither a folder here nor a dataset on the Hub; correct the name, log in"),
        (
            "gated",
            "'lab/gated': access to this dataset is gated; accept its terms on https://huggingface.co/datasets/lab",
        ),
        ("open@v9", "'lab/open' has no revision 'v9'"),
        ("empty", f"lab/empty@{COMMIT[:12]} has no split 'train'"),
        ("down", "'lab/down' is no folder here, and the Hub could not be asked"),
    ],
)
def test_what_the_hub_refuses_is_an_error_with_the_next_step(answers, name, message):
    assert message in answers[name]["error"]
