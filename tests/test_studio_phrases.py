"""The studio's wording and its reader: whatever is worded is read back, and nothing else is read."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import saber.studio
from saber.schema import LANGUAGES, SECTIONS, Annotation
from saber.sections import render
from saber.studio import causes, phrases, words
from saber.studio.phrases import LABELS, LACKS, LEXICON, SLOTS, STATES, TEMPLATES, annotate, compose, phrasings
from saber.studio.reader import Reading, _patterns, follows, read, read_annotation
from saber.studio.world import (
    ATTRIBUTES,
    INCOMPLETE,
    VOICES,
    ClipSpec,
    Identity,
    Performance,
    Prosody,
    Words,
)

TEXTS = {"en": "i really like this cake", "zh": "我真的很喜欢这个蛋糕"}


def make_spec(seed: int, language: str = "en", incomplete: str = "", **fixed: str) -> ClipSpec:
    """A clip drawn uniformly; ``fixed``: attribute -> value."""
    rng = random.Random(seed)
    drawn = {name: rng.choice(values) for name, values in ATTRIBUTES.items()} | fixed
    prosody = {name: rng.choice(values) for name, values in VOICES[drawn["voice"]].items()}
    return ClipSpec(
        id=f"clip-{seed}", split="train", seed=rng.getrandbits(32), language=language, scene=drawn["scene"],
        identity=Identity("p", 1, "female", "adult", 4, "short", "black", False, False, 0),
        performance=Performance(drawn["face"], drawn["gaze"], drawn["head"], drawn["micro"], 15.0, 1),
        body=drawn["body"], speaker="a", voice=drawn["voice"],
        prosody=Prosody(**prosody, snr_db=10.0 if drawn["noise"] == "noisy" else None, seed=1),
        words=Words(fixed.get("words", TEXTS[language]), language, drawn["valence"], drawn["event"], "t"),
        incomplete=incomplete,
    )  # fmt: skip


def expected_claims(incomplete: str) -> dict[str, str]:
    return dict.fromkeys(LACKS.get(incomplete, {}), incomplete)


def assert_read_back(found: dict[str, str], incomplete: str, annotation: Annotation, language: str | None) -> None:
    reading = read_annotation(annotation, language)
    assert dict(reading.values) == found, annotation
    assert reading.contradictions == ()
    assert dict(reading.claims_unperceived) == expected_claims(incomplete)
    for name in ("face", "voice", "relation", "emotion"):
        assert getattr(reading, f"stated_{name}") == found.get(name, "")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("incomplete", INCOMPLETE)
def test_an_annotation_is_read_back_as_the_truth(language: str, incomplete: str) -> None:
    for seed in range(60):
        spec = make_spec(seed, language, incomplete)
        assert_read_back(causes.truth(spec), incomplete, annotate(spec), None)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("incomplete", INCOMPLETE)
def test_every_phrase_of_every_value_in_every_template_is_read_back(language: str, incomplete: str) -> None:
    """Each value meets the first, the middle and the last phrase in the first, the middle and the last template."""
    for attribute in ("scene", "face", "gaze", "head", "micro", "body", "event", "voice", "noise", "valence"):
        for value in ATTRIBUTES[attribute]:
            found = causes.truth(make_spec(len(attribute + value), language, incomplete, **{attribute: value}))
            for phrase in (0.0, 0.4, 0.99):
                for template in (0.0, 0.4, 0.99):
                    draws = {slot: template if slot.startswith("template") else phrase for slot in SLOTS}
                    assert_read_back(found, incomplete, compose(found, incomplete, language, draws), language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_face_and_voice_and_valence_and_event_has_words_for_its_verdict(language: str) -> None:
    for face in ATTRIBUTES["face"]:
        for voice in ATTRIBUTES["voice"]:
            for number, valence in enumerate(ATTRIBUTES["valence"]):
                event = "laugh" if number == 1 else "none"
                spec = make_spec(7, language, face=face, voice=voice, valence=valence, event=event)
                spec = replace(spec, seed=sum(map(ord, face + voice + valence)))
                assert_read_back(causes.truth(spec), "", annotate(spec), language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_table_has_an_entry_for_each_value(language: str) -> None:
    for attribute, values in ATTRIBUTES.items():
        for value in values:
            assert bool(phrasings(attribute, value, language)) == (phrases.UNSPOKEN.get(attribute) != value)
    for emotion in causes.EMOTIONS:
        assert 2 <= len(phrasings("emotion", emotion, language)) <= 3
        assert phrases.MEANINGS[language][emotion]
    assert LABELS[language].keys() == phrases.MEANINGS[language].keys() == causes.EMOTIONS.keys()
    for reasons in LACKS.values():
        for section, reason in reasons.items():
            assert len(phrasings(section, f"unperceived:{reason}", language)) >= 2
    with pytest.raises(KeyError):
        phrasings("scene", "moon", language)
    with pytest.raises(KeyError):
        phrasings("event", "cough", language)


def test_english_labels_are_the_keys_of_the_table_of_causes() -> None:
    assert {labels[0] for labels in LABELS["en"].values()} == set(causes.EMOTIONS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_phrase_of_a_section_is_found_in_a_phrase_of_another_value(language: str) -> None:
    for section in STATES:
        found = _patterns(section, language)
        for (key, _, *meaning), (other, pattern, *other_meaning) in combinations(found, 2):
            if meaning != other_meaning:
                assert key != other
                assert not pattern.search(key), f"{section}: {other!r} ({other_meaning}) is in {key!r} ({meaning})"


@pytest.mark.parametrize("language", LANGUAGES)
def test_labels_of_two_emotions_never_coincide(language: str) -> None:
    labels = [label for options in LABELS[language].values() for label in options]
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_template_and_no_meaning_states_a_value_by_itself(language: str) -> None:
    for name, options in TEMPLATES[language].items():
        section = name.partition(":")[0]
        for template in options if section in STATES else ():
            reading = read_annotation(Annotation(**{section: re.sub(r"\{\w+\}|[\[\]]", "", template)}), language)
            assert not reading.values, template
    for meaning in phrases.MEANINGS[language].values():
        reading = read_annotation(Annotation(reasoning=meaning), language)
        assert not reading.values and not reading.stated_face and not reading.stated_voice, meaning
        assert not reading.stated_relation and not reading.stated_emotion, meaning


@pytest.mark.parametrize("language", LANGUAGES)
def test_wording_depends_on_the_seed_and_never_on_the_truth(language: str) -> None:
    """With one seed, every value of the face is worded by the phrase of the same number in the same template."""
    spec = make_spec(3, language, micro="none")
    shapes = set()
    for face in ATTRIBUTES["face"]:
        for micro in ("none", "fear"):
            changed = replace(spec, performance=replace(spec.performance, face=face, micro=micro))
            text = annotate(changed).face.lower()
            (number,) = (i for i, phrase in enumerate(phrasings("face", face, language)) if phrase in text)
            shapes.add((number, text.startswith(phrasings("face", face, language)[number])))
            assert annotate(changed) == annotate(changed)
    assert len(shapes) == 1
    assert len({annotate(replace(spec, seed=seed)) for seed in range(50)}) > 40


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_label_is_mostly_the_first(language: str) -> None:
    spec = make_spec(5, language)
    emotion = causes.truth(spec)["emotion"]
    labels = [annotate(replace(spec, seed=seed)).emotion[0] for seed in range(400)]
    assert 0.75 < labels.count(LABELS[language][emotion][0]) / 400 < 0.95
    assert set(labels) == set(LABELS[language][emotion])


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_are_short_and_their_vocabulary_small(language: str) -> None:
    lengths, vocabulary = [], set()
    for seed in range(400):
        annotation = annotate(make_spec(seed, language))
        text = " ".join(getattr(annotation, name) for name in (*STATES, "speech"))
        tokens = re.findall(r"\w+" if language == "en" else r"[\u4e00-\u9fff]", text)
        lengths.append(len(tokens))
    for text in phrases.corpus():
        vocabulary |= set(re.findall(r"[a-z]+" if language == "en" else r"[\u4e00-\u9fff]", text.lower()))
    assert max(lengths) <= (110 if language == "en" else 150)
    assert sum(lengths) / len(lengths) <= (85 if language == "en" else 120)
    assert len(vocabulary) < (450 if language == "en" else 350)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_emotion_of_the_face_is_named_only_in_the_reasoning(language: str) -> None:
    for options in LEXICON[language]["face"].values():
        for phrase in options:
            for label in (label for labels in LABELS[language].values() for label in labels):
                assert label not in phrase


def test_a_speech_section_is_the_transcript_with_its_event() -> None:
    assert annotate(make_spec(1, "en", event="laugh")).speech == "<laugh> i really like this cake"
    assert annotate(make_spec(1, "zh", event="sigh")).speech == "<sigh> 我真的很喜欢这个蛋糕"
    assert annotate(make_spec(1, "en", event="none")).speech == "i really like this cake"


def test_a_transcript_may_hold_words_that_mean_silence() -> None:
    spec = make_spec(1, "en", words="nobody speaks to me", event="none")
    assert read_annotation(annotate(spec)).values["words"] == "nobody speaks to me"
    assert "speech" not in read_annotation(annotate(spec)).claims_unperceived


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("attribute", ["scene", "face", "gaze", "head", "micro", "body", "level", "tremor", "noise",
                                       "valence"])  # fmt: skip
def test_a_wrong_answer_is_read_as_what_it_says(language: str, attribute: str) -> None:
    spec = make_spec(11, language)
    found = causes.truth(spec)
    for value in ATTRIBUTES[attribute]:
        wrong = found | {attribute: value}
        annotation = compose(wrong, "", language, dict.fromkeys(SLOTS, 0.0))
        assert read_annotation(annotation, language).values[attribute] == value


@pytest.mark.parametrize("language", LANGUAGES)
def test_two_values_in_one_section_are_a_contradiction(language: str) -> None:
    one = annotate(make_spec(1, language, face="joy", gaze="down", scene="park"))
    two = annotate(make_spec(1, language, face="anger", gaze="down", scene="street"))
    both = replace(one, face=f"{one.face} {two.face}", scene=f"{one.scene} {two.scene}")
    reading = read_annotation(both, language)
    assert set(reading.contradictions) >= {"face", "scene"}
    assert "face" not in reading.values and "scene" not in reading.values
    assert reading.values["gaze"] == "down"
    assert follows(reading) is None
    torn = replace(one, emotion=(LABELS[language]["joy"][0], LABELS[language]["fear"][0]))
    assert read_annotation(torn, language).contradictions == ("emotion",)
    same = replace(one, emotion=LABELS[language]["joy"])
    assert read_annotation(same, language).values["emotion"] == "joy"


def test_a_section_that_is_cut_off_states_only_what_it_says() -> None:
    reading = read_annotation(Annotation(scene="The scene is a kit", face="The lip corners ri"), "en")
    assert reading == Reading()
    reading = read_annotation(Annotation(prosody="A low, flat vo"), "en")
    assert reading.values == {
        "level": "low", "movement": "flat", "tremor": "no", "breath": "no", "noise": "clean",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("section", "text", "stated"),
    [
        ("scene", "This is not a kitchen, it is an OFFICE", {"scene": "office"}),
        ("scene", "in the  \n kitchen", {"scene": "kitchen"}),
        ("scene", "这不是厨房，是 办公\n室", {"scene": "office"}),
        ("scene", "a kitchenette", {}),
        ("scene", "the moon", {}),
        ("face", "the eyes smile, or do not. The gaze is lowered", {"gaze": "down", "micro": "none"}),
        ("scene", "a city. Street", {"scene": "street"}),
        ("body", "the person does not clench fists and shrugs!", {"body": "shrug"}),
        ("reasoning", "the unpleasant words", {"valence": "negative"}),
        ("speech", "", {}),
        ("speech", " <Laugh>  Oh,  NO ", {"words": "Oh, NO", "event": "laugh"}),
        ("speech", "<sob>", {"event": "sob"}),
        ("speech", "<cough> well", {"words": "well", "event": "none"}),
    ],
)
def test_case_space_and_denial(section: str, text: str, stated: dict[str, str]) -> None:
    assert read_annotation(Annotation(**{section: text})).values == stated


def test_prosody_alone_names_the_voice_and_the_reasoning_helps_out_where_it_leaves_a_choice() -> None:
    lively = "A high, lively voice, fast, loud and relaxed."
    assert read_annotation(Annotation(prosody=lively, reasoning="The sad voice")).values["voice"] == "joy"
    assert read_annotation(Annotation(prosody=lively, reasoning="The sad voice")).stated_voice == "sadness"
    vague = Annotation(prosody="A low voice", reasoning="The sad voice")
    assert read_annotation(vague).values["voice"] == "sadness"
    impossible = Annotation(prosody="A high, flat voice, slow, loud and relaxed, with a tremor.")
    assert "voice" not in read_annotation(impossible).values


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("incomplete", INCOMPLETE)
def test_the_verdict_of_a_true_answer_follows_and_that_of_another_does_not(language: str, incomplete: str) -> None:
    for seed in range(30):
        spec = make_spec(seed, language, incomplete)
        reading = read_annotation(annotate(spec), language)
        assert follows(reading) is True
        other = next(emotion for emotion in causes.EMOTIONS if emotion != reading.values["emotion"])
        assert follows(replace(reading, values={**reading.values, "emotion": other})) is False
        if "relation" in reading.values:
            turned = "conflict" if reading.values["relation"] == "consistent" else "consistent"
            assert follows(replace(reading, values={**reading.values, "relation": turned})) is False
        else:
            assert follows(replace(reading, values={**reading.values, "relation": "conflict"})) is False


def test_whether_a_verdict_follows_asks_for_all_evidence() -> None:
    spec = make_spec(2, face="joy", voice="joy", event="none")
    reading = read_annotation(annotate(spec))
    for name in ("emotion", "face", "voice"):
        assert follows(replace(reading, values={k: v for k, v in reading.values.items() if k != name})) is None
    assert follows(Reading()) is None


def test_words_count_with_their_own_valence() -> None:
    """A smile, an angry voice: sarcasm only if the words spoken are kind, whatever the reasoning calls them."""
    text = next(
        " ".join(words.fillings("en", template)[0].split()) for template in words.templates("en", "positive", "train")
    )
    assert words.valence_of(text, "en") == "positive"
    spec = make_spec(2, face="joy", voice="anger", valence="positive", event="none", words=text)
    true = read_annotation(annotate(spec))
    called_plain = replace(true, values={**true.values, "valence": "neutral"})
    assert follows(true) is True and true.values["emotion"] == "sarcasm"
    assert follows(called_plain) is True


def test_an_answer_in_sed_text_is_read() -> None:
    for language in LANGUAGES:
        for incomplete in INCOMPLETE:
            spec = make_spec(4, language, incomplete, event="laugh")
            reading = saber.studio.read(render(annotate(spec)))
            assert dict(reading.values) == causes.truth(spec)
            assert reading.language == language


@given(st.text(max_size=200), st.sampled_from([None, "en", "zh", "fr"]))
@settings(max_examples=150)
def test_unknown_text_gives_an_empty_reading_and_never_raises(text: str, language: str | None) -> None:
    read(text, language)
    read_annotation(Annotation(scene=text, speech=text, emotion=(text,)), language)


def test_other_prose_gives_an_empty_reading() -> None:
    for text in ("The quick brown fox jumps over the lazy dog.", "今天天气不错，我们去散步吧。"):
        annotation = Annotation(**{name: text for name in SECTIONS if name not in ("speech", "relation", "emotion")})
        reading = read_annotation(annotation)
        assert not reading.values and not reading.contradictions and not reading.claims_unperceived


@pytest.mark.parametrize("language", LANGUAGES)
def test_templates_of_words_are_never_read_as_missing_speech(language: str) -> None:
    for split in ("train", "validation", "test"):
        for valence in ATTRIBUTES["valence"]:
            for template in words.templates(language, valence, split):
                for text in words.fillings(language, template)[:20]:
                    reading = read_annotation(Annotation(speech=text), language)
                    assert reading.values == {"words": " ".join(text.split()), "event": "none"}
