"""The records that everything else passes around: clips, annotations, predictions, preference pairs.

Goes in: nothing of ours. Comes out: frozen dataclasses and the published JSON (keys of the SABER data
release: ``video_desc``, ``audio_desc.speech_content``, ``audio_desc.acoustic_feat``, ``facial_exp_desc``,
``body_lang_desc``, ``sentiment_analysis``). The six dimensions are spelled here once, in ``DIMENSIONS``;
everything else iterates over them. This file imports the standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

#: Section tag -> path of the published JSON key, in the order of the SED text:
#: visual evidence E_v (scene, face, body), acoustic evidence E_a (speech, prosody), reasoning R (paper, Eq. 1).
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "scene": ("video_desc",),
    "face": ("facial_exp_desc",),
    "body": ("body_lang_desc",),
    "speech": ("audio_desc", "speech_content"),
    "prosody": ("audio_desc", "acoustic_feat"),
    "reasoning": ("sentiment_analysis",),
}
VISUAL = ("scene", "face", "body")
ACOUSTIC = ("speech", "prosody")

#: Two optional sections after the reasoning. Differs from the paper: its published record ends with
#: ``sentiment_analysis``; the explicit verdict is ours.
VERDICT = ("relation", "emotion")
SECTIONS = (*DIMENSIONS, *VERDICT)

RELATIONS = ("consistent", "conflict")
LANGUAGES = ("en", "zh")
TRACKS = ("both", "picture", "sound")


class SchemaError(ValueError):
    """A record does not have the published form. The message names the clip or record, the field and the value."""


@dataclass(frozen=True)
class Clip:
    """A piece of one media file.

    ``path``: a file that PyAV can open. ``start_s``, ``end_s``: the part to use, in seconds; ``end_s`` None is the
    file's end. ``id``: how messages name it (default: the path). ``language``: "en", "zh" or None (unknown).
    ``metadata``: whatever else is known (speaker, source, studio truth). ``span``: where ``path`` is a tar that holds
    the media file, that file's first byte in it and its number of bytes.
    """

    path: str
    start_s: float = 0.0
    end_s: float | None = None
    id: str = ""
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    span: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", str(self.path))
        if not 0 <= self.start_s < 1e9:  # written so that NaN is refused too
            raise SchemaError(f"clip {self.id}: start_s is {self.start_s}; it must be a number of seconds from 0 up")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise SchemaError(f"clip {self.id}: end_s {self.end_s} is not after start_s {self.start_s}")
        if self.span is not None and (len(self.span) != 2 or min(self.span) < 0):
            raise SchemaError(f"clip {self.id}: span is {self.span}; it must be a first byte and a number of bytes")

    @property
    def name(self) -> str:
        """How messages name the clip: its id and, where it lies inside another file, that file's name."""
        return self.id if self.span is None else f"{self.id} in {os.path.basename(self.path)}"


@dataclass(frozen=True)
class Annotation:
    """The six dimensions of one clip, and the optional verdict. An empty string means: not stated.

    ``relation``: "consistent", "conflict" or "" (always picture against voice). ``emotion``: open-vocabulary labels.
    """

    scene: str = ""
    face: str = ""
    body: str = ""
    speech: str = ""
    prosody: str = ""
    reasoning: str = ""
    relation: str = ""
    emotion: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.relation not in ("", *RELATIONS):
            raise SchemaError(f"relation is {self.relation!r}; it must be one of {RELATIONS} or empty")
        if not isinstance(self.emotion, (tuple, list)) or not all(isinstance(label, str) for label in self.emotion):
            raise SchemaError(f"emotion is {self.emotion!r}; it must be a list of strings")
        object.__setattr__(self, "emotion", tuple(self.emotion))

    def to_json(self) -> dict[str, Any]:
        """The published record; ``relation`` and ``emotion`` are added only where they are stated."""
        record: dict[str, Any] = {}
        for section, keys in DIMENSIONS.items():
            place = record
            for key in keys[:-1]:
                place = place.setdefault(key, {})
            place[keys[-1]] = getattr(self, section)
        if self.relation:
            record["relation"] = self.relation
        if self.emotion:
            record["emotion"] = list(self.emotion)
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any], name: str = "record") -> Annotation:
        """Reads the published record. Raises SchemaError naming the record, the field and the value."""
        values: dict[str, Any] = {}
        for section, keys in DIMENSIONS.items():
            value: Any = record
            for key in keys:
                if not isinstance(value, Mapping):
                    raise SchemaError(f"{name}: field {'.'.join(keys)} is {value!r}; what holds it must be an object")
                value = value.get(key)
                if value is None:
                    value = "" if key == keys[-1] else {}
            if not isinstance(value, str):
                raise SchemaError(f"{name}: field {'.'.join(keys)} is {value!r}; it must be a string")
            values[section] = value
        emotion = record.get("emotion") or ()
        if isinstance(emotion, str):
            emotion = [part.strip() for part in emotion.split(",") if part.strip()]
        try:
            return cls(**values, relation=record.get("relation") or "", emotion=emotion)
        except SchemaError as error:
            raise SchemaError(f"{name}: field {error}") from error

    def with_section(self, section: str, text: str) -> Annotation:
        """A copy with one section set; ``emotion`` is given as its comma-separated text."""
        if section == "emotion":
            return replace(self, emotion=tuple(p.strip() for p in text.split(",") if p.strip()))
        return replace(self, **{section: text})


@dataclass(frozen=True)
class Prediction:
    """What a model said about one clip.

    ``raw``: the generated text as it came. ``tracks``: what the model was given ("both", "picture", "sound").
    ``notes``: keys of media.NOTES, sections.NOTES and model.NOTES (a track is missing, the text had no structure, the
    answer was cut off).
    ``usage``: measured facts (prompt tokens by kind, answer tokens, seconds). ``log_probabilities``: of each stated
    section's tokens: how many, the mean and the least (natural logarithms; ``saber/model/confidence.py``).
    """

    clip: str
    annotation: Annotation
    raw: str = ""
    model: str = ""
    language: str = ""
    tracks: str = "both"
    notes: tuple[str, ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)
    log_probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The published record plus what is known about how it came to be."""
        about = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("annotation", "clip")}
        return {"clip": self.clip, **self.annotation.to_json(), "prediction": {**about, "notes": list(self.notes)}}


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one clip, as CA-DPO compares them (paper, Eq. 3). Scores are the judge's, higher is better."""

    clip: Clip
    prompt: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
