"""seq2seq: a Transformer for translation, small enough to read in an afternoon.

Where things are. A file imports only from lines above its own (a test holds this):

    errors                                   a user's mistake, a user's Ctrl-C
    config  files  machine                   settings; strict reading, whole writing; the computer
    tokenizer  metrics                       subwords; BLEU, chrF and exact match
    corpus                                   sentence pairs, and what may be known of them
    attention  loss                          the heart; what training minimises
    batches  layers                          padded rectangles; what the model is stacked from
    model                                    encoder and decoder
    decoding  checkpoint                     greedy and beam search; what a run folder holds
    preparation  translator                  a run folder made ready; text in, text out
    training  alignment                      the loop; attention against gold alignments
    evaluation                               the scores
    cli                                      one sub-command a stage
    __main__                                 python -m seq2seq
"""
