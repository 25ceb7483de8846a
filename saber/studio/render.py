"""Renders clips to real mp4 files (H.264 + AAC) with their annotation and truth, on all cores, resumable.

Goes in: a ``Mix`` and a number of clips. Comes out: a folder that ``datasets.load_dataset`` reads:
``OUT/<split>/media/000/<id>.mp4``, ``OUT/<split>/clips.parquet`` (one row a clip and wording: the published record, the
truth of each attribute, who and what) and ``OUT/README.md`` (its configuration). Run:
``python -m saber studio OUT --clips 100``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from saber.studio import draw, face, phrases, voice
from saber.studio.causes import judge, truth
from saber.studio.sample import Mix, annotation_language, draw_spec
from saber.studio.world import ATTRIBUTES, SPLITS, ClipSpec

#: Raised when rendering changes what a seed gives, so that a folder is never continued by another version.
STUDIO_VERSION = 1


class StudioError(ValueError):
    """A folder cannot be rendered into. The message names the folder, what differs, and the next step."""


def render(spec: ClipSpec, path: str | os.PathLike) -> float:
    """Writes one clip. Returns its duration in seconds. The file appears whole or not at all."""
    sound = voice.speak(spec)
    count = max(2, math.ceil(sound.duration_s * spec.fps))
    times = np.arange(count) / spec.fps
    mouth = np.interp(times, np.arange(len(sound.mouth)) / 100, sound.mouth) if len(sound.mouth) else np.zeros(count)
    motion = face.perform(spec.performance, count / spec.fps, spec.fps)
    part = Path(path).with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        picture = tone = None
        if spec.incomplete != "no_picture":
            picture = container.add_stream("h264", rate=spec.fps)
            picture.width = picture.height = spec.size
            picture.pix_fmt = "yuv420p"
            picture.options = {"preset": "ultrafast", "crf": "18", "threads": "1"}
        if spec.incomplete != "no_sound":
            tone = container.add_stream("aac", rate=sound.sample_rate_hz, layout="mono")
            tone.bit_rate, tone.options = 64_000, {"aac_coder": "fast"}
        if picture is not None:
            for index, image in enumerate(draw.frames(spec, motion, mouth)):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, spec.fps)
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        if tone is not None:
            frame = av.AudioFrame.from_ndarray(sound.samples[None].astype(np.float32), format="flt", layout="mono")
            frame.sample_rate, frame.pts = sound.sample_rate_hz, 0
            container.mux(tone.encode(frame))
            container.mux(tone.encode(None))
    os.replace(part, path)
    return count / spec.fps if picture is not None else sound.duration_s


def record(spec: ClipSpec, video: str, duration_s: float, written_in: str = "", wording: int = 0) -> dict[str, Any]:
    """One row: the published record, then the truth. ``video`` is a path inside the data set's folder. Wordings after
    the first have an id of their own."""
    facts = truth(spec)
    written_in = written_in or spec.language
    verdict = judge(facts.get("face"), facts.get("voice"), facts.get("valence"), facts.get("event", "none"))
    return {
        "id": f"{spec.id}~{wording}" if wording else spec.id,
        "video": video,
        "language": written_in,
        "spoken_language": spec.language,
        "relation": "",
        **phrases.annotate(replace(spec, language=written_in), wording).to_json(),
        "truth": {name: facts.get(name) for name in TRUTH},
        "intensity": verdict.intensity,
        "carriers": list(verdict.carriers),
        "incomplete": spec.incomplete,
        "duration_s": round(duration_s, 3),
        "speaker": spec.speaker,
        "identity": asdict(spec.identity),
        "template": spec.words.template,
        "spec": json.dumps(spec.to_json(), ensure_ascii=False),
    }


TRUTH = (*ATTRIBUTES, "words", "emotion")
_TEXT = pa.string()
SCHEMA = pa.schema(
    [
        ("id", _TEXT), ("video", _TEXT), ("language", _TEXT), ("spoken_language", _TEXT),
        ("video_desc", _TEXT),
        ("audio_desc", pa.struct([("speech_content", _TEXT), ("acoustic_feat", _TEXT)])),
        ("facial_exp_desc", _TEXT), ("body_lang_desc", _TEXT), ("sentiment_analysis", _TEXT),
        ("relation", _TEXT), ("emotion", pa.list_(_TEXT)),
        ("truth", pa.struct([(name, _TEXT) for name in TRUTH])),
        ("intensity", pa.int32()), ("carriers", pa.list_(_TEXT)), ("incomplete", _TEXT), ("duration_s", pa.float32()),
        ("speaker", _TEXT),
        ("identity", pa.struct([
            ("id", _TEXT), ("seed", pa.int64()), ("sex", _TEXT), ("age", _TEXT), ("skin", pa.int32()), ("hair", _TEXT),
            ("hair_color", _TEXT), ("glasses", pa.bool_()), ("beard", pa.bool_()), ("clothes", pa.int32()),
            ("style", pa.int32()),
        ])),
        ("template", _TEXT), ("spec", _TEXT),
    ]
)  # fmt: skip


def _render_some(folder: str, mix: Mix, indices: list[int]) -> list[dict[str, Any]]:
    rows = []
    for index in indices:
        spec = draw_spec(mix, index)
        video = f"{mix.split}/media/{index // 1000:03d}/{spec.id}.mp4"
        target = Path(folder).parent / video
        target.parent.mkdir(parents=True, exist_ok=True)
        duration_s = render(spec, target)
        for wording in range(mix.wordings):
            row = record(spec, video, duration_s, annotation_language(mix, spec, wording), wording)
            rows.append({"index": index, **row})
    return rows


def run_studio(out: str | os.PathLike, mix: Mix, clips: int, workers: int | None = None, progress: bool = True) -> Path:
    """Renders clips 0 .. clips-1 of a mix into ``out/<split>``. Returns that folder.

    Killed and started again it goes on; more clips than before are added. Raises StudioError if the folder was made
    with other settings. ``workers``: processes (default: all cores; 1 renders in this process).
    """
    if clips < 1:
        raise StudioError(f"--clips is {clips}; it must be at least 1")
    _check_readme(Path(out))
    folder = Path(out) / mix.split
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder, mix)
    journal = folder / "clips.jsonl.part"
    done: dict[int, dict[str, dict[str, Any]]] = {}  # clip number -> id -> row
    for row in _read_rows(folder, journal):
        done.setdefault(row["index"], {})[row["id"]] = row
    # A journal that was cut off can end between two wordings of a clip.
    todo = [index for index in range(clips) if len(done.get(index, ())) < mix.wordings]
    workers = workers or os.cpu_count() or 1
    batches = [todo[at : at + 8] for at in range(0, len(todo), 8)]
    with (
        journal.open("a", encoding="utf-8") as out_file,
        tqdm(total=clips, initial=clips - len(todo), unit="clip", desc=mix.split, disable=not progress) as bar,
    ):
        for rows in _map(batches, str(folder), mix, workers):
            for row in rows:
                done.setdefault(row["index"], {})[row["id"]] = row
                out_file.write(json.dumps(row, ensure_ascii=False) + "\n")
            out_file.flush()
            bar.update(len(rows) // mix.wordings)
    table = pa.Table.from_pylist(
        [_without_index(row) for index in sorted(done) for row in done[index].values()], schema=SCHEMA
    )
    pq.write_table(table, folder / "clips.parquet.part")
    os.replace(folder / "clips.parquet.part", folder / "clips.parquet")
    journal.unlink()
    _write_readme(Path(out))
    return folder


def read_rows(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """The finished rows of a split folder, as ``record`` made them."""
    path = Path(folder) / "clips.parquet"
    if not path.exists():
        raise StudioError(f"{folder} holds no clips.parquet; render it first: python -m saber studio OUT --clips N")
    return pq.read_table(path).to_pylist()


def first_wordings(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a clip."""
    return [row for row in rows if "~" not in row["id"]]


def _map(batches: list[list[int]], folder: str, mix: Mix, workers: int) -> Iterator[list[dict[str, Any]]]:
    if workers == 1 or len(batches) <= 1:
        yield from (_render_some(folder, mix, batch) for batch in batches)
        return
    with ProcessPoolExecutor(workers) as pool:
        pending = [pool.submit(_render_some, folder, mix, batch) for batch in batches]
        try:
            for future in as_completed(pending):
                yield future.result()
        finally:
            for future in pending:
                future.cancel()


def _check_settings(folder: Path, mix: Mix) -> None:
    settings = json.loads(json.dumps({"version": STUDIO_VERSION, **asdict(mix)}))
    path = folder / "studio.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if before.get(name, getattr(Mix, name, None)) != value:
                raise StudioError(
                    f"{folder} was rendered with {name} = {before.get(name)!r}, not {value!r}; "
                    "use the same settings to go on, or another folder"
                )
        return
    part = path.with_suffix(".part")
    part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def _read_rows(folder: Path, journal: Path) -> Iterator[dict[str, Any]]:
    """Rows that are finished: those of the table, then those of a run that was cut off (a torn last line is left)."""
    if (folder / "clips.parquet").exists():
        for row in read_rows(folder):
            yield {"index": int(row["id"].rsplit("-", 1)[1].partition("~")[0]), **row}
    if journal.exists():
        whole, _, torn = journal.read_bytes().rpartition(b"\n")  # bytes: it may be torn inside a character
        if torn:
            journal.write_bytes(whole + b"\n" if whole else b"")
        for line in whole.split(b"\n") if whole else ():
            yield json.loads(line)


def _without_index(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "index"}


_TITLE = "# SABER studio clips\n"


def _check_readme(out: Path) -> None:
    """The card is written anew each time: somebody's own README.md must not be lost to it."""
    path = out / "README.md"
    if path.exists() and _TITLE not in path.read_text(encoding="utf-8"):
        raise StudioError(f"{path} is not the studio's and would be replaced; render into another folder")


def _write_readme(out: Path) -> None:
    """The dataset's card: what makes ``load_dataset(out)`` find the tables and leave the media alone.

    The card names a digest of the tables: ``datasets`` recognises a local folder by its name and its card alone, and
    would give back the rows of another folder of that name, or those from before more clips were added.
    """
    splits = [split for split in SPLITS if (out / split / "clips.parquet").exists()]
    files = "".join(f"  - split: {split}\n    path: {split}/clips.parquet\n" for split in splits)
    digest = hashlib.sha256(b"".join((out / split / "clips.parquet").read_bytes() for split in splits)).hexdigest()[:16]
    (out / "README.md").write_text(
        "---\nlicense: apache-2.0\nconfigs:\n- config_name: default\n"
        f"  description: tables {digest}\n  data_files:\n{files}---\n"
        "# SABER studio clips\n\nDrawn people and synthetic voices with exact truth, rendered by `saber.studio`. The "
        "column `video` is a path inside this folder.\n",
        encoding="utf-8",
    )
