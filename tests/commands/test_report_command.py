"""`evagen report`: what the page of a chain of runs says."""

import re
import shutil
from pathlib import Path

import pytest
from html_page import Page
from PIL import Image
from tiny_models import tiny_tokenizer
from tiny_record import record
from tiny_road import tokenizer_config
from typer.testing import CliRunner

from evagen import cli
from evagen.commands import train_tokenizer
from evagen.commands.report import main
from evagen.config import check_config, save_config
from evagen.errors import UserError
from evagen.scoring.config import Benchmark
from evagen.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STAGES = ("proxy", "curation", "router", "final", "tokens", "generator", "samples")


def read(path: Path) -> tuple[str, Page]:
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def overview(html: str) -> dict[str, list[str]]:
    """The rows of the first table by the run's name: what, state, made from."""
    rows = re.findall(r"<tr>(.*?)</tr>", html.partition("</table>")[0])[1:]
    cells = [
        [re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows
    ]
    return {name: others for name, *others in cells}


def headings(page: Page) -> list[str]:
    return [attrs["id"] for attrs in page.all("h2") if "id" in attrs]


@pytest.fixture(scope="module")
def page(road, tmp_path_factory) -> tuple[str, Page]:
    out = tmp_path_factory.mktemp("page") / "page.html"
    result = CliRunner().invoke(cli.app, ["report", str(road), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.output.strip().endswith("page.html")
    return read(out)


def test_it_needs_nothing_but_itself_and_is_sound(page):
    html, parsed = page
    targets = [
        value for _, attrs in parsed.elements for name, value in attrs.items() if name in ("src", "href", "poster")
    ]
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"@import|url\((?!#)|https?://", html)
    identifiers = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(identifiers)
    assert all(attrs.get("alt") for attrs in parsed.all("img"))


def test_every_run_stands_behind_those_that_it_was_made_from(page, road):
    html, _ = page
    rows = overview(html)
    assert set(rows) == {str(road / stage) for stage in STAGES}
    place = {name: number for number, name in enumerate(rows)}
    for later, earlier in (
        ("curation", "proxy"), ("router", "curation"), ("final", "router"), ("tokens", "final"),
        ("generator", "tokens"), ("samples", "generator"),
    ):  # fmt: skip
        assert place[str(road / later)] > place[str(road / earlier)]
    assert rows[str(road / "final")] == ["Tokenizer training", "finished: 6 steps", f"router {road / 'router'}"]
    assert rows[str(road / "curation")][:2] == ["Curation", "finished"]
    for made in ("tokenizer", "tokenizer of these tokens"):  # of the corpus, and of the generator
        assert f"{made}: " in re.sub(r"\s+", " ", html)
    assert html.count("the same weights") == 3  # curation, tokens, generator


def test_it_shows_configs_curves_and_samples(page):
    _, parsed = page
    text = " ".join(" ".join(parsed.text).split())
    assert "optimizer.steps" in text
    assert "optimizer.gradient_clip" not in text  # as it is by default
    for label in ("terms of the loss", "held-out reward of the best", "how often each length is predicted"):
        assert any(attrs.get("aria-label", "").startswith(label) for _, attrs in parsed.elements)
    strips = [attrs for attrs in parsed.all("img") if "strip" in attrs.get("class", "")]
    assert len(strips) == 6  # 3 of each of two classes


def test_pictures_go_from_step_to_step_and_a_stopped_run_says_how_far_it_is(road, tmp_path, monkeypatch):
    update = TrainingRun.update

    def killed(self, *rest):
        if self.step == 5:
            raise KeyboardInterrupt
        update(self, *rest)

    monkeypatch.setattr(TrainingRun, "update", killed)
    held_out = {"clips": 2, "every": 2, "best": "psnr"}
    run = {"out": str(tmp_path / "run"), "log_every": 2, "save_every": 2, "tracker": "tensorboard"}
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer.main(tokenizer_config(road, tmp_path / "run", held_out=held_out, run=run))
    _, parsed = read(main([tmp_path / "run"]))
    text = " ".join(" ".join(parsed.text).split())
    assert re.search(r"Not finished: 4 of 6 steps in [\d.]+ s; at its pace [\d.]+ s more\.", text)
    assert "The best held-out psnr was" in text
    assert f"these weights are {tmp_path / 'run'}@best" in text
    shown = [attrs["alt"] for attrs in parsed.all("img")]
    assert [alt.partition(", ")[2] for alt in shown] == ["step 2", "step 4"]
    assert (tmp_path / "run" / "report.html").exists()


def test_the_chain_behind_a_run(road, tmp_path):
    html, _ = read(main([road / "generator"], tmp_path / "page.html", chain=True))
    assert set(overview(html)) == {str(road / stage) for stage in STAGES if stage != "samples"}
    html, parsed = read(main([road / "generator"], tmp_path / "page.html"))
    assert headings(parsed) == ["run-0"]
    assert str(road / "tokens") in html  # named all the same


def test_a_tokenizer_that_was_trained_again_is_told(road, tmp_path):
    for stage in ("final", "tokens"):
        shutil.copytree(road / stage, tmp_path / stage)
    config = tmp_path / "tokens" / "config.yaml"
    config.write_text(config.read_text().replace(str(road / "final"), str(tmp_path / "final")))
    tiny_tokenizer().save_pretrained(tmp_path / "final")
    html, _ = read(main([tmp_path]))
    assert (tmp_path / "runs.html").exists()  # beside a quickstart's own report
    assert "other weights by now" in html


def test_scores_of_a_benchmark(tmp_path):
    values = {
        "run": {"out": str(tmp_path / "scores")}, "protocol": "larp-ucf101-class2video",
        "data": {"root": "/ucf101", "layout": "ucf101"}, "generator": "gone", "tokenizer": "gone too",
    }  # fmt: skip
    record(tmp_path / "scores", "nano", 80.0)
    save_config(check_config(Benchmark, values, "test"), tmp_path / "scores")
    _, parsed = read(main([tmp_path / "scores"]))
    assert ["gFVD", "80 [79, 81]"] in parsed.cells
    (tmp_path / "scores" / "record.json").write_text("{")
    (tmp_path / "scores" / "empty.png").touch()
    Image.new("RGB", (9, 9)).save(tmp_path / "scores" / "whole.png")
    (tmp_path / "scores" / "half.png").write_bytes((tmp_path / "scores" / "whole.png").read_bytes()[:40])
    html, _ = read(main([tmp_path / "scores"]))  # what is whole is shown
    assert "not readable" in html
    assert ["whole.png" in html, "half.png" in html, "empty.png" in html] == [True, False, False]


def test_what_other_programs_left_in_a_folder_of_runs_is_left_out(road, tmp_path, caplog):
    shutil.copytree(road / "router", tmp_path / "router")
    for name, text in (("foreign", "optimizer: adam\n"), ("broken", "run: [\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    _, parsed = read(main([tmp_path]))
    assert headings(parsed) == ["run-0"]
    [told] = caplog.messages
    assert "left out" in told
    assert "broken/config.yaml is not valid YAML" in told
    with pytest.raises(UserError, match="it holds no run"):
        main([tmp_path / "foreign"])


def test_folders_without_runs_are_explained(tmp_path):
    for folder, message in (
        (tmp_path / "nowhere", "there is no such folder"),
        (tmp_path, r"it holds no run, which a config\.yaml would tell"),
    ):
        with pytest.raises(UserError, match=f"no report of .*: {message}; give the run.out of any command"):
            main([folder])
