"""Files, locks and shards of tensors: what is written is whole or not there.

The lowest floor of the harness; it may import `zoo.hub.whole`, `zoo.registry` and `zoo.errors`, and only `shards` imports
torch. Begin with `files`; `lock` keeps two runs out of one folder, `shards` are the crafted images and predictions in the
cache.
"""
