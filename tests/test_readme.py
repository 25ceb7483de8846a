"""The README keeps its word: its examples run, its paths exist, and Hugging Face accepts its front matter.

Every fenced example in bash or Python stands under a comment: ``<!-- run -->`` for what runs offline, in order, in one
empty folder, ``<!-- run beside the page -->`` for what also needs the page on its usual port, or
``<!-- not run: reason -->``. ``pytest -rP tests/test_readme.py`` prints the reasons.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")

#: https://huggingface.co/docs/hub/spaces-config-reference, as of August 2026, and ``license`` from the Hub's cards.
SPACE_FIELDS = {
    "title", "emoji", "colorFrom", "colorTo", "sdk", "python_version", "sdk_version", "suggested_hardware",
    "suggested_storage", "app_file", "app_build_command", "app_port", "base_path", "fullWidth", "header",
    "short_description", "models", "datasets", "tags", "thumbnail", "pinned", "hf_oauth", "hf_oauth_scopes",
    "hf_oauth_expiration_minutes", "hf_oauth_authorized_org", "disable_embedding", "startup_duration_timeout",
    "custom_headers", "preload_from_hub", "license",
}  # fmt: skip
SPACE_COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}

#: The longest an example may take, in seconds: what a reader waits for without wondering.
LIMIT_S = 180


class Example(NamedTuple):
    """One fenced block: its language, its code, the line it starts on, why it is not run ("" if it is), and whether it
    needs the page."""

    language: str
    code: str
    line: int
    reason: str
    page: bool = False


def examples(text: str) -> list[Example]:
    """The bash and Python blocks of a README. ValueError, naming the line, for one without a mark above it."""
    found = []
    for block in re.finditer(r"(?P<above>[^\n]*)\n```(?P<language>bash|sh|python)\n(?P<code>.*?)\n```", text, re.S):
        line = text.count("\n", 0, block.start("language")) + 1
        pattern = r"<!-- (?:run(?P<page> beside the page)?|not run: (?P<reason>.+?)) -->"
        mark = re.fullmatch(pattern, block["above"].strip())
        if not mark:
            raise ValueError(f"line {line}: put <!-- run --> or <!-- not run: reason --> above this example")
        found.append(Example(block["language"], block["code"], line, mark["reason"] or "", bool(mark["page"])))
    return found


def front_matter(text: str) -> dict:
    """The YAML between the two dashes at the very top, where the Hub looks for it."""
    assert text.startswith("---\n"), "the front matter has to start on the first line"
    return yaml.safe_load(text.split("---\n")[1])


def run_example(example: Example, folder: Path, earlier_python: str) -> subprocess.CompletedProcess[str]:
    """Runs one block in ``folder`` as a reader would: with the environment's programs first, and no network."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
    if example.language == "python":
        command = [sys.executable, "-c", f"{earlier_python}\n{example.code}"]
    else:
        command = ["bash", "-euo", "pipefail", "-c", example.code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S)


PAGE = "http://127.0.0.1:7860"


@pytest.fixture
def page(tmp_path_factory) -> Iterator[str]:
    """The address of the real page, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("page") / "log.txt"
    with log.open("w") as out:
        command = [sys.executable, "app.py", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        deadline = time.monotonic() + LIMIT_S
        while "Running on" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.wait(30)


def test_the_examples_run_in_order(tmp_path, page):
    imports = ""
    runnable = [example for example in examples(README) if not example.reason]
    assert runnable, "no example is marked <!-- run -->"
    for example in runnable:
        if example.page:
            assert PAGE in example.code
            example = example._replace(code=example.code.replace(PAGE, page))
        answer = run_example(example, tmp_path, imports)
        said = f"{answer.stdout[-2000:]}\n{answer.stderr[-4000:]}"
        assert answer.returncode == 0, f"README.md line {example.line}:\n{said}"
        if example.language == "python":  # a later block may use what an earlier one imported, as in one session
            imports += "".join(f"{line}\n" for line in example.code.splitlines() if re.match(r"(from|import) ", line))


def test_every_example_that_is_not_run_says_why():
    for example in examples(README):
        if example.reason:
            print(f"README.md line {example.line} is not run: {example.reason}")
            assert len(example.reason.split()) >= 2, example


def test_an_example_without_a_mark_is_refused():
    assert examples("<!-- run -->\n```bash\ntrue\n```") == [Example("bash", "true", 2, "")]
    assert examples("<!-- run beside the page -->\n```bash\ntrue\n```") == [Example("bash", "true", 2, "", True)]
    assert examples("<!-- not run: too slow -->\n```python\n1\n```")[0].reason == "too slow"
    with pytest.raises(ValueError, match="line 3"):
        examples("words\n\n```bash\ntrue\n```")


def test_a_failing_example_is_noticed(tmp_path):
    assert run_example(Example("bash", "false | cat", 1, ""), tmp_path, "").returncode != 0
    assert run_example(Example("python", "assert Path('x').exists()", 1, ""), tmp_path, "").returncode != 0
    earlier = "from pathlib import Path"
    assert run_example(Example("python", "Path('x').touch()", 1, ""), tmp_path, earlier).returncode == 0
    assert (tmp_path / "x").exists()


def test_a_space_accepts_the_front_matter():
    space = front_matter(README)
    assert not set(space) - SPACE_FIELDS, "fields that the Hub does not know"
    assert space["title"].strip()
    assert space["colorFrom"] in SPACE_COLOURS and space["colorTo"] in SPACE_COLOURS
    assert space["sdk"] == "gradio"
    assert space["app_file"] == "app.py"
    assert space["pinned"] in (True, False)
    assert space["license"] == "apache-2.0"
    assert 0 < len(space["short_description"]) <= 60, len(space["short_description"])
    assert all(isinstance(tag, str) for tag in space["tags"])
    # Strings, as the reference says: YAML reads a bare 3.10 as the number 3.1.
    assert isinstance(space["python_version"], str) and re.fullmatch(r"3\.1[0-3](\.\d+)?", space["python_version"])


def test_the_emoji_is_one_emoji():
    emoji = front_matter(README)["emoji"]
    # "So", symbol other, is the category of pictographs; a variation selector (U+FE0F) may follow.
    assert len(emoji.rstrip("\ufe0f")) == 1 and unicodedata.category(emoji[0]) == "So"


def test_the_space_runs_the_gradio_that_was_tested():
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert f"gradio=={front_matter(README)['sdk_version']}" in pins


def test_the_app_file_and_the_requirements_are_at_the_root():
    assert (ROOT / front_matter(README)["app_file"]).is_file()
    assert (ROOT / "requirements.txt").is_file()


def table_paths() -> list[str]:
    """Every path of the table "I want to ... -> open ...", in its order."""
    rows = re.search(r"\| I want to .*?\n\|[-|]+\n((?:\|.*\n)+)", README)
    assert rows, "the table is gone"
    return [path for row in rows[1].splitlines() for path in re.findall(r"`([^`]+)`", row.split("|")[2])]


@pytest.mark.parametrize("path", table_paths())
def test_the_table_opens_what_exists(path):
    assert (ROOT / path).exists()


def test_links_and_pictures_point_at_files():
    targets = re.findall(r"\]\(([^)#\s]+)", README)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing, missing


def test_commands_name_what_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*(?:`|#|$))", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), f"make {target}"
    for example in examples(README):
        for script in re.findall(r"\S+\.py\b", example.code):
            assert (ROOT / script).is_file(), f"README.md line {example.line}: {script}"
        for verb in re.findall(r"python -m saber (\w+)", example.code):
            answer = run_example(Example("bash", f"python -m saber {verb} --help", 0, ""), ROOT, "")
            assert answer.returncode == 0, f"python -m saber {verb}: {answer.stderr[-500:]}"
