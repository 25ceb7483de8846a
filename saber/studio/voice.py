"""Speaks a clip: speakers, and speech with exactly the prosody that the clip's record states.

Goes in: a ``ClipSpec``. Comes out: a ``Sound`` (16 kHz mono, and how far the mouth opens at each moment). espeak-ng
synthesises the words at the pitch, pitch movement and rate that are asked for; ``sound.py`` does the rest. It is
loaded only when something is spoken (``pip install espeakng-loader``). To add a speaker: a row in ``_TIMBRES``.
Differs from the paper: it has recorded speech only; synthetic voices with known truth are ours.
"""

from __future__ import annotations

import ctypes
import math
import os
import random
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from saber.studio import sound
from saber.studio.words import SHUFFLED
from saber.studio.world import SPLITS, ClipSpec

#: Value -> what it sets. Semitones from the speaker's own pitch; words a minute against the speaker's own; dBFS of
#: the speech (RMS). The gaps are wider than the spread between speakers of one sex (figures are ours).
LEVEL_SEMITONES = {"low": -5.0, "mid": 0.0, "high": 6.0}
RATE_FACTOR = {"slow": 0.70, "normal": 1.0, "fast": 1.45}
LOUDNESS_DB = {"soft": -32.0, "normal": -22.0, "loud": -12.0}

#: A flat voice's pitch contour is this wide, against its median (in Chinese it carries the tones, so a little is left).
FLAT_WIDTH = 0.07
#: A lively voice's pitch moves by this much: standard deviation over the sentence.
LIVELY_SEMITONES = 3.4

#: Language -> how far over the contour's lower edge the median of a sentence lies, against the contour's width.
_MEDIAN_PLACE = {"en": 0.87, "zh": 0.57}
#: The lowest place that a sentence reaches (words in any order may reach 0). Below 12 Hz espeak-ng divides by zero and
#: takes the process with it, so a contour is never let down to 20 Hz, nor, where a voice would only creak, to 0.3 of
#: the median.
_LOWEST_PLACE = {"en": 0.2, "zh": 0.0}
LOWEST_HZ, LOWEST_SHARE = 20.0, 0.3
_VOICE_FILE = {"en": "lang/gmw/en-US", "zh": "lang/sit/cmn"}

#: A very short clip stays under 1 s: its word is spoken faster where it would take longer than this. (What it was meant
#: to be, slow or fast, cannot be heard in one word.)
SHORT_WORD_S = 0.7
FASTEST_WPM = 400

#: Heavy noise buries the words: at most this SNR, drawn down to 4 dB less.
BURIED_SNR_DB = -10.0


@dataclass(frozen=True)
class Speaker:
    """One voice. ``pitch_hz``: the median of a neutral sentence. ``formants``: percent, of espeak's F1, F2, F3 and
    above; ``width``: their bandwidths, percent. ``flutter``, ``roughness``: espeak's 0..7. ``rate_wpm``: words a
    minute at a normal rate."""

    id: str
    language: str
    sex: str  # "female" | "male"
    split: str  # "train" | "validation" | "test" | "speech"
    pitch_hz: float
    formants: tuple[int, int, int]
    width: int
    flutter: int
    roughness: int
    rate_wpm: int


#: sex -> (split, pitch Hz, formants %, width %, flutter, roughness, words a minute). Each row speaks both languages,
#: always in the same split, so that no split hears another's timbre in the other language.
_TIMBRES = {
    "female": (
        ("train", 196, (112, 114, 113), 100, 2, 0, 165),
        ("train", 208, (118, 117, 116), 90, 1, 1, 171),
        ("train", 214, (115, 121, 118), 120, 3, 0, 160),
        ("train", 190, (109, 111, 110), 110, 2, 2, 163),
        ("train", 220, (121, 120, 119), 100, 1, 0, 169),
        ("train", 202, (116, 111, 117), 140, 4, 1, 158),
        ("train", 211, (108, 117, 112), 80, 2, 0, 167),
        ("validation", 205, (114, 118, 111), 105, 2, 1, 164),
        ("test", 199, (117, 113, 119), 115, 3, 1, 168),
        ("test", 216, (111, 119, 115), 95, 2, 0, 161),
    ),
    "male": (
        ("train", 110, (100, 100, 100), 100, 2, 0, 165),
        ("train", 118, (104, 103, 102), 90, 1, 1, 170),
        ("train", 104, (96, 97, 97), 120, 3, 0, 159),
        ("train", 114, (99, 105, 100), 140, 2, 2, 163),
        ("train", 121, (105, 100, 104), 100, 4, 0, 168),
        ("train", 107, (94, 99, 95), 80, 1, 1, 161),
        ("train", 112, (102, 95, 101), 110, 2, 0, 167),
        ("validation", 116, (98, 102, 103), 105, 2, 1, 164),
        ("test", 109, (103, 98, 97), 115, 3, 0, 162),
        ("test", 119, (97, 104, 98), 95, 1, 1, 168),
    ),
}

#: sex -> the lowest and the highest value of a drawn timbre: pitch Hz, first formant %.
_RANGES = {"female": ((186, 224), (105, 124)), "male": ((100, 125), (91, 108))}
#: Timbres of each sex in the split "speech".
DRAWN = 100


def _drawn_timbres(sex: str) -> Iterator[tuple]:
    """``DRAWN`` rows like those of ``_TIMBRES``, at random, none near a voice of validation or test."""
    rng = random.Random(f"timbres/{sex}")
    (low_hz, high_hz), (low, high) = _RANGES[sex]
    held_out = [row[2] for row in _TIMBRES[sex] if row[0] != "train"]
    found = 0
    while found < DRAWN:
        f1 = rng.randint(low, high)
        formants = (f1, f1 + rng.randint(-6, 9), f1 + rng.randint(-5, 7))
        if any(max(abs(a - b) for a, b in zip(formants, other, strict=True)) < 2 for other in held_out):
            continue
        found += 1
        yield ("speech", rng.randint(low_hz, high_hz), formants, rng.randint(75, 145), rng.randint(1, 4),
               rng.randint(0, 2), rng.randint(157, 172))  # fmt: skip


SPEAKERS: Mapping[str, Speaker] = MappingProxyType(
    {
        f"{language}-{sex}-{number:02d}": Speaker(f"{language}-{sex}-{number:02d}", language, sex, *row)
        for language in _VOICE_FILE
        for sex, rows in _TIMBRES.items()
        for number, row in enumerate((*rows, *_drawn_timbres(sex)), 1)
    }
)


def speakers(split: str, language: str, sex: str | None = None) -> tuple[Speaker, ...]:
    """Who may speak in a split; "combinations" and "style" have the test speakers, "drill" and "rare" those of
    "speech". Raises ValueError for others."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {SPLITS}")
    if language not in _VOICE_FILE:
        raise ValueError(f"language is {language!r}; it must be one of {tuple(_VOICE_FILE)}")
    own = {"combinations": "test", "style": "test", "drill": "speech", "rare": "speech"}.get(split, split)
    return tuple(s for s in SPEAKERS.values() if s.split == own and s.language == language and sex in (None, s.sex))


@dataclass(frozen=True)
class Sound:
    """What is heard in one clip.

    ``samples``: (N,) float32, -1..1, mono. ``background``: (N,) the part of it that is not the voice. ``mouth``:
    (ceil(N / 160),) opening 0..1 at 100 Hz. ``speech_start_s``, ``speech_end_s``: the words, without the event; both
    0 if nobody speaks. ``event_start_s``: where the sound event begins, or None. ``snr_db``: speech (over the words)
    against background, None without background noise or speech.
    """

    samples: np.ndarray
    background: np.ndarray
    mouth: np.ndarray
    speech_start_s: float
    speech_end_s: float
    event_start_s: float | None = None
    snr_db: float | None = None
    sample_rate_hz: int = sound.SAMPLE_RATE_HZ

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz


def speak(spec: ClipSpec) -> Sound:
    """The sound of one clip; the same spec gives the same bytes, in any process and order.

    ``spec.identity.style`` 1 changes the speaker's settings (longer vocal tract, other pitch). ``spec.incomplete``:
    "silent" has only room tone, "noise" buries the words, "short" leaves no more than 0.1 s around its word.
    Raises KeyError for an unknown speaker, ValueError if the text gives no sound, RuntimeError if espeak-ng fails.
    """
    rng = np.random.default_rng((spec.seed, spec.prosody.seed))
    if spec.incomplete == "silent":
        tone = sound.room_tone(round(rng.uniform(1.8, 4.5) * sound.SAMPLE_RATE_HZ), rng)
        return Sound(tone, tone, sound.mouth_opening(np.zeros(len(tone), np.float32)), 0.0, 0.0)
    speaker, prosody = restyled(SPEAKERS[spec.speaker], spec.identity.style), spec.prosody
    short = spec.incomplete == "short"

    at_most_s = SHORT_WORD_S if short else math.inf
    manner = (prosody.level, prosody.movement, prosody.rate)
    words = synthesize(spec.words.text, speaker, *manner, at_most_s, is_sentence=spec.words.template != SHUFFLED)
    if not len(words):
        raise ValueError(f"clip {spec.id}: espeak-ng gives no sound for the text {spec.words.text!r}")
    if prosody.tremor == "yes":
        words = sound.tremble(words, rng)
    words = sound.tilt(words, prosody.tension)
    onset = 0
    if prosody.breath == "yes":
        onset = round((0.04 if short else 0.12) * sound.SAMPLE_RATE_HZ)
        words = sound.breathe(words, rng, onset)

    lead, tail = (rng.uniform(0.05, 0.1, 2)) if short else (rng.uniform(0.15, 0.4), rng.uniform(0.2, 0.4))
    event = np.zeros(0, np.float32)
    gap = 0
    if spec.words.event != "none":
        pitch_hz = speaker.pitch_hz * 2 ** (LEVEL_SEMITONES[prosody.level] / 24)
        event = sound.event(spec.words.event, pitch_hz, speaker.formants[1] / 100, rng) * sound.rms(words[onset:])
        gap = round(rng.uniform(0.08, 0.15) * sound.SAMPLE_RATE_HZ)
    before = round(lead * sound.SAMPLE_RATE_HZ)
    start = before + len(event) + gap + onset
    end = before + len(event) + gap + len(words)
    voice = np.zeros(end + round(tail * sound.SAMPLE_RATE_HZ), np.float32)
    voice[before : before + len(event)] = event
    voice[start - onset : end] = words
    voice = sound.set_loudness(voice, slice(start, end), LOUDNESS_DB[prosody.loudness])

    only_words, only_event = voice.copy(), voice.copy()
    only_words[: start - onset] = 0
    only_event[start - onset :] = 0
    openness = sound.EVENTS[spec.words.event][4] if len(event) else 0.0
    mouth = sound.mouth_opening(only_words, only_event, openness)

    snr_db = prosody.snr_db
    if spec.incomplete == "noise":
        buried_db = BURIED_SNR_DB - rng.uniform(0, 4)
        snr_db = buried_db if snr_db is None else min(snr_db, buried_db)
    if snr_db is None:
        background = sound.room_tone(len(voice), rng)
    else:
        background = sound.background(len(voice), rng)
        wanted = sound.rms(voice[start:end]) * sound.from_db(-snr_db)
        background *= wanted / sound.rms(background[start:end])
    mixed = voice + background
    # Loud speech in loud noise can pass full scale; both are then turned down together, so the SNR holds.
    over = max(1.0, float(np.abs(mixed).max()) / sound.CEILING)
    rate = sound.SAMPLE_RATE_HZ
    return Sound(
        samples=(mixed / over).astype(np.float32),
        background=(background / over).astype(np.float32),
        mouth=mouth,
        speech_start_s=start / rate,
        speech_end_s=end / rate,
        event_start_s=before / rate if len(event) else None,
        snr_db=snr_db,
    )


def restyled(speaker: Speaker, style: int) -> Speaker:
    """Style 1: settings that no speaker of style 0 has."""
    if not style:
        return speaker
    f1, f2, f3 = speaker.formants
    return Speaker(
        speaker.id,
        speaker.language,
        speaker.sex,
        speaker.split,
        speaker.pitch_hz * 1.04,
        (f1 - 7, f2 + 6, f3 + 8),
        speaker.width + 45,
        5,
        4,
        round(speaker.rate_wpm * 0.96),
    )


def synthesize(
    text: str,
    speaker: Speaker,
    level: str,
    movement: str,
    rate: str,
    at_most_s: float = math.inf,
    is_sentence: bool = True,
) -> np.ndarray:
    """(N,) float32 at ``sound.SAMPLE_RATE_HZ``: the bare words, trimmed, at no particular loudness.

    Spoken faster than ``rate`` where they would take longer than ``at_most_s``.

    How wide and how high a contour comes out depends on the sentence (its stresses, in Chinese its tones). A lively
    voice is therefore spoken twice: once to see its contour, then at the width and height that give
    ``LIVELY_SEMITONES`` around the level that is asked for.
    """
    median_hz = speaker.pitch_hz * 2 ** (LEVEL_SEMITONES[level] / 12)
    words_per_min = round(speaker.rate_wpm * RATE_FACTOR[rate])
    lowest = _LOWEST_PLACE[speaker.language] if is_sentence else 0.0
    width, place = FLAT_WIDTH, _MEDIAN_PLACE[speaker.language]
    if movement == "lively":
        width = 0.55  # so narrow that no part of it is hard to follow; the contour grows in proportion
        speech, rate_hz = _spoken(text, speaker, median_hz, width, place, lowest, words_per_min)
        track = sound.pitch_track(speech, 0.4 * median_hz, 2.6 * median_hz, rate_hz)
        width, place = _fit_contour(track[np.isfinite(track)] / median_hz, width, place)
    while True:
        speech, rate_hz = _spoken(text, speaker, median_hz, width, place, lowest, words_per_min)
        words = sound.trim(sound.resample(speech, rate_hz))
        if len(words) <= at_most_s * sound.SAMPLE_RATE_HZ or words_per_min >= FASTEST_WPM:
            return words
        words_per_min = min(round(words_per_min * 1.2), FASTEST_WPM)


def _spoken(
    text: str, speaker: Speaker, median_hz: float, width: float, place: float, lowest: float, words_per_min: int
) -> tuple[np.ndarray, int]:
    """One utterance, (N,) float32 and its rate in Hz, whose contour is ``width`` wide and begins ``place`` widths under
    the median, both against the median. ``lowest``: the place that it may reach."""
    f1, f2, f3 = speaker.formants
    floor = max(LOWEST_HZ / median_hz, LOWEST_SHARE)
    width = min(width, (1 - floor) / max(place - lowest, 0.1))
    # espeak-ng's contour of a voice with "pitch A B" runs from A - 9 Hz upwards, B - A wide.
    lowest_hz, highest_hz = (median_hz * (1 + width * edge) + 9 for edge in (-place, 1 - place))
    settings = [
        f"pitch {round(lowest_hz)} {round(highest_hz)}",
        f"flutter {speaker.flutter}",
        f"roughness {speaker.roughness}",
        *(f"formant {i} {scale} 100 {speaker.width}" for i, scale in enumerate((f1, f1, f2, f3, f3, f3))),
    ]
    speech, rate_hz = _espeak(text, speaker.language, settings, words_per_min)
    return speech.astype(np.float32) / 32768, rate_hz


def _fit_contour(pitch: np.ndarray, width: float, place: float) -> tuple[float, float]:
    """Width and place that give ``LIVELY_SEMITONES`` and a median of 1, from the ``pitch`` that others gave."""
    if len(pitch) < 10:  # a word without enough voice to tell
        return width, place
    along = (pitch - (1 - place * width)) / width
    place = float(np.median(along))
    narrow, wide = 0.2, 1.6
    for _ in range(12):
        width = (narrow + wide) / 2
        semitones = 12 * np.log2(np.maximum(1 + width * (along - place), 0.35))
        # Stray values (a doubled or halved period) are not movement.
        steady = semitones[np.abs(semitones) < 9]
        spread = np.std(steady) if len(steady) else np.inf
        narrow, wide = (width, wide) if spread < LIVELY_SEMITONES else (narrow, width)
    return width, place


_one_at_a_time = threading.Lock()
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_SYNCHRONOUS, _UTF8 = 2, 1


def phonemes(text: str, language: str) -> list[str]:
    """The phonemes that espeak-ng speaks for ``text``, by its names and without stress; a Chinese vowel carries its
    tone. An audio encoder can learn to spell these before it knows words."""
    clauses = []
    with _espeak_library() as library:
        _load_voice(library, _espeak_data() / _VOICE_FILE[language], [])
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        encoded = ctypes.create_string_buffer(text.encode())
        rest = ctypes.c_void_p(ctypes.addressof(encoded))
        while rest.value:
            clauses.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, ord("_") << 8) or b"")
    return re.split(r"[_ ]+", re.sub(r"[',|]", "", b"_".join(clauses).decode()).strip("_ "))


def _espeak(text: str, language: str, settings: list[str], words_per_min: int) -> tuple[np.ndarray, int]:
    """The words as espeak-ng speaks them: (N,) int16 and the sample rate in Hz."""
    chunks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples, count, _events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    with _espeak_library() as library:
        library.espeak_SetSynthCallback(collect)
        _load_voice(library, _espeak_data() / _VOICE_FILE[language], settings)
        for parameter, value in ((_RATE, words_per_min), (_VOLUME, 60), (_PITCH, 50), (_RANGE, 50)):
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode() + b"\0"
        status = library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, _UTF8, None, None)
        if status:
            raise RuntimeError(f"espeak-ng answers {status} to the text {text!r}")
        rate_hz = library.espeak_ng_GetSampleRate()
    return (np.concatenate(chunks) if chunks else np.zeros(0, np.int16)), rate_hz


def _espeak_data() -> Path:
    import espeakng_loader

    return Path(espeakng_loader.get_data_path())


@contextmanager
def _espeak_library() -> Iterator[ctypes.CDLL]:
    """espeak-ng, one caller at a time.

    It is loaded anew for each call (0.3 ms): its oscillators and flutter run on from one utterance to the next,
    survive its own Terminate, and would make a clip depend on the clips before it.
    """
    import _ctypes  # dlclose has no public name in ctypes

    import espeakng_loader

    with _one_at_a_time:
        library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        try:
            if library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(_espeak_data()), 0) <= 0:
                raise RuntimeError(f"espeak-ng cannot read its data in {_espeak_data()}; install espeakng-loader anew")
            yield library
            library.espeak_Terminate()
        finally:
            handle = library._handle
            del library
            _ctypes.dlclose(handle) if hasattr(_ctypes, "dlclose") else _ctypes.FreeLibrary(handle)


def _load_voice(library: ctypes.CDLL, language_file: Path, settings: list[str]) -> None:
    """A voice is a file: the language's own lines, then ours, of which the last counts."""
    number, file = tempfile.mkstemp(prefix="voice-")
    try:
        with open(number, "wb") as out:
            out.write(language_file.read_bytes() + b"\n" + "\n".join(settings).encode() + b"\n")
        status = library.espeak_ng_SetVoiceByFile(os.fsencode(file))
    finally:
        os.unlink(file)
    if status:
        raise RuntimeError(f"espeak-ng answers {status:#x} to a voice made from {language_file.name}")
