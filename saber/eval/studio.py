"""Greedy answers on a split of studio clips, scored by rule against their exact truth.

Goes in: a checkpoint and a folder that ``python -m saber studio`` wrote. Comes out: ``answers.jsonl`` (the lines of
``saber/runner.py``), ``results.json`` and ``results.md``: macro accuracy of each attribute with chance and 95 %
intervals, consistent and conflicting clips apart, by language; gaps between groups of people (``gaps``); calibration by
section (``calibration``), drawn in ``reliability.png``. A clip that could not be answered counts as an empty answer,
which is wrong everywhere; ``failed`` tells how many. Run: ``python -m saber eval studio --model saber-mini``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from saber.eval.calibration import calibrate, calibration_table, plot_reliability
from saber.eval.gaps import SMALLEST_GROUP, gap_table, measure_gaps
from saber.eval.intervals import cell, interval
from saber.eval.truth import SCORED, is_right, transcripts
from saber.model import Checkpoint, load_checkpoint
from saber.recipe import write_run
from saber.runner import LocalAnswers, Request, read_lines, run
from saber.schema import SECTIONS, Annotation, Clip
from saber.sections import parse, render
from saber.studio.causes import EMOTIONS
from saber.studio.reader import Reading, follows, read
from saber.studio.render import StudioError, first_wordings, read_rows, run_studio
from saber.studio.sample import Mix
from saber.studio.world import ATTRIBUTES

SUBSETS = ("all", "consistent", "conflict", "en", "zh")


@dataclass(frozen=True)
class StudioEval:
    """What was evaluated; written beside the results. ``data``: a studio folder, "" renders the split first."""

    model: str = "saber-mini"
    data: str = ""
    split: str = "test"
    clips: int = 2000
    seed: int = 1
    out: str = "runs/eval"
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("clips", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def run_studio_eval(config: StudioEval) -> dict[str, Any]:
    """Answers and scores. Answers that are already in ``answers.jsonl`` are kept, so a killed run goes on. Raises
    StudioError where no clip at all could be answered."""
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    data = Path(config.data or folder / "clips")
    if not config.data:
        run_studio(data, Mix(split=config.split, seed=config.seed), config.clips)
    rows = first_wordings(read_rows(data / config.split))[: config.clips]
    checkpoint = load_checkpoint(config.model)
    began = time.perf_counter()
    path = folder / "answers.jsonl"
    counts = run([_request(row, data) for row in rows], LocalAnswers(checkpoint), path, config.batch_size)
    seconds = time.perf_counter() - began
    lines = {line["clip"]: line for line in read_lines(path)}
    if counts["failed"] == len(rows):
        raise StudioError(
            f"{path}: none of {len(rows)} clips could be answered, first of all: "
            f"{lines[rows[0]['id']]['error']['message']}"
        )
    told = [lines[row["id"]].get("prediction", {"raw": "", "log_probabilities": {}}) for row in rows]
    answers = {row["id"]: one["raw"] for row, one in zip(rows, told, strict=True)}
    readings = [read(answers[row["id"]], row["language"]) for row in rows]
    results = {
        "model": config.model,
        "fingerprint": checkpoint.fingerprint(),  # with the number format below: whose results these are
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "split": config.split,
        "failed": counts["failed"],
        **score(rows, answers),
        "gaps": measure_gaps(rows, readings),
        "calibration": calibrate(rows, readings, [one["log_probabilities"] for one in told]),
        "answer_seconds": round(seconds, 1),
    }
    plot_reliability(results["calibration"], _title(results), folder / "reliability.png")
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(table(results), encoding="utf-8")
    write_run(folder, config, settings=checkpoint.settings.to_json())
    return results


def _request(row: dict[str, Any], data: Path) -> Request:
    return Request(Clip(str(data / row["video"]), id=row["id"]), row["language"])


#: What is told of a model during its training: accuracies (not macro), of which there is one number each.
TOLD = ("scene", "face", "body", "words", "voice", "relation", "emotion")


def sample_evaluation(
    data: str | Path, split: str, clips: int, batch_size: int = 16, samples: int = 4
) -> Callable[[Checkpoint], dict[str, Any]]:
    """A fixed sample to look at during training: the first ``clips`` of a studio split. What is returned gives, for a
    checkpoint, "scores" (attribute -> share right by rule, "words" meaning every word, and "well_formed"), "samples"
    (some answers beside what was due) and "failed" (clips without an answer, which are wrong; where all are, the first
    error is raised). Raises StudioError where there is no such split.
    """
    rows = first_wordings(read_rows(Path(data) / split))[:clips]
    if any("truth" not in row for row in rows):
        raise StudioError(
            f"{data}: the split {split!r} has no truth to score against; name a studio folder as eval_data, or "
            "give eval_clips 0"
        )

    requests = [_request(row, Path(data)) for row in rows]
    batches = [requests[at : at + batch_size] for at in range(0, len(requests), batch_size)]

    def evaluate(checkpoint: Checkpoint) -> dict[str, Any]:
        checkpoint.model.eval()
        # Without workers: the training's process is not forked.
        found = [one for batch in LocalAnswers(checkpoint, workers=0).stream(batches) for one in batch]
        errors = [one for one in found if isinstance(one, Exception)]
        if len(errors) == len(rows):
            raise errors[0]
        answers = ["" if isinstance(one, Exception) else one.raw for one in found]
        readings = [read(answer, row["language"]) for answer, row in zip(answers, rows, strict=True)]
        scores = {}
        for name in TOLD:
            known = [is_right(row, reading, name) for row, reading in zip(rows, readings, strict=True)
                     if row["truth"][name] is not None]  # fmt: skip
            if known:
                scores[name] = round(sum(known) / len(known), 4)
        well_formed = [is_well_formed(answer, row) for answer, row in zip(answers, rows, strict=True)]
        scores["well_formed"] = round(sum(well_formed) / len(rows), 4)
        shown = [{"id": row["id"], "answer": answer, "due": render(Annotation.from_json(row))}
                 for row, answer in zip(rows[:samples], answers, strict=False)]  # fmt: skip
        return {"scores": scores, "samples": shown, "failed": len(errors)}

    return evaluate


# --- scores -----------------------------------------------------------------------------------------------------------


def score(rows: Sequence[dict[str, Any]], answers: dict[str, str]) -> dict[str, Any]:
    """Scores of the answers by clip id. What an answer does not state, or states in contradiction, is wrong; one that
    is empty is wrong everywhere."""
    readings = [read(answers[row["id"]], row["language"]) for row in rows]
    subsets = {name: [i for i, row in enumerate(rows) if _belongs(row, name)] for name in SUBSETS}
    scores: dict[str, Any] = {"clips": {name: len(part) for name, part in subsets.items()}}
    scores["attributes"] = {}
    for attribute in SCORED:
        values = tuple(EMOTIONS) if attribute == "emotion" else ATTRIBUTES[attribute]
        scores["attributes"][attribute] = {
            name: macro_accuracy(
                [rows[i]["truth"][attribute] for i in part], [readings[i].values.get(attribute) for i in part], values
            )
            for name, part in subsets.items()
            if part
        }
    scores["word_error_rate"] = error_rate(rows, readings, "en")
    scores["character_error_rate"] = error_rate(rows, readings, "zh")
    scores["well_formed"] = _share([is_well_formed(answers[row["id"]], row) for row in rows])
    scores["follows"] = _share([bool(follows(reading)) for reading in readings])
    scores["invents_nothing"] = _share([
        bool(answers[row["id"]]) and not invented(row, reading) for row, reading in zip(rows, readings, strict=True)
        if row["incomplete"] not in ("", "long")
    ])  # fmt: skip
    return scores


def macro_accuracy(truth: Sequence[str | None], said: Sequence[str | None], values: Sequence[str]) -> dict[str, Any]:
    """Mean over the classes that occur of the share said right, with a 95 % percentile bootstrap over clips, and chance
    (one over the number of classes that occur). Clips whose truth is None, not perceivable, do not count."""
    kept = [(values.index(t), s == t) for t, s in zip(truth, said, strict=True) if t is not None]
    if not kept:
        return {"accuracy": None, "interval": None, "chance": None, "clips": 0}
    classes, right = np.array([k for k, _ in kept]), np.array([r for _, r in kept], float)

    def macro(index: np.ndarray) -> float:
        counts = np.bincount(classes[index], minlength=len(values))
        hits = np.bincount(classes[index], weights=right[index], minlength=len(values))
        return float((hits[counts > 0] / counts[counts > 0]).mean())

    return {
        "accuracy": round(macro(np.arange(len(kept))), 4),
        "interval": interval(macro, len(kept)),
        "chance": round(1 / len(set(classes.tolist())), 4),
        "clips": len(kept),
    }


def error_rate(rows: Sequence[dict[str, Any]], readings: Sequence[Reading], language: str) -> dict[str, Any]:
    """Word error rate (en) or character error rate (zh) over all clips with that speech, with a 95 % interval."""
    errors, lengths = [], []
    for row, reading in zip(rows, readings, strict=True):
        if not row["truth"]["words"] or row["spoken_language"] != language:
            continue
        said, heard = transcripts(row, reading)
        found = jiwer.process_words(said, heard)
        errors.append(found.substitutions + found.deletions + found.insertions)
        lengths.append(len(said.split()))
    if not errors:
        return {"rate": None, "interval": None, "clips": 0}
    errors_, lengths_ = np.array(errors), np.array(lengths)

    def rate(index: np.ndarray) -> float:
        return float(errors_[index].sum() / lengths_[index].sum())

    return {
        "rate": round(rate(np.arange(len(errors))), 4), "interval": interval(rate, len(errors)), "clips": len(errors),
    }  # fmt: skip


def is_well_formed(answer: str, row: dict[str, Any]) -> bool:
    """Every section that the truth has, once, in order, with its tags closed, and nothing outside them. Blank space
    does not count."""
    wanted = [section for section in SECTIONS if section != "relation" or row["relation"]]
    wanted = [section for section in wanted if section != "emotion" or row["emotion"]]
    parsed = parse(answer)
    stated = [section for section in SECTIONS if getattr(parsed.annotation, section)]
    return stated == wanted and "".join(render(parsed.annotation).split()) == "".join(answer.split())


def invented(row: dict[str, Any], reading: Reading) -> list[str]:
    """Attributes that an answer claims although the clip does not let anyone perceive them."""
    claimed = {*reading.values, *reading.contradictions}
    return [name for name in SCORED if name in claimed and row["truth"][name] is None]


def _belongs(row: dict[str, Any], subset: str) -> bool:
    if subset == "all":
        return True
    return row["relation"] == subset if subset in ("consistent", "conflict") else row["language"] == subset


def _share(flags: Sequence[bool]) -> dict[str, Any]:
    values = np.array(flags, float)
    if not len(values):
        return {"share": None, "interval": None, "clips": 0}
    return {
        "share": round(float(values.mean()), 4), "interval": interval(lambda index: values[index].mean(), len(values)),
        "clips": len(values),
    }  # fmt: skip


def _title(results: dict[str, Any]) -> str:
    return f"{results['model']} on studio/{results['split']} ({results['clips']['all']} clips)"


def table(results: dict[str, Any]) -> str:
    """The results in Markdown: accuracy, shares, gaps, calibration."""
    failed = results.get("failed", 0)
    return (
        f"# {_title(results)}\n\n"
        + f"{failed} of the clips could not be answered; they count as wrong.\n\n" * bool(failed)
        + "Macro accuracy by rule, greedy answers; brackets: 95 % bootstrap interval over clips.\n\n"
        f"{accuracy_table(results)}\n{share_table(results)}\n"
        f"## Largest gaps between groups of people\n\nShare of clips read right, groups of {SMALLEST_GROUP} clips and "
        f"more.\n\n{gap_table(results['gaps'])}\n"
        "## Confidence\n\nConfidence is the geometric mean of the probabilities of a section's tokens; a section is "
        "right if all that it\nstates is.\n\n"
        f"{calibration_table(results['calibration'])}"
    )


def accuracy_table(results: dict[str, Any]) -> str:
    """Macro accuracy of each attribute on each subset, in Markdown."""
    lines = ["| attribute | chance | all | consistent | conflict | en | zh |", "|---|---|---|---|---|---|---|"]
    for attribute, by_subset in results["attributes"].items():
        cells = [cell(by_subset.get(subset), "accuracy") for subset in SUBSETS]
        chance = by_subset["all"]["chance"]
        lines.append(f"| {attribute} | {'' if chance is None else format(chance, '.2f')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


#: What is scored over all clips: key of the results -> (its name in tables, the key of its value).
SHARES = {
    "word_error_rate": ("word error rate (en)", "rate"),
    "character_error_rate": ("character error rate (zh)", "rate"),
    "well_formed": ("well-formed", "share"),
    "follows": ("verdict follows from the stated evidence", "share"),
    "invents_nothing": ("incomplete clips: nothing invented", "share"),
}


def share_table(results: dict[str, Any]) -> str:
    """Error rates and shares over all clips, in Markdown."""
    lines = [f"| {name} | {cell(results[key], value)} |" for key, (name, value) in SHARES.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"
