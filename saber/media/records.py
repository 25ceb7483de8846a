"""What reading a clip takes, gives and refuses: settings, limits, facts, the decoded arrays, and the errors.

``MediaSettings`` travel with the checkpoint, ``Limits`` come from the caller; ``Facts`` and ``Decoded`` come back, or a
``MediaError`` whose reason is a key of ``REASONS``. Every sentence is here, in English and Chinese.
To add an error: one entry in ``REASONS``. To add a note: one entry in ``NOTES``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np

#: Reason -> language -> (what is wrong, what to do next). Fields in braces are the error's ``values``.
REASONS: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "missing": {"en": ("The file does not exist.", "Check the path."), "zh": ("文件不存在。", "请检查路径。")},
        "directory": {
            "en": ("This is a folder, not a file.", "Name one media file inside it."),
            "zh": ("这是文件夹，不是文件。", "请指定其中的一个媒体文件。"),
        },
        "not_a_file": {
            "en": ("This is a pipe or a device, not a file.", "Save the clip to a file first."),
            "zh": ("这是管道或设备，不是普通文件。", "请先将片段保存为文件。"),
        },
        "unreadable": {
            "en": ("The file may not be read.", "Check its permissions."),
            "zh": ("没有读取该文件的权限。", "请检查文件权限。"),
        },
        "empty": {
            "en": ("The file is empty (0 bytes).", "Record or copy it again."),
            "zh": ("文件是空的（0 字节）。", "请重新录制或复制。"),
        },
        "not_media": {
            "en": ("This is not a video or audio file.", "Use a file such as mp4, webm, mov, mkv or wav."),
            "zh": ("这不是视频或音频文件。", "请使用 mp4、webm、mov、mkv 或 wav 等文件。"),
        },
        "damaged": {
            "en": (
                "The file is damaged or cut off, and nothing in it can be read.",
                "Record, download or export it again.",
            ),
            "zh": ("文件已损坏或不完整，无法读取任何内容。", "请重新录制、下载或导出。"),
        },
        "no_frames": {
            "en": ("The file holds no frame and no sound sample.", "Record or export it again."),
            "zh": ("文件中没有任何画面或声音数据。", "请重新录制或导出。"),
        },
        "no_tracks": {
            "en": ("The file has neither a picture nor a sound track.", "Use a file with at least one of them."),
            "zh": ("文件既没有画面也没有声音。", "请使用至少包含其中之一的文件。"),
        },
        "no_picture": {
            "en": ("Only the picture was asked for, but there is none here.", "Choose the sound, or another clip."),
            "zh": ("只要求使用画面，但这里没有画面。", "请选择声音，或换一个片段。"),
        },
        "no_sound": {
            "en": ("Only the sound was asked for, but there is none here.", "Choose the picture, or another clip."),
            "zh": ("只要求使用声音，但这里没有声音。", "请选择画面，或换一个片段。"),
        },
        "too_long": {
            "en": (
                "The part to read is {length_s} s long; at most {limit_s:g} s are read at once.",
                "Choose a part with start_s and end_s.",
            ),
            "zh": (
                "要读取的部分长 {length_s} 秒，一次最多读取 {limit_s:g} 秒。",
                "请用 start_s 和 end_s 选取其中一段。",
            ),
        },
        "file_too_long": {
            "en": ("The file is {length_s} s long; the limit is {limit_s:g} s.", "Cut it into shorter files."),
            "zh": ("文件长 {length_s} 秒，上限为 {limit_s:g} 秒。", "请将其切成较短的文件。"),
        },
        "too_large": {
            "en": (
                "The file has {size_mb:.0f} MB; the limit is {limit_mb:.0f} MB.",
                "Export it at a lower quality, or cut it into shorter files.",
            ),
            "zh": ("文件大小为 {size_mb:.0f} MB，上限为 {limit_mb:.0f} MB。", "请以较低质量导出，或切成较短的文件。"),
        },
        "frame_too_large": {
            "en": (
                "The picture is {width} x {height} pixels; at most {limit_pixels} pixels and {limit_side} a side are "
                "read.",
                "Export it at a lower resolution.",
            ),
            "zh": (
                "画面为 {width} x {height} 像素，最多读取 {limit_pixels} 像素，边长不超过 {limit_side}。",
                "请以较低分辨率导出。",
            ),
        },
        "frame_too_thin": {
            "en": (
                "The picture is {width} x {height} pixels; one side may be at most {limit_ratio:g} times the other.",
                "Choose the sound alone, or a clip with a picture of a common shape.",
            ),
            "zh": (
                "画面为 {width} x {height} 像素，一边最多为另一边的 {limit_ratio:g} 倍。",
                "请只使用声音，或换一个画面比例正常的片段。",
            ),
        },
        "outside": {
            "en": (
                "The part begins at {start_s:g} s, but the file ends at {end_s:.2f} s.",
                "Choose an earlier start_s.",
            ),
            "zh": ("所选部分从 {start_s:g} 秒开始，但文件在 {end_s:.2f} 秒就结束了。", "请选择更早的 start_s。"),
        },
        "timeout": {
            "en": (
                "Reading took longer than {limit_s:g} s and was stopped.",
                "Choose a shorter part, or export the file at a lower resolution.",
            ),
            "zh": ("读取超过 {limit_s:g} 秒，已停止。", "请选择较短的部分，或以较低分辨率导出。"),
        },
        "too_much_memory": {
            "en": ("Reading it takes more than {limit_mb:.0f} MB of memory.", "Export it at a lower resolution."),
            "zh": ("读取它需要超过 {limit_mb:.0f} MB 的内存。", "请以较低分辨率导出。"),
        },
        "crashed": {
            "en": (
                "The decoder process ended unexpectedly ({how}).",
                "Try again; if it happens again, export the file in another format.",
            ),
            "zh": ("解码进程意外终止（{how}）。", "请重试；若再次出现，请将文件导出为其他格式。"),
        },
    }
)

#: Note -> language -> sentence: the clip was read, but the reader must know this.
NOTES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "no_sound": {"en": "This clip has no sound.", "zh": "该片段没有声音。"},
        "no_picture": {"en": "This clip has no picture.", "zh": "该片段没有画面。"},
        "damaged": {
            "en": "The file is damaged or cut off; {read_s:.2f} s of it could be read.",
            "zh": "文件已损坏或不完整，只读出了 {read_s:.2f} 秒。",
        },
        "shortened": {
            "en": "The part was to end at {asked_s:g} s, but the file ends at {end_s:.2f} s.",
            "zh": "所选部分应在 {asked_s:g} 秒结束，但文件在 {end_s:.2f} 秒就结束了。",
        },
    }
)


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


#: How frames are chosen.
SAMPLING = ("times", "frames")


@dataclass(frozen=True)
class MediaSettings:
    """How a clip becomes a model's input. Saved with the checkpoint: training writes it, inference reads it.

    ``fps``, ``max_frames``: frames a second, and how many at most (then the rate falls, evenly). ``min_pixels``,
    ``max_pixels``: a frame's area is brought between them, keeping its shape; None keeps the size.
    ``sampling``: "times" takes the frame on show at evenly spaced times; "frames" takes frames by their number as
    qwen-omni-utils does: an even count, at least 4, evenly from the first to the last. ``side_multiple``: above 1,
    sides are multiples of it by that library's rule, which may end above ``max_pixels``.
    ``sample_rate_hz``: of the mono sound. ``audio_in_video``: whether the model interleaves sound and picture (only
    carried here). Defaults: 40 frames at most as in the published inference script; the paper does not give the
    rest, we chose 2 frames a second and about 128 visual tokens of 28 x 28 pixels a frame pair, which is what that
    script's frames cost under today's libraries.
    """

    fps: float = 2.0
    max_frames: int = 40
    min_pixels: int | None = None
    max_pixels: int | None = 128 * 28 * 28
    sampling: str = "times"
    side_multiple: int = 1
    sample_rate_hz: int = 16000
    audio_in_video: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("fps", 0.01),
            ("max_frames", 1),
            ("min_pixels", 1),
            ("max_pixels", 1),
            ("side_multiple", 1),
            ("sample_rate_hz", 1000),
        ):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"media settings: {name} is {value}; it must be {least} or more")
        if self.sampling not in SAMPLING:
            raise ValueError(f"media settings: sampling is {self.sampling!r}; it must be one of {SAMPLING}")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"media settings: min_pixels {self.min_pixels} is over max_pixels {self.max_pixels}")

    def to_json(self) -> dict[str, Any]:
        """All fields; ``sampling`` and ``side_multiple`` only where they are not the default, so that checkpoints from
        before they existed are still known by the same record."""
        later = {"sampling": "times", "side_multiple": 1}
        return {name: value for name, value in asdict(self).items() if name not in later or later[name] != value}

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
    ``max_frame_pixels``, ``max_aspect``: of one frame (the model's processor refuses sides of more than 200 to 1).
    ``timeout_s``: for decoding, not for waiting until a worker is free. ``max_memory_bytes``: of the child process
    (on Linux): a file can hold many pictures that each are small enough.
    """

    max_bytes: int = 2 * 1024**3
    max_duration_s: float = 3600.0
    max_part_s: float = 30.0
    max_side: int = 8192
    max_frame_pixels: int = 4096 * 4096
    max_aspect: float = 64.0
    timeout_s: float = 30.0
    max_memory_bytes: int = 2 * 1024**3


@dataclass(frozen=True)
class Facts:
    """What a file says about itself. ``width``, ``height``: as shown (pixel shape and rotation applied).

    ``duration_s``: the header's, None if it has none; measured, where the whole file was read. ``rotation``: degrees
    counterclockwise that the file asks for, already applied to decoded frames. A cover picture inside a sound file is
    not a picture track.
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
    that is on show at time k; ``fps``: their realised rate. ``audio``: float32 (round(duration_s * sample_rate_hz),) in
    [-1, 1], silent wherever the file has no sound, or None. ``duration_s``: length of the part by what was decoded;
    ``picture_s``, ``sound_s``: where each track ends in it. ``notes``: key of NOTES -> its fields, so
    ``"no_sound" in decoded.notes``.
    """

    frames: np.ndarray | None
    frame_times_s: np.ndarray
    fps: float | None
    audio: np.ndarray | None
    duration_s: float
    facts: Facts
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    picture_s: float = 0.0
    sound_s: float = 0.0
    sample_rate_hz: int = 16000

    def only(self, tracks: str, clip: str = "") -> Decoded:
        """What decoding with these ``tracks`` would have given, without decoding again. Raises MediaError (about
        ``clip``) where the one track that is asked for is not here."""
        if tracks == "both":
            return self
        missing = {"picture": self.frames is None, "sound": self.audio is None}[tracks]
        if missing:
            raise MediaError(f"no_{tracks}", clip)
        notes = {key: values for key, values in self.notes.items() if key not in ("no_picture", "no_sound")}
        if tracks == "picture":
            return replace(self, audio=None, duration_s=self.picture_s, sound_s=0.0, notes=notes)
        audio = self.audio[: round(self.sound_s * self.sample_rate_hz)]
        return replace(
            self, frames=None, frame_times_s=self.frame_times_s[:0], fps=None, audio=audio, duration_s=self.sound_s,
            picture_s=0.0, notes=notes,
        )  # fmt: skip

    def note_sentences(self, language: str = "en") -> tuple[str, ...]:
        """The notes as sentences in "en" or "zh"."""
        return tuple(NOTES[key][language].format(**values) for key, values in self.notes.items())
