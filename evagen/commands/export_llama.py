"""`evagen export llama`: a trained generator as a Llama folder, for transformers and Llama servers."""

from pathlib import Path

from evagen.ar_model import VideoGenerator
from evagen.ar_model.llama import to_llama
from evagen.kernels.files import atomic_folder
from evagen.models.loading import check_empty, load_model


def main(checkpoint: str, out: Path) -> Path:
    """Writes a trained generator, folder or hub id, as a `LlamaForCausalLM`: safetensors and JSON, nothing else.
    Raises UserError where there is no generator, or something in `out`."""
    check_empty(out)
    llama = to_llama(load_model(VideoGenerator, checkpoint))
    with atomic_folder(out) as folder:
        llama.save_pretrained(folder)
    return out
