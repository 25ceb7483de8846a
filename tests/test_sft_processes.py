"""train/sft.py in several processes: the losses of one process, whatever share of a batch each has."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from test_sft_data import make_shards

from saber.model import load_checkpoint

ROOT = Path(__file__).parents[1]


def train(
    out: Path, model: Path, data: Path, *options: object, processes: int = 1, environment: dict | None = None,
    kill_after: int | None = None, script: str | Path = "train/sft.py",
):  # fmt: skip
    """Runs the script as a user would, on CPUs; ``kill_after``: kills it once it has logged so many steps. Returns
    (step, loss, gradient norm) of each line of its log, and what it said."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    settings = {
        "model": model, "data": data, "split": "train", "output_dir": out, "max_steps": 3, "batch_size": 5,
        "micro_batch_size": 2, "learning_rate": 1e-2, "bf16": "false", "cpu": "true", "workers": 0, "cache_dir": "none",
        "log_every": 1,
    }  # fmt: skip
    if {"ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"} & {*(environment or {})}:
        settings["cpu"] = "false"  # accelerate leaves both out where it is told to use the CPU
    given = settings | dict(zip(options[::2], options[1::2], strict=True))
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    log = out / "log.jsonl"
    with subprocess.Popen(
        [*command, script, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    ) as process:  # fmt: skip
        while kill_after is not None and process.poll() is None:
            if log.exists() and log.read_text(encoding="utf-8").count("\n") >= kill_after:
                end(process.pid)
                break
            time.sleep(0.02)
        try:
            said, _ = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:  # they wait for each other
            end(process.pid)
            raise
    assert process.returncode == (0 if kill_after is None else -signal.SIGKILL), said[-4000:]
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines], said


def end(launcher: int) -> None:
    process = psutil.Process(launcher)
    for one in [process, *process.children(recursive=True)]:  # the launcher first: it would mourn its workers
        one.kill()


def assert_alike(one, other, relative: float = 2e-4) -> None:
    assert [step for step, *_ in one] == [step for step, *_ in other]
    for (_, *left), (_, *right) in zip(one, other, strict=True):
        assert right == pytest.approx(left, rel=relative)


@pytest.fixture(scope="module")
def uneven(clips, clips_folder, tmp_path_factory) -> Path:
    """Seven clips, of which one cannot be decoded, one has no sound and one no picture."""
    kinds = {clip.metadata["incomplete"]: clip.metadata for clip in clips}
    complete = [clip.metadata for clip in clips if not clip.metadata["incomplete"]][:4]
    rows = [*complete, kinds["no_sound"], kinds["no_picture"], {**complete[0], "id": "torn", "video": "torn.mp4"}]
    return folder_of(rows, clips_folder, tmp_path_factory.mktemp("uneven"))


def folder_of(rows: list[dict], source: Path, folder: Path) -> Path:
    (folder / "train").mkdir()
    (folder / "torn.mp4").write_bytes(b"no video")
    for row in rows:
        if row["video"] != "torn.mp4":
            (folder / row["video"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / row["video"], folder / row["video"])
    pq.write_table(pa.Table.from_pylist(rows), folder / "train" / "clips.parquet")
    return folder


@pytest.mark.parametrize("cpu", ["true", "false"])
def test_two_processes_learn_what_one_does_though_their_shares_differ(tiny_folder, uneven, tmp_path, cpu):
    """Whether the CPU is asked for or is all there is."""
    options, nothing_else = ("cpu", cpu, "reasoning_weight", 3, "token_noise", 0.3), {"CUDA_VISIBLE_DEVICES": ""}
    one, _ = train(tmp_path / "one", tiny_folder, uneven, *options)
    two, said = train(tmp_path / "two", tiny_folder, uneven, *options, processes=2, environment=nothing_else)
    assert len(one) == 3
    assert_alike(one, two)
    assert "clip torn" in said, "the clip is named whichever process meets it"


def test_two_processes_on_shards_with_workers_go_on_as_one_would_have(tiny_folder, clips, tmp_path):
    """As in the recipes: tars, decoded ahead of the model; killed after step 3, of which 2 are saved."""
    shards = make_shards(tmp_path, clips)
    options = ("workers", 1, "max_steps", 5, "batch_size", 4, "save_every", 2)
    one, _ = train(tmp_path / "one", tiny_folder, shards, *options)
    train(tmp_path / "two", tiny_folder, shards, *options, processes=2, kill_after=3)
    two, _ = train(tmp_path / "two", tiny_folder, shards, *options, processes=2)
    assert len(one) == 5
    assert_alike(one, two)


def test_a_process_without_sound_in_its_share_does_not_hang_the_one_with_it(tiny_folder, clips, clips_folder, tmp_path):
    """Encoders are trained, so each process waits for the other's gradient of each parameter of both encoders."""
    kinds = {clip.metadata["incomplete"]: clip.metadata for clip in clips}
    (tmp_path / "data").mkdir()
    data = folder_of([kinds["no_sound"], kinds["no_picture"]], clips_folder, tmp_path / "data")
    options = ("train_encoders", "true", "batch_size", 2, "max_steps", 2)
    one, _ = train(tmp_path / "one", tiny_folder, data, *options)
    two, _ = train(tmp_path / "two", tiny_folder, data, *options, processes=2)
    assert_alike(one, two)


@pytest.fixture
def several(tmp_path):
    """engine -> the arguments of ``train`` that start two processes under it, on CPUs."""
    script = tmp_path / "fsdp.py"
    script.write_text(FSDP_ON_CPU, encoding="utf-8")
    recipe = yaml.safe_load((ROOT / "train" / "accelerate" / "fsdp.yaml").read_text(encoding="utf-8"))
    # What `accelerate launch` makes of the recipe.
    fsdp = {name.upper().replace("LAYER_CLS", "CLS"): str(value) for name, value in recipe["fsdp_config"].items()}

    def arguments(engine: str) -> dict:
        environment = {"CUDA_VISIBLE_DEVICES": ""}
        if engine == "FSDP":
            environment |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_TORCH_DEVICE": "cpu", **fsdp}
            return {"processes": 2, "environment": environment, "script": script}
        if engine.startswith("ZeRO"):
            environment |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": engine[-1]}
            environment |= {"DS_ACCELERATOR": "cpu"}
        return {"processes": 2, "environment": environment}

    return arguments


#: accelerate has FSDP on accelerators alone, torch also on CPUs: this run passes for one on some accelerator.
FSDP_ON_CPU = """
import runpy, sys
from accelerate.state import DistributedType, PartialState
PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_XPU)
sys.path.insert(0, "train")
runpy.run_path("train/sft.py", run_name="__main__")
"""


@pytest.mark.parametrize("engine", ["two processes", "ZeRO-2", "FSDP"])
def test_a_killed_run_of_several_processes_goes_on_with_the_losses_of_an_unbroken_one(
    tiny_folder, uneven, tmp_path, several, engine
):
    options = ("save_every", 2, "max_steps", 5)
    one, _ = train(tmp_path / "one", tiny_folder, uneven, *options)
    killed, _ = train(tmp_path / "run", tiny_folder, uneven, *options, **several(engine), kill_after=3)
    resumed, _ = train(tmp_path / "run", tiny_folder, uneven, *options, **several(engine))
    assert 3 <= len(killed) < 5 and len(resumed) == 5
    assert_alike(one, resumed, 2e-3)
    pointer = tmp_path / "run" / "state.json"
    state = json.loads(pointer.read_text()) if engine != "two processes" else {"folder": "state.pt"}
    assert [path.name for path in (tmp_path / "run").glob("state[-.]*") if path.suffix != ".json"] == [state["folder"]]


@pytest.mark.parametrize(("engine", "cached"), [("ZeRO-3", False), ("ZeRO-3", True), ("FSDP", False)])
def test_weights_in_parts_learn_what_one_process_does_though_tracks_are_missing(
    tiny_folder, uneven, tmp_path, several, engine, cached
):
    """Each module is brought together from all processes when it runs, so all must run the same ones in one order."""
    options = ("max_steps", 2, "cache_dir", tmp_path / "cache" if cached else "none")
    one, _ = train(tmp_path / "one", tiny_folder, uneven, *options)
    split, _ = train(tmp_path / "split", tiny_folder, uneven, *options, **several(engine))
    run = json.loads((tmp_path / "split" / "run.json").read_text(encoding="utf-8"))
    assert engine in run["engine"]
    assert_alike(one, split, 2e-3)
    expected, gathered = (load_checkpoint(tmp_path / name / "checkpoint", device="cpu") for name in ("one", "split"))
    start = load_checkpoint(tiny_folder, device="cpu").model.state_dict()
    other = gathered.model.state_dict()
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=2e-3)
    assert any(not torch.equal(other[name], value) for name, value in start.items())


def test_a_disk_that_fills_up_under_one_of_several_shards_ends_the_run_with_the_reason(
    tiny_folder, uneven, tmp_path, several
):
    """The others wait inside DeepSpeed for the one that could not write."""
    script = tmp_path / "limited.py"
    script.write_text(FULL_FOR_THE_FIRST, encoding="utf-8")
    options = ("save_every", 2, "max_steps", 4)
    with pytest.raises(AssertionError, match=r"the state of step 2 cannot be written to .*; the one before"):
        train(tmp_path / "run", tiny_folder, uneven, *options, **several("ZeRO-2"), script=script)
    assert not list((tmp_path / "run").glob("state*"))


#: Files of the first process cannot grow past what a log needs.
FULL_FOR_THE_FIRST = """
import os, resource, runpy, signal, sys
if os.environ["RANK"] == "0":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
sys.path.insert(0, "train")
runpy.run_path("train/sft.py", run_name="__main__")
"""


def test_processes_ask_for_logits_equally_often_however_many_answer_tokens_each_has(tiny_folder, tmp_path):
    script = tmp_path / "count.py"
    script.write_text(COUNT_CALLS.format(model=str(tiny_folder), out=str(tmp_path)), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, script], check=True, timeout=120, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    calls = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one["calls"] for one in calls] == [4, 4]
    for one in calls:
        assert one["loss"] == pytest.approx(one["expected"], rel=1e-5)


#: One process answers with 3 tokens and one with 10; chunks are of 3.
COUNT_CALLS = """
import json
import torch
from saber.model import load_checkpoint
from saber.sft.examples import IGNORED
from saber.sft.loss import AnswerLoss

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
model = load_checkpoint({model!r}, device="cpu").model
ids = torch.arange(12)[None]
labels = ids.clone()
labels[:, : 9 if rank == 0 else 2] = IGNORED
batch = {{"input_ids": ids, "labels": labels, "weights": torch.rand(1, 12)}}
batch["positions"] = torch.arange(12).expand(3, 1, -1)
expected, _ = AnswerLoss(model)(batch)
calls = []
model.lm_head.register_forward_hook(lambda *_: calls.append(1))
loss, _ = AnswerLoss(model, chunk=3, same_path=True)(batch)
with open(f"{out}/{{rank}}.json", "w") as file:
    json.dump({{"calls": len(calls), "loss": loss.item(), "expected": expected.item()}}, file)
torch.distributed.destroy_process_group()
"""
