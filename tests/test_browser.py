"""The page in a real headless Chromium, with the real app and the embedded model, on clips of ``examples/``.

Chromium is taken from $CHROMIUM, the system's packages, or ``playwright install chromium``; without one these tests
fail and say so.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

import app
import saber.model
from saber.media import MediaError
from saber.model import Engine
from saber.page.texts import say
from saber.page.view import CARDS

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",  # grants camera and microphone without a dialogue
    "--use-fake-device-for-media-stream",  # a test picture and beeps
)
ANSWER_MS = 180_000  # a machine that is busy with other work is no failure

#: Keeps what each card says after each change of the page. A verdict says the texts of both its rows.
WATCH = """() => {
  const said = card => card.classList.contains('is-empty') ? '' :
    [...card.querySelectorAll('.text, .badge')].map(place => place.innerText).join(' | ');
  window.snapshots = [];
  new MutationObserver(() => {
    const cards = Object.fromEntries([...document.querySelectorAll('.card')].map(c => [c.dataset.section, said(c)]));
    const marked = [...document.querySelectorAll('.card[aria-current=step]')].map(c => c.dataset.section);
    const last = window.snapshots.at(-1);
    if (!last || JSON.stringify(last.cards) !== JSON.stringify(cards)) window.snapshots.push({cards, marked});
  }).observe(document.getElementById('answer'), {subtree: true, childList: true, characterData: true,
                                                attributes: true});
}"""

#: Presses Stop by itself as soon as the card has text, and keeps when.
STOP_AT = """section => {
  const look = new MutationObserver(() => {
    if (!document.querySelector(`#card-${section} .is-writing`) || document.getElementById('stop').disabled) return;
    look.disconnect(); window.stopped_at = performance.now(); document.getElementById('stop').click();
  });
  look.observe(document.getElementById('answer'), {subtree: true, childList: true, attributes: true});
}"""

#: Counts what the browser's recorder has delivered: on a busy machine its encoder may start seconds late.
COUNT_RECORDED = """(() => {
  const start = MediaRecorder.prototype.start;
  window.recorded_bytes = 0;
  MediaRecorder.prototype.start = function (...options) {
    this.addEventListener('dataavailable', event => { window.recorded_bytes += event.data.size; });
    return start.apply(this, options);
  };
})()"""


def chromium_path() -> str | None:
    """The system's Chromium or Chrome, or None for Playwright's own."""
    named = os.environ.get("CHROMIUM")
    for name in filter(None, (named, "/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")):
        if path := shutil.which(name):
            return path
    return None


@pytest.fixture(scope="module")
def clip() -> Path:
    """An example with picture and sound."""
    examples = app.load_examples()
    assert examples, f"{app.EXAMPLES} holds no clip: render the examples first"
    return examples[0][0]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return saber.model.load()


@pytest.fixture(scope="module")
def address(engine) -> Iterator[str]:
    """The real app with the embedded model, served on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    demo = app.build_demo(engine)
    yield app.launch(demo, port=port, wait=False)
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = chromium_path() or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.fail("no Chromium: install one (apt install chromium, or playwright install chromium), "
                        "or name it in $CHROMIUM")  # fmt: skip
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


class Visitor:
    """One browser window on the page, and every address it asked for."""

    def __init__(self, browser: Browser, address: str, **options: object) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.add_init_script(COUNT_RECORDED)
        self.requests: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("#analyse")

    def upload(self, path: Path) -> None:
        with self.page.expect_response(lambda response: "/upload" in response.url):
            self.page.set_input_files("#clip input[type=file]", str(path))
        self.page.wait_for_selector("#clip video", state="attached")

    def analyse(self) -> None:
        self.page.evaluate(WATCH)
        self.page.eval_on_selector("#status [data-phase]", "status => status.removeAttribute('data-phase')")
        self.page.click("#analyse")

    def wait_for(self, phase: str) -> None:
        """Waits for the end of a run, which must be in this phase."""
        ends = ", ".join(f"#status [data-phase={end}]" for end in ("done", "stopped", "failed"))
        status = self.page.wait_for_selector(ends, state="attached", timeout=ANSWER_MS)
        assert status.get_attribute("data-phase") == phase, status.inner_text()

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector).strip()

    def outside(self) -> list[str]:
        """Addresses beyond this machine."""
        own = ("127.0.0.1", "localhost", None)  # None: blob and data
        return [url for url in self.requests if urlsplit(url).hostname not in own and not url.startswith("blob:")]


@pytest.fixture
def visitor(browser: Browser, address: str) -> Iterator[Visitor]:
    one = Visitor(browser, address)
    yield one
    one.context.close()
    assert one.errors == [], "the page raised an error in the browser"
    assert one.outside() == []


def generating() -> bool:
    return any(thread.name == "saber-generate" for thread in threading.enumerate())


def wait_until_idle(limit_s: float = 5.0) -> bool:
    """Whether the model stops writing within the limit."""
    end = time.monotonic() + limit_s
    while generating() and time.monotonic() < end:
        time.sleep(0.05)
    return not generating()


def test_an_uploaded_clip_fills_the_cards_one_after_another_step_by_step(visitor, clip):
    visitor.upload(clip)
    visitor.analyse()
    visitor.wait_for("done")
    snapshots = visitor.page.evaluate("window.snapshots")
    first_seen = {}
    for card in CARDS:
        told = list(dict.fromkeys(shot["cards"][card] for shot in snapshots if shot["cards"][card]))
        steps = 4 if card == "reasoning" else 2  # the shortest cards are written within two draws of the page
        assert len(told) >= steps, f"{card} did not grow step by step: {told}"
        if card != "verdict":  # whose words become badges when they are complete
            grown = [(short, long) for short, long in zip(told, told[1:], strict=False) if not long.startswith(short)]
            assert grown == [], f"{card} lost text"
        first_seen[card] = next(place for place, shot in enumerate(snapshots) if shot["cards"][card])
    assert list(first_seen.values()) == sorted(set(first_seen.values())), "cards did not begin one after another"
    for shot in snapshots[first_seen["scene"] : -1]:
        assert len(shot["marked"]) == 1, "exactly one card is marked while text arrives"
    assert visitor.page.query_selector(".card[aria-current]") is None
    facts = visitor.text("#facts")
    assert "frame" in facts and "s of picture" in facts and "s of sound" in facts and "token" in facts
    assert visitor.page.get_attribute("#status [role=status]", "aria-live") == "polite"


def test_a_webcam_recording_is_analysed_with_its_sound(visitor):
    page = visitor.page
    page.click("#clip button[aria-label='Capture from camera']")
    page.click("#clip button:has-text('Click to Access Webcam')")
    page.click("#clip .capture-button:has([title='start recording'])")
    page.wait_for_selector("#clip [title='stop recording']")
    page.wait_for_timeout(2000)
    page.wait_for_function("window.recorded_bytes > 20000")
    with page.expect_response(lambda response: "/upload" in response.url):
        page.click("#clip .capture-button:has([title='stop recording'])")
    page.wait_for_selector("#clip button[aria-label='Clear']")
    page.click("#language label:has-text('English')")  # the fake microphone beeps: no language to follow
    visitor.analyse()
    visitor.wait_for("done")
    facts = visitor.text("#facts")
    assert "frame" in facts and "s of picture" in facts and "s of sound" in facts
    last = page.evaluate("window.snapshots.at(-1)")["cards"]
    assert any(last.values())
    assert page.locator(".card").count() == len(CARDS)


def test_a_broken_file_gets_a_plain_sentence_and_the_page_goes_on(visitor, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no film at all " * 40)
    visitor.upload(broken)
    visitor.analyse()
    visitor.wait_for("failed")
    assert visitor.text("#status") == MediaError("not_media", "broken.mp4").sentence("en")
    body = visitor.text("body")
    assert "Traceback" not in body and "broken.mp4" not in body
    visitor.page.click("#clip button[aria-label='Clear']")
    visitor.upload(clip)
    visitor.analyse()
    visitor.wait_for("done")


def test_analysing_without_a_clip_asks_for_one(visitor):
    visitor.analyse()
    visitor.wait_for("failed")
    assert visitor.text("#status") == say("en", "no_clip")


def test_no_request_leaves_this_machine(visitor):
    page = visitor.page
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#clip video", state="attached")
    visitor.analyse()
    visitor.wait_for("done")
    assert len(visitor.requests) > 10
    assert visitor.outside() == []
    # Trimming would fetch an encoder from another host, so the page does not offer it.
    assert page.locator("#clip button[aria-label='Trim video to selection']").is_hidden()


def test_stop_in_the_middle_keeps_what_was_written_and_frees_the_model(visitor, clip):
    page = visitor.page
    visitor.upload(clip)
    page.evaluate(STOP_AT, "face")
    visitor.analyse()
    visitor.wait_for("stopped")
    assert page.evaluate("performance.now() - window.stopped_at") < 3000
    assert wait_until_idle(), "the model went on writing after Stop"
    before = visitor.text("#answer")
    page.wait_for_timeout(700)
    assert visitor.text("#answer") == before
    assert "is-written" in page.get_attribute("#card-scene .card", "class")
    assert visitor.text("#card-verdict .quiet") == say("en", "not_reached")
    expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator("#analyse")).to_be_enabled()
    visitor.analyse()
    visitor.wait_for("done")


def test_stop_while_others_are_served_first_acts_at_once_and_the_visitor_may_ask_again(browser, address, clip, visitor):
    first = Visitor(browser, address)
    first.upload(clip)
    visitor.upload(clip)
    first.analyse()
    visitor.analyse()
    visitor.page.click("#stop:not([disabled])")
    visitor.wait_for("stopped")
    expect(visitor.page.locator("#analyse")).to_be_enabled()
    visitor.analyse()
    visitor.wait_for("done")
    first.wait_for("done")
    first.context.close()


def test_a_visitor_who_leaves_frees_the_model(browser, address, engine, clip):
    # A token every 0.2 s: left to itself, the answer would take far longer than the model is given here.
    slow = engine.checkpoint.model.lm_head.register_forward_hook(lambda *_: time.sleep(0.2))
    try:
        leaving = Visitor(browser, address)
        leaving.upload(clip)
        leaving.analyse()
        leaving.page.wait_for_selector(".is-writing", state="attached", timeout=ANSWER_MS)
        leaving.context.close()
        assert wait_until_idle(), "the model went on writing for nobody"
    finally:
        slow.remove()


def test_chinese_is_answered_in_chinese_on_a_phone_without_overflow(browser, address, clip):
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True}
    visitor = Visitor(browser, address, **phone)
    visitor.page.click("#language label:has-text('中文')")
    visitor.page.click("#tracks label:has-text('Sound') >> nth=-1")
    visitor.upload(clip)
    visitor.analyse()
    visitor.wait_for("done")
    assert visitor.text("#card-speech h3") == say("zh", "speech")
    assert visitor.text("#group-seen") == say("zh", "seen")
    assert "秒声音" in visitor.text("#facts") and "帧" not in visitor.text("#facts")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    lefts = visitor.page.eval_on_selector_all(".card", "cards => cards.map(card => card.getBoundingClientRect().left)")
    assert len(set(lefts)) == 1, "on a phone the cards stand below each other"
    assert visitor.page.evaluate("document.body.classList.contains('dark')")
    visitor.context.close()
