"""Every key of every command's config does something: with another value something else comes out. Keys that only say
how a run is carried out (`ONLY_HOW`) change no result, and are shown to be asked for."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_teacher

from evagen.commands import COMMANDS
from evagen.commands.benchmark import main as benchmark
from evagen.config import ONLY_HOW, Section, load_config, section_in, with_overrides
from evagen.data.arcade import build_arcade
from evagen.data.clips import ClipDataset
from evagen.errors import UserError
from evagen.scoring.config import Benchmark
from evagen.tokenizer import Router, VideoTokenizer

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("narrow_patches")]

TIMES = ("clips_per_second", "seconds", "config", "versions", "environment", "computed_by")

DATA = {
    "data.root": "{}/other", "data.layout": "folder", "data.split": "test", "data.split_index": "2",
    "data.csv": "x.csv", "data.video_column": "v", "data.label_column": "l", "data.skip_list": "{}/skip.json",
    "data.more": "[{{root: {}/other, layout: ucf101}}]", "data.frames": "12", "data.stride": "2", "data.size": "40",
    "data.frames_per_second": "12.5",
    "data.clip": "centre", "data.crop": "random", "data.flip": "true", "data.seed": "1 | data.crop=random",
    "data.classes": "[Boxing]", "data.without_classes": "[Boxing]", "data.limit": "3",
}  # fmt: skip
OPTIMIZER = {
    "optimizer.matrices": "muon", "optimizer.steps": "3", "optimizer.batch_size": "3", "optimizer.accumulation": "2",
    "optimizer.learning_rate": "0.02", "optimizer.muon_learning_rate": "0.5 | optimizer.matrices=muon",
    "optimizer.warmup_steps": "2", "optimizer.weight_decay": "0.5", "optimizer.betas": "[0.5, 0.5]",
    "optimizer.gradient_clip": "0.01", "optimizer.ema_decay": "0.9", "optimizer.schedule": "wsd",
    "optimizer.final_learning_rate": "0.005", "optimizer.decay_share": "1 | optimizer.schedule=wsd",
    "optimizer.cycles": "2 | optimizer.schedule=cosine_with_restarts",
    "optimizer.power": "3 | optimizer.schedule=polynomial",
    "optimizer.pieces": "1:1,0.1 | optimizer.schedule=piecewise_constant optimizer.warmup_steps=0",
}  # fmt: skip
TRAINING = {"run.seed": "1", "run.mixed_precision": "bf16"}
LENGTHS = {"router": "{}/router2", "preference": "0.8", "uniform_length": "4 | router=null", "prefix": "[4, 4, 4, 4]"}
COMPARE = {"compare.network": "lpips", "compare.vgg16": "/elsewhere | compare.network=lpips"}
PATCH, TRANSFORMER, ALIGN = (
    " | loss.adversarial.discriminator=patch",
    " | loss.adversarial.discriminator=transformer loss.adversarial.transformer.width=16 "
    "loss.adversarial.transformer.depth=1 loss.adversarial.transformer.heads=2",
    " | loss.alignment.weight=0.5 loss.alignment.teacher={}/teacher",
)
MODEL = {
    "model.levels": "[1, 8]", "model.temporal_patch": "8", "model.spatial_patch": "16", "model.encoder_width": "48",
    "model.encoder_depth": "2", "model.encoder_heads": "1", "model.decoder_width": "48", "model.decoder_depth": "3",
    "model.decoder_heads": "1", "model.codebook_size": "48", "model.code_width": "5",
    "model.encoder_self_attention": "causal", "model.decoder_start": "first",
    "model.memory_blocks": "1", "model.finest_blocks": "4", "model.quantizer": "svq",
    "model.stochastic_temperature": "1 | model.quantizer=svq",
}  # fmt: skip
LOSS = {
    **{f"loss.{name}": "7" for name in ("l1", "l2", "perceptual", "codebook", "commitment", "entropy")},
    **{f"loss.{key}": value.replace("compare", "loss.compare") for key, value in COMPARE.items()},
    "loss.compare.frames": "1",
    "loss.adversarial.discriminator": "patch", "loss.adversarial.weight": "9" + PATCH,
    "loss.adversarial.videomae": "/nowhere | loss.adversarial.discriminator=videomae",
    "loss.adversarial.adaptive": "true" + PATCH, "loss.adversarial.start_step": "1" + PATCH,
    "loss.adversarial.ramp_steps": "5" + PATCH, "loss.adversarial.lecam": "0.5" + PATCH,
    "loss.adversarial.learning_rate": "0.1" + PATCH, "loss.adversarial.form": "non_saturating" + PATCH,
    "loss.adversarial.label_noise": "0.2" + PATCH + " loss.adversarial.form=non_saturating",
    "loss.adversarial.every": "2" + PATCH + " optimizer.steps=3", "loss.adversarial.weight_decay": "0.5" + PATCH,
    "loss.adversarial.transformer.width": "32" + TRANSFORMER, "loss.adversarial.transformer.depth": "2" + TRANSFORMER,
    "loss.adversarial.transformer.heads": "4" + TRANSFORMER,
    "loss.adversarial.transformer.logits": "clip" + TRANSFORMER,
    "loss.pixel_range": "unit", "loss.moving_pixels": "9", "loss.code_reduction": "mean",
    "loss.entropy_temperature": "0.5",
    "loss.alignment.projection": "teacher" + ALIGN,
    "loss.alignment.weight": "0.7" + ALIGN, "loss.alignment.teacher": "/nowhere | loss.alignment.weight=0.5",
    "loss.alignment.learning_rate": "0.5" + ALIGN, "loss.alignment.layer": "2" + ALIGN,
}  # fmt: skip
OPTIONS = {
    "options.temperature": "0.1", "options.top_k": "1", "options.top_p": "0.1", "options.min_p": "0.9",
    "options.guidance": "3", "options.guidance_schedule": "linear | options.guidance=3",
    "options.guidance_interval": "[0.4, 0.5] | options.guidance=9 options.guidance_schedule=interval",
}  # fmt: skip
PRECISION = {"run.precision": "bf16"}
GENERATION = (
    " | router=null generator={}/generator protocol=larp-ucf101-class2video changes.drawn=4 compare.network=auto"
)

OTHER_VALUES = {  # behind a bar: what else has to be set, in both runs, for the key to matter
    "train-tokenizer": {
        **TRAINING, **DATA, **MODEL, **LOSS, **OPTIMIZER, "start_from": "{}/proxy", "restart_codes_after": "1",
        "router": "{}/router", "preference": "0 | router={}/router2", "uniform_length": "4",
        "random_share": "0.5 | router={}/router2",
        "prefix": "[4, 4, 4, 4] | router={}/router2", "pieces": "[4] | model.memory_blocks=1",
    },
    "curate": {
        **PRECISION, **DATA, **COMPARE, "tokenizer": "{}/final", "batch_size": "3", "distance_frames": "1",
        "motion_weight": "3", "mse_weight": "3", "mirrored": "true", "past": "1 | tokenizer={}/remembers",
        "future": "1 | tokenizer={}/remembers",
    },
    "train-router": {
        **TRAINING, **OPTIMIZER, "record": "{}/curation2", "model.downscale": "2", "model.patch": "4",
        "model.width": "48", "model.depth": "2", "model.num_heads": "1", "model.drop_rate": "0.5",
        "reward_scale": "z-score", "preference_range": "[1.0, 1.0]", "target_temperature": "0.5", "held_out": "0.5",
    },
    "tokenize": {
        **PRECISION, **DATA, **LENGTHS, "tokenizer": "{}/proxy", "flips": "false", "given_frames": "4",
        "batch_size": "3", "epochs": "2 | data.clip=random",
    },
    "train-generator": {
        **TRAINING, **OPTIMIZER, "optimizer.tokens_per_batch": "99 | optimizer.batch_size=null", "corpus": "{}/tokens2",
        "model.width": "48", "model.depth": "2", "model.num_heads": "1", "model.hidden_width": "64",
        "model.rope_theta": "2", "model.norm_eps": "0.5",
        "model.token_dropout": "0.5", "model.residual_dropout": "0.5", "model.mlp_dropout": "0.5",
        "model.size": "nano", "start_from": "{}/generator",
        "class_dropout": "0.9", "use_classes": "false", "blocks": "2 | corpus={}/runs",
        **{f"samples.{key}": value.replace(" options.", " samples.options.") for key, value in OPTIONS.items()},
        "samples.options.guidance_schedule": "linear | samples.options.guidance=99",  # two steps teach little
    },
    "sample": {
        **PRECISION, **OPTIONS, "run.seed": "1", "generator": "{}/generator2", "tokenizer": "{}/proxy",
        "classes": "[Boxing]", "clips_per_class": "1", "lengths.forced": "[1, 4, null, 1]", "lengths.max_length": "1",
        "lengths.max_tokens": "7", "lengths.bias": "-9", "blocks": "6 | generator={}/endless tokenizer={}/remembers",
        "seconds": "1 | generator={}/endless tokenizer={}/remembers", "formats": "[mkv]",
        "frames_per_second": "3",
        **{
            f"given.{key}": value.replace("data.", "given.data.")
            for key, value in (DATA | {"preference": "0", "frames": "4"}).items()
        },
        "given.router": "{}/router", "given.uniform_length": "1 | given.router=null",
        "given.prefix": "[4, 1] | given.router=null given.uniform_length=1",
    },
    "study quality-cost": {
        **PRECISION, "record": "{}/curation2", "held_out": "{{a: {}/curation2}}", "proxy": "{}/final",
        "final": "{}/proxy", "router": "{}/router2", "single_routers": "{{0.8: {}/router2}}", "preference": "0.8",
        "num_preferences": "2", "reward_scale": "z-score", **COMPARE, "mirrored": "{{a: {}/mirrored}}",
        "frechet.detector": "offline", "frechet.weights": "/nowhere | frechet.detector=offline",
        "frechet.points": "2 | frechet.detector=offline",
    },
    "benchmark": {
        **PRECISION, **COMPARE, **LENGTHS, "protocol": "adaptok-ucf101-recon", "tokenizer": "{}/proxy",
        "run.seed": "1" + GENERATION,
        "data.root": "{}/other", "data.layout": "folder", "data.csv": "x", "data.video_column": "v",
        "data.label_column": "l", "data.skip_list": "{}/skip.json",
        "changes.dataset": "mine", "changes.split": "test", "changes.split_index": "2", "changes.size": "40",
        "changes.drawn": "3", "changes.first_videos": "3", "changes.num_generated": "3", "changes.seed": "1",
        "changes.scored_frames": "predicted-only", "changes.ddof": "1", "changes.given_lengths": "[4, 4]",
        "changes.frames_per_second": "10",
        "generator": "{}/generator router=null protocol=larp-ucf101-class2video changes.drawn=4 "
        "compare.network=auto",
        "samples": "{}/other router=null tokenizer=null protocol=larp-ucf101-class2video changes.drawn=4 "
        "compare.network=auto",
        **{
            key: value + GENERATION.replace(" |", "" if "|" in value else " |") for key, value in OPTIONS.items()
        },
        "detector": "videomae | detector_weights=/nowhere", "detector_weights": "/nowhere",
        "detector_sha256": "00", "download": "false | detector=protocol", "certainty.resamples": "7",
        "certainty.level": "0.5", "certainty.extrapolate": "true",
        "accept_incomplete": "true | data.root={}/damaged",
        "label": "mine", "cache": "{}/cache", "batch_size": "3",
    },
}  # fmt: skip


TINY = {
    "levels": [1, 4], "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "decoder_width": 32,
    "decoder_depth": 2, "decoder_heads": 2, "codebook_size": 32, "code_width": 4,
}  # fmt: skip


def base(command: str, root: Path) -> dict:
    """A config that runs in a second, for `with_overrides`."""
    data = {"root": f"{root}/arcade", "layout": "ucf101", "size": 32, "clip": "first"}
    optimizer = {"steps": 2, "batch_size": 2, "learning_rate": 0.01}
    training = {"log_every": 1, "tracker": "none"}
    models = {"tokenizer": f"{root}/final", "router": f"{root}/router"}
    given = {"data": data | {"clip": "first"}, "router": f"{root}/router2"}
    return {
        "train-tokenizer": {
            "run": training, "data": data | {"clip": "random"}, "model": TINY, "optimizer": optimizer,
            "loss": {"adversarial": {"ramp_steps": 0}, "alignment": {"layer": 1}}, "held_out": {"clips": 1},
        },
        "curate": {"run": {}, "data": data | {"limit": 4}, "tokenizer": f"{root}/proxy", "batch_size": 2},
        "train-router": {
            "run": training, "record": f"{root}/curation", "optimizer": optimizer, "held_out": 0.25,
            "model": {"patch": 8, "width": 32, "depth": 1, "num_heads": 2},
        },
        "tokenize": {"run": {}, "data": data, **models, "batch_size": 2},
        "train-generator": {
            "run": training, "corpus": f"{root}/tokens", "optimizer": optimizer, "class_dropout": 0.5,
            "samples": {"every": 2, "clips": 2},
            "model": {"width": 32, "depth": 1, "num_heads": 2},
        },
        "sample": {
            "run": {}, "generator": f"{root}/generator", "tokenizer": f"{root}/final", "clips_per_class": 2,
            "given": None,
        },
        "sample given": {
            "run": {}, "generator": f"{root}/generator", "tokenizer": f"{root}/final", "clips_per_class": 1,
            "given": given,
        },
        "study quality-cost": {
            "run": {}, "record": f"{root}/curation", "held_out": {"a": f"{root}/curation"}, "proxy": f"{root}/proxy",
            "final": f"{root}/final", "router": f"{root}/router", "single_routers": {1.0: f"{root}/router"},
            "num_preferences": 3,
        },
        "benchmark": {
            "run": {}, "protocol": "larp-ucf101-recon", "changes": {"dataset": "arcade", "size": 32}, **models,
            "data": {"root": f"{root}/arcade", "layout": "ucf101"}, "detector": "offline",
            "certainty": {"resamples": 3}, "compare": {"network": "offline"},
        },
    }[command]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Iterator[Path]:
    """Data and trained models for every command, each in two kinds."""
    root = tmp_path_factory.mktemp("keys")
    os.environ["EVAGEN_VGG16"] = "/nowhere"  # instead of a download
    for name, seed in (("arcade", 0), ("other", 1)):
        build_arcade(
            root / name, games=["boxing", "skiing"], clips_per_game=4, size=40, frames=20, workers=1, seed=seed
        )
    shutil.copytree(root / "arcade", root / "damaged")
    video = next(name for name in (root / "damaged").rglob("*_g02_*.avi"))
    video.write_bytes(b"not a video")
    tiny_teacher().save_pretrained(root / "teacher")
    gently = ["optimizer.learning_rate=1e-6"]  # so that many codes stay in use
    for command, out, overrides in (
        ("train-tokenizer", "proxy", gently),
        ("curate", "curation", ["data.limit=null"]),
        ("curate", "curation2", ["data.limit=5"]),
        ("curate", "mirrored", ["data.limit=null", "mirrored=true"]),
        ("train-router", "router", []),
        ("train-router", "router2", ["run.seed=1", "optimizer.learning_rate=0.1"]),
        ("train-tokenizer", "final", ["run.seed=1", *gently]),
        ("tokenize", "tokens", []),
        ("tokenize", "tokens2", ["flips=false"]),
        ("train-generator", "generator", ["optimizer.steps=6"]),
        ("train-generator", "generator2", ["run.seed=1"]),
        ("train-tokenizer", "remembers", ["model.memory_blocks=2", *gently]),
        ("tokenize", "runs", [f"tokenizer={root}/remembers", "router=null", "uniform_length=4"]),
        ("train-generator", "endless", [f"corpus={root}/runs", "blocks=2"]),
    ):
        run(command, root, root / out, overrides)
        if command == "train-tokenizer":
            tell_clips_apart(root / out, ClipDataset(load_config(schema_of(command), root / out / "config.yaml").data))
        if command == "train-router":  # one that looks at clips and preferences
            router = Router.from_pretrained(root / out)
            torch.manual_seed(len(out))
            torch.nn.init.normal_(router.vit.head.weight)
            router.vit.patch_embed.proj.weight.data[:, -64:] *= 100  # of the preference's plane, 8 x 8 pixels
            router.save_pretrained(root / out)
    yield root
    del os.environ["EVAGEN_VGG16"]


def tell_clips_apart(folder: Path, clips: ClipDataset) -> None:
    """Takes from a tokenizer's vectors what all of them share, for which a short training gives most the same code."""
    tokenizer = VideoTokenizer.from_pretrained(folder)
    video = torch.stack([clips[n].video for n in range(len(clips))])  # B C F H W
    with torch.no_grad():
        encoded = tokenizer(video, torch.full((len(video), tokenizer.assignments.num_blocks), 4)).encoded  # N c
        tokenizer.to_code.bias -= encoded.mean(0)
    tokenizer.save_pretrained(folder)


def run(command: str, root: Path, out: Path, overrides: list[str]) -> None:
    name = command.removesuffix(" given")
    schema, main = (Benchmark, benchmark) if name == "benchmark" else (schema_of(name), COMMANDS[name].run)
    main(with_overrides(schema, base(command, root), [*overrides, f"run.out={out}"], "test"))


def schema_of(command: str) -> type[Section]:
    return COMMANDS[command].schema_class()


def outcome(command: str, root: Path, out: Path, overrides: list[str]) -> str:
    """What comes out, without times and paths: files, or the error."""
    try:
        run(command, root, out, overrides)
    except (UserError, ValueError) as error:
        return f"error: {error}".replace(str(out), "")
    found = [(str(path.relative_to(out)), digest(path)) for path in sorted(out.rglob("*")) if path.is_file()]
    return json.dumps([pair for pair in found if pair[0] != "config.yaml"])


def digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        content = json.dumps([timeless(json.loads(line)) for line in documents(path)]).encode()
    return hashlib.sha256(content).hexdigest()


def documents(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]


def timeless(values):
    if isinstance(values, dict):
        return {key: timeless(value) for key, value in values.items() if key not in TIMES}
    return values


def leaves(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, bool, type[Section]]]:
    """Dotted keys of a config, whether they only say how, and the section that each stands in."""
    for name, field in schema.model_fields.items():
        inner = section_in(field.annotation)
        if inner is None or inner.__name__ in ("VideoSource",):
            yield prefix + name, ONLY_HOW in field.metadata, schema
        else:
            yield from leaves(inner, f"{prefix}{name}.")


def cases() -> list:
    return [
        pytest.param(command, key, value, id=f"{command}:{key}")
        for command, values in OTHER_VALUES.items()
        for key, value in values.items()
    ]


@pytest.mark.parametrize("command", OTHER_VALUES)
def test_all_keys_are_gone_through(command):
    keys = {
        key for key, only_how, _ in leaves(Benchmark if command == "benchmark" else schema_of(command)) if not only_how
    }
    assert keys == set(OTHER_VALUES[command])


BASES: dict[tuple[str, str], str] = {}


@pytest.mark.parametrize(("command", "key", "value"), cases())
def test_another_value_makes_another_outcome(root, tmp_path, command, key, value):
    value, _, context = value.format(*[root] * 9).partition(" | ")
    context = context.split()
    kind = "sample given" if key.startswith("given.") else command
    name = (kind, " ".join(context))
    if name not in BASES:
        BASES[name] = outcome(kind, root, tmp_path / "base", context)
    assert outcome(kind, root, tmp_path / "changed", [*context, f"{key}={value}"]) != BASES[name]


@contextmanager
def watched() -> Iterator[set[tuple[type, str]]]:
    """Collects which fields of which sections are read by name."""
    seen: set[tuple[type, str]] = set()

    def read(self, name):
        if name in type(self).__dict__.get("__pydantic_fields__", {}):
            seen.add((type(self), name))
        return object.__getattribute__(self, name)

    Section.__getattribute__ = read
    try:
        yield seen
    finally:
        del Section.__getattribute__


@pytest.mark.parametrize("command", OTHER_VALUES)
def test_what_only_says_how_is_asked_for(root, tmp_path, command):
    keys = [
        (key, section)
        for key, only_how, section in leaves(Benchmark if command == "benchmark" else schema_of(command))
        if only_how
    ]
    with watched() as seen:
        run("sample given" if command == "sample" else command, root, tmp_path / "out", [])
    names = {name for _, name in seen}
    assert [key for key, _ in keys if key.rpartition(".")[2] not in names] == []
