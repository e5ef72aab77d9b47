"""Corpora, curation records and JSON that somebody else made, or that were damaged: they hold what they say, or are
refused in words."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from tiny_corpus import BLOCKS, CODES, LEVELS, write_corpus

from evagen.commands.info import main as info
from evagen.data.corpus import Windows, read_corpus
from evagen.data.curation_record import read_record
from evagen.errors import UserError
from evagen.kernels.files import json_object, read_json


def changed(folder: Path, **contents) -> Path:
    path = folder / "about.json"
    about = json.loads(path.read_text())
    about["contents"] |= contents
    path.write_text(json.dumps(about))
    return folder.parent


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"levels": [1, 3]}, r"\[5\] in lengths are none of its levels \[1, 3\]"),
        ({"levels": [5, 3, 1]}, "strictly increasing"),
        ({"num_blocks": 1}, "rows of lengths do not have 1 numbers each"),
        ({"num_blocks": 10**12}, "num_blocks.* less than or equal to"),
        ({"codebook_size": 0}, "codebook_size.* greater than or equal to 1"),
        ({"class_names": ["ants"]}, "labels are not those of 1 classes"),
        ({"class_names": "ants"}, "'class_names' is 'ants': input should be a valid list"),
        ({"num_given_blocks": 2}, "no column given_codes"),
        ({"trust": "me"}, "unknown key 'trust'"),
    ],
)
def test_a_corpus_holds_what_it_says(tmp_path, contents, message):
    write_corpus(tmp_path, 20)
    assert len(read_corpus(tmp_path).table) == 20
    changed(tmp_path / "table", **contents)
    for read in (read_corpus, info):
        with pytest.raises(UserError, match=message):
            read(tmp_path)


def test_codes_of_another_tokenizer_are_refused_when_they_are_read(tmp_path):
    write_corpus(tmp_path, 20)
    assert len(Windows(read_corpus(tmp_path)).read(list(range(20)))[0]) == 20
    changed(tmp_path / "table", codebook_size=4)
    with pytest.raises(UserError, match=r"codes run from \d to \d+, of 4 codes"):
        Windows(read_corpus(tmp_path)).read(list(range(20)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"codes": [[1, 2], [3]]}, "do not add up to the number of codes"),
        ({"codes": [[0.5] * 3, [1.0] * 3]}, "codes holds what is no whole number"),
        ({"codes": [[float("nan")] * 3, [1.0] * 3]}, "what is no whole number"),
        ({"codes": ["abc", "abc"]}, "no column codes of lists of numbers"),
        ({"lengths": [[1, 1, 1], [1, 1]]}, "rows of lengths do not have 3 numbers each"),
        ({"lengths": [[1, 1, 1], None]}, "rows of lengths do not have 3 numbers each"),
        ({"lengths": [[1, 1, 1], [1, 1, None]]}, "what is no whole number"),
        ({"label": [0.5, 1.0]}, "labels are not those"),
        ({"label": [0, 7]}, "labels are not those of 2 classes"),
    ],
)
def test_rows_are_those_of_a_corpus(tmp_path, rows, message):
    write_corpus(tmp_path, 2)
    about = (tmp_path / "table" / "about.json").read_text()
    good = {"codes": [[1, 2, 3], [3, 2, 1]], "lengths": [[1] * BLOCKS] * 2, "label": [0, 1]}
    Dataset.from_dict(good | rows).save_to_disk(tmp_path / "table")
    (tmp_path / "table" / "about.json").write_text(about)
    with pytest.raises(UserError, match=message):
        read_corpus(tmp_path)


def write_record(folder: Path, **columns) -> Path:
    """Of three clips, two blocks of one or three tokens."""
    distances = np.random.default_rng(0).random((3, 4))
    rows = {
        "key": [0, 1, 2], "path": ["a", "b", "c"], "label": [0, 0, 0], "still_mse": [0.1, 0.2, 0.3],
        **dict.fromkeys(("perceptual", "mse", "moving_mse"), distances.tolist()), **columns,
    }  # fmt: skip
    Dataset.from_dict(rows).save_to_disk(folder / "record")
    contents = {
        "tokenizer_source": "nowhere", "levels": [1, 3], "num_blocks": 2, "clips": {"root": "v", "layout": "folder"},
    }  # fmt: skip
    about = {"rows": 3, "skipped": [], "made_from": {"tokenizer": "0", "videos": "1"}, "contents": contents}
    (folder / "record" / "about.json").write_text(json.dumps(about))
    return folder


def test_a_record_holds_what_it_says(tmp_path):
    assert read_record(write_record(tmp_path)).distance.shape == (3, 4)
    for contents, message in (
        ({"levels": [1, 2, 3]}, "rows of perceptual do not have 9 numbers each"),
        ({"num_blocks": 10**6}, "damaged"),
        ({"past": 1}, "no column past"),
        ({"clips": {"root": "v"}}, "'clips.layout' is missing"),
        ({"mse_weight": "much"}, "mse_weight"),
    ):
        changed(write_record(tmp_path) / "record", **contents)
        with pytest.raises(UserError, match=message):
            read_record(tmp_path)
    for columns in ({"mse": [[1.0, float("nan"), 1.0, 1.0]] * 3}, {"still_mse": [1.0, float("inf"), 1.0]}):
        with pytest.raises(UserError, match="what is no finite number"):
            read_record(write_record(tmp_path, **columns))


def test_a_table_reads_no_file_but_its_own(tmp_path):
    write_corpus(tmp_path / "theirs", 4)
    write_corpus(tmp_path / "ours", 4)
    path = tmp_path / "theirs" / "table" / "state.json"
    state = json.loads(path.read_text())
    (name,) = (each["filename"] for each in state["_data_files"])
    state["_data_files"] = [{"filename": f"../../ours/table/{name}"}]
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match="names a file elsewhere"):
        read_corpus(tmp_path / "theirs")


def test_a_damaged_table_is_refused_or_says_what_it_said(tmp_path):
    write_corpus(tmp_path, 30)
    files = [path for path in (tmp_path / "table").iterdir() if path.is_file()]
    whole, rng, refused = {path: path.read_bytes() for path in files}, random.Random(0), 0
    for _ in range(60):
        path = rng.choice(files)
        raw = bytearray(whole[path])
        for _ in range(rng.choice((1, 4, 16))):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        path.unlink()  # Arrow files are memory-mapped: a new one, or earlier readers would see it
        path.write_bytes(raw[: rng.randrange(len(raw))] if rng.random() < 0.3 else raw)
        try:
            corpus = read_corpus(tmp_path)
            assert set(np.unique(corpus.lengths())) <= set(corpus.levels)
        except UserError:
            refused += 1
        path.unlink()
        path.write_bytes(whole[path])
    assert refused > 15
    assert read_corpus(tmp_path).levels == LEVELS
    assert read_corpus(tmp_path).codebook_size == CODES


def test_json_is_an_object_that_says_each_thing_once(tmp_path):
    assert json_object('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    for text, message in (
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is given twice"),
        ('{"a": Infinity}', "Infinity is no number"),
        ("[1]", "should be an object with names, not a list"),
        ('{"a": ' * 10**5, "nested too deeply|Expecting"),
        ('{"a":', "Expecting value"),
        (b"\xff\xfe\xff", "codec can't decode"),
    ):
        with pytest.raises(ValueError, match=message):
            json_object(text)
    (tmp_path / "a.json").write_text('{"a": "' + "x" * 100 + '"}')
    with pytest.raises(ValueError, match="at most 50 are read"):
        read_json(tmp_path / "a.json", 50)
