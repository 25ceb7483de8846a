"""Damaged files by the hundred, the same for the same seed: what an upload can be when it is not a whole clip.

Goes in: a whole clip of the studio. Comes out: files in a folder, some of each kind. A kind is a function of the whole
files (``sources``) and a random generator that yields (file name, bytes). To add one: a function, and its line in
``DAMAGE``. ``write_some`` gives a few, spread evenly over the kinds.
"""

from __future__ import annotations

import gzip
import io
import itertools
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Sources = Mapping[str, bytes]
Files = Iterator[tuple[str, bytes]]

CONTAINERS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "flv": "flv", "ts": "mpegts", "m4a": "mp4"}


@dataclass(frozen=True)
class Damaged:
    """One file and the kind of its damage, a key of ``DAMAGE``."""

    kind: str
    path: Path


# --- whole files -----------------------------------------------------------------------------------------------------


def build_sources(clip: str | Path) -> dict[str, bytes]:
    """The clip in many containers, name -> bytes: its own streams where the container takes them, else encoded anew."""
    sources = {"clip.mp4": Path(clip).read_bytes()}
    sources["front.mp4"] = copy_streams(sources["clip.mp4"], "mp4", "+faststart")
    sources["pieces.mp4"] = copy_streams(sources["clip.mp4"], "mp4", "+frag_keyframe+empty_moov")
    for name in ("mov", "mkv", "flv", "ts", "m4a"):
        sources[f"copy.{name}"] = copy_streams(sources["clip.mp4"], name)
    sources["clip.webm"] = encode("webm", codec="libvpx", sound="libopus", rate_hz=48000)
    sources["clip.avi"] = encode("avi", sound="pcm_s16le")  # It takes another form of h264 than the clip's.
    sources["clip.wav"] = encode("wav", codec=None, sound="pcm_s16le", rate_hz=16000, layout="mono")
    return sources


def copy_streams(data: bytes, ending: str, movflags: str = "") -> bytes:
    """The same packets in another container; m4a takes the sound alone."""
    options = {"fflags": "+bitexact", **({"movflags": movflags} if movflags else {})}
    with tempfile.TemporaryDirectory() as folder:  # A file: putting the index in front reads what was written.
        target = Path(folder) / f"copy.{ending}"
        with (
            av.open(io.BytesIO(data)) as source,
            av.open(str(target), "w", format=CONTAINERS[ending], options=options) as out,
        ):
            wanted = source.streams.audio if ending == "m4a" else (*source.streams.video, *source.streams.audio)
            made = {stream.index: out.add_stream_from_template(stream) for stream in wanted}
            for packet in source.demux(*wanted):
                if packet.dts is not None:
                    packet.stream = made[packet.stream_index]
                    out.mux(packet)
        return target.read_bytes()


def encode(
    container: str,
    seconds: float = 1.5,
    fps: float | Fraction = 10,
    size: tuple[int, int] = (64, 48),
    codec: str | None = "libx264",
    sound: str | None = None,
    rate_hz: int = 16000,
    layout: str = "mono",
    empty: bool = False,
) -> bytes:
    """A small clip of moving bars and a tone. ``empty``: the tracks are stated, but the sound has no packet."""
    target, (width, height) = io.BytesIO(), size
    with av.open(target, "w", format=container, options={"fflags": "+bitexact"}) as out:
        packets = []
        if codec:
            rate = Fraction(fps).limit_denominator(1000)
            video = out.add_stream(codec, rate=rate, options={"preset": "ultrafast"} if codec == "libx264" else {})
            video.width, video.height, video.pix_fmt = width, height, "rgb24" if codec == "png" else "yuv420p"
            video.codec_context.thread_count = 1
        if sound:
            audio = out.add_stream(sound, rate=rate_hz, layout=layout)
        if codec:
            for i in range(max(1, round(seconds * rate))):
                bars = np.arange(width, dtype=np.uint8) + np.uint8(5 * i % 256)
                picture = np.broadcast_to(bars, (height * 3 // 2, width))
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="yuv420p")
                frame = frame.reformat(format=video.pix_fmt)
                frame.pts, frame.time_base = i, 1 / rate
                packets += video.encode(frame)
            packets += video.encode(None)
        if sound and not empty:
            values = (0.4 * np.sin(np.arange(round(seconds * rate_hz)) * 0.1)).astype(np.float32)
            resampler = av.AudioResampler(audio.format, audio.layout, rate_hz, audio.codec_context.frame_size or 1024)
            frame = av.AudioFrame.from_ndarray(np.tile(values, (audio.channels, 1)), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
            for piece in resampler.resample(frame) + resampler.resample(None):
                packets += audio.encode(piece)
            packets += audio.encode(None)
        for packet in sorted((p for p in packets if p.size), key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return target.getvalue()


def ending(name: str) -> str:
    return name.rsplit(".", 1)[1]


# --- where things stand in a file ------------------------------------------------------------------------------------

# Boxes of mp4 that hold boxes -> how far into the box these begin.
_INSIDE = dict.fromkeys((b"moov", b"trak", b"edts", b"mdia", b"minf", b"dinf", b"stbl", b"udta"), 8)
_INSIDE |= {b"stsd": 16, b"avc1": 86, b"mp4a": 36}

# Matroska: elements that hold elements.
_MASTERS = {0x1A45DFA3, 0x114D9B74, 0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0xE1, 0x1F43B675, 0x1C53BB6B}
_MASTERS |= {0x4DBB, 0xBB, 0xB7, 0xA0}


def boxes(data: bytes, first: int = 0, last: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Every box of an mp4, outer ones first: (type, where it begins, its size)."""
    last = len(data) if last is None else last
    while first + 8 <= last:
        size, kind = int.from_bytes(data[first : first + 4], "big"), data[first + 4 : first + 8]
        yield kind, first, size
        if kind in _INSIDE:
            yield from boxes(data, first + _INSIDE[kind], first + size)
        first += max(8, size)


def elements(data: bytes, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Every element of a Matroska file, outer ones first: (id, where its size stands, where its content begins and
    ends)."""
    last = len(data) if last is None else last
    while first + 2 <= last:
        width = 9 - data[first].bit_length()
        number = int.from_bytes(data[first : first + width], "big")
        place = first + width
        size_width = 9 - data[place].bit_length()
        size = int.from_bytes(data[place : place + size_width], "big") & ~(1 << 7 * size_width)
        begin = place + size_width
        end = min(last, begin + size)
        yield number, place, begin, end
        if number in _MASTERS:
            yield from elements(data, begin, end)
        first = end


def put(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def absurd(width: int) -> list[bytes]:
    """Numbers that no honest field of so many bytes holds: 0, 1, the largest with and without a sign, the smallest,
    and an infinite one if it is read as a float."""
    low = [bytes(width), bytes(width - 1) + b"\1", b"\xff" * width]
    high = [b"\x7f" + b"\xff" * (width - 1), b"\x80" + bytes(width - 1)]
    infinite = {4: [struct.pack(">f", np.inf)], 8: [struct.pack(">d", np.inf)]}
    return low + high + infinite.get(width, [])


# --- kinds of damage -------------------------------------------------------------------------------------------------


def cut(sources: Sources, random: np.random.Generator) -> Files:
    """The first n of 40 parts, and the first bytes one by one where the headers are."""
    for name, data in sources.items():
        for part in range(1, 40):
            yield f"{part}-of-40.{ending(name)}", data[: len(data) * part // 40]
        for length in random.integers(65, 1500, 3):
            yield f"{length}-bytes.{ending(name)}", data[:length]


def flip(sources: Sources, random: np.random.Generator) -> Files:
    """Bytes changed: few or many, anywhere, in the first or the last part (where headers and indexes are)."""
    for name, data in sources.items():
        regions = {"all": (0, len(data)), "head": (4, 600), "tail": (len(data) - 900, len(data))}
        for (region, (first, last)), count in itertools.product(regions.items(), (1, 8, 100)):
            changed = bytearray(data)
            for place in random.integers(max(0, first), last, count):
                changed[place] ^= int(random.integers(1, 256))
            yield f"{region}-{count}.{ending(name)}", bytes(changed)


def zero(sources: Sources, random: np.random.Generator) -> Files:
    """Blocks of zeros, as a broken download leaves them."""
    for name, data in sources.items():
        for size in (16, 512, 4096, len(data) // 3):
            yield f"{size}.{ending(name)}", put(data, int(random.integers(0, len(data) - size)), bytes(size))
        yield f"second-half.{ending(name)}", data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def shuffle(sources: Sources, random: np.random.Generator) -> Files:
    """Blocks in another order, twice, or missing."""
    for name, data in sources.items():
        size = len(data) // 16 + 1
        parts = [data[i : i + size] for i in range(0, len(data), size)]
        a, b = sorted(int(i) for i in random.choice(np.arange(1, len(parts)), 2, replace=False))
        swapped = [*parts[:a], parts[b], *parts[a + 1 : b], parts[a], *parts[b + 1 :]]
        yield f"swapped.{ending(name)}", b"".join(swapped)
        yield f"twice.{ending(name)}", b"".join([*parts[: a + 1], *parts[a:]])
        yield f"missing.{ending(name)}", b"".join([*parts[:a], *parts[a + 1 :]])
        yield f"backwards.{ending(name)}", b"".join(reversed(parts))
        yield f"two-files.{ending(name)}", data + data


def junk(sources: Sources, random: np.random.Generator) -> Files:
    """Something else before or after the clip."""
    for name, data in sources.items():
        noise = random.bytes(int(random.integers(1, 5000)))
        yield f"before.{ending(name)}", noise + data
        yield f"after.{ending(name)}", data + noise
        yield f"newline.{ending(name)}", b"\r\n" + data
        yield f"text-mode.{ending(name)}", data.replace(b"\n", b"\r\n")


def rename(sources: Sources, random: np.random.Generator) -> Files:
    """Content and name that disagree."""
    for name in ("clip.mp4", "clip.webm", "clip.wav"):
        for other in ("txt", "jpg", "png", "wav", "mp4", "m3u8", "mp3", "idx", "yuv", "exe"):
            if other != ending(name):
                yield f"{ending(name)}-called.{other}", sources[name]
    text = b"Somebody smiles, and says 'what a lovely day'.\n" * 200
    for other in ("mp4", "webm", "wav", "avi", "mp3", "srt", "yuv", "s16le", "png", "txt", "sbg", "sub", "idx", "aac"):
        yield f"text-called.{other}", text
    yield "no-ending", sources["clip.mp4"]
    yield "名字 \U0001f600 ' \" %d {} [0].mp4", sources["clip.mp4"]


def tiny(sources: Sources, random: np.random.Generator) -> Files:
    """No bytes, and 1 to 64 of them."""
    yield "0.mp4", b""
    for size, name in zip(range(1, 65), itertools.cycle(sources), strict=False):
        yield f"{size}.{ending(name)}", sources[name][:size]


def noise(sources: Sources, random: np.random.Generator) -> Files:
    """Random bytes under the name of many formats, with and without the first bytes of a real one."""
    names = ("mp4", "webm", "avi", "wav", "mp3", "aac", "ts", "mpg", "h264", "hevc", "yuv", "sbc", "dts", "ac3", "sw")
    for name in (*names, "g722", "cdg", "dv", "mjpeg", "gif", "ico", "flac", "ogg", "ul", "v210", "str", "sln", "obu"):
        yield f"noise.{name}", random.bytes(20_000)
    for name, data in sources.items():
        yield f"after-64-bytes.{ending(name)}", data[:64] + random.bytes(30_000)


def mp4_sizes(sources: Sources, random: np.random.Generator) -> Files:
    """Boxes with sizes 0, 1, 2^31, 2^32 - 1, less than their head, and 2^63 or 2^64 - 1 by the long form."""
    data, seen = sources["front.mp4"], set()
    for kind, at, _ in boxes(data):
        if kind in seen:
            continue
        seen.add(kind)
        label = kind.decode("latin-1")
        for size in (0, 1, 7, 2**31, 2**32 - 1):
            yield f"{label}-{size}.mp4", put(data, at, size.to_bytes(4, "big"))
        if kind in (b"ftyp", b"moov", b"mdat", b"trak", b"stsz"):
            for size in (2**63, 2**64 - 1, 16):
                long = b"\0\0\0\1" + kind + size.to_bytes(8, "big")
                yield f"{label}-long-{size}.mp4", data[:at] + long + data[at + 8 :]


# Where a field stands in its box, from the box's beginning, and how wide it is.
_FIELDS = {
    b"mvhd": {"timescale": (20, 4), "duration": (24, 4)},
    b"tkhd": {"version": (8, 1), "id": (20, 4), "duration": (28, 4), "matrix": (48, 4)},
    b"mdhd": {"version": (8, 1), "timescale": (20, 4), "duration": (24, 4)},
    b"elst": {"count": (12, 4), "duration": (16, 4), "media": (20, 4), "rate": (24, 4)},
    b"stts": {"count": (12, 4), "frames": (16, 4), "delta": (20, 4)},
    b"stsc": {"count": (12, 4), "first": (16, 4), "samples": (20, 4), "description": (24, 4)},
    b"stsz": {"size": (12, 4), "count": (16, 4), "first": (20, 4)},
    b"stco": {"count": (12, 4), "first": (16, 4)},
    b"stss": {"count": (12, 4), "first": (16, 4)},
    b"stsd": {"count": (12, 4)},
    b"mp4a": {"channels": (24, 2), "rate": (32, 4)},
    b"avcC": {"sets": (13, 1), "length": (14, 2)},
}


def mp4_fields(sources: Sources, random: np.random.Generator) -> Files:
    """Durations, timescales, counts and tables of an mp4 with absurd numbers, in the picture's or the sound's track."""
    data, seen = sources["clip.mp4"], {}
    for kind, at, _ in boxes(data):
        seen[kind] = seen.get(kind, 0) + 1
        for field, (offset, width) in _FIELDS.get(kind, {}).items():
            for value in absurd(width):
                name = f"{kind.decode()}-{seen[kind]}-{field}-{value.hex()}.mp4"
                yield name, put(data, at + offset, value)


def ebml(sources: Sources, random: np.random.Generator) -> Files:
    """Matroska: element sizes of 0, unknown and 2^56 - 2; numbers that make no sense in each field of the header."""
    data, seen = sources["clip.webm"], set()
    for number, place, begin, end in elements(data):
        if number in seen or number in (0xEC, 0xA3, 0xBF):
            continue
        seen.add(number)
        width = begin - place
        marker = 1 << 7 * width
        for size in (0, marker - 1, marker - 2) if number in _MASTERS else (0, marker - 2):
            yield f"{number:x}-size-{size:x}.webm", put(data, place, (marker | size).to_bytes(width, "big"))
        if number not in _MASTERS and end - begin <= 8 and end > begin:
            for value in absurd(end - begin)[::2]:
                yield f"{number:x}-{value.hex()}.webm", put(data, begin, value)


def riff(sources: Sources, random: np.random.Generator) -> Files:
    """wav with rates, channels and block sizes of 0 and the largest; avi with the same in its headers."""
    data = sources["clip.wav"]
    fields = {"format": (20, 2), "channels": (22, 2), "rate": (24, 4), "bytes": (28, 4), "align": (32, 2)}
    fields |= {"bits": (34, 2), "fmt-size": (16, 4), "data-size": (data.index(b"data") + 4, 4)}
    for field, (at, width) in fields.items():
        for value in absurd(width)[:5]:
            yield f"{field}-{value.hex()}.wav", put(data, at, value[::-1])
    data = sources["clip.avi"]
    head, sizes = data.index(b"avih"), {"microseconds": 8, "frames": 24, "streams": 32, "width": 40, "height": 44}
    places = {field: head + offset for field, offset in sizes.items()}
    at = -1
    for track in ("picture", "sound"):
        at = data.index(b"strh", at + 1)
        places |= {f"{track}-{field}": at + offset for field, offset in {"scale": 28, "rate": 32, "start": 36}.items()}
        places |= {f"{track}-sample": at + 52, f"{track}-length": at + 40}
    for field, at in places.items():
        for value in absurd(4)[:5:2]:
            yield f"{field}-{value.hex()}.avi", put(data, at, value[::-1])


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: int = 1) -> bytes:
    """A black PNG that states a size and holds so many rows. ``colour``: 0 grey, 2 RGB, 6 RGBA."""
    line = bytes(1 + width * depth * {0: 1, 2: 3, 6: 4}[colour] // 8)
    packer = zlib.compressobj(1)
    packed = b"".join([*(packer.compress(line) for _ in range(rows)), packer.flush()])
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )


def with_picture(data: bytes, picture: bytes) -> bytes:
    """A mov of one png frame with another picture in its place: the header still states the first one's size."""
    first, end = data.index(b"\x89PNG"), data.index(b"IEND") + 8
    if len(picture) > end - first:  # The index stands behind it and moves; its table says how long the frame is.
        for kind, at, _ in list(boxes(data)):
            if kind == b"stsz":
                data = put(data, at + 12, len(picture).to_bytes(4, "big"))
            if kind == b"mdat":
                data = put(data, at, (8 + len(picture)).to_bytes(4, "big"))
    return data[:first] + picture + data[end:]


def with_tracks(data: bytes, more: int) -> bytes:
    """An mp4 or mov with its index at the end, its first track there so many times more."""
    moov, size = next((at, size) for kind, at, size in boxes(data) if kind == b"moov")
    track = next(data[at : at + size] for kind, at, size in boxes(data) if kind == b"trak")
    content = data[moov + 8 : moov + size] + track * more
    return data[:moov] + (8 + len(content)).to_bytes(4, "big") + b"moov" + content


def size(sources: Sources, random: np.random.Generator) -> Files:
    """Pictures that are huge or thin, or say that they are."""
    data, codes = sources["clip.mp4"], {kind: at for kind, at, _ in boxes(sources["clip.mp4"])}
    track = next(at for kind, at, _ in boxes(data) if kind == b"tkhd")
    for value in absurd(4)[:5]:
        yield f"tkhd-{value.hex()}.mp4", put(data, track + 84, value + value)
    for value in absurd(2):
        yield f"avc1-{value.hex()}.mp4", put(data, codes[b"avc1"] + 32, value + value)
    web, start = sources["clip.webm"], b"\x9d\x01\x2a"
    for width, height in ((16383, 16383), (16383, 1), (1, 16383), (0, 0)):
        place, changed = web.find(start), web
        while place >= 0:
            changed = put(changed, place + 3, struct.pack("<HH", width, height))
            place = web.find(start, place + 1)
        yield f"vp8-{width}x{height}.webm", changed
    yield "h264-8192x8192.mp4", encode("mp4", 0.1, size=(8192, 8192))
    yield "h264-8208x8208.mkv", encode("matroska", 0.1, size=(8208, 8208))
    yield "h264-4096x4096.mp4", encode("mp4", 0.2, size=(4096, 4096))
    yield "h264-16x8192.mp4", encode("mp4", 0.5, size=(16, 8192))
    yield "h264-8192x16.mp4", encode("mp4", 0.5, size=(8192, 16), sound="aac")
    for width, height in ((2**31 - 1, 2**31 - 1), (65535, 65535), (0, 0), (1, 30000), (30000, 1), (16384, 8192)):
        yield (
            f"states-{width}x{height}.png",
            png(width, height, rows=1) if width < 1e6 else put(png(9, 9), 16, struct.pack(">II", width, height)),
        )
    yield "black-16000x16000.png", png(16000, 16000, 8, 0, rows=16000)
    small = encode("mov", 0.1, codec="png")
    yield "small-then-8192x8192.mov", with_picture(small, png(8192, 8192, 8, 6, rows=8192))
    huge = with_picture(small, png(16384, 8192, 16, 6, rows=8192))
    yield "small-then-16384x8192.mov", huge
    yield "seven-tracks-of-16384x8192.mov", with_tracks(huge, 6)
    yield "small-then-states-65535.mov", with_picture(small, png(65535, 65535, 16, 6))
    yield (
        "screen.gif",
        b"GIF89a" + b"\xff" * 4 + b"\x80\0\0" + b"\0" * 6 + b"," + b"\0" * 4 + b"\xff" * 4 + b"\0\2\2L\1\0;",
    )
    yield "states.bmp", b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, *[0] * 6)
    yield "states.y4m", b"YUV4MPEG2 W100000 H100000 F25:1 C420\nFRAME\n" + bytes(5000)
    yield "rate.y4m", b"YUV4MPEG2 W16 H16 F0:0 C420\n" + (b"FRAME\n" + bytes(384)) * 5
    yield "states.ivf", struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP80", 65535, 65535, 0, 0, 9, 0) + bytes(900)


def rate(sources: Sources, random: np.random.Generator) -> Files:
    """Frame rates and sample rates that no camera has; samples that are no numbers."""
    for fps, seconds in ((1, 3), (1000, 1), (Fraction(1, 100), 200), (Fraction(1, 20), 25), (Fraction(1000, 7), 1)):
        for container in ("mp4", "matroska", "avi"):
            name = f"{float(fps):g}-fps.{'mkv' if container == 'matroska' else container}"
            yield name, encode(container, seconds, fps, sound="aac" if seconds < 30 else None)
    tone = (9000 * np.sin(np.arange(16000) * 0.1)).astype("<i2")
    for rate_hz, channels in ((4000, 1), (192_000, 2), (48_000, 8), (1, 1), (100, 1), (700_000, 1), (48_000, 64)):
        yield f"{rate_hz}-hz-{channels}.wav", wav(np.repeat(tone, channels), rate_hz, channels)
    for label, value in {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "huge": 3e38, "least": 1e-45}.items():
        yield f"samples-{label}.wav", wav(np.full(16000, value, "<f4"), 16000)


def wav(values: np.ndarray, rate_hz: int, channels: int = 1) -> bytes:
    """Samples as they are, integers or floats; channels take turns."""
    width, kind = values.itemsize, 3 if values.dtype.kind == "f" else 1
    sound = struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * width * channels, width * channels, 8 * width)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + sound + b"data" + struct.pack("<I", values.nbytes)
    return b"RIFF" + struct.pack("<I", len(chunks) + values.nbytes) + chunks + values.tobytes()


def clock(sources: Sources, random: np.random.Generator) -> Files:
    """Timestamps that are negative, all the same, going back, or hours apart."""
    tags, data = [], sources["copy.flv"]
    at = 13
    while at + 15 <= len(data):
        tags.append(at)
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    rules: dict[str, Callable[[int, int], int]] = {
        "constant": lambda i, t: 500,
        "back": lambda i, t: 5000 - t,
        "negative": lambda i, t: t - 3000,
        "hours": lambda i, t: t + (i > len(tags) // 2) * 4 * 3600 * 1000,
        "each-an-hour": lambda i, t: t + i * 3600 * 1000,
        "random": lambda i, t: int(random.integers(0, 2**31)),
        "last": lambda i, t: 2**31 - 1,
        "leap": lambda i, t: t + (i > len(tags) // 2) * 20_000,
    }
    for label, rule in rules.items():
        changed = data
        for i, place in enumerate(tags):
            stamp = rule(i, int.from_bytes(data[place + 4 : place + 7], "big")) % 2**32
            changed = put(changed, place + 4, (stamp & 0xFFFFFF).to_bytes(3, "big") + bytes([stamp >> 24]))
        yield f"{label}.flv", changed
    web = sources["clip.webm"]
    blocks = [begin for number, _, begin, _ in elements(web) if number == 0xA3]
    for label, stamp in {"constant": 0, "negative": -30000, "back": None}.items():
        changed = web
        for i, begin in enumerate(blocks):
            value = stamp if stamp is not None else 30000 - 10 * i
            changed = put(changed, begin + 1, value.to_bytes(2, "big", signed=True))
        yield f"{label}.webm", changed
    mp4 = sources["clip.mp4"]
    tables = [at for kind, at, _ in boxes(mp4) if kind == b"stts"]
    for which, at in enumerate(tables):
        for label, delta in {"constant": 0, "back": 2**32 - 512, "hours": 2**30, "slow": 60_000}.items():
            yield f"{label}-{which}.mp4", put(mp4, at + 20, delta.to_bytes(4, "big"))
    transport = bytearray(sources["copy.ts"])
    for at in range(0, len(transport) - 188, 188):  # The presentation times' lowest bits, in every packet that has one.
        begin = transport.find(b"\0\0\1", at, at + 188)
        if begin >= 0 and begin + 14 < at + 188 and transport[begin + 7] & 0x80:
            transport[begin + 10 : begin + 14] = random.bytes(4)
    yield "random.ts", bytes(transport)


def cover(sources: Sources, random: np.random.Generator) -> Files:
    """Sound with a cover picture, whole and damaged, and a cover without sound."""
    for container, name, sound in (("mp3", "mp3", "libmp3lame"), ("mp4", "m4a", "aac"), ("flac", "flac", "flac")):
        for with_sound in (True, False):
            target = io.BytesIO()
            try:
                with av.open(target, "w", format=container, options={"fflags": "+bitexact"}) as out:
                    audio = out.add_stream(sound, rate=44100, layout="mono") if with_sound or name != "m4a" else None
                    picture = out.add_stream("png", rate=1)
                    picture.width, picture.height, picture.pix_fmt = 32, 32, "rgb24"
                    picture.disposition = av.stream.Disposition.attached_pic
                    out.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
                    if with_sound:
                        frame = av.AudioFrame.from_ndarray(
                            np.zeros((1, 44100), np.float32), format="fltp", layout="mono"
                        )
                        frame.sample_rate, frame.pts = 44100, 0
                        width = audio.codec_context.frame_size or 1152
                        resampler = av.AudioResampler(audio.format, audio.layout, 44100, width)
                        for piece in resampler.resample(frame) + resampler.resample(None):
                            out.mux(audio.encode(piece))
                        out.mux(audio.encode(None))
            except av.FFmpegError:  # A file that holds no sound may be refused by its writer: what is there counts.
                pass
            data = target.getvalue()
            label = "sound" if with_sound else "alone"
            yield f"{label}.{name}", data
            begin = data.find(b"\x89PNG")
            if begin >= 0:
                yield f"{label}-broken.{name}", put(data, begin + 16, b"\xff" * 20)
                yield f"{label}-cut.{name}", data[: begin + 40]


def empty(sources: Sources, random: np.random.Generator) -> Files:
    """Tracks that are stated and hold nothing."""
    data = sources["clip.mp4"]
    for tracks in ((0,), (1,), (0, 1)):
        changed, seen = data, {}
        for kind, at, _ in boxes(data):
            if kind in (b"stts", b"stsz", b"stco", b"stsc", b"stss"):
                seen[kind] = seen.get(kind, -1) + 1
                if seen[kind] in tracks:
                    changed = put(changed, at + (16 if kind == b"stsz" else 12), bytes(4))
        yield f"tables-{'-'.join(map(str, tracks))}.mp4", changed
    for name in ("mp4", "matroska", "avi", "mov"):
        yield (
            f"sound.{'mkv' if name == 'matroska' else name}",
            encode(name, sound="pcm_s16le" if name != "mp4" else "aac", empty=True),
        )
    for name in ("clip.webm", "copy.mkv"):
        cluster = next(place for number, place, _, _ in elements(sources[name]) if number == 0x1F43B675)
        yield f"no-cluster.{ending(name)}", sources[name][: cluster - 4]
    wav = sources["clip.wav"]
    yield "no-sample.wav", put(wav, wav.index(b"data") + 4, bytes(4))[: wav.index(b"data") + 8]
    avi = sources["clip.avi"]
    yield "no-packet.avi", avi[: avi.index(b"movi") + 4]
    yield "head.flv", sources["copy.flv"][:13]
    moov = next((at, size) for kind, at, size in boxes(data) if kind == b"moov")
    yield "only-moov.mp4", data[moov[0] : moov[0] + moov[1]]


def elsewhere(sources: Sources, random: np.random.Generator) -> Files:
    """Files that name others: what they point to must never be read."""
    for target in (
        "/etc/passwd",
        "file:///etc/passwd",
        "whole.mp4",
        "http://127.0.0.1:9/a.mp4",
        "concat:whole.mp4|whole.mp4",
    ):
        label = "".join(c if c.isalnum() else "-" for c in target)
        texts = {
            "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
            "mp4": f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
            "ffconcat": f"ffconcat version 1.0\nfile '{target}'\nduration 1\n",
            "webm": f"ffconcat version 1.0\nfile '{target}'\n",
            "pls": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
            "mpd": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period>"
            "<AdaptationSet><Representation id='1' mimeType='video/mp4'><BaseURL>"
            f"{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
            "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns={target}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
            "svg": f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{target}' width='9' height='9'/></svg>",
            "html": f"<!doctype html><video src='{target}'></video><script>location = '{target}'</script>",
            "idx": f"# VobSub index file, v7\nid: en, index: 0\n{target}\ntimestamp: 00:00:00:000, filepos: 0\n",
            "sbg": f"-E\n-m {target}\na: 200+10/50\nNOW a\n+00:05 a\n",
        }
        for name, text in texts.items():
            yield f"{label}.{name}", text.encode()


def other(sources: Sources, random: np.random.Generator) -> Files:
    """Honest files of another kind: archives, pages, pictures, subtitles."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr(zipfile.ZipInfo("clip.mp4"), sources["clip.mp4"])
    yield "clip.zip", archive.getvalue()
    yield "zip-called.mp4", archive.getvalue()
    yield "clip.mp4.gz", gzip.compress(sources["clip.mp4"], mtime=0)
    yield "zeros.mp4.gz", gzip.compress(bytes(10**7), mtime=0)
    yield "page.html", b"<!doctype html><html><script>alert(1)</script><p>" + b"word " * 900
    yield "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><circle r='9'/></svg>"
    yield "entities.svg", b"<!DOCTYPE a [<!ENTITY b 'bb'><!ENTITY c '&b;&b;&b;'>]><svg><text>&c;</text></svg>"
    yield "words.srt", b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"
    yield "words.vtt", b"WEBVTT\n\n00:00.000 --> 99:59:59.000\nhello\n"
    yield "code.py", Path(__file__).read_bytes()
    yield "picture.png", png(64, 64, rows=64)
    yield "picture-called.mp4", png(64, 64, rows=64)
    yield "document.pdf", b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer << /Root 1 0 R >>\n%%EOF\n"
    yield "program.mp4", b"\x7fELF\x02\x01\x01" + random.bytes(5000)
    yield "meta.mp4", b";FFMETADATA1\ntitle=a\n[STREAM]\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=9\n"


def nested(sources: Sources, random: np.random.Generator) -> Files:
    """Containers inside themselves, many levels deep or many times over."""
    data = sources["clip.mp4"]
    for kind, depth in itertools.product((b"moov", b"trak", b"udta", b"meta"), (10, 1000, 20_000)):
        box = b"".join((8 + 8 * level).to_bytes(4, "big") + kind for level in range(depth, 0, -1))
        yield f"{kind.decode()}-{depth}.mp4", data[: boxes_end(data, b"ftyp")] + box
    for number, depth in itertools.product((b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75"), (10, 5000)):
        head = sources["clip.webm"][
            : next(begin for n, _, begin, _ in elements(sources["clip.webm"]) if n == 0x18538067)
        ]
        yield f"{number.hex()}-{depth}.webm", head + (number + b"\x01" + b"\xff" * 7) * depth
    for depth in (10, 5000):
        lists = b"".join(b"LIST" + (4 + 12 * level).to_bytes(4, "little") + b"hdrl" for level in range(depth, 0, -1))
        yield f"lists-{depth}.avi", b"RIFF" + (4 + len(lists)).to_bytes(4, "little") + b"AVI " + lists
    for count in (10, 2000):
        yield f"tracks-{count}.mp4", with_tracks(data, count)
    yield "mp4-in-mdat.mp4", (8 + len(data)).to_bytes(4, "big") + b"mdat" + data


def boxes_end(data: bytes, wanted: bytes) -> int:
    return next(at + size for kind, at, size in boxes(data) if kind == wanted)


#: Kind of damage -> what makes it.
DAMAGE: Mapping[str, Callable[[Sources, np.random.Generator], Files]] = {
    "cut off": cut,
    "bytes changed": flip,
    "blocks of zeros": zero,
    "blocks out of order": shuffle,
    "junk around it": junk,
    "wrong name": rename,
    "nearly no bytes": tiny,
    "noise": noise,
    "mp4: box sizes": mp4_sizes,
    "mp4: numbers": mp4_fields,
    "webm: sizes, numbers": ebml,
    "wav, avi: numbers": riff,
    "huge or thin": size,
    "odd rates": rate,
    "broken clock": clock,
    "only a cover": cover,
    "empty tracks": empty,
    "points elsewhere": elsewhere,
    "another format": other,
    "nested": nested,
}


# --- on disk ---------------------------------------------------------------------------------------------------------


def write_damaged(
    folder: Path, sources: Sources, seed: int = 0, kinds: Iterable[str] = DAMAGE, most: int | None = None
) -> Iterator[Damaged]:
    """Writes every file of these kinds, or ``most`` of each kind, evenly chosen, and yields each as it is written."""
    for kind in kinds:
        random = np.random.default_rng([seed, zlib.crc32(kind.encode())])
        made = enumerate(DAMAGE[kind](sources, random))
        if most is not None:
            every = list(made)
            made = (every[round(i)] for i in np.linspace(0, len(every) - 1, min(most, len(every))))
        inside = folder / "".join(c if c.isalnum() else "-" for c in kind)
        inside.mkdir(parents=True, exist_ok=True)
        for i, (name, content) in made:
            path = inside / f"{i:03d}-{name}"
            path.write_bytes(content)
            yield Damaged(kind, path)


def write_some(folder: Path, sources: Sources, count: int = 50, seed: int = 0) -> list[Damaged]:
    """``count`` of the damaged files, spread evenly over the kinds and over each kind."""
    least, more = divmod(count, len(DAMAGE))
    chosen = []
    for i, kind in enumerate(DAMAGE):
        chosen += write_damaged(folder, sources, seed, [kind], least + (i < more))
    return chosen
