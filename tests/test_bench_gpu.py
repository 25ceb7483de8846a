"""train/bench_gpu.py on a CPU and few layers: the trainer really runs, and what it prints was counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

from saber.sft import SFTConfig, loop

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import bench_gpu  # noqa: E402

pytestmark = pytest.mark.usefixtures("own_accelerator")


@pytest.fixture
def recipe(tmp_path) -> Path:
    values = {"model": "saber-mini-base", "prompt": "mini", "tuning": "lora", "lora_r": 8, "workers": 0}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def bench(recipe: Path, **options) -> bench_gpu.BenchConfig:
    return bench_gpu.BenchConfig(**{"recipe": str(recipe), "batch_size": 4, "steps": 3, "layers": 2} | options)


def test_a_run_gives_its_figures_and_the_profile_of_a_step(recipe, four_rows, tmp_path):
    found = bench_gpu.measure(bench(recipe, profile=str(tmp_path / "profile")), 2, four_rows, tmp_path)
    assert list(found) == [
        "step_s", "spread_s", "clips_per_s", "tokens_per_s", "waiting_share", "step_flops", "share_of_peak",
        "peak_memory_gib",
    ]  # fmt: skip
    least, most = found["spread_s"]
    assert 0 < least <= found["step_s"] <= most
    assert found["clips_per_s"] == pytest.approx(4 / found["step_s"], rel=0.01)
    tokens = found["tokens_per_s"] * found["step_s"]  # prompt, media and answer of four clips
    assert 4 * 150 < tokens < 4 * 1000
    # Two layers and the output layer of a text model of width 256: more than 4 P D for the layers alone.
    layers = sum(values.numel() for values in _layers(recipe))
    assert 4 * layers * tokens < found["step_flops"] < 40 * layers * tokens
    assert found["share_of_peak"] is None and found["peak_memory_gib"] > 0.1
    assert sorted(file.name for file in (tmp_path / "profile").iterdir()) == ["micro-2.json.gz", "micro-2.txt"]
    assert "aten::mm" in (tmp_path / "profile" / "micro-2.txt").read_text(encoding="utf-8")
    assert not (tmp_path / "micro-2" / "state.pt").exists()


def _layers(recipe: Path) -> list[torch.Tensor]:
    config = SFTConfig(**yaml.safe_load(recipe.read_text(encoding="utf-8")))
    model = bench_gpu.random_checkpoint(config, 2, "cpu").model
    assert model.dtype == torch.bfloat16  # a base under adapters
    return list(model.model.language_model.layers.parameters())


def test_a_micro_batch_that_does_not_fit_is_told_and_the_trainer_put_back(recipe, four_rows, tmp_path, monkeypatch):
    def burst(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")

    kept = loop.Report, loop.State.save
    monkeypatch.setattr(loop, "update", burst)
    found = bench_gpu.measure(bench(recipe), 2, four_rows, tmp_path)
    assert found == {"error": "CUDA out of memory. Tried to allocate 2.00 GiB."}
    assert (loop.Report, loop.State.save, loop.update) == (*kept, burst)


@pytest.mark.parametrize(
    ("name", "share"), [("NVIDIA H200", 0.4), ("NVIDIA A100-SXM4-80GB", 1.268), ("NVIDIA GeForce GTX 1080", None)]
)
def test_the_share_of_the_peak_is_that_of_the_chip(name, share, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert bench_gpu.share_of_peak(0.4 * 989e12) == share


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 1}, "steps is 1"), ({"micro_batch_sizes": "1,two"}, "micro_batch_sizes is '1,two'; write numbers")],
)
def test_settings_that_cannot_be_run_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bench_gpu.BenchConfig(**options)
