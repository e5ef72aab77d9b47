"""Curation records: what measured them, and which of them compare."""

# isort: split
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_curation import made_up_record, write_inputs

from evagen.data.curation_record import check_alike, read_record
from evagen.errors import UserError
from evagen.eval import PerceptualDistance
from evagen.models.loading import fingerprint, load_model
from evagen.tokenizer import AssignmentSpace, VideoTokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("curation")
    write_inputs(root)
    made_up_record(root)
    return root


def test_a_record_tells_what_measured_it(root):
    tokenizer = fingerprint(load_model(VideoTokenizer, root / "tokenizer"))
    network = PerceptualDistance()
    expected = (str(root / "tokenizer"), tokenizer, f"{network.name} {network.fingerprint}", 1)
    assert read_record(root / "record").measured_with == expected


class Watched:
    """A table that knows which columns were read."""

    def __init__(self, table):
        self.table, self.read = table, []

    def __getitem__(self, name):
        self.read.append(name)
        return self.table[name]

    def __len__(self):
        return len(self.table)


@pytest.mark.parametrize(
    ("weights", "read"),
    [({"mse_weight": 0.0}, []), ({"mse_weight": 2.0}, ["mse"]), ({"mse_weight": 2.0, "motion_weight": 0.0}, ["mse"])],
)
def test_columns_that_weigh_nothing_are_not_read(root, weights, read):
    """Of a large record each takes half a gigabyte."""
    record = read_record(root / "record")
    watched = replace(record, table=Watched(record.table), weights=weights)
    assert torch.equal(watched.distance, record.perceptual + weights["mse_weight"] * record.mse)
    assert watched.table.read == ["perceptual", *read]


@pytest.mark.parametrize(
    ("measured", "changes", "message"),
    [
        ({}, {"weights": {"motion_weight": 3.0}}, "the weights motion_weight=3, the one in first motion_weight=0, mse"),
        (
            {},
            {"space": AssignmentSpace([2, 8], 2)},
            r"candidates of 2 blocks with levels \[2, 8\], the one in first of",
        ),
        ({"frames": 2}, {}, "the record in second has distance_frames 2, the one in first 1: .* curate both with the"),
        ({"tokenizer": "ab12"}, {}, "the tokenizer ab12, the one in first [0-9a-f]{16}: what they measured does not"),
        ({"network": "lpips-vgg16 12"}, {}, "the network lpips-vgg16 12, the one in first efficientnet-lite0-percep"),
        ({"source": "elsewhere", "frames": None, "network": None}, {"mirrored": True}, None),
    ],
)
def test_only_what_was_measured_alike_compares(root, measured, changes, message):
    record = read_record(root / "record")
    other = replace(record, measured_with=record.measured_with._replace(**measured), **changes)
    records = {"first": record, "second": other}
    if message is None:
        check_alike(records)
    else:
        with pytest.raises(UserError, match=message):
            check_alike(records)


def test_records_of_mirror_images_and_of_earlier_versions_are_of_the_same_network(root, tmp_path):
    record = read_record(root / "record")
    copy = Path(shutil.copytree(root / "record", tmp_path / "copy"))
    file = copy / "record" / "about.json"
    about = json.loads(file.read_text())
    # As in earlier versions: a curation that one of them began goes on.
    assert set(about["made_from"]) == {"videos", "batch_size", "tokenizer", "distance"}
    about["made_from"]["distance"] += ", mirrored"
    file.write_text(json.dumps(about))
    assert read_record(copy).measured_with == record.measured_with
    del about["made_from"]["distance"], about["contents"]["distance_frames"]
    file.write_text(json.dumps(about))
    assert read_record(copy).measured_with[2:] == (None, None)
    check_alike({"new": record, "old": read_record(copy)})
