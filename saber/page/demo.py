"""The page as gradio components: ``build_demo(engine)`` builds it, ``launch(demo)`` serves it.

What the page shows is decided in ``view.py`` and what a button does in ``visits.py``; here they are joined to
components. The same service, ``Desk.serve``, is the API's endpoint ``/analyze``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr  # noqa: E402
from gradio.data_classes import FileData  # noqa: E402

from saber import media  # noqa: E402
from saber.model import Done, NoRoom, Seen  # noqa: E402
from saber.page import view  # noqa: E402
from saber.page.desk import Ask, Desk, NoGpu, Queued  # noqa: E402
from saber.page.line import Line, Refused  # noqa: E402
from saber.page.texts import say  # noqa: E402
from saber.page.visits import PARTS, Visit, Visits  # noqa: E402
from saber.schema import LANGUAGES, TRACKS, Clip  # noqa: E402
from saber.sections import Event  # noqa: E402

#: A visitor's clip is removed from this machine: looked for so often, gone once it is so old (seconds).
KEPT_S = (600, 3600)
LARGEST_UPLOAD = "200mb"
STYLE_SHEET = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")
#: A live region must be one element that stays while its text changes; gradio redraws what is inside.
LIVE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"


def player(**options: Any) -> gr.Video:
    """A player for what was uploaded or recorded, as it is: gradio's own encodes what a browser may not play."""

    def as_it_is(video: str | Path | None) -> FileData | None:
        return FileData(path=str(video), orig_name=Path(video).name) if video else None

    made = gr.Video(sources=["upload", "webcam"], include_audio=True, **options)  # without it a recording has no sound
    made.postprocess = as_it_is
    return made


def build_demo(
    engine: Any,
    examples: Sequence[tuple[Path, str]] = (),
    line: Line | None = None,
    kept_s: tuple[float, float] = KEPT_S,
    shared: bool = False,
) -> gr.Blocks:
    """The page for one engine (``saber.model.load``).

    ``examples``: (file, label) (``load_examples``); ``line``: how many may wait and how many of each visitor;
    ``kept_s``: how often uploads are looked through, and how old they become, in seconds; ``shared``: it is reached
    through gradio's public link, which the page then says.
    """
    desk = Desk(engine, line)
    about = engine.about
    first = view.PageState(title=str(about.get("title") or ""), trained_on=about.get("trained_on") or {})
    longest_s = engine.limits.max_part_s
    visits, beginning = Visits(first, longest_s, kept_s[1]), view.render(first)
    minutes = sum(kept_s) / 60

    with gr.Blocks(title="SABER", analytics_enabled=False, fill_width=True, delete_cache=kept_s) as demo:
        words: list[tuple[gr.components.Component, Callable[[str], dict[str, Any]]]] = []
        parts: dict[str, gr.HTML] = {}

        def said(component: Any, in_language: Callable[[str], dict[str, Any]]) -> Any:
            """A component whose words are the page's language's."""
            words.append((component, in_language))
            return component

        def place(name: str, **options: Any) -> None:
            html = beginning.get(name, "")
            parts[name] = gr.HTML(html, elem_id=name, apply_default_css=False, **options)

        def text(name: str, render: Callable[[str], str], **options: Any) -> gr.HTML:
            html = gr.HTML(render("en"), elem_id=name, apply_default_css=False, **options)
            return said(html, lambda language: {"value": render(language)})

        def choice(name: str, label: str, choices: Callable[[str], list[tuple[str, str]]], value: str) -> gr.Radio:
            radio = gr.Radio(choices("en"), value=value, label=say("en", label), elem_id=name)
            return said(radio, lambda language: {"choices": choices(language), "label": say(language, label)})

        def button(name: str, label: str, **options: Any) -> gr.Button:
            made = gr.Button(say("en", label), elem_id=name, **options)
            return said(made, lambda language: {"value": say(language, label)})

        page_language = choice("page-language", "page_language", lambda _: [("English", "en"), ("中文", "zh")], "en")
        text("masthead", lambda language: view.render_masthead(about, language))
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="asking", min_width=280):
                clip = player(
                    label=say("en", "clip"),
                    webcam_options=gr.WebcamOptions(mirror=False),  # left stays left
                    elem_id="clip",
                    show_label=False,
                    height=270,
                )
                said(clip, lambda language: {"label": say(language, "clip")})
                sound = gr.UploadButton(say("en", "sound_file"), file_types=["audio"], size="sm", elem_id="sound-file")
                said(sound, lambda language: {"label": say(language, "sound_file")})
                with gr.Accordion(say("en", "part"), open=False, visible=False, elem_id="part") as part:
                    part_words = gr.HTML("", elem_id="part-words", apply_default_css=False, js_on_load=LIVE)
                    part_begin = gr.Slider(0, 1, 0, step=0.1, label=say("en", "part_begin"), elem_id="part-begin")
                    part_end = gr.Slider(0, 1, 1, step=0.1, label=say("en", "part_end"), elem_id="part-end")
                said(part, lambda language: {"label": say(language, "part")})
                said(part_begin, lambda language: {"label": say(language, "part_begin")})
                said(part_end, lambda language: {"label": say(language, "part_end")})
                answer_in = choice(
                    "language",
                    "answer_in",
                    lambda language: [(say(language, "like_the_clip"), "clip"), ("English", "en"), ("中文", "zh")],
                    "clip",
                )
                tracks = choice(
                    "tracks",
                    "give",
                    lambda language: [
                        (say(language, "both"), "both"),
                        (say(language, "give_picture"), "picture"),
                        (say(language, "give_sound"), "sound"),
                    ],
                    "both",
                )
                with gr.Row(elem_id="buttons"):
                    analyse = button("analyse", "analyse", variant="primary", min_width=110)
                    stop = button("stop", "stop", interactive=False, min_width=80)
                    clear = button("clear", "clear", min_width=80)
                if examples:
                    shown = gr.Examples(
                        [[str(path)] for path, _ in examples],
                        inputs=[clip],
                        example_labels=[label for _, label in examples],
                        label=say("en", "examples"),
                        elem_id="examples",
                        examples_per_page=len(examples),
                        api_visibility="private",
                    )
                    said(shown.dataset, lambda language: {"label": say(language, "examples")})
            with gr.Column(elem_id="answer"):
                place("status", js_on_load=LIVE)
                for group in view.GROUPS:
                    place(f"group-{group}")
                    if group in view.MEASURED:
                        place(view.MEASURED[group])
                place("facts")
                place("actions")
                place("mute")
                with gr.Row(elem_id="mute-buttons", visible=False) as mute_row:
                    without = {
                        "picture": button("without-sound", "without_sound", min_width=140),
                        "sound": button("without-picture", "without_picture", min_width=140),
                    }
        text("foot", lambda language: view.render_foot(language, minutes, shared))

        drawn = [parts[name] for name in PARTS]
        outputs = [*drawn, analyse, stop, mute_row, *without.values()]
        part_controls = [part, part_begin, part_end, part_words]

        def visit_of(request: gr.Request) -> Visit:
            return visits.of(str(request.session_hash))

        def draw(visit: Visit, everything: bool = False) -> list[Any]:
            """For ``drawn``: what differs from what the page shows, so that nothing flickers, or ``everything``."""
            changed = visit.changes(everything)
            return [changed.get(name, gr.skip()) for name in PARTS]

        def show(visit: Visit, everything: bool = True) -> list[Any]:
            """For ``outputs``: the parts, and what can be pressed."""
            state = visit.state
            can_mute = gr.update(interactive=state.can_mute and not state.busy)
            buttons = [gr.update(interactive=not state.busy), gr.update(interactive=state.busy)]
            return [
                *draw(visit, everything),
                *buttons,
                gr.update(visible=state.can_mute),
                *[can_mute] * len(without),
            ]

        def part_updates(visit: Visit) -> list[Any]:
            """For ``part_controls``: what of the clip can be chosen, and is."""
            length, (start, end) = visit.length_s, visit.part
            if not length:
                return [gr.update(visible=False), gr.skip(), gr.skip(), gr.skip()]
            return [
                gr.update(visible=True, open=length > longest_s + 0.1),
                gr.update(maximum=length, value=start),
                gr.update(maximum=length, value=end),
                view.render_part(visit.state.language, start, end, length, longest_s),
            ]

        def choose(clip_path: str | None, request: gr.Request) -> list[Any]:
            visit = visit_of(request)
            if (clip_path or "") == visit.clip_path:
                return [gr.skip()] * (len(part_controls) + len(outputs))
            visit.choose(clip_path or "")
            return [*part_updates(visit), *show(visit)]

        def move(moved: str) -> Callable[..., list[Any]]:
            def handle(start: float, end: float, request: gr.Request) -> list[Any]:
                visit = visit_of(request)
                visit.move(moved, start, end)
                words = view.render_part(visit.state.language, *visit.part, visit.length_s, longest_s)
                return [*visit.part, words]

            return handle

        def begin(clip_path: str | None, language: str, given: str, request: gr.Request) -> list[Any]:
            visit = visit_of(request)
            visit.begin(clip_path or "", None if language == "clip" else language, given)
            return show(visit)

        def begin_again(alone: str) -> Callable[[gr.Request], list[Any]]:
            def handle(request: gr.Request) -> list[Any]:
                visit = visit_of(request)
                visit.begin_again(alone)
                return show(visit)

            return handle

        def run(request: gr.Request) -> Iterator[list[Any]]:
            visit = visit_of(request)
            with closing(visit.run(desk, _visitor(request))) as steps:
                for _ in steps:
                    yield draw(visit)

        def settle(request: gr.Request) -> list[Any]:
            return show(visit_of(request), everything=False)

        def halt(request: gr.Request) -> list[Any]:
            visit = visit_of(request)
            visit.stop()
            return show(visit, everything=False)

        def wipe(request: gr.Request) -> list[Any]:
            visit = visit_of(request)
            visit.clear()
            return [None, *part_updates(visit), *show(visit)]

        def speak(language: str, request: gr.Request) -> list[Any]:
            visit = visit_of(request)
            visit.speak(language)
            new_words = [gr.update(**of(language)) for _, of in words]
            return [*new_words, part_updates(visit)[-1], *show(visit)]

        def arrive(request: gr.Request) -> list[Any]:
            preferred = (request.headers.get("accept-language") or "").lower()
            language = "zh" if preferred.startswith("zh") else "en"
            return [gr.update(value=language), *speak(language, request)]

        quiet = dict(show_progress="hidden", api_visibility="private")
        at_once = dict(queue=False, **quiet)
        spoken = [*(component for component, _ in words), part_words, *outputs]
        demo.load(arrive, None, [page_language, *spoken], **at_once)
        page_language.input(speak, [page_language], spoken, **at_once)
        clip.change(choose, [clip], [*part_controls, *outputs], **at_once)
        sound.upload(lambda path: path, [sound], [clip], **at_once)
        for moved, slider in (("start", part_begin), ("end", part_end)):
            slider.input(
                move(moved), [part_begin, part_end], [part_begin, part_end, part_words],
                trigger_mode="always_last", js=f"(...ends) => saberSeek(ends, '{moved}')", **at_once,
            )  # fmt: skip
        going = dict(concurrency_limit=None, trigger_mode="multiple", **quiet)
        asked = analyse.click(begin, [clip, answer_in, tracks], outputs, js="saberShowAnswer", **at_once)
        asked.then(run, None, drawn, **going).then(settle, None, outputs, **at_once)
        for alone, pressed in without.items():
            asked = pressed.click(begin_again(alone), None, outputs, **at_once)
            asked.then(run, None, drawn, **going).then(settle, None, outputs, **at_once)
        stop.click(halt, None, outputs, **at_once)
        clear.click(wipe, None, [clip, *part_controls, *outputs], **at_once)

        def leave(request: gr.Request) -> None:
            visits.leave(str(request.session_hash))

        demo.unload(leave)
        _add_endpoint(desk)

    # The line is ours: gradio starts every run at once, and these wait in Desk.serve.
    demo.queue(default_concurrency_limit=None)
    return demo


def _visitor(request: gr.Request) -> str:
    """Whom a limit counts: the address, by what the proxy of a Space says of it; on one machine, the open page."""
    forwarded = request.headers.get("x-forwarded-for") if os.environ.get("SPACE_ID") else None
    address = forwarded.split(",")[0].strip() if forwarded else (request.client.host if request.client else "")
    return address if address not in ("", "127.0.0.1", "::1", "localhost") else str(request.session_hash)


def _add_endpoint(desk: Desk) -> None:
    """The API's ``/analyze``: components that nobody sees give it names, types and a description."""
    clip = player(label="clip", visible=False)
    language = gr.Radio(["clip", *LANGUAGES], value="clip", label="language", visible=False)
    tracks = gr.Radio(list(TRACKS), value="both", label="tracks", visible=False)
    start_s = gr.Number(0.0, label="start_s", visible=False)
    end_s = gr.Number(None, label="end_s", visible=False)
    answer = gr.JSON(label="answer", visible=False)

    def analyze(
        clip: str, request: gr.Request, language: str = "clip", tracks: str = "both", start_s: float = 0.0,
        end_s: float | None = None,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """Write down what a clip of somebody speaking shows and says, then what the person seems to feel and why.

        The answer is made by a model that is no judge of real people. It comes step by step: each value has a status
        (queued, looking, writing, done) and the text of each section so far; the last one is the whole record.

        Args:
            clip: a video or sound file
            language: of the answer: en, zh, or clip for the language that is spoken
            tracks: what the model is given: both, picture or sound
            start_s: where the part begins that is read, in seconds
            end_s: where it ends, in seconds; left out, the file's end
        """
        if not clip:
            raise gr.Error(say("en", "no_clip"), print_exception=False)
        texts: dict[str, str] = {}
        try:
            asked = Clip(clip, start_s=start_s or 0.0, end_s=end_s, id=Path(clip).name)
            ask = Ask(asked, None if language == "clip" else language, tracks, _visitor(request))
            with closing(desk.serve(ask)) as events:
                for event in events:
                    match event:
                        case Queued():
                            yield {"status": "queued", "before": event.before}
                        case Seen():
                            yield {"status": "looking"}
                        case Event() if event.text:
                            texts[event.section] = texts.get(event.section, "") + event.text
                            yield {"status": "writing", "sections": dict(texts)}
                        case Done():
                            yield {"status": "done", **event.prediction.to_json()}
        except media.MediaError as error:
            raise gr.Error(error.sentence("en"), print_exception=False) from error
        except (Refused, NoGpu) as error:
            raise gr.Error(view.problem_sentence(error, "en"), print_exception=False) from error
        except (NoRoom, ValueError) as error:
            told = str(error)
            raise gr.Error(told, print_exception=False) from error

    gr.on(
        [], analyze, [clip, language, tracks, start_s, end_s], [answer], api_name="analyze", concurrency_limit=None,
        show_progress="hidden",
    )  # fmt: skip


def load_examples(folder: Path) -> list[tuple[Path, str]]:
    """The example clips of a folder, in the order of their names: (file, label).

    Labels come from ``examples.json`` beside the clips, ``{"name.mp4": "label"}``; a clip without one is called by its
    file name. Raises ValueError where the table names a clip that is not there.
    """
    table_path = folder / "examples.json"
    labels: dict[str, str] = json.loads(table_path.read_text("utf-8")) if table_path.exists() else {}
    clips = sorted(folder.glob("*.mp4"))
    if missing := sorted(set(labels) - {clip.name for clip in clips}):
        raise ValueError(f"{table_path} names {missing[0]}, which is not in {folder}")
    order = {name: place for place, name in enumerate(labels)}
    clips.sort(key=lambda clip: (order.get(clip.name, len(order)), clip.name))
    return [(clip, labels.get(clip.name, clip.stem.replace("-", " ").replace("_", " "))) for clip in clips]


def launch(
    demo: gr.Blocks, port: int = 7860, share: bool = False, wait: bool = True, mcp: bool = False, threads: int = 80
) -> str:
    """Serves the page on the loopback interface (and through a public link with ``share``) and returns its address.
    A Space tells gradio itself to listen on all interfaces.

    ``wait``: until interrupted. ``mcp``: offer the endpoint to agents too (Model Context Protocol). ``threads``: how
    many visitors may be waited for at once. Raises OSError where the port is taken.
    """
    _, address, _ = demo.launch(
        server_port=port,
        share=share,
        prevent_thread_lock=not wait,
        max_threads=threads,
        theme=build_theme(),
        css_paths=[STYLE_SHEET],
        head=f"<script>{SCRIPT.read_text('utf-8')}</script>",
        footer_links=["api"],  # gradio's page about it, which the foot of ours opens
        max_file_size=LARGEST_UPLOAD,
        run_history=False,  # no visitor's runs are kept
        ssr_mode=False,
        mcp_server=mcp,
        quiet=not wait,
    )
    return address


def build_theme() -> gr.themes.Base:
    """Colours of paper and ink, and fonts of the visitor's own machine: none is fetched."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Noto Sans", "Noto Sans CJK SC", "sans-serif"]
    return gr.themes.Base(font=sans, font_mono=["ui-monospace", "Menlo", "DejaVu Sans Mono", "monospace"]).set(
        body_background_fill="#faf8f3",
        body_background_fill_dark="#16161a",
        body_text_color="#23211d",
        body_text_color_dark="#e9e5dc",
        body_text_color_subdued="#66605a",
        body_text_color_subdued_dark="#a8a298",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_label_background_fill="#faf8f3",
        block_label_background_fill_dark="#16161a",
        block_shadow="none",
        border_color_primary="#d9d3c7",
        border_color_primary_dark="#3a3a40",
        input_background_fill="#fffdf9",
        input_background_fill_dark="#1e1e23",
        button_primary_background_fill="#23211d",
        button_primary_background_fill_hover="#45413a",
        button_primary_background_fill_dark="#e9e5dc",
        button_primary_background_fill_hover_dark="#ffffff",
        button_primary_text_color="#fffdf9",
        button_primary_text_color_dark="#16161a",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_dark="transparent",
        button_secondary_border_color="#b9b2a4",
        button_secondary_border_color_dark="#55555c",
        button_secondary_text_color="#23211d",
        button_secondary_text_color_dark="#e9e5dc",
        color_accent="#23211d",
        checkbox_background_color_selected="#23211d",
        checkbox_background_color_selected_dark="#e9e5dc",
    )
