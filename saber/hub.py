"""The model card, filled from what was measured: nobody types a figure.

Goes in: a template (``hub_cards/model.md``, Jinja), the ``results.json`` of evaluated splits, the checkpoint that they
speak of, and the ``run.json`` of its training. Comes out: the card, ``README.md`` beside the weights, where the Hub
shows it. A placeholder that nothing fills and a figure that the results lack are errors. Run:
``python -m saber card runs/eval/test runs/eval/combinations runs/eval/style``.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined, TemplateSyntaxError, UndefinedError, meta

from saber.eval.calibration import calibration_table
from saber.eval.gaps import SMALLEST_GROUP, gap_table
from saber.eval.intervals import cell
from saber.eval.studio import SHARES, accuracy_table, share_table
from saber.eval.truth import SCORED, SECTION_STATES
from saber.model import Checkpoint, load_checkpoint, resolve
from saber.schema import LANGUAGES
from saber.studio.sample import ONE_KIND, SHUFFLED_SHARES

#: The card's front matter, where the facts say nothing else.
CARD_DATA = {
    "license": "apache-2.0",
    "language": list(LANGUAGES),
    "library_name": "transformers",
    "pipeline_tag": "video-text-to-text",
    "tags": ["emotion-recognition", "multimodal", "saber"],
}
#: Of the front matter, what ``--fact`` may say; the Hub wants an id of its own as ``base_model``.
GIVEN_DATA = ("license", "base_model")
#: Placeholders that the results fill.
MEASURED = ("card_data", "test", "others", "beside", "smallest_group")
#: The split that the card opens with; the others stand beside it.
FIRST_SPLIT = "test"
#: Attributes that the Hub is told, of each split; all of them stand in the card.
METADATA_ATTRIBUTES = ("scene", "face", "body", "voice", "relation", "emotion")
#: The last line of every card: what may be written over.
MARK = "<!-- Filled by `python -m saber card`: change the template and fill it again. -->"


class HubError(ValueError):
    """A card cannot be filled. The message names the placeholder, the figure or the file, and the next step."""


@dataclass(frozen=True)
class CardRequest:
    """``results``: folders that hold a ``results.json``. ``training``: ``run.json`` files, in the order of the stages
    (default: the one in the checkpoint's folder or above it). ``facts``: placeholder -> text; they go before what the
    checkpoint and the runs say. ``out``: default ``README.md`` in the checkpoint's folder."""

    results: tuple[str, ...]
    model: str = "saber-mini"
    training: tuple[str, ...] = ()
    facts: Mapping[str, str] | None = None
    template: str = "hub_cards/model.md"
    out: str = ""


def write_card(request: CardRequest) -> Path:
    """Fills the card and writes it, with the reliability plot of the split "test" beside it. Returns its path."""
    template = _read(request.template)
    given = dict(request.facts or {})
    known = [*(name for name in placeholders(template) if name not in MEASURED), *GIVEN_DATA]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise HubError(f"fact {name!r}: {request.template} asks for no such fact; the nearest is {near!r}")
    results = [_read_json(Path(folder) / "results.json") for folder in request.results]
    dtype = _field(results[0], "dtype") if results else "float32"
    checkpoint = load_checkpoint(request.model, device="cpu", dtype=getattr(torch, dtype))
    for folder, found in zip(request.results, results, strict=True):
        if _field(found, "fingerprint") != checkpoint.fingerprint():
            raise HubError(
                f"{folder} holds results of {_field(found, 'model')!r}, whose weights are not those of "
                f"{request.model!r}; evaluate it: python -m saber eval studio --model {request.model}"
            )
    source = Path(resolve(request.model))
    if not request.out and not source.is_dir():
        raise HubError(f"model {request.model!r} is not a folder, so the card has no place; name one with --out")
    target = Path(request.out) if request.out else source / "README.md"
    if target.exists() and MARK not in target.read_text(encoding="utf-8"):
        raise HubError(f"{target} is no card of ours and would be lost; choose another file with --out")
    runs = [_read_json(path) for path in request.training or _runs_beside(source)]
    facts = {**checkpoint_facts(checkpoint), **training_facts(runs), **given}
    card = render_card(template, results, facts)
    plot = next(
        Path(folder) / "reliability.png"
        for folder, found in zip(request.results, results, strict=True)
        if found["split"] == FIRST_SPLIT
    )
    if not plot.exists():
        raise HubError(f"{plot} is missing; evaluate again: python -m saber eval studio --out {plot.parent}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if plot.resolve() != (target.parent / plot.name).resolve():
        shutil.copyfile(plot, target.parent / plot.name)
    part = target.with_name(f"{target.name}.part")
    part.write_text(card, encoding="utf-8")
    os.replace(part, target)
    return target


def render_card(template: str, results: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """The filled card. ``results``: what ``results.json`` of each split holds, "test" among them, all of one model.
    ``facts``: what the results do not say: placeholder -> text, and any of GIVEN_DATA and ``tags``.

    The template may ask for ``card_data`` (the front matter), ``test``, ``others`` (of each split: ``split``,
    ``clips``, ``accuracy``, ``shares``, ``gaps``, ``calibration``), ``beside`` (all splits in one table),
    ``smallest_group``, and any fact. Raises HubError naming a placeholder that nothing fills, or a split and the figure
    that its results lack.
    """
    for found in results:
        _check(found)
    by_split = {found["split"]: found for found in results}
    if FIRST_SPLIT not in by_split or len(by_split) < len(results):
        raise HubError(
            f"results are of the splits {[found['split'] for found in results]}; "
            f"give one folder for each split, {FIRST_SPLIT!r} among them"
        )
    if len({(found["fingerprint"], found["dtype"]) for found in results}) > 1:
        raise HubError("results are of several checkpoints; evaluate every split with the same one")
    by_split = {FIRST_SPLIT: by_split[FIRST_SPLIT], **by_split}
    tables = {split: _tables(found) for split, found in by_split.items()}
    values = {
        **facts,
        "test": tables[FIRST_SPLIT],
        "others": [tables[split] for split in by_split if split != FIRST_SPLIT],
        "beside": beside_table(by_split),
        "smallest_group": SMALLEST_GROUP,
    }
    data = {**CARD_DATA, **{name: facts[name] for name in ("tags", *GIVEN_DATA) if name in facts}}
    title = str(facts.get("title", by_split[FIRST_SPLIT]["model"]))
    card_data = ModelCardData(**data, model_name=title, eval_results=_eval_results(by_split))
    missing = [name for name in placeholders(template) if name not in {*values, "card_data"}]
    if missing:
        raise HubError(
            f"the card asks for {', '.join(missing)}, which neither the results, the checkpoint nor a run.json gives; "
            f"pass --training RUN.JSON, or --fact {missing[0]}=TEXT"
        )
    try:
        Environment(undefined=StrictUndefined).from_string(template).render(card_data="", **values)
    except UndefinedError as error:  # part of a placeholder, such as test.colour
        raise HubError(f"the card asks for what is not there: {error.message}; correct the template") from error
    return str(ModelCard.from_template(card_data, template_str=template, **values)).rstrip("\n") + f"\n\n{MARK}\n"


def placeholders(template: str) -> list[str]:
    """Names that a template asks for, sorted. Raises HubError with the line where it is not Jinja."""
    try:
        return sorted(meta.find_undeclared_variables(Environment().parse(template)))
    except TemplateSyntaxError as error:
        raise HubError(f"the card's template, line {error.lineno}: {error.message}") from error


def beside_table(by_split: Mapping[str, Mapping[str, Any]]) -> str:
    """All splits in one Markdown table: each attribute over all clips, then error rates and shares."""
    lines = ["| | " + " | ".join(by_split) + " |", "|---" * (len(by_split) + 1) + "|"]
    for attribute in SCORED:
        cells = [cell(found["attributes"][attribute]["all"], "accuracy") for found in by_split.values()]
        lines.append(f"| {attribute} | {' | '.join(cells)} |")
    for key, (name, value) in SHARES.items():
        lines.append(f"| {name} | {' | '.join(cell(found[key], value) for found in by_split.values())} |")
    return "\n".join(lines) + "\n"


def checkpoint_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint says of itself: ``title``, ``parameters``, ``fps``, ``max_frames``."""
    settings = checkpoint.settings
    return {
        "title": settings.about.get("title", Path(checkpoint.name).name),
        "parameters": f"{sum(parameter.numel() for parameter in checkpoint.model.parameters()):,}",
        "fps": f"{settings.media.fps:g}",
        "max_frames": settings.media.max_frames,
        "tags": [*CARD_DATA["tags"], checkpoint.model.config.model_type],
    }


def training_facts(runs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What the ``run.json`` of each stage says: ``training`` (its configuration, versions, steps and seconds), and
    ``clips`` (how many of which mix, where the studio folder that it read is on this machine).

    How many is what the run counted, ``rows``: of its split, or split -> rows. The folder may have grown since. A run
    over parts of several splits says their rows together, under ``training`` alone.
    """
    stages, mixes = [], []
    for run in runs:
        stages.append(_describe_run(run))
        config, rows = run.get("config", {}), run.get("rows", {})
        for split, count in (rows if isinstance(rows, Mapping) else {config.get("split", ""): rows}).items():
            path = Path(str(config.get("data", ""))) / split / "studio.json"
            if path.exists():
                mixes.append(_describe_mix(_read_json(path), count))
    facts = {"training": "\n".join(stages), "clips": "\n".join(dict.fromkeys(mixes))}
    return {name: text for name, text in facts.items() if text}


def _describe_run(run: Mapping[str, Any]) -> str:
    """One stage as an item of a list. Folders are named without their path: it means nothing elsewhere."""
    settings = [
        f"{name} {Path(value).name if isinstance(value, str) and os.sep in value else value}"
        for name, value in run.get("config", {}).items()
        if value not in (None, "") and not name.endswith("_dir")
    ]
    numbers = {name: run[name] for name in ("rows", "steps", "seconds") if isinstance(run.get(name), (int, float))}
    measured = [f"{name} {number:,}" for name, number in numbers.items()]
    versions = [f"{name} {version}" for name, version in run.get("versions", {}).items()]
    parts = [f"measured: {', '.join(measured)}"] if measured else []
    parts += [f"settings: {', '.join(settings)}", f"versions: {', '.join(versions)}"]
    return f"- `{run.get('command', 'run')}`: " + "; ".join(parts) + "."


def _describe_mix(mix: Mapping[str, Any], rows: int) -> str:
    """A split as an item of a list. ``mix``: its ``studio.json``, whose clips have one row for each wording."""
    split, wordings = mix["split"], mix.get("wordings", 1)
    shuffled, other = SHUFFLED_SHARES.get(split, 0), mix.get("other_language_share", 0)
    sound_alone = ONE_KIND.get(split) == "no_picture"
    first = f"{rows // wordings:,} clips of the split `{split}` (seed {mix['seed']})"
    first += f", each described in {wordings} wordings" if wordings > 1 else ""
    parts = [f"{first}, spoken in {' and '.join(mix['languages'])}"]
    if sound_alone:
        parts.append("sound without picture")
    else:
        parts.append(f"picture and voice conflict in {100 * mix['conflict_share']:g} % of the complete ones")
        incomplete = mix.get("incomplete") and split not in ONE_KIND
        parts.append(f"{'with' if incomplete else 'without'} clips that lack a track, a person or speech")
    if shuffled:
        parts.append(f"{100 * shuffled:g} % say words in no order")
    if not sound_alone:
        parts.append(f"{100 * other:g} % described in the language that is not spoken")
    return f"- {'; '.join(parts)}."


def _tables(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of one split."""
    return {
        "split": found["split"],
        "clips": f"{found['clips']['all']:,}",
        "conflicts": f"{found['clips']['conflict']:,}",
        "accuracy": accuracy_table(found),
        "shares": share_table(found),
        "gaps": gap_table(found["gaps"]),
        "calibration": calibration_table(found["calibration"]),
    }


def _eval_results(by_split: Mapping[str, Mapping[str, Any]]) -> list[EvalResult]:
    """What the Hub shows beside the card; where a split has no such clips, nothing."""
    rates = {"word_error_rate": "wer", "character_error_rate": "cer"}
    figures = []
    for split, found in by_split.items():
        for name in METADATA_ATTRIBUTES:
            figures.append((split, "accuracy", f"macro accuracy, {name}", found["attributes"][name]["all"]["accuracy"]))
        for name, kind in rates.items():
            figures.append((split, kind, SHARES[name][0], found[name]["rate"]))
    return [
        EvalResult(
            task_type=CARD_DATA["pipeline_tag"], dataset_type="saber-studio", dataset_name="SABER studio",
            dataset_split=split, metric_type=kind, metric_name=name, metric_value=value,
        )
        for split, kind, name, value in figures if value is not None
    ]  # fmt: skip


def _check(found: Mapping[str, Any]) -> None:
    """That the results of a split hold every figure that a card shows. A figure may be None: there was no such clip."""
    for name in ("model", "split", "fingerprint", "dtype", "clips.all", "clips.conflict", "gaps"):
        _field(found, name)
    for attribute in SCORED:
        _field(found, f"attributes.{attribute}.all.accuracy")
    for key, (_, value) in SHARES.items():
        _field(found, f"{key}.{value}")
    for section in SECTION_STATES:
        for name in ("accuracy", "confidence", "ece", "brier", "auroc"):
            _field(found, f"calibration.{section}.{name}.value")


def _field(found: Mapping[str, Any], path: str) -> Any:
    """``found["a"]["b"]`` for "a.b". Raises HubError naming the split and the path."""
    value: Any = found
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise HubError(
                f"the results of the split {found.get('split', '?')!r} have no {path}: an earlier version wrote them; "
                "evaluate again: python -m saber eval studio"
            )
        value = value[key]
    return value


def _runs_beside(source: Path) -> list[Path]:
    return [path for path in (source / "run.json", source.parent / "run.json") if path.exists()][:1]


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise HubError(f"{path} cannot be read ({error.strerror}); name the file that you mean") from error


def _read_json(path: str | Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise HubError(f"{path} is not JSON ({error}); write it again") from error
    if not isinstance(found, dict):
        raise HubError(f"{path} holds a {type(found).__name__}, not the record of a run; name another file")
    return found
