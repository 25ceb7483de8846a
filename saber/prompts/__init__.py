"""Every prompt as a text file: ``<name>.<language>.txt``, first line ``# <name> v<number>`` (the version that results
record), then the text. Languages are en and zh; "clip" asks for an answer in the language of the clip.

To change a prompt, edit its file and raise its version. A checkpoint carries the prompts that it was trained with, and
those win over these files.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import NamedTuple


class Prompt(NamedTuple):
    text: str
    version: str


@lru_cache
def load_prompt(name: str, language: str) -> Prompt:
    """Raises FileNotFoundError naming the prompt and the ones that exist."""
    folder = resources.files(__package__)
    file = folder / f"{name}.{language}.txt"
    if not file.is_file():
        known = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".txt"))
        raise FileNotFoundError(f"there is no prompt {name}.{language}.txt; there are {', '.join(known)}")
    head, _, text = file.read_text(encoding="utf-8").partition("\n")
    return Prompt(text.strip(), head.lstrip("# ").strip())
