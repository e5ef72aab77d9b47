"""The whole road, tiny: configs of its stages, and a run folder in which every stage has been run."""

from pathlib import Path

from evagen.commands import curate, sample, tokenize, train_generator, train_router, train_tokenizer
from evagen.config import check_config
from evagen.data.arcade import build_arcade


def tokenizer_config(root: Path, out: Path, **changes) -> train_tokenizer.TokenizerTraining:
    """Six steps teach nothing about lengths; after those of seed 12 more tokens happen to be better, which curation
    needs."""
    values = {
        "run": {"out": str(out), "seed": 12, "log_every": 2, "save_every": 2, "tracker": "none"},
        "data": {"root": str(root / "arcade"), "layout": "ucf101", "size": 32, "flip": True, "crop": "random"},
        "model": {
            "levels": [1, 4], "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "decoder_width": 32,
            "decoder_depth": 1, "decoder_heads": 2, "codebook_size": 32, "code_width": 4,
        },
        "optimizer": {"steps": 6, "batch_size": 4, "matrices": "muon", "learning_rate": 0.01, "warmup_steps": 2},
        "restart_codes_after": 2,
        **changes,
    }  # fmt: skip
    return check_config(train_tokenizer.TokenizerTraining, values, "test")


def sampling_config(root: Path, out: Path, **changes) -> sample.Sampling:
    values = {
        "run": {"out": str(out)},
        "generator": str(root / "generator"),
        "tokenizer": str(root / "final"),
        "clips_per_class": 3,
        "slots": 2,
        **changes,
    }
    return check_config(sample.Sampling, values, "test")


def run_every_stage(root: Path) -> None:
    build_arcade(root / "arcade", games=["boxing", "skiing"], clips_per_game=8, size=32, workers=1)
    train_tokenizer.main(tokenizer_config(root, root / "proxy"))
    data = {"root": str(root / "arcade"), "layout": "ucf101", "size": 32, "clip": "first"}

    def run(module, schema, out: str, **values):
        run = {"out": str(root / out)} | ({"tracker": "none", "log_every": 1} if "optimizer" in values else {})
        values = {"run": run, **values}
        return module.main(check_config(schema, values, out))

    optimizer = {"steps": 3, "batch_size": 4, "learning_rate": 0.001}
    run(curate, curate.Curation, "curation", data=data, tokenizer=str(root / "proxy"), max_segments=5)
    small = {"patch": 8, "width": 32, "depth": 1, "num_heads": 2}
    run(train_router, train_router.RouterTraining, "router", record=str(root / "curation"), model=small,
        optimizer=optimizer, held_out=0.25)  # fmt: skip
    train_tokenizer.main(tokenizer_config(root, root / "final", router=str(root / "router")))
    models = {"tokenizer": str(root / "final"), "router": str(root / "router")}
    run(tokenize, tokenize.Tokenization, "tokens", data=data, **models)
    run(train_generator, train_generator.GeneratorTraining, "generator", corpus=str(root / "tokens"),
        model={"width": 32, "depth": 1, "num_heads": 2}, optimizer=optimizer)  # fmt: skip
    sample.main(sampling_config(root, root / "samples"))
