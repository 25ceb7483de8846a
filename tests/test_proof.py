"""What takes minutes: run by ``make proof``, not by ``make test``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.proof
def test_the_whole_way_on_a_small_model():
    """Clips, base, SED and streamed answers; the script checks what it makes and says what failed."""
    run = subprocess.run([sys.executable, "train/smoke.py"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert run.stdout.count("\nok  ") == 4
