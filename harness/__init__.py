"""Benchmark harness for transfer-based adversarial attacks on quantised networks."""
