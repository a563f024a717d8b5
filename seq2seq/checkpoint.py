"""A run folder: what is in it, how it is read safely.

``config.toml``, ``corpus/``, ``tokenizer.model`` and ``model.safetensors`` are all that is needed
to translate and to evaluate; ``last.pt`` is what training continues from.
"""

import io
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from seq2seq.config import dump_config, flatten, load_config, toml_value
from seq2seq.errors import UserError
from seq2seq.files import read_bytes, write_bytes, write_text
from seq2seq.model import Seq2Seq
from seq2seq.settings import Config
from seq2seq.tokenizer import Tokenizer

DIVERGED = "diverged.txt"  # what an experiment leaves where the loss stopped being a number


def build_model(config: Config, tokenizer: Tokenizer) -> Seq2Seq:
    """A model with fresh weights, of the shape that ``config`` and ``tokenizer`` ask for."""
    return Seq2Seq(
        config.model,
        tokenizer.src_vocab_size,
        tokenizer.tgt_vocab_size,
        joint=tokenizer.joint,
    )


def load_run_config(run: Path, overrides: dict[str, str] | None = None) -> Config:
    """The configuration saved with a run, with ``overrides`` (key to text) on top."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    return load_config(run / "config.toml", overrides)


def has_begun(run: Path) -> bool:
    """Whether training has begun in ``run``, or ended, even if ``last.pt`` is gone since."""
    return any((run / name).exists() for name in ("last.pt", "training.json", DIVERGED))


def refuse_other_settings(run: Path, config: Config) -> None:
    """Make sure that training has not begun in ``run`` with other settings than ``config``.

    How translations are found (``decoding``) may differ: it changes no weight.

    Raises:
        UserError: it has; the message names the first setting that differs.
    """
    if not has_begun(run):
        return
    there = flatten(load_run_config(run))
    for key, value in flatten(config).items():
        if there[key] != value and not key.startswith("decoding."):
            raise UserError(
                f"{run} was trained with {key} = {toml_value(there[key])}, not "
                f"{toml_value(value)}: name another folder (--run; make: RUN=), or remove it"
            )


def save_run_config(run: Path, config: Config) -> None:
    """Write ``config`` as the run's own."""
    write_text(run / "config.toml", dump_config(config))


def save_weights(model: Seq2Seq, path: Path) -> None:
    """Write every weight once, shared ones too, as safetensors."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    write_bytes(path, save_safetensors(tensors))


def load_weights(model: Seq2Seq, path: Path) -> None:
    """Read weights that ``save_weights`` wrote.

    Raises:
        UserError: the file is damaged, or holds other tensors or shapes than ``model``.
    """
    try:
        tensors = load_safetensors(read_bytes(path))
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file: {error}") from None
    parameters = dict(model.named_parameters())
    for name in sorted(parameters.keys() | tensors.keys()):
        there = tuple(tensors[name].shape) if name in tensors else "missing"
        here = tuple(parameters[name].shape) if name in parameters else "missing"
        if there != here:
            raise UserError(f"{path}: {name} is {there}, but the configuration asks for {here}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write what training continues from."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read what ``save_state`` wrote; tensors and plain values only, never code.

    Raises:
        UserError: the file is damaged or holds anything else.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # pickle, zip and torch each raise their own
        reason = str(error).split("\n")[0]
        raise UserError(f"{path}: not a training state of this program: {reason}") from None
