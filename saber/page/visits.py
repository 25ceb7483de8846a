"""What one open page shows, and what each of its buttons does to that. No gradio.

A ``Visit`` belongs to one open page. Its methods are what a visitor does (choose a clip, move an end of the part,
analyse, take a track away, stop, clear, change the language); ``run`` serves what was asked; ``changes`` gives the
HTML that differs from what the page shows. ``Visits`` holds them by session and bounds what they keep.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from saber import media
from saber.page import report, view
from saber.page.desk import Desk

#: Decoded clips that are kept for "without the sound" (bytes, all visitors together); beyond it they are read again.
KEPT_BYTES = 512 * 2**20
#: Open pages that are remembered; of more, the one that did nothing for longest begins anew.
MOST_VISITS = 500
#: Parts of the page that change, by name: those of an answer, and what can be taken away of it.
PARTS = (*view.PARTS, "actions")


class Visit:
    """One open page. ``state``: what it shows. ``longest_s``: of a part that is read at once."""

    def __init__(self, first: view.PageState, longest_s: float) -> None:
        self.first, self.state, self.longest_s = first, first, longest_s
        self.clip_path, self.length_s, self.part = "", 0.0, (0.0, 0.0)  # length 0: not known
        self._chosen = ""  # the latest clip, measured or not
        self._run, self._stopping = "", False  # the run that may still change the page; whether it is to end
        self._served = ""  # the latest run that was begun to be served
        self._disturbed = False  # something else was drawn while it ran
        self.left_at: float | None = None
        self._shown: dict[str, str] = {}
        self._lock = threading.RLock()

    # What a visitor does

    def choose(self, clip_path: str) -> None:
        """Another clip: its length is measured, and of a long one the first part is offered. One that cannot be read is
        said so at once."""
        self._chosen, length_s, problem = clip_path, 0.0, None
        if clip_path:
            try:
                length_s = media.probe(clip_path, whole=True).duration_s or 0.0
            except media.MediaError as error:
                problem = error
        with self._lock:
            if self._chosen != clip_path:  # another was chosen while this one was measured
                return
            whole = length_s <= self.longest_s + 0.1
            self.clip_path, self.length_s = clip_path, length_s
            self.part = (0.0, length_s if whole else self.longest_s)
            if problem and not self.state.busy:
                self.state = replace(self.state.fail(problem), asking=self.state.tracks)
            elif self.state.phase == "failed":
                self.state = replace(self.state, phase="done" if self.state.answer.prediction else "empty")

    def move(self, end: str, start_s: float, end_s: float) -> None:
        """One end of the part ("start", "end") was moved; the other follows where it must."""
        self.part = view.fit_part(start_s, end_s, self.length_s or end_s, self.longest_s, end)

    def begin(self, clip_path: str, answer_in: str | None, tracks: str) -> None:
        """Analyse."""
        if clip_path != self.clip_path:  # clicked before the clip was measured
            self.choose(clip_path)
        asked: dict[str, object] = dict(answer_in=answer_in, tracks=tracks)
        start_s, end_s = self.part
        if self.length_s and (start_s > 0 or end_s < self.length_s - 0.05):
            asked |= dict(start_s=start_s, end_s=end_s, length_s=self.length_s)
        with self._lock:
            self._run, self._stopping = uuid.uuid4().hex, False
            self.state = self.state.begin(clip_path, self._run, **asked)

    def begin_again(self, tracks: str) -> None:
        """The same clip with one track alone."""
        with self._lock:
            if self.state.can_mute and not self.state.busy:
                self._run, self._stopping = uuid.uuid4().hex, False
                self.state = self.state.begin_again(tracks, self._run)

    def stop(self) -> None:
        """Stop. Where nothing is written yet another clip may be asked at once; else the run says what it has."""
        with self._lock:
            if self.state.phase in ("waiting", "queued", "looking"):
                self._run, self.state = "", self.state.stop()
            self._stopping = True

    def clear(self) -> None:
        """Clear, and whatever runs ends."""
        with self._lock:
            self._run, self._chosen, self.clip_path, self.length_s = "", "", "", 0.0
            self.state = replace(self.first, language=self.state.language)

    def speak(self, language: str) -> None:
        """The page's own words in another language; answers stay as they are."""
        with self._lock:
            self.state = replace(self.state, language=language)
            self._disturbed = True

    def leave(self) -> None:
        """The page was closed, or its connection is lost: whatever runs ends. It may come back."""
        self._run, self.left_at = "", time.monotonic()
        self._shown.clear()
        if self.state.look:
            self.state.look.release()

    # What the page gets

    def run(self, desk: Desk, visitor: str) -> Iterator[None]:
        """Serves what was asked and stops for each step that the page may draw. A run that was stopped or followed by
        another ends by itself."""
        with self._lock:
            own, asked = self._run, self.state
            serve = asked.phase == "waiting" and own not in ("", self._served)
            if serve:
                self._served, self._disturbed = own, False
        if not serve:  # there is no clip, or it was asked for twice
            yield  # once at least: gradio empties what an event says nothing of
            return

        def stopped() -> bool:
            return self._stopping or self._run != own

        with closing(view.follow(desk, asked, visitor=visitor, stopped=stopped)) as states:
            for after in states:
                with self._lock:
                    if self._run != own:
                        break
                    self.state = replace(after, language=self.state.language)
                yield
        if self._run != own or self._disturbed:
            # What was on its way may have been drawn after what came since: all is sent again.
            self._shown.clear()
            yield

    def changes(self, everything: bool = False) -> dict[str, str]:
        """Part of the page -> its HTML, of those that differ from what was sent before, or of all."""
        with self._lock:
            state = self.state
            new = view.render(state)
            if not state.busy:
                new["actions"] = report.render_actions(state)
            elif not state.again:
                new["actions"] = ""  # while the clip is asked about again, the whole answer can still be taken
            changed = {name: html for name, html in new.items() if everything or self._shown.get(name) != html}
            self._shown |= new
        return changed


class Visits:
    """The open pages, by gradio's session. Those that were left are forgotten after ``keep_s`` seconds."""

    def __init__(self, first: view.PageState, longest_s: float, keep_s: float = 3600.0) -> None:
        self.first, self.longest_s, self.keep_s = first, longest_s, keep_s
        self._known: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def of(self, session: str) -> Visit:
        """The session's page, a new one where it is not known."""
        with self._lock:
            visit = self._known.pop(session, None) or Visit(self.first, self.longest_s)
            visit.left_at = None
            self._known[session] = visit  # the latest last
            self._forget()
            return visit

    def leave(self, session: str) -> None:
        with self._lock:
            if visit := self._known.get(session):
                visit.leave()
            self._forget()
        # Nobody may come by to make room: it is forgotten when its time is up all the same.
        timer = threading.Timer(self.keep_s + 0.1, self.forget)
        timer.daemon = True
        timer.start()

    def forget(self) -> None:
        """Whatever is to be forgotten by now."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        """Pages that were left long ago, those beyond the most that are known, and the clips of those beyond the bytes
        that are kept: they are read again where somebody asks."""
        late = time.monotonic() - self.keep_s
        for session, visit in list(self._known.items()):
            if len(self._known) > MOST_VISITS or (visit.left_at is not None and visit.left_at < late):
                self._known.pop(session).leave()
        held = 0
        for visit in reversed(self._known.values()):
            if (look := visit.state.look) and not visit.state.busy:
                held += look.bytes
                if held > KEPT_BYTES:
                    look.release()
