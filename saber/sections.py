"""The SED text: ``render`` writes an annotation, ``Parser`` reads any checkpoint's answer while it is generated.

Goes in: an Annotation, or pieces of text. Comes out: text in our flat tags, or events (section, text, raw) and at the
end an Annotation with notes. ``parse`` and ``render`` are inverses (``normalise`` says what is levelled). Read as well:
the published annotation JSON (whole, fenced or cut off) and prose under English or Chinese headings. What cannot be
placed is shown as reasoning, with a note; no input raises, and no text is dropped.
To add a heading that some model writes: one phrase in ``TITLES``. A tag is a section of ``saber.schema.SECTIONS``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saber.schema import ACOUSTIC, DIMENSIONS, RELATIONS, SECTIONS, VISUAL, Annotation

OPEN_TAGS = {section: f"<{section}>" for section in SECTIONS}
CLOSE_TAGS = {section: f"</{section}>" for section in SECTIONS}

#: Key of a note -> its sentence for the reader, by language.
NOTES: dict[str, dict[str, str]] = {
    "empty": {"en": "The answer is empty.", "zh": "回答为空。"},
    "no_structure": {
        "en": "The answer has no sections; all of it is shown as reasoning.",
        "zh": "回答没有分段，全部内容作为推理显示。",
    },
    "stray_text": {
        "en": "Some text stood outside every section; it is shown as reasoning.",
        "zh": "部分文字不属于任何分段，作为推理显示。",
    },
    "cut_off": {"en": "The answer was cut off.", "zh": "回答被截断。"},
    "unknown_key": {
        "en": "The answer has fields that are not part of the format; their text is shown with the field's name.",
        "zh": "回答含有格式之外的字段，其内容连同字段名一起显示。",
    },
    "broken_json": {
        "en": "The JSON of the answer is broken; what follows the break is shown as reasoning.",
        "zh": "回答的 JSON 有误，出错之后的内容作为推理显示。",
    },
    "combined_heading": {
        "en": "One heading covered several dimensions; its text is shown under one of them.",
        "zh": "一个标题包含多个维度，其内容显示在其中一个维度下。",
    },
    "relation_as_text": {
        "en": "The relation of picture and voice was given in words; they are kept under reasoning.",
        "zh": "画面与声音的关系以文字说明，保留在推理中。",
    },
    "unreadable_relation": {
        "en": "The relation could be read neither as consistent nor as conflict; its text is kept under reasoning.",
        "zh": "无法判断关系为一致还是冲突，其文字保留在推理中。",
    },
    "emotion_as_text": {
        "en": "The emotion was given as a sentence, not as labels; it is kept under reasoning.",
        "zh": "情绪以句子而非标签给出，保留在推理中。",
    },
}

#: Heading phrases of other checkpoints, by how much they say: a title takes the section of its heaviest phrase.
#: Lower case, words separated by one space; Chinese without spaces. ``_`` in a title or a JSON key counts as a space.
TITLES: dict[int, dict[str, tuple[str, ...]]] = {
    2: {
        "scene": tuple(
            "scene,scenes,background,backdrop,setting,environment,surroundings,context,"
            "location,atmosphere,场景,背景,视频描述,"
            "画面描述,画面,环境,情境".split(",")
        ),
        "face": tuple(
            "face,facial,expression,expressions,facial expression,facial expressions,facial exp,micro expression,"
            "micro expressions,microexpressions,gaze,eye contact,面部表情,面部,脸部表情,脸部,表情,微表情,神态,神情,"
            "眼神,目光".split(",")
        ),
        "body": tuple(
            "body,bodily,body language,body lang,body movement,body movements,body posture,gesture,gestures,posture,"
            "movements,head movement,head movements,hand gestures,physical gestures,non verbal,nonverbal,actions,"
            "behavior,behaviour,肢体语言,肢体动作,肢体,身体语言,"
            "身体动作,身体,动作,姿态,姿势,手势,体态".split(",")
        ),
        "speech": tuple(
            "speech,speech content,spoken content,spoken words,words,transcript,transcription,utterance,dialogue,"
            "verbal,linguistic,subtitles,语音内容,说话内容,语音文本,语言内容,言语内容,言语,台词,话语,文本,转录,转写,对白,"
            ""
            "对话,字幕".split(",")
        ),
        "prosody": tuple(
            "prosody,prosodic,acoustic,acoustics,acoustic feat,tone,tone of voice,intonation,"
            "pitch,voice,vocal,delivery,"
            "paralinguistic,speaking style,speech style,speech characteristics,speech features,speech patterns,"
            "声学特征,声学,韵律,语调,语气,声音,音色,嗓音,音调,语速,语音语调,语音特征".split(",")
        ),
        "reasoning": tuple(
            "reasoning,conclusion,summary,synthesis,inference,interpretation,sentiment,sentiment analysis,"
            "emotion analysis,emotion state,emotion reasoning,emotion recognition,emotion inference,emotional state,"
            "emotional expression,affective state,comprehensive analysis,overall analysis,"
            "multimodal analysis,final analysis,answer,"
            "情绪状态,情感状态,情绪分析,情感分析,情绪推理,情感推理,推理,综合分析,综合推理,综合判断,整体分析,总结,结论,"
            "判断".split(",")
        ),
        "relation": tuple(
            "relation,relationship,consistency,congruence,conflict,关系,一致性,是否一致,冲突".split(",")
        ),
        "emotion": tuple(
            "emotion,emotions,emotion label,emotion labels,emotion category,label,labels,情绪,情感,情绪标签,情感标签,"
            "情绪类别,情感类别,标签".split(",")
        ),
    },
    # What only names a track: it gives way to anything more exact ("Audio: speech content" is speech).
    1: {
        "scene": ("video", "visual", "visuals", "image", "picture", "视频", "视觉", "影像"),
        "prosody": ("audio", "auditory", "sound", "音频", "语音", "听觉"),
    },
    0: {
        "reasoning": (
            "overall", "comprehensive", "integrated", "holistic", "multimodal", "emotional", "综合", "整体", "总体",
            "多模态",
        ),
    },
}  # fmt: skip
#: Words that a title may hold beside its phrases.
FILLERS = frozenset(
    "a an the of and in on from between with by to for s desc description descriptions analysis assessment overview "
    "detail details detailed information cue cues evidence feature features feat content "
    "characteristics state level quality "
    "modality modalities cross modal key main final primary dominant predicted general observed observation "
    "observations speaker speakers person clip his her their non "
    "分析 描述 的 和 与 及 以及 及其 其 中 在 对 详细 信息 特征 内容 部分 方面 证据 线索 细节 情况 表现 主要 最终 最后 "
    "说话者 说话人 人物 主角 变化 状态 识别 跨模态 模态 之间".split()
)
CONNECTORS = frozenset("&/,、，-'’+")

_PHRASES = {
    tuple(re.findall(r"[a-z]+|[^\x00-\x7f]+", phrase)): (weight, section)
    for weight, table in TITLES.items()
    for section, phrases in table.items()
    for phrase in phrases
}
_TERMS = {term for phrase in _PHRASES for term in phrase} | FILLERS
_TERM_PREFIXES = {term[:n] for term in _TERMS for n in range(1, len(term) + 1)}
_LONGEST_TERM = max(map(len, _TERMS))
_LONGEST_PHRASE = max(map(len, _PHRASES))

#: Published JSON keys -> sections; our own section names are read as keys too.
_KEYS = {path[-1]: section for section, path in DIMENSIONS.items()} | {section: section for section in SECTIONS}
_KEY_NAMES = {*_KEYS, *(key for path in DIMENSIONS.values() for key in path)}
_GROUPS = (VISUAL, ACOUSTIC, ("reasoning", "relation", "emotion"))

_EMOTION_SEPARATOR = re.compile(r"[,，、;；\r\n]")
_NEGATION = (
    r"(?:\b(?:no|not|without|never|isn't|aren't|don't|doesn't)\b(?:\s+(?:in|any|a|of|signs?|obvious|apparent|clear|"
    r"clearly|really|fully|quite|entirely|completely))*\s*"
    r"|(?:没有|并非|并不|不存在|不|无|未)(?:明显|完全|任何|太|的)*)?"
)
_VERDICTS = re.compile(
    rf"({_NEGATION})(?:(\b(?:inconsisten|incongruen|incompatib|conflict|contradict|mismatch|misalign|disagree)\w*"
    r"|不一致|不匹配|冲突|矛盾|相悖|不符)|(\b(?:consisten|congruen|agree|align|match)\w*|一致|相符|吻合|匹配))",
    re.IGNORECASE,
)

_VERDICT_WORDS = (*RELATIONS, "inconsistent", "一致", "不一致")

# --- our tags -------------------------------------------------------------------------------------------------------

_TAG = re.compile(rf"\\?<(/?)({'|'.join(SECTIONS)})>", re.IGNORECASE | re.ASCII)
_TAG_PREFIXES = {
    (escape + tag)[:n]
    for tag in (*OPEN_TAGS.values(), *CLOSE_TAGS.values())
    for escape in ("", "\\")
    for n in range(1, len(tag) + 1)
}


def split_emotion(text: str) -> tuple[str, ...]:
    """Labels of an emotion text, separated by ``, ， 、 ; ；`` or a line break; stripped, empty ones left out."""
    return tuple(label.strip() for label in _EMOTION_SEPARATOR.split(text) if label.strip())


def normalise(annotation: Annotation) -> Annotation:
    """What ``parse(render(annotation))`` gives back: sections without blank space at both ends, and emotion labels
    stripped, without separators inside (a label with a comma becomes two labels)."""
    sections = {section: getattr(annotation, section).strip() for section in DIMENSIONS}
    return Annotation(**sections, relation=annotation.relation, emotion=split_emotion("\n".join(annotation.emotion)))


def render(annotation: Annotation) -> str:
    r"""The SED text: one section per line in the order of SECTIONS (paper, Eq. 1), stated sections only.

    One of our own tags inside content gets a backslash before it (``\<scene>``; ``\<scene>`` becomes ``\\<scene>``);
    the parser takes one backslash away before a tag and nowhere else. Everything else stands as it is.
    Differs from the paper: it gives the order of the evidence; the tags and the two verdict sections are ours.
    """
    annotation = normalise(annotation)
    lines = []
    for section in SECTIONS:
        value = getattr(annotation, section)
        content = ", ".join(value) if section == "emotion" else value
        if not content:
            continue
        content = _TAG.sub(lambda tag: "\\" + tag[0], content)
        if content.endswith("\\"):
            content += "\n"  # else the backslash would escape the closing tag; blank space at the end is not content
        lines.append(f"{OPEN_TAGS[section]}{content}{CLOSE_TAGS[section]}")
    return "\n".join(lines)


# --- titles of headings ---------------------------------------------------------------------------------------------


def _split_title(title: str) -> list[str] | None:
    """The terms of a title (English words, Chinese terms by longest match), or None where one is not of a title."""
    terms = []
    for token in re.findall(r"[a-z]+|[一-鿿]+|[^\s_]", title.lower()):
        if token in _TERMS:
            terms.append(token)
        elif "一" <= token[0] <= "鿿":
            start = 0
            while start < len(token):
                sizes = range(min(_LONGEST_TERM, len(token) - start), 0, -1)
                size = next((n for n in sizes if token[start : start + n] in _TERMS), 0)
                if not size:
                    return None
                terms.append(token[start : start + size])
                start += size
        elif token not in CONNECTORS:
            return None
    return terms


def _may_become_title(start: str) -> bool:
    """Whether some continuation of this beginning of a line can still be a title."""
    tokens = re.findall(r"[a-z]+|[一-鿿]+|[^\s_]", start.lower())
    for token in tokens:
        unfinished = token is tokens[-1] and not start[-1].isspace()
        if "一" <= token[0] <= "鿿":
            reached = {0}  # where a sequence of whole terms can end
            for i in range(len(token)):
                if i in reached:
                    sizes = range(1, min(_LONGEST_TERM, len(token) - i) + 1)
                    reached |= {i + n for n in sizes if token[i : i + n] in _TERMS}
            if len(token) not in reached and not any(token[i:] in _TERM_PREFIXES for i in reached):
                return False
        elif token not in (_TERM_PREFIXES if unfinished else _TERMS) and token not in CONNECTORS:
            return False
    return len(start) <= 64


def _section_of_title(title: str) -> tuple[str, bool] | None:
    """(section, whether the title covers several dimensions), or None if these words are no title."""
    terms = _split_title(title)
    if not terms:
        return None
    found: list[tuple[int, str]] = []
    i = 0
    while i < len(terms):
        for size in range(min(_LONGEST_PHRASE, len(terms) - i), 0, -1):
            if tuple(terms[i : i + size]) in _PHRASES:
                found.append(_PHRASES[tuple(terms[i : i + size])])
                break
        else:
            size = 1
            if terms[i] not in FILLERS:  # part of a longer phrase, such as "eye" of "eye contact"
                return None
        i += size
    if not found:
        return None
    heaviest = max(weight for weight, _ in found)
    sections = list(dict.fromkeys(section for weight, section in found if weight == heaviest))
    for whole in ("relation", "reasoning"):  # "Consistency of face and voice", "Emotion and reasoning"
        if whole in sections:
            return whole, False
    if set(sections) == set(ACOUSTIC):
        return "prosody", True
    return sections[0], len(sections) > 1


def _section_of_key(key: str, outer: str | None) -> str | None:
    """The section of a JSON key inside an object that belongs to ``outer`` (None: to no section), or None."""
    if key in _KEYS:
        return _KEYS[key]
    found = _section_of_title(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key))
    if found and (outer is None or any(outer in group and found[0] in group for group in _GROUPS)):
        return found[0]
    return None


# --- heading lines --------------------------------------------------------------------------------------------------

_PICTOGRAMS = "\U0001f000-\U0001faff\u2300-\u23ff\u2600-\u27bf\ufe0f\u200d\u20e3"
_LEAD = re.compile(
    rf"(?:[ \t#>+\-–—*_•·●▪◦■◆▶►※\d.．、,，)）(（①-⑳二三四五六七八九十【\[「《{_PICTOGRAMS}]|一(?!致))*"
    r"(?:(?:[A-Ha-h]|[IVXivx]{1,4})[.)）、][ \t*_]*)?"
)
_NUMBER = r"[(（]?(?:\d{1,2}(?:\.\d{1,2})*|[一二三四五六七八九十]{1,3}|[A-Ha-h]|[IVXivx]{1,4})[.．、,，)）]+|[①-⑳]"
_STRICT_LEAD = re.compile(
    rf"(?:[ \t]|#+|[-+•·●▪◦■◆▶►※>–—]|\*+|_+|[{_PICTOGRAMS}]|{_NUMBER}|\d(?=[*_{_PICTOGRAMS}]*[ \t])|[【\[「《])*"
)
_TITLE_END = re.compile(r"[:：*(（\]】」》]|_(?![A-Za-z])|\s[-–—]+\s|[–—]")
_TAIL = re.compile(
    r"(?P<close>[ \t*_\]】」》]*)(?P<bracket>[(（][^()（）\r\n]{0,48}[)）])?(?P<close2>[ \t*_\]】」》]*)"
    r"(?P<mark>[:：]|[-–—]+[ \t])?(?P<after>[*_]*)"
)
_RULE = re.compile(r"(?:-{3,}|\*{3,}|_{3,}|—{3,})[ \t]*")
_LINE_LIMIT = 128
_FENCES = ("", "json", "jsonc", "json5", "xml", "html", "markdown", "md", "text", "txt", "plaintext", "yaml")

_WAIT: Any = object()  # the verdict "more input is needed"


@dataclass(frozen=True)
class _Markup:
    """Markup found at the start of a line: ``kind`` "heading", "json", "fence" or "rule"; ``size`` in characters."""

    kind: str
    size: int
    section: str = ""
    title: str = ""
    rank: int = 0  # 1-6: number of #, 7: plain or bold, 8: numbered, 9: bulleted
    kept: str = ""  # words in the heading that are content, such as "(in Mandarin)"
    combined: bool = False


def _judge_heading(line: str, ended: bool, closing: bool) -> _Markup | None:
    """Whether ``line``, the beginning of a line (all of it if ``ended``), is a heading; _WAIT while it may become one.

    ``closing``: the input ends here; a bare title with nothing after it is then content.
    """
    lead = _LEAD.match(line)[0]
    rest = line[len(lead) :]
    if not rest:
        if ended:
            return _Markup("rule", len(line)) if _RULE.fullmatch(line) else None
        return _WAIT if len(line) <= 32 else None
    end = _TITLE_END.search(rest)
    if end is None and not ended:
        numbering = re.fullmatch(r"[A-Ha-h]|[IVXivx]{1,4}", rest)
        return _WAIT if numbering or _may_become_title(rest) else None
    title = rest[: end.start()] if end else rest
    found = _section_of_title(title)
    if found is None or not _STRICT_LEAD.fullmatch(lead):
        return None
    tail_text = rest[len(title) :]
    tail = _TAIL.match(tail_text)
    left = tail_text[tail.end() :]
    mark = (tail["mark"] or "").strip()
    bracketed = any(a in lead and b in tail["close"] for a, b in ("【】", "[]", "「」", "《》"))
    if not left:
        emphasis = len(re.findall(r"[*_]", re.sub(r"^[ \t]*\*[ \t]", "", lead)))
        closed = len(re.findall(r"[*_]", tail[0]))
        if not ended and not (mark in ("：", ":") and closed >= emphasis):
            return _WAIT
        if closing and not mark and not lead and not tail[0]:
            return None
    elif not mark and not bracketed:
        unfinished = re.fullmatch(r"[(（][^()（）]{0,48}|[-–—]+", left)
        return _WAIT if unfinished and not ended else None
    if mark and mark not in "：:" and not lead.strip():
        return None  # "Tone - ..." without any mark of a heading is content
    inside = (tail["bracket"] or "")[1:-1]
    known = inside and _split_title(inside) is not None
    section, combined = (known and _section_of_title(f"{title} {inside}")) or found
    words = lead.strip()
    if words.startswith("#"):
        rank = len(words) - len(words.lstrip("#"))
    elif re.match(r"[-+•·●▪◦–—]|\*[ \t]", words + " "):
        rank = 9
    else:
        rank = 8 if re.search(_NUMBER, words) else 7
    kept = "" if known or not inside else tail["bracket"]
    return _Markup("heading", len(line) - len(left), section, " ".join(title.lower().split()), rank, kept, combined)


# --- JSON -----------------------------------------------------------------------------------------------------------


def _holdable(*atoms: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(the whole pattern, any beginning of it); every atom is one character class with an optional quantifier."""
    beginning = ""
    for atom in reversed(atoms):
        beginning = f"(?:{atom}{beginning})?"
    return re.compile("".join(atoms)), re.compile(beginning)


_S = r"\s{0,256}"
_KEY = ('"', r'[^"\r\n]{1,128}', '"', _S, ":")
_JSON_KEY = _holdable(*_KEY)
_JSON_OBJECT = _holdable("{", _S, *_KEY)
_JSON_ARRAY = _holdable(r"\[", _S, "{", _S, *_KEY)
_JSON_LIMIT = 1024
# Models forget to escape quotation marks, so one ends a string only where the rest still reads as JSON.
_END_IN_ANY = (
    _holdable('"', _S, r"[}\]]"),
    _holdable('"', _S, ",", _S, r"[}\]]"),
    _holdable('"', _S, "`", "`", "`"),
)
_END_IN_OBJECT = (
    *_END_IN_ANY,
    _holdable('"', _S, ",", _S, *_KEY),
    _holdable('"', r"[ \t\r]{0,64}", r"\n", _S, *_KEY),  # the comma is missing
)
_END_IN_LIST = (*_END_IN_ANY, _holdable('"', _S, ","))
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}
_HEX = r"[0-9a-fA-F]"
_UNICODE = _holdable(r"\\", "u", _HEX, _HEX, _HEX, _HEX)
_LOW_SURROGATE = _holdable(r"\\", "u", "[dD]", "[c-fC-F]", _HEX, _HEX)


def _judge_patterns(patterns: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...], text: str) -> bool | None:
    if any(whole.fullmatch(text) for whole, _ in patterns):
        return True
    return _WAIT if any(beginning.fullmatch(text) for _, beginning in patterns) else None


def _judge_escape(text: str, closing: bool) -> tuple[str, int] | None:
    """(character, how much of the input it takes) of a JSON escape; None: no escape, the backslash is content."""
    if text == "\\":
        return ("", 1) if closing else _WAIT
    if text[1] != "u":
        return (_ESCAPES[text[1]], 2) if text[1] in _ESCAPES else None
    if not _UNICODE[0].match(text):
        if not _UNICODE[1].fullmatch(text):
            return None
        return ("", len(text)) if closing else _WAIT
    code = int(text[2:6], 16)
    if not 0xD800 <= code < 0xE000:
        return chr(code), 6
    if code < 0xDC00:
        if _LOW_SURROGATE[0].fullmatch(text, 6):
            return chr(0x10000 + ((code - 0xD800) << 10) + (int(text[8:12], 16) - 0xDC00)), 12
        if not closing and _LOW_SURROGATE[1].fullmatch(text, 6):
            return _WAIT
    return "\ufffd", 6  # half a surrogate pair stands for no character and cannot be written to a file


@dataclass
class _Container:
    """An open JSON object or list. ``section``: whose text it holds (None: undecided). ``value``: the (section, label)
    of the key just read, whose value comes next."""

    is_object: bool
    section: str | None
    label: str = ""
    value: tuple[str | None, str] | None = None


# --- the parser -----------------------------------------------------------------------------------------------------


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
        self._heading: _Markup | None = None
        self._line_start = True
        self._containers: list[_Container] = []
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
        unfinished = self._section == "relation" and any(w.startswith(relation.lower()) for w in _VERDICT_WORDS)
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
            if after is _WAIT:
                break
            position = after
        self._held = text[position:]

    def _decide(self, text: str, start: int, judge: Callable[[str, bool], Any], limit: int) -> Any:
        """The verdict of ``judge`` on what stands at ``start``, or _WAIT.

        It is asked about the first character, the first two, and so on, until it knows: so the verdict cannot depend
        on how the input was split. At the end of the input it is asked once more, with True.
        """
        for size in range(self._tried + 1, limit + 1):
            if start + size > len(text):
                if not self._closing:
                    self._tried = size - 1
                    return _WAIT
                verdict = judge(text[start:], True)
                break
            verdict = judge(text[start : start + size], False)
            if verdict is not _WAIT:
                break
        else:
            verdict = None
        self._tried = 0
        return None if verdict is _WAIT else verdict

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
            found = self._decide(text, start, self._judge_line, _JSON_LIMIT)
            if found is _WAIT:
                return _WAIT
            if found is not None:
                return self._take_markup(found, text, start)
        self._line_start = char in "\r\n"
        end = start + 1 if char in "{\r\n" else _IN_LINE.match(text, start).end()
        self._say(text[start:end], text[start:end])
        return end

    def _read_tag(self, text: str, start: int) -> int:
        found = self._decide(text, start, self._judge_tag, 32)
        if found is _WAIT:
            return _WAIT
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
        whole = _TAG.fullmatch(text)
        if whole:
            return whole
        if text.lower() not in _TAG_PREFIXES:
            return None
        if closing:
            return (text,) if self._tagged and text[0] == "<" else None
        return _WAIT

    def _judge_line(self, text: str, closing: bool) -> Any:
        """Markup at the start of a line; in the middle of one only the beginning of a JSON object."""
        waiting = False
        if text[0] in '{["':
            patterns = (_JSON_OBJECT,)
            if self._line_start:
                patterns = (_JSON_OBJECT, _JSON_ARRAY, _JSON_KEY)
            verdict = _judge_patterns(patterns, text)
            if closing and verdict is _WAIT:  # cut off before or inside the first key
                key = re.fullmatch(r'[{\[\s]*(?:"([a-z_]*)"?\s*)?', text)
                known = key and any(name.startswith(key[1] or "") for name in _KEY_NAMES)
                verdict = bool(known and self._line_start) or None
            if verdict is True and text[0] == '"' and text.split('"')[1] not in _KEY_NAMES:
                verdict = None  # without a brace only a published key is JSON
            if verdict is True:
                return _Markup("json", 0)
            waiting = verdict is _WAIT
        if self._line_start:
            if text[0] == "`":
                fence = re.match(r"`{1,3}[A-Za-z0-9_+-]{0,16}", text)[0]
                if len(fence) == len(text) and not closing:
                    return _WAIT
                is_fence = fence[3:].lower() in _FENCES if fence[:3] == "```" else closing and self._structured
                return _Markup("fence", len(fence)) if is_fence else None
            line, _, after = text.replace("\r", "\n").partition("\n")
            ended = closing or len(line) < len(text)
            if not after and len(text) <= _LINE_LIMIT:
                found = _judge_heading(line, ended, closing and len(line) == len(text))
                if found is _WAIT:
                    waiting = True
                elif found is not None and not self._is_content(found):
                    return found
        return _WAIT if waiting else None

    def _is_content(self, heading: _Markup) -> bool:
        """A line with the form of a heading that is part of the block in hand: a sub-heading of the same dimension
        ("- Posture:" under body language), or evidence listed again inside the reasoning."""
        above = self._heading
        if above is None or heading.kind != "heading":
            return False
        if heading.section == above.section:
            return heading.title != above.title
        return heading.rank > above.rank and bool(self._texts[heading.section])

    def _take_markup(self, found: _Markup, text: str, start: int) -> int:
        raw = text[start : start + found.size]
        if found.kind == "json":
            self._structured = True
            self._leave()
            self._step = self._read_structure
            if text[start] == '"':
                self._containers = [_Container(True, None)]
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
        self._containers.append(_Container(text[start] == "{", section, label))
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
        if found is _WAIT:
            return _WAIT
        self._open_block(section or "reasoning", label)
        self._step = self._read_bare
        if found is not None:
            self._emit("", text[start : start + found])
            return start + found
        return start

    def _read_key(self, text: str, start: int, container: _Container) -> int:
        found = self._decide(text, start, self._judge_key, _JSON_LIMIT)
        if found is _WAIT:
            return _WAIT
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
        section = _section_of_key(key, container.section)
        container.value = (section, "") if section else (container.section, f"{container.label}{key}: ")
        self._section = section or container.section or "reasoning"
        self._emit("", raw)
        return start + found

    def _judge_key(self, text: str, closing: bool) -> Any:
        verdict = _judge_patterns((_JSON_KEY,), text)
        return len(text) if verdict is True or (closing and verdict is _WAIT) else verdict

    def _judge_null(self, text: str, closing: bool) -> Any:
        if re.fullmatch(r"(?:null|None)[\s,}\]]", text):
            return 4
        if text in ("null", "None") or "null".startswith(text) or "None".startswith(text):
            return len(text) if closing else _WAIT
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
            found = self._decide(text, start, self._judge_string_end, _JSON_LIMIT)
            if found is _WAIT:
                return _WAIT
            if found is None:
                self._say(char, char)
            else:
                self._emit("", char)
                self._containers[-1].value = None
                self._step = self._read_structure
            return start + 1
        if char == "\\":
            found = self._decide(text, start, _judge_escape, 16)
            if found is _WAIT:
                return _WAIT
            character, size = found or (char, 1)
            self._say(character, text[start : start + size])
            return start + size
        end = _IN_STRING.match(text, start).end()
        self._say(text[start:end], text[start:end])
        return end

    def _judge_string_end(self, text: str, closing: bool) -> Any:
        verdict = _judge_patterns(_END_IN_OBJECT if self._containers[-1].is_object else _END_IN_LIST, text)
        return True if closing and verdict is _WAIT else verdict


_IN_TAG = re.compile(r"[^<\\]+")
_IN_LINE = re.compile(r"[^<\\{\r\n]+")
_IN_STRING = re.compile(r'[^"\\]+')
_BLANKS = re.compile(r"\s+")
_BLANKS_AND_COMMAS = re.compile(r"[\s,]+")
_BARE = re.compile(r"[^,}\]\r\n]*")


def read_relation(text: str) -> tuple[str, bool]:
    """("consistent", "conflict" or "" if unreadable or both; whether the verdict is all that the text says)."""
    verdicts = {
        RELATIONS[bool(found[2]) != bool(found[1].strip())] for found in _VERDICTS.finditer(text.replace("’", "'"))
    }
    if len(verdicts) != 1:
        return "", False
    rest = _VERDICTS.sub("", text.replace("’", "'"))
    return verdicts.pop(), not re.search(r"\w", rest)


def parse(text: str) -> Parsed:
    """The annotation that an answer states, whatever form it has. Never raises."""
    parser = Parser()
    parser.feed(text)
    parser.close()
    return parser.result()
