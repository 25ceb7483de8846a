"""The published annotation JSON: which section a key belongs to, and what in a stream of characters is JSON at all.

Goes in: the next characters of an answer. Comes out: a verdict on them, ``WAIT`` while they may still become a key, an
escape or the end of a string. Models leave quotation marks unescaped and forget commas; both are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from saber.schema import ACOUSTIC, DIMENSIONS, SECTIONS, VISUAL
from saber.sections.headings import WAIT, section_of_title

#: Published JSON keys -> sections; our own section names are read as keys too.
_KEYS = {path[-1]: section for section, path in DIMENSIONS.items()} | {section: section for section in SECTIONS}
KEY_NAMES = {*_KEYS, *(key for path in DIMENSIONS.values() for key in path)}
_GROUPS = (VISUAL, ACOUSTIC, ("reasoning", "relation", "emotion"))


def section_of_key(key: str, outer: str | None) -> str | None:
    """The section of a JSON key inside an object that belongs to ``outer`` (None: to no section), or None."""
    if key in _KEYS:
        return _KEYS[key]
    found = section_of_title(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key))
    if found and (outer is None or any(outer in group and found[0] in group for group in _GROUPS)):
        return found[0]
    return None


def _holdable(*atoms: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(the whole pattern, any beginning of it); every atom is one character class with an optional quantifier."""
    beginning = ""
    for atom in reversed(atoms):
        beginning = f"(?:{atom}{beginning})?"
    return re.compile("".join(atoms)), re.compile(beginning)


_S = r"\s{0,256}"
_KEY = ('"', r'[^"\r\n]{1,128}', '"', _S, ":")
JSON_KEY = _holdable(*_KEY)
JSON_OBJECT = _holdable("{", _S, *_KEY)
JSON_ARRAY = _holdable(r"\[", _S, "{", _S, *_KEY)
JSON_LIMIT = 1024
# Models forget to escape quotation marks, so one ends a string only where the rest still reads as JSON.
_END_IN_ANY = (
    _holdable('"', _S, r"[}\]]"),
    _holdable('"', _S, ",", _S, r"[}\]]"),
    _holdable('"', _S, "`", "`", "`"),
)
END_IN_OBJECT = (
    *_END_IN_ANY,
    _holdable('"', _S, ",", _S, *_KEY),
    _holdable('"', r"[ \t\r]{0,64}", r"\n", _S, *_KEY),  # the comma is missing
)
END_IN_LIST = (*_END_IN_ANY, _holdable('"', _S, ","))
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}
_HEX = r"[0-9a-fA-F]"
_UNICODE = _holdable(r"\\", "u", _HEX, _HEX, _HEX, _HEX)
_LOW_SURROGATE = _holdable(r"\\", "u", "[dD]", "[c-fC-F]", _HEX, _HEX)


def judge_patterns(patterns: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...], text: str) -> bool | None:
    if any(whole.fullmatch(text) for whole, _ in patterns):
        return True
    return WAIT if any(beginning.fullmatch(text) for _, beginning in patterns) else None


def judge_escape(text: str, closing: bool) -> tuple[str, int] | None:
    """(character, how much of the input it takes) of a JSON escape; None: no escape, the backslash is content."""
    if text == "\\":
        return ("", 1) if closing else WAIT
    if text[1] != "u":
        return (_ESCAPES[text[1]], 2) if text[1] in _ESCAPES else None
    if not _UNICODE[0].match(text):
        if not _UNICODE[1].fullmatch(text):
            return None
        return ("", len(text)) if closing else WAIT
    code = int(text[2:6], 16)
    if not 0xD800 <= code < 0xE000:
        return chr(code), 6
    if code < 0xDC00:
        if _LOW_SURROGATE[0].fullmatch(text, 6):
            return chr(0x10000 + ((code - 0xD800) << 10) + (int(text[8:12], 16) - 0xDC00)), 12
        if not closing and _LOW_SURROGATE[1].fullmatch(text, 6):
            return WAIT
    return "\ufffd", 6  # half a surrogate pair stands for no character and cannot be written to a file


@dataclass
class Container:
    """An open JSON object or list. ``section``: whose text it holds (None: undecided). ``value``: the (section, label)
    of the key just read, whose value comes next."""

    is_object: bool
    section: str | None
    label: str = ""
    value: tuple[str | None, str] | None = None
