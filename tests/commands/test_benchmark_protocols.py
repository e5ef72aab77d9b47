"""`evagen benchmark`: what protocols say of clips' frame rates, of given frames' lengths and of precision is done."""

# isort: split
from pathlib import Path

import numpy as np
import pytest
import torch
from scored_models import benchmark, make_models, score
from video_fixtures import moving_frames

from evagen.ar_model import sample_in_order
from evagen.commands.benchmark import main
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.eval import get_protocol
from evagen.scoring import subjects
from evagen.scoring.clips import FileClips
from evagen.scoring.setup import protocol_of
from evagen.scoring.videos import list_videos
from evagen.tokenizer import VideoTokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore::evagen.eval.frechet.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))


def test_given_frames_have_the_lengths_that_the_protocol_names(root, tmp_path, monkeypatch):
    given = []

    def watched(generator, requests, *rest):
        given.extend(request.given.lengths.tolist() for request in requests)
        return sample_in_order(generator, requests, *rest)

    monkeypatch.setattr(subjects, "sample_in_order", watched)
    models = {"generator": root / "predictor", "tokenizer": root / "tokenizer"}
    changes = {"drawn": 4, "split": "train", "given_lengths": [8, 2]}
    name = "evatok-k600-frame-prediction"
    record = score(benchmark(root, tmp_path / "run", name, changes, **models))
    assert "given_lengths=(8, 2)" in record.protocol["name"]
    assert record.lengths == "2 for every block, first blocks 8, 2"
    score(benchmark(root, tmp_path / "other", name, changes | {"given_lengths": [2, 8]}, **models))
    assert given == [[8, 2]] * 4 + [[2, 8]] * 4
    chosen = changes | {"given_lengths": []}
    assert score(benchmark(root, tmp_path / "chosen", name, chosen, uniform_length=8, **models)).lengths == (
        "8 for every block"
    )
    for changed, more, message in (
        ({"given_lengths": None}, {}, r"with \[512, 128\] tokens; 5 frames reach into 2 blocks .* are 2, 4, 8"),
        ({"given_lengths": [8]}, {}, r"with \[8\] tokens; 5 frames reach into 2 blocks"),
        ({}, {"uniform_length": 8}, "needs generator=…, tokenizer=…; got generator, tokenizer, uniform_length"),
        ({}, {"prefix": [2, 8]}, "has its own lengths of given frames"),
    ):
        with pytest.raises(UserError, match=message):
            main(benchmark(root, tmp_path / "wrong", name, changes | changed, **models, **more))


def test_webvids_clips_are_resampled_in_time(root, tmp_path):
    folder = tmp_path / "webvid"
    (folder / "train").mkdir(parents=True)
    for n, (count, rate) in enumerate([(80, 12), (70, 12), (40, 6), (20, 15)]):  # the last is of 4 frames
        path = folder / "val" / f"{n % 2:06}" / f"{n}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_frames(count, 32, 32, seed=n), fps=rate)
    data = {"root": str(folder)}
    models = {"tokenizer": root / "tokenizer", "router": root / "router"}
    changes = {"dataset": None}
    config = benchmark(root, tmp_path / "run", "evatok-webvid-recon", changes, data=data, **models)
    record = score(config)
    assert record.protocol["name"] == "evatok-webvid-recon [size=32]"
    assert (record.real_clips, record.protocol["frames_per_second"]) == (4, 3)
    protocol, _ = protocol_of(config)
    videos = list_videos(protocol, config.data)
    clips = FileClips(protocol, protocol.real_clips(videos.videos), videos.files)
    assert [clip.path for clip in clips.clips] == ["val/000000/0.mkv", "val/000000/2.mkv", "val/000001/1.mkv",
                                                   "val/000001/3.mkv"]  # fmt: skip
    steps = [np.diff(clip.numbers).tolist() for clip in clips.clips]
    assert steps == [[4] * 15, [2] * 15, [4] * 15, [5] * 3]
    stored = moving_frames(70, 32, 32, seed=1)[list(clips.clips[2].numbers)]
    torch.testing.assert_close(clips[2].video, protocol.prepare(torch.from_numpy(stored)))
    changes = {"dataset": None, "frames_per_second": 6}
    config = benchmark(root, tmp_path / "six", "evatok-webvid-recon", changes, data=data, **models)
    assert score(config).protocol["name"] == "evatok-webvid-recon [frames_per_second=6.0, size=32]"


@pytest.mark.parametrize(
    ("protocol", "asked", "label", "computed"),
    [
        ("larp-ucf101-recon", None, "", "fp16"),
        ("larp-ucf101-recon", "fp16", "", "fp16"),
        ("larp-ucf101-recon", "fp32", " [precision=fp32]", "fp32"),
        ("evatok-ucf101-recon", None, "", "fp32"),
        ("evatok-ucf101-recon", "bf16", " [precision=bf16]", "bf16"),
        ("larp-ucf101-class2video", None, "", "tokenizer fp16, generator bf16"),
        ("larp-ucf101-class2video", "bf16", " [precision=bf16]", "tokenizer bf16, generator bf16"),
        ("cdfvd", None, "", "tokenizer fp32, generator fp32"),
        ("cdfvd", "bf16", "", "tokenizer bf16, generator bf16"),
    ],
)
def test_models_compute_in_the_protocols_precision(root, tmp_path, monkeypatch, protocol, asked, label, computed):
    seen = set()
    encode, decode, sampled = VideoTokenizer.encode, VideoTokenizer.decode, subjects.sample_in_order

    def autocast() -> str:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[kind]

    monkeypatch.setattr(VideoTokenizer, "encode", lambda *a: seen.add(("tokenizer", autocast())) or encode(*a))
    monkeypatch.setattr(VideoTokenizer, "decode", lambda *a: seen.add(("tokenizer", autocast())) or decode(*a))

    def watched(model, requests, options, slots, dtype):
        assert autocast() == "fp32"  # it has its own
        seen.add(("generator", {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]))
        return sampled(model, requests, options, slots, dtype)

    monkeypatch.setattr(subjects, "sample_in_order", watched)
    run = {"out": str(tmp_path / "run"), "precision": asked}
    if get_protocol(protocol).task == "reconstruction":
        parts, changes = {"router": root / "router"}, {}
    else:
        parts = {"generator": root / "generator"}
        changes = {"drawn": 4} if protocol != "cdfvd" else {"num_generated": 4, "first_videos": 8}
    config = benchmark(root, tmp_path / "run", protocol, changes, tokenizer=root / "tokenizer", run=run, **parts)
    record = score(config)
    assert record.protocol["name"].endswith(f"size=32]{label}")
    assert record.environment["precision"] == computed
    if "tokenizer" in computed:
        assert seen == {tuple(part.split()) for part in computed.split(", ")}
    else:
        assert seen == {("tokenizer", computed)}


@pytest.mark.parametrize(
    "given",
    [
        {"run.precision": "fp16"}, {"run.seed": 1}, {"run.attention": "torch"}, {"options": {"guidance": 3.0}},
        {"preference": 0.3}, {"prefix": [4]}, {"compare": {"network": "lpips"}},
    ],
    ids=lambda given: next(iter(given)),
)  # fmt: skip
def test_nothing_is_asked_of_videos_that_only_models_have(root, tmp_path, given):
    ((key, value),) = given.items()
    inner = {"run": {"out": str(tmp_path / "run"), key[4:]: value}} if key.startswith("run.") else given
    with pytest.raises(UserError, match=rf"{key}\S* is of models; .*arcade holds videos: leave it out"):
        main(benchmark(root, tmp_path / "run", "larp-ucf101-class2video", samples=root / "arcade", **inner))


@pytest.mark.parametrize(
    ("protocol", "given", "words"),
    [
        ("larp-ucf101-class2video", {"preference": 0.3}, "preference is of a router, and none is given"),
        ("larp-ucf101-class2video", {"prefix": [4]}, "prefix is of lengths that router or uniform_length say"),
        ("larp-ucf101-recon", {"uniform_length": 4, "preference": 0.3}, "preference is of a router"),
        ("larp-ucf101-class2video", {"compare": {"network": "offline"}}, "compare.network compares reconstructed"),
        (
            "larp-ucf101-recon",
            {"uniform_length": 4, "run.seed": 1},
            r"run\.seed is of sampling, and .* samples nothing",
        ),
    ],
)
def test_nothing_is_asked_that_the_task_does_not_look_at(root, tmp_path, protocol, given, words):
    generator = {} if "uniform_length" in given else {"generator": root / "generator"}
    given = dict(given)
    if "run.seed" in given:
        given["run"] = {"out": str(tmp_path / "run"), "seed": given.pop("run.seed")}
    config = benchmark(root, tmp_path / "run", protocol, tokenizer=root / "tokenizer", **generator, **given)
    with pytest.raises(UserError, match=f"{words}.*: leave it out"):
        main(config)


def test_a_list_that_ucf101_does_not_have_is_refused(root, tmp_path):
    with pytest.raises(UserError, match=r"'changes\.split_index' is 4: .* less than or equal to 3"):
        benchmark(root, tmp_path, "larp-ucf101-recon", {"split_index": 4})
