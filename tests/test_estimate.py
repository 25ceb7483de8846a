"""saber.sft.estimate: parameters, memory and time of a run before it starts, and the recipes that state them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saber.model import build_thinker, load_plan
from saber.recipe import parse_recipe
from saber.sft import AnswerLoss, SFTConfig
from saber.sft.estimate import (
    ClipSize,
    _counts,
    _lines,
    _precision,
    _working,
    clip_size,
    dry_run,
    estimate,
    headline,
    smaller_that_fits,
)  # fmt: skip
from saber.sft.footprint import LiveBytes, text_footprint

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "train" / "recipes").glob("*/*/*.yaml"))
SEVEN, THREE = "Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B"


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    """The folder of a configuration of 20 million parameters: soon run, and large enough to be measured."""
    from saber.model.loading import Qwen2_5OmniThinkerConfig

    width = 384
    configuration = Qwen2_5OmniThinkerConfig(
        text_config={
            "hidden_size": width, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6,
            "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 6000, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
        },
        vision_config={
            "depth": 4, "hidden_size": 160, "num_heads": 4, "intermediate_size": 480, "out_hidden_size": width,
            "fullatt_block_indexes": [1, 3],
        },
        audio_config={
            "encoder_layers": 4, "d_model": 160, "encoder_attention_heads": 4, "encoder_ffn_dim": 640,
            "output_dim": width, "n_window": 50,
        },
        tie_word_embeddings=False, image_token_index=5997, audio_token_index=5998, video_token_index=5999,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("middle")
    configuration.save_pretrained(folder)
    return str(folder)


def measured(config: SFTConfig, clips: int, size: ClipSize) -> tuple[int, int]:
    """Bytes that a real step on the CPU saves for its backward pass, and the most that are alive at once, besides
    weights and gradients."""
    torch.manual_seed(0)
    configuration, _ = load_plan(config.model)
    precision = _precision(config)
    model = build_thinker(configuration, precision.frozen).train()
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.requires_grad_(config.tuning == "full")
    for tower in (model.model.visual, model.model.audio_tower):
        tower.requires_grad_(config.train_encoders)
    if config.tuning == "lora":
        from peft import LoraConfig, get_peft_model

        targets = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
        get_peft_model(model, LoraConfig(r=config.lora_r, lora_dropout=config.lora_dropout, target_modules=targets))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(precision.trained)
            parameter.grad = torch.zeros_like(parameter)
    known = {values.untyped_storage()._cdata for values in model.state_dict().values()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(values: torch.Tensor) -> torch.Tensor:
        storage = values.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage
        return values

    side = round((size.patches / size.pairs) ** 0.5)
    frames = round(100 * size.seconds)
    words = torch.randint(10, 5000, (clips, size.prompt + size.answer))
    media = torch.tensor([configuration.video_token_id] * size.video + [configuration.audio_token_id] * size.audio)
    loss = AnswerLoss(model, config.train_encoders)
    with LiveBytes() as live:
        ids = torch.cat([media.expand(clips, -1), words], dim=1)
        labels = torch.full_like(ids, -100)
        labels[:, -size.answer :] = ids[:, -size.answer :]
        batch = {
            "input_ids": ids, "labels": labels, "weights": torch.ones(ids.shape),
            "positions": torch.arange(size.length).expand(3, clips, -1),
            "pixel_values_videos": torch.randn(clips * size.patches, 3 * 2 * 14 * 14),
            "video_grid_thw": torch.tensor([[size.pairs, side, side]] * clips),
            "input_features": torch.randn(clips, 128, frames),
            "feature_attention_mask": torch.ones(clips, frames, dtype=torch.long),
        }  # fmt: skip
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision.autocast):
                total, _ = loss(batch)
        held = sum(storage.nbytes() for storage in saved.values())
        saved.clear()
        total.backward()
    return held, live.peak


@pytest.mark.parametrize(
    "choice",
    [
        {"tuning": "full", "bf16": False},
        {"tuning": "full", "train_encoders": True, "gradient_checkpointing": True},
        {"tuning": "lora", "lora_dropout": 0.0},
    ],
    ids=lambda choice: " ".join(f"{name}={value}" for name, value in choice.items()),
)
def test_the_working_memory_is_within_an_eighth_of_what_a_real_step_takes(middle, choice):
    config = SFTConfig(model=middle, micro_batch_size=2, **choice)
    size = ClipSize(seconds=2.0, pairs=2, video=128, audio=50, prompt=22, answer=100, patches=512)
    held, peak = measured(config, 2, size)
    working = _working(_counts(config.model), config, size)
    said = max(working.values())
    print(f"\n{choice}: estimated {said / 2**20:.1f} MiB, measured {peak / 2**20:.1f} MiB, ratio {said / peak:.3f}")
    assert said == pytest.approx(peak, rel=0.12)
    if not config.gradient_checkpointing:  # by autograd's own hooks: what the forward pass saved
        kept = _lines(config)[0].at(2 * size.length).held
        print(f"held: estimated {kept / 2**20:.1f} MiB, saved by autograd {held / 2**20:.1f} MiB, {kept / held:.3f}")
        assert kept == pytest.approx(held, rel=0.05)


def test_a_text_layer_saves_what_its_formula_says():
    configuration, _ = load_plan(SEVEN)
    config = SFTConfig(tuning="full", sharding="zero2")
    line = text_footprint(configuration, config, _precision(config))
    text = configuration.text_config
    layer = 20 * text.hidden_size + 8 * text.intermediate_size + 4 * 512 + 4 * text.num_attention_heads + 8
    last = (
        4 * text.hidden_size + 2 * text.hidden_size + 2 * text.hidden_size + 4
    )  # the norm after the layers, and its output
    shared = 2 * 2 * 128  # the rotary embedding's cosines and sines
    a_token = (line.large.held - line.small.held) / 2048
    assert a_token == pytest.approx(28 * layer + last + shared, rel=0.003)


def test_the_published_models_have_the_parameters_of_their_checkpoints():
    seven = estimate(SFTConfig(model=SEVEN, tuning="full"), clips=600_000)
    # stack.md of the project, counted in the checkpoint: text 7.07, output layer 0.54, vision 0.68, audio 0.64.
    assert [round(total / 1e9, 2) for total, _ in seven.parts.values()] == [7.07, 0.54, 0.68, 0.64]
    assert seven.total == 8_931_813_888 and seven.trained == seven.total - 676_550_144 - 639_647_232
    with torch.device("meta"):
        three = build_thinker(load_plan(THREE)[0])
    assert sum(values.numel() for values in three.parameters()) == 4_703_464_448


def test_adapters_are_counted_as_peft_makes_them(middle):
    from peft import LoraConfig, get_peft_model

    model = build_thinker(load_plan(middle)[0])
    targets = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    wrapped = get_peft_model(model, LoraConfig(r=64, target_modules=targets))
    real = sum(values.numel() for values in wrapped.parameters() if values.requires_grad)
    assert estimate(SFTConfig(model=middle), clips=1000).trained == real


def test_a_clip_costs_what_the_processor_gives_for_it(tiny, tiny_folder, clips):
    from saber import media

    clip = next(each for each in clips if each.metadata["duration_s"] > 1)
    decoded = media.decode_here(clip, tiny.settings.media)
    ids = tiny.prepare(decoded, "en")["input_ids"]
    size = clip_size(tiny.model.config, tiny.settings.media, "", decoded.duration_s, 10)
    assert int((ids == tiny.model.config.video_token_id).sum()) == size.video
    assert int((ids == tiny.model.config.audio_token_id).sum()) == pytest.approx(size.audio, abs=1)


def test_memory_and_time_move_as_they_must():
    base = SFTConfig(sharding="zero2", micro_batch_size=2)

    def found(**changes):
        return estimate(replace(base, **changes), clips=600_000)

    plain, larger, again = found(), found(micro_batch_size=4), found(gradient_checkpointing=True)
    assert larger.longest_bytes > plain.longest_bytes > again.longest_bytes
    assert again.step_s > plain.step_s == larger.step_s
    assert plain.longest_bytes > plain.typical_bytes
    whole = found(tuning="full", gradient_checkpointing=True)
    assert whole.step_s > again.step_s and sum(whole.state.values()) > sum(again.state.values())
    split = found(tuning="full", gradient_checkpointing=True, sharding="zero3")
    assert sum(split.state.values()) < sum(whole.state.values())
    packed = found(tuning="qlora", gradient_checkpointing=True)
    assert packed.state["weights"] < 0.6 * again.state["weights"] and packed.step_s > again.step_s
    assert found(gpus=16).step_s == pytest.approx(plain.step_s / 2)
    assert found(gpu="h100").step_s < plain.step_s


def test_zero_states_are_those_of_its_paper():
    # Rajbhandari et al. 2020, section 5: 2 P + 14 P / N and 16 P / N bytes, here with frozen encoders of 2 bytes.
    found = estimate(SFTConfig(tuning="full", sharding="zero2", gradient_checkpointing=True), clips=1000)
    trained, frozen = found.trained, found.total - found.trained
    named = ("weights", "gradients", "AdamW")
    assert sum(found.state[name] for name in named) == pytest.approx(2 * (trained + frozen) + 14 * trained / 8)
    found = estimate(SFTConfig(tuning="full", sharding="zero3", gradient_checkpointing=True), clips=1000)
    assert sum(found.state[name] for name in named) == pytest.approx((16 * trained + 2 * frozen) / 8)


def test_what_does_not_fit_gets_a_smaller_choice_that_does():
    config = SFTConfig(tuning="full", gpus=1, gpu="l4", micro_batch_size=2, gradient_checkpointing=True)
    said = dry_run(config, clips=600_000)
    assert "DOES NOT FIT" in said and "This fits: --tuning qlora (" in said
    smaller = smaller_that_fits(config, clips=600_000)
    assert smaller.fits and smaller.config.tuning == "qlora" and smaller.config.batch_size == config.batch_size


def test_the_table_names_its_parts_and_that_it_was_not_measured():
    config = SFTConfig(sharding="zero2", gradient_checkpointing=True, micro_batch_size=2)
    said = dry_run(config, clips=600_000)
    for word in ("7,070,619,136", "adapters", "GPU hours", "fits", "not measured", "tokens/s", "9,374 of 128 clips"):
        assert word in said, f"{word!r} is not in:\n{said}"


@pytest.mark.parametrize(("tuning", "width"), [("full", 4), ("lora", 2)])
def test_the_hosts_memory_is_the_bases_as_it_is_loaded(tuning, width):
    config = SFTConfig(tuning=tuning, gradient_checkpointing=True)
    gib = width * 8_931_813_888 / 2**30
    assert f"memory of the host{gib:>16.2f}   a process, while it loads the base" in dry_run(config, clips=1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": "abacus"}, "gpu is 'abacus'; it must be one of"),
        ({"tuning": "qlora", "sharding": "zero3"}, "4-bit weights are not split"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        estimate(SFTConfig(**changes))


NUMBER = re.compile(r"\d[\d,.]*")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_recipe_begins_with_what_the_estimate_gives(path):
    config = parse_recipe(SFTConfig, path, [])
    assert (config.epochs, config.batch_size, config.learning_rate) == (2, 128, 1e-4)  # paper
    stated, found = "\n".join(path.read_text("utf-8").splitlines()[:2]), estimate(config, clips=600_000)
    assert found.fits
    said = headline(found)
    assert NUMBER.sub("#", stated) == NUMBER.sub("#", said), f"write this: {said}"
    for old, new in zip(NUMBER.findall(stated), NUMBER.findall(said), strict=True):
        old, new = (float(text.strip(",.").replace(",", "")) for text in (old, new))
        assert old == pytest.approx(new, rel=0.05, abs=1), f"write this: {said}"


def test_there_are_recipes_for_both_models_and_each_way_of_training():
    found = {path.relative_to(ROOT / "train" / "recipes").with_suffix("").as_posix() for path in RECIPES}
    assert {f"qwen2.5-omni-{size}/sed/{way}" for size in ("3b", "7b") for way in ("lora", "qlora", "full")} <= found


def second_of_two_nodes(name: str):
    """What accelerate makes of the options that a DeepSpeed file's comment tells the second node to add."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    options = [
        "--config_file", str(ROOT / "train" / "accelerate" / f"{name}.yaml"), "--num_machines", "2", "--num_processes",
        "16", "--machine_rank", "1", "--main_process_ip", "10.0.0.1", "--main_process_port", "29500", "train/sft.py",
    ]  # fmt: skip
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(options))
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    command, _ = prepare_deepspeed_cmd_env(arguments)
    assert command is None, f"started by another launcher, for which there is no hostfile: {command}"
    return arguments


@pytest.mark.parametrize(("name", "engine"), [("zero2", "DEEPSPEED"), ("zero3", "DEEPSPEED"), ("fsdp", "FSDP")])
def test_accelerate_reads_its_files(name, engine):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    found = load_config_from_file(str(ROOT / "train" / "accelerate" / f"{name}.yaml"))
    assert found.distributed_type == engine and found.num_processes == 8 and found.mixed_precision == "bf16"
    nested = found.deepspeed_config or found.fsdp_config
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert not set(nested) - set(known), "accelerate launch would pass these on to nobody"
    if engine == "DEEPSPEED":
        assert nested["zero_stage"] == int(name[-1])
        second = second_of_two_nodes(name)
        assert (second.nnodes, second.nproc_per_node, second.node_rank) == ("2", "8", 1), "as the file's comment says"
        assert second.rdzv_endpoint == "10.0.0.1:29500"
    else:
        modules = {type(module).__name__ for module in build_thinker(load_plan("saber-mini")[0]).modules()}
        assert set(nested["fsdp_transformer_layer_cls_to_wrap"].split(",")) <= modules
