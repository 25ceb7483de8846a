"""The loss of stage 1 (paper, Eq. 2), without the logits of a whole sequence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.utils.checkpoint
from torch.nn.functional import cross_entropy

from saber.model import embed, encode_media, least_media
from saber.sft.examples import IGNORED


class AnswerLoss(torch.nn.Module):
    """Sum of the answer tokens' negative log-likelihoods (paper, Eq. 2) and their number.

    Logits are made for answer positions only, ``chunk`` rows at a time, and made again in the backward pass, so those
    of a whole sequence are never held. ``same_path``: every batch runs the same modules, whatever tracks its clips
    have and even if no answer token counts, with weight 0 where there is nothing; processes that wait for each other
    in each module or for each parameter's gradient need that.
    """

    def __init__(
        self, model: torch.nn.Module, train_encoders: bool = False, chunk: int = 1024, same_path: bool = False
    ) -> None:
        super().__init__()
        self.model, self.train_encoders, self.chunk, self.same_path = model, train_encoders, chunk, same_path

    def forward(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """``batch``: as ``collate`` makes it. Returns two scalars."""
        kept = {kind: batch[f"{kind}_features"] for kind in ("video", "audio") if f"{kind}_features" in batch}
        with torch.set_grad_enabled(self.train_encoders and torch.is_grad_enabled()):
            features = encode_media(self.model, batch)
            unused = {}
            if self.same_path and not kept:
                missing = least_media(self.model, [kind for kind in ("video", "audio") if kind not in features])
                unused = encode_media(self.model, missing)
        hidden = self.model.model.language_model(
            inputs_embeds=embed(self.model, batch["input_ids"], features | kept),
            position_ids=batch["positions"],
            use_cache=False,
        ).last_hidden_state  # (B, S, width)
        wanted = batch["labels"][:, 1:] != IGNORED
        rows, targets = hidden[:, :-1][wanted], batch["labels"][:, 1:][wanted]
        total = rows.new_zeros((), dtype=torch.float32)
        if self.same_path and not len(rows):
            total = total + 0 * self._chunk_loss(hidden[:, 0], batch["input_ids"][:, 0])
        for start in range(0, len(rows), self.chunk):
            part = slice(start, start + self.chunk)
            total = total + torch.utils.checkpoint.checkpoint(self._chunk_loss, rows[part], targets[part],
                                                              use_reentrant=False)  # fmt: skip
        for value in unused.values():
            total = total + 0 * value.float().sum()
        return total, wanted.sum()

    def _chunk_loss(self, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(self.model.lm_head(rows).float(), targets, reduction="sum")
