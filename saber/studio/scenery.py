"""The eight places a clip can be in, drawn behind the person, and the pen that everything is drawn with.

``paint(canvas, scene, rng, style)`` draws one place into the square 0..100 (a little beyond, so that the camera may
shift). What names a place stands to the left and right, since the person covers the middle. Style 0 is soft and
flat; style 1 is ink on paper: few muted colours, dark outlines, hatching. To add a place: one function and one line
in ``SCENES``, its name in ``world.ATTRIBUTES``, its wording in ``phrases.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import skia

Color = tuple[float, float, float]
INK: Color = (38, 34, 58)
PAPER: Color = (243, 232, 210)


def mix(a: Color, b: Color, share: float) -> Color:
    """``a`` with ``share`` (0..1) of ``b`` in it; RGB 0..255."""
    return tuple(x + (y - x) * share for x, y in zip(a, b, strict=True))


def rgb(color: Color, alpha: float = 1.0) -> int:
    """A skia colour from RGB 0..255 and an opacity 0..1."""
    r, g, b = (int(min(255, max(0, round(value)))) for value in color)
    return skia.ColorSetARGB(round(255 * alpha), r, g, b)


def path(*segments: Sequence[float], close: bool = False) -> skia.Path:
    """A path: the first segment is the start; then 2 numbers are a line, 4 a quadratic, 6 a cubic curve."""
    result = skia.Path()
    result.moveTo(*segments[0])
    for segment in segments[1:]:
        (result.lineTo if len(segment) == 2 else result.quadTo if len(segment) == 4 else result.cubicTo)(*segment)
    if close:
        result.close()
    return result


class Pen:
    """Draws filled and stroked shapes on a canvas in one of the two styles."""

    def __init__(self, canvas: skia.Canvas, style: int) -> None:
        self.canvas, self.style = canvas, style

    def tone(self, color: Color) -> Color:
        """The colour as this style prints it: as it is, or reduced to a few muted tones on paper."""
        if self.style == 0:
            return color
        grey = sum(color) / 3
        vivid = tuple(min(255, max(0, grey + (value - grey) * 1.35)) for value in color)
        stepped = tuple(round(value / 42.5) * 42.5 for value in vivid)
        return mix(stepped, PAPER, 0.3)

    def fill(
        self, shape: skia.Path, color: Color, alpha: float = 1.0, line: float | None = None, toned: bool = False
    ) -> None:
        """A filled path. ``line``: width of the outline, in units; by default none in style 0, thin in style 1.
        ``toned``: the colour is this style's already."""
        color = color if toned else self.tone(color)
        self.canvas.drawPath(shape, skia.Paint(Color=rgb(color, alpha), AntiAlias=True))
        if line is None:
            line = 0.55 if self.style == 1 and alpha > 0.7 else 0.0
        if line:
            self.stroke(shape, INK if self.style == 1 else mix(color, (0, 0, 0), 0.3), line, toned=True)

    def stroke(self, shape: skia.Path, color: Color, width: float, alpha: float = 1.0, *, toned: bool = False) -> None:
        """A line along a path, with round ends."""
        self.canvas.drawPath(
            shape,
            skia.Paint(
                Color=rgb(color if toned else self.tone(color), alpha),
                AntiAlias=True,
                Style=skia.Paint.kStroke_Style,
                StrokeWidth=width,
                StrokeCap=skia.Paint.kRound_Cap,
                StrokeJoin=skia.Paint.kRound_Join,
            ),
        )

    def box(self, x: float, y: float, w: float, h: float, color: Color, r: float = 0.0, **more: float) -> None:
        shape = skia.Path()
        shape.addRoundRect(skia.Rect.MakeXYWH(x, y, w, h), r, r)
        self.fill(shape, color, **more)

    def oval(self, x: float, y: float, rx: float, ry: float, color: Color, **more: float) -> None:
        shape = skia.Path()
        shape.addOval(skia.Rect(x - rx, y - ry, x + rx, y + ry))
        self.fill(shape, color, **more)

    def poly(self, points: Sequence[Sequence[float]], color: Color, **more: float) -> None:
        self.fill(path(*points, close=True), color, **more)

    def line(self, *points: Sequence[float], color: Color, width: float = 0.8, alpha: float = 1.0) -> None:
        self.stroke(path(*points), color, width, alpha)

    def glow(self, x: float, y: float, r: float, color: Color, alpha: float = 0.5) -> None:
        """Soft light; style 1, which knows no soft edges, draws rays instead."""
        if self.style == 1:
            for angle in np.linspace(0, 2 * np.pi, 10, endpoint=False):
                c, s = np.cos(angle), np.sin(angle)
                self.line((x + 0.5 * r * c, y + 0.5 * r * s), (x + 0.8 * r * c, y + 0.8 * r * s), color=INK, width=0.5)
            return
        shader = skia.GradientShader.MakeRadial((x, y), r, [rgb(color, alpha), rgb(color, 0.0)])
        self.canvas.drawCircle(x, y, r, skia.Paint(Shader=shader, AntiAlias=True))

    def hatch(self, x: float, y: float, w: float, h: float, step: float = 3.0, alpha: float = 0.25) -> None:
        """Slanted ink lines over a box (style 1 only)."""
        if self.style == 0:
            return
        self.canvas.save()
        self.canvas.clipRect(skia.Rect.MakeXYWH(x, y, w, h))
        for start in np.arange(x - h, x + w, step):
            self.stroke(path((start, y + h), (start + h, y)), INK, 0.35, alpha, toned=True)
        self.canvas.restore()


def _pick(rng: np.random.Generator, options: Sequence[Color]) -> Color:
    return options[int(rng.integers(len(options)))]


def _floor(pen: Pen, y: float, color: Color) -> None:
    pen.box(-20, y, 140, 140 - y, color)


def _kitchen(pen: Pen, rng: np.random.Generator) -> None:
    wall = _pick(rng, [(250, 238, 190), (252, 230, 200), (240, 242, 205)])
    wood = _pick(rng, [(196, 122, 60), (170, 96, 50), (214, 148, 84)])
    pen.box(-20, -20, 140, 140, wall)
    for x in range(-20, 121, 8):  # tiles
        pen.line((x, 26), (x, 64), color=(222, 200, 150), width=0.6)
    for y in range(26, 65, 8):
        pen.line((-20, y), (120, y), color=(222, 200, 150), width=0.6)
    for x in (-14, 4, 21):  # wall cupboards
        pen.box(x, -20, 16, 40, wood, r=1, line=0.6)
        pen.oval(x + 13, 13, 0.9, 0.9, (60, 40, 30))
    if rng.uniform() < 0.5:  # extractor hood
        pen.poly([(40, -10), (60, -10), (66, 14), (34, 14)], (170, 176, 180), line=0.5)
    fridge = _pick(rng, [(232, 238, 242), (200, 208, 214), (190, 224, 214)])
    pen.box(75, 4, 30, 120, fridge, r=3, line=0.8)
    pen.line((75, 34), (105, 34), color=(120, 130, 140), width=1.2)
    pen.line((79, 16), (79, 28), color=(100, 110, 120), width=1.8)
    pen.line((79, 40), (79, 58), color=(100, 110, 120), width=1.8)
    pen.box(88, 12, 6, 7, (230, 80, 70))
    pen.box(-20, 64, 95, 5, (120, 84, 60))  # counter and stove
    pen.box(-20, 69, 95, 60, wood, line=0.5)
    pen.box(-2, 72, 24, 30, (70, 74, 80), r=2)
    pen.box(2, 78, 16, 12, (250, 150, 60), r=1)
    pot = _pick(rng, [(200, 60, 50), (60, 110, 170), (90, 95, 100)])
    pen.box(4, 51, 18, 13, pot, r=2, line=0.7)
    pen.line((1, 55), (25, 55), color=mix(pot, (0, 0, 0), 0.4), width=1.8)
    pen.oval(13, 50, 8, 1.6, mix(pot, (255, 255, 255), 0.3))
    for x in (9, 13, 17):
        pen.stroke(path((x, 46), (x + 3, 42, x, 38), (x - 3, 34, x, 30)), (255, 255, 255), 1.2, 0.8)
    for index in range(2 + int(rng.integers(2))):  # hanging spoons
        pen.line((28 + 4 * index, 24), (28 + 4 * index, 36), color=(90, 80, 80), width=1)
        pen.oval(28 + 4 * index, 38, 1.6, 2.4, (90, 80, 80))


def _office(pen: Pen, rng: np.random.Generator) -> None:
    wall = _pick(rng, [(176, 194, 212), (190, 200, 208), (160, 184, 208)])
    pen.box(-20, -20, 140, 140, wall)
    pen.box(66, -2, 44, 50, (226, 240, 252), line=0.6)  # window with blinds
    for y in np.arange(0, 46, 4.2):
        pen.box(66, y, 44, 2.0, (118, 138, 160))
    pen.box(-16, 4, 42, 22, (240, 240, 236), line=0.7)  # planning board
    for index in range(4):
        height = float(rng.uniform(4, 15))
        pen.box(-2 + 6 * index, 23 - height, 4, height, _pick(rng, [(60, 120, 200), (230, 120, 60), (60, 160, 110)]))
    pen.box(-20, 74, 140, 5, (96, 74, 62))  # desk
    pen.box(-20, 79, 140, 50, (74, 78, 92))
    pen.box(-4, 40, 32, 24, (34, 38, 46), r=1.5)  # monitor
    pen.box(-2, 42, 28, 20, _pick(rng, [(70, 150, 230), (90, 190, 220), (80, 120, 210)]))
    for y in (46, 50, 54, 58):
        pen.line((1, y), (1 + float(rng.uniform(8, 20)), y), color=(235, 245, 255), width=1.2)
    pen.box(9, 64, 6, 8, (34, 38, 46))
    pen.box(4, 72, 16, 2.4, (34, 38, 46))
    if rng.uniform() < 0.5:  # desk lamp or binders
        pen.line((92, 74), (84, 60), (94, 52), color=(40, 44, 52), width=1.8)
        pen.poly([(90, 48), (99, 52), (92, 60), (86, 55)], (230, 190, 60))
    else:
        for index in range(5):
            pen.box(78 + 5 * index, 54, 4.4, 20, _pick(rng, [(40, 70, 130), (160, 50, 50), (50, 110, 80)]), line=0.4)


def _tree(pen: Pen, x: float, y: float, size: float, leaf: Color) -> None:
    pen.poly(
        [(x - 2 * size, y), (x - 1.2 * size, y - 22 * size), (x + 1.2 * size, y - 22 * size), (x + 2 * size, y)],
        (112, 76, 48),
    )
    for dx, dy, r in ((-7, -24, 8), (7, -25, 8), (0, -33, 10), (0, -24, 9)):
        pen.oval(x + dx * size, y + dy * size, r * size, r * size, mix(leaf, (255, 255, 190), 0.01 * (-dy - 20)))


def _park(pen: Pen, rng: np.random.Generator) -> None:
    sky = _pick(rng, [(134, 200, 246), (160, 214, 248), (120, 188, 240)])
    pen.box(-20, -20, 140, 90, sky)
    pen.oval(float(rng.uniform(2, 98)), 6, 5, 5, (255, 236, 130))
    for _ in range(3):
        x, y = float(rng.uniform(-5, 105)), float(rng.uniform(2, 20))
        for dx in (-5, 0, 5):
            pen.oval(x + dx, y, 5, 3, (252, 254, 255), line=0.0)
    leaf = _pick(rng, [(60, 150, 66), (84, 162, 60), (46, 136, 80)])
    pen.oval(10, 66, 50, 16, mix(leaf, (190, 220, 120), 0.4))
    pen.oval(95, 66, 55, 18, mix(leaf, (190, 220, 120), 0.3))
    _floor(pen, 60, (124, 196, 88))
    pen.poly([(66, 60), (72, 60), (130, 110), (70, 120)], (226, 204, 150))
    _tree(pen, 9, 72, float(rng.uniform(1.15, 1.5)), leaf)
    _tree(pen, 92, 66, float(rng.uniform(0.95, 1.3)), mix(leaf, (30, 90, 40), 0.3))
    pen.box(-4, 74, 26, 2.6, (150, 92, 46))  # bench
    pen.box(-4, 80, 26, 3, (150, 92, 46))
    pen.box(1, 83, 2, 9, (60, 60, 60))
    pen.box(17, 83, 2, 9, (60, 60, 60))
    for _ in range(9):
        x, y = float(rng.uniform(72, 100)), float(rng.uniform(76, 98))
        pen.oval(x, y, 1.3, 1.3, _pick(rng, [(240, 80, 90), (250, 230, 80), (250, 250, 250)]), line=0.0)


def _street(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-20, -20, 140, 100, _pick(rng, [(206, 214, 226), (228, 206, 190), (186, 198, 220)]))
    colors = [(176, 96, 80), (140, 130, 140), (198, 150, 110), (110, 118, 136)]
    for x, w, top in ((-18, 22, -12), (4, 24, float(rng.uniform(-2, 12))), (30, 40, 16), (68, 18, 2), (86, 28, -14)):
        color = _pick(rng, colors)
        pen.box(x, top, w, 90, color, line=0.6)
        for wx in np.arange(x + 3, x + w - 4, 7):
            for wy in np.arange(top + 5, 54, 9):
                lit = rng.uniform() < 0.45
                pen.box(float(wx), float(wy), 4, 5.5, (255, 226, 130) if lit else mix(color, (30, 36, 60), 0.65))
    pen.box(-20, 64, 140, 5, (176, 172, 168))  # pavement and road
    _floor(pen, 69, (78, 80, 88))
    for x in range(-16, 120, 16):
        pen.box(x, 86, 9, 2, (240, 236, 220))
    lamp = float(rng.uniform(92, 96))  # traffic light
    pen.box(lamp, 20, 2.2, 60, (44, 46, 52))
    pen.box(lamp - 3.5, 12, 9, 24, (36, 38, 44), r=2)
    for y, color in ((16.5, (236, 60, 50)), (24, (250, 196, 50)), (31.5, (70, 210, 100))):
        pen.oval(lamp + 1, y, 2.7, 2.7, color)
    car = _pick(rng, [(206, 44, 44), (44, 104, 196), (242, 190, 40)])
    pen.poly([(0, 63), (5, 55), (19, 55), (25, 63)], mix(car, (200, 230, 250), 0.55), line=0.6)
    pen.box(-8, 62, 38, 11, car, r=3, line=0.6)
    for x in (0, 22):
        pen.oval(x, 73, 4, 4, (26, 26, 30))
        pen.oval(x, 73, 1.7, 1.7, (190, 190, 196))


def _bedroom(pen: Pen, rng: np.random.Generator) -> None:
    wall = _pick(rng, [(196, 170, 216), (214, 178, 206), (176, 166, 212)])
    pen.box(-20, -20, 140, 140, wall)
    for x in range(-18, 120, 12):
        pen.box(x, -20, 4, 100, mix(wall, (255, 255, 255), 0.18), line=0.0)
    curtain = _pick(rng, [(122, 66, 120), (92, 70, 150), (160, 74, 104)])
    pen.box(-8, 0, 30, 36, (40, 50, 96), line=0.8)  # night window
    pen.oval(7, 12, 4, 4, (252, 244, 200))
    pen.oval(9, 11, 3.4, 3.6, (40, 50, 96), line=0.0)
    pen.poly([(-14, -4), (1, -4), (-3, 20), (-4, 42), (-14, 42)], curtain, line=0.6)
    pen.poly([(28, -4), (17, -4), (20, 20), (19, 42), (28, 42)], curtain, line=0.6)
    pen.box(6, 66, 18, 34, (128, 82, 56), line=0.6)  # bedside table and lamp
    pen.glow(14, 54, 20, (255, 226, 140), 0.75)
    pen.box(13, 56, 2, 10, (90, 70, 60))
    pen.poly([(10, 46), (18, 46), (21, 57), (7, 57)], (255, 226, 140), line=0.5)
    wood = _pick(rng, [(120, 74, 48), (92, 60, 52), (150, 104, 70)])
    pen.box(66, 36, 60, 60, wood, r=6, line=0.8)  # headboard, pillow, blanket
    pen.box(70, 52, 40, 18, (250, 248, 246), r=6, line=0.6)
    blanket = _pick(rng, [(86, 110, 190), (200, 96, 120), (90, 160, 160)])
    pen.box(60, 68, 70, 50, blanket, r=5, line=0.6)
    pen.box(60, 68, 70, 6, mix(blanket, (255, 255, 255), 0.6), r=3)
    if rng.uniform() < 0.6:
        pen.box(80, 8, 16, 18, (240, 224, 190), line=1.0)
        pen.oval(88, 17, 4, 5, _pick(rng, [(220, 120, 100), (100, 150, 130)]))


def _classroom(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-20, -20, 140, 140, _pick(rng, [(238, 224, 190), (230, 222, 204), (240, 216, 180)]))
    board = _pick(rng, [(34, 92, 68), (30, 80, 72), (44, 98, 56)])
    pen.box(-10, -4, 120, 56, (150, 100, 56), line=0.6)
    pen.box(-7, -1, 114, 50, board)
    chalk = (236, 244, 236)
    for y in (6, 13, 20, 27):  # writing on the left, a sum or a drawing on the right
        x = -4.0
        while x < 20 + float(rng.uniform(0, 4)):
            step = float(rng.uniform(2, 6))
            pen.stroke(
                path((x, y), (x + step / 4, y - 3, x + step / 2, y), (x + 3 * step / 4, y + 2, x + step, y)), chalk, 1.0
            )
            x += step + 1.6
    if rng.uniform() < 0.5:
        pen.line((76, 34), (98, 34), (84, 8), (76, 34), color=chalk, width=1.3)
    else:
        pen.line((76, 8), (76, 36), (104, 36), color=chalk, width=1.3)
        pen.stroke(path((76, 34), (88, 34, 90, 20), (92, 8, 102, 10)), (250, 220, 120), 1.5)
    pen.box(8, 49, 24, 1.6, (240, 240, 240))
    _floor(pen, 84, (190, 150, 106))
    desk = (212, 160, 98)  # desks, books, a globe
    for x in (-10, 76):
        pen.box(x, 70, 32, 4.5, desk, line=0.6)
        pen.box(x + 3, 74, 3, 26, (90, 96, 104))
        pen.box(x + 26, 74, 3, 26, (90, 96, 104))
    for index in range(3):
        cover = _pick(rng, [(200, 60, 60), (60, 90, 180), (236, 180, 60)])
        pen.box(0, 66 - 4 * index, 16 - 2 * index, 4, cover, line=0.4)
    pen.oval(91, 61, 6, 6, (70, 140, 220), line=0.6)
    pen.oval(89, 59, 2.6, 2, (90, 180, 90), line=0.0)
    pen.oval(93, 63, 2, 2.4, (90, 180, 90), line=0.0)
    pen.box(90, 67, 2, 3, (110, 80, 50))


def _cafe(pen: Pen, rng: np.random.Generator) -> None:
    brick = _pick(rng, [(134, 66, 48), (120, 62, 54), (146, 80, 54)])
    pen.box(-20, -20, 140, 140, mix(brick, (60, 36, 30), 0.35))
    for row, y in enumerate(np.arange(-20, 74, 6.0)):
        for x in np.arange(-26 + (row % 2) * 6, 120, 12.0):
            pen.box(float(x), float(y), 11, 5, mix(brick, (230, 150, 110), float(rng.uniform(0, 0.2))), line=0.0)
    pen.box(-8, 10, 32, 28, (34, 34, 36), line=1.0)  # menu board
    pen.oval(8, 16, 4, 2.4, (240, 240, 230), line=0.0)
    for y in (22, 27, 32):
        pen.line((-4, y), (6 + float(rng.uniform(0, 4)), y), color=(236, 232, 220), width=1.2)
        pen.line((15, y), (19, y), color=(250, 210, 110), width=1.2)
    for y in (32, 52):  # shelves with bottles and cups
        pen.box(72, y, 40, 2.4, (214, 160, 96))
        for x in np.arange(74, 108, 7.0):
            if rng.uniform() < 0.5:
                color = _pick(rng, [(60, 130, 80), (190, 120, 40), (220, 220, 210)])
                pen.box(float(x), y - 9, 4, 9, color, r=1)
                pen.box(float(x) + 1.2, y - 13, 1.6, 5, color)
            else:
                pen.box(float(x), y - 5, 5, 5, (250, 246, 236), r=1)
    for x in (float(rng.uniform(14, 22)), float(rng.uniform(78, 86))):  # hanging lamps
        pen.line((x, -20), (x, 0), color=(20, 20, 20), width=0.8)
        pen.glow(x, 7, 17, (255, 206, 110), 0.85)
        pen.poly([(x - 2, -2), (x + 2, -2), (x + 7, 6), (x - 7, 6)], (30, 30, 34))
        pen.oval(x, 7, 3, 2, (255, 244, 190), line=0.0)
    _floor(pen, 74, (72, 46, 36))
    pen.oval(9, 78, 20, 4, (226, 186, 130), line=0.6)  # table with a cup
    pen.box(8, 80, 3, 30, (40, 36, 36))
    cup = _pick(rng, [(250, 250, 246), (230, 110, 80), (90, 170, 190)])
    pen.box(4, 68, 10, 9, cup, r=2.4, line=0.5)
    pen.stroke(path((14, 70), (18, 70, 17, 74), (16, 76, 13, 75)), cup, 1.4)
    pen.stroke(path((9, 65), (11, 62, 9, 60), (7, 58, 9, 55)), (255, 255, 255), 1.0, 0.7)


def _hospital(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-20, -20, 140, 140, _pick(rng, [(226, 244, 240), (232, 244, 250), (236, 246, 236)]))
    pen.box(-20, 60, 140, 3, (120, 196, 190))
    _floor(pen, 86, (186, 206, 210))
    pen.line((-20, 4), (120, 4), color=(140, 150, 156), width=1.4)  # curtain
    curtain = _pick(rng, [(130, 208, 196), (140, 196, 224), (156, 214, 176)])
    for index, x in enumerate(np.arange(70, 104, 5.0)):
        pen.box(float(x), 4, 5, 90, mix(curtain, (255, 255, 255), 0.3 * (index % 2)), line=0.3)
    pen.box(80, 12, 14, 14, (252, 252, 252), r=1, line=0.5)  # red cross
    pen.box(85, 14, 4, 10, (226, 40, 46), line=0.0)
    pen.box(82, 17, 10, 4, (226, 40, 46), line=0.0)
    stand = float(rng.uniform(3, 7))  # drip
    pen.box(stand, 8, 1.6, 90, (130, 138, 146))
    pen.line((stand - 4, 9), (stand + 7, 9), color=(130, 138, 146), width=1.4)
    pen.box(stand + 3.5, 11, 8, 14, _pick(rng, [(180, 226, 250), (246, 226, 150), (246, 190, 190)]), r=2, line=0.6)
    pen.stroke(path((stand + 7.5, 25), (stand + 9, 44, stand + 3, 60)), (120, 160, 190), 0.8)
    pen.box(10, 34, 17, 14, (44, 52, 58), r=1.5)  # monitor
    pen.box(11.5, 35.5, 14, 11, (12, 26, 24))
    pen.line((12, 42), (15, 42), (16.5, 37), (18.5, 46), (20, 42), (25, 42), color=(80, 250, 120), width=1.1)
    pen.box(17, 48, 2, 20, (130, 138, 146))
    pen.box(-20, 68, 46, 4, (150, 160, 168))  # bed
    pen.box(-20, 60, 40, 9, (250, 252, 254), r=3, line=0.5)
    pen.box(-20, 72, 44, 16, _pick(rng, [(150, 206, 220), (170, 214, 190)]), line=0.5)


SCENES: Mapping[str, Callable[[Pen, np.random.Generator], None]] = MappingProxyType(
    {
        "kitchen": _kitchen,
        "office": _office,
        "park": _park,
        "street": _street,
        "bedroom": _bedroom,
        "classroom": _classroom,
        "cafe": _cafe,
        "hospital": _hospital,
    }
)


def paint(canvas: skia.Canvas, scene: str, rng: np.random.Generator, style: int) -> None:
    """Draws a place into 0..100 of the canvas, with objects, colours, camera and light varied by ``rng``.

    Raises ValueError for an unknown scene.
    """
    if scene not in SCENES:
        raise ValueError(f"scene is {scene!r}; it must be one of {tuple(SCENES)}")
    pen = Pen(canvas, style)
    canvas.save()
    zoom = float(rng.uniform(1.0, 1.1))
    canvas.translate(50 + float(rng.uniform(-4, 4)), 50 + float(rng.uniform(-3, 3)))
    canvas.scale(zoom, zoom)
    canvas.translate(-50, -50)
    SCENES[scene](pen, rng)
    canvas.restore()
    side = 0 if rng.uniform() < 0.5 else 100  # light falls in from one side
    if style == 0:
        shader = skia.GradientShader.MakeLinear(
            [(side, 20), (100 - side, 70)], [rgb((255, 250, 235), 0.22), rgb((20, 20, 50), 0.26)]
        )
        canvas.drawRect(skia.Rect(0, 0, 100, 100), skia.Paint(Shader=shader))
    else:
        pen.hatch(55 if side == 0 else -5, -5, 50, 110, step=4.0, alpha=0.22)
