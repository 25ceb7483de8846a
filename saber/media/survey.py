"""Opening a file and the first pass: what lies in the part, by its packets, with one frame decoded for its facts.

Goes in: a ``Watch`` (clip, limits, clock). Comes out: a ``Survey``, where the part begins and ends in the file's own
time and which packets belong to it, or a ``MediaError``. An uploaded file is not trusted: nothing but itself is read,
and its sizes are checked before anything is decoded.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import av

from saber.media.records import Facts, Limits, MediaError
from saber.schema import Clip

_TOLERANCE_S = 0.1
SAME_S = 0.001  # Matroska rounds timestamps to milliseconds.
_PREROLL_S = 1.0  # Seek this much earlier: sound may be stored ahead of the picture, and its codecs need a run-up.
_INTERLEAVE_S = 10.0  # A track this far past the part's end: the other one has no more packets near it.

# Demuxers that follow references to other files or addresses, or that make pictures or sound from text. An uploaded
# file must not make the decoder read anything but itself.
_REFUSED = {
    "hls", "applehttp", "dash", "concat", "webm_dash_manifest", "imf", "image2", "image2pipe", "lavfi", "rtsp", "rtp",
    "sdp", "sap", "tty", "bin", "xbin", "adf", "idf", "ffmetadata", "sbg",
}  # fmt: skip
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(sorted(av.formats_available - _REFUSED))}
_SLOPPY_BYTES = 1024  # Writers of wav count their own header, or a byte that they never wrote.
_UNKNOWN = 2**31 - 4096  # What a recorder that cannot go back states in place of its size, or more.
_MAGIC = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"FLV", b"fLaC", b"ID3", b"\x30\x26\xb2\x75")


class Watch:
    """One decoding's clip, limits, clock and whether anything in the file could not be read. ``cut_off``: the file
    is shorter than its first bytes say."""

    def __init__(self, clip: Clip, limits: Limits) -> None:
        self.clip, self.limits, self.damaged, self.cut_off = clip, limits, False, False
        self.deadline = time.monotonic() + limits.timeout_s

    def error(self, reason: str, **values: Any) -> MediaError:
        return MediaError(reason, self.clip.name, values)

    @property
    def size_bytes(self) -> int:
        return self.clip.span[1] if self.clip.span else os.path.getsize(self.clip.path)

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise self.error("timeout", limit_s=self.limits.timeout_s)

    def check_size(self, width: int, height: int) -> None:
        limits = self.limits
        if max(width, height) > limits.max_side or width * height > limits.max_frame_pixels:
            raise self.error(
                "frame_too_large",
                width=width,
                height=height,
                limit_pixels=limits.max_frame_pixels,
                limit_side=limits.max_side,
            )

    def check_shape(self, width: int, height: int) -> None:
        if max(width, height) > self.limits.max_aspect * min(width, height):
            raise self.error("frame_too_thin", width=width, height=height, limit_ratio=self.limits.max_aspect)


def open_file(watch: Watch) -> tuple[Any, Any, Any]:
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
    first, size = watch.clip.span or (0, status.st_size)
    if size == 0:
        raise watch.error("empty")
    if first + size > status.st_size:
        raise watch.error("damaged")
    if size > limits.max_bytes:
        raise watch.error("too_large", size_mb=size / 1e6, limit_mb=limits.max_bytes / 1e6)
    try:
        with open(path, "rb") as file:
            file.seek(first)
            head = file.read(12)
    except OSError as error:
        raise watch.error("unreadable") from error
    # wav and avi state the file's size, and FFmpeg forgives that it is less.
    watch.cut_off = head.startswith(b"RIFF") and size + _SLOPPY_BYTES < int.from_bytes(head[4:8], "little") < _UNKNOWN
    # "file:" keeps FFmpeg from taking a path such as "concat:a|b" or "http://..." for something else.
    address, options = "file:" + os.path.abspath(path), dict(_OPEN_OPTIONS)
    if watch.clip.span:
        address = f"subfile,,start,{first},end,{first + size},,:{address}"
        options["protocol_whitelist"] = "file,subfile"
    try:
        container = av.open(address, options=options, metadata_errors="replace")
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
            raise watch.error(
                "file_too_long", length_s=f"{container.duration / av.time_base:.1f}", limit_s=limits.max_duration_s
            )
    except MediaError:
        container.close()
        raise
    return container, video, audio


def read_packets(container: Any, streams: list[Any], watch: Watch) -> Iterator[Any]:
    """Packets in file order until the end or the first place that cannot be read."""
    try:
        for packet in container.demux(streams):
            watch.check_time()
            if packet.size:  # The marks that end each stream are empty.
                yield packet
    except av.FFmpegError:
        watch.damaged = True


def decode_packet(context: Any, packet: Any, watch: Watch | None = None) -> list[Any]:
    """Frames that this packet completes (None: those still held). What cannot be decoded is left out and noted."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        if watch:
            watch.damaged = True
        return []


def _stated_facts(watch: Watch, container: Any, video: Any, audio: Any) -> Facts:
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
        size_bytes=watch.size_bytes,
    )


def shown_size(frame: Any, video: Any) -> tuple[int, int]:
    """Width and height as shown before rotation: pixels that are not square are made so."""
    shape = video.sample_aspect_ratio
    # A shape beyond 4 is a broken header, not a film format.
    stretch = float(shape) if shape and 0.25 <= shape <= 4 else 1.0
    return max(1, round(frame.width * stretch)), frame.height


def quarter_turns(frame: Any) -> int:
    """How often np.rot90 turns the frame counterclockwise so that it stands as shown."""
    return round(frame.rotation / 90) % 4


def _with_frame(facts: Facts, frame: Any, video: Any) -> Facts:
    """Facts corrected by the first decoded frame."""
    width, height = shown_size(frame, video)
    if quarter_turns(frame) % 2:
        width, height = height, width
    return replace(facts, width=width, height=height, rotation=int(frame.rotation))


# --- first pass: what lies in the part (reads packets, decodes one frame) -------------------------------------------


@dataclass
class Survey:
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


def seek_to(container: Any, seek_s: float | None) -> None:
    if seek_s is not None:
        container.seek(int(seek_s * av.time_base), backward=True)


def packet_time_s(packet: Any, unit_s: float, when_decoded: bool = False) -> float | None:
    # Plain floats: exact fractions cost more here than decoding does.
    stamp = packet.dts if when_decoded or packet.pts is None else packet.pts
    return None if stamp is None else stamp * unit_s


def survey_part(watch: Watch, facts_only: bool = False, whole: bool = False) -> Survey:
    """Reads the part's packets. Raises MediaError if it is too long, outside the file, or empty. ``facts_only``: its
    first frame is enough, but ``whole`` reads on to the end and measures the length."""
    start_s = watch.clip.start_s
    if start_s > _PREROLL_S and not facts_only:
        survey = _survey_from(watch, seek=True)
        if survey:
            return survey
        watch.damaged = False
    survey = _survey_from(watch, False, facts_only, whole)
    assert survey is not None  # Only a seek can land in the wrong place.
    return survey


def _survey_from(watch: Watch, seek: bool, facts_only: bool = False, whole: bool = False) -> Survey | None:
    """One reading of the packets; None if the seek failed or landed after the part's start."""
    clip, limits = watch.clip, watch.limits
    container, video, audio = open_file(watch)
    with container:
        survey = Survey(_stated_facts(watch, container, video, audio))
        # Some containers start counting anywhere; a negative start is only a codec's run-up.
        origin_s = max(0.0, (container.start_time or 0) / av.time_base)
        # AVI stores no presentation times, and what FFmpeg gives in their place is wrong where pictures are reordered.
        survey.timed = container.format.name != "avi"
        survey.origin_s, survey.start_s = origin_s, origin_s + clip.start_s
        longest_s = survey.start_s + limits.max_part_s + _TOLERANCE_S
        asked_s = math.inf if clip.end_s is None else origin_s + clip.end_s
        stop_s = math.inf if whole else min(asked_s, longest_s)
        if seek:
            # Sound files without a picture are read from the start: their seeks only estimate where they land.
            if video is None:
                return None
            survey.seek_s = survey.start_s - _PREROLL_S
            try:
                seek_to(container, survey.seek_s)
            except av.FFmpegError:
                return None
        first_frame, passed, at_end, too_long = None, {}, True, False
        streams = [stream for stream in (video, audio) if stream is not None]
        units_s = {stream.index: float(stream.time_base) for stream in streams}
        for packet in read_packets(container, streams, watch):
            survey.packets += 1
            unit_s, is_video = units_s[packet.stream_index], video is not None and packet.stream_index == video.index
            at_s = packet_time_s(packet, unit_s, is_video and not survey.timed)
            if is_video:
                if seek and not survey.video and (at_s is None or at_s > survey.start_s or not packet.is_keyframe):
                    return None
                if first_frame is None and len(survey.video) < 50:
                    first_frame = next(iter(decode_packet(video.codec_context, packet)), None)
                survey.timed = survey.timed and packet.pts is not None
                survey.video.append((None if packet.is_discard else at_s, packet.is_keyframe))
            if facts_only and not whole and (video is None or first_frame or len(survey.video) >= 50):
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
            first_frame = next(iter(decode_packet(video.codec_context, None)), None)
        if first_frame is not None:
            watch.check_size(first_frame.width, first_frame.height)
            survey.facts = _with_frame(survey.facts, first_frame, video)
    if whole and (survey.video or survey.audio_end_s > -math.inf):
        survey.facts = replace(survey.facts, duration_s=_file_end_s(survey) - origin_s)
    if not facts_only:
        _finish_survey(watch, survey, asked_s, at_end, too_long)
    return survey


def _finish_survey(watch: Watch, survey: Survey, asked_s: float, at_end: bool, too_long: bool) -> None:
    """Fixes the part's end, asked for at ``asked_s``. Raises MediaError if there is nothing to decode or too much."""
    clip, origin_s, stated_s = watch.clip, survey.origin_s, survey.facts.duration_s
    file_end_s = _file_end_s(survey)
    if file_end_s == -math.inf:
        raise watch.error("damaged" if watch.damaged else "no_frames")
    if file_end_s <= survey.start_s + SAME_S:
        raise watch.error("outside", start_s=clip.start_s, end_s=max(0.0, file_end_s - origin_s))
    survey.end_s = min(asked_s, file_end_s)
    # A packet lies beyond the limit, or the last one is shown for so long.
    if too_long or survey.end_s - survey.start_s > watch.limits.max_part_s + _TOLERANCE_S:
        length_s = min(asked_s - survey.start_s, (stated_s or math.inf) - clip.start_s)
        limit_s = watch.limits.max_part_s
        raise watch.error(
            "too_long",
            limit_s=limit_s,
            length_s=f"{length_s:.1f}" if limit_s < length_s < math.inf else f"> {limit_s:g}",
        )
    survey.shortened = math.inf > asked_s > file_end_s + _TOLERANCE_S
    # Only these state a length that they know; others estimate it from the bit rate.
    sure = survey.facts.container.startswith(("mov", "matroska", "flv"))
    lacks_s = stated_s - (file_end_s - origin_s) if sure and stated_s else 0.0
    if at_end and (watch.cut_off or lacks_s > max(0.5, 0.02 * (stated_s or 0.0))):
        watch.damaged = True


def _file_end_s(survey: Survey) -> float:
    """When the last frame or sample ends, in the file's own time; -inf where there is none."""
    times = sorted(at for at, _ in survey.video if at is not None)
    if times:
        # A last frame whose length is not stated is shown as long as those before it.
        last_s = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / (survey.facts.fps or 25)
        if survey.video_end_s < times[-1] + SAME_S:
            survey.video_end_s = times[-1] + last_s
    end_s = max(survey.video_end_s, survey.audio_end_s)
    if end_s == -math.inf and survey.video:  # Raw streams carry no times: count frames.
        end_s = survey.video_end_s = survey.origin_s + len(survey.video) / (survey.facts.fps or 25)
    return end_s


def probe_here(path: str | os.PathLike[str], limits: Limits = Limits(), whole: bool = False) -> Facts:
    """``probe`` in this process, without its protection from hanging or crashing decoders."""
    return survey_part(Watch(Clip(os.fspath(path)), limits), facts_only=True, whole=whole).facts
