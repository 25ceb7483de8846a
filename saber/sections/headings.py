"""Headings of other checkpoints: the phrases that name a section, and whether the beginning of a line is a heading.

Goes in: a title, or a line as far as it has come. Comes out: the section it names, or ``Markup`` (how much of the line
is heading), None for content, and ``WAIT`` while more input could still make it one. English and Chinese.
To add a heading that some model writes: one phrase in ``TITLES``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from saber.schema import ACOUSTIC

WAIT: Any = object()  # the verdict "more input is needed"

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


@dataclass(frozen=True)
class Markup:
    """Markup found at the start of a line: ``kind`` "heading", "json", "fence" or "rule"; ``size`` in characters."""

    kind: str
    size: int
    section: str = ""
    title: str = ""
    rank: int = 0  # 1-6: number of #, 7: plain or bold, 8: numbered, 9: bulleted
    kept: str = ""  # words in the heading that are content, such as "(in Mandarin)"
    combined: bool = False


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


def section_of_title(title: str) -> tuple[str, bool] | None:
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


def judge_heading(line: str, ended: bool, closing: bool) -> Markup | None:
    """Whether ``line``, the beginning of a line (all of it if ``ended``), is a heading; WAIT while it may become one.

    ``closing``: the input ends here; a bare title with nothing after it is then content.
    """
    lead = _LEAD.match(line)[0]
    rest = line[len(lead) :]
    if not rest:
        if ended:
            return Markup("rule", len(line)) if _RULE.fullmatch(line) else None
        return WAIT if len(line) <= 32 else None
    end = _TITLE_END.search(rest)
    if end is None and not ended:
        numbering = re.fullmatch(r"[A-Ha-h]|[IVXivx]{1,4}", rest)
        return WAIT if numbering or _may_become_title(rest) else None
    title = rest[: end.start()] if end else rest
    found = section_of_title(title)
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
            return WAIT
        if closing and not mark and not lead and not tail[0]:
            return None
    elif not mark and not bracketed:
        unfinished = re.fullmatch(r"[(（][^()（）]{0,48}|[-–—]+", left)
        return WAIT if unfinished and not ended else None
    if mark and mark not in "：:" and not lead.strip():
        return None  # "Tone - ..." without any mark of a heading is content
    inside = (tail["bracket"] or "")[1:-1]
    known = inside and _split_title(inside) is not None
    section, combined = (known and section_of_title(f"{title} {inside}")) or found
    words = lead.strip()
    if words.startswith("#"):
        rank = len(words) - len(words.lstrip("#"))
    elif re.match(r"[-+•·●▪◦–—]|\*[ \t]", words + " "):
        rank = 9
    else:
        rank = 8 if re.search(_NUMBER, words) else 7
    kept = "" if known or not inside else tail["bracket"]
    return Markup("heading", len(line) - len(left), section, " ".join(title.lower().split()), rank, kept, combined)
