"""The optimizer: its learning rate, its parameter groups, its state."""

import math
from typing import Any

import torch
from torch import nn

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

    Weight decay is for the matrices of linear layers and embeddings alone.
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

    torch would load tensors of any shape, and its kernels write past the end of a forged one: so
    a step with zero gradients makes tensors to copy into. Of the settings, only the learning rate
    is restored.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number in saved["state"]:
        parameters[number].grad = torch.zeros_like(parameters[number])
    optimizer.step()
    optimizer.zero_grad()
    own = optimizer.state_dict()["state"]
    for number in own.keys() | saved["state"].keys():
        tensors, new = own.get(number, {}), saved["state"].get(number, {})
        if tensors.keys() != new.keys() or any(tensors[k].shape != new[k].shape for k in new):
            raise ValueError("the optimizer's state is of other weights, or of another optimizer")
        for name, tensor in tensors.items():
            tensor.copy_(new[name])
    for group, saved_group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group["lr"] = float(saved_group["lr"])
