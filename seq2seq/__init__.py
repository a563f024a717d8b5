"""seq2seq: a Transformer for translation, small enough to read in an afternoon.

Where things are. A file imports only from lines above its own (a test holds this):

    errors                                   how work fails
    registry  files  machine  parallel       parts by name; whole files; the computer; several
    settings  lock                           every setting and what it may be; one at a time
    tokenizer  metrics  parts                subwords; BLEU and chrF; what parts have in common
    corpus                                   sentence pairs, and what may be known of them
    scores  normalizers  positions  extras   the parts of attention
    attention  loss                          the heart; what training minimises
    replacements                             what can stand where an attention stood
    variants                                 every attention by name
    config  batches  layers                  settings read and checked; padded rectangles; layers
    model  training_data                     encoder and decoder; training pairs as batches
    decoding  checkpoint                     greedy and beam search; what a run folder holds
    preparation  translator                  a run folder made ready; text in, text out
    training  alignment                      the loop; attention against gold alignments
    evaluation  significance                 the scores; whether a difference is luck
    experiments  plots                       variants times seeds; pictures
    findings                                 what an experiment found
    report                                   the same in words
    cli                                      one sub-command a stage
    __main__                                 python -m seq2seq
"""
