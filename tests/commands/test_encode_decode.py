"""Video files into token files and back, and what is said about bad ones."""

import json
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import random_clips, tiny_block_router, tiny_router, tiny_tokenizer
from typer.testing import CliRunner
from video_fixtures import moving_frames, write_frames, write_sound, write_uneven_h264

from evagen import cli
from evagen.commands import encode
from evagen.commands.decode import main as decode_file
from evagen.data.token_file import TokenFile, read_token_file
from evagen.data.video_reader import VideoError, count_frames, frame_rate, iterate_frames, read_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import frames_to_video, video_to_frames
from evagen.models.loading import fingerprint, load_model
from evagen.report.tokens_over_time import sparkline
from evagen.tokenizer import AdaptiveTokenizer, BlockRouter, LiveTokenizer, Rate, Router, VideoTokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Folders of a tokenizer and its router, of another tokenizer, and of a router for other levels."""
    root = tmp_path_factory.mktemp("models")
    tiny_tokenizer().save_pretrained(root / "tokenizer")
    tiny_tokenizer(1).save_pretrained(root / "other")
    tiny_router(2).save_pretrained(root / "router")
    tiny_router(levels=[2, 4]).save_pretrained(root / "coarse")
    tiny_tokenizer(memory_blocks=2).save_pretrained(root / "remembers")
    tiny_block_router().save_pretrained(root / "blocks")
    tiny_block_router(memory_blocks=3).save_pretrained(root / "forgets")
    return {path.name: str(path) for path in root.iterdir()}


def written(path: Path, num_frames: int, height: int, width: int, fps: float = 25) -> Path:
    write_video(path, moving_frames(num_frames, height, width), fps)
    return path


def write_odd_h264(path: Path, frames: np.ndarray) -> None:
    """H.264 whose chroma is not subsampled, and so of any height and width."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24000, 1001))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def encode_file(video: Path, out: Path, tokenizer: str, router: str | None, **dials) -> TokenFile:
    others = {name: dials.pop(name) for name in ("clips_per_chunk", "plot") if name in dials}
    return encode.main(video, out, tokenizer, router, encode.Dials(**dials), **others)[0]


def there_and_back(video: Path, out: Path, models: dict[str, str], **dials) -> None:
    tokens = out.with_suffix(".safetensors")
    encode_file(video, tokens, models["tokenizer"], models["router"], **dials)
    decode_file(tokens, out, models["tokenizer"])


@pytest.mark.parametrize(
    ("num_frames", "height", "width", "fps"), [(1, 32, 32, 25), (23, 46, 70, 30000 / 1001), (16, 64, 36, 12.5)]
)
def test_a_decoded_mp4_has_the_frames_size_and_rate_of_the_original(models, tmp_path, num_frames, height, width, fps):
    video = written(tmp_path / "a.mp4", num_frames, height, width, fps)
    there_and_back(video, tmp_path / "b.mp4", models)
    assert read_frames(tmp_path / "b.mp4").shape == (num_frames, height, width, 3)
    assert frame_rate(tmp_path / "b.mp4") == pytest.approx(fps, abs=1e-9)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".gif"])
def test_the_duration_of_an_uneven_video_is_kept(models, tmp_path, suffix):
    """As a browser records it, at 12 frames a second or so, in milliseconds."""
    stamps = [83 * number + 20 * (number % 3) for number in range(23)]
    video = tmp_path / "a.webm"
    write_frames(video, moving_frames(23, 32, 32), "libvpx", rate=30, stamps=stamps, time_base=Fraction(1, 1000))
    there_and_back(video, tmp_path / f"b{suffix}", models)
    copy = tmp_path / f"b{suffix}"
    assert count_frames(copy) / frame_rate(copy) == pytest.approx(stamps[-1] / 1000, abs=0.12)


def test_odd_sizes_come_back_where_the_format_has_them(models, tmp_path):
    video = tmp_path / "odd.mp4"
    write_odd_h264(video, moving_frames(23, 45, 70))
    there_and_back(video, tmp_path / "b.mkv", models)
    assert read_frames(tmp_path / "b.mkv").shape == (23, 45, 70, 3)
    assert frame_rate(tmp_path / "b.mkv") == pytest.approx(24000 / 1001, abs=1e-3)  # Matroska counts milliseconds
    there_and_back(video, tmp_path / "b.mp4", models)
    assert read_frames(tmp_path / "b.mp4").shape == (23, 46, 70, 3)
    assert frame_rate(tmp_path / "b.mp4") == frame_rate(video)


def test_a_variable_frame_rate_keeps_all_frames_at_its_average(models, tmp_path):
    video = tmp_path / "uneven.mp4"
    write_uneven_h264(video, moving_frames(30))
    there_and_back(video, tmp_path / "b.mp4", models)
    assert count_frames(tmp_path / "b.mp4") == 30
    assert frame_rate(tmp_path / "b.mp4") == pytest.approx(frame_rate(video), rel=1e-3)


@pytest.mark.parametrize("dials", [{"preference": 0.9}, {"max_tokens": 10}, {"mean_tokens": 9.0}])
def test_a_token_file_holds_what_the_library_gives(models, tmp_path, dials):
    frames = random_clips(5, seed=1, height=40, width=56)  # 5 3 8 40 56
    frames = np.concatenate([video_to_frames(clip) for clip in frames])[:37]
    write_video(tmp_path / "a.mkv", frames, 25)  # without loss
    tokens = tmp_path / "new" / "a.safetensors"
    said = encode_file(tmp_path / "a.mkv", tokens, models["tokenizer"], models["router"], clips_per_chunk=2, **dials)
    tokenizer, router = load_model(VideoTokenizer, models["tokenizer"]), load_model(Router, models["router"])
    model = AdaptiveTokenizer(tokenizer, router)
    expected = model.encode(frames_to_video(frames), **dials)
    tensors = load_file(tokens)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {"codes": torch.int32, "lengths": torch.int32}
    assert torch.equal(tensors["codes"].long(), expected.tokens.codes)
    assert torch.equal(tensors["lengths"].long(), expected.tokens.lengths)
    assert read_token_file(tokens)[1] == said

    decode_file(tokens, tmp_path / "b.mkv", models["tokenizer"])
    assert np.array_equal(read_frames(tmp_path / "b.mkv"), video_to_frames(model.decode(expected)))


def test_the_header_can_be_read_by_a_person_and_adds_up(models, tmp_path, capsys):
    video, tokens = written(tmp_path / "a.mp4", 23, 46, 70), tmp_path / "a.safetensors"
    said = encode_file(video, tokens, models["tokenizer"], models["router"], mean_tokens=4)
    raw = tokens.read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    about = json.loads(header["__metadata__"]["evagen"])
    count = len(load_file(tokens)["codes"])
    assert about == {
        "source": "a.mp4", "frames": 23, "height": 46, "width": 70, "frames_per_second": 25.0, "encoded_height": 32,
        "encoded_width": 49, "tiles": 2, "clips": 6, "blocks": 12, "tokens": count,
        "tokens_per_second": count * 25 / 23,
        "share_of_longest": count / 96, "preference": said.preference, "max_tokens": said.max_tokens,
        "tokenizer_fingerprint": fingerprint(tiny_tokenizer()),
    }  # fmt: skip
    assert count <= 6 * 7
    assert f"6 clips, {count} tokens" in said.summary()


def test_equal_videos_make_equal_files(models, tmp_path):
    video = written(tmp_path / "a.mp4", 12, 32, 32)
    for name in ("one", "two"):
        encode_file(video, tmp_path / f"{name}.safetensors", models["tokenizer"], models["router"])
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": "absent.mp4"}, "absent.mp4: cannot be read as a video .No such file"),
        ({"video": "text.mp4"}, "text.mp4: cannot be read as a video"),
        ({"video": "nothing.mp4"}, "nothing.mp4: cannot be read as a video"),
        ({"video": "no_frame.avi"}, "no_frame.avi: "),
        ({"video": "cut.mp4"}, "cut.mp4: "),
        ({"out": "a.mp4"}, "should end in .safetensors"),
        ({"router": "coarse"}, r"tokenizer has levels \[2, 4, 8\].*the router \[2, 4\]"),
        ({"tokenizer": "router"}, "holds a Router, a VideoTokenizer is needed"),
        ({"max_tokens": 3}, "max_tokens=3 cannot be met: a clip takes at least 4 tokens"),
        ({"mean_tokens": 1.0}, "mean_tokens=1.0 cannot be met"),
        ({"preference": 1.0, "mean_tokens": 9.0}, "exclude each other"),
        ({"prefix": [3]}, r"no assignment begins with \[3\]: .* at most 2 lengths, each one of \[2, 4, 8\]"),
        ({"prefix": [2, 2, 2]}, r"no assignment begins with \[2, 2, 2\]: .* at most 2 lengths"),
        ({"prefix": [3], "mean_tokens": 9.0}, r"no assignment begins with \[3\]"),
        ({"preference": 7.0}, "between 0.8 .few tokens. and 1.6"),
        ({"router": None}, "holds no router, which says how many tokens each block gets: give --router"),
        ({"plot": Path("a.txt")}, "a.txt should end in .png, .svg or .pdf"),
        ({"tokens_per_second": 50.0}, "--tokens-per-second 50.0 needs a tokenizer with a memory; this one sees clips"),
        ({"lengths": [2, 4]}, "--lengths 2,4 needs a tokenizer with a memory"),
        ({"rate_window": 2.0}, "--rate-window 2 is of a rate, and none is given: give --tokens-per-second"),
        ({"tokenizer": "remembers"}, "holds a Router, a BlockRouter is needed"),
        (
            {"tokenizer": "remembers", "router": "forgets"},
            "memory_blocks 2 of the tokenizer and 3 of the router differ",
        ),
        ({"tokenizer": "remembers", "router": "blocks", "mean_tokens": 9.0}, "--mean-tokens 9.0 is for tokenizers of"),
        (
            {"tokenizer": "remembers", "router": "blocks", "tokens_per_second": 30.0, "rate_window": 0.0},
            "window_seconds=0.0: a number above 0 is needed",
        ),
        ({"tokenizer": "remembers", "router": "blocks", "tokens_per_second": 3.0}, "3 tokens a second cannot be kept"),
        ({"tokenizer": "remembers", "router": "blocks", "video": "cut.mp4"}, "cut.mp4: "),
    ],
)
def test_what_cannot_be_encoded_is_explained_and_leaves_no_file(models, tmp_path, changes, message):
    whole = written(tmp_path / "a.mp4", 40, 64, 64).read_bytes()
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "nothing.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with av.open(str(tmp_path / "no_frame.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height = stream.width = 32
        container.start_encoding()
    arguments = {"video": "a.mp4", "out": "out.safetensors", **changes}
    video, out = tmp_path / arguments.pop("video"), tmp_path / arguments.pop("out")
    tokenizer, router = (models.get(arguments.pop(kind, kind)) for kind in ("tokenizer", "router"))
    with pytest.raises(UserError, match=message):
        encode_file(video, out, tokenizer, router, **arguments)
    assert not list(tmp_path.glob("*safetensors*"))
    assert (tmp_path / "a.mp4").read_bytes() == whole


@pytest.mark.parametrize(
    ("out", "plot", "error", "message"),
    [
        ("a.mp4/out.safetensors", None, OSError, "a.mp4"),
        ("folder.safetensors", None, IsADirectoryError, "folder.safetensors"),
        ("out.safetensors", "a.mp4/graph.png", OSError, "a.mp4"),
        (
            os.fsdecode(b"z\xff.safetensors"),
            None,
            UserError,
            r"names in UTF-8 alone, which .*z\\xff.safetensors is not",
        ),
    ],
)
def test_where_nothing_can_be_written_no_frame_is_read(models, tmp_path, monkeypatch, out, plot, error, message):
    video = written(tmp_path / "a.mp4", 5, 32, 32)
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr("evagen.data.video_frames.decoded_frames", lambda *_: pytest.fail("read"))
    with pytest.raises(error, match=message):
        encode_file(video, tmp_path / out, models["tokenizer"], models["router"], plot=plot and tmp_path / plot)
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "folder.safetensors"}


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("video.mov", UserError, "cannot write .*video.mov: the name should end in one of .avi, .mp4, .mkv, .gif"),
        ("a.mp4/video.mp4", OSError, "a.mp4"),
        ("folder.mp4", IsADirectoryError, "folder.mp4"),
    ],
)
def test_where_no_video_can_be_written_no_model_is_loaded(tmp_path, monkeypatch, out, error, message):
    written(tmp_path / "a.mp4", 5, 32, 32)
    (tmp_path / "folder.mp4").mkdir()
    monkeypatch.setattr("evagen.commands.decode.open_tokens", lambda *_: pytest.fail("opened"))
    with pytest.raises(error, match=message):
        decode_file(tmp_path / "tokens.safetensors", tmp_path / out, None)
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "folder.mp4"}


def test_tokens_of_another_tokenizer_are_refused_unless_nobody_knows(models, tmp_path):
    tokens = tmp_path / "a.safetensors"
    encode_file(written(tmp_path / "a.mp4", 9, 32, 32), tokens, models["tokenizer"], models["router"])
    with pytest.raises(UserError, match=r"a.safetensors holds tokens of tokenizer [0-9a-f]{16}, but that of .*other"):
        decode_file(tokens, tmp_path / "b.mp4", models["other"])
    about = read_token_file(tokens)[1].model_dump(exclude={"tokenizer_fingerprint", "max_tokens"})
    save_file(load_file(tokens), tokens, {"evagen": json.dumps(about)})
    decode_file(tokens, tmp_path / "b.mp4", models["other"])
    assert count_frames(tmp_path / "b.mp4") == 9


@pytest.mark.parametrize("content", ["absent", "text", "cut", "bare", "few", "short"])
def test_what_is_no_token_file_is_explained(models, tmp_path, content):
    tokens, good = tmp_path / "tokens.safetensors", tmp_path / "good.safetensors"
    encode_file(written(tmp_path / "a.mp4", 9, 32, 32), good, models["tokenizer"], models["router"])
    about, tensors = read_token_file(good)[1].model_dump_json(), load_file(good)
    if content == "text":
        tokens.write_text("no tokens")
    if content == "cut":
        tokens.write_bytes(good.read_bytes()[:-8])
    if content == "bare":
        save_file(tensors, tokens)
    if content == "few":
        save_file({"codes": tensors["codes"]}, tokens, {"evagen": about})
    if content == "short":
        save_file({**tensors, "codes": tensors["codes"][1:].clone()}, tokens, {"evagen": about})
    message = {"absent": "no token file at", "short": "the header says .*, the file holds"}.get(
        content, "is not a whole token file"
    )
    with pytest.raises(UserError, match=message):
        decode_file(tokens, tmp_path / "b.mp4", models["tokenizer"])
    assert not (tmp_path / "b.mp4").exists()


def test_the_commands_as_people_type_them(models, tmp_path):
    video, tokens = written(tmp_path / "a.mp4", 23, 46, 70), tmp_path / "a.safetensors"
    command = [sys.executable, "-c", "from evagen.cli import main; main()", "encode", str(video), str(tokens)]
    command += ["--tokenizer", models["tokenizer"], "--router", models["router"], "--mean-tokens", "9"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "23 frames of 70x46 at 25 a second, encoded at 49x32 in 2 tiles\n6 clips, " in done.stdout
    assert done.stdout.endswith(f"{tokens}\n")

    back = tmp_path / "b.mp4"
    done = CliRunner().invoke(cli.app, ["decode", str(tokens), str(back), "--tokenizer", models["tokenizer"]])
    assert (done.exit_code, done.stdout) == (0, f"{back}\n"), done.output
    assert read_frames(back).shape == (23, 46, 70, 3)


# Tokenizers with a memory


@pytest.mark.parametrize(
    "dials", [{"preference": 0.9}, {"tokens_per_second": 30.0, "rate_window": 1}, {"lengths": [8, 2]}]
)
@pytest.mark.parametrize("num_frames", [1, 23, 40])
def test_a_video_of_any_length_goes_by(models, tmp_path, dials, num_frames):
    frames = video_to_frames(random_clips(1, seed=1, frames=num_frames, height=40, width=56)[0])
    write_video(tmp_path / "a.mkv", frames, 25)  # without loss
    tokens = tmp_path / "a.safetensors"
    said = encode_file(tmp_path / "a.mkv", tokens, models["remembers"], models["blocks"], **dials)
    live = LiveTokenizer(load_model(VideoTokenizer, models["remembers"]), load_model(BlockRouter, models["blocks"]))
    if "tokens_per_second" in dials:
        dials = {"rate": Rate(30.0, 25, 1)}
        assert "never above 30 tokens a second in any 1 seconds" in said.summary()
    expected = live.encode(frames_to_video(frames), **dials)
    assert torch.equal(load_file(tokens)["codes"].long(), expected.tokens.codes)
    assert (said.tiles, said.clips, said.blocks) == (2, 2, 2 * -(-num_frames // 4))
    decode_file(tokens, tmp_path / "b.mkv", models["remembers"])
    assert np.array_equal(read_frames(tmp_path / "b.mkv"), video_to_frames(live.decode(expected)))


def test_the_command_prints_and_draws_tokens_over_time(models, tmp_path):
    video, tokens, plot = written(tmp_path / "a.mp4", 61, 32, 32), tmp_path / "a.safetensors", tmp_path / "a.png"
    arguments = [str(video), str(tokens), "--tokenizer", models["remembers"], "--lengths", "8,2", "--plot", str(plot)]
    done = CliRunner().invoke(cli.app, ["encode", *arguments])
    assert done.exit_code == 0, done.output
    assert "16 blocks, 38 tokens, 2.4 a block" in done.stdout
    assert "tokens █▃▃" in done.stdout  # the first block has four times as many
    assert done.stdout.endswith(f"{tokens}\n{plot}\n")
    assert Image.open(plot).size[0] > 800


def test_a_graph_shows_where_the_tokens_are():
    assert sparkline([0, 1, 2, 4]) == "▁▃▅█"  # of eight bars, 4 being the highest
    assert sparkline([3.0] * 500) == "█" * 60
    assert sparkline([0.0, 0.0]) == "▁▁"


# Frames one by one, which long videos stand on


def test_frames_come_one_by_one_as_they_are_read_together(tmp_path):
    write_uneven_h264(tmp_path / "a.mp4", moving_frames(30))
    assert np.array_equal(np.stack(list(iterate_frames(tmp_path / "a.mp4"))), read_frames(tmp_path / "a.mp4"))


def test_a_video_filmed_sideways_is_encoded_upright(models, tmp_path):
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.set_display_rotation(90)
        for frame in moving_frames(3, 32, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    there_and_back(tmp_path / "turned.mp4", tmp_path / "b.mp4", models)
    assert read_frames(tmp_path / "b.mp4").shape == (3, 64, 32, 3)


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".gif"])  # x264 itself writes small pictures not always alike
def test_frames_written_one_by_one_make_the_same_file(tmp_path, suffix):
    frames = moving_frames(7, 33, 50)
    write_video(tmp_path / f"array{suffix}", frames, 25)
    write_video(tmp_path / f"stream{suffix}", (frame for frame in frames), 25)
    assert np.array_equal(read_frames(tmp_path / f"array{suffix}"), read_frames(tmp_path / f"stream{suffix}"))


def test_a_frame_of_another_size_stops_the_writing_and_leaves_no_file(tmp_path):
    frames = [np.zeros((32, 32, 3), np.uint8)] * 3 + [np.zeros((32, 34, 3), np.uint8)]
    with pytest.raises(ValueError, match=r"of one size, not uint8 \(32, 34, 3\)"):
        write_video(tmp_path / "a.mp4", iter(frames), 25)
    with pytest.raises(ValueError, match="no frame"):
        write_video(tmp_path / "a.mp4", iter([]), 25)
    assert not list(tmp_path.iterdir())


def test_a_file_without_frames_says_so(tmp_path):
    write_sound(tmp_path / "sound.wav")
    with pytest.raises(VideoError, match="holds no video stream"):
        next(iterate_frames(tmp_path / "sound.wav"))
