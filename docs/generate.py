"""Writes what follows from the code and from the other pages: `docs/reference/` and the table of contents in
`docs/README.md`. `make docs` runs it; a test fails where a page is not what this would write."""

import ast
import importlib
import inspect
import json
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel

from evagen.cli import app
from evagen.commands import COMMANDS, KEYS
from evagen.commands.keys import Key, beneath_attributes, keys_of_class
from evagen.config import Section, known_keys
from evagen.kernels.sources import FromAnywhere
from evagen.scoring.config import Benchmark

DOCS = Path(__file__).parent
MADE = "Made from the code by `make docs`; to change it, change the code."
HEAD_OF_KEYS = f"""\
# Keys of configs

Every key that a config may have: its type, what it is if not given, and what it does. {MADE}

`evagen configs NAME --keys` says the same of one config, with its values. How a config works:
[configs.md](../configs.md).
"""
HEAD_OF_PYTHON = f"""\
# Python

Every name that evagen's libraries and the pages' examples import, with shapes, ranges and errors. {MADE}

Videos are floats in [-1, 1] of shape (B, C, F, H, W) in models, and `uint8 F H W C` in files. B clips, C = 3 channels,
F frames, H × W pixels, T temporal blocks, K codes. Examples: [sampling](../sampling.md#in-python),
[tokens](../tokens.md#in-python), [long videos](../long-videos.md#in-python), [scores](../evaluation.md#in-python),
[training by hand](../library.md), [`examples/`](../../examples). evagen brings its types along (`py.typed`).
"""
PYTHON = {
    "The pipeline": {"evagen": ["VideoPipeline"], "evagen.sampling.pipeline": ["VideoPipelineOutput"]},
    "Videos into tokens": {
        "evagen.tokenizer": [
            "VideoTokenizer", "TokenizedClips", "TokenizerOutput", "AdaptiveTokenizer", "TokenizedVideo",
            "LiveTokenizer", "LiveBlock", "Rate", "TokenizerStream", "TileStreams", "decode_in_chunks", "num_tiles",
            "check_decodable", "check_router_fits", "check_block_router_fits",
        ],
    },
    "How many tokens": {
        "evagen.tokenizer": [
            "AssignmentSpace", "Router", "VideoAssignment", "BlockRouter", "PREFERENCE_RANGE", "CandidateSearch",
            "brute_force_distances", "RewardScale", "proxy_reward", "best_assignment", "reward_percentile",
        ],
    },
    "Training a tokenizer": {
        "evagen.tokenizer": [
            "tokenizer_loss", "LossWeights", "DeadCodeRestart", "CodebookUsage", "make_quantizer", "VectorQuantizer",
            "FiniteScalarQuantizer", "BinarySphericalQuantizer", "Quantized",
        ],
    },
    "The generator": {
        "evagen.ar_model": [
            "VideoGenerator", "SIZES", "Size", "shape_of", "with_shape", "ClipTokens", "SequenceGrammar",
            "GrammarState", "next_token_loss", "GeneratorLoss", "drop_classes", "length_shares", "LengthShares",
            "sample", "sample_in_order", "ClipRequest", "SamplingOptions", "LengthConstraints", "is_guided",
        ],
        "evagen.ar_model.llama": ["GrammarLogits", "grammar_of"],
    },
    "Reconstructions scored": {
        "evagen.eval": [
            "reconstruction_metrics", "psnr", "psnr_of_mse", "ssim", "MotionExplained", "motion_explained",
            "moving_errors", "moving_places", "moving_share", "frame_change", "PerceptualDistance", "LPIPSDistance",
            "FrameDistance",
        ],
    },
    "Sets of videos scored": {
        "evagen.eval": [
            "FrechetVideoDistance", "KernelVideoDistance", "VideoDetector", "ImageNetworkDetector", "I3DDetector",
            "I3D_FILE", "VideoMAEDetector", "features_of", "GaussianStatistics", "frechet_distance",
            "frechet_distance_between", "FewSamplesWarning", "kernel_distance", "bootstrap_interval", "Interval",
            "extrapolated_distance", "Extrapolation", "paired_bootstrap",
        ],
    },
    "Protocols of published scores": {
        "evagen.eval": [
            "get_protocol", "PROTOCOLS", "Protocol", "SourceVideo", "SourceClip", "ClipChoice", "FramePreparation",
            "NetworkInput", "PreparedDetector", "load_detector",
        ],
    },
    "Videos and tokens in files": {
        "evagen.data.video_reader": ["read_frames", "frame_rate", "VideoError"],
        "evagen.data.video_writer": ["write_video"],
        "evagen.kernels.levels": ["frames_to_video", "levels_to_floats", "video_to_frames"],
        "evagen.data.token_file": ["read_token_file", "write_token_file", "TokenFile"],
        "evagen.data.sources": ["DataConfig"],
        "evagen.data.clips": ["ClipDataset", "Clip", "SkippedClip"],
        "evagen.data.loader": ["collate_clips", "ClipBatch", "train_loader"],
        "evagen.errors": ["UserError"],
    },
}  # fmt: skip
"""Modules and their names that the page of Python has, in the order in which they are met. Of a library all."""
INSIDE = {
    "extract_init_dict", "meaning_of_weights", "to_json_string",  # which diffusers and loading call
    "embed_video", "tokens_of", "patches_of", "patch_rows", "make_queries", "embed_codes", "decoder_queries", "pixels",
    "too_long", "precision", "levels_on", "sync",
}  # fmt: skip
"""Methods that no reader calls."""
CONTENTS = {
    "Begin": ["five-minutes.md", "install.md", "demo.md", "method.md"],
    "Use": ["tokens.md", "sampling.md", "long-videos.md", "hub.md", "library.md", "llama.md"],
    "Train": ["your-own-videos.md", "configs.md", "watching.md", "paper.md", "recipe.md"],
    "Measure": ["evaluation.md", "results.md", "peers.md"],
    "Look up": ["reference/commands.md", "reference/configs.md", "reference/python.md"],
    "Understand": ["design.md", "log.md"],
}
"""The pages by what a reader wants. Those that are not there are left out."""


def pages() -> dict[Path, str]:
    """The text of every page that is made here, and of the list of keys that commands are checked by."""
    made = {
        DOCS / "reference" / "commands.md": commands_page(),
        DOCS / "reference" / "configs.md": configs_page(),
        DOCS / "reference" / "python.md": python_page(),
    }
    keys = {name: known_keys(command.schema_class()) for name, command in COMMANDS.items()}
    return made | {DOCS / "README.md": contents_page(made), KEYS: json.dumps(keys, indent=1) + "\n"}


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()).replace(" ", "-")


def contents_page(made: dict[Path, str]) -> str:
    lines = ["# Documentation", "", "All pages, by what you want to do. New here? Take the first.", ""]
    for title, names in CONTENTS.items():
        lines += [f"## {title}", ""]
        for name in names:
            path = DOCS / name
            if path not in made and not path.exists():
                continue
            text = made.get(path) or path.read_text(encoding="utf-8")
            heading, about = re.findall(r"^# (.+)\n\n((?:.+\n)+)", text, re.MULTILINE)[0]
            about = re.split(r"(?<=[.:]) ", about.replace("\n", " ").strip())[0].rstrip(":.")
            about = re.sub(r"^This page \w+,? ", "", about)
            lines.append(f"- [{heading}]({name}): {about}.")
            parts = re.findall(r"^## (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE)
            if parts and name != "log.md":
                lines.append("  " + " · ".join(f"[{part}]({name}#{slug(part)})" for part in parts))
        lines.append("")
    lines.append("To change something: [CONTRIBUTING.md](../CONTRIBUTING.md).")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its arguments, options and an example."""
    commands = dict(all_commands(typer.main.get_command(app)))
    lines = ["# Commands", "", f"Every command, its arguments and options, and an example. {MADE}", ""]
    lines += [f"- [`evagen {name}`](#{slug(f'evagen {name}')}): {_cell(each.help)}" for name, each in commands.items()]
    for name, command in commands.items():
        lines += ["", f"## evagen {name}", "", inspect.cleandoc(command.help or ""), ""]
        if command.epilog:
            lines += ["```bash", command.epilog.removeprefix("Example: "), "```", ""]
        if any("=" in (each.metavar or "") for each in command.params):
            lines += [f"Keys: [configs.md](configs.md#{slug(f'evagen {name}')}).", ""]
        lines += ["| | takes | if not given | meaning |", "|---|---|---|---|"]
        lines += [_parameter(each) for each in command.params]
    return "\n".join(lines) + "\n"


def all_commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{above}{name} ")
        else:
            yield above + name, command


KINDS = {str: "text", int: "whole number", float: "number", Path: "path", bool: ""}


def _parameter(parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    if parameter.param_type_name == "option":
        names = [*parameter.opts, *parameter.secondary_opts]
    else:
        names = [parameter.metavar or parameter.name.upper()]
    if get_origin(annotation) is list:
        kind = KINDS[get_args(annotation)[0]]
    else:
        kind = KINDS.get(annotation, " or ".join(f"`{choice}`" for choice in get_args(annotation)))
    if parameter.nargs == -1:
        kind = "one or more" if parameter.required else "any number"
    default = f"`{parameter.default}`" if parameter.default not in (None, False, "") else ""
    default = "needed" if parameter.required else default
    return f"| {', '.join(f'`{name}`' for name in names)} | {kind} | {default} | {_cell(parameter.help)} |"


def configs_page() -> str:
    """Every key of every command's config; groups that several commands have, once."""
    schemas = {name: command.schema_class() for name, command in COMMANDS.items()} | {"benchmark": Benchmark}
    places: dict[type[Section], list[str]] = defaultdict(list)
    users: dict[type[Section], set[str]] = defaultdict(set)
    for name, schema in schemas.items():
        for group, inner in groups(schema):
            users[inner].add(name)
            if group not in places[inner]:
                places[inner].append(group)
    titles = {each: " or ".join(f"`{name}`" for name in names) for each, names in places.items()}
    shared = {each: f"The group {titles[each]}" for each in users if len(users[each]) > 1}
    lines = [HEAD_OF_KEYS]
    for name, schema in schemas.items():
        lines += [f"## evagen {name}", "", *_table(schema, shared), ""]
    for inner, title in shared.items():
        of = ", ".join(f"`{name}`" for name in schemas if name in users[inner])
        lines += [f"## {title}", "", f"Of {of}.", "", *_table(inner, shared), ""]
    return "\n".join(lines).rstrip() + "\n"


def groups(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section within a section, dotted."""
    for key, inner in keys_of_class(schema):
        if inner is not None:
            yield prefix + key.name, inner
            yield from groups(inner, f"{prefix}{key.name}.")


def _table(schema: type[Section], shared: dict[type[Section], str]) -> list[str]:
    return ["| key | type | if not given | meaning |", "|---|---|---|---|", *_rows(schema, shared, "")]


def _rows(schema: type[Section], shared: dict[type[Section], str], prefix: str) -> Iterator[str]:
    for key, inner in keys_of_class(schema):
        name = prefix + key.name
        if inner is None:
            yield f"| `{name}` | {_kind(key)} | {_default(key.value)} | {_cell(key.about)} |"
        elif inner in shared:
            kind = "several groups" if key.kind.startswith("list") else "group" + ", or none" * ("None" in key.kind)
            yield f"| `{name}` | {kind} | | {_cell(key.about)} [Its keys](#{slug(shared[inner])}) |"
        else:
            yield from _rows(inner, shared, f"{name}.")


def _kind(key: Key) -> str:
    return "`" + key.kind.replace("|", "\\|") + "`"


def _default(value: Any) -> str:
    if value is None:
        return "none"
    return value if value == "needed" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def python_page() -> str:
    """Every public name with its signature, docstring, fields and methods."""
    lines = [HEAD_OF_PYTHON]
    for title, modules in PYTHON.items():
        lines += [f"## {title}", ""]
        entries = {name: list(_public(module, name)) for module, names in modules.items() for name in names}
        for module, names in modules.items():
            lines += [f"From `{module}`:", ""]
            lines += [*(f"- [`{name}`](#{slug(name)}): {_first_sentence(entries[name])}" for name in names), ""]
        for name, entry in entries.items():
            lines += [f"### {name}", "", *entry, ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _public(module: str, name: str) -> Iterator[str]:
    """A class or function, or a constant by the text below it."""
    each = getattr(importlib.import_module(module), name)
    if not inspect.isclass(each) and not inspect.isfunction(each):
        yield from (_text_below(module, name), "")
        return
    if not _has_no_call(each):
        yield from ("```python", _signature(name, each), "```", "")
    yield from (*_described(each.__doc__, _names(each)), "")
    if not inspect.isclass(each):
        return
    yield from _fields(each)
    inherited = vars(FromAnywhere) if issubclass(each, FromAnywhere) else {}
    for method, raw in (inherited | vars(each)).items():
        if (method.startswith("_") and method != "__call__") or method in INSIDE:
            continue
        function = raw.fget if isinstance(raw, property) else getattr(raw, "__func__", raw)
        if inspect.isfunction(function) and function.__doc__:
            about = list(_described(function.__doc__, _names(function)))
            shown = "" if method == "__call__" else f".{method}"
            called = shown if isinstance(raw, property) else _signature(shown, function)
            head = [f"- **`{called}`**"] if "\n" not in called else ["- ```python", *called.split("\n"), "```"]
            yield from (head[0], *textwrap.indent("\n".join([*head[1:], "", *about]), "  ").split("\n"), "")


def _fields(kind: type) -> Iterator[str]:
    """What is written beneath the fields of a class, or all keys of a section."""
    if issubclass(kind, BaseModel):
        for key, _ in keys_of_class(kind):  # type: ignore[arg-type]
            default = "" if key.value == "needed" else f" = {key.value!r}"
            yield f"- `{key.name}: {key.kind}{default}`: {_inline(key.about)}".removesuffix(": ")
    else:
        yield from (f"- `{name}`: {_inline(about)}" for name, about in beneath_attributes(kind).items())
    yield ""


def _signature(name: str, each: Any) -> str:
    """A call with types by their last names, without what a class or an instance is passed as itself; a long one has
    an argument a line."""
    signature = inspect.signature(each)
    own = [value for key, value in signature.parameters.items() if key not in ("self", "cls")]
    whole = _short(str(signature.replace(parameters=own)))
    if len(name + whole) <= 110 or not own:
        return name + whole
    bars = [number for number, value in enumerate(own) if value.kind is inspect.Parameter.KEYWORD_ONLY][:1]
    arguments = [_short(str(value)) for value in own]
    if bars and not any(value.kind is inspect.Parameter.VAR_POSITIONAL for value in own):
        arguments.insert(bars[0], "*")
    ending = whole[whole.rindex(") ->") :] if ") ->" in whole else ")"
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), ending])


def _has_no_call(each: Any) -> bool:
    """Nobody makes an error or an interface; of a config the fields are listed."""
    return inspect.isclass(each) and (issubclass(each, (Exception, BaseModel)) or getattr(each, "_is_protocol", False))


def _names(each: Any) -> Iterable[str]:
    """Of what a docstring may tell one by one: arguments, or the attributes of a class."""
    arguments = () if _has_no_call(each) else inspect.signature(each).parameters
    return [*arguments, *getattr(each, "__annotations__", {})]


def _short(text: str) -> str:
    text = text.replace("'", '"').replace("<factory>", "…")
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text)
    return re.sub(r'(-> |\[)"([A-Z]\w+)"', r"\1\2", text).removesuffix(" -> None")  # not literals


def _first_sentence(entry: list[str]) -> str:
    """Of what a name's entry says, below its signature."""
    text = re.sub(r"^```.*?^```$", "", "\n".join(entry), flags=re.M | re.S).strip().split("\n\n")[0]
    return re.split(r"(?<=\.)\s(?=[A-Z`])", _cell(text))[0].rstrip(".:")


def _described(docstring: str | None, names: Iterable[str] = ()) -> Iterator[str]:
    """A docstring as Markdown: lists of `name: what it is` become lists, examples blocks. names: of arguments or
    fields, which may be told of in running text too."""
    for paragraph in inspect.cleandoc(docstring or "").split("\n\n"):
        text = textwrap.dedent(paragraph.removeprefix("Args:\n"))
        entries = re.split(r"\n(?=\S)", text)
        if text.startswith(" ") or paragraph.startswith("    "):
            yield from ("```python", text, "```", "")
        elif (len(entries) > 1 or text != paragraph) and all(re.match(r"[a-z][\w, …]*: ", each) for each in entries):
            yield from (_inline(re.sub(r"^([^:]+):", r"- `\1`:", _cell(entry))) for entry in entries)
            yield ""
        else:
            yield from (*_with_entries(text, set(names)), "")


def _with_entries(text: str, names: set[str]) -> Iterator[str]:
    """Text in which `name: what it is; other: …` of these names becomes a list."""
    flat = _cell(text)
    heads = [each for each in re.finditer(r"(?:(?<=^)|(?<=[.;,:] ))((?:\w+, )*\w+): ", flat)
             if set(each[1].split(", ")) <= names]  # fmt: skip
    if not heads:
        yield _inline(text)
        return
    if before := flat[: heads[0].start()].strip():
        yield from (_inline(before), "")
    raises = re.search(r"(?<=[.;]) Raises |$", flat[heads[-1].end() :])
    assert raises is not None
    end = heads[-1].end() + raises.start()
    for head, after in zip(heads, [*(each.start() for each in heads[1:]), end]):
        yield _inline(f"- `{head[1]}`: {flat[head.end() : after].strip().rstrip(';.')}.")
    yield from ("", _inline(flat[end:].strip()))


def _inline(text: str) -> str:
    """Text whose stars and angle brackets are themselves, outside of code."""
    parts = text.split("`")
    parts[::2] = (re.sub(r"([*<])", r"\\\1", part) for part in parts[::2])
    return "`".join(parts)


def _text_below(module: str, name: str) -> str:
    """What stands below the line that sets a constant, wherever in the library that is."""
    for path in sorted(Path(importlib.import_module(module).__file__ or "").parent.glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for line, below in pairwise(body):
            targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
            if name in (getattr(target, "id", "") for target in targets):
                return _inline(_cell(getattr(getattr(below, "value", None), "value", "")))
    raise LookupError(f"{module} sets no {name}")


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|").strip()


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
