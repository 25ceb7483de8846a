"""saber.runner: many clips are answered as each alone, in order, once, whatever interrupts them; failures are rows."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saber import media, runner
from saber.__main__ import main
from saber.model import Engine, NoRoom, memory
from saber.runner import LocalAnswers, Request, RequestError, ServedAnswers, decode, read_requests, run
from saber.schema import Clip

ROOT = Path(__file__).parent.parent


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture
def requests(clips) -> list[Request]:
    return [Request(clip, "en") for clip in clips[:7]]


@pytest.fixture
def local(tiny) -> LocalAnswers:
    return LocalAnswers(tiny, workers=0, limit=12)


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_a_folder_is_its_media_files_by_name(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/two.MP4", "a.wav", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = [(one.clip.id, one.language, one.tracks) for one in read_requests(tmp_path, "zh", "sound")]
    assert found == [("a.wav", "zh", "sound"), ("b/two.MP4", "zh", "sound")]
    with pytest.raises(RequestError, match="holds no media file"):
        read_requests(tmp_path / "b" / "c")


def test_lines_are_those_of_the_published_script(tmp_path):
    lines = [
        {"messages": [{"role": "user", "content": "<video><audio>请描述。"}], "audios": ["a.wav"], "videos": ["a.mp4"]},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [{"text": "Say."}]}],
         "videos": ["/data/b.mp4"], "id": "b", "language": "en", "start": 1.5, "end": 4},
        {"audios": ["c.wav"]},
    ]  # fmt: skip
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    first, second, third = read_requests(file, "zh")
    assert first == Request(
        Clip(str(tmp_path / "a.mp4"), id="line-1"), "zh", "both", str(tmp_path / "a.wav"), "请描述。"
    )
    assert second == Request(Clip("/data/b.mp4", 1.5, 4, id="b"), "en", prompt="Say.")
    assert third == Request(Clip(str(tmp_path / "c.wav"), id="line-3"), "zh")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is no JSON"),
        ("[]", "line 1: the line is .*an object"),
        ("{}", "line 1: videos is None; it must be a list of one path"),
        ('{"videos": "a.mp4"}', "line 1: videos is 'a.mp4'; it must be a list"),
        ('{"videos": ["a.mp4", "b.mp4"]}', "at most one path"),
        ('{"videos": ["a.mp4"], "messages": "Say."}', "line 1: messages is 'Say.'"),
        ('{"videos": ["a.mp4"], "language": "de"}', "line 1: language is 'de'"),
        ('{"videos": ["a.mp4"], "start": 4, "end": 2}', "line 1: clip line-1: end_s 2 is not after"),
        ('{"videos": ["a.mp4"], "id": "x"}\n{"videos": ["b.mp4"], "id": "x"}', "two lines are called 'x'"),
        ("", "holds no line"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, message):
    (tmp_path / "in.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(RequestError, match=message):
        read_requests(tmp_path / "in.jsonl")


def test_the_sound_of_another_file_takes_the_place_of_the_clips(tiny, clips):
    whole = [clip for clip in clips if not clip.metadata["incomplete"]]
    settings, limits = tiny.settings.media, media.Limits()
    found = decode(Request(whole[0], sound=whole[1].path), settings, limits)
    own, other = (media.decode_here(clip, settings) for clip in whole[:2])
    shared = min(len(found.audio), len(other.audio))
    assert np.array_equal(found.frames, own.frames) and shared > 8000
    assert np.array_equal(found.audio[:shared], other.audio[:shared]) and not found.notes


# --- what is answered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_many_are_answered_as_each_alone_in_their_order(tiny, requests, tmp_path, workers):
    counts = run(requests, LocalAnswers(tiny, workers, limit=12), tmp_path / "out.jsonl", batch_size=3)
    assert counts == {"answered": 7, "failed": 0, "kept": 0}
    rows, engine = rows_of(tmp_path / "out.jsonl"), Engine(tiny)
    assert [row["clip"] for row in rows] == [request.clip.id for request in requests]
    for row, request in zip(rows, requests, strict=True):
        alone = engine.analyze(request.clip, "en", max_new_tokens=12)
        assert row["prediction"]["raw"].rstrip("\ufffd") == alone.raw and row["prediction"]["notes"] == list(
            alone.notes
        )
        same = ("frames", "video_s", "audio_s", "prompt_tokens", "video_tokens", "audio_tokens", "answer_tokens")
        assert {name: row["prediction"]["usage"][name] for name in same} == {name: alone.usage[name] for name in same}
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"], "nothing is left beside it"


def test_a_clip_that_cannot_be_used_is_a_row_with_its_reason_and_is_tried_again(requests, local, tmp_path):
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    torn = Request(Clip(str(tmp_path / "torn.mp4"), id="torn"), "en")
    out = tmp_path / "out.jsonl"
    assert run([requests[0], torn, requests[1]], local, out) == {"answered": 2, "failed": 1, "kept": 0}
    assert rows_of(out)[1]["error"]["reason"] == "not_media" and "torn" in rows_of(out)[1]["error"]["message"]
    (tmp_path / "torn.mp4").write_bytes(Path(requests[2].clip.path).read_bytes())
    assert run([requests[0], torn, requests[1]], local, out) == {"answered": 1, "failed": 0, "kept": 2}
    assert "error" not in rows_of(out)[1]


# --- faults -----------------------------------------------------------------------------------------------------------

LACKING = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("alloc_cpu.cpp:117 DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError("Unable to allocate 9 GiB"),
]


class Model:
    """Takes the place of the model's call. ``sizes``: of the batches that it was asked; ``fails``: whether a batch of
    prompts, as text, raises ``error``."""

    def __init__(self, monkeypatch, tiny, fails, error: Exception) -> None:
        self.sizes, self.fails, self.error, self.whole = [], fails, error, runner.scored_answer_batch
        self.decode = tiny.processor.tokenizer.decode
        monkeypatch.setattr(runner, "scored_answer_batch", self)

    def __call__(self, checkpoint, batch, limit):
        self.sizes.append(len(batch))
        if self.fails([self.decode(inputs["input_ids"][0]) for inputs in batch]):
            raise self.error
        return self.whole(checkpoint, batch, limit)


def asks_for_more(prompts: list[str]) -> bool:
    return any("Much more." in prompt for prompt in prompts)


@pytest.mark.parametrize("error", LACKING, ids=lambda error: type(error).__name__)
def test_a_batch_that_lacks_memory_is_answered_in_halves(tiny, requests, local, tmp_path, monkeypatch, error):
    run(requests, local, tmp_path / "whole.jsonl")
    model = Model(monkeypatch, tiny, lambda prompts: len(prompts) > 2, error)
    assert run(requests, local, tmp_path / "out.jsonl", 4) == {"answered": 7, "failed": 0, "kept": 0}
    assert model.sizes == [4, 2, 2, 3, 1, 2]
    raws = [[row["prediction"]["raw"] for row in rows_of(tmp_path / name)] for name in ("out.jsonl", "whole.jsonl")]
    assert raws[0] == raws[1]


@pytest.mark.parametrize("error", [LACKING[0], LACKING[3], RuntimeError("shapes cannot be multiplied")])
def test_a_clip_that_fails_alone_is_a_row_and_the_run_goes_on(tiny, requests, local, tmp_path, monkeypatch, error):
    requests[3] = Request(requests[3].clip, "en", prompt="Much more.")
    Model(monkeypatch, tiny, asks_for_more, error)
    assert run(requests, local, tmp_path / "out.jsonl", 4) == {"answered": 6, "failed": 1, "kept": 0}
    rows = rows_of(tmp_path / "out.jsonl")
    assert ["error" in row for row in rows] == [at == 3 for at in range(7)]
    reason, message = rows[3]["error"]["reason"], rows[3]["error"]["message"]
    if error is LACKING[0] or error is LACKING[3]:
        assert reason == "no_room" and message.startswith(f"clip {requests[3].clip.id}: its ")
        assert " tokens and an answer of up to 12 need" in message and "give a shorter part of it" in message
    else:
        assert (reason, message) == ("RuntimeError", "shapes cannot be multiplied")


def test_a_fault_of_ours_in_decoding_or_preparing_one_clip_is_its_row(requests, local, tmp_path, monkeypatch):
    whole, prepare = runner.decode, local._prepare

    def decode_all_but_one(request, *settings):
        if request == requests[1]:
            raise RuntimeError("the media worker failed")
        return whole(request, *settings)

    def prepare_all_but_one(request, decoded):
        if request == requests[2]:
            raise IndexError("no such token")
        return prepare(request, decoded)

    monkeypatch.setattr(runner, "decode", decode_all_but_one)
    monkeypatch.setattr(local, "_prepare", prepare_all_but_one)
    assert run(requests, local, tmp_path / "out.jsonl")["failed"] == 2
    errors = [row.get("error", {}).get("reason") for row in rows_of(tmp_path / "out.jsonl")]
    assert errors == [None, "RuntimeError", "IndexError", None, None, None, None]


def test_a_batch_is_checked_for_room_as_it_runs_padded(tiny, requests, local, tmp_path, monkeypatch):
    model, checked = Model(monkeypatch, tiny, lambda prompts: False, RuntimeError()), []

    def check(name, config, dtype, device, tokens):
        checked.append(tokens)
        if tokens["answer"] > 2 * 12:
            raise NoRoom("too much")

    monkeypatch.setattr(runner, "check_clip", check)
    run(requests[:4], local, tmp_path / "out.jsonl")
    usages = [row["prediction"]["usage"] for row in rows_of(tmp_path / "out.jsonl")]
    assert model.sizes == [2, 2], "what does not fit is never tried"
    longest = {name: max(usage[f"{name}_tokens"] for usage in usages) for name in ("video", "audio", "prompt")}
    assert checked[0] == {
        "video": longest["video"], "sound": longest["audio"], "prompt": 4 * longest["prompt"], "answer": 4 * 12,
    }  # fmt: skip


def test_a_clip_without_room_is_refused_before_it_runs_and_no_number_of_them_ends_the_run(
    tiny, clips, local, tmp_path, monkeypatch
):
    model = Model(monkeypatch, tiny, lambda prompts: False, RuntimeError())
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100_000)
    assert run([Request(clip) for clip in clips], local, tmp_path / "out.jsonl")["failed"] == len(clips) >= 8
    assert not model.sizes
    for row, clip in zip(rows_of(tmp_path / "out.jsonl"), clips, strict=True):
        assert row["error"]["reason"] == "no_room"
        assert row["error"]["message"].startswith(f"clip {clip.id}: this clip takes ")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_where_nothing_works_the_run_ends_with_the_error(tiny, clips, local, tmp_path, monkeypatch, batch_size):
    model = Model(monkeypatch, tiny, lambda prompts: True, RuntimeError("no kernel"))
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    requests = [Request(Clip(str(tmp_path / "torn.mp4"), id="torn")), *(Request(clip) for clip in clips)]
    with pytest.raises(RuntimeError, match="no kernel"):
        run(requests, local, tmp_path / "out.jsonl", batch_size)
    assert model.sizes.count(1) == runner.SETUP_FAULTS
    assert not (tmp_path / "out.jsonl").exists()


def test_once_a_clip_has_been_answered_no_error_is_the_setups(tiny, clips, local, tmp_path, monkeypatch):
    requests = [Request(clip) for clip in clips]
    run(requests[:1], local, tmp_path / "out.jsonl")
    Model(monkeypatch, tiny, lambda prompts: True, RuntimeError("no kernel"))
    counts = run(requests, local, tmp_path / "out.jsonl")
    assert counts == {"answered": 0, "failed": len(clips) - 1, "kept": 1}


def test_a_fault_of_the_device_ends_the_run_at_once(tiny, requests, local, tmp_path, monkeypatch):
    model = Model(monkeypatch, tiny, asks_for_more, torch.AcceleratorError("CUDA error: device-side assert triggered"))
    requests[0] = Request(requests[0].clip, "en", prompt="Much more.")
    with pytest.raises(torch.AcceleratorError):
        run(requests, local, tmp_path / "out.jsonl")
    assert model.sizes == [7]


def test_what_a_failed_batch_held_is_let_go_before_it_is_tried_again(tiny, requests, local, monkeypatch):
    held = []

    class Large:
        """Stands for a tensor."""

    def fail(checkpoint, batch, limit):
        large = Large()
        assert not [one for one in held if one() is not None]
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(runner, "scored_answer_batch", fail)
    [answers] = local.stream([requests[:4]])
    assert len(held) == 7 and all(isinstance(one, NoRoom) for one in answers)


def test_the_callers_random_numbers_stay_as_they_were(requests, local):
    before = torch.get_rng_state()
    list(local.stream([requests[:2]]))
    assert torch.equal(torch.get_rng_state(), before)


class Broken:
    """Answers that end the run after some batches, as a kill would."""

    def __init__(self, answers: LocalAnswers, after: int) -> None:
        self.answers, self.asked, self.after, self.given = answers, answers.asked, after, []

    def stream(self, batches):
        for number, found in enumerate(self.answers.stream(batches)):
            if number == self.after:
                raise KeyboardInterrupt
            self.given += [one.clip for one in found]
            yield found


def test_a_run_that_is_killed_goes_on_and_answers_nothing_twice(requests, local, tmp_path):
    run(requests, local, tmp_path / "whole.jsonl", batch_size=2)
    out = tmp_path / "out.jsonl"
    first = Broken(local, after=2)
    with pytest.raises(KeyboardInterrupt):
        run(requests, first, out, batch_size=2)
    with (tmp_path / "out.jsonl.part-0").open("a", encoding="utf-8") as file:
        file.write('{"clip": "' + requests[6].clip.id)  # torn by the kill
    second = Broken(local, after=99)
    assert run(requests, second, out, batch_size=2) == {"answered": 3, "failed": 0, "kept": 4}
    assert not {*first.given} & {*second.given} and len({*first.given, *second.given}) == 7
    raws = [[row["prediction"]["raw"] for row in rows_of(path)] for path in (out, tmp_path / "whole.jsonl")]
    assert raws[0] == raws[1]


def test_what_another_model_or_request_answered_is_not_kept(tiny, requests, local, tmp_path):
    out = tmp_path / "out.jsonl"
    run(requests[:2], local, out)
    assert run(requests[:2], LocalAnswers(tiny, 0, limit=9), out)["kept"] == 0
    assert run([Request(requests[0].clip, "zh"), requests[1]], LocalAnswers(tiny, 0, limit=9), out)["kept"] == 1
    assert len(rows_of(out)) == 2
    spoken = tmp_path / "voice.mp4"
    spoken.write_bytes(Path(requests[0].clip.path).read_bytes())
    dubbed = [Request(requests[1].clip, "en", sound=str(spoken))]
    run(dubbed, local, out)
    spoken.write_bytes(Path(requests[2].clip.path).read_bytes())
    assert run(dubbed, local, out)["kept"] == 0, "the sound's file is another"


def test_each_of_several_processes_answers_its_own_share(requests, local, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.PartialState", lambda: SimpleNamespace(wait_for_everyone=lambda: None))
    monkeypatch.setenv("WORLD_SIZE", "3")
    names, own = [request.clip.id for request in requests], []
    for rank in (2, 1, 0):
        monkeypatch.setenv("RANK", str(rank))
        counted = Broken(local, after=99)
        counts = run(requests, counted, tmp_path / "out.jsonl", batch_size=2)
        own.append(sorted(counted.given))
    assert own == [sorted(names[rank::3]) for rank in (2, 1, 0)]
    assert counts["answered"] + counts["kept"] == 7 and not counts["failed"], "the first process counts for all"
    assert [row["clip"] for row in rows_of(tmp_path / "out.jsonl")] == names


def test_two_processes_share_the_work(tiny_folder, clips, tmp_path):
    lines = [{"id": clip.id, "videos": [clip.path]} for clip in clips]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    results = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]):
        out = tmp_path / f"{len(launcher)}.jsonl"
        command = (
            [sys.executable, *launcher, "-m", "saber"] if not launcher else [sys.executable, *launcher, "-m", "saber"]
        )
        done = subprocess.run(
            [*command, "analyze", "--jsonl", tmp_path / "in.jsonl", "--out", out, "--model", tiny_folder,
             "--language", "en", "--max-new-tokens", "8", "--workers", "0"],
            cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results.append([(row["clip"], row["prediction"]["raw"]) for row in rows_of(out)])
    assert results[0] == results[1] and len(results[0]) == len(clips)


# --- a server ---------------------------------------------------------------------------------------------------------


class Served(BaseHTTPRequestHandler):
    """Answers chat completions; the first request of each process fails once with 500. ``seen``: what was asked."""

    seen: list[dict] = []
    failures = 1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).failures:
            type(self).failures -= 1
            return self.give(500, {"error": {"message": "try again"}})
        if body["model"] in ("absent", "strict"):
            status, why = {"absent": (404, "no such model"), "strict": (400, "too long")}[body["model"]]
            return self.give(status, {"error": {"message": why}})
        self.seen.append(body)
        text = "<scene>A room.</scene>\n<reasoning>Calm.</reasoning>\n<relation>consistent</relation>"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
        self.give(
            200,
            {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage},
        )

    def give(self, status: int, record: dict) -> None:
        content = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Served.seen, Served.failures = [], 1
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1"
    httpd.shutdown()
    httpd.server_close()


def test_a_served_model_is_sent_the_clip_and_its_answers_are_read(server, clips, tmp_path, capsys):
    kinds = {clip.metadata["incomplete"]: clip for clip in clips}
    chosen = [kinds[""], kinds["no_sound"], kinds["no_picture"]]
    lines = [{"id": clip.id, "videos": [clip.path], "language": "en"} for clip in chosen] + [{"videos": ["gone.mp4"]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    options = [
        "analyze",
        "--jsonl",
        str(tmp_path / "in.jsonl"),
        "--out",
        str(out),
        "--endpoint",
        server,
        "--model",
        "m",
    ]
    assert main(options) == 0 and "3 answered, 1 failed, 0 kept" in capsys.readouterr().out
    rows = rows_of(out)
    assert (
        rows[0]["video_desc"] == "A room."
        and rows[0]["relation"] == "consistent"
        and rows[3]["error"]["reason"] == "missing"
    )
    assert rows[0]["prediction"]["usage"]["prompt_tokens"] == 11
    parts = {}
    for body in Served.seen:
        *sent, text = body["messages"][0]["content"]
        assert "Watch and listen" in text["text"] and body["temperature"] == 0 and body["max_tokens"] == 4096
        urls = {part["type"]: part[part["type"]]["url"] for part in sent}
        parts[next(iter(urls.values())).partition(",")[2]] = set(urls)
    expected = [{"video_url", "audio_url"}, {"video_url"}, {"audio_url"}]
    for clip, kinds_sent in zip(chosen, expected, strict=True):
        assert parts[base64.b64encode(Path(clip.path).read_bytes()).decode()] == kinds_sent
    assert main(options) == 0 and "0 answered, 1 failed, 3 kept" in capsys.readouterr().out
    assert len(Served.seen) == 3, "no request is paid for twice"


def test_what_a_server_refuses_is_a_row(server, clips, tmp_path):
    answers = ServedAnswers(server, "absent", {"clip": "Say."}, at_once=1)
    assert run([Request(clips[0])], answers, tmp_path / "out.jsonl")["failed"] == 1
    error = rows_of(tmp_path / "out.jsonl")[0]["error"]
    assert error["reason"] == "NotFoundError" and "no such model" in error["message"]


@pytest.mark.parametrize(("model", "ends"), [("absent", True), ("strict", False)])
def test_a_server_that_answers_nobody_ends_the_run_but_not_one_that_refuses_clips(server, clips, tmp_path, model, ends):
    answers, requests = ServedAnswers(server, model, {"clip": "Say."}), [Request(clip) for clip in clips]
    if ends:
        with pytest.raises(Exception, match="no such model"):
            run(requests, answers, tmp_path / "out.jsonl")
    else:
        assert run(requests, answers, tmp_path / "out.jsonl")["failed"] == len(clips)


def test_the_command_says_what_is_missing(capsys, tmp_path):
    assert main(["analyze"]) == 2 and "give a clip, or --jsonl" in capsys.readouterr().err
    assert main(["analyze", "--jsonl", str(tmp_path)]) == 2 and "--jsonl needs --out" in capsys.readouterr().err
    options = ["analyze", "--jsonl", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main([*options, "--batch-size", "0"]) == 2 and "--batch-size is 0; it must be" in capsys.readouterr().err
    assert main(options) == 1
    assert "holds no media file" in capsys.readouterr().err
