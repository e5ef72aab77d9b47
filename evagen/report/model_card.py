"""The model card of a folder of trained models: what it is, how it is used, how it was trained, how it scores. All of
it is read from configs, weights, logs and records; what these do not say stands in somebody's notes."""

import html
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import SafetensorError, safe_open

from evagen import __version__
from evagen.ar_model import VideoGenerator
from evagen.config import read_described
from evagen.errors import UserError
from evagen.kernels.model_files import CONFIG, check_settings
from evagen.kernels.names import as_line
from evagen.kernels.sources import INDEX
from evagen.kernels.words import counted
from evagen.report.training_facts import Facts
from evagen.scoring.record import Record, read_record
from evagen.scoring.table import compare, markdown
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer

KINDS = {kind.__name__: kind for kind in (VideoTokenizer, Router, BlockRouter, VideoGenerator)}
PARTS = ("tokenizer", "router", "generator")
USE = "## How to use it"
PAPER = "EVATok ([arXiv 2603.12267](https://arxiv.org/abs/2603.12267))"


@dataclass(frozen=True)
class StoredPart:
    """A model in a folder. part: tokenizer, router or generator; config: its config.json; dtypes: of its weights."""

    part: str
    config: dict[str, Any]
    parameters: int
    dtypes: list[str]
    megabytes: float


@dataclass(frozen=True)
class CardOptions:
    """What cannot be read from the models. name: under which they will be found, a folder or a hub id; licence: as the
    hub names it; notes: markdown; records: run folders of `evagen benchmark`; training: facts of each part."""

    name: str
    licence: str | None = None
    notes: str = ""
    records: Sequence[Path] = ()
    training: Mapping[str, Facts] = field(default_factory=dict)


def stored_parts(folder: Path) -> dict[str, StoredPart]:
    """The models of a pipeline folder, or the one of a model's own. Raises UserError where there are none, or no
    weights, and for damaged ones."""
    folders = sorted(each.parent for each in folder.glob("*/config.json")) if (folder / INDEX).exists() else [folder]
    found = {}
    for each in folders:
        config = read_described(each / CONFIG) if (each / CONFIG).exists() else {}
        kind = KINDS.get(str(config.get("_class_name")))
        files = sorted(each.glob("*.safetensors"))
        if kind is None or not files:
            missing = f"no weights beside its config.json in {each}" if kind else "no model of evagen"
            raise UserError(f"{folder} holds {missing}: give what `evagen export pipeline` or a training leaves")
        try:
            check_settings(kind, config)
            found[kind.part] = _stored(kind.part, config, files)
        except (ValueError, OSError, SafetensorError) as error:
            raise UserError(f"the model in {each} is damaged: {error}") from error
    if not found:
        raise UserError(f"{folder} holds an empty pipeline: give what `evagen export pipeline` leaves")
    return dict(sorted(found.items(), key=lambda item: PARTS.index(item[0])))


def _stored(part: str, config: dict[str, Any], files: Sequence[Path]) -> StoredPart:
    parameters, dtypes = 0, set()
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                weights = file.get_slice(name)
                parameters += math.prod(weights.get_shape())
                dtypes.add(weights.get_dtype())
    return StoredPart(part, config, parameters, sorted(dtypes), sum(path.stat().st_size for path in files) / 1e6)


def write_card(folder: Path, options: CardOptions) -> None:
    """Writes `README.md` into a folder of models. Raises UserError where there are none, and for records that are
    none."""
    parts = stored_parts(folder)
    sections = [
        f"# {plain(Path(options.name).name)}",
        _summary(parts),
        "## What it is\n\n" + _table(parts),
        _classes(parts),
        USE + "\n\n" + _usage(parts, options.name),
        _training(options.training),
        _scores(options.records),
        options.notes.strip(),
        f"---\n\nWritten by evagen {__version__} from the models, the logs of their trainings and the records of their "
        f"scores. The method is {PAPER}; evagen is an independent implementation.",
    ]
    data = ModelCardData(
        license=options.licence, library_name="evagen", tags=_tags(parts), model_name=Path(options.name).name,
        eval_results=_results(options.records) or None,
    )  # fmt: skip
    body = "\n\n".join(section for section in sections if section)
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n").save(folder / "README.md")


def renamed(card: str, name: str) -> str:
    """A card whose commands call the models by another name."""
    head, mark, rest = card.partition(USE)
    usage, end, after = rest.partition("\n## ")
    shell, python = _naming(name)
    usage = re.sub(r"^MODEL=.*?(?=  #|$)", lambda _: shell, usage, flags=re.MULTILINE)
    usage = re.sub(r"^model = .*$", lambda _: python, usage, flags=re.MULTILINE)
    return head + mark + usage + end + after


def _summary(parts: Mapping[str, StoredPart]) -> str:
    if "generator" in parts:
        what = "A generator of video" + (", with the tokenizer of its tokens" if "tokenizer" in parts else "")
    elif "tokenizer" in parts:
        what = "A video tokenizer"
    else:
        what = "A router"
    if "router" in parts and len(parts) > 1:
        what += " and a router"
    return (
        f"{what}, for evagen: autoregressive video generation on adaptive-length "
        "video tokens. Each moment of a video gets as many discrete tokens as it deserves."
    )


def _table(parts: Mapping[str, StoredPart]) -> str:
    rows = [
        [each.part, DESCRIBED[each.part](each.config), f"{each.parameters / 1e6:.2f} M", ", ".join(each.dtypes),
         f"{each.megabytes:.1f} MB"]
        for each in parts.values()
    ]  # fmt: skip
    half = any(each.dtypes == ["F16"] for each in parts.values())
    return markdown(["part", "what it is", "parameters", "stored as", "size"], rows, text_columns=2) + (
        "\n\nWeights that are stored in half precision are loaded in fp32." if half else ""
    )


def _of_tokenizer(config: Mapping[str, Any]) -> str:
    levels = ", ".join(map(str, config["levels"]))
    memory = config.get("memory_blocks")
    clips = (
        "videos of any length, with a memory of " + f"{memory} blocks" if memory else f"{config['num_frames']} frames"
    )
    side = config["resolution"]
    return (
        f"{clips} at {side}x{side} pixels, in blocks of {config['temporal_patch']} frames; {levels} tokens a block, of "
        f"{config['codebook_size']:,} codes ({config['quantizer']})"
    )


def _of_router(config: Mapping[str, Any]) -> str:
    of = "each block as it goes by" if config["_class_name"] == "BlockRouter" else "the blocks of a clip"
    return f"says how many tokens {of} get; {config['depth']} layers of width {config['width']}"


def _of_generator(config: Mapping[str, Any]) -> str:
    classes = counted(len(config["class_names"]), "class", "classes") if config["class_names"] else "no classes"
    given = f"; continues {config['given_frames']} given frames" if config.get("given_frames") else ""
    size = "without an end" if config.get("endless") else f"of {config['num_blocks']} blocks"
    return f"writes clips {size}, {classes}{given}; {config['depth']} layers of width {config['width']}"


DESCRIBED = {"tokenizer": _of_tokenizer, "router": _of_router, "generator": _of_generator}


def _classes(parts: Mapping[str, StoredPart]) -> str:
    names = parts["generator"].config["class_names"] if "generator" in parts else []
    return f"Classes: {', '.join(map(plain, names))}." if names else ""


def _usage(parts: Mapping[str, StoredPart], name: str) -> str:
    """Commands and Python, of which only the lines that name the models change with where they are."""
    naming = _naming(name)
    shell, python = [f"{naming[0]}  # a folder, or an id on the hub"], [naming[1]]
    writes = parts["generator"].config if "generator" in parts else None
    given = bool(writes and writes.get("given_frames"))
    own_router = "" if "router" in parts else "  # a router of your own"
    if "tokenizer" in parts:
        router = "$MODEL" if "router" in parts else "…"
        shell.append(f"evagen encode holiday.mp4 holiday.safetensors --tokenizer $MODEL --router {router}{own_router}")
        shell.append("evagen decode holiday.safetensors decoded.mp4 --tokenizer $MODEL")
    if writes:
        models = f"generator=$MODEL tokenizer={'$MODEL' if 'tokenizer' in parts else '…'}"
        shell.append(f"evagen sample quickstart/sample {models} run.out=runs/clips{_unguided(writes)}")
        if given:
            shell[-1] += _given_videos(parts) + own_router
    if "tokenizer" not in parts or len(parts) == 1:
        python = _of_one(next(iter(parts.values())), python)
    else:
        python = ["from evagen import VideoPipeline", "", *python, "pipeline = VideoPipeline.from_pretrained(model)"]
        if writes and not given:
            called = _quoted(writes["class_names"][0]) if writes["class_names"] else "None"
            python.append(f"frames = pipeline({called}, seed=0).frames  # float (1, frames, height, width, 3), 0 to 1")
        if "router" in parts:
            python.append('tokens = pipeline.encode("holiday.mp4")  # preference= and max_tokens= say how many')
            python.append("frames = pipeline.decode(tokens)")
    return "\n".join(["```bash", *shell, "```", "", "```python", *python, "```"])


def _unguided(generator: Mapping[str, Any]) -> str:
    """Where guidance, which the config asks for, is not to be had."""
    return " options.guidance=1" if generator.get("class_dropout") == 0 else ""


def _given_videos(parts: Mapping[str, StoredPart]) -> str:
    """Videos for frame prediction, as the tokenizer takes them."""
    tokenizer = parts["tokenizer"].config if "tokenizer" in parts else {}
    frames, size = (tokenizer.get(name, "…") for name in ("num_frames", "resolution"))
    return (
        f" given.data.root=videos given.data.layout=folder given.data.split=all given.data.frames={frames} "
        f"given.data.size={size} given.router={'$MODEL' if 'router' in parts else '…'}"
    )


def _naming(name: str) -> tuple[str, str]:
    """The lines that name the models, for a shell and for Python."""
    quoted = f'"{name}"' if re.fullmatch(r"[\w ./@:~+-]+", name) else shlex.quote(as_line(name))
    return f"MODEL={quoted}", f"model = {_quoted(name)}"


def _quoted(name: str) -> str:
    """In Python, on one line."""
    return json.dumps(name, ensure_ascii=not name.isprintable())


def plain(name: str) -> str:
    """A name in markdown as it reads: neither a tag nor more than a line."""
    return html.escape(as_line(name), quote=False)


def _of_one(stored: StoredPart, python: Sequence[str]) -> list[str]:
    """Python for one model by itself."""
    room, kind = "ar_model" if stored.part == "generator" else "tokenizer", stored.config["_class_name"]
    return [f"from evagen.{room} import {kind}", "", *python, f"{stored.part} = {kind}.from_pretrained(model)"]


def _training(training: Mapping[str, Facts]) -> str:
    told = {part: facts for part, facts in training.items() if facts}
    if not told:
        return ""
    names = list(dict.fromkeys(name for facts in told.values() for name in facts))
    rows = [[name, *(facts.get(name, "") for facts in told.values())] for name in names]
    table = markdown(["", *told], rows, text_columns=1 + len(told))
    return "## How it was trained\n\n" + html.escape(table, quote=False)


def _scores(records: Sequence[Path]) -> str:
    if not records:
        return ""
    first = read_record(records[0]).score
    return (
        "## Scores\n\n"
        + html.escape(compare(records), quote=False)
        + f"\n\nIn brackets: {first.level:.0%} intervals of {first.resamples} "
        "bootstrap draws. `evagen protocols NAME` says how a protocol measures."
    )


def _results(records: Sequence[Path]) -> list[EvalResult]:
    """The scores for the hub's own table."""
    return [
        EvalResult(
            task_type="video-reconstruction" if record.protocol["task"] == "reconstruction" else "video-generation",
            dataset_type=str(record.protocol["dataset"]), dataset_name=Path(record.data.root).name,
            metric_type=record.score.name, metric_name=_measured(record),
            metric_value=round(record.score.value, 4),
        )
        for record in map(read_record, records)
    ]  # fmt: skip


def _measured(record: Record) -> str:
    """What a score is of: one protocol scores a tokenizer at several numbers of tokens."""
    tokens = f" at {record.tokens.tokens_per_clip:.1f} tokens a clip" if record.tokens else ""
    return f"{record.score.name}{tokens}, {record.protocol['name']}"


def _tags(parts: Mapping[str, StoredPart]) -> list[str]:
    return ["video", *(["video-generation", "autoregressive"] if "generator" in parts else []), "video-tokenizer"]
