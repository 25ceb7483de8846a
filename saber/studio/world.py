"""What a studio clip is made of: the vocabulary of every channel and the record that holds one clip's truth.

Each channel (scene, person, face, body, voice, words) is set independently of the others. Values are short English
keys; their wording in the answer's language lives in ``phrases.py``. To add a value: add it here, draw or voice it
(``face.py``, ``draw.py``, ``voice.py``) and give it phrases. Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

#: Training too, with many more voices: "speech" is voices alone, for teaching an audio encoder to hear; "drill" is
#: whole clips whose words come in no order, for teaching a language model to write down what is said and no other, and
#: to take its valence from the one word that has it; "rare" is what "train" has little of: clips that lack something,
#: and long ones; half of its sentences are words in no order.
SPLITS = ("train", "validation", "test", "combinations", "style", "speech", "drill", "rare")

#: Every attribute that an answer can be scored on by rule -> its values.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "scene": ("kitchen", "office", "park", "street", "bedroom", "classroom", "cafe", "hospital"),
        # What the face shows: eight emotions, and the smile that does not reach the eyes (AU12 without AU6).
        "face": ("joy", "polite", "sadness", "anger", "fear", "surprise", "disgust", "contempt", "neutral"),
        "gaze": ("direct", "down", "aside"),
        "head": ("still", "nod", "shake", "tilt"),
        # A leak of under half a second on an otherwise neutral or smiling face.
        "micro": ("none", "sadness", "anger", "fear", "disgust"),
        "body": ("upright", "leaning", "crossed", "palms", "chin", "slumped", "fists", "shrug"),
        "event": ("none", "laugh", "sigh", "sob", "gasp"),
        "level": ("low", "mid", "high"),
        "movement": ("flat", "lively"),
        "rate": ("slow", "normal", "fast"),
        "loudness": ("soft", "normal", "loud"),
        "tension": ("relaxed", "tense"),
        "tremor": ("no", "yes"),
        "breath": ("no", "yes"),
        "noise": ("clean", "noisy"),  # noisy: background noise, speech still clear
        # What the voice sounds like as a whole; it follows from the prosody by VOICES below.
        "voice": ("joy", "tender", "neutral", "sadness", "anger", "fear", "surprise", "disgust", "contempt"),
        "valence": ("positive", "neutral", "negative"),
        "relation": ("consistent", "conflict"),
        "words_relation": ("consistent", "conflict"),
    }
)

#: Voice kind -> the prosody it allows. Each pair of kinds differs in at least one attribute, so that the prosody
#: alone names the kind (a test holds this). Ours, after the usual acoustic correlates of vocal emotion
#: (Banse & Scherer 1996; Juslin & Laukka 2003); values in one tuple are equally likely.
PROSODY = ("level", "movement", "rate", "loudness", "tension", "tremor", "breath")
VOICES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "joy": dict(
            level=("high",),
            movement=("lively",),
            rate=("normal", "fast"),
            loudness=("normal", "loud"),
            tension=("relaxed",),
            tremor=("no",),
            breath=("no",),
        ),
        "tender": dict(
            level=("low", "mid"),
            movement=("lively",),
            rate=("slow",),
            loudness=("soft",),
            tension=("relaxed",),
            tremor=("no",),
            breath=("no", "yes"),
        ),
        "neutral": dict(
            level=("mid",),
            movement=("flat",),
            rate=("normal",),
            loudness=("normal",),
            tension=("relaxed",),
            tremor=("no",),
            breath=("no",),
        ),
        "sadness": dict(
            level=("low",),
            movement=("flat",),
            rate=("slow",),
            loudness=("soft",),
            tension=("relaxed",),
            tremor=("no", "yes"),
            breath=("no", "yes"),
        ),
        "anger": dict(
            level=("low", "mid"),
            movement=("lively",),
            rate=("normal", "fast"),
            loudness=("loud",),
            tension=("tense",),
            tremor=("no",),
            breath=("no",),
        ),
        "fear": dict(
            level=("high",),
            movement=("flat", "lively"),
            rate=("fast",),
            loudness=("soft", "normal"),
            tension=("tense",),
            tremor=("yes",),
            breath=("no", "yes"),
        ),
        "surprise": dict(
            level=("high",),
            movement=("lively",),
            rate=("slow", "normal"),
            loudness=("loud",),
            tension=("tense",),
            tremor=("no",),
            breath=("no", "yes"),
        ),
        "disgust": dict(
            level=("low",),
            movement=("lively",),
            rate=("slow",),
            loudness=("normal",),
            tension=("tense",),
            tremor=("no",),
            breath=("no",),
        ),
        "contempt": dict(
            level=("low", "mid"),
            movement=("flat",),
            rate=("slow", "normal"),
            loudness=("normal",),
            tension=("tense",),
            tremor=("no",),
            breath=("no",),
        ),
    }
)

#: What a clip lacks, if anything. "": a complete clip.
#: no_sound / no_picture: the track is absent. nobody: an empty scene, a voice from off screen. silent: a person who
#: does not speak. noise: speech buried in noise, neither words nor prosody can be made out.
#: short: under 1 s (one word). long: up to 30 s (several sentences).
INCOMPLETE = ("", "no_sound", "no_picture", "nobody", "silent", "noise", "short", "long")


@dataclass(frozen=True)
class Identity:
    """One drawn person. Same id, same drawing. ``seed`` drives whatever is not listed (proportions, shades)."""

    id: str
    seed: int
    sex: str  # "female" | "male"
    age: str  # "young" | "adult" | "older"
    skin: int  # 0 (lightest) .. 9 (darkest), after the Monk skin tone scale
    hair: str  # "short" | "long" | "bun" | "curly" | "bald"
    hair_color: str  # "black" | "brown" | "blond" | "red" | "grey"
    glasses: bool
    beard: bool
    clothes: int  # 0..11, index into a palette
    style: int = 0  # drawing style: 0 (all splits but "style"), 1 ("style")


@dataclass(frozen=True)
class Performance:
    """What the face does: kind, gaze, head movement, micro-expression, blinks per minute; ``seed`` for timing."""

    face: str
    gaze: str
    head: str
    micro: str
    blinks_per_min: float
    seed: int


@dataclass(frozen=True)
class Prosody:
    """How it is said, each set independently. ``snr_db``: speech against background noise; None is no noise."""

    level: str
    movement: str
    rate: str
    loudness: str
    tension: str
    tremor: str
    breath: str
    snr_db: float | None
    seed: int


@dataclass(frozen=True)
class Words:
    """What is said. ``text``: words as spoken, without events. ``event``: a sound event, inline before the text.
    ``valence``: "" where the words make no sentence."""

    text: str
    language: str
    valence: str
    event: str
    template: str


@dataclass(frozen=True)
class ClipSpec:
    """One clip, whole: rendering it twice gives the same bytes."""

    id: str
    split: str
    seed: int
    language: str
    scene: str
    identity: Identity
    performance: Performance
    body: str
    speaker: str  # key of voice.SPEAKERS
    voice: str  # voice kind; the prosody agrees with VOICES[voice]
    prosody: Prosody
    words: Words
    incomplete: str = ""
    size: int = 112  # pixels, square
    fps: int = 15

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def can_see_person(self) -> bool:
        return self.incomplete not in ("no_picture", "nobody")

    @property
    def can_see_scene(self) -> bool:
        return self.incomplete != "no_picture"

    @property
    def can_hear_speech(self) -> bool:
        """Words can be made out."""
        return self.incomplete not in ("no_sound", "silent", "noise")

    @property
    def can_hear_manner(self) -> bool:
        """Prosody can be made out; one word of a very short clip is not enough for it."""
        return self.can_hear_speech and self.incomplete != "short"
