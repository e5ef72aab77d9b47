"""Names that somebody else chose: classes of a generator, rows of a run. None of them leads anywhere, on any page."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from html_page import Page
from tiny_models import LEVELS, tiny_tokenizer

from evagen.ar_model import VideoGenerator
from evagen.commands import sample, sample_one
from evagen.commands.export_pipeline import About
from evagen.commands.export_pipeline import main as export
from evagen.commands.info import main as info
from evagen.commands.report import main as report
from evagen.config import check_config
from evagen.data.pictures import ShownClip, draw_clips
from evagen.data.video_reader import count_frames
from evagen.errors import UserError
from evagen.kernels.names import as_line
from evagen.models.loading import fingerprint
from evagen.report.first_look import write_first_look
from evagen.report.model_card import renamed
from evagen.report.page import GeneratedClip
from evagen.sampling.rows import SampleRows, file_of, read_rows
from evagen.scoring.minutes import compare_minutes

TAG = "<img src=x onerror=alert(1)>"
NAMES = [
    "ants",
    "../../evil",
    "/evil",
    "a/b",
    "..",
    "",
    "CON",
    "x" * 300,
    "two\nlines",
    "nul\0",
    TAG,
    "config.yaml",
    "\ud800",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(root / "tokenizer")
    torch.manual_seed(0)
    shape = {"width": 32, "depth": 1, "num_heads": 2, "tokenizer_fingerprint": fingerprint(tokenizer)}
    VideoGenerator(64, LEVELS, 2, class_names=NAMES, **shape).save_pretrained(root / "generator")
    return root


@pytest.fixture(scope="module")
def run(models) -> Path:
    values = {
        "run": {"out": str(models / "runs" / "deep" / "samples")}, "generator": str(models / "generator"),
        "tokenizer": str(models / "tokenizer"), "clips_per_class": 1, "formats": ["mkv"],
    }  # fmt: skip
    return sample.main(check_config(sample.Sampling, values, "test"))


def test_every_clip_lies_in_a_folder_of_the_run(models, run):
    rows = read_rows(run)
    assert [row["class"] for row in rows] == NAMES
    assert [count_frames(str(file_of(run, row))) for row in rows] == [8] * len(NAMES)
    assert rows[0]["path"] == "ants/000000.mkv"
    written = {path.relative_to(models).as_posix() for path in models.rglob("*.mkv")}
    assert written == {f"runs/deep/samples/{row['path']}" for row in rows}
    assert {path.count("/") for path in written} == {4}


def test_a_row_that_leads_out_of_the_run_is_not_opened(run, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "outside.mkv").write_bytes(file_of(run, read_rows(run)[0]).read_bytes())
    for path in ("../outside.mkv", str(tmp_path / "outside.mkv"), "", None):
        row = {**read_rows(run)[0], "path": path}
        (tmp_path / "samples" / "tokens.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(
            UserError, match=r"a row of tokens.jsonl is not as `evagen sample` writes it: .* leads out of"
        ):
            compare_minutes(tmp_path / "samples", [(torch.zeros(3, 8, 32, 32), row["class"])], 15)


def test_on_the_page_of_the_run_names_are_text(run, tmp_path):
    page = Page(report([run], tmp_path / "runs.html").read_text())
    assert not [attributes for attributes in page.all("img") if "onerror" in attributes]
    assert any(TAG in text for text in page.text)
    assert len(page.all("script")) == 2  # its own


def test_on_a_first_look_names_are_text(tmp_path):
    clip = GeneratedClip(np.zeros((8, 32, 32, 3), np.uint8), [2, 2], "")
    for name in (*NAMES, '"quoted"\' onload="x"'):
        clip.class_name = name
        page = Page(write_first_look(tmp_path / "page.html", name, [clip], 1.0, f"# {name}\n").read_text())
        assert not [each for each in page.all("img") if {"onerror", "onload"} & set(each)]
        assert len(page.all("script")) == 1


def test_a_card_calls_names_by_what_they_are(models, tmp_path):
    export(tmp_path / "pipeline", str(models / "tokenizer"), generator=str(models / "generator"))
    card = (tmp_path / "pipeline" / "README.md").read_text()
    assert "<img" not in card
    assert "&lt;img src=x onerror=alert(1)&gt;" in card
    assert card.count("\n---\n") == 2  # the end of the front matter, and the line above the last words
    assert info(models / "generator")


def test_a_picture_has_a_line_for_each_name():
    clips = [ShownClip(f"{name}: 4 tokens", [np.zeros((8, 32, 32, 3), np.uint8)], [2, 2]) for name in NAMES]
    assert draw_clips("Samples", clips, 8).height > 0


def test_one_video_of_a_class_is_written_where_the_command_is_given(models, tmp_path, monkeypatch):
    export(tmp_path / "pipeline", str(models / "tokenizer"), generator=str(models / "generator"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    paths = [
        sample_one.main(str(tmp_path / "pipeline"), [name], None, 1, 0)[0] for name in ("ants", "../../evil", "/evil")
    ]
    assert paths[0] == Path("ants.mp4")
    assert sorted(Path(".").iterdir()) == sorted(paths)
    assert len({*paths}) == 3


@pytest.mark.parametrize("name", ['runs/$(touch x)"; rm -rf ~', "two\nlines", "`id`", "it's"])
def test_the_commands_of_a_card_take_a_name_as_one_word(name, models, tmp_path):
    sources = {"tokenizer": str(models / "tokenizer"), "generator": str(models / "generator")}
    export(tmp_path / "pipeline", **sources, about=About(name=name))
    card = (tmp_path / "pipeline" / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("MODEL=")]
    assert shlex.split(line, comments=True) == [f"MODEL={as_line(name)}"]
    assert f"model = {json.dumps(name)}" in card.splitlines()
    assert 'MODEL="mine/new"  # a folder, or an id on the hub' in renamed(card, "mine/new").splitlines()
    assert 'model = "mine/new"' in renamed(card, "mine/new").splitlines()


def test_rows_that_are_none_are_told_in_words(run, tmp_path):
    whole = (run / "tokens.jsonl").read_bytes()
    for damage in (b"\xff\xfe\n", b"{}\n", b"[1]\n", b'{"number": "x"}\n', b"nonsense\n"):
        (tmp_path / "tokens.jsonl").write_bytes(whole + damage)
        with pytest.raises(UserError, match=r"tokens.jsonl is damaged .* delete it"):
            SampleRows(tmp_path, 0)
    with pytest.raises(UserError, match=r"tokens.jsonl cannot be read"):
        read_rows(tmp_path / "nowhere")
