"""Generated lengths against a corpus': distances by hand, and the command on real files."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from evagen.cli import app
from evagen.commands import lengths_by_class
from evagen.commands.lengths_by_class import compare, level_shares, main, total_variation
from evagen.data.corpus import read_corpus
from evagen.errors import UserError

LEVELS = [1, 4, 8]


def test_distances_by_hand():
    true = torch.tensor([[1, 4], [1, 4], [1, 8], [1, 8]])
    generated = torch.tensor([[1, 4], [4, 4]])
    everything = torch.cat([true, torch.tensor([[8, 1]] * 4)])
    found = compare("a", generated, true, everything, LEVELS)
    # first block: (1, 0, 0) against (½, ½, 0), second: (0, ½, ½) against (0, 1, 0)
    assert found.distance == pytest.approx((0.5 + 0.5) / 2)
    assert found.of_all_classes == pytest.approx((0.5 + 0.5) / 2)
    assert (found.true, found.generated) == ([1, 6], [2.5, 4])
    assert 0 < found.of_a_draw < 0.5


def test_no_generator_comes_below_another_draw_and_a_large_one_comes_to_nothing():
    random = torch.Generator().manual_seed(0)
    true = torch.tensor(LEVELS)[torch.randint(3, (500, 4), generator=random)]
    few, many = (
        compare("a", true[torch.randint(500, (count,), generator=random)], true, true, LEVELS) for count in (10, 4000)
    )
    assert few.distance == pytest.approx(few.of_a_draw, abs=0.08)
    assert many.of_a_draw < 0.03 < few.of_a_draw
    assert many.of_all_classes == 0


def test_nothing_in_common_is_1():
    same, other = level_shares(torch.full((3, 2), 1), LEVELS), level_shares(torch.full((5, 2), 8), LEVELS)
    assert total_variation(same, other) == 1
    assert total_variation(same, same) == 0


def test_on_real_files(road, tmp_path, monkeypatch):
    found = main(road / "samples", road / "tokens")
    assert [each.name for each in found] == ["Boxing", "Skiing"]
    assert all(each.clips == 3 and 0 <= each.distance <= 1 for each in found)
    lines = [json.loads(line) for line in (road / "samples" / "tokens.jsonl").read_text().splitlines()]
    boxing = torch.tensor([line["lengths"] for line in lines if line["class"] == "Boxing"]).double()
    assert found[0].generated == pytest.approx(boxing.mean(0).tolist())
    shown = CliRunner().invoke(app, ["study", "lengths", str(road / "samples"), str(road / "tokens")])
    assert shown.exit_code == 0
    assert "| Skiing | 3 |" in shown.output
    with pytest.raises(UserError, match=r"no tokens\.jsonl in .*: give the run folder of a finished"):
        main(tmp_path, road / "tokens")
    (tmp_path / "tokens.jsonl").write_text(json.dumps({"number": 0, "class": "Pong", "lengths": [1] * 4}) + "\n")
    with pytest.raises(UserError, match=r"has clips of Pong, the corpus in .* of Boxing, Skiing: give samples of"):
        main(tmp_path, road / "tokens")
    (tmp_path / "tokens.jsonl").write_text(json.dumps({"number": 0, "class": None, "lengths": [1] * 4}) + "\n")
    with pytest.raises(UserError, match=r"has clips of no class, the corpus in .* of Boxing, Skiing: give samples of"):
        main(tmp_path, road / "tokens")
    monkeypatch.setattr(lengths_by_class, "read_corpus", lambda folder: replace(read_corpus(folder), class_names=[]))
    with pytest.raises(UserError, match=r"the corpus in .* has no classes, and lengths are compared class by class"):
        main(tmp_path, road / "tokens")
    monkeypatch.undo()
    (tmp_path / "tokens.jsonl").write_text(json.dumps({"number": 0, "class": "Boxing", "lengths": [1] * 6}) + "\n")
    with pytest.raises(UserError, match=r"has clips of 6 blocks, the corpus in .* of 4: give samples of as many fra"):
        main(tmp_path, road / "tokens")
