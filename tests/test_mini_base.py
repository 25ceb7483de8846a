"""The script that builds SABER-Mini-Base: targets that fit the frames, plain tasks, going on where it was killed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saber import media
from saber.prompts import load_prompt
from saber.schema import SECTIONS, Annotation, Clip
from saber.studio import face
from saber.studio.render import first_wordings, read_rows, run_studio
from saber.studio.sample import Mix

sys.path.append(str(Path(__file__).parents[1] / "train"))
import mini_base  # noqa: E402
from mini_base import (  # noqa: E402
    BaseConfig,
    Visible,
    build,
    claim,
    labels,
    mask_bands,
    plain_rows,
    read_spec,
    vary,
    word_rows,
)

pytestmark = pytest.mark.usefixtures("own_accelerator")
ROOT = Path(__file__).parents[1]
TINY = dict(
    width=64, layers=1, text_ffn=64, encoder_width=40, vision_layers=1, audio_layers=1, vocabulary_size=600,
    see_steps=3, hear_steps=3, join_steps=2, workers=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mini") / "clips"
    for split, count in (("train", 40), ("validation", 8), ("speech", 12), ("drill", 6), ("rare", 4)):
        run_studio(folder, Mix(split=split, wordings=2 if split == "train" else 1), count, progress=False)
    return folder


@pytest.fixture
def config(data, tmp_path) -> BaseConfig:
    return BaseConfig(data=str(data), work_dir=str(tmp_path / "base"), output_dir=str(tmp_path / "out"), **TINY)


@pytest.fixture(scope="module")
def decoded(data, tmp_path_factory):
    """Rows of the train split and their arrays."""
    rows = first_wordings(read_rows(data / "train"))
    config = BaseConfig(data=str(data), work_dir=str(tmp_path_factory.mktemp("arrays")), **TINY)
    return rows, mini_base.run_decode(config, mini_base.build_mini(config, rows), "train", rows)


def test_arrays_hold_each_clip_as_it_is_decoded(data, decoded):
    rows, arrays = decoded
    settings = media.MediaSettings(fps=4.0, max_frames=32, min_pixels=112 * 112, max_pixels=112 * 112)
    assert len(arrays.frame_at) == len(arrays.mel_at) == len(rows) + 1
    for number in (0, len(rows) - 1):
        found = media.decode_here(Clip(str(data / rows[number]["video"])), settings)
        here = slice(arrays.frame_at[number], arrays.frame_at[number + 1])
        if found.frames is None:
            assert here.start == here.stop
        else:
            assert np.array_equal(arrays.frames[here], found.frames)
            assert np.array_equal(arrays.times[here], found.frame_times_s)


def test_targets_are_those_of_the_frame_on_show(decoded):
    """By the decoder's own rule: of the frames at k / fps the last that has begun."""
    rows, arrays = decoded
    seen = Visible.build(rows, arrays)
    checked = 0
    for number, row in enumerate(rows):
        spec = read_spec(row["spec"])
        here = slice(arrays.frame_at[number], arrays.frame_at[number + 1])
        if here.start == here.stop or not spec.can_see_person:
            continue
        motion = face.perform(spec.performance, row["duration_s"], spec.fps)
        begun = np.arange(len(motion)) / spec.fps
        for time_s, aus in zip(arrays.times[here], seen.aus[here], strict=True):
            shown = np.searchsorted(begun, time_s + 1e-3, side="right") - 1
            assert np.array_equal(aus, motion.aus[shown]), (row["id"], time_s)
            checked += 1
    assert checked > 200


def test_a_micro_expression_counts_in_either_frame_and_leaves_the_face_open():
    stated = {"micro": np.array([0, 3, 0, 0]), "face": np.array([8, -100, 8, 8])}
    seen = Visible(stated, np.zeros((4, 1)), np.zeros((4, 5)), np.array([0, 1, 2]), np.array([0, 1]))
    assert seen.of_pairs("micro", np.array([0, 1, 2])).tolist() == [3, 3, 0]
    assert seen.of_pairs("face", np.array([0, 1, 2])).tolist() == [-100, -100, 8]


def test_the_plain_tasks_hold_no_sed(config):
    rows = first_wordings(read_rows(Path(config.data) / "train"))
    tasks = list(plain_rows(config, rows))
    assert len(tasks) == len(rows)
    assert not any(f"<{section}>" in row.answer for row in tasks for section in SECTIONS)
    for row, source in zip(tasks, rows, strict=True):
        said = Annotation.from_json(source)
        assert row.clip.id == source["id"] and said.reasoning
        asked = row.prompt.partition(".")[0].split("+")
        values = labels(source).split("\n")
        assert values[0] == (source["truth"]["scene"] or "-") and values[-1] == source["truth"]["emotion"]
        due = {"labels": values, "words": [said.speech], "tone": [said.prosody],
               "look": [f"{said.scene} {said.face} {said.body}"], "why": [said.reasoning]}  # fmt: skip
        assert row.answer.split("\n") == [line for task in asked for line in due[task]]


def test_plain_questions_come_in_any_number_and_order_and_each_has_its_prompt(config):
    prompts = mini_base.plain_prompts()
    assert prompts["tone+words.en"] == f"{load_prompt('tone', 'en').text}\n{load_prompt('words', 'en').text}"
    rows = first_wordings(read_rows(Path(config.data) / "train")) * 5
    orders = [row.prompt for row in plain_rows(config, rows)]
    assert set(orders) <= prompts.keys()
    asked = [order.partition(".")[0].split("+") for order in orders]
    assert {len(tasks) for tasks in asked} == {1, 2, 3, 4, 5}
    assert {tasks[-1] for tasks in asked} == {tasks[0] for tasks in asked} == {"labels", "words", "look", "tone", "why"}
    alone = plain_rows(replace(config, join_tasks="labels"), rows)
    assert {row.prompt for row in alone} == {"labels.en", "labels.zh"}


def test_of_a_voice_alone_the_words_are_learned(config):
    rows = read_rows(Path(config.data) / "speech")
    tasks = word_rows(config, rows)
    assert len(tasks) == len(rows) == 12
    for row, task in zip(rows, tasks, strict=True):
        assert task.prompt == f"words.{row['language']}" and task.answer.endswith(row["truth"]["words"])


def test_the_join_mixes_whole_clips_and_voices_alone(config):
    tables = {split: read_rows(Path(config.data) / split) for split in ("train", "drill", "rare", "speech")}
    whole, voices = [*tables["train"], *tables["drill"], *tables["rare"]], word_rows(config, tables["speech"])
    rows = mini_base.join_rows(replace(config, join_voices=2), whole, voices)
    assert len(rows) == 3 * len(whole) and rows[len(whole) :][: len(voices) + 1] == [*voices, voices[0]]
    assert [row.clip.id for row in rows[: len(whole)]] == [row["id"] for row in whole]
    assert len(mini_base.join_rows(replace(config, join_voices=0), whole, voices)) == len(whole)


def test_words_that_are_said_are_tokens(config):
    """Given nothing else, the vocabulary takes those of what is said before it takes others."""
    rows = read_rows(Path(config.data) / "speech")
    said = ["zucchini quibble"] * 50
    counts = [
        len(mini_base.build_mini(config, rows, texts).processor.tokenizer.encode(" quibble")) for texts in ([], said)
    ]
    assert counts[1] == 1 < counts[0]


def test_variations_change_light_and_place_not_the_kind_of_array():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 256, (4, 2, 112, 112, 3), dtype=np.uint8)
    varied = vary(pairs, np.random.default_rng(1))
    assert varied.shape == pairs.shape and varied.dtype == np.uint8 and not np.array_equal(varied, pairs)
    mel = torch.randn(300, 128)
    masked = mask_bands(mel, np.random.default_rng(3))
    changed = (masked != mel).float().mean()
    assert masked.shape == mel.shape and 0 < changed < 0.25


def test_a_killed_base_goes_on_and_a_finished_stage_is_not_done_again(config, monkeypatch):
    run_hear = mini_base.run_hear

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mini_base, "run_hear", killed)
    with pytest.raises(KeyboardInterrupt):
        build(config)
    work = Path(config.work_dir)
    assert (work / "see.pt").exists() and not (work / "hear.pt").exists()

    monkeypatch.setattr(mini_base, "run_hear", run_hear)
    monkeypatch.setattr(mini_base, "run_see", killed)
    build(config)
    ran = json.loads((work / "run.json").read_text(encoding="utf-8"))
    assert ran["rows"] == {"train": 80, "validation": 8, "speech": 12, "drill": 6, "rare": 4}
    assert (Path(config.output_dir) / "model.safetensors").exists()
    assert not list(work.glob("*.state.pt")) and not list(work.rglob("*.part"))
    assert json.loads((work / "see.jsonl").read_text().splitlines()[-1])["step"] == TINY["see_steps"]
    build(config)  # all is done: the state of join is known as that of the same start
    assert len((work / "join" / "log.jsonl").read_text().splitlines()) == TINY["join_steps"]


def test_encoders_of_other_clips_or_settings_are_not_taken_for_these(config, data, tmp_path):
    claim(config)
    claim(config)
    with pytest.raises(ValueError, match="encoders made with see_steps = 3, not 4; remove it, or give another"):
        claim(dataclasses.replace(config, see_steps=4))
    other = tmp_path / "clips"
    for split in mini_base.SPLITS:
        run_studio(other, Mix(split=split, seed=5), 2, progress=False)
    with pytest.raises(ValueError, match="encoders made with other clips"):
        claim(dataclasses.replace(config, data=str(other)))


def test_join_takes_the_encoders_of_another_checkpoint(config, tmp_path, monkeypatch):
    build(config)
    own = {"work_dir": str(tmp_path / "again"), "output_dir": str(tmp_path / "other"), "seed": 1}
    again = dataclasses.replace(config, stage="join", encoders=config.output_dir, **own)
    for stage in ("run_see", "run_hear"):
        monkeypatch.setattr(mini_base, stage, None)
    build(again)
    first, second = (load_file(Path(folder) / "model.safetensors") for folder in (config.output_dir, again.output_dir))
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert {name for name in first if name.startswith(("visual.", "audio_tower."))} <= same
    assert same != first.keys(), "the language model is another one"


def test_two_processes_join_as_one_does(config, tmp_path):
    build(config)
    own = {
        "stage": "join",
        "encoders": config.output_dir,
        "work_dir": tmp_path / "two",
        "output_dir": tmp_path / "base",
    }
    given = {**TINY, "data": config.data, **own}
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run(
        [*launcher, "train/mini_base.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    one, two = (
        [json.loads(line) for line in (Path(folder) / "join" / "log.jsonl").read_text().splitlines()]
        for folder in (config.work_dir, own["work_dir"])
    )
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-2)
    assert json.loads((own["work_dir"] / "run.json").read_text())["join"]["processes"] == 2
    assert load_file(own["output_dir"] / "model.safetensors").keys() == load_file(
        Path(config.output_dir) / "model.safetensors").keys()  # fmt: skip


def test_processes_share_no_stage_but_join(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes can share the stage join only, once see and hear have ended"):
        build(config)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, "encoders: there is no .*mine.safetensors; give a checkpoint's folder or a safetensors file"),
        ({"visual.a": torch.zeros(1)}, "mine.safetensors holds no weights of its audio_tower"),
        ({"visual.a": torch.zeros(1), "audio_tower.a": torch.zeros(1)}, "the visual is not of the sizes"),
    ],
)
def test_weights_without_fitting_encoders_are_refused_by_name(config, tmp_path, weights, message):
    path = tmp_path / "mine.safetensors"
    if weights:
        save_file(weights, path)
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(config, stage="join", encoders=str(path)))


def test_a_torn_file_of_encoders_is_named(tmp_path):
    path = tmp_path / "torn.safetensors"
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="torn.safetensors is no safetensors file"):
        mini_base.encoder_weights(BaseConfig(encoders=str(path)))


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="stage is 'jion'; it must be one of"):
        BaseConfig(stage="jion")
