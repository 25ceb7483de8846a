"""saber.recipe: a file, then the command line, and nothing misspelt passes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from saber.recipe import parse_recipe, read_recipe, write_run
from saber.sft import SFTConfig


@dataclass(frozen=True)
class Run:
    """A run of 100 % tests."""

    model: str = "tiny"
    learning_rate: float = 1e-4
    batch_size: int = 8
    train_encoders: bool = False
    cache_dir: str | None = field(default=None, metadata={"help": "at most 5 % of the disk"})

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")


@pytest.fixture
def recipe(tmp_path):
    def write(text: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(capsys, default, *argv: str) -> str:
    """What is said when a recipe is refused; the exit code is 2, as for any wrong command line."""
    with pytest.raises(SystemExit) as caught:
        parse_recipe(Run, default, list(argv))
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_without_recipe_and_options_the_class_defaults_stand():
    assert parse_recipe(Run, None, []) == Run()


def test_a_recipe_changes_what_it_names_and_options_win_over_it(recipe):
    path = recipe("learning_rate: 1e-3\nbatch_size: 16\ntrain_encoders: true\ncache_dir: kept\n")
    assert parse_recipe(Run, path, []) == Run("tiny", 1e-3, 16, True, "kept")
    options = ["--batch_size", "32", "--train_encoders", "false", "--cache_dir", "none"]
    assert parse_recipe(Run, path, options) == Run("tiny", 1e-3, 32, False, None)
    assert parse_recipe(Run, None, ["--config", str(path), "--model=large"]).model == "large"


def test_an_option_that_equals_the_class_default_still_wins_over_the_recipe(recipe):
    assert parse_recipe(Run, recipe("batch_size: 16\n"), ["--batch_size", "8"]).batch_size == 8


def test_an_empty_recipe_is_the_defaults(recipe):
    assert parse_recipe(Run, recipe("# nothing differs\n"), []) == Run()


@pytest.mark.parametrize("written", ["True", "true", "TRUE"])
def test_booleans_are_words(written, recipe):
    assert parse_recipe(Run, None, ["--train_encoders", written]).train_encoders is True
    assert read_recipe(Run, recipe(f"train_encoders: {written}\n")) == {"train_encoders": True}


def test_numbers_of_yaml_become_the_type_of_the_field(recipe):
    values = read_recipe(Run, recipe("learning_rate: 1\n"))
    assert values == {"learning_rate": 1.0} and type(values["learning_rate"]) is float


def test_a_boolean_alone_is_true_and_dashes_are_underscores():
    assert parse_recipe(SFTConfig, None, ["--dry-run", "--batch-size", "4"]) == SFTConfig(dry_run=True, batch_size=4)
    assert parse_recipe(SFTConfig, None, ["--dry_run"]) == SFTConfig(dry_run=True)


def test_an_unknown_key_of_the_file_names_the_nearest_one(recipe, capsys):
    said = refused(capsys, recipe("learning_rates: 1.0\n"))
    assert "recipe.yaml: unknown key 'learning_rates'; the nearest valid one is 'learning_rate'" in said


@pytest.mark.parametrize(
    ("argv", "name", "nearest"),
    [
        (["--batchsize", "3"], "batchsize", "batch_size"),
        (["--batchsize=3"], "batchsize", "batch_size"),
        (["--learning_rat", "0.1"], "learning_rat", "learning_rate"),  # argparse alone would complete it
        (["--confg", "x.yaml"], "confg", "config"),
        (["--zzz", "1"], "zzz", ""),
    ],
)
def test_an_unknown_option_names_the_nearest_one(argv, name, nearest, capsys):
    said = refused(capsys, None, *argv)
    assert f"unknown option {name!r}; the nearest valid one is '{nearest}" in said


def test_a_word_that_belongs_to_no_option_is_refused(capsys):
    assert "unexpected word 'large'" in refused(capsys, None, "--model", "tiny", "large")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("batch_size: many", "batch_size is 'many'; it must be int"),
        ("batch_size: 1.5", "batch_size is 1.5; it must be int"),
        ("batch_size: true", "batch_size is True; it must be int"),
        ("batch_size:", "batch_size is None; it must be int"),
        ("batch_size: 0", "batch_size is 0; it must be at least 1"),
        ("learning_rate: [1, 2]", "learning_rate is [1, 2]; it must be float"),
        ("train_encoders: 1", "train_encoders is 1; it must be true or false"),
        ("model: {a: b}", "model is {'a': 'b'}; it must be str"),
        ("cache_dir: 3", "cache_dir is 3; it must be str"),
        ("- batch_size", "a recipe is a mapping of fields to values, not list"),
        ("batch_size: [", "recipe.yaml is not YAML"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(line, message, recipe, capsys):
    assert message in refused(capsys, recipe(line + "\n"))


def test_a_value_of_the_wrong_type_on_the_command_line_is_named(capsys):
    assert "batch_size is '1.5'; it must be int" in refused(capsys, None, "--batch_size", "1.5")
    assert "train_encoders is 'yes'; it must be true or false" in refused(capsys, None, "--train_encoders", "yes")


def test_none_is_null_where_there_is_a_choice_and_a_word_elsewhere():
    run = parse_recipe(Run, None, ["--model", "none", "--cache_dir", "none"])
    assert run.model == "none" and run.cache_dir is None


def test_a_recipe_that_is_not_there_is_named(tmp_path, capsys):
    assert "absent.yaml" in refused(capsys, tmp_path / "absent.yaml")


def test_help_lists_every_field_with_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_recipe(Run, None, ["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "--learning_rate" in said and "class default: 0.0001" in said and "at most 5 % of the disk" in said


def test_a_run_leaves_its_configuration_and_versions(tmp_path):
    write_run(tmp_path / "out", Run(batch_size=2), loss=1.5)
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["config"]["batch_size"] == 2 and record["loss"] == 1.5
    assert {"python", "torch", "transformers"} <= set(record["versions"])
