"""What a face does over time: FACS action units, gaze, blinks, head movement, micro-expressions.

A ``world.Performance`` goes in, a ``Motion`` (curves sampled at the clip's frame rate) comes out; ``draw.py`` draws
it. The prototypes in ``KINDS`` follow Ekman, Friesen & Hager, Facial Action Coding System (2002), Investigator's
Guide; where several variants exist we chose the one that reads best in a small picture. To add an expression: one
line in ``KINDS``; to add an action unit: its name in ``ACTION_UNITS`` and its drawing in ``draw.py``.
Imports numpy only; deterministic from ``performance.seed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from saber.studio.world import Performance

#: Names, in the order of the columns of ``Motion.aus``. L is the person's left side (right in the picture).
#: AU43 stands for eye closure of any length, so it also carries blinks (AU45 in FACS).
ACTION_UNITS: tuple[str, ...] = (
    "AU1",  # inner brow raiser
    "AU2",  # outer brow raiser
    "AU2L",  # the same on one side
    "AU4",  # brow lowerer
    "AU5",  # upper lid raiser
    "AU6",  # cheek raiser
    "AU7",  # lid tightener
    "AU9",  # nose wrinkler
    "AU10",  # upper lip raiser
    "AU12",  # lip corner puller
    "AU12L",
    "AU14L",  # dimpler
    "AU15",  # lip corner depressor
    "AU16",  # lower lip depressor
    "AU17",  # chin raiser
    "AU20",  # lip stretcher
    "AU23",  # lip tightener
    "AU24",  # lip pressor
    "AU25",  # lips part
    "AU26",  # jaw drop
    "AU43",  # eyes closed
)
AU_INDEX: Mapping[str, int] = MappingProxyType({name: index for index, name in enumerate(ACTION_UNITS)})

#: Face kind -> apex intensity (0..1) of each action unit. A genuine smile is AU6+AU12, a polite one AU12 alone.
#: Ours: the faint AU2L and AU43 in contempt (a raised brow over a half-closed eye), AU43 in sadness (heavy lids).
KINDS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "joy": {"AU6": 1.0, "AU12": 1.0, "AU25": 0.7},
        "polite": {"AU12": 1.0},
        "sadness": {"AU1": 1.0, "AU4": 0.5, "AU15": 1.0, "AU17": 0.6, "AU43": 0.3},
        "anger": {"AU4": 1.0, "AU5": 0.5, "AU7": 0.5, "AU23": 0.9, "AU24": 0.8},
        "fear": {"AU1": 1.0, "AU2": 0.6, "AU4": 0.5, "AU5": 1.0, "AU20": 1.0, "AU25": 0.8, "AU26": 0.25},
        "surprise": {"AU1": 1.0, "AU2": 1.0, "AU5": 0.8, "AU25": 0.8, "AU26": 1.0},
        "disgust": {"AU4": 0.5, "AU7": 0.6, "AU9": 1.0, "AU10": 1.0, "AU15": 0.3, "AU17": 0.6, "AU25": 0.3},
        "contempt": {"AU2L": 0.5, "AU12L": 1.0, "AU14L": 1.0, "AU43": 0.2},
        "neutral": {},
    }
)

#: Length of a micro-expression, from the first visible trace to the last. Ekman puts the limit at half a second.
MICRO_S = (0.4, 0.5)
#: Where each gaze rests, (x, y) as a share of the eye's travel: x to the right of the picture, y downwards.
GAZES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"direct": (0.0, 0.0), "down": (0.0, 1.0), "aside": (1.0, 0.0)}
)

_ONSET_S, _OFFSET_S, _REST = 0.32, 0.25, 0.15  # rise, fall, and the share of the apex that is left at the end
_BLINK_S = 0.22


@dataclass(frozen=True)
class Motion:
    """A performance sampled at ``fps`` frames a second, T frames.

    ``aus``: (T, len(ACTION_UNITS)) float32, intensities 0..1. ``gaze``: (T, 2) float32, share of the eye's travel
    (x to the right of the picture, y downwards). ``head``: (T, 3) float32, degrees of yaw (positive: to the right of
    the picture), pitch (positive: down) and roll (positive: clockwise in the picture).
    """

    aus: np.ndarray
    gaze: np.ndarray
    head: np.ndarray
    fps: float

    def au(self, name: str) -> np.ndarray:
        """The curve of one action unit, (T,). Raises KeyError for a name that is not in ACTION_UNITS."""
        return self.aus[:, AU_INDEX[name]]

    def __len__(self) -> int:
        return len(self.aus)


def intensities(kind: str) -> np.ndarray:
    """The apex of a face kind, (len(ACTION_UNITS),) float32. Raises ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"face is {kind!r}; it must be one of {tuple(KINDS)}")
    vector = np.zeros(len(ACTION_UNITS), np.float32)
    for name, value in KINDS[kind].items():
        vector[AU_INDEX[name]] = value
    return vector


def perform(performance: Performance, duration_s: float, fps: float) -> Motion:
    """The curves of one performance: ``round(duration_s * fps)`` frames, at least one.

    The expression comes on within 0.4 s, holds, and fades in the last quarter of a second; clips under a second are
    scaled down. Raises ValueError for an unknown face, gaze, head or micro value, or a duration or rate not above 0.
    """
    if duration_s <= 0 or fps <= 0:
        raise ValueError(f"duration_s is {duration_s} and fps is {fps}; both must be above 0")
    if performance.gaze not in GAZES:
        raise ValueError(f"gaze is {performance.gaze!r}; it must be one of {tuple(GAZES)}")
    # One stream per purpose, so that a longer clip or another face moves no other channel's timing.
    expression, micro, blink, gaze, head = (
        np.random.default_rng([performance.seed & 0xFFFFFFFF, part]) for part in range(5)
    )
    times_s = np.arange(max(1, round(duration_s * fps))) / fps
    aus = _expression(performance.face, times_s, duration_s, expression)
    closed = _blinks(times_s, performance.blinks_per_min, blink)
    if performance.micro != "none":
        leak = micro_envelope(performance, times_s, duration_s, micro)[:, None]
        # The leak is quick and partial, but it takes over the face: what was shown is held back meanwhile.
        aus = aus * (1 - 0.9 * leak) + intensities(performance.micro) * leak
        closed = closed * (1 - leak[:, 0])  # and no blink hides it
    column = AU_INDEX["AU43"]
    aus[:, column] = np.maximum(aus[:, column], closed)
    return Motion(
        aus=np.clip(aus, 0, 1).astype(np.float32),
        gaze=_gaze(performance.gaze, times_s, gaze),
        head=_head(performance.head, times_s, duration_s, head),
        fps=float(fps),
    )


def micro_envelope(
    performance: Performance, times_s: np.ndarray, duration_s: float, rng: np.random.Generator
) -> np.ndarray:
    """How far the micro-expression shows at each time, 0..1, (T,).

    It lasts 0.4 to 0.5 s and begins between 20 and 75 % of the clip, clear of the onset and offset where the clip is
    long enough; in a shorter clip it sits in the middle.
    """
    length_s = rng.uniform(*MICRO_S)
    first = max(0.2 * duration_s, min(_ONSET_S + 0.15, 0.3 * duration_s))
    last = min(0.75 * duration_s, duration_s - _OFFSET_S - 0.05) - length_s
    place = rng.uniform()
    start_s = first + place * (last - first) if last > first else max(0.0, (duration_s - length_s) / 2)
    edge_s = 0.08
    return np.minimum(_rise(times_s - start_s, edge_s), _rise(start_s + length_s - times_s, edge_s))


def _rise(times_s: np.ndarray, length_s: float) -> np.ndarray:
    """0 before, 1 after, a smooth step in between (zero slope at both ends, as muscles do)."""
    x = np.clip(times_s / max(length_s, 1e-6), 0, 1)
    return x * x * (3 - 2 * x)


def _expression(kind: str, times_s: np.ndarray, duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """Onset, apex, offset of the base face, (T, n_AU). Each unit lags a little and wavers a little by itself."""
    apex = intensities(kind)
    count = len(apex)
    scale = min(1.0, duration_s)
    strength = rng.uniform(0.9, 1.0)
    lag_s = rng.uniform(0, 0.06, count) * scale
    phase, rate_hz = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.3, 0.7, count)
    columns = times_s[:, None]
    onset = _rise(columns - lag_s, _ONSET_S * scale)
    offset = 1 - (1 - _REST) * _rise(columns - (duration_s - _OFFSET_S * scale), _OFFSET_S * scale)
    waver = 1 + 0.05 * np.sin(2 * np.pi * rate_hz * columns + phase)
    return apex * strength * onset * offset * waver


def _blinks(times_s: np.ndarray, per_min: float, rng: np.random.Generator) -> np.ndarray:
    """Eye closure of blinks, (T,): evenly spread with jitter, at ``per_min`` a minute on average."""
    closed = np.zeros(len(times_s))
    if per_min <= 0:
        return closed
    mean_s = 60.0 / per_min
    moment_s = mean_s * rng.uniform(0.1, 1.0)
    while moment_s < times_s[-1] + _BLINK_S:
        # Lids fall faster than they rise.
        falling = _rise(times_s - (moment_s - 0.08), 0.07)
        rising = _rise((moment_s + _BLINK_S - 0.08) - times_s, 0.11)
        closed = np.maximum(closed, np.minimum(falling, rising))
        moment_s += max(2 * _BLINK_S, mean_s * rng.uniform(0.6, 1.4))
    return closed


def _gaze(kind: str, times_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaze at its resting place with small jumps every 0.4 to 1.4 s, (T, 2) float32. Aside picks a side by seed."""
    x, y = GAZES[kind]
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    rest = np.array([x * side, y])
    gaze = np.empty((len(times_s), 2), np.float32)
    target, next_s = rest, 0.0
    for index, time_s in enumerate(times_s):
        if time_s >= next_s:
            target = rest + rng.normal(0, 0.05, 2).clip(-0.1, 0.1)
            next_s = time_s + rng.uniform(0.4, 1.4)
        gaze[index] = target
    return gaze.clip(-1.1, 1.1)


def _head(kind: str, times_s: np.ndarray, duration_s: float, rng: np.random.Generator) -> np.ndarray:
    """Idle sway plus the movement, (T, 3) float32 in degrees: nod and shake swing about 1.6 times a second, tilt is
    held to one side."""
    phase, rate_hz = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.15, 0.35, 3)
    head = np.array([2.0, 1.2, 1.0]) * np.sin(2 * np.pi * rate_hz * times_s[:, None] + phase)
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    swing_hz, start = rng.uniform(1.4, 1.8), rng.uniform(0, 2 * np.pi)
    on = _rise(times_s, min(0.3, duration_s / 4)) * _rise(duration_s - times_s, min(0.3, duration_s / 4))
    if kind == "nod":
        head[:, 1] += 13.0 * on * np.sin(2 * np.pi * swing_hz * times_s + start)
    elif kind == "shake":
        head[:, 0] += 24.0 * on * np.sin(2 * np.pi * swing_hz * times_s + start)
    elif kind == "tilt":
        head[:, 2] += side * 15.0 * _rise(times_s, min(0.4, duration_s / 3))
    elif kind != "still":
        raise ValueError(f"head is {kind!r}; it must be still, nod, shake or tilt")
    return head.astype(np.float32)
