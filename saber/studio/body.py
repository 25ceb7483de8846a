"""The drawn person below the chin: torso, clothes, arms and hands in eight postures and gestures.

``Figure`` records each posture once per clip as skia pictures (torso, left arm, right arm); every frame replays them
with a small movement. Coordinates are those of the picture, 0..100. To add a posture: one line in ``POSES``, its
name in ``world.ATTRIBUTES``, its wording in ``phrases.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import skia

from saber.studio.scenery import INK, Color, Pen, mix, path
from saber.studio.world import Identity

#: Upper garment colours; ``Identity.clothes`` is an index.
CLOTHES: tuple[Color, ...] = (
    (52, 86, 158), (176, 52, 58), (58, 128, 92), (232, 190, 84), (120, 78, 148), (72, 76, 86),
    (228, 226, 220), (224, 126, 70), (64, 160, 178), (206, 120, 156), (110, 84, 62), (30, 44, 72),
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """Shoulder, elbow and hand of an arm on the picture's left side, and what the hand does.

    ``hand``: "none", "open" (fingers spread, palm seen), "flat" (palm turned up), "fist", "rest" (fingers together).
    ``angle``: degrees that the fingers point from straight up, clockwise.
    """

    shoulder: tuple[float, float]
    elbow: tuple[float, float]
    wrist: tuple[float, float]
    hand: str = "none"
    angle: float = 0.0


@dataclass(frozen=True)
class Pose:
    """One posture. ``head``: (shift right, shift down, scale). ``shoulder_y``, ``slope``: height of the shoulders and
    how far they fall to the sides. ``left``, ``right``: the arms; ``right`` is given mirrored, as if it were a left
    one. ``sway``: (degrees of the arms, units up and down, times a second). ``front``: which arm lies on top."""

    head: tuple[float, float, float]
    shoulder_y: float
    slope: float
    half_width: float
    left: Arm
    right: Arm
    sway: tuple[float, float, float] = (0.5, 0.4, 0.25)


_HANGING = Arm((23, 78), (17, 96), (18, 112))
POSES: Mapping[str, Pose] = MappingProxyType(
    {
        "upright": Pose((0, 0, 1.0), 70, 4, 29, _HANGING, _HANGING),
        "leaning": Pose((0, 9, 1.2), 66, 3, 38, Arm((14, 76), (9, 96), (43, 96), "rest", 80),
                        Arm((14, 76), (9, 96), (40, 97), "rest", 80), (0.4, 0.8, 0.3)),
        "crossed": Pose((0, 0, 1.0), 70, 4, 30, Arm((22, 77), (15, 93), (62, 83), "rest", 70),
                        Arm((22, 77), (15, 93), (60, 88), "none", 0), (0.3, 0.4, 0.25)),
        "palms": Pose((0, 0, 1.0), 70, 4, 29, Arm((23, 78), (11, 97), (20, 83), "open", -14),
                      Arm((23, 78), (11, 97), (20, 83), "open", -14), (4.0, 1.4, 0.9)),
        "chin": Pose((0, 0, 1.0), 70, 4, 29, Arm((23, 78), (20, 99), (34, 72), "chin", 14),
                     Arm((23, 78), (19, 96), (66, 95), "rest", 84), (0.4, 0.4, 0.4)),
        "slumped": Pose((0, 13, 0.96), 81, 12, 30, Arm((24, 94), (20, 110), (24, 120)),
                        Arm((24, 94), (20, 110), (24, 120)), (0.3, 0.9, 0.2)),
        "fists": Pose((0, -1, 1.0), 68, 4, 30, Arm((22, 79), (12, 100), (29, 86), "fist", 6),
                      Arm((22, 79), (12, 100), (29, 86), "fist", 6), (1.2, 1.0, 3.0)),
        "shrug": Pose((0, 3, 1.0), 57, 2, 32, Arm((20, 66), (24, 98), (15, 85), "flat", -58),
                      Arm((20, 66), (24, 98), (15, 85), "flat", -58), (3.0, 2.0, 0.7)),
    }
)  # fmt: skip


def record(draw: Callable[[skia.Canvas], None]) -> skia.Picture:
    """Draws once into a picture that can be replayed without Python."""
    recorder = skia.PictureRecorder()
    draw(recorder.beginRecording(skia.Rect(-300, -300, 400, 400)))
    return recorder.finishRecordingAsPicture()


class Figure:
    """A person's body in one posture. ``skin`` and ``shade`` are the colours of skin and of its outline. ``rng``
    drives what belongs to the clip and not to the person: which side is which, and the phase of the movement."""

    def __init__(self, identity: Identity, body: str, skin: Color, shade: Color, rng: np.random.Generator) -> None:
        if body not in POSES:
            raise ValueError(f"body is {body!r}; it must be one of {tuple(POSES)}")
        self.pose = POSES[body]
        self.identity, self.skin, self.shade = identity, skin, shade
        self.cloth = CLOTHES[identity.clothes % len(CLOTHES)]
        own = np.random.default_rng([identity.seed & 0xFFFFFFFF, 37])
        self.cut = int(own.integers(5))
        build = own.uniform(0.95, 1.03) * (0.95 if identity.sex == "female" else 1.02)
        self.build = build * (0.9 if identity.style == 1 else 1.0)
        self.mirrored = bool(rng.uniform() < 0.5)
        self.phase = float(rng.uniform(0, 2 * math.pi))
        self.torso = record(lambda canvas: self._torso(Pen(canvas, identity.style)))
        self.arms = tuple(
            record(lambda canvas, arm=arm: self._arm(Pen(canvas, identity.style), arm))
            for arm in (self.pose.right, self.pose.left)
        )

    def offset(self, time_s: float) -> float:
        """How far the chest has moved down at a time, in units; the head follows it."""
        _, units, rate_hz = self.pose.sway
        return units * 0.5 * math.sin(2 * math.pi * min(rate_hz, 0.7) * time_s + self.phase)

    def draw_torso(self, canvas: skia.Canvas, time_s: float) -> None:
        canvas.save()
        self._place(canvas)
        canvas.translate(0, self.offset(time_s))
        canvas.drawPicture(self.torso)
        canvas.restore()

    def draw_arms(self, canvas: skia.Canvas, time_s: float) -> None:
        """Both arms, over torso and head; the one that the pose calls left lies on top."""
        degrees, units, rate_hz = self.pose.sway
        for index, (picture, arm) in enumerate(zip(self.arms, (self.pose.right, self.pose.left), strict=True)):
            wave = math.sin(2 * math.pi * rate_hz * time_s + self.phase + 0.6 * index)
            canvas.save()
            self._place(canvas)
            canvas.translate(0, self.offset(time_s) + 0.5 * units * wave)
            if index == 0:
                canvas.translate(100, 0)
                canvas.scale(-1, 1)
            canvas.rotate(degrees * wave, *arm.shoulder)
            canvas.drawPicture(picture)
            canvas.restore()

    def _place(self, canvas: skia.Canvas) -> None:
        """Build, and for half of the people left and right exchanged."""
        canvas.translate(50, 0)
        canvas.scale(-self.build if self.mirrored else self.build, 1)
        canvas.translate(-50, 0)

    @property
    def line(self) -> float:
        return 1.0 if self.identity.style == 1 else 0.5

    def _torso(self, pen: Pen) -> None:
        pose, cloth = self.pose, self.cloth
        top, side = pose.shoulder_y, pose.half_width
        left, right = 50 - side, 50 + side
        if self.identity.style == 1:  # straight cuts instead of round shoulders
            shape = path(
                (41, top - 3),
                (left + 3, top + pose.slope),
                (left - 1, 130),
                (right + 1, 130),
                (right - 3, top + pose.slope),
                (59, top - 3),
                close=True,
            )
        else:
            low = top + pose.slope
            shape = path(
                (41, top - 3),
                (40, top, 50 - side * 0.55, top + 0.3 * pose.slope),
                (left + 1, low, left, low + 14),
                (left, 130),
                (right, 130),
                (right, low + 14),
                (right - 1, low, 50 + side * 0.55, top + 0.3 * pose.slope),
                (60, top, 59, top - 3),
                close=True,
            )
        pen.fill(shape, cloth, line=self.line)
        pen.canvas.save()
        pen.canvas.clipPath(shape, True)
        dark, light = mix(cloth, (0, 0, 0), 0.3), mix(cloth, (255, 255, 255), 0.55)
        if self.cut == 1:  # stripes
            for y in np.arange(top + 8, 130, 7.0):
                pen.line((0, float(y)), (100, float(y)), color=light, width=2.2)
        elif self.cut == 2:  # jacket over a shirt
            pen.poly([(40, top - 4), (60, top - 4), (50, top + 28)], (242, 240, 236))
            pen.line((40, top - 4), (50, top + 28), color=dark, width=2.6)
            pen.line((60, top - 4), (50, top + 28), color=dark, width=2.6)
            pen.line((50, top + 28), (50, 130), color=dark, width=1)
        elif self.cut == 3:  # buttons
            pen.line((50, top), (50, 130), color=dark, width=0.9)
            for y in np.arange(top + 8, 130, 7.0):
                pen.oval(51.8, float(y), 0.9, 0.9, light, line=0.0)
        elif self.cut == 4:  # hood strings
            pen.line((46, top), (45, top + 14), color=light, width=1.1)
            pen.line((54, top), (55, top + 13), color=light, width=1.1)
        if self.identity.style == 1:
            pen.hatch(62, top, 40, 60, step=3.0, alpha=0.35)
        pen.canvas.restore()
        neckline = path((40.5, top - 4), (42, top + 7, 50, top + 8), (58, top + 7, 59.5, top - 4), close=True)
        if self.cut in (0, 1, 4):
            pen.fill(neckline, self.skin, toned=True)
            pen.stroke(path((40.5, top - 4), (42, top + 7, 50, top + 8), (58, top + 7, 59.5, top - 4)), dark, 1.6)
        elif self.cut == 3:
            pen.poly([(42, top - 4), (50, top + 6), (58, top - 4)], self.skin, toned=True)
            pen.poly([(41, top - 5), (50, top + 6), (42, top + 8), (37, top)], light, line=0.5)
            pen.poly([(59, top - 5), (50, top + 6), (58, top + 8), (63, top)], light, line=0.5)

    def _arm(self, pen: Pen, arm: Arm) -> None:
        """A sleeve from shoulder over elbow to wrist, outlined so that it stands off the torso, and the hand."""
        sleeve = mix(self.cloth, (255, 255, 255) if sum(self.cloth) < 250 else (0, 0, 0), 0.15)
        outline = INK if pen.style == 1 else mix(self.cloth, (0, 0, 0), 0.45)
        if sum(self.cloth) < 250 and pen.style == 0:
            outline = mix(self.cloth, (255, 255, 255), 0.3)
        upper, width = path(arm.shoulder, arm.elbow, arm.wrist), 12.0
        hand = arm.hand
        if hand == "chin":
            self._hand(pen, arm)
        pen.stroke(upper, outline, width + 2 * self.line, toned=pen.style == 1)
        pen.stroke(upper, sleeve, width)
        if pen.style == 0:
            pen.stroke(path(arm.shoulder, arm.elbow), self.cloth, width - 2, 0.5)
        if hand not in ("none", "chin"):
            self._hand(pen, arm)

    def _hand(self, pen: Pen, arm: Arm) -> None:
        canvas, skin, shade = pen.canvas, self.skin, self.shade
        if arm.hand in ("open", "flat") and sum(skin) < 330:
            skin = mix(skin, (226, 168, 138), 0.35)  # palms are lighter than the rest of dark skin
        edge = INK if pen.style == 1 else shade
        canvas.save()
        canvas.translate(*arm.wrist)
        canvas.rotate(arm.angle)
        canvas.scale(1.1, 1.1)

        def fingers(tips: list[tuple[float, float, float, float]], width: float) -> None:
            for color, grow in ((edge, 1.2), (skin, 0.0)):
                for x, y, tip_x, tip_y in tips:
                    pen.stroke(path((x, y), (tip_x, tip_y)), color, width + grow, toned=True)

        if arm.hand == "open":
            fingers(
                [
                    (-4, -7, -9.5, -17),
                    (-1.5, -8, -3.6, -20),
                    (1.5, -8, 2.4, -20),
                    (4, -7, 8, -17.5),
                    (4.5, -2, 11, -8.5),
                ],
                3.3,
            )
            pen.oval(0, -5, 6.2, 6.8, skin, line=0.0, toned=True)
            pen.stroke(path((-3.5, -5), (0, -7, 3.6, -5.5)), shade, 0.8)
            pen.stroke(path((-2.5, -1.5), (0, -5, 3, -4)), shade, 0.8)
        elif arm.hand == "flat":
            fingers([(0, -8, -3, -17.5), (1, -8, 1.5, -18.5), (2, -7, 5, -17), (3, -4, 9, -11)], 3.2)
            pen.oval(0, -4, 4.8, 6.4, skin, line=0.0, toned=True)
            pen.stroke(path((-1, -8), (1, -4, 0, 0)), shade, 0.7)
        elif arm.hand == "fist":  # seen from the front: four folded fingers, the thumb across them
            for grow, color in ((0.9, edge), (0.0, skin)):
                pen.box(-8 - grow, -13 - grow, 16 + 2 * grow, 15 + 2 * grow, color, r=4.5, line=0.0, toned=True)
            for x in (-4, 0, 4):
                pen.stroke(path((x, -12.5), (x, -4.5)), edge, 0.9, toned=True)
            pen.stroke(path((-7.6, -1.6), (-2, -4.6), (4, -3.2)), edge, 4.2, toned=True)
            pen.stroke(path((-7.6, -1.6), (-2, -4.6), (4, -3.2)), skin, 2.8, toned=True)
        elif arm.hand == "chin":
            fingers([(0, -8, -4.5, -22)], 3.6)
            pen.box(-5, -15, 14, 15, skin, r=5.5, line=0.0)
            shape = skia.Path()
            shape.addRoundRect(skia.Rect.MakeXYWH(-5, -15, 14, 15), 5.5, 5.5)
            pen.stroke(shape, edge, 0.9, toned=True)
            for y in (-11.5, -8, -4.5):
                pen.line((1, y), (8, y), color=shade, width=0.9)
        elif arm.hand == "rest":
            fingers([(-3, -4, -3.2, -11), (-1, -4, -1, -12), (1.2, -4, 1.2, -12), (3.2, -4, 3.4, -11)], 2.5)
            pen.oval(0, -2.5, 4.6, 5, skin, line=0.0, toned=True)
        canvas.restore()
