"""The drawn head: hair, eyes, brows, nose, mouth and folds of skin, moved by FACS action units.

``Head(identity)`` fixes proportions and colours and records the hair; ``draw`` adds one frame's action units, gaze,
turn and mouth opening. Coordinates are the head's own: origin between the ears, x to the right of the picture, y
down, 1 is half the head's height. To add an action unit: its name in ``face.ACTION_UNITS``, its pull in the feature
that it moves here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import skia

from saber.studio.body import record
from saber.studio.face import ACTION_UNITS
from saber.studio.scenery import INK, PAPER, Color, Pen, mix, path, rgb
from saber.studio.world import Identity

#: The Monk skin tone scale, lightest to darkest (Monk 2019), https://skintone.google.
MONK: tuple[Color, ...] = (
    (246, 237, 228), (243, 231, 219), (247, 234, 208), (234, 218, 186), (215, 189, 150),
    (160, 126, 86), (130, 92, 67), (96, 65, 52), (58, 49, 42), (41, 36, 32),
)  # fmt: skip
HAIR: dict[str, Color] = {
    "black": (30, 26, 28), "brown": (92, 58, 36), "blond": (222, 180, 96), "red": (168, 70, 34),
    "grey": (176, 176, 180),
}  # fmt: skip
_EYES: tuple[Color, ...] = ((74, 46, 26), (60, 38, 24), (58, 112, 160), (70, 118, 70), (110, 84, 40), (80, 96, 116))
#: Where a point across the face lies once the head is turned.
Across = Callable[[float], float]


def _filled(color: Color, alpha: float = 1.0) -> skia.Paint:
    return skia.Paint(Color=rgb(color, alpha), AntiAlias=True)


def _lined(color: Color, width: float) -> skia.Paint:
    return skia.Paint(
        Color=rgb(color), AntiAlias=True, Style=skia.Paint.kStroke_Style, StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap, StrokeJoin=skia.Paint.kRound_Join,
    )  # fmt: skip


class Head:
    """One person's head. Proportions and colours are fixed at construction from the identity; ``draw`` adds the
    performance of one frame."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        rng = np.random.default_rng([identity.seed & 0xFFFFFFFF, 31])
        ink, female, older = identity.style == 1, identity.sex == "female", identity.age == "older"
        young = identity.age == "young"
        # Faces vary in proportion, but less than expressions do: what an action unit moves stays readable.
        self.w = rng.uniform(0.73, 0.80) * (0.88 if ink else 1.0)
        self.jaw = rng.uniform(0.44, 0.54) * (0.92 if female else 1.08) * (0.8 if ink else 1.0)
        self.eye_x = rng.uniform(0.33, 0.365) * (0.95 if ink else 1.0)
        self.eye_w = rng.uniform(0.22, 0.245) * (1.06 if young else 1.0) * (1.05 if ink else 1.0)
        self.eye_h = rng.uniform(0.15, 0.168) * (1.06 if female else 1.0)
        self.brow_w = rng.uniform(0.075, 0.095) * (0.85 if female else 1.12) * (1.15 if ink else 1.0)
        self.brow_y = rng.uniform(-0.40, -0.365)
        self.nose = rng.uniform(0.85, 1.15) * (1.2 if ink else 1.0)
        self.mouth_w = rng.uniform(0.295, 0.325)
        self.lips = rng.uniform(0.85, 1.15) * (1.15 if female else 0.9)

        # The scale's lightest tones get some blood, its darkest some light, so that lids and brows stay visible.
        skin = mix(MONK[identity.skin], (236, 176, 146), 0.22 if identity.skin < 4 else 0.0)
        skin = mix(skin, (255, 196, 150), {7: 0.06, 8: 0.2, 9: 0.19}.get(identity.skin, 0.0))
        self.skin = mix(skin, PAPER, 0.12) if ink else skin
        dark = sum(skin) < 330
        self.shade = mix(skin, (60, 10, 0), 0.28) if not dark else mix(skin, (0, 0, 0), 0.45)
        hair = HAIR[identity.hair_color]
        self.hair = mix(hair, (128, 128, 128), 0.15) if ink else mix(hair, (255, 255, 255), rng.uniform(0, 0.08))
        brow = mix(hair, (30, 20, 16), 0.45) if not dark else mix(hair, (8, 5, 5), 0.93)
        if identity.hair_color == "grey":
            brow = (104, 102, 106) if not dark else (206, 204, 206)
        self.crease_color = (
            INK if ink and not dark else mix(skin, (90, 20, 0), 0.5) if not dark else (mix(skin, (236, 190, 160), 0.5))
        )
        lip = mix(skin, (206, 62, 72), 0.55 if female else 0.44)
        if dark:
            lip = mix(skin, (216, 100, 100), 0.7 if female else 0.58)
        line = INK if ink else (26, 18, 18)

        self.p_skin = _filled(self.skin)
        self.p_lid = _filled(mix(self.skin, self.shade, 0.35 if not dark else 0.5))
        self.p_edge = _lined(INK if ink else self.shade, 0.045 if ink else 0.022)
        self.p_white = _filled((252, 250, 246))
        self.p_iris = _filled(INK if ink else _EYES[int(rng.integers(2 if dark else len(_EYES)))])
        self.p_pupil = _filled((12, 8, 10))
        self.p_glint = _filled((255, 255, 255))
        self.p_upper = _lined(line, 0.055 if female else 0.045)
        self.p_lower = _lined(mix(self.shade, line, 0.4), 0.022)
        self.p_brow = _filled(INK if ink and not dark else brow)
        self.p_lip = _filled(lip)
        self.p_lip_line = _lined(mix(lip, (40, 0, 0), 0.7) if not ink else INK, 0.05)
        self.p_inside = _filled((74, 18, 24) if not ink else INK)
        self.p_teeth = _filled((250, 248, 240))
        self.p_tongue = _filled((206, 90, 92))
        self.p_crease = _lined(self.crease_color, 0.038)
        self.p_nose = _lined(INK if ink and not dark else mix(self.crease_color, self.skin, 0.25), 0.035)
        blush = (226, 80, 70) if not dark else (240, 130, 100)
        self.p_blush = skia.Paint(
            AntiAlias=True,
            Shader=skia.GradientShader.MakeRadial((0, 0), 1, [rgb(blush, 0.5), rgb(blush, 0.0)]),
        )
        self.p_beard = _filled(self.hair if not dark else mix(self.hair, (0, 0, 0), 0.3), 0.92)
        self.p_rim = _lined((40, 34, 40) if not dark else (206, 176, 110), 0.034)
        self.p_glass = _filled((225, 240, 255), 0.10)
        self.older = older
        self.behind = record(lambda canvas: self._hair_behind(Pen(canvas, 0)))
        self.front = record(lambda canvas: self._hair_front(Pen(canvas, 0)))

    # Hair -----------------------------------------------------------------------------------------------------

    def _strand(self, pen: Pen, shape: skia.Path) -> None:
        pen.fill(shape, self.hair)
        ink = self.identity.style == 1
        pen.stroke(shape, INK if ink else mix(self.hair, (0, 0, 0), 0.25), 0.04 if ink else 0.02)

    def _curls(self, pen: Pen, places: list[tuple[float, float, float]]) -> None:
        shape = skia.Path()
        for x, y, r in places:
            shape.addCircle(x, y, r)
        self._strand(pen, shape)
        pen.fill(shape, self.hair)

    def _hair_behind(self, pen: Pen) -> None:
        w, kind = self.w, self.identity.hair
        if kind == "long":
            o = w + 0.17
            self._strand(
                pen,
                path(
                    (0, -1.14),
                    (-o, -1.14, -o, -0.5, -o, 0),
                    (-o, 0.6, -o - 0.05, 1.0, -o + 0.02, 1.5),
                    (o - 0.02, 1.5),
                    (o + 0.05, 1.0, o, 0.6, o, 0),
                    (o, -0.5, o, -1.14, 0, -1.14),
                    close=True,
                ),
            )
        elif kind == "bun":
            pen.oval(0, -1.2, 0.33, 0.26, self.hair, line=0.03)
            self._strand(
                pen, path((-w - 0.04, 0.1), (-w - 0.1, -1.1, 0, -1.1), (w + 0.1, -1.1, w + 0.04, 0.1), close=True)
            )
        elif kind == "curly":
            low = 0.45 if self.identity.sex == "female" else 0.0
            heights = np.arange(-0.6, low + 0.05, 0.22)
            self._curls(pen, [(side * (w + 0.06), float(y), 0.2) for side in (-1, 1) for y in heights])

    def _hair_front(self, pen: Pen) -> None:
        w, kind = self.w, self.identity.hair
        o = w + 0.05
        if kind == "bald":
            if self.older:
                for side in (-1, 1):
                    tuft = path((side * (w - 0.02), -0.42), (side * (w + 0.09), -0.2, side * (w + 0.03), 0.1),
                                (side * (w - 0.03), -0.1), close=True)  # fmt: skip
                    self._strand(pen, tuft)
            return
        if kind == "short":
            high = -0.66
            self._strand(
                pen,
                path(
                    (-o, 0.05),
                    (-o - 0.08, -0.6, -0.62, -1.13, 0, -1.13),
                    (0.62, -1.13, o + 0.08, -0.6, o, 0.05),
                    (o - 0.07, -0.12),
                    (w - 0.05, -0.42, 0.5, high),
                    (0.2, high + 0.03, -0.1, high - 0.1),
                    (-0.3, high + 0.02, -0.52, high + 0.04),
                    (-w + 0.04, -0.42, -o + 0.07, -0.12),
                    close=True,
                ),
            )
        elif kind in ("long", "bun"):
            part = 0.16 if kind == "long" else 0.0
            down = 0.55 if kind == "long" else 0.0
            self._strand(
                pen,
                path(
                    (-o, down),
                    (-o - 0.1, -0.6, -0.62, -1.13, 0, -1.13),
                    (0.62, -1.13, o + 0.1, -0.6, o, down),
                    (o - 0.05, -0.1, w - 0.12, -0.4),
                    (0.42, -0.62, part, -0.84),
                    (-0.3, -0.66, -w + 0.12, -0.4),
                    (-o + 0.05, -0.1, -o, down),
                    close=True,
                ),
            )
        elif kind == "curly":
            self._curls(
                pen,
                [
                    (0.9 * w * math.sin(a), -0.68 - 0.32 * math.cos(a) ** 2, 0.2 + 0.03 * math.cos(5 * a))
                    for a in np.linspace(-1.45, 1.45, 11)
                ],
            )

    # One frame ------------------------------------------------------------------------------------------------

    def draw_behind(self, canvas: skia.Canvas, yaw: float, pitch: float) -> None:
        """What lies behind the shoulders: back hair and neck."""
        canvas.save()
        canvas.translate(-0.004 * yaw, -0.003 * pitch)
        canvas.drawPicture(self.behind)
        canvas.restore()
        width = 0.3 if self.identity.sex == "female" else 0.36
        if self.identity.style == 1:
            width *= 0.8
        neck = skia.Rect(-width, 0.5, width, 1.75)
        canvas.drawRect(neck, self.p_lid)
        if self.identity.style == 1:
            canvas.drawRect(neck, self.p_edge)

    def draw(
        self, canvas: skia.Canvas, aus: list[float], gaze: list[float], yaw: float, pitch: float, opening: float
    ) -> None:
        """Face and front hair of one frame, in head units."""
        a = dict(zip(ACTION_UNITS, aus, strict=True))
        sin_yaw, cos_yaw = math.sin(math.radians(yaw)), math.cos(math.radians(yaw))
        drop = 0.75 * math.sin(math.radians(pitch))
        depth = 0.85

        def px(x: float) -> float:
            """Across the face, which is round: a turn moves its middle most and narrows the far side."""
            x = max(-depth, min(depth, x))
            return x * cos_yaw + math.sqrt(depth * depth - x * x) * sin_yaw

        jaw = 0.17 * a["AU26"] + 0.05 * opening
        self._base(canvas, yaw, jaw, drop)
        canvas.save()
        canvas.translate(0, drop)
        if self.identity.beard:
            self._beard(canvas, px, jaw)
        self._creases(canvas, a, px)
        self._mouth(canvas, a, px, jaw, opening)
        for side in (-1, 1):
            self._eye(canvas, a, gaze, px, side)
        self._nose(canvas, a, px)
        if self.identity.glasses:
            for side in (-1, 1):
                x, r = px(side * self.eye_x), 0.29
                wide = abs(px(side * self.eye_x + 0.05) - px(side * self.eye_x - 0.05)) * 10 * r
                lens = skia.Rect(x - wide, -0.05 - 0.24, x + wide, -0.05 + 0.26)
                canvas.drawRoundRect(lens, 0.16, 0.16, self.p_glass)
                canvas.drawRoundRect(lens, 0.16, 0.16, self.p_rim)
            canvas.drawLine(px(-0.06), -0.06, px(0.06), -0.06, self.p_rim)
        for side in (-1, 1):
            self._brow(canvas, a, px, side)
        canvas.restore()
        canvas.translate(0.004 * yaw, 0.3 * drop)
        canvas.drawPicture(self.front)

    def _base(self, canvas: skia.Canvas, yaw: float, jaw: float, drop: float) -> None:
        """Ears and the outline of the face, chin lowered by ``jaw``."""
        w, j = self.w, self.jaw
        for side in (-1, 1):
            ear = skia.Rect.MakeXYWH(side * (w + 0.01) - 0.11 - 0.003 * yaw, -0.12 + 0.2 * drop, 0.22, 0.34)
            canvas.drawOval(ear, self.p_lid)
            canvas.drawOval(ear, self.p_edge)
        s = 0.003 * yaw
        chin = 1.0 + jaw
        tip = 0.16 if self.identity.style == 1 else 0.24
        face = path((-w, -0.15), (-w, -0.75, -0.5 * w, -1.03, 0, -1.03), (0.5 * w, -1.03, w, -0.75, w, -0.15),
                    (w, 0.3, j + 0.1 + s, 0.68 + jaw, tip + s, chin - 0.05), (tip / 2 + s, chin, s, chin),
                    (-tip / 2 + s, chin, -tip + s, chin - 0.05), (-j - 0.1 + s, 0.68 + jaw, -w, 0.3, -w, -0.15),
                    close=True)  # fmt: skip
        canvas.drawPath(face, self.p_skin)
        canvas.drawPath(face, self.p_edge)
        if self.identity.style == 1:  # hatched shadow on one cheek
            for index in range(4):
                y = 0.02 + 0.09 * index
                canvas.drawLine(w - 0.15 - 0.04 * index, y + 0.07, w - 0.04 - 0.04 * index, y - 0.02, self.p_lower)

    def _beard(self, canvas: skia.Canvas, px: Across, jaw: float) -> None:
        """Along the jaw and under the lips; the mouth and its corners stay bare."""
        w, j, chin = self.w, self.jaw, 1.01 + jaw
        canvas.drawPath(
            path((px(-w), 0.0), (px(-w), 0.35, px(-j - 0.1), 0.7 + jaw, px(-0.24), chin - 0.04),
                 (0, chin + 0.03, px(0.24), chin - 0.04), (px(j + 0.1), 0.7 + jaw, px(w), 0.35, px(w), 0.0),
                 (px(w - 0.12), 0.35, px(0.48), 0.62), (px(0.3), 0.86 + jaw, px(0), 0.84 + jaw),
                 (px(-0.3), 0.86 + jaw, px(-0.48), 0.62), (px(-w + 0.12), 0.35, px(-w), 0.0), close=True),
            self.p_beard,
        )  # fmt: skip

    def _crease(self, canvas: skia.Canvas, strength: float, *segments: tuple[float, ...]) -> None:
        if strength > 0.12:
            self.p_crease.setAlphaf(min(1.0, 1.1 * strength))
            canvas.drawPath(path(*segments), self.p_crease)

    def _creases(self, canvas: skia.Canvas, a: dict[str, float], px: Across) -> None:
        """Skin that folds: forehead, between the brows, nose bridge, cheeks, corners of the mouth, chin."""
        crease = self._crease
        age = 0.25 if self.older else 0.0
        for index, y in enumerate((-0.66, -0.57)):
            reach = 0.2 + 0.2 * a["AU2"]
            strength = max(a["AU1"] * 0.8, a["AU2"], age) - 0.15 * index
            crease(canvas, strength, (px(-reach), y), (px(0), y - 0.05 * a["AU2"] + 0.04 * a["AU4"], px(reach), y))
        for side in (-1, 1):
            one = side == 1
            crease(canvas, a["AU4"], (px(side * 0.055), -0.42), (px(side * 0.04), -0.27))
            smile = max(a["AU12"], a["AU12L"] if one else 0.0)
            fold = max(smile, a["AU9"], a["AU10"], age)
            lift = 0.1 * max(a["AU9"], a["AU10"])
            crease(
                canvas,
                fold,
                (px(side * 0.17), 0.2 - lift),
                (px(side * (0.36 + 0.1 * smile)), 0.26 - lift, px(side * (0.39 + 0.08 * smile)), 0.5 - 0.05 * smile),
            )
            if a["AU6"] > 0.1:
                canvas.save()
                canvas.translate(px(side * 0.44), 0.24)
                canvas.scale(0.24 * a["AU6"], 0.17 * a["AU6"])
                canvas.drawCircle(0, 0, 1, self.p_blush)
                canvas.restore()
                x, w = self.eye_x, self.eye_w
                crease(
                    canvas, a["AU6"], (px(side * (x - 0.6 * w)), 0.12), (px(side * x), 0.18, px(side * (x + w)), 0.08)
                )
                for dy in (-0.07, 0.02):  # crow's feet
                    crease(
                        canvas,
                        a["AU6"],
                        (px(side * (x + w + 0.03)), -0.06 + 0.4 * dy),
                        (px(side * (x + w + 0.14)), -0.06 + 1.9 * dy),
                    )
            if self.older:
                crease(canvas, 0.22, (px(side * 0.2), 0.11), (px(side * 0.32), 0.17, px(side * 0.46), 0.1))
            crease(canvas, a["AU9"], (px(side * 0.02), -0.1), (px(side * 0.1), -0.16))
            crease(canvas, a["AU9"], (px(side * 0.02), 0.0), (px(side * 0.11), -0.06))
            crease(canvas, 0.8 * a["AU15"], (px(side * 0.36), 0.66), (px(side * 0.42), 0.72, px(side * 0.4), 0.8))
            crease(canvas, a["AU20"], (px(side * 0.48), 0.42), (px(side * 0.53), 0.52, px(side * 0.48), 0.64))
            if one:
                crease(canvas, a["AU14L"], (px(0.47), 0.31), (px(0.53), 0.38, px(0.49), 0.46))
        crease(canvas, a["AU17"], (px(-0.12), 0.8), (px(0), 0.73, px(0.12), 0.8))

    def _eye(self, canvas: skia.Canvas, a: dict[str, float], gaze: list[float], px: Across, side: int) -> None:
        x, y, w = self.eye_x, -0.05, self.eye_w
        inner, middle, outer = px(side * (x - w)), px(side * x), px(side * (x + w))
        up = self.eye_h * (1 + 0.5 * a["AU5"] - 0.25 * a["AU7"] - 0.3 * a["AU6"] - 0.15 * a["AU9"])
        raised = up
        up *= 1 - 0.45 * max(0.0, min(1.0, gaze[1]))  # the upper lid follows the gaze down
        low = 0.105 * (1 - 0.95 * a["AU6"] - 0.55 * a["AU7"] - 0.35 * a["AU9"] + 0.1 * a["AU5"])
        shut = a["AU43"]
        sad = a["AU1"] * (1 - a["AU2"]) * (1 - a["AU5"])
        frown = a["AU4"] * (1 - a["AU1"])
        up_in = (up * (1 + 0.15 * sad - 0.4 * frown)) * (1 - shut) - low * shut
        up_out = (up * (1 - 0.55 * sad + 0.05 * frown)) * (1 - shut) - low * shut
        tail = y + 0.05 * sad - 0.02 * frown  # outer corner
        third, two_thirds = inner + (outer - inner) * 0.25, inner + (outer - inner) * 0.75
        lid = ((inner, y + 0.01), (third, y - up_in / 0.75, two_thirds, y - up_out / 0.75, outer, tail))
        below = (two_thirds, y + low / 0.75, third, y + low / 0.75, inner, y + 0.01)
        if raised - min(up_in, up_out) > 0.03:  # the skin of a lid that hangs over the eye
            over = raised / 0.75
            hood = path((inner, y + 0.01), (third, y - over, two_thirds, y - over, outer, tail), below, close=True)
            canvas.drawPath(hood, self.p_lid)
        if up_in + up_out + 2 * low > 0.05:
            opening = path(*lid, below, close=True)
            canvas.save()
            canvas.clipPath(opening, True)
            canvas.drawPath(opening, self.p_white)
            center_x = middle + gaze[0] * 0.5 * abs(outer - inner) * 0.62
            center_y = y + 0.5 * (low - raised) + 0.012 + 0.11 * gaze[1]
            ink = self.identity.style == 1
            canvas.drawCircle(center_x, center_y, 0.105 if ink else 0.125, self.p_iris)
            if not ink:
                canvas.drawCircle(center_x, center_y, 0.068, self.p_pupil)
            canvas.drawCircle(center_x - 0.035, center_y - 0.04, 0.028, self.p_glint)
            canvas.restore()
            canvas.drawPath(path((outer, tail), below), self.p_lower)
        canvas.drawPath(path(*lid), self.p_upper)
        if self.identity.sex == "female":
            canvas.drawLine(outer, tail, outer + (outer - inner) * 0.16, tail - 0.05 + 0.05 * shut, self.p_upper)

    def _brow(self, canvas: skia.Canvas, a: dict[str, float], px: Across, side: int) -> None:
        outer_raise = max(a["AU2"], a["AU2L"] if side == 1 else 0.0)
        knit = a["AU4"]
        frown = knit * (1 - a["AU1"])
        inner_y = self.brow_y + 0.03 - 0.17 * a["AU1"] + 0.11 * frown + 0.05 * knit + 0.05 * a["AU9"]
        arch_y = self.brow_y - 0.03 - 0.07 * a["AU1"] - 0.12 * outer_raise + 0.05 * frown + 0.03 * a["AU9"]
        sad = a["AU1"] * (1 - outer_raise)
        outer_y = self.brow_y + 0.05 - 0.13 * outer_raise + 0.08 * sad - 0.08 * frown
        inner_x = px(side * (0.13 - 0.045 * knit))
        arch_x = px(side * (self.eye_x + 0.04))
        outer_x = px(side * (self.eye_x + self.eye_w + 0.06))
        t = self.brow_w
        canvas.drawPath(
            path((inner_x, inner_y + t / 2), (arch_x, 2 * arch_y - (inner_y + outer_y) / 2 + t / 2, outer_x, outer_y),
                 (arch_x, 2 * arch_y - (inner_y + outer_y) / 2 - t / 2, inner_x, inner_y - t / 2), close=True),
            self.p_brow,
        )  # fmt: skip

    def _nose(self, canvas: skia.Canvas, a: dict[str, float], px: Across) -> None:
        n = self.nose
        lift = 0.07 * a["AU9"] + 0.02 * a["AU10"]
        y, tip = 0.25 - lift, px(0.0) + 0.12 * (px(0.0))
        if self.identity.style == 1:
            canvas.drawPath(path((px(-0.03), -0.08), (tip - 0.1 * n, y), (tip + 0.05 * n, y + 0.01)), self.p_nose)
            return
        wide = n * (0.1 + 0.025 * a["AU9"])
        wings = path((tip - wide, y - 0.04), (tip - wide * 1.1, y + 0.03, tip - 0.4 * wide, y + 0.02),
                     (tip, y + 0.06, tip + 0.4 * wide, y + 0.02),
                     (tip + wide * 1.1, y + 0.03, tip + wide, y - 0.04))  # fmt: skip
        canvas.drawPath(wings, self.p_nose)

    def _mouth(self, canvas: skia.Canvas, a: dict[str, float], px: Across, jaw: float, voice: float) -> None:
        """Lips from the action units; the voice opens them further, least where they are pressed together."""
        voice = voice * (1 - 0.5 * a["AU24"])
        smile, stretch = a["AU12"], a["AU20"]
        y = 0.54 + 0.055 * smile - 0.045 * a["AU15"] - 0.03 * a["AU17"] - 0.03 * a["AU10"]
        width = self.mouth_w * (1 + 0.42 * smile + 0.36 * stretch - 0.28 * a["AU23"] - 0.3 * a["AU26"] * (1 - stretch)
                                - 0.1 * voice + 0.08 * a["AU10"])  # fmt: skip
        corner = 0.54 - 0.175 * smile + 0.13 * a["AU15"] + 0.02 * stretch
        right_y = corner - 0.2 * a["AU12L"] - 0.02 * a["AU14L"]
        right_x = px(width * (1 + 0.34 * a["AU12L"] + 0.1 * a["AU14L"]))
        left_x, left_y, mid_x = px(-width), corner, px(0.0)
        top = y - 0.02 * a["AU25"] - 0.05 * a["AU26"] - 0.03 * voice - 0.1 * a["AU10"] - 0.05 * stretch * a["AU25"]
        bottom = (y + 0.04 * a["AU25"] + 0.1 * smile * a["AU25"] + 0.22 * a["AU26"] + 0.19 * voice
                  + 0.07 * stretch * a["AU25"] + 0.04 * a["AU16"] - 0.02 * a["AU17"] * a["AU10"])  # fmt: skip
        average = (left_y + right_y) / 2
        # A cubic passes at a quarter of its ends and three quarters of its controls.
        top_c, bottom_c = (top - 0.25 * average) / 0.75, (bottom - 0.25 * average) / 0.75
        thin = 1 - 0.75 * a["AU24"] - 0.2 * a["AU23"] - 0.2 * smile
        upper, lower = 0.062 * self.lips * max(0.15, thin), 0.085 * self.lips * max(0.15, thin + 0.3 * a["AU17"])
        spread = 0.55 + 0.3 * max(a["AU26"], stretch, a["AU10"])  # how square the opening is
        l_c, r_c = mid_x + (left_x - mid_x) * spread, mid_x + (right_x - mid_x) * spread
        canvas.drawPath(
            path((left_x, left_y),
                 (l_c, top_c - upper / 0.75, mid_x - 0.05, top - 1.5 * upper, mid_x, top - 1.1 * upper),
                 (mid_x + 0.05, top - 1.5 * upper, r_c, top_c - upper / 0.75, right_x, right_y),
                 (r_c, bottom_c + lower / 0.75, l_c, bottom_c + lower / 0.75, left_x, left_y), close=True),
            self.p_lip,
        )  # fmt: skip
        if bottom - top < 0.025:
            canvas.drawPath(path((left_x, left_y), (l_c, top_c, r_c, top_c, right_x, right_y)), self.p_lip_line)
            return
        inside = path((left_x, left_y), (l_c, top_c, r_c, top_c, right_x, right_y),
                      (r_c, bottom_c, l_c, bottom_c, left_x, left_y), close=True)  # fmt: skip
        canvas.drawPath(inside, self.p_inside)
        canvas.save()
        canvas.clipPath(inside, True)
        gap = bottom - top
        teeth = 0.08 * max(smile, a["AU10"], stretch, 0.6 - 0.5 * a["AU15"])
        canvas.drawPath(path((left_x, left_y - 0.1), (left_x, left_y + 0.2 * teeth),
                             (l_c, top_c + teeth / 0.75, r_c, top_c + teeth / 0.75, right_x, right_y + 0.2 * teeth),
                             (right_x, right_y - 0.1), close=True), self.p_teeth)  # fmt: skip
        if stretch > 0.4:
            canvas.drawRect(skia.Rect(left_x, bottom - 0.05 * stretch, right_x, bottom + 0.2), self.p_teeth)
        elif gap > 0.15:
            canvas.drawOval(skia.Rect(mid_x - 0.15, bottom - 0.07, mid_x + 0.15, bottom + 0.12), self.p_tongue)
        canvas.restore()
        canvas.drawPath(inside, self.p_lip_line)
