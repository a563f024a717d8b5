"""The viewer: what a model attended to, as arrays (``trace``), web page or figure."""

from seq2seq.viewer.trace import trace

__all__ = ["trace"]
