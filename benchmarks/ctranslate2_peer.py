"""Times CTranslate2 on greedy decoding with our weights, as ``seq2seq export`` wrote them.

Runs in the peers' environment, not in ours. Prints one line of JSON.

python benchmarks/ctranslate2_peer.py RUN FOLDER TYPE BATCH INTER INTRA HYPOTHESES
"""

import json
import sys
import time
import tomllib
from pathlib import Path

import ctranslate2
import sentencepiece


def decode(run: Path, folder: Path, precision: str, sizes: list[int]) -> tuple[float, list[str]]:
    """Seconds for the first test set, with tokenization and without loading; and translations."""
    batch_size, inter, intra = sizes
    sentences = test_set(run).read_text(encoding="utf-8").splitlines()
    subwords = sentencepiece.SentencePieceProcessor(model_file=str(run / "tokenizer.model"))
    translator = ctranslate2.Translator(
        str(folder), compute_type=precision, inter_threads=inter, intra_threads=intra
    )

    def translate(lines: list[str]) -> list[str]:
        src = subwords.encode(lines, out_type=str)
        results = translator.translate_batch(
            src, max_batch_size=batch_size, beam_size=1, max_decoding_length=100
        )
        return subwords.decode([result.hypotheses[0] for result in results])

    translate(sentences[:batch_size])
    start = time.perf_counter()
    hypotheses = translate(sentences)
    return time.perf_counter() - start, hypotheses


def test_set(run: Path) -> Path:
    """The source side of the first test set in a run folder."""
    report = json.loads((run / "corpus" / "report.json").read_text(encoding="utf-8"))
    language = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["data"]["src"]
    return run / "corpus" / f"{next(iter(report['test_pairs']))}.{language}"


if __name__ == "__main__":
    run, folder, precision, *sizes, path = sys.argv[1:]
    seconds, hypotheses = decode(Path(run), Path(folder), precision, [int(x) for x in sizes])
    Path(path).write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
    print(json.dumps({"seconds": seconds}))
