"""From text to batches: corpora, subwords, and the order in which training sees them."""
