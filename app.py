"""The Space, and ``make demo``: reads the options, loads the model, serves the page (``saber/page/``).

``python app.py [--model ID] [--port N] [--share]``; it then answers on http://127.0.0.1:7860. On a Space, options come
from its variables: SABER_MODEL, SABER_ADAPTER, SABER_QUANTIZATION and so on.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import spaces  # noqa: F401  (before torch: ZeroGPU stands in for its CUDA)

from saber.page import demo as page

import torch  # isort: skip

import saber.model  # isort: skip
from saber.recipe import add_model_options, model_options  # isort: skip

EXAMPLES = Path(__file__).resolve().parent / "examples"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Serve the SABER page. Each option of the model may also be a variable: SABER_MODEL, "
        "SABER_ADAPTER, SABER_QUANTIZATION, SABER_DTYPE, SABER_DEVICE, SABER_REVISION, SABER_PRESET."
    )
    parser.add_argument("--model", help="a checkpoint's folder or Hub id (default: the embedded SABER-Mini)")
    add_model_options(parser)
    parser.add_argument("--port", type=int, default=7860, help="port on this machine (default: %(default)s)")
    parser.add_argument("--share", action="store_true", help="also open a public link through gradio's servers")
    parser.add_argument("--mcp", action="store_true", help="offer the analysis to agents too; needs gradio[mcp]")
    parser.add_argument("--places", type=int, default=32, help="visitors in the line at once (default: %(default)s)")
    parser.add_argument("--per-visitor", type=int, default=3, help="clips of one visitor in it (default: %(default)s)")
    parser.add_argument(
        "--keep-minutes", type=float, default=60.0, help="how long an uploaded clip is kept (default: %(default)g)"
    )
    model = {name: os.environ.get(f"SABER_{name.upper()}") for name in ("model", *model_options(parser.parse_args([])))}
    parser.set_defaults(**{name: value for name, value in model.items() if value})
    options = parser.parse_args(arguments)
    for name, least in (("places", 1), ("per_visitor", 1), ("keep_minutes", 0.1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least {least}")
    if options.mcp and importlib.util.find_spec("mcp") is None:
        parser.error("--mcp needs a package that is not installed: pip install 'gradio[mcp]'")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # a small model generates fastest on one thread; a large one is not run on a CPU
    kept_s = 60 * options.keep_minutes
    try:
        demo = page.build_demo(
            saber.model.load(options.model, **model_options(options)),
            page.load_examples(EXAMPLES),
            page.Line(options.places, options.per_visitor),
            kept_s=(max(1.0, kept_s / 6), kept_s),
            shared=options.share,
        )
        page.launch(demo, options.port, options.share, mcp=options.mcp, threads=2 * options.places + 40)
    except (saber.model.ModelError, OSError) as error:  # a checkpoint that cannot be used, a port that is taken
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
