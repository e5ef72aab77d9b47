"""Which attention kernels work on a device, and which of them `kernels.attention` takes.

torch      torch's kernels: on CUDA its memory-efficient one, where that works in one call for sequences of unequal
           lengths; dense calls for segments of one shape elsewhere
flash      torch's FlashAttention for sequences of unequal lengths (CUDA, half precision)
xformers   xformers' memory-efficient attention under block-diagonal biases (CUDA)
auto       on CUDA the first that works of `flash` and `xformers`; otherwise `torch`
"""

import functools
import importlib.util
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from evagen.kernels.flash import flash_attention
from evagen.kernels.gathered import efficient_attention, xformers_attention
from evagen.kernels.plans import AttentionPlan, plan_causal
from evagen.kernels.transfer import send

AttentionBackend = Literal["auto", "torch", "flash", "xformers"]
Kernel = Literal["torch", "efficient", "flash", "xformers"]
"""What computes. Elsewhere than on a CPU `torch` is a dense call for each segment."""
Precision = Literal["fp32", "bf16", "fp16"]
"""Of the products of models."""
HALF = (torch.bfloat16, torch.float16)
LARGEST_ERROR = {torch.bfloat16: 0.05, torch.float16: 0.05, torch.float32: 1e-3}
"""Of a kernel's values and gradients, as a share of the largest. FlashAttention's in bf16 are off by 0.006."""
HEAD_WIDTH = 64
"""Of the named sizes of both models, but the smallest."""
Attend = Callable[[Tensor, Tensor, Tensor, AttentionPlan], Tensor]
Attempt = Callable[[torch.device, torch.dtype, int], None]
logger = logging.getLogger(__name__)


@torch.compiler.assume_constant_result
def backend_for(device: torch.device, dtype: torch.dtype, head_width: int, asked: AttentionBackend) -> Kernel:
    """What computes the attention of such queries. Raises ValueError for a backend that does not work for them."""
    if asked == "xformers" and not xformers_works(device, dtype, head_width):
        raise ValueError(
            f"attention backend 'xformers' does not work for {dtype} and heads of width {head_width} on {device}: it "
            f"needs an xformers built for the CUDA of this torch, {torch.__version__}, with kernels for this GPU "
            "(evagen doctor says what is there, docs/install.md what fits); use 'auto'"
        )
    if asked == "flash" and not flash_works(device, dtype, head_width):
        raise ValueError(
            "attention backend 'flash' needs CUDA, half precision and a torch whose FlashAttention works there, "
            f"not {dtype} and heads of width {head_width} on {device.type}; use 'auto'"
        )
    if asked in ("flash", "xformers"):
        return asked
    if asked == "auto" and flash_works(device, dtype, head_width):
        return "flash"
    if asked == "auto" and device.type == "cuda" and xformers_works(device, dtype, head_width):
        return "xformers"
    return "efficient" if efficient_works(device, dtype, head_width) else "torch"


def has_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are computed as such, and fast. NVIDIA's GPUs before Ampere only imitate them."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@functools.cache
def xformers_works(device: torch.device, dtype: torch.dtype = torch.float32, head_width: int = HEAD_WIDTH) -> bool:
    """Whether xformers is installed, and has kernels that run on a device for such numbers and heads and are right. Its
    wheels load only beside a torch of the CUDA that they were built for, which shows only when they are called."""
    return _xformers_loads() and _works("xformers", _try_xformers, device, dtype, head_width)


@functools.cache
def _xformers_loads() -> bool:
    """Says once for all numbers, heads and devices why one that is installed does not."""
    if importlib.util.find_spec("xformers") is None:
        return False
    logging.getLogger("xformers").setLevel(logging.ERROR)  # of what does not load we say what matters, in one line
    trouble = xformers_trouble()
    if trouble:
        logger.warning("xformers is not used, torch's own kernels do the same: %s", trouble)
    return trouble is None


def _try_xformers(*about: Any) -> None:
    try:
        _try(xformers_attention, *about)
    except NotImplementedError as error:  # which lists all its kernels with what each wants; the last wants least
        _, _, wants = str(error).rpartition("is not supported because:\n")
        raise RuntimeError(", ".join(line.strip() for line in wants.splitlines()[:3])) from error


def xformers_trouble() -> str | None:
    """Why the xformers that is installed cannot load its kernels beside this torch; None where it can."""
    try:
        from xformers import _cpp_lib
    except ImportError as error:
        return str(error).splitlines()[0]
    failed = cause = _cpp_lib._cpp_library_load_exception
    if failed is None:
        return None
    while cause.__cause__:
        cause = cause.__cause__
    built = getattr(failed, "build_info", None)
    versions = f"it was built for torch {built.torch_version}, and this is {torch.__version__}: " if built else ""
    return versions + str(cause).splitlines()[0]


@functools.cache
def efficient_works(device: torch.device, dtype: torch.dtype = torch.float32, head_width: int = HEAD_WIDTH) -> bool:
    """Whether torch's memory-efficient kernel runs on a CUDA device for such numbers and heads, and is right."""
    if device.type != "cuda" or dtype not in LARGEST_ERROR:
        return False
    return _works("torch's memory-efficient attention", partial(_try, efficient_attention), device, dtype, head_width)


@functools.cache
def flash_works(device: torch.device, dtype: torch.dtype = torch.bfloat16, head_width: int = HEAD_WIDTH) -> bool:
    """Whether FlashAttention, torch's own or version 3, runs on a device for such numbers and heads, and is right."""
    if device.type != "cuda" or dtype not in HALF:
        return False
    _choose_flash3(device)
    return _works("FlashAttention", partial(_try, _flash_attention), device, dtype, head_width)


@functools.cache
def _choose_flash3(device: torch.device) -> None:
    """On a Hopper GPU has version 3 take the place of torch's own FlashAttention, once and for all, where its package
    is installed (flash_attn_interface) and works."""
    is_installed = importlib.util.find_spec("flash_attn_interface") is not None
    can_choose = hasattr(torch.nn.attention, "activate_flash_attention_impl")  # since torch 2.11
    if is_installed and can_choose and torch.cuda.get_device_capability(device)[0] == 9:
        _works("FlashAttention 3", _activate_flash3, device, torch.bfloat16, HEAD_WIDTH)


def _activate_flash3(*about: Any) -> None:
    torch.nn.attention.activate_flash_attention_impl("FA3")
    try:
        _try(_flash_attention, *about)
    except Exception:
        torch.nn.attention.restore_flash_attention_impl()
        raise


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    assert plan.packed is not None
    return flash_attention(query, key, value, plan.packed.flash)


def _try(attend: Attend, device: torch.device, dtype: torch.dtype, head_width: int) -> None:
    """Values and gradients of what is causal, and of what sees overlapping keys and not all of them, against fp64,
    which autocast around it does not reach. Raises RuntimeError where they are wrong."""
    random = torch.Generator().manual_seed(0)
    given = [torch.randn(8, 1, head_width, generator=random).to(device, dtype) for _ in range(4)]
    for plan in (plan_causal([3, 5]), AttentionPlan((4, 4), (3, 6), (1, 1))):
        q, k, v, weight = (x.clone().requires_grad_() for x in given)
        ours = attend(q, k, v, send(plan.to_send(), device))
        found = [ours, *torch.autograd.grad(ours, [q, k, v], weight)]
        q, k, v, weight = (x.double().requires_grad_() for x in given)
        scores = (q[:, 0] @ k[:, 0].T * head_width**-0.5).masked_fill(~send(_mask(plan), device), -torch.inf)
        theirs = (scores.softmax(-1) @ v[:, 0])[:, None]
        expected = [theirs, *torch.autograd.grad(theirs, [q, k, v], weight)]
        error = torch.stack([(a.double() - b).abs().max() / b.abs().max() for a, b in zip(found, expected)]).max()
        if not error < LARGEST_ERROR[dtype]:  # nor nan
            raise RuntimeError(f"its values or gradients are wrong by {error:.2g} of the largest")


def _mask(plan: AttentionPlan) -> Tensor:
    """Which of as many keys as there are queries each query of a plan sees: bool (Nq, Nq)."""
    num_rows = sum(plan.query_lengths)
    mask = torch.zeros(num_rows, num_rows, dtype=torch.bool)
    row = 0
    for queries, first, keys in zip(plan.query_lengths, plan.key_starts, plan.key_lengths):
        seen = torch.ones(queries, keys, dtype=torch.bool)
        mask[row : row + queries, first : first + keys] = seen.tril() if plan.causal else seen
        row += queries
    return mask


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _works(name: str, attempt: Attempt, device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    # The first caller may be computing without gradients, or in a checkpointed layer, which counts what is kept.
    with torch.inference_mode(False), torch.enable_grad(), saved_tensors_hooks(_as_it_is, _as_it_is):
        return works(
            lambda: attempt(device, dtype, head_width),
            f"{name} does not work for {dtype} and heads of width {head_width} on {device} and is not used",
        )


def works(attempt: Callable[[], None], complaint: str) -> bool:
    """Whether this runs. If not, the complaint is logged with the first line of the reason, but where a package is
    missing."""
    try:
        attempt()
    except ModuleNotFoundError:
        return False
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of a package's own, of the compilers that it calls, of the driver
        logger.warning("%s: %s", complaint, (str(error).strip().splitlines() or [type(error).__name__])[0])
        return False
    return True
