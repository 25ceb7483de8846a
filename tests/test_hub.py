"""The model card: every figure from results that a real evaluation of the tiny checkpoint wrote, or a named error."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from saber.__main__ import main
from saber.eval import intervals
from saber.eval.calibration import calibration_table
from saber.eval.gaps import gap_table
from saber.eval.studio import StudioEval, accuracy_table, run_studio_eval, share_table
from saber.hub import MARK, HubError, placeholders, render_card, training_facts

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = (ROOT / "hub_cards" / "model.md").read_text(encoding="utf-8")
FACTS = {
    "title": "Tiny", "parameters": "500,000", "fps": "4", "max_frames": 24, "clips": "Twelve clips.",
    "training": "Not at all.", "hours": "0", "hardware": "nothing",
}  # fmt: skip
Results = dict[str, Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> list[str]:
    """Folders of two splits, four clips each, as ``python -m saber eval studio`` leaves them."""
    out = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 20)
        for split in ("test", "style"):
            run_studio_eval(StudioEval(model=str(tiny_folder), split=split, clips=4, out=str(out / split), seed=3))
    return [str(out / "style"), str(out / "test")]


@pytest.fixture
def results(folders: list[str]) -> list[Results]:
    return [json.loads((Path(folder) / "results.json").read_text(encoding="utf-8")) for folder in folders]


def test_the_card_holds_every_table_of_every_split(results):
    card = render_card(TEMPLATE, results, FACTS)
    style, test = results
    for found in results:
        assert accuracy_table(found) in card
        assert calibration_table(found["calibration"]) in card
    assert share_table(test) in card and gap_table(test["gaps"]) in card
    # Beside each other: test first, whatever came first.
    assert "| | test | style |\n" in card
    face = [intervals.cell(found["attributes"]["face"]["all"], "accuracy") for found in (test, style)]
    assert f"| face | {face[0]} | {face[1]} |" in card
    for fact in ("# Tiny\n", "500,000 parameters", "Twelve clips.", "Not at all.", "in 0 hours on nothing"):
        assert fact in card
    assert "{{" not in card and "{%" not in card and card.endswith(f"{MARK}\n")
    assert "4 clips of the split `test`" in card


def test_the_hub_is_told_the_figures_too(results):
    data = ModelCard(render_card(TEMPLATE, results, {**FACTS, "base_model": "owner/base"})).data
    assert (data.license, data.language, data.pipeline_tag) == ("apache-2.0", ["en", "zh"], "video-text-to-text")
    assert (data.model_name, data.base_model) == ("Tiny", "owner/base")
    said = {(each.dataset_split, each.metric_type, each.metric_name): each.metric_value for each in data.eval_results}
    for found in results:
        split = found["split"]
        assert said[split, "accuracy", "macro accuracy, face"] == found["attributes"]["face"]["all"]["accuracy"]
        # A split in which nobody speaks Chinese has no character error rate to tell.
        assert said.get((split, "cer", "character error rate (zh)")) == found["character_error_rate"]["rate"]
    assert len(said) == len(data.eval_results)


def test_a_placeholder_that_nothing_fills_is_named(results):
    facts = {name: text for name, text in FACTS.items() if name not in ("hardware", "clips")}
    with pytest.raises(HubError, match="the card asks for clips, hardware, which .* --fact clips=TEXT"):
        render_card(TEMPLATE, results, facts)
    with pytest.raises(HubError, match="has no attribute 'colour'"):
        render_card(TEMPLATE + "{{ test.colour }}", results, FACTS)
    with pytest.raises(HubError, match="template, line 2: "):
        placeholders("fine\n{{ fine fine }}")


@pytest.mark.parametrize("path", [
    "gaps", "fingerprint", "clips.conflict", "attributes.emotion", "attributes.face.all.accuracy", "follows.share",
    "calibration", "calibration.prosody.ece",
])  # fmt: skip
def test_a_figure_that_the_results_lack_is_named_with_its_split(results, path):
    *above, last = path.split(".")
    place = results[0]
    for key in above:
        place = place[key]
    del place[last]
    with pytest.raises(HubError, match=rf"results of the split 'style' have no {path}.*: .* evaluate again"):
        render_card(TEMPLATE, results, FACTS)


def test_splits_are_given_once_and_test_among_them(results):
    style, test = results
    for wrong in ([style], [test, test], []):
        with pytest.raises(HubError, match="one folder for each split, 'test' among them"):
            render_card(TEMPLATE, wrong, FACTS)
    assert "| | test |\n" in render_card(TEMPLATE, [test], FACTS)
    with pytest.raises(HubError, match="several checkpoints"):
        render_card(TEMPLATE, [test, {**style, "fingerprint": "of another"}], FACTS)


def test_a_run_is_described_without_the_folders_of_its_machine(tmp_path, clips_folder):
    config = {"data": str(clips_folder), "split": "train", "output_dir": "/somewhere/out", "model": "/somewhere/base",
              "learning_rate": 0.002, "cache_dir": "", "seed": 7}  # fmt: skip
    run = {"command": "sft.py", "config": config, "versions": {"torch": "2.13.0"}, "rows": 6400, "seconds": 2151.5}
    found = training_facts([run, {"config": {"data": str(tmp_path)}}])
    first = found["training"].split("\n")[0]
    assert first == (
        f"- `sft.py`: measured: rows 6,400, seconds 2,151.5; settings: data {clips_folder.name}, split train, "
        "model base, learning_rate 0.002, seed 7; versions: torch 2.13.0."
    )
    # 6,400 as the run says, whatever the folder holds by now; the second run's clips are not on this machine.
    assert found["clips"] == (
        "- 6,400 clips of the split `train` (seed 904), spoken in en and zh; picture and voice conflict in 50 % of the "
        "complete ones; with clips that lack a track, a person or speech; 0 % described in the language that is not "
        "spoken."
    )
    shutil.copytree(clips_folder / "train", tmp_path / "train", ignore=shutil.ignore_patterns("media"))
    mix = json.loads((tmp_path / "train" / "studio.json").read_text(encoding="utf-8"))
    (tmp_path / "train" / "studio.json").write_text(json.dumps({**mix, "wordings": 4}), encoding="utf-8")
    worded = training_facts([{**run, "config": {**config, "data": str(tmp_path)}}])
    # A row for each wording: 6,400 / 4.
    assert worded["clips"].startswith("- 1,600 clips of the split `train` (seed 904), each described in 4 wordings, ")
    base = {"config": {"data": str(clips_folder)}, "rows": {"train": 500, "validation": 9}}
    assert training_facts([base])["clips"].startswith("- 500 clips of the split `train`")
    # Two splits are of one kind, whatever their mix says of conflicts and incomplete clips.
    for split, said in {
        "speech": "- 9 clips of the split `speech` (seed 904), spoken in en and zh; sound without picture; 50 % say "
        "words in no order.",
        "drill": "- 9 clips of the split `drill` (seed 904), spoken in en and zh; picture and voice conflict in 50 % "
        "of the complete ones; without clips that lack a track, a person or speech; 100 % say words in no order; 0 % "
        "described in the language that is not spoken.",
    }.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / "studio.json").write_text(json.dumps({**mix, "split": split}), encoding="utf-8")
        assert training_facts([{"config": {"data": str(tmp_path)}, "rows": {split: 9}}])["clips"] == said
    parts = {"config": {"data": str(tmp_path), "split": "train+drill[:50%]"}, "rows": 21}
    assert "rows 21" in training_facts([parts])["training"] and "clips" not in training_facts([parts])
    assert "clips" not in training_facts([{"config": {"data": str(clips_folder), "split": "train"}}])
    assert training_facts([]) == {}


@pytest.fixture
def weights(tmp_path: Path, tiny_folder: Path) -> Path:
    """A copy of the checkpoint as training leaves it, with run.json above."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "run" / "checkpoint"))
    run = {"command": "sft.py", "config": {"seed": 7}, "versions": {}, "steps": 2000}
    (folder.parent / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


def command(folders: list[str], weights: Path, *more: str) -> list[str]:
    return ["card", *folders, "--model", str(weights), "--template", str(ROOT / "hub_cards" / "model.md"),
            "--fact", "hours=0.5", "--fact", "hardware=2 cores", *more]  # fmt: skip


def test_the_command_writes_the_card_beside_the_weights(folders, weights, tiny, capsys):
    assert main(command(folders, weights)) == 1
    assert "saber: the card asks for clips, which " in capsys.readouterr().err
    assert not (weights / "README.md").exists() and not (weights / "reliability.png").exists()
    whole = command(folders, weights, "--fact", "clips=Twelve clips = few.")
    assert main(whole) == 0
    assert capsys.readouterr().out.strip() == str(weights / "README.md")
    card = (weights / "README.md").read_text(encoding="utf-8")
    count = sum(parameter.numel() for parameter in tiny.model.parameters())
    for text in (f"# Tiny\n\n{count:,} parameters", "in 0.5 hours on 2 cores", "Twelve clips = few.", "4 frames a\nsec",
                 "- `sft.py`: measured: steps 2,000; settings: seed 7"):  # fmt: skip
        assert text in card
    plot = Path(folders[1]) / "reliability.png"
    assert (weights / "reliability.png").read_bytes() == plot.read_bytes()
    assert main([*whole, "--fact", "training=By hand."]) == 0  # a card of ours may be written over
    assert "By hand." in (weights / "README.md").read_text(encoding="utf-8")


def test_a_file_that_is_no_card_of_ours_is_kept(folders, weights, capsys):
    (weights / "README.md").write_text("# Mine\n", encoding="utf-8")
    assert main(command(folders, weights, "--fact", "clips=Few.")) == 1
    assert "README.md is no card of ours" in capsys.readouterr().err
    assert (weights / "README.md").read_text(encoding="utf-8") == "# Mine\n"
    other = weights.parent / "cards" / "tiny.md"
    assert main(command(folders, weights, "--fact", "clips=Few.", "--out", str(other))) == 0
    assert MARK in other.read_text(encoding="utf-8") and (other.parent / "reliability.png").exists()


def test_results_of_other_weights_are_refused(folders, weights, tiny, capsys):
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.model.get_input_embeddings().weight.mul_(1.5)
    other.save(weights)
    assert main(command(folders, weights, "--fact", "clips=Few.")) == 1
    assert "whose weights are not those of" in capsys.readouterr().err


@pytest.mark.parametrize("more, code, named", [
    (["--fact", "hardwar=2 cores"], 1, "fact 'hardwar': .* the nearest is 'hardware'"),
    (["--fact", "test=perfect"], 1, "fact 'test': .* asks for no such fact"),
    (["--fact", "hardware"], 2, "each is written NAME=TEXT"),
    (["--training", "nowhere/run.json"], 1, r"nowhere/run.json cannot be read \(No such file"),
    (["--template", "nowhere.md"], 1, r"nowhere.md cannot be read \(No such file"),
])  # fmt: skip
def test_what_is_wrong_on_the_command_line_is_named(folders, weights, capsys, more, code, named):
    assert main(command(folders, weights, *more)) == code
    assert re.search(named, capsys.readouterr().err)


def test_results_that_are_not_there_are_named(tmp_path, weights, capsys):
    assert main(command([str(tmp_path)], weights)) == 1
    assert f"{tmp_path / 'results.json'} cannot be read" in capsys.readouterr().err
