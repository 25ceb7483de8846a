"""The order in which a run sees its rows: blocks of rows, permuted anew each epoch, and where step n lies in it.

A source consists of blocks that are read one at a time (a table is one block, shards are taken a few at a time). The
order follows from seed, epoch and block alone, so that any process, also one that starts again in the middle, gives
the same batches; blocks that lie wholly before the place are not opened where their number of rows is known.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from saber.sft.rows import DataError, Row

T = TypeVar("T")


def shuffled(count: int, *seeds: object) -> list[int]:
    """The numbers below ``count`` in an order that follows from the seeds, the same in every process."""
    order = list(range(count))
    random.Random(" ".join(map(str, seeds))).shuffle(order)
    return order


class Source(ABC):
    """Rows in ``blocks_per_epoch`` blocks. ``name``: how messages call the data. ``spare_batches``: a block is released
    so many batches after its last row was given, because workers may not have opened that row's clip yet: at least as
    many as are asked for ahead."""

    name: str
    blocks_per_epoch: int
    spare_batches: int = 64

    @abstractmethod
    def count(self) -> int | None:
        """Rows of an epoch; None where only reading tells."""

    @abstractmethod
    def digest(self) -> str:
        """Fingerprint of the data, and of whatever else decides the order but seed and batch size."""

    @abstractmethod
    def block_rows(self, seed: int, block: int) -> int:
        """Rows of a block, read as little as that takes. Blocks are numbered on and on over the epochs."""

    @abstractmethod
    def open_block(self, seed: int, block: int) -> Sequence[Row]:
        """Rows of a block in stored order. Called in a thread, ahead of time."""

    @abstractmethod
    def release_block(self, seed: int, block: int, current: int) -> None:
        """A block's clips are no longer needed; ``current`` is the block that is being given."""

    def batches(self, batch_size: int, seed: int, first: int = 0) -> Iterator[list[Row]]:
        """Batches of the steps ``first``, ``first`` + 1, ..., endlessly. The rows left over at the end of an epoch are
        dropped (they are others in the next one), unless the epoch has no whole batch: then they are a smaller one.

        Raises DataError: there is no row at all, or what ``open_block`` finds wrong.
        """
        if batch_size < 1 or first < 0:
            raise ValueError(f"batch_size is {batch_size} and first {first}; they must be at least 1 and 0")
        epoch, given = self._place(batch_size, seed, first)
        block, last = epoch * self.blocks_per_epoch, (epoch + 1) * self.blocks_per_epoch - 1
        passed = given * batch_size
        while passed and block < last and (rows := self.block_rows(seed, block)) <= passed:
            passed, block = passed - rows, block + 1
        batch: list[Row] = []
        used: deque[tuple[int, int]] = deque()  # (batches given when it ended, block)
        total = 0
        opening = _begin(self.open_block, seed, block)
        while True:
            rows = opening()
            opening = _begin(self.open_block, seed, block + 1) if self.blocks_per_epoch > 1 else lambda rows=rows: rows
            for place in shuffled(len(rows), "rows", seed, block)[passed:]:
                batch.append(rows[place])
                if len(batch) == batch_size:
                    yield batch
                    batch, given, total = [], given + 1, total + 1
                    while used and total - used[0][0] >= self.spare_batches:
                        self.release_block(seed, used.popleft()[1], block)
            used.append((total, block))
            block, passed = block + 1, 0
            if block % self.blocks_per_epoch == 0:
                if not given and not batch:
                    raise DataError(f"{self.name} has no rows")
                if not given:
                    yield batch
                batch, given = [], 0

    def _place(self, batch_size: int, seed: int, first: int) -> tuple[int, int]:
        """Step ``first`` as (epoch, steps of it that lie before)."""
        passed = first * batch_size
        for block in range(self.blocks_per_epoch):  # It may take reading to count a block: none behind the place.
            if passed <= 0:
                return 0, first
            passed -= self.block_rows(seed, block)
        return divmod(first, max(1, (self.count() or 0) // batch_size))


def _begin(work: Callable[..., T], *arguments: object) -> Callable[[], T]:
    """Starts the work in a thread; the answer waits for its result. The thread does not keep the process from ending,
    which an executor's would until a shard is there."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result
