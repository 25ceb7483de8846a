"""The page in a real headless Chromium (``visitor.py``), with the real app and the embedded model, on clips of
``examples/``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright
from visitor import ANSWER_MS, WATCH, Visitor, free_port, start

import app
import saber.model
from saber.media import MediaError
from saber.model import Engine
from saber.page.demo import build_demo, launch, load_examples
from saber.page.line import Line
from saber.page.texts import say
from saber.page.view import CARDS
from saber.schema import Annotation, Clip
from saber.sections import render
from saber.studio.reader import read

#: Presses Stop or Clear by itself as soon as the card has text, and keeps when.
PRESS_AT = """([button, section]) => {
  const look = new MutationObserver(() => {
    if (!document.querySelector(`#card-${section} .is-writing`) || document.getElementById(button).disabled) return;
    look.disconnect(); window.pressed_at = performance.now(); document.getElementById(button).click();
  });
  look.observe(document.getElementById('answer'), {subtree: true, childList: true, attributes: true});
}"""


@pytest.fixture(scope="module")
def clip() -> Path:
    """An example with picture and sound."""
    examples = load_examples(app.EXAMPLES)
    assert examples, f"{app.EXAMPLES} holds no clip: render the examples first"
    return examples[0][0]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return saber.model.load()


@pytest.fixture(scope="module")
def address(engine) -> Iterator[str]:
    """The real app with the embedded model, served on a free port."""
    demo = build_demo(engine, load_examples(app.EXAMPLES))
    yield launch(demo, port=free_port(), wait=False)
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright) -> Iterator[Browser]:
    started = start(playwright)
    yield started
    started.close()


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


@pytest.fixture
def slow(engine) -> Iterator[None]:
    """A token every 0.1 s, the pace of a large model: the embedded one would be done before a visitor can act."""
    hook = engine.checkpoint.model.lm_head.register_forward_hook(lambda *_: time.sleep(0.1))
    yield
    hook.remove()


def test_an_uploaded_clip_fills_the_cards_one_after_another_step_by_step(visitor, clip, slow):
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


def as_devices(clip: Path, folder: Path) -> tuple[Path, Path]:
    """A clip's picture as raw video and its sound as wav, which Chromium plays as camera and microphone, over and
    over."""
    picture, sound = folder / "camera.y4m", folder / "microphone.wav"
    with av.open(str(clip)) as source, av.open(str(picture), "w", format="yuv4mpegpipe") as out:
        stream = out.add_stream("wrapped_avframe", rate=source.streams.video[0].average_rate)
        stream.width = stream.height = 448
        stream.pix_fmt = "yuv420p"
        for frame in source.decode(video=0):
            out.mux(stream.encode(frame.reformat(448, 448, "yuv420p", interpolation="BICUBIC")))
        out.mux(stream.encode(None))
    with av.open(str(clip)) as source, av.open(str(sound), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=48000, layout="mono")
        resampler = av.AudioResampler("s16", "mono", 48000)
        for frame in [*source.decode(audio=0), None]:
            for piece in resampler.resample(frame):
                out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return picture, sound


@pytest.fixture(scope="module")
def filmed(tmp_path_factory) -> tuple[Path, dict]:
    """A studio clip with both tracks in English, and its truth."""
    from saber.studio.render import read_rows, run_studio
    from saber.studio.sample import Mix

    folder = tmp_path_factory.mktemp("filmed")
    run_studio(folder, Mix(split="test", seed=31, languages=("en",), incomplete=False), clips=1, workers=1)
    [row] = read_rows(folder / "test")
    return folder / row["video"], row


def test_a_webcam_recording_shows_the_scene_and_the_voice_before_the_camera(playwright, address, filmed, tmp_path):
    clip, row = filmed
    picture, sound = as_devices(clip, tmp_path)
    flags = (f"--use-file-for-fake-video-capture={picture}", f"--use-file-for-fake-audio-capture={sound}")
    browser = start(playwright, *flags)
    visitor = Visitor(browser, address)
    page = visitor.page
    page.click("#clip button[aria-label='Capture from camera']")
    page.click("#clip button:has-text('Click to Access Webcam')")
    page.click("#clip .capture-button:has([title='start recording'])")
    page.wait_for_selector("#clip [title='stop recording']")
    page.wait_for_function("window.recorded_bytes > 20000")
    page.wait_for_timeout(1000 * row["duration_s"])
    with page.expect_response(lambda response: "/upload" in response.url):
        page.click("#clip .capture-button:has([title='stop recording'])")
    page.wait_for_selector("#clip button[aria-label='Clear']")
    visitor.analyse()
    visitor.wait_for("done")
    facts = visitor.text("#facts")
    assert "s of picture" in facts and "s of sound" in facts
    said = {section: visitor.text(f"#card-{section} .text") for section in ("scene", "face", "body", "prosody")}
    assert read(render(Annotation(**said)), "en").values["scene"] == row["truth"]["scene"]
    assert visitor.page.locator("#signals svg").count() == 3 and "Hz in the middle" in visitor.text("#signals")
    browser.close()


def test_a_broken_file_gets_a_plain_sentence_and_the_page_goes_on(visitor, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no film at all " * 40)
    visitor.upload(broken)
    assert visitor.text("#status") == MediaError("not_media", "broken.mp4").sentence("en"), "it is said at once"
    visitor.analyse()
    visitor.page.wait_for_timeout(1000)
    visitor.wait_for("failed")
    assert visitor.text("#status") == MediaError("not_media", "broken.mp4").sentence("en")
    body = visitor.text("body")
    assert "Traceback" not in body and "broken.mp4" not in body
    visitor.page.click("#clip button[aria-label='Clear']")
    visitor.page.wait_for_selector("#status [data-phase=empty]", state="attached")
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


def test_stop_in_the_middle_keeps_what_was_written_and_frees_the_model(visitor, clip, slow):
    page = visitor.page
    visitor.upload(clip)
    page.evaluate(PRESS_AT, ["stop", "face"])
    visitor.analyse()
    visitor.wait_for("stopped")
    assert page.evaluate("performance.now() - window.pressed_at") < 3000
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


def test_stop_while_others_are_served_acts_at_once_and_the_visitor_may_ask_again(browser, address, clip, visitor, slow):
    first = Visitor(browser, address)
    first.upload(clip)
    visitor.upload(clip)
    first.analyse()
    visitor.analyse()
    visitor.page.wait_for_selector("#status [data-phase=queued]", timeout=ANSWER_MS)
    visitor.press("#stop:not([disabled])")
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
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True, "locale": "zh-CN"}
    visitor = Visitor(browser, address, **phone)
    visitor.page.click("#language label:has-text('中文')")
    visitor.page.click("#tracks label >> nth=-1")
    visitor.upload(clip)
    visitor.analyse()
    visitor.wait_for("done")
    assert visitor.text("#card-speech h3") == say("zh", "speech")
    assert visitor.text("#group-seen h2") == say("zh", "seen")
    assert "秒声音" in visitor.text("#facts") and "帧" not in visitor.text("#facts")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    lefts = visitor.page.eval_on_selector_all(
        ".card[data-section]", "cards => cards.map(card => card.getBoundingClientRect().left)"
    )
    assert len(set(lefts)) == 1, "on a phone the cards stand below each other"
    assert visitor.page.evaluate("document.body.classList.contains('dark')")
    visitor.context.close()


# Any clip


def longer(clip: Path, seconds: float, folder: Path) -> Path:
    """The clip over and over, as one file of at least so many seconds."""
    out_path = folder / "long.mp4"
    with av.open(str(out_path), "w") as out:
        with av.open(str(clip)) as source:
            frames = [frame.to_ndarray(format="yuv420p") for frame in source.decode(video=0)]
            rate = source.streams.video[0].average_rate
        with av.open(str(clip)) as source:
            resampler = av.AudioResampler("fltp", "mono", 16000)
            sound = [p.to_ndarray() for f in [*source.decode(audio=0), None] for p in resampler.resample(f)]
        samples = np.concatenate(sound, axis=1)[:, : round(len(frames) / rate * 16000)]
        video, audio = out.add_stream("h264", rate=rate), out.add_stream("aac", rate=16000, layout="mono")
        video.height, video.width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]
        times = int(seconds // (len(frames) / rate)) + 1
        for frame in frames * times:
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="yuv420p")))
        whole = np.tile(samples, (1, times))
        for at in range(0, whole.shape[1], 1024):
            piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(whole[:, at : at + 1024]), "fltp", "mono")
            piece.sample_rate, piece.pts = 16000, at
            out.mux(audio.encode(piece))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))
    return out_path


def test_of_a_long_clip_the_page_offers_a_part_and_says_which_it_read(visitor, clip, tmp_path):
    page = visitor.page
    visitor.upload(longer(clip, 40, tmp_path))
    page.wait_for_selector("#part-words:has-text('at most 30 s are read at once')")
    assert "seconds 0.0 to 30.0" in visitor.text("#part-words")
    visitor.analyse()
    visitor.wait_for("done")
    assert visitor.text("#facts").startswith("Seconds 0.0 to 30.0 of 4")
    assert "30.0 s of picture" in visitor.text("#facts").replace("\u00a0", " ")
    # Another part: its end moves with its beginning, and the player shows where it begins.
    number = page.locator("#part-begin input[type=number]")
    number.fill("12")
    number.press("Enter")
    page.wait_for_selector("#part-words:has-text('seconds 12.0 to 30.0')")
    page.locator("#part-end input[type=number]").fill("15.5")
    page.locator("#part-end input[type=number]").press("Enter")
    page.wait_for_selector("#part-words:has-text('seconds 12.0 to 15.5')")
    page.wait_for_function("Math.abs(document.querySelector('#clip video').currentTime - 15.45) < 0.2")
    visitor.analyse()
    visitor.wait_for("done")
    assert visitor.text("#facts").startswith("Seconds 12.0 to 15.5 of 4")
    assert "3.5 s of sound" in visitor.text("#facts").replace("\u00a0", " ")


def test_a_clip_that_is_read_whole_offers_its_part_folded_and_says_nothing_of_it(visitor, clip):
    visitor.upload(clip)
    visitor.page.wait_for_selector("#part button")
    assert not visitor.page.is_visible("#part-begin")
    visitor.analyse()
    visitor.wait_for("done")
    assert visitor.text("#facts").startswith("The model was given")


def test_a_sound_file_gets_its_half_of_the_evidence(visitor, clip, tmp_path):
    _, sound = as_devices(clip, tmp_path)
    with visitor.page.expect_response(lambda response: "/upload" in response.url):
        visitor.page.set_input_files("#sound-file input[type=file], input[type=file][accept*=audio]", str(sound))
    visitor.page.wait_for_selector("#clip video", state="attached")
    visitor.page.wait_for_selector("#part button")
    visitor.analyse()
    visitor.wait_for("done")
    assert visitor.text("#card-prosody .text") and "s of sound" in visitor.text("#facts")
    assert "frame" not in visitor.text("#facts") and visitor.page.locator("#mute h2").count() == 0


# Any visitor


def test_without_the_sound_or_the_picture_three_verdicts_stand_side_by_side(visitor, engine, clip, monkeypatch):
    decoded = []
    decode = engine.decode
    monkeypatch.setattr(engine, "decode", lambda *asked: decoded.append(asked) or decode(*asked))
    page = visitor.page
    visitor.upload(clip)
    visitor.analyse()
    visitor.wait_for("done")
    cards = visitor.text("#card-reasoning")
    for button, column in (("#without-sound", "#mute-picture"), ("#without-picture", "#mute-sound")):
        visitor.press(button)
        visitor.wait_for("done")
        assert page.locator(f"{column} .badge").count() >= 1
    said = [visitor.text(f"#mute-{tracks} [data-section=emotion] .badge") for tracks in ("both", "picture", "sound")]
    assert said == ["sarcasm", "joy", "sarcasm"], "the example: a smile and a hostile voice"
    assert visitor.text("#mute .quiet") == say("en", "carried_sound")
    assert visitor.text("#card-reasoning") == cards, "the whole answer stays"
    assert len(decoded) == 1, "the clip was read once"
    alone = engine.analyze(Clip(str(clip)), "en", "picture")
    assert visitor.text("#mute-picture .text") == alone.annotation.reasoning


def test_clear_empties_the_page_at_once_even_in_the_middle(visitor, clip, slow):
    page = visitor.page
    visitor.upload(clip)
    page.evaluate(PRESS_AT, ["clear", "face"])
    visitor.analyse()
    page.wait_for_function("window.pressed_at", timeout=ANSWER_MS)
    page.wait_for_selector("#status [data-phase=empty]", timeout=3000)
    assert wait_until_idle(), "the model went on writing"
    page.wait_for_timeout(500)
    assert page.locator(".card[data-section].is-empty").count() == len(CARDS)
    assert page.locator("#clip video").count() == 0 and page.locator("#strip img").count() == 0
    expect(page.locator("#analyse")).to_be_enabled()


def test_who_waits_sees_how_many_are_before_and_a_full_line_is_told(browser, engine, clip):
    slow = engine.checkpoint.model.lm_head.register_forward_hook(lambda *_: time.sleep(0.1))
    demo = build_demo(engine, line=Line(places=2))
    address = launch(demo, port=free_port(), wait=False)
    visitors = [Visitor(browser, address) for _ in range(3)]
    try:
        for one in visitors:
            one.upload(clip)
        first, second, third = visitors
        first.analyse()
        first.page.wait_for_selector(".is-writing", state="attached", timeout=ANSWER_MS)
        second.analyse()
        second.page.wait_for_selector("#status [data-phase=queued]", timeout=ANSWER_MS)
        assert second.text("#status") == say("en", "queued", count=1)
        assert second.page.locator("#strip img").count() > 3, "the clip is read and measured while others are served"
        third.analyse()
        third.wait_for("failed")
        assert third.text("#status") == say("en", "line_full", limit=2)
        second.context.close()  # whoever leaves gives the place back
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            third.analyse()
            third.page.wait_for_selector("#status [data-phase=queued], #status [data-phase=failed]", timeout=ANSWER_MS)
            if third.page.locator("#status [data-phase=queued]").count():
                break
        assert third.page.locator("#status [data-phase=queued]").count(), "the place of who left is still taken"
    finally:
        slow.remove()
        for one in (visitors[0], visitors[2]):
            one.context.close()
        demo.close(verbose=False)


def test_the_answer_is_copied_and_what_is_downloaded_opens(browser, visitor, clip, tmp_path):
    page = visitor.page
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.upload(clip)
    visitor.analyse()
    visitor.wait_for("done")
    page.click(".actions button")
    page.wait_for_selector(f".actions button:has-text('{say('en', 'copied')}')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("Scene\n") and visitor.text("#card-reasoning .text") in copied
    files = {}
    for link in page.locator(".actions a").all():
        with page.expect_download() as download:
            link.click()
        files[download.value.suggested_filename] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[download.value.suggested_filename])
    record = json.loads(files[f"{clip.stem}.saber.json"].read_text(encoding="utf-8"))
    assert Annotation.from_json(record).face == visitor.text("#card-face .text")
    assert str(Path.home()) not in json.dumps(record) and "/tmp" not in json.dumps(record)
    paper = browser.new_page()
    paper.goto(files[f"{clip.stem}.saber.html"].as_uri())
    assert paper.locator("img").count() > 5 and paper.locator("svg").count() == 3
    assert all(paper.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth > 0)"))
    assert visitor.text("#card-face .text") in paper.inner_text("body")
    assert paper.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True).count(b"/Type /Page\n") == 1
    paper.close()


def test_the_page_speaks_the_visitors_language_and_changes_it_at_once(browser, address, clip):
    visitor = Visitor(browser, address, locale="zh-CN")
    page = visitor.page
    page.wait_for_selector(f"h1:has-text('{say('zh', 'headline')}')")
    assert visitor.text("#analyse") == say("zh", "analyse") and visitor.text("#card-face h3") == say("zh", "face")
    visitor.upload(clip)
    visitor.analyse()
    visitor.wait_for("done")
    assert visitor.text("#card-face h3") == say("zh", "face")
    assert page.get_attribute("#card-face .text", "lang") == "en", "the clip is English, and so is its answer"
    page.click("#page-language label:has-text('English')")
    page.wait_for_selector(f"h1:has-text('{say('en', 'headline')}')")
    assert visitor.text("#card-face h3") == "Face" and visitor.text("#analyse") == "Analyse"
    assert visitor.text("#language label >> nth=0") == say("en", "like_the_clip")
    assert "The model was given" in visitor.text("#facts") and "Waveform" in visitor.text("#signals")
    assert page.evaluate("document.documentElement.lang") == "en"
    visitor.context.close()


def test_the_keyboard_alone_is_enough(visitor):
    page = visitor.page

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#examples button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#clip video", state="attached")
    page.wait_for_selector("#part button")
    page.evaluate(WATCH)
    page.evaluate("document.activeElement.blur()")
    tab_to("#language input")
    page.keyboard.press("ArrowRight")
    assert page.is_checked("#language input[value=en]") and not page.is_checked("#language input[value=clip]")
    tab_to("#analyse")
    page.keyboard.press("Enter")
    visitor.wait_for("done")
    tab_to(".strip")
    page.keyboard.press("ArrowRight")
    tab_to(".actions a")
    tab_to("#without-sound")
    visitor.forget_status()
    page.keyboard.press("Enter")
    visitor.wait_for("done")
    assert page.locator("#mute-picture .badge").count() >= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_an_accessibility_checker_finds_nothing_serious(browser, address, clip, scheme, locale):
    visitor = Visitor(browser, address, color_scheme=scheme, locale=locale)
    found = serious(visitor.page)
    visitor.upload(clip)
    visitor.page.wait_for_selector("#part button")
    visitor.page.click("#part button")
    visitor.analyse()
    visitor.wait_for("done")
    visitor.press("#without-sound")
    visitor.wait_for("done")
    found += serious(visitor.page)
    visitor.context.close()
    assert found == []


def serious(page: Page) -> list[str]:
    """What axe calls serious or critical, with the element."""
    page.wait_for_timeout(600)  # colours change slowly
    report = Axe().run(page)
    return [
        f"{each['id']}: {node['target']} {node['html'][:120]}"
        for each in report.response["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_a_file_that_is_too_large_is_refused_in_words(browser, engine, tmp_path, monkeypatch):
    monkeypatch.setattr("saber.page.demo.LARGEST_UPLOAD", "1mb")
    demo = build_demo(engine)
    visitor = Visitor(browser, launch(demo, port=free_port(), wait=False))
    huge = tmp_path / "huge.mp4"
    huge.write_bytes(bytes(2_000_000))
    visitor.page.set_input_files("#clip input[type=file]", str(huge))
    visitor.page.wait_for_selector("text=/maximum|exceed|size/i")
    visitor.context.close()
    demo.close(verbose=False)


# The same from a program


def test_the_foot_leads_to_how_a_program_asks(visitor):
    visitor.page.click(".foot a")
    visitor.page.wait_for_selector("text=/analyze", timeout=10_000)
    visitor.page.wait_for_selector("text=from gradio_client import Client")


def test_the_endpoint_streams_the_same_answer(address, engine, clip):
    client = Client(address, verbose=False)
    job = client.submit(handle_file(str(clip)), language="en", api_name="/analyze")
    steps = list(job)
    assert {step["status"] for step in steps} >= {"looking", "writing", "done"}
    faces = [step["sections"]["face"] for step in steps if "face" in step.get("sections", {})]
    assert len(set(faces)) > 3 and all(long.startswith(short) for short, long in zip(faces, faces[1:], strict=False))
    assert Annotation.from_json(steps[-1]) == engine.analyze(Clip(str(clip)), "en").annotation
    part = client.predict(handle_file(str(clip)), "en", "picture", 0.5, 2.0, api_name="/analyze")
    assert (
        part["prediction"]["usage"]["video_s"] == pytest.approx(1.5, abs=0.1)
        and part["prediction"]["usage"]["audio_s"] == 0
    )
    listed = client.view_api(return_format="dict")["named_endpoints"]
    assert list(listed) == ["/analyze"], "nothing else of the page is offered"


def test_the_endpoint_says_what_is_wrong(address, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no film at all " * 40)
    client = Client(address, verbose=False)
    with pytest.raises(AppError, match="This is not a video or audio file"):
        client.predict(handle_file(str(broken)), api_name="/analyze")
    with pytest.raises(AppError, match="end_s"):
        client.predict(handle_file(str(broken)), "en", "both", 3.0, 2.0, api_name="/analyze")


def test_uploads_are_deleted_when_their_time_is_up(browser, engine, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    demo = build_demo(engine, kept_s=(1, 3))
    address = launch(demo, port=free_port(), wait=False)
    visitor = Visitor(browser, address)
    visitor.upload(clip)
    visitor.analyse()
    visitor.wait_for("done")
    Client(address, verbose=False).predict(handle_file(str(clip)), api_name="/analyze")
    assert [path for path in tmp_path.rglob("*") if path.is_file()], "uploads do not go where this test looks"
    deadline = time.monotonic() + 30
    while (left := [path for path in tmp_path.rglob("*") if path.is_file()]) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
    visitor.press("#without-sound")  # what was read is still known
    visitor.wait_for("done")
    visitor.context.close()
    demo.close(verbose=False)
