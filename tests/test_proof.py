"""What takes minutes: run by ``make proof``, not by ``make test``."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import damage
import numpy as np
import psutil
import pytest

from saber import media
from saber.media import Decoded, Limits, MediaError, MediaSettings
from saber.media.worker import _POOL
from saber.schema import Clip

ROOT = Path(__file__).parents[1]


@pytest.mark.proof
def test_the_whole_way_on_a_small_model():
    """Clips, base, SED and streamed answers; the script checks what it makes and says what failed."""
    run = subprocess.run([sys.executable, "train/smoke.py"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert run.stdout.count("\nok  ") == 4


# ------------------------------------------------------------------------------------- damaged files

TIMEOUT_S = 5.0
LATE_S = 3.0  # Past the limit: the grace, the end of one worker and the start of the next, on a machine with others.
MOST_MB = 2048


def faults_of(decoded: Decoded) -> list[str]:
    """What is wrong with the arrays that a damaged file gave; empty if nothing."""
    settings = MediaSettings()
    frames, times, audio, length_s = decoded.frames, decoded.frame_times_s, decoded.audio, decoded.duration_s
    checks = {"the length": 0 < length_s < 30.2, "nothing in it": frames is not None or audio is not None}
    if audio is not None:
        checks["sound's kind"] = audio.dtype == np.float32 and audio.shape == (round(length_s * 16000),)
        checks["sound's values"] = bool(np.isfinite(audio).all()) and np.abs(audio).max(initial=0) <= 1
    if frames is None:
        checks["times without frames"] = len(times) == 0
    else:
        checks["frames' kind"] = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3
        checks["frames' number"] = 1 <= len(frames) == len(times) <= settings.max_frames
        checks["frames' size"] = 1 <= frames.shape[1] * frames.shape[2] <= settings.max_pixels
        checks["times"] = bool(np.isfinite(times).all()) and times[0] >= 0
        checks["times' order"] = bool((np.diff(times) > 0).all()) and times[-1] <= length_s
        checks["the rate"] = 0 < decoded.fps <= settings.fps
    for language in ("en", "zh"):
        checks[f"notes ({language})"] = all("{" not in each for each in decoded.note_sentences(language))
    return [name for name, holds in checks.items() if not holds]


def peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


@pytest.mark.proof
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_no_damaged_file_breaks_the_media_layer(tmp_path, clips):
    """Each file is probed, decoded and decoded in part. What comes is arrays that make sense or an error with a
    sentence; in time, within the memory, and with no process left behind. Prints kinds of damage x answers."""
    whole = min((clip for clip in clips if not clip.metadata["incomplete"]), key=lambda c: Path(c.path).stat().st_size)
    limits, begun = Limits(timeout_s=TIMEOUT_S, max_memory_bytes=MOST_MB * 2**20), time.monotonic()
    calls = {
        "probe": lambda path: media.probe(path, limits),
        "decode": lambda path: media.decode(Clip(str(path)), limits=limits),
        "part": lambda path: media.decode(Clip(str(path), 1.1, 1.4), limits=limits),
    }
    answers, slowest, wrong = defaultdict(Counter), defaultdict(float), []
    highest_mb, before_mb = 0.0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    _POOL.close()
    for file in damage.write_damaged(tmp_path, damage.build_sources(whole.path)):
        for name, call in calls.items():
            started, faults = time.monotonic(), []
            try:
                found = call(file.path)
            except MediaError as error:
                answer = error.reason
                faults += [f"no sentence: {error}" for language in ("en", "zh") if "{" in error.sentence(language)]
            except Exception as error:  # Anything else is what this test looks for.
                answer = "broken"
                faults.append(f"{error!r:.2000}")
            else:
                answer = "noted damaged" if name != "probe" and "damaged" in found.notes else "whole"
                faults += faults_of(found) if name != "probe" else []
                if file.kind == "points elsewhere":
                    faults.append("it was read")
            took_s = time.monotonic() - started
            slowest[file.kind] = max(slowest[file.kind], took_s)
            faults += [f"took {took_s:.1f} s"] * (took_s > TIMEOUT_S + LATE_S)
            memory_mb = max([peak_mb(worker.process.pid) for worker in _POOL.all], default=0.0)
            highest_mb = max(highest_mb, memory_mb)
            faults += [f"took {memory_mb:.0f} MB"] * (memory_mb > MOST_MB)
            if memory_mb > 500:
                _POOL.close()  # So that the next file is not blamed.
            if name == "decode":
                answers[file.kind][answer] += 1
            wrong += [f"{file.kind}, {file.path.name}, {name}: {fault}" for fault in faults]
        file.path.unlink()
    workers = {worker.process.pid for worker in _POOL.all}
    orphans = [child for child in psutil.Process().children(recursive=True) if child.pid not in workers]
    assert media.decode(whole).notes == {}
    _POOL.close()
    # Those that were killed count too: their peak is known once they have ended.
    ended_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    columns = [
        "whole",
        "noted damaged",
        *(r for r in media.REASONS if any(answers[kind][r] for kind in answers)),
        "broken",
    ]
    total = sum(answers.values(), Counter())
    lines = [f"{'':22}" + "".join(f"  {column}" for column in columns) + "  slowest s"]
    for kind, row in {**answers, "all": total}.items():
        counts = "".join(f"  {row[column] or '':>{len(column)}}" for column in columns)
        lines.append(f"{kind:22}{counts}{slowest.get(kind, max(slowest.values())):11.2f}")
    lines.append(
        f"{total.total()} files, {3 * total.total()} calls, {time.monotonic() - begun:.0f} s; "
        f"a worker's most memory {highest_mb:.0f} MB"
    )
    print("\n" + "\n".join(lines))
    (tmp_path / "damage.txt").write_text("\n".join(lines + wrong) + "\n")
    assert not wrong, "\n".join([f"{len(wrong)} faults", *wrong[:20]])
    assert total.total() >= 500 and not orphans and ended_mb <= max(MOST_MB, before_mb)


@pytest.mark.proof
def test_fifty_damaged_files_are_of_every_kind_and_the_same_each_time(tmp_path, clips):
    sources, made = damage.build_sources(clips[0].path), []
    for folder in (tmp_path / "a", tmp_path / "b"):
        files = damage.write_some(folder, sources)
        made.append([(file.kind, file.path.name, file.path.read_bytes()) for file in files])
    assert made[0] == made[1] and len(made[0]) == 50
    assert set(Counter(kind for kind, *_ in made[0]).values()) == {2, 3} and {k for k, *_ in made[0]} == {
        *damage.DAMAGE
    }
