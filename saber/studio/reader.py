"""Reads an answer about a studio clip back into values: exact, by rule, with the tables of ``phrases.py``.

Goes in: SED text (or an annotation). Comes out: a ``Reading``: what each section states, in the vocabulary of
``causes.truth``, so that an answer is scored by comparing two dicts. ``follows`` asks whether the verdict follows from
the answer's own evidence, right or wrong. What it does not recognise it does not guess; nothing here raises. To teach
it a phrase, add the phrase to ``phrases.py``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from saber.schema import LANGUAGES, Annotation
from saber.sections import parse
from saber.studio import causes, words
from saber.studio.phrases import LABELS, LACKS, LEADS, LEXICON, STATES, UNPERCEIVED, UNSPOKEN
from saber.studio.world import ATTRIBUTES, PROSODY, VOICES


@dataclass(frozen=True)
class Reading:
    """What an answer states.

    ``values``: attribute -> value, keys as in ``causes.truth``: an attribute that is missing is not stated. "face" is
    the face section's description; "voice" the one kind that the stated prosody allows, or the kind named in the
    reasoning where the prosody leaves several or none; "relation" and "emotion" are those of the verdict sections.
    ``contradictions``: attributes for which one section names different values; they are not in ``values``.
    ``claims_unperceived``: section -> the reason it gives for saying nothing (a key of world.INCOMPLETE).
    ``stated_face``, ``stated_voice``, ``stated_relation``, ``stated_emotion``: what the reasoning names, "" if nothing.
    ``language``: the language it was read in.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    contradictions: tuple[str, ...] = ()
    claims_unperceived: Mapping[str, str] = field(default_factory=dict)
    stated_face: str = ""
    stated_voice: str = ""
    stated_relation: str = ""
    stated_emotion: str = ""
    language: str = "en"


def read(text: str, language: str | None = None) -> Reading:
    """Reads SED text, whole or cut off. ``language``: "en" or "zh"; anything else: Chinese where it has Chinese
    characters."""
    return read_annotation(parse(text).annotation, language)


def read_annotation(annotation: Annotation, language: str | None = None) -> Reading:
    """Reads the sections of an annotation; see ``read``."""
    if language not in LANGUAGES:
        language = _language_of(annotation)
    found: dict[str, set[str]] = {}
    claims: dict[str, str] = {}
    for section, attributes in STATES.items():
        stated, reason = _match(getattr(annotation, section), section, language)
        found |= stated
        if reason:
            claims[section] = reason
        # What goes without saying counts as said once the section describes something.
        if reason == "short":
            found.setdefault("noise", {UNSPOKEN["noise"]})
        elif stated and not reason:
            for name in set(attributes) & set(UNSPOKEN):
                found.setdefault(name, {UNSPOKEN[name]})
    stated, reason = _read_speech(annotation.speech, language)
    found |= stated
    if reason:
        claims["speech"] = reason
    if annotation.relation:
        found["relation"] = {annotation.relation}
    if emotions := {_labels()[label] for label in map(_normal_label, annotation.emotion) if label in _labels()}:
        found["emotion"] = emotions

    single = {name: next(iter(options)) for name, options in found.items() if len(options) == 1}
    named = {name: single.pop(name, "") for name in STATES["reasoning"] if name.startswith("stated_")}
    if voice := _voice_of(single) or named["stated_voice"]:
        single["voice"] = voice
    contradictions = tuple(name for name, options in found.items() if len(options) > 1)
    return Reading(single, contradictions, claims, **named, language=language)


def follows(reading: Reading) -> bool | None:
    """Does the verdict (relation and emotion) follow from the answer's own evidence by the table of causes?

    None where that cannot be asked: no emotion is given, or a channel is neither stated nor said to be missing, or is
    stated in contradiction. The words count with their own valence, or with the one the reasoning gives them where
    the grammar does not know the sentence.
    """
    values, claims = reading.values, reading.claims_unperceived
    spoken = values.get("words", "")
    valence = (words.valence_of(spoken, reading.language) if spoken else None) or values.get("valence")
    channels = {
        "face": (values.get("face"), "face"),
        "voice": (values.get("voice"), "prosody"),
        "valence": (valence, "speech"),
    }
    if "emotion" not in values or "event" in reading.contradictions:
        return None
    if any(value is None and section not in claims for value, section in channels.values()):
        return None
    if all(value is None for value, _ in channels.values()):
        return None
    verdict = causes.judge(*(value for value, _ in channels.values()), values.get("event", "none"))
    return (verdict.relation, verdict.emotion) == (values.get("relation", ""), values["emotion"])


def _match(text: str, section: str, language: str) -> tuple[dict[str, set[str]], str]:
    """One section -> (attribute -> the values it names, the reason it gives for saying nothing or ""). Longest phrase
    first; what one phrase has covered is not read again."""
    rest = _normal(text, language)
    stated: dict[str, set[str]] = {}
    reason = ""
    for key, pattern, attribute, value in _patterns(section, language):
        if key not in rest:
            continue
        rest, times = pattern.subn(lambda match: "\0" * len(match[0]), rest)
        if times and attribute == "unperceived":
            reason = reason or value
        elif times:
            stated.setdefault(attribute, set()).add(value)
    return stated, reason


def _read_speech(text: str, language: str) -> tuple[dict[str, set[str]], str]:
    """The transcript: events in angle brackets anywhere, the rest verbatim with single spaces. Only a whole section
    counts as "nobody speaks", for a person may say those words within others."""
    normal = _normal(text, language)
    for reason in LACKS:
        if place := LACKS[reason].get("speech"):
            if normal in {_normal(phrase, language) for phrase in UNPERCEIVED[language][place]}:
                return {}, reason
    events = {event.lower() for event in re.findall(r"<\s*(\w+)\s*>", text)} & set(ATTRIBUTES["event"]) - {"none"}
    spoken = " ".join(re.sub(r"<\s*\w+\s*>", " ", text).split())
    stated = {"words": {spoken}} if spoken else {}
    if spoken or events:
        stated["event"] = events or {"none"}
    return stated, ""


def _voice_of(values: Mapping[str, str]) -> str:
    """The voice kind that alone allows the stated prosody; "" where none or several do, or nothing is stated."""
    heard = {name: values[name] for name in PROSODY if name in values}
    kinds = [kind for kind, allows in VOICES.items() if all(value in allows[name] for name, value in heard.items())]
    return kinds[0] if heard and len(kinds) == 1 else ""


@cache
def _patterns(section: str, language: str) -> tuple[tuple[str, re.Pattern[str], str, str], ...]:
    """(key, pattern, attribute, value) of every phrase of a section, longest phrase first."""
    phrases = [(phrase, name, value) for name in STATES[section] for value, options in
               LEXICON[language].get(name, {}).items() for phrase in options]  # fmt: skip
    if section == "reasoning":
        phrases += [(lead.format(label), "stated_emotion", emotion) for emotion, labels in LABELS[language].items()
                    for label in labels for lead in LEADS[language]]  # fmt: skip
    phrases += [(phrase, "unperceived", reason) for reason, places in LACKS.items() if section in places
                for phrase in UNPERCEIVED[language][places[section]]]  # fmt: skip
    keys = sorted(((_key(phrase, language), name, value) for phrase, name, value in phrases), key=lambda k: -len(k[0]))
    before, after = _EDGES[language]
    return tuple((key, re.compile(before + re.escape(key) + after), name, value) for key, name, value in keys)


#: What may not stand before and after a phrase: part of a longer word, or a word that denies it.
_EDGES = {
    "en": (
        r"(?<!\w)"
        + "".join(
            rf"(?<!\b{no} {the})" for no in ("not", "no", "never", "without") for the in ("", "a ", "an ", "the ")
        ),
        r"(?!\w)",
    ),
    "zh": ("".join(f"(?<!{no})" for no in ("不", "没", "没有", "不是", "并非")), ""),
}


def _normal(text: str, language: str) -> str:
    """Lower case, full-width as half-width. A full stop stands for whatever ends a clause, so that no phrase and no
    denial reaches across it; other punctuation is a space. English keeps spaces between words, Chinese drops them."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if language == "zh":
        text = re.sub(r"\s+", "", text)
    text = re.sub(r"[^\w.]|_", " ", re.sub("[.;:!?。]+", " . ", text))
    return " ".join(text.split()).strip(" .")


def _key(phrase: str, language: str) -> str:
    """A phrase as it is looked for: normalised, and without a leading article."""
    return re.sub(r"^(a|an|the) ", "", _normal(phrase, language))


@cache
def _labels() -> dict[str, str]:
    return {_normal_label(label): emotion for table in LABELS.values() for emotion, labels in table.items()
            for label in labels}  # fmt: skip


def _normal_label(label: str) -> str:
    return _normal(label, "en")


def _language_of(annotation: Annotation) -> str:
    described = " ".join((*(getattr(annotation, section) for section in STATES), *annotation.emotion))
    text = described if described.strip() else annotation.speech
    return "zh" if re.search("[\u4e00-\u9fff]", text) else "en"
