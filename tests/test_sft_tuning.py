"""saber.sft.tuning: what is trained, what stays, and what an adapter alone is worth."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from saber.media import decode_here
from saber.model import load_checkpoint
from saber.schema import Annotation
from saber.sections import render
from saber.sft import (
    AnswerLoss,
    ExampleBuilder,
    MediaCache,
    Row,
    SFTConfig,
    build_example,
    collate,
    merge_adapter,
    prepare_tuning,
    run_sft,
    save_adapter,
)

pytestmark = pytest.mark.usefixtures("own_accelerator")


@pytest.fixture(scope="module")
def rows(clips) -> list[Row]:
    complete = [clip for clip in clips if not clip.metadata["incomplete"]][:3]
    return [Row(clip, "clip", render(Annotation.from_json(clip.metadata))) for clip in complete]


def config_for(folder, **changes) -> SFTConfig:
    values = dict(
        model="tiny", output_dir=str(folder), tuning="lora", lora_r=4, lora_alpha=8, batch_size=3, micro_batch_size=3,
        max_steps=2, learning_rate=1e-2, bf16=False, cpu=True, workers=0, log_every=1,
    )  # fmt: skip
    return SFTConfig(**values | changes)


def trainee(checkpoint):
    return replace(checkpoint, model=copy.deepcopy(checkpoint.model))


def logits(checkpoint, model, clip) -> torch.Tensor:
    inputs = checkpoint.prepare(decode_here(clip, checkpoint.settings.media), "en")
    with torch.no_grad():
        return model(**{key: value for key, value in inputs.items() if key != "media_ids"}).logits


def test_every_adapter_moves_and_nothing_else(tiny, rows, tmp_path):
    checkpoint = trainee(tiny)
    tuned = run_sft(checkpoint, rows, config_for(tmp_path))["tuned"]
    before = dict(tiny.model.named_parameters())
    layers = tiny.model.config.text_config.num_hidden_layers
    adapters = {name for name, _ in tuned.named_parameters() if "lora_" in name}
    assert len(adapters) == layers * 7 * 2, "A and B of q, k, v, o, gate, up and down; none in the encoders"
    for name, value in checkpoint.model.named_parameters():
        if "lora_B" in name:
            assert value.abs().max() > 0, name  # B begins at zero
        elif "lora_A" not in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")]), name
            assert not value.requires_grad, name
    fresh = trainee(tiny)
    prepare_tuning(fresh, config_for(tmp_path))
    start = {name: value for name, value in fresh.model.named_parameters() if "lora_A" in name}
    assert all(not torch.equal(value, dict(checkpoint.model.named_parameters())[name]) for name, value in start.items())


def test_the_adapter_alone_reproduces_the_merged_model(tiny, tiny_folder, rows, clips, tmp_path):
    from peft import PeftModel

    checkpoint = trainee(tiny)
    tuned = run_sft(checkpoint, rows, config_for(tmp_path, max_steps=4))["tuned"]
    save_adapter(tuned, checkpoint, tmp_path / "adapter")
    size = sum(file.stat().st_size for file in (tmp_path / "adapter").glob("adapter_model*"))
    base = load_checkpoint(tiny_folder, device="cpu")
    plain = logits(base, base.model, clips[0])
    alone = PeftModel.from_pretrained(base.model, tmp_path / "adapter").eval()
    merged = merge_adapter(tuned).eval()
    torch.testing.assert_close(logits(base, alone, clips[0]), logits(checkpoint, merged, clips[0]), rtol=0, atol=2e-4)
    assert (logits(checkpoint, merged, clips[0]) - plain).abs().max() > 0.05, "it learned something"
    assert size < 200_000 and (tmp_path / "adapter" / "saber.json").exists()


def test_a_worker_that_is_not_forked_gets_no_weights_and_builds_the_same(tiny, rows, tmp_path):
    checkpoint = trainee(tiny)
    prepare_tuning(checkpoint, config_for(tmp_path, gradient_checkpointing=True))
    builder = ExampleBuilder(MediaCache(checkpoint, None), checkpoint.settings.prompts)
    received = pickle.loads(pickle.dumps(builder))
    assert all(values.is_meta for values in received.cache.checkpoint.model.parameters())
    for row in rows:
        mine, other = builder.example(row), received.example(row)
        for name in ("input_ids", "labels", "weights", "positions"):
            assert torch.equal(getattr(mine, name), getattr(other, name)), name
        assert all(torch.equal(mine.media[key], other.media[key]) for key in ("pixel_values_videos", "input_features"))


def test_layers_computed_again_give_the_same_gradients(tiny, rows, tmp_path):
    results = []
    for checkpointing in (False, True):
        checkpoint = trainee(tiny)
        config = config_for(tmp_path, gradient_checkpointing=checkpointing, lora_dropout=0.0)
        prepare_tuning(checkpoint, config)
        checkpoint.model.train()
        assert checkpoint.model.is_gradient_checkpointing == checkpointing
        cache, prompts = MediaCache(checkpoint, None), checkpoint.settings.prompts
        examples = [build_example(checkpoint, cache.load(row.clip), prompts["en"], row.answer) for row in rows]
        saved = []

        def keep(value, saved=saved):
            saved.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            total, _ = AnswerLoss(checkpoint.model)(collate(examples, 0))
        total.backward()
        gradients = {name: p.grad for name, p in checkpoint.model.named_parameters() if p.grad is not None}
        results.append((total.detach(), gradients, sum(saved)))
    (loss, plain, kept), (again, recomputed, kept_less) = results
    torch.testing.assert_close(again, loss)
    assert plain.keys() == recomputed.keys() and len(plain) > 20
    for name in plain:
        torch.testing.assert_close(recomputed[name], plain[name], rtol=1e-4, atol=1e-5)
    assert kept_less < 0.5 * kept, "it is there to keep less"


def test_a_run_with_adapters_is_resumed_with_its_dropout(tiny, rows, tmp_path):
    class Killed(BaseException):
        pass

    class Ending(list):
        def __getitem__(self, index):
            self.reads = getattr(self, "reads", 0) + 1
            if self.reads > 5:
                raise Killed
            return super().__getitem__(index)

    course = dict(max_steps=4, batch_size=2, save_every=1, lora_dropout=0.3)
    whole, resumed = trainee(tiny), trainee(tiny)
    run_sft(whole, rows, config_for(tmp_path / "whole", **course))
    with pytest.raises(Killed):
        run_sft(trainee(tiny), Ending(rows), config_for(tmp_path / "killed", **course))
    run_sft(resumed, rows, config_for(tmp_path / "killed", **course))
    for name, value in whole.model.named_parameters():
        assert torch.equal(value, dict(resumed.model.named_parameters())[name]), name


def test_a_step_on_a_base_in_four_bits_moves_the_adapters_only(tiny_folder, rows, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    checkpoint = load_checkpoint(tiny_folder, device="cpu", dtype=torch.float32, quantization="4bit")
    packed = {
        name: module for name, module in checkpoint.model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }  # fmt: skip
    assert packed and all(".language_model." in name for name in packed), "encoders and output stay as they are"
    before = {name: module.weight.data.clone() for name, module in packed.items()}
    full = load_checkpoint(tiny_folder, device="cpu")
    name, module = next(iter(packed.items()))
    assert module.weight.numel() * 2 == full.model.get_submodule(name).weight.numel(), "two weights a byte"
    run_sft(checkpoint, rows, config_for(tmp_path, tuning="qlora", max_steps=1))
    modules = dict(checkpoint.model.named_modules())
    for name, weight in before.items():
        assert torch.equal(modules[name].base_layer.weight.data, weight), name
    moved = [value for name, value in checkpoint.model.named_parameters() if "lora_B" in name]
    assert len(moved) == len(packed) and all(value.abs().max() > 0 for value in moved)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="tuning is 'lorra'; it must be one of"):
        SFTConfig(tuning="lorra")
    with pytest.raises(ValueError, match="train_encoders is true with tuning 'lora'"):
        SFTConfig(tuning="lora", train_encoders=True)
    with pytest.raises(ValueError, match="lora_dropout is 1.0"):
        SFTConfig(lora_dropout=1.0)
