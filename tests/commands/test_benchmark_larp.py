"""`evagen benchmark` on LARP's tokenizer: scored by reconstruction, and for nothing else."""

from pathlib import Path

import numpy as np
import pytest
from scored_models import benchmark, make_models
from tiny_larp import TOKENS, decode_by_hand, encode_by_hand, larp_weights, save_larp

from evagen.commands import tokenize
from evagen.commands.benchmark import main
from evagen.config import load_config
from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.eval import psnr
from evagen.models import inference
from evagen.models.larp import load_larp
from evagen.models.loading import fingerprint
from evagen.scoring.record import read_record

pytestmark = [
    pytest.mark.filterwarnings("ignore::evagen.eval.frechet.FewSamplesWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = make_models(tmp_path_factory.mktemp("models"))
    save_larp(root / "larp")
    return root


def recon(root: Path, out: Path, protocol: str = "adaptok-ucf101-recon", **values):
    return benchmark(root, out, protocol, **{"tokenizer": root / "larp", "uniform_length": TOKENS, **values})


def test_its_reconstructions_are_scored(root, tmp_path):
    run = {"out": str(tmp_path / "run"), "precision": "fp32"}
    record = read_record(main(recon(root, tmp_path / "run", run=run)))
    data = DataConfig(root=root / "arcade", layout="ucf101", split="train", size=32, clip="first")
    video = collate_clips(list(ClipDataset(data))).video
    codes = encode_by_hand(larp_weights(), video)
    again = decode_by_hand(larp_weights(), codes)
    assert record.real_clips == record.generated_clips == len(video) == 12
    assert record.reconstruction.psnr == pytest.approx(psnr(again, video).mean().item(), abs=1e-4)
    assert record.tokens.tokens_per_clip == TOKENS
    assert record.tokens.codes_used == pytest.approx(len(np.unique(codes)) / 64)
    assert record.lengths == f"{TOKENS} for every block"
    assert record.models["tokenizer"].fingerprint == fingerprint(load_larp(root / "larp"))
    assert record.label == "larp"


def test_in_the_precision_of_its_own_protocol(root, tmp_path):
    record = read_record(main(recon(root, tmp_path / "run", "larp-ucf101-recon")))
    assert record.environment["precision"] == "fp16"
    assert np.isfinite(record.score.value)


def test_what_does_not_fit_it_is_refused(root, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match=f"uniform_length=1024: the tokenizer's lengths are {TOKENS}"):
        main(recon(root, out, uniform_length=1024))
    with pytest.raises(UserError, match=r"the router at .* does not fit: the tokenizer has levels \[24\]"):
        main(recon(root, out, uniform_length=None, router=root / "router"))
    with pytest.raises(UserError, match="of 16 frames at 64 pixels, the tokenizer works on 16 frames at 32"):
        main(recon(root, out, changes={"size": 64}))
    with pytest.raises(UserError, match=r"run\.attention=xformers: LARP's sequences are not packed; use auto or torch"):
        main(recon(root, out, run={"out": str(out), "attention": "xformers"}))
    models = {"tokenizer": root / "larp", "generator": root / "generator"}
    with pytest.raises(UserError, match="holds a LARP tokenizer, a VideoTokenizer is needed"):
        main(benchmark(root, out, "larp-ucf101-class2video", {"drawn": 8}, **models))


def test_a_place_that_holds_no_tokenizer_at_all(root, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "config_at", lambda source: {})
    with pytest.raises(UserError, match="no tokenizer at nobody/larp: neither a local folder nor a hub id"):
        main(recon(root, tmp_path / "run", tokenizer="nobody/larp"))


def test_other_commands_refuse_it(root, tmp_path):
    values = {"run.out": tmp_path / "run", "data.root": root / "arcade", "tokenizer": root / "larp", "router": "null"}
    values |= {"data.size": 32, "uniform_length": TOKENS}
    config = load_config(
        tokenize.Tokenization, "quickstart/tokens", [f"{key}={value}" for key, value in values.items()]
    )
    with pytest.raises(UserError, match="holds a LARP tokenizer, a VideoTokenizer is needed"):
        tokenize.main(config)
