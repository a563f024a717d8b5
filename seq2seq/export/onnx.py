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

from seq2seq.data.tokenizer import BOS, EOS
from seq2seq.export.folder import export_folder
from seq2seq.model.decoding import SUPPRESSED_IDS
from seq2seq.model.transformer import Seq2Seq
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import UserError

SIZES = {  # of each input, those that vary
    "src": {0: "batch", 1: "source"},
    "tgt": {0: "batch", 1: "target"},
    "memory": {0: "batch", 1: "source"},
    "src_mask": {0: "batch", 3: "source"},
}


class Graph(nn.Module):
    """A function of a model as a module, as torch exports it."""

    def __init__(self, model: Seq2Seq, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.model, *inputs)


def decode_last(model: Seq2Seq, tgt: Tensor, memory: Tensor, src_mask: Tensor) -> Tensor:
    """Logits (B, V) of the token after ``tgt`` (B, T), for what ``encode`` returned."""
    x, _ = model.decode(tgt, model.start(memory, src_mask))
    return model.logits(x[:, -1]).index_fill(1, torch.tensor(SUPPRESSED_IDS), -torch.inf)


def export_onnx(run: RunFolder | Path | str, folder: Path) -> None:
    """Write the best model of ``run`` into a new ``folder``, in float32, with its tokenizer."""
    translator = Translator.load(run)
    with export_folder(folder, translator.tokenizer) as new:
        write_onnx(translator.model.cpu(), new)


@torch.no_grad()
def write_onnx(model: Seq2Seq, folder: Path) -> None:
    """Write both graphs of a model in evaluation mode; ``UserError`` where torch cannot."""
    src, tgt = torch.full((2, 5), EOS), torch.full((2, 3), BOS)  # sizes above one stand for any
    encoded = dict(zip(("memory", "src_mask"), model.encode(src), strict=True))
    _write(folder / "encoder.onnx", Graph(model, Seq2Seq.encode), {"src": src}, [*encoded])
    inputs = {"tgt": tgt} | encoded
    _write(folder / "decoder.onnx", Graph(model, decode_last), inputs, ["logits"])


def _write(path: Path, graph: Graph, inputs: dict[str, Tensor], outputs: list[str]) -> None:
    logger = logging.getLogger("torch.onnx")  # warns of packages that nobody needs here
    level, sizes = logger.level, tuple(SIZES[name] for name in inputs)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                graph.eval(),
                tuple(inputs.values()),
                path,
                input_names=[*inputs],
                output_names=outputs,
                dynamic_shapes=(sizes,),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise UserError(f"torch.onnx has nothing for a part of this model: {reason}") from None
    finally:
        logger.setLevel(level)
