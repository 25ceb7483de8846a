"""saber.media on files that are rendered here: brightness and pitch tell the time, so alignment can be measured."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter
from damage import png, with_picture
from hypothesis import given, settings
from hypothesis import strategies as st

from saber import media
from saber.media import Limits, MediaError, MediaSettings, decode, decode_here, decoding, probe
from saber.media.survey import Watch, survey_part
from saber.media.worker import _POOL
from saber.schema import Clip

KEEP = MediaSettings(max_pixels=None)


class Unseekable(io.RawIOBase):
    """A target that cannot go back, such as a browser's recorder: no duration is ever written."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "wb")

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        return self.file.write(data)

    def close(self) -> None:
        self.file.close()


def grey(t: float) -> int:
    """Brightness that tells the time: 30 a second from 20."""
    return int(20 + 30 * t)


def pitch_hz(t):
    return 300 + 200 * t


def sound_values(seconds: float, rate_hz: int) -> np.ndarray:
    """A tone that rises by 200 Hz a second."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.4 * np.sin(2 * np.pi * (300 * t + 100 * t**2))).astype(np.float32)


def heard_pitch_hz(samples: np.ndarray, at_s: float, rate_hz: int = 16000) -> float:
    piece = samples[round((at_s - 0.04) * rate_hz) : round((at_s + 0.04) * rate_hz)]
    spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 1 << 15))
    return float(np.argmax(spectrum) * rate_hz / (1 << 15))


def render(
    path,
    seconds=3.0,
    fps=25,
    size=(64, 48),
    codec="h264",
    sound="aac",
    rate_hz=48000,
    layout="stereo",
    sound_delay_s=0.0,
    sound_s=None,
    frame_times=None,
    picture=None,
    rotation=0,
    gop=12,
    container=None,
    options=None,
    codec_options=None,
    clock_s=0.0,
):
    """Writes a clip whose frames are grey(t) and whose tone is pitch_hz(t). ``frame_times``: variable frame rate.
    ``picture``: (H, W, 3), or a function of the time, in place of grey. ``clock_s``: what the file calls its start."""
    width, height = size
    target = Unseekable(path) if container else str(path)
    with av.open(target, "w", format=container, options=options or {}) as out:
        if codec:
            video = out.add_stream(codec, rate=fps, options=codec_options or {})
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            video.gop_size = gop
            video.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                video.set_display_rotation(rotation)
        if sound:
            audio = out.add_stream(sound, rate=rate_hz, layout=layout)
        packets = []
        if codec:
            for t in frame_times if frame_times is not None else np.arange(round(seconds * fps)) / fps:
                values = np.full((height, width, 3), grey(t), np.uint8) if picture is None else picture
                values = values(t) if callable(values) else values
                frame = av.VideoFrame.from_ndarray(values, format="rgb24")
                frame.pts, frame.time_base = round((t + clock_s) * 1000), Fraction(1, 1000)
                packets += video.encode(frame)
            packets += video.encode(None)
        if sound:
            values = sound_values(sound_s or seconds, rate_hz)
            planes = np.tile(values, (audio.channels, 1))
            resampler = av.AudioResampler(audio.format, audio.layout, rate_hz, audio.codec_context.frame_size or 1024)
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
            for piece in resampler.resample(frame) + resampler.resample(None):
                piece.pts += round((sound_delay_s + clock_s) * rate_hz)
                packets += audio.encode(piece)
            packets += audio.encode(None)
        packets = [packet for packet in packets if packet.size]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    if container:
        target.close()
    return path


def assert_shows(decoded, offset_s=0.0, tolerance=6):
    """Each frame's brightness is that of its time."""
    for frame, at_s in zip(decoded.frames, decoded.frame_times_s, strict=True):
        assert abs(float(frame.mean()) - grey(at_s + offset_s)) < tolerance, (at_s, frame.mean())


def assert_sounds(decoded, offset_s=0.0, times=None, rate_hz=16000):
    """The tone's pitch is that of its time, to 20 ms."""
    for at_s in times or np.arange(0.1, decoded.duration_s - 0.1, 0.3):
        heard = heard_pitch_hz(decoded.audio, at_s, rate_hz)
        assert abs(heard - pitch_hz(at_s + offset_s)) < 4, (at_s, heard, pitch_hz(at_s + offset_s))


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    return render(tmp_path_factory.mktemp("media") / "clip.mp4", seconds=6)


# -------------------------------------------------------------------------------------------- decoding


def test_an_mp4_gives_frames_on_an_even_grid_and_sixteen_kilohertz_mono(clip_path):
    decoded = decode(Clip(str(clip_path)), MediaSettings())
    assert decoded.frames.shape == (12, 48, 64, 3) and decoded.frames.dtype == np.uint8
    np.testing.assert_allclose(decoded.frame_times_s, np.arange(12) / 2)
    assert decoded.fps == 2.0 and decoded.duration_s == pytest.approx(6.0, abs=0.03)
    assert decoded.audio.dtype == np.float32 and len(decoded.audio) == round(decoded.duration_s * 16000)
    assert_shows(decoded)
    assert_sounds(decoded)
    assert not decoded.notes
    facts = decoded.facts
    assert facts == probe(clip_path)
    assert (facts.has_video, facts.has_audio, facts.width, facts.height, facts.rotation) == (True, True, 64, 48, 0)
    assert (facts.video_codec, facts.audio_codec, facts.sample_rate_hz, facts.channels) == ("h264", "aac", 48000, 2)
    assert facts.duration_s == pytest.approx(6.0, abs=0.03) and facts.fps == 25.0


def test_the_worker_and_the_caller_decode_the_same(clip_path):
    clip = Clip(str(clip_path), 1.3, 4.9)
    far, near = decode(clip, KEEP), decode_here(clip, KEEP)
    np.testing.assert_array_equal(far.frames, near.frames)
    np.testing.assert_array_equal(far.audio, near.audio)
    np.testing.assert_array_equal(far.frame_times_s, near.frame_times_s)
    assert (far.duration_s, far.fps, far.facts, far.notes) == (near.duration_s, near.fps, near.facts, near.notes)


def test_a_webm_without_a_duration_is_measured_by_its_frames_and_samples(tmp_path):
    path = render(tmp_path / "webcam.webm", seconds=3, codec="vp8", sound="opus", container="webm")
    assert probe(path).duration_s is None
    decoded = decode(Clip(str(path)))
    assert decoded.duration_s == pytest.approx(3.0, abs=0.05)
    assert len(decoded.frames) == 6
    assert_shows(decoded)
    assert_sounds(decoded)
    part = decode(Clip(str(path), 1.5, 2.5))
    assert part.duration_s == 1.0
    assert_shows(part, 1.5)
    assert_sounds(part, 1.5)


@pytest.mark.parametrize(("name", "codec", "sound"), [("a.webm", "vp8", "opus"), ("a.mp4", "h264", "aac")])
def test_a_whole_file_is_measured_whatever_its_header_says(tmp_path, name, codec, sound):
    picture = np.full((48, 64, 3), 90, np.uint8)
    path = render(tmp_path / name, seconds=40, codec=codec, sound=sound, fps=5, picture=picture)
    assert probe(path, whole=True).duration_s == pytest.approx(40.0, abs=0.1)
    if name == "a.mp4":  # a header that claims 4 s
        data = bytearray(path.read_bytes())
        at = data.index(b"mvhd") + 4
        rate = int.from_bytes(data[at + 12 : at + 16], "big")
        data[at + 16 : at + 20] = (4 * rate).to_bytes(4, "big")
        path.write_bytes(data)
        assert probe(path, whole=True).duration_s == pytest.approx(40.0, abs=0.1)
    sound_alone = render(tmp_path / "alone.wav", seconds=3, codec=None, sound="pcm_s16le", container="wav")
    assert probe(sound_alone, whole=True).duration_s == pytest.approx(3.0, abs=0.01)


def test_variable_frame_rate_is_sampled_by_time_and_not_by_count(tmp_path):
    times = [*np.arange(0, 1, 0.02), 1.0, 2.0, *np.arange(2.6, 4, 0.04)]
    path = render(tmp_path / "vfr.mp4", seconds=4, frame_times=times, fps=50)
    decoded = decode(Clip(str(path)), MediaSettings(fps=5))
    assert len(decoded.frames) == 20
    for frame, at_s in zip(decoded.frames, decoded.frame_times_s, strict=True):
        on_show = max(t for t in times if t <= at_s + 1e-3)
        assert abs(float(frame.mean()) - grey(on_show)) < 6, (at_s, on_show)


def test_more_frames_than_allowed_lowers_the_rate_evenly(clip_path):
    decoded = decode(Clip(str(clip_path)), MediaSettings(fps=25, max_frames=7))
    assert len(decoded.frames) == 7
    np.testing.assert_allclose(np.diff(decoded.frame_times_s), decoded.duration_s / 7, rtol=0.01)
    assert decoded.fps == pytest.approx(7 / decoded.duration_s, rel=0.01)
    assert_shows(decoded)


def test_a_part_holds_exactly_its_frames_and_samples(clip_path):
    for start_s, end_s in ((2.2, 3.7), (0.0, 0.4), (0.05, 1.0), (4.9, 5.9), (1.01, 1.05)):
        part = decode(Clip(str(clip_path), start_s, end_s), MediaSettings(fps=10, max_frames=99))
        assert part.duration_s == pytest.approx(end_s - start_s)
        assert len(part.audio) == round((end_s - start_s) * 16000)
        assert len(part.frames) == max(1, round((end_s - start_s) * 10))
        assert_shows(part, start_s)
        if end_s - start_s > 0.3:
            assert_sounds(part, start_s)


def test_only_the_groups_of_pictures_that_are_needed_are_decoded(tmp_path, monkeypatch):
    picture = np.full((48, 64, 3), 90, np.uint8)
    path = render(tmp_path / "long.mp4", seconds=20, fps=10, gop=10, sound=None, picture=picture)
    seen = []
    whole = decoding.decode_packet
    monkeypatch.setattr(decoding, "decode_packet", lambda *given: seen.append(1) or whole(*given))
    decode_here(Clip(str(path)), MediaSettings(fps=0.2))
    assert len(seen) < 40  # Of 200 packets.


@pytest.mark.parametrize("codec_options", [{}, {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:keyint=9"}])
def test_skipping_pictures_gives_the_same_frames_as_decoding_them_all(tmp_path, codec_options):
    noise = np.random.default_rng(1).integers(0, 255, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    path = render(
        tmp_path / "all.mp4",
        seconds=3,
        sound=None,
        codec_options=codec_options,
        picture=lambda t: np.roll(noise, round(t * 50), axis=1),
    )
    with av.open(str(path)) as container:
        every = [(frame.time, frame) for frame in container.decode(video=0)]
    quality = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    for fps in (1, 3.7, 25):
        decoded = decode_here(Clip(str(path), 0.3), MediaSettings(fps=fps, max_frames=99, max_pixels=None))
        for frame, at_s in zip(decoded.frames, decoded.frame_times_s, strict=True):
            on_show = [f for t, f in every if t <= at_s + 0.3 + 1e-3][-1]
            same = VideoReformatter().reformat(on_show, 64, 48, "rgb24", interpolation=quality).to_ndarray()
            np.testing.assert_array_equal(frame, same)


def test_rotation_flags_are_applied_as_the_file_asks(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :20] = (255, 0, 0)  # Red on the left as stored.
    for rotation, red in ((90, "bottom"), (-90, "top"), (180, "right")):
        path = render(tmp_path / f"{rotation}.mp4", seconds=0.5, picture=picture, rotation=rotation, sound=None)
        frame = decode(Clip(str(path)), KEEP).frames[0].astype(int)
        sides = {"top": frame[:10], "bottom": frame[-10:], "left": frame[:, :10], "right": frame[:, -10:]}
        reddest = max(sides, key=lambda side: sides[side][..., 0].mean())
        assert reddest == red
        facts = probe(path)
        assert (facts.height, facts.width) == frame.shape[:2] == ((64, 48) if rotation != 180 else (48, 64))


def test_the_rotation_sign_is_that_of_the_matrix_in_the_file(tmp_path):
    # ISO 14496-12: a point (x, y) is shown at (a x + c y, b x + d y), y downwards.
    path = render(tmp_path / "turn.mp4", seconds=0.5, rotation=90, sound=None)
    data = path.read_bytes()
    matrix = data.index(b"tkhd") + 4 + 40
    a, b, _, c, d = (int.from_bytes(data[matrix + 4 * i : matrix + 4 * i + 4], "big", signed=True) for i in range(5))
    # A step to the right in the stored picture goes up on the screen: counterclockwise, so left becomes bottom.
    assert (np.sign(a), np.sign(b), np.sign(c), np.sign(d)) == (0, -1, 1, 0)


@pytest.mark.parametrize(
    ("rate_hz", "layout", "sound"),
    [
        (48000, "stereo", "aac"),
        (8000, "mono", "pcm_s16le"),
        (44100, "5.1", "aac"),
        (16000, "mono", "flac"),
        (22050, "mono", "aac"),
    ],
)
def test_any_rate_and_layout_becomes_mono_of_the_same_loudness(tmp_path, rate_hz, layout, sound):
    path = render(tmp_path / "sound.mkv", seconds=3, codec=None, rate_hz=rate_hz, layout=layout, sound=sound)
    decoded = decode(Clip(str(path)))
    assert decoded.frames is None and len(decoded.frame_times_s) == 0 and "no_picture" in decoded.notes
    assert len(decoded.audio) == round(decoded.duration_s * 16000)
    assert decoded.duration_s == pytest.approx(3.0, abs=0.07)
    assert np.abs(decoded.audio[8000:40000]).max() == pytest.approx(0.4, abs=0.04)
    assert_sounds(decoded, times=(0.3, 1.0, 2.0, 2.7))


def test_a_wav_and_a_part_of_it(tmp_path):
    path = render(tmp_path / "voice.wav", seconds=4, codec=None, sound="pcm_s16le", rate_hz=8000, layout="mono")
    part = decode(Clip(str(path), 1.25, 3.0))
    assert len(part.audio) == 28000 and part.duration_s == 1.75
    assert_sounds(part, 1.25)
    other_rate = decode(Clip(str(path)), MediaSettings(sample_rate_hz=24000))
    assert len(other_rate.audio) == 96000
    assert_sounds(other_rate, rate_hz=24000)


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [
        ("a.ts", "h264", "aac"),
        ("a.mkv", "h264", "flac"),
        ("a.avi", "h264", "pcm_s16le"),  # It stores no presentation times, and the pictures are reordered.
        ("a.h264", "h264", None),  # It stores no times at all.
        ("a.mov", "h264", "pcm_s16le"),
        ("a.webm", "vp9", "opus"),
        ("a.flv", "h264", "aac"),
    ],
)
def test_other_containers_show_the_right_frame_at_the_right_time(tmp_path, name, codec, sound):
    path = render(tmp_path / name, seconds=4, codec=codec, sound=sound)
    for start_s, end_s in ((0.0, None), (2.3, 3.6)):
        decoded = decode(Clip(str(path), start_s, end_s), MediaSettings(fps=5))
        assert_shows(decoded, start_s, tolerance=4)
        assert len(decoded.frames) == (7 if end_s else 20) and "damaged" not in decoded.notes
        with pytest.raises(MediaError, match="begins at 9 s"):
            decode(Clip(str(path), 9.0))
        if sound and sound != "aac":  # In these containers AAC keeps its run-up of 21 ms.
            assert_sounds(decoded, start_s, times=(0.2, 0.7, 1.1))


def test_a_file_inside_a_tar_is_read_where_it_lies_and_nothing_beside_it(clip_path, tmp_path):
    content, other = clip_path.read_bytes(), b"\0" * 700
    archive = tmp_path / "a tar, with commas.tar"
    archive.write_bytes(other + content + other)
    inside = Clip(str(archive), id="clip7", start_s=0.5, span=(len(other), len(content)))
    alone = decode_here(Clip(str(clip_path), start_s=0.5))
    for found in (decode_here(inside), decode(inside)):
        assert np.array_equal(found.frames, alone.frames) and np.array_equal(found.audio, alone.audio)
        assert found.facts == alone.facts and not found.notes
    for span, limits, reason in [
        ((len(other), len(content) + 701), Limits(), "damaged"),
        ((len(other), 0), Limits(), "empty"),
        ((0, 700), Limits(), "not_media"),
        ((len(other), 40), Limits(), "damaged"),
        ((len(other), len(content)), Limits(max_bytes=len(content) - 1), "too_large"),
    ]:
        for read in (decode_here, decode):
            with pytest.raises(MediaError, match="^clip clip7 in a tar, with commas.tar: ") as error:
                read(Clip(str(archive), id="clip7", span=span), limits=limits)
            assert error.value.reason == reason
    with pytest.raises(ValueError, match=r"clip clip7: span is \(-1, 2\)"):
        Clip(str(archive), id="clip7", span=(-1, 2))


def test_a_clock_that_does_not_start_at_zero_is_set_to_zero(tmp_path):
    path = render(tmp_path / "clock.mkv", seconds=3, clock_s=7.0, sound="flac")
    with av.open(str(path)) as made:
        assert made.start_time == 7_000_000
    for start_s in (0.0, 1.6):
        decoded = decode(Clip(str(path), start_s))
        assert decoded.duration_s == pytest.approx(3.0 - start_s, abs=0.01) and decoded.frame_times_s[0] == 0
        assert_shows(decoded, start_s)
        assert_sounds(decoded, start_s)


def test_a_late_part_is_reached_by_a_seek_and_reading_stops_after_it(tmp_path):
    path = render(tmp_path / "long.mp4", seconds=40, fps=10, picture=np.zeros((48, 64, 3), np.uint8), sound=None)
    survey = survey_part(Watch(Clip(str(path), 20.0, 21.0), Limits()))
    assert survey.seek_s == 19.0 and survey.packets < 40  # Of 400.


def test_a_hole_in_the_sound_is_silent_and_what_follows_stays_in_place(tmp_path):
    path = tmp_path / "hole.mkv"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        values = (sound_values(3, 16000) * 32767).astype(np.int16)
        for start in (*range(0, 16000, 800), *range(32000, 48000, 800)):
            frame = av.AudioFrame.from_ndarray(values[None, start : start + 800].copy(), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            out.mux(audio.encode(frame))
    decoded = decode(Clip(str(path)), MediaSettings(sample_rate_hz=24000))
    assert decoded.duration_s == pytest.approx(3.0, abs=0.01)
    assert np.abs(decoded.audio[24100:47900]).max() == 0
    assert_sounds(decoded, times=(0.5, 0.9, 2.1, 2.7), rate_hz=24000)


def test_a_long_sound_block_is_heard_from_its_middle_on(tmp_path):
    path = tmp_path / "blocks.mkv"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        values = (sound_values(4, 16000) * 32767).astype(np.int16)
        for second in range(0, 4, 2):
            block = values[None, second * 16000 : (second + 2) * 16000]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, second * 16000
            out.mux(audio.encode(frame))
    part = decode(Clip(str(path), 1.5, 3.0))
    assert_sounds(part, 1.5)


def test_a_click_lies_at_its_sample(tmp_path):
    values = np.zeros(48000, np.float32)
    values[24000] = 0.9
    path = tmp_path / "click.wav"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray((values * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        out.mux(audio.encode(frame))
    assert abs(int(np.argmax(np.abs(decode(Clip(str(path))).audio))) - 8000) <= 1


def test_a_silent_video_has_no_audio_and_says_so(tmp_path):
    path = render(tmp_path / "mute.mp4", sound=None)
    decoded = decode(Clip(str(path)))
    assert decoded.audio is None and len(decoded.frames) == 6 and decoded.duration_s == pytest.approx(3.0)
    assert list(decoded.notes) == ["no_sound"]
    assert decoded.note_sentences() == ("This clip has no sound.",)
    with pytest.raises(MediaError) as caught:
        decode(Clip(str(path)), tracks="sound")
    assert caught.value.reason == "no_sound"


def test_one_track_can_be_asked_for(clip_path):
    picture, sound = (decode(Clip(str(clip_path), 1, 3), tracks=tracks) for tracks in ("picture", "sound"))
    both = decode(Clip(str(clip_path), 1, 3))
    assert picture.audio is None and sound.frames is None and not picture.notes and not sound.notes
    np.testing.assert_array_equal(picture.frames, both.frames)
    np.testing.assert_array_equal(sound.audio, both.audio)
    with pytest.raises(ValueError, match="'smell'"):
        decode(Clip(str(clip_path)), tracks="smell")


def test_sound_that_starts_late_is_padded_and_stays_aligned(tmp_path):
    path = render(tmp_path / "late.mkv", seconds=4, sound_delay_s=1.0, sound_s=2.0)
    decoded = decode(Clip(str(path)))
    assert decoded.duration_s == pytest.approx(4.0, abs=0.05)
    assert np.abs(decoded.audio[: int(0.95 * 16000)]).max() < 1e-3
    assert np.abs(decoded.audio[int(3.1 * 16000) :]).max() < 1e-3  # And the end, where there is none, is silent.
    assert_sounds(decoded, -1.0, times=(1.3, 2.0, 2.8))
    assert_shows(decoded)
    inside = decode(Clip(str(path), 2.0, 3.0))
    assert_sounds(inside, 1.0)


def test_sound_longer_than_the_picture_does_not_repeat_the_last_frame(tmp_path):
    path = render(tmp_path / "short-picture.mp4", seconds=1, sound_s=4)
    decoded = decode(Clip(str(path)))
    assert decoded.duration_s == pytest.approx(4.0, abs=0.05) and len(decoded.frames) == 2
    tail = decode(Clip(str(path), 2.0))
    assert tail.frames is None and "no_picture" in tail.notes
    assert_sounds(tail, 2.0, times=(0.3, 1.0, 1.6))


def test_a_cover_picture_is_not_a_picture_track(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("libmp3lame" if "libmp3lame" in av.codecs_available else "mp3", rate=44100)
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        out.mux(cover.encode(av.VideoFrame(32, 32, "yuvj420p")))
        frame = av.AudioFrame.from_ndarray(sound_values(2, 44100)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        resampler = av.AudioResampler(audio.format, audio.layout, 44100, audio.codec_context.frame_size or 1152)
        for piece in resampler.resample(frame) + resampler.resample(None):
            out.mux(audio.encode(piece))
        out.mux(audio.encode(None))
    with av.open(str(path)) as made:
        assert made.streams.video  # There is one, or this test shows nothing.
    facts = probe(path)
    assert not facts.has_video and facts.has_audio
    decoded = decode(Clip(str(path)))
    assert decoded.frames is None and decoded.duration_s == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("size", [(1, 1), (64, 1), (1, 64), (33, 17), (126, 2), (2, 126)])
@pytest.mark.parametrize("pixels", [(None, None), (None, 500), (4000, 100_000)])
def test_odd_and_thin_pictures_are_read(tmp_path, size, pixels):
    width, height = size
    path = tmp_path / "odd.mov"
    with av.open(str(path), "w") as out:
        video = out.add_stream("png", rate=5)
        video.width, video.height, video.pix_fmt = width, height, "rgb24"
        for _ in range(5):
            values = np.full((height, width, 3), (200, 100, 50), np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        out.mux(video.encode(None))
    decoded = decode_here(Clip(str(path)), MediaSettings(min_pixels=pixels[0], max_pixels=pixels[1]))
    shape = decoded.frames.shape
    assert shape[0] == 2 and np.abs(decoded.frames.astype(int) - (200, 100, 50)).max() <= 2
    assert shape[1] * shape[2] <= (pixels[1] or width * height)
    if pixels[1] is None:
        assert shape[1:3] == (height, width)


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = tmp_path / "anamorphic.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("h264", rate=5)
        video.width, video.height, video.pix_fmt = 72, 48, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for _ in range(5):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 72, 3), np.uint8), format="rgb24")))
        out.mux(video.encode(None))
    assert decode(Clip(str(path)), KEEP).frames.shape[1:3] == (48, 96)
    assert (probe(path).width, probe(path).height) == (96, 48)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 500_000))
def test_a_frame_never_exceeds_its_pixel_budget_and_keeps_its_shape(width, height, most):
    new_width, new_height = media.fit_pixels(width, height, MediaSettings(max_pixels=most))
    assert 1 <= new_width * new_height <= max(1, most) or (new_width, new_height) == (width, height)
    assert new_width * new_height <= most
    if min(new_width, new_height) > 20:
        assert new_width / new_height == pytest.approx(
            width / height, rel=0.1
        )  # rounding of 20 pixels and of the budget
        assert new_width * new_height >= 0.9 * min(most, width * height)


@given(st.floats(0.0, 4000), st.floats(0.05, 60), st.integers(1, 200))
def test_sampling_times_are_even_inside_the_part_and_bounded(span_s, fps, most):
    times, rate = media.sampling_times_s(span_s, MediaSettings(fps=fps, max_frames=most))
    assert 1 <= len(times) <= most and times[0] == 0 and times[-1] <= span_s + 1e-9
    assert rate <= fps * 1.0001
    assert len(times) == 1 or np.allclose(np.diff(times), 1 / rate)
    assert span_s - times[-1] <= 1 / rate * 1.01  # No stretch at the end without a frame.


# ------------------------------------------------------------------------------------- what goes wrong


def cut(path: Path, share: float, target: Path) -> Path:
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def bad_inputs(folder: Path) -> dict[str, tuple[Clip, Limits]]:
    """Case -> (clip, limits); the case's first word is the expected reason."""
    good = render(folder / "good.mp4", seconds=2)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is no film.\n" * 40)
    (folder / "zeros.mp4").write_bytes(bytes(5000))
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:2,\n{good}\n#EXT-X-ENDLIST\n")
    (folder / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{good.name}'\n")
    (folder / "tones.sbg").write_text("a: 200+10/50\nNOW a\n+00:00:05 a\n")  # FFmpeg can turn such a text into sound.
    (folder / "words.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    os.mkfifo(folder / "pipe.mp4")
    cases = {
        "missing": Clip(str(folder / "nothing.mp4")),
        "missing, with a zero byte": Clip("a\0b"),
        "directory": Clip(str(folder)),
        "not_a_file, a pipe": Clip(str(folder / "pipe.mp4")),
        "empty": Clip(str(folder / "empty.mp4")),
        "not_media, text": Clip(str(folder / "text.mp4")),
        "not_media, zeros": Clip(str(folder / "zeros.mp4")),
        "not_media, a playlist that names another file": Clip(str(folder / "list.m3u8")),
        "not_media, a list that names another file": Clip(str(folder / "list.ffconcat")),
        "not_media, a text that describes a sound": Clip(str(folder / "tones.sbg")),
        "no_tracks, subtitles": Clip(str(folder / "words.srt")),
        "damaged, its index was at the end": Clip(str(cut(good, 0.6, folder / "cut.mp4"))),
        "damaged, only a header": Clip(str(cut(good, 0.002, folder / "head.mp4"))),
        "outside": Clip(str(good), 2.5),
        "outside, with an end": Clip(str(good), 2.5, 3.0),
    }
    return {case: (clip, Limits()) for case, clip in cases.items()} | {
        "too_long, whole": (Clip(str(good)), Limits(max_part_s=1.0)),
        "too_long, part": (Clip(str(good), 0.1, 1.9), Limits(max_part_s=1.0)),
        "file_too_long": (Clip(str(good), 0.0, 0.5), Limits(max_duration_s=1.0)),
        "too_large": (Clip(str(good)), Limits(max_bytes=1000)),
        "frame_too_large, area": (Clip(str(good)), Limits(max_frame_pixels=3000)),
        "frame_too_large, side": (Clip(str(good)), Limits(max_side=60)),
        "frame_too_thin": (Clip(str(good)), Limits(max_aspect=1.2)),
        "timeout": (Clip(str(good)), Limits(timeout_s=0.0)),
    }


def test_each_bad_input_is_an_error_that_names_clip_reason_and_next_step(tmp_path):
    for case, (clip, limits) in bad_inputs(tmp_path).items():
        for read in (decode, lambda clip, **given: decode_here(clip, **given)):
            with pytest.raises(MediaError) as caught:
                read(clip, limits=limits)
            error = caught.value
            assert error.reason == case.split(",")[0], (case, error)
            assert clip.id in error.message and error.next_step in error.message
            assert "{" not in error.sentence("en") + error.sentence("zh")
    with pytest.raises(MediaError, match=r"is 2\.0 s long; at most 1 s .* start_s and end_s"):
        decode(Clip(str(tmp_path / "good.mp4")), limits=Limits(max_part_s=1.0))


def test_an_error_can_pass_between_processes_and_every_reason_has_both_languages():
    error = pickle.loads(pickle.dumps(MediaError("too_large", "a", {"size_mb": 3.0, "limit_mb": 2.0})))
    assert (error.reason, error.clip) == ("too_large", "a") and "3 MB" in error.message
    assert "3 MB" in error.sentence("zh")
    for table in (media.REASONS, media.NOTES):
        for languages in table.values():
            assert set(languages) == {"en", "zh"}


def test_a_file_without_a_length_that_goes_on_too_long_is_refused(tmp_path):
    path = render(tmp_path / "endless.webm", seconds=4, codec="vp8", sound="opus", container="webm")
    with pytest.raises(MediaError) as caught:
        decode(Clip(str(path)), limits=Limits(max_part_s=2))
    assert caught.value.reason == "too_long"
    assert decode(Clip(str(path), 1, 3), limits=Limits(max_part_s=2)).duration_s == 2


def test_a_last_frame_that_is_shown_for_ever_counts_as_length(tmp_path):
    path = render(tmp_path / "still.mp4", seconds=1, fps=10, sound=None, options={"use_editlist": "0"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"stts") + 8  # One entry: count, then the length of each frame.
    assert int.from_bytes(data[entry : entry + 4], "big") == 1
    length = int.from_bytes(data[entry + 8 : entry + 12], "big")
    data[entry + 8 : entry + 12] = (length * 400).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(MediaError) as caught:
        decode(Clip(str(path)), limits=Limits(max_part_s=390))
    assert caught.value.reason == "too_long"


def test_a_part_that_ends_after_the_file_says_so(clip_path):
    decoded = decode(Clip(str(clip_path), 5.0, 9.0))
    assert decoded.duration_s == pytest.approx(1.0, abs=0.03) and "shortened" in decoded.notes
    assert "6.0" in decoded.note_sentences()[0]


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    whole = render(tmp_path / "whole.mp4", seconds=6, options={"movflags": "+faststart"})
    decoded = decode(Clip(str(cut(whole, 0.6, tmp_path / "cut.mp4"))))
    assert "damaged" in decoded.notes
    read_s = decoded.notes["damaged"]["read_s"]
    assert 2 < read_s < 5 and read_s == decoded.duration_s
    assert decoded.frame_times_s[-1] < read_s
    assert_shows(decoded)
    assert_sounds(decoded, times=(0.3, 1.0, 1.8))
    webm = render(tmp_path / "whole.webm", seconds=6, codec="vp8", sound="opus")
    assert 2 < decode(Clip(str(cut(webm, 0.6, tmp_path / "cut.webm")))).duration_s < 5


@pytest.mark.parametrize("name", ["a.wav", "a.avi", "a.flv"])
def test_a_cut_is_noted_where_only_the_header_tells_of_it(tmp_path, name):
    pcm = name != "a.flv"
    whole = render(
        tmp_path / name, seconds=4, codec=None if name == "a.wav" else "h264", sound="pcm_s16le" if pcm else "aac"
    )
    assert "damaged" not in decode(Clip(str(whole))).notes
    with av.open(str(whole)) as made:  # Where a packet begins: of what comes before, nothing is missing.
        begin = [packet.pos for packet in made.demux() if packet.pos and packet.pos > 0.6 * whole.stat().st_size][0]
    part = tmp_path / f"cut-{name}"
    part.write_bytes(whole.read_bytes()[:begin])
    assert decode(Clip(str(part))).notes["damaged"]["read_s"] < 3.5
    assert "damaged" not in decode(Clip(str(part), 0.2, 0.6)).notes  # All that was asked for is there.
    if name == "a.wav":  # A writer that counts its own header, and a recorder that could not go back to write sizes.
        for path, stated in ((whole, whole.stat().st_size), (part, 2**32 - 1)):
            path.write_bytes(path.read_bytes()[:4] + stated.to_bytes(4, "little") + path.read_bytes()[8:])
            assert "damaged" not in decode(Clip(str(path))).notes


def test_pictures_that_cannot_be_decoded_end_the_clip_where_they_begin(tmp_path):
    path = render(tmp_path / "end.mp4", seconds=4, sound=None)
    with av.open(str(path)) as container:
        lost = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.dts * p.time_base >= 2.0]
    data = bytearray(path.read_bytes())
    for place, size in lost:
        data[place : place + size] = bytes(size)
    path.write_bytes(data)
    decoded = decode(Clip(str(path)))
    assert decoded.notes["damaged"]["read_s"] == decoded.duration_s == pytest.approx(2.0, abs=0.1)
    assert len(decoded.frames) == len(decoded.frame_times_s) and decoded.frame_times_s[-1] < decoded.duration_s
    assert_shows(decoded)


def test_a_header_that_asks_for_the_impossible_is_an_error_and_no_bug(tmp_path):
    data = bytearray(render(tmp_path / "a.wav", seconds=1, codec=None, sound="pcm_s16le").read_bytes())
    data[22:24] = (25).to_bytes(2, "little")  # Channels: no layout has so many.
    (tmp_path / "channels.wav").write_bytes(data)
    with pytest.raises(MediaError):
        decode(Clip(str(tmp_path / "channels.wav")))


def test_noise_inside_a_file_is_noted_or_survived_and_never_crashes_the_caller(tmp_path):
    data = bytearray(render(tmp_path / "good.mp4", seconds=3, options={"movflags": "+faststart"}).read_bytes())
    random = np.random.default_rng(5)
    start = data.index(b"mdat") + 8
    for place in random.integers(start, len(data), 300):
        data[place] = int(random.integers(256))
    path = tmp_path / "noisy.mp4"
    path.write_bytes(data)
    decoded = decode(Clip(str(path)))
    assert "damaged" in decoded.notes


@settings(max_examples=25)
@given(st.data())
def test_any_change_to_a_file_ends_in_a_result_or_a_media_error(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    good = folder / "good.mp4"
    if not good.exists():
        render(good, seconds=0.6, fps=10)
    changed = bytearray(good.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=12)):
        changed[place] = data.draw(st.integers(0, 255))
    (folder / "changed.mp4").write_bytes(changed[: data.draw(st.integers(1, len(changed)))])
    try:
        decoded = decode(Clip(str(folder / "changed.mp4")), limits=Limits(timeout_s=10))
    except MediaError as error:
        assert error.reason != "crashed"
    else:
        assert decoded.frames is not None or decoded.audio is not None
        assert decoded.audio is None or np.isfinite(decoded.audio).all()


# ------------------------------------------------------------------------------------------- isolation


@pytest.fixture
def pool():
    """The pool without workers, so that a test knows whose process it sees."""
    _POOL.close()
    yield _POOL
    _POOL.close()


def test_a_decoder_that_hangs_is_killed_and_the_next_call_works(pool, clip_path):
    clip = Clip(str(clip_path), 0, 1)
    decode(clip)
    (worker,) = pool.all
    os.kill(worker.process.pid, signal.SIGSTOP)  # As dead to the caller as a decoder that loops.
    started = time.monotonic()
    with pytest.raises(MediaError) as caught:
        decode(clip, limits=Limits(timeout_s=0.3))
    assert caught.value.reason == "timeout" and time.monotonic() - started < 3
    assert worker.process.poll() is not None
    assert decode(clip).duration_s == 1


def test_a_long_decoding_stops_itself_in_time(tmp_path, pool):
    path = render(
        tmp_path / "big.mp4", seconds=4, size=(640, 480), fps=50, sound=None, codec_options={"preset": "ultrafast"}
    )
    with pytest.raises(MediaError) as caught:
        decode(Clip(str(path)), MediaSettings(fps=50, max_frames=200), Limits(timeout_s=0.02))
    assert caught.value.reason == "timeout"
    (worker,) = pool.all  # It looked at its own clock: no need to replace it.
    assert worker.process.poll() is None


def test_a_worker_that_dies_is_an_error_and_the_next_call_works(pool, clip_path):
    clip = Clip(str(clip_path), 0, 1)
    decode(clip)
    (worker,) = pool.all
    os.kill(worker.process.pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (worker.process.pid, signal.SIGSEGV)).start()
    threading.Timer(0.3, os.kill, (worker.process.pid, signal.SIGCONT)).start()
    with pytest.raises(MediaError, match="SIGSEGV") as caught:
        decode(clip)
    assert caught.value.reason == "crashed"
    assert decode(clip).duration_s == 1
    (worker,) = pool.all
    worker.process.kill()
    worker.process.wait()
    assert decode(clip).duration_s == 1  # One that died between calls is replaced without a word.


def test_threads_decode_at_once_and_share_the_workers(pool, tmp_path):
    paths = [render(tmp_path / f"{i}.mp4", seconds=1 + i) for i in range(4)]
    lengths = {}

    def work(i):
        for _ in range(3):
            lengths.setdefault(i, []).append(decode(Clip(str(paths[i]))).duration_s)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: [round(s) for s in seconds] for i, seconds in lengths.items()} == {i: [1 + i] * 3 for i in range(4)}
    assert 1 <= len(pool.all) <= 4 and len(pool.idle) == len(pool.all)


def test_an_interrupted_call_does_not_leave_its_answer_to_the_next(pool, clip_path, monkeypatch):
    decode(Clip(str(clip_path), 0, 1))
    (worker,) = pool.all

    def interrupted(timeout_s):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode(Clip(str(clip_path), 0, 1))
    assert decode(Clip(str(clip_path), 0, 2)).duration_s == 2


SCRIPT = """
import os, sys
from saber.media import decode
from saber.media.worker import _POOL
from saber.schema import Clip
print(decode(Clip(sys.argv[1])).duration_s > 5.9, flush=True)
print(*[worker.process.pid for worker in _POOL.all], flush=True)
print("torch" in sys.modules, "transformers" in sys.modules, flush=True)
"""


@pytest.mark.parametrize("end", ["", "os._exit(0)", "raise SystemExit(3)"])
def test_a_script_without_a_main_guard_decodes_and_leaves_no_process(tmp_path, clip_path, end):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + end)
    run = subprocess.run(
        [sys.executable, str(script), str(clip_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(media.__file__).parents[2])},
    )
    lines = run.stdout.split("\n")
    assert lines[0] == "True", run.stderr
    pid = lines[1]
    assert lines[2] == "False False"
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        time.sleep(0.02)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_forked_process_starts_its_own_worker(pool, clip_path):
    decode(Clip(str(clip_path), 0, 1))
    mine = {worker.process.pid for worker in pool.all}
    read_end, write_end = os.pipe()
    pool.lock.acquire()  # As when another thread is just taking a worker.
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        decode(Clip(str(clip_path), 0, 1))
        theirs = {worker.process.pid for worker in pool.all}
        os.write(write_end, b"own" if theirs and not theirs & mine else b"shared")
        os._exit(0)
    pool.lock.release()
    os.waitpid(child, 0)
    os.close(write_end)
    assert os.read(read_end, 10) == b"own"
    os.close(read_end)
    assert decode(Clip(str(clip_path), 0, 1)).duration_s == 1


def peak_memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_ten_minutes_of_full_hd_stay_under_three_hundred_megabytes(tmp_path, pool):
    path = ten_minutes_of_full_hd(tmp_path / "long.mp4")
    part = decode(Clip(str(path), 300.0, 330.0))
    assert part.frames.shape[0] == 40 and part.frames.shape[1] * part.frames.shape[2] <= 128 * 28 * 28
    (worker,) = pool.all
    assert peak_memory_mb(worker.process.pid) < 300
    with pytest.raises(MediaError, match="600.0 s long"):
        decode(Clip(str(path)))
    whole = decode(Clip(str(path)), limits=Limits(max_part_s=700))
    assert whole.duration_s == pytest.approx(600) and len(whole.frames) == 40 and len(whole.audio) == 600 * 16000
    assert peak_memory_mb(worker.process.pid) < 300


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's memory")
def test_a_file_cannot_take_more_memory_than_is_allowed(tmp_path, pool):
    with av.open(str(tmp_path / "small.mov"), "w") as out:
        video = out.add_stream("png", rate=5)
        video.width, video.height, video.pix_fmt = 16, 16, "rgb24"
        out.mux(video.encode(av.VideoFrame(16, 16, "rgb24")) + video.encode(None))
    huge = with_picture((tmp_path / "small.mov").read_bytes(), png(8192, 8192, 16, 6, rows=8192))  # 512 MB decoded.
    path = tmp_path / "huge.mov"
    path.write_bytes(huge)
    for read in (probe, lambda path, limits: decode(Clip(str(path)), limits=limits)):
        with pytest.raises(MediaError):
            read(path, Limits(max_memory_bytes=300_000_000))
    (worker,) = pool.all
    assert peak_memory_mb(worker.process.pid) < 300
    picture = np.zeros((512, 512, 3), np.uint8)
    path = render(tmp_path / "many.mp4", seconds=4, fps=25, size=(512, 512), sound=None, picture=picture)
    everything = MediaSettings(fps=25, max_frames=100, min_pixels=4_000_000, max_pixels=None)  # 1.2 GB of frames.
    with pytest.raises(MediaError, match="more than 300 MB of memory"):
        decode(Clip(str(path)), everything, Limits(max_memory_bytes=300_000_000))
    assert decode(Clip(str(path))).duration_s == pytest.approx(4)


def ten_minutes_of_full_hd(path: Path) -> Path:
    """1920 x 1080, 30 frames a second, with sound; two seconds are encoded and repeated."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("h264", rate=30, options={"preset": "ultrafast", "bf": "2", "refs": "4"})
        video.width, video.height, video.pix_fmt, video.gop_size = 1920, 1080, "yuv420p", 60
        audio = out.add_stream("aac", rate=48000, layout="stereo")
        packets = []
        noise = np.random.default_rng(0).integers(0, 255, (1080 // 8, 1920 // 8, 3), np.uint8)
        for i in range(60):
            values = np.roll(noise, i, axis=1).repeat(8, 0).repeat(8, 1)
            packets += video.encode(av.VideoFrame.from_ndarray(values, format="rgb24"))
        packets += video.encode(None)
        frame = av.AudioFrame.from_ndarray(np.tile(sound_values(2.048, 48000), (2, 1)), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 48000, 0
        pieces = [packet for packet in audio.encode(frame) + audio.encode(None) if packet.size]
        packets = [packet for packet in packets if packet.size]
        second_video, second_audio = round(1 / packets[0].time_base), round(1 / pieces[0].time_base)
        frames = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]
        sounds = [(bytes(p), p.pts) for p in pieces]
        sound_units, video_units = len(sounds) * 1024, 2 * second_video
        audio_base, video_base = pieces[0].time_base, packets[0].time_base
        queue = [
            (2 * k + dts / second_video, video, data, pts + k * video_units, dts + k * video_units, key)
            for k in range(300)
            for data, pts, dts, key in frames
        ]
        queue += [
            ((pts + k * sound_units) / second_audio, audio, data, pts + k * sound_units, pts + k * sound_units, True)
            for k in range(600 * 48000 // sound_units + 1)
            for data, pts in sounds
            if pts + k * sound_units < 600 * 48000 - 1024
        ]
        for _, stream, data, pts, dts, key in sorted(queue, key=lambda item: item[0]):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, pts, dts
            packet.time_base = video_base if stream is video else audio_base
            packet.is_keyframe = key
            out.mux(packet)
    return path


# -------------------------------------------------------------------------------------------- settings


def test_settings_travel_as_json_and_an_unknown_key_names_the_nearest():
    chosen = MediaSettings(fps=4, max_frames=8, max_pixels=12544)
    assert MediaSettings.from_json(chosen.to_json()) == chosen
    with pytest.raises(ValueError, match="'max_pixel'; did you mean 'max_pixels'"):
        MediaSettings.from_json({"max_pixel": 3})
    assert MediaSettings.from_json(KEEP.to_json()) == KEEP  # None is not the default of max_pixels.
    for bad in ({"fps": 0}, {"max_frames": 0}, {"min_pixels": 9, "max_pixels": 4}, {"sample_rate_hz": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            MediaSettings(**bad)
