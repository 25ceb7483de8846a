"""saber.sft and train/sft.py: what is trained on, what the loss is, what moves, and what a killed run does next."""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from saber import media
from saber.model import embed, encode_media, load_checkpoint, prompt_positions
from saber.schema import Annotation, Clip
from saber.sections import parse, render
from saber.sft import (
    IGNORED,
    AnswerLoss,
    DataError,
    Example,
    MediaCache,
    Row,
    SFTConfig,
    attention,
    build_example,
    collate,
    learning_rate_at,
    processes,
    read_rows,
    run_sft,
    trained_settings,
)
from saber.sft.examples import example_stream, with_token_noise
from saber.sft.loop import LIKE, count_rows, count_steps, micro_batches
from saber.sft.order import Source
from saber.sft.sources import TableSource
from saber.sft.state import COURSE, State

ROOT = Path(__file__).parents[1]
KINDS = ("", "no_sound", "no_picture")
ANSWERS = {
    "": "<face>A smile, <laugh> & a <b>.</face>\n<speech>我 很好。</speech>",
    "no_sound": "<scene>A room.</scene>",
    "no_picture": "<prosody>声音低沉，语速缓慢。</prosody>\n<emotion>sadness</emotion>",
}


def one_of_each(clips) -> list[Row]:
    """A row with both tracks, one without sound and one without picture, answers of different lengths."""
    rows = []
    for kind in KINDS:
        clip = next(clip for clip in clips if clip.metadata["incomplete"] == kind)
        rows.append(Row(clip, "zh" if kind == "no_picture" else "clip", ANSWERS[kind]))
    return rows


def examples_of(checkpoint, rows) -> list[Example]:
    cache, prompts = MediaCache(checkpoint, None), checkpoint.settings.prompts
    return [build_example(checkpoint, cache.load(row.clip), prompts[row.prompt], row.answer) for row in rows]


def trainee(checkpoint):
    """A copy that may be trained."""
    return replace(checkpoint, model=copy.deepcopy(checkpoint.model))


def config_for(folder: Path, **changes) -> SFTConfig:
    values = dict(
        model="tiny", output_dir=str(folder), tuning="full", batch_size=3, micro_batch_size=3, max_steps=1,
        learning_rate=1e-3, bf16=False, cpu=True, workers=0, log_every=1,
    )  # fmt: skip
    return SFTConfig(**values | changes)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(folder: Path) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["grad_norm"]) for line in log_of(folder)]


@pytest.fixture(scope="module")
def rows(clips) -> list[Row]:
    return one_of_each(clips)


@pytest.fixture(scope="module")
def examples(tiny, rows) -> list[Example]:
    return examples_of(tiny, rows)


pytestmark = pytest.mark.usefixtures("own_accelerator")


# --- rows and examples ------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """What datasets prepares goes to a folder of the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def test_rows_hold_every_clip_with_its_annotation_as_the_answer(clips, clips_folder, own_cache):
    rows = read_rows(str(clips_folder), "train")
    assert [row.clip.id for row in rows] == [clip.id for clip in clips]
    assert [Path(row.clip.path).stat().st_size for row in rows] == [Path(clip.path).stat().st_size for clip in clips]
    for row, clip in zip(rows, clips, strict=True):
        assert row.answer == render(Annotation.from_json(clip.metadata))
        assert parse(row.answer).annotation == Annotation.from_json(clip.metadata)
        assert row.prompt in ("clip", clip.language)
    assert {row.prompt for row in rows} == {"clip", "en", "zh"}
    assert read_rows(str(clips_folder), "train") == rows
    assert read_rows(str(clips_folder), "train", seed=1) != rows


def test_an_answer_in_another_language_than_spoken_is_asked_for_by_name(clips, clips_folder, tmp_path, own_cache):
    import pyarrow.parquet as pq

    table = pq.read_table(clips_folder / "train" / "clips.parquet")
    swapped = [{"en": "zh", "zh": "en"}[language] for language in table["language"].to_pylist()]
    index = table.column_names.index("language")
    (tmp_path / "train").mkdir()
    pq.write_table(table.set_column(index, "language", [swapped]), tmp_path / "train" / "clips.parquet")
    (tmp_path / "README.md").write_text((clips_folder / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    assert [row.prompt for row in read_rows(str(tmp_path), "train")] == swapped


def test_data_that_is_not_there_is_named_with_the_next_step(clips_folder, own_cache):
    with pytest.raises(DataError, match="'absent' does not exist; render one: python -m saber studio absent"):
        read_rows("absent", "train")
    with pytest.raises(DataError, match="no split 'test'"):
        read_rows(str(clips_folder), "test")


def test_labels_decode_to_exactly_the_answer_and_the_end_token(tiny, rows, examples):
    tokenizer = tiny.processor.tokenizer
    for row, example in zip(rows, examples, strict=True):
        found = media.decode_here(row.clip, tiny.settings.media)
        prompt = tiny.with_prompt(tiny.media_inputs(found), tiny.settings.prompts[row.prompt])["input_ids"][0]
        assert torch.equal(example.input_ids[: len(prompt)], prompt)
        assert (example.labels[: len(prompt)] == IGNORED).all()
        assert torch.equal(example.labels[len(prompt) :], example.input_ids[len(prompt) :])
        assert tokenizer.decode(example.labels[len(prompt) :]) == row.answer + "<|im_end|>"


def test_from_the_reasoning_on_a_token_counts_as_much_as_is_asked_for(tiny, clips):
    tokenizer = tiny.processor.tokenizer
    inputs = tiny.media_inputs(media.decode_here(clips[0], tiny.settings.media))
    answer = render(Annotation.from_json(clips[0].metadata))
    example = build_example(tiny, inputs, "Say.", answer, reasoning_weight=4.0)
    heavy, answered = example.weights == 4, example.labels != IGNORED
    assert set(example.weights.tolist()) == {1, 4} and not (heavy & ~answered).any()
    said = tokenizer.decode(example.labels[heavy])
    assert said.strip().startswith("<reasoning>") and said.endswith("</emotion><|im_end|>")
    assert tokenizer.decode(example.labels[answered & ~heavy]).strip() == answer.partition("<reasoning>")[0].strip()
    alone = build_example(tiny, inputs, "Say.", answer.partition("<reasoning>")[0], reasoning_weight=4.0)
    assert (alone.weights == 1).all()


def test_noise_changes_what_is_read_of_an_answer_and_nothing_that_is_written(examples):
    shares = []
    for seed, example in itertools.product(range(20), examples):
        answered = example.labels != IGNORED
        noisy = with_token_noise(example, 0.2, seed)
        changed = noisy.input_ids != example.input_ids
        shares += changed[answered].tolist()
        assert not changed[~answered].any()
        assert set(noisy.input_ids[answered].tolist()) <= set(example.input_ids[answered].tolist())
        for name in ("labels", "weights", "positions"):
            assert torch.equal(getattr(noisy, name), getattr(example, name)), name
        assert torch.equal(with_token_noise(example, 0.2, seed).input_ids, noisy.input_ids)
        assert torch.equal(with_token_noise(example, 0.0, seed).input_ids, example.input_ids)
    assert 0.14 < sum(shares) / len(shares) < 0.22, "of 0.2, some are read as the same"


def test_an_answers_positions_follow_the_prompts_one_by_one(examples):
    for example in examples:
        answer = example.positions[:, example.labels != IGNORED]
        prompt = example.positions[:, example.labels == IGNORED]
        first = int(prompt.max()) + 1
        assert torch.equal(answer, torch.arange(first, first + answer.shape[1]).expand(3, -1))


def test_a_batch_is_padded_on_the_right_and_media_follow_one_another():
    def example(ids, labels, **media):
        weights = torch.tensor(ids) / 2
        return Example(torch.tensor(ids), torch.tensor(labels), weights, torch.tensor([ids, ids, ids]) * 10, media)

    both = example(
        [1, 2, 3], [-100, 2, 3], pixel_values_videos=torch.tensor([[0.1], [0.2]]),
        video_grid_thw=torch.tensor([[1, 1, 2]]), input_features=torch.tensor([[[1.0, 2.0]]]),
        feature_attention_mask=torch.tensor([[1, 1]]), use_audio_in_video=True, video_second_per_grid=torch.ones(1),
    )  # fmt: skip
    silent = example(
        [4], [4], pixel_values_videos=torch.tensor([[0.3]]), video_grid_thw=torch.tensor([[1, 1, 1]]),
        use_audio_in_video=False,
    )  # fmt: skip
    unseen = example(
        [5, 6], [-100, 6], input_features=torch.tensor([[[3.0]]]), feature_attention_mask=torch.tensor([[1]]),
        use_audio_in_video=False,
    )  # fmt: skip
    batch = collate([both, silent, unseen], pad_token_id=9)
    expected = {
        "input_ids": [[1, 2, 3], [4, 9, 9], [5, 6, 9]],
        "labels": [[-100, 2, 3], [4, -100, -100], [-100, 6, -100]],
        "weights": [[0.5, 1, 1.5], [2, 0, 0], [2.5, 3, 0]],
        "positions": [[[10, 20, 30], [40, 0, 0], [50, 60, 0]]] * 3,
        "pixel_values_videos": [[0.1], [0.2], [0.3]],
        "video_grid_thw": [[1, 1, 2], [1, 1, 1]],
        "input_features": [[[1.0, 2.0]], [[3.0, 0.0]]],
        "feature_attention_mask": [[1, 1], [1, 0]],
    }
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(batch[name], torch.tensor(value)), name


def test_cached_features_follow_one_another_in_a_batch():
    def example(**media):
        return Example(torch.tensor([1]), torch.tensor([1]), torch.ones(1), torch.ones(3, 1, dtype=torch.long), media)

    mask = torch.tensor([[1]])
    batch = collate(
        [
            example(video_features=torch.tensor([[1.0]]), video_grid_thw=torch.tensor([[1, 2, 2]])),
            example(audio_features=torch.tensor([[2.0]]), feature_attention_mask=mask),
            example(audio_features=torch.tensor([[3.0], [4.0]]), feature_attention_mask=mask),
        ],
        pad_token_id=9,
    )
    assert batch["video_features"].tolist() == [[1.0]]
    assert batch["audio_features"].tolist() == [[2.0], [3.0], [4.0]]
    assert "input_features" not in batch and "feature_attention_mask" not in batch


# --- loss -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_loss_of_an_example_is_the_models_own(tiny, examples):
    for example in examples:
        total, count = AnswerLoss(tiny.model)(collate([example], 0))
        ids, labels = example.input_ids[None], example.labels[None]
        own = tiny.model(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids), **example.media).loss
        assert int(count) == int((example.labels != IGNORED).sum())
        torch.testing.assert_close(total / count, own, rtol=1e-5, atol=0)


@torch.no_grad()
def test_the_loss_of_a_mixed_batch_is_that_of_its_examples_alone(tiny, examples):
    loss = AnswerLoss(tiny.model)
    alone = [loss(collate([example], 0)) for example in examples]
    total, count = loss(collate(examples, 0))
    assert len({len(example) for example in examples}) == len(examples), "otherwise nothing is padded"
    assert int(count) == sum(int(part[1]) for part in alone)
    torch.testing.assert_close(total, sum(part[0] for part in alone), rtol=1e-5, atol=0)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_a_loss_in_chunks_is_the_plain_one_with_its_gradients(tiny, examples, chunk):
    examples = [replace(example, weights=torch.rand(len(example))) for example in examples]

    def gradients(model) -> dict[str, torch.Tensor]:
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    chunked, plain = trainee(tiny).model, trainee(tiny).model
    total, _ = AnswerLoss(chunked, chunk=chunk)(collate(examples, 0))
    total.backward()

    expected = torch.zeros(())
    for example in examples:
        with torch.no_grad():
            embeddings = embed(plain, example.input_ids[None], encode_media(plain, example.media))
        text = example.input_ids[None]
        media_places = (text == plain.config.video_token_id) | (text == plain.config.audio_token_id)
        embeddings = torch.where(media_places[..., None], embeddings, plain.get_input_embeddings()(text))
        hidden = plain.model.language_model(inputs_embeds=embeddings, position_ids=example.positions[:, None])
        logits = plain.lm_head(hidden.last_hidden_state)[0, :-1]
        losses = cross_entropy(logits, example.labels[1:], ignore_index=IGNORED, reduction="none")
        expected = expected + losses @ example.weights[1:]
    expected.backward()

    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    got, wanted = gradients(chunked), gradients(plain)
    assert got.keys() == wanted.keys() and any("language_model" in name for name in got)
    for name in wanted:
        assert float((got[name] - wanted[name]).norm()) <= 1e-4 * float(wanted[name].norm()), name


# --- order and rate ---------------------------------------------------------------------------------------------------


def kernels_used(longest: int, bf16: bool = True) -> set[str]:
    """The kernels that attention over 64 tokens takes, forward and backward, where ``longest`` are expected."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    query, key, value = (torch.randn(2, 2, 64, 32, dtype=dtype, requires_grad=True) for _ in range(3))
    with attention.quick_attention(torch.device("cpu"), longest, bf16), torch.profiler.profile() as profile:
        scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward()
    return {event.key for event in profile.key_averages()}


def test_short_sequences_in_bfloat16_take_the_plain_attention_of_cpus_and_no_others_do():
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    assert flash not in kernels_used(512)
    assert flash in kernels_used(513)
    assert flash in kernels_used(64, bf16=False)
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == before


def test_both_attentions_teach_the_same_within_the_rounding_of_bfloat16(tiny, rows, tmp_path, monkeypatch):
    run_sft(trainee(tiny), rows, config_for(tmp_path / "plain", max_steps=3, bf16=True))
    monkeypatch.setattr(attention, "PLAIN_ATTENTION", 0)
    run_sft(trainee(tiny), rows, config_for(tmp_path / "flash", max_steps=3, bf16=True))
    plain, flash = losses(tmp_path / "plain"), losses(tmp_path / "flash")
    assert plain != flash
    assert [loss for _, loss, _ in plain] == pytest.approx([loss for _, loss, _ in flash], rel=1e-2)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_twentieth():
    rates = [learning_rate_at(step, 100, 1e-3, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4) and rates[9] == pytest.approx(1e-3) == max(rates)
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[55] == pytest.approx((1e-3 + 5e-5) / 2) and rates[100] == pytest.approx(5e-5)
    assert learning_rate_at(0, 1, 1e-3, 0.0) == 1e-3


# --- configuration ----------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_papers_run():
    config = SFTConfig()
    assert (config.epochs, config.batch_size, config.learning_rate) == (2, 128, 1e-4)
    assert "Omni-7B" in config.model and config.prompt == "sed" and not config.train_encoders


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("micro_batch_size", 0), ("learning_rate", 2.0), ("epochs", 0.0)]
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        SFTConfig(**{field: value})


def test_a_trained_checkpoint_keeps_the_bases_media_settings_and_takes_the_runs_prompt(tiny):
    settings = trained_settings(tiny.settings, SFTConfig(prompt="sed", title="Trained", max_new_tokens=9))
    assert settings.media == tiny.settings.media
    assert settings.prompt_version == "sed v1" and "<scene>" in settings.prompts["en"]
    assert (settings.about["title"], settings.max_new_tokens) == ("Trained", 9)


# --- training ---------------------------------------------------------------------------------------------------------

UNUSED = "audio_bos_eos_token"  # the published audio encoder has it and never reads it


@pytest.mark.parametrize("train_encoders", [False, True])
def test_what_is_trained_moves_and_encoders_only_when_asked(tiny, rows, tmp_path, train_encoders):
    checkpoint = trainee(tiny)
    run_sft(checkpoint, rows, config_for(tmp_path, train_encoders=train_encoders))
    before = dict(tiny.model.named_parameters())
    moved = {name: not torch.equal(after, before[name]) for name, after in checkpoint.model.named_parameters()}
    encoders = {name for name in moved if ".visual." in name or ".audio_tower." in name}
    assert encoders and encoders != moved.keys()
    for name, did in moved.items():
        assert did == (UNUSED not in name and (train_encoders or name not in encoders)), name
    assert not checkpoint.model.training


def test_the_loss_falls(tiny, rows, tmp_path):
    run_sft(trainee(tiny), rows, config_for(tmp_path, max_steps=8, learning_rate=5e-3))
    steps = losses(tmp_path)
    assert [step for step, _, _ in steps] == list(range(8))
    assert steps[-1][1] < 0.8 * steps[0][1]


def test_a_batch_in_parts_is_the_batch_in_one(tiny, rows, tmp_path):
    run_sft(trainee(tiny), rows, config_for(tmp_path / "one", micro_batch_size=3))
    run_sft(trainee(tiny), rows, config_for(tmp_path / "parts", micro_batch_size=1))
    [(_, loss, norm)], [(_, loss_in_parts, norm_in_parts)] = losses(tmp_path / "one"), losses(tmp_path / "parts")
    assert loss_in_parts == pytest.approx(loss, rel=1e-5)
    assert norm_in_parts == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_a_micro_batch_holds_rows_of_like_length_and_no_more_tokens_than_was_asked(seed):
    lengths = [*range(300, 345, 5), 400] + [random.Random(seed).randint(60, 150) for _ in range(24)]
    random.Random(seed).shuffle(lengths)
    parts = [[len(row) for row in part] for part in micro_batches([" " * length for length in lengths], 4)]
    assert sorted(sum(parts, [])) == sorted(lengths)
    assert all(len(part) * max(part) <= 4 * max(lengths) and max(part) <= LIKE * min(part) for part in parts)
    assert max(map(len, parts)) > 8  # short rows: more of them in one
    assert [max(part) for part in parts] == sorted((max(part) for part in parts), reverse=True)
    assert micro_batches([], 4) == []
    assert micro_batches(["aaa", "aa", "a"], 1) == [["aaa"], ["aa"], ["a"]]


def test_cached_features_train_as_the_encoders_do(tiny, rows, tmp_path, monkeypatch):
    kept = str(tmp_path / "features")
    run_sft(trainee(tiny), rows, config_for(tmp_path / "plain", max_steps=2))
    run_sft(trainee(tiny), rows, config_for(tmp_path / "first", max_steps=2, cache_dir=kept))
    assert len(list(Path(kept).rglob("*.npz"))) == len(rows)

    def refuse(*_):
        raise AssertionError("the clip is encoded again")

    monkeypatch.setattr(media, "decode_here", refuse)
    run_sft(trainee(tiny), rows, config_for(tmp_path / "second", max_steps=2, cache_dir=kept))
    plain = [line[1] for line in losses(tmp_path / "plain")]
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    assert [line[1] for line in losses(tmp_path / "first")] == pytest.approx(plain, rel=5e-3)  # 16 bit


@torch.no_grad()
def test_the_cache_holds_what_the_encoders_give(tiny, rows, tmp_path):
    cache = MediaCache(tiny, tmp_path)
    cache.fill([row.clip for row in rows], workers=0)
    for row in rows:
        kept, inputs = cache.load(row.clip), MediaCache(tiny, None).load(row.clip)
        features = encode_media(tiny.model, inputs)
        assert features
        for kind, value in features.items():
            torch.testing.assert_close(kept[f"{kind}_features"].float(), value, rtol=1e-3, atol=1e-5)
        assert kept["use_audio_in_video"] == inputs["use_audio_in_video"]
        assert torch.equal(kept["media_ids"], inputs["media_ids"])


def test_a_cache_is_not_read_back_for_other_encoders_or_settings_or_tokens(tiny, rows, tmp_path, monkeypatch):
    clip = rows[0].clip
    path = MediaCache(tiny, tmp_path)._path(clip)
    assert MediaCache(tiny, tmp_path)._path(clip) == path
    other = trainee(tiny)
    with torch.no_grad():
        next(other.model.model.visual.parameters()).view(-1)[0] += 1
    slower = replace(tiny.settings, media=replace(tiny.settings.media, fps=2.0))
    assert MediaCache(other, tmp_path)._path(clip) != path
    assert MediaCache(replace(tiny, settings=slower), tmp_path)._path(clip) != path
    assert MediaCache(tiny, tmp_path)._path(replace(clip, end_s=1.0)) != path
    members = [MediaCache(tiny, tmp_path)._path(replace(clip, span=(first, 900))) for first in (512, 2048)]
    assert len({path, *members}) == 3, "two clips of one tar"
    monkeypatch.setattr(tiny.processor.tokenizer, "convert_tokens_to_ids", lambda tokens: [9] * len(tokens))
    assert MediaCache(tiny, tmp_path)._path(clip) != path, "media tokens of other numbers"


class Killed(BaseException):
    """Ends a run from outside, as a signal would."""


class Counted(list):
    """Rows that count how often they are read, and end the run at one of them."""

    def __init__(self, rows, kill_at: int | None = None) -> None:
        super().__init__(rows)
        self.kill_at, self.reads = kill_at, 0

    def __getitem__(self, index):
        if self.reads == self.kill_at:
            raise Killed
        self.reads += 1
        return super().__getitem__(index)


def test_a_killed_run_goes_on_from_its_last_saved_step(tiny, clips, tmp_path):
    rows = [Row(clip, "en", f"<scene>Clip number {number}.</scene>") for number, clip in enumerate(clips[:7])]
    course = dict(max_steps=5, batch_size=2, micro_batch_size=2, save_every=2)
    whole = trainee(tiny)
    run_sft(whole, rows, config_for(tmp_path / "whole", **course))
    config = config_for(tmp_path / "killed", **course)
    with pytest.raises(Killed):
        run_sft(trainee(tiny), Counted(rows, kill_at=6), config)  # after step 2, which is logged and not saved
    assert [line["step"] for line in log_of(tmp_path / "killed")] == [0, 1, 2]
    resumed, again = trainee(tiny), Counted(rows)
    run_sft(resumed, again, config)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert again.reads == 2 * 3 + 1, "what was done is not read again; one row is left over at the end of an epoch"
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name

    finished = trainee(tiny)
    run_sft(finished, Counted(rows, kill_at=0), config)  # nothing is left to do
    assert torch.equal(finished.model.lm_head.weight, whole.model.lm_head.weight)
    with pytest.raises(DataError, match=r"learning_rate = 0\.001, not 0\.002; use the same to go on, or another"):
        run_sft(trainee(tiny), rows, replace(config, learning_rate=2e-3))
    renamed = replace(tiny.settings, max_new_tokens=9, about={"title": "Another name"})
    run_sft(replace(trainee(tiny), settings=renamed), rows, config)  # what is learned is the same
    with pytest.raises(DataError, match="was written with other rows"):
        run_sft(trainee(tiny), [replace(rows[0], answer="another"), *rows[1:]], config)
    other = trainee(tiny)
    with torch.no_grad():
        other.model.get_input_embeddings().weight[0] += 1
    with pytest.raises(DataError, match="was written with another base"):
        run_sft(other, rows, config)


#: What a killed run may be given another value of: where things lie, how fast it goes, what it tells.
HARMLESS = {
    "output_dir", "max_new_tokens", "title", "micro_batch_size", "gradient_checkpointing", "cpu", "workers",
    "cache_dir", "max_skipped_share", "delete_used", "eval_clips", "eval_data", "eval_every", "report_to", "dry_run",
    "gpus", "gpu", "sharding", "save_every", "log_every",
}  # fmt: skip


def test_every_setting_either_decides_what_is_learned_or_is_harmless():
    assert HARMLESS | {*COURSE} == set(SFTConfig.__dataclass_fields__) and not HARMLESS & {*COURSE}


def test_a_run_shows_how_far_it_is_also_where_it_is_killed(tiny, rows, tmp_path):
    with pytest.raises(Killed):
        run_sft(trainee(tiny), Counted(rows, kill_at=5), config_for(tmp_path, max_steps=4, batch_size=2, save_every=1))
    assert (tmp_path / "progress.png").stat().st_size > 5000


def test_an_evaluation_in_which_a_run_is_killed_is_done_again(tiny, rows, tmp_path):
    done = []

    def evaluate(_):
        done.append(len(done))
        if len(done) == 1:
            raise Killed
        return {"scores": {"scene": 1.0}, "samples": []}

    config = config_for(tmp_path, max_steps=2, batch_size=2, eval_every=2, save_every=2)
    with pytest.raises(Killed):
        run_sft(trainee(tiny), rows, config, evaluate=evaluate)
    run_sft(trainee(tiny), rows, config, evaluate=evaluate)
    assert len((tmp_path / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()) == 1 and len(done) == 2


def test_workers_may_hold_more_tensors_than_an_ordinary_limit_has_files():
    """Each tensor that is handed over is an open file in both processes until it is used."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    batches = [[number] * 100 for number in range(3)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        given = list(example_stream(lambda number: [torch.full((2,), number) for _ in range(8)], batches, workers=1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [len(batch) for batch in given] == [100] * 3 and int(given[2][99][7][1]) == 2


def test_what_goes_wrong_with_a_clip_names_it():
    def build(row):
        raise ZeroDivisionError("a bug")

    row = Row(Clip("a.mp4", id="clip-17"), "en", "x")
    with pytest.raises(RuntimeError, match="clip clip-17: ZeroDivisionError: a bug"):
        next(example_stream(build, [[row]], workers=1))


def test_sound_of_which_the_encoder_makes_no_token_is_no_sound(tiny, four_rows):
    found = media.decode_here(four_rows[0].clip, tiny.settings.media)
    blip, silent = (tiny.prepare(replace(found, audio=audio), "en") for audio in (found.audio[:300], None))
    assert torch.equal(blip["input_ids"], silent["input_ids"]) and "input_features" not in blip
    assert torch.equal(prompt_positions(tiny.model, blip), prompt_positions(tiny.model, silent))


def test_the_fingerprint_of_a_table_changes_with_a_clips_file_and_part(rows, tmp_path):
    shutil.copy(rows[0].clip.path, tmp_path / "clip.mp4")
    clip = replace(rows[0].clip, path=str(tmp_path / "clip.mp4"))
    same = [TableSource("x", [replace(rows[0], clip=clip)]).digest() for _ in range(2)]
    other = TableSource("x", [replace(rows[0], clip=replace(clip, end_s=1.0))]).digest()
    with (tmp_path / "clip.mp4").open("ab") as file:
        file.write(b"more")
    assert len({*same, other, TableSource("x", [replace(rows[0], clip=clip)]).digest()}) == 3


def test_a_tracker_that_is_not_there_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(ValueError, match="report_to is 'tensorboard', which is not installed: pip install tensorboard"):
        processes.build_accelerator(config_for(tmp_path, report_to="tensorboard"))


class Shards(Source):
    """Rows in shards, which would have to be read to be counted."""

    name, blocks_per_epoch = "tars", 1

    def count(self):
        raise AssertionError("the shards are read to count them")

    digest = block_rows = open_block = release_block = None


def test_shards_are_not_counted_where_the_number_of_steps_is_given(tmp_path):
    Shards.__abstractmethods__ = frozenset()
    config = config_for(tmp_path, max_steps=7)
    assert count_rows(Shards(), config) is None and count_steps(Shards(), None, config) == 7
    with pytest.raises(AssertionError):
        count_rows(Shards(), config_for(tmp_path, max_steps=0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_cannot_be_decoded_is_named_counted_and_passed_over(tiny, rows, tmp_path, capsys, workers):
    broken = Row(Clip(str(tmp_path / "absent.mp4"), id="clip-17"), "en", ANSWERS["no_sound"])
    config = config_for(tmp_path / "run", batch_size=4, workers=workers, cache_dir=str(tmp_path / "features"))
    summary = run_sft(trainee(tiny), [*rows, broken], config)
    assert summary["skipped"] == 1 and log_of(tmp_path / "run")[0]["skipped"] == 1
    said = capsys.readouterr()
    assert "clip clip-17: The file does not exist" in said.out + said.err
    run_sft(trainee(tiny), rows, config_for(tmp_path / "without", cache_dir=str(tmp_path / "features")))
    assert losses(tmp_path / "run") == losses(tmp_path / "without")


def test_what_failed_when_the_clips_were_encoded_is_passed_over_though_it_could_be_decoded_later(
    tiny, rows, tmp_path, monkeypatch
):
    """Clips with kept features and others cannot stand in one batch."""
    decode, failed = media.decode_here, []

    def slow_once(clip, settings):
        if clip.id == rows[0].clip.id and not failed:
            failed.append(clip.id)
            raise media.MediaError("missing", clip.id)
        return decode(clip, settings)

    monkeypatch.setattr(media, "decode_here", slow_once)
    cache = MediaCache(tiny, tmp_path)
    clips = [row.clip for row in rows]
    cache.fill(clips, workers=0)
    with pytest.raises(media.MediaError, match=f"clip {rows[0].clip.id}: The file does not exist"):
        cache.load(clips[0])
    cache.fill(clips, workers=0)  # the next start tries again
    assert "video_features" in cache.load(clips[0])


def test_clips_skipped_and_time_spent_are_those_of_the_whole_run(tiny, rows, tmp_path):
    broken = Row(Clip(str(tmp_path / "absent.mp4")), "en", "x")
    config = config_for(tmp_path, max_steps=6, batch_size=4, save_every=2)
    with pytest.raises(Killed):
        run_sft(trainee(tiny), Counted([*rows, broken], kill_at=4 * 5), config)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)["so_far"]
    assert saved["skipped"] == 4 and saved["seen"] == 4 * 4 and saved["seconds"] > 0
    ended = run_sft(trainee(tiny), [*rows, broken], config)
    assert ended["skipped"] == 6 and ended["seconds"] >= round(saved["seconds"], 1)
    again = run_sft(trainee(tiny), [*rows, broken], config)
    assert (again["skipped"], again["log"]) == (6, ended["log"])
    assert again["seconds"] == pytest.approx(ended["seconds"], abs=0.11)
    assert [line["step"] for line in again["log"]] == [1, 2, 3, 4, 5]


def test_a_killed_run_leaves_its_configuration(tiny, rows, tmp_path):
    with pytest.raises(Killed):
        run_sft(trainee(tiny), Counted(rows, kill_at=0), config_for(tmp_path))
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert record["config"]["output_dir"] == str(tmp_path) and record["processes"] == 1
    assert record["engine"] == "one process" and record["device"] == "cpu" and len(record["data"]) == 64


def test_the_state_of_another_engine_is_not_passed_over(tiny, rows, tmp_path):
    """Starting from step 0 would also empty the log."""
    (tmp_path / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"state.json was written with DeepSpeed or FSDP; go on with them, or name"):
        run_sft(trainee(tiny), rows, config_for(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"tuning": "qlora"}, "FSDP cannot split 4-bit weights"), ({"eval_clips": 4}, "give eval_clips 0")],
)
def test_what_split_weights_cannot_do_is_refused_with_its_reason(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(processes, "is_split", lambda accelerator: True)
    monkeypatch.setattr(processes, "engine_name", lambda accelerator: "FSDP")
    with pytest.raises(ValueError, match=message):
        processes.build_accelerator(config_for(tmp_path, **changes))


def test_a_compiler_s_lock_that_a_killed_process_left_is_removed_and_a_young_one_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    old, young = tmp_path / "cpu" / "comm" / "lock", tmp_path / "fused" / "lock"
    for lock in (old, young):
        lock.parent.mkdir(parents=True)
        lock.touch()
    os.utime(old, (0, old.stat().st_mtime - processes.LEFT_LOCK_S - 60))
    processes.remove_left_locks()
    assert not old.exists() and young.exists()
    said = capsys.readouterr().err
    assert f"removed {old}" in said and f"may wait for {young}" in said


def test_processes_that_were_not_joined_do_not_train_each_for_itself(tmp_path, monkeypatch):
    """As where srun starts them on GPUs without saying which is which."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(ValueError, match="2 processes of this run were not joined.* torchrun"):
        processes.build_accelerator(config_for(tmp_path, cpu=False))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such thing as a process's own cores here")
def test_the_cores_that_a_scheduler_gave_are_counted_and_not_the_machine_s():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert processes.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert processes.usable_cores() == len(before)


def test_no_rows_and_a_number_of_steps_below_zero_are_refused(tiny, tmp_path):
    with pytest.raises(DataError, match="has no rows"):
        run_sft(trainee(tiny), [], config_for(tmp_path))
    with pytest.raises(ValueError, match="max_steps is -1; it must be at least 0"):
        config_for(tmp_path, max_steps=-1)
    with pytest.raises(ValueError, match="epochs is nan"):
        config_for(tmp_path, max_steps=0, epochs=float("nan"))
    with pytest.raises(ValueError, match="token_noise is 1; it must be from 0 to below 1"):
        config_for(tmp_path, token_noise=1)
    with pytest.raises(ValueError, match="reasoning_weight is 0; it must be above 0"):
        config_for(tmp_path, reasoning_weight=0)


def test_a_step_without_a_usable_clip_changes_nothing(tiny, tmp_path):
    broken = [Row(Clip(str(tmp_path / f"absent{number}.mp4")), "en", "x") for number in range(3)]
    checkpoint = trainee(tiny)
    assert run_sft(checkpoint, broken, config_for(tmp_path))["skipped"] == 3
    assert torch.equal(checkpoint.model.lm_head.weight, tiny.model.lm_head.weight)
    assert log_of(tmp_path) == []


def test_a_run_stops_where_more_of_its_clips_are_unusable_than_is_allowed(tiny, rows, tmp_path):
    broken = [Row(Clip(str(tmp_path / f"absent{number}.mp4")), "en", "x") for number in range(22)]
    mixed = [*broken, rows[0], rows[1]]  # 92 % of them
    course = dict(max_steps=1, batch_size=24, micro_batch_size=2)
    with pytest.raises(DataError, match=r"22 of 24 clips, .*max_skipped_share 0\.9; mend them, or raise it"):
        run_sft(trainee(tiny), mixed, config_for(tmp_path / "few", max_skipped_share=0.9, **course))
    allowed = run_sft(trainee(tiny), mixed, config_for(tmp_path / "many", max_skipped_share=0.95, **course))
    assert allowed["skipped"] == 22
    twenty = run_sft(trainee(tiny), [*broken[:20], *rows[:2]], config_for(tmp_path / "twenty", max_skipped_share=0.0,
                                                                         **(course | {"batch_size": 22})))  # fmt: skip
    assert twenty["skipped"] == 20, "as few say nothing"


# --- the script -------------------------------------------------------------------------------------------------------


def script(monkeypatch, *options: str):
    monkeypatch.setattr(sys, "argv", ["train/sft.py", *map(str, options)])
    runpy.run_path(str(ROOT / "train" / "sft.py"), run_name="__main__")


def test_the_script_trains_and_saves(tiny, tiny_folder, clips_folder, tmp_path, monkeypatch, capsys, own_cache):
    out = tmp_path / "out"
    script(
        monkeypatch, "--model", tiny_folder, "--data", clips_folder, "--split", "train", "--output_dir", out,
        "--max_steps", 1, "--batch_size", 2, "--bf16", "false", "--cpu", "true", "--workers", 0,
        "--cache_dir", "none", "--title", "Trained",
    )  # fmt: skip
    assert str(out / "checkpoint") in capsys.readouterr().out
    trained = load_checkpoint(out / "checkpoint", device="cpu")
    assert trained.settings.media == tiny.settings.media
    assert trained.settings.about["title"] == "Trained" and trained.settings.max_new_tokens == 400
    assert not torch.equal(trained.model.lm_head.weight, tiny.model.lm_head.weight)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["config"]["batch_size"] == 2 and record["config"]["prompt"] == "mini" and record["rows"] == 12
    assert record["settings"]["prompt_version"] == "mini v1" and record["steps"] == 1


def test_the_script_answers_a_fixed_sample_while_it_trains(tiny_folder, clips_folder, tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for split in ("train", "validation"):
        (data / split).symlink_to(clips_folder / "train")
    options = ["--model", tiny_folder, "--output_dir", out, "--max_steps", 2, "--batch_size", 2, "--bf16", "false",
               "--cpu", "true", "--workers", 0, "--cache_dir", "none", "--eval_clips", 3,
               "--split", "train"]  # fmt: skip
    script(monkeypatch, "--data", data, *options)
    found = json.loads((out / "evaluations.jsonl").read_text(encoding="utf-8"))
    assert found["step"] == 1 and {"scene", "face", "emotion", "well_formed"} <= found["scores"].keys()
    assert all(0 <= value <= 1 for value in found["scores"].values())
    assert len(found["samples"]) == 3 and found["samples"][0]["due"].startswith("<scene>")
    with pytest.raises(SystemExit, match="holds no clips.parquet"):
        script(monkeypatch, "--data", clips_folder, *options[:3], tmp_path / "other", *options[4:])


def test_the_script_ends_with_the_reason_where_the_data_is_missing(tiny_folder, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="train/sft.py: data folder .* render one: python -m saber studio"):
        script(monkeypatch, "--model", tiny_folder, "--data", tmp_path / "absent", "--cpu", "true")


def test_the_script_ends_with_the_reason_where_the_model_is_missing(monkeypatch):
    with pytest.raises(SystemExit, match=r"train/sft.py: model '\./absent' is neither"):
        script(monkeypatch, "--model", "./absent")


def test_the_scripts_help_lists_every_field(monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        script(monkeypatch, "--help")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(f"--{name}" in said for name in SFTConfig.__dataclass_fields__)
    assert "mini-sed.yaml" in "".join(said.split())  # lines are broken at hyphens too


def test_the_script_runs_from_the_root_and_refuses_an_unknown_key():
    command = [sys.executable, "train/sft.py", "--learning_rates", "1e-3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "unknown option 'learning_rates'; the nearest valid one is 'learning_rate'" in done.stderr
    assert "Traceback" not in done.stderr


# --- what a run tells -------------------------------------------------------------------------------------------------


def test_a_run_tells_its_speed_its_waiting_and_its_scores_and_draws_them(tiny, rows, tmp_path):
    asked = []

    def evaluate(checkpoint):
        asked.append(len(log_of(tmp_path)))
        return {"scores": {"face": 0.25 * len(asked)}, "samples": [{"id": "a", "answer": "<face>笑</face>"}]}

    config = config_for(tmp_path, max_steps=5, eval_every=2, report_to="tensorboard")
    run_sft(trainee(tiny), rows, config, evaluate=evaluate)
    assert asked == [2, 4, 5], "after every second step and after the last"
    line = log_of(tmp_path)[-1]
    assert line["clips_per_s"] > 0 and line["tokens_per_s"] > line["clips_per_s"]
    assert 0 <= line["waiting_share"] <= 1 and line["peak_memory_gib"] > 0.1
    found = [json.loads(text) for text in (tmp_path / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(one["step"], one["scores"]["face"]) for one in found] == [(1, 0.25), (3, 0.5), (4, 0.75)]
    assert found[0]["samples"][0]["answer"] == "<face>笑</face>"
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "saber-sft").glob("events.out.tfevents.*"))


def test_a_full_disk_at_a_checkpoint_leaves_the_one_before_it(tiny, rows, tmp_path):
    import resource
    import signal

    config = config_for(tmp_path, max_steps=4, save_every=2)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    class Filling(list):
        """The disk is full from step 2 on: no file can grow past what a log needs."""

        reads = 0

        def __getitem__(self, index):
            Filling.reads += 1
            if Filling.reads > 2 * 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
            return super().__getitem__(index)

    try:
        with pytest.raises(OSError, match=r"the state of step 4 cannot be written to .* the one before it is whole"):
            run_sft(trainee(tiny), Filling(rows), config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2 and not list(tmp_path.glob("*.part"))
    run_sft(trainee(tiny), rows, config)
    run_sft(trainee(tiny), rows, config_for(tmp_path / "whole", max_steps=4))
    assert losses(tmp_path) == losses(tmp_path / "whole")


def test_an_old_sharded_state_that_cannot_be_removed_does_not_cost_the_new_one(tmp_path):
    """After the new state is named a failure would have it taken for a half-written one, and deleted."""
    state = object.__new__(State)
    state.accelerator, state.pointer = SimpleNamespace(is_main_process=True), tmp_path / "state.json"
    state.course, state.folder = {}, tmp_path
    (tmp_path / "state-1").write_text("no folder, so it cannot be removed as one")
    (tmp_path / "state-2").mkdir()
    state._point_at(2, tmp_path / "state-2", {})
    assert json.loads(state.pointer.read_text())["folder"] == "state-2" and (tmp_path / "state-2").is_dir()
