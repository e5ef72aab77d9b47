"""What a model's folder holds, which may be somebody else's, looked at before anything of it is built: settings of the
right types that a machine can hold, and weights as safetensors, of the names and shapes that follow from the settings.
Nothing that could hold code is opened.
"""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from evagen.kernels.files import read_json, words_of
from evagen.kernels.names import check_utf8

if TYPE_CHECKING:  # torch takes seconds, which a typo on the command line must not cost
    from torch import nn

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model"
"""The name, without its endings, of weights that diffusers saves."""
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

LARGEST, MOST_CODES, MOST_LAYERS = 2**20, 2**40, 1024
"""Of whole numbers in a config.json: of any, of a codebook's size (fixed codes cost nothing), of a depth."""


def check_settings(kind: type, settings: Mapping[str, Any]) -> None:
    """Raises ValueError unless a config.json holds what a model of this kind takes: its class, all arguments that have
    no default, values of their types, and numbers that are not absurd."""
    found = settings.get("_class_name")
    if found is not None and found not in [each.__name__ for each in kind.__mro__]:
        raise ValueError(f"it is of a {found}, a {kind.__name__} is needed")
    if settings.get("quantization_config") is not None:
        raise ValueError("it names a quantization_config, which evagen's models do not have")
    arguments = inspect.signature(kind).parameters
    fields: dict[str, Any] = {
        name: (each.annotation, ... if each.default is inspect.Parameter.empty else each.default)
        for name, each in arguments.items()
    }
    checked = pydantic.create_model(
        "Settings", __config__=pydantic.ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=()), **fields
    )
    given = {name: value for name, value in settings.items() if name in fields}
    try:
        checked.model_validate(given)
    except pydantic.ValidationError as error:
        raise ValueError(words_of(error)) from error
    for name, value in given.items():
        most = MOST_LAYERS if name.endswith("depth") else MOST_CODES if name == "codebook_size" else LARGEST
        check_numbers(name, value, most)


def check_numbers(name: str, value: Any, most: int = LARGEST) -> None:
    """Raises ValueError for a number, or one in a list, that is below 0 or above `most`."""
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, int | float) and not 0 <= number <= most:
            raise ValueError(f"{name}={number}: numbers from 0 to {most:,} are possible")


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a model's folder. Raises FileNotFoundError where there are none, saying how a pickle is
    converted if one lies there, and ValueError for an index that names other files."""
    name, index = _names(variant)
    if (folder / index).is_file():
        return [folder / each for each in parts_of(folder / index)]
    if (folder / name).is_file():
        return [folder / name]
    pickles = sorted(each.name for each in folder.glob("*") if each.suffix in PICKLES)
    advice = ""
    if pickles:
        advice = (
            f"; {', '.join(pickles[:3])} may run any code when opened and is left alone. If you trust it, convert it: "
            f"MODEL.from_pretrained({str(folder)!r}, use_safetensors=False).save_pretrained({str(folder)!r}), where "
            "MODEL is the class that config.json names"
        )
    raise FileNotFoundError(f"{folder} holds no file named {name}{advice}")


def _names(variant: str | None) -> tuple[str, str]:
    """Of the weights, and of the index of weights in several files."""
    of = f".{variant}" if variant else ""
    return f"{WEIGHTS}{of}.safetensors", f"{WEIGHTS}.safetensors.index{of}.json"


def parts_of(index: Path) -> list[str]:
    """The names in an index of weights in several files. Raises ValueError for names of others than safetensors files
    beside it."""
    table = read_json(index).get("weight_map")
    names = sorted(set(map(str, table.values()))) if isinstance(table, dict) else []
    wrong = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if wrong or not names:
        raise ValueError(f"{index} should name safetensors files beside it, not {', '.join(wrong[:3]) or 'nothing'}")
    return names


def fetch(source: str, subfolder: str | None, variant: str | None, asked: Mapping[str, Any]) -> Path:
    """The folder, on this machine, of a model on the hub. asked: as `kernels.sources.ASKED_OF_HUB`. Raises OSError
    where it has no such model as safetensors."""

    def get(name: str) -> Path:
        return Path(hf_hub_download(source, name, subfolder=subfolder, **asked))

    name, index = _names(variant)
    try:
        folder = get(CONFIG).parent
        try:
            get(name)
        except EntryNotFoundError:
            for each in parts_of(get(index)):
                get(each)
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"no model at {source}: no such folder here, and no hub id within reach ({error})"
        ) from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{source} holds no file named {name}: {error}") from error
    except (HfHubHTTPError, OSError) as error:
        raise OSError(f"{source}: {error}") from error
    return folder


def check_weights(kind: type, settings: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Raises ValueError unless the weights in some files, of which the tables are read only, have the names and shapes
    of the model that the settings describe, and OSError for a damaged file."""
    import torch

    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        check_utf8(path)
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise OSError(f"{path} is damaged: {error}") from error
    try:
        with torch.device("meta"):  # which takes no memory
            model = kind.from_config(dict(settings))  # type: ignore[attr-defined]
    except (ValueError, ArithmeticError, RuntimeError, TypeError, IndexError) as error:
        raise ValueError(f"no {kind.__name__} can be made with the settings in config.json: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} is of no use" for name in found.keys() - expected.keys()]
    wrong += [
        f"{name} is {found[name]} in place of {expected[name]}"
        for name in found.keys() & expected.keys()
        if found[name] != expected[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"the weights are not those of config.json: {', '.join(sorted(wrong)[:5])}{more}; put back the config.json "
            "that was saved with them"
        )


def check_finite(model: "nn.Module") -> None:
    """Raises ValueError for weights that are not finite, which would make nonsense without a word."""
    import torch

    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are not finite: the training diverged, or the file is damaged")
