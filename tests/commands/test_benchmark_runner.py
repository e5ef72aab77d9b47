"""`evagen benchmark` on real files with untrained models: what it records, that nothing but the clips decides on the
score, and that nothing goes wrong quietly."""

# isort: split
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from scored_models import benchmark, gen, make_models, recon, score, stub
from tiny_models import LEVELS, tiny_block_router, tiny_tokenizer
from two_processes import launch
from video_fixtures import moving_frames

from evagen.ar_model import ClipRequest, SamplingOptions, VideoGenerator, sample_in_order
from evagen.commands.benchmark import load_benchmark, main, read_rows, token_use
from evagen.config import save_config
from evagen.data.clip_table import open_table
from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.data.sources import DataConfig
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.eval import (
    GaussianStatistics,
    I3DDetector,
    PerceptualDistance,
    PreparedDetector,
    frechet_distance_between,
    get_protocol,
    kernel_distance,
    psnr,
    ssim,
)
from evagen.eval.reconstruction import perceptual_distance
from evagen.kernels.folder_lock import locks_end
from evagen.models.loading import fingerprint, load_model
from evagen.sampling.clips import clip_seed, decode_clips
from evagen.scoring import subjects
from evagen.scoring.record import Record, read_record
from evagen.scoring.videos import ScoredData, list_videos
from evagen.tokenizer import Router, VideoTokenizer

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


def same(record: Record) -> dict:
    """All of a record but what may differ between equal scores."""
    values = record.model_dump()
    return {key: value for key, value in values.items() if key not in ("environment", "seconds", "code")}


def real_videos(root: Path, split: str = "train") -> torch.Tensor:
    data = DataConfig(root=root / "arcade", layout="ucf101", split=split, size=32, clip="first")
    dataset = ClipDataset(data)
    batch = collate_clips(list(dataset))
    order = np.argsort([str(Path(path).relative_to(root / "arcade")) for path in batch.paths])
    return batch.video[order.tolist()]


def detector(root: Path, protocol: str) -> PreparedDetector:
    chosen = stub(root)
    network = I3DDetector(chosen["detector_weights"], chosen["detector_sha256"])
    return PreparedDetector(network, get_protocol(protocol).network_input)


def distance(real: torch.Tensor, fake: torch.Tensor) -> float:
    return frechet_distance_between(GaussianStatistics.of(real), GaussianStatistics.of(fake)).item()


def test_a_reconstruction_is_scored_as_by_hand(root, tmp_path):
    record = score(recon(root, tmp_path / "run"))
    video = real_videos(root)
    tokenizer, router = load_model(VideoTokenizer, root / "tokenizer"), load_model(Router, root / "router")
    lengths = router.assign(video, 1.2)
    tokens = tokenizer.encode(video, lengths)
    again = tokenizer.decode(tokens)
    network, perceptual = detector(root, "adaptok-ucf101-recon"), PerceptualDistance()
    real, fake = network(video), network(again)
    assert record.score.value == pytest.approx(distance(real, fake), rel=1e-4)
    assert record.score.low < record.score.value < record.score.high
    assert record.score.kernel_distance == pytest.approx(kernel_distance(real, fake).item(), rel=1e-3)
    assert record.score.name == "Fréchet distance"  # the stub is not I3D
    assert record.reconstruction.psnr == pytest.approx(psnr(again, video).mean().item(), abs=1e-4)
    assert record.reconstruction.ssim == pytest.approx(ssim(again, video).mean().item(), abs=1e-5)
    expected = perceptual_distance(perceptual, again, video).mean().item()
    assert record.reconstruction.perceptual == pytest.approx(expected, abs=1e-4)
    assert record.reconstruction.perceptual_network == perceptual.name
    assert record.tokens.tokens_per_clip == lengths.sum(1).double().mean().item()
    assert record.tokens.codes_used == len(tokens.codes.unique()) / 64
    assert (record.real_clips, record.generated_clips) == (12, 12)
    assert record.protocol["name"] == "adaptok-ucf101-recon [dataset=arcade, size=32]"
    assert set(record.models) == {"tokenizer", "router"}
    assert "12 real" in (tmp_path / "run" / "table.md").read_text()
    assert any("full rank" in remark for remark in record.remarks)


def test_generated_clips_are_those_of_their_seeds(root, tmp_path):
    record = score(gen(root, tmp_path / "run", run={"out": str(tmp_path / "run"), "seed": 3}))
    assert (record.real_clips, record.generated_clips, record.seed) == (8, 8, 3)
    assert record.sampling["guidance"] == 1.25
    rows, _ = open_table(tmp_path / "run" / "scored", "", "")
    generator = load_model(VideoGenerator, root / "generator")
    tokenizer = load_model(VideoTokenizer, root / "tokenizer")
    protocol = get_protocol("larp-ucf101-class2video").changed(dataset="arcade", drawn=8)
    clips = protocol.real_clips(list_videos(protocol, ScoredData(root=root / "arcade", layout="ucf101")).videos)
    requests = [ClipRequest(clip_seed(3, i), clip.label) for i, clip in enumerate(clips)]
    written = sample_in_order(generator, requests, SamplingOptions(guidance=1.25))
    assert [row["codes"] for row in rows] == [clip.codes.tolist() for clip in written]
    fake = detector(root, "larp-ucf101-class2video")(decode_clips(tokenizer, written))
    stored = torch.tensor([row["features"] for row in rows])
    torch.testing.assert_close(stored, fake, atol=1e-4, rtol=1e-4)


TWO_PROCESSES = """
import sys
from accelerate import PartialState
from evagen.commands.benchmark import load_benchmark, main, read_rows
from evagen.run import part_processes
for path in sys.argv[1:]:
    main(load_benchmark(path, []))
assert PartialState().num_processes == 2
part_processes()
"""


def test_two_processes_fresh_or_going_on_equal_one(root, tmp_path, monkeypatch):
    """Real processes under `accelerate launch`; of the reconstructions one had made some before it was stopped."""
    one = score(recon(root, tmp_path / "one")), score(gen(root, tmp_path / "one-gen"))
    stop_after(monkeypatch, batches=2)
    with pytest.raises(KeyboardInterrupt), locks_end():
        main(recon(root, tmp_path / "two"))
    monkeypatch.undo()
    assert not (tmp_path / "two" / "record.json").exists()
    configs = [recon(root, tmp_path / "two"), gen(root, tmp_path / "two-gen")]
    paths = [str(shutil.move(save_config(config, config.run.out), tmp_path / f"{i}.yaml")) for i, config in
             enumerate(configs)]  # fmt: skip
    (tmp_path / "both.py").write_text(TWO_PROCESSES)
    launch(str(tmp_path / "both.py"), *paths)
    two = [read_record(tmp_path / name) for name in ("two", "two-gen")]
    assert [same(record) for record in two] == [same(record) for record in one]
    assert two[0].environment["processes"] == 2


def stop_after(monkeypatch, batches: int) -> None:
    rows, left = subjects.Reconstruction.rows, [batches]

    def stopped(self, batch):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return rows(self, batch)

    monkeypatch.setattr(subjects.Reconstruction, "rows", stopped)


def test_one_frame_prediction_for_each_real_clip(root, tmp_path):
    models = {name: root / folder for name, folder in
              (("generator", "predictor"), ("tokenizer", "tokenizer"), ("router", "router"))}  # fmt: skip
    changes = {"drawn": 6, "split": "train"}
    values = [
        score(benchmark(root, tmp_path / how[-5:], f"larp-k600-frame-prediction{how}", changes, **models)).score.value
        for how in ("", ":paste-given", ":predicted-only")
    ]
    assert values[1] < values[0]  # 5 of 16 frames are perfect
    rows = [open_table(tmp_path / how / "scored", "", "")[0]["codes"][:] for how in ("", "given", "-only")]
    assert rows[0] == rows[1] == rows[2]


def test_anybodys_videos_are_scored_by_the_same_rules(root, tmp_path):
    samples = tmp_path / os.fsdecode(b"samples\xe9")  # no UTF-8
    for path in sorted((root / "arcade").rglob("*.avi"))[:8]:
        (samples / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, samples / path.parent.name)
    config = benchmark(root, tmp_path / "run", "larp-ucf101-class2video", {"drawn": 8}, samples=samples)
    record = score(config)
    assert record.label == "samples\\xe9"
    assert record.tokens is None
    next(samples.rglob("*.avi")).unlink()
    config = benchmark(root, tmp_path / "fewer", "larp-ucf101-class2video", {"drawn": 8}, samples=samples)
    with pytest.raises(UserError, match=r"scores 8 clips, and .* holds 7 videos; changes.num_generated=7"):
        main(config)


def test_an_option_that_the_protocol_prescribes_goes_into_its_name(root, tmp_path):
    record = score(gen(root, tmp_path / "run", options={"guidance": 1.0, "min_p": 0.1, "temperature": 1.0}))
    assert record.protocol["name"] == (
        "larp-ucf101-class2video [dataset=arcade, drawn=8, size=32] [guidance=1.0, min_p=0.1]"
    )
    assert record.protocol["guidance"] == 1.0
    assert record.protocol["published"] == []


def test_rows_of_another_model_are_not_taken_for_this_ones(root, tmp_path, monkeypatch):
    run = tmp_path / "run"
    first = score(recon(root, run, uniform_length=2, router=None))
    with pytest.raises(UserError, match="made from other lengths"):
        main(recon(root, run, uniform_length=4, router=None))
    assert read_record(run) == first
    assert load_benchmark(str(run / "config.yaml"), []).uniform_length == 2  # still that of the score beside it
    shutil.rmtree(run / "scored")
    stop_after(monkeypatch, batches=1)
    with pytest.raises(KeyboardInterrupt), locks_end():
        main(recon(root, run, uniform_length=4, router=None))
    assert load_benchmark(str(run / "config.yaml"), []).uniform_length == 4
    assert not {"record.json", "table.md"} & {path.name for path in run.iterdir()}
    with pytest.raises(UserError, match="made from other lengths"):
        main(recon(root, run, uniform_length=2, router=None))
    assert load_benchmark(str(run / "config.yaml"), []).uniform_length == 4


def test_clips_shorter_than_the_protocols_are_left_out_or_filled_up(root, tmp_path):
    arcade = Path(shutil.copytree(root / "arcade", tmp_path / "arcade"))
    for path in arcade.rglob("*.avi"):
        write_video(path, moving_frames(7, 32, 32), fps=15)
    data = {"root": str(arcade), "layout": "ucf101"}
    with pytest.raises(UserError, match="8 clips of 16 frames are needed, and there are 0"):
        main(gen(root, tmp_path / "gen", data=data))
    assert score(recon(root, tmp_path / "recon", data=data)).real_clips == 12


def test_the_command_takes_a_protocol_and_overrides(root, tmp_path):
    config = load_benchmark(
        "larp-ucf101-recon", [f"data.root={root}", "changes.size=32", f"run.out={tmp_path}", "detector=offline"]
    )
    assert (config.protocol, config.changes.size, config.detector) == ("larp-ucf101-recon", 32, "offline")
    with pytest.raises(UserError, match=r"the nearest known key is 'changes\.drawn'"):
        load_benchmark("larp-ucf101-recon", ["changes.drawm=5", f"data.root={root}", f"run.out={tmp_path}"])
    again = load_benchmark(str(save_config(config, tmp_path)), [])
    assert again == config
    assert json.loads(again.model_dump_json())["uniform_length"] is None


def test_models_with_a_memory_are_scored_on_clips(root, tmp_path):
    """Of 16 frames, four blocks, though the generator's windows have two and the tokenizer saw three."""
    tokenizer = tiny_tokenizer(num_frames=12, memory_blocks=2)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tiny_block_router().save_pretrained(tmp_path / "router")
    generator = VideoGenerator(
        64, LEVELS, 2, ["Boxing", "Skiing"], width=32, depth=1, num_heads=2,
        tokenizer_fingerprint=fingerprint(tokenizer), endless=True,
    )  # fmt: skip
    generator.save_pretrained(tmp_path / "generator")
    models = {"tokenizer": tmp_path / "tokenizer", "generator": tmp_path / "generator"}
    record = score(gen(root, tmp_path / "gen", **models))
    assert set(map(len, read_rows(tmp_path / "gen", record.generated_clips)["lengths"])) == {4}
    record = score(recon(root, tmp_path / "recon", tokenizer=models["tokenizer"], router=tmp_path / "router"))
    assert record.score.value > 0


def test_tokens_are_not_counted_clip_by_clip(monkeypatch):
    """Which takes a hundred times as long, minutes for those of a large score."""

    def one_by_one(table):
        raise AssertionError("rows are read one by one")

    codes = [[0, 1], [1, 2, 3], [5]]
    rows = Dataset.from_dict({"codes": codes, "number": [0, 1, 2]}).with_format("numpy")
    tokenizer = SimpleNamespace(config=SimpleNamespace(codebook_size=8))
    monkeypatch.setattr(Dataset, "__iter__", one_by_one)
    tokens = token_use(rows, tokenizer)
    assert (tokens.tokens_per_clip, tokens.codes_used) == (2, 5 / 8)
    shares = np.array([1, 2, 1, 1, 1]) / 6
    assert tokens.perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
