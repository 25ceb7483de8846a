"""The second pass: the frame on show at each sampling time, and the sound as mono on the part's own time line.

Goes in: what the survey found. Comes out: ``Decoded``, picture and sound with the same time 0. Only the groups of
pictures that hold a wanted frame are decoded; what cannot be decoded is left out and noted.
"""

from __future__ import annotations

import bisect
import itertools
import math
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from saber.media.records import Decoded, Limits, MediaSettings
from saber.media.survey import (
    SAME_S,
    Survey,
    Watch,
    decode_packet,
    open_file,
    packet_time_s,
    quarter_turns,
    read_packets,
    seek_to,
    shown_size,
    survey_part,
)
from saber.schema import TRACKS, Clip


def sampling_times_s(span_s: float, settings: MediaSettings) -> tuple[np.ndarray, float]:
    """Even sampling times (T,) in seconds from 0 over ``span_s``, and their rate: ``settings.fps``, or less where
    that would give more than ``max_frames``."""
    step_s = max(1 / settings.fps, span_s / settings.max_frames)
    count = min(settings.max_frames, max(1, math.ceil(span_s / step_s - SAME_S)))
    return np.arange(count) * step_s, 1 / step_s


def sampled_numbers(frames: int, fps: float, settings: MediaSettings) -> tuple[np.ndarray, float]:
    """Numbers of the frames (T,) that qwen-omni-utils 0.0.9 takes of so many, and the rate that it states. It refuses
    fewer than two frames; here one frame is one frame."""
    if frames < 2:
        return np.arange(frames), fps
    count = min(max(frames / fps * settings.fps, 4), settings.max_frames // 2 * 2, frames)
    count = int(count) // 2 * 2
    return np.linspace(0, frames - 1, count).round().astype(int), count / frames * fps


def fit_sides(width: int, height: int, settings: MediaSettings) -> tuple[int, int]:
    """Width and height as multiples of ``side_multiple`` whose area lies within the pixel budget, or just above it
    where it is narrow (the rule of qwen-omni-utils 0.0.9)."""
    unit, least, most = settings.side_multiple, settings.min_pixels or 0, settings.max_pixels or math.inf
    sides = [max(unit, round(side / unit) * unit) for side in (width, height)]
    area = width * height
    if math.prod(sides) > most:
        scale = math.sqrt(area / most)
        sides = [max(unit, math.floor(side / scale / unit) * unit) for side in (width, height)]
    elif math.prod(sides) < least:
        scale = math.sqrt(least / area)
        sides = [math.ceil(side * scale / unit) * unit for side in (width, height)]
    return sides[0], sides[1]


def fit_pixels(width: int, height: int, settings: MediaSettings) -> tuple[int, int]:
    """Width and height with the same shape whose area lies within the settings' pixel budget (never above it)."""
    if settings.side_multiple > 1:
        return fit_sides(width, height, settings)
    scale, least, most = 1.0, settings.min_pixels or 0, settings.max_pixels or math.inf
    if width * height > most:
        scale = math.sqrt(most / (width * height))
    elif width * height < least:
        scale = math.sqrt(least / (width * height))
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    if new_width * new_height > most:  # Rounding, or a picture so thin that one side became 1.
        if new_width > new_height:
            new_width = max(1, int(most // new_height))
        else:
            new_height = max(1, int(most // new_width))
    return new_width, new_height


class _Picture:
    """Collects the frame on show at each sampling time, at its final size; holds one other decoded frame."""

    def __init__(self, survey: Survey, settings: MediaSettings, watch: Watch, video: Any) -> None:
        self.settings, self.watch, self.video, self.unit_s = settings, watch, video, float(video.time_base)
        times_s = sorted(at for at, _ in survey.video if at is not None)
        shown, self.order_s = (times_s, []) if survey.timed else ([], times_s)
        first_s = max(survey.start_s, shown[0]) if shown else survey.start_s
        self.end_s = min(survey.end_s, survey.video_end_s)
        offsets, self.fps = sampling_times_s(max(0.0, self.end_s - first_s), settings)
        self.times_s = (first_s + offsets) if self.end_s > first_s and survey.video else offsets[:0]
        if settings.sampling == "frames" and shown:  # a stream without times has no numbered frames to choose from
            inside = [at for at in shown if survey.start_s - SAME_S <= at < survey.end_s - SAME_S]
            numbers, self.fps = sampled_numbers(len(inside), survey.facts.fps or len(inside), settings)
            self.times_s = np.array(inside)[numbers]
        # The time of the frame on show at each sampling time; -inf: not known before it is decoded.
        self.wanted_s = [
            shown[max(0, bisect.bisect_right(shown, t + SAME_S) - 1)] if shown else -math.inf for t in self.times_s
        ]
        self.runs = _runs(survey.video, set(self.wanted_s)) if shown else [(0, len(survey.video) - 1)]
        self.index, self.filled, self.seen = -1, 0, 0
        self.held: Any = None
        self.held_s, self.origin_s = -math.inf, survey.origin_s
        self.interval_s = 1 / (survey.facts.fps or 25)
        self.frames: np.ndarray | None = None
        self.reformatter = VideoReformatter()

    def add(self, packet: Any) -> None:
        self.index += 1
        if not self.runs or self.index < self.runs[0][0]:
            return
        context = self.video.codec_context
        for frame in decode_packet(context, packet, self.watch):
            self._see(frame)
        if self.index == self.runs[0][1]:
            for frame in decode_packet(context, None, self.watch):
                self._see(frame)
            context.flush_buffers()
            self.runs.pop(0)

    def _see(self, frame: Any) -> None:
        if self.seen < len(self.order_s):
            at_s = self.order_s[self.seen]
        elif self.order_s or frame.pts is None:  # Raw streams carry no times at all.
            at_s = self.origin_s + self.seen * self.interval_s
        else:
            at_s = frame.pts * self.unit_s
        self.seen += 1
        while self.filled < len(self.times_s) and self.times_s[self.filled] + SAME_S < at_s:
            self._keep(frame if self.held is None else self.held, at_s if self.held is None else self.held_s)
        self.held, self.held_s = frame, at_s

    def _keep(self, frame: Any, at_s: float) -> None:
        """Converts the frame for the next sampling time."""
        wanted_s = self.wanted_s[self.filled]
        if frame.is_corrupt or abs(at_s - wanted_s) > SAME_S and wanted_s > -math.inf:
            self.watch.damaged = True
        turns = quarter_turns(frame)
        if self.frames is None:
            width, height = fit_pixels(*shown_size(frame, self.video), self.settings)
            self.size, self.turns = (width, height), turns
            shape = (width, height) if turns % 2 else (height, width)
            self.frames = np.empty((len(self.times_s), *shape, 3), np.uint8)
        width, height = self.size
        try:
            picture = self.reformatter.reformat(
                frame,
                width,
                height,
                "rgb24",
                threads=1,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            )
        except av.FFmpegError as error:  # A pixel format that only a broken header asks for.
            raise self.watch.error("damaged") from error
        self.frames[self.filled] = np.rot90(picture.to_ndarray(), self.turns)
        self.filled += 1

    def finish(self) -> None:
        """Fills the sampling times that the last frame still covers; the others could not be read."""
        while self.held is not None and self.filled < len(self.times_s):
            if self.wanted_s[self.filled] > self.held_s + SAME_S:
                self.watch.damaged = True
                self.end_s = min(self.end_s, self.held_s + self.interval_s)
                break
            self._keep(self.held, self.held_s)
        self.times_s = self.times_s[: self.filled]
        self.frames = self.frames[: self.filled] if self.filled else None
        self.held = None


def _runs(packets: list[tuple[float | None, bool]], wanted_s: set[float]) -> list[tuple[int, int]]:
    """The stretches of packets (first, last) to decode so that the wanted frames come out exactly: each from the key
    frame that it depends on. What lies between, in groups of pictures without a wanted frame, is never decoded."""
    keys = [i for i, (_, is_key) in enumerate(packets) if is_key]
    runs: list[tuple[int, int]] = []
    for last, (at_s, _) in enumerate(packets):
        if at_s not in wanted_s:
            continue
        place = bisect.bisect_right(keys, last) - 1
        if place >= 0 and (packets[keys[place]][0] or 0.0) > at_s:
            place -= 1  # Shown before its key frame (an open group): it also needs the group before.
        first = keys[place] if place >= 0 else 0
        while runs and first <= runs[-1][1] + 1:
            first = min(first, runs.pop()[0])
        runs.append((first, last))
    return runs


class _Sound:
    """Places decoded sound on the part's time line, as mono at the wanted rate. What the file leaves open is silent."""

    _GAP_S = 0.05  # Timestamps are rounded and jitter; only a larger step is a real gap.

    def __init__(self, survey: Survey, settings: MediaSettings, watch: Watch, audio: Any) -> None:
        self.start_s, self.until_s, self.rate_hz = survey.start_s, survey.end_s, settings.sample_rate_hz
        self.watch, self.audio, self.unit_s = watch, audio, float(audio.time_base)
        self.samples = np.zeros(max(0, round((self.until_s - self.start_s) * self.rate_hz)), np.float32)
        self.resampler: Any = None
        self.fifo: Any = None
        self.kind: tuple[Any, ...] = ()
        self.anchor_s, self.fed, self.position, self.end = 0.0, 0, 0, 0

    def add(self, packet: Any) -> None:
        at_s = packet_time_s(packet, self.unit_s)
        # Codecs need a few blocks before the part to be right in it.
        if at_s is not None:
            until_s = at_s + (packet.duration or 0) * self.unit_s
            if until_s < self.start_s - 0.25 or at_s >= self.until_s:
                return
        for frame in decode_packet(self.audio.codec_context, packet, self.watch):
            self._place(frame)

    def _place(self, frame: Any) -> None:
        kind = (frame.sample_rate, frame.layout.name, frame.format.name)
        expected_s = self.anchor_s + self.fed / frame.sample_rate
        at_s = frame.pts * self.unit_s if frame.pts is not None else expected_s
        if self.fifo is None or kind != self.kind or abs(at_s - expected_s) > self._GAP_S:
            self._flush()
            # To 32-bit integers: into floats the resampler adds channels up (+3 dB for stereo), into integers it
            # keeps the level, so that sound on both channels is as loud as the same sound in mono.
            self.resampler = av.AudioResampler("s32", "mono", self.rate_hz)
            self.fifo = av.AudioFifo()
            self.kind, self.anchor_s, self.fed = kind, at_s, 0
            self.position = round((at_s - self.start_s) * self.rate_hz)
        self.fed += frame.samples
        frame.pts = None
        self.fifo.write(frame)
        if self.fifo.samples >= frame.sample_rate:  # A second at a time: the resampler's cost is by the call.
            self._resample(self.fifo.read())

    def _resample(self, block: Any) -> None:
        try:
            self._write(self.resampler.resample(block))
        except av.FFmpegError:  # A broken header can ask for a rate or a layout that does not exist.
            self.watch.damaged = True

    def _write(self, frames: list[Any]) -> None:
        for frame in frames:
            values = frame.to_ndarray()[0].astype(np.float32) * np.float32(2.0**-31)
            first, last = max(0, self.position), min(len(self.samples), self.position + len(values))
            if first < last:
                self.samples[first:last] = values[first - self.position : last - self.position]
                self.end = max(self.end, last)
            self.position += len(values)

    def _flush(self) -> None:
        if self.fifo is not None:
            if self.fifo.samples:
                self._resample(self.fifo.read())
            self._resample(None)
            self.fifo = self.resampler = None

    def finish(self) -> None:
        for frame in decode_packet(self.audio.codec_context, None, self.watch):
            self._place(frame)
        self._flush()


def decode_here(
    clip: Clip, settings: MediaSettings = MediaSettings(), limits: Limits = Limits(), tracks: str = "both"
) -> Decoded:
    """``decode`` in this process. Its time limit is checked between packets, so it cannot stop a decoder that hangs."""
    if tracks not in TRACKS:
        raise ValueError(f"tracks is {tracks!r}; it must be one of {TRACKS}")
    watch = Watch(clip, limits)
    survey = survey_part(watch)
    facts, start_s = survey.facts, survey.start_s
    if tracks == "picture" and not facts.has_video:
        raise watch.error("no_picture")
    if tracks == "sound" and not facts.has_audio:
        raise watch.error("no_sound")
    if tracks != "sound" and facts.width and facts.height:
        watch.check_shape(facts.width, facts.height)
    container, video, audio = open_file(watch)
    with container:
        picture = _Picture(survey, settings, watch, video) if video and tracks != "sound" else None
        sound = _Sound(survey, settings, watch, audio) if audio and tracks != "picture" else None
        seek_to(container, survey.seek_s)
        streams = [stream for stream in (video, audio) if stream is not None]
        for packet in itertools.islice(read_packets(container, streams, watch), survey.packets):
            if video is not None and packet.stream_index == video.index:
                if picture:
                    picture.add(packet)
            elif sound:
                sound.add(packet)
        for track in (picture, sound):
            if track:
                track.finish()
    has_frames = picture is not None and picture.frames is not None
    has_sound = sound is not None and sound.end > 0
    if not has_frames and not has_sound:
        raise watch.error(
            "damaged" if watch.damaged else {"picture": "no_picture", "sound": "no_sound"}.get(tracks, "no_frames")
        )
    picture_s = picture.end_s - start_s if has_frames else 0.0
    sound_s = sound.end / settings.sample_rate_hz if has_sound else 0.0
    duration_s = max(picture_s, sound_s)
    notes: dict[str, dict[str, Any]] = {}
    if not has_frames and tracks == "both":
        notes["no_picture"] = {}
    if not has_sound and tracks == "both":
        notes["no_sound"] = {}
    if watch.damaged:
        notes["damaged"] = {"read_s": duration_s}
    elif survey.shortened:
        notes["shortened"] = {"asked_s": clip.end_s, "end_s": clip.start_s + duration_s}
    samples = None
    if has_sound:
        samples = np.zeros(round(duration_s * settings.sample_rate_hz), np.float32)
        samples[: sound.end] = sound.samples[: min(sound.end, len(samples))]
    return Decoded(
        frames=picture.frames if has_frames else None,
        frame_times_s=picture.times_s - start_s if has_frames else np.zeros(0),
        fps=picture.fps if has_frames else None,
        audio=samples,
        duration_s=duration_s,
        facts=facts,
        notes=notes,
        picture_s=picture_s,
        sound_s=sound_s,
        sample_rate_hz=settings.sample_rate_hz,
    )
