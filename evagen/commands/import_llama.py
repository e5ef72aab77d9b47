"""`evagen import llama`: an exported Llama, trained further or not, as a generator."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import LlamaForCausalLM

from evagen.ar_model.llama import from_llama
from evagen.errors import UserError
from evagen.kernels.files import atomic_folder, read_json
from evagen.kernels.model_files import check_finite
from evagen.kernels.pretrained import check_network
from evagen.models.loading import check_empty


def main(folder: Path, out: Path) -> Path:
    """Writes an exported Llama, as it was or trained further, as a generator that `evagen sample` takes.
    Raises UserError where there is no such Llama, or something in `out`."""
    check_empty(out)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no Llama (config.json is missing): give a folder of `evagen export llama`")
    try:
        config = read_json(folder / "config.json")
        if (kind := config.get("model_type")) != "llama":
            raise ValueError(f"its model_type is {kind!r}, 'llama' is needed")
        check_network(folder, config)
        llama, report = LlamaForCausalLM.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"of its weights {len(missing)} are missing, {', '.join(missing[:3])} among them")
        check_finite(llama)
        with atomic_folder(out) as unfinished:
            from_llama(llama).save_pretrained(unfinished)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be imported as a generator: {error}") from error
    return out
