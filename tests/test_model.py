"""saber.model: media and text become the processor's own inputs, and answers are the same by every way."""

from __future__ import annotations

import itertools
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

import saber.model.engine
from saber import media
from saber.media import MediaError, MediaSettings
from saber.model import (
    EMBEDDED,
    MEDIA_TOKENS,
    SETTINGS_FILE,
    Done,
    Engine,
    ModelError,
    Seen,
    Settings,
    answer_batch,
    embed,
    encode_media,
    load,
    load_checkpoint,
    prompt_positions,
    resolve,
    scored_answer_batch,
    section_scores,
)
from saber.schema import Clip
from saber.sections import Event

LIMIT = 12
KINDS = ("", "no_sound", "no_picture")


def of_kind(clips, kind: str, number: int = 0) -> Clip:
    """``kind``: "" has both tracks, else what it lacks."""
    return [clip for clip in clips if clip.metadata["incomplete"] == kind][number]


def decoded(checkpoint, clip: Clip, tracks: str = "both") -> media.Decoded:
    return media.decode_here(clip, checkpoint.settings.media, tracks=tracks)


def with_media(checkpoint, **changes):
    """The same weights with other media settings."""
    settings = checkpoint.settings
    return replace(checkpoint, settings=replace(settings, media=replace(settings.media, **changes)))


@pytest.fixture(scope="module")
def engine(tiny):
    return Engine(tiny)


# --- a clip becomes model inputs --------------------------------------------------------------------------------------


def whole_chat(checkpoint, found: media.Decoded, text: str):
    """The processor's one call on the chat as text and the decoded arrays."""
    together = found.frames is not None and found.audio is not None and checkpoint.settings.media.audio_in_video
    content = [{"type": "video"}] if found.frames is not None else []
    content += [{"type": "audio"}] if found.audio is not None and not together else []
    chat = checkpoint.processor.apply_chat_template(
        [{"role": "user", "content": [*content, {"type": "text", "text": text}]}], add_generation_prompt=True
    )
    arguments = {}
    if found.frames is not None:
        area = {"shortest_edge": 112 * 112, "longest_edge": 112 * 112}
        arguments["videos"] = [found.frames]
        arguments["videos_kwargs"] = {
            "size": area, "fps": 4.0, "cap_pixels_per_frame": True, "do_sample_frames": False,
        }  # fmt: skip
    if found.audio is not None:
        arguments["audio"] = [found.audio]
    if together:
        arguments |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    return checkpoint.processor(text=[chat], return_tensors="pt", **arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("audio_in_video", [True, False])
def test_prepare_equals_the_processors_own_call_on_the_whole_chat(tiny, clips, kind, audio_in_video):
    checkpoint = with_media(tiny, audio_in_video=audio_in_video)
    found = decoded(checkpoint, of_kind(clips, kind))
    inputs = checkpoint.prepare(found, "zh")
    expected = whole_chat(checkpoint, found, checkpoint.settings.prompts["zh"])
    assert set(inputs) - {"use_audio_in_video"} == set(expected)
    for name, value in expected.items():
        value = torch.as_tensor(value)
        if name in ("input_features", "feature_attention_mask"):  # ours are padded to what there is, not to 30 s
            length = inputs[name].shape[-1]
            assert length < value.shape[-1] and int(expected["feature_attention_mask"][:, length:].sum()) == 0
            value = value[..., :length]
            if name == "input_features":
                heard = int(expected["feature_attention_mask"].sum())
                assert torch.equal(inputs[name][..., :heard], value[..., :heard])
                continue
        assert torch.equal(torch.as_tensor(inputs[name]), value), name
    assert inputs["use_audio_in_video"] == (audio_in_video and kind == "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_holds_the_tokens_that_its_media_cost(tiny, clips, kind):
    found = decoded(tiny, of_kind(clips, kind))
    ids = tiny.prepare(found)["input_ids"]
    config = tiny.model.config
    video_tokens = 0 if kind == "no_picture" else (len(found.frames) + 1) // 2 * (112 // 28) ** 2
    audio_tokens = 0 if kind == "no_sound" else len(found.audio) / 16000 * 25
    assert int((ids == config.video_token_id).sum()) == video_tokens
    assert int((ids == config.audio_token_id).sum()) == pytest.approx(audio_tokens, abs=1)


def test_the_language_chooses_the_prompt_and_none_means_the_clips(tiny, clips):
    found = decoded(tiny, of_kind(clips, ""))
    decode = tiny.processor.tokenizer.decode
    for language, key in (("en", "en"), ("zh", "zh"), (None, "clip")):
        assert tiny.settings.prompts[key] + "<|im_end|>" in decode(tiny.prepare(found, language)["input_ids"][0])


# --- a checkpoint on disk ---------------------------------------------------------------------------------------------


def test_a_saved_checkpoint_loads_with_equal_tensors_and_settings(tiny, tiny_folder, tmp_path):
    tiny.save(tmp_path / "again")
    again = load_checkpoint(tmp_path / "again", device="cpu")
    before, after = tiny.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.settings == tiny.settings
    assert again.settings.media.fps == 4.0 and again.settings.about["title"] == "Tiny"
    assert again.processor.tokenizer.get_vocab() == tiny.processor.tokenizer.get_vocab()
    parameters = sum(parameter.numel() for parameter in tiny.model.parameters())
    assert (tmp_path / "again" / "model.safetensors").stat().st_size < 3 * parameters, "16 bit"
    assert next(tiny.model.parameters()).dtype == torch.float32, "saving left the model as it was"
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == "float16"
    with safe_open(tmp_path / "again" / "model.safetensors", "pt") as stored:
        assert "lm_head.weight" not in stored.keys(), "tied to the embeddings, kept once"
        assert sum(stored.get_tensor(name).numel() for name in stored.keys()) <= parameters


def test_saving_into_a_folder_leaves_its_other_files(tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    tiny.save(tmp_path)
    tiny.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.parent.glob("*.part"))
    load_checkpoint(tmp_path, device="cpu")


@pytest.mark.parametrize("name", [name for name, folder in EMBEDDED.items() if folder.exists()])
def test_an_embedded_checkpoint_is_small_and_speaks_both_languages(name):
    checkpoint = load_checkpoint(name, device="cpu")
    assert sum(parameter.numel() for parameter in checkpoint.model.parameters()) <= 7_000_000
    folder = EMBEDDED[name]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 15_000_000
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    encode, decode = checkpoint.processor.tokenizer.encode, checkpoint.processor.tokenizer.decode
    for text in ("<scene>A kitchen.</scene>", "<scene>这里是厨房。</scene>"):
        assert decode(encode(text)) == text and len(encode(text)) < len(text) + 5


def test_settings_are_the_same_after_json_and_back():
    settings = Settings.build("sed", media=MediaSettings(fps=3.0), max_new_tokens=7, about={"title": "x"})
    assert Settings.from_json(settings.to_json()) == settings
    assert settings.prompt_version == "sed v1" and set(settings.prompts) == {"en", "zh", "clip"}


def test_a_checkpoint_of_another_origin_gets_the_published_limits(tiny, tmp_path):
    tiny.save(tmp_path)
    (tmp_path / SETTINGS_FILE).unlink()
    settings = load_checkpoint(tmp_path, device="cpu").settings
    assert settings.media.max_frames == 40 and settings.max_new_tokens == 4096
    assert settings.prompt_version.startswith("sed ")


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "saber-minni", "a/b/c"])
def test_an_unknown_model_is_named_with_the_next_step(name):
    with pytest.raises(ModelError, match=f"'{name}' is neither a folder nor a Hub id .*saber-mini"):
        load(name)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ModelError, match=f"{tmp_path.name}' holds no config.json; it is no checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "file, spoil",
    [
        ("model.safetensors", lambda data: data[: len(data) // 2]),
        ("model.safetensors", lambda data: b"version https://git-lfs.github.com/spec/v1"),
        ("config.json", lambda data: data.replace(b'"hidden_size": 64', b'"hidden_size": 128')),
        ("saber.json", lambda data: b"{}"),
        ("saber.json", lambda data: data.replace(b'"fps"', b'"fsp"')),
    ],
)
def test_a_spoilt_checkpoint_is_named(tiny, tmp_path, file, spoil):
    tiny.save(tmp_path)
    data = (tmp_path / file).read_bytes()
    assert spoil(data) != data
    (tmp_path / file).write_bytes(spoil(data))
    with pytest.raises(ModelError, match=f"{tmp_path.name}.* cannot be (loaded|read) .*; get it again"):
        load_checkpoint(tmp_path)


def test_a_folder_wins_over_an_embedded_name(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saber-mini").symlink_to(tiny_folder)
    assert resolve("saber-mini") == "saber-mini"
    assert load("saber-mini").about["title"] == "Tiny"


# --- features, embeddings, positions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("audio_in_video", [True, False])
def test_the_parts_give_the_hidden_states_of_the_models_own_forward(tiny, clips, kind, audio_in_video):
    checkpoint = with_media(tiny, audio_in_video=audio_in_video)
    inputs = checkpoint.prepare(decoded(checkpoint, of_kind(clips, kind)))
    model = checkpoint.model
    with torch.inference_mode():
        expected = model.model(**inputs).last_hidden_state
        embeddings = embed(model, inputs["input_ids"], encode_media(model, inputs))
        positions = prompt_positions(model, inputs)
        got = model.model.language_model(inputs_embeds=embeddings, position_ids=positions[:, None]).last_hidden_state
    assert positions.shape == (3, inputs["input_ids"].shape[1])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_features_stand_in_the_places_of_their_placeholders(tiny, clips):
    inputs = tiny.prepare(decoded(tiny, of_kind(clips, "")))
    ids, config = inputs["input_ids"], tiny.model.config
    features = {
        kind: torch.randn(int((ids == token).sum()), config.text_config.hidden_size)
        for kind, token in (("video", config.video_token_id), ("audio", config.audio_token_id))
    }
    embedded = embed(tiny.model, ids, features)[0]
    assert torch.equal(embedded[ids[0] == config.video_token_id], features["video"])
    assert torch.equal(embedded[ids[0] == config.audio_token_id], features["audio"])


# --- answers ----------------------------------------------------------------------------------------------------------


def tokens_of(engine: Engine, inputs, limit: int = LIMIT) -> list[int]:
    return [token for token, _, _ in engine._generate(inputs, limit)]


def test_a_batch_of_mixed_clips_is_answered_as_each_alone(tiny, clips, engine):
    chosen = [of_kind(clips, kind, number) for number in range(2) for kind in KINDS]
    batch = [tiny.prepare(decoded(tiny, clip)) for clip in chosen]
    together = answer_batch(tiny, batch, LIMIT)
    assert together == [tokens_of(engine, inputs) for inputs in batch]
    assert len({tuple(answer) for answer in together}) == len(chosen), "answers that are all alike would show little"


def test_answers_of_a_batch_end_where_each_ends_alone(tiny, clips, engine, monkeypatch):
    batch = [tiny.prepare(decoded(tiny, of_kind(clips, kind))) for kind in KINDS]
    endless = answer_batch(tiny, batch, LIMIT)
    # A token from the middle of the first answer becomes an end token; so does the very first of the last.
    ends = [tiny.processor.tokenizer.eos_token_id, endless[0][5], endless[2][0]]
    monkeypatch.setattr(tiny.model.generation_config, "eos_token_id", ends)
    together = answer_batch(tiny, batch, LIMIT)
    assert together == [tokens_of(engine, inputs) for inputs in batch]
    assert len(together[0]) <= 5 and together[2] == []
    assert not {token for answer in together for token in answer} & set(ends)


def test_a_stream_begins_with_what_is_seen_and_ends_with_the_prediction(engine, clips):
    clip = of_kind(clips, "")
    events = list(engine.stream(clip, "en", max_new_tokens=LIMIT))
    seen, done = events[0], events[-1]
    assert isinstance(seen, Seen) and isinstance(done, Done)
    said = events[1:-1]
    assert said and all(isinstance(event, Event) for event in said)
    prediction = done.prediction
    assert prediction.raw and "".join(event.raw for event in said) == prediction.raw
    assert (prediction.clip, prediction.language, prediction.tracks) == (clip.id, "en", "both")
    assert prediction.usage["frames"] == seen.frames and prediction.usage["prompt_tokens"] == seen.prompt_tokens
    assert seen.video_s == pytest.approx(clip.metadata["duration_s"], abs=0.1)


@contextmanager
def saying(checkpoint, tokens: dict[int, str]):
    """Makes the model choose these tokens, by the number of the forward pass (from 1)."""

    def push(module, given, logits):
        text = tokens.get(next(number))
        if text is None:
            return logits
        wanted = torch.zeros(logits.shape[-1])
        wanted[checkpoint.processor.tokenizer.convert_tokens_to_ids(text)] = 1000.0
        return logits + wanted

    number = itertools.count(1)
    handle = checkpoint.model.lm_head.register_forward_hook(push)
    try:
        yield
    finally:
        handle.remove()


def test_an_end_token_ends_the_answer_and_is_no_part_of_it(tiny, engine, clips):
    with saying(tiny, {4: "<|im_end|>"}):
        prediction = engine.analyze(of_kind(clips, ""), max_new_tokens=LIMIT)
    assert prediction.usage["answer_tokens"] == 3
    assert prediction.raw and "<|" not in prediction.raw
    assert "answer_cut_off" not in prediction.notes


def test_text_that_may_become_a_tag_still_arrives_when_the_answer_ends(tiny, engine, clips):
    with saying(tiny, {LIMIT: "<"}):
        *said, done = engine.stream(of_kind(clips, ""), max_new_tokens=LIMIT)
    assert done.prediction.raw.endswith("<")
    assert "".join(event.raw for event in said[1:]) == done.prediction.raw


@pytest.mark.parametrize("kind", KINDS)
def test_a_streamed_answer_is_the_text_of_its_tokens(tiny, engine, clips, kind):
    clip = of_kind(clips, kind)
    ids = tokens_of(engine, tiny.prepare(decoded(tiny, clip)))
    prediction = engine.analyze(clip, max_new_tokens=LIMIT)
    text = tiny.processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert text.startswith(prediction.raw)
    assert not text[len(prediction.raw) :].strip("\ufffd"), "only a character cut in half may be missing at the end"
    assert prediction.usage["answer_tokens"] == len(ids)
    assert (kind in prediction.notes) == (kind != "")
    assert ("answer_cut_off" in prediction.notes) == (len(ids) == LIMIT)


def test_the_answers_bound_is_the_checkpoints_unless_it_is_given(tiny, engine, clips):
    lengths = [engine.analyze(clip).usage["answer_tokens"] for clip in clips[:3]]
    assert max(lengths) == tiny.settings.max_new_tokens
    assert engine.analyze(clips[0], max_new_tokens=2).usage["answer_tokens"] == 2


def test_media_settings_come_from_the_checkpoint(tiny, engine, clips):
    clip = of_kind(clips, "")
    assert next(engine.stream(clip)).frames == np.ceil(clip.metadata["duration_s"] * 4)
    slow = Engine(with_media(tiny, fps=2.0, min_pixels=None, max_pixels=56 * 56))
    seen = next(slow.stream(clip))
    assert seen.frames == np.ceil(clip.metadata["duration_s"] * 2)
    assert seen.video_tokens == (seen.frames + 1) // 2 * 4


def test_the_choice_of_tracks_decides_what_the_model_is_given(engine, clips):
    clip = of_kind(clips, "")
    seen = {tracks: next(engine.stream(clip, tracks=tracks)) for tracks in ("both", "picture", "sound")}
    given = {tracks: (facts.video_tokens > 0, facts.audio_tokens > 0) for tracks, facts in seen.items()}
    assert given == {"both": (True, True), "picture": (True, False), "sound": (False, True)}
    assert seen["picture"].audio_s == 0 and seen["sound"].frames == 0
    answers = {tracks: engine.analyze(clip, tracks=tracks, max_new_tokens=LIMIT).raw for tracks in seen}
    assert len(set(answers.values())) == 3


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tracks", ["both", "picture", "sound"])
def test_a_decoded_clip_without_a_track_is_answered_as_if_it_had_been_decoded_so(engine, clips, kind, tracks):
    clip = of_kind(clips, kind)
    whole = engine.decode(clip)
    if kind == {"picture": "no_picture", "sound": "no_sound"}.get(tracks):
        with pytest.raises(MediaError, match=f"clip {clip.id}: Only the {tracks} was asked for"):
            whole.only(tracks, clip.id)
        return
    expected = engine.analyze(clip, tracks=tracks, max_new_tokens=LIMIT)
    part = whole.only(tracks, clip.id)
    found = list(engine.answer(part, clip.id, None, tracks, LIMIT))[-1].prediction
    assert (found.raw, found.clip, found.notes) == (expected.raw, expected.clip, expected.notes)
    for name in ("frames", "video_s", "audio_s", "prompt_tokens", "answer_tokens"):
        assert found.usage[name] == expected.usage[name]


def test_how_sure_a_stream_is_equals_what_a_batch_says(tiny, engine, clips, monkeypatch):
    # So small a model writes no tags: all that it says is read as reasoning.
    for clip in clips[:3]:
        inputs = tiny.prepare(decoded(tiny, clip))
        [scored] = scored_answer_batch(tiny, [inputs], LIMIT)
        streamed = [(token, score) for token, _, score in engine._generate(inputs, LIMIT)]
        assert [token for token, _ in streamed] == [token for token, _ in scored]
        np.testing.assert_allclose([s for _, s in streamed], [s for _, s in scored], atol=1e-4)
        assert max(score for _, score in streamed) < 0
        told = engine.analyze(clip, max_new_tokens=LIMIT).log_probabilities
        expected = section_scores(tiny.processor.tokenizer, scored)
        assert told.keys() == expected.keys()
        for section, values in told.items():
            assert values == pytest.approx(expected[section], abs=1e-4)


def test_a_clip_that_cannot_be_used_raises_a_media_error(engine, clips, tmp_path):
    (tmp_path / "text.mp4").write_text("not a film")
    for path in ("absent.mp4", "text.mp4"):
        with pytest.raises(MediaError, match=path):
            engine.analyze(Clip(str(tmp_path / path)))
    with pytest.raises(MediaError, match="sound"):
        engine.analyze(of_kind(clips, "no_sound"), tracks="sound")


def test_an_unknown_language_is_refused_before_anything_is_decoded(engine):
    with pytest.raises(ModelError, match="language is 'fr'"):
        engine.analyze(Clip("absent.mp4"), language="fr")


def answering_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "saber-generate"]


def test_what_goes_wrong_in_the_model_reaches_the_caller(tiny, clips):
    def fail(*_):
        if next(count) == 3:
            raise ZeroDivisionError("in the third forward pass")

    count = iter(range(1, 100))
    handle = tiny.model.lm_head.register_forward_hook(fail)
    engine = Engine(tiny)
    try:
        with pytest.raises(ZeroDivisionError, match="third"):
            engine.analyze(clips[0], max_new_tokens=LIMIT)
    finally:
        handle.remove()
    assert not answering_threads()
    assert engine.analyze(clips[0], max_new_tokens=2).raw is not None, "the engine answers the next clip"


def test_closing_a_stream_stops_the_model_within_a_token_or_two(tiny, clips, monkeypatch):
    flags, passes, reached, last = [], [], threading.Event(), 40

    class Stop(saber.model.engine._Stop):
        def __init__(self, flag):
            super().__init__(flag)
            flags.append(flag)

    def wait_at_the_last(*_):
        passes.append(1)
        if len(passes) == last:  # in the middle of a token when the reader goes away
            reached.set()
            flags[0].wait(60)

    monkeypatch.setattr(saber.model.engine, "_Stop", Stop)
    handle = tiny.model.lm_head.register_forward_hook(wait_at_the_last)
    try:
        stream = Engine(tiny).stream(of_kind(clips, ""), max_new_tokens=500)
        assert isinstance(next(stream), Seen) and isinstance(next(stream), Event)
        assert reached.wait(60)
        stream.close()
    finally:
        handle.remove()
    assert not answering_threads()
    assert last <= len(passes) <= last + 2


def test_two_streams_at_once_both_give_their_own_answer(tiny, engine, clips):
    chosen = [of_kind(clips, ""), of_kind(clips, "no_picture")]
    alone = [engine.analyze(clip, max_new_tokens=60).raw for clip in chosen]
    assert alone[0] != alone[1]
    both, ready, passes = [None, None], threading.Barrier(2), []

    def note(*_):
        passes.append(threading.current_thread())
        time.sleep(0.005)  # so that the other thread could come between

    streams = [engine.stream(clip, max_new_tokens=60) for clip in chosen]
    for stream in streams:
        next(stream)  # decoding is over

    def answer(number: int) -> None:
        ready.wait()
        both[number] = list(streams[number])[-1].prediction.raw

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(2)]
    handle = tiny.model.lm_head.register_forward_hook(note)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        handle.remove()
    assert both == alone
    assert len(list(itertools.groupby(passes))) == 2, "the model writes one answer at a time"


@pytest.mark.parametrize("way", ["stream", "batch"])
def test_media_placeholders_are_never_generated(tiny, clips, way):
    tokenizer = tiny.processor.tokenizer
    placeholders = [tokenizer.convert_tokens_to_ids(token) for token in MEDIA_TOKENS.values()]
    wanted = torch.zeros(len(tokenizer))
    wanted[placeholders] = 1000.0
    inputs = tiny.prepare(decoded(tiny, of_kind(clips, "")))
    plain = answer_batch(tiny, [inputs], 4)[0]
    handle = tiny.model.lm_head.register_forward_hook(lambda module, given, logits: logits + wanted)
    try:
        ids = tokens_of(Engine(tiny), inputs, 4) if way == "stream" else answer_batch(tiny, [inputs], 4)[0]
    finally:
        handle.remove()
    assert ids == plain
