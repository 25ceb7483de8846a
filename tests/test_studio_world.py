"""The studio's vocabulary, its table of causes, and how clips are drawn."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saber.schema import LANGUAGES
from saber.studio import causes, voice, words
from saber.studio.causes import AGREEMENT, EMOTIONS, PLEASANTNESS, Verdict, judge, truth
from saber.studio.sample import (
    BALANCED,
    FACES,
    INCOMPLETE_SHARES,
    NATURAL,
    RARE_SHARES,
    SHUFFLED_SHARES,
    VALENCES,
    VOICE_KINDS,
    Mix,
    annotation_language,
    draw_spec,
    is_held_out,
    joint,
)
from saber.studio.world import ATTRIBUTES, INCOMPLETE, PROSODY, SPLITS, VOICES, ClipSpec

EVENTS = ATTRIBUTES["event"]
ROOT = Path(__file__).parents[1]
CLIPS = 2000
EVERY_CLIP = list(product((*FACES, None), (*VOICE_KINDS, None), (*VALENCES, None), EVENTS))


@cache
def draws(split: str = "train", count: int = CLIPS, **options: float) -> list[ClipSpec]:
    mix = Mix(split=split, **options)
    return [draw_spec(mix, index) for index in range(count)]


def combination(spec: ClipSpec) -> tuple[str, str, str]:
    return spec.performance.face, spec.voice, spec.words.valence


# The vocabulary ---------------------------------------------------------------------------------------------------


def test_each_voice_kind_says_what_every_attribute_of_prosody_may_be_and_nothing_else():
    assert tuple(VOICES) == ATTRIBUTES["voice"]
    for kind, allows in VOICES.items():
        assert tuple(allows) == PROSODY, kind
        for name, values in allows.items():
            assert values and set(values) <= set(ATTRIBUTES[name]), (kind, name)


@pytest.mark.parametrize("one, other", list(combinations(VOICES, 2)))
def test_no_prosody_fits_two_voice_kinds(one: str, other: str):
    assert any(not set(VOICES[one][name]) & set(VOICES[other][name]) for name in PROSODY)


def test_the_tables_of_causes_speak_of_every_face_and_every_voice():
    assert tuple(AGREEMENT) == FACES
    assert {kind for kinds in AGREEMENT.values() for kind in kinds} == set(VOICE_KINDS)
    assert set(PLEASANTNESS) == {*FACES, *VOICE_KINDS}


# Verdicts ---------------------------------------------------------------------------------------------------------


def test_whatever_is_perceived_gives_an_emotion_of_the_list_and_every_emotion_of_the_list_is_given():
    found = {clip: judge(*clip).emotion for clip in EVERY_CLIP}
    nothing = {clip for clip in EVERY_CLIP if clip[:3] == (None, None, None)}
    assert {clip for clip, emotion in found.items() if emotion == ""} == nothing
    assert set(found.values()) - {""} == set(EMOTIONS)


def test_a_complete_clip_without_sound_events_can_have_every_emotion_but_nervous_laughter():
    found = {judge(*clip).emotion for clip in product(FACES, VOICE_KINDS, VALENCES)}
    assert set(EMOTIONS) - found == {"nervous laughter"}


@pytest.mark.parametrize("face, voice_kind, valence, event, emotion", [
    ("joy", "contempt", "positive", "none", "sarcasm"),
    ("polite", "anger", "positive", "none", "sarcasm"),
    ("joy", "disgust", "positive", "laugh", "sarcasm"),
    ("contempt", "contempt", "positive", "none", "sarcasm"),
    ("joy", "sadness", "positive", "none", "masked sadness"),
    ("polite", "sadness", "negative", "sob", "masked sadness"),
    ("sadness", "joy", "positive", "none", "feigned cheer"),
    ("polite", "joy", "neutral", "none", "feigned cheer"),
    ("anger", "neutral", "neutral", "none", "suppressed anger"),
    ("polite", "anger", "negative", "none", "suppressed anger"),
    ("polite", "contempt", "neutral", "none", "cold politeness"),
    ("joy", "joy", "negative", "none", "playful teasing"),
    ("joy", "anger", "negative", "none", "playful teasing"),
    ("joy", "fear", "neutral", "laugh", "nervous laughter"),
    ("fear", "joy", "neutral", "laugh", "nervous laughter"),
    ("sadness", "sadness", "negative", "none", "sadness"),
    ("neutral", "neutral", "neutral", "none", "calm"),
    ("polite", "neutral", "positive", "none", "politeness"),
    ("joy", "tender", "positive", "none", "warmth"),
])  # fmt: skip
def test_what_is_shown_and_heard_has_its_name(face, voice_kind, valence, event, emotion):
    assert judge(face, voice_kind, valence, event).emotion == emotion


def test_relation_is_picture_against_voice_and_neither_words_nor_events_change_it():
    for face, kind, valence, event in EVERY_CLIP:
        verdict = judge(face, kind, valence, event)
        assert (verdict.relation, verdict.intensity) == causes.relation(face, kind)
        if face is None or kind is None:
            assert (verdict.relation, verdict.intensity) == ("", None)
        else:
            assert verdict.relation == ("consistent" if kind in AGREEMENT[face] else "conflict")


def test_intensity_runs_from_zero_to_ten_and_grows_with_the_distance_of_the_emotions():
    for face, kind in product(FACES, VOICE_KINDS):
        _, intensity = causes.relation(face, kind)
        assert type(intensity) is int and 0 <= intensity <= 10
    # 3 + 3.5 x |pleasantness of the face - pleasantness of the voice|, rounded
    assert causes.relation("joy", "anger") == ("conflict", 10)  # |1 + 1| = 2 -> 10
    assert causes.relation("disgust", "contempt") == ("conflict", 3)  # |-.8 + .8| = 0 -> 3
    assert causes.relation("joy", "sadness") == ("conflict", 9)  # |1 + .7| = 1.7 -> 8.95
    assert causes.relation("sadness", "sadness") == ("consistent", 10)


def test_words_against_voice_is_kept_apart_from_relation():
    assert judge("joy", "anger", "positive").words_relation == "conflict"
    assert judge("joy", "anger", "negative").words_relation == "consistent"
    assert judge("anger", "joy", "negative").words_relation == "conflict"
    assert judge("neutral", "sadness", "neutral").words_relation == "consistent"
    assert judge("joy", "joy", None).words_relation == judge("joy", None, "negative").words_relation == ""


def test_a_channel_carries_the_truth_exactly_if_it_gives_the_emotion_alone():
    for face, kind, valence, event in EVERY_CLIP:
        verdict = judge(face, kind, valence, event)
        alone = {"picture": judge(face, None, None), "voice": judge(None, kind, None, event),
                 "words": judge(None, None, valence)}  # fmt: skip
        for channel, single in alone.items():
            assert (channel in verdict.carriers) == (verdict.emotion != "" and single.emotion == verdict.emotion)


@pytest.mark.parametrize("clip, carriers", [
    (("sadness", "sadness", "negative", "none"), ("picture", "voice", "words")),
    (("anger", "anger", "negative", "none"), ("picture", "voice")),
    (("neutral", "fear", "neutral", "none"), ("voice",)),
    (("disgust", "neutral", "neutral", "none"), ("picture",)),
    (("joy", "surprise", "positive", "none"), ()),  # delight: neither glad nor surprised alone
    (("joy", "contempt", "positive", "none"), ()),  # sarcasm: only all together
    (("polite", "sadness", "positive", "none"), ()),
    ((None, "contempt", "positive", "none"), ()),  # sarcasm without a picture: voice and words together
    ((None, None, "positive", "none"), ("words",)),
])  # fmt: skip
def test_what_carries_the_truth_in_clips_worked_out_by_hand(clip, carriers):
    assert judge(*clip).carriers == carriers


@pytest.mark.parametrize("values, message", [
    (("smirk", "joy", "positive", "none"), "face is 'smirk'"),
    (("joy", "hoarse", "positive", "none"), "voice is 'hoarse'"),
    (("joy", "joy", "mixed", "none"), "valence is 'mixed'"),
    (("joy", "joy", "positive", "cough"), "event is 'cough'"),
])  # fmt: skip
def test_a_value_outside_the_vocabulary_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        judge(*values)


def test_a_verdict_is_written_as_plain_json():
    assert judge("sadness", "sadness", "negative").to_json() == {
        "relation": "consistent", "intensity": 10, "words_relation": "consistent", "emotion": "sadness",
        "carriers": ["picture", "voice", "words"],
    }  # fmt: skip
    assert judge(None, None, None) == Verdict("", None, "", "", ())


# What can be perceived --------------------------------------------------------------------------------------------

PERSON = {"face", "gaze", "head", "micro", "body"}
SPEECH = {"words", "event", "valence", "noise"}
MANNER = {*PROSODY, "voice", "words_relation"}


@pytest.mark.parametrize("incomplete, known", [
    ("", {"scene", *PERSON, *SPEECH, *MANNER, "relation"}),
    ("long", {"scene", *PERSON, *SPEECH, *MANNER, "relation"}),
    ("no_sound", {"scene", *PERSON}),
    ("no_picture", {*SPEECH, *MANNER}),
    ("nobody", {"scene", *SPEECH, *MANNER}),
    ("silent", {"scene", *PERSON}),
    ("noise", {"scene", *PERSON}),
    ("short", {"scene", *PERSON, *SPEECH}),
])  # fmt: skip
def test_truth_leaves_out_what_cannot_be_perceived(incomplete, known):
    assert set(truth(replace(draws()[0], incomplete=incomplete))) == known | {"emotion"}


def test_every_kind_of_incomplete_clip_is_judged_by_what_is_left():
    spec = next(spec for spec in draws() if combination(spec) == ("joy", "contempt", "positive"))
    emotions = {kind: truth(replace(spec, incomplete=kind))["emotion"] for kind in INCOMPLETE}
    assert emotions == {
        "": "sarcasm", "long": "sarcasm", "no_sound": "joy", "silent": "joy", "noise": "joy", "short": "joy",
        "no_picture": "sarcasm", "nobody": "sarcasm",
    }  # fmt: skip


def test_truth_holds_values_of_the_vocabulary_and_the_prosody_names_the_voice():
    for spec in draws()[:300]:
        found = truth(spec)
        assert found.pop("emotion") in EMOTIONS
        assert found.pop("words", spec.words.text) == spec.words.text
        assert all(value in ATTRIBUTES[name] for name, value in found.items())
        assert found.get("noise", "clean") == "clean" or spec.prosody.snr_db is not None
        if "voice" in found:
            fits = [kind for kind in VOICES if all(found[name] in VOICES[kind][name] for name in PROSODY)]
            assert fits == [found["voice"]]


# Drawing clips ----------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(split=st.sampled_from(SPLITS), seed=st.integers(0, 10**6), index=st.integers(0, 10**6))
def test_a_clip_depends_on_its_mix_and_its_number_alone(split, seed, index):
    mix = Mix(split=split, seed=seed)
    spec = draw_spec(mix, index)
    random.seed(seed)
    draw_spec(mix, index + 1)
    assert draw_spec(Mix(split=split, seed=seed), index) == spec
    assert draw_spec(mix, index + 1).seed != spec.seed
    assert draw_spec(replace(mix, seed=seed + 1), index).seed != spec.seed


def test_no_person_is_in_two_splits():
    seen = [(split, {(spec.identity.id, spec.identity.seed) for spec in draws(split, 800)}) for split in SPLITS]
    for (_, one), (_, other) in combinations(seen, 2):
        assert not {name for name, _ in one} & {name for name, _ in other}
        assert not {seed for _, seed in one} & {seed for _, seed in other}
    assert all(len(people) > 80 for _, people in seen)


def test_no_speaker_and_no_sentence_template_is_in_two_of_training_validation_and_testing():
    groups = [draws("train"), draws("validation", 800), [*draws("test", 800), *draws("combinations", 800),
                                                          *draws("style", 800)]]  # fmt: skip
    for one, other in combinations(groups, 2):
        assert not {spec.speaker for spec in one} & {spec.speaker for spec in other}
        spoken = [{part for spec in group for part in spec.words.template.split("+")} for group in (one, other)]
        assert spoken[0] & spoken[1] <= {words.SHORT}


def test_only_the_style_split_has_the_second_drawing_style():
    assert {split: {spec.identity.style for spec in draws(split, 800)} for split in SPLITS} == {
        **dict.fromkeys(SPLITS, {0}), "style": {1},
    }  # fmt: skip


def test_about_a_fifth_of_all_combinations_is_held_out():
    held_out = [cell for cell in product(FACES, VOICE_KINDS, VALENCES) if is_held_out(*cell)]
    assert len(held_out) / 243 == pytest.approx(0.2, abs=0.01)


def test_held_out_combinations_are_never_shown_in_training_and_nothing_else_is_in_their_split():
    for split in SPLITS:
        complete = [spec for spec in draws(split, 800) if spec.words.valence]
        assert {is_held_out(*combination(spec)) for spec in complete} == {split == "combinations"}
    for kind, held_out in product(("agree", "conflict"), (False, True)):
        table = joint(kind, held_out)
        assert table.sum() == pytest.approx(1)
        for (i, face), (j, voice_kind), (k, valence) in product(*map(enumerate, (FACES, VOICE_KINDS, VALENCES))):
            if is_held_out(face, voice_kind, valence) != held_out:
                assert table[i, j, k] == 0


def test_every_pair_of_two_channels_occurs_in_training():
    """In a training set of 10,000 balanced clips each pair is expected at least 5 times."""
    balanced = (joint("agree", False) + joint("conflict", False)) / 2
    assert all((balanced.sum(axis=axis) > 5e-4).all() for axis in range(3))
    shown = {combination(spec) for spec in draws()}
    for kept, size in (((0, 1), 81), ((0, 2), 27), ((1, 2), 27)):
        assert len({tuple(cell[axis] for axis in kept) for cell in shown}) == size


def test_each_voice_that_agrees_with_a_face_is_heard_with_it():
    """Equal frequencies for all voices would leave joy with a tender voice and a polite smile with an even one out."""
    pairs = joint("agree", False).sum(axis=2)
    for face, kinds in AGREEMENT.items():
        row = pairs[FACES.index(face)]
        assert all(row[VOICE_KINDS.index(kind)] > 0.2 * row.sum() for kind in kinds), face


def test_each_face_voice_and_valence_is_as_frequent_in_the_natural_mix_as_in_the_balanced_one():
    agree, conflict = joint("agree", False), joint("conflict", False)
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        natural, balanced = (((1 - share) * agree + share * conflict).sum(axis=others) for share in (NATURAL, BALANCED))
        np.testing.assert_allclose(natural, balanced, rtol=0.015)
        if axis != 1:
            np.testing.assert_allclose(balanced, 1 / len(balanced), rtol=0.015)


@pytest.mark.parametrize("share, tolerance", [(BALANCED, 0.03), (NATURAL, 0.012), (0.0, 0.0), (1.0, 0.0)])
def test_the_share_of_conflicts_is_the_one_asked_for(share, tolerance):
    # Standard error of a share of one half over 2,000 clips: 0.011; of 0.05: 0.005.
    specs = draws(conflict_share=share) if share not in (0.0, 1.0) else draws(count=300, conflict_share=share)
    conflicts = [causes.relation(spec.performance.face, spec.voice)[0] == "conflict" for spec in specs]
    assert np.mean(conflicts) == pytest.approx(share, abs=tolerance)


def test_incomplete_clips_come_in_the_documented_shares():
    counts = Counter(spec.incomplete for spec in draws())
    assert set(counts) == set(INCOMPLETE) == {"", *INCOMPLETE_SHARES}
    for kind, share in INCOMPLETE_SHARES.items():
        assert counts[kind] / CLIPS == pytest.approx(share, abs=3 * (share / CLIPS) ** 0.5), kind
    assert {spec.incomplete for spec in draws(count=300, incomplete=False)} == {""}


def test_short_clips_say_one_word_and_long_ones_several_sentences():
    for spec in draws():
        if spec.incomplete == "short":
            assert spec.words.template == words.SHORT and spec.words.event == "none"
        else:
            sentences = len(spec.words.template.split("+"))
            assert 3 <= sentences <= 6 if spec.incomplete == "long" else sentences == 1


def test_the_speech_split_is_voices_alone_and_half_of_it_is_words_in_any_order():
    specs = draws("speech", 800)
    assert {spec.incomplete for spec in specs} == {"no_picture"}
    shuffled = [spec for spec in specs if spec.words.template == words.SHUFFLED]
    assert len(shuffled) / 800 == pytest.approx(SHUFFLED_SHARES["speech"], abs=0.06)
    assert len({spec.speaker for spec in specs}) > 300
    assert len({spec.speaker for spec in draws("train", 800)}) <= 28, "no other split hears these voices"
    for spec in shuffled:
        assert spec.words.valence == "" and words.valence_of(spec.words.text, spec.language) is None
        assert "valence" not in truth(spec) and truth(spec)["words"] == spec.words.text
        parts = set(spec.words.text.split() if spec.language == "en" else spec.words.text)
        assert parts <= words.vocabulary(spec.language, "train")


def test_the_drill_split_is_whole_clips_whose_words_have_no_order_and_the_valence_of_one():
    specs = draws("drill", 400)
    assert {spec.incomplete for spec in specs} == {""} and {spec.words.template for spec in specs} == {words.SHUFFLED}
    for spec in specs:
        known = truth(spec)
        assert known["valence"] == spec.words.valence and known["words_relation"]
        said = set(spec.words.text.split()) if spec.language == "en" else spec.words.text
        charged = {kind: any(word in said for slot in slots for word in words.SLOTS[spec.language].get(slot, ()))
                   for kind, slots in words.CHARGED.items()}  # fmt: skip
        assert charged == {kind: kind == known["valence"] for kind in charged}
        assert words.valence_of(spec.words.text, spec.language) is None, "no sentence of the grammar"
        assert known["face"] == spec.performance.face and known["voice"] == spec.voice and known["relation"]
    assert 0.4 < sum(truth(spec)["relation"] == "conflict" for spec in specs) / 400 < 0.6
    assert {spec.speaker for spec in specs} <= {
        s.id for language in ("en", "zh") for s in voice.speakers("speech", language)
    }
    assert not {spec.identity.id for spec in specs} & {spec.identity.id for spec in draws("train", 400)}


def test_the_rare_split_is_incomplete_and_long_clips_alone():
    specs = draws("rare", 800)
    found = {kind: sum(spec.incomplete == kind for spec in specs) / 800 for kind in RARE_SHARES}
    assert sum(found.values()) == pytest.approx(1) and found == pytest.approx(RARE_SHARES, abs=0.05)
    assert draw_spec(Mix(split="rare", incomplete=False), 0).incomplete, "it has no others"
    assert {spec.words.valence for spec in specs} == set(VALENCES)
    said = [part for spec in specs if spec.incomplete != "short" for part in spec.words.template.split("+")]
    assert said.count(words.SHUFFLED) / len(said) == pytest.approx(SHUFFLED_SHARES["rare"], abs=0.06)
    long = [set(spec.words.template.split("+")) for spec in specs if spec.incomplete == "long"]
    assert sum(words.SHUFFLED in templates and len(templates) > 1 for templates in long) > len(long) / 2, "both in one"
    assert not {spec.identity.id for spec in specs} & {spec.identity.id for spec in draws("train", 400)}


def test_languages_take_turns_and_a_speaker_speaks_one():
    assert [spec.language for spec in draws()[:6]] == ["en", "zh"] * 3
    assert {draw_spec(Mix(languages=("zh",)), index).language for index in range(20)} == {"zh"}
    for spec in draws()[:500]:
        speaker = voice.SPEAKERS[spec.speaker]
        assert (speaker.language, speaker.sex) == (spec.language, spec.identity.sex)
        assert spec.words.language == spec.language


def test_every_value_of_every_channel_is_drawn():
    for name in ("scene", "body", "voice"):
        assert {getattr(spec, name) for spec in draws()} == set(ATTRIBUTES[name])
    for name in ("face", "gaze", "head", "micro"):
        assert {getattr(spec.performance, name) for spec in draws()} == set(ATTRIBUTES[name])
    assert {spec.words.event for spec in draws()} == set(EVENTS)
    leaks = {spec.performance.face for spec in draws() if spec.performance.micro != "none"}
    assert leaks == {"neutral", "polite"}


def test_annotations_are_in_the_spoken_language_but_for_the_share_asked_for():
    specs = draws()[:1000]
    assert all(annotation_language(Mix(), spec) == spec.language for spec in specs)
    other = [annotation_language(Mix(other_language_share=0.3), spec) != spec.language for spec in specs]
    assert np.mean(other) == pytest.approx(0.3, abs=0.045)  # standard error 0.0145
    assert {annotation_language(Mix(other_language_share=1.0), spec) for spec in specs} == set(LANGUAGES)


@pytest.mark.parametrize("options, message", [
    ({"split": "dev"}, "split is 'dev'"),
    ({"languages": ("en", "fr")}, r"languages are \('en', 'fr'\)"),
    ({"languages": ()}, r"languages are \(\)"),
    ({"conflict_share": 1.5}, "conflict_share is 1.5"),
    ({"other_language_share": -0.1}, "other_language_share is -0.1"),
    ({"size": 32}, "size is 32"),
    ({"size": 113}, "size is 113"),
])  # fmt: skip
def test_a_mix_that_cannot_be_drawn_is_refused_by_name_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        Mix(**options)


def test_the_documented_table_of_causes_is_the_one_in_use():
    documented = (ROOT / "docs" / "causes.md").read_text(encoding="utf-8")
    assert documented == causes.table(), "write it anew: docs/causes.md is causes.table()"
