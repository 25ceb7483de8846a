"""saber.schema: the published JSON, its way back, and errors that name what is wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saber.schema import ACOUSTIC, DIMENSIONS, RELATIONS, SECTIONS, VERDICT, VISUAL, Annotation, Clip, Prediction
from saber.schema import SchemaError as Wrong

FULL = Annotation(
    scene="A kitchen.",
    face="Lip corners up.",
    body="Arms crossed.",
    speech="<laugh> Well done.",
    prosody="Flat and slow.",
    reasoning="The smile does not fit the voice.",
    relation="conflict",
    emotion=("contempt", "amusement"),
)

texts = st.text(max_size=40)
annotations = st.builds(
    Annotation,
    **{section: texts for section in DIMENSIONS},
    relation=st.sampled_from(["", *RELATIONS]),
    emotion=st.lists(texts, max_size=3).map(tuple),
)


def test_the_json_is_the_published_record():
    assert FULL.to_json() == {
        "video_desc": "A kitchen.",
        "audio_desc": {"speech_content": "<laugh> Well done.", "acoustic_feat": "Flat and slow."},
        "facial_exp_desc": "Lip corners up.",
        "body_lang_desc": "Arms crossed.",
        "sentiment_analysis": "The smile does not fit the voice.",
        "relation": "conflict",
        "emotion": ["contempt", "amusement"],
    }


def test_a_verdict_that_is_not_stated_adds_no_key():
    assert set(Annotation(scene="A kitchen.").to_json()) == {
        "video_desc", "audio_desc", "facial_exp_desc", "body_lang_desc", "sentiment_analysis",
    }  # fmt: skip


def test_sections_stand_in_the_order_of_the_paper():
    assert (*VISUAL, *ACOUSTIC, "reasoning") == tuple(DIMENSIONS)
    assert (*DIMENSIONS, *VERDICT) == SECTIONS


@given(annotations)
def test_json_and_back_is_the_same_annotation(annotation):
    assert Annotation.from_json(json.loads(json.dumps(annotation.to_json()))) == annotation


def test_what_a_record_lacks_or_states_as_null_is_empty():
    assert Annotation.from_json({"video_desc": "x", "facial_exp_desc": None}) == Annotation(scene="x")
    assert Annotation.from_json({"audio_desc": {}, "emotion": None, "relation": None}) == Annotation()
    assert Annotation.from_json({"audio_desc": None}) == Annotation()


def test_emotion_may_be_a_comma_separated_text():
    assert Annotation.from_json({"emotion": "joy, , relief "}).emotion == ("joy", "relief")


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        ({"video_desc": 3}, "video_desc", "3"),
        ({"audio_desc": "loud"}, "audio_desc.speech_content", "'loud'"),
        ({"audio_desc": {"acoustic_feat": ["loud"]}}, "audio_desc.acoustic_feat", "['loud']"),
        ({"relation": "both"}, "relation", "'both'"),
        ({"relation": ["conflict"]}, "relation", "['conflict']"),
        ({"emotion": 3}, "emotion", "3"),
        ({"emotion": ["joy", 3]}, "emotion", "['joy', 3]"),
        (["video_desc"], "video_desc", "['video_desc']"),
    ],
)
def test_a_wrong_record_is_named_with_its_field_and_value(record, field, value):
    with pytest.raises(Wrong) as caught:
        Annotation.from_json(record, name="clip 7")
    assert str(caught.value).startswith("clip 7: ")
    assert f"{field} is {value}" in str(caught.value)


def test_one_section_can_be_replaced():
    assert FULL.with_section("face", "Still.") == dataclasses.replace(FULL, face="Still.")
    assert FULL.with_section("emotion", "joy, relief").emotion == ("joy", "relief")
    with pytest.raises(Wrong, match="relation is 'maybe'"):
        FULL.with_section("relation", "maybe")


def test_a_clip_is_named_by_its_path_unless_it_has_a_name():
    assert Clip("a/b.mp4").id == "a/b.mp4"
    assert Clip("a/b.mp4", id="b").id == "b"


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"start_s": -1.0}, "clip b: start_s is -1.0"),
        ({"start_s": 2.0, "end_s": 2.0}, "clip b: end_s 2.0 is not after start_s 2.0"),
        ({"start_s": float("nan")}, "clip b: start_s is nan"),
        ({"end_s": float("nan")}, "clip b: end_s nan is not after"),
    ],
)
def test_times_that_cannot_be_are_refused(times, message):
    with pytest.raises(Wrong, match=message):
        Clip("a/b.mp4", id="b", **times)


def test_a_prediction_tells_how_it_came_to_be():
    prediction = Prediction("b", FULL, raw="<scene>", model="tiny", language="en", notes=("no_sound",), usage={"n": 1})
    record = json.loads(json.dumps(prediction.to_json()))
    assert record == {
        "clip": "b",
        **FULL.to_json(),
        "prediction": {
            "raw": "<scene>", "model": "tiny", "language": "en", "tracks": "both", "notes": ["no_sound"],
            "usage": {"n": 1}, "log_probabilities": {},
        },
    }  # fmt: skip
    assert Annotation.from_json(record) == FULL
