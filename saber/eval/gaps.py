"""Is the model better for some people than for others? Shares read right, by who is seen and heard.

Goes in: rows of a studio split and the readings of the answers. Comes out: for each identity attribute and each scored
attribute the share of clips read right in each group, and the gap between the best and the worst group. Accuracy here
is the plain share of clips, not the mean over classes: in a group of fifty clips some classes hardly occur.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saber.eval import intervals
from saber.eval.intervals import cell
from saber.eval.truth import SCORED, is_right
from saber.studio.reader import Reading

#: The Monk skin tone scale in three bands: lowest tone of each -> its name.
SKIN_BANDS = {0: "light (0-3)", 4: "medium (4-6)", 7: "dark (7-9)"}
#: Identity attributes. A studio clip's voice has the sex of its face, so "sex" is of both.
IDENTITIES = ("skin", "age", "sex", "language", "hair", "glasses")
#: Those whose largest gap the table shows however small it is.
ALWAYS_SHOWN = ("skin", "age", "sex", "language")
#: Groups of fewer clips are left out.
SMALLEST_GROUP = 50
SHOWN = 10


def group_of(row: Mapping[str, Any], identity: str) -> str | None:
    """The group that a clip belongs to; None where it does not show: nobody is in the picture, nobody is heard."""
    seen, heard = row["truth"]["face"] is not None, row["truth"]["words"] is not None
    if identity == "language":
        return row["spoken_language"] if heard else None
    if not (seen or (heard and identity == "sex")):
        return None
    value = row["identity"][identity]
    if identity == "skin":
        return next(SKIN_BANDS[lowest] for lowest in sorted(SKIN_BANDS, reverse=True) if value >= lowest)
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def measure_gaps(rows: Sequence[Mapping[str, Any]], readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Every pair of an identity attribute and a scored one that two groups of ``SMALLEST_GROUP`` clips have, the
    largest gap first.

    ``groups``: group -> share right and clips. ``gap``: best minus worst; ``interval``: of the difference between these
    two groups, resampled each on its own. ``by_chance``: what 95 in 100 shuffles of the groups among the clips stay
    under; the best and the worst of several groups differ even where nobody is treated differently.
    """
    found = []
    for attribute in (*SCORED, "words"):
        right = [
            None if row["truth"][attribute] is None else is_right(row, reading, attribute)
            for row, reading in zip(rows, readings, strict=True)
        ]
        for identity in IDENTITIES:
            groups: dict[str, list[bool]] = {}
            for row, flag in zip(rows, right, strict=True):
                if flag is not None and (group := group_of(row, identity)) is not None:
                    groups.setdefault(group, []).append(flag)
            groups = {name: groups[name] for name in sorted(groups) if len(groups[name]) >= SMALLEST_GROUP}
            if len(groups) >= 2:
                found.append({"identity": identity, "attribute": attribute, **gap_between(groups)})
    return sorted(found, key=lambda each: -each["gap"])


def gap_between(groups: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """One record of ``measure_gaps``: group -> for each of its clips whether it was read right, two groups or more."""
    shares = {name: float(np.mean(flags)) for name, flags in groups.items()}
    worst, best = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    if worst == best:  # all alike
        worst, best = list(shares)[:2]
    sizes = [len(flags) for flags in groups.values()]
    total = sum(int(sum(flags)) for flags in groups.values())
    # Groups dealt out at random among these clips: how many of those read right fall into each.
    dealt = np.random.default_rng(0).multivariate_hypergeometric(sizes, total, intervals.RESAMPLES) / np.array(sizes)
    return {
        "groups": {name: {"share": round(shares[name], 4), "clips": len(groups[name])} for name in groups},
        "worst": worst,
        "best": best,
        "gap": round(shares[best] - shares[worst], 4),
        "interval": intervals.interval_between(
            lambda high, low, axis=-1: high.mean(axis=axis) - low.mean(axis=axis), groups[best], groups[worst]
        ),
        "by_chance": round(float(np.quantile(dealt.max(1) - dealt.min(1), 0.95)), 4),
    }


def gap_table(gaps: Sequence[Mapping[str, Any]]) -> str:
    """The ten largest gaps in Markdown, and the largest of each of ALWAYS_SHOWN that is not among them."""
    if not gaps:
        return f"No identity attribute has two groups of {SMALLEST_GROUP} clips.\n"
    shown = list(gaps[:SHOWN])
    for identity in ALWAYS_SHOWN:
        if identity not in {each["identity"] for each in shown}:
            shown += [each for each in gaps if each["identity"] == identity][:1]
    lines = [
        "| identity | attribute | worst group | best group | gap | 95 % of shuffles stay under |",
        "|---|---|---|---|---|---|",
    ]
    for each in shown:
        ends = [f"{name} {each['groups'][name]['share']:.3f} ({each['groups'][name]['clips']} clips)"
                for name in (each["worst"], each["best"])]  # fmt: skip
        lines.append(
            f"| {each['identity']} | {each['attribute']} | {' | '.join(ends)} | {cell(each, 'gap')} | "
            f"{each['by_chance']:.3f} |"
        )
    beyond = sum(each["gap"] > each["by_chance"] for each in gaps)
    lines += [
        "", f"Of {len(gaps)} pairs of an identity attribute and a scored one, {beyond} have a gap above what shuffled "
        f"groups give in 95 of 100 cases; {0.05 * len(gaps):.0f} would by chance.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
