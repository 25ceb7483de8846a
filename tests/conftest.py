"""Fixtures that several test files share, made once a session: a few studio clips and a tiny checkpoint.

``clips``: twelve real mp4 files in both languages, two without sound and two without picture; ``clip.metadata`` is the
studio's row. ``tiny``: a checkpoint of the published architecture with random weights, saved and loaded back.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from saber.schema import Annotation, Clip

# Other work on the machine is no fault of a property.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

FRAME = 112  # pixels a side, the studio's own size


@pytest.fixture(scope="session")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``python -m saber studio`` writes; its split is "train"."""
    from saber.studio.render import run_studio
    from saber.studio.sample import Mix

    out = tmp_path_factory.mktemp("studio")
    # Of seeds in order, the first whose first twelve clips hold two of each missing track and no other oddity.
    run_studio(out, Mix(split="train", seed=904), clips=12, workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def clips(clips_folder: Path) -> list[Clip]:
    from saber.studio.render import read_rows

    rows = read_rows(clips_folder / "train")
    return [
        Clip(str(clips_folder / row["video"]), id=row["id"], language=row["spoken_language"], metadata=row)
        for row in rows
    ]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, clips: list[Clip]) -> Path:
    """A saved checkpoint of 0.5 million parameters. Its frame rate is its own: neither the class's nor the Mini's."""
    import torch

    from saber.media import MediaSettings
    from saber.model import Settings, build_checkpoint
    from saber.sections import render

    torch.set_num_threads(1)
    torch.manual_seed(0)
    width, encoder_width = 64, 48
    sizes = {
        "text": {
            "hidden_size": width, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        "vision": {
            "depth": 2, "hidden_size": encoder_width, "num_heads": 2, "intermediate_size": 96, "out_hidden_size": width,
            "fullatt_block_indexes": [0, 1],
        },
        "audio": {
            "encoder_layers": 2, "d_model": encoder_width, "encoder_attention_heads": 2, "encoder_ffn_dim": 96,
            "output_dim": width, "n_window": 50,
        },
    }  # fmt: skip
    for part in sizes.values():
        part["initializer_range"] = 0.2  # at the default of 0.02 so small a model answers the same to every clip
    area = FRAME * FRAME
    settings = Settings.build(
        "mini",
        media=MediaSettings(fps=4.0, max_frames=24, min_pixels=area, max_pixels=area),
        max_new_tokens=24,
        about={"title": "Tiny"},
    )
    texts = [render(Annotation.from_json(clip.metadata)) for clip in clips]
    checkpoint = build_checkpoint(texts, 600, sizes, settings)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    checkpoint.save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path):
    """The checkpoint of ``tiny_folder``, loaded. Tests that train or change it take a copy.deepcopy."""
    from saber.model import load_checkpoint

    return load_checkpoint(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def four_rows(clips: list[Clip]) -> list:
    """Training rows of four clips with a person who is seen and heard."""
    from saber.schema import Annotation
    from saber.sections import render
    from saber.sft import Row

    whole = [clip for clip in clips if not clip.metadata["incomplete"]]
    return [Row(clip, "clip", render(Annotation.from_json(clip.metadata))) for clip in whole[:4]]


@pytest.fixture
def own_accelerator():
    """accelerate keeps its precision for the whole process; the next test may want another."""
    import torch
    from accelerate.state import AcceleratorState

    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
