"""Searches for the page: sampling, and a beam search that remembers what it considered."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seq2seq.data.tokenizer import EOS
from seq2seq.model.decoding import BeamState, Decoder


class Sampler:
    """Stands in for a model such that its best token is one drawn from softmax(logits / T).

    That is what adding Gumbel noise does (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030).
    """

    def __init__(self, model: Decoder, temperature: float, seed: int) -> None:
        self.model, self.temperature = model, temperature
        self.encode, self.start, self.decode = model.encode, model.start, model.decode
        self.generator = torch.Generator().manual_seed(seed)

    def logits(self, x: Tensor) -> Tensor:
        logits = self.model.logits(x).float() / self.temperature
        # In float64, in which no draw of so many is exactly zero.
        draws = torch.empty(logits.shape, dtype=torch.double)
        noise = -draws.exponential_(generator=self.generator).log()
        return logits + noise.to(logits)


class Candidate(NamedTuple):
    """A continuation that a beam search considered."""

    ids: list[int]
    parent: int  # its index among the candidates of the step before
    log_probability: float
    kept: bool
    finished: bool


class RecordedBeam(BeamState):
    """A beam search that remembers what it considered: the twice ``beam`` best of each step."""

    def __init__(self, beam: int, limit: int, length_penalty: float) -> None:
        super().__init__(beam, limit, length_penalty)
        self.steps: list[list[Candidate]] = []

    def advance(self, log_p: list[list[float]], tokens: list[list[int]]) -> list[int]:
        # Of the step before, the kept ones are those alive now, in the same order.
        before = self.live
        last = self.steps[-1] if self.steps else []
        alive = [i for i, candidate in enumerate(last) if candidate.kept] or [0]
        candidates = self.candidates(log_p, tokens)[: 2 * self.beam]
        n_finished = len(self.finished)
        parents = super().advance(log_p, tokens)
        n_kept, n_finished, step = len(parents), len(self.finished) - n_finished, []
        for total, parent, token in candidates:
            finished = token == EOS and n_finished > 0
            kept = token != EOS and n_kept > 0
            n_finished, n_kept = n_finished - finished, n_kept - kept
            ids = [*before[parent][1], token]
            step.append(Candidate(ids, alive[parent], total, kept, finished))
        self.steps.append(step)
        return parents

    def tree(self, pieces: Callable[[list[int]], list[str]]) -> list[list[dict[str, Any]]]:
        """The steps as JSON, with the path to the best hypothesis marked."""
        path = [*self.best(1)[0].ids, EOS]
        return [
            [
                {
                    "token": pieces([candidate.ids[-1]])[0],
                    "parent": candidate.parent,
                    "log_probability": candidate.log_probability,
                    "kept": candidate.kept,
                    "finished": candidate.finished,
                    "best": (candidate.kept or candidate.finished)
                    and candidate.ids == path[: len(candidate.ids)],
                }
                for candidate in step
            ]
            for step in self.steps
        ]
