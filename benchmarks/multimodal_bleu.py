"""BLEU as papers on multimodal translation report it for Multi30k.

python benchmarks/multimodal_bleu.py LANGUAGE HYPOTHESES REFERENCES

Both texts are lower-cased, their punctuation is normalized, and Moses' tokenizer splits them before
``multi-bleu.perl`` counts: the same n-grams as sacreBLEU's on tokenized text, unsmoothed. The score
is higher than sacreBLEU's on plain text, and only comparable with such papers'. It needs
``pip install sacremoses``.
"""

import argparse
from pathlib import Path

from sacrebleu import BLEU
from sacremoses import MosesPunctNormalizer, MosesTokenizer


def multimodal_bleu(language: str, hypotheses: list[str], references: list[str]) -> float:
    """In per cent, of as many hypotheses as references."""
    normalizer, tokenizer = MosesPunctNormalizer(language), MosesTokenizer(language)

    def prepared(lines: list[str]) -> list[str]:
        return [
            tokenizer.tokenize(normalizer.normalize(line.lower()), return_str=True)
            for line in lines
        ]

    bleu = BLEU(tokenize="none", smooth_method="none", force=True)
    return bleu.corpus_score(prepared(hypotheses), [prepared(references)]).score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("language")
    parser.add_argument("hypotheses", type=Path)
    parser.add_argument("references", type=Path)
    args = parser.parse_args()
    hypotheses, references = (
        path.read_text(encoding="utf-8").splitlines() for path in (args.hypotheses, args.references)
    )
    if len(hypotheses) != len(references):
        parser.error(f"{len(hypotheses)} hypotheses, {len(references)} references")
    print(f"{multimodal_bleu(args.language, hypotheses, references):.2f}")


if __name__ == "__main__":
    main()
