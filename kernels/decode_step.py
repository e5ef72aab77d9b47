"""A generator's step on a CPU as compiled code, where a C compiler is present.

A step in torch is some three hundred small operations between the products that read the weights; beside one to eight
rows they cost as much as these. `decode_step.c` does it all in one call. It is compiled at its first use, which takes a
second or two, for the processor at hand, and kept in the user's cache folder. Without a compiler nothing is lost but
time.

Legend: R rows, D width, h heads, d = D / h, E hidden width, V vocabulary, M cache length.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from evagen.kernels.files import atomic_write, cache_folder

logger = logging.getLogger(__name__)
MOST_ROWS = 8
"""With more, packed products (packed_linear.py) are as fast."""
FLAGS = ["-O3", "-march=native", "-shared", "-fPIC", "-std=gnu11"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")  # where there are such registers
SPINS = "30000"
"""How long a thread waits awake for the others, who have as much to do: about 50 microseconds."""


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in ["norm1", "qkv", "out", "norm2", "gate_up", "down", "keys", "values"]
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ["depth", "width", "heads", "hidden", "vocabulary", "length"]),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ["embedding", "norm", "head", "rotation", "layers"]),
    ]  # fmt: skip


class _Workspace(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ["x", "qkv", "attended", "hidden", "scores"]]


class CompiledStep:
    """The step of one decoder. Keeps pointers to its weights and cache, so these must stay where they are.

    weights: fp32 and contiguous, by the names of decode_step.c; layers: the same for each layer.
    """

    def __init__(self, weights: dict[str, Tensor], layers: list[dict[str, Tensor]], heads: int, eps: float):
        self._kept = [*weights.values(), *(tensor for layer in layers for tensor in layer.values())]
        num_rows, _, length, _ = layers[0]["keys"].shape
        vocabulary, width = weights["head"].shape
        hidden = layers[0]["down"].shape[1]
        self._num_rows, self._vocabulary = num_rows, vocabulary
        self._layers = (_Layer * len(layers))(*(_Layer(**_pointers(layer)) for layer in layers))
        shape = (len(layers), width, heads, hidden, vocabulary, length, eps)
        self._model = _Model(*shape, layers=ctypes.cast(self._layers, ctypes.c_void_p), **_pointers(weights))
        sizes = {"x": width, "qkv": 3 * width, "attended": width, "hidden": hidden, "scores": heads * length}
        self._buffers = {name: torch.empty(num_rows, size) for name, size in sizes.items()}
        self._workspace = _Workspace(**_pointers(self._buffers))

    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens and positions int64 (R,) → logits (R, V)."""
        logits = torch.empty(self._num_rows, self._vocabulary)
        library = _library()
        assert library is not None  # as can_compile said
        library.decode_step(
            ctypes.byref(self._model), self._num_rows, tokens.data_ptr(), positions.data_ptr(),
            ctypes.byref(self._workspace), logits.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return logits


def can_compile(num_rows: int, width: int, hidden: int, head_width: int) -> bool:
    """Whether there is compiled code for so many rows and a model of these widths: D, E, d."""
    fits = 1 <= num_rows <= MOST_ROWS and width % 64 == hidden % 64 == head_width % 16 == 0
    return fits and _library() is not None


def _pointers(tensors: dict[str, Tensor]) -> dict[str, int]:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(f"{name} should be contiguous float32, got {tensor.dtype} with strides {tensor.stride()}")
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled code, built if need be; None where that is not possible, for a reason that is logged."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        logger.info("no C compiler was found: a step takes torch's operations, which are slower for few clips")
        return None
    try:
        path = _built(compiler)
        spins = os.environ.get("GOMP_SPINCOUNT")
        os.environ["GOMP_SPINCOUNT"] = SPINS  # read when the thread library is loaded, for this library alone
        try:
            library = ctypes.CDLL(str(path))
        finally:
            os.environ.pop("GOMP_SPINCOUNT") if spins is None else os.environ.update(GOMP_SPINCOUNT=spins)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        logger.info("the step could not be compiled, torch's slower operations are taken: %s", reason)
        return None
    library.decode_step.argtypes = [
        ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 4, ctypes.c_int,
    ]  # fmt: skip
    library.decode_step.restype = None
    return library


def _processor() -> str:
    """What tells processors apart: on Linux which instructions they know."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _built(compiler: str) -> Path:
    """The shared library, in evagen's cache folder. The file's name tells source, flags and processor apart."""
    source = Path(__file__).with_name("decode_step.c")
    code = source.read_text(encoding="utf-8")
    key = "|".join([code, compiler, *FLAGS, platform.platform(), platform.machine(), _processor()])
    path = cache_folder() / f"decode_step-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    with atomic_write(path) as unfinished:  # another process may be at the same
        command = [compiler, *FLAGS, str(source), "-o", str(unfinished), "-lm"]
        try:  # with threads where the compiler has OpenMP
            subprocess.run([*command, "-fopenmp"], check=True, capture_output=True, text=True, timeout=120)
        except subprocess.CalledProcessError:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return path
