"""Trained runs for other programs."""
