"""A run folder: what is in it, how it is read safely.

``config.toml``, ``corpus/``, ``tokenizer.model`` and ``model.safetensors`` are all that is needed
to translate and to evaluate; ``last.pt`` is what training continues from.
"""

import io
import json
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

FORMAT = 1  # of model.safetensors and last.pt; raised when an older version could not read them
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


def load_tokenizer(run: Path, config: Config) -> Tokenizer:
    """The tokenizer of a run folder.

    Raises:
        UserError: it is damaged, or another than ``config`` asks for.
    """
    tokenizer = Tokenizer.load(run)
    path = run / "tokenizer.model"
    wanted = config.tokenizer
    if tokenizer.joint != wanted.joint:
        there = "one vocabulary" if tokenizer.joint else "a vocabulary a language"
        raise UserError(
            f"{path}: there is {there}, but the configuration has "
            f"tokenizer.joint = {toml_value(wanted.joint)}"
        )
    for size in (tokenizer.src_vocab_size, tokenizer.tgt_vocab_size):
        if size != wanted.vocab_size:
            raise UserError(
                f"{path} has {size:,} subwords, but the configuration has "
                f"tokenizer.vocab_size = {wanted.vocab_size}"
            )
    return tokenizer


def save_weights(model: Seq2Seq, tokenizer: Tokenizer, path: Path) -> None:
    """Write every weight once, shared ones too, as safetensors, with ``made_with(tokenizer)``."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    # One key, because safetensors writes several in any order, and equal files should be equal.
    noted = {"made_with": json.dumps(made_with(tokenizer), sort_keys=True)}
    write_bytes(path, save_safetensors(tensors, noted))


def load_model(config: Config, tokenizer: Tokenizer, path: Path) -> Seq2Seq:
    """The model whose weights ``save_weights`` wrote.

    Raises:
        UserError: the file cannot be read, is damaged, was written by a later version or with
            another tokenizer, or holds other tensors or shapes than the configuration asks for.
    """
    content = read_bytes(path)
    try:
        tensors = load_safetensors(content)
        noted = read_metadata(content)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a safetensors file: {error}") from None
    refuse_others(noted, tokenizer, path)
    model = build_model(config, tokenizer)
    parameters = dict(model.named_parameters())
    for name in sorted(parameters.keys() | tensors.keys()):
        there = tuple(tensors[name].shape) if name in tensors else "missing"
        here = tuple(parameters[name].shape) if name in parameters else "missing"
        if there != here:
            raise UserError(f"{path}: {name!r} is {there}, but the configuration asks for {here}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    return model


def read_metadata(content: bytes) -> Any:
    """What ``save_weights`` noted in a safetensors file beside the weights; if nothing, {}."""
    size = int.from_bytes(content[:8], "little")
    noted = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    return json.loads(noted.get("made_with", "{}"))


def made_with(tokenizer: Tokenizer) -> dict[str, str | int]:
    """What is noted with all that is learned, so that it is never used with anything else."""
    return {"format": FORMAT, "tokenizer": tokenizer.fingerprint}


def refuse_others(noted: Any, tokenizer: Tokenizer, path: Path) -> None:
    """Make sure that what stands in ``path`` can be read by this version, with this tokenizer.

    Versions before ``FORMAT`` was noted noted nothing; their files are read as they are.

    Raises:
        UserError: it cannot; the message names both sides.
    """
    own = made_with(tokenizer)
    match noted:
        case {"format": int(there), "tokenizer": str(trained)}:
            pass
        case {} if not noted:
            return
        case _:
            raise UserError(f"{path}: damaged, or not written by this program")
    if there > FORMAT:
        raise UserError(
            f"{path}: written by a later version of seq2seq, in format {there}; this one reads up "
            f"to {FORMAT}"
        )
    if trained != own["tokenizer"]:
        raise UserError(
            f"{path}: trained with the tokenizer {trained[:20]!r}, but the tokenizer.model "
            f"beside it is {own['tokenizer']!r}"
        )


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
