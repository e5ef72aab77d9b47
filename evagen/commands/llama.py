"""Trained generators as Llama folders, for transformers and Llama servers, and back."""

from pathlib import Path

from evagen.ar_model import VideoGenerator
from evagen.errors import UserError
from evagen.models.loading import load_model


def export_llama(checkpoint: str, out: Path) -> Path:
    """Writes a trained generator, folder or hub id, as a `LlamaForCausalLM`: safetensors and JSON, nothing else.
    Raises UserError where there is no generator, or something in `out`."""
    from evagen.ar_model.llama import to_llama

    _check_empty(out)
    to_llama(load_model(VideoGenerator, checkpoint)).save_pretrained(out)
    return out


def import_llama(folder: Path, out: Path) -> Path:
    """Writes an exported Llama, as it was or trained further, as a generator that `evagen sample` takes.
    Raises UserError where there is no such Llama, or something in `out`."""
    from transformers import AutoConfig, LlamaForCausalLM

    from evagen.ar_model.llama import from_llama

    _check_empty(out)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no Llama (config.json is missing): give a folder of `evagen export llama`")
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind != "llama":
            raise ValueError(f"its model_type is {kind!r}, 'llama' is needed")
        from_llama(LlamaForCausalLM.from_pretrained(folder, use_safetensors=True)).save_pretrained(out)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be imported as a generator: {error}") from error
    return out


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another place, or delete it")
