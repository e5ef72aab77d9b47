"""`evagen export pipeline`: the folder, half the size, and what its card says."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from scored_models import make_models
from tiny_models import random_clips, tiny_router, tiny_tokenizer
from tiny_record import record
from typer.testing import CliRunner
from video_fixtures import moving_frames

from evagen import VideoPipeline, cli
from evagen.ar_model import VideoGenerator
from evagen.commands.export_pipeline import About, main, trainings
from evagen.commands.info import main as info
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.eval import psnr
from evagen.models.loading import fingerprint, load_model
from evagen.report.model_card import CardOptions, _results, renamed, write_card
from evagen.report.training_facts import seconds_of, training_facts
from evagen.sampling.rows import read_rows
from evagen.scoring.record import Model, Tokens
from evagen.tokenizer import VideoTokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_models(tmp_path_factory.mktemp("export"))


def sources(root: Path, *parts: str) -> dict[str, str]:
    return {part: str(root / part) for part in parts}


ALL = ("tokenizer", "router", "generator")


def test_the_folder_is_a_pipeline_of_the_same_models(root, tmp_path):
    arguments = [f"--{part}={source}" for part, source in sources(root, *ALL).items()]
    done = CliRunner().invoke(cli.app, ["export", "pipeline", str(tmp_path / "out"), *arguments])
    assert done.stdout.splitlines() == [str(tmp_path / "out")]
    assert "fingerprint" not in done.stderr
    own = VideoPipeline.of(root / "generator", root / "tokenizer", root / "router")
    exported = VideoPipeline.from_pretrained(tmp_path / "out")
    for part in ALL:
        assert fingerprint(getattr(exported, part)) == fingerprint(getattr(own, part))
    assert info(tmp_path / "out")[0] == ("what", "a pipeline: generator, router, tokenizer")
    files = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
    weights = {f"out/{part}/{name}" for part in ALL for name in ("config.json", "diffusion_pytorch_model.safetensors")}
    assert files == weights | {"out/README.md", "out/model_index.json", "out/pipeline.py"}


def test_half_the_size_scores_the_same_and_the_generator_knows_its_tokenizer(root, tmp_path):
    told = main(tmp_path / "half", **sources(root, *ALL), half=True)
    exact, half = (load_model(VideoTokenizer, place) for place in (root / "tokenizer", tmp_path / "half"))
    assert {each.dtype for each in half.parameters()} == {torch.float32}
    before, after = fingerprint(exact), fingerprint(half)
    assert f"{after} in place of {before}" in told
    pipeline = VideoPipeline.from_pretrained(tmp_path / "half")
    assert pipeline.generator.config.tokenizer_fingerprint == after != before
    assert dict(info(tmp_path / "half" / "tokenizer"))["fingerprint"] == after
    video, lengths = random_clips(4, frames=16), torch.full((4, 4), 8)
    scores = [psnr(each.decode(each.encode(video, lengths)), video).mean().item() for each in (exact, half)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)  # dB
    size = {
        place: sum(each.stat().st_size for each in place.rglob("*.safetensors"))
        for place in (root / "tokenizer", tmp_path / "half" / "tokenizer")
    }
    assert size[tmp_path / "half" / "tokenizer"] < 0.6 * size[root / "tokenizer"]
    assert main(tmp_path / "again", **dict.fromkeys(ALL, str(tmp_path / "half")), half=True) is None  # nothing changes
    assert "| F16 |" in (tmp_path / "half" / "README.md").read_text()


def test_nothing_is_left_of_what_goes_wrong(root, tmp_path):
    tiny_router(levels=[1, 2], num_frames=16).save_pretrained(tmp_path / "other")
    large = tiny_tokenizer(num_frames=16)
    with torch.no_grad():
        large.to_pixels.weight[0, 0] = 1e5
    large.save_pretrained(tmp_path / "large")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "work").mkdir()
    out, models = tmp_path / "work" / "out", sources(root, *ALL)
    for arguments, message in (
        ({"out": tmp_path / "full"}, "is there already"),
        ({"router": str(tmp_path / "other")}, "does not fit"),
        ({"generator": str(tmp_path / "nowhere")}, "no VideoGenerator at"),
        ({"tokenizer": str(tmp_path / "large")}, "trained on the tokens of"),
        ({"tokenizer": str(tmp_path / "large"), "router": None, "generator": None, "half": True}, "leave out --half"),
        ({"about": About(notes=tmp_path / "nowhere.md")}, "cannot be read as text"),
        ({"about": About(records=[tmp_path / "work"])}, "no record at"),
        ({"about": About(records=[record(tmp_path / "twice", "a", 1.0)] * 2)}, "given twice"),
    ):
        with pytest.raises(UserError, match=message):
            main(**{"out": out, **models, **arguments})
    assert list((tmp_path / "work").iterdir()) == []


def test_the_hubs_table_tells_scores_apart(tmp_path):
    """A folder of videos is scored as a generator is; a tokenizer with several lengths has several scores."""
    paths = [record(tmp_path / "samples", "a", 80.0, models={"samples": Model(source="x", fingerprint="ab")})]
    for count in (146.2, 512.0):
        tokens = Tokens(tokens_per_clip=count, codes_used=1, perplexity=9)
        paths.append(record(tmp_path / f"{count}", "b", 9.0, "larp-ucf101-recon", tokens=tokens))
    results = _results(paths)
    assert [each.task_type for each in results] == ["video-generation", *["video-reconstruction"] * 2]
    assert [each.metric_name for each in results] == [
        "gFVD, larp-ucf101-class2video",
        "gFVD at 146.2 tokens a clip, larp-ucf101-recon",
        "gFVD at 512.0 tokens a clip, larp-ucf101-recon",
    ]


def test_the_card_says_what_configs_logs_and_records_say(road, tmp_path):
    notes = tmp_path / "notes.md"
    notes.write_text("## What it cannot do\n\nIt boxes badly.\n")
    models = {"tokenizer": str(road / "final"), **sources(road, "router", "generator")}
    scored = record(tmp_path / "scored", "six steps", 80.0)
    main(tmp_path / "out", **models, about=About("me/boxing", [scored], notes, "apache-2.0"))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"]) == ("apache-2.0", "evagen")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("gFVD", 80.0, "ucf101")
    assert result.task_type == "video-generation"
    for text in (
        "| tokenizer | 16 frames at 32x32 pixels, in blocks of 4 frames; 1, 4 tokens a block, of 32 codes (vq) |",
        "Classes: Boxing, Skiing.",
        "evagen encode holiday.mp4 holiday.safetensors --tokenizer $MODEL --router $MODEL",
        'frames = pipeline("Boxing", seed=0).frames',
        "| command | `evagen train-tokenizer` | `evagen train-router` | `evagen train-generator` |",
        "| steps | 6 | 3 | 3 |",
        "| data | arcade, train split, 16 frames at 32 pixels | arcade, train split",  # the router's by its curation
        "80 [79, 81]",
        "95% intervals of 100 bootstrap draws",
        "It boxes badly.",
    ):
        assert text in card.text, text
    assert str(road) not in card.content
    moved = renamed(card.content, "you/boxing")
    assert moved == card.content.replace('"me/boxing"', '"you/boxing"')


def test_the_card_of_a_tokenizer_alone_offers_what_it_can_do(root, tmp_path):
    main(tmp_path / "out", **sources(root, "tokenizer"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "# out\n\nA video tokenizer, for evagen" in text
    assert "evagen sample" not in text
    assert "How it was trained" not in text


@pytest.mark.parametrize("router", [True, False])
def test_what_the_card_of_frame_prediction_types_works(router, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer, own = tiny_tokenizer(), tiny_router()
    generator = VideoGenerator(
        64, [2, 4, 8], 2, ["a", "b"], width=32, depth=1, num_heads=2, class_dropout=0.0, given_frames=3,
        num_given_blocks=1, tokenizer_fingerprint=fingerprint(tokenizer),
    )  # fmt: skip
    VideoPipeline(tokenizer, generator, own if router else None).save_pretrained("out")
    own.save_pretrained("router")
    write_card(tmp_path / "out", CardOptions("out"))
    (line,) = [
        line for line in Path("out/README.md").read_text("utf-8").splitlines() if line.startswith("evagen sample")
    ]
    for i in range(2):
        write_video(tmp_path / "videos" / f"{i}.mkv", moving_frames(8, 32, 32, seed=i), 15)
    words = shlex.split(line.replace("$MODEL", "out").replace("…", "router"), comments=True)
    done = CliRunner().invoke(cli.app, [*words[1:], "clips_per_class=1"])
    assert done.exit_code == 0, done.output
    assert len(read_rows(Path("runs/clips"))) == 2
    assert router or line.endswith(" given.router=…  # a router of your own")


def test_of_the_best_weights_the_log_is_told_up_to_their_step(tmp_path):
    (tmp_path / "best").mkdir()
    config = {"run": {"seed": 3}, "optimizer": {
        "steps": 40, "batch_size": 5, "matrices": "muon", "learning_rate": 0.01,
    }}  # fmt: skip
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    lines = [{"step": step, "held_out_loss": loss, "clips_per_second": 8} for step, loss in ((20, 1.5), (40, 3.3))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("config.json", "best/config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "best" / "score.json").write_text(json.dumps({"step": 20, "score": "loss", "value": 1.5}))
    facts = trainings({"generator": f"{tmp_path}@best"})["generator"]
    assert (facts["steps"], next(facts[name] for name in facts if "held-out" in name)) == ("20 of 40", "1.5")


def test_of_a_snapshot_the_log_is_told_up_to_its_step(root, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    config = {"run": {"seed": 3}, "optimizer": {
        "steps": 40, "batch_size": 5, "accumulation": 2, "matrices": "muon", "learning_rate": 0.01,
    }}  # fmt: skip
    (run / "config.yaml").write_text(json.dumps(config))
    lines = [{"step": s, "held_out_psnr": s / 2, "clips_per_second": 1.0 + (s > 10)} for s in (10, 20, 40)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = training_facts("tokenizer", run, step=20)
    assert facts["steps"] == "20 of 40"
    assert facts["held-out PSNR, dB"] == "10"
    assert facts["batch"] == "10 clips"
    assert facts["time"] == "2.5 min"  # 100 clips at 1 a second, 100 at 2
    assert seconds_of(lines, 10) == 250
    state = run / "checkpoints" / "step_00000040"
    state.mkdir(parents=True)
    (state / "complete").write_text(json.dumps({"planned_steps": 40, "processes": 3, "batch": 30, "files": {}}))
    of_three = training_facts("tokenizer", run)
    assert (of_three["batch"], of_three["time"]) == ("30 clips", "12.5 min")  # 300 clips at 1 a second, 900 at 2
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 50, "lo')  # a process was killed in it
    assert training_facts("tokenizer", run) == of_three
    ended_there = run / "snapshots" / "step_00000020.finished"
    shutil.copytree(root / "tokenizer", ended_there)
    main(tmp_path / "out", f"{run}@20.finished")
    assert "| steps | 20 of 40 |" in (tmp_path / "out" / "README.md").read_text()
    assert training_facts("tokenizer", tmp_path) == {}
