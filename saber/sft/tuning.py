"""What of a model is trained: all of it, or adapters (LoRA, Hu et al. 2021; QLoRA, Dettmers et al. 2023).

Goes in: a checkpoint and the settings. Comes out: the model prepared in place, with the right parameters trainable, and
afterwards the adapter in peft's own format. The paper does not say what it trains; adapters on every linear layer of
the text model are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from saber.model import Checkpoint
from saber.sft.config import SFTConfig

#: Linear layers of the text model, by full name: those of the encoders are called alike in part.
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def prepare_tuning(checkpoint: Checkpoint, config: SFTConfig) -> torch.nn.Module:
    """Adds adapters if ``config.tuning`` asks for them and sets what is trained. Returns the object to save with
    ``save_adapter``: the model itself for full tuning, else peft's wrapper around it.

    Trained parameters are float32, whatever the frozen ones are: steps are smaller than 16 bits can tell apart.
    """
    model = checkpoint.model
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.tuning == "full":
        model.requires_grad_(True)
        for encoder in (model.model.visual, model.model.audio_tower):
            encoder.requires_grad_(config.train_encoders)
        # Two embeddings that the class declares and never uses: processes would wait for their gradient for ever.
        model.model.audio_tower.audio_bos_eos_token.requires_grad_(False)
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
        target_modules=LORA_TARGETS, task_type="CAUSAL_LM",
    )  # fmt: skip
    wrapped = get_peft_model(model, lora)  # adds the adapters to ``model`` itself and freezes the rest
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def save_adapter(
    wrapped: torch.nn.Module,
    checkpoint: Checkpoint,
    folder: str | Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Writes the adapter (peft's files), the processor and the settings: with the base it is the whole model.
    ``weights``: those of ``checkpoint.model``, where it does not hold them whole itself."""
    folder = Path(folder)
    # peft's wrapper calls the model "base_model.model".
    whole = {f"base_model.model.{name}": value for name, value in weights.items()} if weights else None
    wrapped.save_pretrained(folder, state_dict=whole)
    checkpoint.processor.save_pretrained(folder)
    checkpoint.save_settings(folder)


def merge_adapter(wrapped: torch.nn.Module) -> torch.nn.Module:
    """The plain model with the adapter's update added to its weights. peft's wrapper is used up."""
    return wrapped.merge_and_unload()
