"""The class sheet: every number of its examples, computed again."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seq2seq.attention.attention import attention

SHEET = (Path(__file__).parent.parent / "docs" / "class.md").read_text(encoding="utf-8")
HEAD = "| token | key | product | score | e^score | weight | value | weight × value |\n"
EXAMPLES = re.findall(rf"^Query: (\(.*\))\n\n{re.escape(HEAD)}.*\n((?:\|.*\n)+)", SHEET, re.M)


def vector(text: str) -> Tensor:
    return torch.tensor([float(x) for x in text.strip("()").split(",")], dtype=torch.float64)


def pair(numbers: Tensor) -> str:
    return f"({numbers[0]:.3f}, {numbers[1]:.3f})"


def test_all_examples_are_found() -> None:
    assert len(EXAMPLES) == SHEET.count("| product |") == 5
    assert sum("−∞" in table for _, table in EXAMPLES) == 1


@pytest.mark.parametrize(("query", "table"), EXAMPLES)
def test_example(query: str, table: str) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[:-1]]
    q, k, v = vector(query), *(torch.stack([vector(row[i]) for row in rows]) for i in (1, 6))
    is_seen = torch.tensor([row[3] != "−∞" for row in rows])
    one_query, keys, values = (x.reshape(1, 1, -1, 2) for x in (q, k, v))
    output, weights = (x[0, 0, 0] for x in attention(one_query, keys, values, is_seen))
    scores = [float(q @ key) / math.sqrt(2) for key in k]
    exponentials = [math.exp(x) * bool(seen) for x, seen in zip(scores, is_seen, strict=True)]
    expected = [
        f"| {name} | {key} | {score * math.sqrt(2):.0f} | {f'{score:.2f}' if seen else '−∞'} "
        f"| {e:.2f} | {weight:.3f} | {value} | {pair(weight * v[i])} |\n"
        for i, ((name, key, *_, value, _), score, seen, e, weight) in enumerate(
            zip(rows, scores, is_seen, exponentials, weights, strict=True)
        )
    ]
    total = f"| sum | | | | {sum(exponentials):.2f} | {weights.sum():.3f} | | {pair(output)} |\n"
    assert table == "".join(expected) + total
