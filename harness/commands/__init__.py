"""The commands of `harness` by topic: each module adds its own to the group; only these and cli.py print or import click."""
