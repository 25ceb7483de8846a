"""The page without a browser: events in, HTML out. ``tests/test_browser.py`` holds what needs a real one."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saber import media, sections
from saber.media import Decoded, Facts, MediaError
from saber.model import Done, NoRoom, Seen, Settings
from saber.page import cues, line, report, signals, texts, view, visits
from saber.page.desk import Ask, Desk, Look, Looked, Queued
from saber.schema import SECTIONS, TRACKS, Annotation, Clip, Prediction
from saber.sections import Event

BOTH = Seen(frames=6, video_s=3.0, audio_s=3.2, prompt_tokens=234, video_tokens=48, audio_tokens=75)
ANNOTATION = Annotation(
    scene="A kitchen.", face="A smile.", body="Crossed arms.", speech="<sigh> Well done.", prosody="Low and flat.",
    reasoning="The praise is meant as its opposite.", relation="conflict", emotion=("contempt", "anger"),
)  # fmt: skip


def event(section: str, text: str) -> Event:
    return Event(section, text, text)


def done(annotation: Annotation = ANNOTATION, notes: Sequence[str] = (), **values: object) -> Done:
    return Done(Prediction(clip="clip", annotation=annotation, notes=tuple(notes), **values))


def asked(language: str = "en", tracks: str = "both", **values: object) -> view.PageState:
    """A run on a page in ``language``, whose answer is to be like the clip unless ``values`` say otherwise."""
    return view.PageState(language=language).begin("clip.mp4", "run-1", tracks=tracks, **values)


def after(*events: object, language: str = "en", tracks: str = "both", **values: object) -> view.PageState:
    state = asked(language, tracks, **values)
    for second, item in enumerate(events):
        state = state.apply(item, float(second))
    return state


def text_of(html: str) -> str:
    """What a reader sees: the HTML's text, unescaped, runs of white space as one."""
    pieces: list[str] = []
    parser = HTMLParser()
    parser.handle_data = pieces.append
    parser.feed(html)
    parser.close()
    return " ".join("".join(pieces).split())


def card(state: view.PageState, name: str) -> str:
    return view.render_card(state, name)


def cards(state: view.PageState) -> str:
    """All seven, in reading order."""
    return "".join(view.render(state)[f"group-{group}"] for group in view.GROUPS)


RATE = 16000


def clip_of(seconds: float = 1.0, picture: bool = True, sound: bool = True, hertz: float = 200.0) -> Decoded:
    """A decoded clip: grey frames, and a tone with overtones."""
    frames = np.full((4, 28, 56, 3), 128, np.uint8) if picture else None
    times = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * hertz * k * times) / k for k in (1, 2, 3, 4)).astype(np.float32) * 0.2
    return Decoded(
        frames=frames, frame_times_s=np.arange(4) * seconds / 4 if picture else np.zeros(0), fps=4 / seconds,
        audio=tone if sound else None, duration_s=seconds, facts=Facts(has_video=picture, has_audio=sound),
        picture_s=seconds if picture else 0.0, sound_s=seconds if sound else 0.0,
    )  # fmt: skip


class ScriptedEngine:
    """Yields what it is given, raises what it is given, and knows whether its answer was closed."""

    def __init__(self, script: Sequence[object]) -> None:
        self.script, self.calls, self.closed, self.given, self.decoded = script, [], False, 0, []
        self.each = lambda: None
        self.checkpoint = type("Checkpoint", (), {"settings": Settings(max_new_tokens=512)})

    def decode(self, clip: Clip, tracks: str = "both") -> Decoded:
        if self.script and isinstance(self.script[0], MediaError):
            raise self.script[0]
        self.decoded.append((clip.path, clip.start_s, clip.end_s, tracks))
        return clip_of().only(tracks)

    def answer(self, decoded: Decoded, clip: str, language: str | None, tracks: str) -> Iterator[object]:
        self.calls.append((clip, language, tracks, decoded.frames is not None, decoded.audio is not None))
        self.held = self._play()  # held here, so that only an explicit close ends it
        return self.held

    def _play(self) -> Iterator[object]:
        try:
            for item in self.script:
                if isinstance(item, Exception):
                    raise item
                self.given += 1
                self.each()
                yield item
        finally:
            self.closed = True


class Clock:
    """Time that moves a step with each piece of a script, and stands still while the page draws."""

    def __init__(self, engine: ScriptedEngine, step_s: float) -> None:
        self.now, engine.each = 0.0, lambda: setattr(self, "now", self.now + step_s)

    def __call__(self) -> float:
        return self.now


# Words


def test_both_languages_have_the_same_keys_and_the_same_fields():
    def fields(text: str | tuple[str, str]) -> set[str]:
        return set(re.findall(r"{(\w+)", "".join(text)))

    english, chinese = texts.WORDS["en"], texts.WORDS["zh"]
    assert english.keys() == chinese.keys()
    assert {key: fields(text) for key, text in english.items()} == {key: fields(text) for key, text in chinese.items()}


def test_one_frame_is_singular():
    assert texts.say("en", "frames", count=1) == "1 frame"
    assert texts.say("en", "frames", count=2) == "2 frames"


# Cards


def test_every_section_has_a_card_in_the_order_of_the_text():
    assert view.CARDS == ("scene", "face", "body", "speech", "prosody", "reasoning", "verdict")
    html = cards(view.PageState())
    assert re.findall(r'<article[^>]*data-section="(\w+)"', html) == list(view.CARDS)
    shown = cards(after(BOTH, *(event(section, f"said {section}") for section in SECTIONS)))
    assert [section for section in SECTIONS if f"said {section}" not in text_of(shown)] == []


def test_every_changing_part_is_rendered_under_its_name():
    assert tuple(sorted(view.render(view.PageState()))) == tuple(sorted(view.PARTS))


def test_an_empty_page_has_a_quiet_placeholder_in_every_card():
    state = view.PageState()
    for name in view.CARDS:
        assert 'class="quiet"' in card(state, name) and "is-empty" in card(state, name)
        assert texts.say("en", f"hint_{name}") in text_of(card(state, name))
    assert text_of(view.render_status(state)) == "Choose or record a clip, then analyse it."
    assert view.render_facts(state) == ""


@given(st.lists(st.tuples(st.sampled_from(SECTIONS), st.text("ab <&", max_size=4)), max_size=30))
def test_a_card_shows_all_the_text_of_its_section_whatever_the_order_of_events(pieces):
    state = after(BOTH, *(event(section, text) for section, text in pieces))
    for section in ("scene", "face", "body", "speech", "prosody", "reasoning"):
        said = "".join(text for name, text in pieces if name == section)
        if said.strip():
            assert text_of(card(state, section)).endswith(" ".join(said.split()))
    last = next((section for section, text in reversed(pieces) if text), "")
    assert state.answer.writing == last


def test_only_the_card_being_written_is_marked():
    for section in SECTIONS:
        state = after(BOTH, event("scene", "A kitchen."), event(section, "text"))
        marked = [name for name in view.CARDS if 'aria-current="step"' in card(state, name)]
        assert marked == ["verdict" if section in ("relation", "emotion") else section]
        assert [name for name in view.CARDS if 'aria-busy="true"' in card(state, name)] == marked
        assert [name for name in view.CARDS if "is-writing" in card(state, name)] == marked
    assert "aria-current" not in cards(state.apply(done()))


def test_markup_alone_changes_nothing():
    state = after(BOTH)
    assert state.apply(Event("scene", "", "<scene>")) is state


def test_text_of_the_model_is_escaped():
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quoted"'
    state = after(BOTH, *(event(section, evil) for section in SECTIONS))
    for html in (cards(state), cards(state.apply(done(notes=[evil])))):
        assert "<script" not in html and "<img" not in html
    assert evil in text_of(card(state, "scene"))
    assert "<img" not in view.render_facts(after(BOTH, done(notes=[evil])))
    assert "<script" not in view.render_about({"title": evil, "trained_on": {"en": evil}})
    named = view.render_status(state.fail(MediaError("crashed", evil, {"how": evil})))
    assert "<img" not in named and "<script" not in named
    whole = state.apply(done(Annotation(**dict.fromkeys(("scene", "reasoning"), evil), emotion=(evil,))))
    whole = replace(whole, clip_path=f"{evil}.mp4", title=evil, trained_on={"en": evil})
    for html in (report.report_page(whole), report.render_actions(whole), view.render_card(whole, "verdict")):
        assert "<script>" not in html and "<img src=x" not in html


@pytest.mark.parametrize("sound", ["<laugh>", "<sigh>", "<笑声>", "<short laugh>"])
def test_sound_events_stay_readable(sound):
    html = card(after(BOTH, event("speech", f"{sound} Well done.")), "speech")
    assert text_of(html).endswith(f"{sound} Well done.")
    assert f'<span class="sound-event">&lt;{sound[1:-1]}&gt;</span>' in html


def test_text_that_only_looks_like_a_sound_event_is_not_dressed_up():
    assert "sound-event" not in card(after(BOTH, event("reasoning", "a < b and b > a; <3")), "reasoning")


def test_the_verdict_shows_relation_and_emotions_as_badges():
    html = card(after(BOTH, event("relation", "conflict"), event("emotion", "contempt, suppressed anger")), "verdict")
    assert 'badge is-conflict">disagree<' in html
    assert re.findall(r'badge" lang="en">([^<]+)<', html) == ["contempt", "suppressed anger"]
    assert 'badge is-consistent">agree<' in card(after(BOTH, event("relation", "consistent")), "verdict")


def test_a_relation_half_written_is_text_and_not_yet_a_badge():
    html = card(after(BOTH, event("relation", "con")), "verdict")
    assert "badge" not in html and "con" in text_of(html)


def test_what_the_model_did_not_state_is_said_to_be_not_stated():
    state = after(BOTH, event("reasoning", "Sad."), done(Annotation(reasoning="Sad.")))
    assert "Not stated." in text_of(card(state, "scene")) and "Not stated." in text_of(card(state, "verdict"))
    state = after(BOTH, event("relation", "conflict"), done(Annotation(relation="conflict")))
    assert text_of(card(state, "verdict")).endswith("Not stated.")
    assert text_of(view.render_status(after(BOTH, done(Annotation(scene="A kitchen."))))) == "Done."


def test_the_end_replaces_a_section_by_its_tidied_text_and_keeps_what_only_streamed():
    streamed = (event("scene", "  A kitchen.\n"), event("face", "A smile."))
    state = after(BOTH, *streamed, done(Annotation(scene="A kitchen.")))
    assert state.answer.texts == {"scene": "A kitchen.", "face": "A smile."}


def test_anything_but_an_event_is_refused():
    with pytest.raises(TypeError, match="not an event"):
        view.PageState().apply("text")


# Missing tracks


def test_a_clip_without_sound_says_so_on_the_cards_of_what_is_heard():
    state = after(Seen(6, 3.0, 0.0, 100, 48, 0, notes=("no_sound",)), done(Annotation(scene="A kitchen.")))
    for name in ("speech", "prosody"):
        assert "The clip has no sound." in text_of(card(state, name))
    assert "no sound" not in text_of(card(state, "face"))
    assert "s of sound" not in text_of(view.render_facts(state))
    assert "<li>" not in view.render_facts(state)  # the cards have said it


def test_a_clip_without_picture_says_so_on_the_cards_of_what_is_seen():
    state = after(Seen(0, 0.0, 3.0, 100, 0, 75, notes=("no_picture",)))
    for name in ("scene", "face", "body"):
        assert "The clip has no picture." in text_of(card(state, name))
    assert "no picture" not in text_of(card(state, "speech"))


@pytest.mark.parametrize(
    ("tracks", "silent", "why"),
    [("sound", ("scene", "face", "body"), "sound_only"), ("picture", ("speech", "prosody"), "picture_only")],
)
def test_a_track_that_was_not_asked_for_is_told_apart_from_one_that_is_missing(tracks, silent, why):
    for state in (asked(tracks=tracks), after(BOTH, done(Annotation(reasoning="Sad.")), tracks=tracks)):
        for name in view.CARDS:
            assert (texts.say("en", why) in text_of(card(state, name))) == (name in silent)


def test_what_the_model_writes_about_a_missing_track_is_shown():
    state = after(Seen(6, 3.0, 0.0, 100, 48, 0), event("speech", "No sound can be heard."))
    assert text_of(card(state, "speech")).endswith("No sound can be heard.")


# Status, facts, notes


def test_the_status_follows_the_run():
    state, seen = asked(), []
    for item in (None, Queued(2), BOTH, event("scene", "A kitchen."), event("emotion", "anger"), done()):
        state = state.apply(item) if item else state
        seen.append((state.phase, state.busy, text_of(view.render_status(state))))
    assert seen == [
        ("waiting", True, "Reading the clip."),
        ("queued", True, "2 visitors are before you."),
        ("looking", True, "Looking and listening."),
        ("writing", True, "Writing: Scene."),
        ("writing", True, "Writing: Verdict."),
        ("done", False, "Done. Face and voice disagree."),
    ]


def test_the_facts_tell_what_the_model_was_given_and_the_time():
    assert text_of(view.render_facts(after(BOTH, event("scene", "A"), event("face", "B"), done()))) == (
        "The model was given 6 frames, 3.0 s of picture, 3.2 s of sound, 234 tokens. "
        "First words after 1.0 s, whole answer in 3.0 s."
    )


def test_every_note_has_a_sentence_in_both_languages():
    for key in (*media.NOTES, *sections.NOTES, "answer_cut_off"):
        for language in ("en", "zh"):
            sentence = view.note_sentence(key, language)
            assert sentence != key and "{" not in sentence
    listed = view.render_facts(after(BOTH, done(notes=["no_structure", "damaged"])))
    assert listed.count("<li>") == 2 and sections.NOTES["no_structure"]["en"] in text_of(listed)


def test_stopping_keeps_what_was_written():
    state = after(BOTH, event("scene", "A kitchen.")).stop()
    assert state.phase == "stopped" and not state.busy
    assert text_of(card(state, "scene")).endswith("A kitchen.") and "aria-current" not in cards(state)
    assert text_of(card(state, "face")).endswith("Not reached.")


@pytest.mark.parametrize("state", [view.PageState(), after(BOTH, done()), asked().fail("Bad clip.")])
def test_stopping_does_nothing_where_nothing_runs(state):
    assert state.stop() is state


def test_a_new_run_forgets_the_last_one():
    old = replace(after(BOTH, event("scene", "A kitchen."), done(), language="zh"), title="Tiny")
    state = old.begin("b.mp4", "run-2", answer_in="en", tracks="sound")
    assert state == view.PageState(
        "waiting", "run-2", "b.mp4", answer_in="en", tracks="sound", asking="sound", language="zh", title="Tiny"
    )


def test_without_a_clip_the_page_asks_for_one():
    state = view.PageState().begin(None, "run-1")
    assert state.phase == "failed" and "There is no clip yet." in text_of(view.render_status(state))


# Chinese


def test_a_chinese_answer_is_headed_in_chinese():
    state = after(BOTH, event("scene", "厨房。"), event("relation", "conflict"), done(), language="zh")
    assert text_of(card(state, "face")).startswith("面部")
    assert 'lang="zh-Hans"' in card(state, "face")
    assert text_of(view.render_status(state)) == "完成。表情与声音不一致。"
    assert "6 帧、3.0 秒画面、3.2 秒声音、234 个词元" in text_of(view.render_facts(state))
    assert text_of(view.render(state)["group-heard"]).startswith("听到的")


def test_the_answers_language_is_marked_on_its_text_and_the_pages_on_the_card():
    html = card(after(BOTH, event("scene", "厨房"), language="en"), "scene")
    assert '<article class="card is-writing" data-section="scene" lang="en"' in html and "Scene" in html
    assert '<p class="text" lang="zh-Hans">厨房</p>' in html


def test_chinese_emotion_labels_are_separate_badges():
    html = card(after(BOTH, event("emotion", "轻蔑，愤怒、悲伤"), language="zh"), "verdict")
    assert re.findall(r'badge" lang="zh-Hans">([^<]+)<', html) == ["轻蔑", "愤怒", "悲伤"]


# Who speaks


def test_the_page_says_which_model_speaks_what_it_learned_from_and_that_it_is_no_judge():
    about = {"title": "SABER-Mini", "parameters": 6_500_000, "trained_on": {"en": "drawn faces and synthetic voices."}}
    said = text_of(view.render_about(about))
    assert "SABER-Mini speaks here, a model of 6.5 million parameters." in said
    assert "trained on drawn faces and synthetic voices. It is no judge of real people" in said
    assert "not recorded" in text_of(view.render_about({"title": "other/model"}))
    assert "8,932 million" in text_of(view.render_about({"title": "7B", "parameters": 8_932_000_000}))


# Following an engine


def test_following_an_engine_ends_with_the_whole_answer():
    engine = ScriptedEngine([BOTH, *(event(section, letter) for section in SECTIONS for letter in "abc"), done()])
    asks = replace(asked(tracks="picture", answer_in="zh"), clip_path="/secret/place/clip.mp4")
    states = list(view.follow(Desk(engine), asks, clock=Clock(engine, 0.001)))
    assert engine.calls == [("clip.mp4", "zh", "picture", True, False)] and engine.closed
    assert engine.decoded == [("/secret/place/clip.mp4", 0.0, None, "picture")]
    assert states[-1].phase == "done" and states[-1].answer.texts["reasoning"] == ANNOTATION.reasoning
    # Time all but stands still, so nothing is drawn between the first words and the end.
    assert [state.answer.writing for state in states] == ["", "scene", ""]
    assert [state.phase for state in states] == ["looking", "writing", "done"] and states[0].look is not None


def test_slow_pieces_are_each_shown():
    engine = ScriptedEngine([BOTH, *(event("scene", letter) for letter in "abcde"), done()])
    states = list(view.follow(Desk(engine), asked(), every_s=0.03, clock=Clock(engine, 0.1)))
    assert [state.answer.texts.get("scene") for state in states[1:-1]] == ["a", "ab", "abc", "abcd", "abcde"]


def test_a_page_that_draws_slowly_leaves_the_model_its_time():
    engine = ScriptedEngine([BOTH, *(event("scene", "a") for _ in range(40)), done()])
    clock, drawn = Clock(engine, 0.1), []
    for state in view.follow(Desk(engine), asked(), clock=clock):
        drawn.append((clock.now, state.phase))
        clock.now += 0.2  # each drawing takes as long as two pieces
    assert drawn[-1][1] == "done" and engine.given == 42
    writing = [at_s for at_s, phase in drawn if phase == "writing"]
    assert min(later - sooner for sooner, later in zip(writing, writing[1:], strict=False)) >= 0.8 - 1e-9
    assert 3 <= len(writing) <= 7


def test_closing_in_the_middle_closes_the_engine_at_once():
    engine = ScriptedEngine([BOTH, *(event("scene", "a") for _ in range(100)), done()])
    states = view.follow(Desk(engine), asked(), clock=Clock(engine, 1.0))
    for _ in range(4):  # seen, and three letters
        next(states)
    states.close()
    assert engine.closed and engine.given == 4


def test_stopping_in_the_middle_stops_the_engine_before_its_next_piece_and_keeps_the_text():
    engine, shown = ScriptedEngine([BOTH, *(event("scene", letter) for letter in "abcdef"), done()]), []
    for state in view.follow(Desk(engine), asked(), stopped=lambda: len(shown) >= 3, clock=Clock(engine, 1.0)):
        shown.append(state)
    assert engine.closed and engine.given == 4
    answer = shown[-1].answer
    assert shown[-1].phase == "stopped" and answer.texts == {"scene": "ab"} and answer.total_s > 0


def test_a_run_stopped_before_its_turn_never_reaches_the_engine():
    engine = ScriptedEngine([BOTH, done()])
    [state] = view.follow(Desk(engine), asked(), stopped=lambda: True)
    assert state.phase == "stopped" and engine.calls == []


@pytest.mark.parametrize("reason", media.REASONS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_bad_clip_gets_its_plain_sentence(reason, language):
    values = dict(length_s=95, limit_s=30.0, size_mb=3000.0, limit_mb=2048.0, width=9000, height=10, limit_pixels=16,
                  limit_side=8192, limit_ratio=64.0, start_s=5.0, end_s=3.0, how="signal 9",
                  path="clip.mp4")  # fmt: skip
    engine = ScriptedEngine([MediaError(reason, "secret-path.mp4", values)])
    [state] = view.follow(Desk(engine), asked(language))
    status = text_of(view.render_status(state))
    assert state.phase == "failed" and status[-1] in ".。"
    assert "secret-path" not in status and "start_s" not in status and "{" not in status
    assert bool(re.search("[\u4e00-\u9fff]", status)) == (language == "zh")


def test_a_clip_without_room_is_told_and_is_no_bug():
    *_, state = view.follow(Desk(ScriptedEngine([NoRoom("this clip takes 90,000 tokens")])), asked("zh"))
    assert state.phase == "failed" and text_of(view.render_status(state)) == texts.say("zh", "no_room")


def test_a_bug_ends_in_an_apology_and_the_cause_in_the_log(caplog):
    engine = ScriptedEngine([BOTH, event("scene", "A kitchen."), RuntimeError("tensor on fire")])
    state = list(view.follow(Desk(engine), asked(), clock=Clock(engine, 1.0)))[-1]
    assert state.phase == "failed" and "Something went wrong on our side" in text_of(view.render_status(state))
    page = "".join(view.render(state).values())
    assert "tensor" not in page and "Traceback" not in page
    assert text_of(card(state, "scene")).endswith("A kitchen.")
    assert "tensor on fire" in caplog.text


# Before the model: the line and the desk


def test_the_line_serves_in_order_of_arrival_and_a_place_is_given_back():
    queue = line.Line(places=3, per_visitor=2)
    with queue.enter("a") as first, queue.enter("b") as second:
        assert (first.wait(), second.wait()) == (0, 1)
        with queue.enter("b") as third:
            assert third.wait() == 2
            with pytest.raises(line.Refused) as refused:
                queue.enter("c")
            assert (refused.value.reason, refused.value.limit) == ("line_full", 3)
    with queue.enter("b"), queue.enter("b"), pytest.raises(line.Refused) as refused:
        queue.enter("b")
    assert (refused.value.reason, refused.value.limit) == ("too_many_at_once", 2)


def test_who_waits_is_told_at_once_when_somebody_before_leaves():
    queue, told = line.Line(), []
    first = queue.enter("a")
    with queue.enter("b") as second:
        waiting = threading.Thread(target=lambda: told.append((second.wait(20.0), time.monotonic())))
        waiting.start()
        began = time.monotonic()
        first.__exit__(None, None, None)
        waiting.join(20)
    assert told[0][0] == 0 and told[0][1] - began < 10
    assert queue.taken == 0


def test_the_desk_reads_while_others_are_served_and_tells_the_place():
    desk = Desk(ScriptedEngine([BOTH, done()]))
    before = desk.line.enter("other")
    events = desk.serve(Ask(Clip("clip.mp4")))
    assert isinstance(next(events), Looked)  # read and measured, though it is not its turn
    assert next(events) == Queued(1) and next(events) == Queued(1)
    before.__exit__(None, None, None)
    assert [type(event) for event in events] == [Seen, Done]
    assert desk.line.taken == 0


def test_whoever_stops_or_leaves_while_waiting_gives_the_place_back():
    desk, flag = Desk(engine := ScriptedEngine([BOTH, done()])), []
    with desk.line.enter("other"):
        events = desk.serve(Ask(Clip("clip.mp4"), stopped=lambda: bool(flag)))
        next(events), next(events)
        flag.append(True)
        assert list(events) == [] and desk.line.taken == 1
        events = desk.serve(Ask(Clip("clip.mp4")))
        next(events), next(events)
        events.close()
        assert desk.line.taken == 1
    assert engine.calls == []


def test_a_refusal_is_a_plain_sentence_in_both_languages():
    desk = Desk(ScriptedEngine([BOTH, done()]), line.Line(places=1))
    with desk.line.enter("other"):
        for language, sentence in (("en", "The line is full: it holds 1 at most."), ("zh", "队列已满（最多 1 位）")):
            [state] = view.follow(desk, asked(language))
            assert state.phase == "failed" and sentence in text_of(view.render_status(state))
    desk = Desk(ScriptedEngine([BOTH, done()]), line.Line(per_visitor=1))
    with desk.line.enter("me"):
        [state] = view.follow(desk, asked(), visitor="me")
    assert "You have 1 in the line already" in text_of(view.render_status(state))


def test_zerogpu_is_asked_for_time_by_the_clip_and_the_answers_bound(monkeypatch):
    durations = []
    monkeypatch.setattr(
        "saber.page.desk.spaces.GPU", lambda duration: durations.append(duration) or (lambda write: write)
    )
    Desk(ScriptedEngine([]))
    short, long = (durations[0](clip_of(seconds), "clip", None, "both") for seconds in (2.0, 30.0))
    assert short == pytest.approx(10 + 1 + 512 / 30) and long == pytest.approx(10 + 15 + 512 / 30)


# Without the sound, without the picture


def answered(both: str, picture: str = "", sound: str = "", **values: object) -> view.PageState:
    state = replace(after(Looked(Look(clip_of())), BOTH, **values), phase="looking")
    state = state.apply(done(Annotation(reasoning="So.", relation="conflict", emotion=(both,))))
    for tracks, emotion in (("picture", picture), ("sound", sound)):
        if emotion:
            state = state.begin_again(tracks, "again").apply(done(Annotation(reasoning="So.", emotion=(emotion,))))
    return state


def test_a_clip_is_asked_about_again_without_reading_it_again():
    engine = ScriptedEngine([BOTH, event("emotion", "joy"), done(Annotation(scene="厨房。", emotion=("joy",)))])
    desk = Desk(engine)
    state = list(view.follow(desk, asked()))[-1]
    assert state.can_mute
    for tracks, picture, sound in (("picture", True, False), ("sound", False, True)):
        states = list(view.follow(desk, state.begin_again(tracks, "run-2")))
        # In the language of the answer: without sound there is none to follow.
        assert engine.calls[-1] == ("clip.mp4", "zh", tracks, picture, sound)
        assert states[-1].answers["both"] is state.answers["both"]
        state = states[-1]
    assert len(engine.decoded) == 1
    assert [state.answers[tracks].prediction is not None for tracks in TRACKS] == [True] * 3


@pytest.mark.parametrize(
    ("verdicts", "carrier"),
    [
        (("anger", "joy", "anger"), "sound"),
        (("joy", "joy", "anger"), "picture"),
        (("joy", "Joy", "joy"), "either"),
        (("sarcasm", "joy", "anger"), "together"),
    ],
)
def test_three_verdicts_side_by_side_tell_what_carries_the_conclusion(verdicts, carrier):
    state = answered(*verdicts)
    for tracks, emotion in zip(TRACKS, verdicts, strict=True):
        assert emotion in text_of(view.render_verdict(state, tracks))
    assert texts.say("en", f"carried_{carrier}") in text_of(view.render(state)["mute"])
    assert texts.say("en", "mute_words") in text_of(view.render(answered(verdicts[0], verdicts[1]))["mute"])


def test_the_cards_keep_the_whole_answer_while_it_is_asked_again():
    state = answered("anger").begin_again("picture", "run-2").apply(BOTH).apply(event("face", "A smile."))
    assert state.busy and "anger" in text_of(card(state, "verdict")) and "A smile." not in text_of(card(state, "face"))
    assert "aria-current" not in cards(state)
    assert "A smile." in text_of(view.render_verdict(state, "picture")) and "Picture alone: Writing: Face." in text_of(
        view.render_status(state)
    )
    stopped = state.stop()
    assert stopped.phase == "stopped" and "Not asked yet." not in text_of(view.render_verdict(stopped, "both"))


@pytest.mark.parametrize("seen", [replace(BOTH, audio_s=0.0), replace(BOTH, frames=0)])
def test_where_a_track_is_missing_there_is_nothing_to_take_away(seen):
    state = after(Looked(Look(clip_of())), seen, done())
    assert not state.can_mute and view.render(state)["mute"] == ""
    assert after(BOTH, done()).can_mute


def test_a_clip_that_is_no_longer_held_is_read_again_and_its_figures_stay():
    engine = ScriptedEngine([BOTH, done()])
    desk = Desk(engine)
    state = list(view.follow(desk, asked()))[-1]
    strip, drawn = state.look.figure("strip", "en"), state.look.figure("signals", "zh")
    state.look.release()
    assert state.look.bytes == 0 and state.can_mute
    assert (state.look.figure("strip", "en"), state.look.figure("signals", "zh")) == (strip, drawn)
    assert state.look.figure("strip", "zh").count("<img") == 4
    list(view.follow(desk, state.begin_again("sound", "run-2")))
    assert engine.decoded[-1][3] == "both" and engine.calls[-1][2:] == ("sound", False, True)


# Parts of a clip


@pytest.mark.parametrize(
    ("moved", "asked_for", "given"),
    [
        ("start", (20.0, 30.0), (20.0, 30.0)),
        ("start", (40.0, 30.0), (40.0, 40.5)),
        ("start", (5.0, 60.0), (5.0, 35.0)),
        ("start", (95.0, 95.0), (94.5, 95.0)),
        ("end", (0.0, 60.0), (30.0, 60.0)),
        ("end", (20.0, 10.0), (9.5, 10.0)),
        ("end", (0.0, 0.0), (0.0, 0.5)),
        ("end", (80.0, 200.0), (80.0, 95.0)),
    ],
)
def test_the_other_end_of_the_part_follows(moved, asked_for, given):
    assert view.fit_part(*asked_for, 95.0, 30.0, moved) == given


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.05, 100), st.sampled_from(["start", "end"]))
def test_any_part_can_be_read(start, end, length, moved):
    start, end = view.fit_part(start, end, length, 30.0, moved)
    assert 0 <= start < end <= length + 1e-3 and end - start <= 30.001


def test_the_page_says_which_part_was_read_and_that_it_is_a_part():
    assert "at most 30 s are read at once" in view.render_part("en", 0, 30, 95.2, 30)
    assert "at most" not in view.render_part("en", 0, 4, 4.2, 30) and "0.0 to 4.0 of 4.2" in view.render_part(
        "en", 0, 4, 4.2, 30
    )
    state = after(BOTH, start_s=12.0, end_s=15.2, length_s=95.0)
    assert text_of(view.render_facts(state)).startswith("Seconds 12.0 to 15.2 of 95.0 were read. The model was given")
    engine = ScriptedEngine([BOTH, done()])
    list(view.follow(Desk(engine), asked(start_s=12.0, end_s=15.2, length_s=95.0)))
    assert engine.decoded == [("clip.mp4", 12.0, 15.2, "both")]


# What the verdict leans on, and how sure


def test_the_badge_names_the_cues_that_clash_in_the_models_own_words():
    said = {"reasoning": "The polite smile and the trembling voice do not agree, so this is masked sadness."}
    html = card(after(BOTH, event("reasoning", said["reasoning"]), event("relation", "conflict"), done(
        Annotation(reasoning=said["reasoning"], relation="conflict", emotion=("sadness",)))), "verdict")  # fmt: skip
    assert "disagree “polite smile” against “trembling voice”" in text_of(html.replace("<", " <"))
    html = card(after(BOTH, done(Annotation(reasoning=said["reasoning"], relation="consistent"))), "verdict")
    assert "agree “polite smile” with “trembling voice”" in text_of(html.replace("<", " <"))


@pytest.mark.parametrize(
    ("reasoning", "seen", "heard"),
    [
        ("礼貌的笑容和难过的声音对不上，整体情绪是掩饰的悲伤。", "礼貌的笑容", "难过的声音"),
        ("His forced grin is contradicted by a flat, weary tone.", "forced grin", "weary tone"),
        ("The face is calm but the voice is not.", "Brows drawn together", "Low and slow"),
        ("", "Brows drawn together", "Low and slow"),
    ],
)
def test_cues_come_from_the_reasoning_or_else_from_the_evidence(reasoning, seen, heard):
    said = {"reasoning": reasoning, "face": "Brows drawn together; the gaze drops.", "prosody": "Low and slow, tense."}
    assert cues.cues(said) == {"seen": seen, "heard": heard}


def test_a_conflict_of_the_studio_always_names_both_cues(clips):
    for clip in clips:
        annotation = Annotation.from_json(clip.metadata)
        if annotation.relation:
            said = {section: getattr(annotation, section) for section in ("face", "prosody", "reasoning")}
            found = cues.cues(said)
            assert set(found) == {"seen", "heard"} and all(cue in annotation.reasoning for cue in found.values())


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_cue_is_always_a_piece_of_what_was_said(reasoning, evidence):
    found = cues.cues({"reasoning": reasoning, "face": evidence, "prosody": evidence})
    for cue in found.values():
        piece = " ".join(cue.removesuffix("…").split())
        assert piece in " ".join(reasoning.split()) or piece in " ".join(evidence.split())
        assert cues.length(cue) <= cues.LONGEST + 40


def test_how_sure_the_model_was_stands_on_each_card_and_in_the_facts():
    known = {
        "face": {"tokens": 9, "mean": np.log(0.5), "least": -3.0},
        "emotion": {"tokens": 1, "mean": 0.0, "least": 0},
    }
    state = after(BOTH, event("face", "A smile."), done(log_probabilities=known))
    assert "50\u00a0% sure" in card(state, "face")
    assert "sure" not in text_of(card(state, "scene")) and "100 % sure" in text_of(card(state, "verdict")).replace(
        "\u00a0", " "
    )
    assert "Face 50\u00a0%, Emotion 100\u00a0%." in view.render_facts(state)


def test_what_the_model_learned_from_stands_beside_the_verdict():
    state = replace(after(BOTH, done()), title="SABER-Mini", trained_on={"en": "drawn faces and synthetic voices."})
    assert "SABER-Mini learned from drawn faces and synthetic voices." in text_of(card(state, "verdict"))
    assert "learned" not in text_of(card(replace(state, trained_on={}), "verdict"))


def test_prose_without_tags_reaches_the_cards_and_the_verdict_is_not_stated():
    from saber.sections import Parser

    prose = (
        "**Video description:** A man sits in a car.\n\n**Facial expression:** He frowns and looks away.\n\n"
        "**Body language:** His hands hold the wheel.\n\n**Speech content:** I am fine.\n\n"
        "**Acoustic features:** The voice is low and slow.\n\n**Sentiment analysis:** The frown and the slow voice "
        "point to sadness that he does not admit."
    )
    parser = Parser()
    events = [*(piece for at in range(0, len(prose), 7) for piece in parser.feed(prose[at : at + 7])), *parser.close()]
    parsed = parser.result()
    state = after(BOTH, *events, done(parsed.annotation, parsed.notes))
    assert "A man sits in a car." in text_of(card(state, "scene")) and "He frowns" in text_of(card(state, "face"))
    assert "I am fine." in text_of(card(state, "speech")) and "low and slow" in text_of(card(state, "prosody"))
    assert "sadness" in text_of(card(state, "reasoning"))
    assert text_of(card(state, "verdict")).count("Not stated.") == 1 and "badge" not in card(state, "verdict")
    assert text_of(view.render_status(state)) == "Done."


# Signals


def test_a_tones_pitch_and_loudness_are_measured_as_they_are():
    for hertz in (110.0, 250.0):
        found = signals.measure(clip_of(2.0, hertz=hertz))
        middle, low, high = found.middle("pitch_hz")
        assert (middle, low, high) == pytest.approx((hertz, hertz, hertz), rel=0.01)
        decoded = clip_of(2.0, hertz=hertz)
        level = 10 * np.log10(np.mean(decoded.audio.astype(float) ** 2))
        assert found.middle("loudness_db")[0] == pytest.approx(level, abs=0.3)
    louder = signals.measure(replace(decoded, audio=decoded.audio * 2))
    assert louder.middle("loudness_db")[0] - found.middle("loudness_db")[0] == pytest.approx(6.02, abs=0.05)


def test_signals_lie_where_the_sound_lies():
    decoded = clip_of(2.0)
    decoded.audio[:RATE] = 0
    found = signals.measure(decoded)
    assert found.duration_s == 2.0 and not np.isfinite(found.pitch_hz[found.times_s < 0.95]).any()
    assert np.isfinite(found.pitch_hz[(found.times_s > 1.05) & (found.times_s < 1.95)]).all()
    assert np.abs(found.wave[: len(found.wave) // 2 - 1]).max() == 0 < np.abs(found.wave[-5:]).max()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_a_click_is_drawn_where_it_is_heard(share):
    decoded = clip_of(3.0)
    decoded.audio[:] = 0
    decoded.audio[int(share * len(decoded.audio))] = 1
    column = int(np.abs(signals.measure(decoded).wave).max(axis=1).argmax())
    assert abs(column - share * signals.COLUMNS) <= 1


@pytest.mark.parametrize("seconds", [1 / RATE, 0.01, 0.05, 0.2, 30.0])
def test_any_length_of_sound_is_drawn(seconds):
    for level in (0.0, 1.0):
        decoded = clip_of(seconds, picture=False)
        decoded = replace(decoded, audio=decoded.audio * np.float32(level))
        drawn = signals.draw(signals.measure(decoded), "en")
        assert drawn.count("<svg") == 3 and "nan" not in drawn and "inf" not in drawn
    if not level or seconds < 0.05:
        assert "no voice was found" in drawn


def test_a_clip_without_sound_or_picture_has_no_signals_or_no_strip():
    silent, blind = Look(clip_of(sound=False)), Look(clip_of(picture=False))
    assert silent.figure("signals", "en") == "" and silent.figure("strip", "en").count("<img") == 4
    assert blind.figure("strip", "en") == "" and "Hz in the middle" in text_of(blind.figure("signals", "en")).replace(
        "\u00a0", " "
    )


# What is taken away


def downloads(state: view.PageState) -> dict[str, str]:
    """File name -> content of the links."""
    html = report.render_actions(state)
    found = re.findall(r'download="([^"]+)" href="data:[^;]+;charset=utf-8;base64,([^"]+)"', html)
    return {name: base64.b64decode(data).decode() for name, data in found}


def test_the_json_is_the_published_record_and_the_report_needs_nothing_else():
    state = replace(
        answered("anger", "joy", start_s=1.0, end_s=2.0), clip_path="/secret/place/my clip.mp4", title="Tiny"
    )
    files = downloads(state)
    assert set(files) == {"my clip.saber.json", "my clip.saber.html"}
    record = json.loads(files["my clip.saber.json"])
    assert Annotation.from_json(record) == state.answer.prediction.annotation
    assert record["part"] == {"start_s": 1.0, "end_s": 2.0} and record["alone"]["picture"]["emotion"] == ["joy"]
    page = files["my clip.saber.html"]
    assert page.count("<img") == 4 and page.count("<svg") == 3 and "anger" in text_of(page) and "Tiny" in text_of(page)
    assert "no judge of real people" in page and "secret" not in page + files["my clip.saber.json"]
    assert "http" not in page and 'src="data:' in page


def test_there_is_nothing_to_take_away_before_the_answer_is_whole():
    assert report.render_actions(after(BOTH, event("scene", "A kitchen."))) == ""
    assert "Copy the answer" in report.render_actions(after(BOTH, done()))
    assert "A kitchen." in report.plain_text(after(BOTH, done())) and "Verdict" not in report.plain_text(
        after(BOTH, done())
    )


# One open page


def visit_of(clip_path: str = "", length_s: float = 3.0, **values: object) -> visits.Visit:
    visit = visits.Visit(view.PageState(), 30.0)
    visit.clip_path, visit.length_s, visit.part = clip_path, length_s, (0.0, min(length_s, 30.0))
    return visit


def test_a_run_shows_each_step_and_the_end():
    visit, desk = visit_of("clip.mp4"), Desk(ScriptedEngine([BOTH, event("scene", "A kitchen."), done()]))
    visit.changes()
    visit.begin("clip.mp4", None, "both")
    assert set(visit.changes()) >= {"status"} and visit.changes() == {}
    phases = []
    for _ in visit.run(desk, "me"):
        phases.append(visit.state.phase)
        assert "status" in visit.changes()
    assert phases == ["looking", "writing", "done"] and desk.line.taken == 0
    assert list(visit.changes(everything=True)) and "Copy the answer" in visit.changes(everything=True)["actions"]


@pytest.mark.parametrize("what", ["stop", "clear", "leave", "begin"])
def test_whatever_ends_a_run_ends_its_answer_and_frees_the_line(what):
    engine = ScriptedEngine([BOTH, *(event("scene", letter) for letter in "abcdefgh"), done()])
    clock_of, visit, desk = Clock(engine, 1.0), visit_of("clip.mp4"), Desk(engine)
    visit.begin("clip.mp4", None, "both")
    steps = visit.run(desk, "me")
    next(steps), next(steps)
    {"stop": visit.stop, "clear": visit.clear, "leave": visit.leave,
     "begin": lambda: visit.begin("clip.mp4", "zh", "sound")}[what]()  # fmt: skip
    visit.changes(everything=True)  # as the page is answered
    sent = [visit.changes() for _ in steps]
    assert engine.closed and engine.given < 6 and desk.line.taken == 0 and clock_of() < 10
    if what != "stop":
        assert set(sent[-1]) >= set(view.PARTS), "what was drawn late is drawn over"
    expected = {"stop": "stopped", "clear": "empty", "begin": "waiting"}
    if what in expected:
        assert visit.state.phase == expected[what]
    if what == "stop":
        assert visit.state.answer.texts["scene"].startswith("a")
    if what == "begin":
        assert (visit.state.tracks, visit.state.answer_in) == ("sound", "zh")


def test_stop_while_others_are_served_lets_another_clip_be_asked_at_once():
    engine = ScriptedEngine([BOTH, done()])
    visit, desk = visit_of("clip.mp4"), Desk(engine)
    with desk.line.enter("other"):
        visit.begin("clip.mp4", None, "both")
        steps = visit.run(desk, "me")
        next(steps)
        assert visit.state.phase == "queued"
        visit.stop()
        assert visit.state.phase == "stopped" and not visit.state.busy
        visit.begin("clip.mp4", None, "both")
        for _ in steps:  # the old run, which finds that another has begun
            assert visit.state.phase == "waiting"
    for _ in visit.run(desk, "me"):
        pass
    assert visit.state.phase == "done" and len(engine.calls) == 1


def test_the_language_can_change_in_the_middle_of_a_run():
    engine = ScriptedEngine([BOTH, *(event("scene", "a") for _ in range(4)), done()])
    visit = visit_of("clip.mp4")
    Clock(engine, 1.0)
    visit.begin("clip.mp4", None, "both")
    for number, _ in enumerate(visit.run(Desk(engine), "me")):
        if number == 1:
            visit.speak("zh")
    assert visit.state.language == "zh" and "完成" in visit.changes(everything=True)["status"]


def test_what_a_clip_is_long_decides_what_is_read(clips, tmp_path):
    visit = visits.Visit(view.PageState(), 1.0)  # at most one second at once
    visit.choose(clips[0].path)
    assert visit.length_s == pytest.approx(clips[0].metadata["duration_s"], abs=0.2) and visit.part == (0.0, 1.0)
    visit.begin(clips[0].path, None, "both")
    assert (visit.state.start_s, visit.state.end_s, visit.state.length_s) == (0.0, 1.0, visit.length_s)
    visit.move("start", 0.75, 1.0)
    visit.begin(clips[0].path, None, "both")
    assert (visit.state.start_s, visit.state.end_s) == (0.75, 1.25)
    # Another clip, analysed before the page has heard of it: its own first part, not that of the clip before.
    visit.begin(clips[1].path, None, "both")
    assert (visit.state.start_s, visit.state.end_s) == (0.0, 1.0) and visit.clip_path == clips[1].path
    whole = visits.Visit(view.PageState(), 30.0)
    whole.choose(clips[0].path)
    whole.begin(clips[0].path, None, "both")
    assert (whole.state.start_s, whole.state.end_s) == (0.0, None)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film " * 100)
    whole.clear()
    whole.choose(str(broken))
    assert "This is not a video" in whole.changes(everything=True)["status"] and whole.length_s == 0
    whole.choose(clips[0].path)
    assert "This is not a video" not in whole.changes(everything=True)["status"]


def test_a_run_that_is_asked_for_twice_is_served_once(monkeypatch):
    engine = ScriptedEngine([BOTH, done()])
    visit, desk, reading = visit_of("clip.mp4"), Desk(engine), []
    decode = engine.decode

    def read(*asked: object) -> Decoded:
        reading.append(asked)
        if len(reading) == 1:  # pressed again while the clip is read
            assert visit.state.phase == "waiting"
            for _ in visit.run(desk, "me"):
                assert desk.line.taken == 1
        return decode(*asked)

    monkeypatch.setattr(engine, "decode", read)
    visit.begin("clip.mp4", None, "both")
    for _ in visit.run(desk, "me"):
        pass
    assert len(reading) == len(engine.calls) == 1 and visit.state.phase == "done"


def test_a_clip_that_takes_long_to_measure_does_not_replace_a_later_one(monkeypatch):
    visit, free = visit_of(), threading.Event()

    def probe(path, whole):
        if path == "slow.mp4":
            assert free.wait(30)
            raise MediaError("not_media", "slow.mp4")
        return Facts(has_video=True, has_audio=True, duration_s=50.0)

    monkeypatch.setattr(media, "probe", probe)
    measuring = threading.Thread(target=visit.choose, args=("slow.mp4",))
    measuring.start()
    visit.choose("quick.mp4")
    visit.move("start", 15.0, 40.0)
    free.set()
    measuring.join(30)
    visit.begin("quick.mp4", None, "both")
    assert (visit.state.start_s, visit.state.end_s, visit.state.length_s) == (15.0, 40.0, 50.0)


def test_without_a_gpu_the_spaces_own_words_are_told():
    import gradio

    for language, told in (("en", "This Space got no GPU for it: no quota"), ("zh", "没有分到 GPU：no quota")):
        *_, state = view.follow(
            Desk(ScriptedEngine([gradio.Error("no quota", print_exception=False)])), asked(language)
        )
        assert state.phase == "failed" and told in text_of(view.render_status(state))


def test_what_all_pages_keep_is_bounded(monkeypatch):
    monkeypatch.setattr(visits, "KEPT_BYTES", Look(clip_of()).bytes * 2)
    monkeypatch.setattr(visits, "MOST_VISITS", 4)
    every = visits.Visits(view.PageState(), 30.0)
    for session in "abcd":
        visit = every.of(session)
        visit.state = after(Looked(Look(clip_of())), BOTH, done())
        visit.changes()  # it is drawn
    kept = [every.of(session) for session in "abcd"]
    assert [visit.state.look.decoded is not None for visit in kept] == [False, False, True, True]
    assert all(visit.state.can_mute and "strip" in visit.changes(everything=True)["strip"] for visit in kept)
    every.of("e")
    assert every.of("b") is kept[1] and every.of("a") is not kept[0]


def test_a_page_whose_connection_is_lost_may_come_back_for_a_while():
    every = visits.Visits(view.PageState(), 30.0, keep_s=0.2)
    visit = every.of("a")
    visit.state = after(Looked(Look(clip_of())), BOTH, done(), language="zh")
    every.leave("a")
    assert visit.state.look.decoded is None and every.of("a") is visit and visit.state.language == "zh"
    every.leave("a")
    deadline = time.monotonic() + 30
    while every._known and time.monotonic() < deadline:  # though nobody comes by
        time.sleep(0.05)
    assert every.of("a") is not visit
