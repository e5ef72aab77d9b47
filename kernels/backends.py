"""Which attention kernels work on a device, and which of them `kernels.attention` takes.

torch      torch's dense kernels, called for segments of one shape
flash      torch's FlashAttention for sequences of unequal lengths (CUDA, half precision)
xformers   xformers' memory-efficient attention under block-diagonal biases (CUDA)
auto       on CUDA the first that works of `flash` and `xformers`; otherwise `torch`
"""

import functools
import logging
from collections.abc import Callable
from typing import Literal

import torch

from evagen.kernels.flash import flash_attention, flash_plan
from evagen.kernels.transfer import send

AttentionBackend = Literal["auto", "torch", "flash", "xformers"]
HALF = (torch.bfloat16, torch.float16)
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
    """Whether this torch's FlashAttention runs on a device for such numbers and heads."""
    fits = device.type == "cuda" and dtype in HALF
    return fits and _works("FlashAttention", _try_flash, device, dtype, head_width)


def _try_xformers(device: torch.device, dtype: torch.dtype, head_width: int) -> None:
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask, BlockDiagonalMask

    x = torch.zeros(1, 8, 1, head_width, device=device, dtype=dtype, requires_grad=True)
    for kind in (BlockDiagonalMask, BlockDiagonalCausalMask):
        bias = kind.from_seqlens([4, 4], device=device)
        memory_efficient_attention(x, x, x, attn_bias=bias).sum().backward()


def _try_flash(device: torch.device, dtype: torch.dtype, head_width: int) -> None:
    x = torch.zeros(8, 1, head_width, device=device, dtype=dtype, requires_grad=True)
    for segments, causal in (([(0, 4, 0, 4), (4, 4, 0, 8)], False), ([(0, 4, 0, 4), (4, 4, 4, 4)], True)):
        flash_attention(x, x, x, send(flash_plan(segments, causal), device)).sum().backward()


def _works(
    name: str,
    attempt: Callable[[torch.device, torch.dtype, int], None],
    device: torch.device,
    dtype: torch.dtype,
    head_width: int,
) -> bool:
    try:
        with torch.inference_mode(False), torch.enable_grad():  # the first caller may be computing without gradients
            attempt(device, dtype, head_width)
    except ImportError:
        return False
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        logger.warning(
            "%s does not work for %s and heads of width %d on %s and is not used: %s",
            name, dtype, head_width, device, error,
        )  # fmt: skip
        return False
    return True
