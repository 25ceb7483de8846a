"""What frozen encoders give for a clip, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from saber import media
from saber.model import ENCODER_INPUTS, MEDIA_TOKENS, Checkpoint, encode_media
from saber.schema import Clip
from saber.sft.examples import Example, build_example, example_stream
from saber.sft.rows import Row


class MediaCache:
    """What frozen encoders give for each clip, computed once and kept on disk, 16 bit, one small file a clip.

    ``folder`` None: nothing is kept, clips are decoded whenever they are needed. Files are named by the clip (path,
    size and time), the media settings, the media tokens' numbers and the encoders' weights, so that nothing stale is
    read back.
    """

    def __init__(self, checkpoint: Checkpoint, folder: str | Path | None) -> None:
        self.checkpoint, self.folder = checkpoint, Path(folder) if folder else None
        if self.folder:
            settings = json.dumps(checkpoint.settings.media.to_json(), sort_keys=True)
            tokens = checkpoint.processor.tokenizer.convert_tokens_to_ids([*MEDIA_TOKENS.values()])
            digest = hashlib.sha256(f"{settings} {tokens}".encode())
            for encoder in (checkpoint.model.model.visual, checkpoint.model.model.audio_tower):
                for parameter in encoder.parameters():
                    digest.update(parameter.detach().half().cpu().numpy().tobytes())
            self.fingerprint = digest.hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        """What a worker gets that is not forked: all but the weights, which it has no use for."""
        return {**self.__dict__, "checkpoint": self.checkpoint.without_weights()}

    def load(self, clip: Clip) -> dict[str, Any]:
        """``Checkpoint.media_inputs`` of the clip, or, where it is kept, the same with "video_features" and
        "audio_features" in the place of the encoders' inputs. Raises media.MediaError, also where ``fill`` met one:
        clips that are encoded and others do not go into one batch."""
        path = self._path(clip)
        if path is None or not path.exists():
            if path and (error := _error_file(path)).exists():
                raise media.MediaError(**json.loads(error.read_text(encoding="utf-8")))
            return self._decode(clip)
        with np.load(path) as arrays:
            inputs: dict[str, Any] = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        inputs["use_audio_in_video"] = bool(inputs["use_audio_in_video"])
        return inputs

    def fill(self, clips: Sequence[Clip], workers: int, share: slice = slice(None)) -> None:
        """Encodes the clips that are not kept yet, of the different ones those of ``share``. Decoding runs ahead in
        ``workers`` processes. What cannot be decoded is noted; training names it when it meets it."""
        known = list({path: clip for clip in clips if (path := self._path(clip))}.items())
        missing = {path: clip for path, clip in known[share] if not path.exists()}
        if not missing:
            return
        stream = example_stream(self._decode, [[clip] for clip in missing.values()], workers)
        model = self.checkpoint.model
        device = model.model.visual.device
        for path, (inputs,) in tqdm(zip(missing, stream, strict=True), total=len(missing), unit="clip", desc="encode"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(inputs, media.MediaError):
                text = json.dumps({"reason": inputs.reason, "clip": inputs.clip, "values": inputs.values})
                _error_file(path).write_text(text, encoding="utf-8")
                continue
            with torch.inference_mode():
                on_device = {k: v.to(device) if torch.is_tensor(v) else v for k, v in inputs.items()}
                features = encode_media(model, on_device)
            kept = {key: np.asarray(value) for key, value in inputs.items()
                    if key not in ENCODER_INPUTS.values()}  # fmt: skip
            kept |= {f"{kind}_features": value.half().cpu().numpy() for kind, value in features.items()}
            if "feature_attention_mask" in kept:
                kept["feature_attention_mask"] = kept["feature_attention_mask"].astype(np.uint8)
            part = path.with_suffix(f".{os.getpid()}.part")
            with part.open("wb") as file:
                np.savez(file, **kept)
            os.replace(part, path)
            _error_file(path).unlink(missing_ok=True)

    def _decode(self, clip: Clip) -> dict[str, Any]:
        return self.checkpoint.media_inputs(media.decode_here(clip, self.checkpoint.settings.media))

    def _path(self, clip: Clip) -> Path | None:
        if self.folder is None:
            return None
        try:
            file = os.stat(clip.path)
        except OSError:
            return None  # decoding it tells what is wrong
        name = f"{clip.path}\0{file.st_size} {file.st_mtime_ns}\0{clip.start_s}\0{clip.end_s}\0{self.fingerprint}"
        name += f"\0{clip.span}" if clip.span else ""
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        return self.folder / digest[:2] / f"{digest}.npz"


def _error_file(path: Path) -> Path:
    return path.with_suffix(".error.json")


@dataclass(frozen=True)
class ExampleBuilder:
    """What a loader's worker makes of a row."""

    cache: MediaCache
    prompts: Mapping[str, str]
    reasoning_weight: float = 1.0

    def example(self, row: Row) -> Example:
        inputs = self.cache.load(row.clip)
        prompt = self.prompts[row.prompt]
        return build_example(self.cache.checkpoint, inputs, prompt, row.answer, self.reasoning_weight)
