"""Which cues agree or clash, in the model's own words: nothing is invented, only picked from the answer.

Goes in: the texts of an answer by section. Comes out: two short pieces of it, what the face shows and what the voice
tells: where the reasoning names them ("the polite smile and the trembling voice") those, else the first clause of the
evidence. A rule of ours, for any model's prose in English or Chinese; a model that says nothing of one of them gets
nothing picked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Characters (Latin) of the longest piece that is shown; Chinese ones count twice.
LONGEST = 64

_FACE = "smiles?|grins?|frowns?|face|expressions?|look|gaze|eyes|brows?|eyebrows|mouth|lips|grimace|tears"
_VOICE = "voice|tones?|pitch|intonation|speech|delivery|laugh|laughter|sighs?|sobs?"
_BEFORE = r"\b(?:(?:the|a|an|his|her|their|this|that|whose)\s+)?((?:[a-z][\w'-]*[ -]){1,3}(?:%s))\b"
_NO_CUE = (
    "the a an his her their this that whose its and or but with of to in on for from by at as is are was were while "
    "although though says said shows show has have not no does do both between person person's speaker speaker's "
    "woman's man's she he they it i you we body words facial overall same very than then so because if when where "
    "which what how"
).split()
_CHINESE = r"([^，。；、：！？\s和与跟及但而却的虽然尽管他她]{1,8}的?(?:%s))"
_PATTERNS = {
    "seen": (
        re.compile(_BEFORE % _FACE, re.IGNORECASE),
        re.compile(_CHINESE % "笑容|微笑|表情|神情|面容|目光|眼神|脸色"),
    ),
    "heard": (
        re.compile(_BEFORE % _VOICE, re.IGNORECASE),
        re.compile(_CHINESE % "声音|语气|语调|嗓音|声调|口吻|笑声|叹息"),
    ),
}
_EVIDENCE = {"seen": "face", "heard": "prosody"}
_CLAUSES = re.compile(r"[;；。！？!?\n]|,(?=\s)|，|\.(?=\s|$)")


def cues(texts: Mapping[str, str]) -> dict[str, str]:
    """ "seen" and "heard" -> the cue in the answer's own words, of those that it names."""
    found = {
        side: _named(texts.get("reasoning", ""), side) or _first(texts.get(_EVIDENCE[side], "")) for side in _EVIDENCE
    }
    return {side: cue for side, cue in found.items() if cue}


def _named(reasoning: str, side: str) -> str:
    """The first cue of this side that the reasoning qualifies: "the trembling voice", not "the voice"."""
    for pattern in _PATTERNS[side]:
        for match in pattern.finditer(reasoning):
            words = match[1].split()
            while words and words[0].lower() in _NO_CUE:
                words = words[1:]
            # What stands before a word that joins belongs to something else.
            joins = [at for at, word in enumerate(words) if word.lower() in _NO_CUE]
            words = words[joins[-1] + 1 :] if joins else words
            if len(words) > 1 or (words and length(words[0]) > 4 and not words[0].isascii()):
                return " ".join(words)
    return ""


def _first(evidence: str) -> str:
    clauses = [clause.strip(" \"'“”") for clause in _CLAUSES.split(evidence)]
    clause = next((clause for clause in clauses if length(clause) > 3), "")
    if length(clause) <= LONGEST:
        return clause
    kept = ""
    for piece in re.findall(r"\s*[!-~À-ʯ]+|\s*.", clause):
        if length(kept + piece) > LONGEST - 1:
            break
        kept += piece
    return kept.strip() + "…"


def length(text: str) -> int:
    """Columns: a Chinese character takes two."""
    return sum(1 if character < "⺀" else 2 for character in text)
