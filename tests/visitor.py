"""One browser window on the page, as the browser tests and the proofs drive it.

Chromium is taken from $CHROMIUM, the system's packages, or ``playwright install chromium``; without one the tests that
need it fail and say so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Playwright, TimeoutError

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
    const all = [...document.querySelectorAll('.card[data-section]')];
    const cards = Object.fromEntries(all.map(card => [card.dataset.section, said(card)]));
    const marked = [...document.querySelectorAll('.card[aria-current=step]')].map(c => c.dataset.section);
    const last = window.snapshots.at(-1);
    if (!last || JSON.stringify(last.cards) !== JSON.stringify(cards)) window.snapshots.push({cards, marked});
  }).observe(document.getElementById('answer'), {subtree: true, childList: true, characterData: true,
                                                attributes: true});
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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(playwright: Playwright, *flags: str) -> Browser:
    path = chromium_path() or playwright.chromium.executable_path
    if not Path(path).exists():
        pytest.fail("no Chromium: install one (apt install chromium, or playwright install chromium), "
                    "or name it in $CHROMIUM")  # fmt: skip
    return playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])


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
        self.wait_until_measured()

    def wait_until_measured(self) -> None:
        """The page knows how long the clip is, or says that it cannot be read."""
        with contextlib.suppress(TimeoutError):  # some damaged clips have no length and no fault before they are read
            known = "#part button:visible, #status [data-phase=failed]"
            self.page.wait_for_selector(known, state="attached", timeout=5000)

    def upload_any(self, path: Path) -> None:
        """A file whose name the picker would not offer, too: it is given the name of a video."""
        if self.page.locator("#clip button[aria-label='Clear']").count():
            self.page.click("#clip button[aria-label='Clear']")
        self.page.wait_for_selector("#clip input[type=file]", state="attached")
        file = {"name": f"{path.stem}.mp4", "mimeType": "video/mp4", "buffer": path.read_bytes()}
        with self.page.expect_response(lambda response: "/upload" in response.url):
            self.page.set_input_files("#clip input[type=file]", file)
        self.page.wait_for_selector("#clip button[aria-label='Clear']", state="attached")
        self.wait_until_measured()

    def analyse(self) -> None:
        self.page.evaluate(WATCH)
        self.press("#analyse")

    def press(self, button: str) -> None:
        self.forget_status()
        self.page.click(button)

    def forget_status(self) -> None:
        """So that ``wait_for`` waits for the end of the next run."""
        self.page.eval_on_selector("#status [data-phase]", "status => status.removeAttribute('data-phase')")

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
