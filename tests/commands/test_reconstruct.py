"""A video beside what its tokens give back, and the scores that are said of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_block_router, tiny_router, tiny_tokenizer
from typer.testing import CliRunner
from video_fixtures import moving_frames

from evagen import cli
from evagen.commands import encode, reconstruct
from evagen.commands.decode import main as decode_file
from evagen.data.video_reader import read_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.eval import motion_explained, moving_errors, psnr_of_mse
from evagen.kernels.levels import frames_to_video
from evagen.scoring import pairs


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    tiny_tokenizer().save_pretrained(root / "tokenizer")
    tiny_router(2).save_pretrained(root / "router")
    tiny_tokenizer(memory_blocks=2).save_pretrained(root / "remembers")
    tiny_block_router().save_pretrained(root / "blocks")
    return {path.name: str(path) for path in root.iterdir()}


@pytest.mark.parametrize(
    ("tokenizer", "router", "count"),
    [("tokenizer", "router", 37), ("remembers", "blocks", 22), ("tokenizer", "router", 1)],
)
def test_both_stand_side_by_side_and_are_scored_as_they_are(models, tmp_path, tokenizer, router, count):
    video, out = tmp_path / "a.mkv", tmp_path / "both.mkv"  # without loss
    write_video(video, moving_frames(count, 40, 56), 25)
    tokenizer, router = models[tokenizer], models[router]
    about, scores = reconstruct.main(video, out, tokenizer, router)
    tokens = tmp_path / "a.safetensors"
    encode.main(video, tokens, tokenizer, router)
    decode_file(tokens, tmp_path / "b.mkv", tokenizer)
    original, other, both = (read_frames(path) for path in (video, tmp_path / "b.mkv", out))
    assert about.frames == count
    assert np.array_equal(both[:, :40, :56], original)
    assert np.array_equal(both[:, :40, 56:], other)
    assert len(np.unique(both[0, 40:].reshape(-1, 3), axis=0)) > 1  # bars
    real, made = (frames_to_video(frames)[None] for frames in (original, other))
    psnr = float(psnr_of_mse((real - made).square().mean().double()))
    pieces = [moving_errors(b, a) for a, b in zip(real.split(16, 2), made.split(16, 2))]
    explained = motion_explained(*(torch.cat(sums) for sums in zip(*pieces)))
    said = "nothing moves" if explained is None else f"motion explained {explained:.2f}"
    assert scores.summary().splitlines()[0] == f"PSNR {psnr:.1f} dB, {said}"


def test_the_command_says_what_it_wrote(models, tmp_path):
    video, out = tmp_path / "a.mkv", tmp_path / "both.mp4"
    write_video(video, moving_frames(20, 40, 56), 25)
    command = ["reconstruct", str(video), str(out), "--tokenizer", models["tokenizer"], "--router", models["router"]]
    result = CliRunner().invoke(cli.app, [*command, "--preference", "1.6"])
    assert result.exit_code == 0, result.output
    assert "preference 1.6" in result.output
    assert "PSNR" in result.output
    assert read_frames(out).shape[2] == 112


def test_large_pictures_are_written_smaller(models, tmp_path, monkeypatch):
    monkeypatch.setattr(reconstruct, "SHOWN_SIDE", 20)
    write_video(tmp_path / "a.mkv", moving_frames(5, 62, 90), 25)
    reconstruct.main(tmp_path / "a.mkv", tmp_path / "both.mkv", models["tokenizer"], models["router"])
    both, original = read_frames(tmp_path / "both.mkv"), read_frames(tmp_path / "a.mkv")
    assert both.shape[2] == 2 * 30
    squares = original[:, :60].reshape(5, 20, 3, 30, 3, 3).mean((2, 4))
    assert np.abs(both[:, :20, :30] - squares).max() <= 1


def test_large_pictures_are_scored_at_fewer_places(monkeypatch):
    monkeypatch.setattr(pairs, "SCORED_SIDE", 16)
    scores, frames = pairs.PairScores(), list(moving_frames(4, 50, 70))
    scores.add(frames, frames)
    assert scores.count == 3 * 4 * 17 * 24
    assert scores.squared == 0


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [("both.gif", UserError, "holds 0.002 to 50 frames a second, not 60"), ("a.avi/b.mp4", OSError, "a.avi")],
)
def test_what_cannot_be_written_is_told_before_a_frame_is_read(models, tmp_path, monkeypatch, out, error, message):
    write_video(tmp_path / "a.avi", moving_frames(3, 40, 56), 60)
    monkeypatch.setattr("evagen.data.video_frames.decoded_frames", lambda *_: pytest.fail("read"))
    with pytest.raises(error, match=message):
        reconstruct.main(tmp_path / "a.avi", tmp_path / out, models["tokenizer"], models["router"])


@pytest.mark.parametrize(
    ("video", "out", "reason"),
    [
        ("a.mkv", "both.txt", "should end in one of .avi"),
        ("missing.mp4", "both.mp4", "missing.mp4"),
        ("a.mkv", "a.mkv", "is the video itself"),
    ],
)
def test_nothing_is_left_of_what_cannot_be_done(models, tmp_path, video, out, reason):
    write_video(tmp_path / "a.mkv", moving_frames(3, 40, 56), 25)
    with pytest.raises(UserError, match=reason):
        reconstruct.main(tmp_path / video, tmp_path / out, models["tokenizer"], models["router"])
    assert {path.name for path in Path(tmp_path).iterdir()} == {"a.mkv"}
    assert len(read_frames(tmp_path / "a.mkv")) == 3
