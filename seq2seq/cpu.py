"""Speed and memory: devices, number formats, and what makes CPUs fast."""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor, nn

from seq2seq.utils import UserError

SMALL_BATCH = 8  # rows up to which float32 products are fastest by default (256 to 1,024 columns)
_POOL_LOCK = Lock()

Task = TypeVar("Task")
Result = TypeVar("Result")


def pick_device() -> torch.device:
    """A CUDA GPU (``CUDA_VISIBLE_DEVICES=`` hides it), else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@cache
def fast_bfloat16(device_type: str) -> bool:
    """Whether matrix products in bfloat16 were measured to be faster than in float32.

    They are on GPUs since Ampere, on CPUs with AMX, and on AMD's with AVX512-BF16, at twice the
    rate; Intel's CPUs with AVX512-BF16 alone reach half the rate of float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and (has("amx_bf16") or (has("avx512_bf16") and is_amd()))


def has(instructions: str) -> bool:
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get(instructions, False)


@cache
def is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and b"AuthenticAMD" in cpuinfo.read_bytes()


def resolve_precision(precision: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``: what ``auto`` stands for on ``device``."""
    if precision != "auto":
        return precision
    return "bfloat16" if fast_bfloat16(device.type) else "float32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which matrix products run in ``precision`` (see ``train.precision``)."""
    enabled = resolve_precision(precision, device) == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def to_autocast_dtype(x: Tensor) -> Tensor:
    """``x`` in the format of matrix products under autocast, converted once for several of them."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@contextmanager
def float32_matmul(rows: int) -> Iterator[None]:
    """Let AMD's CPUs multiply many rows by oneDNN, twice as fast as by MKL.

    The switch allows bfloat16 inside, but without AMX products stay exact (a test checks this).
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if is_amd() and rows >= SMALL_BATCH and has("avx512_f") and not has("amx_bf16"):
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


class Dropout(nn.Module):
    """Zero each value with probability p and scale the rest by 1 / (1 - p) (Srivastava 2014).

    torch draws one random number per value, a tenth of a training step on a CPU. Here each 64-bit
    draw serves eight values, and p is rounded to a multiple of 1/256. Other devices use torch's.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        n_dropped = round(self.p * 256)  # of 256
        if x.device.type != "cpu" or not 0 < n_dropped < 256:
            return nn.functional.dropout(x, self.p)
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64)
        draws.random_(torch.iinfo(torch.int64).min, None)
        uniform = draws.view(torch.int8)[: x.numel()].view(x.shape)  # -128 to 127
        keep = uniform > n_dropped - 129
        return x * keep.to(x.dtype).mul_(256 / (256 - n_dropped))


def thread_map(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """``work`` on each task; on a CPU several at a time, with the cores divided among them.

    Small operations gain little from a second core; a second task gains nearly all of it.
    """
    if pick_device().type != "cpu" or len(tasks) < 2:
        return [work(task) for task in tasks]
    with _POOL_LOCK:  # a new thread takes the number set last: read it while no worker runs
        cores = torch.get_num_threads()
        n_workers = min(cores, len(tasks))
        threads_each = (cores // n_workers,)
        with ThreadPoolExecutor(n_workers, "", torch.set_num_threads, threads_each) as pool:
            try:
                return list(pool.map(work, tasks))
            finally:
                torch.set_num_threads(cores)


@contextmanager
def oom_as_user_error(message: str) -> Iterator[None]:
    """Turn running out of memory into a ``UserError`` with this message."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UserError(f"out of memory {message}") from None
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means too little memory; torch has no single type for it."""
    signs = "(not enough|t allocate|out of) memory|bad_alloc|ALLOC_FAILED|calculation overflowed"
    return isinstance(error, MemoryError) or re.search(signs, str(error)) is not None


def trim_memory() -> None:
    """Return freed memory to the system: gaps between blocks of many sizes only ever grow.

    Called every hundred steps it held a run with 6 million weights at 3.3 GB instead of 4.7.
    """
    call_glibc("malloc_trim", 0)


def tune_process(n_kernels: int = 10_000) -> None:
    """Settings of this whole process that make it faster; for our own commands only.

    glibc keeps freed memory for the next allocation: having the kernel map and zero the same large
    blocks at every step took a fifth of it. oneDNN keeps ``n_kernels``, one per matrix shape,
    unless the user has set a number; it reads it at the first product. An epoch has the same shapes
    as the one before, some 500 where sentences are short (``batches.py``): when they were 5,000 and
    1,024 were kept, making them anew took a third of a step on a Xeon with AMX. Lines from a pipe
    have new ones without end, and memory settles when that many are kept.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(n_kernels))
    m_trim_threshold, m_mmap_threshold, largest = -1, -3, 2**31 - 1
    call_glibc("mallopt", m_mmap_threshold, largest)
    call_glibc("mallopt", m_trim_threshold, largest)


def call_glibc(function: str, *arguments: int) -> None:
    call = getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
    if call is not None:
        call(*arguments)
