"""The validation split during training: its loss and scores, and the log of them."""

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from seq2seq import cpu
from seq2seq.config import Config, Count, Number
from seq2seq.data.batches import make_batch, make_token_batches
from seq2seq.data.corpus import Corpus
from seq2seq.data.tokenizer import BOS, Tokenizer
from seq2seq.evaluation.metrics import bleu_tokenizer, score
from seq2seq.evaluation.plotting import plot_curves
from seq2seq.model.loss import batch_loss
from seq2seq.model.transformer import Seq2Seq
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import read_json_lines, write_lines


@torch.inference_mode()
def validation_loss(model: Seq2Seq, tokenizer: Tokenizer, config: Config, valid: Corpus) -> float:
    """Loss per target token in nats, unsmoothed; pairs longer than ``data.max_tokens`` are cut."""
    limit, device = config.data.max_tokens, next(model.parameters()).device
    src = [ids[:limit] for ids in tokenizer.src.encode(valid.src)]
    tgt = [ids[:limit] for ids in tokenizer.tgt.encode(valid.tgt, bos=True)]
    model.eval()
    loss, n_tokens = 0.0, 0
    for rows in make_token_batches(src, tgt, config.train.max_tokens_per_batch):
        batch = make_batch(src, tgt, rows).to(device)
        with cpu.float32_matmul(config.train.max_tokens_per_batch):
            loss += batch_loss(model, batch, smoothing=0.0).item()
        n_tokens += batch.n_target_tokens
    return loss / n_tokens


def guess_loss(tokenizer: Tokenizer, seen: Iterable[str], valid: Corpus) -> float:
    """The loss of guessing by how often each token is in the lines ``seen``, and once more."""
    ids, labels = (
        np.fromiter(chain.from_iterable(tokenizer.tgt.encode(lines)), np.int64)
        for lines in (seen, valid.tgt)
    )
    counts = np.bincount(ids, minlength=len(tokenizer.tgt)) + 1
    return float(-np.log(counts[labels] / (counts.sum() - counts[BOS])).mean())


def greedy_scores(
    model: Seq2Seq, tokenizer: Tokenizer, config: Config, valid: Corpus
) -> dict[str, float]:
    """BLEU and chrF by greedy search, which is faster, and ranks as well."""
    greedy = replace(config, decoding=replace(config.decoding, beam=1))
    translations = Translator(model, tokenizer, greedy).search(valid.src)
    hypotheses = [best.text for best, *_ in translations]
    scores = score(hypotheses, valid.tgt, bleu_tokenizer(config.data, config.evaluation))
    return {"bleu": scores["bleu"], "chrf": scores["chrf"]}


def log_validation(run: RunFolder, metrics: dict[str, Any], tensorboard: bool) -> None:
    """Add a line to ``metrics.jsonl``, draw the curves, and write TensorBoard's events."""
    step = metrics["step"]
    kind = dict[str, Count | Number]
    before = read_json_lines(run.metrics_file, kind) if run.metrics_file.exists() else []
    # A killed run may have logged steps that are now taken again.
    lines = [line for line in before if line.get("step") in range(step)] + [metrics]
    write_lines(run.metrics_file, [json.dumps(line) for line in lines])
    plot_curves(lines, run.curves_file)
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(run.tensorboard), purge_step=step) as events:
            for name in metrics.keys() - {"step"}:
                events.add_scalar(name, metrics[name], step)
