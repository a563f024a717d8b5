"""How good a trained run is: BLEU, chrF, exact match, and cross-attention as word alignment."""
