"""`evagen benchmark`: real clips are measured once, damaged ones leave no score, and what does not fit is refused."""

# isort: split
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scored_models import gen, make_models, recon, score
from video_fixtures import moving_frames

from evagen.commands.benchmark import main
from evagen.data.video_reader import VideoError
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.eval import GaussianStatistics
from evagen.kernels.folder_lock import locks_end
from evagen.scoring import real_side
from evagen.scoring.clips import FileClips

pytestmark = [
    pytest.mark.filterwarnings("ignore::evagen.eval.frechet.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def no_weights_at_hand(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.delenv("EVAGEN_I3D", raising=False)


def test_real_features_are_taken_from_the_cache_until_a_file_changes(root, tmp_path, monkeypatch):
    arcade = Path(shutil.copytree(root / "arcade", tmp_path / "arcade"))
    shared = {"cache": str(tmp_path / "cache"), "data": {"root": str(arcade), "layout": "ucf101"}}
    first = score(recon(root, tmp_path / "first", **shared))
    (entry,) = (tmp_path / "cache").iterdir()
    tensors = load_file(entry)
    assert tensors["features"].shape == (12, 400)
    assert int(GaussianStatistics.from_tensors(tensors).count) == 12
    read = FileClips.__getitem__
    decoded = []
    monkeypatch.setattr(FileClips, "__getitem__", lambda s, k: decoded.append(k) or read(s, k))
    second = score(recon(root, tmp_path / "second", uniform_length=8, router=None, **shared))
    assert sorted(decoded) == list(range(12))  # once, to be reconstructed
    assert second.data == first.data
    assert second.tokens.tokens_per_clip == 32
    one = training_video(arcade)
    os.utime(one, (1, 1))
    third = score(recon(root, tmp_path / "third", **shared)).data.statistics
    assert third != first.data.statistics
    with monkeypatch.context() as other:  # which may read, resize or compute in another way
        other.setattr(real_side, "__version__", "another version", raising=False)
        assert score(recon(root, tmp_path / "version", **shared)).data.statistics not in (third, first.data.statistics)
    entry.write_bytes(entry.read_bytes()[:500])  # a damaged entry is computed again
    os.utime(one, (1, 1))
    assert score(recon(root, tmp_path / "fourth", **shared)).score == first.score


def test_a_clip_that_breaks_in_the_middle_leaves_no_score(root, tmp_path, capsys):
    arcade = Path(shutil.copytree(root / "arcade", tmp_path / "arcade"))
    broken = training_video(arcade)
    write_video(broken, moving_frames(16, 32, 32), fps=15)
    damage(broken)
    data = {"root": str(arcade), "layout": "ucf101"}
    with pytest.raises(UserError) as error:
        main(recon(root, tmp_path / "run", data=data))
    assert str(broken) in str(error.value)
    assert "1 of 12" in str(error.value)
    assert "accept_incomplete=true" in str(error.value)
    assert not (tmp_path / "run" / "record.json").exists()
    assert "|" not in capsys.readouterr().out
    record = score(recon(root, tmp_path / "run", data=data, accept_incomplete=True))
    assert record.real_clips == record.generated_clips == 11
    assert "=11/12]" in record.protocol["name"]
    assert record.data.unreadable == [str(broken)]


def training_video(arcade: Path) -> Path:
    return arcade / (arcade / "ucfTrainTestlist" / "trainlist01.txt").read_text().split()[2]


def damage(video: Path) -> None:
    """Takes the picture out of the file's second half, so that it opens and counts as before."""
    content = bytearray(video.read_bytes())
    start, end = content.index(b"movi") + 1000, content.rindex(b"idx1")
    middle = (start + end) // 2
    content[middle : end - 8] = bytes(end - 8 - middle)
    video.write_bytes(bytes(content))


def test_a_clip_that_the_disk_did_not_give_once_can_be_read_again(root, tmp_path, monkeypatch):
    read = FileClips._read

    def fails(self, clip):
        if clip.path == self.clips[3].path:
            raise VideoError(self.files[clip.path], "the disk is busy")
        return read(self, clip)

    monkeypatch.setattr(FileClips, "_read", fails)
    with pytest.raises(UserError, match="1 of 12 clips") as error:
        main(recon(root, tmp_path / "run"))
    monkeypatch.undo()
    (table,) = (tmp_path / "run").glob("real-*")
    assert f"delete {table} first" in str(error.value)
    shutil.rmtree(table)
    assert score(recon(root, tmp_path / "run")).real_clips == 12


def test_what_does_not_fit_is_told_before_the_real_clips_are_measured(root, tmp_path, monkeypatch):
    monkeypatch.setenv("EVAGEN_VGG16", str(tmp_path / "nowhere"))
    wrong = [
        (recon(root, tmp_path / "run", compare={"network": "lpips"}), "there is no file .*nowhere"),
        (
            recon(root, tmp_path / "run", certainty={"extrapolate": True}),
            "at least 1600 videos .*leave extrapolate out",
        ),
        (gen(root, tmp_path / "run", {"drawn": 1}), "at least 2 real and 2 generated"),
        (gen(root, tmp_path / "run", generator=None, tokenizer=None, samples=root / "arcade"), "num_generated=16"),
    ]
    for config, message in wrong:
        with pytest.raises(UserError, match=message), locks_end():
            main(config)
    assert not list((tmp_path / "run").glob("real-*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "larp-ucf101-rekon"}, "did you mean 'larp-ucf101-recon'"),
        ({"changes": {"dataset": None}}, "scores ucf101, 101 classes and 9,537 videos .* changes.dataset=NAME"),
        ({"changes": {"size": None}}, "at 128 pixels, the tokenizer works on 16 frames at 32 pixels: changes.size=32"),
        ({"detector": "protocol", "download": False}, "(?s)i3d_torchscript.pt is not on this .* detector `offline`"),
        ({"detector_sha256": "0" * 64}, "was not loaded: its SHA-256 is"),
        ({"router": None}, "needs router=…, tokenizer=… or tokenizer=…, uniform_length=…; got tokenizer"),
        ({"router": None, "uniform_length": 3}, "uniform_length=3: the tokenizer's lengths are 2, 4, 8"),
        ({"prefix": [3]}, r"prefix=\[3\]: no assignment begins with \[3\]: .* each one of \[2, 4, 8\]"),
        ({"prefix": [2] * 5}, "no assignment begins with .* at most 4 lengths"),
        ({"options": {"top_k": 5}}, "options.top_k is given, but .* samples nothing"),
        ({"changes": {"seed": 1}}, "changes.seed is of real clips that are drawn; adaptok-ucf101-recon .* draws none"),
        ({"detector": "offline", "detector_weights": "x"}, "carries its own weights"),
        ({"data": {"root": "nowhere", "layout": "ucf101"}}, "no folder at nowhere"),
    ],
)  # fmt: skip
def test_bad_input_is_explained(root, tmp_path, changes, message):
    config = recon(root, tmp_path / "run", **{key: value for key, value in changes.items() if key != "protocol"})
    config.protocol = changes.get("protocol", config.protocol)
    with pytest.raises(UserError, match=message):
        main(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"changes": {"drawn": 99}}, r"99 clips of 16 frames are needed, and there are 12; .*\? changes\.drawn=… "),
        ({"generator": "predictor"}, "gives 0 frames of each clip; the generator at .* was trained to be given 5"),
        ({"options": {"top_p": 2.0}}, "top_p must lie in"),
        ({"changes": {"scored_frames": "paste-given"}}, "scored_frames is for frame prediction"),
        ({"changes": {"given_lengths": [2, 2]}}, "given_lengths is for frame prediction"),
        (
            {"data": {"root": "flat", "layout": "folder"}},
            "class of each real clip, and 8 of 8 clips of .*flat have none",
        ),
    ],
)
def test_bad_input_to_generation_is_explained(root, tmp_path, monkeypatch, changes, message):
    changes = {name: root / value if name == "generator" else value for name, value in changes.items()}
    for video in (root / "arcade").rglob("*.avi"):
        (tmp_path / "flat").mkdir(exist_ok=True)
        shutil.copy(video, tmp_path / "flat")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main(gen(root, tmp_path / "run", **changes))
