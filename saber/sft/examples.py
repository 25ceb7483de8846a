"""Examples: a row as model inputs and labels, batches of them, and the stream that workers build ahead of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from saber import media
from saber.model import Checkpoint, prompt_positions
from saber.sections import OPEN_TAGS
from saber.sft.rows import Row

IGNORED = -100
#: Batches that each worker is asked for ahead of the model.
AHEAD = 4


@dataclass
class Example:
    """One clip and one answer as model inputs. ``input_ids`` (S,), ``labels`` (S,) with IGNORED before the answer,
    ``weights`` (S,) how much each label counts, ``positions`` (3, S); ``media`` the encoder inputs."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor
    media: dict[str, Any]

    def __len__(self) -> int:
        return len(self.input_ids)


def build_example(
    checkpoint: Checkpoint, inputs: Mapping[str, Any], prompt: str, answer: str, reasoning_weight: float = 1.0
) -> Example:
    """Prompt, then answer and end token. Labels decode to exactly the answer and the end token.

    ``inputs``: ``Checkpoint.media_inputs``. ``prompt``: the prompt's text. ``reasoning_weight``: how much a label from
    the reasoning on counts, where one of the evidence before it counts 1.
    """
    tokenizer = checkpoint.processor.tokenizer
    full = checkpoint.with_prompt(inputs, prompt)
    answer_ids = torch.tensor([*tokenizer.encode(answer), tokenizer.eos_token_id])
    prompt_ids = full["input_ids"][0]
    weights = torch.ones(len(prompt_ids) + len(answer_ids))
    if (reasoning := answer.find(OPEN_TAGS["reasoning"])) >= 0:
        weights[len(prompt_ids) + len(tokenizer.encode(answer[:reasoning])) :] = reasoning_weight
    positions = prompt_positions(checkpoint.model, full)
    after = positions.max() + 1 + torch.arange(len(answer_ids)).expand(3, -1)
    return Example(
        input_ids=torch.cat([prompt_ids, answer_ids]),
        labels=torch.cat([torch.full_like(prompt_ids, IGNORED), answer_ids]),
        weights=weights,
        positions=torch.cat([positions, after], dim=1),
        media={key: value for key, value in inputs.items() if key != "media_ids"},
    )


def with_token_noise(example: Example, share: float, seed: int) -> Example:
    """The example where of the answer's tokens about ``share`` are read as another one of the same answer; what is to
    be written stays. A model that has only ever read faultless answers trusts its own text more than the clip, and
    after a slip of its own it writes in circles."""
    answered = example.labels != IGNORED
    answer = example.input_ids[answered]
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.rand(len(answer), generator=generator) < share
    others = answer[torch.randint(len(answer), answer.shape, generator=generator)]
    input_ids = example.input_ids.clone()
    input_ids[answered] = torch.where(noisy, others, answer)
    return replace(example, input_ids=input_ids)


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-padded ``input_ids``, ``labels``, ``weights`` (B, S), ``positions`` (3, B, S); media tensors one after the
    other, in the order of their placeholders. Right padding needs no attention mask: causal attention never looks at
    it."""
    longest = max(len(example) for example in examples)

    def pad(values: torch.Tensor, value: int) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, longest - values.shape[-1]), value=value)

    batch = {
        "input_ids": torch.stack([pad(example.input_ids, pad_token_id) for example in examples]),
        "labels": torch.stack([pad(example.labels, IGNORED) for example in examples]),
        "weights": torch.stack([pad(example.weights, 0) for example in examples]),
        "positions": torch.stack([pad(example.positions, 0) for example in examples], dim=1),
    }
    for key in ("video_features", "audio_features", "pixel_values_videos", "video_grid_thw"):
        parts = [example.media[key] for example in examples if key in example.media]
        if parts:
            batch[key] = torch.cat(parts)
    sounds = [example.media for example in examples if "input_features" in example.media]
    if sounds:
        frames = max(sound["input_features"].shape[-1] for sound in sounds)
        for key in ("input_features", "feature_attention_mask"):
            padded = [torch.nn.functional.pad(sound[key], (0, frames - sound[key].shape[-1])) for sound in sounds]
            batch[key] = torch.cat(padded)
    return batch


class _Built(torch.utils.data.Dataset):
    """Item -> what ``build`` makes of it, or the error that its clip raised (named and counted by the loop)."""

    def __init__(self, build: Callable[[Any], Any]) -> None:
        self.build = build

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.build(item)
        except media.MediaError as error:
            return error
        except Exception as error:  # a bug, which nobody finds without the clip
            raise RuntimeError(f"clip {getattr(item, 'clip', item).name}: {type(error).__name__}: {error}") from error


def _use_one_thread(_: int) -> None:
    torch.set_num_threads(1)


def allow_many_files() -> None:
    """Every tensor that a worker hands over holds an open file in both processes until it is used: a few batches hold
    thousands, and an ordinary limit is 1,024. A process may raise its own."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**16 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def example_stream(
    build: Callable[[Row], Example], batches: Iterable[list[Row]], workers: int
) -> Iterator[list[Example | media.MediaError]]:
    """Lists of examples, one list a batch of rows, built ahead of the model in ``workers`` processes. ``batches`` is
    read as far as they have got and no further, so it may be endless."""
    allow_many_files()
    loader = torch.utils.data.DataLoader(
        _Built(build),
        batch_sampler=batches,  # what the loader takes for indices are the rows themselves
        num_workers=workers,
        collate_fn=list,
        prefetch_factor=AHEAD if workers else None,
        worker_init_fn=_use_one_thread,
    )
    yield from loader
