"""Reading a clip: frames on an even time grid and 16 kHz mono sound, with facts about the file and clear errors.

Goes in: a ``Clip`` (file, start, end), the ``MediaSettings`` that travel with the checkpoint, and ``Limits``. Comes
out: ``Decoded``, or a ``MediaError`` whose reason is a key of ``REASONS``. ``decode`` and ``probe`` work in a child
process that is killed when its time is up, so a hostile file can neither hang nor crash the caller; ``decode_here``
and ``probe_here`` do the same work in this process, for data loader workers. Imports PyAV and NumPy, never torch.
To add an error: one entry in ``REASONS``. To add a container: nothing, whatever FFmpeg reads is read.
"""

from __future__ import annotations

import atexit
import bisect
import difflib
import itertools
import json
import math
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from saber.schema import TRACKS, Clip

# ---------------------------------------------------------------------------------------------------------------------
# What is said when a clip cannot be used, or only in part
# ---------------------------------------------------------------------------------------------------------------------

#: Reason -> language -> (what is wrong, what to do next). Fields in braces are the error's ``values``.
REASONS: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType({
    "missing": {
        "en": ("The file does not exist.", "Check the path."),
        "zh": ("文件不存在。", "请检查路径。")},
    "directory": {
        "en": ("This is a folder, not a file.", "Name one media file inside it."),
        "zh": ("这是文件夹，不是文件。", "请指定其中的一个媒体文件。")},
    "not_a_file": {
        "en": ("This is a pipe or a device, not a file.", "Save the clip to a file first."),
        "zh": ("这是管道或设备，不是普通文件。", "请先将片段保存为文件。")},
    "unreadable": {
        "en": ("The file may not be read.", "Check its permissions."),
        "zh": ("没有读取该文件的权限。", "请检查文件权限。")},
    "empty": {
        "en": ("The file is empty (0 bytes).", "Record or copy it again."),
        "zh": ("文件是空的（0 字节）。", "请重新录制或复制。")},
    "not_media": {
        "en": ("This is not a video or audio file.", "Use a file such as mp4, webm, mov, mkv or wav."),
        "zh": ("这不是视频或音频文件。", "请使用 mp4、webm、mov、mkv 或 wav 等文件。")},
    "damaged": {
        "en": ("The file is damaged or cut off, and nothing in it can be read.",
               "Record, download or export it again."),
        "zh": ("文件已损坏或不完整，无法读取任何内容。", "请重新录制、下载或导出。")},
    "no_frames": {
        "en": ("The file holds no frame and no sound sample.", "Record or export it again."),
        "zh": ("文件中没有任何画面或声音数据。", "请重新录制或导出。")},
    "no_tracks": {
        "en": ("The file has neither a picture nor a sound track.", "Use a file with at least one of them."),
        "zh": ("文件既没有画面也没有声音。", "请使用至少包含其中之一的文件。")},
    "no_picture": {
        "en": ("Only the picture was asked for, but there is none here.", "Choose the sound, or another clip."),
        "zh": ("只要求使用画面，但这里没有画面。", "请选择声音，或换一个片段。")},
    "no_sound": {
        "en": ("Only the sound was asked for, but there is none here.", "Choose the picture, or another clip."),
        "zh": ("只要求使用声音，但这里没有声音。", "请选择画面，或换一个片段。")},
    "too_long": {
        "en": ("The part to read is {length_s} s long; at most {limit_s:g} s are read at once.",
               "Choose a part with start_s and end_s."),
        "zh": ("要读取的部分长 {length_s} 秒，一次最多读取 {limit_s:g} 秒。", "请用 start_s 和 end_s 选取其中一段。")},
    "file_too_long": {
        "en": ("The file is {length_s} s long; the limit is {limit_s:g} s.", "Cut it into shorter files."),
        "zh": ("文件长 {length_s} 秒，上限为 {limit_s:g} 秒。", "请将其切成较短的文件。")},
    "too_large": {
        "en": ("The file has {size_mb:.0f} MB; the limit is {limit_mb:.0f} MB.",
               "Export it at a lower quality, or cut it into shorter files."),
        "zh": ("文件大小为 {size_mb:.0f} MB，上限为 {limit_mb:.0f} MB。", "请以较低质量导出，或切成较短的文件。")},
    "frame_too_large": {
        "en": ("The picture is {width} x {height} pixels; at most {limit_pixels} pixels and {limit_side} a side are "
               "read.", "Export it at a lower resolution."),
        "zh": ("画面为 {width} x {height} 像素，最多读取 {limit_pixels} 像素，边长不超过 {limit_side}。",
               "请以较低分辨率导出。")},
    "outside": {
        "en": ("The part begins at {start_s:g} s, but the file ends at {end_s:.2f} s.", "Choose an earlier start_s."),
        "zh": ("所选部分从 {start_s:g} 秒开始，但文件在 {end_s:.2f} 秒就结束了。", "请选择更早的 start_s。")},
    "timeout": {
        "en": ("Reading took longer than {limit_s:g} s and was stopped.",
               "Choose a shorter part, or export the file at a lower resolution."),
        "zh": ("读取超过 {limit_s:g} 秒，已停止。", "请选择较短的部分，或以较低分辨率导出。")},
    "crashed": {
        "en": ("The decoder process ended unexpectedly ({how}).",
               "Try again; if it happens again, export the file in another format."),
        "zh": ("解码进程意外终止（{how}）。", "请重试；若再次出现，请将文件导出为其他格式。")},
})

#: Note -> language -> sentence: the clip was read, but the reader must know this.
NOTES: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "no_sound": {"en": "This clip has no sound.", "zh": "该片段没有声音。"},
    "no_picture": {"en": "This clip has no picture.", "zh": "该片段没有画面。"},
    "damaged": {"en": "The file is damaged or cut off; {read_s:.2f} s of it could be read.",
                "zh": "文件已损坏或不完整，只读出了 {read_s:.2f} 秒。"},
    "shortened": {"en": "The part was to end at {asked_s:g} s, but the file ends at {end_s:.2f} s.",
                  "zh": "所选部分应在 {asked_s:g} 秒结束，但文件在 {end_s:.2f} 秒就结束了。"},
})


class MediaError(ValueError):
    """A clip that cannot be used. ``reason``: a key of REASONS; ``clip``: its id; ``values``: the sentence's fields."""

    def __init__(self, reason: str, clip: str, values: Mapping[str, Any] | None = None) -> None:
        self.reason, self.clip, self.values = reason, clip, dict(values or {})
        super().__init__(f"clip {clip}: {self.sentence('en')}")

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with the message alone: data loaders pass errors between processes.
        return type(self), (self.reason, self.clip, self.values)

    @property
    def message(self) -> str:
        """The clip's name, what is wrong and what to do next, in English."""
        return str(self)

    @property
    def next_step(self) -> str:
        return REASONS[self.reason]["en"][1]

    def sentence(self, language: str = "en") -> str:
        """What is wrong and what to do next, without the clip's name. ``language``: "en" or "zh"."""
        gap = "" if language == "zh" else " "
        return gap.join(REASONS[self.reason][language]).format(**self.values)


# ---------------------------------------------------------------------------------------------------------------------
# What is asked for and what comes back
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MediaSettings:
    """How a clip becomes a model's input. Saved with the checkpoint: training writes it, inference reads it.

    ``fps``, ``max_frames``: frames a second, and how many at most (then the rate falls, evenly). ``min_pixels``,
    ``max_pixels``: a frame's area is brought between them, keeping its shape; None keeps the size.
    ``sample_rate_hz``: of the mono sound. ``audio_in_video``: whether the model interleaves sound and picture (only
    carried here). Defaults: 40 frames at most as in the published inference script; the paper does not give the
    rest, we chose 2 frames a second and about 128 visual tokens of 28 x 28 pixels a frame pair, which is what that
    script's frames cost under today's libraries.
    """

    fps: float = 2.0
    max_frames: int = 40
    min_pixels: int | None = None
    max_pixels: int | None = 128 * 28 * 28
    sample_rate_hz: int = 16000
    audio_in_video: bool = True

    def __post_init__(self) -> None:
        for name, least in (("fps", 0.01), ("max_frames", 1), ("min_pixels", 1), ("max_pixels", 1),
                            ("sample_rate_hz", 1000)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"media settings: {name} is {value}; it must be {least} or more")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"media settings: min_pixels {self.min_pixels} is over max_pixels {self.max_pixels}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> MediaSettings:
        """Reads ``to_json``'s record. Raises ValueError for an unknown key and names the nearest valid one."""
        valid = [each.name for each in fields(cls)]
        for key in record:
            if key not in valid:
                near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
                raise ValueError(f"media settings: unknown key {key!r}; did you mean {near!r}?")
        return cls(**record)


@dataclass(frozen=True)
class Limits:
    """What is refused, always with an error and never by a silent cut. Ours, but ``max_part_s``: the paper's filter.

    ``max_bytes``, ``max_duration_s``: of the whole file (its length as the header states it). ``max_part_s``: of the
    part to decode; a tenth of a second over it passes, since codecs pad the last block. ``max_side``,
    ``max_frame_pixels``: of one frame. ``timeout_s``: for decoding, not for waiting until a worker is free.
    """

    max_bytes: int = 2 * 1024**3
    max_duration_s: float = 3600.0
    max_part_s: float = 30.0
    max_side: int = 8192
    max_frame_pixels: int = 4096 * 4096
    timeout_s: float = 30.0


@dataclass(frozen=True)
class Facts:
    """What a file says about itself. ``width``, ``height``: as shown (pixel shape and rotation applied).

    ``duration_s``: the header's, None if it has none. ``rotation``: degrees counterclockwise that the file asks for,
    already applied to decoded frames. A cover picture inside a sound file is not a picture track.
    """

    has_video: bool
    has_audio: bool
    duration_s: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    rotation: int = 0
    video_codec: str | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None
    audio_codec: str | None = None
    container: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class Decoded:
    """A clip as arrays. Time 0 is the part's start, for frames and sound alike.

    ``frames``: uint8 RGB (T, H, W, 3) or None; ``frame_times_s``: (T,) evenly spaced, and frame k is the picture
    that is on show at time k; ``fps``: their realised rate. ``audio``: float32 (round(duration_s * rate),) in
    [-1, 1], silent wherever the file has no sound, or None. ``duration_s``: length of the part by what was decoded.
    ``notes``: key of NOTES -> its fields, so ``"no_sound" in decoded.notes``.
    """

    frames: np.ndarray | None
    frame_times_s: np.ndarray
    fps: float | None
    audio: np.ndarray | None
    duration_s: float
    facts: Facts
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def note_sentences(self, language: str = "en") -> tuple[str, ...]:
        """The notes as sentences in "en" or "zh"."""
        return tuple(NOTES[key][language].format(**values) for key, values in self.notes.items())


# ---------------------------------------------------------------------------------------------------------------------
# Opening
# ---------------------------------------------------------------------------------------------------------------------

_TOLERANCE_S = 0.1
_SAME_S = 0.001  # Matroska rounds timestamps to milliseconds.
_PREROLL_S = 1.0  # Seek this much earlier: sound may be stored ahead of the picture, and its codecs need a run-up.
_INTERLEAVE_S = 10.0  # A track this far past the part's end: the other one has no more packets near it.

# Demuxers that follow references to other files or addresses, or that draw pictures from text. An uploaded file must
# not make the decoder read anything but itself.
_REFUSED = {"hls", "applehttp", "dash", "concat", "webm_dash_manifest", "imf", "image2", "image2pipe", "lavfi", "rtsp",
            "rtp", "sdp", "sap", "tty", "bin", "xbin", "adf", "idf", "ffmetadata"}
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(sorted(av.formats_available - _REFUSED))}
_MAGIC = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"FLV", b"fLaC", b"ID3", b"\x30\x26\xb2\x75")


class _Watch:
    """One decoding's clip, limits, clock and whether anything in the file could not be read."""

    def __init__(self, clip: Clip, limits: Limits) -> None:
        self.clip, self.limits, self.damaged = clip, limits, False
        self.deadline = time.monotonic() + limits.timeout_s

    def error(self, reason: str, **values: Any) -> MediaError:
        return MediaError(reason, self.clip.id, values)

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise self.error("timeout", limit_s=self.limits.timeout_s)

    def check_size(self, width: int, height: int) -> None:
        limits = self.limits
        if max(width, height) > limits.max_side or width * height > limits.max_frame_pixels:
            raise self.error("frame_too_large", width=width, height=height, limit_pixels=limits.max_frame_pixels,
                             limit_side=limits.max_side)


def _open(watch: _Watch) -> tuple[Any, Any, Any]:
    """Opens the clip's file: (container, video stream or None, audio stream or None). Raises MediaError."""
    path, limits = os.fspath(watch.clip.path), watch.limits
    try:
        status = os.stat(path)
    except PermissionError as error:
        raise watch.error("unreadable") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path.
        raise watch.error("missing") from error
    if stat.S_ISDIR(status.st_mode):
        raise watch.error("directory")
    if not stat.S_ISREG(status.st_mode):
        raise watch.error("not_a_file")
    if status.st_size == 0:
        raise watch.error("empty")
    if status.st_size > limits.max_bytes:
        raise watch.error("too_large", size_mb=status.st_size / 1e6, limit_mb=limits.max_bytes / 1e6)
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError as error:
        raise watch.error("unreadable") from error
    try:
        # "file:" keeps FFmpeg from taking a path such as "concat:a|b" or "http://..." for something else.
        container = av.open("file:" + os.path.abspath(path), options=dict(_OPEN_OPTIONS), metadata_errors="replace")
    except av.FFmpegError as error:
        known = head[4:8] == b"ftyp" or head.startswith(_MAGIC)
        raise watch.error("damaged" if known else "not_media") from error
    try:
        cover = av.stream.Disposition.attached_pic
        pictures = [s for s in container.streams.video if s.codec_context and not s.disposition & cover]
        sounds = [s for s in container.streams.audio if s.codec_context]
        video = next(iter(sorted(pictures, key=lambda s: s is not container.streams.best("video"))), None)
        audio = next(iter(sorted(sounds, key=lambda s: s is not container.streams.best("audio"))), None)
        if video is None and audio is None:
            raise watch.error("no_tracks")
        if video is not None:
            context = video.codec_context
            watch.check_size(context.width, context.height)
            # The header may understate: the decoder itself refuses a larger picture before it allocates it.
            context.options = {"max_pixels": str(limits.max_frame_pixels)}
            # Few threads: frame threads hold one picture each, and clips are short.
            context.thread_type, context.thread_count = "AUTO", 1 if context.width * context.height < 400_000 else 2
        if container.duration and container.duration / av.time_base > limits.max_duration_s:
            raise watch.error("file_too_long", length_s=f"{container.duration / av.time_base:.1f}",
                              limit_s=limits.max_duration_s)
    except MediaError:
        container.close()
        raise
    return container, video, audio


def _read(container: Any, streams: list[Any], watch: _Watch) -> Iterator[Any]:
    """Packets in file order until the end or the first place that cannot be read."""
    try:
        for packet in container.demux(streams):
            watch.check_time()
            if packet.size:  # The marks that end each stream are empty.
                yield packet
    except av.FFmpegError:
        watch.damaged = True


def _decode(context: Any, packet: Any, watch: _Watch | None = None) -> list[Any]:
    """Frames that this packet completes (None: those still held). What cannot be decoded is left out and noted."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        if watch:
            watch.damaged = True
        return []


def _stated_facts(watch: _Watch, container: Any, video: Any, audio: Any) -> Facts:
    rate = video and (video.average_rate or video.guessed_rate)
    return Facts(
        has_video=video is not None,
        has_audio=audio is not None,
        duration_s=container.duration / av.time_base if container.duration and container.duration > 0 else None,
        width=video.codec_context.width if video else None,
        height=video.codec_context.height if video else None,
        fps=float(rate) if rate else None,
        video_codec=video.codec_context.name if video else None,
        sample_rate_hz=audio.codec_context.sample_rate if audio else None,
        channels=audio.codec_context.channels if audio else None,
        audio_codec=audio.codec_context.name if audio else None,
        container=container.format.name,
        size_bytes=os.path.getsize(watch.clip.path),
    )


def _shown_size(frame: Any, video: Any) -> tuple[int, int]:
    """Width and height as shown before rotation: pixels that are not square are made so."""
    shape = video.sample_aspect_ratio
    # A shape beyond 4 is a broken header, not a film format.
    stretch = float(shape) if shape and 0.25 <= shape <= 4 else 1.0
    return max(1, round(frame.width * stretch)), frame.height


def _quarter_turns(frame: Any) -> int:
    """How often np.rot90 turns the frame counterclockwise so that it stands as shown."""
    return round(frame.rotation / 90) % 4


def _with_frame(facts: Facts, frame: Any, video: Any) -> Facts:
    """Facts corrected by the first decoded frame."""
    width, height = _shown_size(frame, video)
    if _quarter_turns(frame) % 2:
        width, height = height, width
    return replace(facts, width=width, height=height, rotation=int(frame.rotation))


# ---------------------------------------------------------------------------------------------------------------------
# First pass: what lies in the part (reads packets, decodes one frame)
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Survey:
    """Where the part lies in the file's own time. ``packets``: how many to read, after a seek to ``seek_s`` or from
    the start (None). ``video``: (time it is shown or None, is key frame) of each video packet in file order. Not
    ``timed``: these are decoding times, so that all must be decoded, and the n-th frame then has the n-th time."""

    facts: Facts
    origin_s: float = 0.0
    start_s: float = 0.0
    end_s: float = 0.0
    seek_s: float | None = None
    packets: int = 0
    timed: bool = True
    video: list[tuple[float | None, bool]] = field(default_factory=list)
    video_end_s: float = -math.inf
    audio_end_s: float = -math.inf
    shortened: bool = False


def _seek(container: Any, seek_s: float | None) -> None:
    if seek_s is not None:
        container.seek(int(seek_s * av.time_base), backward=True)


def _time_s(packet: Any, unit_s: float, when_decoded: bool = False) -> float | None:
    # Plain floats: exact fractions cost more here than decoding does.
    stamp = packet.dts if when_decoded or packet.pts is None else packet.pts
    return None if stamp is None else stamp * unit_s


def _survey(watch: _Watch, facts_only: bool = False) -> _Survey:
    """Reads the part's packets. Raises MediaError if it is too long, outside the file, or empty."""
    start_s = watch.clip.start_s
    if start_s > _PREROLL_S and not facts_only:
        survey = _survey_from(watch, seek=True)
        if survey:
            return survey
        watch.damaged = False
    survey = _survey_from(watch, seek=False, facts_only=facts_only)
    assert survey is not None  # Only a seek can land in the wrong place.
    return survey


def _survey_from(watch: _Watch, seek: bool, facts_only: bool = False) -> _Survey | None:
    """One reading of the packets; None if the seek failed or landed after the part's start."""
    clip, limits = watch.clip, watch.limits
    container, video, audio = _open(watch)
    with container:
        survey = _Survey(_stated_facts(watch, container, video, audio))
        # Some containers start counting anywhere; a negative start is only a codec's run-up.
        origin_s = max(0.0, (container.start_time or 0) / av.time_base)
        # AVI stores no presentation times, and what FFmpeg gives in their place is wrong where pictures are reordered.
        survey.timed = container.format.name != "avi"
        survey.origin_s, survey.start_s = origin_s, origin_s + clip.start_s
        longest_s = survey.start_s + limits.max_part_s + _TOLERANCE_S
        asked_s = math.inf if clip.end_s is None else origin_s + clip.end_s
        stop_s = min(asked_s, longest_s)
        if seek:
            # Sound files without a picture are read from the start: their seeks only estimate where they land.
            if video is None:
                return None
            survey.seek_s = survey.start_s - _PREROLL_S
            try:
                _seek(container, survey.seek_s)
            except av.FFmpegError:
                return None
        first_frame, passed, at_end, too_long = None, {}, True, False
        streams = [stream for stream in (video, audio) if stream is not None]
        units_s = {stream.index: float(stream.time_base) for stream in streams}
        for packet in _read(container, streams, watch):
            survey.packets += 1
            unit_s, is_video = units_s[packet.stream_index], video is not None and packet.stream_index == video.index
            at_s = _time_s(packet, unit_s, is_video and not survey.timed)
            if is_video:
                if seek and not survey.video and (at_s is None or at_s > survey.start_s or not packet.is_keyframe):
                    return None
                if first_frame is None and len(survey.video) < 50:
                    first_frame = next(iter(_decode(video.codec_context, packet)), None)
                survey.timed = survey.timed and packet.pts is not None
                survey.video.append((None if packet.is_discard else at_s, packet.is_keyframe))
            if facts_only and (video is None or first_frame or len(survey.video) >= 50):
                break
            if at_s is None or packet.is_discard:
                continue
            until_s = at_s + (packet.duration or 0) * unit_s
            if is_video:
                survey.video_end_s = max(survey.video_end_s, until_s)
            else:
                survey.audio_end_s = max(survey.audio_end_s, until_s)
            too_long = too_long or asked_s > longest_s <= at_s
            # Pictures are stored out of order, but never before their decoding time.
            order_s = at_s if packet.dts is None else packet.dts * unit_s
            if order_s >= stop_s:
                passed[packet.stream_index] = True
                if len(passed) == len(streams) or order_s > stop_s + _INTERLEAVE_S:
                    at_end = False
                    break
        if seek and not survey.packets:
            return None
        if video is not None and first_frame is None:
            first_frame = next(iter(_decode(video.codec_context, None)), None)
        if first_frame is not None:
            watch.check_size(first_frame.width, first_frame.height)
            survey.facts = _with_frame(survey.facts, first_frame, video)
    if not facts_only:
        _finish_survey(watch, survey, asked_s, at_end, too_long)
    return survey


def _finish_survey(watch: _Watch, survey: _Survey, asked_s: float, at_end: bool, too_long: bool) -> None:
    """Fixes the part's end, asked for at ``asked_s``. Raises MediaError if there is nothing to decode or too much."""
    clip, origin_s, stated_s = watch.clip, survey.origin_s, survey.facts.duration_s
    times = sorted(at for at, _ in survey.video if at is not None)
    if times:
        # A last frame whose length is not stated is shown as long as those before it.
        last_s = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / (survey.facts.fps or 25)
        if survey.video_end_s < times[-1] + _SAME_S:
            survey.video_end_s = times[-1] + last_s
    file_end_s = max(survey.video_end_s, survey.audio_end_s)
    if file_end_s == -math.inf and not survey.video:
        raise watch.error("damaged" if watch.damaged else "no_frames")
    if file_end_s == -math.inf:  # Raw streams carry no times: count frames.
        file_end_s = survey.video_end_s = origin_s + len(survey.video) / (survey.facts.fps or 25)
    if file_end_s <= survey.start_s + _SAME_S:
        raise watch.error("outside", start_s=clip.start_s, end_s=max(0.0, file_end_s - origin_s))
    survey.end_s = min(asked_s, file_end_s)
    # A packet lies beyond the limit, or the last one is shown for so long.
    if too_long or survey.end_s - survey.start_s > watch.limits.max_part_s + _TOLERANCE_S:
        length_s = min(asked_s - survey.start_s, (stated_s or math.inf) - clip.start_s)
        limit_s = watch.limits.max_part_s
        raise watch.error("too_long", limit_s=limit_s, length_s=f"{length_s:.1f}" if limit_s < length_s < math.inf
                          else f"> {limit_s:g}")
    survey.shortened = math.inf > asked_s > file_end_s + _TOLERANCE_S
    # Only these state a length that they know; others estimate it from the bit rate.
    sure = survey.facts.container.startswith(("mov", "matroska"))
    if at_end and sure and stated_s and file_end_s - origin_s < stated_s - max(0.5, 0.02 * stated_s):
        watch.damaged = True


# ---------------------------------------------------------------------------------------------------------------------
# Second pass: decode what is needed
# ---------------------------------------------------------------------------------------------------------------------


def sampling_times_s(span_s: float, settings: MediaSettings) -> tuple[np.ndarray, float]:
    """Even sampling times (T,) in seconds from 0 over ``span_s``, and their rate: ``settings.fps``, or less where
    that would give more than ``max_frames``."""
    step_s = max(1 / settings.fps, span_s / settings.max_frames)
    count = min(settings.max_frames, max(1, math.ceil(span_s / step_s - _SAME_S)))
    return np.arange(count) * step_s, 1 / step_s


def fit_pixels(width: int, height: int, settings: MediaSettings) -> tuple[int, int]:
    """Width and height with the same shape whose area lies within the settings' pixel budget (never above it)."""
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

    def __init__(self, survey: _Survey, settings: MediaSettings, watch: _Watch, video: Any) -> None:
        self.settings, self.watch, self.video, self.unit_s = settings, watch, video, float(video.time_base)
        times_s = sorted(at for at, _ in survey.video if at is not None)
        shown, self.order_s = (times_s, []) if survey.timed else ([], times_s)
        first_s = max(survey.start_s, shown[0]) if shown else survey.start_s
        self.end_s = min(survey.end_s, survey.video_end_s)
        offsets, self.fps = sampling_times_s(max(0.0, self.end_s - first_s), settings)
        self.times_s = (first_s + offsets) if self.end_s > first_s and survey.video else offsets[:0]
        # The time of the frame on show at each sampling time; -inf: not known before it is decoded.
        self.wanted_s = [shown[max(0, bisect.bisect_right(shown, t + _SAME_S) - 1)] if shown else -math.inf
                         for t in self.times_s]
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
        for frame in _decode(context, packet, self.watch):
            self._see(frame)
        if self.index == self.runs[0][1]:
            for frame in _decode(context, None, self.watch):
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
        while self.filled < len(self.times_s) and self.times_s[self.filled] + _SAME_S < at_s:
            self._keep(frame if self.held is None else self.held, at_s if self.held is None else self.held_s)
        self.held, self.held_s = frame, at_s

    def _keep(self, frame: Any, at_s: float) -> None:
        """Converts the frame for the next sampling time."""
        wanted_s = self.wanted_s[self.filled]
        if frame.is_corrupt or abs(at_s - wanted_s) > _SAME_S and wanted_s > -math.inf:
            self.watch.damaged = True
        turns = _quarter_turns(frame)
        if self.frames is None:
            width, height = fit_pixels(*_shown_size(frame, self.video), self.settings)
            self.size, self.turns = (width, height), turns
            shape = (width, height) if turns % 2 else (height, width)
            self.frames = np.empty((len(self.times_s), *shape, 3), np.uint8)
        width, height = self.size
        try:
            picture = self.reformatter.reformat(
                frame, width, height, "rgb24", threads=1,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
        except av.FFmpegError as error:  # A pixel format that only a broken header asks for.
            raise self.watch.error("damaged") from error
        self.frames[self.filled] = np.rot90(picture.to_ndarray(), self.turns)
        self.filled += 1

    def finish(self) -> None:
        """Fills the sampling times that the last frame still covers; the others could not be read."""
        while self.held is not None and self.filled < len(self.times_s):
            if self.wanted_s[self.filled] > self.held_s + _SAME_S:
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

    def __init__(self, survey: _Survey, settings: MediaSettings, watch: _Watch, audio: Any) -> None:
        self.start_s, self.until_s, self.rate_hz = survey.start_s, survey.end_s, settings.sample_rate_hz
        self.watch, self.audio, self.unit_s = watch, audio, float(audio.time_base)
        self.samples = np.zeros(max(0, round((self.until_s - self.start_s) * self.rate_hz)), np.float32)
        self.resampler: Any = None
        self.fifo: Any = None
        self.kind: tuple[Any, ...] = ()
        self.anchor_s, self.fed, self.position, self.end = 0.0, 0, 0, 0

    def add(self, packet: Any) -> None:
        at_s = _time_s(packet, self.unit_s)
        # Codecs need a few blocks before the part to be right in it.
        if at_s is not None:
            until_s = at_s + (packet.duration or 0) * self.unit_s
            if until_s < self.start_s - 0.25 or at_s >= self.until_s:
                return
        for frame in _decode(self.audio.codec_context, packet, self.watch):
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
        for frame in _decode(self.audio.codec_context, None, self.watch):
            self._place(frame)
        self._flush()


def probe_here(path: str | os.PathLike[str], limits: Limits = Limits()) -> Facts:
    """``probe`` in this process, without its protection from hanging or crashing decoders."""
    return _survey(_Watch(Clip(os.fspath(path)), limits), facts_only=True).facts


def decode_here(clip: Clip, settings: MediaSettings = MediaSettings(), limits: Limits = Limits(),
                tracks: str = "both") -> Decoded:
    """``decode`` in this process. Its time limit is checked between packets, so it cannot stop a decoder that hangs."""
    if tracks not in TRACKS:
        raise ValueError(f"tracks is {tracks!r}; it must be one of {TRACKS}")
    watch = _Watch(clip, limits)
    survey = _survey(watch)
    facts, start_s = survey.facts, survey.start_s
    if tracks == "picture" and not facts.has_video:
        raise watch.error("no_picture")
    if tracks == "sound" and not facts.has_audio:
        raise watch.error("no_sound")
    container, video, audio = _open(watch)
    with container:
        picture = _Picture(survey, settings, watch, video) if video and tracks != "sound" else None
        sound = _Sound(survey, settings, watch, audio) if audio and tracks != "picture" else None
        _seek(container, survey.seek_s)
        streams = [stream for stream in (video, audio) if stream is not None]
        for packet in itertools.islice(_read(container, streams, watch), survey.packets):
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
        raise watch.error("damaged" if watch.damaged else {"picture": "no_picture", "sound": "no_sound"}.get(
            tracks, "no_frames"))
    duration_s = max(picture.end_s - start_s if has_frames else 0.0,
                     sound.end / settings.sample_rate_hz if has_sound else 0.0)
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
    )


# ---------------------------------------------------------------------------------------------------------------------
# Isolation: the same work in a child process with a time limit
# ---------------------------------------------------------------------------------------------------------------------


def probe(path: str | os.PathLike[str], limits: Limits = Limits()) -> Facts:
    """Cheap facts about a file: reads its header and one frame. Raises MediaError."""
    reply, _ = _POOL.ask({"do": "probe", "clip": _plain(Clip(os.fspath(path)))}, limits)
    return Facts(**reply["facts"])


def decode(clip: Clip, settings: MediaSettings = MediaSettings(), limits: Limits = Limits(),
           tracks: str = "both") -> Decoded:
    """Decodes the clip's part in a child process.

    ``tracks``: "both" (either may be missing, which is noted), "picture" or "sound" (it must be there). The frame at
    each sampling time is the one on show then, by timestamps; only what those frames depend on is decoded. A file
    that is damaged or cut off is read as far as it goes, with the note ``damaged`` and the seconds that could be
    read; if nothing can be read it is an error. A part that ends after the file is cut there, with the note
    ``shortened``.

    Raises MediaError: bad input, or "timeout" when the decoder took longer than ``limits.timeout_s`` and was killed,
    or "crashed" when it died. Safe to call from several threads; each call has a worker of its own.
    """
    if tracks not in TRACKS:
        raise ValueError(f"tracks is {tracks!r}; it must be one of {TRACKS}")
    request = {"do": "decode", "clip": _plain(clip), "settings": settings.to_json(), "tracks": tracks}
    reply, arrays = _POOL.ask(request, limits)
    return Decoded(frames=arrays[0], frame_times_s=np.array(reply["frame_times_s"]), fps=reply["fps"],
                   audio=arrays[1], duration_s=reply["duration_s"], facts=Facts(**reply["facts"]),
                   notes=reply["notes"])


def _plain(clip: Clip) -> dict[str, Any]:
    # The worker's current folder is that of its start, the caller's may change. Metadata stays here.
    return {"path": os.path.abspath(clip.path), "start_s": clip.start_s, "end_s": clip.end_s, "id": clip.id}


def _answer(request: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray | None]]:
    """What the worker does with one request: (JSON reply, arrays that follow it)."""
    clip, limits = Clip(**request["clip"]), Limits(**request["limits"])
    try:
        if request["do"] == "probe":
            return {"facts": asdict(probe_here(clip.path, limits))}, []
        done = decode_here(clip, MediaSettings(**request["settings"]), limits, request["tracks"])
    except MediaError as error:
        return {"error": error.reason, "values": error.values}, []
    except Exception:  # A bug: its trace must reach the caller instead of ending the worker.
        return {"bug": traceback.format_exc()}, []
    reply = {"frame_times_s": done.frame_times_s.tolist(), "fps": done.fps, "duration_s": done.duration_s,
             "facts": asdict(done.facts), "notes": done.notes}
    return reply, [done.frames, done.audio]


def _serve() -> None:
    """The worker's main loop: a JSON line in; a JSON line and raw arrays out. Ends when the caller is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C belongs to the caller, who then closes the pipe.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Nothing that a library prints may come between the answers.
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        # A thread of its own: the caller's end is noticed even while a decoder hangs.
        for line in sys.stdin.buffer:
            requests.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    reply: dict[str, Any] = {"ready": True}
    arrays: list[np.ndarray | None] = []
    while True:
        reply["arrays"] = [None if a is None else [a.dtype.str, *a.shape] for a in arrays]
        out.write(json.dumps(reply).encode() + b"\n")
        for array in arrays:
            if array is not None:
                out.write(memoryview(np.ascontiguousarray(array)).cast("B"))
        out.flush()
        reply, arrays = {}, []
        reply, arrays = _answer(json.loads(requests.get()))


class _Worker:
    """One child process. Not shared between threads: whoever took it from the pool talks to it alone."""

    # A plain interpreter with the caller's import path: multiprocessing would run the caller's main script again.
    # JSON and raw arrays instead of pickle: a decoder that a file has taken over must not run code in the caller.
    _BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from saber.media import _serve; _serve()"

    def __init__(self) -> None:
        path = [os.path.abspath(entry) for entry in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._BOOT, json.dumps(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        try:
            self._read(timeout_s=60.0)  # Until it says that it is ready: its start is not the clip's time.
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise ConnectionError("it did not start") from error
            raise

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], list[np.ndarray | None]]:
        """Raises TimeoutError or ConnectionError; the worker is of no use afterwards."""
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise ConnectionError(self._how()) from error
        return self._read(timeout_s)

    def _read(self, timeout_s: float) -> tuple[dict[str, Any], list[np.ndarray | None]]:
        late = threading.Event()

        def kill() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(timeout_s, kill)
        timer.daemon = True
        timer.start()
        try:
            pipe = self.process.stdout
            line = pipe.readline()
            complete = line.endswith(b"\n")
            reply = json.loads(line) if complete else {}
            arrays: list[np.ndarray | None] = []
            for shape in reply.get("arrays", ()):
                array = None if shape is None else np.empty(shape[1:], shape[0])
                if array is not None and array.nbytes:
                    complete = complete and pipe.readinto(memoryview(array).cast("B")) == array.nbytes
                arrays.append(array)
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            raise TimeoutError
        if not complete:
            raise ConnectionError(self._how())
        return reply, arrays

    def _how(self) -> str:
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it stopped answering"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:  # What was still to be written has nowhere to go.
                pass


class _Pool:
    """Workers, started when needed and kept for the next call; at most a few at once."""

    _GRACE_S = 0.5  # The worker checks its own clock first; only one that hangs is killed.

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts anew without touching workers: after a fork they belong to the parent."""
        self.lock = threading.Lock()
        self.slots = threading.BoundedSemaphore(max(2, min(8, os.cpu_count() or 2)))
        self.idle: list[_Worker] = []
        self.all: set[_Worker] = set()

    def ask(self, request: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], list[np.ndarray | None]]:
        """One answer. Raises MediaError; RuntimeError with the worker's trace for a bug of ours."""
        clip = request["clip"]["id"]
        with self.slots:
            worker = None
            try:
                worker = self._take()
                reply, arrays = worker.ask({**request, "limits": asdict(limits)}, limits.timeout_s + self._GRACE_S)
            except TimeoutError as error:
                self._drop(worker)
                raise MediaError("timeout", clip, {"limit_s": limits.timeout_s}) from error
            except ConnectionError as error:
                self._drop(worker)
                raise MediaError("crashed", clip, {"how": str(error)}) from error
            except BaseException:
                self._drop(worker)  # Interrupted: its answer would be taken for the next one's.
                raise
            with self.lock:
                self.idle.append(worker)
        if "error" in reply:
            raise MediaError(reply["error"], clip, reply["values"])
        if "bug" in reply:
            raise RuntimeError(f"clip {clip}: the media worker failed:\n{reply['bug']}")
        return reply, arrays

    def _take(self) -> _Worker:
        with self.lock:
            while self.idle:
                worker = self.idle.pop()
                if worker.process.poll() is None:
                    return worker
                self.all.discard(worker)
                worker.close()
        worker = _Worker()
        with self.lock:
            self.all.add(worker)
        return worker

    def _drop(self, worker: _Worker | None) -> None:
        if worker is not None:
            with self.lock:
                self.all.discard(worker)
            worker.close()

    def close(self) -> None:
        """Ends every worker."""
        with self.lock:
            workers, self.all, self.idle = self.all, set(), []
        for worker in workers:
            worker.close()


_POOL = _Pool()
atexit.register(_POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget)
