"""Substitute refinement: changes of a network for the time of an attack, undone when it ends."""
