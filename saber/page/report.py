"""An answer to take away: the published JSON, plain text, and one page with frames, signals, evidence and verdict.

Goes in: a ``PageState`` whose answer is whole. Comes out: ``record`` (as published, and how it came to be),
``plain_text``, ``report_page`` (one HTML file that asks for nothing else), and ``render_actions``: the links that hold
them, so that the server keeps no file.
"""

from __future__ import annotations

import base64
import html
import json
from pathlib import PurePath
from typing import Any

from saber.page import view
from saber.page.texts import say
from saber.schema import SECTIONS, TRACKS

_STYLE = """
@page { size: A4; margin: 9mm 12mm; }
@media print { body { font-size: 11px !important; margin: 0 auto !important; } h2 { margin-top: 8px !important; }
  .sure, .facts, .notes, .quiet, .caution, .about, dt, .signal figcaption { font-size: 9.5px !important; } }
body { margin: 24px auto; max-width: 46rem; font: 14px/1.5 Charter, Georgia, "Noto Serif", "Noto Serif CJK SC", serif;
  color: #23211d; background: #fff; }
h1 { font-size: 22px; font-weight: 400; margin: 0 0 2px; } h2 { font-size: 15px; margin: 14px 0 4px; color: #5c564f; }
h3 { font-size: 1em; margin: 8px 0 0; } p { margin: 2px 0; }
dl { margin: 4px 0; } dt { font-size: 12px; color: #5c564f; }
dd { margin: 0; } .badge { border: 1px solid; padding: 1px 7px; margin-right: 6px; font-weight: 600; }
.sure, .facts, .notes, .quiet, .caution, .about { font-size: 12px; color: #5c564f; }
.measured { font-size: 11px; color: #5c564f; } 
.card header { display: flex; justify-content: space-between; align-items: baseline; gap: 8px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 0 20px; }
.strip { display: flex; flex-wrap: wrap; gap: 2px; } .strip figure { margin: 0; }
.strip img { height: 42px; display: block; } .strip figcaption { font-size: 8px; color: #5c564f; }
.signal { margin: 6px 0 0; } .signal figcaption { font-size: 12px; } .signal svg { width: 100%; height: 34px; }
.signal path { fill: none; stroke: #226270; stroke-width: 1.3; } .signal .level { stroke: #bbb; stroke-width: 1; }
.axis { display: flex; justify-content: space-between; font-size: 10px; color: #5c564f; }
article { break-inside: avoid; }
"""


def record(state: view.PageState) -> dict[str, Any]:
    """The published record and how it came to be; ``part`` and ``without`` where there are any: which seconds of the
    file, and the verdicts that it got with one track alone."""
    found = state.answer.prediction.to_json()
    if state.start_s or state.end_s is not None:
        found["part"] = {"start_s": state.start_s, "end_s": state.end_s}
    alone = {tracks: state.answers[tracks].prediction for tracks in TRACKS[1:] if tracks in state.answers}
    if alone := {tracks: prediction.to_json() for tracks, prediction in alone.items() if prediction}:
        found["alone"] = alone
    return found


def plain_text(state: view.PageState) -> str:
    """The answer under its headings."""
    texts = state.answer.texts
    return "\n\n".join(
        f"{say(state.language, section)}\n{texts[section]}" for section in SECTIONS if texts.get(section, "").strip()
    )


def report_page(state: view.PageState) -> str:
    """The whole answer as one HTML page that prints on one sheet."""
    language, rendered = state.language, view.render(state)
    parts = []
    for group in view.GROUPS:
        parts += [rendered[f"group-{group}"], rendered.get(view.MEASURED.get(group, ""), "")]
    if any(state.answers[tracks].prediction for tracks in TRACKS[1:] if tracks in state.answers):
        parts.append(rendered["mute"])
    title, made_by = say(language, "report_title"), say(language, "made_by", title=state.title)
    words = "".join(f"<p class='about'>{html.escape(text)}</p>" for text in (made_by, say(language, "no_judge")))
    return (
        f'<!doctype html><html lang="{view.LANG[language]}"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f'</title><meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1>{''.join(parts)}{rendered['facts']}{words}"
        "</main></body></html>\n"
    )


def render_actions(state: view.PageState) -> str:
    """Copy, JSON and report of a whole answer; "" before there is one."""
    if state.answer.prediction is None:
        return ""
    language, stem = state.language, PurePath(state.clip_path).stem or "clip"
    text = html.escape(plain_text(state), quote=True)
    done = html.escape(say(language, "copied"))
    copy = html.escape(say(language, "copy"))
    told = json.dumps(record(state), indent=1, ensure_ascii=False) + "\n"
    return (
        f'<div class="actions" lang="{view.LANG[language]}"><button type="button" data-copy="{text}" '
        f'data-done="{done}">{copy}</button>'
        + _link(f"{stem}.saber.json", "application/json", told, say(language, "json"))
        + _link(f"{stem}.saber.html", "text/html", report_page(state), say(language, "report"))
        + "</div>"
    )


def _link(name: str, kind: str, content: str, label: str) -> str:
    data = base64.b64encode(content.encode()).decode()
    return (
        f'<a download="{html.escape(name, quote=True)}" href="data:{kind};charset=utf-8;base64,{data}">'
        f"{html.escape(label)}</a>"
    )
