"""Intervals by the bootstrap, and how a figure with its interval is written.

Goes in: a statistic and what it is of. Comes out: [low, high], 95 %, rounded to four places; None where there is too
little to resample. The same data give the same interval: the generator starts at 0 each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 1000


def interval(statistic: Callable[[np.ndarray], float], count: int, method: str = "percentile") -> list[float] | None:
    """Over ``count`` clips. ``statistic`` is given the indices of the clips drawn, with repetition, and returns a
    number. ``method``: as in scipy.stats.bootstrap."""
    if count < 2:
        return None
    found = bootstrap(
        (np.arange(count),), statistic, n_resamples=RESAMPLES, vectorized=False, method=method,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return [round(float(found.low), 4), round(float(found.high), 4)]


def interval_between(statistic: Callable[..., np.ndarray], *samples: Sequence[float]) -> list[float] | None:
    """Over several samples, each resampled on its own. ``statistic(*samples, axis)`` works along an axis."""
    if min(map(len, samples)) < 2:
        return None
    found = bootstrap(
        tuple(np.asarray(sample, float) for sample in samples), statistic, n_resamples=RESAMPLES, vectorized=True,
        batch=100, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return [round(float(found.low), 4), round(float(found.high), 4)]


def cell(found: Mapping[str, Any] | None, key: str) -> str:
    """``found[key]`` with ``found["interval"]`` in brackets, as a table shows it; a dash where there is none."""
    if not found or found[key] is None:
        return "–"
    if found["interval"] is None:
        return f"{found[key]:.3f}"
    low, high = found["interval"]
    return f"{found[key]:.3f} [{low:.3f}, {high:.3f}]"
