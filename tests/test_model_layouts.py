"""saber.model: every layout of a checkpoint gives one model; what is no checkpoint is told before it is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file

from saber import media
from saber.model import (
    PRESETS,
    ModelError,
    build_thinker,
    export_checkpoint,
    load,
    load_checkpoint,
    load_plan,
    loading,
    memory,
)
from saber.model.adapter import layer_in_file
from saber.model.layout import Layout, find_checkpoint
from saber.model.loading import Qwen2_5OmniThinkerForConditionalGeneration
from saber.sft.footprint import LiveBytes

ROOT = Path(__file__).parent.parent
#: What adapters are put on, as transformers 5 names it.
LAYERS = [
    f"model.language_model.layers.{number}.{name}" for number in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")
]
#: Who wrote an adapter -> how it names a layer.
NAMINGS = {
    "ours": lambda layer: layer,
    "transformers 4": lambda layer: layer.replace("model.language_model.", "model."),
    "whole omni": lambda layer: layer.replace("model.language_model.", "thinker.model."),
}


def write_json(path: Path, record: dict) -> None:
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture(scope="module")
def published(tiny_folder, tmp_path_factory) -> Path:
    """The tiny thinker as Qwen2.5-Omni is published: under a prefix, in shards with an index, beside a talker, a
    vocoder and a pickle of voices, without our settings."""
    folder = tmp_path_factory.mktemp("published")
    tensors = [(f"thinker.{name}", value) for name, value in load_file(tiny_folder / "model.safetensors").items()]
    speaking = [("talker.model.norm.weight", torch.ones(4)), ("token2wav.bigvgan.x", torch.ones(4))]
    parts = [dict(tensors[::2]), dict(tensors[1::2]), dict(speaking)]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-00003.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})
    config = json.loads((tiny_folder / "config.json").read_text())
    write_json(
        folder / "config.json",
        {
            "architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "enable_audio_output": True,
            "thinker_config": config, "talker_config": {"model_type": "qwen2_5_omni_talker"},
            "token2wav_config": {"model_type": "qwen2_5_omni_token2wav"},
        },
    )  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"):
        shutil.copy(tiny_folder / name, folder)
    (folder / "spk_dict.pt").write_bytes(b"\x80\x04 a pickle")
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_folder, tmp_path_factory) -> dict[str, Path]:
    """Who wrote it -> one LoRA adapter under that one's names."""
    generator = torch.Generator().manual_seed(3)
    weights = load_file(tiny_folder / "model.safetensors")
    factors = {}
    for layer in LAYERS:
        outward, inward = weights[layer.replace("model.language_model.", "model.") + ".weight"].shape
        factors[layer] = (torch.randn(2, inward, generator=generator), torch.randn(outward, 2, generator=generator))
    folders = {}
    for writer, name in NAMINGS.items():
        folders[writer] = folder = tmp_path_factory.mktemp("adapter")
        state = {}
        for layer, (a, b) in factors.items():
            state[f"base_model.model.{name(layer)}.lora_A.weight"] = a
            state[f"base_model.model.{name(layer)}.lora_B.weight"] = b
        save_file(state, folder / "adapter_model.safetensors")
        write_json(
            folder / "adapter_config.json",
            {
                "peft_type": "LORA", "r": 2, "lora_alpha": 1, "task_type": "CAUSAL_LM",
                "base_model_name_or_path": str(tiny_folder), "target_modules": [name(layer) for layer in LAYERS],
            },
        )  # fmt: skip
    return folders


@pytest.fixture
def logits(tiny, clips):
    """checkpoint -> logits (S, V) of its prompt for one clip."""
    inputs = tiny.prepare(media.decode_here(clips[0], tiny.settings.media), "en")

    @torch.no_grad()
    def run(checkpoint) -> torch.Tensor:
        model = checkpoint.model
        given = {k: v.to(model.dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs.items()}
        return model(**given).logits[0].float()

    return run


def only_config(folder: Path, out: Path, **changes) -> Path:
    """A copy of a checkpoint's folder with other values in its config.json."""
    shutil.copytree(folder, out)
    write_json(out / "config.json", json.loads((folder / "config.json").read_text()) | changes)
    return out


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_a_published_omni_gives_the_thinkers_logits(tiny, published, logits):
    whole = load_checkpoint(published, device="cpu")
    assert torch.equal(logits(whole), logits(tiny))
    assert whole.settings.max_new_tokens == 4096 and whole.settings.prompt_version.startswith("sed")
    ends = whole.model.generation_config.eos_token_id
    assert ends == tiny.processor.tokenizer.eos_token_id, "it has no generation_config.json, and must still end"


def test_an_adapter_is_the_sum_of_its_factors_whoever_wrote_it(
    tiny, tiny_folder, published, adapters, logits, tmp_path
):
    weights = load_file(tiny_folder / "model.safetensors")
    for layer in LAYERS:
        a, b = (
            load_file(adapters["ours"] / "adapter_model.safetensors")[f"base_model.model.{layer}.lora_{factor}.weight"]
            for factor in "AB"
        )
        name = layer.replace("model.language_model.", "model.") + ".weight"
        weights[name] = weights[name].float() + b @ a / 2  # alpha / r
    by_hand = tmp_path / "by hand"
    shutil.copytree(tiny_folder, by_hand)
    save_file(weights, by_hand / "model.safetensors", {"format": "pt"})
    expected = logits(load_checkpoint(by_hand, device="cpu"))
    assert (expected - logits(tiny)).abs().max() > 0.1, "the adapter does something"
    for base in (tiny_folder, published):
        for folder in adapters.values():
            found = load_checkpoint(base, adapter=folder, device="cpu")
            assert type(found.model) is type(tiny.model), "merged: no trace of peft is left"
            torch.testing.assert_close(logits(found), expected, rtol=1e-5, atol=1e-5)


def test_an_adapters_own_settings_come_before_its_bases(tiny, tiny_folder, adapters, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(adapters["ours"], folder)
    record = tiny.settings.to_json() | {"max_new_tokens": 7}
    write_json(folder / "saber.json", record)
    engine = load(tiny_folder, adapter=folder, device="cpu")
    assert engine.checkpoint.settings.max_new_tokens == 7
    assert engine.name == f"{tiny_folder} + {folder}"


@pytest.mark.parametrize(("dtype", "expected", "close"), [("bf16", torch.bfloat16, 0.1), ("fp16", torch.float16, 0.01)])
def test_a_checkpoint_loads_in_16_bits(tiny, tiny_folder, published, logits, dtype, expected, close):
    first, second = (load_checkpoint(folder, device="cpu", dtype=dtype) for folder in (tiny_folder, published))
    assert {parameter.dtype for parameter in first.model.parameters()} == {expected}
    assert torch.equal(logits(first), logits(second)), "the same weights in the same type, in two layouts"
    wanted = logits(tiny)
    assert 0 < (logits(first) - wanted).norm() < close * wanted.norm()


@pytest.mark.parametrize(
    ("quantization", "layer", "close"), [("8bit", "Linear8bitLt", 0.1), ("4bit", "Linear4bit", 0.6)]
)
def test_a_checkpoint_loads_in_few_bits(tiny, published, adapters, logits, quantization, layer, close):
    few = load_checkpoint(published, device="cpu", quantization=quantization)
    kinds = {name: type(module).__name__ for name, module in few.model.named_modules()}
    text = [kind for name, kind in kinds.items() if name.startswith("model.language_model.") and name.endswith("_proj")]
    assert set(text) == {layer} and len(text) == 14
    assert kinds["lm_head"] == "Linear" and layer not in [kind for name, kind in kinds.items() if "tower" in name]
    wanted = logits(tiny)
    assert 0 < (logits(few) - wanted).norm() < close * wanted.norm()
    adapted = load_checkpoint(published, adapter=adapters["ours"], device="cpu", quantization=quantization)
    full = logits(load_checkpoint(published, adapter=adapters["ours"], device="cpu"))
    assert (logits(adapted) - full).norm() < (logits(few) - full).norm(), "with the adapter it is nearer"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "3bit"}, "quantization is '3bit'; it must be one of"),
        ({"dtype": "float"}, "dtype is 'float'; it must be one of"),
        ({"preset": "theirs"}, r"preset is 'theirs'; it must be one of \('sed', 'published'\)"),
        ({"revision": "v2"}, "revision is 'v2', but .* is a folder"),
    ],
)
def test_options_that_do_not_exist_are_refused(tiny_folder, options, message):
    with pytest.raises(ModelError, match=message):
        load_checkpoint(tiny_folder, **options)


# --- what is no checkpoint --------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_large(monkeypatch):
    """Fails where weights are loaded."""

    def loaded(*_, **__):
        raise AssertionError("weights were loaded before the error")

    monkeypatch.setattr(Qwen2_5OmniThinkerForConditionalGeneration, "from_pretrained", loaded)


def without_shard(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()


def torn_shard(folder: Path) -> None:
    shard = folder / "model-00001-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def only_pickles(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


def only_voices(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()


def only_a_talker(folder: Path) -> None:
    file = "model-00003-of-00003.safetensors"
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"talker.model.norm.weight": file}})


def another_architecture(folder: Path) -> None:
    write_json(folder / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_shard, r"lacks model-00002-of-00003.safetensors, one of its 3 shards \(1 missing\); get it again"),
        (torn_shard, "model-00001-of-00003.safetensors cannot be read .*; get it again"),
        (only_pickles, "has its weights in pytorch_model.bin, a pickle: .* safetensors"),
        (only_voices, "holds no weights: neither model.safetensors nor"),
        (only_a_talker, "hold no tensor of a thinker"),
        (another_architecture, r"has model_type 'llama' \(LlamaForCausalLM\), not one of qwen2_5_omni"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    ],
)  # fmt: skip
def test_a_spoilt_folder_is_told_before_weights_are_loaded(published, tmp_path, nothing_large, spoil, message):
    folder = tmp_path / "spoilt"
    shutil.copytree(published, folder)
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_a_missing_tensor_is_no_random_one(tiny_folder, tmp_path):
    folder = tmp_path / "lacking"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors are missing, model.language_model.norm.weight among them"):
        load_checkpoint(folder)


def change_config(**changes):
    def change(folder: Path) -> None:
        record = json.loads((folder / "adapter_config.json").read_text())
        write_json(folder / "adapter_config.json", record | changes)

    return change


def change_tensors(change):
    def spoil(folder: Path) -> None:
        tensors = change(load_file(folder / "adapter_model.safetensors"))
        save_file(tensors, folder / "adapter_model.safetensors")

    return spoil


def pickled_adapter(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


FIRST = f"base_model.model.{LAYERS[0]}.lora_A.weight"
HEAD = "base_model.model.lm_head.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "holds no adapter_config.json"),
        (change_config(peft_type="IA3"), "is of type 'IA3'; only LoRA adapters are taken"),
        (pickled_adapter, "has its weights in adapter_model.bin, a pickle"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "holds no adapter_model.safetensors"),
        (change_tensors(lambda held: held | {FIRST: torch.zeros(2, 3584)}), "q_proj has 3584 in there, 64 here"),
        (change_tensors(lambda held: {key.replace("layers.0", "layers.9"): held[key] for key in held}),
         "is for another base .*, which has no .*layers.9"),
        (change_tensors(lambda held: {key: held[key] for key in held if key != FIRST}), "has only factor B of"),
        (change_tensors(lambda held: held | {HEAD: torch.zeros(2, 2)}), f"holds {HEAD}, which is no factor"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_told_before_weights_are_loaded(
    tiny_folder, adapters, tmp_path, nothing_large, spoil, message
):
    folder = tmp_path / "adapter"
    shutil.copytree(adapters["ours"], folder)
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_checkpoint(tiny_folder, adapter=folder)
    assert str(folder) in str(caught.value)


def test_an_adapter_in_the_place_of_a_model_is_told_where_it_belongs(tiny_folder, adapters):
    with pytest.raises(ModelError, match=f"is an adapter for '{tiny_folder}': load that model, with adapter="):
        load_checkpoint(adapters["ours"])


# --- memory -----------------------------------------------------------------------------------------------------------


def test_the_weights_are_counted_exactly_before_they_are_read(tiny, tiny_folder, published):
    for folder in (tiny_folder, published):
        found = find_checkpoint(str(folder))
        parameters = sum(value.numel() for value in tiny.model.parameters())
        assert memory.weight_bytes(found, torch.float32) == 4 * parameters
        assert memory.weight_bytes(found, torch.bfloat16) == 2 * parameters
        few = load_checkpoint(folder, device="cpu", dtype="bf16", quantization="8bit").model
        held = sum(value.nbytes for value in few.parameters())
        assert memory.weight_bytes(found, torch.bfloat16, "8bit") == held


def test_what_a_configuration_leaves_to_the_defaults_is_known(published, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(published, folder)
    config = json.loads((folder / "config.json").read_text())
    for name in ("spatial_merge_size", "temporal_patch_size", "patch_size"):
        config["thinker_config"]["vision_config"].pop(name, None)
    write_json(folder / "config.json", config)
    settings = PRESETS["sed"]().media
    needed = [
        memory.estimate_memory(find_checkpoint(str(one)), settings, 9, torch.float32) for one in (published, folder)
    ]
    assert needed[0] == needed[1]


def test_the_cache_is_what_generation_keeps(tiny, clips):
    inputs = tiny.prepare(media.decode_here(clips[0], tiny.settings.media), "en")
    with torch.no_grad():
        kept = tiny.model(**inputs, use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in kept.layers)
    prompt = inputs["input_ids"].shape[1]
    tokens = {"video": 20, "sound": 90, "prompt": prompt, "answer": 0}
    assert memory.clip_memory(tiny.model.config.to_dict(), torch.float32, **tokens)[0] == held


@torch.no_grad()
def test_the_working_memory_is_no_less_than_what_a_prompt_makes_at_once(tiny, clips):
    inputs = tiny.prepare(media.decode_here(clips[0], tiny.settings.media), "en")
    ids, config = inputs["input_ids"], tiny.model.config
    tokens = {
        "video": int((ids == config.video_token_id).sum()), "sound": int((ids == config.audio_token_id).sum()),
        "prompt": ids.shape[1], "answer": 0,
    }  # fmt: skip
    with LiveBytes() as live:
        tiny.model(**inputs, use_cache=True, logits_to_keep=1)
    cache, working = memory.clip_memory(config.to_dict(), torch.float32, **tokens)
    made = live.peak + inputs["pixel_values_videos"].nbytes + inputs["input_features"].nbytes
    assert made <= cache + working <= 3 * made


@pytest.mark.parametrize(
    ("free_gib", "message"),
    [
        (17.0, "quantization 8bit would need 1[01]"),
        (9.5, "quantization 4bit would need [89]"),
        (2.0, "nothing smaller fits either"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_figure_and_a_smaller_choice(
    published, monkeypatch, nothing_large, free_gib, message
):
    """A 7B model's shapes under the tiny one's name."""
    configuration, _ = load_plan("Qwen/Qwen2.5-Omni-7B")
    with torch.device("meta"):
        state = build_thinker(configuration).state_dict()
    found = find_checkpoint(str(published))
    large = Layout(found.name, found.folder, configuration.to_dict())
    vars(large)["tensors"] = {layer_in_file(name): (tuple(value.shape), "BF16") for name, value in state.items()}
    monkeypatch.setattr(loading, "find_checkpoint", lambda name, revision: large)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(free_gib * 2**30))
    with pytest.raises(
        ModelError, match=rf"needs 17\.\d GiB \(16\.6 GiB weights, .* where {free_gib} GiB are free; {message}"
    ):
        load_checkpoint(published, device="cuda:0", dtype="bf16")


def test_a_clip_that_does_not_fit_beside_the_weights_is_refused(tiny_folder, clips, monkeypatch):
    engine = load(tiny_folder, device="cpu")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100_000)
    with pytest.raises(
        ModelError, match="this clip takes .* tokens and its answer up to 24.* give a shorter part of it"
    ):
        engine.analyze(clips[0])


def test_what_a_process_keeps_of_a_gpu_unused_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert memory.free_bytes("cuda:0") == 540


# --- export -----------------------------------------------------------------------------------------------------------


def test_an_export_is_a_thinker_that_transformers_loads_with_equal_logits(tiny_folder, adapters, logits, tmp_path):
    adapted = load_checkpoint(tiny_folder, adapter=adapters["ours"], device="cpu")
    out = export_checkpoint(adapted, tmp_path / "out", shard_size="200KB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert all(name.startswith("thinker.") for name in index["weight_map"])
    assert {"thinker.model.norm.weight", "thinker.visual.merger.mlp.0.weight"} <= index["weight_map"].keys()
    assert len(list(out.glob("*.safetensors"))) > 1
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["thinker_config"]["dtype"] == "float32"
    assert config["architectures"] == ["Qwen2_5OmniModel"] and config["thinker_config"]["model_type"].endswith(
        "thinker"
    )
    again = load_checkpoint(out, device="cpu")
    assert torch.equal(logits(again), logits(adapted))
    assert again.settings == adapted.settings
    plain = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(out).eval()
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), again.model.state_dict().values(), strict=True)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "nothing is left beside it"


def test_an_export_overwrites_nothing_and_takes_no_quantized_model(tiny, tiny_folder, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ModelError, match="is not empty"):
        export_checkpoint(tiny, tmp_path)
    with pytest.raises(ModelError, match="loaded in few bits; export it without quantization"):
        export_checkpoint(load_checkpoint(tiny_folder, device="cpu", quantization="4bit"), tmp_path / "out")


# --- the Hub ----------------------------------------------------------------------------------------------------------

LOAD = """
import json, sys
import huggingface_hub
from saber.model import ModelError, load_checkpoint
for name, request in json.loads(sys.argv[1]).items():
    try:
        answer = {"fingerprint": load_checkpoint(**request, device="cpu").fingerprint()}
    except ModelError as error:
        answer = {"error": str(error)}
    print("ANSWER", json.dumps([name, answer]))
"""


@pytest.fixture(scope="module")
def hub(published, adapters, tmp_path_factory):
    """(request -> answer, what was fetched) of another process, whose Hub is a server here."""
    folder = tmp_path_factory.mktemp("hub")
    shutil.copytree(published, folder / "lab" / "omni")
    shutil.copytree(published, folder / "lab" / "gated")
    shutil.copytree(adapters["ours"], folder / "lab" / "adapter")
    for spoil, name in ((without_shard, "short"), (only_pickles, "pickled"), (another_architecture, "llama")):
        shutil.copytree(published, folder / "lab" / name)
        spoil(folder / "lab" / name)
    config = json.loads((folder / "lab" / "adapter" / "adapter_config.json").read_text())
    write_json(folder / "lab" / "adapter" / "adapter_config.json", config | {"base_model_name_or_path": "lab/omni"})
    shutil.copytree(published, folder / "lab" / "other")
    requests = {
        name: {"name_or_path": f"lab/{name}"} for name in ("omni", "gated", "short", "pickled", "llama", "none")
    }
    requests["adapted"] = {"name_or_path": "lab/omni", "adapter": "lab/adapter"}
    requests["other base"] = {"name_or_path": "lab/other", "adapter": "lab/adapter"}
    requests["revision"] = {"name_or_path": "lab/omni", "revision": "v9"}

    class Server(LoopbackHub):
        root, fetched = folder, []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path_factory.mktemp("home")),
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    def ask(wanted: dict) -> dict:
        command = [sys.executable, "-c", LOAD, json.dumps(wanted)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
        return dict(json.loads(line.removeprefix("ANSWER ")) for line in lines)

    answers = ask(requests)
    server.shutdown()
    server.server_close()
    environment["HF_HUB_OFFLINE"] = "1"
    offline = ask({"omni": requests["omni"], "never": {"name_or_path": "lab/never"}})
    return answers, offline, list(Server.fetched)


def test_a_model_and_an_adapter_on_the_hub_are_those_in_the_folders(hub, published, adapters):
    answers, offline, _ = hub
    whole = load_checkpoint(published, device="cpu")
    assert answers["omni"] == offline["omni"] == {"fingerprint": whole.fingerprint()}
    adapted = load_checkpoint(published, adapter=adapters["ours"], device="cpu")
    assert answers["adapted"] == {"fingerprint": adapted.fingerprint()} != answers["omni"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gated", "'lab/gated' is gated: ask for access at https://huggingface.co/lab/gated, then log in"),
        ("none", "'lab/none' is not on the Hub, or is private"),
        ("revision", "'lab/omni' has no revision 'v9'"),
        ("short", "'lab/short' lacks model-00002-of-00003.safetensors"),
        ("pickled", "'lab/pickled' has its weights in pytorch_model.bin, a pickle"),
        ("llama", "'lab/llama' has model_type 'llama'"),
        ("other base", "adapter 'lab/adapter' was trained on 'lab/omni', not on 'lab/other'"),
    ],
)
def test_what_the_hub_does_not_give_is_told_with_the_next_step(hub, name, message):
    assert message in hub[0][name]["error"]


def test_without_the_network_a_model_that_was_never_fetched_is_told(hub):
    assert "'lab/never' is not in the cache and the Hub cannot be reached" in hub[1]["never"]["error"]


def test_of_a_repository_that_cannot_be_used_nothing_large_is_fetched(hub):
    large = [path for path in hub[2] if path.endswith((".safetensors", ".bin", ".pt"))]
    assert {path.split("/")[1] for path in large} == {"omni", "adapter", "other"}
    assert not [path for path in large if path.endswith((".pt", ".bin"))]
