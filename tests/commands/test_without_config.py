"""What a newcomer types first: no config, no path of a model, only the name of one in the box, or not even that."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_models import make_models
from typer.testing import CliRunner
from video_fixtures import moving_frames

from evagen import cli
from evagen.commands import cli_video, quickstart, sample_one
from evagen.data.video_reader import read_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels import sources
from evagen.sampling.pipeline import VideoPipeline
from evagen.scoring.pairs import PairScores


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """Holds `evagen/tiny`, which does everything, and `evagen/plain`, which has no generator."""
    root = make_models(tmp_path_factory.mktemp("without"))
    folder = tmp_path_factory.mktemp("package")
    VideoPipeline.of(root / "generator", root / "tokenizer", root / "router").save_pretrained(folder / "box" / "tiny")
    VideoPipeline.of(None, root / "tokenizer", root / "router").save_pretrained(folder / "box" / "plain")
    shutil.copytree(root / "tokenizer", folder / "tokenizer")
    return folder


@pytest.fixture(autouse=True)
def in_an_empty_folder_with_that_box(box, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BOX", box / "box")
    for module in (cli_video, quickstart):
        monkeypatch.setattr(module, "FOR_CLASSES", "evagen/tiny")
    monkeypatch.chdir(tmp_path)


def call(*words: str) -> str:
    """What it prints on standard output."""
    return called(*words).stdout


def called(*words: str) -> Any:
    done = CliRunner().invoke(cli.app, list(words))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def test_a_generator_that_always_knew_the_class_is_sampled_without_guidance():
    pipeline = VideoPipeline.from_pretrained("evagen/tiny")
    pipeline.generator.register_to_config(class_dropout=0.0)
    pipeline.save_pretrained("mine")
    (clip,) = sample_one.clips_of("mine", ["Boxing"], 1, 5)[2]
    (same,) = pipeline("Boxing", seed=5, top_p=0.9, output_type="latent").tokens
    assert clip.codes.tolist() == same.codes.tolist()


def test_sample_writes_one_video_and_says_where():
    said = call("sample", "--class", "Boxing", "--clips", "3", "--seed", "5")
    assert said.splitlines()[3:] == ["Boxing.mp4"]
    video = read_frames(Path("Boxing.mp4"))
    assert video.shape == (16, 2 * 256 + 4, 2 * 256 + 4, 3)
    clips = VideoPipeline.from_pretrained("evagen/tiny")(["Boxing"] * 3, seed=5, guidance_scale=1.5, top_p=0.9)
    frames = np.rint(clips.frames * 255).astype(np.uint8)
    assert np.array_equal(sample_one.clips_of("evagen/tiny", ["Boxing"], 3, 5)[1], frames)
    assert np.array_equal(sample_one.grid(frames)[:, :256, :256], frames[0].repeat(8, 1).repeat(8, 2))
    for line, clip in zip(said.splitlines(), clips.tokens):
        assert line == f"Boxing: {clip.lengths.sum()} tokens, {' + '.join(str(int(n)) for n in clip.lengths)}"


def test_what_sample_says_next_works_and_leaves_the_quickstart_s_folder_alone(monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr("evagen.demo.page.build_page", lambda models, _: models)
    monkeypatch.setattr("evagen.demo.page.launch", lambda models, *_: shown.extend(models))
    Path("my models").mkdir()
    VideoPipeline.from_pretrained("evagen/tiny").save_pretrained("my models/tiny")
    done = called("sample", "--model", "my models/tiny", "--class", "Boxing", "--clips", "1")
    for line in done.stderr.splitlines()[-2:]:
        first, program, *words = shlex.split(line)
        assert (first, program) == ("next:", "evagen")
        call(*words)
    assert shown == ["my models/tiny"]
    assert not Path("runs/quickstart").exists()
    assert len(list(Path("runs/mine/clips/Skiing").iterdir())) == 16


def test_a_place_that_cannot_be_written_to_is_told_before_clips_are_sampled(monkeypatch):
    monkeypatch.setattr(sample_one, "clips_of", lambda *_: pytest.fail("sampled in vain"))
    Path("Boxing.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match=r"Boxing\.mp4"):
        sample_one.main("evagen/tiny", ["Boxing"], None, 1, 0)


def test_sample_shows_every_class_where_none_is_named():
    assert [line.split(":")[0] for line in call("sample", "--out", "all.gif").splitlines()[:3]] == [
        "Boxing", "Skiing", "all.gif",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "Boxin"], "knows no class 'Boxin'; the nearest are Boxing, Skiing; there are Boxing, Skiing"),
        (["--out", "clips.txt"], "cannot write clips.txt"),
        (
            ["boxing.mp4"],
            "boxing.mp4 is a video's name, and a config stands there; what is written is --out",
        ),
        (["boxing"], "boxing is a class, and a config stands there; clips of it: evagen sample --class Boxing"),
        (["nothing"], "no config file at nothing; shipped configs with a similar name"),
        (["--model", "evagen/plain"], "evagen/plain has no generator; it has: router, tokenizer"),
        (["--model", "evagen/other"], "no model evagen/other in the box; there are: evagen/plain, evagen/tiny"),
        (["--seed", "99999999999999999999"], "seed=99999999999999999999: give a whole number from 0 to 4294967295"),
        (
            ["--dry-run"],
            "--dry-run tries a shipped config, and none is named: evagen sample quickstart/sample --dry-run",
        ),
        (["options.top_p=0.5"], r"changes a config, and none is named: evagen sample quickstart/sample options.top_p"),
    ],
)
def test_what_sample_cannot_do_is_said_and_nothing_is_left(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        call("sample", *words)
    assert list(tmp_path.iterdir()) == []


def test_sample_by_a_config_takes_the_same_options(tmp_path):
    call("sample", "quickstart/sample", "--model", "evagen/tiny", "--class", "Skiing", "--clips", "2", "--out", "run")
    assert sorted(path.name for path in (tmp_path / "run" / "Skiing").iterdir()) == ["000000.mp4", "000001.mp4"]


def test_a_video_goes_into_tokens_and_back_without_naming_a_file_of_a_model():
    write_video(Path("-my own.mp4"), moving_frames(20, 40, 56), 25)
    video = Path("-my own.mp4").read_bytes()
    done = called("encode", "./-my own.mp4", "./-my own.safetensors", "--tokenizer", "evagen/plain")
    assert "PSNR" in done.stdout
    first, program, *words = shlex.split(done.stderr.splitlines()[-1])
    assert (first, program) == ("next:", "evagen")
    assert call(*words).splitlines()[-1] == "-my own_decoded.mp4"
    assert read_frames(Path("-my own_decoded.mp4")).shape == (20, 40, 56, 3)
    assert Path("-my own.mp4").read_bytes() == video
    *_, use, _ = call("info", "./-my own.safetensors").splitlines()
    assert shlex.split(use)[3:] == ["evagen", "decode", "./-my own.safetensors", "./-my own_decoded_decoded.mp4"]
    again = ["encode", "./-my own_decoded.mp4", "./-my own.safetensors", "--tokenizer", "evagen/plain", "--no-score"]
    done = called(*again)
    assert "PSNR" not in done.stdout
    assert shlex.split(done.stderr)[-1] == "./-my own_decoded_decoded.mp4"  # the other would be overwritten
    assert call("decode", "./-my own.safetensors", "back.mkv").splitlines()[-1] == "back.mkv"
    assert read_frames(Path("back.mkv")).shape == (20, 40, 56, 3)


def test_a_tokenizer_alone_says_that_a_router_is_needed(box):
    write_video(Path("my.mp4"), moving_frames(20, 40, 56), 25)
    with pytest.raises(UserError, match=r"tokenizer holds no router.*give --router, or a pipeline or the name"):
        call("encode", "my.mp4", "my.safetensors", "--tokenizer", str(box / "tokenizer"))


def test_tokens_of_a_tokenizer_that_is_not_in_the_box_say_so(box, tmp_path):
    write_video(Path("my.mp4"), moving_frames(20, 40, 56), 25)
    call("encode", "my.mp4", "my.safetensors", "--tokenizer", "evagen/plain")
    for name in ("tiny", "plain"):
        (box / "box" / name / "model_index.json").rename(box / f"{name}.json")
    try:
        with pytest.raises(UserError, match=r"none of the models in the box \(none\): give --tokenizer"):
            call("decode", "my.safetensors", "back.mkv")
    finally:
        for name in ("tiny", "plain"):
            (box / f"{name}.json").rename(box / "box" / name / "model_index.json")


def test_scores_warn_where_coloured_squares_would_do_better():
    frames = list(moving_frames(16, 64, 64))
    good, bad = PairScores(), PairScores()
    good.add(frames, frames)
    bad.add(frames, [255 - frame for frame in frames])
    assert "warning" not in good.summary()
    assert "looks like nothing that this tokenizer was trained on" in bad.summary()


def test_a_quickstart_begins_with_clips_of_the_model_in_the_box(box, tmp_path, capsys):
    page = tmp_path / "first_look.html"
    card = "# Tiny\n\nTrained for a second.\n\n| part | size |\n| --- | ---: |\n| all | 1 MB |\n"
    (box / "box" / "tiny" / "README.md").write_text(f"---\ntags:\n- machines\n---\n\n{card}")
    quickstart.first_look(page)
    assert f"a model that was trained before: file://{page}" in capsys.readouterr().out
    text = page.read_text()
    assert all(words in text for words in ("<h3>Boxing</h3>", "<h3>Skiing</h3>", "Trained for a second."))
    assert all(markup in text for markup in ("<h3>Tiny</h3>", "<td>all</td>"))  # below the page's own headings
    assert not any(words in text for words in ("machines", "# Tiny", "| part"))
    assert text.count('class="strip moving"') == 4
    page.write_text("seen")
    quickstart.first_look(page)
    assert page.read_text() == "seen"


def test_a_quickstart_without_a_model_in_the_box_begins_with_its_stages(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "FOR_CLASSES", "evagen/none")
    quickstart.first_look(tmp_path / "first_look.html")
    assert list(tmp_path.iterdir()) == []
