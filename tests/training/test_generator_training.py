"""The generator's training command on small corpora: packed, resumed, shared by processes, explained."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from tiny_corpus import LEVELS, write_corpus
from tiny_models import tiny_tokenizer
from two_processes import launch, shipped

from evagen.ar_model import (
    ClipRequest,
    ClipTokens,
    SamplingOptions,
    SequenceGrammar,
    VideoGenerator,
    sample_in_order,
)
from evagen.ar_model.loss import next_token_loss
from evagen.commands import train_generator
from evagen.commands.train_generator import GeneratorTraining, metrics_of
from evagen.config import check_config, load_config, save_config
from evagen.data.corpus import Windows, read_corpus
from evagen.errors import UserError
from evagen.training.generator import new_generator
from evagen.training.metrics import read_metrics
from evagen.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), num_clips=30)


def training(corpus: Path, out: Path, run: dict | None = None, model: dict | None = None, **optimizer):
    values = {
        "run": {"out": str(out), "log_every": 1, "save_every": 2, "tracker": "none", **(run or {})},
        "corpus": str(corpus),
        "model": model or {"width": 32, "depth": 2, "num_heads": 2, "hidden_width": 48},
        "optimizer": {"steps": 6, "learning_rate": 0.01, "warmup_steps": 2, **optimizer},
        "class_dropout": 0.3,
    }
    return check_config(GeneratorTraining, values, "test")


def untrained_generator(config: GeneratorTraining) -> VideoGenerator:
    settings = config.model.model_dump(exclude={"size"})
    return new_generator(read_corpus(config.corpus), settings, config.class_dropout, config.use_classes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return VideoGenerator.from_pretrained(folder).state_dict()


def timeless(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "clips_per_second"} for line in read_metrics(folder)]


def killed_in_step(step: int) -> pytest.MonkeyPatch:
    """Until undone, trainings are interrupted there."""
    update, patch = TrainingRun.update, pytest.MonkeyPatch()

    def killed(self, *rest):
        if self.step == step:
            raise KeyboardInterrupt
        update(self, *rest)

    patch.setattr(TrainingRun, "update", killed)
    return patch


@pytest.mark.parametrize("batch", [{"tokens_per_batch": 70, "accumulation": 2, "ema_decay": 0.9}, {"batch_size": 5}])
def test_resumed_equals_uninterrupted_bit_for_bit(corpus, tmp_path, batch):
    train_generator.main(training(corpus, tmp_path / "straight", **batch))
    patch = killed_in_step(5)
    with pytest.raises(KeyboardInterrupt):
        train_generator.main(training(corpus, tmp_path / "resumed", **batch))
    patch.undo()
    train_generator.main(training(corpus, tmp_path / "resumed", **batch))
    assert timeless(tmp_path / "resumed") == timeless(tmp_path / "straight")
    mine, theirs = weights(tmp_path / "resumed"), weights(tmp_path / "straight")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


DROPPING = {
    "width": 32, "depth": 2, "num_heads": 2, "hidden_width": 48, "token_dropout": 0.2, "residual_dropout": 0.2,
    "mlp_dropout": 0.2,
}  # fmt: skip


def test_resumed_equals_uninterrupted_with_dropout(corpus, tmp_path):
    run = {"gradient_checkpointing": True}  # which drops twice, the same
    for name, model in (("plain", None), ("straight", DROPPING)):
        train_generator.main(training(corpus, tmp_path / name, run, model, batch_size=5))
    patch = killed_in_step(5)
    with pytest.raises(KeyboardInterrupt):
        train_generator.main(training(corpus, tmp_path / "resumed", run, DROPPING, batch_size=5))
    patch.undo()
    train_generator.main(
        training(corpus, tmp_path / "resumed", {"gradient_checkpointing": False}, DROPPING, batch_size=5)
    )
    assert timeless(tmp_path / "resumed") == timeless(tmp_path / "straight")
    mine, theirs, plain = (weights(tmp_path / name) for name in ("resumed", "straight", "plain"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not any(torch.equal(plain[name], theirs[name]) for name in theirs)


INTERRUPTED = """
from evagen.training.run import TrainingRun

def interrupted(main, config):
    update = TrainingRun.update

    def killed(self, *rest):
        if self.step == 3:
            raise KeyboardInterrupt
        update(self, *rest)

    TrainingRun.update = killed
    try:
        main(config)
    except KeyboardInterrupt:
        TrainingRun.update = update
"""

RESUMED_BY_TWO = (
    INTERRUPTED
    + """
import sys
import torch
from accelerate import Accelerator, PartialState
from evagen.config import load_config
from evagen.commands.train_generator import GeneratorTraining, main
from evagen.run import part_processes

straight, resumed = (load_config(GeneratorTraining, path) for path in sys.argv[1:])
Accelerator.end_training = lambda self: None  # the second training still needs both processes
main(straight)
assert PartialState().num_processes == 2
(straight.run.out / f"seed_{PartialState().process_index}").write_text(str(torch.initial_seed()))
interrupted(main, resumed)
main(resumed)
part_processes()
"""
)


def test_two_processes_drop_differently_and_resume_alike(corpus, tmp_path):
    configs = [training(corpus, tmp_path / name, None, DROPPING, batch_size=3) for name in ("straight", "resumed")]
    (tmp_path / "both.py").write_text(RESUMED_BY_TWO)
    files = [str(save_config(config, config.run.out)) for config in configs]
    launch(str(tmp_path / "both.py"), *files, options=shipped("ddp"))
    assert timeless(tmp_path / "resumed") == timeless(tmp_path / "straight")
    mine, theirs = weights(tmp_path / "resumed"), weights(tmp_path / "straight")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert len({(tmp_path / "straight" / f"seed_{process}").read_text() for process in (0, 1)}) == 2


TWO_PROCESSES = (
    INTERRUPTED
    + """
import sys
from accelerate import PartialState
from accelerate.utils import DistributedType
from evagen.config import load_config
from evagen.commands.train_generator import GeneratorTraining, main
from evagen.run import part_processes

config_file, kind = sys.argv[1:]
config = load_config(GeneratorTraining, config_file)
if kind == "FSDP":
    # Accelerate offers FSDP on GPUs only: these processes pass for such, and go on with gloo on CPUs.
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    interrupted(main, config)
    saved = config.run.out / "checkpoints" / "step_00000002"
    assert {path.suffix for path in saved.iterdir()} == {"", ".json", ".safetensors"}  # of one process, and no pickles
main(config)
assert PartialState().num_processes == 2
assert kind in str(PartialState().distributed_type)
part_processes()
"""
)


@pytest.mark.parametrize(("file", "kind"), [("ddp", "MULTI_CPU"), ("fsdp", "FSDP")])
def test_two_processes_with_half_the_batch_each_equal_one_with_the_whole(corpus, tmp_path, file, kind):
    """With the shipped files; under FSDP killed, and going on from a checkpoint of whole weights."""
    one, two = (training(corpus, tmp_path / name, ema_decay=0.5, batch_size=b) for name, b in (("one", 6), ("two", 3)))
    train_generator.main(one)
    (tmp_path / "both.py").write_text(TWO_PROCESSES)
    launch(str(tmp_path / "both.py"), str(save_config(two, two.run.out)), kind, options=shipped(file))
    for mine, theirs in zip(timeless(two.run.out), timeless(one.run.out), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=2e-6)
    mine, theirs = weights(two.run.out), weights(one.run.out)
    untrained = untrained_generator(one).state_dict()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, atol=1e-5, rtol=1e-4)
    assert any((theirs[name] - tensor).abs().max() > 0.01 for name, tensor in untrained.items())


def test_two_batches_of_half_the_size_make_the_step_of_the_whole_one(corpus, tmp_path):
    """Whose sequences are not as long."""
    whole, halves = (training(corpus, tmp_path / f"{a}", batch_size=6 // a, accumulation=a, steps=3) for a in (1, 2))
    train_generator.main(whole)
    train_generator.main(halves)
    theirs = weights(halves.run.out)
    for name, tensor in weights(whole.run.out).items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_the_corpus_stays_on_disk(tmp_path, monkeypatch):
    """Of the memory-mapped table, few pages are ever touched."""
    corpus = read_corpus(write_corpus(tmp_path / "corpus", 6000, levels=[400]))
    monkeypatch.setattr(train_generator, "read_corpus", lambda folder: corpus)
    train_generator.main(training(tmp_path / "corpus", tmp_path / "run", batch_size=2, steps=2))
    (table,) = (tmp_path / "corpus" / "table").glob("*.arrow")
    size, touched = table.stat().st_size, bytes_in_memory(table)
    assert 0 < touched < 0.2 * size
    corpus.table["codes"][:]  # what would have been touched otherwise
    assert bytes_in_memory(table) > 0.9 * size


def bytes_in_memory(path: Path) -> int:
    """Of a file that this process has mapped."""
    total, mapped = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:") and mapped:
            total += int(line.split()[1]) * 1024
        if not line.split()[0].endswith(":"):
            mapped = line.endswith(str(path))
    return total


def test_a_generator_without_an_end_learns_windows(tmp_path):
    """Of rows of ten blocks; what is in them follows from the code before."""
    rows = write_corpus(tmp_path / "rows", 40, blocks=10, memory_blocks=2)
    config = training(rows, tmp_path / "run", tokens_per_batch=200, steps=150).model_copy(update={"blocks": 4})
    train_generator.main(config)
    model = VideoGenerator.from_pretrained(tmp_path / "run").eval()
    assert (model.config.endless, model.config.num_blocks) == (True, 4)
    (clip,) = sample_in_order(model, [ClipRequest(0, 1, num_blocks=30)], SamplingOptions(temperature=0.5))
    steps = (clip.codes[1:] - clip.codes[:-1]) % 11
    assert len(clip.lengths) == 30
    assert float((steps == 3).float().mean()) > 0.8  # also over the edges of windows


@pytest.mark.parametrize("told", [{"use_classes": False}, {"class_dropout": 1.0}])
def test_a_class_that_is_always_dropped_is_dropped(corpus, tmp_path, told):
    """Of clip 24992742, whose number of class dropout is so near to 1 that it is 1 in fp32."""
    config = training(corpus, tmp_path, batch_size=1).model_copy(update=told)
    grammar = untrained_generator(config).grammar
    tokens, _ = train_generator.pack_clips(Windows(read_corpus(corpus)), [24992742], grammar, config)
    assert tokens[0] == grammar.null_class


def test_the_log_compares_lengths_with_the_corpus(corpus, tmp_path):
    train_generator.main(training(corpus, tmp_path, batch_size=30, steps=2))  # a step is an epoch
    lengths = read_corpus(corpus).table["lengths"][:]
    for line in read_metrics(tmp_path):
        for level in LEVELS:
            share = float((lengths == level).float().mean())
            assert line[f"length_share_true_{level}"] == pytest.approx(share, abs=1e-5)
        assert sum(line[f"length_share_predicted_{level}"] for level in LEVELS) == pytest.approx(1, abs=1e-5)
        contents, blocks = float(lengths.sum()), lengths.numel()
        mean = (line["content_loss"] * contents + line["length_loss"] * blocks) / (contents + blocks)
        assert line["loss"] == pytest.approx(mean, abs=1e-5)


def test_given_tokens_weigh_nothing_in_the_log():
    grammar = SequenceGrammar(11, [1, 2, 3], 2, 0, num_given_blocks=1)

    def clip(*lengths):
        return ClipTokens(torch.arange(sum(lengths)), torch.tensor(lengths))

    clips, given = [clip(1, 3), clip(2, 2), clip(1, 1)], [clip(3), clip(1), clip(2)]
    tokens, sequence_lengths = grammar.pack(clips, torch.full((3,), -1), given)
    logits = torch.randn(len(tokens), grammar.vocabulary_size, generator=torch.Generator().manual_seed(0))
    losses = next_token_loss(logits, tokens, sequence_lengths, grammar)
    length_logits = logits[:, grammar.first_length : grammar.first_class]
    logged = metrics_of(losses, length_logits, tokens, sequence_lengths, 10 + 6, grammar)
    assert [logged[name].number for name in ("loss", "content_loss", "length_loss")] == [16, 10, 6]
    parts = sum(logged[name].value * logged[name].number for name in ("content_loss", "length_loss"))
    assert float(logged["loss"].value) == pytest.approx(float(parts) / 16)


def test_training_in_bf16_with_checkpointing_learns(corpus, tmp_path, fresh_accelerator):
    run = {"mixed_precision": "bf16", "gradient_checkpointing": True}
    train_generator.main(training(corpus, tmp_path, run, tokens_per_batch=200, steps=30))
    log = read_metrics(tmp_path)
    assert log[-1]["content_loss"] < 0.8 * log[0]["content_loss"]
    assert VideoGenerator.from_pretrained(tmp_path).dtype == torch.float32


@pytest.fixture
def fresh_accelerator():
    """Accelerate fixes the precision of a process by its first Accelerator."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


# Configs, and what is refused


def test_a_named_size_is_written_out(corpus, tmp_path):
    config = training(corpus, tmp_path, model={"size": "L-plus", "rope_theta": 500.0}, batch_size=1)
    model = yaml.safe_load(save_config(config, tmp_path).read_text())["model"]
    assert (model["size"], model["width"], model["depth"], model["num_heads"]) == ("L-plus", 1280, 30, 20)
    assert load_config(GeneratorTraining, tmp_path / "config.yaml") == config
    with torch.device("meta"):
        generator = untrained_generator(config)
    assert (len(generator.layers), generator.config.width, generator.config.rope_theta) == (30, 1280, 500.0)


def test_fine_tuning_starts_from_the_trained_weights(corpus, tmp_path):
    train_generator.main(training(corpus, tmp_path / "first", batch_size=5))
    config = training(corpus, tmp_path / "second", batch_size=5, steps=1, learning_rate=1e-12)
    train_generator.main(config.model_copy(update={"start_from": str(tmp_path / "first")}))
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_a_generator_of_another_tokenizer_is_not_trained_further(corpus, tmp_path):
    train_generator.main(training(corpus, tmp_path / "first", batch_size=5))
    about = (corpus / "table" / "about.json").read_text().replace("0123456789abcdef", "fedcba9876543210")
    shutil.copytree(corpus, tmp_path / "other")
    (tmp_path / "other" / "table" / "about.json").write_text(about)
    config = training(tmp_path / "other", tmp_path / "second", batch_size=5).model_copy(
        update={"start_from": str(tmp_path / "first")}
    )
    with pytest.raises(
        UserError, match="writes tokens of tokenizer 0123456789abcdef, but that of the corpus is fedcba"
    ):
        train_generator.main(config)


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        (
            {"size": "S", "width": 512},
            {"batch_size": 1},
            "size S means width=384, depth=12, num_heads=6, not",
        ),
        ({"size": "Lplus"}, {"batch_size": 1}, "there is no size 'Lplus'; the sizes are nano, S, B, L, L-plus"),
        ({"sizes": "S"}, {"batch_size": 1}, "unknown key 'model.sizes'; the nearest known key is 'model.size'"),
        ({}, {}, "give either batch_size or tokens_per_batch"),
        ({}, {"batch_size": 1, "tokens_per_batch": 99}, "give either batch_size or tokens_per_batch"),
    ],
)
def test_a_config_that_contradicts_itself_is_explained(corpus, tmp_path, model, optimizer, message):
    with pytest.raises(UserError, match=message):
        training(corpus, tmp_path, model=model, **optimizer)


def test_a_budget_below_the_longest_clip_is_explained(corpus, tmp_path):
    with pytest.raises(UserError, match=r"optimizer.tokens_per_batch is 10, but the longest clip"):
        train_generator.main(training(corpus, tmp_path, tokens_per_batch=10))


def test_a_tokenizer_that_was_replaced_since_is_noticed(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", 5)
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    about = corpus / "table" / "about.json"
    about.write_text(about.read_text().replace('"nowhere"', f'"{tmp_path / "tokenizer"}"'))
    with pytest.raises(UserError, match=r"holds tokens of tokenizer 0123456789abcdef, but that of .* is \w{16}"):
        train_generator.main(training(corpus, tmp_path / "run", batch_size=2))
    shutil.rmtree(tmp_path / "tokenizer")
    train_generator.main(training(corpus, tmp_path / "run", batch_size=2))  # the corpus is enough
