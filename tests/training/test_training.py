"""The training run every command shares: steps made of several batches, averaged weights, stops on broken numbers."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch._dynamo.utils import counters

from evagen.config import Section
from evagen.errors import UserError
from evagen.kernels.sources import locate
from evagen.tokenizer import VideoTokenizer
from evagen.training.metrics import read_metrics
from evagen.training.run import TrainingRun
from evagen.training.settings import LayerSettings, OptimizerConfig, TrainingSettings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Run(LayerSettings, TrainingSettings):
    pass


class Config(Section):
    run: Run
    optimizer: OptimizerConfig


def start(out: Path, model: nn.Module, run: dict | None = None, **optimizer) -> TrainingRun:
    config = Config(
        run={"out": out, "log_every": 1, "tracker": "none", **(run or {})},
        optimizer={"steps": 6, "batch_size": 1, "learning_rate": 0.1, **optimizer},
    )
    started = TrainingRun(config, config.run, config.optimizer, model)
    started.resume()
    return started


def batches(seed: int = 0) -> Tensor:
    return torch.randn(24, 4, 3, generator=torch.Generator().manual_seed(seed))


def train(run: TrainingRun, data: Tensor, stop_at: int | None = None) -> None:
    for number in run.batches():
        if number == stop_at:
            raise KeyboardInterrupt
        loss = run.model(data[number]).square().mean()
        output = run.model(data[number]).mean()
        run.update(loss, {"output": output}, num_clips=4)
        if run.log_is_due:
            run.log({"loss": loss, "output": output})


class Linear(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def linear() -> Linear:
    torch.manual_seed(0)
    return Linear()


@pytest.mark.parametrize("run", [{"mixed_precision": "fp16"}, {}])
def test_fp16_on_a_cpu_is_refused_wherever_it_is_asked_for(tmp_path, monkeypatch, run):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no" if run else "fp16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UserError, match="fp16, or Accelerate's, is for GPUs, and this runs on a CPU"):
        start(tmp_path / "run", linear(), run)
    assert not list(tmp_path.iterdir())


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path):
    small, large = linear(), linear()
    train(start(tmp_path / "small", small, accumulation=3), batches())
    train(start(tmp_path / "large", large), batches().view(8, 12, 3))
    torch.testing.assert_close(small.weight, large.weight)
    assert not torch.equal(small.weight, linear().weight)
    assert [line["step"] for line in read_metrics(tmp_path / "small")] == [1, 2, 3, 4, 5, 6]


def test_averaged_weights_are_the_moving_average_of_each_steps_weights(tmp_path):
    model = linear()
    run = start(tmp_path, model, ema_decay=0.3)
    seen = []
    for number in run.batches():
        run.update(run.model(batches()[number]).square().mean(), {}, 4)
        seen.append(model.weight.detach().clone())
    expected = seen[0]
    for step, weight in enumerate(seen[1:], start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(run.average.shadow_params[0], expected)


@pytest.mark.parametrize(
    "schedule",
    [
        {"final_learning_rate": 0.01},
        {"schedule": "wsd", "decay_share": 0.6, "warmup_steps": 1},
        {"schedule": "constant"},
    ],
)
def test_resumed_equals_uninterrupted_by_every_schedule(tmp_path, schedule):
    settings = {"run": {"save_every": 2}, **schedule}
    straight, resumed = linear(), linear()
    train(start(tmp_path / "straight", straight, **settings), batches())
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path / "run", linear(), **settings), batches(), stop_at=3)
    train(start(tmp_path / "run", resumed, **settings), batches())
    assert torch.equal(straight.weight, resumed.weight)
    one, other = ([line["learning_rate"] for line in read_metrics(tmp_path / name)] for name in ("straight", "run"))
    assert one == other
    assert len(one) == 6


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_equals_uninterrupted_with_averaged_weights_and_accumulation(tmp_path, accumulation):
    settings = {"ema_decay": 0.9, "accumulation": accumulation, "run": {"save_every": 2}}
    straight, killed, resumed = linear(), linear(), linear()
    one = start(tmp_path / "straight", straight, **settings)
    train(one, batches())
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path / "run", killed, **settings), batches(), stop_at=5 * accumulation)
    again = start(tmp_path / "run", resumed, **settings)
    assert again.first_batch == 4 * accumulation
    train(again, batches())
    assert torch.equal(straight.weight, resumed.weight)
    for mine, theirs in zip(one.average.shadow_params, again.average.shadow_params):
        assert torch.equal(mine, theirs)


class Further(Config):
    start_from: str | None = None


@pytest.mark.parametrize(("log_every", "begins"), [(1, False), (3, True)])
def test_a_term_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, log_every, begins):
    """And says how to go on, from its weights where the command can begin from some."""
    run = start(tmp_path, linear(), {"save_every": 2, "log_every": log_every})
    run.config = Further(**run.config.model_dump()) if begins else run.config

    def train_until_it_breaks() -> None:
        for number in run.batches():
            entropy = torch.tensor(float("nan") if number == 3 else 1.0)
            run.update(run.model(batches()[number]).square().mean(), {"entropy": entropy}, 4)

    said = r"step 4: entropy became NaN or infinite.*step_00000002; give another run.out, a lower .*learning_rate"
    with pytest.raises(UserError, match=said) as stopped:
        train_until_it_breaks()
    assert (f"and start_from={tmp_path} " in str(stopped.value)) == begins
    assert locate(tmp_path, "tokenizer").source.endswith("step_00000002")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]


def tiny_tokenizer() -> VideoTokenizer:
    torch.manual_seed(0)
    return VideoTokenizer(
        levels=[1, 4], num_frames=8, resolution=16, encoder_width=16, encoder_depth=2, encoder_heads=2,
        decoder_width=16, decoder_depth=2, decoder_heads=2, codebook_size=16, code_width=4,
    )  # fmt: skip


def gradients(model: VideoTokenizer) -> list[Tensor]:
    video = torch.rand(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    output = model(video, torch.tensor([[4, 1], [1, 4]]))
    loss = (output.reconstruction - video).square().mean() + sum(output.quantizer_losses.values())
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))


def test_checkpointed_layers_give_the_same_gradients(tmp_path):
    plain = tiny_tokenizer()
    checkpointed = copy.deepcopy(plain)
    checkpointed.enable_gradient_checkpointing()
    assert checkpointed.encoder.gradient_checkpointing
    for mine, theirs in zip(gradients(checkpointed), gradients(plain)):
        torch.testing.assert_close(mine, theirs)


def test_compiled_layers_give_the_same_gradients_and_compile_once_for_all_lengths():
    plain = tiny_tokenizer()
    compiled = copy.deepcopy(plain)
    compiled.compile_repeated_blocks(dynamic=True, backend="aot_eager")  # all of inductor's road but its code
    for mine, theirs in zip(gradients(compiled), gradients(plain)):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    graphs = counters["stats"]["unique_graphs"]
    for lengths in ([[1, 4], [4, 4]], [[4, 4], [4, 4], [1, 4]], [[4, 1]]):
        compiled(torch.zeros(len(lengths), 3, 8, 16, 16), torch.tensor(lengths)).reconstruction.sum().backward()
    assert counters["stats"]["unique_graphs"] == graphs


def test_a_model_that_cannot_checkpoint_is_explained(tmp_path):
    with pytest.raises(UserError, match="gradient_checkpointing is not offered by Linear"):
        start(tmp_path, linear(), {"gradient_checkpointing": True})
