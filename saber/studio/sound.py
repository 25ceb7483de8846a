"""What is done to a voice once it is synthesised: spectral tilt, tremor, breath, loudness; sound events; noise.

Goes in: float arrays of mono sound at ``SAMPLE_RATE_HZ`` and a seeded numpy generator where chance is needed. Comes
out: new arrays (nothing is changed in place). Each effect moves the one quantity it is named after; loudness is set
last, so no other effect changes it. To add a sound event: a function in ``EVENTS``, of the same four arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.signal import butter, firwin, lfilter, resample_poly, sosfilt

SAMPLE_RATE_HZ = 16_000
MOUTH_RATE_HZ = 100
#: Faster than syllables (3 to 6 a second), so that the shake is not taken for the rhythm of speech.
TREMOR_HZ = 8.0

#: The highest value that a sample may take; AAC overshoots a little, and a clipped sample would add a harsh edge.
CEILING = 0.97
_KNEE = 0.5

_HIGH_SHELF_DB = {"relaxed": -9.0, "tense": 9.0}
_BREATH_BAND = butter(2, 2500 / (SAMPLE_RATE_HZ / 2), "highpass", output="sos")
_MOUTH_BAND = butter(2, (250 / (SAMPLE_RATE_HZ / 2), 1500 / (SAMPLE_RATE_HZ / 2)), "bandpass", output="sos")


def rms(samples: np.ndarray) -> float:
    """Root mean square, full scale is 1. Zero for an empty array."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def from_db(level_db: float) -> float:
    """Decibels to a factor on the amplitude."""
    return 10 ** (level_db / 20)


def resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """(N,) at ``rate_hz`` -> (M,) float32 at ``SAMPLE_RATE_HZ``."""
    common = math.gcd(rate_hz, SAMPLE_RATE_HZ)
    up, down = SAMPLE_RATE_HZ // common, rate_hz // common
    return resample_poly(samples.astype(np.float32), up, down, window=_low_pass(up, down)).astype(np.float32)


def trim(samples: np.ndarray, below_peak_db: float = 42.0) -> np.ndarray:
    """Without the near-silence at both ends."""
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max(initial=0.0) * from_db(-below_peak_db))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def envelope(samples: np.ndarray, window_s: float = 0.02) -> np.ndarray:
    """(N,) amplitude over time, smoothed over ``window_s``."""
    width = max(1, round(window_s * SAMPLE_RATE_HZ))
    total = np.cumsum(np.pad(np.square(samples, dtype=np.float64), (width // 2 + 1, width - width // 2 - 1)))
    total = np.concatenate((total, np.full(1, total[-1])))
    return np.sqrt(np.maximum(total[width : width + len(samples)] - total[: len(samples)], 0) / width)


def pitch_track(samples: np.ndarray, lowest_hz: float, highest_hz: float, rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """Pitch in Hz every 10 ms, (T,), NaN where there is no clear voice: autocorrelation (Boersma 1993)."""
    every = max(1, rate_hz // 5000)
    # A coarse low-pass, then fewer samples: a pitch needs no more.
    samples = samples[: len(samples) // every * every].reshape(-1, every).mean(1)
    rate_hz /= every
    width, step = int(2.6 * rate_hz / lowest_hz), int(0.01 * rate_hz)
    if len(samples) <= width:
        return np.full(0, np.nan)
    frames = np.lib.stride_tricks.sliding_window_view(samples, width)[::step]
    track = np.full(len(frames), np.nan)
    loud = np.flatnonzero(np.square(frames).mean(1) > 0.12 * np.square(samples).mean())
    frames = frames[loud]
    window, length = np.hanning(width).astype(np.float32), fft.next_fast_len(2 * width, real=True)

    def correlate(rows: np.ndarray) -> np.ndarray:
        return fft.irfft(np.abs(fft.rfft(rows, length)) ** 2, length)[..., :width]

    shape = correlate(window)
    rows = correlate((frames - frames.mean(1, keepdims=True)) * window)
    rows = rows / (rows[:, :1] + 1e-12) / (shape / shape[0] + 1e-6)
    first, last = int(rate_hz / highest_hz), min(int(rate_hz / lowest_hz) + 2, int(0.8 * width))
    left, middle, right = rows[:, first - 1 : last - 1], rows[:, first:last], rows[:, first + 1 : last + 1]
    # The first peak that is nearly as high as the highest: later ones are multiples of the period.
    good = (middle > left) & (middle >= right) & (middle > np.maximum(0.6, 0.85 * middle.max(1, keepdims=True)))
    at, row = good.argmax(1), np.flatnonzero(good.any(1))
    left, middle, right, at = left[row, at[row]], middle[row, at[row]], right[row, at[row]], at[row]
    track[loud[row]] = rate_hz / (first + at + 0.5 * (left - right) / (left - 2 * middle + right - 1e-12))
    return track


def tilt(samples: np.ndarray, tension: str) -> np.ndarray:
    """A tense voice has strong upper harmonics and a pressed edge, a relaxed one falls off. Keeps the RMS."""
    before = rms(samples)
    sloped = lfilter(*_high_shelf(1200.0, _HIGH_SHELF_DB[tension]), samples)
    if tension == "tense":
        drive = 3 * rms(sloped) + 1e-9
        sloped = np.tanh(sloped / drive)
    return (sloped * (before / (rms(sloped) + 1e-9))).astype(np.float32)


def tremble(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A shake of ``TREMOR_HZ`` in amplitude (1.7 to 0.3 times) and in pitch (5 % either way, by bending time)."""
    phase = rng.uniform(0, 2 * math.pi)
    angle = 2 * math.pi * TREMOR_HZ / SAMPLE_RATE_HZ * np.arange(len(samples)) + phase
    delay = 0.05 * SAMPLE_RATE_HZ / (2 * math.pi * TREMOR_HZ) * np.cos(angle)
    bent = np.interp(np.arange(len(samples)) + delay, np.arange(len(samples)), samples)
    return (bent * (1 - 0.7 * np.sin(angle))).astype(np.float32)


def breathe(samples: np.ndarray, rng: np.random.Generator, lead: int, level_db: float = -12.0) -> np.ndarray:
    """Aspiration that follows the voice, ``level_db`` under it, and a breathy onset of ``lead`` samples before it."""
    shape = np.pad(envelope(samples, 0.05), (lead, 0))
    shape[:lead] = 0.7 * rms(samples) * np.sin(np.linspace(0, math.pi / 2, lead)) ** 2
    noise = sosfilt(_BREATH_BAND, rng.standard_normal(len(shape))) * shape
    noise *= rms(samples) * from_db(level_db) / (rms(noise[lead:]) + 1e-9)
    return (np.pad(samples, (lead, 0)) + noise).astype(np.float32)


def set_loudness(samples: np.ndarray, speech: slice, level_db: float) -> np.ndarray:
    """The whole scaled so that ``speech`` has an RMS of ``level_db`` (dBFS, sine of full scale is -3).

    Peaks over ``CEILING`` are rounded off rather than cut; the gain makes up for what that takes away.
    """
    target, gain = from_db(level_db), from_db(level_db) / (rms(samples[speech]) + 1e-9)
    for _ in range(4):
        louder = _round_peaks(samples * gain)
        gain *= target / (rms(louder[speech]) + 1e-9)
    return louder.astype(np.float32)


def room_tone(count: int, rng: np.random.Generator, level_db: float = -70.0) -> np.ndarray:
    """(count,) of the faint noise of any recording."""
    return rng.standard_normal(count, dtype=np.float32) * np.float32(from_db(level_db))


def background(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) of background noise at an RMS of 1: pink noise, a murmur of people, a mains hum, in drawn shares."""
    pink = _shaped_noise(count, rng, 1.0)
    swell_s = np.arange(0, count + 160, 160) / SAMPLE_RATE_HZ
    murmur = np.zeros(count, np.float32)
    for _ in range(3):
        swell = 1 + 0.8 * np.sin(2 * math.pi * (rng.uniform(2.5, 5) * swell_s + rng.uniform()))
        murmur += _shaped_noise(count, rng, 1.6) * np.repeat(swell.astype(np.float32), 160)[:count]
    # 50 Hz and 60 Hz both repeat after 1600 samples.
    angle = 2 * math.pi * rng.choice((50.0, 60.0)) / SAMPLE_RATE_HZ * np.arange(1600)
    hum = np.resize(sum(np.sin(k * angle + rng.uniform(0, 2 * math.pi)) / k for k in (2, 3, 4, 6)), count)
    mixed = sum(
        rng.uniform(low, high) * part / (rms(part) + 1e-12)
        for part, low, high in ((pink, 0.6, 1.0), (murmur, 0.2, 1.0), (hum, 0.0, 0.35))
    )
    return (mixed / (rms(mixed) + 1e-12)).astype(np.float32)


def mouth_opening(words: np.ndarray, event: np.ndarray | None = None, event_openness: float = 0.0) -> np.ndarray:
    """How far the mouth is open, 0..1, at ``MOUTH_RATE_HZ``, (ceil(N / 160),), from ``words`` and ``event``, each (N,).

    Words open it by the strength of the first formant's region, so that it closes on "m" and "s"; an event by its own
    strength, to ``event_openness``. The scale is the clip's own: a soft voice opens the mouth as far as a loud one.
    """
    opening = np.clip(np.sqrt(_strength(sosfilt(_MOUTH_BAND, words), 90)) / 0.88 - 0.136, 0, 1)
    if event is not None:
        opening = np.maximum(opening, event_openness * np.sqrt(_strength(event, 100)))
    return opening.astype(np.float32)


def _strength(samples: np.ndarray, percentile: float) -> np.ndarray:
    """Amplitude at ``MOUTH_RATE_HZ`` against that ``percentile`` of its sounding part, 0..1."""
    step = SAMPLE_RATE_HZ // MOUTH_RATE_HZ
    count = math.ceil(len(samples) / step)
    strength = np.pad(envelope(samples, 0.06)[step // 2 :: step], (0, 1))[:count]
    sounding = strength[strength > 0.1 * strength.max(initial=0.0)]
    return np.clip(strength / np.percentile(sounding, percentile), 0, 1) if len(sounding) else strength * 0


def laugh(f0_hz: float, formant_scale: float, rng: np.random.Generator, duration_s: float) -> np.ndarray:
    """Short bursts of voiced "ha" at five a second, each falling in pitch and lower than the one before."""
    bursts = max(3, round(duration_s * 5.5))
    length = int(duration_s * SAMPLE_RATE_HZ / bursts)
    out = np.zeros(bursts * length)
    for index in range(bursts):
        place = np.linspace(0, 1, length)
        pitch = f0_hz * (1.55 - 0.4 * index / bursts) * (1 - 0.18 * place)
        voiced = _vowel(pitch, (800, 1350, 2700), formant_scale) * np.clip(np.sin(math.pi * place**0.8), 0, 1) ** 2
        puff = _air(length, 1500 * formant_scale, 1500, rng) * np.exp(-place * 9)
        out[index * length : (index + 1) * length] = (voiced + 0.35 * puff) * 0.9**index
    return out


def sigh(f0_hz: float, formant_scale: float, rng: np.random.Generator, duration_s: float) -> np.ndarray:
    """A long breath out: quickly there, slowly gone, dark, with a little falling voice under its first half."""
    place = np.linspace(0, 1, int(duration_s * SAMPLE_RATE_HZ))
    shape = np.clip(place / 0.12, 0, 1) * (1 - place) ** 1.3
    air = _air(len(place), 900 * formant_scale, 1100, rng)
    voiced = _vowel(f0_hz * (0.95 - 0.3 * place), (600, 1000, 2500), formant_scale) * np.clip(1 - 2 * place, 0, 1)
    return shape * (air + 0.25 * voiced)


def sob(f0_hz: float, formant_scale: float, rng: np.random.Generator, duration_s: float) -> np.ndarray:
    """Two broken voiced breaths in, each rising, with gaps of silence, then a high wavering whimper that falls."""
    edges = np.cumsum([0, 0.16, 0.1, 0.2, 0.1, 0.44]) * rng.uniform(0.97, 1.0)
    count = int(duration_s * SAMPLE_RATE_HZ)
    out = np.zeros(count)
    for start, stop, first, last in ((0, 1, 1.2, 1.7), (2, 3, 1.3, 1.9), (4, 5, 1.8, 1.25)):
        at, to = int(edges[start] * count), int(edges[stop] * count)
        place = np.linspace(0, 1, to - at)
        wobble = 1 + 0.06 * np.sin(2 * math.pi * 9 * place * (to - at) / SAMPLE_RATE_HZ)
        voiced = _vowel(f0_hz * (first + (last - first) * place) * wobble, (450, 1500, 2600), formant_scale)
        shape = np.sin(math.pi * place) ** 0.7
        out[at:to] = shape * (voiced + 0.3 * _air(to - at, 2200 * formant_scale, 1500, rng))
    return out


def gasp(f0_hz: float, formant_scale: float, rng: np.random.Generator, duration_s: float) -> np.ndarray:
    """A quick breath in: bright air that swells and stops short, without voice."""
    place = np.linspace(0, 1, int(duration_s * SAMPLE_RATE_HZ))
    shape = place**1.6 * np.clip((1 - place) / 0.08, 0, 1)
    return shape * _air(len(place), 3200 * formant_scale, 2500, rng)


#: Event -> (how it is made, shortest and longest duration in s, level against the speech in dB, mouth opening).
#: Shapes and figures are ours.
EVENTS: dict[str, tuple[Callable[..., np.ndarray], float, float, float, float]] = {
    "laugh": (laugh, 0.6, 0.8, 0.0, 1.0),
    "sigh": (sigh, 0.65, 0.8, -3.0, 0.5),
    "sob": (sob, 0.65, 0.8, -2.0, 0.5),
    "gasp": (gasp, 0.35, 0.45, -2.0, 0.9),
}


def event(name: str, f0_hz: float, formant_scale: float, rng: np.random.Generator) -> np.ndarray:
    """(N,) of one sound event, ``EVENTS[name]``, at its level against speech of RMS 1."""
    make, shortest_s, longest_s, level_db, _ = EVENTS[name]
    made = make(f0_hz, formant_scale, rng, rng.uniform(shortest_s, longest_s))
    return (made * (from_db(level_db) / (rms(made) + 1e-9))).astype(np.float32)


def _high_shelf(corner_hz: float, gain_db: float) -> tuple[np.ndarray, np.ndarray]:
    """First-order shelf: 0 dB below the corner, ``gain_db`` above it (bilinear transform)."""
    gain, k = from_db(gain_db), math.tan(math.pi * corner_hz / SAMPLE_RATE_HZ)
    if gain >= 1:
        return np.array([gain + k, k - gain]) / (1 + k), np.array([1.0, (k - 1) / (1 + k)])
    k *= gain  # keeps the half-way frequency of a cut where that of the same boost is
    return np.array([gain + k, k - gain]) / (1 + k), np.array([1.0, (k - 1) / (1 + k)])


def _round_peaks(samples: np.ndarray) -> np.ndarray:
    size = np.abs(samples)
    if size.max(initial=0.0) <= _KNEE:
        return samples
    rounded = _KNEE + (CEILING - _KNEE) * np.tanh((size - _KNEE) / (CEILING - _KNEE))
    return np.where(size > _KNEE, np.sign(samples) * rounded, samples)


def _shaped_noise(count: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose power falls with frequency to the ``slope`` (1 is pink), nothing below 60 Hz."""
    length = fft.next_fast_len(max(count, 2), real=True)
    amplitude = _noise_shape(length, slope)
    parts = rng.standard_normal((len(amplitude), 2), dtype=np.float32).view(np.complex64)[:, 0]
    return fft.irfft(parts * amplitude, length)[:count]


@lru_cache(maxsize=64)
def _noise_shape(length: int, slope: float) -> np.ndarray:
    frequency_hz = np.arange(length // 2 + 1) * (SAMPLE_RATE_HZ / length)
    return np.where(frequency_hz < 60, 0, np.maximum(frequency_hz, 60) ** (-slope / 2)).astype(np.float32)


@lru_cache(maxsize=8)
def _low_pass(up: int, down: int) -> np.ndarray:
    """What ``resample_poly`` would design anew on every call."""
    return firwin(20 * max(up, down) + 1, 1 / max(up, down), window=("kaiser", 5.0)).astype(np.float32)


def _air(count: int, centre_hz: float, width_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Noise around ``centre_hz``, RMS 1."""
    return _unit(_resonate(rng.standard_normal(count), min(centre_hz, 7000.0), width_hz))


def _vowel(pitch_hz: np.ndarray, formants_hz: tuple[float, ...], formant_scale: float) -> np.ndarray:
    """A voiced sound of the given pitch over time, RMS 1: a saw-tooth through one resonance a formant."""
    out = lfilter([1.0], [1.0, -0.85], np.cumsum(pitch_hz) / SAMPLE_RATE_HZ % 1.0 - 0.5)
    return _unit(
        sum(
            _unit(_resonate(out, formant * formant_scale, 110 + 60 * i)) / (1 + 0.8 * i)
            for i, formant in enumerate(formants_hz)
        )
    )


def _resonate(samples: np.ndarray, centre_hz: float, width_hz: float) -> np.ndarray:
    radius = math.exp(-math.pi * width_hz / SAMPLE_RATE_HZ)
    return lfilter(
        [1.0, 0.0, -1.0], [1.0, -2 * radius * math.cos(2 * math.pi * centre_hz / SAMPLE_RATE_HZ), radius**2], samples
    )


def _unit(samples: np.ndarray) -> np.ndarray:
    return samples / (rms(samples) + 1e-9)
