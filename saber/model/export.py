"""Writes a checkpoint for others to serve: the thinker alone, named as in a published Qwen2.5-Omni.

transformers loads it as it loads the published one, and so does vLLM by its documentation, whose Qwen2.5-Omni reads
``thinker_config`` and tensors under ``thinker.`` and skips talker and vocoder
(docs.vllm.ai, vllm.model_executor.models.qwen2_5_omni_thinker). Not tried with vLLM itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import huggingface_hub

from saber.model.adapter import layer_in_file
from saber.model.checkpoint import Checkpoint, ModelError
from saber.model.layout import PREFIX


def export_checkpoint(checkpoint: Checkpoint, out: str | Path, shard_size: str = "5GB") -> Path:
    """Writes weights in the type they are held in (in shards of ``shard_size``, with an index where there are several),
    configuration, processor and settings into ``out``, a folder that is not there yet or empty. Returns it. Raises
    ModelError where the model is quantized or the folder holds something, OSError where it cannot be written."""
    out = Path(out)
    if getattr(checkpoint.model, "is_quantized", False):
        raise ModelError(f"model {checkpoint.name!r} was loaded in few bits; export it without quantization")
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty; give a folder that is not there yet")
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    model = checkpoint.model
    state = {PREFIX + layer_in_file(name): value.contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop(f"{PREFIX}lm_head.weight", None)  # the same numbers as the embeddings; once is enough
    huggingface_hub.save_torch_state_dict(state, part, max_shard_size=shard_size)
    dtype = str(model.dtype).removeprefix("torch.")
    config = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": False,  # no talker, no vocoder
        "dtype": dtype,
        "thinker_config": {**model.config.to_dict(), "dtype": dtype},
    }
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    model.generation_config.save_pretrained(part)
    checkpoint.processor.save_pretrained(part)
    checkpoint.save_settings(part)
    if out.exists():
        out.rmdir()
    os.replace(part, out)
    return out
