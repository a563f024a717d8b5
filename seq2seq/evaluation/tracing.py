"""What the attentions of a model do with a pair of sentences, step by step."""

from collections.abc import Sequence
from itertools import chain

from torch import Tensor

from seq2seq.attention import Attention, AttentionTrace
from seq2seq.model.transformer import Seq2Seq


def attentions(model: Seq2Seq) -> dict[str, list[Attention]]:
    """All of them, layer by layer: of the ``encoder``, of the ``decoder``, and ``cross``."""
    found: dict[str, list[Attention]] = {"encoder": [], "decoder": [], "cross": []}
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            found["cross" if ".cross_attention." in name else name.split(".")[0]].append(module)
    return found


def trace_attentions(
    model: Seq2Seq, src: Tensor, tgt: Tensor, which: Sequence[str] = ("encoder", "decoder", "cross")
) -> tuple[dict[str, list[AttentionTrace]], Tensor]:
    """What ``attentions`` do when ``tgt`` (B, T) is read after ``src`` (B, S).

    Returns the traces of those called ``which``, and the decoder's x (B, T, D).
    """
    traces: dict[str, list[AttentionTrace]] = {name: [] for name in which}
    found = attentions(model)
    try:
        for name in which:
            for attention in found[name]:
                attention.recorded = traces[name]
        x, _ = model.decode(tgt, model.start(*model.encode(src)))
        return traces, x
    finally:
        for attention in chain(*found.values()):
            attention.recorded = None
