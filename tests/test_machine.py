"""What the program asks of the machine changes no result."""

import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from seq2seq.machine import (
    FEW_ROWS,
    fast_bfloat16,
    float32_products,
    give_back_freed_memory,
    keep_freed_memory,
    side_by_side,
)


@pytest.mark.parametrize("rows", [1, FEW_ROWS, 5000])
def test_float32_products_stay_float32(rows: int) -> None:
    """Whichever library multiplies; bfloat16 inside would err by 0.3 here. It is left as it was."""
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    torch.manual_seed(0)
    x, w = torch.randn(2, max(rows, 64), 256), torch.randn(512, 256)
    with float32_products(rows):
        found = [functional.linear(x, w), x.transpose(1, 2) @ x]
    exact = [x.double() @ w.double().T, x.double().transpose(1, 2) @ x.double()]
    for one, other in zip(found, exact, strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()
    assert products.fp32_precision == before


def test_bfloat16_is_fast_where_it_was_measured_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def on(vendor: str, *instructions: str) -> bool:
        monkeypatch.setattr("seq2seq.machine.is_amd", lambda: vendor == "AMD")
        monkeypatch.setattr("seq2seq.machine.has", lambda name: name in instructions)
        fast_bfloat16.cache_clear()
        return fast_bfloat16("cpu")

    assert on("Intel", "avx512_bf16", "amx_bf16")
    assert not on("Intel", "avx512_bf16")
    assert on("AMD", "avx512_bf16")
    assert not on("AMD")
    fast_bfloat16.cache_clear()


def test_calls_at_the_same_time_leave_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:

        def call(seconds: float) -> None:
            side_by_side(time.sleep, [seconds, seconds])

        callers = [threading.Thread(target=call, args=(seconds,)) for seconds in (0.2, 0.4)]
        for caller in callers:
            caller.start()
            time.sleep(0.1)  # the second begins while the first has lowered the number
        for caller in callers:
            caller.join()
        in_a_new_thread: list[int] = []
        new = threading.Thread(target=lambda: in_a_new_thread.append(torch.get_num_threads()))
        new.start()
        new.join()
        assert [torch.get_num_threads(), *in_a_new_thread] == [4, 4]
    finally:
        torch.set_num_threads(before)


def test_tasks_side_by_side_keep_their_order_and_leave_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        both_are_here = threading.Barrier(2, timeout=20)  # breaks unless two run at a time

        def work(number: int) -> tuple[int, int]:
            both_are_here.wait()
            return number, torch.get_num_threads()

        if not torch.cuda.is_available():
            assert side_by_side(work, range(6)) == [(number, 1) for number in range(6)]
        assert torch.get_num_threads() == 2
        assert side_by_side(lambda _: torch.get_num_threads(), [0]) == [2]
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda number: 1 // number, [1, 0, 1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    keep_freed_memory()
    give_back_freed_memory()
    before = resident()
    blocks = [torch.ones(1_000_000) for _ in range(25)]
    _at_the_end = torch.ones(1_000)  # what lies behind them keeps the heap from shrinking by itself
    del blocks
    kept = resident()
    give_back_freed_memory()
    assert kept - before > 80e6
    assert resident() - before < 20e6


PRODUCTS = """
import torch
from seq2seq.machine import keep_kernels
{first}
x, weight = torch.ones(1500, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16)
for rows in 2 * list(range(400, 1450)):
    x[:rows] @ weight
"""


@pytest.mark.parametrize(
    ("first", "set_before", "made"),
    [("", None, 2100), ("keep_kernels()", None, 1050), ("keep_kernels()", "1024", 2100)],
)
def test_kernels_of_many_shapes_are_kept(first: str, set_before: str | None, made: int) -> None:
    """As oneDNN itself tells, for 1,050 shapes in two rounds."""
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {"ONEDNN_VERBOSE": "profile_create"} | ({name: set_before} if set_before else {})
    command = [sys.executable, "-c", PRODUCTS.format(first=first)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in result.stdout.splitlines() if ",matmul," in line]
    if not lines:
        pytest.skip("this CPU's bfloat16 products are not oneDNN's")
    assert sum("create:cache_miss" in line for line in lines) == made
    assert sum("create:cache_hit" in line for line in lines) == 2100 - made


def resident() -> int:
    """Bytes of physical memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
