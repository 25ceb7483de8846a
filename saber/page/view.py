"""From the events of an answer to what the page shows: pure functions, no gradio.

``PageState.apply(event)`` takes one event of ``Engine.stream`` (Seen, Event, Done) and gives the next state;
``render(state)`` gives every changing part of the page as HTML, by name; ``follow(engine, clip, ...)`` drives both and
yields states no faster than a page can draw them. A new card is a line in ``GROUPS`` and its words in ``texts.py``.
All text of a model is escaped here and nowhere else.
"""

from __future__ import annotations

import html
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from saber import media, sections
from saber.model import Done, NoRoom, Seen
from saber.page.texts import WORDS, say
from saber.schema import ACOUSTIC, RELATIONS, SECTIONS, VERDICT, VISUAL, Clip
from saber.sections import Event

#: Group of cards -> its cards, in the order of the SED text. The verdict card holds relation and emotion.
GROUPS: dict[str, tuple[str, ...]] = {"seen": VISUAL, "heard": ACOUSTIC, "meant": ("reasoning", "verdict")}
CARDS = tuple(card for cards in GROUPS.values() for card in cards)
#: What changes on the page, by name: each is one HTML component with this element id.
PARTS = ("status", *(f"group-{group}" for group in GROUPS), *(f"card-{card}" for card in CARDS), "facts")

#: Notes that the cards say themselves.
_ON_CARDS = ("no_picture", "no_sound")
_SOUND_EVENT = re.compile(r"&lt;/?[^\W\d_][\w -]{0,30}&gt;")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PageState:
    """What one visitor sees.

    ``phase``: empty, waiting (asked, clip not read yet), looking (clip read, no text yet), writing, done, stopped or
    failed. ``run``: the id of this run. ``clip_path``, ``answer_in`` ("en", "zh", or None: like the clip), ``tracks``:
    what was asked. ``language``: of the page's own words. ``writing``: the section that text arrives for. ``notes``:
    keys of the NOTES of saber.media and saber.sections. ``problem``: the sentence for a failed run. Times in seconds
    from the start of the run.
    """

    phase: str = "empty"
    run: str = ""
    clip_path: str = ""
    answer_in: str | None = None
    tracks: str = "both"
    language: str = "en"
    texts: Mapping[str, str] = field(default_factory=dict)
    writing: str = ""
    seen: Seen | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""
    first_s: float | None = None
    total_s: float | None = None

    @property
    def busy(self) -> bool:
        """A run is under way: it can be stopped, and none can be started."""
        return self.phase in ("waiting", "looking", "writing")

    def begin(self, clip_path: str | None, answer_in: str | None, tracks: str, run: str) -> PageState:
        """The state right after "Analyse": everything of the last run is gone; without a clip it has failed."""
        language = answer_in or self.language
        fresh = PageState(run=run, clip_path=clip_path or "", answer_in=answer_in, tracks=tracks, language=language)
        return replace(fresh, phase="waiting") if clip_path else fresh.fail(say(language, "no_clip"))

    def apply(self, event: Seen | Event | Done, at_s: float = 0.0) -> PageState:
        """The next state. ``at_s``: seconds since the run began. Raises TypeError for anything but an event."""
        match event:
            case Seen():
                return replace(self, phase="looking", seen=event, notes=tuple(event.notes))
            case Event():
                if not event.text:
                    return self
                texts = {**self.texts, event.section: self.texts.get(event.section, "") + event.text}
                language = self.language
                if self.answer_in is None:
                    language = "zh" if _CHINESE.search("".join(texts.values())) else "en"
                return replace(
                    self,
                    phase="writing",
                    texts=texts,
                    writing=event.section,
                    language=language,
                    first_s=at_s if self.first_s is None else self.first_s,
                )
            case Done():
                # The parser may tidy at the end of the text what it had to show while it streamed.
                said = event.prediction.annotation
                final = {section: getattr(said, section) for section in SECTIONS if section != "emotion"}
                final["emotion"] = ", ".join(said.emotion)
                texts = {section: final[section] or self.texts.get(section, "") for section in SECTIONS}
                return replace(
                    self,
                    phase="done",
                    texts={section: text for section, text in texts.items() if text},
                    writing="",
                    notes=tuple(dict.fromkeys((*self.notes, *event.prediction.notes))),
                    total_s=at_s,
                )
        raise TypeError(f"{event!r} is not an event of an answer; it must be a Seen, an Event or a Done")

    def stop(self, at_s: float | None = None) -> PageState:
        """The visitor stopped the run: what was written stays. Nothing happens where no run is under way."""
        return replace(self, phase="stopped", writing="", total_s=at_s) if self.busy else self

    def fail(self, sentence: str) -> PageState:
        """The run ended with a problem, told in one sentence."""
        return replace(self, phase="failed", writing="", problem=sentence)


def follow(
    engine: Any,
    state: PageState,
    *,
    stopped: Callable[[], bool] = lambda: False,
    every_s: float = 0.03,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[PageState]:
    """Runs the engine as ``state`` (of phase waiting) asks and yields page states; the last is done, stopped or failed.

    Between two states of the same section at least ``every_s`` seconds pass, since a browser draws no faster and each
    update costs the model time; the start of a section is always yielded. ``stopped`` is asked before each token: once
    it is true the model is stopped and what was written stays. Closing this generator stops the model as well. A bad
    clip ends in its plain sentence, a bug in a plain apology and a traceback in the log: a visitor never sees one.
    """
    began = last = clock()
    held = False
    try:
        if not stopped():
            with closing(engine.stream(Clip(state.clip_path), language=state.answer_in, tracks=state.tracks)) as events:
                for event in events:
                    if stopped():
                        break
                    now = clock()
                    before, state = state, state.apply(event, now - began)
                    held = held or state is not before
                    turned = state.writing != before.writing or state.phase != before.phase
                    if held and (turned or now - last >= every_s):
                        yield state
                        last, held = clock(), False
        if state.busy:
            yield state.stop(clock() - began)
    except media.MediaError as error:
        yield state.fail(media_sentence(error, state.language))
    except NoRoom as error:
        _log.warning("%s", error)
        yield state.fail(say(state.language, "no_room"))
    except Exception:
        # The page is the last place that can tell the visitor anything; the cause goes to the log, without the clip.
        _log.exception("an analysis failed")
        yield state.fail(say(state.language, "bug"))


def render(state: PageState) -> dict[str, str]:
    """Every changing part of the page -> its HTML, for the names in PARTS."""
    parts = {"status": render_status(state), "facts": render_facts(state)}
    for group, cards in GROUPS.items():
        parts[f"group-{group}"] = f'<h2 lang="{_lang(state)}">{_escape(say(state.language, group))}</h2>'
        for card in cards:
            parts[f"card-{card}"] = render_card(state, card)
    return parts


def render_cards(state: PageState) -> str:
    """The seven cards as one piece of HTML, in reading order."""
    return "".join(render_card(state, card) for card in CARDS)


def render_card(state: PageState, card: str) -> str:
    """One card: its title, its text or a quiet placeholder, and why it is empty where that is known."""
    holds = VERDICT if card == "verdict" else (card,)
    writing = state.writing in holds
    written = any(state.texts.get(section, "").strip() for section in holds)
    if card == "verdict" and written:
        body = "".join(_verdict_row(state, section) for section in holds)
    elif written:
        body = f'<p class="text">{_prose(state.texts[card])}</p>'
    else:
        body = f'<p class="quiet">{_escape(_why_empty(state, card))}</p>'
    kind = "writing" if writing else "written" if written else "empty"
    mark = ' aria-current="step" aria-busy="true"' if writing else ' aria-busy="false"'
    return (
        f'<article class="card is-{kind}" data-section="{card}" lang="{_lang(state)}" aria-labelledby="title-{card}"'
        f'{mark}><h3 id="title-{card}">{_escape(say(state.language, card))}</h3>{body}</article>'
    )


def render_status(state: PageState) -> str:
    """One sentence: where the run stands, or what went wrong."""
    if state.phase == "failed":
        text = state.problem
    elif state.phase == "writing":
        card = "verdict" if state.writing in VERDICT else state.writing
        text = say(state.language, "writing", section=say(state.language, card))
    else:
        relation = _relation(state) if state.phase == "done" else ""
        text = say(state.language, f"done_{relation}" if relation else state.phase)
    return f'<p class="status is-{state.phase}" data-phase="{state.phase}" lang="{_lang(state)}">{_escape(text)}</p>'


def render_facts(state: PageState) -> str:
    """What the model was given, how long it took, and the notes; empty before a clip was read."""
    if state.seen is None:
        return ""
    seen, language = state.seen, state.language
    things = [say(language, "frames", count=seen.frames)] if seen.frames else []
    things += [say(language, "video_s", seconds=seen.video_s)] if seen.video_s else []
    things += [say(language, "audio_s", seconds=seen.audio_s)] if seen.audio_s else []
    things += [say(language, "prompt_tokens", count=seen.prompt_tokens)]
    sentences = [say(language, "saw", things=say(language, "list").join(things))]
    times = [say(language, "first_s", seconds=state.first_s)] if state.first_s is not None else []
    if state.total_s is not None:
        times.append(say(language, "total_s" if state.phase == "done" else "so_far_s", seconds=state.total_s))
    if times:
        text = say(language, "clauses").join(times)
        sentences.append(say(language, "sentence", text=text[0].upper() + text[1:]))
    told = [note_sentence(note, language) for note in state.notes if note not in _ON_CARDS]
    notes = "".join(f"<li>{_escape(note)}</li>" for note in told)
    return (
        f'<p class="facts" lang="{_lang(state)}">{_escape((" " if language == "en" else "").join(sentences))}</p>'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def render_about(about: Mapping[str, Any], language: str = "en") -> str:
    """Who speaks, what it was trained on, and that it is no judge of real people."""
    title = str(about.get("title") or "The model")
    parameters = about.get("parameters")
    if parameters:
        millions = parameters / 1e6
        count = f"{millions:.1f}".removesuffix(".0") if millions < 100 else f"{millions:,.0f}"
        first = say(language, "speaks_size", title=title, size=say(language, "million", count=count))
    else:
        first = say(language, "speaks", title=title)
    data = str((about.get("trained_on") or {}).get(language, "")).strip().rstrip(".。")
    second = say(language, "trained_on", data=data) if data else say(language, "trained_on_unknown")
    text = (" " if language == "en" else "").join((first, second, say(language, "no_judge")))
    return f'<p class="about" lang="{_LANG[language]}">{_escape(text)}</p>'


def media_sentence(error: media.MediaError, language: str) -> str:
    """The plain sentence of a media error: the page's own where it has one, else that of saber.media."""
    key = f"problem_{error.reason}"
    return say(language, key, **error.values) if key in WORDS[language] else error.sentence(language)


def note_sentence(key: str, language: str) -> str:
    """The sentence of a note: the page's own where it has one, else that of saber.media or saber.sections."""
    if f"note_{key}" in WORDS[language]:
        return say(language, f"note_{key}")
    for table in (media.NOTES, sections.NOTES):
        if key in table:
            return table[key][language]
    return key  # a sentence of its own


_LANG = {"en": "en", "zh": "zh-Hans"}


def _lang(state: PageState) -> str:
    return _LANG[state.language]


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _prose(text: str) -> str:
    """Escaped text of a model; sound events such as <laugh> stay readable and get their own look."""
    return _SOUND_EVENT.sub(lambda found: f'<span class="sound-event">{found[0]}</span>', _escape(text.strip()))


def _relation(state: PageState) -> str:
    said = state.texts.get("relation", "").strip().lower()
    return said if said in RELATIONS else ""


def _verdict_row(state: PageState, section: str) -> str:
    text = state.texts.get(section, "").strip()
    if not text:
        body = f'<span class="quiet">{_escape("" if state.busy else _ended(state))}</span>'
    elif section == "emotion":
        labels = [label.strip() for label in re.split(r"[,，、]", text) if label.strip()]
        body = " ".join(f'<span class="badge">{_escape(label)}</span>' for label in labels)
    elif relation := _relation(state):
        body = f'<span class="badge is-{relation}">{_escape(say(state.language, relation))}</span>'
    else:
        body = f'<span class="text">{_prose(text)}</span>'
    title = _escape(say(state.language, section))
    return f'<dl data-section="{section}"><dt>{title}</dt><dd>{body}</dd></dl>'


def _ended(state: PageState) -> str:
    return say(state.language, "not_stated" if state.phase == "done" else "not_reached")


def _why_empty(state: PageState, card: str) -> str:
    """The placeholder of a card without text: the missing track first, then how far the run came."""
    language = state.language
    if card in VISUAL and state.tracks == "sound" and state.phase != "empty":
        return say(language, "sound_only")
    if card in ACOUSTIC and state.tracks == "picture" and state.phase != "empty":
        return say(language, "picture_only")
    if state.seen is not None and card in VISUAL and not state.seen.frames:
        return say(language, "no_picture")
    if state.seen is not None and card in ACOUSTIC and not state.seen.audio_s:
        return say(language, "no_sound")
    if state.phase in ("done", "stopped"):
        return _ended(state)
    return say(language, f"hint_{card}")
