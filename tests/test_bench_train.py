"""train/bench_train.py: both trainers do the same work, and the line that it prints holds what it documents."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from saber.sft import loop

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import bench_train  # noqa: E402

pytestmark = pytest.mark.usefixtures("own_accelerator")


@pytest.fixture(scope="module")
def config(tiny_folder) -> bench_train.BenchConfig:
    return bench_train.BenchConfig(
        model=str(tiny_folder), clips=4, batch_size=4, micro_batch_size=2, steps=2, repeats=1
    )


@pytest.fixture(scope="module")
def found(config, four_rows, tmp_path_factory) -> dict:
    return bench_train.run_bench(config, four_rows, tmp_path_factory.mktemp("bench"), apart=False)


def test_the_first_step_of_both_trainers_agrees(found):
    # Loss and gradient norm of every variant against TRL's; ``run_bench`` would have raised beyond its own bounds.
    assert 0 <= found["first_step_difference"] < 2e-5
    assert 0 < found["first_step_difference_kept"] < bench_train.SAME_ROUNDED


def test_the_line_holds_a_figure_for_every_variant_and_ratio(found):
    line = json.loads(json.dumps(found))
    assert list(line) == [
        "variants", "ratios", "cpu_ratios", "fill_clips_per_s", "fill_paid_after_epochs", "first_step_difference",
        "first_step_difference_kept", "cores", "config",
    ]  # fmt: skip
    assert list(line["variants"]) == list(bench_train.VARIANTS)
    for figures in line["variants"].values():
        assert list(figures) == ["samples_per_s", "waiting_share", "cpu_s", "spread"]
        least, most = figures["spread"]
        assert 0 < least <= figures["samples_per_s"] <= most
        assert 0 <= figures["waiting_share"] < 1
        assert 0 < figures["cpu_s"]
    assert list(line["ratios"]) == list(line["cpu_ratios"]) == list(bench_train.RATIOS)
    assert line["config"]["batch_size"] == 4


def test_the_variants_are_the_trainer_with_and_without_its_parts(found, config, tmp_path):
    assert loop.micro_batches is not bench_train.unsorted_micro_batches  # put back after each run
    assert found["variants"]["ours_in_line"]["waiting_share"] > found["variants"]["kept_in_line"]["waiting_share"]
    lengths = [5, 1, 4, 2]
    parts = [[" " * length for length in part] for part in ((5, 1), (4, 2))]
    assert bench_train.unsorted_micro_batches([" " * length for length in lengths], 2) == parts


def test_trainers_that_do_not_do_the_same_are_not_compared():
    same = {name: [{"loss": 8.0, "grad_norm": 2.0}] for name in bench_train.VARIANTS}
    assert set(bench_train.check_same_work(same).values()) == {0.0}
    rounded = {**same, "ours": [{"loss": 8.002, "grad_norm": 2.0}]}
    assert bench_train.check_same_work(rounded, bf16=True)["first_step_difference"] == 2.5e-4
    with pytest.raises(ValueError, match="ours: loss of the first step is 8.002 and TRL's 8.0"):
        bench_train.check_same_work(rounded)
    for key in ("loss", "grad_norm"):
        other = {**same, "ours": [{"loss": 8.0, "grad_norm": 2.0} | {key: 2.1}]}
        with pytest.raises(ValueError, match=f"ours: {key} of the first step is 2.1"):
            bench_train.check_same_work(other)


def test_a_ratio_compares_runs_of_one_turn(config):
    # The machine halves its speed in the second turn and doubles it in the third: the ratio stays 3 throughout.
    def run(speed: float) -> dict[str, float]:
        return {"samples_per_s": speed, "waiting_share": 0.0, "cpu_s": 1 / speed, "loss": 8.0, "grad_norm": 2.0}

    runs = {name: [run(3 * s if name == "ours" else s) for s in (4.0, 2.0, 8.0)] for name in bench_train.VARIANTS}
    found = bench_train.summarize(config, {"samples_per_s": 10.0}, runs)
    assert found["ratios"]["ours_over_trl"] == found["cpu_ratios"]["ours_over_trl"] == 3.0
    assert found["variants"]["ours"] == {"samples_per_s": 12.0, "waiting_share": 0.0, "cpu_s": 0.0833,
                                         "spread": [6.0, 24.0]}  # fmt: skip
    assert found["fill_paid_after_epochs"] is None  # kept is slower than ours here


def test_the_clips_have_both_tracks_and_lengths_that_differ(tmp_path):
    from saber.media import probe

    rows, lengths = bench_train.render_rows(tmp_path, 3)
    assert len({int(length) for length in lengths}) > 1 and all(1 <= length <= 8 for length in lengths)
    for row in rows:
        facts = probe(row.clip.path)
        assert facts.has_video and facts.has_audio
        assert row.answer


def test_a_batch_that_trl_cannot_split_evenly_is_refused():
    with pytest.raises(ValueError, match="batch_size is 16, no multiple of micro_batch_size 6"):
        bench_train.BenchConfig(micro_batch_size=6)
