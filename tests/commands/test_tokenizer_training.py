"""Training a tokenizer: which lengths its clips get, and the held-out clips that it looks at."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from tiny_models import tiny_block_router
from tiny_road import tokenizer_config
from two_processes import launch, shipped
from video_fixtures import write_class_folders

from evagen.commands import train_tokenizer
from evagen.config import save_config
from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.data.pictures import LINE
from evagen.errors import UserError
from evagen.eval import PerceptualDistance, motion_explained, moving_errors, psnr
from evagen.kernels.levels import video_to_frames
from evagen.models.loading import load_model
from evagen.run import claim_folder
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer
from evagen.training import objective
from evagen.training.metrics import read_metrics
from evagen.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_random_lengths_for_all_clips_make_the_proxy_again_and_for_some_a_mixture(road, tmp_path):
    def trained(share: float | None) -> Path:
        choice = {} if share is None else {"uniform_length": 4, "random_share": share}
        config = tokenizer_config(road, tmp_path / f"{share}", restart_codes_after=100, **choice)
        return train_tokenizer.main(config)

    again, proxy = (VideoTokenizer.from_pretrained(trained(share)).state_dict() for share in (1.0, None))
    assert all(torch.equal(again[name], proxy[name]) for name in proxy)
    tokens = {share: [line["tokens_per_clip"] for line in read_metrics(trained(share))] for share in (0.0, 0.5)}
    assert set(tokens[0.0]) == {16.0}
    assert sum(tokens[0.5]) < sum(tokens[0.0])


def test_a_data_set_of_which_every_twentieth_file_is_broken_trains_to_its_end_and_all_of_them_are_listed(
    tmp_path, capsys
):
    write_class_folders(tmp_path / "videos", {"ants": 260, "bees": 260}, num_frames=9)
    files = sorted((tmp_path / "videos").rglob("*.avi"))
    ways = (
        lambda data: b"",
        lambda data: b"<!doctype html>" * 50,
        lambda data: data[: len(data) // 3],
        lambda data: bytes(len(data)),
        lambda data: data[:60] + bytes(200) + data[260:],
    )
    broken = files[7::20]
    for number, file in enumerate(broken):
        file.write_bytes(ways[number % len(ways)](file.read_bytes()))
    data = {"root": str(tmp_path / "videos"), "layout": "folder", "size": 32, "frames": 8}
    train_tokenizer.main(tokenizer_config(tmp_path, tmp_path / "run", data=data))
    assert read_metrics(tmp_path / "run")[-1]["step"] == 6
    said = capsys.readouterr().out
    assert f"{len(broken)} of {len(files)} files skipped" in said
    assert f"all of them are in {tmp_path / 'run' / 'skipped.jsonl'}" in said
    listed = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert sorted(each["path"] for each in listed) == [str(file) for file in broken]
    assert all(each["reason"] for each in listed)


@pytest.mark.parametrize("lengths", ["longest", "the router's"])
def test_training_looks_at_held_out_clips_and_is_not_disturbed_by_it(road, tmp_path, lengths):
    stage, choice = ("proxy", {}) if lengths == "longest" else ("final", {"router": str(road / "router")})
    config = tokenizer_config(road, tmp_path / "watched", held_out={"clips": 3, "every": 3}, **choice)
    train_tokenizer.main(config)
    trained, straight = (VideoTokenizer.from_pretrained(at) for at in (tmp_path / "watched", road / stage))
    assert all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), straight.state_dict().values()))
    log = read_metrics(tmp_path / "watched")
    assert [line["step"] for line in log if "held_out_motion" in line] == [4, 6]  # of lines at 2, 4, 6
    data = config.data.model_copy(
        update={"split": "test", "clip": "first", "crop": "centre", "flip": False, "limit": 3}
    )
    video = collate_clips(list(ClipDataset(data))).video
    router = load_model(Router, road / "router")
    assigned = trained.assignments.uniform(4, 3) if lengths == "longest" else router.assign(video, config.preference)
    again = trained.eval()(video, assigned).reconstruction
    assert log[-1]["held_out_motion"] == pytest.approx(motion_explained(*moving_errors(again, video)), abs=1e-4)
    assert log[-1]["held_out_psnr"] == pytest.approx(psnr(again, video).mean().item(), abs=1e-4)
    some = [0, 5, 10, 15]  # of 16 frames
    distance = PerceptualDistance().video_distance(again[:, :, some], video[:, :, some]).mean().item()
    assert log[-1]["held_out_perceptual"] == pytest.approx(distance, abs=1e-4)
    assert {path.name for path in (tmp_path / "watched" / "pictures").iterdir()} == {
        "step_00000004.png", "step_00000006.png"
    }  # fmt: skip
    picture = np.asarray(Image.open(tmp_path / "watched" / "pictures" / "step_00000006.png"))
    of_clip = (len(picture) - LINE) // 3  # beneath a line of text
    for number, versions in enumerate(zip(video, again)):
        for row, version in enumerate(versions):
            shown = picture[LINE + number * of_clip + LINE + 33 * row :][:32]
            for i, frame in enumerate(video_to_frames(version)):
                assert np.abs(shown[:, i * 33 :][:, :32].astype(int) - frame).max() <= 1


def test_another_process_draws_other_numbers_by_which_svq_chooses(road, tmp_path, monkeypatch):
    config = tokenizer_config(road, tmp_path / "run")
    monkeypatch.setattr(Accelerator, "process_index", 1)
    monkeypatch.setattr(TrainingRun, "resume", lambda *args, **settings: sys.exit())
    with pytest.raises(SystemExit):
        train_tokenizer.main(config)
    assert torch.initial_seed() != config.run.seed


def test_no_checkpoint_holds_a_discriminator_that_broke_in_its_step(road, tmp_path, monkeypatch):
    make = objective.make_discriminator

    def breaking(*settings) -> torch.nn.Module:
        discriminator = make(*settings)
        next(discriminator.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        return discriminator

    monkeypatch.setattr(objective, "make_discriminator", breaking)
    run = {"out": str(tmp_path / "run"), "save_every": 1, "log_every": 1, "tracker": "none"}
    config = tokenizer_config(road, tmp_path / "run", run=run, loss={"adversarial": {"discriminator": "patch"}})
    with pytest.raises(UserError, match=r"step 1: discriminator_gradient_norm became NaN .*No checkpoint had been"):
        train_tokenizer.main(config)


@pytest.mark.parametrize(("score", "best"), [("psnr", max), ("perceptual", min)])
def test_the_best_weights_are_kept_over_a_stop_and_are_the_averaged_ones(road, tmp_path, monkeypatch, score, best):
    """Where the rate is far too high, the best is not the last."""
    optimizer = {"steps": 6, "batch_size": 4, "learning_rate": 0.03, "ema_decay": 0.3, "gradient_clip": 1000}
    held_out = {"clips": 3, "every": 2, "shown": 0, "best": score}
    config = tokenizer_config(road, tmp_path / "run", held_out=held_out, optimizer=optimizer)
    update = TrainingRun.update

    def killed(self, *rest):
        if self.step == 5:
            raise KeyboardInterrupt
        update(self, *rest)

    monkeypatch.setattr(TrainingRun, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer.main(config)
    monkeypatch.setattr(TrainingRun, "update", update)
    train_tokenizer.main(config)
    scores = {line["step"]: line[f"held_out_{score}"] for line in read_metrics(tmp_path / "run")}
    assert len(scores) == 3
    about = json.loads((tmp_path / "run" / "best" / "score.json").read_text())
    assert about == {
        "step": best(scores, key=scores.get),
        "score": score,
        "value": pytest.approx(best(scores.values())),
    }
    assert not (tmp_path / "run" / "pictures").exists()
    (tmp_path / "run" / "best").rename(tmp_path / "run" / ".best.earlier")  # killed just before the better one stood
    train_tokenizer.main(
        tokenizer_config(road, tmp_path / "run", held_out=held_out, optimizer=optimizer | {"steps": 7})
    )
    kept = load_model(VideoTokenizer, f"{tmp_path / 'run'}@best")
    changes = {"split": "test", "clip": "first", "crop": "centre", "flip": False, "limit": 3}
    video = collate_clips(list(ClipDataset(config.data.model_copy(update=changes)))).video
    again = kept(video, kept.assignments.uniform(4, 3)).reconstruction
    if score == "psnr":
        assert psnr(again, video).mean().item() == pytest.approx(about["value"], abs=1e-4)


def test_the_best_of_no_clips_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"best=psnr needs clips to score: give held_out\.clips"):
        tokenizer_config(tmp_path, tmp_path, held_out={"best": "psnr"})


def test_without_held_out_clips_training_goes_on_and_says_so_unless_they_were_named(tmp_path, capfd):
    write_class_folders(tmp_path / "videos", {"ants": 3}, num_frames=16)
    data = {"root": str(tmp_path / "videos"), "layout": "folder", "size": 32}
    train_tokenizer.main(tokenizer_config(tmp_path, tmp_path / "out", data=data, held_out={"clips": 2}))
    assert "the log goes without held-out clips" in capfd.readouterr().out
    for counted_on in ({"split": "test"}, {"best": "psnr"}):
        named = tokenizer_config(tmp_path, tmp_path / "named", data=data, held_out={"clips": 2, **counted_on})
        with pytest.raises(UserError, match="has no test split"):
            train_tokenizer.main(named)


def test_clips_that_are_learnt_are_not_called_held_out(road, tmp_path, capfd):
    data = tokenizer_config(road, tmp_path).data.model_dump()
    learnt = tokenizer_config(road, tmp_path / "same", held_out={"clips": 2, "split": "all"})
    with pytest.raises(UserError, match=r"held_out\.split=all holds videos that are trained on, .*data\.split=train"):
        train_tokenizer.main(learnt)
    (tmp_path / "same" / "checkpoints").mkdir(exist_ok=True)  # of an earlier version, which looked at them
    claim_folder(tokenizer_config(road, tmp_path / "same"), tmp_path / "same")  # it goes on without
    everything = data | {"split": "all"}
    train_tokenizer.main(tokenizer_config(road, tmp_path / "all", data=everything, held_out={"clips": 2}))
    assert "the log goes without held-out clips: held_out.split=test holds" in capfd.readouterr().out
    assert not any("held_out_psnr" in line for line in read_metrics(tmp_path / "all"))


def remembering(root: Path, out: Path, **changes) -> train_tokenizer.TokenizerTraining:
    config = tokenizer_config(root, out)
    model = {**config.model.model_dump(), "memory_blocks": 1}
    data = {**config.data.model_dump(), "frames": 16}
    return tokenizer_config(root, out, **{"model": model, "data": data, "pieces": [4, 8, 16], **changes})


@pytest.fixture
def seen(monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Videos and lengths of all training batches."""
    passes, whole = [], VideoTokenizer.forward

    def forward(self, video, lengths):
        passes.append((video, lengths))
        return whole(self, video, lengths)

    monkeypatch.setattr(VideoTokenizer, "forward", forward)
    return passes


def test_every_batch_has_pieces_of_one_length(road, tmp_path, seen):
    optimizer = {"steps": 12, "batch_size": 2, "learning_rate": 0.01}
    train_tokenizer.main(remembering(road, tmp_path / "out", optimizer=optimizer))
    assert {video.shape[2] for video, _ in seen} == {4, 8, 16}
    for video, lengths in seen:
        assert video.shape[0] * video.shape[2] == 2 * 16  # all batches cost about the same
        assert lengths.shape == (len(video), video.shape[2] // 4)
    assert VideoTokenizer.from_pretrained(tmp_path / "out").config.memory_blocks == 1


def test_a_router_of_blocks_gives_pieces_their_lengths(road, tmp_path, seen):
    tiny_block_router(memory_blocks=1, levels=[1, 4]).save_pretrained(tmp_path / "router")
    router = load_model(BlockRouter, tmp_path / "router")
    optimizer = {"steps": 6, "batch_size": 2, "learning_rate": 0.01}
    config = remembering(road, tmp_path / "out", optimizer=optimizer, router=str(tmp_path / "router"), preference=1.0)
    train_tokenizer.main(config)
    assert len({len(lengths[0]) for _, lengths in seen}) > 1
    for video, lengths in seen:
        assert torch.equal(lengths, router.assign(video, 1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, r"pieces=\[4, 8, 16\] needs model\.memory_blocks"),
        ({"pieces": [8, 12]}, r"\[12\] do not divide data\.frames=16 into whole blocks of model\.temporal_patch=4"),
        ({"pieces": [2]}, r"\[2\] do not divide"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(road, tmp_path, changes, message):
    if changes == {"model": None}:
        changes = {"model": tokenizer_config(road, tmp_path).model.model_dump()}
    with pytest.raises(UserError, match=message):
        remembering(road, tmp_path / "out", **changes)


SHARDED = """
import sys
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from evagen.commands.train_tokenizer import TokenizerTraining, main
from evagen.config import load_config
from evagen.run import part_processes
from evagen.training.run import TrainingRun

# Accelerate offers FSDP on GPUs only: these processes pass for such, and go on with gloo on CPUs.
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
Accelerator.end_training = lambda self: None  # the second training still needs both processes
finish = TrainingRun.finish

def finish_sharded(run):
    assert all(isinstance(each, FSDPModule) for part in (run.model.encoder, run.model.decoder) for each in part.layers)
    finish(run)

TrainingRun.finish = finish_sharded
for path in sys.argv[1:]:
    main(load_config(TokenizerTraining, path))
part_processes()
"""


def test_two_processes_with_sharded_layers_are_not_disturbed_and_one_writes(road, tmp_path):
    """With a discriminator, whose layers are others."""
    optimizer = {"steps": 3, "batch_size": 2, "learning_rate": 0.01, "ema_decay": 0.5}
    model = tokenizer_config(road, tmp_path).model.model_dump() | {"quantizer": "bsq", "code_width": 5}
    judge = {"discriminator": "transformer", "transformer": {"width": 16, "depth": 1, "heads": 2}}
    loss, files = {"adversarial": judge}, []
    for name, held_out in (("watched", {"clips": 3, "every": 1, "best": "psnr"}), ("unwatched", {})):
        run = {"out": str(tmp_path / name), "log_every": 1, "tracker": "none"}
        changes = {"held_out": held_out, "optimizer": optimizer, "model": model, "loss": loss, "run": run}
        config = tokenizer_config(road, tmp_path, **changes)
        files.append(str(save_config(config, tmp_path / name)))
    (tmp_path / "both.py").write_text(SHARDED)
    launch(str(tmp_path / "both.py"), *files, options=shipped("fsdp"))
    watched, plain = (VideoTokenizer.from_pretrained(tmp_path / name) for name in ("watched", "unwatched"))
    assert all(torch.equal(a, b) for a, b in zip(watched.state_dict().values(), plain.state_dict().values()))
    torch.manual_seed(config.run.seed)
    untrained = VideoTokenizer(**model, num_frames=config.data.frames, resolution=config.data.size).state_dict()
    assert all((plain.state_dict()[name] - weight).abs().max() > 1e-4 for name, weight in untrained.items())
    assert len(list((tmp_path / "watched" / "pictures").iterdir())) == 3
    assert load_model(VideoTokenizer, f"{tmp_path / 'watched'}@best").config.quantizer == "bsq"
