"""The command line of the zoo, a module for each topic: the only folder of `zoo` that prints or imports click.

It may import every other folder, inside the functions that need it, so that `zoo list` starts without torch. Begin with
`terminal`, which all the others use; each module lists its commands as COMMANDS.
"""
