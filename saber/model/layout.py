"""What a folder or a Hub repository holds, read from its small files before anything large is fetched or loaded.

Taken: a thinker alone (``qwen2_5_omni_thinker``), or a whole Qwen2.5-Omni as published (``qwen2_5_omni``: the thinker's
tensors under a prefix, talker and vocoder beside them), in one safetensors file or in shards with an index; and LoRA
adapters in peft's format. Whatever else it is, the error says what, and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
from safetensors import SafetensorError, safe_open
from transformers import Qwen2_5OmniThinkerConfig

from saber.model.checkpoint import ModelError

MODEL_TYPES = ("qwen2_5_omni", "qwen2_5_omni_thinker")
#: Tensors that a published checkpoint has beside the thinker's: they speak, and are left out.
SPEAKING = ("talker.", "token2wav.")
PREFIX = "thinker."
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: Files that run code when they are opened. The published checkpoints hold one that nobody needs here: the voices.
PICKLES, VOICES = (".bin", ".pt", ".pth", ".ckpt", ".pkl"), "spk_dict.pt"
SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True)
class Layout:
    """A checkpoint's folder. ``name``: how messages call it; ``config``: its config.json."""

    name: str
    folder: Path
    config: Mapping[str, Any]

    @cached_property
    def thinker_config(self) -> dict[str, Any]:
        """The thinker's configuration, with what the file leaves to the defaults. Raises ModelError where it is odd."""
        try:
            return Qwen2_5OmniThinkerConfig.from_dict(dict(self.config.get("thinker_config", self.config))).to_dict()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{self.name!r}: config.json cannot be used ({error}); get it again") from error

    @cached_property
    def tensors(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The thinker's tensors without the prefix: name -> shape and safetensors' name of the type. Reads the headers
        of the files alone; raises ModelError where one is torn."""
        found = {}
        for file in weight_files(self.name, {path.name for path in self.folder.iterdir()}, self.folder):
            for name, shape, kind in headers(self.name, self.folder / file):
                if not name.startswith(SPEAKING):
                    found[name.removeprefix(PREFIX)] = (shape, kind)
        return found


def find_checkpoint(name: str, revision: str | None = None) -> Layout:
    """A folder, or a Hub id fetched into the Hub's cache, small files first. Raises ModelError naming it and what to do
    where it is not there, not allowed, of another architecture, pickled, incomplete or torn."""
    folder, files = _small_files(name, revision)
    if "config.json" not in files:
        if ADAPTER in files:
            base = read_json(name, folder / ADAPTER).get("base_model_name_or_path")
            raise ModelError(f"model {name!r} is an adapter for {base!r}: load that model, with adapter={name!r}")
        raise ModelError(f"model {name!r} holds no config.json; it is no checkpoint: {sorted(files)[:5]}")
    config = read_json(name, folder / "config.json")
    if (kind := config.get("model_type")) not in MODEL_TYPES:
        classes = ", ".join(config.get("architectures") or ("no architecture",))
        raise ModelError(
            f"model {name!r} has model_type {kind!r} ({classes}), not one of {', '.join(MODEL_TYPES)}: SABER runs on "
            "Qwen2.5-Omni and its thinker"
        )
    wanted = weight_files(name, files, folder)
    if not Path(name).is_dir():
        folder = _fetch(name, revision, wanted)
    layout = Layout(name, folder, config)
    if not layout.tensors:
        raise ModelError(f"model {name!r}: its weight files hold no tensor of a thinker; get it again")
    return layout


@dataclass(frozen=True)
class AdapterLayout:
    """An adapter's folder. ``config``: its adapter_config.json; ``tensors``: shapes by their names in the file."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]


def find_adapter(name: str, revision: str | None = None) -> AdapterLayout:
    """A LoRA adapter's folder or Hub id, fetched. Raises ModelError where it is none, or pickled, or torn."""
    folder, files = _small_files(name, revision)
    if ADAPTER not in files:
        raise ModelError(f"adapter {name!r} holds no {ADAPTER}; it is no adapter that peft has written")
    config = read_json(name, folder / ADAPTER)
    if config.get("peft_type") != "LORA":
        raise ModelError(f"adapter {name!r} is of type {config.get('peft_type')!r}; only LoRA adapters are taken")
    if ADAPTER_WEIGHTS not in files:
        _refuse_pickles("adapter", name, files)
        raise ModelError(f"adapter {name!r} holds no {ADAPTER_WEIGHTS}; get it again")
    if not Path(name).is_dir():
        folder = _fetch(name, revision, [ADAPTER_WEIGHTS])
    tensors = {key: shape for key, shape, _ in headers(name, folder / ADAPTER_WEIGHTS)}
    return AdapterLayout(name, folder, config, tensors)


def weight_files(name: str, files: Collection[str], folder: Path) -> list[str]:
    """The files that hold a checkpoint's weights, of those that are there. Raises ModelError where one is missing."""
    if WEIGHTS in files:
        return [WEIGHTS]
    if INDEX not in files:
        _refuse_pickles("model", name, files)
        raise ModelError(f"model {name!r} holds no weights: neither {WEIGHTS} nor {INDEX}; get it again")
    weight_map = read_json(name, folder / INDEX).get("weight_map", {})
    shards = sorted(set(weight_map.values()))
    if missing := [shard for shard in shards if shard not in files]:
        raise ModelError(
            f"model {name!r} lacks {missing[0]}, one of its {len(shards)} shards ({len(missing)} missing); get it again"
        )
    return shards


def headers(name: str, path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(tensor's name, shape, type) from a safetensors file's header. Raises ModelError where the file is torn."""
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (it is no dict)
                part = file.get_slice(key)
                yield key, tuple(part.get_shape()), part.get_dtype()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{name!r}: {path.name} cannot be read ({error}); get it again") from error


def read_json(name: str, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name!r}: {path.name} cannot be read ({error}); get it again") from error
    if not isinstance(record, dict):
        raise ModelError(f"{name!r}: {path.name} is no JSON object; get it again")
    return record


def _refuse_pickles(kind: str, name: str, files: Collection[str]) -> None:
    if pickled := sorted(file for file in files if file.endswith(PICKLES) and file != VOICES):
        raise ModelError(
            f"{kind} {name!r} has its weights in {pickled[0]}, a pickle: opening one can run whatever it holds, so it "
            "is not loaded; take a version in safetensors, or convert it where you trust it"
        )


def _small_files(name: str, revision: str | None) -> tuple[Path, set[str]]:
    """The folder with a checkpoint's small files, and the names of all of its files."""
    local = Path(name)
    if local.is_dir():
        if revision is not None:
            raise ModelError(f"revision is {revision!r}, but {name!r} is a folder; revisions are the Hub's")
        return local, {path.name for path in local.iterdir()}
    folder = _fetch(name, revision, SMALL_FILES)
    try:
        files = set(huggingface_hub.HfApi().list_repo_files(name, revision=revision))
    except (huggingface_hub.errors.OfflineModeIsEnabled, OSError):  # then what is in the cache is all there is
        files = {path.name for path in folder.iterdir()}
    return folder, files


def _fetch(name: str, revision: str | None, files: Collection[str]) -> Path:
    """Fetches files of a Hub repository; what is in the cache already is not fetched again."""
    errors, where = huggingface_hub.errors, f"https://huggingface.co/{name}"
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name!r} is gated: ask for access at {where}, then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name!r} has no revision {revision!r}: see {where}/tree/main") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{name!r} is not on the Hub, or is private: check the name; for a private one, log in with `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(f"{name!r} is not in the cache and the Hub cannot be reached: {_last_cause(error)}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{name!r} cannot be fetched ({_last_cause(error)}); try again, it goes on from there"
        ) from error


def _last_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]
