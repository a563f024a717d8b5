"""Speed settings change no results."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional

from seq2seq import cpu
from seq2seq.cli import main
from seq2seq.cpu import SMALL_BATCH, fast_bfloat16, float32_matmul, pick_device, thread_map


@pytest.mark.parametrize("rows", [1, SMALL_BATCH, 5000])
def test_float32_matmul_is_exact(rows: int) -> None:
    """bfloat16 inside would be wrong by 0.3 here. The setting is restored."""
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    x, w = torch.randn(2, max(rows, 64), 256), torch.randn(512, 256)
    with float32_matmul(rows):
        results = [functional.linear(x, w), x.transpose(1, 2) @ x]
    exact = [x.double() @ w.double().T, x.double().transpose(1, 2) @ x.double()]
    for result, expected in zip(results, exact, strict=True):
        assert (result - expected).abs().max() < 1e-5 * expected.abs().max()
    assert products.fp32_precision == before


def test_fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(vendor: str, *instructions: str) -> bool:
        monkeypatch.setattr(cpu, "is_amd", lambda: vendor == "AMD")
        monkeypatch.setattr(cpu, "has", lambda name: name in instructions)
        fast_bfloat16.cache_clear()
        return fast_bfloat16("cpu")

    assert on("Intel", "avx512_bf16", "amx_bf16")
    assert not on("Intel", "avx512_bf16")
    assert on("AMD", "avx512_bf16")
    assert not on("AMD")
    fast_bfloat16.cache_clear()


def test_apple_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are used, in float32 unless bfloat16 is asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(cpu, "has", lambda name: True)
    fast_bfloat16.cache_clear()
    assert pick_device().type == "mps"
    assert cpu.resolve_precision("auto", pick_device()) == "float32"
    assert cpu.resolve_precision("bfloat16", pick_device()) == "bfloat16"
    assert thread_map(lambda _: torch.get_num_threads(), [0, 0]) == [torch.get_num_threads()] * 2
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device().type == "cpu"
    fast_bfloat16.cache_clear()


def test_concurrent_thread_maps() -> None:
    """They leave the number of threads as it was, for new threads too."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with ThreadPoolExecutor(2) as callers:
            for seconds in (0.1, 0.2):
                callers.submit(thread_map, time.sleep, [seconds, seconds])
                time.sleep(0.05)  # the second starts while the first has lowered the number
        with ThreadPoolExecutor(1) as new:
            counts = [torch.get_num_threads(), new.submit(torch.get_num_threads).result()]
        assert counts == [4, 4]
    finally:
        torch.set_num_threads(before)


def test_thread_map() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two_at_a_time = threading.Barrier(2, timeout=20)  # breaks unless two run at once

        def work(number: int) -> tuple[int, int]:
            two_at_a_time.wait()
            return number, torch.get_num_threads()

        if pick_device().type == "cpu":
            assert thread_map(work, range(6)) == [(number, 1) for number in range(6)]
        assert torch.get_num_threads() == 2
        assert thread_map(lambda _: torch.get_num_threads(), [0]) == [2]
        with pytest.raises(ZeroDivisionError):
            thread_map(lambda number: 1 // number, [1, 0, 1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


MEMORY = """
import resource, torch
from pathlib import Path
from seq2seq.cpu import tune_process
from seq2seq.cpu import trim_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

tune_process()
trim_memory()
before = resident()
blocks = [torch.ones(1_000_000) for _ in range(25)]
_at_the_end = torch.ones(1_000)  # keeps the heap from shrinking by itself
del blocks
kept = resident()
trim_memory()
print(kept - before, resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_kept_until_trimmed() -> None:
    command = [sys.executable, "-c", MEMORY]  # of its own: the tests' allocator stays as it is
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kept, left = map(int, out.split())
    assert kept > 80e6
    assert left < 20e6


PRODUCTS = """
import sys, torch
from seq2seq.cli import main
main(sys.argv[1:])
x, weight = torch.ones(1500, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16)
for rows in 2 * list(range(400, 1450)):
    x[:rows] @ weight
"""


N_KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.slow
def test_kernels_are_cached() -> None:
    """As oneDNN itself reports, for 1,050 shapes in two rounds."""
    environment = {key: value for key, value in os.environ.items() if key != N_KERNELS}
    environment["ONEDNN_VERBOSE"] = "profile_create"
    command = [sys.executable, "-c", PRODUCTS, "train", "--config", "x"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in result.stdout.splitlines() if ",matmul," in line]
    if not lines:
        pytest.skip("this CPU's bfloat16 products are not oneDNN's")
    assert sum("create:cache_miss" in line for line in lines) == 1050
    assert sum("create:cache_hit" in line for line in lines) == 1050


@pytest.mark.parametrize(
    ("arguments", "before", "after"),
    [("train --config x", "", "10000"), ("predict --run x", "", "512"), ("variants", "9", "9")],
)
def test_number_of_cached_kernels(
    monkeypatch: pytest.MonkeyPatch, arguments: str, before: str, after: str
) -> None:
    monkeypatch.setattr(cpu, "call_glibc", lambda *_: None)
    monkeypatch.setenv(N_KERNELS, before)
    if not before:
        monkeypatch.delenv(N_KERNELS)
    main(arguments.split())
    assert os.environ[N_KERNELS] == after
