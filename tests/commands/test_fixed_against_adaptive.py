"""The comparison of fixed against adaptive lengths: on real files, gone on with, and what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_road import tokenizer_config

from evagen.commands import fixed_against_adaptive as study
from evagen.config import check_config, load_config, save_config
from evagen.errors import UserError
from evagen.scoring.record import read_record
from evagen.tokenizer import Router, VideoTokenizer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def stages(road, tmp_path_factory) -> dict:
    """Configs of the three stages as files, of the road's size."""
    folder = tmp_path_factory.mktemp("stages")
    router = Router.from_pretrained(road / "router")
    some = router.assignments.index_of(torch.tensor([[4, 1, 4, 1]]))
    router.vit.head.bias.data[some] += 100  # what three steps have taught it may be the longest lengths
    router.save_pretrained(folder / "router")
    stages = {"tokenizer_training": tokenizer_config(road, folder / "unused", router=str(folder / "router"))}
    for name, kind in (("tokens", "tokenize"), ("generator", "train-generator")):
        stage = "tokenization" if name == "tokens" else "generator_training"
        stages[stage] = load_config(study.COMMANDS[kind].schema_class(), road / name / "config.yaml")
    files = {name: {"config": str(save_config(config, folder / name))} for name, config in stages.items()}
    files["generator_training"]["overrides"] = ["optimizer.batch_size=null", "optimizer.tokens_per_batch=60"]
    return files


def comparison(road: Path, stages: dict, out: Path, **changes) -> study.FixedAgainstAdaptive:
    scored = {
        "data": {"root": str(road / "arcade"), "layout": "ucf101"}, "detector": "offline",
        "changes": {"dataset": "arcade", "split": "test", "size": 32}, "cache": str(out.parent / "cache"),
        "certainty": {"resamples": 10},
    }  # fmt: skip
    generated = {"changes": {**scored["changes"], "drawn": 4}}
    values = {
        "run": {"out": str(out)}, **stages, "fixed_length": 4, "seeds": [0, 1], "trainings": [0.5, 1],
        "scoring": {"settings": scored, "generation_settings": generated}, **changes,
    }  # fmt: skip
    return check_config(study.FixedAgainstAdaptive, values, "test")


@pytest.fixture(scope="module")
def compared(road, stages, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    study.main(comparison(road, stages, out, seeds=[0]))  # a part first, as another process would
    return study.main(comparison(road, stages, out))


def weights_of(tokenizer: Path) -> int:
    """Without those of the lengths themselves, a vector for each."""
    named = VideoTokenizer.from_pretrained(tokenizer).named_parameters()
    return sum(parameter.numel() for name, parameter in named if not name.startswith("decoder_level"))


def test_both_sides_have_equal_steps_size_and_data(compared):
    for training, steps in (("0.5x", 3), ("1x", 6)):
        for seed in (0, 1):
            cell = compared / training / f"seed{seed}"
            fixed, adaptive = (
                load_config(study.COMMANDS["train-tokenizer"].schema_class(), cell / side / "tokenizer" / "config.yaml")
                for side in ("fixed", "adaptive")
            )
            assert fixed.optimizer == adaptive.optimizer
            assert fixed.optimizer.steps == steps
            assert fixed.run.seed == adaptive.run.seed == seed
            assert fixed.data == adaptive.data
            assert (fixed.uniform_length, fixed.router, fixed.model.levels) == (4, None, [4])
            assert (adaptive.uniform_length, adaptive.router is None) == (None, False)
            sizes = [weights_of(cell / side / "tokenizer") for side in ("fixed", "adaptive")]
            assert sizes[0] == sizes[1]


def test_the_values_are_those_of_the_records(compared):
    found = json.loads((compared / "comparison.json").read_text())
    assert [(row["training"], row["lengths"]) for row in found["scores"]] == [
        (training, kind) for training in (0.5, 1) for kind in (study.FIXED, study.MATCHED, study.FEWER)
    ]
    for row in found["scores"]:
        side = {study.FIXED: "fixed/fixed-length", study.MATCHED: "adaptive/as-many-tokens"}
        name = side.get(row["lengths"], "adaptive/fewer-tokens")
        folders = [compared / f"{row['training']:g}x" / f"seed{seed}" / name for seed in (0, 1)]
        records = [read_record(folder / "reconstruction") for folder in folders]
        for measure in ("psnr", "perceptual", "motion"):
            mean = sum(getattr(record.reconstruction, measure) for record in records) / 2
            value = row["values"][measure]
            assert value["value"] == pytest.approx(mean, rel=1e-5)
            assert value["low"] <= value["value"] <= value["high"]
        assert row["frechet"] == [record.score.value for record in records]
        assert len(row["generated_frechet"]) == (0 if row["lengths"] == study.MATCHED else 2)
        if row["lengths"] == study.FIXED:
            assert row["tokens"] == 16
            assert all(gain["low"] == gain["value"] == gain["high"] == 0 for gain in row["gains"].values())


def test_motion_of_clips_in_which_nothing_moves_is_a_dash():
    columns = {name: torch.zeros(2, 10, dtype=torch.float64) for name in ("psnr", "perceptual")}
    still = torch.zeros(2, 10, dtype=torch.float64)
    found = study._intervals(columns | {"moving_error": still, "still_error": still})
    assert found["motion"] is None
    assert [study._with_range(found[name], 1) for name in ("psnr", "motion")] == ["0.0 [0.0, 0.0]", "–"]
    one = still.clone()
    one[:, 0] = 1  # in a third of the draws it is not there
    found = study._intervals(columns | {"moving_error": one / 4, "still_error": one})["motion"]
    assert (found.value, found.low, found.high, found.standard_error) == (0.75, 0.75, 0.75, 0)


def test_budgets_are_kept(compared):
    rows = json.loads((compared / "comparison.json").read_text())["scores"]
    tokens = {row["lengths"]: row["tokens"] for row in rows}
    assert tokens[study.FEWER] <= tokens[study.MATCHED] <= tokens[study.FIXED]


def test_going_on_trains_nothing_again(compared, road, stages):
    weights = sorted(compared.rglob("diffusion_pytorch_model.safetensors"))
    weights = [path for path in weights if "snapshots" not in path.parts]
    before = [path.stat().st_mtime_ns for path in weights]
    assert len(weights) == 2 * 2 * 4
    study.main(comparison(road, stages, compared))
    assert [path.stat().st_mtime_ns for path in weights] == before


def test_a_budget_is_found_on_some_clips_of_all_videos(road, stages, tmp_path, monkeypatch):
    """However many clips a video has: they are in memory together."""
    seen = []

    class Watched:
        device = torch.device("cpu")
        assignments = SimpleNamespace(num_blocks=4)

        def assign_video(self, batches, budget):
            seen.append(sum(map(len, batches)))
            return SimpleNamespace(max_tokens=None, preference=1.0)

    monkeypatch.setattr(study, "LOOKED_AT", 5)
    monkeypatch.setattr(study, "load_model", lambda *_: Watched())
    tokens = {**stages["tokenization"], "overrides": ["data.clip=all", "data.frames=4"]}
    study.find_preferences(comparison(road, stages, tmp_path, tokenization=tokens), "router")
    assert max(seen) <= 5


def test_a_stage_that_has_changed_meanwhile_is_refused(compared, road, stages):
    """Or some seeds would be of one config and some of another."""
    path = Path(stages["generator_training"]["config"])
    before = path.read_text()
    path.write_text(before.replace("class_dropout: 0.1", "class_dropout: 0.2"))
    try:
        with pytest.raises(UserError, match=r"another config: class_dropout is 0\.1 there and 0\.2 here"):
            study.main(comparison(road, stages, compared))
    finally:
        path.write_text(before)


def test_parts_of_other_clips_or_of_another_router_are_refused(compared, road, stages, monkeypatch):
    monkeypatch.setattr(study, "list_fingerprint", str)
    monkeypatch.setattr(study, "fingerprint", str)
    monkeypatch.setattr(study.ClipDataset, "fingerprint", str)
    named = "trained videos, tokenized videos, router, clips of larp-ucf101-recon, clips of evagen-ucf101-heldout"
    with pytest.raises(UserError, match=f"holds results that were made from other {named} than there are now"):
        study.main(comparison(road, stages, compared))


def test_plot_and_table(compared):
    assert (compared / "comparison.png").stat().st_size > 10_000
    table = (compared / "table.md").read_text()
    assert table.count(study.FEWER) == 2
    assert table.count("gain over fixed") == 4


def test_unfair_comparisons_are_refused(road, stages, tmp_path):
    proxy = {"config": str(save_config(tokenizer_config(road, tmp_path / "unused"), tmp_path / "proxy"))}
    with pytest.raises(UserError, match="has no router: give the config of an adaptive tokenizer"):
        study.main(comparison(road, stages, tmp_path / "a", tokenizer_training=proxy))
    by_clips = {"config": stages["generator_training"]["config"]}
    with pytest.raises(UserError, match=r"batches of 4 clips, .* optimizer\.tokens_per_batch"):
        study.main(comparison(road, stages, tmp_path / "b", generator_training=by_clips))
    with pytest.raises(UserError, match="spends more than 4 tokens a clip at its lowest preference; give a larger"):
        study.main(comparison(road, stages, tmp_path / "c", fixed_length=1))
    with pytest.raises(UserError, match="is a config of curate; one of train-tokenizer is needed"):
        study.main(comparison(road, stages, tmp_path / "d", tokenizer_training={"config": "quickstart/curation"}))


def test_settings_of_scores_arrive_as_they_are(tmp_path, monkeypatch):
    stages = {name: {"config": "none"} for name in ("tokenizer_training", "tokenization", "generator_training")}
    asked = []
    monkeypatch.setattr(study, "benchmark", asked.append)
    config = comparison(tmp_path / "🎬 #1: clips", stages, tmp_path / "out")
    for protocol in (config.scoring.reconstruction, config.scoring.generation):
        study._score(config, protocol, tmp_path / "scores", study.FIXED, ["uniform_length=4"])
    assert [each.data.root for each in asked] == [tmp_path / "🎬 #1: clips" / "arcade"] * 2
    assert [each.changes.drawn for each in asked] == [None, 4]
    assert [(each.label, each.uniform_length) for each in asked] == [(study.FIXED, 4)] * 2
