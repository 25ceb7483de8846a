"""One model, and everything between a visitor's clip and its answer: reading, measuring, waiting, writing.

``Desk.serve(ask)`` yields what happens, in order: ``Looked`` (the clip is read), ``Queued`` (how many are
before it), then what ``Engine.answer`` yields: Seen, Event, Done. The page and the API serve through it alike. On a
Space with ZeroGPU the model writes inside ``spaces.GPU``; elsewhere that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import spaces

from saber.media import Decoded
from saber.model import Done, NoRoom, Seen
from saber.page import signals
from saber.page.line import Line
from saber.schema import Clip
from saber.sections import Event

#: How often somebody who waits is looked after, in seconds: whether they have left, who is before them.
WAIT_S = 0.25
#: On ZeroGPU: seconds to begin, seconds a second of the clip, and tokens a second. Ours, not measured.
GPU_BEGIN_S, GPU_CLIP_S, GPU_TOKENS = 10.0, 0.5, 30.0
#: More is not asked for: a longer request waits longer, or is refused.
GPU_MOST_S = 120.0


class Look:
    """A clip as it was read, and what can be measured of it. ``figure`` draws it once for each language."""

    def __init__(self, decoded: Decoded) -> None:
        self.decoded: Decoded | None = decoded
        self._figures: dict[tuple[str, str], str] = {}

    @property
    def bytes(self) -> int:
        arrays = (self.decoded.frames, self.decoded.audio) if self.decoded else ()
        return sum(array.nbytes for array in arrays if array is not None)

    def release(self) -> None:
        """Forgets the clip and keeps the figures that are drawn."""
        self.decoded = None

    def figure(self, name: str, language: str) -> str:
        """As HTML: ``name`` "strip", the frames that the model saw, or "signals". Of a clip that is forgotten, in the
        language that it was drawn in."""
        key, decoded = (name, language), self.decoded
        if decoded and key not in self._figures:
            if name == "strip":
                self._figures[key] = signals.frame_strip(decoded, language)
            else:
                self._figures[key] = signals.draw(signals.measure(decoded), language)
        known = (drawn for (kind, _), drawn in self._figures.items() if kind == name)
        return self._figures.get(key) or next(known, "")


@dataclass(frozen=True)
class Looked:
    look: Look


@dataclass(frozen=True)
class Queued:
    """``before``: how many are served first."""

    before: int


@dataclass(frozen=True)
class Ask:
    """What one visitor asks. ``look``: the clip with both tracks, where it was read before: ``tracks`` are then taken
    from it."""

    clip: Clip
    language: str | None = None
    tracks: str = "both"
    visitor: str = ""
    look: Look | None = None
    stopped: Callable[[], bool] = field(default=lambda: False)


class NoGpu(Exception):
    """ZeroGPU gave no GPU. Its message is for the visitor."""


class Desk:
    """Serves one engine's answers, one after the other."""

    def __init__(self, engine: Any, line: Line | None = None) -> None:
        self.engine, self.line = engine, line or Line()
        settings = engine.checkpoint.settings
        self.write = spaces.GPU(duration=_gpu_seconds(settings.max_new_tokens))(self._write)

    def _write(self, decoded: Decoded, clip: str, language: str | None, tracks: str) -> Generator[Any, None, None]:
        # Errors as values: ZeroGPU's process hands over an exception's class name and no more.
        try:
            yield from self.engine.answer(decoded, clip, language, tracks)
        except NoRoom as error:
            yield error

    def serve(self, ask: Ask) -> Iterator[Looked | Queued | Seen | Event | Done]:
        """All that happens until the answer is there, or ``ask.stopped()``. Raises MediaError, NoRoom, NoGpu
        and line.Refused. Closing it stops the model and gives the place in the line back."""
        with self.line.enter(ask.visitor) as turn:
            decoded = ask.look.decoded if ask.look else None
            if decoded is None:
                decoded = self.engine.decode(ask.clip, "both" if ask.look else ask.tracks)
            yield Looked(ask.look or Look(decoded))
            decoded = decoded.only(ask.tracks, ask.clip.name) if ask.look else decoded
            wait_s = 0.0
            while before := turn.wait(wait_s):
                if ask.stopped():
                    return
                yield Queued(before)
                wait_s = WAIT_S
            try:
                with closing(self.write(decoded, ask.clip.id, ask.language, ask.tracks)) as events:
                    for event in events:
                        if ask.stopped():
                            return
                        if isinstance(event, Exception):
                            raise event
                        yield event
            except gr.Error as error:  # ZeroGPU's own words: no quota, no GPU in time
                raise NoGpu(error.message) from error


def _gpu_seconds(limit: int) -> Callable[..., float]:
    """What ZeroGPU is asked for, by the clip's length and the answer's bound of tokens."""

    def seconds(decoded: Decoded, *_: Any) -> float:
        return min(GPU_MOST_S, GPU_BEGIN_S + GPU_CLIP_S * decoded.duration_s + limit / GPU_TOKENS)

    return seconds
