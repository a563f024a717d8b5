"""Training: the loop and one step of it, the optimizer and its schedules, several processes."""

from seq2seq.training.trainer import train

__all__ = ["train"]
