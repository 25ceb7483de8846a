"""The SED text: ``render`` writes an annotation, ``Parser`` reads any checkpoint's answer while it is generated.

Goes in: an Annotation, or pieces of text. Comes out: text in our flat tags, or events (section, text, raw) and at the
end an Annotation with notes. ``parse`` and ``render`` are inverses (``normalise`` says what is levelled). Read as well:
the published annotation JSON (whole, fenced or cut off) and prose under English or Chinese headings. What cannot be
placed is shown as reasoning, with a note; no input raises, and no text is dropped.
Our own form is in ``text``, headings in ``headings``, the JSON in ``published``; ``parser`` reads all three.
"""

from saber.sections.headings import CONNECTORS, FILLERS, TITLES
from saber.sections.parser import Event, Parsed, Parser, parse
from saber.sections.text import CLOSE_TAGS, NOTES, OPEN_TAGS, normalise, read_relation, render, split_emotion

__all__ = [
    "CLOSE_TAGS",
    "CONNECTORS",
    "FILLERS",
    "NOTES",
    "OPEN_TAGS",
    "TITLES",
    "Event",
    "Parsed",
    "Parser",
    "normalise",
    "parse",
    "read_relation",
    "render",
    "split_emotion",
]
