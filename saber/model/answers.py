"""Greedy answers of several clips at once, equal to one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from saber.model.architecture import MEDIA_TOKENS, embed, encode_media, prompt_positions
from saber.model.checkpoint import Checkpoint


def answer_batch(checkpoint: Checkpoint, batch: Sequence[Mapping[str, Any]], limit: int) -> list[list[int]]:
    """Greedy answers (token ids without the end token) of several prepared clips at once, equal to one by one.

    Clips of any length and any tracks may be mixed: each gets the rotary positions that it has alone. Prompts are
    padded on the left.
    """
    return [[token for token, _ in answer] for answer in scored_answer_batch(checkpoint, batch, limit)]


@torch.inference_mode()
def scored_answer_batch(
    checkpoint: Checkpoint, batch: Sequence[Mapping[str, Any]], limit: int
) -> list[list[tuple[int, float]]]:
    """``answer_batch`` with the natural logarithm of each token's probability: (token id, log-probability). The
    probability is that among the tokens that may be chosen: media placeholders have none. In 32 bit."""
    model, processor = checkpoint.model, checkpoint.processor
    text_model, device = model.model.language_model, model.device
    embeddings, positions = [], []
    for inputs in batch:
        on_device = {key: value.to(device) if torch.is_tensor(value) else value for key, value in inputs.items()}
        embeddings.append(embed(model, on_device["input_ids"], encode_media(model, on_device))[0])
        positions.append(prompt_positions(model, inputs))
    longest = max(map(len, embeddings))
    width = embeddings[0].shape[-1]
    hidden = embeddings[0].new_zeros(len(batch), longest, width)
    places = torch.ones(3, len(batch), longest, dtype=torch.long, device=device)
    mask = torch.zeros(len(batch), longest, dtype=torch.long, device=device)
    for row, (embedding, position) in enumerate(zip(embeddings, positions, strict=True)):
        hidden[row, longest - len(embedding) :] = embedding
        places[:, row, longest - len(embedding) :] = position.to(device)
        mask[row, longest - len(embedding) :] = 1
    following = torch.tensor([int(position.max()) + 1 for position in positions], device=device)
    ends = end_tokens(model)
    blocked = placeholders(processor.tokenizer)
    answers: list[list[tuple[int, float]]] = [[] for _ in batch]
    open_rows = set(range(len(batch)))
    cache = DynamicCache(config=model.config.get_text_config())
    for _ in range(limit):
        out = text_model(inputs_embeds=hidden, attention_mask=mask, position_ids=places, past_key_values=cache,
                         use_cache=True)  # fmt: skip
        logits = model.lm_head(out.last_hidden_state[:, -1])
        logits[:, blocked] = -torch.inf
        tokens = logits.argmax(-1)
        scores = logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        chosen = list(zip(tokens.tolist(), scores.tolist(), strict=True))
        for row in sorted(open_rows):
            if chosen[row][0] in ends:
                open_rows.discard(row)
            else:
                answers[row].append(chosen[row])
        if not open_rows:
            break
        hidden = model.get_input_embeddings()(tokens)[:, None]
        places = following.expand(3, -1)[..., None]
        following = following + 1
        mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
    return answers


def placeholders(tokenizer: Any) -> list[int]:
    """Media tokens: one in an answer would crash the next forward, so they are never chosen."""
    ids = (tokenizer.convert_tokens_to_ids(token) for token in MEDIA_TOKENS.values())
    return [token for token in ids if token is not None]


def end_tokens(model: torch.nn.Module) -> set[int]:
    end = model.generation_config.eos_token_id
    return set(end) if isinstance(end, (list, tuple)) else {end}
