"""``python -m saber``: what each verb prints, where, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saber.__main__ import VERBS, main
from saber.schema import DIMENSIONS, SECTIONS

ROOT = Path(__file__).parents[1]


def saber(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "saber", *arguments], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)  # fmt: skip


def test_help_names_every_verb_and_what_it_does():
    done = saber("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, add in VERBS.items():
        assert f"    {name} " in done.stdout
        assert add.__doc__.split()[0] in done.stdout


@pytest.mark.parametrize("verb, options", [
    ("analyze", ("--model", "--language", "--tracks", "--start", "--end", "--json")),
    ("studio", ("--clips", "--seed", "--language", "--split", "--conflict-share", "--complete", "--workers")),
    ("eval", ("--model", "--data", "--split", "--clips", "--out", "--batch-size")),
    ("card", ("--model", "--training", "--fact", "--template", "--out")),
])  # fmt: skip
def test_each_verb_explains_its_options(verb, options, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert VERBS[verb].__doc__.split(":")[0] in out
    assert all(f"  {option}" in out for option in options)


def test_help_answers_at_once_because_nothing_heavy_is_imported():
    program = f"""
import sys
from saber.__main__ import main
for verb in {list(VERBS)}:
    try:
        main([verb, "--help"])
    except SystemExit:
        pass
sys.exit(" ".join({{"torch", "transformers", "av", "skia", "datasets", "scipy", "jinja2"}} & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments, named", [
    ([], "verb"),
    (["sing"], "'sing'"),
    (["analyze", "clip.mp4", "--language", "fr"], "'fr'"),
    (["studio", "out"], "--clips"),
    (["studio", "out", "--clips", "two"], "'two'"),
    (["studio", "out", "--clips", "1", "--split", "dev"], "'dev'"),
    (["eval", "imagenet"], "'imagenet'"),
    (["card"], "results"),
])  # fmt: skip
def test_a_wrong_command_line_ends_with_2_and_names_what_is_wrong(arguments, named, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert named in capsys.readouterr().err


# analyze ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_clip_ends_with_1_and_the_reason_in_one_line(tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("This is no film.\n" * 100, encoding="utf-8")
    done = saber("analyze", str(text))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"saber: clip {text}: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--json"], ["--model", "./no-model"]])
def test_a_missing_file_ends_with_1_and_the_reason_before_a_model_is_looked_for(options, capsys):
    assert main(["analyze", "no/such/clip.mp4", *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "saber: clip no/such/clip.mp4: " in err


def test_a_part_that_ends_before_it_begins_is_refused(clips, tiny_folder, capsys):
    assert main(["analyze", clips[0].path, "--model", str(tiny_folder), "--start", "2", "--end", "1"]) == 1
    assert "end_s 1.0 is not after start_s 2.0" in capsys.readouterr().err


def test_a_track_that_the_clip_lacks_cannot_be_asked_for(clips, tiny_folder, capsys):
    silent = next(clip for clip in clips if clip.metadata["incomplete"] == "no_sound")
    assert main(["analyze", silent.path, "--model", str(tiny_folder), "--tracks", "sound"]) == 1
    assert f"saber: clip {silent.path}: " in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["analyze", "eval"])
def test_a_model_that_is_nowhere_ends_with_1_and_its_name(verb, capsys, tmp_path, clips, clips_folder):
    data = ["--data", str(clips_folder), "--split", "train", "--out", str(tmp_path)]
    what = {"analyze": [clips[0].path], "eval": ["studio", *data]}[verb]
    assert main([verb, *what, "--model", "./no-model"]) == 1
    assert "saber: model './no-model' is neither a folder nor a Hub id" in capsys.readouterr().err


@pytest.mark.parametrize("language", ["en", "zh"])
def test_json_is_the_published_record_and_nothing_else(language, clips, tiny_folder, capsys):
    arguments = ["analyze", clips[0].path, "--model", str(tiny_folder), "--language", language, "--json"]
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record) - {"relation", "emotion"} == {keys[0] for keys in DIMENSIONS.values()}
    assert set(record["audio_desc"]) == {"speech_content", "acoustic_feat"}
    texts = [value for value in record.values() if isinstance(value, str)]
    assert any(texts) or any(record["audio_desc"].values()) or record.get("emotion")


def test_an_answer_streams_under_the_names_of_its_sections(clips, tiny_folder, capsys):
    assert main(["analyze", clips[0].path, "--model", str(tiny_folder)]) == 0
    out, err = capsys.readouterr()
    headings = [line for line in out.split("\n") if line.lower() in SECTIONS and line.isupper()]
    assert headings and out.startswith(headings[0])
    assert re.search(r"Tiny was given \d+ frames of \d\.\d s .* and \d\.\d s of sound", err)
    assert re.search(r"24 tokens in \d\.\d s\n", err)
    assert err.endswith("note: The answer reached its bound and was cut off.\n")


# studio and eval --------------------------------------------------------------------------------------------------


def test_an_unknown_language_of_clips_is_a_wrong_command_line_and_is_named(tmp_path, capsys):
    assert main(["studio", str(tmp_path), "--clips", "1", "--language", "en,fr"]) == 2
    assert "'fr'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_clips_are_rendered_and_evaluated_by_command(tmp_path, tiny_folder, capsys):
    data, out = tmp_path / "clips", tmp_path / "scores"
    rendering = ["studio", str(data), "--clips", "2", "--split", "test", "--size", "64", "--complete", "--workers", "1"]
    assert main(rendering) == 0
    assert capsys.readouterr().out.strip() == str(data / "test")
    assert main([*rendering, "--seed", "5"]) == 1
    assert "seed = 0, not 5" in capsys.readouterr().err

    evaluating = ["eval", "studio", "--model", str(tiny_folder), "--data", str(data), "--out", str(out)]
    assert main(evaluating) == 0
    assert capsys.readouterr().out.strip() == (out / "results.md").read_text(encoding="utf-8").strip()
    assert main([*evaluating, "--split", "style"]) == 1
    assert "holds no clips.parquet" in capsys.readouterr().err
    assert main([*evaluating, "--batch-size", "0"]) == 1
    assert "batch_size is 0" in capsys.readouterr().err
