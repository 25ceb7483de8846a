"""How fast the parts are on this machine: a table, then one JSON line last. Run: ``make bench``.

Medians over clips of 3 s of the embedded model, one thread for generation; ratios are taken inside one run, since
machines differ and are noisy.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import torch

from saber import media
from saber.model import Done, Seen, answer_batch, load
from saber.schema import Clip
from saber.sections import Event
from saber.studio.render import read_rows, run_studio
from saber.studio.sample import Mix

RENDERED, ANSWERED, BATCH, PAGE_CLIPS = 200, 24, 8, 12

#: Clicks Analyse and notes, as the browser sees them, the first words and the end (seconds since the click).
CLICK = """() => {
  window.first_s = window.whole_s = 0;
  const began = performance.now(), since = () => (performance.now() - began) / 1000;
  const watch = new MutationObserver(() => {
    if (!window.first_s && document.querySelector('.card[data-section] .text')) window.first_s = since();
    if (window.first_s && document.querySelector('#status [data-phase=done]')) {
      window.whole_s = since(); watch.disconnect();
    }
  });
  document.getElementById('analyse').click();
  watch.observe(document.getElementById('answer'), {subtree: true, childList: true, attributes: true});
}"""


def median(values: list[float]) -> float:
    return round(statistics.median(values), 4)


def measure(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    began = time.perf_counter()
    run_studio(folder, Mix(split="test", seed=9), RENDERED, progress=False)
    found["rendered_clips_per_s"] = round(RENDERED / (time.perf_counter() - began), 1)

    torch.set_num_threads(1)
    began = time.perf_counter()
    engine = load()
    found["load_s"] = round(time.perf_counter() - began, 2)
    rows = [row for row in read_rows(folder / "test") if not row["incomplete"]]
    rows = sorted(rows, key=lambda row: abs(row["duration_s"] - 3.0))[:ANSWERED]
    clips = [Clip(str(folder / row["video"]), id=row["id"]) for row in rows]
    engine.analyze(clips[0])  # warm-up: the decoder's process, the first kernels

    decode, seen, first, whole, tokens = [], [], [], [], []
    for clip in clips:
        began = time.perf_counter()
        first_at = None
        for event in engine.stream(clip):
            now = time.perf_counter() - began
            if isinstance(event, Seen):
                seen.append(now)
            elif isinstance(event, Event) and event.text and first_at is None:
                first_at = now
            elif isinstance(event, Done):
                whole.append(now)
                tokens.append(event.prediction.usage["answer_tokens"])
        first.append(first_at)
        began = time.perf_counter()
        media.decode(clip, engine.checkpoint.settings.media)
        decode.append(time.perf_counter() - began)

    bare, batched = [], []
    prepared = [engine.checkpoint.prepare(media.decode(clip, engine.checkpoint.settings.media)) for clip in clips]
    limit = engine.checkpoint.settings.max_new_tokens
    for inputs in prepared:
        began = time.perf_counter()
        with torch.inference_mode():
            engine.checkpoint.model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        bare.append(time.perf_counter() - began)
    began = time.perf_counter()
    for at in range(0, len(prepared), BATCH):
        answer_batch(engine.checkpoint, prepared[at : at + BATCH], limit)
    batched = time.perf_counter() - began
    found |= {
        "decode_s": median(decode),
        "decode_and_prepare_s": median(seen),
        "first_token_s": median(first),
        "whole_answer_s": median(whole),
        "generate_alone_s": median(bare),
        "overhead_over_generate": round(statistics.median(w / b for w, b in zip(whole, bare, strict=True)), 3),
        "answer_tokens": statistics.median(tokens),
        "tokens_per_s": round(statistics.median(t / b for t, b in zip(tokens, bare, strict=True)), 1),
        f"batch_of_{BATCH}_speedup": round(sum(bare) / batched, 2),
    }
    return found | measure_page([clip.path for clip in clips[:PAGE_CLIPS]], bare)


def measure_page(clips: list[str], bare: list[float]) -> dict[str, float]:
    """The real page, served by the real command, in a real browser: from the click to the first words and to the whole
    answer. ``bare``: seconds of ``generate`` alone for each clip."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, Path(__file__).parents[1] / "app.py", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    first, whole = [], []
    try:
        while server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).read()
                break
            except OSError:
                time.sleep(0.05)
        up = time.perf_counter() - began
        with sync_playwright() as playwright:
            path = os.environ.get("CHROMIUM") or shutil.which("chromium") or playwright.chromium.executable_path
            browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#analyse")
            for number, clip in enumerate([clips[0], *clips]):  # the first is a warm-up
                if number:
                    page.click("#clear")
                page.wait_for_selector("#status [data-phase=empty]", state="attached")
                page.wait_for_selector("#part", state="detached")
                page.wait_for_selector("#clip input[type=file]", state="attached")
                page.set_input_files("#clip input[type=file]", clip)
                page.wait_for_selector("#part button")
                page.evaluate(CLICK)
                page.wait_for_function("window.whole_s")
                if number:
                    first.append(page.evaluate("window.first_s"))
                    whole.append(page.evaluate("window.whole_s"))
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return {
        "page_up_s": round(up, 2),
        "page_first_words_s": median(first),
        "page_whole_answer_s": median(whole),
        "page_overhead_over_generate": round(
            statistics.median(w / b for w, b in zip(whole, bare[: len(whole)], strict=True)), 3
        ),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="saber-bench-") as name:
        found = measure(Path(name))
    for key, value in found.items():
        print(f"{key:28} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
