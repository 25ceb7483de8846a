"""The SED text as we write it: tags, ``render``, ``normalise``, and how labels and a verdict are read from words.

Goes in: an Annotation. Comes out: one flat tag per stated section, in the order of ``saber.schema.SECTIONS``, so that a
new section of the schema has its tag here by itself. ``NOTES``: what the reader of an answer has to know about it.
"""

from __future__ import annotations

import re

from saber.schema import DIMENSIONS, RELATIONS, SECTIONS, Annotation

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

TAG = re.compile(rf"\\?<(/?)({'|'.join(SECTIONS)})>", re.IGNORECASE | re.ASCII)
TAG_PREFIXES = {
    (escape + tag)[:n]
    for tag in (*OPEN_TAGS.values(), *CLOSE_TAGS.values())
    for escape in ("", "\\")
    for n in range(1, len(tag) + 1)
}

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

VERDICT_WORDS = (*RELATIONS, "inconsistent", "一致", "不一致")


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
        content = TAG.sub(lambda tag: "\\" + tag[0], content)
        if content.endswith("\\"):
            content += "\n"  # else the backslash would escape the closing tag; blank space at the end is not content
        lines.append(f"{OPEN_TAGS[section]}{content}{CLOSE_TAGS[section]}")
    return "\n".join(lines)


def read_relation(text: str) -> tuple[str, bool]:
    """("consistent", "conflict" or "" if unreadable or both; whether the verdict is all that the text says)."""
    verdicts = {
        RELATIONS[bool(found[2]) != bool(found[1].strip())] for found in _VERDICTS.finditer(text.replace("’", "'"))
    }
    if len(verdicts) != 1:
        return "", False
    rest = _VERDICTS.sub("", text.replace("’", "'"))
    return verdicts.pop(), not re.search(r"\w", rest)
