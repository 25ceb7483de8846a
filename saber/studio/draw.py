"""Draws a clip: the place, the person's body, and the head that performs.

``frames(spec, motion, mouth)`` yields the pictures of one clip; ``motion`` comes from ``face.perform``, ``mouth`` from
the voice. The parts live in ``scenery.py``, ``body.py`` and ``head.py``; this file puts them together. Two styles carry
the same information: 0 soft, 1 ink on paper with other proportions. ``sheet.py`` makes contact sheets to look at.
Needs skia-python (on Debian and Ubuntu with the packages libegl1 and libgl1).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import skia

from saber.studio.body import Figure
from saber.studio.face import Motion
from saber.studio.head import MONK, Head
from saber.studio.scenery import paint, rgb
from saber.studio.world import ClipSpec, Identity

_HEAD = 25.0  # half the height of a head, in units of the picture (0..100)


def random_identity(id: str, seed: int, style: int) -> Identity:
    """A person drawn evenly from all attributes; the same ``seed`` gives the same person. Older people are often
    grey, beards are for men, bald heads mostly so."""
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 17])
    sex = ("female", "male")[int(rng.integers(2))]
    age = ("young", "adult", "older")[int(rng.integers(3))]
    cuts = ("short", "long", "bun", "curly") if sex == "female" else ("short", "short", "curly", "bald", "long")
    hair = str(rng.choice(cuts))
    color = str(rng.choice(["black", "brown", "blond", "red", "grey"]))
    if age == "older" and rng.uniform() < 0.6:
        color = "grey"
    elif age != "older" and color == "grey":
        color = "black"
    return Identity(
        id=id, seed=seed, sex=sex, age=age, skin=int(rng.integers(len(MONK))), hair=hair, hair_color=color,
        glasses=bool(rng.uniform() < 0.3), beard=sex == "male" and bool(rng.uniform() < 0.4),
        clothes=int(rng.integers(12)), style=style,
    )  # fmt: skip


def frames(spec: ClipSpec, motion: Motion, mouth: np.ndarray) -> Iterator[np.ndarray]:
    """The pictures of a clip: T arrays (size, size, 3) uint8 RGB, each its own memory.

    ``mouth``: (T,), how far the voice opens the mouth, 0..1, for each of the motion's T frames. With
    ``spec.can_see_person`` False the place is empty. Raises ValueError when T differs, or for an unknown value.
    """
    if np.shape(mouth) != (len(motion),):
        raise ValueError(f"clip {spec.id}: mouth has shape {np.shape(mouth)}; the motion has {len(motion)} frames")
    size, style = spec.size, spec.identity.style
    pixels = np.zeros((size, size, 4), np.uint8)
    surface = skia.Surface(pixels, colorType=skia.kRGBA_8888_ColorType)
    canvas = surface.getCanvas()
    rng = np.random.default_rng([spec.seed & 0xFFFFFFFF, 23])
    canvas.scale(size / 100, size / 100)
    paint(canvas, spec.scene, rng, style)
    if not spec.can_see_person:
        for _ in range(len(motion)):
            yield np.ascontiguousarray(pixels[..., :3])
        return
    background = pixels.copy()
    head = Head(spec.identity)
    figure = Figure(spec.identity, spec.body, head.skin, head.shade, rng)
    shift_x, shift_y, zoom = rng.uniform(-3, 3), rng.uniform(-1, 1.5), rng.uniform(0.97, 1.03)
    light = [(255, 255, 255), (255, 244, 226), (240, 245, 255), (240, 236, 230)][int(rng.integers(4))]
    canvas.translate(50 + shift_x, 60 + shift_y)
    canvas.scale(zoom, zoom)
    canvas.translate(-50, -60)
    right, down, scale = figure.pose.head
    aus, gaze, turn, opening = motion.aus.tolist(), motion.gaze.tolist(), motion.head.tolist(), mouth.tolist()
    for index in range(len(motion)):
        time_s = index / motion.fps
        pixels[:] = background
        yaw, pitch, roll = turn[index]
        canvas.save()
        canvas.translate(50 + right + 0.12 * yaw, 37 + down + 0.6 * figure.offset(time_s) + 0.12 * pitch)
        canvas.rotate(roll, 0, _HEAD * scale)
        canvas.scale(_HEAD * scale, _HEAD * scale)
        posed = canvas.getTotalMatrix()
        head.draw_behind(canvas, yaw, pitch)
        canvas.restore()
        figure.draw_torso(canvas, time_s)
        canvas.save()
        canvas.setMatrix(posed)
        head.draw(canvas, aus[index], gaze[index], yaw, pitch, opening[index])
        canvas.restore()
        figure.draw_arms(canvas, time_s)
        canvas.drawColor(rgb(light), skia.BlendMode.kModulate)
        yield np.ascontiguousarray(pixels[..., :3])
