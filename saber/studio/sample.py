"""Draws clips at random: which person, face, body, voice and words come together, in which split, in which mix.

Goes in: a ``Mix`` (seed, split, languages, share of conflicts). Comes out: ``draw_spec(mix, index)`` -> ClipSpec, a
pure function, so any worker can make any clip. Conflicts are drawn in the joint of (face, voice, words) alone; every
other channel is independent. The agreeing and the conflicting joint have the same marginals, ``SHARES``, so each face,
voice and valence is as frequent in the natural mix as in the balanced one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from saber.schema import LANGUAGES
from saber.studio import draw, voice, words
from saber.studio.causes import AGREEMENT, relation, words_relation
from saber.studio.world import ATTRIBUTES, SPLITS, VOICES, ClipSpec, Performance, Prosody, Words

FACES, VOICE_KINDS, VALENCES = ATTRIBUTES["face"], ATTRIBUTES["voice"], ATTRIBUTES["valence"]

#: Different people a split can draw from. No identity is in two splits: a person is a seed, and seeds differ by split.
PEOPLE = {
    "train": 2000, "validation": 100, "test": 400, "combinations": 400, "style": 200, "speech": 2000, "drill": 2000,
    "rare": 1000,
}  # fmt: skip

#: Split -> share of its sentences whose words come in any order; 0 in the others. Those of "speech" have no valence.
SHUFFLED_SHARES = {"speech": 0.5, "drill": 1.0, "rare": 0.5}
#: Split -> the one kind of clip that it has, whatever its mix says of incomplete ones: sound alone, or complete.
ONE_KIND = {"speech": "no_picture", "drill": ""}

#: Share of each kind of incomplete clip (their sum is the share of incomplete clips).
INCOMPLETE_SHARES = {
    "no_sound": 0.025, "no_picture": 0.025, "nobody": 0.02, "silent": 0.025, "noise": 0.02, "short": 0.02,
    "long": 0.01,
}  # fmt: skip

#: The same for the split that has no others. Long ones are many: their words are as many again.
RARE_SHARES = {
    "no_sound": 0.1, "no_picture": 0.1, "nobody": 0.2, "silent": 0.1, "noise": 0.1, "short": 0.15, "long": 0.25,
}  # fmt: skip

BALANCED, NATURAL = 0.5, 0.05
#: In the agreeing joint, how much rarer words are that contradict the voice (per unit weight of words that fit it).
WORDS_AGAINST_VOICE = 0.12

#: How frequent each face, each voice and each valence is, in every mix. A voice is as frequent as it is where each face
#: meets all the voices that agree with it alike. (Were the voices equally frequent too, a glad smile could hardly ever
#: agree with a tender voice, nor a polite one with a neutral voice: other faces have only those.)
SHARES = (
    np.full(len(FACES), 1 / len(FACES)),
    np.array([sum((kind in AGREEMENT[face]) / len(AGREEMENT[face]) for face in FACES) for kind in VOICE_KINDS])
    / len(FACES),
    np.full(len(VALENCES), 1 / len(VALENCES)),
)


@dataclass(frozen=True)
class Mix:
    """What to draw from. ``conflict_share``: share of complete clips whose picture and voice disagree (0 to 1).
    ``other_language_share``: share of annotations that are written in the language that is not spoken. ``wordings``:
    annotations of each clip, each in other words; a model that is shown one only learns it by heart."""

    split: str = "train"
    seed: int = 0
    languages: tuple[str, ...] = LANGUAGES
    conflict_share: float = BALANCED
    incomplete: bool = True
    other_language_share: float = 0.0
    size: int = 112
    wordings: int = 1

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}; it must be one of {SPLITS}")
        if not self.languages or any(language not in LANGUAGES for language in self.languages):
            raise ValueError(f"languages are {self.languages!r}; they must be from {LANGUAGES}")
        for name in ("conflict_share", "other_language_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.wordings < 1:
            raise ValueError(f"wordings is {self.wordings}; it must be at least 1")
        if not 64 <= self.size <= 1080 or self.size % 2:
            raise ValueError(f"size is {self.size}; it must be an even number of pixels from 64 to 1080")


def is_held_out(face: str, voice_kind: str, valence: str) -> bool:
    """Whether training never shows this combination. One valence of three in every 3 of 5 pairs of face and voice: a
    fifth of all combinations, while every pair of two channels still occurs in training."""
    f, v = FACES.index(face), VOICE_KINDS.index(voice_kind)
    return (f + 2 * v) % 5 < 3 and (f + v) % 3 == VALENCES.index(valence)


@lru_cache
def joint(kind: str, held_out: bool) -> np.ndarray:
    """Probabilities of (face, voice, valence), shape (9, 9, 3).

    ``kind``: "agree" or "conflict" (picture against voice). ``held_out``: the combinations split's cells or the others.
    Marginals are fitted to SHARES by iterative proportional fitting; for held-out cells, as near as they allow.
    """
    table = np.zeros((len(FACES), len(VOICE_KINDS), len(VALENCES)))
    for i, face in enumerate(FACES):
        for j, kind_of_voice in enumerate(VOICE_KINDS):
            for k, valence in enumerate(VALENCES):
                agrees = relation(face, kind_of_voice)[0] == "consistent"
                if agrees != (kind == "agree") or is_held_out(face, kind_of_voice, valence) != held_out:
                    continue
                fits = words_relation(valence, kind_of_voice) == "consistent"
                table[i, j, k] = 1.0 if kind == "conflict" or fits else WORDS_AGAINST_VOICE
    for _ in range(100):
        for axis, shares in enumerate(SHARES):
            others = tuple(a for a in range(3) if a != axis)
            sums = table.sum(axis=others, keepdims=True)
            table = table / np.where(sums > 0, sums, 1) * np.expand_dims(shares, others)
    return table / table.sum()


@lru_cache(maxsize=8192)
def _person(split: str, number: int):
    style = 1 if split == "style" else 0
    return draw.random_identity(f"{split}-{number:04d}", SPLITS.index(split) * 1_000_003 + number, style)


def draw_spec(mix: Mix, index: int) -> ClipSpec:
    """Clip number ``index`` of a mix. The same arguments give the same clip, whatever else is drawn."""
    rng = random.Random(f"{mix.seed}/{mix.split}/{index}")
    language = mix.languages[index % len(mix.languages)]
    if mix.split in ONE_KIND:
        incomplete = ONE_KIND[mix.split]
    elif mix.split == "rare":
        incomplete = _pick_incomplete(rng, RARE_SHARES)
    else:
        incomplete = _pick_incomplete(rng, INCOMPLETE_SHARES) if mix.incomplete else ""
    kind = "conflict" if rng.random() < mix.conflict_share else "agree"
    table = joint(kind, mix.split == "combinations")
    cell = rng.choices(range(table.size), weights=table.ravel().tolist())[0]
    f, v, w = np.unravel_index(cell, table.shape)
    face, voice_kind, valence = FACES[f], VOICE_KINDS[v], VALENCES[w]
    identity = _person(mix.split, rng.randrange(PEOPLE[mix.split]))
    speakers = voice.speakers(mix.split, language, identity.sex)
    micro = rng.choice(ATTRIBUTES["micro"][1:]) if face in ("neutral", "polite") and rng.random() < 0.5 else "none"
    return ClipSpec(
        id=f"{mix.split}-{mix.seed}-{index:06d}",
        split=mix.split,
        seed=rng.randrange(2**31),
        language=language,
        scene=rng.choice(ATTRIBUTES["scene"]),
        identity=identity,
        performance=Performance(
            face=face,
            gaze=rng.choices(ATTRIBUTES["gaze"], (2, 1, 1))[0],
            head=rng.choices(ATTRIBUTES["head"], (2, 1, 1, 1))[0],
            micro=micro,
            blinks_per_min=rng.uniform(8, 30),
            seed=rng.randrange(2**31),
        ),
        body=rng.choice(ATTRIBUTES["body"]),
        speaker=rng.choice([speaker.id for speaker in speakers]),
        voice=voice_kind,
        prosody=Prosody(
            **{name: rng.choice(values) for name, values in VOICES[voice_kind].items()},
            snr_db=rng.uniform(6, 14) if rng.random() < 0.25 else None,
            seed=rng.randrange(2**31),
        ),
        words=_draw_words(language, valence, mix.split, incomplete, rng),
        incomplete=incomplete,
        size=mix.size,
    )


def annotation_language(mix: Mix, spec: ClipSpec, wording: int = 0) -> str:
    """The language that an annotation is written in: the spoken one but for the share that the mix asks for."""
    drawn = random.Random(spec.seed if wording == 0 else f"language/{spec.seed}/{wording}").random()
    if drawn >= mix.other_language_share:
        return spec.language
    return next(language for language in LANGUAGES if language != spec.language)


def _pick_incomplete(rng: random.Random, shares: Mapping[str, float]) -> str:
    at = rng.random()
    for kind, share in shares.items():
        if at < share:
            return kind
        at -= share
    return ""


def _draw_words(language: str, valence: str, split: str, incomplete: str, rng: random.Random) -> Words:
    event = rng.choices(ATTRIBUTES["event"], (4, 1, 1, 1, 1))[0]
    if incomplete == "short":
        text, template = words.short_word(language, valence, split, rng)
        return Words(text, language, valence, "none", template)
    shuffled = SHUFFLED_SHARES.get(split, 0.0)
    parts = []
    for _ in range(rng.randint(3, 6) if incomplete == "long" else 1):  # six slow sentences stay under 30 s
        if shuffled and rng.random() < shuffled:
            valence = "" if split == "speech" else valence
            parts.append(words.shuffled_words(language, rng, valence))
        else:
            parts.append(words.sentence(language, valence, split, rng))
    text = (" " if language == "en" else "").join(part.text for part in parts)
    return Words(text, language, valence, event, "+".join(part.template for part in parts))
