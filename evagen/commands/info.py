"""`evagen info`: what a file or a folder is, what made it, and how large it is.

What one kind alone needs is imported where that kind is told of: with torch and the models' libraries all of it takes
five seconds to load."""

import math
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from evagen.config import dotted, read_described
from evagen.data.video_reader import VideoError, count_frames, frame_rate, iterate_frames
from evagen.errors import UserError
from evagen.kernels.names import as_argument, as_line
from evagen.kernels.sources import SNAPSHOTS, STEP, box, locate
from evagen.sampling.classes import MOST_NAMED

Facts = list[tuple[str, str]]
MODELS = {
    "VideoTokenizer": ("a tokenizer", "evagen encode my.mp4 my.safetensors --tokenizer {folder} --router …"),
    "Router": ("a router of clips", "evagen encode my.mp4 my.safetensors --tokenizer … --router {folder}"),
    "BlockRouter": ("a router of blocks", "evagen encode my.mp4 my.safetensors --tokenizer … --router {folder}"),
    "VideoGenerator": ("a generator", "evagen sample CONFIG generator={folder} tokenizer=…"),
    "LlamaForCausalLM": ("a generator as a Llama", "evagen import llama {folder} OUT, or transformers"),
}
"""By the class in config.json: what it is, and a command that takes it."""
SHAPES = (
    "levels", "num_frames", "temporal_patch", "spatial_patch", "resolution", "memory_blocks", "quantizer",
    "codebook_size", "code_width", "encoder_width", "encoder_depth", "decoder_width", "decoder_depth", "width", "depth",
    "num_heads", "num_blocks", "endless", "tokenizer_fingerprint",
)  # fmt: skip
"""Of a model's config, what is told of it."""
SCORED = (
    "label", "protocol.task", "protocol.dataset", "protocol.num_real", "score.name", "score.value", "score.low",
    "score.high", "detector.name", "real_clips", "generated_clips", "models.tokenizer.source",
    "models.generator.source", "data.root", "seconds",
)  # fmt: skip
"""Of a record of scores."""
SAMPLED = (
    "clips", "config.generator", "config.tokenizer", "generator_fingerprint", "tokenizer_fingerprint",
    "config.options.guidance", "config.options.top_p", "config.run.seed", "precision",
)  # fmt: skip
"""Of a manifest of sampled clips."""


def main(path: Path) -> Facts:
    """Names and values to be read by people. Raises UserError for what evagen did not make and cannot read."""
    path = box().get(path.as_posix(), path)
    if not path.exists() and Path(str(path).rpartition("@")[0]).is_dir():  # a snapshot, as `_unfinished` tells it
        try:
            path = Path(locate(path, part="").source)
        except FileNotFoundError as error:
            raise UserError(str(error)) from error
    if not path.exists():
        raise UserError(f"there is nothing at {path}")
    facts = _of_folder(path) if path.is_dir() else _of_file(path)
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files) / 2**20
    shown = f"{size:,.0f}" if size >= 10 else f"{size:.2g}"
    return [*facts, ("on disk", f"{shown} MB" + f" in {len(files)} files" * (len(files) > 1))]


def _of_folder(folder: Path) -> Facts:
    kinds: list[tuple[str, Callable[[Path], Facts]]] = [
        ("model_index.json", _pipeline), ("config.json", _model), ("table", _corpus), ("record", _curation),
        ("record.json", _scores), ("manifest.json", _samples), ("comparison.json", _study), ("summary.json", _study),
        ("config.yaml", _unfinished),
    ]  # fmt: skip
    for name, tell in kinds:
        if (folder / name).exists():
            return tell(folder)
    raise UserError(
        f"{folder} holds nothing that evagen makes: no model (config.json), pipeline (model_index.json), token corpus "
        "(table), curation (record), scores (record.json), samples (manifest.json), study (summary.json) or run "
        "(config.yaml). Give one of these; `evagen report` makes a page of a folder of runs, and `evagen data scan` "
        "looks at a folder of videos"
    )


def _model(folder: Path) -> Facts:
    from safetensors.torch import load_file

    from evagen.kernels.weights import weights_fingerprint

    config = read_described(folder / "config.json")
    if isinstance(config.get("evagen"), dict):  # as `evagen export llama` leaves it
        config = {"_class_name": "LlamaForCausalLM", **config["evagen"]}
    kind = str(config.get("_class_name"))
    if kind not in MODELS:
        raise UserError(f"{folder} holds a {kind}, which is none of {', '.join(MODELS)}")
    what, command = MODELS[kind]
    files = sorted(folder.glob("*.safetensors"))
    facts = [("what", what)]
    try:
        weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights in {folder} are damaged: {error}") from error
    if weights:
        numbers = sum(tensor.numel() for tensor in weights.values())
        types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()})
        facts.append(("weights", f"{numbers / 1e6:.1f} million numbers, {', '.join(types)}"))
        loaded = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        facts.append(("fingerprint", weights_fingerprint(loaded)))  # in fp32, as others compare it
    facts += [(name, str(config[name])) for name in SHAPES if config.get(name) is not None]
    if classes := list(map(str, config.get("class_names") or ())):
        facts.append(("classes", f"{len(classes)}: {_some(classes, MOST_NAMED)}"))
    return [*facts, ("to use it", command.format(folder=as_argument(folder)))]


def _pipeline(folder: Path) -> Facts:
    parts = sorted(each.parent for each in folder.glob("*/config.json"))
    told = ("weights", "fingerprint", "classes")
    facts = [(f"{part.name} {name}", value) for part in parts for name, value in _model(part) if name in told]
    name = next((known for known, place in box().items() if place == folder), str(folder))
    options = [f"--{part.name} {as_argument(name)}" for part in parts if part.name in ("tokenizer", "router")]
    return [
        ("what", f"a pipeline: {', '.join(part.name for part in parts)}"), *facts,
        ("to use it", f"VideoPipeline.from_pretrained({name!r}), or {' '.join(reversed(options))}"),
    ]  # fmt: skip


def _corpus(folder: Path) -> Facts:
    from evagen.data.clip_table import open_table
    from evagen.data.corpus import open_corpus

    table, about = open_table(folder / "table", "token corpus", "tokenize")
    corpus = open_corpus(folder)
    tokens = int(corpus.lengths().sum(dtype="int64"))
    return [
        ("what", "a token corpus"),
        ("clips", f"{len(table)}, {len(about.skipped)} skipped"),
        ("tokens", f"{tokens}, {tokens / max(1, len(table)):.1f} a clip"),
        ("levels", str(corpus.levels)),
        ("blocks a clip", str(corpus.num_blocks)),
        ("classes", f"{len(corpus.class_names)}: {_some(corpus.class_names)}"),
        ("tokenizer", f"{corpus.tokenizer_fingerprint}, from {corpus.tokenizer_source}"),
        ("to use it", f"evagen train-generator CONFIG corpus={as_argument(folder)}"),
    ]


def _curation(folder: Path) -> Facts:
    from evagen.data.clip_table import open_table
    from evagen.data.curation_record import open_record

    _, about = open_table(folder / "record", "curation record", "curate")
    record = open_record(folder)
    source, tokenizer, *_ = record.measured_with
    levels, searched = record.space.levels, record.space.num_blocks
    return [
        ("what", "a curation record: distances of every assignment"),
        ("clips", f"{len(record.table)}, {len(about.skipped)} skipped"),
        ("assignments", f"{record.space.count} of {searched} blocks, levels {list(levels)}"),
        ("data", str(record.clips.root)),
        ("tokenizer", f"{tokenizer}, from {source}"),
        ("to use it", f"evagen train-router CONFIG record={as_argument(folder)}"),
    ]


def _scores(folder: Path) -> Facts:
    record = read_described(folder / "record.json")
    return [
        ("what", "scores of `evagen benchmark`"),
        *((name, str(value)) for name, value in dotted(record).items() if value is not None and name in SCORED),
        ("to use it", f"evagen compare {as_argument(folder)}"),
    ]


def _samples(folder: Path) -> Facts:
    manifest, name = read_described(folder / "manifest.json"), as_argument(folder)
    return [
        ("what", "clips of `evagen sample`"),
        *((key, str(value)) for key, value in dotted(manifest).items() if value is not None and key in SAMPLED),
        (
            "to use it",
            f"evagen fvd REAL_VIDEOS {name}, or evagen study lengths {name} CORPUS",
        ),
    ]


def _study(folder: Path) -> Facts:
    left = sorted(each for each in folder.iterdir() if each.suffix in (".csv", ".html", ".md", ".png"))
    return [("what", "what a study, or a quickstart, came to"), ("look at", ", ".join(map(str, left)))]


def _unfinished(folder: Path) -> Facts:
    steps = [int(each.parent.name.removeprefix("step_")) for each in folder.glob(f"checkpoints/{STEP}/complete")]
    state = f"its newest checkpoint is of step {max(steps)}" if steps else "it has no checkpoint yet"
    snapshots = [each.name.removeprefix("step_").lstrip("0") for each in sorted((folder / SNAPSHOTS).glob("step_*"))]
    return [
        ("what", f"a run that has not finished, or one without a model; {state}"),
        *([("snapshots", ", ".join(f"{folder}@{step}" for step in snapshots))] if snapshots else []),
        ("to go on", f"the command that began it, with {folder / 'config.yaml'}"),
    ]


def _of_file(path: Path) -> Facts:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                is_tokens = "evagen" in (file.metadata() or {})
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is damaged, or no safetensors file: {error}") from error
        if not is_tokens:
            numbers = sum(math.prod(shape) for shape in shapes)
            return [("what", f"weights, {numbers / 1e6:.1f} million numbers; give the folder to learn more")]
        return _tokens(path)
    try:
        frames, rate = count_frames(path), frame_rate(path)
        height, width, _ = next(iter(iterate_frames(path))).shape
    except (VideoError, StopIteration) as error:
        raise UserError(
            f"{path} is no video that can be read, and no .safetensors file of tokens or weights: {error}"
        ) from error
    video, tokens = as_argument(path), as_argument(path.with_suffix(".safetensors"))
    return [
        ("what", "a video"),
        ("frames", f"{frames} of {width}x{height}, {rate:g} a second, {frames / rate:.1f} seconds"),
        ("to use it", f"evagen encode {video} {tokens}"),
    ]


def _tokens(path: Path) -> Facts:
    from evagen.data.token_file import read_token_file

    _, about = read_token_file(path)
    summary, fingerprint = about.summary().splitlines(), about.tokenizer_fingerprint
    tokenizers = {dict(_model(folder / "tokenizer")).get("fingerprint"): name for name, folder in box().items()}
    known = tokenizers.get(fingerprint) if fingerprint else None
    return [
        ("what", "a video as tokens"),
        *zip(("video", "tokens", "dials"), summary),
        ("tokenizer", f"{fingerprint}, {known}" if known else fingerprint or "not said"),
        ("to use it", to_decode(path) + ("" if known else " --tokenizer …")),
    ]


def to_decode(tokens: Path) -> str:
    """A command that decodes a token file into a video that is not there yet: the one that was encoded often lies
    beside the tokens, under their name."""
    video = tokens.with_name(f"{tokens.stem}_decoded.mp4")
    while video.exists():
        video = video.with_stem(f"{video.stem}_decoded")
    return f"evagen decode {as_argument(tokens)} {as_argument(video)}"


def _some(names: list[str], count: int = 6) -> str:
    return ", ".join(map(as_line, names[:count])) + ", …" * (len(names) > count)
