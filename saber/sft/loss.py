"""The loss of stage 1 (paper, Eq. 2), without the logits of a whole sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed
import torch.utils.checkpoint
from torch.nn.functional import cross_entropy

from saber.model import ENCODER_INPUTS, embed, encode_media, least_media
from saber.sft.examples import IGNORED


class AnswerLoss(torch.nn.Module):
    """Sum of the answer tokens' negative log-likelihoods (paper, Eq. 2), each times its weight, and of the weights.
    Differs from the paper: there all tokens count alike, as here where the weights are 1, the default.

    Logits are made for answer positions only, ``chunk`` rows at a time, and made again in the backward pass, so those
    of a whole sequence are never held. ``same_path``: for processes that wait for each other in each module or for each
    parameter's gradient: all run the same modules in the same order and as often, whatever tracks their clips have and
    however many answer tokens count, with weight 0 where there is nothing.
    """

    def __init__(
        self, model: torch.nn.Module, train_encoders: bool = False, chunk: int = 1024, same_path: bool = False
    ) -> None:
        super().__init__()
        self.model, self.train_encoders, self.chunk, self.same_path = model, train_encoders, chunk, same_path

    def forward(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """``batch``: as ``collate`` makes it. Returns two scalars."""
        kept = {kind: batch[f"{kind}_features"] for kind in ("video", "audio") if f"{kind}_features" in batch}
        missing = [kind for kind, key in ENCODER_INPUTS.items() if batch.get(key) is None]
        unused = least_media(self.model, missing) if self.same_path and not kept else {}
        with torch.set_grad_enabled(self.train_encoders and torch.is_grad_enabled()):
            features = encode_media(self.model, {**batch, **unused})
        idle = [features.pop(kind) for kind in missing if kind in features]
        hidden = self.model.model.language_model(
            inputs_embeds=embed(self.model, batch["input_ids"], features | kept),
            position_ids=batch["positions"],
            use_cache=False,
        ).last_hidden_state  # (B, S, width)
        wanted = batch["labels"][:, 1:] != IGNORED
        rows, targets, weights = (v[wanted] for v in (hidden[:, :-1], batch["labels"][:, 1:], batch["weights"][:, 1:]))
        total = rows.new_zeros((), dtype=torch.float32)
        for part in zip(*self._chunks(rows, targets, weights), strict=True):
            total = total + torch.utils.checkpoint.checkpoint(self._chunk_loss, *part, use_reentrant=False)
        for value in idle:
            total = total + 0 * value.float().sum()
        return total, weights.sum()

    def _chunks(self, *values: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """Each of ``values`` in parts of at most ``chunk`` rows; with ``same_path`` as many as the process needs that
        has most, some perhaps empty."""
        count = torch.tensor(max(1, math.ceil(len(values[0]) / self.chunk)), device=values[0].device)
        if self.same_path:
            torch.distributed.all_reduce(count, torch.distributed.ReduceOp.MAX)
        return [torch.tensor_split(value, int(count)) for value in values]

    def _chunk_loss(self, rows: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return cross_entropy(self.model.lm_head(rows).float(), targets, reduction="none") @ weights
