"""saber.prompts: every file can be read, and each prompt names what the answer must hold."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from saber.prompts import load_prompt
from saber.schema import LANGUAGES, SECTIONS
from saber.sections import OPEN_TAGS

FILES = sorted(file.name for file in resources.files("saber.prompts").iterdir() if file.name.endswith(".txt"))


@pytest.mark.parametrize("file", FILES)
def test_every_file_holds_its_name_a_version_and_a_text(file):
    name, language, _ = file.split(".")
    prompt = load_prompt(name, language)
    assert re.fullmatch(rf"{name} v[1-9]\d*", prompt.version)
    assert prompt.text and prompt.version not in prompt.text and prompt.text == prompt.text.strip()


@pytest.mark.parametrize("name", ["sed", "mini"])
def test_a_stage_has_one_version_in_all_its_languages(name):
    prompts = [load_prompt(name, language) for language in (*LANGUAGES, "clip")]
    assert len({prompt.version for prompt in prompts}) == 1
    assert len({prompt.text for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("language", [*LANGUAGES, "clip"])
def test_the_sed_prompt_asks_for_every_section_in_the_order_of_the_text(language):
    text = load_prompt("sed", language).text
    places = [text.find(OPEN_TAGS[section]) for section in SECTIONS]
    assert min(places) >= 0 and places == sorted(places)


def test_a_prompt_that_is_not_there_names_those_that_are():
    with pytest.raises(FileNotFoundError, match=r"no prompt seed\.en\.txt; there are .*sed\.en\.txt"):
        load_prompt("seed", "en")
