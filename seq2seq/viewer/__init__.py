"""The viewer: what a model attended to, as arrays (``trace``), web page or figure.

model = seq2seq.load("runs/default")
trace(model, "Ein Mann liest ein Buch.").cross.weights
"""

from seq2seq.viewer.trace import trace

__all__ = ["trace"]
