"""What a run leaves: rows of per-image outcomes, clean predictions, where they came from, and the chain that binds them.

It may import `storage` and `suites`, and never torch, so that a board is shown at once. Begin with `rows`; `pinned` describes a
folder of rows (`suite.yaml`), `predictions` is their packed form, `chain` tells what was added when.
"""
