"""Several processes train one model, each on a share of every batch, as ``torchrun`` starts them.

Each has a rank, from 0; rank 0 also prepares, judges and writes. torch.distributed passes on
gradients, between GPUs by NCCL, and messages. In a process that is alone, this all does nothing.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seq2seq.errors import UserError

PATIENCE = timedelta(days=1)  # the others wait while rank 0 prepares a corpus or validates

Result = TypeVar("Result")


def is_launched() -> bool:
    """Whether ``torchrun`` started this process."""
    return dist.is_torchelastic_launched()


@contextmanager
def joined() -> Iterator[None]:
    """Within it, the processes that ``torchrun`` started work together, each on a GPU of its own.

    Raises:
        UserError: the machine has fewer GPUs than processes, or another process cannot be reached.
    """
    if not is_launched() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    if torch.cuda.is_available():
        here, n_gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > n_gpus:
            raise UserError(f"--nproc-per-node {here}: there are only {n_gpus} GPUs")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        messages()  # made here, where none keeps the others waiting
        yield
    except RuntimeError as error:
        if "gloo" in str(error) or isinstance(error, dist.DistError):
            what = "another process has ended or cannot be reached; what it said says why"
            raise UserError(what) from None
        raise
    finally:
        messages.cache_clear()
        if dist.is_initialized():
            dist.destroy_process_group()


@cache
def messages() -> dist.ProcessGroup | None:
    """The processes as a group for all but gradients, through which one may wait for another.

    A group of its own also because gloo's threads end with their group, which torch keeps for good
    if gradients go through it; one that lets go of a message when Python ends aborts the process.
    """
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def on_first(work: Callable[[], Result]) -> Result:
    """What ``work`` returns on rank 0, which alone does it; the others wait.

    Raises:
        UserError: on the other ranks, whatever it was that went wrong on rank 0.
    """
    if size() == 1:
        return work()
    found: list[Any] = [None, None]  # the result, or what went wrong
    try:
        if rank() == 0:
            found[0] = work()
    except BaseException as error:
        found[1] = str(error) or type(error).__name__
        raise
    finally:
        dist.broadcast_object_list(found, group=messages())
    if found[1] is not None:
        raise UserError(found[1])
    return found[0]


def gather(*numbers: float) -> list[list[float]]:
    """The ``numbers`` of every process, by rank."""
    if size() == 1:
        return [list(numbers)]
    mine = torch.tensor(numbers, dtype=torch.float64)
    found = [torch.empty_like(mine) for _ in range(size())]
    dist.all_gather(found, mine, group=messages())
    return [each.tolist() for each in found]


def replicated(module: nn.Module, *example: Tensor | float) -> nn.Module:
    """``module`` such that gradients become their mean over all processes, in each of them.

    Weights become rank 0's. Buffers stay each process's own: they are tables, which may grow, and
    nothing that is learned.

    Args:
        module: returns a scalar.
        example: what it can be called with, to see whether it leaves any weights unused.
    """
    if size() == 1:
        return module
    module(*example).backward()
    unused = any(parameter.grad is None for parameter in module.parameters())
    module.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the new name is unknown to torch 2.10
        return DistributedDataParallel(
            module, broadcast_buffers=False, find_unused_parameters=unused
        )


def exchange(module: nn.Module, now: bool) -> AbstractContextManager[None]:
    """A context in which gradients of a ``replicated`` module are only added up, unless ``now``."""
    if now or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()
