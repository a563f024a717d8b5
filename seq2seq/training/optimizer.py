"""The optimizer: its learning rate, its parameter groups, its state."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from seq2seq.config import TrainConfig


def lr_at(config: TrainConfig, step: int, progress: float) -> float:
    """Peak · linear warm-up by ``step`` · decay to 0 by the share ``progress`` of training done."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = (1 + math.cos(math.pi * progress)) / 2  # Loshchilov and Hutter 2017
    decay = 1 - progress if config.lr_schedule == "linear" else cosine
    return config.learning_rate * warmup * decay


def r_drop_at(config: TrainConfig, progress: float) -> float:
    """R-Drop's α, which starts half way (docs/recipe-log.md has results of it throughout)."""
    return config.r_drop_alpha if progress >= 0.5 else 0.0


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); any other that torch has can be returned instead.

    Weight decay is for matrices of linear layers and embeddings: not for biases, norms, position
    biases and so on.
    """
    matrices = {m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding)}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p in matrices]},
        {"params": [p for p in model.parameters() if p not in matrices], "weight_decay": 0.0},
    ]
    betas, decay = (0.9, config.adam_beta2), config.weight_decay
    return torch.optim.AdamW(groups, config.learning_rate, betas, weight_decay=decay, fused=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Copy a ``state_dict`` into an optimizer of any kind, or raise; changes its parameters.

    ``load_state_dict`` would take over tensors of any size, and kernels write past the end of one
    from a forged file. Here a step with zero gradients makes state of the right shapes to copy
    into; of the settings, only the learning rate is taken over.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number in saved["state"]:
        parameters[number].grad = torch.zeros_like(parameters[number])
    optimizer.step()
    optimizer.zero_grad()
    own = optimizer.state_dict()["state"]
    if own.keys() != saved["state"].keys():
        raise ValueError("the optimizer's state is of other weights, or of another optimizer")
    for number, state in own.items():
        if state.keys() != saved["state"][number].keys():
            names = [", ".join(sorted(keys)) for keys in (saved["state"][number], state)]
            raise ValueError(f"it is of another optimizer, with {names[0]}, not {names[1]}")
        for name, value in state.items():
            new = saved["state"][number][name]
            kinds = [(type(x), getattr(x, "shape", None)) for x in (new, value)]
            if kinds[0] != kinds[1]:
                raise ValueError(f"the optimizer's {name} is {getattr(new, 'shape', new)}")
            state[name] = value.copy_(new) if isinstance(value, Tensor) else new
    for group, saved_group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group["lr"] = float(saved_group["lr"])
