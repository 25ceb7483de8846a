"""The table of causes: from what face, voice and words show to relation, emotion and what carries the truth.

The one place where a studio clip gets its verdict. Goes in: the face kind, the voice kind, the valence of the words,
the sound event; None for a channel that cannot be perceived. Comes out: a ``Verdict``. The same function judges a
model's own stated evidence ("does the reasoning follow from it?"). To change the world's rules, change AGREEMENT or
the rows of ``_emotion``. All of it is ours: the papers label recorded people, we define drawn ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from saber.studio.world import ATTRIBUTES, PROSODY, ClipSpec

#: Face kind -> voices that agree with it, each with the degree of alignment (0 to 10). Any other pair of a face and a
#: voice is a conflict. The smile that does not reach the eyes agrees with a courteous, even voice only.
AGREEMENT: dict[str, dict[str, int]] = {
    "joy": {"joy": 10, "tender": 8, "surprise": 6},
    "polite": {"neutral": 8, "tender": 7},
    "sadness": {"sadness": 10},
    "anger": {"anger": 10},
    "fear": {"fear": 10},
    "surprise": {"surprise": 10, "joy": 7},
    "disgust": {"disgust": 10},
    "contempt": {"contempt": 10},
    "neutral": {"neutral": 9},
}

#: Pleasantness of each kind, -1 to 1, for the severity of a conflict (0 to 10): 3 for two emotions of like
#: pleasantness, up to 10 for opposite ones.
PLEASANTNESS = {
    "joy": 1.0, "tender": 0.8, "polite": 0.5, "surprise": 0.2, "neutral": 0.0,
    "fear": -0.7, "sadness": -0.7, "contempt": -0.8, "disgust": -0.8, "anger": -1.0,
}  # fmt: skip

GLAD = ("joy", "tender")
SMILES = ("joy", "polite")
HOSTILE = ("anger", "disgust", "contempt")
VULNERABLE = ("sadness", "fear")

#: Every emotion that the table can give, with a sentence on what it means here.
EMOTIONS: dict[str, str] = {
    "joy": "glad, and it shows",
    "delight": "glad and taken by surprise",
    "warmth": "affection, gently spoken",
    "politeness": "a courteous smile, an even voice",
    "calm": "nothing stirs",
    "surprise": "taken by surprise, neither glad nor hurt",
    "sadness": "sad",
    "anger": "angry",
    "fear": "afraid",
    "disgust": "repelled",
    "contempt": "looks down on the other",
    "sarcasm": "kind words, meant the other way round",
    "masked sadness": "a smile over a sad voice",
    "feigned cheer": "cheer that is performed and not felt",
    "suppressed anger": "anger that is held back",
    "cold politeness": "a courteous smile over a cold voice",
    "playful teasing": "harsh words or tone, meant kindly",
    "mockery": "laughs at the other",
    "nervous laughter": "laughs out of fear",
    "nervousness": "fear behind a friendly front",
    "false friendliness": "dislike behind a friendly voice",
    "hostility": "several shades of dislike at once",
    "distress": "sad and afraid at once",
    "bitterness": "hurt and hostile at once",
    "indignation": "surprised and hostile",
    "shock": "surprised and hurt",
}


@dataclass(frozen=True)
class Verdict:
    """``relation``: picture against voice, "" where one is missing; ``intensity``: 0 to 10, degree of alignment or
    severity of conflict, None without a relation; ``words_relation``: words against voice, "" where either is missing;
    ``emotion``: a key of EMOTIONS, "" where nothing about the person can be perceived; ``carriers``: the channels
    ("picture", "voice", "words") of which each alone gives the emotion, empty when only all together give it."""

    relation: str
    intensity: int | None
    words_relation: str
    emotion: str
    carriers: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"carriers": list(self.carriers)}


def relation(face: str | None, voice: str | None) -> tuple[str, int | None]:
    """Picture against voice: ("consistent", alignment), ("conflict", severity) or ("", None)."""
    if face is None or voice is None:
        return "", None
    if voice in AGREEMENT[face]:
        return "consistent", AGREEMENT[face][voice]
    return "conflict", round(3 + 3.5 * abs(PLEASANTNESS[face] - PLEASANTNESS[voice]))


def words_relation(valence: str | None, voice: str | None) -> str:
    """Words against voice: a conflict is kind words in an unpleasant voice or harsh words in a pleasant one."""
    if valence is None or voice is None:
        return ""
    sign = {"positive": 1, "neutral": 0, "negative": -1}[valence]
    return "conflict" if sign * PLEASANTNESS[voice] <= -0.5 else "consistent"


def truth(spec: ClipSpec) -> dict[str, str]:
    """What can be perceived of a clip: attribute -> value, for those of world.ATTRIBUTES that can be perceived,
    plus "words" (the transcript without events) and "emotion" (a key of EMOTIONS). What cannot be perceived is
    left out, so an answer that claims it has invented it."""
    found: dict[str, str] = {}
    if spec.can_see_scene:
        found["scene"] = spec.scene
    if spec.can_see_person:
        found |= {name: getattr(spec.performance, name) for name in ("face", "gaze", "head", "micro")}
        found["body"] = spec.body
    if spec.can_hear_speech:
        found |= {"words": spec.words.text, "event": spec.words.event}
        found |= {"valence": spec.words.valence} if spec.words.valence else {}
        found["noise"] = "noisy" if spec.prosody.snr_db is not None else "clean"
    if spec.can_hear_manner:
        found |= {name: getattr(spec.prosody, name) for name in PROSODY} | {"voice": spec.voice}
    verdict = judge(found.get("face"), found.get("voice"), found.get("valence"), found.get("event", "none"))
    for name in ("relation", "words_relation", "emotion"):
        if value := getattr(verdict, name):
            found[name] = value
    return found


def judge(face: str | None, voice: str | None, valence: str | None, event: str = "none") -> Verdict:
    """The verdict on one person. ``face``, ``voice``, ``valence``: values of world.ATTRIBUTES, None if not
    perceivable; ``event``: the sound event. Raises ValueError on a value outside the vocabulary."""
    for attribute, value in (("face", face), ("voice", voice), ("valence", valence), ("event", event)):
        if value is not None and value not in ATTRIBUTES[attribute]:
            raise ValueError(f"{attribute} is {value!r}; it must be one of {ATTRIBUTES[attribute]}")
    emotion = _emotion(face, voice, valence, event)
    alone = {
        "picture": _emotion(face, None, None, "none"),
        "voice": _emotion(None, voice, None, event),
        "words": _emotion(None, None, valence, "none"),
    }
    carriers = tuple(name for name, single in alone.items() if emotion and single == emotion)
    return Verdict(*relation(face, voice), words_relation(valence, voice), emotion, carriers)


def _emotion(face: str | None, voice: str | None, valence: str | None, event: str) -> str:
    """The rows of the table, first match wins."""
    if face is None and voice is None:
        # Words alone: all they give is their content.
        return {"positive": "joy", "neutral": "calm", "negative": "sadness", None: ""}[valence]
    if event == "laugh" and "fear" in (face, voice):
        return "nervous laughter"
    if face is None:
        return _voice_alone(voice, valence)
    if voice is None:
        return _PLAIN_FACE[face]
    if relation(face, voice)[0] == "consistent":
        return _agreeing(face, voice, valence)
    return _conflicting(face, voice, valence)


_PLAIN_FACE = {
    "joy": "joy", "polite": "politeness", "sadness": "sadness", "anger": "anger", "fear": "fear",
    "surprise": "surprise", "disgust": "disgust", "contempt": "contempt", "neutral": "calm",
}  # fmt: skip
_PLAIN_VOICE = {
    "joy": "joy", "tender": "warmth", "neutral": "calm", "sadness": "sadness", "anger": "anger", "fear": "fear",
    "surprise": "surprise", "disgust": "disgust", "contempt": "contempt",
}  # fmt: skip


def _voice_alone(voice: str, valence: str | None) -> str:
    if valence == "positive" and voice in HOSTILE:
        return "sarcasm"
    return _PLAIN_VOICE[voice]


def _agreeing(face: str, voice: str, valence: str | None) -> str:
    if valence == "positive" and face in HOSTILE:
        return "sarcasm"
    if valence == "negative" and face == "joy" and voice in GLAD:
        return "playful teasing"
    if "surprise" in (face, voice) and "joy" in (face, voice):
        return "delight"
    if voice == "tender":
        return "warmth"
    return _PLAIN_FACE[face]


def _conflicting(face: str, voice: str, valence: str | None) -> str:
    if face in SMILES and voice in HOSTILE:
        if valence == "positive":
            return "sarcasm"
        if face == "polite":
            return "suppressed anger" if voice == "anger" else "cold politeness"
        return "playful teasing" if voice == "anger" else "mockery"
    if face in SMILES and voice == "sadness":
        return "masked sadness"
    if "fear" in (face, voice) and (face in SMILES or voice in GLAD):
        return "nervousness"
    if face == "polite" and voice == "joy":
        return "feigned cheer"
    if face == "sadness" and voice in GLAD:
        return "feigned cheer"
    if face == "anger" and voice in (*GLAD, "neutral"):
        return "suppressed anger"
    if face in ("disgust", "contempt") and voice in GLAD:
        return "sarcasm" if valence == "positive" else "false friendliness"
    if "surprise" in (face, voice):
        other = voice if face == "surprise" else face
        if other in HOSTILE:
            return "indignation"
        if other in VULNERABLE:
            return "shock"
        return "delight" if other in GLAD else "surprise"
    if face == "neutral":
        return _PLAIN_VOICE[voice]
    if voice == "neutral":
        return _PLAIN_FACE[face]
    if face in HOSTILE and voice in HOSTILE:
        return "hostility"
    if face in VULNERABLE and voice in VULNERABLE:
        return "distress"
    if face in (*HOSTILE, *VULNERABLE) and voice in (*HOSTILE, *VULNERABLE):
        return "bitterness"
    return "warmth" if voice == "tender" else _PLAIN_FACE[face]


def table() -> str:
    """The table of causes in Markdown, as it stands in docs/causes.md: face by voice, with neutral words; what other
    words change is in brackets; c marks a conflict, the number is alignment or severity."""
    voices, valences = ATTRIBUTES["voice"], ATTRIBUTES["valence"]
    lines = ["| face \\ voice | " + " | ".join(voices) + " |", "|---" * (len(voices) + 1) + "|"]
    for face in ATTRIBUTES["face"]:
        cells = []
        for voice in voices:
            plain = judge(face, voice, "neutral")
            others = {valence: judge(face, voice, valence).emotion for valence in valences}
            changes = [f"{valence} words: {emotion}" for valence, emotion in others.items() if emotion != plain.emotion]
            mark = "c" if plain.relation == "conflict" else ""
            change = f" ({'; '.join(changes)})" if changes else ""
            cells.append(f"{plain.emotion}{change} {mark}{plain.intensity}")
        lines.append(f"| **{face}** | " + " | ".join(cells) + " |")
    meanings = [f"- **{emotion}**: {meaning}" for emotion, meaning in EMOTIONS.items()]
    return "\n".join(
        [
            "# The table of causes",
            "",
            "What face and voice together mean in a studio clip, by `saber/studio/causes.py`, which wrote this page.",
            "The rules are ours. `c` marks a conflict between picture and voice; the number is the degree of alignment",
            "or the severity of the conflict, 0 to 10. A laugh with fear in face or voice is always nervous laughter.",
            "",
            *lines,
            "",
            *meanings,
            "",
        ]
    )
