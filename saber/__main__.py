"""``python -m saber <verb>``: one table, ``VERBS``. A new verb is a function that fills a parser, and one line.

Each verb imports what it needs when it runs, so that ``--help`` answers at once. Exit codes: 0 done, 1 the clip or the
data cannot be used (the reason goes to standard error), 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from saber.recipe import add_model_options, model_options
from saber.schema import LANGUAGES, TRACKS, Clip

Run = Callable[[argparse.Namespace], int]


MODEL_HELP = "checkpoint: a name, a folder or a Hub id (default: the embedded SABER-Mini)"


def add_analyze(parser: argparse.ArgumentParser) -> Run:
    """answer one clip, or many: what is seen, what is heard, what the person feels"""
    parser.add_argument("clip", nargs="?", help="a video or sound file")
    parser.add_argument("--model", help=MODEL_HELP)
    add_model_options(parser)
    parser.add_argument("--language", choices=LANGUAGES, help="of the answer (default: the language spoken)")
    parser.add_argument("--tracks", choices=TRACKS, default="both", help="what the model is given (default: both)")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="begin here, in seconds")
    parser.add_argument("--end", type=float, metavar="S", help="end here, in seconds (default: the file's end)")
    parser.add_argument("--json", action="store_true", help="print the published annotation JSON and nothing else")
    many = parser.add_argument_group("many clips")
    many.add_argument(
        "--jsonl", metavar="IN", help="instead of a clip: a folder of them, or JSON lines with videos, audios, messages"
    )
    many.add_argument("--out", help="the answers, a line of JSON each; started again, it goes on")
    many.add_argument(
        "--ask", choices=("checkpoint", "rows"), default="checkpoint",
        help="whose request: the one that the checkpoint was trained on, or that of each row's messages",
    )  # fmt: skip
    many.add_argument("--batch-size", type=int, default=8, help="clips answered at once (default: 8)")
    many.add_argument("--workers", type=int, default=1, help="processes that decode ahead of the model (default: 1)")
    many.add_argument("--max-new-tokens", type=int, help="bound of an answer (default: the checkpoint's)")
    many.add_argument(
        "--endpoint", metavar="URL",
        help="ask an OpenAI-compatible server (vLLM) for --model; its key is read from OPENAI_API_KEY",
    )  # fmt: skip
    return run_analyze


def run_analyze(arguments: argparse.Namespace) -> int:
    if (arguments.clip is None) == (arguments.jsonl is None):
        print("saber: give a clip, or --jsonl with many", file=sys.stderr)
        return 2
    return run_many(arguments) if arguments.jsonl else run_one(arguments)


def run_many(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    import torch

    from saber.model import PRESETS, ModelError, load_checkpoint
    from saber.runner import LocalAnswers, RequestError, ServedAnswers, read_requests, run

    if not arguments.out:
        print("saber: --jsonl needs --out, a file for the answers", file=sys.stderr)
        return 2
    for name, least in (("batch_size", 1), ("workers", 0), ("max_new_tokens", 1)):
        if (value := getattr(arguments, name)) is not None and value < least:
            print(f"saber: --{name.replace('_', '-')} is {value}; it must be at least {least}", file=sys.stderr)
            return 2
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    try:
        requests = read_requests(arguments.jsonl, arguments.language, arguments.tracks)
        if arguments.ask == "checkpoint":
            requests = [replace(request, prompt="") for request in requests]
        if arguments.endpoint:
            settings = PRESETS[arguments.preset or "sed"]()
            limit = arguments.max_new_tokens or settings.max_new_tokens
            answers = ServedAnswers(arguments.endpoint, arguments.model or "", settings.prompts, limit=limit)
        else:
            checkpoint = load_checkpoint(arguments.model, **model_options(arguments))
            answers = LocalAnswers(checkpoint, arguments.workers, arguments.max_new_tokens)
        counts = run(requests, answers, arguments.out, arguments.batch_size)
    except (ModelError, RequestError, ValueError, OSError) as error:
        print(f"saber: {error}", file=sys.stderr)
        return 1
    if os.environ.get("RANK", "0") == "0":
        print(f"{arguments.out}: " + ", ".join(f"{number} {name}" for name, number in counts.items()))
    return 1 if counts["failed"] and not counts["answered"] and not counts["kept"] else 0


def run_one(arguments: argparse.Namespace) -> int:
    import torch

    from saber import sections
    from saber.media import MediaError, probe
    from saber.model import NOTES, Done, ModelError, Seen, load

    torch.set_num_threads(1)  # a small model generates fastest on one thread; a large one is not run on a CPU
    try:
        probe(arguments.clip)  # a file that cannot be used is said so before a model is loaded
        engine = load(arguments.model, **model_options(arguments))
        clip = Clip(arguments.clip, start_s=arguments.start, end_s=arguments.end)
        section = None
        for event in engine.stream(clip, arguments.language, arguments.tracks):
            if isinstance(event, Done):
                prediction = event.prediction
            elif isinstance(event, Seen):
                seen = event
                if not arguments.json:
                    print(_seen_line(engine, seen), file=sys.stderr)
            elif not arguments.json:
                if event.text and event.section != section:
                    print(f"{'' if section is None else chr(10) + chr(10)}{event.section.upper()}")
                    section = event.section
                print(event.text, end="", flush=True)
    except (MediaError, ModelError, ValueError) as error:
        print(f"saber: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(prediction.annotation.to_json(), ensure_ascii=False, indent=1))
    else:
        usage = prediction.usage
        print(f"\n\n{usage['answer_tokens']} tokens in {usage['total_s']:.1f} s", file=sys.stderr)
    about_answer = [table[key]["en"] for table in (sections.NOTES, NOTES) for key in prediction.notes if key in table]
    for remark in (*seen.remarks, *about_answer):
        print(f"note: {remark}", file=sys.stderr)
    return 0


def _seen_line(engine, seen) -> str:
    parts = []
    if seen.frames:
        parts.append(f"{seen.frames} frames of {seen.video_s:.1f} s ({seen.video_tokens} tokens)")
    if seen.audio_s:
        parts.append(f"{seen.audio_s:.1f} s of sound ({seen.audio_tokens} tokens)")
    return f"{engine.about['title']} was given {' and '.join(parts)}\n"


def add_studio(parser: argparse.ArgumentParser) -> Run:
    """render clips of drawn people and synthetic voices with exact truth"""
    from saber.studio.world import SPLITS

    parser.add_argument("out", type=Path, help="folder; datasets.load_dataset reads it")
    parser.add_argument("--clips", type=int, required=True, help="how many; more than before adds to the folder")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same clips (default: 0)")
    parser.add_argument("--language", default="en,zh", help="spoken languages, comma-separated (default: en,zh)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: train")
    parser.add_argument(
        "--conflict-share", type=float, default=0.5,
        help="share of clips whose picture and voice disagree: 0.5 is the balanced mix, 0.05 the natural one",
    )  # fmt: skip
    parser.add_argument("--complete", action="store_true", help="no clips that lack a track, a person or speech")
    parser.add_argument(
        "--other-language-share", type=float, default=0.0,
        help="share of clips annotated in the language that is not spoken (default: 0)",
    )  # fmt: skip
    parser.add_argument("--wordings", type=int, default=1, help="annotations of each clip, each in other words")
    parser.add_argument("--size", type=int, default=112, help="pixels a side (default: 112)")
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    return run_studio_verb


def run_studio_verb(arguments: argparse.Namespace) -> int:
    from saber.studio.render import StudioError, run_studio
    from saber.studio.sample import Mix

    try:
        mix = Mix(
            split=arguments.split, seed=arguments.seed, languages=tuple(arguments.language.split(",")),
            conflict_share=arguments.conflict_share, incomplete=not arguments.complete,
            other_language_share=arguments.other_language_share, size=arguments.size,
            wordings=arguments.wordings,
        )  # fmt: skip
    except ValueError as error:
        print(f"saber: {error}", file=sys.stderr)
        return 2
    try:
        print(run_studio(arguments.out, mix, arguments.clips, arguments.workers))
    except (StudioError, ValueError) as error:
        print(f"saber: {error}", file=sys.stderr)
        return 1
    return 0


def add_eval(parser: argparse.ArgumentParser) -> Run:
    """score a checkpoint's answers on a benchmark"""
    parser.add_argument("benchmark", choices=("studio",), help="studio: rendered clips, scored by rule")
    parser.add_argument("--model", default="saber-mini", help="checkpoint: a name, a folder or a Hub id")
    parser.add_argument("--data", default="", help="a studio folder (default: render the split into OUT/clips)")
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument("--clips", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--seed", type=int, default=1, help="of the clips that are rendered (default: 1)")
    parser.add_argument("--out", default="runs/eval/studio", help="answers, results and a reliability plot go here")
    parser.add_argument("--batch-size", type=int, default=16, help="clips answered at once (default: 16)")
    return run_eval


def run_eval(arguments: argparse.Namespace) -> int:
    from saber.eval.studio import StudioEval, run_studio_eval, table
    from saber.model import ModelError

    options = {name: value for name, value in vars(arguments).items() if name in StudioEval.__dataclass_fields__}
    try:
        results = run_studio_eval(StudioEval(**options))
    except (ModelError, ValueError) as error:
        print(f"saber: {error}", file=sys.stderr)
        return 1
    print(table(results))
    return 0


def add_card(parser: argparse.ArgumentParser) -> Run:
    """fill the model card from measured results and write it beside the weights"""
    parser.add_argument("results", nargs="+", help="folders that `eval` wrote, one a split, test among them")
    parser.add_argument("--model", default="saber-mini", help="checkpoint: a name, a folder or a Hub id")
    parser.add_argument(
        "--training", nargs="+", default=(), metavar="RUN_JSON",
        help="run.json of each training stage, in order (default: the one beside the checkpoint)",
    )  # fmt: skip
    parser.add_argument(
        "--fact", action="append", default=[], metavar="NAME=TEXT",
        help="what a placeholder of the template stands for, such as hardware or hours; may be given again",
    )  # fmt: skip
    parser.add_argument("--template", default="hub_cards/model.md", help="default: hub_cards/model.md")
    parser.add_argument("--out", default="", help="default: README.md in the checkpoint's folder")
    return run_card


def run_card(arguments: argparse.Namespace) -> int:
    from saber.hub import CardRequest, HubError, write_card
    from saber.model import ModelError

    facts = dict(fact.partition("=")[::2] for fact in arguments.fact)
    if "" in {*facts, *facts.values()}:
        print(f"saber: --fact is {arguments.fact}; each is written NAME=TEXT", file=sys.stderr)
        return 2
    request = CardRequest(
        tuple(arguments.results), arguments.model, tuple(arguments.training), facts, arguments.template, arguments.out
    )
    try:
        print(write_card(request))
    except (HubError, ModelError) as error:
        print(f"saber: {error}", file=sys.stderr)
        return 1
    return 0


def add_export(parser: argparse.ArgumentParser) -> Run:
    """write a checkpoint, with an adapter merged into it, for others to serve (transformers, vLLM)"""
    parser.add_argument("model", help=MODEL_HELP.partition(" (")[0])
    parser.add_argument("out", type=Path, help="folder; it must not hold anything yet")
    add_model_options(parser)
    parser.add_argument("--shard-size", default="5GB", help="largest file of weights (default: 5GB)")
    return run_export


def run_export(arguments: argparse.Namespace) -> int:
    from saber.model import ModelError, export_checkpoint, load_checkpoint

    try:
        options = model_options(arguments) | {"dtype": arguments.dtype or "auto", "device": arguments.device or "cpu"}
        checkpoint = load_checkpoint(arguments.model, **options)
        print(export_checkpoint(checkpoint, arguments.out, arguments.shard_size))
    except (ModelError, OSError, ValueError) as error:
        print(f"saber: {error}", file=sys.stderr)
        return 1
    return 0


VERBS: dict[str, Callable[[argparse.ArgumentParser], Run]] = {
    "analyze": add_analyze,
    "studio": add_studio,
    "eval": add_eval,
    "card": add_card,
    "export": add_export,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="saber", description="Multimodal emotion reasoning: evidence, then verdict.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, add in VERBS.items():
        verb = verbs.add_parser(name, help=add.__doc__, description=add.__doc__)
        verb.set_defaults(run=add(verb))
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
