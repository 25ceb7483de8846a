"""Rendering: real mp4 files, rows that say what is in them, and runs that can be cut off."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import datasets
import numpy as np
import pyarrow as pa
import pytest

from saber.schema import LANGUAGES, Annotation
from saber.sections import render as render_text
from saber.studio import read, render
from saber.studio.causes import truth
from saber.studio.render import SCHEMA, StudioError, read_rows, record, run_studio
from saber.studio.sample import Mix, annotation_language, draw_spec
from saber.studio.world import INCOMPLETE, SPLITS, ClipSpec

SMALL = Mix(seed=3, size=64, incomplete=False)  # what is tested of runs does not depend on the size


def complete(**fixed: object) -> ClipSpec:
    return replace(draw_spec(Mix(seed=1, incomplete=False), 0), **fixed)


def decode(path: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(frames, height, width, 3) uint8 and (samples,) float32, None for a track that is not there."""
    tracks: list[np.ndarray | None] = []
    for kind in ("video", "audio"):
        with av.open(str(path)) as container:
            if not (streams := getattr(container.streams, kind)):
                tracks.append(None)
            elif kind == "video":
                tracks.append(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(streams[0])]))
            else:
                parts = [frame.to_ndarray() for frame in container.decode(streams[0])]
                tracks.append(np.concatenate(parts, axis=-1).ravel())
    return tracks[0], tracks[1]


# One clip ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, fps", [(112, 15), (96, 10)])
def test_a_clip_is_an_mp4_of_h264_and_aac_as_large_fast_and_long_as_it_says(tmp_path, size, fps):
    path = tmp_path / "clip.mp4"
    duration_s = render.render(complete(size=size, fps=fps), path)
    with av.open(str(path)) as container:
        assert "mp4" in container.format.name
        (video,), (audio,) = container.streams.video, container.streams.audio
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height, video.average_rate, video.pix_fmt) == (size, size, fps, "yuv420p")
        stated_s = float(audio.duration * audio.time_base)
        rate_hz, channels = audio.rate, audio.channels
    frames, samples = decode(path)
    assert frames.shape == (round(duration_s * fps), size, size, 3)
    # The picture ends with the frame in which the sound ends; an AAC frame has 1,024 samples.
    heard_s = len(samples) / rate_hz
    assert channels == 1 and 1 < heard_s < 8
    assert -1024 / rate_hz <= duration_s - heard_s < 1 / fps
    assert stated_s == pytest.approx(heard_s, abs=2048 / rate_hz)
    assert math.sqrt(np.mean(samples**2)) > 0.005  # somebody speaks
    assert np.abs(np.diff(frames.astype(int), axis=0)).max() > 30  # and moves
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("incomplete, has_picture, has_sound", [
    ("no_sound", True, False), ("no_picture", False, True), ("nobody", True, True), ("silent", True, True),
    ("noise", True, True), ("short", True, True),
])  # fmt: skip
def test_an_incomplete_clip_lacks_the_track_it_says_and_no_other(tmp_path, incomplete, has_picture, has_sound):
    path = tmp_path / "clip.mp4"
    drawn = (draw_spec(Mix(seed=1, size=64), index) for index in range(500))
    duration_s = render.render(next(spec for spec in drawn if spec.incomplete == incomplete), path)
    frames, samples = decode(path)
    assert (frames is not None, samples is not None) == (has_picture, has_sound)
    if incomplete == "short":
        assert duration_s < 1.0
    if incomplete == "no_picture":
        assert duration_s == pytest.approx(len(samples) / 16000, abs=1024 / 16000)


def test_the_same_clip_is_rendered_again_frame_for_frame_and_sample_for_sample(tmp_path):
    spec = complete(size=64)
    paths = [tmp_path / "one.mp4", tmp_path / "two.mp4"]
    render.render(spec, paths[0])
    render.render(complete(size=64, seed=spec.seed + 1), tmp_path / "other.mp4")
    render.render(spec, paths[1])
    (frames, samples), (frames_again, samples_again) = map(decode, paths)
    np.testing.assert_array_equal(frames, frames_again)
    np.testing.assert_array_equal(samples, samples_again)
    other, _ = decode(tmp_path / "other.mp4")
    assert other.shape != frames.shape or (other != frames).any()


def test_a_clip_whose_rendering_is_cut_off_leaves_no_mp4(tmp_path, monkeypatch):
    def break_off(*_):
        for _ in range(40):
            yield np.zeros((64, 64, 3), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(render.draw, "frames", break_off)
    with pytest.raises(KeyboardInterrupt):
        render.render(complete(size=64), tmp_path / "clip.mp4")
    assert not (tmp_path / "clip.mp4").exists()


# One row ----------------------------------------------------------------------------------------------------------


def assert_reads_back(spec: ClipSpec, written_in: str) -> None:
    row = record(spec, "train/media/000/x.mp4", 2.0, written_in)
    annotation = Annotation.from_json(row)
    reading = read(render_text(annotation), row["language"])
    known = {name: value for name, value in row["truth"].items() if value is not None}
    assert known == truth(spec)
    assert (dict(reading.values), reading.contradictions) == (known, ()), annotation
    assert row["relation"] == known.get("relation", "")
    assert (row["language"], row["spoken_language"]) == (written_in, spec.language)


@pytest.mark.parametrize("split", SPLITS)
def test_the_annotation_of_a_drawn_clip_reads_back_as_its_truth(split):
    mix = Mix(split=split, seed=5, other_language_share=0.5)
    for index in range(12):
        spec = draw_spec(mix, index)
        assert_reads_back(spec, annotation_language(mix, spec))


@pytest.mark.parametrize("incomplete", INCOMPLETE)
def test_the_annotation_of_an_incomplete_clip_reads_back_as_what_can_be_perceived(incomplete):
    for index, language in enumerate(LANGUAGES):
        assert_reads_back(replace(draw_spec(Mix(seed=6), index), incomplete=incomplete), language)


def test_each_wording_says_the_same_in_other_words(tmp_path):
    mix = Mix(seed=6, wordings=3, other_language_share=0.3)
    run_studio(tmp_path, mix, clips=8, workers=1, progress=False)
    rows = read_rows(tmp_path / "train")
    assert [row["id"] for row in rows[:4]] == ["train-6-000000", "train-6-000000~1", "train-6-000000~2",
                                              "train-6-000001"]  # fmt: skip
    assert len(rows) == 24 and len({row["video"] for row in rows}) == 8 and len({row["language"] for row in rows}) == 2
    for at in range(0, 24, 3):
        first, *others = rows[at : at + 3]
        assert len({Annotation.from_json(row).reasoning for row in (first, *others)}) > 1
        for row in others:
            assert (row["truth"], row["spec"], row["video"]) == (first["truth"], first["spec"], first["video"])
            known = {name: value for name, value in row["truth"].items() if value is not None}
            assert dict(read(render_text(Annotation.from_json(row)), row["language"]).values) == known
    plain = Mix(seed=6, other_language_share=0.3)
    run_studio(tmp_path / "plain", plain, clips=8, workers=1, progress=False)
    assert read_rows(tmp_path / "plain" / "train") == render.first_wordings(rows)


def test_a_journal_that_ends_between_two_wordings_is_gone_on_from(tmp_path):
    mix = Mix(seed=6, wordings=2)
    run_studio(tmp_path / "whole", mix, clips=3, workers=1, progress=False)
    folder = run_studio(tmp_path / "torn", mix, clips=3, workers=1, progress=False)
    rows = read_rows(folder)
    (folder / "clips.parquet").unlink()
    lines = [json.dumps({"index": index, **row}) for index, row in zip((0, 0, 1), rows, strict=False)]
    (folder / "clips.jsonl.part").write_text("".join(f"{line}\n" for line in [*lines, lines[-1]]), encoding="utf-8")
    run_studio(tmp_path / "torn", mix, clips=3, workers=1, progress=False)
    assert read_rows(folder) == read_rows(tmp_path / "whole" / "train") == rows


@pytest.mark.parametrize("incomplete", INCOMPLETE)
def test_a_row_is_what_the_table_keeps(incomplete):
    spec = complete(incomplete=incomplete)
    row = record(spec, "train/media/000/x.mp4", 2.5)
    assert pa.Table.from_pylist([row], schema=SCHEMA).to_pylist() == [row]
    assert set(row) == set(SCHEMA.names)
    assert json.loads(row["spec"]) == json.loads(json.dumps(spec.to_json()))


def test_a_row_says_who_and_what_and_what_carries_the_truth():
    spec = complete()
    spec = replace(
        spec, performance=replace(spec.performance, face="sadness"), voice="sadness",
        words=replace(spec.words, valence="negative"),
    )  # fmt: skip
    row = record(spec, "x.mp4", 2.0)
    assert (row["intensity"], row["carriers"]) == (10, ["picture", "voice", "words"])
    assert (row["identity"]["id"], row["speaker"], row["template"]) == (
        spec.identity.id, spec.speaker, spec.words.template,
    )  # fmt: skip
    silent = record(replace(spec, incomplete="silent"), "x.mp4", 2.0)
    assert (silent["intensity"], silent["carriers"], silent["relation"]) == (None, ["picture"], "")


# A run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the clips that are rendered, in order."""
    ids: list[str] = []
    whole = render.render
    monkeypatch.setattr(render, "render", lambda spec, path: (ids.append(spec.id), whole(spec, path))[1])
    return ids


def cut_off_after(clips: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the rendering of the next but ``clips`` clips end as Ctrl-C does; call what is returned to undo it."""
    whole, left = render.render, iter(range(clips))

    def stop(spec: ClipSpec, path: Path) -> float:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(spec, path)

    monkeypatch.setattr(render, "render", stop)
    return lambda: monkeypatch.setattr(render, "render", whole)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def table(folder: Path) -> pa.Table:
    return render.pq.read_table(folder / "clips.parquet")


def test_a_run_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path, rendered, monkeypatch):
    unbroken = run_studio(tmp_path / "unbroken", SMALL, 15, workers=1, progress=False)
    rendered.clear()

    folder = run_studio(tmp_path / "killed", SMALL, 2, workers=1, progress=False)
    go_on = cut_off_after(10, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_studio(tmp_path / "killed", SMALL, 15, workers=1, progress=False)
    go_on()
    journal = folder / "clips.jsonl.part"
    whole_lines = journal.read_text(encoding="utf-8")
    assert whole_lines.count("\n") == 8  # rows are written down eight at a time
    torn = json.dumps({"id": "x", "words": "我"}, ensure_ascii=False).encode()
    journal.write_bytes(whole_lines.encode() + torn[:-4])  # in the middle of a character
    assert len(table(folder)) == 2  # what was finished can be read meanwhile

    with monkeypatch.context() as again:  # and once more, when all is rendered and the table is due
        again.setattr(render.pq, "write_table", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_studio(tmp_path / "killed", SMALL, 15, workers=1, progress=False)
    run_studio(tmp_path / "killed", SMALL, 15, workers=1, progress=False)
    assert table(folder).equals(table(unbroken))
    twice = {name for name in rendered if rendered.count(name) > 1}
    assert twice == {"train-3-000010", "train-3-000011"}  # those in hand
    assert sorted(path.name for path in folder.iterdir()) == ["clips.parquet", "media", "studio.json"]
    files = {path.name for path in (folder / "media" / "000").iterdir()}
    assert files == {f"train-3-{index:06d}.mp4" for index in range(15)}


def test_a_finished_run_renders_nothing_again_and_fewer_clips_than_before_take_none_away(tmp_path, rendered):
    folder = run_studio(tmp_path, SMALL, 3, workers=1, progress=False)
    before = table(folder)
    for clips in (3, 1):
        run_studio(tmp_path, SMALL, clips, workers=1, progress=False)
        assert table(folder).equals(before)
    assert len(rendered) == 3


def test_more_processes_give_the_same_clips(tmp_path):
    one = run_studio(tmp_path / "one", SMALL, 10, workers=1, progress=False)
    two = run_studio(tmp_path / "two", SMALL, 10, workers=2, progress=False)
    assert table(one).equals(table(two))
    for row in read_rows(one):
        assert (tmp_path / "one" / row["video"]).read_bytes() == (tmp_path / "two" / row["video"]).read_bytes()


def test_a_folder_is_not_continued_with_other_settings(tmp_path):
    run_studio(tmp_path, SMALL, 1, workers=1, progress=False)
    with pytest.raises(
        StudioError, match=r"train was rendered with conflict_share = 0\.5, not 0\.05; .*another folder"
    ):
        run_studio(tmp_path, replace(SMALL, conflict_share=0.05), 2, workers=1, progress=False)
    with pytest.raises(StudioError, match=r"languages = \['en', 'zh'\], not \['en'\]"):
        run_studio(tmp_path, replace(SMALL, languages=("en",)), 2, workers=1, progress=False)


def test_a_readme_of_somebody_else_is_not_overwritten(tmp_path, rendered):
    (tmp_path / "README.md").write_text("# My data\n", encoding="utf-8")
    with pytest.raises(StudioError, match=r"README\.md is not the studio's"):
        run_studio(tmp_path, SMALL, 1, workers=1, progress=False)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# My data\n"
    assert not rendered


def test_no_clips_and_a_folder_without_clips_are_refused(tmp_path):
    with pytest.raises(StudioError, match="--clips is 0"):
        run_studio(tmp_path, SMALL, 0)
    with pytest.raises(StudioError, match="holds no clips.parquet"):
        read_rows(tmp_path)


def test_datasets_loads_all_splits_of_a_folder_and_its_rows_hold_the_published_record(tmp_path):
    import datasets

    out = tmp_path / "clips"
    for split in ("train", "style"):
        run_studio(out, replace(SMALL, split=split, incomplete=True), 3, workers=1, progress=False)
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3, "style": 3}
    for split, rows in loaded.items():
        for row, kept in zip(rows, read_rows(out / split), strict=True):
            assert row == kept
            assert Annotation.from_json(row).emotion
            assert (out / row["video"]).is_file()


def test_two_folders_of_one_name_each_give_their_own_rows_to_load_dataset(tmp_path, monkeypatch):
    """``datasets`` knows a local folder by its name and card; a stale copy once made a whole training run worthless."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for seed in (1, 2):
        run_studio(tmp_path / str(seed) / "clips", replace(SMALL, seed=seed), 1, workers=1, progress=False)
        rows = datasets.load_dataset(str(tmp_path / str(seed) / "clips"), split="train")
        assert rows["id"][:] == [f"train-{seed}-000000"]
    run_studio(tmp_path / "2" / "clips", replace(SMALL, seed=2), 2, workers=1, progress=False)
    assert len(datasets.load_dataset(str(tmp_path / "2" / "clips"), split="train")) == 2
