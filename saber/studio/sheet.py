"""Contact sheets: labelled pictures of everything that the studio draws, to look at and for the README.

``contact_sheet(path, what, style)`` writes one PNG: all faces, scenes or bodies over several people, or one
performance over time as a film strip above the curves of its action units.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from saber.studio.draw import frames, random_identity
from saber.studio.face import ACTION_UNITS, Motion, perform
from saber.studio.world import ATTRIBUTES, ClipSpec, Performance, Prosody, Words

SHEETS = ("faces", "scenes", "bodies", "performance")
_FPS = 25
_MARGIN = 18
_CURVES = ((214, 60, 60), (46, 120, 200), (40, 150, 90), (220, 140, 30), (140, 80, 180), (20, 150, 160), (120, 90, 60))


def _spec(number: int, style: int, size: int, scene: str, face: str, body: str, **performance: str) -> ClipSpec:
    """A clip of person ``number`` without a voice, as far as the drawing needs one."""
    show = {"gaze": "direct", "head": "still", "micro": "none", **performance}
    return ClipSpec(
        id=f"sheet-{number}", split="style" if style else "train", seed=number, language="en", scene=scene,
        identity=random_identity(f"sheet-{number}", number, style),
        performance=Performance(face=face, blinks_per_min=0.0, seed=number, **show), body=body, speaker="",
        voice="neutral", prosody=Prosody("mid", "flat", "normal", "normal", "relaxed", "no", "no", None, number),
        words=Words("", "en", "neutral", "none", ""), incomplete="silent", size=size, fps=_FPS,
    )  # fmt: skip


def _still(spec: ClipSpec, time_s: float = 1.0, opening: float = 0.0) -> np.ndarray:
    """One moment of a clip, (size, size, 3) uint8."""
    whole = perform(spec.performance, 3.0, spec.fps)
    index = round(time_s * spec.fps)
    at = slice(index, index + 1)
    moment = Motion(whole.aus[at], whole.gaze[at], whole.head[at], spec.fps)
    return next(frames(spec, moment, np.array([opening])))


def contact_sheet(
    path: str | os.PathLike, what: str, style: int = 0, size: int = 112, people: int = 4, seed: int = 0
) -> Image.Image:
    """Writes a PNG and returns the image. ``what``: one of SHEETS. ``people``: rows; ``size``: pixels of a picture.

    Raises ValueError for an unknown sheet.
    """
    if what not in SHEETS:
        raise ValueError(f"what is {what!r}; it must be one of {SHEETS}")
    if what == "performance":
        sheet = _film_strip(style, size, seed)
    else:
        attribute = {"faces": "face", "scenes": "scene", "bodies": "body"}[what]
        values, scenes = ATTRIBUTES[attribute], ATTRIBUTES["scene"]
        rows = []
        for row in range(people):
            cells = []
            for column, value in enumerate(values):
                # One face kind shows the same person along the row; scenes and bodies show as many as they can.
                number = seed + row if what == "faces" else seed + row * len(values) + column
                place = value if what == "scenes" else scenes[(3 * row + (column if what == "bodies" else 0)) % 8]
                spec = _spec(number, style, size, place, value if what == "faces" else "neutral",
                             value if what == "bodies" else "upright")  # fmt: skip
                cells.append(_still(spec, opening=0.3 * (row % 2)))
            rows.append(np.concatenate(cells, axis=1))
        sheet = _labelled(np.concatenate(rows, axis=0), values, size)
    sheet.save(path)
    return sheet


def _labelled(pixels: np.ndarray, labels: tuple[str, ...], size: int) -> Image.Image:
    """The pictures under a line of labels, one above each column."""
    sheet = Image.new("RGB", (pixels.shape[1], pixels.shape[0] + _MARGIN), "white")
    sheet.paste(Image.fromarray(pixels), (0, _MARGIN))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column, label in enumerate(labels):
        pen.text((column * size + size // 2, _MARGIN // 2), label, fill="black", font=font, anchor="mm")
    return sheet


def _film_strip(style: int, size: int, seed: int, count: int = 12) -> Image.Image:
    """A polite smile, a leak of fear, nods and a glance aside over three seconds; below, its curves over time."""
    spec = _spec(seed, style, size, "cafe", "polite", "palms", gaze="aside", head="nod", micro="fear")
    spec = replace(spec, performance=replace(spec.performance, blinks_per_min=20.0))
    motion = perform(spec.performance, 3.0, _FPS)
    pictures = list(frames(spec, motion, np.zeros(len(motion))))
    chosen = np.linspace(0, len(motion) - 1, count).round().astype(int)
    # The leak is short: make sure that its strongest frame is on the strip.
    strongest = int(np.argmax(motion.au("AU20")))
    chosen[int(np.argmin(np.abs(chosen - strongest)))] = strongest
    labels = tuple(f"{index / _FPS:.2f} s" for index in chosen)
    strip = _labelled(np.concatenate([pictures[index] for index in chosen], axis=1), labels, size)
    height = 190
    sheet = Image.new("RGB", (strip.width, strip.height + height), "white")
    sheet.paste(strip, (0, 0))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    left, right, top, bottom = 50, strip.width - 90, strip.height + 14, sheet.height - 22
    pen.rectangle((left, top, right, bottom), outline=(180, 180, 180))
    pen.text((left - 6, top), "1", fill="black", font=font, anchor="rm")
    pen.text((left - 6, bottom), "0", fill="black", font=font, anchor="rm")
    pen.text(((left + right) // 2, bottom + 12), "time, 0 to 3 s", fill="black", font=font, anchor="mm")

    def curve(name: str, values: np.ndarray, color: tuple[int, int, int], row: int) -> None:
        xs = np.linspace(left, right, len(values))
        ys = bottom - np.clip(values, 0, 1) * (bottom - top)
        pen.line([(float(x), float(y)) for x, y in zip(xs, ys, strict=True)], fill=color, width=2)
        pen.text((right + 8, top + 6 + 15 * row), name, fill=color, font=font, anchor="lm")

    active = [name for name in ACTION_UNITS if motion.au(name).max() > 0.2]
    for row, name in enumerate(active):
        curve(name, motion.au(name), _CURVES[row % len(_CURVES)], row)
    curve("head pitch", 0.5 + motion.head[:, 1] / 40, (150, 150, 150), len(active))
    return sheet
