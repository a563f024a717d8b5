"""Several models that decode as one, by the mean of their probabilities at every step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seq2seq.model.transformer import DecoderCache, Seq2Seq


class Ensemble(Seq2Seq):
    """Models of any shape for the same subwords, side by side: D is the sum of their widths.

    Vectors lie side by side along D, layers in one cache, so that no search knows how many it asks.
    """

    def __init__(self, models: Sequence[Seq2Seq]) -> None:
        nn.Module.__init__(self)  # it has no layers of its own
        self.models: Sequence[Seq2Seq] = nn.ModuleList(models)  # type: ignore[assignment]
        self.widths = [model.output.in_features for model in models]
        self.depths = [len(model.decoder) for model in models]

    def encode(self, src: Tensor) -> tuple[Tensor, Tensor]:
        memories, masks = zip(*(model.encode(src) for model in self.models), strict=True)
        return torch.cat(memories, dim=-1), masks[0]

    def start(self, memory: Tensor, src_mask: Tensor) -> DecoderCache:
        parts = memory.split(self.widths, dim=-1)
        caches = [x.start(part, src_mask) for x, part in zip(self.models, parts, strict=True)]
        return DecoderCache(tuple(x for cache in caches for x in cache.layers), src_mask, 0)

    def decode(self, tgt: Tensor, cache: DecoderCache) -> tuple[Tensor, DecoderCache]:
        xs, layers = [], cache.layers
        for model, n_layers in zip(self.models, self.depths, strict=True):
            x, extended = model.decode(tgt, cache._replace(layers=layers[:n_layers]))
            xs.append(x)
            layers = layers[n_layers:] + extended.layers
        return torch.cat(xs, dim=-1), extended._replace(layers=layers)

    def logits(self, x: Tensor) -> Tensor:
        """Logarithms of probabilities, which serve as logits."""
        parts = zip(self.models, x.split(self.widths, dim=-1), strict=True)
        log_p = [model.logits(part).float().log_softmax(dim=-1) for model, part in parts]
        return torch.stack(log_p).logsumexp(dim=0) - math.log(len(log_p))
