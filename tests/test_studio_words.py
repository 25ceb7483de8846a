"""The grammar of what is said in studio clips. Most tests walk over every sentence that it can say."""

import random
import re
from functools import cache
from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saber.studio import words
from saber.studio.world import ATTRIBUTES, SPLITS

GRAMMAR_SPLITS = ("train", "validation", "test")
LANGUAGE_AND_VALENCE = [(language, valence) for language in words.LANGUAGES for valence in words.VALENCES]


@cache
def every_sentence(language: str, valence: str, split: str) -> frozenset[str]:
    lines = words.templates(language, valence, split)
    return frozenset(chain.from_iterable(words.fillings(language, line) for line in lines))


def places(language: str, template: str) -> list[tuple[str, ...]]:
    """For each place of a template, what can stand there: the values of a slot, or one fixed word."""
    parts = re.findall(r"\{([^}]+)\}|(\S+)", template)
    return [words.SLOTS[language][slot] if slot else (word,) for slot, word in parts]


def blocks(language: str, template: str) -> set[str]:
    """The words that one template can use."""
    return {word for value in chain.from_iterable(places(language, template)) for word in value.split()}


def all_blocks(language: str, valence: str, split: str) -> set[str]:
    return set().union(*(blocks(language, template) for template in words.templates(language, valence, split)))


def test_splits_and_valences_are_those_of_the_studio():
    assert tuple(words.GRAMMAR_SPLIT) == SPLITS
    assert set(words.VALENCES) == set(ATTRIBUTES["valence"])


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_each_language_has_more_than_twenty_thousand_sentences(language):
    assert sum(words.count(language, split) for split in GRAMMAR_SPLITS) > 20_000
    assert words.count(language, "style") == words.count(language, "combinations") == words.count(language, "test")


@pytest.mark.parametrize("language, valence", LANGUAGE_AND_VALENCE)
def test_each_split_has_enough_templates_and_most_are_for_training(language, valence):
    train, validation, test = (len(words.templates(language, valence, split)) for split in GRAMMAR_SPLITS)
    assert train >= 12 and validation >= 3 and test >= 4
    total = train + validation + test
    assert 0.65 <= train / total <= 0.80 and 0.15 <= test / total <= 0.25


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_no_template_stands_twice_in_the_grammar(language):
    listed = [template for valence in words.VALENCES for split in GRAMMAR_SPLITS
              for template in words.templates(language, valence, split)]  # fmt: skip
    assert len(listed) == len(set(listed))
    assert words.SHORT not in listed


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_no_sentence_appears_in_two_splits(language):
    texts = {split: frozenset().union(*(every_sentence(language, valence, split) for valence in words.VALENCES))
             for split in GRAMMAR_SPLITS}  # fmt: skip
    for one, other in combinations(GRAMMAR_SPLITS, 2):
        assert not texts[one] & texts[other]


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_no_sentence_has_two_valences(language):
    texts = {valence: frozenset().union(*(every_sentence(language, valence, split) for split in GRAMMAR_SPLITS))
             | frozenset(words.SHORT_WORDS[language][valence]) for valence in words.VALENCES}  # fmt: skip
    for one, other in combinations(words.VALENCES, 2):
        assert not texts[one] & texts[other]


@pytest.mark.parametrize("language, valence", LANGUAGE_AND_VALENCE)
def test_every_word_that_is_tested_occurs_in_a_training_sentence(language, valence):
    trained = set().union(*(all_blocks(language, each, "train") for each in words.VALENCES))
    assert all_blocks(language, valence, "validation") <= trained
    assert all_blocks(language, valence, "test") <= trained
    for split in SPLITS:
        assert words.vocabulary(language, split) <= words.vocabulary(language, "train")


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_each_good_or_bad_sentence_holds_a_word_that_training_ties_to_its_valence_and_none_tied_to_another(language):
    trained = {valence: all_blocks(language, valence, "train") for valence in words.VALENCES}
    tied = {"positive": trained["positive"] - trained["negative"] - trained["neutral"],
            "negative": trained["negative"] - trained["positive"] - trained["neutral"]}  # fmt: skip
    for valence in words.VALENCES:
        for template in chain.from_iterable(words.templates(language, valence, split) for split in GRAMMAR_SPLITS):
            for other in tied.keys() - {valence}:
                assert not blocks(language, template) & tied[other], template
            if valence in tied:
                always = (all(tied[valence] & set(value.split()) for value in place)
                          for place in places(language, template))  # fmt: skip
                assert any(always), template


def test_english_sentences_are_four_to_eight_plain_lowercase_words():
    for valence in words.VALENCES:
        for split in GRAMMAR_SPLITS:
            for text in every_sentence("en", valence, split):
                assert re.fullmatch(r"[a-z]+( [a-z]+){3,7}", text), text


def test_chinese_sentences_are_five_to_ten_characters_and_nothing_else():
    for valence in words.VALENCES:
        for split in GRAMMAR_SPLITS:
            for text in every_sentence("zh", valence, split):
                assert re.fullmatch(r"[\u4e00-\u9fff]{5,10}", text), text


def test_vocabularies_stay_small_enough_to_learn():
    assert 130 <= len(words.vocabulary("en", "train")) <= 185
    chinese = words.vocabulary("zh", "train")
    assert 130 <= len(set().union(*(all_blocks("zh", valence, "train") for valence in words.VALENCES))) <= 185
    assert 180 <= sum(len(word) == 1 for word in chinese) <= 220


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_word_is_expected_often_in_training(language):
    expected_per_sentence: dict[str, float] = {}
    for valence in words.VALENCES:
        lines = words.templates(language, valence, "train")
        for values in chain.from_iterable(places(language, line) for line in lines):
            for block in chain.from_iterable(value.split() for value in values):
                share = 1 / len(words.VALENCES) / len(lines) / len(values)
                expected_per_sentence[block] = expected_per_sentence.get(block, 0) + share
    assert set(expected_per_sentence) >= {word for word in words.vocabulary(language, "train")
                                          if language == "en" or len(word) > 1}  # fmt: skip
    # 25 times in 5,000 sentences, half of a training set of 10,000 clips.
    rare = {word: 5000 * share for word, share in expected_per_sentence.items() if 5000 * share < 25}
    assert not rare


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_slot_is_used_and_holds_no_value_twice(language):
    lines = chain.from_iterable(words.templates(language, valence, split)
                                for valence in words.VALENCES for split in GRAMMAR_SPLITS)  # fmt: skip
    assert set(re.findall(r"\{([^}]+)\}", " ".join(lines))) == set(words.SLOTS[language])
    for name, values in words.SLOTS[language].items():
        assert len(values) == len(set(values)), name


@given(language=st.sampled_from(words.LANGUAGES), valence=st.sampled_from(words.VALENCES),
       split=st.sampled_from(SPLITS), seed=st.integers(0, 2**32))  # fmt: skip
def test_a_drawn_sentence_is_one_of_its_template_and_the_same_seed_draws_it_again(language, valence, split, seed):
    drawn = words.sentence(language, valence, split, random.Random(seed))
    assert drawn == words.sentence(language, valence, split, random.Random(seed))
    assert drawn.template in words.templates(language, valence, split)
    assert drawn.text in every_sentence(language, valence, split)
    short = words.short_word(language, valence, split, random.Random(seed))
    assert short == words.short_word(language, valence, split, random.Random(seed))
    assert short.template == words.SHORT
    assert short.text in words.vocabulary(language, split)


@pytest.mark.parametrize("language, valence", LANGUAGE_AND_VALENCE)
def test_different_seeds_draw_every_template(language, valence):
    rng = random.Random(0)
    drawn = {words.sentence(language, valence, "train", rng).template for _ in range(1000)}
    assert drawn == set(words.templates(language, valence, "train"))


@pytest.mark.parametrize("language, valence", LANGUAGE_AND_VALENCE)
def test_the_valence_of_every_sentence_is_read_back(language, valence):
    for word in words.SHORT_WORDS[language][valence]:
        assert words.valence_of(word, language) == valence
    for split in GRAMMAR_SPLITS:
        for text in every_sentence(language, valence, split):
            assert words.valence_of(text, language) == valence, text


@pytest.mark.parametrize("text, language", [
    ("", "en"), ("your soup was really", "en"), ("your soup was really great yesterday today", "en"),
    ("the chair is happy", "en"), ("谢谢你", "zh"), ("昨天的鱼很好吃吗", "zh"),
    ("your soup was really great today", "zh"),
])  # fmt: skip
def test_what_the_grammar_does_not_say_has_no_valence(text, language):
    assert words.valence_of(text, language) is None


def test_case_and_spacing_do_not_change_what_is_read():
    assert words.valence_of("  I Love  the red coat\n", "en") == "positive"
    assert words.valence_of("昨天 的 鱼 很 难吃", "zh") == "negative"


def test_unknown_values_are_refused_by_name():
    rng = random.Random(0)
    with pytest.raises(ValueError, match="language is 'fr'"):
        words.sentence("fr", "positive", "train", rng)
    with pytest.raises(ValueError, match="valence is 'mixed'"):
        words.short_word("en", "mixed", "train", rng)
    with pytest.raises(ValueError, match="split is 'dev'"):
        words.templates("en", "positive", "dev")
    with pytest.raises(ValueError, match="language is 'fr'"):
        words.valence_of("merci", "fr")
