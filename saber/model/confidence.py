"""How sure a model was of each section of an answer, from the probabilities of its tokens.

The confidence of a section is the geometric mean of the probabilities of its content tokens, the text between its tags:
``exp(mean)`` of what ``section_scores`` gives. It holds the doubt about how to put a thing as well as the doubt about
the thing, so where many wordings are right it lies below the share of right answers. It is given what the answer said
before: a verdict that the reasoning has already named is certain, right or wrong. How far it can be trusted is measured
in ``saber/eval/calibration.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from saber.sections import CLOSE_TAGS, OPEN_TAGS, Event, Parser


def section_scores(tokenizer: Any, answer: Sequence[tuple[int, float]]) -> dict[str, dict[str, float]]:
    """Section -> ``tokens`` (how many), ``mean`` and ``least`` of their log-probabilities, of the sections that an
    answer (token ids with log-probabilities) states.

    A token belongs to the section whose content one of its characters is part of, a token such as ``>The`` or ``.</``
    whole. Tokens of the tags alone belong to none.
    """
    decoder = DecodeStream(skip_special_tokens=True)
    text, ends = "", []
    for token, _ in answer:
        text += decoder.step(tokenizer.backend_tokenizer, token) or ""
        ends.append(len(text))
    owners: list[str] = [""] * len(text)
    at = 0
    parser = Parser()
    for event in [*parser.feed(text), *parser.close()]:
        low, high = _content(event)
        owners[at + low : at + high] = [event.section] * (high - low)
        at += len(event.raw)
    found: dict[str, list[float]] = {}
    begin, waiting = 0, []
    for (_, score), end in zip(answer, ends, strict=True):
        waiting.append(score)  # a token that ends inside a character goes with the one that completes it
        if end == begin:
            continue
        section = next(filter(None, owners[begin:end]), "")
        if section:
            found.setdefault(section, []).extend(waiting)
        begin, waiting = end, []
    return {
        section: {
            "tokens": len(scores),
            "mean": round(math.fsum(scores) / len(scores), 5),
            "least": round(min(scores), 5),
        }
        for section, scores in found.items()
    }


def _content(event: Event) -> tuple[int, int]:
    """From where to where the raw text of an event is content. Where it was escaped it does not stand there as it is:
    then what is between our tags counts, or the whole."""
    content = event.text.strip()
    if not content:
        return 0, 0
    if content in event.raw:
        return event.raw.index(content), event.raw.index(content) + len(content)
    before, opening, after = event.raw.partition(OPEN_TAGS[event.section])
    low = len(before + opening) if opening else 0
    inner = (after if opening else before).rpartition(CLOSE_TAGS[event.section])
    return low, low + len(inner[0] or inner[2])
