"""Training as in tutorials: torch.nn.Transformer, Adam, cross-entropy on all logits.

The batches are ours; number formats and the rest are torch's defaults. Prints one line of JSON.

python benchmarks/plain.py RUN STEPS
"""

import json
import math
import sys
import time

import torch
from torch import Tensor, nn

from seq2seq.attention.positions import sinusoids
from seq2seq.config import ModelConfig
from seq2seq.data.batches import TrainingData, make_batch
from seq2seq.data.tokenizer import PAD, Tokenizer
from seq2seq.run_folder import RunFolder

WARM_UP = 3


class PlainTransformer(nn.Module):
    """Embeddings with sinusoids, nn.Transformer, a linear layer."""

    table: Tensor

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.scale = math.sqrt(config.d_model)
        self.src_embedding = nn.Embedding(vocab_size, config.d_model, padding_idx=PAD)
        self.tgt_embedding = nn.Embedding(vocab_size, config.d_model, padding_idx=PAD)
        self.register_buffer("table", sinusoids(512, config.d_model))
        self.dropout = nn.Dropout(config.dropout)
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

    def embed(self, ids: Tensor, embedding: nn.Embedding) -> Tensor:
        return self.dropout(embedding(ids) * self.scale + self.table[: ids.shape[1]])

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        is_padding = src == PAD
        x = self.transformer(
            self.embed(src, self.src_embedding),
            self.embed(tgt, self.tgt_embedding),
            tgt_mask=torch.ones(tgt.shape[1], tgt.shape[1], dtype=torch.bool).triu(1),
            src_key_padding_mask=is_padding,
            tgt_key_padding_mask=tgt == PAD,
            memory_key_padding_mask=is_padding,
        )
        return self.output(x)


def train(run: RunFolder, n_steps: int) -> dict[str, float]:
    """Target tokens per second."""
    config = run.load_config()
    tokenizer = Tokenizer.load(run, config)
    plan, src, tgt = TrainingData(config, run, tokenizer).epoch(0)
    batches = [make_batch(src, tgt, rows) for rows in plan[: WARM_UP + n_steps]]
    model = PlainTransformer(config.model, len(tokenizer.tgt)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9)
    loss_function = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=0.1)
    start = 0.0
    for number, batch in enumerate(batches):
        if number == WARM_UP:
            start = time.perf_counter()
        logits = model(batch.src, batch.tgt_in)
        loss = loss_function(logits.flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - start
    n_tokens = sum(batch.n_target_tokens for batch in batches[WARM_UP:])
    return {"tokens_per_second": n_tokens / seconds, "seconds_per_step": seconds / n_steps}


if __name__ == "__main__":
    print(json.dumps(train(RunFolder(sys.argv[1]), int(sys.argv[2]))))
