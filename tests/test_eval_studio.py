"""Scores by rule, worked out by hand, and the evaluation from clips to tables with a tiny random checkpoint."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saber import media, runner
from saber.eval import gaps, intervals
from saber.eval import studio as evaluation
from saber.eval.calibration import calibrate, calibration, expected_error
from saber.eval.gaps import gap_between, gap_table, group_of, measure_gaps
from saber.eval.studio import (
    SUBSETS,
    StudioEval,
    error_rate,
    invented,
    is_well_formed,
    macro_accuracy,
    run_studio_eval,
    sample_evaluation,
    score,
)
from saber.eval.truth import SCORED, SECTION_STATES, is_right, is_section_right
from saber.model import MEDIA_TOKENS, answer_batch, scored_answer_batch, section_scores
from saber.schema import Annotation, Clip
from saber.sections import render
from saber.studio import read
from saber.studio.render import StudioError, read_rows, record
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
    monkeypatch.setattr(intervals, "RESAMPLES", 20)


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


def test_two_claims_that_contradict_each_other_are_claims():
    row = row_of(spec(0, incomplete="no_picture"))
    assert invented(row, replace(read("", "en"), contradictions=("face",))) == ["face"]


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
    readings = [read(perfect(row), row["language"]) for row in rows]
    sure = dict.fromkeys(("scene", "face"), {"tokens": 2, "mean": math.log(0.75), "least": math.log(0.5)})
    results |= {"gaps": measure_gaps(rows, readings), "calibration": calibrate(rows, readings, [sure, sure])}
    text = evaluation.table(results)
    assert text.startswith("# some-model on studio/test (2 clips)\n")
    lines = {line.split(" | ")[0].strip("| "): line.count(" | ") for line in text.split("\n") if line.startswith("| ")}
    assert all(lines[attribute] == 6 for attribute in ("attribute", *SCORED))
    assert "| word error rate (en) | 0.000 [0.000, 0.000] |" in text
    assert "| character error rate (zh) | – |" in text
    assert "No identity attribute has two groups of 50 clips." in text
    # Two right answers of confidence 0.75: off by 0.25, squared 0.0625, and no wrong one to tell them from.
    assert "| scene | 2 | 1.000 [1.000, 1.000] | 0.750 [0.750, 0.750] | 0.250 [0.250, 0.250] | 0.062 [0.062" in text
    assert "| body | 0 | – | – | – | – | – |" in text
    assert "nan" not in text
    results["follows"] = {"share": 1.0, "interval": None, "clips": 1}
    assert "| verdict follows from the stated evidence | 1.000 |" in evaluation.table(results)


# What of an answer is right ----------------------------------------------------------------------------------------


def test_a_section_is_right_if_all_that_it_states_is_right_and_nothing_is_invented():
    row = row_of(spec(0, face="joy", words="we like this small cake"))
    right = read(perfect(row))
    assert all(is_section_right(row, right, section) for section in SECTION_STATES)
    other = annotation_of(row_of(spec(0, face="fear")))
    wrong = read(render(annotation_of(row).with_section("face", other.face)))
    # The gaze is still read right; the section is not, for it names another face.
    assert (
        is_right(row, wrong, "gaze") and not is_right(row, wrong, "face") and not is_section_right(row, wrong, "face")
    )
    assert not is_right(row, read("<speech>we like this small cakes</speech>"), "words")
    both = read("<scene>The scene is a park. The place is a kitchen.</scene>")
    unseen = row_of(spec(0, incomplete="no_picture"))
    # Nobody can see the scene: to say so is right, to name one is not, nor are two at once.
    assert is_section_right(unseen, read(perfect(unseen)), "scene")
    assert not is_section_right(unseen, right, "scene") and not is_section_right(unseen, both, "scene")


def test_chinese_words_are_right_however_they_are_spaced():
    row = row_of(spec(0, "zh", words="这个蛋糕很好吃"))
    assert is_right(row, read("<speech>这个 蛋糕很好吃</speech>"), "words")
    assert not is_right(row, read("<speech>这个蛋糕好吃</speech>"), "words")


# Confidence and its calibration ------------------------------------------------------------------------------------


def test_a_section_is_given_the_probabilities_of_its_content_tokens(tiny):
    tokenizer = tiny.processor.tokenizer
    text = "<scene>The scene is a park.</scene>\n<speech><laugh> 你好</speech>\n<emotion>joy, \\<face> fear</emotion>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    # The log-probability of a token is minus its number, so that each can be told by it.
    found = section_scores(tokenizer, [(token, -float(number)) for number, token in enumerate(ids)])
    contents = {"scene": "The scene is a park.", "speech": "<laugh> 你好", "emotion": "joy, \\<face> fear"}
    assert list(found) == list(contents)
    places = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    for section, content in contents.items():
        begin = text.index(content)
        end = begin + len(content)
        mine = [number for number, (low, high) in enumerate(places) if low < end and high > begin]
        expected = {"tokens": len(mine), "mean": -sum(mine) / len(mine), "least": -float(max(mine))}
        assert found[section] == pytest.approx(expected, abs=1e-4), section


def test_an_answer_without_text_or_sections_has_what_it_has(tiny):
    tokenizer = tiny.processor.tokenizer
    assert section_scores(tokenizer, []) == {}
    ids = tokenizer.encode("good morning")
    assert section_scores(tokenizer, [(token, -1.0) for token in ids]) == {
        "reasoning": {"tokens": len(ids), "mean": -1.0, "least": -1.0}
    }


def test_log_probabilities_are_those_of_one_pass_over_the_whole_answer(tiny, clips):
    clip = next(clip for clip in clips if not clip.metadata["incomplete"])
    batch = []
    for path in (clip.path, clips[0].path):
        inputs = tiny.prepare(media.decode(Clip(path), tiny.settings.media), "en")
        batch.append(inputs)
    scored = scored_answer_batch(tiny, batch, 12)
    assert [[token for token, _ in answer] for answer in scored] == answer_batch(tiny, batch, 12)
    ids = [token for token, _ in scored[0]]
    whole = torch.cat([batch[0]["input_ids"], torch.tensor([ids])], dim=1)
    with torch.no_grad():
        logits = tiny.model(**{**batch[0], "input_ids": whole, "attention_mask": torch.ones_like(whole)}).logits[0]
    logits[:, evaluation_blocked(tiny)] = -torch.inf
    naive = logits[-len(ids) - 1 : -1].log_softmax(-1)[range(len(ids)), ids].tolist()
    assert [score for _, score in scored[0]] == pytest.approx(naive, abs=1e-4)
    assert min(naive) < -0.01, "a model sure of every token would show little"


def evaluation_blocked(checkpoint) -> list[int]:
    """Tokens that are never chosen."""
    tokenizer = checkpoint.processor.tokenizer
    return [token for token in tokenizer.convert_tokens_to_ids(list(MEDIA_TOKENS.values())) if token is not None]


def test_the_expected_error_weighs_bins_of_equally_many_answers():
    # 30 answers, 15 bins of two. Confidence 0.5 with one of two right: no error. 0.9 with one of two right: 0.4.
    confidence = np.array([0.5] * 20 + [0.9] * 10)
    right = np.array([True, False] * 15)
    assert expected_error(confidence, right) == pytest.approx((10 * 0 + 5 * 0.4) / 15)
    # Ten answers fill ten bins of one: |1 - 0.8| = 0.2 each, right or |0 - 0.8| = 0.8 wrong.
    assert expected_error(np.full(10, 0.8), np.array([True] * 8 + [False] * 2)) == pytest.approx(0.8 * 0.2 + 0.2 * 0.8)


def test_calibration_of_four_answers_by_hand(few_resamples):
    found = calibration(np.array([0.9, 0.6, 0.7, 0.2]), np.array([True, True, False, False]))
    assert (found["answers"], found["accuracy"]["value"], found["confidence"]["value"]) == (4, 0.5, 0.6)
    # Squares 0.01, 0.16, 0.49, 0.04: their mean is 0.175. Each answer is a bin: (0.1 + 0.4 + 0.7 + 0.2) / 4 = 0.35.
    assert (found["brier"]["value"], found["ece"]["value"]) == (0.175, 0.35)
    # Of the four pairs of a right and a wrong answer (0.9 and 0.6 against 0.7 and 0.2), three are in order.
    assert found["auroc"]["value"] == 0.75
    assert found["bins"] == [[0.2, 0.0, 1], [0.6, 1.0, 1], [0.7, 0.0, 1], [0.9, 1.0, 1]]
    for name in ("accuracy", "confidence", "brier", "auroc"):
        low, high = found[name]["interval"]
        assert low <= found[name]["value"] <= high, name


def test_ties_count_half_and_one_kind_of_answer_has_no_auroc(few_resamples):
    # Right 0.5, 0.5; wrong 0.5, 0.1: two ties of half and two in order, of four pairs.
    assert calibration(np.array([0.5, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0], bool))["auroc"]["value"] == 0.75
    assert calibration(np.array([0.5, 0.6]), np.array([True, True]))["auroc"] == {"value": None, "interval": None}


def test_the_interval_of_the_expected_error_comes_down_to_almost_nothing_where_chance_alone_explains_it():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 600)
    fair = calibration(confidence, rng.random(600) < confidence)["ece"]
    # Right as often as it says; 15 bins of 40 differ from that by about 0.06 each, by chance.
    assert 0.02 < fair["value"] < 0.1 and fair["interval"][0] < 0.01
    sure = calibration(confidence, rng.random(600) < confidence - 0.25)["ece"]
    assert 0.2 < sure["interval"][0] < 0.25 < sure["interval"][1] < 0.32


def test_calibration_counts_the_answers_that_state_the_section(few_resamples):
    rows = [row_of(spec(number, scene="park")) for number in range(3)]
    wrong = render(annotation_of(rows[1]).with_section("scene", "The scene is a kitchen."))
    readings = [read(perfect(rows[0])), read(wrong), read("")]
    scores = [{"scene": {"tokens": 4, "mean": math.log(sure), "least": -2.0}} for sure in (0.8, 0.4)] + [{}]
    found = calibrate(rows, readings, scores)
    assert set(found) == set(SECTION_STATES)
    assert (found["scene"]["answers"], found["scene"]["accuracy"]["value"]) == (2, 0.5)
    assert found["scene"]["brier"]["value"] == 0.1  # (0.2 squared + 0.4 squared) / 2
    assert found["face"]["answers"] == 0


# Gaps between groups of people -------------------------------------------------------------------------------------


def with_person(row: dict[str, Any], **identity: Any) -> dict[str, Any]:
    return {**row, "identity": {**row["identity"], **identity}}


def test_groups_are_bands_of_skin_and_what_else_shows():
    row = with_person(row_of(spec(0, "zh")), glasses=True, age="older", sex="female")
    bands = [group_of(with_person(row, skin=tone), "skin").split()[0] for tone in range(10)]
    assert bands == ["light"] * 4 + ["medium"] * 3 + ["dark"] * 3
    assert [group_of(row, name) for name in ("language", "glasses", "age", "sex")] == ["zh", "yes", "older", "female"]
    unseen = with_person(row_of(spec(0, incomplete="no_picture")), sex="male")
    assert [group_of(unseen, name) for name in ("skin", "hair", "sex", "language")] == [None, None, "male", "en"]
    unheard = row_of(spec(0, incomplete="no_sound"))
    assert group_of(unheard, "language") is None and group_of(unheard, "skin") is not None


def test_a_gap_is_between_the_best_and_the_worst_group():
    groups = {"adult": [True] * 90 + [False] * 10, "older": [True] * 70 + [False] * 30, "young": [True, False] * 40}
    found = gap_between(groups)
    assert (found["worst"], found["best"], found["gap"]) == ("young", "adult", 0.4)
    assert found["groups"]["young"] == {"share": 0.5, "clips": 80}
    # sqrt(0.9 x 0.1 / 100 + 0.5 x 0.5 / 80) = 0.0635, times 1.96: 0.4 +- 0.124
    assert found["interval"] == pytest.approx([0.276, 0.524], abs=0.02)
    # The range of three shuffled shares of 200 in 280 right, sd 0.0452 (100 clips) to 0.0505 (80): 3.3 of them.
    assert found["by_chance"] == pytest.approx(0.155, abs=0.02)
    alike = gap_between({"no": [True] * 50, "yes": [True] * 60})
    assert (alike["worst"], alike["best"], alike["gap"], alike["by_chance"]) == ("no", "yes", 0.0, 0.0)


def test_small_groups_and_what_cannot_be_perceived_do_not_count(few_resamples, monkeypatch):
    monkeypatch.setattr(gaps, "SMALLEST_GROUP", 2)
    clips = [spec(0, "en"), spec(1, "en"), spec(2, "zh"), spec(3, "zh"), spec(4, "zh", incomplete="no_picture")]
    rows = [with_person(row_of(clip), glasses=number == 0, age="adult") for number, clip in enumerate(clips)]
    readings = [read(perfect(row), row["language"]) for row in rows]
    readings[2] = read("", "zh")
    found = {(each["identity"], each["attribute"]): each for each in measure_gaps(rows, readings)}
    # Scene in Chinese: one of two clips that show one; in English two of two. One clip with glasses is too few.
    assert found["language", "scene"]["groups"] == {
        "en": {"share": 1.0, "clips": 2}, "zh": {"share": 0.5, "clips": 2},
    }  # fmt: skip
    # Words: the clip without a picture is heard, and rightly: two of three.
    assert found["language", "words"]["gap"] == 0.3333
    assert not {identity for identity, _ in found} & {"glasses", "age"}
    assert [each["gap"] for each in measure_gaps(rows, readings)] == sorted(
        (each["gap"] for each in found.values()), reverse=True
    )


def test_the_table_of_gaps_has_the_ten_largest_and_always_skin_age_sex_and_language():
    groups = {"a": {"share": 0.5, "clips": 60}, "b": {"share": 0.75, "clips": 70}}
    record = {"groups": groups, "worst": "a", "best": "b", "interval": [0.1, 0.4], "by_chance": 0.15}
    many = [{**record, "identity": "hair", "attribute": "face", "gap": 0.25}] * 11
    few = [{**record, "identity": name, "attribute": "body", "gap": 0.01} for name in ("age", "skin", "age")]
    text = gap_table([*many, *few])
    assert text.count("| hair | face | a 0.500 (60 clips) | b 0.750 (70 clips) | 0.250 [0.100, 0.400] | 0.150 |") == 10
    assert text.count("| age | body |") == text.count("| skin | body |") == 1
    assert "Of 14 pairs of an identity attribute and a scored one, 11 have a gap above" in text


# From clips to tables ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips each batch asked the model about."""
    sizes: list[int] = []
    whole = runner.scored_answer_batch
    monkeypatch.setattr(
        runner,
        "scored_answer_batch",
        lambda model, batch, limit: (sizes.append(len(batch)), whole(model, batch, limit))[1],
    )
    return sizes


@pytest.fixture
def config(tmp_path: Path, tiny_folder: Path, clips_folder: Path) -> StudioEval:
    return StudioEval(model=str(tiny_folder), data=str(clips_folder), split="train", clips=3, out=str(tmp_path / "out"),
                      batch_size=2)  # fmt: skip


def answers_in(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(out) / "answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]


def test_a_checkpoint_is_evaluated_on_clips_that_it_renders_itself(tmp_path, tiny_folder, few_resamples):
    config = StudioEval(model=str(tiny_folder), clips=4, out=str(tmp_path), seed=7)
    results = run_studio_eval(config)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == evaluation.table(results)
    assert (results["clips"]["all"], results["split"], results["model"]) == (4, "test", str(tiny_folder))
    assert set(results["attributes"]) == set(SCORED)
    answers = answers_in(config.out)
    assert [each["clip"] for each in answers] == [f"test-7-{index:06d}" for index in range(4)]
    assert all(each["prediction"]["raw"] for each in answers) and results["failed"] == 0
    sure = [scores for each in answers for scores in each["prediction"]["log_probabilities"].values()]
    assert sure and all(scores["least"] <= scores["mean"] <= 0 for scores in sure)
    assert set(results["calibration"]) == set(SECTION_STATES)
    assert results["gaps"] == []  # four clips are no groups
    with Image.open(tmp_path / "reliability.png") as plot:
        assert plot.size[0] > 1000
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
    assert len({each["clip"] for each in after}) == len(after) == results["clips"]["all"] == 4
    assert before[2]["prediction"]["raw"] == after[2]["prediction"]["raw"]


def test_a_finished_evaluation_is_scored_again_without_the_model(config, asked, few_resamples):
    results = run_studio_eval(config)
    path = Path(config.out) / "answers.jsonl"
    answers = answers_in(config.out)
    answers[0]["prediction"]["raw"] += "\u2028<scene>\u0085"  # separators of lines to some readers, plain text in JSON
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in answers), encoding="utf-8")
    asked.clear()
    again = run_studio_eval(config)
    assert asked == []
    assert again["attributes"] == results["attributes"]


def test_answers_in_the_form_of_an_earlier_version_are_asked_for_anew(config, asked, few_resamples):
    path = Path(config.out) / "answers.jsonl"
    path.parent.mkdir()
    names = [row["id"] for row in read_rows(Path(config.data) / "train")[:3]]
    old = [{"id": name, "answer": "<scene>A park.</scene>"} for name in names]
    path.write_text("".join(json.dumps(each) + "\n" for each in old), encoding="utf-8")
    run_studio_eval(config)
    assert asked == [2, 1]
    assert [each["clip"] for each in answers_in(config.out)] == names


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
    data = shutil.copytree(config.data, tmp_path / "data")
    run_studio_eval(replace(config, model=str(model), data=str(data)))
    assert asked == [2, 2, 2]
    first, other = (data / row["video"] for row in read_rows(data / "train")[1:3])
    shutil.copyfile(other, first)
    run_studio_eval(replace(config, model=str(model), data=str(data)))
    assert asked == [2, 2, 2, 1], "of the same name, but another clip"


def with_one_torn(data: str, folder: Path) -> Path:
    """A copy of a studio folder whose first clip cannot be read."""
    copied = Path(shutil.copytree(data, folder))
    (copied / read_rows(copied / "train")[0]["video"]).write_bytes(b"no video")
    return copied


def test_a_clip_that_cannot_be_answered_counts_as_wrong_and_is_told(config, few_resamples, tmp_path, asked):
    data = with_one_torn(config.data, tmp_path / "data")
    results = run_studio_eval(replace(config, data=str(data)))
    assert (results["failed"], results["clips"]["all"]) == (1, 3)
    assert "\n1 of the clips could not be answered; they count as wrong.\n" in evaluation.table(results)
    whole = run_studio_eval(replace(config, out=config.out + "-whole"))
    answers = {each["clip"]: each["prediction"]["raw"] for each in answers_in(config.out + "-whole")}
    rows = read_rows(data / "train")[:3]
    assert results["attributes"] == score(rows, {**answers, rows[0]["id"]: ""})["attributes"]
    assert "could not be answered" not in evaluation.table(whole)
    asked.clear()
    shutil.copyfile(Path(config.data) / rows[0]["video"], data / rows[0]["video"])
    again = run_studio_eval(replace(config, data=str(data)))
    assert asked == [1] and again["failed"] == 0
    assert again["attributes"] == whole["attributes"]


def test_an_empty_answer_is_wrong_everywhere(few_resamples):
    rows = [row_of(spec(number, incomplete=kind)) for number, kind in enumerate(dict.fromkeys(["", *INCOMPLETE]))]
    found = score(rows, dict.fromkeys((row["id"] for row in rows), ""))
    assert {by["all"]["accuracy"] for by in found["attributes"].values()} <= {0.0, None}
    assert [found[name]["share"] for name in ("well_formed", "follows", "invents_nothing")] == [0.0, 0.0, 0.0]
    assert found["word_error_rate"]["rate"] == 1.0


def test_where_no_clip_could_be_answered_there_are_no_results(config, tmp_path):
    data = with_one_torn(config.data, tmp_path / "data")
    with pytest.raises(StudioError, match="none of 1 clips could be answered.*clip .*not"):
        run_studio_eval(replace(config, data=str(data), clips=1))
    assert not (Path(config.out) / "results.json").exists()


def test_a_sample_during_training_is_scored_as_each_clip_alone_and_draws_no_random_number(tiny, clips_folder):
    rows = read_rows(clips_folder / "train")[:3]
    before = torch.get_rng_state()
    found = sample_evaluation(clips_folder, "train", 3, batch_size=2, samples=3)(tiny)
    assert torch.equal(torch.get_rng_state(), before)
    for row, shown in zip(rows, found["samples"], strict=True):
        decoded = media.decode_here(Clip(str(clips_folder / row["video"])), tiny.settings.media)
        [answer] = answer_batch(tiny, [tiny.prepare(decoded, row["language"])], tiny.settings.max_new_tokens)
        text = tiny.processor.tokenizer.decode(answer, skip_special_tokens=True)
        assert shown == {"id": row["id"], "answer": text, "due": perfect(row)}
    assert found["failed"] == 0 and {"scene", "words", "well_formed"} <= found["scores"].keys()


def test_a_sample_during_training_tells_clips_that_fail_and_ends_where_all_do(tiny, clips_folder, tmp_path):
    data = with_one_torn(str(clips_folder), tmp_path / "data")
    found = sample_evaluation(data, "train", 3)(tiny)
    assert found["failed"] == 1 and [bool(each["answer"]) for each in found["samples"]] == [False, True, True]
    with pytest.raises(media.MediaError):
        sample_evaluation(data, "train", 1)(tiny)


@pytest.mark.parametrize("options", [{"clips": 0}, {"batch_size": 0}])
def test_numbers_that_make_no_sense_are_refused_by_name(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is 0"):
        StudioEval(**options)
