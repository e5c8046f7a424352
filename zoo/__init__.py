"""Model zoo for transfer-based attacks on quantised networks: names in, callables from [0, 1] pixels to logits out."""
