"""The commands on real video files, tiny: every stage from files to new files, resumed and refused."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from tiny_models import tiny_teacher
from tiny_road import tokenizer_config

from evagen.commands import curate, quality_cost, tokenize, train_tokenizer
from evagen.config import check_config
from evagen.data.clips import ClipDataset
from evagen.data.corpus import read_corpus
from evagen.data.curation_record import read_record
from evagen.data.loader import collate_clips
from evagen.errors import UserError
from evagen.eval import motion_explained, moving_errors
from evagen.models.loading import load_model
from evagen.run import claim_folder
from evagen.tokenizer import Router, TokenizedClips, VideoTokenizer
from evagen.training.metrics import read_metrics
from evagen.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_curation_stores_what_reconstructing_by_hand_gives(road):
    record = read_record(road / "curation")
    tokenizer = load_model(VideoTokenizer, road / "proxy")
    clip = collate_clips([ClipDataset(record.clips)[int(record.keys[2])]])
    assert record.mse.shape == (12, 16)
    for index in (0, 6, 15):
        lengths = record.space.lengths_of(torch.tensor([index]))
        reconstruction = tokenizer.decode(tokenizer.encode(clip.video, lengths))
        by_hand = (reconstruction - clip.video).square().mean().double()
        torch.testing.assert_close(record.mse[2, index], by_hand, atol=1e-6, rtol=1e-4)
        explained = motion_explained(record.moving_mse[2, index], record.still_mse[2])
        assert explained == pytest.approx(motion_explained(*moving_errors(reconstruction, clip.video)), abs=1e-4)


def test_the_state_of_a_training_tells_its_videos(road):
    config = check_config(train_tokenizer.TokenizerTraining, _yaml(road / "proxy" / "config.yaml"), "test")
    state = max((road / "proxy" / "checkpoints").glob("step_*/state.json"))
    assert ClipDataset(config.data).fingerprint() in state.read_text()


def test_the_corpus_holds_the_routers_lengths_and_decodes(road):
    corpus = read_corpus(road / "tokens")
    tokenizer, router = load_model(VideoTokenizer, road / "final"), load_model(Router, road / "router")
    config = check_config(tokenize.Tokenization, _yaml(road / "tokens" / "config.yaml"), "test")
    clips = collate_clips(list(ClipDataset(config.data)))
    assert len(corpus.table) == 2 * len(clips)  # each clip and its mirror image
    rows = [row for row in corpus.table if not row["flipped"]]
    lengths = torch.stack([row["lengths"] for row in rows])
    assert torch.equal(lengths, router.assign(clips.video, 1.2))
    stored = TokenizedClips(torch.cat([row["codes"] for row in rows]), lengths)
    direct = tokenizer(clips.video, lengths).reconstruction.clamp(-1, 1)
    torch.testing.assert_close(tokenizer.decode(stored), direct, atol=1e-5, rtol=0)


def test_resumed_training_equals_uninterrupted_bit_for_bit(road, tmp_path, monkeypatch):
    config = tokenizer_config(road, tmp_path / "resumed")
    update = TrainingRun.update

    def killed_at_five(self, *rest):
        if self.step == 5:
            raise KeyboardInterrupt
        update(self, *rest)

    monkeypatch.setattr(TrainingRun, "update", killed_at_five)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer.main(config)
    monkeypatch.undo()
    assert {p.name for p in (tmp_path / "resumed" / "checkpoints").iterdir()} == {"step_00000002", "step_00000004"}
    train_tokenizer.main(config)
    resumed = VideoTokenizer.from_pretrained(tmp_path / "resumed").state_dict()
    straight = VideoTokenizer.from_pretrained(road / "proxy").state_dict()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    timeless = [
        [{k: v for k, v in line.items() if k != "clips_per_second"} for line in read_metrics(folder)]
        for folder in (tmp_path / "resumed", road / "proxy")
    ]
    assert timeless[0] == timeless[1]


def test_a_finished_stage_is_not_run_again(road):
    weights = road / "proxy" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    train_tokenizer.main(tokenizer_config(road, road / "proxy"))
    assert weights.stat().st_mtime_ns == before


def test_fine_tuning_starts_from_the_trained_weights(road, tmp_path):
    gently = {"steps": 1, "batch_size": 4, "learning_rate": 1e-9, "weight_decay": 0.0}
    config = tokenizer_config(road, tmp_path, start_from=str(road / "final"), optimizer=gently, restart_codes_after=99)
    train_tokenizer.main(config)
    tuned = VideoTokenizer.from_pretrained(tmp_path).state_dict()
    trained = VideoTokenizer.from_pretrained(road / "final").state_dict()
    assert all(torch.allclose(tuned[name], trained[name], atol=1e-6) for name in trained)


def test_fine_tuning_a_model_of_other_sizes_is_explained(road, tmp_path):
    config = tokenizer_config(road, tmp_path, start_from=str(road / "final"))
    config.model.encoder_width = 64
    with pytest.raises(UserError, match="do not fit this model: encoder_width is 32 there and 64 here"):
        train_tokenizer.main(config)


def test_a_folder_of_another_run_is_refused(road, tmp_path):
    config = tokenizer_config(road, tmp_path / "run")
    (tmp_path / "run").mkdir()
    other = tokenizer_config(road, tmp_path / "run", restart_codes_after=3)
    claim_folder(other, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(
        UserError, match=r"holds a run with another config: restart_codes_after is 3 there and .* here; choose another"
    ):
        train_tokenizer.main(config)


def test_a_half_written_record_is_explained(road, tmp_path):
    (tmp_path / "record.partial").mkdir()
    with pytest.raises(UserError, match="no finished curation record"):
        read_record(tmp_path)


def test_a_corrupt_file_in_the_middle_does_not_stop_training(road, tmp_path, capfd):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i, path in enumerate(sorted((road / "arcade").rglob("*.avi"))[:5]):
        (folder / f"{i}.avi").write_bytes(path.read_bytes())
    (folder / "2.avi").write_bytes(b"not a video at all")
    data = {"root": str(folder), "layout": "folder", "size": 32}
    train_tokenizer.main(tokenizer_config(road, tmp_path / "run", data=data))
    printed = capfd.readouterr().out
    assert "1 of 5 files skipped" in printed
    assert "2.avi" in printed


def test_accelerate_launch_and_the_evagen_command_explain_errors(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        "-m",
        "evagen",
        "train-tokenizer",
    ]
    arguments = ["quickstart/proxy", f"run.out={tmp_path / 'run'}", "data.root=nowhere"]
    evagen = [sys.executable, "-c", "from evagen.cli import main; main()", "train-tokenizer"]
    for command in (launch, evagen):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
        assert done.returncode != 0
        assert "error:" in done.stderr
        assert "nowhere" in done.stderr
        assert "UserError" not in done.stderr


def _yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


LARPS = {
    "discriminator": "transformer", "transformer": {"width": 32, "depth": 1, "heads": 2}, "form": "non_saturating",
    "label_noise": 0.15, "every": 2, "learning_rate": 3e-3, "weight_decay": 0.0,
}  # fmt: skip


@pytest.mark.usefixtures("narrow_patches")
@pytest.mark.parametrize(("discriminator", "projection"), [({"discriminator": "patch"}, "decoder"), (LARPS, "teacher")])
def test_the_whole_objective_trains_and_resumes(road, tmp_path, monkeypatch, discriminator, projection):
    """A discriminator with LeCAM and adaptive weight, and alignment with a tiny random V-JEPA 2 from a folder."""
    tiny_teacher().save_pretrained(tmp_path / "teacher")
    loss = {
        "adversarial": {**discriminator, "start_step": 3, "ramp_steps": 2, "adaptive": True, "lecam": 0.01},
        "alignment": {"weight": 0.7, "teacher": str(tmp_path / "teacher"), "layer": 1, "projection": projection},
    }
    run = {"log_every": 1, "save_every": 2, "tracker": "none"}
    straight = tokenizer_config(road, tmp_path / "straight", loss=loss, run={"out": str(tmp_path / "straight"), **run})
    train_tokenizer.main(straight)
    log = read_metrics(tmp_path / "straight")
    assert ["adversarial" in line for line in log] == [False] * 3 + [True] * 3
    assert all("alignment" in line for line in log)
    assert all("discriminator" in line and "lecam" in line for line in log[1:])

    update = TrainingRun.update

    def killed_at_five(self, *rest):
        if self.step == 5:
            raise KeyboardInterrupt
        update(self, *rest)

    resumed = tokenizer_config(road, tmp_path / "resumed", loss=loss, run={"out": str(tmp_path / "resumed"), **run})
    monkeypatch.setattr(TrainingRun, "update", killed_at_five)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer.main(resumed)
    monkeypatch.undo()
    train_tokenizer.main(resumed)
    weights = [VideoTokenizer.from_pretrained(tmp_path / name).state_dict() for name in ("straight", "resumed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture
def fresh_accelerator():
    """Accelerate fixes the precision of a process by its first Accelerator; this test has its own."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"frames": 15}}, "multiple of the temporal patch 4; got 15, the nearest that fit are 12 and 16"),
        ({"data": {"size": 60}}, r"multiples of the spatial patch 8; got \(60, 60\), the nearest size that fits is"),
        ({"model": {"levels": [16, 4]}}, "levels must be positive and strictly increasing"),
        ({"model": {"encoder_heads": 5}}, "not divisible by 5 heads|heads must be of even width"),
    ],
)
def test_settings_that_make_no_model_are_explained(road, tmp_path, changes, message):
    config = tokenizer_config(road, tmp_path / "run").model_dump()
    for section, values in changes.items():
        config[section] |= values
    with pytest.raises(UserError, match=message):
        train_tokenizer.main(check_config(train_tokenizer.TokenizerTraining, config, "test"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [("config", "are not those of config.json"), ("weights", "missing or damaged"), ("nothing there", "missing")],
)
def test_a_checkpoint_that_does_not_fit_is_explained(road, tmp_path, damage, message):
    folder = Path(shutil.copytree(road / "proxy", tmp_path / "proxy"))
    weights = folder / "diffusion_pytorch_model.safetensors"
    if damage == "config":
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(config.replace('"encoder_width": 32', '"encoder_width": 64'))
    elif damage == "weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    with pytest.raises(UserError, match=message):
        load_model(VideoTokenizer, folder)


def test_training_in_bf16_with_accumulation_checkpointing_and_averaged_weights(road, tmp_path, fresh_accelerator):
    run = {"mixed_precision": "bf16", "gradient_checkpointing": True, "log_every": 1, "tracker": "none"}
    optimizer = {"steps": 4, "batch_size": 2, "accumulation": 2, "learning_rate": 0.01, "ema_decay": 0.9}
    transformer = {"width": 32, "depth": 1, "heads": 2}  # convolutions in bf16 take a CPU without it minutes
    loss = {"adversarial": {"discriminator": "transformer", "transformer": transformer, "ramp_steps": 0}}
    changes = {"run": {"out": str(tmp_path), **run}, "optimizer": optimizer, "loss": loss}
    train_tokenizer.main(tokenizer_config(road, tmp_path, **changes))
    log = read_metrics(tmp_path)
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert log[-1]["loss"] == log[-1]["loss"]
    model = load_model(VideoTokenizer, tmp_path)
    assert model.dtype == torch.float32  # the weights and the quantiser stay exact


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"alignment": {"weight": 0.7, "layer": 9}}, "loss.alignment.layer is 9, but the decoder has 1 layers"),
        ({"alignment": {"weight": 0.7, "layer": 1, "teacher": "/nowhere"}}, "nowhere"),
        ({"compare": {"network": "lpips", "vgg16": "/nowhere.pth"}}, "nowhere"),
    ],
)
def test_a_network_out_of_reach_is_explained(road, tmp_path, loss, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message):
        train_tokenizer.main(tokenizer_config(road, tmp_path / "run", loss=loss))


def test_the_quality_cost_study_on_real_files(road, tmp_path):
    data = {"root": str(road / "arcade"), "layout": "ucf101", "split": "test", "size": 32, "clip": "first"}
    held_out = {"run": {"out": str(tmp_path / "held")}, "data": data, "max_segments": 8}
    curate.main(check_config(curate.Curation, {**held_out, "tokenizer": str(road / "proxy")}, "test"))
    mirrored = {**held_out, "run": {"out": str(tmp_path / "mirrored")}, "mirrored": True}
    curate.main(check_config(curate.Curation, {**mirrored, "tokenizer": str(road / "proxy")}, "test"))
    config = {
        "run": {"out": str(tmp_path / "study")}, "record": str(road / "curation"),
        "held_out": {"held out": str(tmp_path / "held")}, "mirrored": {"held out": str(tmp_path / "mirrored")},
        "proxy": str(road / "proxy"), "final": str(road / "final"),
        "router": str(road / "router"), "single_routers": {1.0: str(road / "router")}, "num_preferences": 3,
        "frechet": {"detector": "offline", "points": 2},
    }  # fmt: skip
    out = quality_cost.main(check_config(quality_cost.QualityCost, config, "test"))
    rows = list(csv.DictReader((out / "points.csv").open()))
    assert {row["way"] for row in rows} == {
        "uniform", "threshold", "max reward", "mirror image", "best uniform", "router", "single router",
        "proxy tokenizer", "final tokenizer",
    }  # fmt: skip
    uniform = [float(row["tokens"]) for row in rows if row["way"] == "uniform"]
    assert uniform == [4.0, 16.0]
    dials = {way: [float(row["dial"]) for row in rows if row["way"] == way] for way in ("router", "max reward")}
    assert dials == {"router": [0.8, 1.2, 1.6], "max reward": [0.4, 0.8, 1.2, 1.6, 2.0]}
    summary = json.loads((out / "summary.json").read_text())["held out"]
    assert all(0 <= share <= 1 for way in summary["reward_percentile"].values() for share in way.values())
    assert summary["conditioned_over_single_router_reward"]["1"] == 1.0  # the same router
    best, image = ([float(r["reward"]) for r in rows if r["way"] == way] for way in ("max reward", "mirror image"))
    assert all(a >= b - 1e-12 for a, b in zip(best, image))
    assert len(summary["router_reward_over_mirror_image"]) == 3
    # What is read off the record is what reconstructing gives (all frames are compared in both).
    proxy = next(row for row in rows if row["way"] == "proxy tokenizer")
    routed = next(row for row in rows if row["way"] == "router" and float(row["dial"]) == float(proxy["dial"]))
    assert float(proxy["psnr"]) == pytest.approx(float(routed["psnr"]), abs=1e-3)
    assert float(proxy["perceptual"]) == pytest.approx(float(routed["perceptual"]), abs=1e-4)
    measured = {way: [float(row["dial"]) for row in rows if row["way"] == way and row["frechet"]] for way in dials}
    assert measured == {"router": [0.8, 1.6], "max reward": [0.4, 2.0]}
    assert all(row["frechet"] for row in rows if "tokenizer" in row["way"])
    assert (out / "quality_cost.png").stat().st_size > 10_000
    unmirrored = config | {"run": {"out": str(tmp_path / "wrong")}, "mirrored": config["held_out"]}
    with pytest.raises(UserError, match=r"mirrored records of the same clips with mirrored=true; .* are not such"):
        quality_cost.main(check_config(quality_cost.QualityCost, unmirrored, "test"))
    lost = config | {"run": {"out": str(tmp_path / "lost")}, "compare": {"network": "lpips", "vgg16": "/nowhere"}}
    with pytest.raises(UserError, match="/nowhere"):
        quality_cost.main(check_config(quality_cost.QualityCost, lost, "test"))
    stranger = config | {"run": {"out": str(tmp_path / "stranger")}, "proxy": str(road / "final")}
    with pytest.raises(UserError, match=r"the records were measured with tokenizer .* give the tokenizer of the recor"):
        quality_cost.main(check_config(quality_cost.QualityCost, stranger, "test"))
    other = config | {"run": {"out": str(tmp_path / "other")}, "reward_scale": "z-score"}
    with pytest.raises(UserError, match="trained on rewards of scale min-max, whose preferences mean something else"):
        quality_cost.main(check_config(quality_cost.QualityCost, other, "test"))
