"""Variants of a configuration, each trained with several seeds, compared with a baseline."""
