"""What is loaded: a registry entry and its verified file become a network that maps [0, 1] pixels to logits.

It may import `registry`, `hub`, `archs` and `quant`; it trains nothing and touches no network. Begin with `load`; `checkpoints`
and `tf_inception` read the files of others by key maps, `snapshots` reads the many weights of one network that LGV collects.
"""
