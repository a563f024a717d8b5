"""Several processes, started by ``torchrun``, train one model, each on its share of every batch.

Rank 0 also prepares, validates and writes. In a single process all of this does nothing.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from seq2seq.data.batches import Batch
from seq2seq.data.tokenizer import PAD
from seq2seq.utils import UserError

Result = TypeVar("Result")
is_launched = dist.is_torchelastic_launched  # whether torchrun started this process


@contextmanager
def init_distributed() -> Iterator[None]:
    """Within it, the processes that ``torchrun`` started work together, each on its own GPU."""
    if not is_launched() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    if torch.cuda.is_available():
        n_local, n_gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if n_local > n_gpus:
            raise UserError(f"--nproc-per-node {n_local}: there are only {n_gpus} GPUs")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:  # GPUs exchange gradients by NCCL, all else goes by gloo
        dist.init_process_group(timeout=timedelta(days=1))  # rank 0 may be preparing a corpus
        yield
    except RuntimeError as error:
        if "gloo" in str(error) or isinstance(error, dist.DistError):
            raise UserError("another process has ended or is out of reach, see above") from None
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
            time.sleep(0.5)  # a gloo thread that lets go of a tensor later aborts the interpreter


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def rank_zero(work: Callable[[], Result]) -> Result:
    """Do ``work`` on rank 0 while the others wait; all return its result, or fail with it."""
    message: list[Any] = [None, None]  # the result, or what went wrong
    try:
        if rank() == 0:
            message[0] = work()
    except BaseException as error:
        message[1] = str(error) or type(error).__name__
        raise
    finally:
        if world_size() > 1:
            dist.broadcast_object_list(message)
    if message[1] is not None:
        time.sleep(1)  # rank 0 says why, before torchrun ends it because this process has failed
        raise UserError(message[1])
    return message[0]


def all_gather(*numbers: float) -> list[tuple[float, ...]]:
    """The ``numbers`` of every process, by rank."""
    gathered = [numbers] * world_size()
    if world_size() > 1:
        dist.all_gather_object(gathered, numbers)
    return gathered


def shard(batch: Batch, rank: int, size: int) -> Batch:
    """Every ``size``-th row from row ``rank`` on; if there is none, one without target tokens."""
    if rank < len(batch.src):
        return Batch(batch.src[rank::size], batch.tgt[rank::size])
    return Batch(batch.src[:1], torch.full_like(batch.tgt[:1], PAD))


def sum_gradients(model: nn.Module) -> None:
    """Replace each gradient by its sum over all processes, in one message."""
    if world_size() > 1:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        total = parameters_to_vector(gradients)
        dist.all_reduce(total)
        vector_to_parameters(total, gradients)
