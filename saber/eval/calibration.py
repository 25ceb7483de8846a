"""Does the model know when it is right? Confidence from token probabilities, and its calibration, section by section.

Goes in: the log-probabilities of each answer's sections, and whether each section is right. Comes out: expected
calibration error, Brier score and AUROC of the confidence with 95 % intervals, and a reliability plot.

What confidence is, and what it holds, is said in ``saber/model/confidence.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, mannwhitneyu

from saber.eval.intervals import cell, interval, interval_between
from saber.eval.truth import SECTION_STATES, is_section_right
from saber.studio.reader import Reading

BINS = 15


def calibrate(
    rows: Sequence[Mapping[str, Any]], readings: Sequence[Reading], scores: Sequence[Mapping[str, Mapping[str, float]]]
) -> dict[str, dict[str, Any]]:
    """Section -> its calibration (``calibration``), over the answers that state the section. ``scores``: of each
    answer, from ``saber.model.section_scores``."""
    found = {}
    for section in SECTION_STATES:
        stated = [i for i, each in enumerate(scores) if section in each]
        confidence = np.array([math.exp(scores[i][section]["mean"]) for i in stated])
        right = np.array([is_section_right(rows[i], readings[i], section) for i in stated], bool)
        found[section] = calibration(confidence, right)
    return found


def calibration(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Confidences (N,) in 0 to 1 and whether each answer is right (N,) -> share right, mean confidence, ``ece``,
    ``brier``, ``auroc``, each {value, interval}, and ``bins``: [mean confidence, share right, answers].

    The interval of the expected calibration error is the reflected one ("basic"), not below 0: chance adds to a mean
    of absolute differences, and resampling adds to it once more. So it lies low about the value, or below it, and comes
    down to about 0 where chance alone explains the value.
    """
    if not len(right):
        nothing = {"value": None, "interval": None}
        return {"answers": 0, **dict.fromkeys(("accuracy", "confidence", "ece", "brier", "auroc"), nothing), "bins": []}
    squares = (confidence - right) ** 2
    count = len(right)
    ece_interval = interval(lambda index: expected_error(confidence[index], right[index]), count, method="basic")
    return {
        "answers": count,
        "accuracy": _value(right.mean(), interval(lambda index: right[index].mean(), count)),
        "confidence": _value(confidence.mean(), interval(lambda index: confidence[index].mean(), count)),
        "ece": _value(expected_error(confidence, right), ece_interval and [max(0.0, end) for end in ece_interval]),
        "brier": _value(squares.mean(), interval(lambda index: squares[index].mean(), count)),
        "auroc": _auroc(confidence[right], confidence[~right]),
        "bins": [[round(float(c), 4), round(float(r), 4), n] for c, r, n in _bins(confidence, right)],
    }


def expected_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: the mean over answers of |mean confidence - share right| of the answer's bin.

    Source: Naeini et al. 2015, whose bins hold equally many answers, as here. Differs from Guo et al. 2017: equally
    wide bins there, of which confident models fill one or two; the number of bins, 15, is theirs.
    """
    return sum(abs(c - r) * n for c, r, n in _bins(confidence, right)) / len(right)


def _bins(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, answers) of each of BINS bins of equally many answers, give or take one."""
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [(confidence[part].mean(), right[part].mean(), len(part)) for part in parts]


def _auroc(right: np.ndarray, wrong: np.ndarray) -> dict[str, Any]:
    """The chance that a right answer is held with more confidence than a wrong one, ties half; None without either.
    Right and wrong answers are resampled each on their own."""
    if not len(right) or not len(wrong):
        return {"value": None, "interval": None}

    def area(high: np.ndarray, low: np.ndarray, axis: int = -1) -> np.ndarray:
        ranks = mannwhitneyu(high, low, axis=axis, method="asymptotic").statistic
        return ranks / (high.shape[axis] * low.shape[axis])

    return _value(area(right, wrong), interval_between(area, right, wrong))


def _value(value: float, found: list[float] | None) -> dict[str, Any]:
    return {"value": round(float(value), 4), "interval": found}


def calibration_table(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """The calibration of each section in Markdown."""
    columns = {"accuracy": "right", "confidence": "confidence", "ece": "ECE", "brier": "Brier", "auroc": "AUROC"}
    lines = [f"| section | answers | {' | '.join(columns.values())} |", "|---" * (len(columns) + 2) + "|"]
    for section, found in sections.items():
        cells = [cell(found[name], "value") for name in columns]
        lines.append(f"| {section} | {found['answers']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot_reliability(sections: Mapping[str, Mapping[str, Any]], title: str, path: str | Path) -> None:
    """One panel a section as a PNG: share right against confidence, bin by bin, with 95 % Wilson intervals."""
    from matplotlib.figure import Figure  # without pyplot: no display, no state

    figure = Figure(figsize=(11, 6.4), layout="constrained", dpi=110)
    panels = figure.subplots(2, math.ceil((len(sections) + 1) / 2), sharex=True, sharey=True).flatten()
    for panel, (section, found) in zip(panels, sections.items(), strict=False):
        panel.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle="--")
        for confidence, share, count in found["bins"]:
            low, high = binomtest(round(share * count), count).proportion_ci(method="wilson")
            panel.plot((confidence, confidence), (low, high), color="#9ecae1", linewidth=2)
        points = [bin[:2] for bin in found["bins"]]
        panel.plot(*zip(*points, strict=True) if points else ((), ()), color="#08519c", marker="o", markersize=4,
                   linewidth=1)  # fmt: skip
        ece = "–" if found["ece"]["value"] is None else f"{found['ece']['value']:.3f}"
        panel.set_title(section, fontsize=11)
        panel.text(0.03, 0.86, f"ECE {ece}\n{found['answers']} answers", fontsize=9, color="0.3")
        panel.set(xlim=(0, 1.03), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
        panel.tick_params(labelbottom=True)
    for panel in panels[len(sections) :]:
        panel.axis("off")
    panels[-1].text(
        0.0, 1.0, f"A point: one of {BINS} bins of\nequally many answers.\nBars: 95 % Wilson intervals.\n"
        "Dashed: where confidence and\nthe share right agree.", va="top", fontsize=9, color="0.3",
    )  # fmt: skip
    figure.supxlabel("confidence (geometric mean of token probabilities)", fontsize=10)
    figure.supylabel("share right", fontsize=10)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)
