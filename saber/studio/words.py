"""What is said in a studio clip: sentences from a small grammar, English and Chinese, by valence and by split.

In: a language, a valence and a split. Out: a sentence and the template that it came from. The grammar is two plain
tables, ``SLOTS`` and ``TEMPLATES``. A template is words and ``{slots}`` with spaces between; Chinese is written with
spaces between its building-block words, and spoken and printed without them. To add a sentence: add a line to
``TEMPLATES`` (its valence must hold for every filling, and validation and test may only use words that some training
line uses). To add a word: add it to a slot. The vocabulary is small on purpose, since a model of 7 million
parameters learns to transcribe it from some ten thousand clips. Standard library only.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

LANGUAGES = ("en", "zh")
VALENCES = ("positive", "neutral", "negative")

#: Studio split -> the split of the grammar that it speaks. Held-out combinations and the second style are tests too.
GRAMMAR_SPLIT = {
    "train": "train", "validation": "validation", "test": "test", "combinations": "test", "style": "test",
    "speech": "train", "drill": "train", "rare": "train",
}  # fmt: skip

#: Template id of one-word clips. It is the only one that splits share.
SHORT = "short"

#: Template id of random words in a row.
SHUFFLED = "shuffled"

# Left out on purpose: numbers that sound like other words (two, four, eight; 一 changes its tone), 她 (sounds like 他),
# adjectives that need "an" (every filling of a slot must be grammatical), and neighbours that espeak-ng takes for
# another word (了手机 as 了手, 学校对面 as 校对).
SLOTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "en": {
        "who": ("my sister", "my brother", "my mother", "my father", "our teacher", "our neighbor", "the doctor",
                "my friend"),
        "they": ("i", "we", "they", "he", "she"),
        "they are": ("i am", "we are", "they are", "he is", "she is"),
        "us": ("me", "you", "us", "them"),
        "past": ("yesterday", "today", "last night", "last week", "this morning", "on monday", "on sunday"),
        "future": ("tomorrow", "tonight", "next week", "on monday", "on sunday"),
        "hour": ("three", "five", "six", "seven", "ten"),
        "food": ("soup", "cake", "bread", "coffee", "tea", "rice", "fish"),
        "work": ("letter", "picture", "report", "story", "song"),
        "thing": ("phone", "ticket", "camera", "bag", "coat", "book"),
        "event": ("party", "meeting", "trip", "game", "dinner", "concert"),
        "place": ("station", "school", "office", "park", "hotel", "library"),
        "where": ("on the table", "on the chair", "by the door", "by the window", "in the box"),
        "color": ("red", "blue", "green", "white", "black"),
        "ride": ("bus", "train"),
        "new": ("new", "old"),
        "opens": ("opens", "closes"),
        "call": ("call", "visit", "meet"),
        "good": ("great", "wonderful", "lovely", "perfect", "beautiful", "good"),
        "bad": ("terrible", "horrible", "nasty", "bad"),
        "glad": ("happy", "glad", "excited", "delighted", "pleased"),
        "sad": ("sad", "angry", "upset", "worried"),
        "kind": ("kind", "sweet", "nice"),
        "rude": ("rude", "mean", "cruel", "unfair"),
    },
    "zh": {
        "who": ("妈妈", "爸爸", "姐姐", "弟弟", "老师", "医生", "邻居", "朋友"),
        "they": ("我", "我们", "他", "他们", "大家"),
        "us": ("你", "我", "我们", "大家"),
        "past": ("昨天", "今天", "昨晚", "上周", "周日", "刚才"),
        "future": ("今天", "明天", "后天", "今晚", "下周", "周五", "周日"),
        "hour": ("两 点", "三 点", "五 点", "六 点", "八 点", "九 点", "十 点"),
        "count": ("两", "三", "五", "六", "八", "九", "十"),
        "food": ("蛋糕", "面包", "面条", "米饭", "鱼"),
        "work": ("报告", "故事", "文章", "照片", "节目"),
        "thing": ("手机", "相机", "书包", "衣服", "手表", "雨伞"),
        "event": ("聚会", "会议", "比赛", "活动", "演出"),
        "place": ("学校", "公司", "车站", "公园", "医院", "超市", "饭店", "书店"),
        "where": ("桌子 上", "椅子 上", "床 上", "箱子 里", "车 里"),
        "near": ("旁边", "后面"),
        "color": ("红色", "蓝色", "白色", "黑色"),
        "furniture": ("张 桌子", "把 椅子", "个 箱子"),
        "ride": ("火车", "地铁", "汽车"),
        "new": ("新", "旧"),
        "opens": ("开门", "关门"),
        "very": ("很", "真", "非常", "特别"),
        "good": ("精彩", "完美", "出色", "有趣"),
        "bad": ("糟糕", "无聊", "可怕", "失败"),
        "tasty": ("好吃", "美味", "可口"),
        "foul": ("难吃", "难闻", "糟糕"),
        "glad": ("高兴", "开心", "自豪", "幸福"),
        "sad": ("难过", "生气", "伤心", "失望"),
        "kind": ("热情", "温柔", "细心", "友好"),
        "rude": ("冷淡", "自私", "过分", "无情"),
    },
}  # fmt: skip

#: Valence -> slots whose words have it wherever they stand.
CHARGED = {"positive": ("good", "tasty", "glad", "kind"), "negative": ("bad", "foul", "sad", "rude")}
OPPOSITE = {"positive": "negative", "negative": "positive"}

#: language -> valence -> split of the grammar -> templates. A template's text is its id. Many positive and negative
#: lines mirror each other, so that it is the words and not the shape of a sentence that carry its valence.
TEMPLATES: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "en": {
        "positive": {
            "train": (
                "thanks for your {good} {work} {past}",
                "thank you for helping {who} {past}",
                "your {food} was really {good} {past}",
                "{who} made some {good} {food} {past}",
                "{who} makes the best {food}",
                "{who} is so {glad} about the {event}",
                "{they are} so proud of {who}",
                "{they are} really {glad} about your {work}",
                "{they are} {glad} you came {past}",
                "we really love this {good} {place}",
                "i love the {color} {thing}",
                "{they} won the game {past}",
                "{they} passed the exam {past}",
                "{they} enjoyed the {event} {past}",
                "{they} found my {thing} {past}",
                "good news {who} found the {thing}",
                "{who} has {good} news for {us}",
                "what a {good} {thing} you have",
                "how {good} to see {who}",
                "{who} was {kind} to {us} {past}",
                "you are always so {kind} to {who}",
                "the {event} {future} will be {good}",
            ),
            "validation": (
                "thank you for the {good} {food}",
                "{who} was {glad} to see {us}",
                "{they} had a {good} {event} {past}",
            ),
            "test": (
                "i love how {good} your {work} is",
                "you made {who} so {glad} {past}",
                "the {food} {who} made is {good}",
                "what {good} news about the {event}",
                "{they are} so {glad} for {who}",
                "{who} found a {good} {thing} for {us}",
            ),
        },
        "neutral": {
            "train": (
                "the {event} starts at {hour} {future}",
                "the {place} {opens} at {hour} {future}",
                "the {ride} to the {place} leaves at {hour}",
                "{who} works at the {place} today",
                "{who} will visit the {place} {future}",
                "{who} will bring the {thing} {future}",
                "{who} lives near the {place}",
                "{who} has {food} at {hour}",
                "{who} has the {new} {work}",
                "okay i will meet {who} {future}",
                "{they} took the {ride} to the {place}",
                "{they} walked to the {place} {past}",
                "{they} will go to the {place} {future}",
                "{they} can take the {ride} {future}",
                "{they} bought some {food} {past}",
                "{they} had {food} for dinner {past}",
                "{they} bought the {color} {thing} {past}",
                "the {color} {thing} is {where}",
                "please put the {thing} {where}",
                "can you {call} {who} {future}",
                "{they are} at the {place} today",
            ),
            "validation": (
                "{who} was at the {place} {past}",
                "please bring the {thing} to the {place}",
                "the {event} {future} is at {hour}",
            ),
            "test": (
                "{they} will meet {who} at the {place}",
                "{who} will call {us} at {hour}",
                "{they} put the {color} {thing} {where}",
                "will {who} take the {ride} at {hour}",
                "is the {color} {thing} {where}",
            ),
        },
        "negative": {
            "train": (
                "your {food} was really {bad} {past}",
                "{who} made some {bad} {food} {past}",
                "{who} makes the worst {food}",
                "{who} is so {sad} about the {event}",
                "{they are} really {sad} about your {work}",
                "{they are} {sad} you lost the {thing}",
                "we really hate this {bad} {place}",
                "i hate the {color} {thing}",
                "{they} lost the {thing} {past}",
                "{they} failed the exam {past}",
                "{they} missed the {event} {past}",
                "bad news {who} lost the {thing}",
                "{who} has {bad} news for {us}",
                "what a {bad} {thing} you have",
                "how {bad} you lost the {thing}",
                "{who} was {rude} to {us} {past}",
                "you are always so {rude} to {who}",
                "the {event} {future} will be {bad}",
                "you ruined the {event} {past}",
                "{they} ruined my {thing} {past}",
                "it is your fault {they} lost the {thing}",
                "you never {call} {who}",
                "{they} will not help {who} {future}",
                "no {who} can not have the {thing}",
            ),
            "validation": (
                "{who} was so {sad} {past}",
                "{they} had a {bad} {event} {past}",
                "you lost my {color} {thing} {past}",
            ),
            "test": (
                "i hate how {bad} your {work} is",
                "you made {who} so {sad} {past}",
                "the {food} {who} made is {bad}",
                "what {bad} news about the {event}",
                "it is your fault {who} is {sad}",
                "no {they} will not go to the {event}",
            ),
        },
    },
    "zh": {
        "positive": {
            "train": (
                "谢谢 你 {past} 帮 {who}",
                "{past} 的 {food} {very} {tasty}",
                "{who} 做 的 {food} {very} {tasty}",
                "{who} {past} {very} {glad}",
                "{they} 为 {who} 感到 {glad}",
                "看到 {who} 我 {very} {glad}",
                "{they} {very} 喜欢 这个 {place}",
                "我 {very} 喜欢 你 的 {thing}",
                "{they} {past} 赢 了 比赛",
                "恭喜 {who} {past} 通过 考试",
                "好消息 {who} 找到 {thing} 了",
                "{who} 给 {us} 带来 好消息",
                "你 {past} 的 {work} {very} {good}",
                "{past} 的 {event} {very} {good}",
                "{future} 的 {event} 一定 很 {good}",
                "恭喜 {who} 的 {event} 成功",
                "{who} 对 {us} {very} {kind}",
                "你 真 是 {kind} 的 {who}",
            ),
            "validation": (
                "谢谢 {who} 做 的 {food}",
                "{who} 觉得 {event} {very} {good}",
                "{good} 的 {event} 让 {who} {glad}",
            ),
            "test": (
                "我 喜欢 {who} {good} 的 {work}",
                "你 {past} 让 {who} 很 {glad}",
                "{tasty} 的 {food} 是 {who} 做 的",
                "{who} 带来 {good} 的 {work}",
                "{who} {future} 一定 很 {glad}",
            ),
        },
        "neutral": {
            "train": (
                "{event} {future} {hour} 开始",
                "{place} {future} {hour} {opens}",
                "{ride} {hour} 到 {place}",
                "{who} {future} 在 {place} 上班",
                "{who} 让 我 {future} 去 {place}",
                "{who} {future} 带 {color} 的 {thing}",
                "{who} 住 在 {place} {near}",
                "{who} {hour} 吃 {food}",
                "{who} {past} 看 了 {new} 的 {work}",
                "我 觉得 {who} 在 {place}",
                "{they} {past} 坐 {ride} 去 {place}",
                "{they} {future} 走路 去 {place}",
                "{they} {past} 买 了 {food}",
                "{they} {past} 见 了 {who}",
                "{color} 的 {thing} 在 {where}",
                "请 把 {thing} 放 在 {where}",
                "{place} 有 {count} {furniture}",
                "{future} 的 {event} 有 {count} 个 人",
                "{future} 你 给 {who} 打 电话",
                "你 {future} 去 {place} 吗",
            ),
            "validation": (
                "{past} {who} 去 了 {place}",
                "请 带 {thing} 去 {place}",
                "{future} {hour} 有 {event}",
            ),
            "test": (
                "{future} {they} 在 {place} 见 {who}",
                "{who} {hour} 给 {us} 打 电话",
                "{who} 把 {thing} 带 去 {place}",
                "{who} {future} 坐 {ride} 吗",
                "{where} 有 {color} 的 {thing}",
            ),
        },
        "negative": {
            "train": (
                "{past} 的 {food} {very} {foul}",
                "{who} 做 的 {food} {very} {foul}",
                "{who} {past} {very} {sad}",
                "{they} 为 {who} 感到 {sad}",
                "看到 {who} 我 {very} {sad}",
                "{they} {very} 讨厌 这个 {place}",
                "我 {very} 讨厌 你 的 {thing}",
                "{they} {past} 输 了 比赛",
                "{who} {past} 没有 通过 考试",
                "坏消息 {who} 的 {thing} 丢 了",
                "{who} 的 {thing} {past} 丢 了",
                "都 怪 你 {thing} {past} 丢 了",
                "{who} 给 {us} 带来 坏消息",
                "你 {past} 的 {work} {very} {bad}",
                "{past} 的 {event} {very} {bad}",
                "{future} 的 {event} 一定 很 {bad}",
                "{who} 对 {us} {very} {rude}",
                "你 真 是 {rude} 的 {who}",
                "你 弄坏 了 {who} 的 {thing}",
                "{they} {future} 不 想 见 {who}",
                "你 不能 用 {who} 的 {thing}",
            ),
            "validation": (
                "{who} 觉得 {event} {very} {bad}",
                "{bad} 的 {event} 让 {who} {sad}",
                "{they} 的 {thing} {past} 弄坏 了",
            ),
            "test": (
                "我 讨厌 {who} {bad} 的 {work}",
                "你 {past} 让 {who} 很 {sad}",
                "{foul} 的 {food} 是 {who} 做 的",
                "{who} 带来 {bad} 的 {work}",
                "都 怪 你 {past} {who} 很 {sad}",
                "{who} 不 想 去 {future} 的 {event}",
            ),
        },
    },
}

#: One-word clips. Every split says them: there is no structure to hold out.
SHORT_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "en": {
        "positive": ("great", "thanks", "wonderful", "perfect", "lovely", "beautiful"),
        "neutral": ("okay", "today", "tomorrow", "tonight", "yesterday"),
        "negative": ("no", "never", "terrible", "horrible", "bad"),
    },
    "zh": {
        "positive": ("谢谢", "恭喜", "完美", "精彩", "高兴"),
        "neutral": ("今天", "明天", "昨天", "后天", "今晚"),
        "negative": ("不", "不能", "糟糕", "讨厌", "可怕"),
    },
}


class Sentence(NamedTuple):
    """What is said (lowercase, no punctuation, no sound events) and the id of its template."""

    text: str
    template: str


def sentence(language: str, valence: str, split: str, rng: random.Random) -> Sentence:
    """Draw a sentence: every template of the split is equally likely, then every value of each of its slots.

    Args: language: "en" | "zh". valence: "positive" | "neutral" | "negative". split: one of ``world.SPLITS``.
    Raises ValueError, naming the value, for any other.
    """
    template = rng.choice(templates(language, valence, split))
    words = [rng.choice(SLOTS[language][part]) if is_slot else part for is_slot, part in _parts(template)]
    return Sentence(_join(language, words), template)


def short_word(language: str, valence: str, split: str, rng: random.Random) -> Sentence:
    """Draw one word, for clips of under a second. All splits share these words; the template id is ``SHORT``."""
    _check(language, valence, split)
    return Sentence(rng.choice(SHORT_WORDS[language][valence]), SHORT)


def shuffled_words(language: str, rng: random.Random, valence: str = "") -> Sentence:
    """Three to seven words of the training grammar in any order: what cannot be guessed has to be heard. Never a
    sentence of the grammar.

    ``valence`` "": any words; they have none. Else it rests on one word: words of neutral sentences and, unless it is
    "neutral", one of a slot that positive or negative sentences alone have.
    """
    literals = {one: _literals(language, one) for one in VALENCES}
    charged = {one: _slot_words(language, CHARGED[one]) for one in CHARGED}
    known = set.union(*literals.values()) | _slot_words(language)
    if valence:
        known = (literals["neutral"] | _slot_words(language)) - charged["positive"] - charged["negative"]
    while True:
        chosen = rng.choices(sorted(known), k=rng.randint(3, 7))
        if valence in charged:
            chosen[rng.randrange(len(chosen))] = rng.choice(sorted(charged[valence] - charged[OPPOSITE[valence]]))
        text = _join(language, chosen)
        if valence_of(text, language) is None:
            return Sentence(text, SHUFFLED)


def templates(language: str, valence: str, split: str) -> tuple[str, ...]:
    """The templates of one split; each is its own id. "combinations" and "style" speak the test templates."""
    _check(language, valence, split)
    return TEMPLATES[language][valence][GRAMMAR_SPLIT[split]]


def fillings(language: str, template: str) -> list[str]:
    """Every sentence of one template."""
    choices = [SLOTS[language][part] if is_slot else (part,) for is_slot, part in _parts(template)]
    return [_join(language, words) for words in itertools.product(*choices)]


def count(language: str, split: str) -> int:
    """Number of distinct sentences of a split, one-word clips aside."""
    return len({text for valence in VALENCES for template in templates(language, valence, split)
                for text in fillings(language, template)})  # fmt: skip


def vocabulary(language: str, split: str) -> set[str]:
    """English: the words of a split. Chinese: its characters and its building-block words. One-word clips included."""
    blocks: set[str] = set()
    for valence in VALENCES:
        for template in templates(language, valence, split):
            for is_slot, part in _parts(template):
                for value in SLOTS[language][part] if is_slot else (part,):
                    blocks.update(value.split())
        blocks.update(SHORT_WORDS[language][valence])
    return blocks | {character for block in blocks for character in block} if language == "zh" else blocks


def valence_of(text: str, language: str) -> str | None:
    """The valence of a sentence or a one-word clip, exact by the grammar; None if the grammar does not say it.

    Case and spacing do not matter, so that a transcript can be read as it comes.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}, must be one of {LANGUAGES}")
    normal = _join(language, text.lower().split())
    for valence, pattern in _patterns(language).items():
        if pattern.fullmatch(normal):
            return valence
    return None


def _parts(template: str) -> list[tuple[bool, str]]:
    """[(is it a slot, the slot's name or the word)], in order. A slot's name may hold a space: "{they are}"."""
    return [(bool(slot), slot or word) for slot, word in re.findall(r"\{([^}]+)\}|(\S+)", template)]


@cache
def _literals(language: str, valence: str) -> set[str]:
    """The words that training sentences of one valence have beside their slots."""
    return {part for template in templates(language, valence, "train") for is_slot, part in _parts(template)
            if not is_slot}  # fmt: skip


@cache
def _slot_words(language: str, slots: tuple[str, ...] = ()) -> frozenset[str]:
    """The single words (English) or building blocks (Chinese) of the slots named, or of all."""
    return frozenset(
        word for name, values in SLOTS[language].items() if not slots or name in slots
        for value in values for word in value.split()
    )  # fmt: skip


def _join(language: str, words: list[str] | tuple[str, ...]) -> str:
    text = " ".join(words)
    return text.replace(" ", "") if language == "zh" else text


@cache
def _patterns(language: str) -> dict[str, re.Pattern[str]]:
    """Valence -> one expression that matches all that the grammar says with it, in any split."""
    gap = "" if language == "zh" else " "
    patterns = {}
    for valence in VALENCES:
        choices = [re.escape(word) for word in SHORT_WORDS[language][valence]]
        for template in itertools.chain.from_iterable(TEMPLATES[language][valence].values()):
            values = [SLOTS[language][part] if is_slot else (part,) for is_slot, part in _parts(template)]
            choices.append(gap.join("(?:" + "|".join(_join(language, [v]) for v in slot) + ")" for slot in values))
        patterns[valence] = re.compile("|".join(choices))
    return patterns


def _check(language: str, valence: str, split: str) -> None:
    known = (("language", language, LANGUAGES), ("valence", valence, VALENCES), ("split", split, tuple(GRAMMAR_SPLIT)))
    for name, value, allowed in known:
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}, must be one of {allowed}")
