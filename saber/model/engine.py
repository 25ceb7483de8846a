"""The Engine: a clip goes in, typed events come out while the model writes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from saber import media
from saber.model.answers import end_tokens, placeholders
from saber.model.checkpoint import Checkpoint, ModelError
from saber.model.confidence import section_scores
from saber.model.loading import load_checkpoint
from saber.model.memory import check_clip
from saber.schema import LANGUAGES, Clip, Prediction
from saber.sections import Event, Parser

#: Note -> language -> sentence, about an answer; those about the clip and the text are media's and sections'.
NOTES = {
    "answer_cut_off": {
        "en": "The answer reached its bound and was cut off.",
        "zh": "回答达到长度上限，被截断。",
    },
}


@dataclass(frozen=True)
class Seen:
    """What the model was given, once the clip is decoded. ``notes``: keys of media.NOTES (a track is missing, ...);
    ``remarks``: the same as English sentences."""

    frames: int
    video_s: float
    audio_s: float
    prompt_tokens: int
    video_tokens: int
    audio_tokens: int
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def usage(self) -> dict[str, Any]:
        """The numbers, as a prediction's ``usage`` has them."""
        return {name: value for name, value in asdict(self).items() if name not in ("notes", "remarks")}


@dataclass(frozen=True)
class Done:
    prediction: Prediction


class _Stop(StoppingCriteria):
    """Ends generation within one token once the flag is up."""

    def __init__(self, flag: threading.Event) -> None:
        self.flag = flag

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.flag.is_set(), dtype=torch.bool, device=input_ids.device)


class _Sure(LogitsProcessor):
    """Keeps the log-probability of each token that greedy decoding chooses. It comes last, so that it sees what may be
    chosen."""

    def __init__(self) -> None:
        self.log_probabilities: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.log_probabilities.append(scores[0].float().log_softmax(-1).amax())
        return scores


class _Tokens:
    """What ``generate`` calls a streamer: hands over token ids as they come; the first call holds the prompt."""

    def __init__(self, out: queue.SimpleQueue) -> None:
        self.out, self.prompt_skipped = out, False

    def put(self, ids: torch.Tensor) -> None:
        if self.prompt_skipped:
            for token in ids.flatten().tolist():
                self.out.put(token)
        self.prompt_skipped = True

    def end(self) -> None:
        pass


class Engine:
    """Answers clips with one checkpoint. Generation is serialised by a lock: one model, one answer at a time."""

    def __init__(self, checkpoint: Checkpoint, limits: media.Limits | None = None) -> None:
        self.checkpoint = checkpoint
        self.limits = limits or media.Limits()
        self.name = checkpoint.name
        parameters = sum(p.numel() for p in checkpoint.model.parameters())
        self.about = {"title": checkpoint.name, "parameters": parameters, **checkpoint.settings.about}
        self._lock = threading.Lock()

    def stream(
        self, clip: Clip, language: str | None = None, tracks: str = "both", max_new_tokens: int | None = None
    ) -> Generator[Seen | Event | Done, None, None]:
        """Yields ``Seen``, then each ``Event`` as it is generated, then ``Done``. Greedy.

        ``language``: "en", "zh", None for the clip's. ``tracks``: "both", "picture", "sound". Closing the generator
        stops the model within one token. Raises media.MediaError for a clip that cannot be used.
        """
        _check_language(language)
        started = time.perf_counter()
        decoded = self.decode(clip, tracks)
        seconds = time.perf_counter() - started
        yield from self.answer(decoded, clip.id, language, tracks, max_new_tokens, seconds)

    def decode(self, clip: Clip, tracks: str = "both") -> media.Decoded:
        """The clip as this model is given it. Raises media.MediaError."""
        return media.decode(clip, self.checkpoint.settings.media, self.limits, tracks)

    def answer(
        self,
        decoded: media.Decoded,
        clip: str = "",
        language: str | None = None,
        tracks: str = "both",
        max_new_tokens: int | None = None,
        decode_s: float = 0.0,
    ) -> Generator[Seen | Event | Done, None, None]:
        """``stream`` for a clip that is decoded already. ``clip``: its name; ``tracks``: what ``decoded`` holds
        (``Decoded.only`` takes a track away); ``decode_s``: seconds that decoding took, for ``usage``."""
        _check_language(language)
        started = time.perf_counter() - decode_s
        checkpoint = self.checkpoint
        inputs = checkpoint.prepare(decoded, language)
        seen = seen_by(checkpoint, decoded, inputs)
        limit = max_new_tokens or checkpoint.settings.max_new_tokens
        tokens = {"video": seen.video_tokens, "sound": seen.audio_tokens, "prompt": seen.prompt_tokens, "answer": limit}
        model = checkpoint.model
        check_clip(self.name, model.config.to_dict(), model.dtype, str(model.device), tokens)
        parser, pieces, ids, first_at = Parser(), [], [], None
        with closing(self._generate(inputs, limit)) as written:
            yield seen  # the model reads on while this is shown
            for token, text, log_probability in written:
                first_at = first_at or time.perf_counter()
                ids.append((token, log_probability))
                pieces.append(text)
                yield from parser.feed(text)
        yield from parser.close()
        parsed = parser.result()
        notes = [*seen.notes, *parsed.notes]
        if len(ids) >= limit:
            notes.append("answer_cut_off")
        ended = time.perf_counter()
        usage = {
            **seen.usage(),
            "answer_tokens": len(ids),
            "decode_s": round(decode_s, 4),
            "first_token_s": round((first_at or ended) - started, 4),
            "total_s": round(ended - started, 4),
        }
        yield Done(
            Prediction(
                clip=clip,
                annotation=parsed.annotation,
                raw="".join(pieces),
                model=self.name,
                language=language or "",
                tracks=tracks,
                notes=tuple(notes),
                usage=usage,
                log_probabilities=section_scores(checkpoint.processor.tokenizer, ids),
            )
        )

    def analyze(self, clip: Clip, language: str | None = None, tracks: str = "both", **options: Any) -> Prediction:
        """The whole answer at once."""
        for event in self.stream(clip, language, tracks, **options):
            last = event
        return last.prediction

    def _generate(self, inputs: Mapping[str, Any], limit: int) -> Generator[tuple[int, str, float], None, None]:
        """Sets the model going, and gives (token id, its text, its log-probability) one by one; the text may be empty
        while a character is incomplete. Closing it stops the model."""
        written = self._written(inputs, limit)
        next(written)
        return written

    def _written(self, inputs: Mapping[str, Any], limit: int) -> Generator[Any, None, None]:
        model, processor = self.checkpoint.model, self.checkpoint.processor
        tokenizer = processor.tokenizer
        out: queue.SimpleQueue = queue.SimpleQueue()
        flag, sure = threading.Event(), _Sure()
        batch = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in inputs.items()}

        def work() -> None:
            try:
                while not self._lock.acquire(timeout=0.05):  # another answer is being written
                    if flag.is_set():
                        return
                try:
                    with torch.inference_mode():
                        model.generate(
                            **batch,
                            max_new_tokens=limit,
                            do_sample=False,
                            suppress_tokens=placeholders(tokenizer),
                            logits_processor=LogitsProcessorList([sure]),
                            stopping_criteria=StoppingCriteriaList([_Stop(flag)]),
                            streamer=_Tokens(out),
                        )
                finally:
                    self._lock.release()
            except BaseException as error:  # handed over to the reader's thread, raised there
                out.put(error)
            finally:
                out.put(None)

        thread = threading.Thread(target=work, name="saber-generate", daemon=True)
        thread.start()
        decoder = DecodeStream(skip_special_tokens=True)
        ends = end_tokens(model)
        count = 0
        try:
            yield None  # the model is at work
            while (item := out.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                count += 1
                if item not in ends:
                    text = decoder.step(tokenizer.backend_tokenizer, item) or ""
                    yield item, text, float(sure.log_probabilities[count - 1])
        finally:
            flag.set()
            thread.join()


def _check_language(language: str | None) -> None:
    if language not in (None, *LANGUAGES):
        raise ModelError(f"language is {language!r}; it must be one of {LANGUAGES} or None for the clip's own")


def seen_by(checkpoint: Checkpoint, decoded: media.Decoded, inputs: Mapping[str, Any]) -> Seen:
    """What a prepared clip holds."""
    ids, config = inputs["input_ids"], checkpoint.model.config
    return Seen(
        frames=0 if decoded.frames is None else len(decoded.frames),
        video_s=0.0 if decoded.frames is None else round(decoded.picture_s, 3),
        audio_s=0.0 if decoded.audio is None else round(decoded.sound_s, 3),
        prompt_tokens=int(ids.shape[1]),
        video_tokens=int((ids == config.video_token_id).sum()),
        audio_tokens=int((ids == config.audio_token_id).sum()),
        notes=tuple(decoded.notes),
        remarks=decoded.note_sentences(),
    )


def load(name_or_path: str | Path | None = None, **options: Any) -> Engine:
    """The Engine for a checkpoint: None is the embedded SABER-Mini; else a folder or a Hub id. ``options``: adapter,
    quantization, device, dtype, revision, preset, as in ``load_checkpoint``."""
    return Engine(load_checkpoint(name_or_path, **options))
