"""Gradient stabilisation: rules that estimate an iteration's gradient from several, one module for each published rule."""
