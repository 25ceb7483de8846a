"""What a clip shows and sounds like, measured and not said by the model: so that a reader can check the words.

Goes in: a decoded clip. Comes out: ``Signals`` (``measure``), and figures for the page and the report: the frames that
the model saw (``frame_strip``), and waveform, pitch and loudness over time (``draw``). Pitch and loudness are Praat's
(Boersma 1993, autocorrelation), by way of Parselmouth.
"""

from __future__ import annotations

import base64
import html
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from saber.media import Decoded
from saber.page.texts import say

#: Praat's range for voices: lowest and highest pitch (Hz), and the step between measurements (seconds).
PITCH_HZ = (65.0, 600.0)
STEP_S = 0.01
#: Praat states loudness above 20 micropascals; a digital full scale stands for 1 pascal there.
FULL_SCALE_DB = 20 * math.log10(1 / 2e-5)
#: Quieter than this is drawn as silence (dB of full scale).
SILENCE_DB = -60.0
#: Columns of the drawn waveform.
COLUMNS = 480
STRIP_HEIGHT = 72
_WIDTH, _HEIGHT = 1000, 100


@dataclass(frozen=True)
class Signals:
    """Of a clip's sound. ``wave`` (COLUMNS, 2): least and greatest sample of each column, in [-1, 1]. ``times_s`` (T,);
    ``pitch_hz`` (T,): NaN where no voice is heard; ``loudness_db`` (T,): relative to full scale."""

    duration_s: float
    wave: np.ndarray
    times_s: np.ndarray
    pitch_hz: np.ndarray
    loudness_db: np.ndarray

    def middle(self, name: str) -> tuple[float, float, float] | None:
        """(median, 10th, 90th percentile) of "pitch_hz" or "loudness_db", or None where nothing was measured."""
        values = getattr(self, name)
        values = values[np.isfinite(values) & (values > SILENCE_DB)]
        return tuple(float(value) for value in np.percentile(values, (50, 10, 90))) if len(values) else None


def measure(decoded: Decoded) -> Signals | None:
    """The sound's signals; None for a clip without sound."""
    if decoded.audio is None or not len(decoded.audio):
        return None
    audio, rate = decoded.audio.astype(np.float64), decoded.sample_rate_hz
    edges = np.linspace(0, len(audio), min(COLUMNS, len(audio)), endpoint=False).astype(int)
    wave = np.stack([np.minimum.reduceat(audio, edges), np.maximum.reduceat(audio, edges)], axis=1)
    times = np.arange(STEP_S / 2, len(audio) / rate, STEP_S)
    pitch, loudness = np.full(len(times), np.nan), np.full(len(times), np.nan)
    # Praat looks at three periods of the lowest pitch; what is shorter has none.
    if len(audio) / rate > 6.4 / PITCH_HZ[0] and audio.any():
        import parselmouth

        sound = parselmouth.Sound(audio, sampling_frequency=rate)
        tracked = sound.to_pitch_ac(time_step=STEP_S, pitch_floor=PITCH_HZ[0], pitch_ceiling=PITCH_HZ[1])
        pitch = _at(times, tracked.xs(), np.where((hertz := tracked.selected_array["frequency"]) > 0, hertz, np.nan))
        level = sound.to_intensity(minimum_pitch=PITCH_HZ[0], time_step=STEP_S)
        loudness = _at(times, level.xs(), np.maximum(level.values[0] - FULL_SCALE_DB, SILENCE_DB))
    return Signals(len(audio) / rate, wave, times, pitch, loudness)


def _at(times: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (K,) known at some times (K,), each at the nearest of ``times`` (T,); NaN further off than a step."""
    nearest = np.abs(known[None] - times[:, None]).argmin(1) if len(known) * len(times) < 4_000_000 else np.clip(
        np.searchsorted(known, times), 0, len(known) - 1
    )  # fmt: skip
    return np.where(np.abs(known[nearest] - times) <= STEP_S, values[nearest], np.nan)


def frame_strip(decoded: Decoded, language: str) -> str:
    """Every frame that the model saw, in order, as one row of small pictures with their times; "" without a picture."""
    if decoded.frames is None:
        return ""
    figures = []
    for frame, at_s in zip(decoded.frames, decoded.frame_times_s, strict=True):
        when = say(language, "at_s", seconds=at_s)
        figures.append(
            f'<figure><img src="{_picture(frame)}" alt="{html.escape(say(language, "frame_at", when=when))}">'
            f"<figcaption>{html.escape(when)}</figcaption></figure>"
        )
    name = html.escape(say(language, "strip"))
    note = f'<p class="measured">{name}</p>'
    return f'{note}<div class="strip" role="group" aria-label="{name}" tabindex="0">{"".join(figures)}</div>'


def _picture(frame: np.ndarray) -> str:
    image = Image.fromarray(frame)
    image.thumbnail((4 * STRIP_HEIGHT, 2 * STRIP_HEIGHT))  # twice the size, for screens of double density
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def draw(signals: Signals | None, language: str) -> str:
    """Waveform, pitch and loudness above one time axis, each with its figures in words; "" without sound."""
    if signals is None:
        return ""
    rows = [_row(language, "waveform", "", _wave_path(signals), "")]
    for name, unit, low, high in (
        ("pitch", "pitch_hz", *_pitch_range(signals)),
        ("loudness", "loudness_db", SILENCE_DB, 0.0),
    ):
        middle = signals.middle(unit)
        words = say(language, f"no_{name}") if middle is None else say(
            language, f"{name}_words", middle=middle[0], low=middle[1], high=middle[2]
        )  # fmt: skip
        line = _curve(signals, getattr(signals, unit), low, high, logarithmic=name == "pitch")
        rows.append(_row(language, name, words, line, "" if middle is None else _level(middle[0], low, high, name)))
    ends = [say(language, "at_s", seconds=share * signals.duration_s) for share in (0, 0.25, 0.5, 0.75, 1)]
    axis = "".join(f"<span>{html.escape(end)}</span>" for end in ends)
    note = f'<p class="measured">{html.escape(say(language, "measured"))}</p>'
    return f'<div class="signals">{note}{"".join(rows)}<div class="axis" aria-hidden="true">{axis}</div></div>'


def _row(language: str, name: str, words: str, path: str, level: str) -> str:
    title = say(language, name)
    label = html.escape(f"{title}: {words}" if words else title)
    return (
        f'<figure class="signal signal-{name}"><figcaption><b>{html.escape(title)}</b> {html.escape(words)}'
        "</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'{level}<path d="{path}" vector-effect="non-scaling-stroke"/></svg></figure>'
    )


def _wave_path(signals: Signals) -> str:
    peak = max(1e-9, float(np.abs(signals.wave).max()))
    xs = (np.arange(len(signals.wave)) + 0.5) / len(signals.wave) * _WIDTH
    tops = _HEIGHT / 2 * (1 - signals.wave[:, 1] / peak)
    bottoms = _HEIGHT / 2 * (1 - signals.wave[:, 0] / peak)
    return "".join(f"M{x:.0f} {top:.1f}V{bottom:.1f}" for x, top, bottom in zip(xs, tops, bottoms, strict=True))


def _pitch_range(signals: Signals) -> tuple[float, float]:
    """An octave and a half about the median at least, so that small wavering does not look like song."""
    middle = signals.middle("pitch_hz")
    if middle is None:
        return PITCH_HZ
    return min(middle[0] * 2**-0.75, middle[1] * 0.95), max(middle[0] * 2**0.75, middle[2] * 1.05)


def _curve(signals: Signals, values: np.ndarray, low: float, high: float, logarithmic: bool) -> str:
    """An SVG path through the finite values; a gap where there is none."""
    path, drawing = [], False
    for at_s, value in zip(signals.times_s, values, strict=True):
        if not math.isfinite(value):
            drawing = False
            continue
        y = _height(value, low, high, logarithmic)
        path.append(f"{'L' if drawing else 'M'}{at_s / signals.duration_s * _WIDTH:.1f} {y:.1f}")
        drawing = True
    return "".join(path)


def _level(value: float, low: float, high: float, name: str) -> str:
    y = _height(value, low, high, name == "pitch")
    return f'<path class="level" d="M0 {y:.1f}H{_WIDTH}" vector-effect="non-scaling-stroke"/>'


def _height(value: float, low: float, high: float, logarithmic: bool) -> float:
    if logarithmic:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return _HEIGHT * (1 - min(1.0, max(0.0, (value - low) / (high - low))))
