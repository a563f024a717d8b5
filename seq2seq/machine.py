"""What the machine at hand is good at: device, number format, memory, random numbers."""

import ctypes
import sys
from contextlib import AbstractContextManager
from functools import cache

import torch


def pick_device() -> torch.device:
    """The GPU if there is one (``CUDA_VISIBLE_DEVICES=`` hides it), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def fast_bfloat16(device_type: str) -> bool:
    """Whether matrix products in bfloat16 beat float32: on GPUs since Ampere, CPUs with AMX.

    CPUs with AVX512-BF16 alone multiply bfloat16 at about half the speed of float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get("amx_bf16", False)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """A context in which matrix products run in ``precision`` (see ``train.precision``)."""
    bfloat16 = precision == "bfloat16" or (precision == "auto" and fast_bfloat16(device.type))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def keep_freed_memory() -> None:
    """Have this process keep freed memory for its next allocation (glibc only).

    Training frees and asks for the same large blocks at every step; given back to the kernel,
    each would have to be mapped and zeroed again, which took a fifth of a step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold, largest = -1, -3, 2**31 - 1
        mallopt(m_mmap_threshold, largest)
        mallopt(m_trim_threshold, largest)
