"""`evagen import llama`: an exported Llama, trained further or not, as a generator."""

from pathlib import Path

from transformers import AutoConfig, LlamaForCausalLM

from evagen.ar_model.llama import from_llama
from evagen.errors import UserError
from evagen.models.loading import check_empty


def main(folder: Path, out: Path) -> Path:
    """Writes an exported Llama, as it was or trained further, as a generator that `evagen sample` takes.
    Raises UserError where there is no such Llama, or something in `out`."""
    check_empty(out)
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
