"""Configs: typed, overridable, and strict with a helpful word."""

from pathlib import Path

import pytest

from evagen.commands.train_generator import GeneratorTraining
from evagen.commands.train_tokenizer import TokenizerTraining
from evagen.config import load_config, save_config
from evagen.errors import UserError


def test_overrides_are_typed_and_reach_nested_keys():
    config = load_config(
        TokenizerTraining, "quickstart/proxy", ["optimizer.steps=7", "model.levels=[1, 2]", "run.out=/x y", "router=r"]
    )
    assert (config.optimizer.steps, config.model.levels, config.router) == (7, [1, 2], "r")
    assert config.run.out == Path("/x y")


def test_no_is_a_word_where_a_word_is_meant():
    """YAML reads a bare `no` as false."""
    override = ["run.mixed_precision=no"]
    assert load_config(TokenizerTraining, "quickstart/proxy", override).run.mixed_precision == "no"


def test_what_is_saved_loads_as_the_same(tmp_path):
    config = load_config(GeneratorTraining, "quickstart/generator", ["model.width=64"])
    assert load_config(GeneratorTraining, save_config(config, tmp_path)) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.step=1", "unknown key 'optimizer.step'; the nearest known key is 'optimizer.steps'"),
        ("model.encoder_with=1", "unknown key 'model.encoder_with'; the nearest known key is 'model.encoder_width'"),
        ("optimiser.steps=1", "unknown key 'optimiser'; the nearest known key is 'optimizer'"),
        ("optimizer.steps=many", "'optimizer.steps' is 'many': input should be a valid integer"),
        ("optimizer.steps=0", "'optimizer.steps' is 0: input should be greater than or equal to 1"),
        ("optimizer.steps", "should read key=value"),
        ("optimizer=[", "not valid YAML"),
        ("restart_codes_after.x=1", "'restart_codes_after' is a value, not a group"),
    ],
)  # fmt: skip
def test_a_bad_override_is_explained(override, message):
    with pytest.raises(UserError) as caught:
        load_config(TokenizerTraining, "quickstart/proxy", [override])
    assert message in str(caught.value)


def test_a_missing_key_and_a_missing_file_are_explained(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run: {out: x}\n")
    with pytest.raises(UserError, match="'optimizer' is missing: OptimizerConfig is needed"):
        load_config(TokenizerTraining, path)
    with pytest.raises(UserError, match=r"no config file at quickstart/proxi.*quickstart/proxy"):
        load_config(TokenizerTraining, "quickstart/proxi")


def test_a_config_is_laid_over_its_base(tmp_path):
    (tmp_path / "below.yaml").write_text("base: quickstart/generator\noptimizer: {steps: 7}\nrun: {out: x}\n")
    (tmp_path / "above.yaml").write_text("base: below\nmodel: {width: 64}\n")
    config = load_config(GeneratorTraining, tmp_path / "above.yaml", ["optimizer.batch_size=3"])
    shipped = load_config(GeneratorTraining, "quickstart/generator")
    assert (config.model.width, config.model.depth) == (64, shipped.model.depth)
    assert (config.optimizer.steps, config.optimizer.batch_size) == (7, 3)
    assert config.optimizer.muon_learning_rate == shipped.optimizer.muon_learning_rate
    assert (str(config.run.out), config.run.save_every) == ("x", shipped.run.save_every)
    assert load_config(GeneratorTraining, save_config(config, tmp_path)) == config  # what is saved needs no base


def test_a_base_that_is_missing_or_its_own_is_explained(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("base: quickstart/proxi\n")
    with pytest.raises(UserError, match=r"no config file at quickstart/proxi.*quickstart/proxy"):
        load_config(TokenizerTraining, path)
    path.write_text("base: d\n")
    (tmp_path / "d.yaml").write_text("base: c\n")
    with pytest.raises(UserError, match="comes back to the file itself"):
        load_config(TokenizerTraining, path)
