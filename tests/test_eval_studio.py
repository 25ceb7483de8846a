"""Scores by rule, worked out by hand, and the evaluation from clips to tables with a tiny random checkpoint."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saber.eval import studio as evaluation
from saber.eval.studio import (
    SCORED,
    SUBSETS,
    StudioEval,
    error_rate,
    is_well_formed,
    macro_accuracy,
    run_studio_eval,
    score,
)
from saber.schema import Annotation
from saber.sections import render
from saber.studio import read
from saber.studio.render import record
from saber.studio.sample import Mix, annotation_language, draw_spec
from saber.studio.world import INCOMPLETE, VOICES, ClipSpec


def spec(number: int = 0, language: str = "en", **fixed: str) -> ClipSpec:
    """A clip of the test split; ``fixed``: scene, face, voice, valence, event, words, incomplete."""
    drawn = draw_spec(Mix(split="test", seed=2, languages=(language,), incomplete=False), number)
    kind = fixed.get("voice", "neutral")
    performance = replace(drawn.performance, face=fixed.get("face", "neutral"), micro="none")
    prosody = replace(drawn.prosody, **{name: values[0] for name, values in VOICES[kind].items()})
    said = replace(
        drawn.words, valence=fixed.get("valence", drawn.words.valence), event=fixed.get("event", "none"),
        text=fixed.get("words", drawn.words.text),
    )  # fmt: skip
    scene, incomplete = fixed.get("scene", drawn.scene), fixed.get("incomplete", "")
    return replace(drawn, scene=scene, incomplete=incomplete, performance=performance, voice=kind, prosody=prosody,
                   words=said)  # fmt: skip


def row_of(clip: ClipSpec, written_in: str = "") -> dict[str, Any]:
    return record(clip, f"test/media/000/{clip.id}.mp4", 2.0, written_in)


def annotation_of(row: dict[str, Any]) -> Annotation:
    return Annotation.from_json(row)


def perfect(row: dict[str, Any]) -> str:
    return render(annotation_of(row))


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores do not depend on it, only the intervals' precision does."""
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)


# Scores worked out by hand ----------------------------------------------------------------------------------------


def test_macro_accuracy_counts_each_class_alike_however_often_it_occurs():
    truth = ["joy", "joy", "joy", "anger", None]
    said = ["joy", "joy", "anger", "anger", "joy"]
    found = macro_accuracy(truth, said, ("joy", "anger", "fear"))
    # joy 2 of 3, anger 1 of 1, fear does not occur, the last clip's truth cannot be perceived:
    # (2/3 + 1) / 2 = 0.8333, where plain accuracy would be 3/4. Chance is 1 of 2 classes.
    assert (found["accuracy"], found["chance"], found["clips"]) == (0.8333, 0.5, 4)


def test_what_is_not_stated_is_wrong():
    # joy 1 of 2, anger 0 of 1: (1/2 + 0) / 2
    assert macro_accuracy(["joy", "joy", "anger"], ["joy", None, None], ("joy", "anger"))["accuracy"] == 0.25


def test_no_clip_has_no_score_and_one_clip_no_interval():
    nothing = {"accuracy": None, "interval": None, "chance": None, "clips": 0}
    assert macro_accuracy([None, None], ["joy", None], ("joy",)) == nothing
    assert macro_accuracy(["joy"], ["joy"], ("joy",)) == {"accuracy": 1.0, "interval": None, "chance": 1.0, "clips": 1}


@pytest.mark.parametrize("right, clips", [(50, 100), (1, 10), (19, 20), (3, 3), (0, 5)])
def test_an_interval_contains_its_estimate_and_stays_between_zero_and_one(right, clips):
    found = macro_accuracy(["joy"] * clips, ["joy"] * right + ["fear"] * (clips - right), ("joy", "fear"))
    low, high = found["interval"]
    assert found["accuracy"] == pytest.approx(right / clips, abs=1e-4)
    assert 0 <= low <= found["accuracy"] <= high <= 1
    if clips == 100:  # 1.96 x sqrt(0.5 x 0.5 / 100) = 0.098
        assert (low, high) == pytest.approx((0.402, 0.598), abs=0.025)


def test_a_contradiction_and_a_missing_section_are_wrong(few_resamples):
    rows = [row_of(spec(number, scene=scene)) for number, scene in enumerate(("kitchen", "kitchen", "park", "park"))]
    both = "The scene is a park. The place is a kitchen."
    answers = {row["id"]: perfect(row) for row in rows}
    answers[rows[1]["id"]] = render(annotation_of(rows[1]).with_section("scene", both))
    answers[rows[3]["id"]] = render(annotation_of(rows[3]).with_section("scene", ""))
    found = score(rows, answers)["attributes"]
    assert found["scene"]["all"]["accuracy"] == 0.5  # kitchen 1 of 2, park 1 of 2
    assert found["body"]["all"]["accuracy"] == 1.0


def test_word_error_rate_counts_words_over_all_clips_together():
    said = ("we like this small cake", "you were late")
    rows = [row_of(spec(number, words=text)) for number, text in enumerate(said)]
    readings = [read("<speech>we like that small cake now</speech>"), read("")]
    # First: this -> that, and "now" too many: 2 errors. Second: 3 words missing. 5 errors / 8 words, not the mean of
    # 2/5 and 3/3.
    found = error_rate(rows, readings, "en")
    assert (found["rate"], found["clips"]) == (0.625, 2)
    assert error_rate(rows, readings, "zh") == {"rate": None, "interval": None, "clips": 0}


def test_character_error_rate_counts_characters_and_takes_the_spoken_language():
    rows = [row_of(spec(0, "zh", words="这个蛋糕很好吃"), "en"), row_of(spec(1, "en")),
            row_of(spec(2, "zh", incomplete="noise"))]  # fmt: skip
    readings = [read("<speech>这个 鸡蛋糕很好</speech>"), read(perfect(rows[1])), read(perfect(rows[2]))]
    # One character too many, one missing, of seven. English and what nobody can hear do not count.
    found = error_rate(rows, readings, "zh")
    assert (found["rate"], found["clips"]) == (round(2 / 7, 4), 1)


WHOLE = row_of(spec(0))
SILENT = row_of(spec(0, incomplete="silent"))


@pytest.mark.parametrize("change, expected", [
    (lambda text: text, True),
    (lambda text: text.replace(">\n<", "><"), True),
    (lambda text: text + "\n", True),
    (lambda text: "", False),
    (lambda text: text[:-4], False),
    (lambda text: "Here it is. " + text, False),
    (lambda text: text + "<emotion>joy</emotion>", False),
    (lambda text: text.replace("</face>", ""), False),
    (lambda text: "\n".join(text.split("\n")[::-1]), False),
    (lambda text: "\n".join(text.split("\n")[1:]), False),
    (lambda text: "\n".join(line for line in text.split("\n") if "relation>" not in line), False),
    (lambda text: json.dumps(annotation_of(WHOLE).to_json()), False),
])  # fmt: skip
def test_well_formed_is_each_section_once_in_order_closed_and_nothing_else(change, expected):
    assert is_well_formed(change(perfect(WHOLE)), WHOLE) is expected


def test_a_clip_without_a_voice_asks_for_no_relation():
    assert is_well_formed(perfect(SILENT), SILENT)
    assert not is_well_formed(perfect(SILENT).replace("<emotion>", "<relation>conflict</relation>\n<emotion>"), SILENT)


def test_follows_is_the_share_of_verdicts_that_the_stated_evidence_gives_right_or_wrong(few_resamples):
    rows = [row_of(spec(number, face="joy", voice="sadness")) for number in range(4)]
    answers = {row["id"]: perfect(row) for row in rows}
    # Wrong evidence with the verdict that follows from it; evidence without its verdict; no answer at all.
    answers[rows[1]["id"]] = perfect(row_of(spec(1, face="fear", voice="fear")))
    answers[rows[2]["id"]] = render(annotation_of(rows[2]).with_section("emotion", "anger"))
    answers[rows[3]["id"]] = ""
    found = score(rows, answers)
    assert (found["follows"]["share"], found["follows"]["clips"]) == (0.5, 4)
    assert found["well_formed"]["share"] == 0.75


def test_an_answer_invents_if_it_claims_what_an_incomplete_clip_does_not_let_anyone_perceive(few_resamples):
    kinds = ("no_sound", "no_picture", "nobody", "", "long")
    rows = [row_of(spec(number, incomplete=kind)) for number, kind in enumerate(kinds)]
    answers = {row["id"]: perfect(row) for row in rows}
    answers[rows[0]["id"]] = render(annotation_of(rows[0]).with_section("speech", "<laugh> good morning"))
    answers[rows[2]["id"]] = render(annotation_of(rows[2]).with_section("body", annotation_of(WHOLE).body))
    # Complete and long clips lack nothing. Of three incomplete ones, one claims words and one a posture.
    assert {key: score(rows, answers)["invents_nothing"][key] for key in ("share", "clips")} == {
        "share": 0.3333, "clips": 3,
    }  # fmt: skip


def test_subsets_are_scored_apart(few_resamples):
    clips = [spec(0, "en", face="joy", voice="joy"), spec(1, "en", face="joy", voice="anger"),
             spec(2, "zh", face="sadness", voice="sadness"), spec(3, "zh", face="sadness", voice="joy"),
             spec(4, "zh", face="sadness", incomplete="silent")]  # fmt: skip
    rows = [row_of(clip) for clip in clips]
    answers = {row["id"]: perfect(row) for row in rows}
    wrong = annotation_of(row_of(spec(1, "en", face="polite", voice="anger"))).face
    answers[rows[1]["id"]] = render(annotation_of(rows[1]).with_section("face", wrong))
    found = score(rows, answers)
    assert found["clips"] == {"all": 5, "consistent": 2, "conflict": 2, "en": 2, "zh": 3}
    face = {name: (each["accuracy"], each["chance"]) for name, each in found["attributes"]["face"].items()}
    assert face == {
        "all": (0.75, 0.5),  # joy 1 of 2, sadness 3 of 3
        "consistent": (1.0, 0.5),  # joy and sadness 1 of 1
        "conflict": (0.5, 0.5),  # joy 0 of 1, sadness 1 of 1
        "en": (0.5, 1.0),  # joy 1 of 2, the only face
        "zh": (1.0, 1.0),
    }


def test_perfect_answers_score_one_everywhere(few_resamples):
    mix = Mix(split="test", seed=4, other_language_share=0.25)
    drawn = [draw_spec(mix, index) for index in range(24)]
    drawn = [replace(clip, incomplete=kind) for clip, kind in zip(drawn, INCOMPLETE, strict=False)] + drawn[8:]
    rows = [row_of(clip, annotation_language(mix, clip)) for clip in drawn]
    found = score(rows, {row["id"]: perfect(row) for row in rows})
    assert set(found["attributes"]) == set(SCORED)
    for attribute, subsets in found["attributes"].items():
        assert set(subsets) == set(SUBSETS)
        assert all(each["accuracy"] == 1.0 for each in subsets.values()), attribute
    assert found["word_error_rate"]["rate"] == found["character_error_rate"]["rate"] == 0.0
    assert [found[name]["share"] for name in ("well_formed", "follows", "invents_nothing")] == [1.0, 1.0, 1.0]


def test_the_table_shows_every_score_and_leaves_out_what_there_is_none_of(few_resamples):
    rows = [row_of(spec(0)), row_of(spec(1))]
    results = {"model": "some-model", "split": "test", **score(rows, {row["id"]: perfect(row) for row in rows})}
    text = evaluation.table(results)
    assert text.startswith("# some-model on studio/test (2 clips)\n")
    lines = {line.split(" | ")[0].strip("| "): line.count(" | ") for line in text.split("\n") if line.startswith("| ")}
    assert all(lines[attribute] == 6 for attribute in ("attribute", *SCORED))
    assert "| word error rate (en) | 0.000 [0.000, 0.000] |" in text
    assert "| character error rate (zh) | – |" in text
    assert "nan" not in text
    results["follows"] = {"share": 1.0, "interval": None, "clips": 1}
    assert "| verdict follows from the stated evidence | 1.000 |" in evaluation.table(results)


# From clips to tables ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips each batch asked the model about."""
    sizes: list[int] = []
    whole = evaluation.answer_batch
    monkeypatch.setattr(
        evaluation,
        "answer_batch",
        lambda model, batch, limit: (sizes.append(len(batch)), whole(model, batch, limit))[1],
    )
    return sizes


@pytest.fixture
def config(tmp_path: Path, tiny_folder: Path, clips_folder: Path) -> StudioEval:
    return StudioEval(model=str(tiny_folder), data=str(clips_folder), split="train", clips=3, out=str(tmp_path / "out"),
                      batch_size=2)  # fmt: skip


def answers_in(out: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (Path(out) / "answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]


def test_a_checkpoint_is_evaluated_on_clips_that_it_renders_itself(tmp_path, tiny_folder, few_resamples):
    config = StudioEval(model=str(tiny_folder), clips=4, out=str(tmp_path), seed=7)
    results = run_studio_eval(config)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == evaluation.table(results)
    assert (results["clips"]["all"], results["split"], results["model"]) == (4, "test", str(tiny_folder))
    assert set(results["attributes"]) == set(SCORED)
    answers = answers_in(config.out)
    assert sorted(each["id"] for each in answers) == [f"test-7-{index:06d}" for index in range(4)]
    assert all(each["answer"] for each in answers)
    run = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert (run["config"]["seed"], run["settings"]["max_new_tokens"]) == (7, 24)


def test_a_killed_evaluation_keeps_its_answers_and_asks_for_the_rest(config, asked, few_resamples):
    run_studio_eval(config)
    assert asked == [2, 1]
    before = answers_in(config.out)
    path = Path(config.out) / "answers.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")  # killed while it wrote the third
    asked.clear()
    results = run_studio_eval(replace(config, clips=4, batch_size=16))
    assert asked == [2]
    after = answers_in(config.out)
    assert after[:2] == before[:2]
    assert len({each["id"] for each in after}) == len(after) == results["clips"]["all"] == 4
    assert before[2] in after


def test_a_finished_evaluation_is_scored_again_without_the_model(config, asked, few_resamples):
    results = run_studio_eval(config)
    path = Path(config.out) / "answers.jsonl"
    answers = answers_in(config.out)
    answers[0]["answer"] += "\u2028<scene>\u0085"  # separators of lines to some readers, plain text in JSON
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in answers), encoding="utf-8")
    asked.clear()
    again = run_studio_eval(config)
    assert asked == []
    assert again["attributes"] == results["attributes"]


def test_answers_of_another_model_at_the_same_path_or_of_other_clips_are_not_taken(
    config, asked, few_resamples, tiny, tmp_path
):
    config = replace(config, clips=2)
    model = shutil.copytree(config.model, tmp_path / "model")
    run_studio_eval(replace(config, model=str(model)))
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.model.get_input_embeddings().weight.mul_(1.5)
    other.save(model)
    run_studio_eval(replace(config, model=str(model)))
    assert asked == [2, 2]
    assert len({each["key"] for each in answers_in(config.out)}) == 4
    run_studio_eval(replace(config, model=str(model), data="", split="test"))
    assert asked == [2, 2, 2]


@pytest.mark.parametrize("options", [{"clips": 0}, {"batch_size": 0}])
def test_numbers_that_make_no_sense_are_refused_by_name(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is 0"):
        StudioEval(**options)
