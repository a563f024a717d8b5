"""A trained run as two ONNX models, for onnxruntime and all else that reads the format.

    encoder.onnx    src (B, S) -> memory (B, S, D), src_mask (B, 1, 1, S)
    decoder.onnx    tgt (B, T), memory, src_mask -> logits (B, V) of the token after ``tgt``

B, S and T may be any. The decoder has no cache: at every step it reads all tokens so far.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seq2seq.model.decoding import SUPPRESSED_IDS
from seq2seq.model.transformer import Seq2Seq
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import UserError, new_folder

SOURCE = {0: "batch", 1: "source"}  # the sizes that vary
SIZES = {"src": SOURCE, "memory": SOURCE, "src_mask": {0: "batch", 3: "source"}}
SIZES["tgt"] = {0: "batch", 1: "target"}


class Graph(nn.Module):
    """A function of a model as a module, which is what torch exports."""

    def __init__(self, model: Seq2Seq, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.model, *inputs)


def decode_all(model: Seq2Seq, tgt: Tensor, memory: Tensor, src_mask: Tensor) -> Tensor:
    x, _ = model.decode(tgt, model.start(memory, src_mask))
    return model.logits(x[:, -1]).index_fill(1, torch.tensor(SUPPRESSED_IDS), -torch.inf)


def export_onnx(run: RunFolder | Path | str, folder: Path) -> None:
    """Write the best model of ``run`` into a new ``folder``, in float32, with its tokenizer."""
    translator = Translator.load(run)
    with new_folder(folder) as new:
        translator.tokenizer.save(RunFolder(new))
        write_onnx(translator.model.cpu(), new)


@torch.no_grad()
def write_onnx(model: Seq2Seq, folder: Path) -> None:
    """Write the graphs of a model in evaluation mode; ``UserError`` if torch cannot."""
    src, tgt = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 3, dtype=torch.long)
    memory, src_mask = model.encode(src)
    decoder_inputs = {"tgt": tgt, "memory": memory, "src_mask": src_mask}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # not of packages that nobody needs
    for name, function, inputs, outputs in (
        ("encoder", Seq2Seq.encode, {"src": src}, ["memory", "src_mask"]),
        ("decoder", decode_all, decoder_inputs, ["logits"]),
    ):
        options: Any = {"input_names": [*inputs], "output_names": outputs, "external_data": False}
        options["dynamic_shapes"] = (tuple(SIZES[name] for name in inputs),)
        graph, path = Graph(model, function).eval(), folder / f"{name}.onnx"
        try:
            with warnings.catch_warnings(action="ignore"):
                torch.onnx.export(graph, (*inputs.values(),), path, verbose=False, **options)
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().split("\n")[0]
            raise UserError(f"ONNX has nothing for a part of this model: {reason}") from None
