"""What of one answer is right, attribute by attribute and section by section.

Goes in: a row of a studio split and the ``Reading`` of an answer to it. Comes out: right or wrong. Accuracy, gaps and
calibration all ask here, so that they speak of the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saber.studio.phrases import STATES
from saber.studio.reader import Reading
from saber.studio.world import ATTRIBUTES

#: Attributes in the order of the table; "valence" and "words_relation" are stated in the reasoning.
SCORED = (*ATTRIBUTES, "emotion")

#: Section -> the scored attributes that it states. The reasoning is left out: it repeats what others state.
SECTION_STATES: dict[str, tuple[str, ...]] = {
    **{section: STATES[section] for section in ("scene", "face", "body")},
    "speech": ("words", "event"),
    "prosody": STATES["prosody"],
    "relation": ("relation",),
    "emotion": ("emotion",),
}


def transcripts(row: Mapping[str, Any], reading: Reading) -> tuple[str, str]:
    """(what is said, what was heard), in units that spaces part: words, or characters where Chinese is spoken."""
    said, heard = row["truth"]["words"] or "", reading.values.get("words", "")
    if row["spoken_language"] == "zh":
        said, heard = " ".join(said.replace(" ", "")), " ".join(heard.replace(" ", ""))
    return " ".join(said.split()), " ".join(heard.split())


def is_right(row: Mapping[str, Any], reading: Reading, attribute: str) -> bool:
    """Whether the answer states an attribute (one of SCORED, or "words": every word) as it is. What cannot be
    perceived is right where nothing is claimed of it; what is stated in contradiction is wrong."""
    if attribute in reading.contradictions:
        return False
    if attribute == "words":
        said, heard = transcripts(row, reading)
        return said == heard
    return reading.values.get(attribute) == row["truth"][attribute]


def is_section_right(row: Mapping[str, Any], reading: Reading, section: str) -> bool:
    """Whether all scored attributes of a section (a key of SECTION_STATES) are right."""
    return all(is_right(row, reading, attribute) for attribute in SECTION_STATES[section])
