"""From the events of an answer to what the page shows: pure functions, no gradio.

``PageState.apply(event)`` takes one event of ``Desk.serve`` and gives the next state; ``render(state)`` gives every
changing part of the page as HTML, by name; ``follow(desk, state, ...)`` drives both and yields states no faster than a
page can draw them. A new card is a line in ``GROUPS`` and its words in ``texts.py``. All text of a model is escaped
here, in ``signals.py`` or in ``report.py``, where it becomes HTML.
"""

from __future__ import annotations

import html
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from saber import media, sections
from saber.model import Done, NoRoom, Seen
from saber.page.cues import cues
from saber.page.desk import Ask, Desk, Look, Looked, NoGpu, Queued
from saber.page.line import Refused
from saber.page.texts import WORDS, say
from saber.schema import ACOUSTIC, RELATIONS, SECTIONS, TRACKS, VERDICT, VISUAL, Clip, Prediction
from saber.sections import Event

#: Group of cards -> its cards, in the order of the SED text. The verdict card holds relation and emotion.
GROUPS: dict[str, tuple[str, ...]] = {"seen": VISUAL, "heard": ACOUSTIC, "meant": ("reasoning", "verdict")}
#: Group of cards -> what was measured of the clip, below them.
MEASURED = {"seen": "strip", "heard": "signals"}
CARDS = tuple(card for cards in GROUPS.values() for card in cards)
#: What changes on the page, by name: each is one HTML component with this element id. Few, since gradio builds every
#: component anew at each update, also those that stay.
PARTS = ("status", *(f"group-{group}" for group in GROUPS), "strip", "signals", "facts", "mute")

#: Notes that the cards say themselves.
_ON_CARDS = ("no_picture", "no_sound")
_SOUND_EVENT = re.compile(r"&lt;/?[^\W\d_][\w -]{0,30}&gt;")
#: Language -> its tag in HTML.
LANG = {"en": "en", "zh": "zh-Hans"}
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_log = logging.getLogger(__name__)

#: Seconds that the model has to itself for each second that drawing takes.
DRAW_SHARE = 3.0


@dataclass(frozen=True)
class Answer:
    """What the model has said of the clip with some tracks. ``texts``: by section; ``writing``: the section that text
    arrives for; ``notes``: keys of the NOTES of saber.media, saber.sections and saber.model; times in seconds from the
    start of the run. ``prediction``: once it is whole."""

    texts: Mapping[str, str] = field(default_factory=dict)
    writing: str = ""
    seen: Seen | None = None
    notes: tuple[str, ...] = ()
    first_s: float | None = None
    total_s: float | None = None
    prediction: Prediction | None = None

    def apply(self, event: Seen | Event | Done, at_s: float) -> Answer:
        match event:
            case Seen():
                return replace(self, seen=event, notes=tuple(event.notes))
            case Event():
                texts = {**self.texts, event.section: self.texts.get(event.section, "") + event.text}
                first_s = at_s if self.first_s is None else self.first_s
                return replace(self, texts=texts, writing=event.section, first_s=first_s)
            case Done():
                # The parser may tidy at the end of the text what it had to show while it streamed.
                said = event.prediction.annotation
                final = {section: getattr(said, section) for section in SECTIONS if section != "emotion"}
                final["emotion"] = ", ".join(said.emotion)
                texts = {section: final[section] or self.texts.get(section, "") for section in SECTIONS}
                return replace(
                    self,
                    texts={section: text for section, text in texts.items() if text},
                    writing="",
                    notes=tuple(dict.fromkeys((*self.notes, *event.prediction.notes))),
                    total_s=at_s,
                    prediction=event.prediction,
                )
        raise TypeError(f"{event!r} is not an event of an answer; it must be a Seen, an Event or a Done")

    @property
    def language(self) -> str:
        """Of what was said: "zh" where a Chinese character stands in it."""
        return "zh" if any(_CHINESE.search(text) for text in self.texts.values()) else "en"

    @property
    def relation(self) -> str:
        said = self.texts.get("relation", "").strip().lower()
        return said if said in RELATIONS else ""

    @property
    def emotions(self) -> tuple[str, ...]:
        labels = re.split(r"[,，、]", self.texts.get("emotion", ""))
        return tuple(label.strip() for label in labels if label.strip())

    def sure(self, section: str) -> float | None:
        """Confidence in 0 to 1 (``saber/model/confidence.py``)."""
        known = self.prediction.log_probabilities.get(section) if self.prediction else None
        return math.exp(known["mean"]) if known else None


@dataclass(frozen=True)
class PageState:
    """What one visitor sees.

    ``phase``: empty, waiting (asked, the clip is being read), queued, looking (the model has it, no text yet), writing,
    done, stopped or failed. ``run``: the id of this run. ``clip_path``, ``start_s``, ``end_s`` (None: its end),
    ``length_s`` (None: not known), ``answer_in`` ("en", "zh", or None: like the clip), ``tracks``: what was asked.
    ``language``: of the page's own words. ``asking``: the tracks of the answer that is being written, which is not
    ``tracks`` where the clip is asked about again without one of them; ``answers``: by tracks. ``title``: who speaks;
    ``trained_on``: language -> what it learned from. ``before``: how many are served first. ``problem``: reason, or
    sentence, of a failed run.
    """

    phase: str = "empty"
    run: str = ""
    clip_path: str = ""
    start_s: float = 0.0
    end_s: float | None = None
    length_s: float | None = None
    answer_in: str | None = None
    tracks: str = "both"
    asking: str = "both"
    language: str = "en"
    title: str = ""
    trained_on: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    look: Look | None = None
    before: int = 0
    problem: Exception | str = ""

    @property
    def busy(self) -> bool:
        """A run is under way: it can be stopped, and none can be started."""
        return self.phase in ("waiting", "queued", "looking", "writing")

    @property
    def answer(self) -> Answer:
        """The one that the cards show."""
        return self.answers.get(self.tracks, Answer())

    @property
    def again(self) -> bool:
        """The run asks once more about a clip that is answered, without one of its tracks."""
        return self.asking != self.tracks

    @property
    def can_mute(self) -> bool:
        """The whole answer is there, and the clip has both tracks to choose from."""
        seen = self.answer.seen
        both = seen is not None and seen.frames and seen.audio_s
        return self.tracks == "both" and self.answer.prediction is not None and bool(both)

    def begin(self, clip_path: str | None, run: str, **asked: Any) -> PageState:
        """The state right after "Analyse": everything of the last run is gone; without a clip it has failed.
        ``asked``: start_s, end_s, length_s, answer_in, tracks."""
        kept = dict(language=self.language, title=self.title, trained_on=self.trained_on)
        fresh = PageState(run=run, clip_path=clip_path or "", asking=asked.get("tracks", "both"), **kept, **asked)
        return replace(fresh, phase="waiting") if clip_path else fresh.fail("no_clip")

    def begin_again(self, tracks: str, run: str) -> PageState:
        """The state right after the clip is asked about without a track: the answers so far stay."""
        answers = {known: answer for known, answer in self.answers.items() if known != tracks}
        return replace(self, phase="waiting", run=run, asking=tracks, answers=answers, problem="")

    def apply(self, event: Looked | Queued | Seen | Event | Done, at_s: float = 0.0) -> PageState:
        """The next state. ``at_s``: seconds since the run began. Raises TypeError for anything but an event."""
        match event:
            case Looked():
                return replace(self, look=event.look)
            case Queued():
                return replace(self, phase="queued", before=event.before)
            case Event() if not event.text:
                return self
        answer = self.answers.get(self.asking, Answer()).apply(event, at_s)
        phase = "looking" if isinstance(event, Seen) else "done" if isinstance(event, Done) else "writing"
        return replace(self, phase=phase, answers={**self.answers, self.asking: answer})

    def stop(self, at_s: float | None = None) -> PageState:
        """The visitor stopped the run: what was written stays. Nothing happens where no run is under way."""
        return self._end("stopped", at_s) if self.busy else self

    def fail(self, problem: Exception | str) -> PageState:
        """The run ended with a problem: a MediaError, a NoRoom, a Refused, or a key of the page's words."""
        return replace(self._end("failed"), problem=problem)

    def _end(self, phase: str, at_s: float | None = None) -> PageState:
        answers = dict(self.answers)
        if self.asking in answers:
            answer = answers[self.asking]
            answers[self.asking] = replace(answer, writing="", total_s=answer.total_s if at_s is None else at_s)
        return replace(self, phase=phase, answers=answers)


def follow(
    desk: Desk,
    state: PageState,
    *,
    visitor: str = "",
    stopped: Callable[[], bool] = lambda: False,
    every_s: float = 0.08,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[PageState]:
    """Serves what ``state`` (of phase waiting) asks and yields page states; the last is done, stopped or failed.

    A page takes time to draw, which a model on the same machine lacks: after a state that took ``t`` seconds until the
    next was asked for, at least ``every_s`` and three times ``t`` pass. While others are served, a state comes at least
    every ``desk.WAIT_S`` seconds, so that a visitor who has left is noticed. ``stopped`` is asked before each token:
    once it is true the model is stopped and what was written stays. Closing this generator stops the model as well. A
    bad clip ends in its plain sentence, a bug in a plain apology and a traceback in the log: a visitor never sees one.
    """
    began = clock()
    next_at = -math.inf
    held = False
    # Named by its file: the path is this machine's.
    clip = Clip(state.clip_path, state.start_s, state.end_s, id=PurePath(state.clip_path).name)
    # Without its sound a clip has no language to follow: it is asked again in that of its answer.
    language = state.answer_in or (state.answer.language if state.again else None)
    ask = Ask(clip, language, state.asking, visitor, state.look if state.again else None, stopped)
    try:
        if not stopped():
            with closing(desk.serve(ask)) as events:
                for event in events:
                    if stopped():
                        break
                    now = clock()
                    before, state = state, state.apply(event, now - began)
                    # What was measured is drawn with the next that comes, which is at once.
                    held = held or (state is not before and not isinstance(event, Looked))
                    turned = state.phase != before.phase or isinstance(event, Queued)
                    if held and (turned or now >= next_at):
                        yield state
                        drawn_at, held = clock(), False
                        next_at = drawn_at + max(every_s, DRAW_SHARE * (drawn_at - now))
        if state.busy:
            yield state.stop(clock() - began)
    except (media.MediaError, Refused, NoGpu) as error:
        yield state.fail(error)
    except NoRoom as error:
        _log.warning("%s", error)
        yield state.fail("no_room")
    except Exception:
        # The page is the last place that can tell the visitor anything; the cause goes to the log, without the clip.
        _log.exception("an analysis failed")
        yield state.fail("bug")


def problem_sentence(problem: Exception | str, language: str) -> str:
    """What went wrong, in one plain sentence or two."""
    if isinstance(problem, media.MediaError):
        return media_sentence(problem, language)
    if isinstance(problem, Refused):
        return say(language, problem.reason, limit=problem.limit)
    if isinstance(problem, NoGpu):
        return say(language, "no_gpu", told=str(problem))
    return say(language, problem)


def render(state: PageState) -> dict[str, str]:
    """Every changing part of the page -> its HTML, for the names in PARTS."""
    parts = {"status": render_status(state), "facts": render_facts(state), "mute": render_mute(state)}
    for group in GROUPS:
        parts[f"group-{group}"] = render_group(state, group)
    for name in ("strip", "signals"):
        parts[name] = state.look.figure(name, state.language) if state.look else ""
    return parts


def render_group(state: PageState, group: str) -> str:
    """What is seen, what is heard, or what it means: a heading and its cards."""
    cards = "".join(f'<div id="card-{card}">{render_card(state, card)}</div>' for card in GROUPS[group])
    title = _escape(say(state.language, group))
    return (
        f'<section class="group group-{group}"><h2 lang="{_lang(state)}">{title}</h2>'
        f'<div class="cards">{cards}</div></section>'
    )


def render_card(state: PageState, card: str) -> str:
    """One card: its title, how sure the model was, its text or a quiet placeholder, and why it is empty where that is
    known."""
    answer, holds = state.answer, VERDICT if card == "verdict" else (card,)
    writing = answer.writing in holds
    written = any(answer.texts.get(section, "").strip() for section in holds)
    if card == "verdict" and written:
        body = "".join(_verdict_row(state, answer, section) for section in holds) + _learned_from(state)
    elif written:
        body = f'<p class="text" lang="{LANG[answer.language]}">{_prose(answer.texts[card])}</p>'
    else:
        body = f'<p class="quiet">{_escape(_why_empty(state, card))}</p>'
    kind = "writing" if writing else "written" if written else "empty"
    mark = ' aria-current="step" aria-busy="true"' if writing else ' aria-busy="false"'
    sure = "" if card == "verdict" else _sure(state, answer, card)
    return (
        f'<article class="card is-{kind}" data-section="{card}" lang="{_lang(state)}" aria-labelledby="title-{card}"'
        f'{mark}><header><h3 id="title-{card}">{_escape(say(state.language, card))}</h3>{sure}</header>{body}</article>'
    )


def render_status(state: PageState) -> str:
    """One sentence: where the run stands, or what went wrong."""
    language = state.language
    answer = state.answers.get(state.asking, Answer())
    if state.phase == "failed":
        text = problem_sentence(state.problem, language)
    elif state.phase == "writing":
        card = "verdict" if answer.writing in VERDICT else answer.writing
        text = say(language, "writing", section=say(language, card))
    elif state.phase == "queued":
        text = say(language, "queued", count=state.before)
    else:
        relation = answer.relation if state.phase == "done" and not state.again else ""
        text = say(language, f"done_{relation}" if relation else state.phase)
    if state.again:
        text = say(language, "again", what=say(language, state.asking), status=text)
    return f'<p class="status is-{state.phase}" data-phase="{state.phase}" lang="{_lang(state)}">{_escape(text)}</p>'


def render_facts(state: PageState) -> str:
    """What the model was given, how long it took, how sure it was, and the notes; empty before a clip was read."""
    answer, language = state.answer, state.language
    if answer.seen is None:
        return ""
    seen = answer.seen
    things = [say(language, "frames", count=seen.frames)] if seen.frames else []
    things += [say(language, "video_s", seconds=seen.video_s)] if seen.video_s else []
    things += [say(language, "audio_s", seconds=seen.audio_s)] if seen.audio_s else []
    things += [say(language, "prompt_tokens", count=seen.prompt_tokens)]
    sentences = [part_sentence(state, seen)] if state.start_s or state.end_s is not None else []
    sentences += [say(language, "saw", things=say(language, "list").join(things))]
    times = [say(language, "first_s", seconds=answer.first_s)] if answer.first_s is not None else []
    if answer.total_s is not None:
        times.append(say(language, "total_s" if answer.prediction else "so_far_s", seconds=answer.total_s))
    if times:
        text = say(language, "clauses").join(times)
        sentences.append(say(language, "sentence", text=text[0].upper() + text[1:]))
    sure = [
        say(language, "sure_one", section=say(language, section), percent=100 * confidence)
        for section in SECTIONS
        if (confidence := answer.sure(section)) is not None
    ]
    sentences += [say(language, "sure_of", things=say(language, "list").join(sure))] if sure else []
    told = [note_sentence(note, language) for note in answer.notes if note not in _ON_CARDS]
    notes = "".join(f"<li>{_escape(note)}</li>" for note in told)
    return (
        f'<p class="facts" lang="{_lang(state)}">{_escape((" " if language == "en" else "").join(sentences))}</p>'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def part_sentence(state: PageState, seen: Seen) -> str:
    """Which seconds of the clip were read."""
    read_s = max(seen.video_s, seen.audio_s)
    end_s = min(state.start_s + read_s, state.end_s or math.inf)
    return say(state.language, "part_read", start=state.start_s, end=end_s, length=state.length_s or end_s)


def render_mute(state: PageState) -> str:
    """The verdicts with and without a track, side by side, and what they mean once all three are there."""
    if not state.can_mute:
        return ""
    language = state.language
    answers = [state.answers.get(tracks, Answer()) for tracks in TRACKS]
    text = say(language, f"carried_{carries(*answers)}" if all(a.prediction for a in answers) else "mute_words")
    verdicts = "".join(f'<div id="mute-{tracks}">{render_verdict(state, tracks)}</div>' for tracks in TRACKS)
    return (
        f'<section class="group group-mute" lang="{_lang(state)}"><h2>{_escape(say(language, "mute"))}</h2>'
        f'<p class="quiet">{_escape(text)}</p><div class="cards">{verdicts}</div></section>'
    )


def carries(both: Answer, picture: Answer, sound: Answer) -> str:
    """What carries the verdict: "picture", "sound", "either" or "together". A verdict stays where one of its emotions
    is named again."""

    def named(answer: Answer) -> set[str]:
        return {label.casefold() for label in answer.emotions}

    by_picture, by_sound = (bool(named(both) & named(answer)) for answer in (picture, sound))
    return {(1, 0): "picture", (0, 1): "sound", (1, 1): "either", (0, 0): "together"}[by_picture, by_sound]


def render_verdict(state: PageState, tracks: str) -> str:
    """The verdict that the clip got with these tracks, as one of three side by side."""
    answer, language = state.answers.get(tracks, Answer()), state.language
    running = state.busy and state.asking == tracks
    if answer.prediction:
        # With one track alone there is nothing for it to agree with.
        rows = VERDICT if tracks == "both" else ("emotion",)
        body = "".join(_verdict_row(state, answer, section) for section in rows)
        body += f'<p class="text" lang="{LANG[answer.language]}">{_prose(answer.texts.get("reasoning", ""))}</p>'
    else:
        text = answer.texts.get(answer.writing, "") or say(
            language, state.phase if running else "not_asked", count=state.before
        )
        body = f'<p class="quiet">{_prose(text)}</p>'
    mark = ' aria-busy="true"' if running else ' aria-busy="false"'
    title = f'<h3 id="title-mute-{tracks}">{_escape(say(language, tracks))}</h3>'
    kind = "writing" if running else "written" if answer.prediction else "empty"
    return (
        f'<article class="card is-{kind}" data-verdict="{tracks}" lang="{_lang(state)}" '
        f'aria-labelledby="title-mute-{tracks}"{mark}>{title}{body}</article>'
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
    data = _data(about.get("trained_on") or {}, language)
    second = say(language, "trained_on", data=data) if data else say(language, "trained_on_unknown")
    text = (" " if language == "en" else "").join((first, second, say(language, "no_judge")))
    return f'<p class="about" lang="{LANG[language]}">{_escape(text)}</p>'


def render_masthead(about: Mapping[str, Any], language: str) -> str:
    """The page's title, what it does, and who speaks."""
    headline, lede = (_escape(say(language, key)) for key in ("headline", "lede"))
    return (
        f'<header class="masthead" lang="{LANG[language]}"><div><p class="kicker">SABER</p><h1>{headline}</h1>'
        f'<p class="lede">{lede}</p></div>{render_about(about, language)}</header>'
    )


def render_foot(language: str, minutes: float, shared: bool) -> str:
    """What it is not for, the law, consent, and where a clip goes. ``minutes``: how long a clip is kept at most."""
    keys = ("foot_for", "foot_law", "foot_consent", "foot_clip", *["foot_share"] * shared)
    words = "".join(f"<p>{_escape(say(language, key, minutes=minutes))}</p>" for key in keys)
    link = f'<p><a href="#api">{_escape(say(language, "foot_api"))}</a></p>'
    title = _escape(say(language, "foot"))
    return f'<footer class="foot" lang="{LANG[language]}"><h2>{title}</h2>{words}{link}</footer>'


def render_part(language: str, start_s: float, end_s: float, length_s: float, limit_s: float) -> str:
    """Which part of the clip will be read; for a clip longer than the limit, that it is only a part."""
    key = "part_long" if length_s > limit_s + 0.1 else "part_words"
    text = say(language, key, start=start_s, end=end_s, length=length_s, limit=limit_s)
    return f'<p class="quiet" lang="{LANG[language]}">{_escape(text)}</p>'


def fit_part(start_s: float, end_s: float, length_s: float, limit_s: float, moved: str) -> tuple[float, float]:
    """The part after one of its ends ("start", "end") was moved: the other end follows, so that it is at least half a
    second and at most ``limit_s`` long and lies inside the clip."""
    least = min(0.5, length_s)
    if moved == "start":
        start_s = max(0.0, min(start_s, length_s - least))
        end_s = min(length_s, max(start_s + least, min(end_s, start_s + limit_s)))
    else:
        end_s = min(length_s, max(end_s, least))
        start_s = max(0.0, min(end_s - least, max(start_s, end_s - limit_s)))
    return round(start_s, 3), round(end_s, 3)


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


def _lang(state: PageState) -> str:
    return LANG[state.language]


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _prose(text: str) -> str:
    """Escaped text of a model; sound events such as <laugh> stay readable and get their own look."""
    return _SOUND_EVENT.sub(lambda found: f'<span class="sound-event">{found[0]}</span>', _escape(text.strip()))


def _data(trained_on: Mapping[str, str], language: str) -> str:
    return str(trained_on.get(language, "")).strip().rstrip(".。")


def _learned_from(state: PageState) -> str:
    data = _data(state.trained_on, state.language)
    text = say(state.language, "learned_from", title=state.title, data=data) if data and state.title else ""
    return f'<p class="caution">{_escape(text)}</p>' if text else ""


def _sure(state: PageState, answer: Answer, section: str) -> str:
    confidence = answer.sure(section)
    if confidence is None:
        return ""
    return f'<p class="sure">{_escape(say(state.language, "sure", percent=100 * confidence))}</p>'


def _verdict_row(state: PageState, answer: Answer, section: str) -> str:
    text, language = answer.texts.get(section, "").strip(), state.language
    if not text:
        body = f'<span class="quiet">{_escape("" if state.busy and not state.again else _ended(state))}</span>'
    elif section == "emotion":
        body = " ".join(
            f'<span class="badge" lang="{LANG[answer.language]}">{_escape(label)}</span>' for label in answer.emotions
        )
    elif answer.relation:
        body = f'<span class="badge is-{answer.relation}">{_escape(say(language, answer.relation))}</span>'
        if answer.writing != section and len(named := cues(answer.texts)) == 2:
            key = "clash" if answer.relation == "conflict" else "match"
            body += f'<span class="cues" lang="{LANG[answer.language]}">{_escape(say(language, key, **named))}</span>'
    else:
        body = f'<span class="text">{_prose(text)}</span>'
    title = _escape(say(language, section))
    return f'<dl data-section="{section}"><dt>{title}</dt><dd>{body}{_sure(state, answer, section)}</dd></dl>'


def _ended(state: PageState) -> str:
    return say(state.language, "not_stated" if state.answer.prediction else "not_reached")


def _why_empty(state: PageState, card: str) -> str:
    """The placeholder of a card without text: the missing track first, then how far the run came."""
    language, seen = state.language, state.answer.seen
    if card in VISUAL and state.tracks == "sound" and state.phase != "empty":
        return say(language, "sound_only")
    if card in ACOUSTIC and state.tracks == "picture" and state.phase != "empty":
        return say(language, "picture_only")
    if seen is not None and card in VISUAL and not seen.frames:
        return say(language, "no_picture")
    if seen is not None and card in ACOUSTIC and not seen.audio_s:
        return say(language, "no_sound")
    if state.answer.prediction or state.phase == "stopped":
        return _ended(state)
    return say(language, f"hint_{card}")
