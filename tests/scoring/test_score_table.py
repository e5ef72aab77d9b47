"""`evagen compare` and `evagen protocols`: what stands beside what, and in which words."""

import json
from dataclasses import replace

import pytest
from tiny_record import OFFLINE, record
from typer.testing import CliRunner

from evagen.cli import app
from evagen.errors import UserError
from evagen.eval import PROTOCOLS, get_protocol
from evagen.scoring.record import Model, Movement, ReconstructionQuality, Tokens
from evagen.scoring.table import compare


def cells(table: str) -> list[list[str]]:
    rows = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if "---" not in row]


def test_equal_protocols_share_a_column(tmp_path):
    paths = [record(tmp_path / "a", "nano", 80.0), record(tmp_path / "b", "small", 60.0)]
    assert cells(compare(paths)) == [
        ["model", "gFVD"], ["nano", "80 [79, 81]"], ["small", "60 [59, 61]"],
    ]  # fmt: skip
    assert "larp-ucf101-class2video; i3d-kinetics400-torchscript; 10,000 real" in compare(paths)


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "evagen-ucf101-heldout"},
        {"protocol": get_protocol("larp-ucf101-class2video").changed(size=64)},
        {"detector": OFFLINE},
        {"clips": "e" * 16},
    ],
)
def test_whatever_decides_on_a_score_gets_a_column_of_its_own(tmp_path, other):
    paths = [record(tmp_path / "a", "nano", 80.0), record(tmp_path / "b", "nano", 60.0, **other)]
    table = compare(paths)
    assert len({line.removeprefix("(1)").removeprefix("(2)") for line in table.splitlines()[:2]}) == 2
    head, row = cells(table)
    assert head[1].endswith("(1)")
    assert head[2].endswith("(2)")
    assert row == ["nano", "80 [79, 81]", "60 [59, 61]"]
    paths[1] = record(tmp_path / "c", "small", 60.0, **other)
    assert cells(compare(paths))[1:] == [["nano", "80 [79, 81]", ""], ["small", "", "60 [59, 61]"]]


def test_how_clips_are_generated_counts_only_where_the_protocol_says_it(tmp_path):
    for name, expected in (("cdfvd", ["gFVD"]), ("larp-ucf101-class2video", ["gFVD (1)", "gFVD (2)"])):
        halves = [replace(get_protocol(name), generator_precision=half) for half in ("bf16", "fp16")]
        paths = [
            record(tmp_path / name / half.generator_precision, str(n), 80.0, half) for n, half in enumerate(halves)
        ]
        assert cells(compare(paths))[0] == ["model", *expected]


def test_reconstructions_bring_their_measures(tmp_path):
    quality = ReconstructionQuality(
        psnr=25.678,
        ssim=0.87654,
        perceptual=0.12345,
        motion=0.4321,
        perceptual_network="lpips-vgg16",
        perceptual_fingerprint="ab",
    )
    tokens = Tokens(tokens_per_clip=512.04, codes_used=0.9, perplexity=1000.0)
    path = record(tmp_path / "a", "final", 20.0, "larp-ucf101-recon", reconstruction=quality, tokens=tokens)
    assert cells(compare([path])) == [
        ["model", "gFVD", "tokens per clip", "PSNR, dB", "SSIM", "LPIPS", "motion explained"],
        ["final", "20 [19, 21]", "512.0", "25.68", "0.8765", "0.1235", "0.432"],
    ]


def test_published_figures_stand_in_the_columns_of_their_protocols_only(tmp_path):
    changed = get_protocol("larp-ucf101-class2video").changed(size=64)
    paths = [
        record(tmp_path / "a", "nano", 80.0),
        record(tmp_path / "b", "nano", 70.0, changed),
        record(tmp_path / "c", "nano", 60.0, detector=OFFLINE),
    ]
    rows = cells(compare(paths, published=True))
    assert ["LARP-L-Long (published)", "57", "", ""] in rows
    assert ["nano", "80 [79, 81]", "70 [69, 71]", "60 [59, 61]"] in rows


def test_rows_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = [record(tmp_path / "a", "nano", 80.0), record(tmp_path / "b", "nano", 60.0)]
    assert [row[0] for row in cells(compare(paths))[1:]] == [f"nano ({paths[0]})", f"nano ({paths[1]})"]
    with pytest.raises(UserError, match="given twice"):
        compare([paths[0], paths[0]])


def test_two_models_of_one_name_do_not_share_a_row(tmp_path):
    generators = (
        {"generator": Model(source="one", fingerprint="ab")},
        {"generator": Model(source="two", fingerprint="cd")},
    )
    paths = [record(tmp_path / "a", "gfvd", 80.0, models=generators[0]),
             record(tmp_path / "b", "gfvd", 60.0, "evagen-ucf101-heldout", models=generators[1])]  # fmt: skip
    assert cells(compare(paths))[1:] == [
        [f"gfvd ({paths[0]})", "80 [79, 81]", ""], [f"gfvd ({paths[1]})", "", "60 [59, 61]"],
    ]  # fmt: skip
    tokenizer = Model(source="final", fingerprint="ef")
    both = [record(tmp_path / "c", "mine", 20.0, "larp-ucf101-recon", models={"tokenizer": tokenizer}),
            record(tmp_path / "d", "mine", 60.0, models={"tokenizer": tokenizer, **generators[0]})]  # fmt: skip
    assert [row[0] for row in cells(compare(both))[1:]] == ["mine"]


def test_what_is_no_record_is_refused(tmp_path):
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(UserError, match="that run has not finished"):
        compare([tmp_path / "unfinished"])
    (tmp_path / "other.json").write_text('{"score": 3}')
    with pytest.raises(UserError, match="is no record"):
        compare([tmp_path / "other.json"])
    values = json.loads((record(tmp_path / "a", "nano", 80.0) / "record.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(values | {"protocol": {"name": "mine"}}))
    with pytest.raises(UserError, match="a protocol without dataset, published, task"):
        compare([tmp_path / "other.json"])


def test_the_list_of_protocols_has_a_line_for_each_and_explains_one():
    listed = CliRunner().invoke(app, ["protocols"]).output.splitlines()
    assert [line.split()[0] for line in listed[: len(PROTOCOLS)]] == list(PROTOCOLS)
    for name, protocol in PROTOCOLS.items():
        text = " ".join(CliRunner().invoke(app, ["protocols", name]).output.split())
        assert protocol.explanation[:60] in text
        assert all(source[:40] in text for source in protocol.sources)
    as_json = json.loads(CliRunner().invoke(app, ["protocols", "cdfvd", "--json"]).output)
    assert as_json["cdfvd"]["network_input"]["network_size"] == 224
    wrong = CliRunner().invoke(app, ["protocols", "cdfd"])
    assert "did you mean 'cdfvd'" in str(wrong.exception)


def test_generated_clips_are_set_beside_the_movement_of_real_ones(tmp_path):
    stiller = Movement(frame_change=0.01, real_frame_change=0.04, moving_share=0.1, real_moving_share=0.2)
    path = record(tmp_path / "a", "mine", 20.0, "larp-ucf101-class2video", movement=stiller)
    assert cells(compare([path])) == [
        ["model", "gFVD", "change from frame to frame, of the real"],
        ["mine", "20 [19, 21]", "0.25"],
    ]
