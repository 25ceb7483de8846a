"""The command that serves the page: its options, a Space's variables, and what it says when it cannot start."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

import app

ROOT = Path(app.__file__).parent
NAMES = ("MODEL", "ADAPTER", "QUANTIZATION", "DTYPE", "DEVICE", "REVISION", "PRESET")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(f"SABER_{name}", raising=False)


def test_options_have_defaults_and_the_embedded_model_is_one():
    options = app.parse([])
    assert (options.model, options.port, options.keep_minutes) == (None, 7860, 60)
    assert not options.share and not options.mcp


def test_on_a_space_the_models_options_are_variables_and_the_command_line_wins(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(f"SABER_{name}", f"a-{name.lower()}")
    options = app.parse(["--adapter", "mine"])
    assert (options.model, options.quantization, options.revision) == ("a-model", "a-quantization", "a-revision")
    assert (options.preset, options.dtype, options.device) == ("a-preset", "a-dtype", "a-device")
    assert options.adapter == "mine"
    monkeypatch.setenv("SABER_MODEL", "")  # set and left empty, as a form of the Hub does
    assert app.parse([]).model is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--places", "0"], "--places is 0; it must be at least 1"),
        (["--per-visitor", "0"], "--per-visitor is 0; it must be at least 1"),
        (["--keep-minutes", "0"], "--keep-minutes is 0.0; it must be at least 0.1"),
        (["--port", "x"], "invalid int value"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        app.parse(arguments)
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_without_its_package_the_tool_for_agents_is_refused_with_the_next_step(monkeypatch, capsys):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        app.parse(["--mcp"])
    assert "pip install 'gradio[mcp]'" in capsys.readouterr().err


def test_what_cannot_be_served_is_said_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for arguments, told in (
            (["--model", "no/such/place"], "no/such/place"),
            (["--port", str(taken.getsockname()[1])], "port"),
        ):
            run = subprocess.run([sys.executable, "app.py", *arguments], cwd=ROOT, capture_output=True, text=True)
            assert run.returncode == 1 and told in run.stderr and "Traceback" not in run.stderr, run.stderr[-2000:]
