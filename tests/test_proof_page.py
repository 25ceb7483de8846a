"""The page under load and under damaged clips; run by ``make proof``, not by ``make test``.

Each prints its table and writes it to ``runs/proof/``.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import damage
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import sync_playwright
from visitor import Visitor, free_port, start

from saber.media import REASONS
from saber.page.demo import load_examples
from saber.page.texts import WORDS
from saber.schema import Annotation

pytestmark = pytest.mark.proof
ROOT = Path(__file__).parents[1]
OUT = ROOT / "runs" / "proof"
VISITORS, BROWSERS, SECONDS = 17, 3, 120
PLACES = 16


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, psutil.Process, Path]]:
    """The real command, its process, and the folder of its uploads, which it keeps for half a minute."""
    port, uploads = free_port(), tmp_path / "uploads"
    uploads.mkdir()
    command = [sys.executable, "app.py", "--port", str(port), "--places", str(PLACES), "--keep-minutes", "0.5"]
    log = (tmp_path / "server.log").open("w")
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(uploads)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=60).read()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.5)
    yield address, psutil.Process(process.pid), uploads
    process.terminate()
    process.wait(30)
    told = (tmp_path / "server.log").read_text()
    assert "Traceback" not in told, told[-3000:]


def memory_mb(process: psutil.Process) -> float:
    """Of the server and of those that decode for it."""
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)]) / 1e6


def plain_sentences() -> list[str]:
    """How every refusal may begin."""
    begins = [text[0].split("{")[0] for reason in REASONS.values() for text in (reason["en"],)]
    keys = [key for key in WORDS["en"] if key.startswith("problem_")] + ["line_full", "too_many_at_once"]
    return [begin for begin in begins + [str(WORDS["en"][key]).split("{")[0] for key in keys] if len(begin) > 3]


def test_twenty_visitors_for_two_minutes(server, tmp_path):
    address, process, uploads = server
    clips = []
    for number, (clip, _) in enumerate(load_examples(ROOT / "examples")):  # under names of their own: to be found again
        clips.append(tmp_path / f"visitors-{number}.mp4")
        clips[-1].write_bytes(clip.read_bytes())
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clips[0].read_bytes()[:300])
    answered: Counter[str] = Counter()
    faults: list[str] = []
    waits: list[float] = []
    begins = plain_sentences()
    end = time.monotonic() + SECONDS
    warm: list[float] = []

    def visit(number: int) -> None:
        """Asks again and again, with a whole clip, now and then a broken one; leaves and comes anew sometimes."""
        choose = random.Random(number)
        client = Client(address, verbose=False)
        while time.monotonic() < end:
            clip = broken if choose.random() < 0.1 else choose.choice(clips)
            began = time.monotonic()
            try:
                if choose.random() < 0.1:  # leaves in the middle
                    job = client.submit(handle_file(str(clip)), api_name="/analyze")
                    time.sleep(choose.random() * 3)
                    job.cancel()
                    answered["left"] += 1
                    client = Client(address, verbose=False)
                    continue
                last = client.predict(
                    handle_file(str(clip)), "clip", choose.choice(["both", "picture"]), api_name="/analyze"
                )
                if last.get("status") != "done" or not Annotation.from_json(last).reasoning:
                    faults.append(f"no whole answer: {str(last)[:200]}")
                answered["whole answers"] += 1
                waits.append(time.monotonic() - began)
            except AppError as error:
                if not any(str(error).startswith(begin) for begin in begins):
                    faults.append(f"no clear refusal: {error}")
                answered["line full" if "line is full" in str(error) else "clip refused"] += 1
                time.sleep(1 + choose.random())

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(VISITORS)]
    with sync_playwright() as playwright:
        browser = start(playwright)
        visitors = [Visitor(browser, address) for _ in range(BROWSERS)]
        for one in visitors:
            one.page.click("#examples button >> nth=2")
            one.page.wait_for_selector("#clip video", state="attached")
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            for one in visitors:
                one.press("#analyse")
            for one in visitors:
                ends = "#status [data-phase=done], #status [data-phase=failed]"
                status = one.page.wait_for_selector(ends, state="attached", timeout=240_000)
                phase, told = status.get_attribute("data-phase"), status.inner_text()
                if phase == "failed" and not any(told.startswith(begin) for begin in begins):
                    faults.append(f"no clear refusal on the page: {told}")
                answered["whole answers, page" if phase == "done" else "line full, page"] += 1
            if time.monotonic() > end - SECONDS * 2 / 3:
                warm.append(memory_mb(process))
        for thread in threads:
            thread.join(240)
        assert not any(thread.is_alive() for thread in threads), "a visitor waits for ever"
        assert all(one.errors == [] for one in visitors)
        browser.close()
    time.sleep(3)
    memory = memory_mb(process)
    deadline = time.monotonic() + 90
    examples = {clip.name for clip, _ in load_examples(ROOT / "examples")}  # the page's own stay

    def left_behind() -> list[Path]:
        return [path for path in uploads.rglob("*") if path.is_file() and path.name not in examples]

    while (left := left_behind()) and time.monotonic() < deadline:
        time.sleep(1)
    table = {
        "visitors": VISITORS + BROWSERS, "seconds": SECONDS, "places": PLACES, **answered,
        "answers_a_second": round((answered["whole answers"] + answered["whole answers, page"]) / SECONDS, 2),
        "median_wait_s": round(statistics.median(waits), 1), "longest_wait_s": round(max(waits), 1),
        "memory_warm_mb": round(warm[0]), "memory_end_mb": round(memory), "files_left": len(left),
    }  # fmt: skip
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "load.json").write_text(json.dumps(table, indent=1) + "\n")
    print("\n" + "\n".join(f"{name:>20}  {value}" for name, value in table.items()))
    assert faults == []
    assert answered["whole answers"] > VISITORS and answered["whole answers, page"] >= BROWSERS
    assert left == [], "uploads are left behind"
    assert memory <= 1.1 * warm[0], "memory grows"


def test_fifty_damaged_clips_through_the_page(server, tmp_path, clips):
    address, _, _ = server
    whole = next(clip for clip in clips if not clip.metadata["incomplete"])
    files = damage.write_some(tmp_path / "damaged", damage.build_sources(whole.path), count=50)
    assert len(files) >= 50
    begins = plain_sentences()
    found: Counter[str] = Counter()
    slowest = 0.0
    with sync_playwright() as playwright:
        browser = start(playwright)
        visitors = []
        for number, each in enumerate(files):
            if number % 10 == 0:  # gradio's player holds every clip that one page has shown, until the browser is full
                visitors.append(visitor := Visitor(browser, address))
            visitor.upload_any(each.path)
            began = time.monotonic()
            visitor.analyse()
            ends = "#status [data-phase=done], #status [data-phase=failed]"
            status = visitor.page.wait_for_selector(ends, state="attached", timeout=90_000)
            slowest = max(slowest, time.monotonic() - began)
            told = status.inner_text()
            if status.get_attribute("data-phase") == "failed":
                assert any(told.startswith(begin) for begin in begins), (each.kind, told)
                found[told] += 1
            else:
                noted = visitor.page.locator("#facts .notes li").count()
                found["an answer, with a note" if noted else "an answer"] += 1
            body = visitor.text("body")
            assert "Traceback" not in body and str(tmp_path) not in body
        visitor.page.click("#clear")
        visitor.page.wait_for_selector("#status [data-phase=empty]")
        visitor.upload(load_examples(ROOT / "examples")[0][0])
        visitor.analyse()
        visitor.wait_for("done")  # the next visitor is served
        assert [one.errors for one in visitors] == [[]] * len(visitors)
        assert [one.outside() for one in visitors] == [[]] * len(visitors)
        browser.close()
    OUT.mkdir(parents=True, exist_ok=True)
    lines = [f"{count:3}  {told}" for told, count in found.most_common()]
    text = "\n".join([*lines, f"slowest {slowest:.1f} s"])
    (OUT / "damaged_page.txt").write_text(text + "\n")
    print("\n" + text)
