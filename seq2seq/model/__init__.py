"""The Transformer: layers, encoder and decoder, its loss, and how it translates."""
