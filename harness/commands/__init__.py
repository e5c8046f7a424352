"""The commands of `harness` by topic: each module lists its own as COMMANDS; only these and cli.py print or import click.

They may import every folder, inside the functions that need it, so that `harness board` starts without torch. Begin with
`common`, the options that they share; `runs` is the main job, `boards` reads, `suites` lists, `submissions` is what others
bring.
"""
