"""The page: a clip goes in, what the model sees, hears and concludes comes out card by card.

``build_demo(engine)`` builds the page and ``launch(demo)`` serves it. What the page shows for each event of an answer
is decided in ``saber/page/view.py``; this file only joins those parts to gradio components. Run it with
``python app.py [--model ID] [--port N] [--share]``; it then answers on http://127.0.0.1:7860.
"""

from __future__ import annotations

import argparse
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr  # noqa: E402
import torch  # noqa: E402

import saber.model  # noqa: E402
from saber.page import view  # noqa: E402
from saber.recipe import add_model_options, model_options  # noqa: E402

ROOT = Path(__file__).resolve().parent
EXAMPLES = ROOT / "examples"
#: A visitor's clip is removed from this machine: looked for every 10 minutes, gone once it is an hour old (seconds).
KEPT_S = (600, 3600)
LARGEST_UPLOAD = "200mb"
STYLE_SHEET = Path(view.__file__).with_name("page.css")

#: A live region must be one element that stays while its text changes; gradio redraws what is inside.
LIVE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"
#: gradio gives a group of radio buttons a caption that no screen reader connects with it.
NAME_GROUPS = """for (const group of document.querySelectorAll('fieldset')) {
  group.setAttribute('aria-label', group.querySelector('[data-testid=block-info]').textContent.trim()); }"""
#: On a phone the answer lies below the button: go to it.
SHOW_ANSWER = """(...inputs) => { if (matchMedia('(max-width: 820px)').matches)
  document.getElementById('answer').scrollIntoView({behavior: 'smooth'}); return inputs; }"""

MASTHEAD = """
<header class="masthead">
  <div>
    <p class="kicker">SABER</p>
    <h1>What a face shows, what a voice tells</h1>
    <p class="lede">Give it a clip of somebody speaking. It writes down what it sees and what it hears, one piece of
    evidence after another, and only then what the person seems to feel and why, above all when face and voice
    disagree.</p>
  </div>
  {about}
</header>
"""


def load_examples(folder: Path = EXAMPLES) -> list[tuple[Path, str]]:
    """The example clips, in the order of their names: (file, label).

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


def build_demo(engine: Any, examples: Sequence[tuple[Path, str]] | None = None) -> gr.Blocks:
    """The page for one engine (``saber.model.load``). ``examples``: (file, label), by default those of the repository.

    One analysis runs at a time; others wait in the queue. Stop, and a visitor who leaves, close the engine's stream.
    """
    examples = load_examples() if examples is None else examples
    first = view.PageState()
    html = view.render(first)
    stopped_runs: set[str] = set()  # ids of runs that their visitor has stopped

    with gr.Blocks(title="SABER", analytics_enabled=False, fill_width=True, delete_cache=KEPT_S) as demo:
        state = gr.State(first)
        parts: dict[str, gr.HTML] = {}

        def place(name: str, **options: Any) -> None:
            parts[name] = gr.HTML(html[name], elem_id=name, apply_default_css=False, **options)

        about = view.render_about(engine.about)
        gr.HTML(MASTHEAD.format(about=about), elem_id="masthead", apply_default_css=False, js_on_load=NAME_GROUPS)
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="asking", min_width=280):
                clip = gr.Video(
                    label="Clip",
                    sources=["upload", "webcam"],
                    include_audio=True,  # without it a recording loses its sound
                    webcam_options=gr.WebcamOptions(mirror=False),  # left stays left
                    elem_id="clip",
                    height=270,
                )
                language = gr.Radio(
                    [("Like the clip", "clip"), ("English", "en"), ("中文", "zh")],
                    value="clip",
                    label="Answer in",
                    elem_id="language",
                )
                tracks = gr.Radio(
                    [("Picture and sound", "both"), ("Picture", "picture"), ("Sound", "sound")],
                    value="both",
                    label="Give the model",
                    elem_id="tracks",
                )
                with gr.Row(elem_id="buttons"):
                    analyse = gr.Button("Analyse", variant="primary", elem_id="analyse", min_width=120)
                    stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=90)
                if examples:
                    gr.Examples(
                        [[str(path)] for path, _ in examples],
                        inputs=[clip],
                        example_labels=[label for _, label in examples],
                        label="Or an example that the model has not seen",
                        elem_id="examples",
                        examples_per_page=len(examples),
                    )
            with gr.Column(elem_id="answer"):
                place("status", js_on_load=LIVE)
                for group, cards in view.GROUPS.items():
                    with gr.Column(elem_classes=["group", f"group-{group}"]):
                        place(f"group-{group}")
                        with gr.Row(elem_classes=["cards"]):
                            for card in cards:
                                place(f"card-{card}")
                place("facts")

        outputs = [state, analyse, stop, *(parts[name] for name in view.PARTS)]

        def updates(before: view.PageState, after: view.PageState) -> list[Any]:
            """What changed between two states, for ``outputs``; the rest is left alone, so that nothing flickers."""
            old, new = view.render(before), view.render(after)
            buttons = [gr.skip(), gr.skip()]
            if before.busy != after.busy:
                buttons = [gr.update(interactive=not after.busy), gr.update(interactive=after.busy)]
            return [after, *buttons, *(new[name] if new[name] != old[name] else gr.skip() for name in view.PARTS)]

        def begin(clip_path: str | None, answer_in: str, given: str, before: view.PageState) -> list[Any]:
            # Everything is sent, whatever the page shows: a run stopped in the queue may have left its own marks.
            after = before.begin(clip_path, None if answer_in == "clip" else answer_in, given, uuid.uuid4().hex)
            buttons = [gr.update(interactive=not after.busy), gr.update(interactive=after.busy)]
            return [after, *buttons, *(view.render(after)[name] for name in view.PARTS)]

        def run(before: view.PageState) -> Iterator[list[Any]]:
            yield updates(before, before)
            if before.phase != "waiting":  # there was no clip, or an earlier turn in the queue has done this run
                return
            asked_run = before.run
            try:
                with closing(view.follow(engine, before, stopped=lambda: asked_run in stopped_runs)) as states:
                    for after in states:
                        yield updates(before, after)
                        before = after
            finally:
                stopped_runs.discard(asked_run)

        def halt(before: view.PageState) -> list[Any]:
            # Only a mark and the status: the run itself has the last word on the cards, or its late updates would
            # come after this answer. gradio's own ``cancels`` has that race.
            if not before.busy:
                return [gr.skip()] * len(halt_outputs)
            stopped_runs.add(before.run)
            waiting = before.phase == "waiting"  # perhaps behind others in the queue: another clip may be asked
            status = view.render_status(before.stop())
            return [gr.update(interactive=True) if waiting else gr.skip(), gr.update(interactive=False), status]

        halt_outputs = [analyse, stop, parts["status"]]
        quiet = dict(show_progress="hidden", api_visibility="private")
        asked = analyse.click(begin, [clip, language, tracks, state], outputs, queue=False, js=SHOW_ANSWER, **quiet)
        asked.then(run, [state], outputs, concurrency_limit=1, trigger_mode="multiple", **quiet)
        stop.click(halt, [state], halt_outputs, queue=False, **quiet)

    demo.queue(default_concurrency_limit=1)
    return demo


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


def launch(demo: gr.Blocks, port: int = 7860, share: bool = False, wait: bool = True) -> str:
    """Serves the page on the loopback interface (and through a public link with ``share``) and returns its address.
    A Space tells gradio itself to listen on all interfaces.

    ``wait``: until interrupted. Raises OSError where the port is taken.
    """
    _, address, _ = demo.launch(
        server_port=port,
        share=share,
        prevent_thread_lock=not wait,
        theme=build_theme(),
        css_paths=[STYLE_SHEET],
        footer_links=[],
        max_file_size=LARGEST_UPLOAD,
        run_history=False,  # no visitor's runs are kept
        ssr_mode=False,
        quiet=not wait,
    )
    return address


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Serve the SABER page.")
    parser.add_argument(
        "--model", default=os.environ.get("SABER_MODEL"),
        help="a checkpoint's folder or Hub id (default: the variable SABER_MODEL, else the embedded SABER-Mini)",
    )  # fmt: skip
    add_model_options(parser)
    parser.add_argument("--port", type=int, default=7860, help="port on this machine (default: %(default)s)")
    parser.add_argument("--share", action="store_true", help="also open a public link through gradio's servers")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # a small model generates fastest on one thread; a large one is not run on a CPU
    try:
        launch(
            build_demo(saber.model.load(options.model, **model_options(options))),
            port=options.port,
            share=options.share,
        )
    except (saber.model.ModelError, OSError) as error:  # a checkpoint that cannot be used, a port that is taken
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
