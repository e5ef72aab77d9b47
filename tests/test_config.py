"""Configs: typed, overridable, and strict with a helpful word."""

from pathlib import Path

import pytest
from fuzz_configs import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

from evagen.commands.sample import Sampling
from evagen.commands.train_generator import GeneratorTraining
from evagen.commands.train_tokenizer import TokenizerTraining
from evagen.config import find_config, load_config, read_values, save_config, with_overrides
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


def test_a_group_that_a_resolved_config_has_as_null_is_given_by_its_keys(tmp_path):
    plain = load_config(Sampling, "quickstart/sample", ["classes=null"])
    saved = save_config(plain, tmp_path)
    assert "given: null" in saved.read_text()
    given = load_config(Sampling, saved, ["given.data.root=v", "given.data.layout=folder"]).given
    assert (given.data.root, given.data.layout) == (Path("v"), "folder")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.step=1", "unknown key 'optimizer.step'; the nearest known key is 'optimizer.steps'"),
        ("model.encoder_with=1", "unknown key 'model.encoder_with'; the nearest known key is 'model.encoder_width'"),
        ("optimiser.steps=1", "unknown key 'optimiser'; the nearest known key is 'optimizer'"),
        ("optimizer.steps=many", "'optimizer.steps' is 'many': input should be a valid integer"),
        ("optimizer.steps=0", "'optimizer.steps' is 0: input should be greater than or equal to 1"),
        ("optimizer.steps", "should read key=value"),
        ("run.out=", "override 'run.out=' gives no value; run.out=null means none"),
        ("optimizer.steps=5 #2", "override 'optimizer.steps=5 #2':\n  'optimizer.steps' is '5 #2'"),
        ("optimizer.steps=1:30", "'optimizer.steps' is '1:30'"),
        ("optimizer.learning_rate=nan", "input should be a finite number"),
        ("model.spatial_patch=0", "'model.spatial_patch' is 0: input should be greater than or equal to 1"),
        ("data.classes=Rock", "one is written in brackets, data.classes=[one, two]"),
        ("data.classes=[Rock #2]", "For the shell, quotes stand around all of it"),
        ("run.out=$NO_SUCH_VARIABLE/x", "$NO_SUCH_VARIABLE stands for a variable of the environment"),
        ("optimizer=[", "not valid YAML"),
        ("restart_codes_after.x=1", "'restart_codes_after' is a value, not a group"),
        ("data.more.root=v", "'data.more' is a list, and is given whole: data.more='[{root: …}, …]'"),
        ("model.levels.0=4", "'model.levels' is a list, and is given whole: model.levels=[one, two]"),
    ],
)  # fmt: skip
def test_a_bad_override_is_explained(override, message):
    with pytest.raises(UserError) as caught:
        load_config(TokenizerTraining, "quickstart/proxy", [override])
    assert message in str(caught.value)


def test_a_missing_key_and_a_missing_file_are_explained(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run: {out: x}\n")
    with pytest.raises(UserError, match=r"'optimizer\.steps' is missing"):
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


PRINTABLE = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1)
PROXY = read_values(find_config("quickstart/proxy"))


@settings(max_examples=100, deadline=None)
@given(PRINTABLE)
def test_words_and_paths_arrive_as_they_were_typed(text):
    overrides = [f"run.project={text}", f"data.label_column={text}"]
    if not text.startswith("~") and "$" not in text:
        overrides += [f"data.root={text}", f"router={text}"]
    config = with_overrides(TokenizerTraining, PROXY, overrides, "proxy")
    assert config.run.project == text
    assert config.data.label_column == (None if text == "null" else text)
    if len(overrides) == 4:
        assert config.data.root == Path(text)
        assert config.router == (None if text == "null" else text)


def test_what_looks_like_a_number_a_date_or_a_truth_is_a_word_where_a_word_is_meant(tmp_path):
    words = [
        "2026-11-27",
        "007",
        "1e3",
        "on",
        "off",
        "yes",
        "no",
        "null",
        "true",
        "0x10",
        "1:30",
        "set #2",
        "'a'",
        "[b",
    ]
    for word in words:
        config = with_overrides(TokenizerTraining, PROXY, [f"run.project={word}", f"run.out={word}"], "proxy")
        assert (config.run.project, config.run.out) == (word, Path(word))
        assert load_config(TokenizerTraining, save_config(config, tmp_path)) == config
    config = with_overrides(TokenizerTraining, PROXY, ["data.classes=[on, 007, 1e3, 'a, b', 2026-11-27]"], "proxy")
    assert config.data.classes == ["on", "007", "1e3", "a, b", "2026-11-27"]
    config = with_overrides(TokenizerTraining, PROXY, ["data.flip=yes", "optimizer.steps=010", "router=null"], "proxy")
    assert (config.data.flip, config.optimizer.steps, config.router) == (True, 10, None)


def test_home_and_variables_are_filled_in_wherever_a_path_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/d")
    path = tmp_path / "mine.yaml"
    path.write_text("base: quickstart/proxy\ndata: {root: ~/ucf, more: [{root: '${DATA}/k', layout: folder}]}\n")
    config = load_config(TokenizerTraining, path, ["run.out=$DATA/x", "router=~/router", "run.project=$DATA"])
    assert (config.data.root, config.data.more[0].root) == (Path("/home/me/ucf"), Path("/d/k"))
    assert (config.run.out, config.router, config.run.project) == (Path("/d/x"), "/home/me/router", "$DATA")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {out: a}\noptimizer: {steps: 1}\nrun: {out: b}\n", "the key 'run' is there twice, on lines 1 and 3"),
        ("a: &a [*a]", "a group holds itself"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor for the tag"),
        ("[" * 1000, "more than 50 deep"),
        ("a: " + "x" * 250_000, "longer than 250,000 bytes"),
        (b"a: \xff", "is no config: 'utf-8' codec"),
        ("run: {out: 7}", "'run.out' is 7: input is not a valid path"),
        ("run: {out: 7}", "stands in quotes"),
        ("model: 7", "'model' is 7: input should be a valid dictionary"),
        ("base: [a]", "should be the name of a config"),
        ("base: ../{folder}/c", "comes back to the file itself"),
        ("- a\n", "should hold `key: value` lines, not a list"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_config_is_explained(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.replace("{folder}", tmp_path.name).encode())
    with pytest.raises(UserError) as caught:
        load_config(GeneratorTraining, path)
    assert message in str(caught.value)


def test_damaged_configs_are_refused_or_read():
    outcomes = fuzz(150, 10_000)
    assert set(outcomes) == {"read", "refused"}
