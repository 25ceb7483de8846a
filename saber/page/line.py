"""The line before the model: one clip at a time, in the order of arrival, so many places, so many of each visitor.

``Line.enter(visitor)`` gives a ``Turn`` or raises ``Refused``; ``Turn.wait`` tells how many are before it, 0 when it is
its turn; leaving the ``with`` block gives the place back.
"""

from __future__ import annotations

import threading
from types import TracebackType


class Refused(Exception):
    """There is no place now. ``reason``: "line_full" or "too_many_at_once", keys of the page's words; ``limit``."""

    def __init__(self, reason: str, limit: int) -> None:
        super().__init__(f"{reason}: at most {limit}")
        self.reason, self.limit = reason, limit


class Line:
    """``places``: how many may be in it, those that are served included; ``per_visitor``: of one visitor; ``at_once``:
    how many are served together."""

    def __init__(self, places: int = 32, per_visitor: int = 3, at_once: int = 1) -> None:
        self.places, self.per_visitor, self.at_once = places, per_visitor, at_once
        self._turns: list[Turn] = []
        self._changed = threading.Condition()

    def enter(self, visitor: str) -> Turn:
        """The last place. Raises Refused."""
        with self._changed:
            if len(self._turns) >= self.places:
                raise Refused("line_full", self.places)
            if sum(turn.visitor == visitor for turn in self._turns) >= self.per_visitor:
                raise Refused("too_many_at_once", self.per_visitor)
            turn = Turn(self, visitor)
            self._turns.append(turn)
            return turn

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return len(self._turns)

    def _before(self, turn: Turn) -> int:
        return max(0, self._turns.index(turn) + 1 - self.at_once)

    def _wait(self, turn: Turn, seconds: float) -> int:
        with self._changed:
            before = self._before(turn)
            if before:
                self._changed.wait_for(lambda: self._before(turn) < before, seconds)
            return self._before(turn)

    def _leave(self, turn: Turn) -> None:
        with self._changed:
            if turn in self._turns:
                self._turns.remove(turn)
                self._changed.notify_all()


class Turn:
    """A place in a line."""

    def __init__(self, line: Line, visitor: str) -> None:
        self.line, self.visitor = line, visitor

    def wait(self, seconds: float = 0.0) -> int:
        """How many are still before it; at once where that changes, else after so many seconds."""
        return self.line._wait(self, seconds)

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.line._leave(self)
