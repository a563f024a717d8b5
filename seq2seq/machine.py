"""What the machine at hand is good at: device, number format, memory, kernels."""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

from seq2seq.errors import UserError

FEW_ROWS = 8  # where MKL and oneDNN are equally fast, from 256 to 1,024 columns
ONE_POOL = Lock()

Task = TypeVar("Task")
Result = TypeVar("Result")


def pick_device() -> torch.device:
    """The GPU if there is one (``CUDA_VISIBLE_DEVICES=`` hides it), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def fast_bfloat16(device_type: str) -> bool:
    """Whether matrix products in bfloat16 beat float32, as they were measured to.

    They do on GPUs since Ampere, on CPUs with AMX, and on AMD's with AVX512-BF16, at twice the rate
    of float32. Intel's CPUs with AVX512-BF16 alone reach half the rate of float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return has("amx_bf16") or (has("avx512_bf16") and is_amd())


def has(capability: str) -> bool:
    """Whether the CPU has certain instructions."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get(capability, False)


@cache
def is_amd() -> bool:
    """Whether the CPU is AMD's, as far as Linux tells."""
    try:
        return b"AuthenticAMD" in Path("/proc/cpuinfo").read_bytes()
    except OSError:
        return False


@contextmanager
def float32_products(rows: int) -> Iterator[None]:
    """Within it, the library multiplies float32 matrices that is the fastest for so many rows.

    torch asks MKL, which on AMD's CPUs takes twice as long as oneDNN would, but for few rows half
    as long. The switch for oneDNN also allows it bfloat16 inside, which it has no use for without
    AMX: products stay exact to float32 (a test holds this).
    """
    if not is_amd() or not has("avx512_f") or has("amx_bf16"):
        yield
        return
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    products.fp32_precision = "bf16" if rows >= FEW_ROWS else "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


def side_by_side(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """``work`` on each task; on a CPU on several at a time, the cores divided among them.

    Small operations gain little from a second core, and a second task nearly all of it (measured
    on two cores).
    """
    if torch.cuda.is_available() or len(tasks) < 2:
        return [work(task) for task in tasks]
    with ONE_POOL:  # a thread takes the number of threads set last: read it while none is at work
        cores = torch.get_num_threads()
        n_workers = min(cores, len(tasks))
        share = (cores // n_workers,)
        with ThreadPoolExecutor(n_workers, "core", torch.set_num_threads, share) as pool:
            try:
                return list(pool.map(work, tasks))
            finally:
                torch.set_num_threads(cores)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """A context in which matrix products run in ``precision`` (see ``train.precision``)."""
    bfloat16 = precision == "bfloat16" or (precision == "auto" and fast_bfloat16(device.type))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def in_product_precision(x: Tensor) -> Tensor:
    """``x`` in the format that matrix products have under autocast, converted once for several.

    Autograd then sums their gradients in that format too.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@contextmanager
def enough_memory(complaint: Callable[[], str]) -> Iterator[None]:
    """Within it, memory that does not suffice ends in a ``UserError`` with this complaint.

    (A process that the kernel ends because all of the machine's memory is used up says nothing.)
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UserError(f"out of memory {complaint()}") from None
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that there is too little memory; torch has no one kind for it."""
    signs = "(not enough|t allocate|out of) memory|bad_alloc|ALLOC_FAILED|calculation overflowed"
    return isinstance(error, MemoryError) or re.search(signs, str(error)) is not None


def keep_freed_memory() -> None:
    """Have this process keep freed memory for its next allocation (glibc only).

    Training frees and asks for the same large blocks at every step; given back to the kernel,
    each would have to be mapped and zeroed again, which took a fifth of a step.
    """
    m_trim_threshold, m_mmap_threshold, largest = -1, -3, 2**31 - 1
    _ask_glibc("mallopt", m_mmap_threshold, largest)
    _ask_glibc("mallopt", m_trim_threshold, largest)


def give_back_freed_memory() -> None:
    """Give back all that was kept, for it only ever grows (glibc only).

    Blocks of many sizes leave gaps between them. Without this a training of 6 million weights held
    3.6 GB after six minutes and 4.7 after fifty; with it, every hundred steps, 3.3 after eight.
    """
    _ask_glibc("malloc_trim", 0)


def keep_kernels() -> None:
    """Have oneDNN keep 10,000 of the kernels that it makes, one for matrices of each shape.

    On a Xeon with AMX making one took 2 ms. An epoch of Multi30k has some five thousand shapes, the
    same in every epoch (unless BPE-dropout changes lengths; R-Drop has others). Of the 1,024 that
    oneDNN keeps by itself few were there when their shape came again, and making them anew took a
    third of a step; keeping them takes 0.6 GB. It reads the number at the process's first product:
    later than that this does nothing. Who has set another keeps it.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "10000")


def _ask_glibc(function: str, *arguments: int) -> None:
    ask = getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
    if ask is not None:
        ask(*arguments)
