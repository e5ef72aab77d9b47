"""Pretrained video networks of `transformers`: loaded from a hub or a folder, and given clips as they were trained on.

Legend: B clips, C = 3 channels, F frames, H × W pixels, h × w pixels of the pretrained network.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from evagen.kernels.levels import check_layout
from evagen.kernels.model_files import LARGEST, MOST_LAYERS, check_numbers, parts_of
from evagen.kernels.sources import is_out_of_reach

Network = TypeVar("Network", bound=PreTrainedModel)

UNTRAINED = "untrained"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def load_pretrained(
    kind: type[Network],
    source: str | Path,
    published: str,
    alternatives: Sequence[type[Network]] = (),
    download: bool = True,
) -> Network:
    """A `transformers` network in fp32 and eval mode.

    Args:
        kind: its class.
        source: hub id or local folder; or `untrained`, for the same network with random weights, which tells time and
            memory and nothing else.
        published: the hub id to name to a user who has neither.
        alternatives: further classes of the same type of network, one of which is taken in place of `kind` where the
            config says that the weights are of it.
        download: whether there may be one.

    Raises FileNotFoundError where there is none within reach, ValueError where what is there is another network."""
    assert kind.config_class is not None
    if str(source) == UNTRAINED:
        return kind(kind.config_class()).eval()
    # Or the hub is asked for half a minute.
    only_here = not download or Path(source).is_dir() or is_out_of_reach(str(source))
    try:
        config, _ = kind.config_class.get_config_dict(str(source), local_files_only=only_here)
        if not config:  # a folder without a config.json
            raise FileNotFoundError(f"{source} holds no config.json")
        found, wanted = config.get("model_type"), kind.config_class.model_type
        if found != wanted:
            raise ValueError(f"a network of type {wanted} is needed, the one at {source} is of type {found}")
        check_network(source, config)
        stored = config.get("architectures") or []
        kind = next((other for other in alternatives if other.__name__ in stored), kind)
        loaded: Any = kind.from_pretrained(
            str(source), dtype=torch.float32, use_safetensors=True, output_loading_info=True, local_files_only=only_here
        )  # a pickle could hold code
    except OSError as error:
        raise FileNotFoundError(
            f"no {kind.__name__} at {source}: neither a local folder with config.json and model.safetensors nor a "
            f"hub id within reach. Without network access, fetch these two files of "
            f"https://huggingface.co/{published}/tree/main on another machine, put both into one folder, and give "
            f"the folder's path in place of {source}"
        ) from error
    except (SafetensorError, RuntimeError) as error:  # a damaged file; weights of other shapes
        raise ValueError(f"the weights at {source} are not those of a {kind.__name__}: {error}") from error
    network, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"the weights at {source} are not those of a {kind.__name__}: {len(missing)} are missing, "
            f"{', '.join(missing[:3])} among them"
        )
    return network.eval()


def check_network(source: str | Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError for a `transformers` config with a whole number that is absurd, and for an index in its folder
    that names other files than safetensors."""
    if (index := Path(source, "model.safetensors.index.json")).is_file():
        parts_of(index)
    for name, value in config.items():
        if isinstance(value, int):
            check_numbers(name, max(value, 0), MOST_LAYERS if name.endswith("layers") else LARGEST)


def as_network_input(video: Tensor, size: tuple[int, int]) -> Tensor:
    """video (B, C, F, H, W) in [-1, 1] → (B, F, C, h, w), resized to `size` = (h, w), which may stretch it, and in
    ImageNet's mean and deviation: what VideoMAE and V-JEPA 2 were trained on. Raises ValueError for other layouts."""
    check_layout(video)
    frames = rearrange(video, "b c f h w -> (b f) c h w")  # (B·F, C, H, W)
    if frames.shape[-2:] != size:
        frames = F.interpolate(frames, size, mode="bilinear", antialias=True)  # (B·F, C, h, w)
    mean, deviation = _statistics(frames.dtype, frames.device)
    normalised = ((frames + 1) / 2 - mean) / deviation  # (B·F, C, h, w)
    return rearrange(normalised, "(b f) c h w -> b f c h w", b=len(video))  # (B, F, C, h, w)


def height_width(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """A size as a `transformers` config gives it, one number for a square → (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@functools.lru_cache
def _statistics(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and deviation of each colour, (3, 1, 1) each: copied to a device once."""
    with torch.inference_mode(False):  # whoever asks first, a backward pass may need them later
        mean, deviation = torch.tensor([IMAGENET_MEAN, IMAGENET_DEVIATION], dtype=dtype).to(device)[..., None, None]
    return mean, deviation
