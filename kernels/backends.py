"""Which attention kernels work on a device, and which of them `kernels.attention` takes.

torch      torch's dense kernels, called for segments of one shape
flash      torch's FlashAttention for sequences of unequal lengths (CUDA, half precision)
xformers   xformers' memory-efficient attention under block-diagonal biases (CUDA)
auto       on CUDA the first that works of `flash` and `xformers`; otherwise `torch`
"""

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from evagen.kernels.flash import flash_attention, flash_plan
from evagen.kernels.transfer import send

AttentionBackend = Literal["auto", "torch", "flash", "xformers"]
Precision = Literal["fp32", "bf16", "fp16"]
"""Of the products of models."""
HALF = (torch.bfloat16, torch.float16)
LARGEST_ERROR = 0.05
"""Of a kernel in half precision, as a share of the largest value."""
HEAD_WIDTH = 64
"""Of the named sizes of both models, but the smallest."""
logger = logging.getLogger(__name__)


@torch.compiler.assume_constant_result
def backend_for(
    device: torch.device, dtype: torch.dtype, head_width: int, asked: AttentionBackend
) -> Literal["torch", "flash", "xformers"]:
    """What computes the attention of such queries. Raises ValueError for a backend that does not work for them."""
    if asked == "auto":
        if flash_works(device, dtype, head_width):
            return "flash"
        return "xformers" if device.type == "cuda" and xformers_works(device, dtype, head_width) else "torch"
    if asked == "xformers" and not xformers_works(device, dtype, head_width):
        raise ValueError(
            f"attention backend 'xformers' does not work for {dtype} and heads of width {head_width} on {device}: it "
            f"needs CUDA and an xformers built for torch {torch.__version__} (pip install -U xformers); use 'auto'"
        )
    if asked == "flash" and not flash_works(device, dtype, head_width):
        raise ValueError(
            "attention backend 'flash' needs CUDA, half precision and a torch whose FlashAttention works there, "
            f"not {dtype} and heads of width {head_width} on {device.type}; use 'auto'"
        )
    return asked


def has_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are computed as such, and fast. NVIDIA's GPUs before Ampere only imitate them."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@functools.cache
def xformers_works(device: torch.device, dtype: torch.dtype = torch.float32, head_width: int = HEAD_WIDTH) -> bool:
    """Whether xformers is installed and its kernels, forward and backward, run on a device for such numbers and heads:
    its wheels load only beside the torch they were built for, which shows only when they are called."""
    return _works("xformers", _try_xformers, device, dtype, head_width)


@functools.cache
def flash_works(device: torch.device, dtype: torch.dtype = torch.bfloat16, head_width: int = HEAD_WIDTH) -> bool:
    """Whether torch's FlashAttention runs on a device for such numbers and heads, and is right. On a Hopper GPU version
    3 takes the place of torch's own where its package is installed (flash_attn_interface) and works."""
    if device.type != "cuda" or dtype not in HALF:
        return False
    if _has_flash3(device):
        torch.nn.attention.activate_flash_attention_impl("FA3")
        if _works("FlashAttention 3", _try_flash, device, dtype, head_width):
            return True
        torch.nn.attention.restore_flash_attention_impl()
    return _works("FlashAttention", _try_flash, device, dtype, head_width)


def _has_flash3(device: torch.device) -> bool:
    is_installed = importlib.util.find_spec("flash_attn_interface") is not None
    can_choose = hasattr(torch.nn.attention, "activate_flash_attention_impl")  # since torch 2.11
    return is_installed and can_choose and torch.cuda.get_device_capability(device)[0] == 9


def _try_xformers(device: torch.device, dtype: torch.dtype, head_width: int) -> None:
    logging.getLogger("xformers").setLevel(logging.ERROR)  # of what does not load we say what matters, in one line
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask, BlockDiagonalMask

    x = torch.zeros(1, 8, 1, head_width, device=device, dtype=dtype, requires_grad=True)
    for kind in (BlockDiagonalMask, BlockDiagonalCausalMask):
        bias = kind.from_seqlens([4, 4], device=device)
        memory_efficient_attention(x, x, x, attn_bias=bias).sum().backward()


def _try_flash(device: torch.device, dtype: torch.dtype, head_width: int) -> None:
    """Values and gradients of what is causal, and of what sees overlapping keys and not all of them, against fp32."""
    random = torch.Generator().manual_seed(0)
    exact = [torch.randn(8, 1, head_width, generator=random).to(device, dtype).float() for _ in range(4)]
    for segments, causal in (([(0, 3, 0, 3), (3, 5, 3, 5)], True), ([(0, 4, 1, 3), (4, 4, 1, 6)], False)):
        mask = torch.zeros(8, 8, dtype=torch.bool)
        for start, queries, first, keys in segments:
            seen = torch.ones(queries, keys, dtype=torch.bool)
            mask[start : start + queries, first : first + keys] = seen.tril() if causal else seen
        q, k, v, weight = (x.to(dtype).requires_grad_() for x in exact)
        ours = flash_attention(q, k, v, send(flash_plan(segments, causal), device))
        found = [ours, *torch.autograd.grad(ours, [q, k, v], weight)]
        q, k, v, weight = (x.detach().requires_grad_() for x in exact)
        scores = (q[:, 0] @ k[:, 0].T * head_width**-0.5).masked_fill(~send(mask, device), -torch.inf)
        theirs = (scores.softmax(-1) @ v[:, 0])[:, None]
        expected = [theirs, *torch.autograd.grad(theirs, [q, k, v], weight)]
        error = torch.stack([(a.float() - b).abs().max() / b.abs().max() for a, b in zip(found, expected)]).max()
        if not error < LARGEST_ERROR:  # nor nan
            raise RuntimeError(f"its values or gradients are wrong by {error:.2g} of the largest")


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _works(
    name: str,
    attempt: Callable[[torch.device, torch.dtype, int], None],
    device: torch.device,
    dtype: torch.dtype,
    head_width: int,
) -> bool:
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
    except ImportError:
        return False
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of a package's own, of the compilers that it calls, of the driver
        logger.warning("%s: %s", complaint, (str(error).strip().splitlines() or [type(error).__name__])[0])
        return False
    return True
