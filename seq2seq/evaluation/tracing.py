"""What the attentions of a model do with a pair of sentences, step by step."""

from collections.abc import Sequence

from torch import Tensor

from seq2seq.attention import Attention, AttentionTrace
from seq2seq.model.decoding import sharing_copy
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
    own = sharing_copy(model).eval()  # whoever else uses the model at this time is not recorded
    traces: dict[str, list[AttentionTrace]] = {name: [] for name in which}
    for name in which:
        for attention in attentions(own)[name]:
            attention.recorded = traces[name]
    x, _ = own.decode(tgt, own.start(*own.encode(src)))
    return traces, x
