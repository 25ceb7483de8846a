"""The preset "published" takes the frames, at the sizes, that the published inference script takes: qwen-omni-utils'
own functions on the same clips, with the script's variables."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from saber import media
from saber.media.decoding import fit_pixels, sampled_numbers
from saber.model import PRESETS, load_checkpoint
from saber.schema import Clip

SETTINGS = PRESETS["published"]().media


@pytest.fixture
def theirs(monkeypatch):
    """qwen-omni-utils under the script's FPS_MAX_FRAMES and VIDEO_MAX_PIXELS (64 tokens of 28 x 28). Its readers are
    torchvision's, which is gone in the version here, decord and torchcodec: PyAV stands in for the first."""
    from qwen_omni_utils.v2_5 import vision_process

    def read_video(path, start_pts=0.0, end_pts=None, pts_unit="sec", output_format="TCHW"):
        with av.open(path) as file:
            stream = file.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
            fps = float(stream.average_rate)
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), None, {"video_fps": fps}

    monkeypatch.setattr(vision_process.io, "read_video", read_video, raising=False)
    monkeypatch.setattr(vision_process, "FPS_MAX_FRAMES", 40)
    monkeypatch.setattr(vision_process, "VIDEO_MAX_TOKEN_NUM", 50_176 // 784)
    monkeypatch.setattr(vision_process, "get_video_reader_backend", lambda: "torchvision")
    return vision_process


def write_clip(path, width: int, height: int, frames: int, fps: str) -> Clip:
    """Frames of grey, each far from those beside it."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(fps), options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = np.full((height, width, 3), 20 + number * 37 % 200, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return Clip(str(path))


@pytest.mark.parametrize(
    ("width", "height", "frames", "fps"),
    [
        (112, 112, 37, "12"), (320, 240, 90, "30"), (640, 360, 250, "25"), (96, 256, 48, "24"), (1280, 720, 30, "15"),
        (320, 240, 3, "30"), (320, 240, 700, "24"), (322, 182, 61, "30000/1001"),
    ],
)  # fmt: skip
def test_frames_and_sizes_are_the_published_scripts(theirs, tmp_path, width, height, frames, fps):
    clip = write_clip(tmp_path / "clip.mp4", width, height, frames, fps)
    ours = media.decode_here(clip, SETTINGS)
    video, rate = theirs.fetch_video({"video": clip.path}, return_video_sample_fps=True)
    assert ours.frames.shape == tuple(video.permute(0, 2, 3, 1).shape)
    assert ours.fps == pytest.approx(rate, rel=1e-3)
    greys = ours.frames.mean(axis=(1, 2, 3)), video.mean(dim=(1, 2, 3)).numpy()
    assert np.abs(greys[0] - greys[1]).max() < 5, "the same frames of the file"


def test_the_studios_clips_are_seen_alike(theirs, clips):
    seen = [clip for clip in clips if clip.metadata["incomplete"] != "no_picture"]
    for clip in seen:
        ours = media.decode_here(clip, SETTINGS).frames.astype(float)
        video = theirs.fetch_video({"video": clip.path}).permute(0, 2, 3, 1).numpy()
        assert ours.shape == video.shape
        assert np.abs(ours - video).mean() < 4, "of 255; two ways to make a picture larger"


def test_every_size_and_every_number_of_frames_is_the_librarys(theirs):
    least, most = SETTINGS.min_pixels, SETTINGS.max_pixels
    for width in range(64, 2000, 37):
        for height in range(64, 1200, 41):
            expected = theirs.smart_resize(height, width, 28, least, most)
            assert fit_pixels(width, height, SETTINGS) == expected[::-1], (width, height)
    for frames in (2, 3, 4, 5, 7, 24, 41, 100, 499, 500, 10_000):
        for fps in (5.0, 12.0, 24.0, 30000 / 1001, 60.0):
            numbers, rate = sampled_numbers(frames, fps, SETTINGS)
            count = theirs.smart_nframes({}, frames, fps)
            assert numbers.tolist() == torch.linspace(0, frames - 1, count).round().long().tolist(), (frames, fps)
            assert rate == pytest.approx(count / frames * fps)


def test_the_model_is_given_the_frames_as_they_are_video_first_and_the_published_request(tiny_folder, clips):
    checkpoint = load_checkpoint(tiny_folder, device="cpu", preset="published")
    clip = next(clip for clip in clips if not clip.metadata["incomplete"])
    found = media.decode_here(clip, SETTINGS)
    inputs = checkpoint.prepare(found)
    pairs, height, width = (int(size) for size in inputs["video_grid_thw"][0])
    assert (height * 14, width * 14) == found.frames.shape[1:3] and pairs == len(found.frames) // 2
    ids, config = inputs["input_ids"][0], checkpoint.model.config
    assert int((ids == config.video_token_id).sum()) == pairs * 144, "between 120 and 144 a pair of frames"
    places = [int((ids == token).nonzero()[0]) for token in (config.video_token_id, config.audio_token_id)]
    assert places == sorted(places) and not inputs["use_audio_in_video"]
    said = checkpoint.processor.tokenizer.decode(ids)
    assert "请通过依次完成以下任务" in said and checkpoint.settings.max_new_tokens == 4096
    assert checkpoint.settings.about == {"title": "Tiny"}, "who speaks, and what it learned from, is still said"


def test_the_published_checkpoint_brings_its_own_preset(tiny_folder, tmp_path, monkeypatch):
    from saber.model import loading

    monkeypatch.setitem(loading.PRESET_OF, str(tmp_path / "theirs"), "published")
    for name in ("theirs", "other"):
        checkpoint = load_checkpoint(tiny_folder, device="cpu")
        checkpoint.save(tmp_path / name)
        (tmp_path / name / "saber.json").unlink()
    assert load_checkpoint(tmp_path / "theirs", device="cpu").settings.prompt_version == "published v1"
    assert load_checkpoint(tmp_path / "other", device="cpu").settings.prompt_version == "sed v1"


@pytest.mark.parametrize("changes", [{"sampling": "random"}, {"side_multiple": 0}])
def test_settings_that_do_not_exist_are_refused(changes):
    with pytest.raises(ValueError, match=f"media settings: {next(iter(changes))} is"):
        replace(SETTINGS, **changes)
