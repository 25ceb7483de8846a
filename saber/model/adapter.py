"""LoRA adapters (Hu et al. 2021) on any base: whether one fits, read from its file's header, and how it is put on.

The same layer is called differently by what wrote the adapter: by this project and transformers 5
(``model.language_model.layers.0...``), by earlier versions (``model.layers.0...``), and as part of a whole Omni
(``thinker.model.layers.0...``). They are brought to one name here.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from saber.model.checkpoint import ModelError
from saber.model.layout import ADAPTER_WEIGHTS, AdapterLayout, Layout

#: peft's key of a factor: base_model.model.<layer>.lora_A.weight, of shape (r, in); B is (out, r).
FACTOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<factor>[AB])(?:\.default)?\.weight")


def layer_in_model(name: str) -> str:
    """A layer's name in the model that transformers 5 builds."""
    name = name.removeprefix("thinker.")
    name = re.sub(r"^(visual|audio_tower)\.", r"model.\1.", name)
    return re.sub(r"^model\.(?!language_model\.|visual\.|audio_tower\.)", "model.language_model.", name)


def layer_in_file(name: str) -> str:
    """The name of the same layer in a thinker's safetensors file."""
    return layer_in_model(name).replace("model.language_model.", "model.").replace("model.visual.", "visual.").replace(
        "model.audio_tower.", "audio_tower."
    )  # fmt: skip


def check_adapter(adapter: AdapterLayout, base: Layout) -> None:
    """Raises ModelError where the adapter is of another base: trained on another Hub model, on layers that this one
    does not have, or of another width."""
    trained_on = str(adapter.config.get("base_model_name_or_path") or "")
    if is_hub_id(trained_on) and is_hub_id(base.name) and trained_on != base.name:
        raise ModelError(
            f"adapter {adapter.name!r} was trained on {trained_on!r}, not on {base.name!r}: load it with that model; "
            "if both are the same, say so in its adapter_config.json (base_model_name_or_path)"
        )
    for key, shape in adapter.tensors.items():
        match = FACTOR.fullmatch(key)
        if match is None:
            raise ModelError(f"adapter {adapter.name!r} holds {key}, which is no factor of a LoRA; it is not taken")
        layer = f"{layer_in_file(match['layer'])}.weight"
        if layer not in base.tensors:
            raise ModelError(
                f"adapter {adapter.name!r} is for another base than {base.name!r}, which has no {match['layer']}; it "
                f"was trained on {trained_on!r}"
            )
        outward, inward = base.tensors[layer][0]
        side, expected, found = ("in", inward, shape[1]) if match["factor"] == "A" else ("out", outward, shape[0])
        if expected != found:
            raise ModelError(
                f"adapter {adapter.name!r} is for another base than {base.name!r}: {match['layer']} has {found} {side}"
                f" there, {expected} here; it was trained on {trained_on!r}"
            )
    _check_pairs(adapter)


def _check_pairs(adapter: AdapterLayout) -> None:
    """peft would leave a factor that is missing at its start, where the adapter does nothing."""
    found: dict[str, set[str]] = {}
    for key in adapter.tensors:
        match = FACTOR.fullmatch(key)
        found.setdefault(match["layer"], set()).add(match["factor"])
    for layer, factors in found.items():
        if factors != {"A", "B"}:
            raise ModelError(f"adapter {adapter.name!r} has only factor {factors.pop()} of {layer}; get it again")


def apply_adapter(model: torch.nn.Module, adapter: AdapterLayout, merge: bool) -> torch.nn.Module:
    """The model with the adapter, which ``check_adapter`` has found to fit. ``merge``: its update is added to the
    weights; else the layers keep it beside them."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    config = LoraConfig.from_pretrained(adapter.folder)
    state = {}
    for key, value in load_file(adapter.folder / ADAPTER_WEIGHTS).items():
        match = FACTOR.fullmatch(key)
        state[f"base_model.model.{layer_in_model(match['layer'])}.lora_{match['factor']}.weight"] = value
    # By full names too; those of a layer's end ("q_proj") stay as they are.
    config.rank_pattern = {layer_in_model(name): value for name, value in config.rank_pattern.items()}
    config.alpha_pattern = {layer_in_model(name): value for name, value in config.alpha_pattern.items()}
    config.target_modules = sorted({FACTOR.fullmatch(key)["layer"] for key in state})
    config.inference_mode = True
    wrapped = get_peft_model(model, config)
    report = set_peft_model_state_dict(wrapped, state)
    if report.unexpected_keys:
        raise ModelError(f"adapter {adapter.name!r} does not fit: {report.unexpected_keys[0]} has no place")
    return wrapped.merge_and_unload() if merge else wrapped.get_base_model()


def is_hub_id(name: str) -> bool:
    """Whether a base's name can be a Hub id; a folder's path says nothing about what was in it."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()
