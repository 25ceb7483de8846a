"""Bytes that the pieces of a model hold and need in a training step, found by running them on fake tensors.

Goes in: a configuration, sizes of a micro-batch, what is trained and in which precision. Comes out: a ``Footprint``.
Fake tensors have shapes, types and lifetimes, but no memory: a layer of a 7B model runs in milliseconds on a laptop, in
torch's own autograd, so what is saved for the backward pass is what the real step saves (norms in 32 bits, attention by
flash sdpa, adapters, checkpoints). Only few layers are run; they are alike, so all of them are a straight line.

For the text layer of a bfloat16 model trained in full this gives 20 h + 8 f + 4 k + 4 n + 8 bytes a token (h: width, f:
inner width of the MLP, k: width of keys, n: heads): two norms of 8 h; queries and attention's output 4 h; keys and
values 4 k; attention's log-sum-exp 4 n; four MLP tensors 8 f; the norms' scales 8. With checkpointing it is 2 h.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saber.model import build_thinker
from saber.sft.config import SFTConfig

#: What is really run: so many layers, and tokens (or patches, places, rows). Bytes are linear in both.
_LAYERS, _SIZES = (2, 3), (2048, 4096)


@dataclass(frozen=True)
class Footprint:
    """Bytes besides weights and their gradients. ``held``: between forward and backward; ``peak``: the most at once."""

    held: float
    peak: float


@dataclass(frozen=True)
class Line:
    """Footprints of two sizes of ``_SIZES``, and by them of any: bytes of activations grow with their number."""

    small: Footprint
    large: Footprint

    def at(self, size: int) -> Footprint:
        share = (size - _SIZES[0]) / (_SIZES[1] - _SIZES[0])
        held, peak = (
            max(0.0, getattr(self.small, name) + share * (getattr(self.large, name) - getattr(self.small, name)))
            for name in ("held", "peak")
        )
        return Footprint(held, max(held, peak))


@dataclass(frozen=True)
class Precision:
    """``trained``, ``frozen``: types of the weights as the forward pass meets them; ``autocast``: to bfloat16."""

    trained: torch.dtype
    frozen: torch.dtype
    autocast: bool


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operators make under it, for as long as each is alive. Works on fake tensors
    and on real ones. ``now``, ``peak``: bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if torch.is_tensor(leaf):
                self._note(leaf.untyped_storage(), known)
        return out

    def _note(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive or key in known:  # known but not alive: made before, such as a weight
            return
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def text_footprint(configuration: Any, config: SFTConfig, precision: Precision) -> Line:
    """The text model's layers and last norm, forward and backward; sizes are tokens."""

    def run(layers: int, tokens: int) -> Footprint:
        model = _build(configuration, config, precision, layers, lambda model: model.model.language_model)
        width = configuration.text_config.hidden_size
        dtype = precision.trained if config.tuning == "full" else precision.frozen
        positions = torch.zeros(3, 1, tokens, dtype=torch.long)

        def forward() -> torch.Tensor:
            embedded = torch.empty(1, tokens, width, dtype=dtype, requires_grad=config.tuning == "full")
            return model(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state

        return _measure(forward, precision)

    return _line(run, configuration.text_config.num_hidden_layers)


def vision_footprint(configuration: Any, config: SFTConfig, precision: Precision) -> Line:
    """The vision encoder, inputs included; sizes are patches. Flash attention takes the same bytes in any windows."""
    sizes = configuration.vision_config

    def run(layers: int, patches: int) -> Footprint:
        tower = _build(configuration, config, precision, layers, lambda model: model.model.visual)
        channels = sizes.in_channels * sizes.temporal_patch_size * sizes.patch_size**2
        turned = torch.empty(patches, sizes.hidden_size // sizes.num_heads)
        pixels = []

        def forward() -> torch.Tensor:
            pixels.append(torch.empty(patches, channels))  # of the batch: there until the step ends
            hidden = tower.patch_embed(pixels[0])
            for block in tower.blocks:
                hidden = block(hidden, cu_seqlens=np.array([0, patches]), position_embeddings=(turned, turned))
            return tower.merger(hidden)

        return _measure(forward, precision, config.train_encoders)

    return _line(run, sizes.depth)


def audio_footprint(configuration: Any, config: SFTConfig, precision: Precision) -> Line:
    """The audio encoder, inputs included; sizes are its places, 50 a second."""
    sizes = configuration.audio_config

    def run(layers: int, places: int) -> Footprint:
        tower = _build(configuration, config, precision, layers, lambda model: model.model.audio_tower)
        sounds = []

        def forward() -> torch.Tensor:
            sounds.append(torch.empty(1, sizes.num_mel_bins, 2 * places))  # two mel frames a place
            hidden = torch.nn.functional.gelu(tower.conv1(sounds[0].to(tower.conv1.weight.dtype)))
            hidden = torch.nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2).reshape(places, -1)
            for layer in tower.layers:
                hidden = layer(hidden, cu_seqlens=np.array([0, places]))[0]
            return tower.proj(tower.ln_post((hidden[0::2] + hidden[1::2]) / 2))

        return _measure(forward, precision, config.train_encoders)

    return _line(run, sizes.encoder_layers)


def loss_footprint(configuration: Any, config: SFTConfig, precision: Precision) -> Line:
    """One chunk of the loss, forward and again in the backward pass; sizes are rows of logits."""

    def run(layers: int, rows: int) -> Footprint:
        head = _build(configuration, config, precision, layers, lambda model: model.lm_head)
        dtype = torch.bfloat16 if config.bf16 else torch.float32

        def chunk(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return cross_entropy(head(hidden).float(), targets, reduction="sum")

        def forward() -> torch.Tensor:
            hidden = torch.empty(rows, configuration.text_config.hidden_size, dtype=dtype, requires_grad=True)
            targets = torch.zeros(rows, dtype=torch.long)
            return torch.utils.checkpoint.checkpoint(chunk, hidden, targets, use_reentrant=False)

        return _measure(forward, precision)

    return _line(run, 1)


def _build(
    configuration: Any, config: SFTConfig, precision: Precision, layers: int, choose: Callable[[Any], Any]
) -> Any:
    """The chosen part of a model with so many layers, of fake tensors (to be called under a FakeTensorMode), prepared
    as ``config.tuning`` says; gradients exist, as between micro-batches."""
    with unset_fake_temporarily(), torch.device("meta"):
        model = build_thinker(configuration, precision.frozen, layers).train()
        model.requires_grad_(config.tuning == "full")
        for tower in (model.model.visual, model.model.audio_tower):
            tower.requires_grad_(config.train_encoders)
        if config.gradient_checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # its name is about to change
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        part = choose(model)
        if config.tuning != "full" and part is model.model.language_model:
            _add_adapters(part, config)
    for module in part.modules():
        for name, values in module.named_parameters(recurse=False):
            dtype = precision.trained if values.requires_grad else precision.frozen
            fake = torch.nn.Parameter(torch.empty(values.shape, dtype=dtype), values.requires_grad)
            if values.requires_grad:
                fake.grad = torch.empty_like(fake)
            setattr(module, name, fake)
        for name, values in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(values.shape, dtype=values.dtype)
    return part


def _add_adapters(text_model: torch.nn.Module, config: SFTConfig) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    names = {
        name.rsplit(".", 1)[-1] for name, module in text_model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    lora = LoraConfig(
        r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, target_modules=sorted(names)
    )
    inject_adapter_in_model(lora, text_model)
    for module in list(text_model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Dropout) and child.p > 0:
                setattr(module, name, _GpuDropout(child.p))


class _GpuDropout(torch.nn.Dropout):
    """Dropout as a GPU does it, with a mask of one byte a number; a CPU's mask has the input's type."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.native_dropout(values, self.p, self.training)[0]


def _measure(forward: Callable[[], torch.Tensor], precision: Precision, backward: bool = True) -> Footprint:
    """Runs ``forward`` and, where something is trained, the backward pass."""
    with LiveBytes() as live:
        with _autocast(precision), torch.set_grad_enabled(backward):
            out = forward()
        held = live.now
        if backward:
            out.backward(torch.empty_like(out))
        return Footprint(held, live.peak)


@contextlib.contextmanager
def _autocast(precision: Precision) -> Iterator[None]:
    # Of the CPU, since fake tensors are there: its lists treat every operator of these layers as a GPU's do.
    with torch.autocast("cpu", torch.bfloat16, enabled=precision.autocast):
        yield


def _line(run: Callable[[int, int], Footprint], layers: int) -> Line:
    """The line through what ``run(layers, size)`` gives for few layers and two sizes, carried on to all layers."""
    few, more = _LAYERS
    ends = []
    for size in _SIZES:
        if layers <= more:
            with FakeTensorMode():
                ends.append(run(layers, size))
            continue
        found = []
        for count in _LAYERS:
            with FakeTensorMode():
                found.append(run(count, size))
        first, second = found
        rest = (layers - few) / (more - few)
        ends.append(
            Footprint(first.held + rest * (second.held - first.held), first.peak + rest * (second.peak - first.peak))
        )
    return Line(*ends)
