"""Training as the tutorials write it: torch.nn.Transformer, Adam, cross-entropy on all logits.

The batches are ours; number formats and the rest are torch's defaults. Prints one line of JSON.

python benchmarks/plain.py RUN STEPS
"""

import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from seq2seq.batches import make_batch
from seq2seq.checkpoint import load_run_config
from seq2seq.settings import ModelConfig
from seq2seq.tokenizer import PAD, Tokenizer
from seq2seq.training_data import TrainingData

WARM_UP = 3
LONGEST = 512


class Positions(nn.Module):
    """Sinusoids added to embeddings, with dropout."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        angles = torch.arange(LONGEST)[:, None] * rates
        table = torch.zeros(1, LONGEST, width)
        table[0, :, 0::2], table[0, :, 1::2] = angles.sin(), angles.cos()
        self.register_buffer("table", table)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same with places."""
        return self.dropout(x + self.table[:, : x.shape[1]])


class Plain(nn.Module):
    """Embeddings, nn.Transformer, a linear layer."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.width = config.d_model
        self.src_embedding = nn.Embedding(vocab_size, config.d_model, padding_idx=PAD)
        self.tgt_embedding = nn.Embedding(vocab_size, config.d_model, padding_idx=PAD)
        self.positions = Positions(config.d_model, config.dropout)
        self.transformer = nn.Transformer(
            config.d_model,
            config.n_heads,
            config.encoder_layers,
            config.decoder_layers,
            config.d_ff,
            config.dropout,
            batch_first=True,
        )
        self.output = nn.Linear(config.d_model, vocab_size)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        is_padding = src == PAD
        x = self.transformer(
            self.positions(self.src_embedding(src) * math.sqrt(self.width)),
            self.positions(self.tgt_embedding(tgt) * math.sqrt(self.width)),
            tgt_mask=torch.ones(tgt.shape[1], tgt.shape[1], dtype=torch.bool).triu(1),
            src_key_padding_mask=is_padding,
            tgt_key_padding_mask=tgt == PAD,
            memory_key_padding_mask=is_padding,
        )
        return self.output(x)


def train(run: Path, n_steps: int) -> dict[str, float]:
    """Target tokens a second."""
    config = load_run_config(run)
    tokenizer = Tokenizer.load(run)
    data = TrainingData(config, run, tokenizer)
    plan, src, tgt = data.epoch(0)
    batches = [make_batch(src, tgt, rows) for rows in plan[: WARM_UP + n_steps]]
    model = Plain(config.model, tokenizer.tgt_vocab_size).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9)
    loss_function = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=0.1)
    began = 0.0
    for number, batch in enumerate(batches):
        if number == WARM_UP:
            began = time.perf_counter()
        logits = model(batch.src, batch.tgt_in)
        loss = loss_function(logits.flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - began
    labels = sum(batch.n_labels for batch in batches[WARM_UP:])
    return {"tokens_per_second": labels / seconds, "seconds_a_step": seconds / n_steps}


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]), int(sys.argv[2]))))
