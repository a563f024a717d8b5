"""Heads switched off or made to attend equally: what does the model do without them?

A head that is off adds nothing to its layer; one that is flat attends equally to all that it may
see. Both change the computation, not the weights: nothing is learned anew.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from seq2seq.attention import Attention, AttentionModifier, KeyValue, MultiHeadAttention
from seq2seq.attention.registry import Positions
from seq2seq.evaluation.tracing import attentions
from seq2seq.model.decoding import sharing_copy
from seq2seq.model.transformer import Seq2Seq
from seq2seq.utils import UserError


class HeadName(NamedTuple):
    """A head of the model, layers and heads from 1; written ``cross.2.1``."""

    view: str  # "encoder", "decoder" or "cross"
    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.view}.{self.layer}.{self.head}"


def head_names(model: Seq2Seq) -> list[HeadName]:
    """All of them, in the order in which they compute."""
    return [
        HeadName(view, layer, head)
        for view, modules in attentions(model).items()
        for layer, module in enumerate(modules, start=1)
        for head in range(1, 1 + n_heads(module))
    ]


def n_heads(attention: Attention) -> int:
    """Attentions other than multi-head count as one."""
    return attention.n_heads if isinstance(attention, MultiHeadAttention) else 1


def parse_heads(names: Iterable[str], model: Seq2Seq) -> set[HeadName]:
    """What names such as ``cross.2.1`` stand for; ``UserError`` for one that ``model`` lacks."""
    known = {str(head): head for head in head_names(model)}
    for name in names:
        if name not in known:
            example = next(iter(known), "none")
            raise UserError(f"there is no head {name!r:.40}: heads are called like {example}")
    return {known[name] for name in names}


def change_heads(
    model: Seq2Seq, off: Collection[HeadName] = (), flat: Collection[HeadName] = ()
) -> Seq2Seq:
    """A copy of ``model``, with the same weights, of which some heads are ``off`` or ``flat``."""
    changed = sharing_copy(model)
    for view, modules in attentions(changed).items():
        for layer, module in enumerate(modules, start=1):
            heads_off, heads_flat = (
                [head.head - 1 for head in heads if head[:2] == (view, layer)]
                for heads in (off, flat)
            )
            if heads_off or heads_flat:
                _change(module, heads_off, heads_flat)
    return changed


def _change(module: Attention, off: Sequence[int], flat: Sequence[int]) -> None:
    """Give ``module`` the same class, but with heads ``off`` and ``flat``, counted from 0."""
    kind: Any = type(module)
    if isinstance(module, MultiHeadAttention):
        module.__class__ = _subclass(_ChangedHeads, kind)
        module.off, module.flat = off, flat  # type: ignore[assignment]
        module.is_published = False  # neither torch's kernel nor the lean step knows of changes
    elif flat:
        name = kind.__name__
        raise UserError(f"{name} has no weights that could be made equal: switch it off instead")
    else:
        module.__class__ = _subclass(_Off, kind)


@cache  # a class of its own for every request would stay in memory for long
def _subclass(first: Any, kind: Any) -> Any:
    return type(kind.__name__, (first, kind), {})


class _ChangedHeads(MultiHeadAttention):
    """Comes before the class of an attention, and does its step 5 again for the changed heads."""

    off: Sequence[int]
    flat: Sequence[int]

    def attend_by_parts(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int
    ) -> Tensor:
        recorded, self.recorded = self.recorded, []
        output = super().attend_by_parts(x, q, k, v, mask, start).clone()
        (trace,), self.recorded = self.recorded, recorded
        weights = trace.weights.clone()
        n_halves = trace.scores.shape[1] // weights.shape[1]  # which see the same keys
        visible = (trace.scores[:, ::n_halves] > -torch.inf).to(weights.dtype)
        weights[:, self.flat] = (visible / visible.sum(dim=-1, keepdim=True))[:, self.flat]
        weights[:, self.off] = 0
        again = weights @ v
        positions = Positions(
            torch.arange(start, start + q.shape[2], device=q.device),
            torch.arange(k.shape[2], device=k.device),
        )
        for modifier in reversed(self.modifiers):
            modify = cast(AttentionModifier, modifier).modify_output
            again = modify(again, weights, x, positions)
        output[:, self.flat] = again[:, self.flat].to(output.dtype)
        output[:, self.off] = 0
        self.record(*trace._replace(weights=weights))
        return output


class _Off(Attention):
    """Comes before the class of an attention that has no heads, and adds nothing."""

    def forward(
        self, query: Tensor, kv: KeyValue, mask: Tensor | None = None, start: int = 0
    ) -> Tensor:
        recorded, self.recorded = self.recorded, []
        output: Tensor = super().forward(query, kv, mask, start)
        (trace,), self.recorded = self.recorded, recorded
        self.record(*trace._replace(weights=torch.zeros_like(trace.weights)))
        return torch.zeros_like(output)
