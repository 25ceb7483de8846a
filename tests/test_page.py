"""The page without a browser: events in, HTML out. ``tests/test_browser.py`` holds what needs a real one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saber import media, sections
from saber.media import MediaError
from saber.model import Done, NoRoom, Seen
from saber.page import texts, view
from saber.schema import SECTIONS, Annotation, Clip, Prediction
from saber.sections import Event

BOTH = Seen(frames=6, video_s=3.0, audio_s=3.2, prompt_tokens=234, video_tokens=48, audio_tokens=75)
ANNOTATION = Annotation(
    scene="A kitchen.", face="A smile.", body="Crossed arms.", speech="<sigh> Well done.", prosody="Low and flat.",
    reasoning="The praise is meant as its opposite.", relation="conflict", emotion=("contempt", "anger"),
)  # fmt: skip


def event(section: str, text: str) -> Event:
    return Event(section, text, text)


def done(annotation: Annotation = ANNOTATION, notes: Sequence[str] = ()) -> Done:
    return Done(Prediction(clip="clip", annotation=annotation, notes=tuple(notes)))


def asked(language: str | None = "en", tracks: str = "both") -> view.PageState:
    return view.PageState().begin("clip.mp4", language, tracks, "run-1")


def after(*events: object, language: str | None = "en", tracks: str = "both") -> view.PageState:
    state = asked(language, tracks)
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
    return view.render(state)[f"card-{name}"]


class ScriptedEngine:
    """Yields what it is given, raises what it is given, and knows whether its stream was closed."""

    def __init__(self, script: Sequence[object]) -> None:
        self.script, self.calls, self.closed, self.given = script, [], False, 0

    def stream(self, clip: Clip, language: str | None = None, tracks: str = "both") -> Iterator[object]:
        self.calls.append((clip.path, language, tracks))
        self.held = self._play()  # held here, so that only an explicit close ends it
        return self.held

    def _play(self) -> Iterator[object]:
        try:
            for item in self.script:
                if isinstance(item, Exception):
                    raise item
                self.given += 1
                yield item
        finally:
            self.closed = True


class Clock:
    """Time that moves a fixed step each time it is read."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
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
    html = view.render_cards(view.PageState())
    assert re.findall(r'<article[^>]*data-section="(\w+)"', html) == list(view.CARDS)
    shown = view.render_cards(after(BOTH, *(event(section, f"said {section}") for section in SECTIONS)))
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
    assert state.writing == last


def test_only_the_card_being_written_is_marked():
    for section in SECTIONS:
        state = after(BOTH, event("scene", "A kitchen."), event(section, "text"))
        marked = [name for name in view.CARDS if 'aria-current="step"' in card(state, name)]
        assert marked == ["verdict" if section in ("relation", "emotion") else section]
        assert [name for name in view.CARDS if 'aria-busy="true"' in card(state, name)] == marked
        assert [name for name in view.CARDS if "is-writing" in card(state, name)] == marked
    assert "aria-current" not in view.render_cards(state.apply(done()))


def test_markup_alone_changes_nothing():
    state = after(BOTH)
    assert state.apply(Event("scene", "", "<scene>")) is state


def test_text_of_the_model_is_escaped():
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quoted"'
    state = after(BOTH, *(event(section, evil) for section in SECTIONS))
    for html in (view.render_cards(state), view.render_cards(state.apply(done(notes=[evil])))):
        assert "<script" not in html and "<img" not in html
    assert evil in text_of(card(state, "scene"))
    assert "<img" not in view.render_facts(after(BOTH, done(notes=[evil])))
    assert "<script" not in view.render_about({"title": evil, "trained_on": {"en": evil}})
    assert "<img" not in view.render_status(state.fail(evil))


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
    assert re.findall(r'badge">([^<]+)<', html) == ["contempt", "suppressed anger"]
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
    assert state.texts == {"scene": "A kitchen.", "face": "A smile."}


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
    for item in (None, BOTH, event("scene", "A kitchen."), event("emotion", "anger"), done()):
        state = state.apply(item) if item else state
        seen.append((state.phase, state.busy, text_of(view.render_status(state))))
    assert seen == [
        ("waiting", True, "Waiting for the model, then reading the clip."),
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
    assert text_of(card(state, "scene")).endswith("A kitchen.") and "aria-current" not in view.render_cards(state)
    assert text_of(card(state, "face")).endswith("Not reached.")


@pytest.mark.parametrize("state", [view.PageState(), after(BOTH, done()), asked().fail("Bad clip.")])
def test_stopping_does_nothing_where_nothing_runs(state):
    assert state.stop() is state


def test_a_new_run_forgets_the_last_one():
    state = after(BOTH, event("scene", "A kitchen."), done(), language="zh").begin("b.mp4", "en", "sound", "run-2")
    assert state == view.PageState("waiting", "run-2", "b.mp4", answer_in="en", tracks="sound", language="en")


def test_without_a_clip_the_page_asks_for_one():
    state = view.PageState().begin(None, None, "both", "run-1")
    assert state.phase == "failed" and "There is no clip yet." in text_of(view.render_status(state))


# Chinese


def test_a_chinese_answer_is_headed_in_chinese():
    state = after(BOTH, event("scene", "厨房。"), event("relation", "conflict"), done(), language="zh")
    assert text_of(card(state, "face")).startswith("面部")
    assert 'lang="zh-Hans"' in card(state, "face")
    assert text_of(view.render_status(state)) == "完成。表情与声音不一致。"
    assert "6 帧、3.0 秒画面、3.2 秒声音、234 个词元" in text_of(view.render_facts(state))
    assert text_of(view.render(state)["group-heard"]) == "听到的"


def test_left_to_the_clip_the_page_takes_the_language_of_the_answer():
    assert after(BOTH, event("scene", "A kitchen."), language=None).language == "en"
    assert after(BOTH, event("scene", "厨房"), language=None).language == "zh"
    assert after(BOTH, event("scene", "厨房"), language="en").language == "en"


def test_chinese_emotion_labels_are_separate_badges():
    html = card(after(BOTH, event("emotion", "轻蔑，愤怒、悲伤"), language="zh"), "verdict")
    assert re.findall(r'badge">([^<]+)<', html) == ["轻蔑", "愤怒", "悲伤"]


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
    states = list(view.follow(engine, asked("zh", "picture"), clock=Clock(0.001)))
    assert engine.calls == [("clip.mp4", "zh", "picture")] and engine.closed
    assert states[-1].phase == "done" and states[-1].texts["reasoning"] == ANNOTATION.reasoning
    # Time all but stands still, so each section is shown at its first piece and again when the next one has begun.
    assert [state.writing for state in states] == ["", *SECTIONS, ""]
    assert states[2].texts["scene"] == "abc"


def test_slow_pieces_are_each_shown():
    engine = ScriptedEngine([BOTH, *(event("scene", letter) for letter in "abcde"), done()])
    states = list(view.follow(engine, asked(), every_s=0.03, clock=Clock(0.1)))
    assert [state.texts.get("scene") for state in states[1:-1]] == ["a", "ab", "abc", "abcd", "abcde"]


def test_closing_in_the_middle_closes_the_engine_at_once():
    engine = ScriptedEngine([BOTH, *(event("scene", "a") for _ in range(100)), done()])
    states = view.follow(engine, asked(), clock=Clock(1.0))
    for _ in range(4):
        next(states)
    states.close()
    assert engine.closed and engine.given == 4


def test_stopping_in_the_middle_stops_the_engine_before_its_next_piece_and_keeps_the_text():
    engine, shown = ScriptedEngine([BOTH, *(event("scene", letter) for letter in "abcdef"), done()]), []
    for state in view.follow(engine, asked(), stopped=lambda: len(shown) >= 3, clock=Clock(1.0)):
        shown.append(state)
    assert engine.closed and engine.given == 4
    assert shown[-1].phase == "stopped" and shown[-1].texts == {"scene": "ab"} and shown[-1].total_s > 0


def test_a_run_stopped_before_its_turn_never_reaches_the_engine():
    engine = ScriptedEngine([BOTH, done()])
    [state] = view.follow(engine, asked(), stopped=lambda: True)
    assert state.phase == "stopped" and engine.calls == []


@pytest.mark.parametrize("reason", media.REASONS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_bad_clip_gets_its_plain_sentence(reason, language):
    values = dict(length_s=95, limit_s=30.0, size_mb=3000.0, limit_mb=2048.0, width=9000, height=10, limit_pixels=16,
                  limit_side=8192, limit_ratio=64.0, start_s=5.0, end_s=3.0, how="signal 9",
                  path="clip.mp4")  # fmt: skip
    engine = ScriptedEngine([MediaError(reason, "secret-path.mp4", values)])
    [state] = view.follow(engine, asked(language))
    status = text_of(view.render_status(state))
    assert state.phase == "failed" and status[-1] in ".。"
    assert "secret-path" not in status and "start_s" not in status and "{" not in status
    assert bool(re.search("[\u4e00-\u9fff]", status)) == (language == "zh")


def test_a_clip_without_room_is_told_and_is_no_bug():
    [state] = view.follow(ScriptedEngine([NoRoom("this clip takes 90,000 tokens")]), asked("zh"))
    assert state.phase == "failed" and state.problem == texts.say("zh", "no_room")


def test_a_bug_ends_in_an_apology_and_the_cause_in_the_log(caplog):
    engine = ScriptedEngine([BOTH, event("scene", "A kitchen."), RuntimeError("tensor on fire")])
    state = list(view.follow(engine, asked(), clock=Clock(1.0)))[-1]
    assert state.phase == "failed" and "Something went wrong on our side" in text_of(view.render_status(state))
    page = "".join(view.render(state).values())
    assert "tensor" not in page and "Traceback" not in page
    assert text_of(card(state, "scene")).endswith("A kitchen.")
    assert "tensor on fire" in caplog.text
