"""The whole way on a model of 2 million parameters, in about 5 minutes on 2 cores: clips, base, SED, streamed answers.

English clips that lack nothing. Runs the real commands one after the other in a fresh folder, then checks: the SED loss
halves, every section arrives in a streamed answer, and scenes of unseen people and voices are named far above chance.
Run: ``make smoke``.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from saber.eval.studio import StudioEval, run_studio_eval
from saber.model import load
from saber.schema import DIMENSIONS, Clip
from saber.sections import Event
from saber.studio.render import read_rows

ROOT = Path(__file__).parent.parent
CLIPS = {"train": 280, "validation": 32, "test": 64, "speech": 16, "drill": 16, "rare": 8}
SMALL = {
    "width": 192, "layers": 3, "text_ffn": 512, "encoder_width": 80, "vision_layers": 2, "audio_layers": 2,
    "vocabulary_size": 1024,
}  # fmt: skip
STEPS = {
    "see_steps": 100, "hear_steps": 20, "encoder_learning_rate": 3e-3, "join_voices": 0,
    "join_steps": 160, "join_batch_size": 16, "join_tasks": "labels", "join_learning_rate": 3e-3,
}  # fmt: skip


def run(*command: object) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)


def options(values: dict[str, object]) -> list[object]:
    return [part for name, value in values.items() for part in (f"--{name}", value)]


def main() -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="saber-smoke-") as name:
        work = Path(name)
        for split, count in CLIPS.items():
            run(sys.executable, "-m", "saber", "studio", work / "clips", "--split", split, "--clips", count,
                "--language", "en", "--complete")  # fmt: skip
        run(sys.executable, "train/mini_base.py", *options(
            {"data": work / "clips", "work_dir": work / "base", "output_dir": work / "mini-base", **SMALL, **STEPS}
        ))  # fmt: skip
        run(Path(sys.executable).parent / "accelerate", "launch", "train/sft.py", *options(
            {"model": work / "mini-base", "data": work / "clips", "output_dir": work / "sed", "split": "train",
             "max_steps": 140, "micro_batch_size": 16, "learning_rate": 3e-3, "cache_dir": work / "base" / "features"}
        ))  # fmt: skip
        checkpoint = work / "sed" / "checkpoint"
        losses = [json.loads(line)["loss"] for line in (work / "sed" / "log.jsonl").read_text().splitlines()]
        engine = load(checkpoint)
        row = next(row for row in read_rows(work / "clips" / "test") if not row["incomplete"])
        arrived = {
            event.section for event in engine.stream(Clip(str(work / "clips" / row["video"])))
            if isinstance(event, Event) and event.text
        }  # fmt: skip
        results = run_studio_eval(
            StudioEval(model=str(checkpoint), data=str(work / "clips"), clips=CLIPS["test"], out=str(work / "eval"))
        )
        scene = results["attributes"]["scene"]["all"]
        seconds = time.perf_counter() - began
        parameters = engine.about["parameters"]
    checks = {
        f"the SED loss halves ({losses[0]:.2f} -> {losses[-1]:.2f})": losses[-1] < losses[0] / 2,
        f"every section arrives ({', '.join(sorted(arrived))})": arrived >= set(DIMENSIONS),
        f"scenes of unseen people are far above chance ({scene['accuracy']:.2f}, chance {scene['chance']:.2f})":
            scene["interval"][0] > 2 * scene["chance"],
        f"{parameters:,} parameters in {seconds:.0f} s": parameters < 2_500_000,
    }  # fmt: skip
    for text, passed in checks.items():
        print("ok  " if passed else "FAIL", text)
    sys.exit(0 if all(checks.values()) else 1)


if __name__ == "__main__":
    main()
