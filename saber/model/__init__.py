"""Checkpoints and the Engine: a decoded clip and a prompt go in, typed events come out. The only folder that names Qwen
classes.

``load()`` gives an ``Engine``; ``Engine.stream(clip)`` yields ``Seen``, then ``sections.Event`` as text is generated,
then ``Done``. Training uses the parts below it: ``Checkpoint`` (model, processor, settings), ``Checkpoint.prepare``
(the only place where media and text become model inputs) and ``encode_media``. What differs between models (pixel
budget, fps, prompt, token limit) is data in the checkpoint's ``saber.json``, never a branch here. Read in this order:
``architecture``, ``checkpoint``, ``layout`` and ``adapter`` (what a folder holds), ``loading`` (from a name to a
checkpoint), ``answers`` (several clips at once), ``engine``; ``memory`` and ``export`` stand beside
them.
"""

import saber.model.torchvision_cpu  # noqa: F401  isort: skip (before whatever imports the Omni processor)
from saber.model.answers import answer_batch, scored_answer_batch
from saber.model.architecture import (
    ENCODER_INPUTS,
    MEDIA_TOKENS,
    PUBLISHED_SIZES,
    build_thinker,
    embed,
    encode_media,
    least_media,
    prompt_positions,
)
from saber.model.checkpoint import SETTINGS_FILE, Checkpoint, ModelError, Settings, build_checkpoint
from saber.model.confidence import section_scores
from saber.model.engine import NOTES, Done, Engine, Seen, load, seen_by
from saber.model.export import export_checkpoint
from saber.model.loading import (
    DEFAULT_MODEL,
    DTYPES,
    EMBEDDED,
    PRESETS,
    QUANTIZATIONS,
    WEIGHTS,
    load_checkpoint,
    load_plan,
    resolve,
)
from saber.model.memory import NoRoom, check_clip, lacks_memory

__all__ = [
    "DEFAULT_MODEL",
    "DTYPES",
    "EMBEDDED",
    "ENCODER_INPUTS",
    "MEDIA_TOKENS",
    "NOTES",
    "PRESETS",
    "PUBLISHED_SIZES",
    "QUANTIZATIONS",
    "SETTINGS_FILE",
    "WEIGHTS",
    "Checkpoint",
    "Done",
    "Engine",
    "ModelError",
    "NoRoom",
    "Seen",
    "Settings",
    "answer_batch",
    "build_checkpoint",
    "build_thinker",
    "check_clip",
    "embed",
    "encode_media",
    "export_checkpoint",
    "lacks_memory",
    "least_media",
    "load",
    "load_checkpoint",
    "load_plan",
    "prompt_positions",
    "resolve",
    "scored_answer_batch",
    "section_scores",
    "seen_by",
]
