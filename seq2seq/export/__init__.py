"""A trained run for use elsewhere: its model card, and the formats of other programs."""
