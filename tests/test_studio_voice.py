"""The studio's voices: each prosody value is measured in the sound itself, for several speakers in both languages."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import stft, welch

from saber.studio import sound, voice
from saber.studio.world import ATTRIBUTES, PROSODY, ClipSpec, Identity, Performance, Prosody, Words

RATE = sound.SAMPLE_RATE_HZ
TEXT = {"en": "the train leaves from the second platform at noon", "zh": "今天的工作让我觉得非常满意"}
#: One speaker of each language and sex, of three splits.
VOICES = ("en-female-01", "en-male-09", "zh-female-08", "zh-male-03")


def spec(speaker="en-female-01", text=None, event="none", incomplete="", seed=1, style=0, **prosody):
    person = voice.SPEAKERS[speaker]
    how = (
        dict(
            level="mid",
            movement="flat",
            rate="normal",
            loudness="normal",
            tension="relaxed",
            tremor="no",
            breath="no",
            snr_db=None,
            seed=seed,
        )
        | prosody
    )
    return ClipSpec(
        id="clip",
        split="test",
        seed=seed,
        language=person.language,
        scene="park",
        identity=Identity("someone", 1, person.sex, "adult", 3, "short", "black", False, False, 1, style),
        performance=Performance("neutral", "direct", "still", "none", 15.0, 1),
        body="upright",
        speaker=speaker,
        voice="neutral",
        prosody=Prosody(**how),
        words=Words(TEXT[person.language] if text is None else text, person.language, "neutral", event, "t"),
        incomplete=incomplete,
    )


def digest(heard):
    return hashlib.sha256(heard.samples.tobytes() + heard.mouth.tobytes()).hexdigest()


def words_of(heard, part=None):
    samples = heard.samples if part is None else part
    return samples[round(heard.speech_start_s * RATE) : round(heard.speech_end_s * RATE)]


def level_db(samples):
    return 20 * np.log10(sound.rms(samples) + 1e-12)


def measure(clip_spec):
    """What each prosody attribute is about, measured: semitones, semitones, s, dBFS, dB, share, dB."""
    heard = voice.speak(clip_spec)
    samples, own_hz = words_of(heard), voice.SPEAKERS[clip_spec.speaker].pitch_hz
    track = sound.pitch_track(samples, 0.35 * own_hz, 2.6 * own_hz)
    semitones = 12 * np.log2(track[np.isfinite(track)] / own_hz)
    middle = np.median(semitones)
    frequency, power = welch(samples, RATE, nperseg=512)
    bins, _, spectrum = stft(samples, RATE, nperseg=512)
    low = (np.abs(spectrum[(bins > 100) & (bins < 1500)]) ** 2).sum(0)
    high = (np.abs(spectrum[bins > 5000]) ** 2).sum(0)
    vowels = low > 0.3 * low.mean()
    strength = sound.envelope(samples)[::160]
    strength = np.log(strength + 0.03 * strength.max())
    wave = np.hanning(len(strength)) * (strength - strength.mean())
    modulation, at_hz = np.abs(np.fft.rfft(wave, 4096)) ** 2, np.fft.rfftfreq(4096, 0.01)
    shaking = np.abs(at_hz - sound.TREMOR_HZ) < 0.5
    return {
        "level": middle,
        "movement": np.std(semitones[np.abs(semitones - middle) < 9]),
        "rate": heard.speech_end_s - heard.speech_start_s,
        "loudness": level_db(samples),
        "tension": 10 * np.log10(power[(frequency > 1500) & (frequency < 4000)].sum() / power[frequency < 1000].sum()),
        "tremor": modulation[shaking].sum() / modulation[(at_hz > 1) & (at_hz < 15)].sum(),
        "breath": np.median(10 * np.log10(high[vowels] / low[vowels])),
    }


#: Attribute -> by how much the measured quantity grows from each value to the next, at least.
STEP = {"level": 4.0, "movement": 1.4, "loudness": 9.5, "tension": 5.0, "tremor": 0.07, "breath": 6.0}
#: Attribute -> how far it may stray while another is set.
STRAY = {"level": 1.3, "movement": 0.75, "rate": 0.12, "loudness": 0.3, "tension": 3.0, "tremor": 0.1, "breath": 5.0}


@pytest.mark.parametrize("speaker", VOICES)
@pytest.mark.parametrize("attribute", PROSODY)
def test_each_prosody_value_moves_its_own_quantity_and_leaves_the_others(attribute, speaker):
    measured = [measure(spec(speaker, **{attribute: value})) for value in ATTRIBUTES[attribute]]
    own = [m[attribute] for m in measured]
    if attribute == "rate":
        slow, normal, fast = own
        assert 1.25 < slow / normal < 1.65 and 1.25 < normal / fast < 1.65, own
    else:
        assert all(b - a >= STEP[attribute] for a, b in zip(own, own[1:], strict=False)), own
    # Tense vowels have more of everything above 5 kHz, and a shaken pitch moves: those two go together.
    coupled = {"tension": {"breath"}, "breath": {"tension"}, "tremor": {"movement"}}.get(attribute, set())
    for other in set(PROSODY) - {attribute} - coupled:
        values = [m[other] for m in measured]
        stray = max(values) - min(values)
        if other == "rate":
            stray /= min(values)
        assert stray <= STRAY[other], (other, values)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_pitch_and_movement_are_the_same_for_every_speaker_and_sentence_of_a_language(language):
    texts = {
        "en": ("i cannot believe it", "please put the book on the table"),
        "zh": ("我真的不敢相信你又忘了我们的会议", "他们昨天回家"),
    }[language]
    for speaker in voice.speakers("test", language):
        for text in texts:
            flat = measure(spec(speaker.id, text, movement="flat"))
            lively = measure(spec(speaker.id, text, movement="lively", level="low"))
            assert abs(flat["level"]) < 0.6 and flat["movement"] < 1.2
            assert abs(lively["level"] - voice.LEVEL_SEMITONES["low"]) < 2.0 and lively["movement"] > 1.9


def test_the_lowest_and_liveliest_contours_of_every_speaker_are_spoken():
    """espeak-ng kills the process where a contour goes under 12 Hz."""
    for speaker in voice.SPEAKERS.values():
        for text in (TEXT[speaker.language], {"en": "no", "zh": "你有五把好雨伞"}[speaker.language]):
            assert len(voice.synthesize(text, speaker, "low", "lively", "normal"))


def test_words_in_any_order_are_spoken_however_low_their_contour_goes():
    """With the place that sentences keep to, these words reach 6 Hz in every voice and kill the process."""
    words_in_a_row = "helping works we fault call at your"
    low = replace(voice.SPEAKERS["en-male-03"], pitch_hz=103)
    assert len(voice.synthesize(words_in_a_row, low, "low", "lively", "normal", is_sentence=False))


@pytest.mark.parametrize(("template", "expected"), [("shuffled", False), ("{they} like {who}", True)])
def test_words_in_any_order_are_no_sentence_though_they_have_a_valence(monkeypatch, template, expected):
    """What reaches lower than a sentence is kept higher: espeak-ng would take the process with it."""
    one, asked = spec(), []
    said = replace(one, words=replace(one.words, valence="positive", template=template))
    monkeypatch.setattr(voice, "synthesize", lambda *_, is_sentence: asked.append(is_sentence) or np.ones(RATE, "f4"))
    voice.speak(said)
    assert asked == [expected]


def test_the_same_spec_gives_the_same_bytes_whatever_was_spoken_before():
    first = spec("en-female-05", movement="lively", breath="yes", event="laugh", snr_db=8.0)
    second = spec("zh-male-05", tremor="yes", rate="fast", seed=5, text="明天见")
    alone = digest(voice.speak(first)), digest(voice.speak(second))
    for between in VOICES:
        voice.speak(spec(between, rate="slow", level="high", seed=9, text=TEXT[between[:2]][:7]))
        assert (digest(voice.speak(first)), digest(voice.speak(second))) == alone


def test_the_same_spec_gives_the_same_bytes_in_another_process_and_in_threads():
    program = "import test_studio_voice as t; print(t.digest(t.voice.speak(t.spec('zh-female-02', movement='lively'))))"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    other = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    here = digest(voice.speak(spec("zh-female-02", movement="lively")))
    assert other.stdout.strip() == here
    many = [spec("zh-female-02", movement="lively"), spec("en-male-01")] * 6
    with ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(lambda s: digest(voice.speak(s)), many))
    assert len(set(heard[::2])) == len(set(heard[1::2])) == 1 and heard[0] == here


def test_another_seed_gives_another_sound():
    assert digest(voice.speak(spec(seed=1))) != digest(voice.speak(spec(seed=2)))


@pytest.mark.parametrize("speaker", VOICES)
@pytest.mark.parametrize("loudness", ["soft", "loud"])
def test_the_realised_snr_is_the_one_stated_and_nothing_clips(speaker, loudness):
    for snr_db in (-4.0, 3.0, 12.0):
        heard = voice.speak(spec(speaker, snr_db=snr_db, loudness=loudness, event="sob", breath="yes"))
        speech = words_of(heard, heard.samples - heard.background)
        realised_db = level_db(speech) - level_db(words_of(heard, heard.background))
        assert realised_db == pytest.approx(snr_db, abs=0.1) and heard.snr_db == snr_db
        assert np.abs(heard.samples).max() <= sound.CEILING + 1e-6


@pytest.mark.parametrize("speaker", VOICES)
def test_a_loud_clean_voice_is_as_loud_as_stated_without_clipping(speaker):
    heard = voice.speak(spec(speaker, loudness="loud", tension="relaxed"))
    assert level_db(words_of(heard)) == pytest.approx(voice.LOUDNESS_DB["loud"], abs=0.2)
    assert np.abs(heard.samples).max() <= sound.CEILING + 0.002


def test_a_clean_clip_has_only_faint_room_tone_around_the_words():
    heard = voice.speak(spec())
    assert -75 < level_db(heard.samples[: round(heard.speech_start_s * RATE) - 50]) < -65
    assert heard.snr_db is None and 0.15 <= heard.speech_start_s <= 0.4
    assert 0.2 <= heard.duration_s - heard.speech_end_s <= 0.401


def event_of(heard):
    return heard.samples[round(heard.event_start_s * RATE) : round((heard.speech_start_s - 0.15) * RATE)]


@pytest.mark.parametrize("speaker", VOICES)
def test_sound_events_come_before_the_words_and_differ(speaker):
    facts = {}
    for name in ATTRIBUTES["event"][1:]:
        heard = voice.speak(spec(speaker, event=name))
        made = event_of(heard)
        assert 0.25 <= len(made) / RATE <= 0.85
        assert level_db(made) > level_db(words_of(heard)) - 6
        assert heard.mouth[round(heard.event_start_s * 100) : round(heard.speech_start_s * 100)].max() > 0.3
        frequency, power = welch(made, RATE, nperseg=512)
        strength = sound.envelope(made, 0.03)
        pitch = sound.pitch_track(made, 80, 800)
        voiced = pitch[np.isfinite(pitch)]
        first_run = next(iter(np.split(voiced, np.flatnonzero(np.diff(np.flatnonzero(np.isfinite(pitch))) > 1) + 1)))
        facts[name] = dict(
            centroid=(frequency * power).sum() / power.sum(),
            voiced=len(voiced) / len(pitch),
            peak=np.argmax(strength) / len(strength),
            seconds=len(made) / RATE,
            pitch=np.median(voiced) if len(voiced) else 0,
            rise=first_run[-1] / first_run[0] if len(first_run) else 1.0,
        )
    laugh, sigh, sob, gasp = (facts[name] for name in ("laugh", "sigh", "sob", "gasp"))
    assert laugh["voiced"] > 0.4 and sob["voiced"] > 0.4 and sigh["voiced"] < 0.3 and gasp["voiced"] < 0.1
    assert gasp["centroid"] > 1.5 * sigh["centroid"] and gasp["seconds"] < sigh["seconds"]
    assert sigh["peak"] < 0.4 < 0.6 < gasp["peak"]
    assert laugh["rise"] < 0.98 and sob["rise"] > 1.1
    assert sob["pitch"] > 1.1 * laugh["pitch"]


def test_a_person_who_does_not_speak_gives_only_room_tone():
    heard = voice.speak(spec(incomplete="silent", loudness="loud", event="laugh", snr_db=3.0))
    assert level_db(heard.samples) < -65 and not heard.mouth.any()
    assert heard.speech_start_s == heard.speech_end_s == 0 and heard.snr_db is None
    assert np.array_equal(heard.samples, heard.background) and 1.8 <= heard.duration_s <= 4.5


@pytest.mark.parametrize("stated", [None, 6.0])
def test_heavy_noise_buries_the_words(stated):
    heard = voice.speak(spec(incomplete="noise", snr_db=stated, loudness="loud"))
    speech = words_of(heard, heard.samples - heard.background)
    assert level_db(speech) - level_db(words_of(heard, heard.background)) < -8 and heard.snr_db < -8
    assert np.abs(heard.samples).max() <= sound.CEILING + 1e-6


@pytest.mark.parametrize(
    "speaker, word",
    [("en-female-03", "yesterday"), ("en-male-02", "wonderful"), ("zh-male-01", "恭喜"), ("zh-female-06", "今天")],
)
def test_a_very_short_clip_stays_under_a_second(speaker, word):
    for breath in ("no", "yes"):
        heard = voice.speak(spec(speaker, word, incomplete="short", rate="slow", breath=breath))
        assert heard.duration_s < 1.0 and heard.speech_end_s - heard.speech_start_s > 0.2


def test_the_mouth_follows_the_words_and_not_the_noise():
    quiet, noisy = voice.speak(spec(loudness="soft")), voice.speak(spec(loudness="soft", snr_db=0.0))
    assert np.array_equal(quiet.mouth, noisy.mouth) and len(quiet.mouth) == int(np.ceil(len(quiet.samples) / 160))
    assert quiet.mouth.min() == 0 and quiet.mouth.max() == 1
    start, end = round(quiet.speech_start_s * 100), round(quiet.speech_end_s * 100)
    assert not quiet.mouth[: start - 4].any() and not quiet.mouth[end + 4 :].any()
    assert quiet.mouth[start:end].mean() > 0.3 and quiet.mouth[start:end].std() > 0.15


def test_there_are_speakers_enough_and_the_splits_share_none():
    assert len(voice.SPEAKERS) >= 24 and all(key == s.id for key, s in voice.SPEAKERS.items())
    timbres = {}
    for language in ("en", "zh"):
        heard = {}
        for split, at_least in (("train", 12), ("validation", 2), ("test", 4), ("speech", 200)):
            heard[split] = voice.speakers(split, language)
            assert len(heard[split]) >= at_least
            women = voice.speakers(split, language, "female")
            assert 2 * len(women) == len(heard[split]) and {s.sex for s in women} == {"female"}
            settings = {(s.pitch_hz, s.formants, s.width) for s in heard[split]}
            timbres.setdefault(split, set()).update(settings)
        assert voice.speakers("combinations", language) == voice.speakers("style", language) == heard["test"]
    assert sum(s.split == "test" for s in voice.SPEAKERS.values()) >= 6
    splits = list(timbres.values())
    assert all(not a & b for i, a in enumerate(splits) for b in splits[i + 1 :])


def test_no_drawn_voice_is_near_one_that_is_held_out():
    held_out = [s for s in voice.SPEAKERS.values() if s.split in ("validation", "test")]
    for drawn in voice.speakers("speech", "en"):
        for other in (s for s in held_out if s.language == "en" and s.sex == drawn.sex):
            assert max(abs(a - b) for a, b in zip(drawn.formants, other.formants, strict=True)) >= 2


def test_the_other_style_speaks_with_other_settings():
    assert digest(voice.speak(spec(style=1))) != digest(voice.speak(spec(style=0)))
    known = {(s.pitch_hz, s.formants, s.width) for s in voice.SPEAKERS.values()}
    for speaker in voice.speakers("style", "en"):
        other = voice.restyled(speaker, 1)
        assert (other.pitch_hz, other.formants, other.width) not in known and voice.restyled(speaker, 0) == speaker


def test_phonemes_are_those_of_the_words_in_order():
    seven, sunday = voice.phonemes("seven", "en"), voice.phonemes("sunday", "en")
    assert len(seven) == 5 and seven[0] == sunday[0], "both begin with s"
    assert voice.phonemes("seven sunday", "en") == seven + sunday
    assert voice.phonemes("i knew", "en") == voice.phonemes("i new", "en"), "spelling does not matter"
    mother, horse = voice.phonemes("妈", "zh"), voice.phonemes("马", "zh")
    assert mother != horse and mother[0] == horse[0], "the tone is the vowel's"
    assert voice.phonemes("妈，马。", "zh") == mother + horse, "a second clause is read too"
    assert not any(mark in name for name in (*seven, *mother) for mark in "',| ")
    with pytest.raises(KeyError):
        voice.phonemes("seven", "fr")


def test_unknown_splits_and_empty_texts_are_named():
    with pytest.raises(ValueError, match="'dev'"):
        voice.speakers("dev", "en")
    with pytest.raises(ValueError, match="'fr'"):
        voice.speakers("test", "fr")
    with pytest.raises(ValueError, match="clip clip: .*no sound"):
        voice.speak(replace(spec(), words=Words("", "en", "neutral", "none", "t")))
