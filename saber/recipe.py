"""Recipes: a frozen dataclass filled from a YAML file and from the command line, in that order.

Goes in: a configuration class, ``argv``. Comes out: the configuration. A recipe holds only what differs from the
class's defaults; an unknown key, in the file or on the command line, is an error that names the nearest valid one.
``add_model_options`` are the options of every command that loads a checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import platform
import sys
import typing
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import yaml

Config = TypeVar("Config")

VERSIONS = (
    "torch", "transformers", "tokenizers", "accelerate", "deepspeed", "peft", "bitsandbytes", "trl", "datasets",
    "numpy", "av", "skia-python", "espeakng-loader",
)  # fmt: skip


class RecipeError(ValueError):
    """A recipe or an option is wrong. The message names the key, the value and the nearest valid key."""


def parse_recipe(kind: type[Config], default: Path | None, argv: list[str] | None = None) -> Config:
    """``--config FILE`` (default: ``default``), then ``--field value`` for any field of ``kind``.

    Field help is the metadata ``help`` of each field. Booleans take true or false, and are true where they stand alone;
    ``--dry-run`` is ``--dry_run``. Exits with a message on errors.
    """
    # No abbreviations: argparse would take a misspelt --learning_rat for --learning_rate.
    parser = argparse.ArgumentParser(
        description=kind.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, default=default, help=f"a YAML recipe (default: {default})")
    for field in dataclasses.fields(kind):
        parser.add_argument(
            *dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}")), default=argparse.SUPPRESS,
            metavar=str(field.type).upper(), **({"nargs": "?", "const": "true"} if field.type == "bool" else {}),
            help=f"{field.metadata.get('help', '')} (class default: {field.default!r})".replace("%", "%%"),
        )  # fmt: skip
    known, unknown = parser.parse_known_args(argv)
    try:
        for word in unknown:
            if word.startswith("--"):
                raise RecipeError(_unknown(kind, word.lstrip("-").split("=")[0], "option"))
            raise RecipeError(f"unexpected word {word!r} on the command line; options are written --field value")
        given = vars(known)
        path = given.pop("config")
        values = read_recipe(kind, path) if path else {}
        values |= {name: _convert(kind, name, text) for name, text in given.items()}
        return kind(**values)
    except (ValueError, OSError) as error:  # RecipeError, the class's own range checks, a file that cannot be read
        parser.exit(2, f"{parser.prog}: {error}\n")


def read_recipe(kind: type, path: str | Path) -> dict[str, Any]:
    """The keys of a YAML recipe, checked against ``kind``. Raises RecipeError."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of fields to values, not {type(values).__name__}")
    for name, value in values.items():
        if name not in {field.name for field in dataclasses.fields(kind)}:
            raise RecipeError(f"{path}: {_unknown(kind, str(name), 'key')}")
        try:
            values[name] = _convert(kind, name, value)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error
    return values


def _unknown(kind: type, name: str, what: str) -> str:
    names = [field.name for field in dataclasses.fields(kind)]
    near = difflib.get_close_matches(name, [*names, "config"], n=1, cutoff=0.0)
    return f"unknown {what} {name!r}; the nearest valid one is {near[0]!r}"


def _convert(kind: type, name: str, value: Any) -> Any:
    wanted = typing.get_type_hints(kind)[name]
    options = typing.get_args(wanted) or (wanted,)
    # Where null is no choice, "none" is a word like others.
    if value is None or (type(None) in options and str(value).lower() in ("none", "null")):
        if type(None) in options:
            return None
        raise RecipeError(f"{name} is {value!r}; it must be {wanted.__name__}")
    target = next(option for option in options if option is not type(None))
    if target is bool:
        if isinstance(value, bool) or str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise RecipeError(f"{name} is {value!r}; it must be true or false")
    # YAML's own types: true is no number, 1.5 no int, 8 no str. It reads 1e-4 as text, so text may be a number.
    fits = {int: (int, str), float: (int, float, str), str: (str,)}[target]
    if isinstance(value, bool) or not isinstance(value, fits):
        raise RecipeError(f"{name} is {value!r}; it must be {target.__name__}")
    try:
        return target(value)
    except ValueError as error:
        raise RecipeError(f"{name} is {value!r}; it must be {target.__name__}") from error


def write_run(folder: str | Path, config: Any, **facts: Any) -> None:
    """Leaves ``run.json`` beside a run's results: resolved configuration, versions, command, and further facts."""
    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    record = {"config": dataclasses.asdict(config), "versions": versions, "command": Path(sys.argv[0]).name, **facts}
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False, default=str)
    (Path(folder) / "run.json").write_text(text + "\n", encoding="utf-8")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What ``saber.model.load`` takes besides the checkpoint's name."""
    parser.add_argument("--adapter", help="a LoRA adapter for it: a folder or a Hub id")
    parser.add_argument("--quantization", metavar="BITS", help="8bit or 4bit: fewer bits for the text model's layers")
    parser.add_argument("--dtype", help="fp32, bf16, fp16, or auto: as stored (default: bf16 on a GPU, fp32 on a CPU)")
    parser.add_argument("--device", help="cuda, cuda:1, cpu, ... (default: cuda where there is one)")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    parser.add_argument("--preset", help="sed or published: instead of the settings that the checkpoint brings")


def model_options(arguments: argparse.Namespace) -> dict[str, str | None]:
    names = ("adapter", "quantization", "dtype", "device", "revision", "preset")
    return {name: getattr(arguments, name) for name in names}
