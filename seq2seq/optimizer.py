"""AdamW: how fast it goes at each step, and what it remembers."""

import math
from typing import Any

import torch

from seq2seq.model import Seq2Seq
from seq2seq.settings import TrainConfig


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """The rate of a step: learning_rate · warm-up · decay.

    Warm-up rises linearly from 0 to 1 in the first steps; decay falls from 1 at the start of
    training to 0 at its end, in a line or along a cosine (Loshchilov and Hutter 2017).

    Args:
        config: ``learning_rate``, ``warmup_steps`` and ``decay``.
        step: steps taken so far.
        progress: share of the training that is done, in [0, 1].
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = 1 - progress if config.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * warmup * decay


def make_optimizer(model: Seq2Seq, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); biases and norms are not decayed."""
    parameters = list(model.parameters())
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (0.9, config.adam_beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give ``optimizer``, which has taken no step, the memory that is in ``state``.

    Its own ``load_state_dict`` takes over whatever it is given, and its kernels then write as many
    numbers as the weights have into tensors that may be smaller. Here every tensor is copied into
    one of the right size, and of the settings only the learning rate is taken over.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: it is of other weights.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    memory = state["state"]
    if memory and memory.keys() != set(range(len(parameters))):
        raise ValueError("the optimizer's state is of other weights")
    for number, of_one in memory.items():
        parameter = parameters[number]
        own = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
        for name, tensor in own.items():
            if of_one[name].shape != tensor.shape:
                raise ValueError(f"the optimizer's {name} is {tuple(of_one[name].shape)}")
            tensor.copy_(of_one[name])
        optimizer.state[parameter] = own
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group["lr"] = float(saved["lr"])
