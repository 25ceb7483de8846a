"""Many clips through one model: the one place for it. Answers are written as they come, and a killed run goes on.

Goes in: requests (``read_requests``: a folder, or JSON lines in the published inference script's format) and something
that answers batches of them (``LocalAnswers``: a checkpoint here; ``ServedAnswers``: an OpenAI-compatible endpoint such
as vLLM). Comes out: one line of JSON a request, in the order of the requests: the published record and how it came to
be, or an error with its reason: what fails for one clip is that clip's row, and the run goes on. Clips are decoded
ahead of the model, in batches of similar length. Several processes (torchrun, accelerate launch) share the work.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import mimetypes
import os
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from saber import media
from saber.model import (
    Checkpoint,
    NoRoom,
    Seen,
    check_clip,
    lacks_memory,
    scored_answer_batch,
    section_scores,
    seen_by,
)
from saber.schema import LANGUAGES, Clip, Prediction
from saber.sections import parse

#: Batches that are sorted by length together, so that those of one are alike.
WINDOW = 16
#: Clips that fail by one kind of error that is not the clip's own, before any is answered: then the setup is at fault.
SETUP_FAULTS = 8
#: HTTP statuses by which a server refuses one request for what is in it.
REFUSED = (400, 413, 422)
MEDIA_FILES = (
    ".mp4",
    ".webm",
    ".mov",
    ".mkv",
    ".avi",
    ".m4v",
    ".wav",
    ".mp3",
    ".m4a",
    ".flac",
    ".ogg",
    ".aac",
    ".opus",
)


class RequestError(ValueError):
    """A list of requests cannot be used. The message names the file, the line, the field and the next step."""


@dataclass(frozen=True)
class Request:
    """What is asked about one clip. ``sound``: a file whose sound is taken instead of the clip's; ``prompt``: the
    request's text, "" for the checkpoint's own in ``language`` (None: the clip's)."""

    clip: Clip
    language: str | None = None
    tracks: str = "both"
    sound: str = ""
    prompt: str = ""

    def key(self, asked: str) -> str:
        """Tells whether a kept answer is that of this request. ``asked``: of whom, and how."""
        clip, state = self.clip, []
        for path in filter(None, (self.clip.path, self.sound)):
            file = os.stat(path) if os.path.exists(path) else None
            state.append((file.st_size, file.st_mtime_ns) if file else "absent")
        parts = (asked, clip.path, state, clip.start_s, clip.end_s, self.language, self.tracks, self.sound, self.prompt)
        return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]


def read_requests(source: str | Path, language: str | None = None, tracks: str = "both") -> list[Request]:
    """Requests from a folder (every media file in it, by name) or from JSON lines.

    A line is the published script's: ``messages`` (whose last user turn may hold ``<video>`` and ``<audio>`` marks),
    ``videos`` and ``audios`` (at most one of each; a lone one is enough); ours are ``id``, ``start``, ``end``,
    ``language``. Paths are relative to the file. Raises RequestError naming the line.
    """
    source = Path(source)
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in MEDIA_FILES and path.is_file())
        if not files:
            raise RequestError(f"{source} holds no media file ({', '.join(MEDIA_FILES)})")
        return [Request(Clip(str(path), id=path.relative_to(source).as_posix()), language, tracks) for path in files]
    try:
        lines = source.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{source} cannot be read ({error}); give a folder or a file of JSON lines") from error
    found = [_read_line(source, number, line, language, tracks) for number, line in enumerate(lines, 1) if line.strip()]
    names = [request.clip.id for request in found]
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"{source}: two lines are called {twice!r}; give each its own id")
    if not found:
        raise RequestError(f"{source} holds no line")
    return found


def _read_line(source: Path, number: int, line: str, language: str | None, tracks: str) -> Request:
    def wrong(field: str, value: Any, due: str) -> RequestError:
        return RequestError(f"{source}, line {number}: {field} is {value!r}; it must be {due}")

    try:
        record = json.loads(line)
    except ValueError as error:
        raise RequestError(f"{source}, line {number} is no JSON ({error})") from error
    if not isinstance(record, dict):
        raise wrong("the line", record, "an object")
    files = {}
    for field in ("videos", "audios"):
        value = record.get(field) or []
        if not isinstance(value, list) or len(value) > 1 or not all(isinstance(path, str) and path for path in value):
            raise wrong(field, value, "a list of at most one path")
        files[field] = str(source.parent / value[0]) if value else ""
    if not any(files.values()):
        raise wrong("videos", record.get("videos"), "a list of one path (or audios, for sound alone)")
    spoken = record.get("language", language)
    if spoken not in (None, *LANGUAGES):
        raise wrong("language", spoken, f"one of {LANGUAGES}, or absent")
    try:
        clip = Clip(
            files["videos"] or files["audios"], id=str(record.get("id") or f"line-{number}"),
            start_s=record.get("start") or 0.0, end_s=record.get("end"),
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise RequestError(f"{source}, line {number}: {error}") from error
    return Request(clip, spoken, tracks, files["audios"] if files["videos"] else "", _asked(record, wrong))


def _asked(record: Mapping[str, Any], wrong: Any) -> str:
    """The text of the last user turn, without the marks that stand for its media."""
    messages = record.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise wrong("messages", messages, "a list of turns")
    turns = [turn.get("content") for turn in messages if turn.get("role") == "user"]
    if not turns:
        return ""
    content = turns[-1]
    if isinstance(content, list):  # parts, as in the OpenAI format
        content = " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise wrong("messages", content, "turns whose content is text")
    return content.replace("<video>", "").replace("<audio>", "").strip()


class Answers(Protocol):
    """What answers requests. ``asked``: of whom and how, as keys hold it."""

    asked: str

    def stream(self, batches: Iterable[Sequence[Request]]) -> Iterator[list[Prediction | Exception]]:
        """For each batch, what became of each request."""


class LocalAnswers:
    """Answers of a checkpoint in this process. ``limit``: of an answer's tokens, None for the checkpoint's.

    A batch that fails, or that would not fit padded as it runs, is answered in halves, down to one by one: what fails
    alone is that clip's error, NoRoom where memory is lacking. A GPU's own fault is raised: nothing works after it.
    """

    def __init__(
        self, checkpoint: Checkpoint, workers: int = 1, limit: int | None = None, limits: media.Limits | None = None
    ) -> None:
        self.checkpoint, self.workers = checkpoint, workers
        self.limit = limit or checkpoint.settings.max_new_tokens
        self.limits = limits or media.Limits()

    @cached_property
    def asked(self) -> str:
        return f"{self.checkpoint.fingerprint()} {self.limit} {self.checkpoint.model.dtype}"

    def stream(self, batches: Iterable[Sequence[Request]]) -> Iterator[list[Prediction | Exception]]:
        loader = torch.utils.data.DataLoader(
            _Decoded(self.checkpoint.settings.media, self.limits),
            batch_sampler=batches,  # what the loader takes for indices are the requests
            num_workers=self.workers,
            collate_fn=list,
            prefetch_factor=2 if self.workers else None,
            generator=torch.Generator(),  # a loader draws a number: not from the caller's, who may be training
        )
        for items in loader:
            yield self._answer(items)

    def _answer(self, items: Sequence[tuple[Request, Any]]) -> list[Prediction | Exception]:
        began = time.perf_counter()
        out: list[Any] = [found for _, found in items]
        prepared: dict[int, _Prepared] = {}
        for at, (request, found) in enumerate(items):
            if not isinstance(found, Exception):
                try:
                    prepared[at] = self._prepare(request, found)
                except Exception as error:
                    out[at] = error
        answers = self._in_halves(list(prepared.values())) if prepared else []
        seconds = (time.perf_counter() - began) / max(1, len(prepared))
        tokenizer = self.checkpoint.processor.tokenizer
        for (at, one), tokens in zip(prepared.items(), answers, strict=True):
            if isinstance(tokens, Exception):
                out[at] = tokens
                continue
            raw = tokenizer.decode([token for token, _ in tokens], skip_special_tokens=True)
            usage = {**one.seen.usage(), "answer_tokens": len(tokens), "total_s": round(seconds, 4)}
            cut_off = len(tokens) >= self.limit
            told = prediction(one.request, raw, self.checkpoint.name, usage, one.seen.notes, cut_off)
            out[at] = replace(told, log_probabilities=section_scores(tokenizer, tokens))
        return out

    def _prepare(self, request: Request, decoded: media.Decoded) -> _Prepared:
        text = request.prompt or self.checkpoint.settings.prompts[request.language or "clip"]
        inputs = self.checkpoint.with_prompt(self.checkpoint.media_inputs(decoded), text)
        return _Prepared(request, inputs, seen_by(self.checkpoint, decoded, inputs))

    def _in_halves(self, batch: Sequence[_Prepared]) -> list[list[tuple[int, float]] | Exception]:
        """Of each clip the answer's tokens with their log-probabilities, or why there are none."""
        device = self.checkpoint.model.device
        try:
            self._check_room(batch)
            return scored_answer_batch(self.checkpoint, [one.inputs for one in batch], self.limit)
        except Exception as error:
            if isinstance(error, torch.AcceleratorError) and not lacks_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the batch's tensors
            failed = error
        if len(batch) == 1:
            return [self._named(failed, batch[0])]
        if device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return [*self._in_halves(batch[:half]), *self._in_halves(batch[half:])]

    def _check_room(self, batch: Sequence[_Prepared]) -> None:
        """Raises NoRoom where a batch does not fit. Padded, its text takes what one clip with all its tokens would;
        pictures and sounds are encoded one by one."""
        model, seen = self.checkpoint.model, [one.seen for one in batch]
        tokens = {
            "video": max(one.video_tokens for one in seen),
            "sound": max(one.audio_tokens for one in seen),
            "prompt": len(seen) * max(one.prompt_tokens for one in seen),
            "answer": len(seen) * self.limit,
        }
        check_clip(self.checkpoint.name, model.config.to_dict(), model.dtype, str(model.device), tokens)

    def _named(self, error: Exception, one: _Prepared) -> Exception:
        """The error of a clip that fails alone; one of memory names the clip, its tokens and the next step."""
        name = one.request.clip.name
        if isinstance(error, NoRoom):
            return NoRoom(f"clip {name}: {error}")
        if lacks_memory(error):
            return NoRoom(
                f"clip {name}: its {one.seen.prompt_tokens:,} tokens and an answer of up to {self.limit:,} need more "
                f"memory than there is on {self.checkpoint.model.device}; give a shorter part of it, or the picture or "
                "the sound alone"
            )
        return error


@dataclass(frozen=True)
class _Prepared:
    """A request as the model is given it."""

    request: Request
    inputs: Mapping[str, Any]
    seen: Seen


def prediction(
    request: Request, raw: str, model: str, usage: Mapping[str, Any], notes: Sequence[str] = (), cut_off: bool = False
) -> Prediction:
    """An answer's text, read. ``notes``: about the clip; ``cut_off``: the answer reached its bound."""
    parsed = parse(raw)
    return Prediction(
        clip=request.clip.id, annotation=parsed.annotation, raw=raw, model=model, language=request.language or "",
        tracks=request.tracks, notes=(*notes, *parsed.notes, *["answer_cut_off"] * cut_off), usage=usage,
    )  # fmt: skip


def decode(request: Request, settings: media.MediaSettings, limits: media.Limits) -> media.Decoded:
    """A request's clip; with the sound of another file, where it names one."""
    if not request.sound or request.tracks == "picture":
        return media.decode(request.clip, settings, limits, request.tracks)
    other = media.decode(replace(request.clip, path=request.sound), settings, limits, "sound")
    if request.tracks == "sound":
        return other
    found = media.decode(request.clip, settings, limits, "picture")
    length = max(found.duration_s, other.duration_s)
    notes = {**other.notes, **found.notes}
    audio = np.zeros(round(length * settings.sample_rate_hz), np.float32)
    audio[: len(other.audio)] = other.audio[: len(audio)]
    return replace(found, audio=audio, duration_s=length, sound_s=other.sound_s, notes=notes)


class _Decoded(torch.utils.data.Dataset):
    """Request -> (request, its decoded clip or the error that it raised). Ours are passed on, too: they are rows."""

    def __init__(self, settings: media.MediaSettings, limits: media.Limits) -> None:
        self.settings, self.limits = settings, limits

    def __getitem__(self, request: Request) -> tuple[Request, media.Decoded | Exception]:
        try:
            return request, decode(request, self.settings, self.limits)
        except Exception as error:
            return request, error


class ServedAnswers:
    """Answers of an OpenAI-compatible endpoint that takes video and sound (vLLM's ``video_url`` and ``audio_url``),
    sent as data in the request. ``at_once``: requests in flight. Retries are the client's."""

    def __init__(
        self, url: str, model: str, prompts: Mapping[str, str], at_once: int = 8, limit: int = 4096,
        timeout_s: float = 600.0,
    ) -> None:  # fmt: skip
        from openai import OpenAI

        self.client = OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), timeout=timeout_s,
                             max_retries=4)  # fmt: skip
        self.model, self.prompts, self.at_once, self.limit = model, prompts, at_once, limit
        self.asked = f"{url} {model} {limit} {json.dumps(dict(prompts), sort_keys=True)}"

    def stream(self, batches: Iterable[Sequence[Request]]) -> Iterator[list[Prediction | Exception]]:
        with ThreadPoolExecutor(self.at_once) as pool:
            for batch in batches:
                yield list(pool.map(self._answer, batch))

    def _answer(self, request: Request) -> Prediction | Exception:
        from openai import OpenAIError

        clip, began = request.clip, time.perf_counter()
        try:
            facts = media.probe(clip.path)
            if clip.start_s or clip.end_s is not None:
                raise RequestError(f"clip {clip.name}: a part of a file cannot be sent; cut the file first")
            parts = []
            if facts.has_video and request.tracks != "sound":
                parts.append(_as_data("video_url", clip.path))
            if request.tracks != "picture" and (request.sound or facts.has_audio):
                parts.append(_as_data("audio_url", request.sound or clip.path))
            parts.append({"type": "text", "text": request.prompt or self.prompts[request.language or "clip"]})
            answer = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": parts}], max_tokens=self.limit, temperature=0.0
            )
        except (media.MediaError, RequestError, OSError, OpenAIError) as error:
            return error
        choice = answer.choices[0]
        usage = {"total_s": round(time.perf_counter() - began, 4)}
        if answer.usage:
            usage |= {"prompt_tokens": answer.usage.prompt_tokens, "answer_tokens": answer.usage.completion_tokens}
        cut_off = choice.finish_reason == "length"
        return prediction(request, choice.message.content or "", self.model, usage, cut_off=cut_off)


def _as_data(kind: str, path: str) -> dict[str, Any]:
    type_ = mimetypes.guess_type(path)[0] or "application/octet-stream"
    text = base64.b64encode(Path(path).read_bytes()).decode()
    return {"type": kind, kind: {"url": f"data:{type_};base64,{text}"}}


def run(requests: Sequence[Request], answers: Answers, out: str | Path, batch_size: int = 8) -> dict[str, int]:
    """Answers all requests that ``out`` does not hold yet and writes it anew, in their order. Returns counts:
    "answered", "failed", "kept" (from an earlier run). Of several processes each takes its share and writes it to a
    file of its own beside ``out`` until the first brings all together; it counts for all.

    An error is a row with its reason. But where nothing has been answered, now or before, and ``SETUP_FAULTS`` clips
    have failed by one kind of error that is not of the clip (``_is_of_clip``), the setup is at fault: the run ends with
    that error, lest every clip become such a row. Raises OSError where ``out`` cannot be written.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    keys = {request.clip.id: request.key(answers.asked) for request in requests}
    kept = _known(keys, out)
    before = {name for name, line in kept.items() if "error" not in line}
    # By its place in the whole list, which all processes know alike; what failed is tried again.
    own = [request for request in requests[rank::world] if request.clip.id not in before]
    part = out.with_name(f"{out.name}.part-{rank}")
    order: list[Request] = []

    def batches() -> Iterator[list[Request]]:
        for batch in _alike(own, batch_size):
            order.extend(batch)
            yield batch

    failed, faults, answered = 0, [], bool(before)
    _end_line(part)
    with (
        part.open("a", encoding="utf-8") as file,
        tqdm(total=len(requests), initial=len(before), unit="clip", desc="answer", disable=rank > 0) as bar,
    ):
        done = 0
        for batch in answers.stream(batches()):
            for request, found in zip(order[done : done + len(batch)], batch, strict=True):
                line = {"clip": request.clip.id, "key": keys[request.clip.id], **_line(found)}
                failed += "error" in line
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            done += len(batch)
            bar.update(len(batch) * world)
            bar.set_postfix(failed=failed, refresh=False)
            answered = answered or any(isinstance(found, Prediction) for found in batch)
            if not answered:
                faults += [found for found in batch if not _is_of_clip(found)]
                if len(faults) >= SETUP_FAULTS and len({type(fault) for fault in faults}) == 1:
                    raise faults[0]
    if world > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
    if rank > 0:
        return {"answered": len(own) - failed, "failed": failed, "kept": len(before)}
    lines = _bring_together(requests, keys, out)
    failed = sum("error" in line for line in lines)
    return {"answered": len(lines) - failed - len(before), "failed": failed, "kept": len(before)}


def _line(found: Prediction | Exception) -> dict[str, Any]:
    if isinstance(found, Prediction):
        return {name: value for name, value in found.to_json().items() if name != "clip"}
    reason = found.reason if isinstance(found, (media.MediaError, NoRoom)) else type(found).__name__
    return {"error": {"reason": reason, "message": str(found)}}


def _is_of_clip(error: Exception) -> bool:
    """Whether an error says that this one clip cannot be used, not that anything is broken."""
    return isinstance(error, (media.MediaError, NoRoom, RequestError)) or getattr(error, "status_code", 0) in REFUSED


def _alike(requests: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Batches of similar length, the longest first within a window; a clip that cannot be probed counts as short."""

    def seconds(request: Request) -> float:
        clip = request.clip
        if clip.end_s is not None:
            return clip.end_s - clip.start_s
        try:
            return (media.probe_here(clip.path).duration_s or 0.0) - clip.start_s
        except media.MediaError:
            return 0.0

    for at in range(0, len(requests), size * WINDOW):
        window = sorted(requests[at : at + size * WINDOW], key=seconds, reverse=True)
        for start in range(0, len(window), size):
            yield window[start : start + size]


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """What a run has written: the whole lines of a file that may have been cut off in the middle of one."""
    path, lines = Path(path), []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else ():
        with contextlib.suppress(ValueError):  # torn: its clip is answered again
            lines.append(json.loads(line))
    return lines


def _known(keys: Mapping[str, str], out: Path) -> dict[str, dict[str, Any]]:
    """Clip id -> its line, of those in ``out`` and in the processes' own files that are answers to these requests."""
    files = (out, *sorted(out.parent.glob(f"{out.name}.part-*")))
    lines = [line for file in files for line in read_lines(file) if line.get("clip") in keys]
    return {line["clip"]: line for line in lines if line.get("key") == keys[line["clip"]]}


def _end_line(path: Path) -> None:
    """Ends the line that a kill has torn, so that the next one is not lost with it."""
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")


def _bring_together(requests: Sequence[Request], keys: Mapping[str, str], out: Path) -> list[dict[str, Any]]:
    """Writes ``out`` from itself and the processes' own files, which then go. Returns its lines."""
    known = _known(keys, out)
    lines = [known[request.clip.id] for request in requests if request.clip.id in known]
    whole = out.with_name(f"{out.name}.whole")
    whole.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    os.replace(whole, out)
    for file in out.parent.glob(f"{out.name}.part-*"):
        file.unlink(missing_ok=True)
    return lines
