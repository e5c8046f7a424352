"""Losses: on the logits, and on the features of a middle layer."""
