"""Reading any checkpoint's answer while it is generated: ``Parser`` for pieces, ``parse`` for a whole text.

Goes in: pieces of text, split anywhere. Comes out: events (section, text, raw), and at the end ``Parsed``. What a tag,
a heading or a JSON key is, the other files of this package say; here is what follows from it. What cannot be placed is
shown as reasoning, with a note; no input raises, and no text is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saber.schema import SECTIONS, Annotation
from saber.sections.headings import WAIT, Markup, judge_heading
from saber.sections.published import (
    END_IN_LIST,
    END_IN_OBJECT,
    JSON_ARRAY,
    JSON_KEY,
    JSON_LIMIT,
    JSON_OBJECT,
    KEY_NAMES,
    Container,
    judge_escape,
    judge_patterns,
    section_of_key,
)
from saber.sections.text import TAG, TAG_PREFIXES, VERDICT_WORDS, read_relation, split_emotion

_LINE_LIMIT = 128
_FENCES = ("", "json", "jsonc", "json5", "xml", "html", "markdown", "md", "text", "txt", "plaintext", "yaml")
_IN_TAG = re.compile(r"[^<\\]+")
_IN_LINE = re.compile(r"[^<\\{\r\n]+")
_IN_STRING = re.compile(r'[^"\\]+')
_BLANKS = re.compile(r"\s+")
_BLANKS_AND_COMMAS = re.compile(r"[\s,]+")
_BARE = re.compile(r"[^,}\]\r\n]*")


@dataclass(frozen=True)
class Event:
    """A piece of the answer. ``section``: one of SECTIONS. ``text``: what the reader sees, unescaped (may be empty).

    ``raw``: exactly the input characters that this event consumed; all of them in order are the input.
    """

    section: str
    text: str
    raw: str


@dataclass(frozen=True)
class Parsed:
    """The annotation of a text, keys of NOTES, and whether the text had no structure at all."""

    annotation: Annotation
    notes: tuple[str, ...] = ()
    unstructured: bool = False


class Parser:
    """Reads an answer piece by piece. Any split into pieces gives the same text per section and the same result.

    The text of all events of a section, concatenated, is the section; blank space is passed on with the word that
    follows it, so none is left at either end. Input is held back only while it may still become a tag, a JSON key or
    escape, or a heading line. Never raises on input; time is linear in its length.
    """

    def __init__(self) -> None:
        self._held = ""  # input that is not decided yet
        self._tried = 0  # how many characters of it were judged in vain
        self._closing = False
        self._closed = False
        self._step: Callable[[str, int], int] = self._read_document
        self._events: list[tuple[str, list[str], list[str]]] = []
        # The block that text goes to.
        self._section = "reasoning"
        self._fresh = True  # no text in this block yet
        self._label = ""  # unknown JSON key, shown before the block's text
        self._blank: list[str] = []  # blank space that waits for a word
        self._texts: dict[str, list[str]] = {section: [] for section in SECTIONS}
        # Where in the document we are.
        self._tag_open = False
        self._heading: Markup | None = None
        self._line_start = True
        self._containers: list[Container] = []
        # What was seen.
        self._notes: dict[str, None] = {}
        self._structured = False
        self._tagged = False
        self._outside_text = False
        self._emotion_in_prose = False

    def feed(self, piece: str) -> list[Event]:
        """Takes the next piece of the answer; returns what became certain. Raises RuntimeError after close()."""
        if self._closed:
            raise RuntimeError("feed() after close(): make a new Parser for the next answer")
        self._run(self._held + piece)
        return self._take_events()

    def close(self) -> list[Event]:
        """Ends the answer and returns what was held back. A second call returns nothing."""
        if not self._closed:
            self._closing = True
            self._run(self._held)
            if self._tag_open or self._containers:
                self._note("cut_off")
            self._closed = True
        return self._take_events()

    def result(self) -> Parsed:
        """The annotation so far; final after close()."""
        sections = {section: "".join(parts) for section, parts in self._texts.items()}
        notes = dict(self._notes)
        relation, said = sections.pop("relation"), []
        verdict, bare = read_relation(relation)
        unfinished = self._section == "relation" and any(w.startswith(relation.lower()) for w in VERDICT_WORDS)
        if relation and not (verdict and bare) and not unfinished:
            said.append(relation)
            notes["relation_as_text" if verdict else "unreadable_relation"] = None
        emotion = sections.pop("emotion")
        labels = split_emotion(emotion)
        if self._emotion_in_prose:
            labels = tuple(filter(None, (label.strip(" \t-•·*_`\"'“”‘’「」[]()（）.。!！") for label in labels)))
            if any(len(label) > 32 or len(label.split()) > 4 for label in labels):
                said.append(emotion)
                labels = ()
                notes["emotion_as_text"] = None
        sections["reasoning"] = "\n".join(filter(None, (sections["reasoning"], *said)))
        unstructured = self._outside_text and not self._structured
        if unstructured:
            notes["no_structure"] = None
        elif self._outside_text:
            notes["stray_text"] = None
        elif not any(self._texts.values()):
            notes["empty"] = None
        return Parsed(Annotation(**sections, relation=verdict, emotion=labels), tuple(notes), unstructured)

    # Running

    def _run(self, text: str) -> None:
        position = 0
        while position < len(text):
            after = self._step(text, position)
            if after is WAIT:
                break
            position = after
        self._held = text[position:]

    def _decide(self, text: str, start: int, judge: Callable[[str, bool], Any], limit: int) -> Any:
        """The verdict of ``judge`` on what stands at ``start``, or WAIT.

        It is asked about the first character, the first two, and so on, until it knows: so the verdict cannot depend
        on how the input was split. At the end of the input it is asked once more, with True.
        """
        for size in range(self._tried + 1, limit + 1):
            if start + size > len(text):
                if not self._closing:
                    self._tried = size - 1
                    return WAIT
                verdict = judge(text[start:], True)
                break
            verdict = judge(text[start : start + size], False)
            if verdict is not WAIT:
                break
        else:
            verdict = None
        self._tried = 0
        return None if verdict is WAIT else verdict

    def _take_events(self) -> list[Event]:
        events = [Event(section, "".join(texts), "".join(raws)) for section, texts, raws in self._events]
        self._events = []
        return events

    def _emit(self, text: str, raw: str) -> None:
        if not self._events or self._events[-1][0] != self._section:
            self._events.append((self._section, [], []))
        self._events[-1][1].append(text)
        self._events[-1][2].append(raw)

    def _note(self, key: str) -> None:
        self._notes[key] = None

    def _open_block(self, section: str, label: str = "") -> None:
        self._section, self._label = section, label
        self._fresh = True
        self._blank = []

    def _leave(self) -> None:
        """Back to where no section is open: what comes is reasoning."""
        self._open_block("reasoning")
        self._tag_open = False
        self._heading = None
        self._line_start = True
        self._containers = []
        self._step = self._read_document

    def _say(self, text: str, raw: str) -> None:
        """``text`` is content of the block; its trailing blank space waits for the next word."""
        if self._fresh:
            text = text.lstrip()
        words = text.rstrip()
        shown = ""
        if words:
            parts = self._texts[self._section]
            shown = "".join(self._blank) + words
            if self._fresh:
                joint = (", " if self._section == "emotion" else "\n") if parts else ""
                shown = joint + self._label + words
            if self._label:
                self._note("unknown_key")
            if not (self._tag_open or self._heading or self._containers):
                self._outside_text = True
            parts.append(shown)
            self._fresh, self._label, self._blank = False, "", []
        if not self._fresh and len(words) < len(text):
            self._blank.append(text[len(words) :])
        self._emit(shown, raw)

    # Tags, headings, plain text

    def _read_document(self, text: str, start: int) -> int:
        char = text[start]
        if char in "<\\":
            return self._read_tag(text, start)
        if self._tag_open:
            end = _IN_TAG.match(text, start).end()
            self._say(text[start:end], text[start:end])
            return end
        if self._line_start and char.isspace():
            end = _BLANKS.match(text, start).end()
            self._say(text[start:end], text[start:end])
            return end
        if self._line_start or char == "{":
            found = self._decide(text, start, self._judge_line, JSON_LIMIT)
            if found is WAIT:
                return WAIT
            if found is not None:
                return self._take_markup(found, text, start)
        self._line_start = char in "\r\n"
        end = start + 1 if char in "{\r\n" else _IN_LINE.match(text, start).end()
        self._say(text[start:end], text[start:end])
        return end

    def _read_tag(self, text: str, start: int) -> int:
        found = self._decide(text, start, self._judge_tag, 32)
        if found is WAIT:
            return WAIT
        if found is None:
            self._line_start = False
            self._say(text[start], text[start])
            return start + 1
        raw = found[0]
        if raw.startswith("\\"):
            self._line_start = False
            self._say(raw[1:], raw)
            return start + len(raw)
        if not raw.endswith(">"):  # cut off inside one of our tags
            self._note("cut_off")
            self._emit("", raw)
            return start + len(raw)
        self._structured = self._tagged = True
        if found[1]:
            self._emit("", raw)
            self._leave()
        else:
            self._open_block(found[2].lower())
            self._tag_open = True
            self._heading = None
            self._emit("", raw)
        return start + len(raw)

    def _judge_tag(self, text: str, closing: bool) -> Any:
        whole = TAG.fullmatch(text)
        if whole:
            return whole
        if text.lower() not in TAG_PREFIXES:
            return None
        if closing:
            return (text,) if self._tagged and text[0] == "<" else None
        return WAIT

    def _judge_line(self, text: str, closing: bool) -> Any:
        """Markup at the start of a line; in the middle of one only the beginning of a JSON object."""
        waiting = False
        if text[0] in '{["':
            patterns = (JSON_OBJECT,)
            if self._line_start:
                patterns = (JSON_OBJECT, JSON_ARRAY, JSON_KEY)
            verdict = judge_patterns(patterns, text)
            if closing and verdict is WAIT:  # cut off before or inside the first key
                key = re.fullmatch(r'[{\[\s]*(?:"([a-z_]*)"?\s*)?', text)
                known = key and any(name.startswith(key[1] or "") for name in KEY_NAMES)
                verdict = bool(known and self._line_start) or None
            if verdict is True and text[0] == '"' and text.split('"')[1] not in KEY_NAMES:
                verdict = None  # without a brace only a published key is JSON
            if verdict is True:
                return Markup("json", 0)
            waiting = verdict is WAIT
        if self._line_start:
            if text[0] == "`":
                fence = re.match(r"`{1,3}[A-Za-z0-9_+-]{0,16}", text)[0]
                if len(fence) == len(text) and not closing:
                    return WAIT
                is_fence = fence[3:].lower() in _FENCES if fence[:3] == "```" else closing and self._structured
                return Markup("fence", len(fence)) if is_fence else None
            line, _, after = text.replace("\r", "\n").partition("\n")
            ended = closing or len(line) < len(text)
            if not after and len(text) <= _LINE_LIMIT:
                found = judge_heading(line, ended, closing and len(line) == len(text))
                if found is WAIT:
                    waiting = True
                elif found is not None and not self._is_content(found):
                    return found
        return WAIT if waiting else None

    def _is_content(self, heading: Markup) -> bool:
        """A line with the form of a heading that is part of the block in hand: a sub-heading of the same dimension
        ("- Posture:" under body language), or evidence listed again inside the reasoning."""
        above = self._heading
        if above is None or heading.kind != "heading":
            return False
        if heading.section == above.section:
            return heading.title != above.title
        return heading.rank > above.rank and bool(self._texts[heading.section])

    def _take_markup(self, found: Markup, text: str, start: int) -> int:
        raw = text[start : start + found.size]
        if found.kind == "json":
            self._structured = True
            self._leave()
            self._step = self._read_structure
            if text[start] == '"':
                self._containers = [Container(True, None)]
                return start
            return self._open_container(text, start, None, "")
        if found.kind == "heading":
            self._structured = True
            self._open_block(found.section)
            self._heading = found
            self._line_start = False
            if found.combined:
                self._note("combined_heading")
            if found.section == "emotion":
                self._emotion_in_prose = True
            if found.kept:
                self._say(found.kept, raw)
                return start + found.size
        self._emit("", raw)
        return start + found.size

    # JSON: the published record

    def _open_container(self, text: str, start: int, section: str | None, label: str) -> int:
        self._containers.append(Container(text[start] == "{", section, label))
        self._emit("", text[start])
        return start + 1

    def _read_structure(self, text: str, start: int) -> int:
        container = self._containers[-1]
        char = text[start]
        if char.isspace() or char == ",":
            end = _BLANKS_AND_COMMAS.match(text, start).end()
            if "," in text[start:end]:
                container.value = None
            self._emit("", text[start:end])
            return end
        if char in "}]":
            self._emit("", char)
            self._containers.pop()
            if not self._containers:
                self._leave()
            return start + 1
        if container.is_object and container.value is None:
            return self._read_key(text, start, container)
        section, label = container.value if container.is_object else (container.section, container.label)
        if char in "{[":
            container.value = None
            return self._open_container(text, start, section, label)
        if char == '"':
            self._open_block(section or "reasoning", label)
            self._emit("", char)
            self._step = self._read_string
            return start + 1
        found = self._decide(text, start, self._judge_null, 8)
        if found is WAIT:
            return WAIT
        self._open_block(section or "reasoning", label)
        self._step = self._read_bare
        if found is not None:
            self._emit("", text[start : start + found])
            return start + found
        return start

    def _read_key(self, text: str, start: int, container: Container) -> int:
        found = self._decide(text, start, self._judge_key, JSON_LIMIT)
        if found is WAIT:
            return WAIT
        if found is None:
            self._note("broken_json")
            self._leave()
            return start
        raw = text[start : start + found]
        key = raw.split('"')[1]
        try:
            key = json.loads(f'"{key}"')
        except ValueError:
            pass  # not JSON's escapes: the key is what stands there
        section = section_of_key(key, container.section)
        container.value = (section, "") if section else (container.section, f"{container.label}{key}: ")
        self._section = section or container.section or "reasoning"
        self._emit("", raw)
        return start + found

    def _judge_key(self, text: str, closing: bool) -> Any:
        verdict = judge_patterns((JSON_KEY,), text)
        return len(text) if verdict is True or (closing and verdict is WAIT) else verdict

    def _judge_null(self, text: str, closing: bool) -> Any:
        if re.fullmatch(r"(?:null|None)[\s,}\]]", text):
            return 4
        if text in ("null", "None") or "null".startswith(text) or "None".startswith(text):
            return len(text) if closing else WAIT
        return None

    def _read_bare(self, text: str, start: int) -> int:
        """A value without quotation marks: a number, true, or words."""
        end = _BARE.match(text, start).end()
        if end > start:
            self._say(text[start:end], text[start:end])
        if end < len(text):
            self._containers[-1].value = None
            self._step = self._read_structure
        return end

    def _read_string(self, text: str, start: int) -> int:
        char = text[start]
        if char == '"':
            found = self._decide(text, start, self._judge_string_end, JSON_LIMIT)
            if found is WAIT:
                return WAIT
            if found is None:
                self._say(char, char)
            else:
                self._emit("", char)
                self._containers[-1].value = None
                self._step = self._read_structure
            return start + 1
        if char == "\\":
            found = self._decide(text, start, judge_escape, 16)
            if found is WAIT:
                return WAIT
            character, size = found or (char, 1)
            self._say(character, text[start : start + size])
            return start + size
        end = _IN_STRING.match(text, start).end()
        self._say(text[start:end], text[start:end])
        return end

    def _judge_string_end(self, text: str, closing: bool) -> Any:
        verdict = judge_patterns(END_IN_OBJECT if self._containers[-1].is_object else END_IN_LIST, text)
        return True if closing and verdict is WAIT else verdict


def parse(text: str) -> Parsed:
    """The annotation that an answer states, whatever form it has. Never raises."""
    parser = Parser()
    parser.feed(text)
    parser.close()
    return parser.result()
