"""From text to text: a trained run that translates sentences (``seq2seq.load``)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from seq2seq import cpu
from seq2seq.config import Config
from seq2seq.data.batches import pad
from seq2seq.data.tokenizer import EOS, Tokenizer, clean
from seq2seq.model.decoding import beam_search, greedy, in_bfloat16, sharing_copy, store_by_columns
from seq2seq.model.transformer import Seq2Seq, empty_model
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError

Overrides = Mapping[str, Any] | None
OnCut = Callable[[int, int], None] | None


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers; a shared one once, by its first name."""
    stored = model.state_dict()
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in named if name in stored}


def _describe(tensor: Tensor | None) -> str:
    """Its shape and type, if it is there; the floating-point types of weights are one type."""
    if tensor is None:
        return "missing"
    is_float = tensor.is_floating_point() and tensor.itemsize > 1
    return f"{tuple(tensor.shape)} of {'floats' if is_float else tensor.dtype}"


class Translator:
    """A model with its tokenizer and the settings of its run: text in, text out."""

    def __init__(self, model: Seq2Seq, tokenizer: Tokenizer, config: Config) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config

    @classmethod
    def load(cls, run: RunFolder | Path | str, overrides: Overrides = None) -> Self:
        """The best model of a run, with ``overrides`` such as ``{"decoding.beam": "4"}``."""
        run = RunFolder(run)
        config = run.load_config(overrides)
        for path in (run.tokenizer_file, run.weights_file):
            if not path.exists():
                again = "train again in another folder"
                how = again if run.has_started else f"seq2seq train --run {run} makes it"
                raise UserError(f"{path}: No such file; {how}")
        tokenizer = Tokenizer.load(run, config)
        saved = run.load_weights(tokenizer.fingerprint)
        n_layers = config.model.encoder_layers + config.model.decoder_layers
        if n_layers > len(saved) or config.model.d_model > sum(x.numel() for x in saved.values()):
            raise UserError(f"{run.weights_file}: too little for the model of config.toml")
        wanted = named_tensors(empty_model(config))  # the configuration's sizes may be any
        for name in sorted(wanted.keys() | saved.keys()):
            has, wants = (_describe(tensors.get(name)) for tensors in (saved, wanted))
            if has != wants:
                problem = f"{name!r:.99} is {has}, but the configuration asks for {wants}"
                raise UserError(f"{run.weights_file}: {problem}")
        model = Seq2Seq.build(config.model, tokenizer)
        for name, tensor in named_tensors(model).items():
            if not tensor.detach().copy_(saved[name]).isfinite().all():
                raise UserError(f"{run.weights_file}: {name!r} is not finite: train again")
        store_by_columns(model)
        return cls(model.eval().to(cpu.pick_device()), tokenizer, config)

    def translate(self, sentences: Sequence[str], on_cut: OnCut = None) -> list[str]:
        """One translation per sentence, in order; blank sentences stay empty.

        ``on_cut(index, n_tokens)`` is called for each that is cut, to ``data.max_tokens``.
        """
        encoded = self.encode(sentences, on_cut)
        translations = [""] * len(sentences)
        for i, ids in zip(encoded, self.decode(list(encoded.values())), strict=True):
            translations[i] = self.tokenizer.tgt.decode(ids)
        return translations

    def encode(self, sentences: Sequence[str], on_cut: OnCut = None) -> dict[int, list[int]]:
        """Source ids of the sentences that are not blank, by index; ``on_cut`` as above."""
        if isinstance(sentences, str):
            raise TypeError("expected a list of sentences, not a string: use [sentence]")
        rows = [i for i, sentence in enumerate(sentences) if clean(sentence).strip()]
        all_ids = self.tokenizer.src.encode(sentences[i] for i in rows)
        encoded = dict(zip(rows, all_ids, strict=True))
        limit = self.config.data.max_tokens
        for i, ids in encoded.items():
            if len(ids) > limit:
                encoded[i] = [*ids[: limit - 1], EOS]
                if on_cut:
                    on_cut(i, len(ids))
        return encoded

    def decode(self, src_ids: list[list[int]]) -> list[list[int]]:
        """Target ids, without BOS and EOS, for the source ids of each sentence."""
        config, device = self.config.decoding, next(self.model.parameters()).device
        size, ratio = config.batch_size, config.max_length_ratio
        # Sentences of the same length need no padding.
        order = sorted(range(len(src_ids)), key=lambda i: -len(src_ids[i]))
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        n_rows = min(size, len(order)) * config.beam
        precision = cpu.resolve_precision(config.precision, device)
        if config.precision == "auto" and (device.type != "cpu" or n_rows < cpu.SMALL_BATCH):
            precision = "float32"
        model = self.model
        if precision == "bfloat16":
            model = in_bfloat16(model).eval()
        elif model.training:
            model = sharing_copy(model).eval()

        def decode_batch(rows: list[int]) -> list[list[int]]:
            src = pad([src_ids[i] for i in rows]).to(device)
            what = f"for {len(src)} sentences of up to {src.shape[1]} tokens"
            hint = f"{what}: lower decoding.batch_size (it is {size}) or decoding.beam"
            with cpu.oom_as_user_error(hint), cpu.autocast(precision, device):
                if config.beam == 1:
                    return greedy(model, src, ratio)
                return beam_search(model, src, config.beam, config.length_penalty, ratio)

        with cpu.float32_matmul(n_rows):
            decoded = cpu.thread_map(decode_batch, batches)
        hypotheses = zip(order, chain.from_iterable(decoded), strict=True)
        return [ids for _, ids in sorted(hypotheses)]
