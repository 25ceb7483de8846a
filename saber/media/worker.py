"""Isolation: ``probe`` and ``decode`` in a child process that is killed when its time is up.

A few workers are kept for the next call, each a plain interpreter that imports this module and never torch. A request
is a JSON line, an answer a JSON line and raw arrays. A file that hangs or crashes the decoder costs a worker, and the
caller gets a ``MediaError``.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from saber.media.decoding import decode_here
from saber.media.records import Decoded, Facts, Limits, MediaError, MediaSettings
from saber.media.survey import probe_here
from saber.schema import TRACKS, Clip

try:
    import resource
except ImportError:  # Windows.
    resource = None


def probe(path: str | os.PathLike[str], limits: Limits = Limits(), whole: bool = False) -> Facts:
    """Cheap facts about a file: reads its header and one frame. ``whole``: reads every packet (and decodes none of
    them), so that ``duration_s`` is measured and not what the header says. Raises MediaError."""
    reply, _ = _POOL.ask({"do": "probe", "clip": _plain(Clip(os.fspath(path))), "whole": whole}, limits)
    return Facts(**reply["facts"])


def decode(
    clip: Clip, settings: MediaSettings = MediaSettings(), limits: Limits = Limits(), tracks: str = "both"
) -> Decoded:
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
    return Decoded(
        frames=arrays[0],
        frame_times_s=np.array(reply["frame_times_s"]),
        fps=reply["fps"],
        audio=arrays[1],
        duration_s=reply["duration_s"],
        facts=Facts(**reply["facts"]),
        notes=reply["notes"],
        picture_s=reply["picture_s"],
        sound_s=reply["sound_s"],
        sample_rate_hz=settings.sample_rate_hz,
    )


def _plain(clip: Clip) -> dict[str, Any]:
    # The worker's current folder is that of its start, the caller's may change. Metadata stays here.
    plain = {"path": os.path.abspath(clip.path), "start_s": clip.start_s, "end_s": clip.end_s, "span": clip.span}
    return {**plain, "id": clip.name}  # The name that errors carry.


def _answer(request: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray | None]]:
    """What the worker does with one request: (JSON reply, arrays that follow it)."""
    clip, limits = Clip(**request["clip"]), Limits(**request["limits"])
    _limit_memory(limits.max_memory_bytes)
    try:
        if request["do"] == "probe":
            return {"facts": asdict(probe_here(clip.path, limits, request["whole"]))}, []
        done = decode_here(clip, MediaSettings(**request["settings"]), limits, request["tracks"])
    except MediaError as error:
        return {"error": error.reason, "values": error.values}, []
    except MemoryError:
        return {"error": "too_much_memory", "values": {"limit_mb": limits.max_memory_bytes / 1e6}}, []
    except Exception:  # A bug: its trace must reach the caller instead of ending the worker.
        return {"bug": traceback.format_exc()}, []
    reply = {
        "frame_times_s": done.frame_times_s.tolist(),
        "fps": done.fps,
        "duration_s": done.duration_s,
        "facts": asdict(done.facts),
        "notes": done.notes,
        "picture_s": done.picture_s,
        "sound_s": done.sound_s,
    }
    return reply, [done.frames, done.audio]


def _limit_memory(most: int) -> None:
    """From here on an allocation beyond ``most`` bytes in all fails. Only Linux counts them."""
    if resource is None or sys.platform != "linux":
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


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
    _BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from saber.media.worker import _serve; _serve()"

    def __init__(self) -> None:
        path = [os.path.abspath(entry) for entry in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._BOOT, json.dumps(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
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
